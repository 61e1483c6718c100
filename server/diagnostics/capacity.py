"""Whether there is room for what comes over the line (pure)."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

from generator.sheet.plan import Action
from server.core.formatting import size
from server.diagnostics.facts import SIMULATION, SimulationFacts
from server.diagnostics.findings import Finding, kind

CACHE_TOO_SMALL = kind(
    "cache_too_small",
    "a set finds no room beside the one before it; the sets do not all find room, and come in time",
    "give [cache] disk_bytes more room",
    *("warning", "note"),
)
DISK_SPACE = kind(
    "disk_space",
    "the disk of `[cache] dir` has no room for the copies to come beside `keep_free`",
    "make room there, or name another disk in [cache] dir",
    "warning",
)


def tight_cues(facts: SimulationFacts) -> list[tuple[Action, int, int]]:
    """The actions whose set finds no room beside the one that is played before it.

    Returns:
        Each action, with the bytes of the set before it and of its own: the largest of each.
    """
    largest: dict[str, int] = defaultdict(int)
    for (action_id, _), files in facts.files.items():
        largest[action_id] = max(largest[action_id], sum(files.values()))
    actions = facts.result.plan.actions
    needed = itertools.pairwise([0, *(largest[action.action_id] for action in actions)])
    room = facts.show.settings.cache.disk_bytes
    return [
        (action, before, own)
        for action, (before, own) in zip(actions, needed, strict=True)
        if before + own > room
    ]


@SIMULATION
def cache_too_small(facts: SimulationFacts) -> Iterator[Finding]:
    """Whether the copies have room for what is needed at once: a run's set and the next one's."""
    if facts.line is None:
        return
    room, tight = facts.show.settings.cache.disk_bytes, tight_cues(facts)
    whole = sum(facts.around.inventory.sizes.values())
    harmed = next((run.cue for run in facts.runs if run.left_out), None)
    harm = "previews may be" if harmed is None else "previews are"
    wanted = "set [cache] disk_bytes = {} in show.toml, or more".format
    if tight:
        action, before, own = tight[0]
        beside = f" beside the {size(before)} of what plays before it" if before else ""
        yield CACHE_TOO_SMALL(
            f"a set of it takes {size(own)}{beside}, and [cache] disk_bytes is {size(room)}: "
            f"{harm} left out",
            action,
            remedy=wanted(max(before + own for _, before, own in tight)),
            count=len(tight),
        )
    elif facts.result.crowded_out and whole > room:
        text = (
            f"the sets take {size(whole)}, and [cache] disk_bytes is {size(room)}: "
            f"{facts.result.crowded_out} of the coming ones were seen to find no room for a while, "
        )
        if harmed is None:
            text += "and came in time all the same"
            yield CACHE_TOO_SMALL(text, level="note", remedy=wanted(whole))
        else:
            text += f"and {harm} left out"
            yield CACHE_TOO_SMALL(text, facts.result.plan.of_cue(harmed), remedy=wanted(whole))


@SIMULATION
def disk_space(facts: SimulationFacts) -> Iterator[Finding]:
    """Whether the disk has room for the copies that are still to come."""
    cache, free, inventory = facts.show.settings.cache, facts.around.free, facts.around.inventory
    if facts.line is None or free is None:
        return
    whole = min(sum(inventory.sizes.values()), cache.disk_bytes)
    to_come = max(0, whole - inventory.here_bytes)
    if free < cache.keep_free + to_come:
        yield DISK_SPACE(
            f"expected {size(cache.keep_free + to_come)} free on the disk of {cache.dir}: "
            f"{size(to_come)} of copies to come, and {size(cache.keep_free)} that stay free "
            f"([cache] keep_free); found {size(free)}"
        )
