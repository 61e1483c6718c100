"""What a store holds of a show's actions, and so what is left to draw."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from cache.library import BrokenSet, Library
from cache.model.formats import SetMeta
from cache.model.manifest import ManifestAction
from cache.parallel import in_order
from generator.sheet.plan import Action
from generator.sheet.provenance import changes

METAS_AT_ONCE = 32
"""Metas read at once. They are small; a far store takes 0.1 s for each."""


@dataclass(frozen=True, slots=True)
class MissingSet:
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
        stale: sets that are there and drawn from another; they keep their numbers.
        broken: sets that the manifest lists and that are not whole, with the reason.
        metas: of the present ones, and of one of each other recipe.
        taken: numbers that no set to be drawn may have.
    """

    action: Action
    present: tuple[int, ...]
    stale: tuple[int, ...] = ()
    broken: tuple[tuple[int, str], ...] = ()
    metas: Mapping[int, SetMeta] = field(default_factory=dict, repr=False, compare=False)
    taken: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    def missing(self, wanted: int) -> tuple[int, ...]:
        """Numbers of the sets to draw so that there are `wanted`: the lowest that are free."""
        lacking = max(0, wanted - len(self.present))
        used = {*self.present, *self.taken}
        free = (number for number in itertools.count() if number not in used)
        return tuple(itertools.islice(free, lacking))

    def afresh(self) -> Holding:
        """The same with nothing that will do: all of it is to be drawn again, in its place."""
        return replace(self, present=(), taken=self.taken.difference(self.present))

    def remarks(self) -> list[str]:
        """Why sets that are there will not do: what changed, and what is broken."""
        told: dict[str, None] = {}
        for set_id in self.stale:
            if set_id not in self.metas:
                continue
            found = changes(self.metas[set_id].config, self.action.recipe)
            told.update(dict.fromkeys(found or ["another recipe; its meta does not say in what"]))
        reasons: dict[str, list[str]] = {}
        for set_id, reason in self.broken:
            reasons.setdefault(reason, []).append(str(set_id))
        for reason, numbers in reasons.items():
            told[f"set {', '.join(numbers)}: {reason}"] = None
        return list(told)


async def take_inventory(
    library: Library, actions: Iterable[Action], *, at_once: int = METAS_AT_ONCE
) -> list[Holding]:
    """Look at what a store holds of each action: metas, not images.

    Of sets that are listed under another recipe one meta of each is read: what differs.

    Args:
        library: whose manifest has been read; it is told which recipes are wanted.
        actions: what the sets should be of.
        at_once: metas read at once.

    Raises:
        StoreError: the store could not be read.
    """
    actions = list(actions)
    library.want({action.action_id: action.fingerprint for action in actions})
    others = {action.action_id: _others(library, action) for action in actions}
    places = [
        (action.action_id, set_id)
        for action in actions
        for set_id in (
            *library.set_ids(action.action_id),
            *(max(numbers) for numbers in others[action.action_id]),
        )
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
    return [_holding(library, action, found[action.action_id]) for action in actions]


def _others(library: Library, action: Action) -> list[tuple[int, ...]]:
    """The sets that are listed under other recipes than the action's, recipe by recipe."""
    entry = library.manifest.actions.get(action.action_id, ManifestAction())
    mine = set(entry.sets_for(action.fingerprint))
    groups = (numbers for numbers in entry.groups.values() if not mine.issuperset(numbers))
    return [numbers for numbers in groups if numbers]


def _holding(library: Library, action: Action, found: Mapping[int, SetMeta | str]) -> Holding:
    entry = library.manifest.actions.get(action.action_id, ManifestAction())
    mine = entry.sets_for(action.fingerprint)
    metas = {number: meta for number, meta in found.items() if not isinstance(meta, str)}
    fits = {
        number
        for number, meta in metas.items()
        if number in mine and meta.fingerprint in {None, action.fingerprint}
    }
    broken = {n: why for n, why in found.items() if n in mine and isinstance(why, str)}
    # What is broken is drawn again in its place, if it was of this recipe.
    again = {n for n in broken if entry.fingerprint_of(n) in {None, action.fingerprint}}
    stale = {number for number in metas if number in mine} | ({*entry.listed} - {*mine})
    return Holding(
        action,
        present=tuple(sorted(fits)),
        stale=tuple(sorted(stale - fits)),
        broken=tuple(broken.items()),
        metas=metas,
        taken=entry.taken - again,
    )


def jobs_for(holdings: Sequence[Holding], wanted: int) -> list[MissingSet]:
    """The sets to draw so that each action has `wanted`, in an order that helps soonest.

    First one set for each cue, then the second for each: a batch that is cut short has
    something for every cue.
    """
    jobs = [
        (place, MissingSet(held.action, set_id))
        for held in holdings
        for place, set_id in enumerate(held.missing(wanted), start=len(held.present))
    ]
    return [job for _, job in sorted(jobs, key=lambda each: (each[0], each[1].action.at))]
