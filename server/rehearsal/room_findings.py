"""Whether there is room for what comes over the line, and what the metas do not tell (pure)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Final

from cache.model.documents import FormatError
from cache.model.formats import SetMeta
from cache.model.keys import Key, set_place
from generator.cues import format_time
from generator.plan import Action, Plan
from server.rehearsal.report import Finding, Level, about
from server.words import size

_NAMED: Final = 5


def unknown_durations(metas: Mapping[Key, SetMeta | FormatError], plan: Plan) -> list[Finding]:
    """Sets that do not tell how long their steps took: these are made up, anew for each run.

    Args:
        metas: every meta, or what is wrong with it, by its key.
        plan: the show's actions.
    """
    lacking: dict[str, list[int]] = defaultdict(list)
    for key, meta in sorted(metas.items(), key=itemgetter(0)):
        place = set_place(key)
        if place is None or not isinstance(meta, SetMeta):
            continue
        if any(meta.duration(step) is None for step in range(1, meta.total_steps + 1)):
            lacking[place.action_id].append(place.set_id)
    return [
        about(
            action,
            "note",
            "unknown_durations",
            message=f"meta.json of set {_named(lacking[action.action_id])} does not tell every "
            "step's duration: 0.3 to 1.0 s each are made up",
            remedy="nothing, if that is meant; else delete the set, and draw it again: "
            f"understudy generate batch --only {action.action_id}",
        )
        for action in plan.actions
        if action.action_id in lacking
    ]


def _named(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_NAMED])) + (", …" if len(numbers) > _NAMED else "")


# ---------------------------------------------------------------- copies


def tight_cues(sizes: Mapping[Key, int], plan: Plan, room: int) -> list[tuple[Action, int, int]]:
    """The actions whose set finds no room beside the one that is played before it.

    Args:
        sizes: bytes of every file of the sets.
        plan: the show's actions, in order.
        room: bytes that copies may take.

    Returns:
        Each action, with the bytes of the set before it and of its own: the largest of each.
    """
    needed = itertools.pairwise([0, *_largest(sizes, plan.actions)])
    return [
        (action, before, own)
        for action, (before, own) in zip(plan.actions, needed, strict=True)
        if before + own > room
    ]


def cache_too_small(
    sizes: Mapping[Key, int], plan: Plan, room: int, *, crowded_out: int, harmed: int | None
) -> list[Finding]:
    """Whether the copies have room for what is needed at once: a run's set and the next one's.

    Args:
        sizes: bytes of every file of the sets.
        plan: the show's actions, in order.
        room: bytes that copies may take.
        crowded_out: coming runs that were seen to find no room.
        harmed: index of the first cue of which a preview was left out.
    """
    tight, everything = tight_cues(sizes, plan, room), sum(sizes.values())
    named = {action.cue_index: action for action in plan.actions}
    harm = "previews may be" if harmed is None else "previews are"
    if tight:
        action, before, own = tight[0]
        beside = f" beside the {size(before)} of what plays before it" if before else ""
        least = max(before + own for _, before, own in tight)
        message = f"a set of it takes {size(own)}{beside}, and [cache] disk_bytes is {size(room)}: "
        return [_too_small("warning", action, f"{message}{harm} left out", least, count=len(tight))]
    if not crowded_out or everything <= room:
        return []
    message = (
        f"the sets take {size(everything)}, and [cache] disk_bytes is {size(room)}: "
        f"{crowded_out} of the coming ones were seen to find no room for a while, "
    )
    if harmed is None:
        return [_too_small("note", None, f"{message}and came in time all the same", everything)]
    text = f"{message}and {harm} left out"
    return [_too_small("warning", named.get(harmed), text, everything)]


def _too_small(
    level: Level, action: Action | None, message: str, wanted: int, count: int = 1
) -> Finding:
    return Finding(
        level=level,
        code="cache_too_small",
        message=message,
        remedy=f"set [cache] disk_bytes = {wanted} in show.toml, or more",
        cue=None if action is None else action.cue_index,
        time=None if action is None else format_time(action.at),
        action_id=None if action is None else action.action_id,
        count=count,
    )


def _largest(sizes: Mapping[Key, int], actions: Iterable[Action]) -> list[int]:
    """Bytes of the largest set of each action."""
    weights: dict[tuple[str, int], int] = defaultdict(int)
    for key, weight in sizes.items():
        place = set_place(key)
        if place is not None:
            weights[place.action_id, place.set_id] += weight
    largest: dict[str, int] = defaultdict(int)
    for (action_id, _), weight in weights.items():
        largest[action_id] = max(largest[action_id], weight)
    return [largest[action.action_id] for action in actions]


def disk_space(free: int, keep_free: int, to_come: int, where: str) -> list[Finding]:
    """Whether the disk has room for the copies that are still to come.

    Args:
        free: bytes of it.
        keep_free: bytes that are left free.
        to_come: bytes of copies that are not here yet.
        where: the folder.
    """
    if free >= keep_free + to_come:
        return []
    return [
        Finding(
            level="warning",
            code="disk_space",
            message=f"expected {size(keep_free + to_come)} free on the disk of {where}: "
            f"{size(to_come)} of copies to come, and {size(keep_free)} that stay free ([cache] "
            f"keep_free); found {size(free)}",
            remedy="make room there, or name another disk in [cache] dir",
        )
    ]
