"""The timeline of a screening, laid out like a score: staff under staff, a few minutes each.

Geometry only (pure): what stands where, in units of which a sheet of A4, lying, is about
`WIDTH` across. The template draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from server.core.formatting import size
from server.diagnostics.findings import Finding, Level
from server.diagnostics.report import (
    Fetched,
    RehearsedRun,
    RehearsedScreening,
    Report,
    Setback,
    SheetCue,
)
from server.reports.formatting import clock, factor, seconds, short

WIDTH: Final = 1080.0
GUTTER: Final = 66.0
"""Left of a staff: where it begins, and what its lanes are."""

_MARGIN: Final = 10.0
_OVERHANG: Final = 0.08
"""A remainder of no more than this much of a staff is added to the last one."""

_STAFF: Final = ((400.0, 60.0), (1800.0, 120.0), (9000.0, 300.0), (float("inf"), 600.0))
"""Seconds: up to how long a show, how long a staff."""

_TICKS: Final = {
    60.0: (10, 2),
    120.0: (30, 5),
    240.0: (60, 10),
    300.0: (60, 10),
    600.0: (60, 20),
    1200.0: (300, 60),
}
"""Seconds: for a staff of so many, how far apart labelled and bare ticks are."""

_SERIF: Final = 4.7
_MONO: Final = 5.0
"""Units that a character takes, on average, in the sizes that the style sheet gives."""

_LABEL_ROWS: Final = 2
_LABEL_GAP: Final = 9.0
_MIN_LABEL: Final = 4
_MAX_LABEL: Final = 44
"""Characters. Less says nothing, more is a story."""

_FETCH_ROWS: Final = 8
_FETCH_ROW: Final = 4.0
_LABEL_ROW: Final = 13.0
"""Units that the template counts with, too."""
_FLAG: Final = 11.0
_DIGIT: Final = 5.2
_NARROWEST: Final = 0.6

MARKED_ACTIONS: Final = frozenset({"navigate", "set-fade-status", "next", "start", "end"})
"""Cues that draw nothing and are labelled all the same."""


@dataclass(frozen=True, slots=True)
class RulerTick:
    """A moment on the ruler."""

    x: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class CueMark:
    """A cue of the sheet."""

    x: float
    cue: SheetCue
    title: str


@dataclass(frozen=True, slots=True)
class Label:
    """What a cue says, where there is room."""

    x: float
    row: int
    text: str
    spoken: bool
    """Said by the piece, rather than by the machine."""


@dataclass(frozen=True, slots=True)
class Piece:
    """As much of a run as was played from one rung."""

    x: float
    width: float
    provider: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A run, or as much of it as falls into this staff.

    Attributes:
        run: which.
        x: where it begins.
        slot: as wide as it had.
        pieces: as long as it took, from rung to rung; to the slot's end where it held.
        recorded: how far it would reach as recorded; None where that is not known.
        late: from where on that is beyond the slot; None where it is not.
        steps: where each step is shown.
        left_out: about where those would be that are not.
        end: where its final image is; None if in another staff.
        note: under it, where there is room.
        squeezed: after it: the factor.
        title: all of it, in words.
        anchor: what findings point to; empty but where it begins.
    """

    run: RehearsedRun
    x: float
    slot: float
    pieces: tuple[Piece, ...]
    recorded: float | None
    late: float | None
    steps: tuple[float, ...]
    left_out: tuple[float, ...]
    end: float | None
    note: str
    squeezed: str
    title: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Fall:
    """A rung that gave way."""

    x: float
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """A set that came over the line."""

    x: float
    width: float
    row: int
    title: str


@dataclass(frozen=True, slots=True)
class Flag:
    """Findings about one cue, by their numbers in the list."""

    x: float
    level: Level
    text: str
    number: int
    title: str


Numbered = tuple[int, Finding]
"""A finding's place in the list, for its flag, and itself."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane of a staff: how high it lies, and how high it is."""

    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Staff:
    """A few minutes of a screening, everything in its lane.

    Attributes:
        start: position at which it begins.
        title: in words.
        height: of all of it.
        right: where it ends.
        lanes: by name; a lane in which nothing is has no height.
    """

    start: float
    title: str
    height: float
    right: float
    lanes: Mapping[str, Lane]
    ticks: tuple[RulerTick, ...]
    labels: tuple[Label, ...]
    cues: tuple[CueMark, ...]
    bars: tuple[Bar, ...]
    falls: tuple[Fall, ...]
    fetches: tuple[Fetch, ...]
    flags: tuple[Flag, ...]


