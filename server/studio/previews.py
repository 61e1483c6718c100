"""Pictures of what is being drawn here now, before the store has them.

They are kept in memory, so many bytes of them, and for a few seconds longer than the drawing
lasts: by then the store has the take, or nobody will ever have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Literal, NamedTuple

from generator.engines.port import StepImage
from generator.jobs.scheduler import Done, OnStep, Workplace
from generator.jobs.store import Claimed

MOST_BYTES: Final = 256 * 2**20
"""Of pictures, over all drawings: some ten drawings of 200 steps."""

KEEP: Final = 10.0
"""Seconds for which a drawing is remembered after it has settled."""

Step = int | Literal["final"]
"""Which picture of a drawing: its number, or the finished one."""

Later = Callable[[float, Callable[[], None]], object]
"""Has something done in so many seconds."""


class LivePreview(NamedTuple):
    """A picture of a drawing.

    Attributes:
        owner: id of the member who asked for it: nobody else may see it.
        image: encoded picture.
        media_type: what `image` is.
    """

    owner: str
    image: bytes
    media_type: str


@dataclass(eq=False)
class _DrawnTake:
    """One try at a take, and its pictures in the order they came."""

    claimed: Claimed
    settled: bool = False
    pictures: dict[Step, LivePreview] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(len(each.image) for each in self.pictures.values())


def _later(seconds: float, work: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, work)


@dataclass(eq=False)
class LivePreviews:
    """The pictures, by take.

    Args:
        most_bytes: that they may have together; what is over goes first, then the earliest steps.
        keep: see `KEEP`.
        later: has something done in so many seconds.
    """

    _: KW_ONLY
    most_bytes: int = MOST_BYTES
    keep: float = KEEP
    later: Later = _later
    size: int = field(default=0, init=False)
    _drawings: dict[str, _DrawnTake] = field(default_factory=dict, init=False)

    def show(self, claimed: Claimed, image: StepImage) -> None:
        """Take in the next picture of a drawing; it waits for nobody."""
        drawing = self._drawings.get(claimed.take)
        if drawing is None or drawing.claimed is not claimed:  # drawn once more, from the start
            self._forget(drawing)
            drawing = self._drawings[claimed.take] = _DrawnTake(claimed)
        step: Step = "final" if image.final else image.step
        before = drawing.pictures.pop(step, None)
        drawing.pictures[step] = LivePreview(claimed.owner, image.image, image.media_type)
        self.size += len(image.image) - (0 if before is None else len(before.image))
        self._make_room()

    def settled(self, claimed: Claimed) -> None:
        """A drawing has come to its end, however it did: forget it in a few seconds."""
        drawing = self._drawings.get(claimed.take)
        if drawing is not None and drawing.claimed is claimed:
            drawing.settled = True
            self.later(self.keep, lambda: self._forget(drawing))

    def get(self, take: str, step: Step) -> LivePreview | None:
        """A picture; None where it is not there, not yet or no longer."""
        drawing = self._drawings.get(take)
        return None if drawing is None else drawing.pictures.get(step)

    # ------------------------------------------------------------

    def _forget(self, drawing: _DrawnTake | None) -> None:
        if drawing is not None and self._drawings.get(drawing.claimed.take) is drawing:
            del self._drawings[drawing.claimed.take]
            self.size -= drawing.size

    def _make_room(self) -> None:
        while self.size > self.most_bytes:
            over = next((each for each in self._drawings.values() if each.settled), None)
            if over is not None:
                self._forget(over)
                continue
            largest = max(self._drawings.values(), key=lambda each: each.size)
            earliest = next(iter(largest.pictures))
            self.size -= len(largest.pictures.pop(earliest).image)


@dataclass(frozen=True)
class ShownPlace:
    """A slot whose drawings `LivePreviews` forgets once they are over.

    Args:
        place: the slot itself.
        previews: what it draws is shown there.
        on_over: is told that a drawing goes on no more.
    """

    place: Workplace
    previews: LivePreviews
    on_over: Callable[[Claimed], None] = lambda _claimed: None

    @property
    def name(self) -> str:
        """See `Workplace.name`."""
        return self.place.name

    async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
        """See `Workplace.work`."""
        try:
            return await self.place.work(claimed, on_step)
        finally:
            self.previews.settled(claimed)
            self.on_over(claimed)
