"""Approving of a run in quarantine: it becomes a set of its action.

Its images first, its meta last, then the manifest, and only then is it taken out of
quarantine. Whoever is killed meanwhile may simply begin again, and two who approve at once do
it once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from cache.index import register
from cache.library import BrokenSet, Library
from cache.model.formats import dump_meta
from cache.model.keys import config_key, image_key, meta_key
from cache.model.manifest import dump_config
from cache.stores.port import Conflict, NotFound, Store
from generator.sets.numbers import claim_key, next_free, noted_in
from generator.sets.quarantine import APPROVAL, Harvested, approved_as, remove, store_of

_TAKEN_FROM: Final = "harvested"
"""In the meta: which run it was. Who approves it again finds by it that it is done."""

_ATTEMPTS: Final = 100


class NotApproved(Exception):
    """A run in quarantine cannot become a set, with the reason."""


async def approve(store: Store, run: Harvested) -> int:
    """Make a run in quarantine a set of its action.

    Returns:
        The number of the set.

    Raises:
        NotApproved: an image is missing or damaged, or somebody settled it meanwhile.
        StoreError: the store could not be read or written; another try goes on from here.
        FormatError: the store's manifest cannot be understood.
    """
    own = store_of(store, run.action_id, run.token)
    set_id, _ = await approved_as(own)
    if set_id is None or await noted_in(store, run.action_id, set_id, _TAKEN_FROM) != run.token:
        # All of them before anything is written: a damaged one leaves nothing behind.
        images = await _images(own, run)
        set_id = await _number(store, run)
        await _become_set(store, run, set_id, images)
    await register(store, run.action_id, run.entry, set_id)
    await remove(store, run, set_id)
    return set_id


async def _images(own: Store, run: Harvested) -> dict[str, bytes]:
    """Its images by name, each known to be whole.

    Raises:
        NotApproved: one is not, or the run has gone.
    """
    library = Library(own)
    try:
        found = await library.open_set(run.action_id, 0)
        return {step.name: await library.image(step) for step in found.steps}
    except BrokenSet as error:
        raise NotApproved(f"{run.name}: {error.reason}") from error


async def _become_set(
    store: Store, run: Harvested, set_id: int, images: Mapping[str, bytes]
) -> None:
    if await noted_in(store, run.action_id, set_id, _TAKEN_FROM) == run.token:
        return
    for name, data in images.items():
        await store.put(image_key(run.action_id, set_id, name), data)
    await store.put(config_key(run.action_id), dump_config(run.entry))
    unknown = {**run.meta.unknown, _TAKEN_FROM: run.token}
    meta = run.meta.model_copy(update={"set_id": set_id, "unknown": unknown})
    try:
        await store.replace(meta_key(run.action_id, set_id), dump_meta(meta), expected=None)
    except Conflict:
        # Another who approves of the very same run may have been first.
        if await noted_in(store, run.action_id, set_id, _TAKEN_FROM) != run.token:
            raise


async def _number(store: Store, run: Harvested) -> int:
    """The number that `run` is to have, and nothing else will be given.

    It is written down in the run, so that all who approve of it mean the same number, and
    the number is claimed for the run, so that it is not given to another.
    """
    own = store_of(store, run.action_id, run.token)
    passed_over = -1
    for _ in range(_ATTEMPTS):
        number, version = await approved_as(own)
        if number is None or number <= passed_over:
            number = await next_free(store, run.action_id, passed_over)
            document = json.dumps({"set_id": number}).encode()
            try:
                await own.replace(APPROVAL, document, expected=version)
            except Conflict:
                continue  # another approves of the same run
            if version is None:
                await _still_waits(own, run)
        if await _claimed(store, run, number):
            return number
        passed_over = number
    raise Conflict(APPROVAL, f"others took every number, {_ATTEMPTS} times")


async def _still_waits(own: Store, run: Harvested) -> None:
    """Make sure that nobody has settled a run that had no number a moment ago.

    Whoever does takes away its meta, and only then its number.

    Raises:
        NotApproved: somebody has.
    """
    try:
        await own.get(meta_key(run.action_id, 0))
    except NotFound:
        await own.delete(APPROVAL)
        raise NotApproved(f"{run.name}: somebody else was first") from None


async def _claimed(store: Store, run: Harvested, number: int) -> bool:
    """Claim a number for `run`; whether it is the run's now, and no set has it already."""
    claim = claim_key(run.action_id, number)
    try:
        await store.replace(claim, run.token.encode(), expected=None)
    except Conflict:
        try:
            if await store.get(claim) != run.token.encode():
                return False
        except NotFound:
            return False  # it has just become a set
    if await noted_in(store, run.action_id, number, _TAKEN_FROM) in {None, run.token}:
        return True
    await store.delete(claim)  # whoever had it before has finished meanwhile
    return False
