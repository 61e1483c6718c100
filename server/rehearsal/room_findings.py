"""Whether there is room for what comes over the line, and what the metas do not tell (pure)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Final

from cache.documents import FormatError
from cache.formats import SetMeta
from cache.keys import Key, set_place
from generator.cues import format_time
from generator.plan import Action, Plan
from server.rehearsal.report import Finding
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
        Finding(
            level="note",
            code="unknown_durations",
            message=f"meta.json of set {_named(lacking[action.action_id])} does not tell every "
            "step's duration: 0.3 to 1.0 s each are made up",
            remedy="nothing, if that is meant; else delete the set, and draw it again: "
            f"understudy generate batch --only {action.action_id}",
            cue=action.cue_index,
            time=format_time(action.at),
            action_id=action.action_id,
        )
        for action in plan.actions
        if action.action_id in lacking
    ]


def _named(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_NAMED])) + (", …" if len(numbers) > _NAMED else "")


# ---------------------------------------------------------------- copies


def cache_too_small(
    sizes: Mapping[Key, int], plan: Plan, disk_bytes: int, *, crowded_out: int, harmed: int | None
) -> list[Finding]:
    """Whether the copies have room for what is needed at once: a run's set and the next one's.

    Args:
        sizes: bytes of every file of the sets.
        plan: the show's actions, in order.
        disk_bytes: that copies may take.
        crowded_out: coming runs that were seen to find no room.
        harmed: index of the first cue of which something was left out.
    """
    needed = list(itertools.pairwise([0, *_largest(sizes, plan.actions)]))
    tight = [
        (action, before, own)
        for action, (before, own) in zip(plan.actions, needed, strict=True)
        if before + own > disk_bytes
    ]
    room = f"[cache] disk_bytes is {size(disk_bytes)}"
    if tight:
        action, before, own = tight[0]
        both = f"a set of it ({size(own)}) and what plays before it ({size(before)}) need"
        alone = f"a set of it takes {size(own)}, needing"
        least = max(before + own for _, before, own in tight)
        return [
            Finding(
                level="warning",
                code="cache_too_small",
                message=f"{alone if not before else both} {size(before + own)} at once; {room}: "
                "previews will be left out",
                remedy=f"set [cache] disk_bytes in show.toml to {least} or more",
                cue=action.cue_index,
                time=format_time(action.at),
                action_id=action.action_id,
                count=len(tight),
            )
        ]
    if crowded_out:
        total = sum(_largest(sizes, plan.actions))
        return [
            Finding(
                level="warning",
                code="cache_too_small",
                message=f"no room for {crowded_out} of the coming sets; {room}, and a set of each "
                f"action takes {size(total)}: they are fetched again each time",
                remedy=f"set [cache] disk_bytes in show.toml to {total} or more",
                cue=harmed,
                time=next((format_time(a.at) for a in plan.actions if a.cue_index == harmed), None),
                action_id=next((a.action_id for a in plan.actions if a.cue_index == harmed), None),
            )
        ]
    return []


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
