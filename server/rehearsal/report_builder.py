"""What was played, as the report tells it (pure)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from cache.model.keys import set_place
from generator.sheet.cues import Cue, FadeCue
from generator.sheet.plan import Action, Plan
from server.asrun.file import Row
from server.config.show import Show
from server.diagnostics.facts import FetchedFile, ObservedRun, SimulationResult
from server.diagnostics.report import (
    Fetched,
    RehearsedRun,
    RehearsedScreening,
    Setback,
    SheetCue,
    Variety,
)
from server.rehearsal.screening_window import ScreeningWindow

_LABEL = 60


def runs_of(
    show: Show, result: SimulationResult, windows: Sequence[ScreeningWindow]
) -> tuple[RehearsedRun, ...]:
    """Every run, in order."""
    return tuple(
        _run(show, result, row, *_screening(windows, result.begun[row["run"]]))
        for row in result.rows
    )


def _screening(windows: Sequence[ScreeningWindow], at: float) -> tuple[int, ScreeningWindow]:
    """Which screening a steady time is in, from 1; 0 before the first, in whose time it is told."""
    number = bisect_right(windows, at + 1e-3, key=lambda each: each.opens)
    return number, windows[max(number, 1) - 1]


def _run(
    show: Show, result: SimulationResult, row: Row, number: int, window: ScreeningWindow
) -> RehearsedRun:
    origin = window.slot.start
    action = next(each for each in result.plan.actions if each.action_id == row["action_id"])
    observed = result.observed.get(row["run"], ObservedRun(len(row["planned"])))
    begun = float(row["started_at"])
    steps = max(observed.steps, *observed.due) if observed.due else observed.steps
    last = max(observed.due.values(), default=begun)
    setbacks = tuple(
        Setback(
            at=_rounded(each["at"] - origin),
            step=each["step"],
            from_=each["from"],
            to=each["to"],
            reason=each["reason"],
        )
        for each in row["failovers"]
    )
    last_word = row["failovers"][-1] if row["failovers"] else {}
    provider, set_id = row["provider"], row["set_id"]
    engine = row["engine"]
    if last_word:
        provider = "hold" if row["outcome"] == "held" else last_word["to"].partition(" ")[0]
        set_id, engine = last_word.get("set_id"), last_word.get("engine")
    length = _rounded(last - begun)
    squeeze = float(row["squeeze"])
    slot = _slot(show, result.plan, action, row["position"], window)
    return RehearsedRun(
        screening=max(number, 1),
        cue=row["cue_index"],
        time=row["cue"]["time"],
        action_id=row["action_id"],
        type=action.type,
        program=row["program"],
        prompt=row["prompt"],
        cycle=row["cycle"] + 1,
        at=_rounded(begun - origin),
        slot=None if slot is None else _rounded(slot),
        recorded=_rounded(length / squeeze) if provider == "static" and squeeze > 0 else None,
        length=length,
        squeeze=round(squeeze, 4),
        mode=row["mode"],
        why=row["why"],
        provider=provider,
        engine=engine,
        set_id=set_id,
        due=tuple(
            _rounded(observed.due[step] - begun) if step in observed.due else None
            for step in range(1, steps + 1)
        ),
        setbacks=setbacks,
        readiness=result.readiness.get(row["run"]),
        outcome=row["outcome"] or "cut",
    )


def _slot(
    show: Show, plan: Plan, action: Action, position: float, window: ScreeningWindow
) -> float | None:
    """Seconds from a run's beginning to the next generating cue, or the end."""
    following = [each.at for each in plan.actions if each.cue_index > action.cue_index]
    until = min(following[0] if following else show.duration, window.to)
    return until - position if until > position else None


def _rounded(seconds: float) -> float:
    """To the millisecond, which is finer than any screen; never minus nothing."""
    return round(seconds, 3) + 0.0


def screenings_of(
    show: Show, windows: Sequence[ScreeningWindow], runs: Iterable[RehearsedRun]
) -> tuple[RehearsedScreening, ...]:
    """Every screening, in order."""
    counts = Counter(run.screening for run in runs)
    return tuple(
        RehearsedScreening(
            number=number,
            starts=_local(each.opens, show.timezone) if each.scheduled else None,
            from_=_rounded(each.from_),
            to=_rounded(each.to),
            runs=counts[number],
        )
        for number, each in enumerate(windows, start=1)
    )


def _local(unix: float, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(unix, zone).strftime("%Y-%m-%d %H:%M")


def sheet_of(show: Show, plan: Plan) -> tuple[SheetCue, ...]:
    """Every cue of the sheet."""
    drawn = {action.cue_index: action.action_id for action in plan.actions}
    return tuple(
        SheetCue(
            cue=index,
            at=_rounded(cue.at),
            action=cue.action,
            label=_label(cue),
            action_id=drawn.get(index),
        )
        for index, cue in enumerate(show.sheet.cues)
    )


def _label(cue: Cue) -> str:
    text = "" if isinstance(cue, FadeCue) else " ".join(cue.text.split())
    return text if len(text) <= _LABEL else text[: _LABEL - 1].rstrip() + "…"


def fetched_of(
    came: Iterable[FetchedFile], windows: Sequence[ScreeningWindow]
) -> tuple[Fetched, ...]:
    """What came over the line, a set in a row."""
    sets: dict[tuple[str, int], list[FetchedFile]] = defaultdict(list)
    for each in came:
        place = set_place(each.key)
        if place is not None:
            sets[place.action_id, place.set_id].append(each)
    found = []
    for (action_id, set_id), files in sets.items():
        first = min(each.asked_at for each in files)
        number, window = _screening(windows, first)
        origin = window.slot.start
        found.append(
            Fetched(
                screening=number,
                action_id=action_id,
                set_id=set_id,
                at=_rounded(first - origin),
                until=_rounded(max(each.here_at for each in files) - origin),
                bytes=sum(each.size for each in files),
                files=len(files),
            )
        )
    return tuple(sorted(found, key=lambda each: (each.screening, each.at, each.action_id)))


def variety_of(result: SimulationResult, runs: Iterable[RehearsedRun]) -> tuple[Variety, ...]:
    """Which sets of each action were played."""
    sets: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        if run.set_id is not None:
            sets[run.action_id].append(run.set_id)
    return tuple(
        Variety(
            action_id=action.action_id,
            cue=action.cue_index,
            sets=result.usable.get(action.action_id, 0),
            played=tuple(sets[action.action_id]),
        )
        for action in result.plan.actions
    )
