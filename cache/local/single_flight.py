"""One request per key at a time, shared by all who ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


@dataclass(eq=False)
class Flight(Generic[T]):
    """A request under way.

    Attributes:
        arrived: gets the content as soon as it is there; what is done with it afterwards
            keeps nobody waiting.
        waiting: how many wait for it.
        staying: it goes on though nobody waits.
        before: an older one for the same key, that is being brought to its end.
    """

    arrived: asyncio.Future[T]
    waiting: int = 0
    staying: bool = False
    before: Flight[T] | None = field(default=None, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class SingleFlight(Generic[K, T]):
    """The requests under way. Those of nobody's interest any more are cancelled.

    A waiter that is cancelled leaves the others alone; when the last leaves before anything
    has arrived, the request is cancelled. What has arrived is brought to its end.

    Args:
        make: does the request. It sets `Flight.arrived`, and may go on after that;
            whatever it raises before goes to all who wait.
    """

    def __init__(self, make: Callable[[K, Flight[T]], Awaitable[None]]) -> None:
        self._make = make
        self._flights: dict[K, Flight[T]] = {}
        self._under_way: set[Flight[T]] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def get(self, key: K) -> Flight[T] | None:
        """The request for a key that is under way."""
        return self._flights.get(key)

    def latest(self, key: K) -> T | None:
        """What has arrived last for a key, while it is being brought to its end."""
        flight = self._flights.get(key)
        while flight is not None:
            arrived = flight.arrived
            if arrived.done() and not arrived.cancelled() and arrived.exception() is None:
                return arrived.result()
            flight = flight.before
        return None

    async def ask(self, key: K, *, anew: bool = False, to_the_end: bool = False) -> T:
        """What arrives by the request under way for a key, or by a new one.

        Args:
            key: of what.
            anew: what has arrived already will not do.
            to_the_end: also wait for what is done after the arrival.
        """
        flight = self._flights.get(key)
        if flight is None or (anew and flight.arrived.done()):
            before, arrived = flight, asyncio.get_running_loop().create_future()
            flight = self._flights[key] = Flight(arrived, before=before)
            self._under_way.add(flight)
            flight.task = asyncio.create_task(self._fly(key, flight))
            flight.task.add_done_callback(lambda _: self._under_way.discard(flight))
        flight.waiting += 1
        try:
            # Not `shield`: it complains of errors that come after its waiter is gone.
            await asyncio.wait([flight.task if to_the_end and flight.task else flight.arrived])
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.staying and not flight.arrived.done():
                self._leave(key, flight)
                if flight.task is not None:
                    flight.task.cancel()
        return flight.arrived.result()

    async def close(self, error: BaseException) -> None:
        """Cancel what has not arrived, and bring the rest to its end; who waits gets the error."""
        self._flights.clear()
        tasks = [flight.task for flight in self._under_way if flight.task is not None]
        for flight in self._under_way:
            if not flight.arrived.done():
                flight.arrived.set_exception(error)
                flight.arrived.exception()  # there may be nobody who looks at it
                if flight.task is not None:
                    flight.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self, key: K, flight: Flight[T]) -> None:
        """Nobody joins it any more; an older one that is not at its end yet is found again."""
        before, flight.before = flight.before, None
        if self._flights.get(key) is flight:
            del self._flights[key]
            if before is not None and before.task is not None and not before.task.done():
                self._flights[key] = before

    async def _fly(self, key: K, flight: Flight[T]) -> None:
        try:
            await self._make(key, flight)
        except Exception as error:
            if flight.arrived.done():
                raise
            flight.arrived.set_exception(error)
            flight.arrived.exception()
        finally:
            self._leave(key, flight)
            if not flight.arrived.done():
                flight.arrived.cancel()
