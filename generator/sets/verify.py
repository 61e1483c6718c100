"""Looks through a store's sets, every file of them: what would go wrong if they were played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from cache.library import BrokenSet, Library, SetFlaw
from cache.model.formats import ImageSet
from cache.model.images import BadImage, decode_check
from cache.parallel import in_order
from generator.sheet.plan import Action
from generator.sheet.provenance import changes

SETS_AT_ONCE: Final = 12
"""Sets looked through at once, and so images in memory: they may have many megabytes each."""

Code = Literal["broken", "stale", "undecodable", "flat", "size"]


@dataclass(frozen=True, slots=True)
class SetFinding:
    """One thing wrong with one set.

    Attributes:
        action_id: whose set.
        set_id: which.
        code: ``broken`` (missing, cut short, not what its meta says), ``stale`` (drawn from
            another recipe), ``undecodable``, ``flat`` (all one colour), ``size`` (images of one
            set that differ in size).
        message: what was expected and what was found.
        flaw: of a ``broken`` set, which kind of fault it is.
    """

    action_id: str
    set_id: int
    code: Code
    message: str
    flaw: SetFlaw | None = None

    def __str__(self) -> str:
        """A line for people."""
        return f"{self.action_id} set {self.set_id}: {self.code}: {self.message}"


async def verify_sets(
    library: Library,
    actions: Iterable[Action],
    checked: Callable[[], None] = lambda: None,
    *,
    at_once: int = SETS_AT_ONCE,
) -> AsyncGenerator[SetFinding, None]:
    """Read and decode every image of every set of `actions`. Left by `aclosing`.

    Sets that are listed under other recipes are not looked at: they are nobody's here.

    Args:
        library: whose manifest has been read; it is told which recipes are wanted.
        actions: what the sets should be of.
        checked: called for each set that has been looked through.
        at_once: sets looked through at once, one image of each at a time.

    Raises:
        StoreError: the store could not be read.
    """
    actions = list(actions)
    library.want({action.action_id: action.fingerprint for action in actions})
    places = [
        (action, set_id) for action in actions for set_id in library.set_ids(action.action_id)
    ]

    async def look(place: tuple[Action, int]) -> list[SetFinding]:
        return [finding async for finding in _verify_set(library, *place)]

    async with aclosing(in_order(look, places, at_once=at_once)) as looking:
        async for findings in looking:
            checked()
            for finding in findings:
                yield finding


async def _verify_set(
    library: Library, action: Action, set_id: int
) -> AsyncGenerator[SetFinding, None]:
    try:
        found = await library.open_set(action.action_id, set_id)
    except BrokenSet as error:
        yield SetFinding(action.action_id, set_id, "broken", error.reason, error.flaw)
        return
    fingerprint = found.meta.fingerprint
    if fingerprint is not None and fingerprint != action.fingerprint:
        changed = changes(found.meta.config, action.recipe)
        text = "; ".join(["drawn from another recipe than the cue's", *changed])
        yield SetFinding(action.action_id, set_id, "stale", text)
    async for finding in _verify_images(library, found):
        yield finding


async def _verify_images(library: Library, found: ImageSet) -> AsyncGenerator[SetFinding, None]:
    sizes: set[tuple[int, int]] = set()
    for step in found.steps:
        try:
            # Its bytes are let go of before the next is read.
            decoded = await asyncio.to_thread(decode_check, await library.image(step), step.name)
        except BrokenSet as error:
            yield SetFinding(found.action_id, found.set_id, "broken", error.reason, error.flaw)
            continue
        except BadImage as error:
            yield SetFinding(found.action_id, found.set_id, "undecodable", str(error))
            continue
        sizes.add((decoded.width, decoded.height))
        if step.final and decoded.is_flat:
            text = f"{step.name} is all one colour"
            yield SetFinding(found.action_id, found.set_id, "flat", text)
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
        yield SetFinding(found.action_id, found.set_id, "size", f"expected one size, found {shown}")
