"""An event loop in which time passes only while nobody has anything to do.

A show of an hour is played as fast as its work can be done: whenever every task waits, the
virtual clock goes on to the next moment that somebody waits for. Nothing runs beside the
loop, so the same beginning always gives the same order of events.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from server.core.clock import VirtualClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Stuck(RuntimeError):
    """Everybody waits for something that will never come."""


class _VirtualTimeSelector(selectors.SelectSelector):
    """Asked to wait for the world outside, it lets virtual time pass instead."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What the loop asks whenever it has nothing else to do."""
        found = super().select(0)
        if found or timeout == 0 or self._clock.wake_next():
            return found
        if timeout is None:
            raise Stuck("nobody has anything to do, and nobody waits for a moment")
        return super().select(timeout)


class RehearsalLoop(asyncio.SelectorEventLoop):
    """Runs on a virtual clock: `asyncio.Runner(loop_factory=lambda: RehearsalLoop(clock))`."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_VirtualTimeSelector(clock))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Do it now: in no virtual time, and in the same order every time."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)
        return future
