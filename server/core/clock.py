"""Time is an argument: the steady clock that everything is due by, real or virtual.

Two times, both in seconds: `now` runs evenly and is never stepped; `wall` is the time of
day as the machine has it, which may jump. Schedules are meant in the second, everything
that plays is due in the first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from server.core.timescale import TimeScale


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Steady seconds: Unix time when the clock was anchored, running evenly since."""
        ...

    def wall(self) -> float:
        """Unix time as the machine has it at this moment."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return once `now()` is at least `when`; at once if it is already."""
        ...

    def stretch(self, seconds: float) -> float:
        """How long what takes real `seconds` takes by this clock.

        A disk is no faster, nor a hand, where a rehearsal makes its own time fly.
        """
        ...


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self._anchor = time.time() - time.monotonic()

    def now(self) -> float:
        """Steady seconds since the epoch, by the monotonic clock."""
        # Never loop.time(): uvloop's ticks in whole milliseconds.
        return self._anchor + time.monotonic()

    def wall(self) -> float:
        """Unix time as the machine has it at this moment."""
        return time.time()

    async def sleep_until(self, when: float) -> None:
        """Sleep until the steady clock reads `when`."""
        # Again and again, because uvloop may wake up to 1.3 ms early.
        while (left := when - self.now()) > 0:  # noqa: ASYNC110 - time is no event to wait for
            await asyncio.sleep(left)

    def stretch(self, seconds: float) -> float:
        """As long as it takes."""
        return seconds


class ScaledClock:
    """A clock that runs so many times as fast as another: for a rehearsal that is watched.

    Its time of day is its steady time: nobody sets it, whatever happens to the machine's.

    Args:
        outside: the other; both are the same at the beginning.
        speed: seconds of this clock in one of the other's.
    """

    def __init__(self, outside: Clock, speed: float) -> None:
        self.outside = outside
        self.time_scale = TimeScale(speed, outside.now())

    def now(self) -> float:
        """Steady seconds."""
        return self.time_scale.to_show(self.outside.now())

    def wall(self) -> float:
        """The steady time: it is some other day."""
        return self.now()

    async def sleep_until(self, when: float) -> None:
        """Sleep until this clock reads `when`."""
        real = self.time_scale.to_real(when)
        while self.time_scale.to_show(real) < when:  # floats round: not a hair too early
            real = math.nextafter(real, math.inf)
        await self.outside.sleep_until(real)

    def stretch(self, seconds: float) -> float:
        """So many times as long."""
        return self.time_scale.show_seconds(self.outside.stretch(seconds))


class VirtualClock:
    """A clock that stands still until it is told to move: for tests and rehearsal."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._offset = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Steady seconds."""
        return self._now

    def wall(self) -> float:
        """The steady time, plus every step made with `step_wall`."""
        return self._now + self._offset

    def step_wall(self, seconds: float) -> None:
        """Set the time of day forward, or back, as an operator or NTP would."""
        self._offset += seconds

    async def sleep_until(self, when: float) -> None:
        """Wait for somebody to `advance` this far."""
        if when <= self._now:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when, next(self._order), future))
        await future

    def wake_next(self, until: float = math.inf) -> bool:
        """Let time pass to the moment of the next sleeper and wake them.

        Args:
            until: steady seconds; whoever sleeps for longer is left asleep.

        Returns:
            Whether there was one.
        """
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                self._now = max(self._now, due)
                future.set_result(None)
                return True
        return False

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking every sleeper at its own moment, in order."""
        await self.advance_to(self._now + seconds)

    async def advance_to(self, when: float) -> None:
        """Let time pass until `when`; between two moments everybody gets to act."""
        await settle()
        while self.wake_next(when):
            await settle()
        self._now = max(self._now, when)
        await settle()

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds have passed."""
        await self.sleep_until(self._now + seconds)

    def stretch(self, seconds: float) -> float:
        """As long as it takes."""
        return seconds

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass with nobody awake to see it: a stalled or suspended machine."""
        self._now += seconds


@asynccontextmanager
async def timeout_at(clock: Clock, when: float) -> AsyncIterator[None]:
    """Cancel the body once `clock` reads `when`, and raise `TimeoutError` in its place."""
    async with asyncio.timeout(None) as scope:

        async def expire() -> None:
            await clock.sleep_until(when)
            scope.reschedule(asyncio.get_running_loop().time())

        timer = asyncio.create_task(expire())
        try:
            yield
        finally:
            timer.cancel()
            await asyncio.wait((timer,))  # so that nothing is left of it when this returns


async def settle(rounds: int = 25) -> None:
    """Let every task that can run do so, until they wait for something real again."""
    for _ in range(rounds):
        await asyncio.sleep(0)
