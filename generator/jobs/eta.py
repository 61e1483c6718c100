"""When jobs will be done, judged by what was measured (pure).

Nothing is invented: where nothing like it was drawn, the answer is that nobody knows.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

_LAST: Final = 16
"""How many runs of a kind are remembered: what an engine did an hour ago is no news."""


@dataclass(frozen=True, slots=True)
class WorkSize:
    """What decides how long a picture takes on a given engine.

    Attributes:
        model: that draws it.
        width, height: pixels.
        steps: denoising steps that are really made.
    """

    model: str
    width: int
    height: int
    steps: int


class Paces:
    """How long pictures took, by engine, model and size: per step, of the last few."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, int, int], deque[float]] = defaultdict(
            lambda: deque(maxlen=_LAST)
        )

    def learn(self, engine: str, size: WorkSize, seconds: float) -> None:
        """A picture was drawn in so many seconds, from being taken on to being kept."""
        if size.steps > 0 and seconds >= 0:
            key = (engine, size.model, size.width, size.height)
            self._seconds[key].append(seconds / size.steps)

    def seconds(self, engine: str, size: WorkSize) -> float | None:
        """How long a picture will take on an engine; None where that is not known."""
        known = self._seconds.get((engine, size.model, size.width, size.height))
        return size.steps * median(known) if known else None


@dataclass(frozen=True, slots=True)
class Slot:
    """An engine's place in the queue.

    Attributes:
        engine: its name.
        job: what it works on, None for nothing.
        left: seconds until it is done with that; None where that is not known.
    """

    engine: str
    job: str | None = None
    left: float | None = 0.0


def seconds_left(
    slots: Sequence[Slot],
    queue: Iterable[tuple[str, WorkSize, frozenset[str]]],
    paces: Paces,
) -> Mapping[str, float | None]:
    """Seconds until each job is done, if nothing more comes in between.

    Args:
        slots: who works, and on what.
        queue: what waits, in the order in which it is taken on: whose it is, its size, and the
            names of the engines that refuse it.
        paces: what was measured.

    Returns:
        By job; None where something of it, or something before it, was never measured.
    """
    ends: dict[str, float | None] = {}
    heap: list[tuple[float, int]] = []
    for number, slot in enumerate(slots):
        if slot.job is not None:
            _extend(ends, slot.job, slot.left)
        if slot.left is not None:
            heapq.heappush(heap, (slot.left, number))
    known = len(heap) == len(slots)
    for job, size, refused_by in queue:
        aside: list[tuple[float, int]] = []
        end: float | None = None
        while heap:
            free, number = heapq.heappop(heap)
            engine = slots[number].engine
            seconds = None if engine in refused_by else paces.seconds(engine, size)
            if engine in refused_by:
                aside.append((free, number))
                continue
            if seconds is not None:
                end = free + seconds
                heapq.heappush(heap, (end, number))
            break
        for each in aside:
            heapq.heappush(heap, each)
        known = known and end is not None
        _extend(ends, job, end if known else None)
    return ends


def _extend(ends: dict[str, float | None], job: str, end: float | None) -> None:
    before = ends.get(job, 0.0)
    ends[job] = None if end is None or before is None else max(before, end)