def compose_timeline(
    report: Report,
    screening: RehearsedScreening,
    findings: Mapping[int, Sequence[Numbered]],
    *,
    compact: bool,
) -> tuple[Staff, ...]:
    """Set one screening, staff after staff.

    Args:
        report: with its cues, runs and what was fetched.
        screening: which of its screenings.
        findings: by cue.
        compact: whether only the runs and what gave way, on staves twice as long.
    """
    paper = _Paper(screening, _staff_seconds(report, screening) * (2 if compact else 1))
    runs = [run for run in report.cues if run.screening == screening.number]
    # What came before the first screening stands before its beginning.
    during = {screening.number, 0} if screening.number == 1 else {screening.number}
    fetched = [] if compact else [each for each in report.fetched if each.screening in during]
    cues = [] if compact else [cue for cue in report.sheet if paper.holds(cue.at)]
    begin = min([paper.begin, *(max(each.at, -paper.length) for each in fetched)])
    packed = _packed(fetched)
    return tuple(
        _staff(page, runs, cues, packed, {} if compact else findings, compact=compact)
        for page in paper.pages(begin)
    )


def _staff_seconds(report: Report, screening: RehearsedScreening) -> float:
    whole = max(screening.to, report.show.duration if report.show else 0.0)
    return next(staff for most, staff in _STAFF if whole <= most)


class _Page:
    """Where one staff lies in time, and where a moment lies on it."""

    def __init__(self, start: float, end: float, scale: float, length: float) -> None:
        self.start = start
        self.end = end
        self.length = length
        self._scale = scale

    def holds(self, at: float) -> bool:
        return self.start <= at < self.end

    def x(self, at: float) -> float:
        return round(GUTTER + (min(max(at, self.start), self.end) - self.start) * self._scale, 1)

    def shares(self, begin: float, end: float) -> bool:
        return begin < self.end and end > self.start


