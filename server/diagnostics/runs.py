"""What was wrong with the runs that were played (pure). One finding a cue and kind: the worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from generator.sheet.plan import Action
from server.diagnostics.capacity import tight_cues
from server.diagnostics.facts import SIMULATION, SimulationFacts
from server.diagnostics.findings import CuePlace, Finding, Level, kind
from server.diagnostics.report import RehearsedRun
from server.diagnostics.sets import FEW_SETS, FLAWS, MANIFEST_MISMATCH, REPAIR
from server.diagnostics.show import DRAW, NO_SETS
from server.providers.timing import Fit

CUT_SHORT: Final = 0.05
"""Seconds by which a final image may come after its slot's end and still count as in it."""

_HURRIED: Final = 0.5
"""A run that is played faster than twice as fast is seen to hurry."""

TOLD_FROM: Final = 0.8
"""A run that is played at more than this share of its time is told of in the table alone."""

NOTHING_TO_SHOW = kind(
    "nothing_to_show",
    "what a cue has to play breaks off, and the picture before stays",
    f"draw sets: {DRAW}",
    "error",
    better=[NO_SETS.code],
)
ENGINE_DEAD = kind(
    "engine_dead",
    "an engine does not answer: a cue's only one, and no set stands behind it; one that is asked "
    "first; one in whose place a set is played anyway",
    "get it going",
    *("error", "warning", "note"),
)
FAILED_OVER = kind(
    "failed_over",
    "something fails, and something else takes over",
    "nobody will notice, as long as that one lasts; mend the first",
    "warning",
)
OVERRUN = kind(
    "overrun",
    "a run is longer than its slot: cut off; more than twice as fast; faster",
    "draw it with fewer steps (`steps` in the cue), or move the cue after it",
    *("error", "warning", "note"),
)
REGENERATION_OVERLAP = kind(
    "regeneration_overlap",
    "a cycle of a regenerating cue runs into the next cue",
    "move the next cue, or end the regeneration before it with a navigate cue",
    "warning",
)
LATE = kind(
    "late",
    "the line does not bring every preview in time, or copies have no room for it",
    "rehearse again once more has come, take the sets along with `understudy pull`",
    "warning",
)
THINNED = kind(
    "thinned",
    "a set is shown without some of its previews",
    REPAIR,
    "warning",
    better=[*FLAWS, MANIFEST_MISMATCH.code, FEW_SETS.code],
)


@SIMULATION
def nothing_to_show(facts: SimulationFacts) -> Iterator[Finding]:
    """Cues that had nothing to play, or not to its end: the picture before stayed."""
    dead = {each.name: each.detail for each in facts.around.engines if each.state == "dead"}
    for runs in facts.cues:
        held = [run for run in runs if run.outcome == "held"]
        if not held:
            continue
        run, count = held[0], len(held)
        tried = {setback.from_.removeprefix("live ") for setback in run.setbacks}
        names = sorted(name for name in dead if name in tried or name in run.why)
        if names:
            text = f"engine {names[0]} is dead ({dead[names[0]]}) and no set stands behind it"
            remedy = get_going(names[0], run.action_id)
            yield ENGINE_DEAD(text, run.place, remedy=remedy, set_id=run.set_id, count=count)
        else:
            seen = "" if run.left_out == len(run.due) else "breaks off, "
            text = f"nothing can be played: {seen}the picture before stays ({run.why})"
            yield NOTHING_TO_SHOW(text, run.place, set_id=run.set_id, count=count)


def get_going(engine: str, action_id: str) -> str:
    """What helps a cue whose only engine is dead."""
    return f"get {engine} going, or draw sets: {DRAW.format(action_id=action_id)}"


@SIMULATION
def failed_over(facts: SimulationFacts) -> Iterator[Finding]:
    """Runs that one rung began, or should have, and another brought to its end."""
    for runs in facts.cues:
        saved = [run for run in runs if run.setbacks and run.outcome != "held"]
        if saved:
            run, setback = saved[0], saved[0].setbacks[0]
            text = f"{setback.from_} fails ({setback.reason}); {setback.to} takes over"
            yield FAILED_OVER(text, run.place, set_id=run.set_id, count=len(saved))


