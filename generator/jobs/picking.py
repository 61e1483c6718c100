"""Picking: a take becomes the next set of an action, with its own pictures and durations.

Nothing is drawn for it, and the take stays where it is. Taking a pick back rejects the set; its
number is not given to another, and the same take picked once more is the same set again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cache.model.keys import Key
from cache.stores.port import Store
from generator.jobs.drawing import OpenedTake, open_take, take_store
from generator.sets.adoption import Candidate, adopt, release_claim, reserved_for
from generator.sets.numbers import STAMP
from generator.sets.recorder import entry_of
from generator.sets.rejection import NoSuchSet, reject_set, restore_set
from generator.sheet.description import describe
from generator.sheet.plan import Action
from generator.sheet.provenance import changes

_NOTED_AS: Final = "picked"
"""In a set's meta: which take it was."""


class StaleTake(Exception):
    """A take was drawn from another recipe than the action has now.

    Attributes:
        changes: in what they differ, a sentence each; empty where its meta does not tell.
    """

    def __init__(self, action_id: str, differences: list[str]) -> None:
        told = "; ".join(differences) or "its meta does not say in what"
        super().__init__(f"it was drawn from another recipe than {action_id} has: {told}")
        self.changes = tuple(differences)


async def pick_take(store: Store, take: str, action: Action, now: datetime) -> int:
    """Make a take a set of an action, or find the set that it is already.

    Args:
        store: the show's.
        take: its id.
        action: as the cue sheet has it now.
        now: the time of day.

    Returns:
        The number of the set.

    Raises:
        StaleTake: it is no picture of what the action draws now.
        NotFound: there is no such take.
        NotAdopted, BrokenSet: an image of it is missing or damaged.
        StoreError, FormatError: the store could not be read or written; another try goes on.
    """
    opened = await open_take(store, take)
    meta = opened.image_set.meta
    if meta.fingerprint != action.fingerprint:
        raise StaleTake(action.action_id, changes(meta.config, action.recipe))
    candidate = _candidate(store, take, opened, action, now)
    set_id = await adopt(store, candidate)
    await restore_set(store, action.action_id, set_id)  # where it was picked before, and unpicked
    reserved = await reserved_for(candidate.own, candidate.progress)
    if reserved is not None:
        await release_claim(store, action.action_id, reserved)
    return set_id


async def unpick_take(store: Store, take: str, action_id: str) -> int | None:
    """Take a pick back: the set that a take has become is shown no more.

    Returns:
        The number of the set; None where the take was not picked for that action.

    Raises:
        StoreError, FormatError: the store could not be read or written.
    """
    reserved = await reserved_for(take_store(store, take), _progress(action_id))
    if reserved is None:
        return None
    try:
        await reject_set(store, action_id, reserved.set_id, "its pick was taken back")
    except NoSuchSet:  # whoever picked it never came to its end
        return None
    return reserved.set_id


def _candidate(
    store: Store, take: str, opened: OpenedTake, action: Action, now: datetime
) -> Candidate:
    return Candidate(
        name=f"take {take}",
        own=take_store(store, take),
        drawn_as=opened.image_set.action_id,
        action_id=action.action_id,
        token=f"{now.astimezone(UTC).strftime(STAMP)}-{take}",
        origin=take,
        noted_as=_NOTED_AS,
        progress=_progress(action.action_id),
        meta=opened.image_set.meta,
        entry=entry_of(describe(action), action.recipe),
    )


def _progress(action_id: str) -> Key:
    return Key(f"picked/{action_id}.json")
