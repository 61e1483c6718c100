"""When jobs will be done, judged by what was measured (pure).

Nothing is invented: where nothing like it was drawn, the answer is that nobody knows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from generator.sheet.recipe import Recipe


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

    @classmethod
    def of(cls, recipe: Recipe) -> WorkSize:
        """The size of a recipe's picture."""
        steps = steps_made(recipe.steps, recipe.strength)
        return cls(recipe.model, recipe.width, recipe.height, steps)


def steps_made(steps: int, strength: float | None) -> int:
    """How many of the steps that were asked for image-to-image really makes."""
    return steps if strength is None else min(int(steps * strength), steps)


class KnownPaces(Protocol):
    """Knows how long pictures take."""

    def seconds(self, engine: str, size: WorkSize) -> float | None:
        """How long a picture will take on an engine; None where that is not known."""
        ...


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


@dataclass(frozen=True, slots=True)
class Ahead:
    """An item that waits, as far as its duration is concerned.

    Attributes:
        job: whose.
        size: of its picture, None where that is not known.
        refused_by: names of the engines that cannot draw it.
    """

    job: str
    size: WorkSize | None
    refused_by: frozenset[str] = frozenset()


def seconds_left(
    slots: Sequence[Slot], queue: Iterable[Ahead], paces: KnownPaces
) -> Mapping[str, float | None]:
    """Seconds until each job is done, if nothing more comes in between.

    Args:
        slots: who works, and on what.
        queue: what waits, in the order in which it is taken on.
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
            heap.append((slot.left, number))
    heapq.heapify(heap)
    known = 0 < len(heap) == len(slots)
    asked: dict[tuple[str, WorkSize], float | None] = {}
    for item in queue:
        end: float | None = None
        if known and item.size is not None:
            aside: list[tuple[float, int]] = []
            while heap:
                free, number = heapq.heappop(heap)
                engine = slots[number].engine
                if engine in item.refused_by:
                    aside.append((free, number))
                    continue
                kind = (engine, item.size)
                if kind not in asked:
                    asked[kind] = paces.seconds(*kind)
                seconds = asked[kind]
                if seconds is not None:
                    end = free + seconds
                    heapq.heappush(heap, (end, number))
                break
            for each in aside:
                heapq.heappush(heap, each)
        known = known and end is not None
        _extend(ends, item.job, end)
    return ends


def _extend(ends: dict[str, float | None], job: str, end: float | None) -> None:
    before = ends.get(job, 0.0)
    ends[job] = None if end is None or before is None else max(before, end)
