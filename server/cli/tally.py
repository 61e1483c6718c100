"""How a batch is getting on: counts, rates and time left (pure: time is an argument)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from generator.engines.port import Engine
from generator.sets.batch import Began, Event, Finished, Left, PutBack, Said
from generator.sets.job_queue import Failure

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
    """One engine, whose several hands count as one.

    Attributes:
        engine: which.
        doing: what it is at.
        note: why it rests, or has left.
        left: whether it takes no more.
        pace: how fast its sets come.
    """

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
