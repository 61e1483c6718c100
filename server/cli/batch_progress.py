"""How a batch is getting on; in a terminal, a line for each engine and one for the whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from generator.engines.port import Engine
from generator.sets.batch import Began, Event, Finished, Left, PutBack, Said
from generator.sets.job_queue import Failure
from server.core.formatting import count, duration, rate

_REFRESH = 4
"""Times a second."""

_BAR, _NAME, _COUNT, _RATE = 24, 34, 10, 13
"""Widths in characters."""

_WINDOW = 40
"""Sets that a rate is judged by: the last ones."""


@dataclass
class Pace:
    """How fast sets come."""

    done: int = 0
    _marks: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def start(self, now: float) -> None:
        """From here on time counts."""
        if not self._marks:
            self._marks.append(now)

    def mark(self, now: float) -> None:
        """One more is done."""
        self.done += 1
        self._marks.append(now)

    def per_second(self, now: float) -> float | None:
        """Sets a second; it falls while none comes. None before the first."""
        if not self.done or now <= self._marks[0]:
            return None
        return (len(self._marks) - 1) / (now - self._marks[0])


@dataclass
class EngineLine:
    """One engine, whose several hands count as one; `note` is why it rests, or has `left`."""

    engine: Engine
    doing: str = ""
    note: str = ""
    left: bool = False
    pace: Pace = field(default_factory=Pace)


class Tally:
    """A batch as it stands.

    Args:
        engines: what draws; one may be there several times.
        total: sets to be drawn.
    """

    def __init__(self, engines: Sequence[Engine], total: int) -> None:
        self.total = total
        self.pace = Pace()
        self.failed = 0
        by_engine: dict[int, EngineLine] = {}
        self._lines = [by_engine.setdefault(id(engine), EngineLine(engine)) for engine in engines]
        self.lines = tuple(by_engine.values())

    @property
    def settled(self) -> int:
        """Sets that are done, or given up."""
        return self.pace.done + self.failed

    def line(self, engine: int) -> EngineLine:
        """The line of an engine by its place in the list."""
        return self._lines[engine]

    def seconds_left(self, now: float) -> float | None:
        """Seconds until all are done, at the present rate; None while there is none."""
        rate = self.pace.per_second(now)
        return (self.total - self.settled) / rate if rate else None

    def take(self, event: Event, now: float) -> None:
        """Take in what happened."""
        match event:
            case Began(engine, jobs):
                line = self.line(engine)
                for pace in (line.pace, self.pace):
                    pace.start(now)
                first, *others = jobs
                line.doing = f"{first} and {len(others)} more" if others else str(first)
            case Finished(engine, _, drawn):
                for pace in (self.line(engine).pace, self.pace):
                    pace.mark(now)
                if drawn:
                    self.line(engine).note = ""
            case PutBack(engine, job, reason):
                self.line(engine).note = f"{job} put back: {reason}"
            case Failure():
                self.failed += 1
            case Left(engine, reason):
                line = self.line(engine)
                line.doing, line.note, line.left = "", reason, True
            case Said():
                pass  # it is printed, and stays to be read


@contextmanager
def batch_display(tally: Tally, console: Console) -> Iterator[None]:
    """Keep a batch's lines up to date while it runs; nothing where nobody looks at a terminal."""
    if not console.is_terminal or not tally.total:
        yield
        return
    with Live(
        get_renderable=lambda: picture(tally, time.monotonic()),
        console=console,
        refresh_per_second=_REFRESH,
        redirect_stdout=False,
    ):
        yield


def remark(event: Event, tally: Tally, console: Console) -> None:
    """Print what should stay to be read: which way pictures go, and engines that are lost."""
    match event:
        case Said(engine, text):
            console.print(f"{tally.line(engine).engine.name}: {text}", markup=False)
        case Left(engine, reason):
            name = tally.line(engine).engine.name
            why = reason.removeprefix(f"{name}: ")
            console.print(f"{name}: no further set is tried with it: {why}", markup=False)
        case _:
            pass


def picture(tally: Tally, now: float) -> Table:
    """The lines as they stand at `now`."""
    grid = Table.grid(padding=(0, 2), expand=True)
    # What is long gives way to what counts.
    grid.add_column(no_wrap=True, min_width=_BAR, max_width=_NAME)
    grid.add_column(no_wrap=True, min_width=_COUNT)
    grid.add_column(no_wrap=True, min_width=_RATE)
    grid.add_column(no_wrap=True, ratio=1)
    for line in tally.lines:
        grid.add_row(
            Text(line.engine.name, style="dim" if line.left else ""),
            count(line.pace.done, "set"),
            _rate(line.pace, now),
            Text(f"{line.doing}  {line.note}".strip(), style="dim"),
        )
    left = tally.seconds_left(now)
    grid.add_row(
        ProgressBar(total=tally.total, completed=tally.settled, width=_BAR),
        f"{tally.settled} of {tally.total}",
        _rate(tally.pace, now),
        "" if left is None else f"about {duration(left)} left",
    )
    return grid


def _rate(pace: Pace, now: float) -> str:
    per_second = pace.per_second(now)
    return "" if per_second is None else rate(per_second)
