"""Looks through a store's sets, every file of them: what would go wrong if they were played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal

from cache.formats import ImageSet
from cache.images import BadImage, decode_check
from cache.library import BrokenSet, Library
from generator.plan import Action

Code = Literal["broken", "stale", "undecodable", "flat", "size"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with one set.

    Attributes:
        action_id: whose set.
        set_id: which.
        code: ``broken`` (missing, cut short, not what its meta says), ``stale`` (drawn from
            another recipe), ``undecodable``, ``flat`` (all one colour), ``size`` (images of one
            set that differ in size).
        message: what was expected and what was found.
    """

    action_id: str
    set_id: int
    code: Code
    message: str

    def __str__(self) -> str:
        """A line for people."""
        return f"{self.action_id} set {self.set_id}: {self.code}: {self.message}"


async def verify_sets(library: Library, actions: Iterable[Action]) -> AsyncIterator[Finding]:
    """Read and decode every image of every set of `actions`.

    Args:
        library: whose manifest has been read.
        actions: what the sets should be of.

    Raises:
        StoreError: the store could not be read.
    """
    for action in actions:
        for set_id in library.set_ids(action.action_id):
            try:
                found = await library.open_set(action.action_id, set_id)
            except BrokenSet as error:
                yield Finding(action.action_id, set_id, "broken", error.reason)
                continue
            fingerprint = found.meta.fingerprint
            if fingerprint is not None and fingerprint != action.fingerprint:
                text = "drawn from another recipe than the cue's"
                yield Finding(action.action_id, set_id, "stale", text)
            async for finding in _verify_images(library, found):
                yield finding


async def _verify_images(library: Library, found: ImageSet) -> AsyncIterator[Finding]:
    sizes: set[tuple[int, int]] = set()
    for step in found.steps:
        try:
            data = await library.image(step)
            decoded = await asyncio.to_thread(decode_check, data, step.name)
        except BrokenSet as error:
            yield Finding(found.action_id, found.set_id, "broken", error.reason)
            continue
        except BadImage as error:
            yield Finding(found.action_id, found.set_id, "undecodable", str(error))
            continue
        sizes.add((decoded.width, decoded.height))
        if step.final and decoded.is_flat:
            text = f"{step.name} is all one colour"
            yield Finding(found.action_id, found.set_id, "flat", text)
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
        yield Finding(found.action_id, found.set_id, "size", f"expected one size, found {shown}")