@SIMULATION
def overrunning(facts: SimulationFacts) -> Iterator[Finding]:
    """Runs whose slot is shorter than they are."""
    for runs in facts.cues:
        first = [run for run in runs if run.cycle == 1 and run.slot is not None]
        longer, run = _too_long(first)
        if run is None:
            continue
        text = f"the run takes {_takes(run):.1f} s and has {run.slot or 0.0:.1f} s"
        squeeze = None if _ends_too_late(run) else run.squeeze
        fit = facts.show.settings.playback.fit
        yield overrun(text, run.place, run.set_id, squeeze=squeeze, fit=fit, count=len(longer))


def overrun(
    text: str,
    where: Action | CuePlace,
    set_id: int | None,
    *,
    squeeze: float | None,
    fit: Fit,
    count: int = 1,
) -> Finding:
    """What becomes of a run that is longer than its slot.

    Args:
        text: how long it is, and how long its slot.
        where: whose run it is.
        set_id: of which set.
        squeeze: how much faster it is played; None where it is cut off instead, 0 where it is
            not played at all.
        fit: whether runs that are too long are played faster.
        count: how many there were.
    """
    text += " until the next cue that draws"
    level: Level = "error"
    remedy = OVERRUN.remedy
    if not squeeze:
        if fit == "recorded":
            remedy += ', or set [playback] fit = "squeeze"'
        text += ": it is not seen" if squeeze == 0 else ": its final image is never seen"
    else:
        level = "warning" if squeeze < _HURRIED else "note"
        text += f": it is played {1 / squeeze:.1f} times as fast"
    return OVERRUN(text, where, level=level, remedy=remedy, set_id=set_id, count=count)


def _too_long(runs: Sequence[RehearsedRun]) -> tuple[list[RehearsedRun], RehearsedRun | None]:
    """The runs that are longer than their slots, and the first of those that exceed it the most."""
    longer = [run for run in runs if run.squeeze < TOLD_FROM or _ends_too_late(run)]
    return longer, max(
        longer, key=lambda run: _takes(run) / max(run.slot or 0.0, 0.001), default=None
    )


def _takes(run: RehearsedRun) -> float:
    return run.recorded or run.length


def _ends_too_late(run: RehearsedRun) -> bool:
    """Whether the next cue comes before the final image."""
    if run.slot is None or not run.due:
        return False
    final = run.due[-1]
    return run.outcome == "cut" and (final is None or final > run.slot + CUT_SHORT)


@SIMULATION
def overlapping(facts: SimulationFacts) -> Iterator[Finding]:
    """Cycles of a regenerating cue that the next cue runs into."""
    for runs in facts.cues:
        hit, run = _too_long([run for run in runs if run.cycle > 1])
        if run is None:
            continue
        cut = _ends_too_late(run)
        how = "it is cut off" if cut else f"it is played {1 / run.squeeze:.1f} times as fast"
        text = (
            f"cycle {run.cycle} of the regenerating cue begins {run.slot or 0.0:.1f} s before the "
            f"next cue that draws, and takes {_takes(run):.1f} s: {how}"
        )
        yield REGENERATION_OVERLAP(text, run.place, set_id=run.set_id, count=len(hit))


@SIMULATION
def thinned(facts: SimulationFacts) -> Iterator[Finding]:
    """Runs of which not every preview was shown, or here in time."""
    for runs in facts.cues:
        few = [run for run in runs if run.outcome not in {"held", "cut"} and run.left_out]
        run = max(few, key=lambda run: run.left_out / len(run.due), default=None)
        if run is None:
            continue
        shown = f"{len(run.due) - run.left_out} of {len(run.due)} pictures"
        told, remedy = LATE, None
        if facts.line is None:
            told, text = THINNED, f"only {shown} of its set can be shown"
        elif tight_cues(facts):
            text = f"only {shown} are here in time, as copies have no room"
            remedy = "give them more ([cache] disk_bytes), and rehearse again"
        else:
            text = f"the line brings only {shown} in time"
        yield told(text, run.place, remedy=remedy, set_id=run.set_id, count=len(few))
