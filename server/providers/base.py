"""The port through which an action becomes frames, and its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from cache.model.images import Decoded
from generator.sheet.plan import Action

ProviderName = Literal["static", "live"]


class ProviderError(Exception):
    """A provider cannot give, or go on giving, frames; the next rung may.

    ProviderError
      ActionRefused   nor will it ever give this action's
      StoreSilent     because the store does not answer, or not in time
      Capped          because no more live runs are allowed now; nothing is wrong with it
      Preempted       because its engine was taken for the show; nothing is wrong with it
      NotThere        because nothing answers there, which may never have been started
        Starting      because it is on its way; nothing is wrong with it
    """


class ActionRefused(ProviderError):
    """A provider can never give this action's frames, however well it does."""


class StoreSilent(ProviderError):
    """The sets may be sound, but the store does not hand them out."""


class Capped(ProviderError):
    """As many live runs as are allowed go on, or were begun in this hour."""


class Preempted(ProviderError):
    """An engine that others ask, too, was taken from this drawing for the show."""


class NotThere(ProviderError):
    """Nothing answers where an engine should be."""


class Starting(NotThere):
    """An engine is on its way, and draws as soon as it is there."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a run on its way to the stage.

    Attributes:
        step: from 1; the last of a run is its final image.
        steps: how many there will be.
        final: whether this is the finished picture.
        due: steady time at which it should reach the display.
        image: encoded picture.
        media_type: what `image` is.
    """

    step: int
    steps: int
    final: bool
    due: float
    image: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Slot:
    """When a run may take place, in steady seconds.

    Attributes:
        start: when it begins; in the past where the stage joins a run in the middle.
        end: when its final image must be on the wall, None for whenever it is.
        share: how much of the picture is on the wall already, from 0 to 1, where a run that
            another stream began is taken over: only what comes after it is wanted, the first
            of it no sooner than its duration after `start`. A provider that cannot begin in
            the middle gives everything as it comes, and what is too early is passed over.
        leads_in: whether `start` is when the picture was asked for, and the run begins as long
            after it as runs do; else the wall has waited for another stream already.
    """

    start: float
    end: float | None = None
    share: float = 0.0
    leads_in: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """What a run is made of, for the log; nothing of it ever goes to a screen."""

    provider: ProviderName
    engine: str | None = None
    set_id: int | None = None
    set_hash: str | None = None
    seed: int | None = None
    squeeze: float = 1.0


@dataclass(frozen=True, slots=True)
class FrameStream:
    """One opened performance of an action.

    Attributes:
        source: where it comes from.
        steps: how many frames it has, as far as is known.
        planned: due time of each step, where they are known beforehand.
        frames: its frames in order; iterating may raise `ProviderError`.
    """

    source: Source
    steps: int
    planned: tuple[tuple[int, float], ...]
    frames: AsyncIterator[Frame]

    @property
    def ends_at(self) -> float | None:
        """Steady time at which its final image is due, where that is known."""
        return self.planned[-1][1] if self.planned else None


class Provider(Protocol):
    """Turns actions into frames."""

    @property
    def name(self) -> ProviderName:
        """Which rung of the ladder it is."""
        ...

    def open(self, action: Action, slot: Slot) -> AbstractAsyncContextManager[FrameStream]:
        """Begin to perform `action`; leaving the context ends everything it began.

        Raises:
            ProviderError: it has nothing to give.
        """
        ...


Offload = Callable[[Callable[[], Decoded]], Awaitable[Decoded]]
"""How a slow function is run beside the event loop: `asyncio.to_thread`, for one."""
