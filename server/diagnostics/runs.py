"""What was wrong with the runs that were played (pure). One finding a cue and kind: the worst."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from server.diagnostics.report import Finding, Level, LineReport, ProbedEngine, RehearsedRun

Fit = Literal["squeeze", "recorded"]

HURRIED: Final = 0.5
"""A run that is played faster than twice as fast is seen to hurry."""

TOLD_FROM: Final = 0.8
"""A run that is played at more than this share of its time is told of in the table alone."""

NOTHING_TO_SHOW: Final = "nothing_to_show"
"""A cue had nothing to play, or not to its end."""

THINNED: Final = "thinned"
"""Not every picture of a set that is at hand can be shown."""

_CUT_SHORT: Final = 0.05
"""Seconds by which a final image may come after its slot's end and still count as in it."""


def run_findings(
    runs: Sequence[RehearsedRun],
    engines: Iterable[ProbedEngine],
    fit: Fit,
    line: LineReport | None,
    *,
    crowded: bool = False,
) -> list[Finding]:
    """Everything that is wrong with the runs.

    Args:
        runs: in order.
        engines: as they answered.
        fit: whether runs that are too long are played faster.
        line: the line to the store, if there is one.
        crowded: whether the copies have no room for two sets, so that it is not the line's fault.
    """
    dead = {engine.name: engine.detail for engine in engines if engine.state == "dead"}
    by_cue: dict[int, list[RehearsedRun]] = defaultdict(list)
    for run in runs:
        by_cue[run.cue].append(run)
    findings: list[Finding] = []
    for cue in by_cue.values():
        findings += _nothing_to_show(cue, dead)
        findings += _failed_over(cue)
        findings += _too_long(cue, fit)
        findings += _overlapping(cue)
        findings += _late(cue, line, crowded=crowded)
    return findings


def _finding(
    level: Level, code: str, run: RehearsedRun, *, message: str, remedy: str, count: int
) -> Finding:
    return Finding(
        level=level,
        code=code,
        message=message,
        remedy=remedy,
        cue=run.cue,
        time=run.time,
        action_id=run.action_id,
        set_id=run.set_id,
        count=count,
    )


def _worst(
    runs: Iterable[RehearsedRun], measure: Callable[[RehearsedRun], float]
) -> RehearsedRun | None:
    """The first of those that are worst; None of nothing."""
    return max(runs, key=measure, default=None)


def _shown(run: RehearsedRun) -> int:
    return len(run.due) - run.left_out


def _nothing_to_show(runs: Sequence[RehearsedRun], dead: dict[str, str]) -> list[Finding]:
    """Cues that had nothing to play, or not to its end: the picture before stayed."""
    held = [run for run in runs if run.outcome == "held"]
    if not held:
        return []
    run = held[0]
    tried = {setback.from_.removeprefix("live ") for setback in run.setbacks}
    names = sorted(name for name in dead if name in tried or name in run.why)
    draw = f"draw sets: understudy generate batch --only {run.action_id}"
    if names:
        engine = names[0]
        text = f"engine {engine} is dead ({dead[engine]}) and no set stands behind it"
        remedy = f"get {engine} going, or {draw}"
        return [_finding("error", "engine_dead", run, message=text, remedy=remedy, count=len(held))]
    seen = "breaks off, " if _shown(run) else ""
    text = f"nothing can be played: {seen}the picture before stays ({run.why})"
    return [_finding("error", NOTHING_TO_SHOW, run, message=text, remedy=draw, count=len(held))]


def _failed_over(runs: Sequence[RehearsedRun]) -> list[Finding]:
    """Runs that one rung began, or should have, and another brought to its end."""
    saved = [run for run in runs if run.setbacks and run.outcome != "held"]
    if not saved:
        return []
    run = saved[0]
    setback = run.setbacks[0]
    text = f"{setback.from_} fails ({setback.reason}); {setback.to} takes over"
    remedy = "nobody will notice, as long as that one lasts; mend the first"
    return [_finding("warning", "failed_over", run, message=text, remedy=remedy, count=len(saved))]


def _too_long(runs: Sequence[RehearsedRun], fit: Fit) -> list[Finding]:
    """Runs whose slot is shorter than they are."""
    first = [run for run in runs if run.cycle == 1 and run.slot is not None]
    longer = [run for run in first if run.squeeze < TOLD_FROM or _ends_too_late(run)]
    run = _worst(longer, lambda run: (run.recorded or run.length) / max(run.slot or 0.0, 0.001))
    if run is None or run.slot is None:
        return []
    recorded = run.recorded or run.length
    text = f"the run takes {recorded:.1f} s and has {run.slot:.1f} s until the next cue that draws"
    fewer = "draw it with fewer steps (`steps` in the cue), or move the cue after it"
    if _ends_too_late(run):
        remedy = f'{fewer}, or set [playback] fit = "squeeze"' if fit == "recorded" else fewer
        text += ": its final image is never seen"
        return [_finding("error", "overrun", run, message=text, remedy=remedy, count=len(longer))]
    level: Level = "warning" if run.squeeze < HURRIED else "note"
    text += f": it is played {1 / run.squeeze:.1f} times as fast"
    return [_finding(level, "overrun", run, message=text, remedy=fewer, count=len(longer))]


def _ends_too_late(run: RehearsedRun) -> bool:
    """Whether the next cue comes before the final image."""
    if run.slot is None or not run.due:
        return False
    final = run.due[-1]
    return run.outcome == "cut" and (final is None or final > run.slot + _CUT_SHORT)


def _overlapping(runs: Sequence[RehearsedRun]) -> list[Finding]:
    """Cycles of a regenerating cue that the next cue runs into."""
    again = [run for run in runs if run.cycle > 1]
    hit = [run for run in again if run.squeeze < TOLD_FROM or _ends_too_late(run)]
    run = _worst(hit, lambda run: (run.recorded or run.length) / max(run.slot or 0.0, 0.001))
    if run is None:
        return []
    text = (
        f"cycle {run.cycle} of the regenerating cue begins {run.slot or 0.0:.1f} s before the "
        f"next cue that draws, and takes {run.recorded or run.length:.1f} s: "
    )
    cut = _ends_too_late(run)
    text += "it is cut off" if cut else f"it is played {1 / run.squeeze:.1f} times as fast"
    remedy = "move the next cue, or end the regeneration before it with a navigate cue"
    return [
        _finding(
            "warning", "regeneration_overlap", run, message=text, remedy=remedy, count=len(hit)
        )
    ]


def _late(runs: Sequence[RehearsedRun], line: LineReport | None, *, crowded: bool) -> list[Finding]:
    """Runs of which not every preview was here in time."""
    thinned = [
        run for run in runs if run.outcome not in {"held", "cut"} and run.left_out and run.due
    ]
    run = _worst(thinned, lambda run: run.left_out / len(run.due))
    if run is None:
        return []
    shown = f"{_shown(run)} of {len(run.due)} pictures"
    if line is None:
        text = f"only {shown} of its set can be shown"
        remedy = f"understudy generate verify --repair --only {run.action_id}"
        return [_finding("warning", THINNED, run, message=text, remedy=remedy, count=len(thinned))]
    if crowded:
        text = f"only {shown} are here in time, as copies have no room"
        remedy = "give them more ([cache] disk_bytes), and rehearse again"
        return [_finding("warning", "late", run, message=text, remedy=remedy, count=len(thinned))]
    text = f"the line brings only {shown} in time"
    remedy = "rehearse again once more has come, take the sets along with `understudy pull`"
    return [_finding("warning", "late", run, message=text, remedy=remedy, count=len(thinned))]
