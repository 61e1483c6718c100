"""What a store holds of a show's actions, and so what is left to draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from cache.formats import SetMeta
from cache.library import BrokenSet, Library
from cache.parallel import in_order
from generator.plan import Action
from generator.provenance import changes

METAS_AT_ONCE = 32
"""Metas read at once. They are small; a far store takes 0.1 s for each."""


@dataclass(frozen=True, slots=True)
class Job:
    """One set to be drawn."""

    action: Action
    set_id: int

    def __str__(self) -> str:
        """``prompt_001 set 0``."""
        return f"{self.action.action_id} set {self.set_id}"


@dataclass(frozen=True, slots=True)
class Holding:
    """What a store holds of one action.

    Attributes:
        action: whose sets.
        present: sets that are there and drawn from the action's recipe.
        stale: sets that are there and drawn from another.
        broken: sets that the manifest lists and that are not whole, with the reason.
        metas: of the present and the stale ones.
    """

    action: Action
    present: tuple[int, ...]
    stale: tuple[int, ...] = ()
    broken: tuple[tuple[int, str], ...] = ()
    metas: Mapping[int, SetMeta] = field(default_factory=dict, repr=False, compare=False)

    def missing(self, wanted: int) -> tuple[int, ...]:
        """Numbers of the sets to draw so that there are `wanted` from 0 on."""
        return tuple(number for number in range(wanted) if number not in self.present)

    def remarks(self) -> list[str]:
        """Why sets that are there will not do: what changed, and what is broken."""
        told: dict[str, None] = {}
        for set_id in self.stale:
            found = changes(self.metas[set_id].config, self.action.recipe)
            told.update(dict.fromkeys(found or ["another recipe; its meta does not say in what"]))
        reasons: dict[str, list[str]] = {}
        for set_id, reason in self.broken:
            reasons.setdefault(reason, []).append(str(set_id))
        for reason, numbers in reasons.items():
            told[f"set {', '.join(numbers)}: {reason}"] = None
        return list(told)


async def take_stock(
    library: Library, actions: Iterable[Action], *, at_once: int = METAS_AT_ONCE
) -> list[Holding]:
    """Look at what a store holds of each action: every set's meta, not its images.

    Args:
        library: whose manifest has been read.
        actions: what the sets should be of.
        at_once: metas read at once.

    Raises:
        StoreError: the store could not be read.
    """
    actions = list(actions)
    places = [
        (action.action_id, set_id)
        for action in actions
        for set_id in library.set_ids(action.action_id)
    ]

    async def look(place: tuple[str, int]) -> SetMeta | str:
        try:
            return (await library.open_set(*place)).meta
        except BrokenSet as error:
            return error.reason

    async with aclosing(in_order(look, places, at_once=at_once)) as looking:
        results = [result async for result in looking]
    found: dict[str, dict[int, SetMeta | str]] = {action.action_id: {} for action in actions}
    for (action_id, set_id), result in zip(places, results, strict=True):
        found[action_id][set_id] = result
    return [_holding(action, found[action.action_id]) for action in actions]


def _holding(action: Action, found: Mapping[int, SetMeta | str]) -> Holding:
    metas = {number: meta for number, meta in found.items() if not isinstance(meta, str)}
    fits = {n for n, meta in metas.items() if meta.fingerprint in {None, action.fingerprint}}
    return Holding(
        action,
        present=tuple(number for number in metas if number in fits),
        stale=tuple(number for number in metas if number not in fits),
        broken=tuple((number, why) for number, why in found.items() if isinstance(why, str)),
        metas=metas,
    )


def jobs_for(holdings: Sequence[Holding], wanted: int) -> list[Job]:
    """The sets to draw so that each action has `wanted`, in an order that helps soonest.

    First one set for each cue, then the second for each: a batch that is cut short has
    something for every cue.
    """
    jobs = [Job(h.action, set_id) for h in holdings for set_id in h.missing(wanted)]
    return sorted(jobs, key=lambda job: (job.set_id, job.action.at))