class _Paper:
    """How a screening is broken into staves."""

    def __init__(self, screening: RehearsedScreening, length: float) -> None:
        self.begin, self.end = screening.from_, max(screening.to, screening.from_ + 1)
        self.length = length

    def holds(self, at: float) -> bool:
        return self.begin <= at <= self.end

    def pages(self, begin: float) -> list[_Page]:
        first = self.begin // self.length
        # A moment more, so that the last cue of all is on the last staff.
        end = self.end + self.length / 1000
        count = max(1, int(-(-(end - first * self.length) // self.length)))
        over = end - (first + count - 1) * self.length
        if count > 1 and over <= self.length * _OVERHANG:
            count -= 1
            over += self.length
        longest = max(self.length, over)
        scale = (WIDTH - GUTTER - _MARGIN) / longest
        starts = [(first + number) * self.length for number in range(count)]
        ends = [*starts[1:], end]
        tick, moment = _TICKS[self.length]
        if begin < min(-moment, starts[0]):
            # As in music: what comes before the first bar has a short one of its own.
            starts.insert(0, begin // tick * tick)
            ends.insert(0, 0.0)
        return [
            _Page(start, stop, scale, self.length) for start, stop in zip(starts, ends, strict=True)
        ]


def _staff(
    page: _Page,
    runs: Iterable[RehearsedRun],
    cues: Iterable[SheetCue],
    packed: Iterable[tuple[int, Fetched]],
    findings: Mapping[int, Sequence[Numbered]],
    *,
    compact: bool,
) -> Staff:
    here = [cue for cue in cues if page.holds(cue.at)]
    bars = tuple(
        _bar(page, run, compact=compact)
        for run in runs
        if page.shares(run.at, run.at + max(run.slot or 0.0, run.length, _NARROWEST))
    )
    falls = tuple(_falls(page, [back for run in runs for back in run.setbacks]))
    fetches = tuple(_fetches(page, packed))
    flags = tuple(_flags(page, here, findings))
    labels = tuple(_labels(page, here))
    lanes, height = _lanes(
        {
            "ruler": 17.0,
            "labels": _rows(labels) * _LABEL_ROW + 3 if labels else 0.0,
            "cues": 15.0 if here else 0.0,
            "runs": (24.0 if compact else 38.0) if bars else 0.0,
            "fallbacks": 14.0 if falls else 0.0,
            "prefetch": _rows(fetches) * _FETCH_ROW + 7 if fetches else 0.0,
            "findings": 17.0 if flags else 0.0,
        }
    )
    return Staff(
        page.start,
        f"{clock(page.start)} to {clock(page.end)}: {len(here)} cues, {len(bars)} runs",
        height,
        page.x(page.end),
        lanes,
        tuple(_ticks(page)),
        labels,
        tuple(_cue_mark(page, cue) for cue in here),
        bars,
        falls,
        fetches,
        flags,
    )


def _rows(marks: Iterable[Label | Fetch]) -> int:
    return max(mark.row for mark in marks) + 1


def _lanes(heights: Mapping[str, float]) -> tuple[dict[str, Lane], float]:
    lanes: dict[str, Lane] = {}
    y = 0.0
    for name, height in heights.items():
        lanes[name] = Lane(y, height)
        y += height
    return lanes, y + 6


def _ticks(page: _Page) -> Iterable[RulerTick]:
    major, minor = _TICKS[page.length]
    at = int(page.start)
    while at < page.end:
        yield RulerTick(page.x(at), clock(at) if at % major == 0 else "")
        at += minor


def _cue_mark(page: _Page, cue: SheetCue) -> CueMark:
    title = f"{clock(cue.at)} cue {cue.cue}, {cue.action}"
    if cue.label:
        title += f": {cue.label}"
    return CueMark(page.x(cue.at), cue, title)


def _labels(page: _Page, cues: Sequence[SheetCue]) -> Iterable[Label]:
    """Two rows by turns, so that each has the room of two."""
    wanted = [cue for cue in cues if cue.label and (cue.action_id or cue.action in MARKED_ACTIONS)]
    free = [GUTTER] * _LABEL_ROWS
    placed: list[tuple[int, SheetCue, float]] = []
    for cue in wanted:
        x = page.x(cue.at)
        row = min(range(_LABEL_ROWS), key=lambda row: (free[row] > x, _last_of(placed, row)))
        placed.append((row, cue, x))
        free[row] = x + _MIN_LABEL * _SERIF
    for row in range(_LABEL_ROWS):
        mine = [(cue, x) for at, cue, x in placed if at == row]
        ends = [*(x for _, x in mine), page.x(page.end) + _MARGIN][1:]
        for (cue, x), end in zip(mine, ends, strict=True):
            spoken = cue.action_id is not None
            each = _SERIF if spoken else _MONO
            text = short(cue.label, min(_MAX_LABEL, int((end - x - _LABEL_GAP) / each)))
            if len(text) >= min(_MIN_LABEL, len(cue.label)):
                yield Label(x, row, text, spoken)


def _last_of(placed: Sequence[tuple[int, SheetCue, float]], row: int) -> float:
    """Where the last label of a row stands: the row that was not used for longest is next."""
    return max((x for at, _, x in placed if at == row), default=0.0)


def _bar(page: _Page, run: RehearsedRun, *, compact: bool) -> Bar:
    end = run.at + run.length
    slot_end = run.at + (run.length if run.slot is None else run.slot)
    begins = page.holds(run.at)
    x = page.x(run.at)
    shown, left_out = _steps(run)
    would_end = None if run.recorded is None else run.at + run.recorded
    drawn = would_end is not None and not compact and page.shares(run.at, would_end)
    recorded = page.x(would_end) if drawn and would_end is not None else None
    late = None
    if recorded is not None and run.slot is not None and recorded > page.x(slot_end) + _NARROWEST:
        late = page.x(slot_end)
    room = page.x(max(slot_end, end)) - x
    squeezed = factor(run.squeeze).replace("0.", ".")
    note = _played(run)
    if not begins or len(note) * _MONO > room:
        note = ""
    if not begins or (len(note) + 1 + len(squeezed)) * _MONO > room:
        squeezed = ""
    return Bar(
        run=run,
        x=x,
        slot=max(_NARROWEST, round(page.x(slot_end) - x, 1)),
        pieces=tuple(_pieces(page, run, max(slot_end, end))),
        recorded=recorded,
        late=late,
        steps=() if compact else tuple(page.x(at) for at in shown if page.holds(at)),
        left_out=() if compact else tuple(page.x(at) for at in left_out if page.holds(at)),
        end=page.x(end) if page.start < end <= page.end else None,
        note=note,
        squeezed=squeezed,
        title=run_title(run),
        anchor=run_anchor(run) if begins else "",
    )


def _pieces(page: _Page, run: RehearsedRun, held_until: float) -> Iterable[Piece]:
    """From rung to rung. Holding lasts until the next picture comes."""
    begin = run.at
    for back in run.setbacks:
        if back.at > begin and back.step and page.shares(begin, back.at):
            x = page.x(begin)
            yield Piece(x, max(_NARROWEST, round(page.x(back.at) - x, 1)), back.from_.split()[0])
        begin = max(begin, back.at) if back.step else begin
    end = held_until if run.provider == "hold" else run.at + run.length
    if page.shares(begin, max(end, begin + _NARROWEST)):
        x = page.x(begin)
        yield Piece(x, max(_NARROWEST, round(page.x(end) - x, 1)), run.provider)


def run_anchor(run: RehearsedRun) -> str:
    """What a run is called within the page."""
    return f"r{run.screening}-{run.cue}-{run.cycle}"


def run_title(run: RehearsedRun) -> str:
    """A run, in words."""
    slot = "" if run.slot is None else f" of {seconds(run.slot)}"
    parts = [
        f"{clock(run.at)} {run.action_id}",
        _provided(run),
        f"{seconds(run.length)}{slot} {factor(run.squeeze)}".rstrip(),
        f"{run.left_out} of {len(run.due)} steps left out" if run.left_out else "",
        run.outcome,
    ]
    return " · ".join(part for part in parts if part)


def _provided(run: RehearsedRun) -> str:
    if run.set_id is not None:
        return f"{run.provider}, set {run.set_id}"
    return f"{run.provider}, {run.engine}" if run.engine else run.provider


def _played(run: RehearsedRun) -> str:
    """The least that tells one run from another: its set, or who drew it."""
    if run.set_id is not None:
        return str(run.set_id)
    return run.engine or ""


def _steps(run: RehearsedRun) -> tuple[list[float], list[float]]:
    """Positions of the steps shown, and about where those were that are left out."""
    known = [(0, 0.0)]
    known += [(step, due) for step, due in enumerate(run.due, 1) if due is not None]
    known.append((len(run.due) + 1, max(run.length, known[-1][1])))
    left_out = [
        run.at + begin + (end - begin) * (step - first) / (last - first)
        for (first, begin), (last, end) in pairwise(known)
        for step in range(first + 1, last)
    ]
    return [run.at + due for due in run.due if due is not None], left_out


def _falls(page: _Page, setbacks: Sequence[Setback]) -> Iterable[Fall]:
    here = [back for back in setbacks if page.holds(back.at)]
    ends = [*(page.x(back.at) for back in here), page.x(page.end) + _MARGIN][1:]
    for back, end in zip(here, ends, strict=True):
        x = page.x(back.at)
        text = f"{back.from_} → {back.to}"
        if len(text) * _MONO + 16 > end - x:
            text = ""
        after = f"after step {back.step}" if back.step else "before the first step"
        yield Fall(
            x, text, f"{clock(back.at)} {back.from_} gives way to {back.to}, {after}: {back.reason}"
        )


def _packed(fetched: Sequence[Fetched]) -> list[tuple[int, Fetched]]:
    """Each in the first row that is free; when none is, in the one that is free soonest."""
    free = [float("-inf")] * _FETCH_ROWS
    packed: list[tuple[int, Fetched]] = []
    for each in sorted(fetched, key=lambda one: (one.at, one.until, one.action_id, one.set_id)):
        row = next((row for row in range(_FETCH_ROWS) if free[row] <= each.at), None)
        if row is None:
            row = free.index(min(free))
        free[row] = max(free[row], each.until)
        packed.append((row, each))
    return packed


def _fetches(page: _Page, packed: Iterable[tuple[int, Fetched]]) -> Iterable[Fetch]:
    """Those of one staff; rows that are empty on it are left out."""
    here = [
        (row, each)
        for row, each in packed
        if page.shares(each.at, max(each.until, each.at + _NARROWEST))
    ]
    ranks = {row: rank for rank, row in enumerate(sorted({row for row, _ in here}))}
    for row, each in here:
        x = page.x(each.at)
        width = max(_NARROWEST, round(page.x(each.until) - x, 1))
        yield Fetch(x, width, ranks[row], _fetch_title(each))


def _fetch_title(each: Fetched) -> str:
    files = f"{each.files} file{'s' if each.files != 1 else ''}"
    return (
        f"{clock(each.at)} {each.action_id}, set {each.set_id}: "
        f"{files}, {size(each.bytes)} in {seconds(each.until - each.at)}"
    )


def _flags(
    page: _Page, cues: Sequence[SheetCue], findings: Mapping[int, Sequence[Numbered]]
) -> Iterable[Flag]:
    free = 0.0
    for cue in cues:
        found = findings.get(cue.cue)
        if not found:
            continue
        (number, first), more = found[0], len(found) - 1
        text = f"{number}+{more}" if more else str(number)
        x = max(page.x(cue.at), free)
        free = x + _FLAG + len(text) * _DIGIT + 3
        title = "\n".join(f"{place}. {each.level}: {each.message}" for place, each in found)
        yield Flag(round(x, 1), first.level, text, number, title)
