"""Has what is queued worked on, by every slot at once, for as long as it runs.

A slot takes on the next item, works on it, says what became of it, and takes on the next. What
went wrong decides: what is the engine's fault is put back and the engine rests, what is the
picture's is tried elsewhere and given up after a few times, what is nobody's is simply put back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Protocol

import structlog

from cache.backoff import back_off
from cache.stores.port import StoreError, StoreFull
from cache.tasks import being_cancelled, cancel_and_wait
from generator.engines.port import (
    EngineDenied,
    EngineError,
    EnginePoisoned,
    EnginePreempted,
    EngineUnavailable,
    RecipeRefused,
)
from generator.jobs.model import Problem
from generator.jobs.store import Claimed, JobStore

_log = structlog.get_logger(__name__)

LEASE: Final = 30.0
"""Seconds after which what a Studio held is anybody's, where it said nothing more."""

_TRIES: Final = 3
_FIRST_REST, _LONGEST_REST = 0.5, 30.0
_LOOK_AGAIN: Final = 1.0
"""Seconds after which a queue is looked at again that others may write to."""

_DISK: Final = Problem("disk_full", "there is no room to keep what is drawn")


@dataclass(frozen=True, slots=True)
class Done:
    """What working on an item took.

    Attributes:
        seconds: from taking it on to having kept what came of it.
        cost: what that cost; 0.0 where nobody pays.
    """

    seconds: float
    cost: float = 0.0


class Workplace(Protocol):
    """An engine's place in the queue."""

    @property
    def name(self) -> str:
        """The engine's name in the settings."""
        ...

    async def work(self, claimed: Claimed) -> Done:
        """Make what an item asks for, and keep it. Cancelled, it stops within a step.

        Raises:
            EngineError, StoreError: nothing came of it.
        """
        ...


@dataclass(slots=True)
class SlotState:
    """What a slot does.

    Attributes:
        engine: its name.
        working_on: what it works on, None for nothing.
        since: steady seconds at which it took that on.
        rests: why it takes on nothing, None where it would.
    """

    engine: str
    working_on: Claimed | None = None
    since: float = 0.0
    rests: Problem | None = None


@dataclass(eq=False)
class Scheduler:
    """Works the queue off.

    Args:
        store: the jobs.
        places: who works, beside each other.
        wall: Unix time.
        now: steady seconds.
        sleep: how to wait.
        lease: see `LEASE`.
        has_room: whether what is made now could be kept.
    """

    store: JobStore
    places: Sequence[Workplace]
    _: KW_ONLY
    wall: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    lease: float = LEASE
    has_room: Callable[[], Awaitable[bool]] | None = None
    paused: Problem | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.slots = [SlotState(place.name) for place in self.places]
        self._tasks: dict[tuple[str, int], asyncio.Task[Done]] = {}
        self._changed = asyncio.Event()

    # ------------------------------------------------------------ what others ask of it

    def wake(self) -> None:
        """Something was queued, or may go on: look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def pause(self, why: Problem) -> None:
        """Take on nothing more; what is being worked on is finished. It is remembered."""
        self.paused = why
        await self.store.remember("paused", {"code": why.code, "message": why.message})

    async def resume(self) -> None:
        """Go on after a pause."""
        self.paused = None
        await self.store.remember("paused", None)
        self.wake()

    def stop_working_on(self, job: str, numbers: Iterable[int] | None = None) -> None:
        """Let go of items that were called off; their slots take on others."""
        wanted = None if numbers is None else set(numbers)
        for (each, n), task in self._tasks.items():
            if each == job and (wanted is None or n in wanted):
                task.cancel()

    # ------------------------------------------------------------ the work itself

    async def run(self) -> None:
        """Work until cancelled; then everything that was held is put back.

        Raises:
            DatabaseError: the jobs cannot be read or written.
        """
        await self._remember_pause()
        await self.store.take_over(self.wall())
        try:
            async with asyncio.TaskGroup() as group:
                for place, slot in zip(self.places, self.slots, strict=True):
                    group.create_task(self._serve(place, slot), name=f"slot {place.name}")
                group.create_task(self._keep_leases(), name="leases")
        finally:
            await self.store.release(self.wall())

    async def _remember_pause(self) -> None:
        known = await self.store.remembered("paused")
        if isinstance(known, Mapping):
            self.paused = Problem(str(known.get("code", "")), str(known.get("message", "")))

    async def _keep_leases(self) -> None:
        while True:
            await self.sleep(self.lease / 3)
            await self.store.renew(self.wall(), lease=self.lease)
            if await self.store.take_over(self.wall(), others=True):
                self.wake()

    async def _serve(self, place: Workplace, slot: SlotState) -> None:
        misses = 0
        while True:
            changed = self._changed
            claimed = await self._next(place)
            if claimed is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN if self._must_look else None):
                        await changed.wait()
                continue
            slot.working_on, slot.since = claimed, self.now()
            error = await self._attempt(place, claimed)
            slot.working_on = None
            missing = isinstance(error, EngineUnavailable) and not isinstance(
                error, EnginePreempted
            )
            misses = misses + 1 if missing else 0
            slot.rests = Problem("unavailable", str(error)) if missing else None
            if missing:
                longest = isinstance(error, EnginePoisoned | EngineDenied)
                await self.sleep(
                    _LONGEST_REST if longest else back_off(misses, _FIRST_REST, _LONGEST_REST)
                )

    @property
    def _must_look(self) -> bool:
        """Whether something may be there to do that nobody woke us for."""
        return self.store.database.is_shared or self.paused is not None

    async def _next(self, place: Workplace) -> Claimed | None:
        if self.has_room is not None:
            room = await self.has_room()
            if room and self.paused == _DISK:
                await self.resume()
            elif not room and self.paused is None:
                await self.pause(_DISK)
        if self.paused is not None:
            return None
        return await self.store.claim(place.name, self.wall(), lease=self.lease)

    async def _attempt(self, place: Workplace, claimed: Claimed) -> Exception | None:
        """Work on an item and say what became of it; what went wrong, if something did."""
        task = asyncio.create_task(place.work(claimed), name=f"{claimed.job}/{claimed.n}")
        self._tasks[claimed.job, claimed.n] = task
        try:
            done = await task
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            return None  # the job was called off, and said so itself
        except (EngineError, StoreError) as error:
            await self._settle(place, claimed, error)
            return error
        finally:
            await cancel_and_wait(task)
            del self._tasks[claimed.job, claimed.n]
        await self.store.ready(claimed, self.wall(), seconds=done.seconds, cost=done.cost)
        return None

    async def _settle(
        self, place: Workplace, claimed: Claimed, error: EngineError | StoreError
    ) -> None:
        now, text = self.wall(), str(error) or type(error).__name__
        match error:
            case EnginePreempted():
                await self.store.put_back(claimed, None, now)
            case StoreFull():
                await self.pause(_DISK)
                await self.store.put_back(claimed, _DISK, now)
            case RecipeRefused():
                problem = Problem("refused", text)
                if claimed.refusals + 1 >= len({each.name for each in self.places}):
                    await self.store.failed(claimed, problem, now)
                else:
                    await self.store.put_back(claimed, problem, now, refused_by=place.name)
            case EngineUnavailable():
                await self.store.put_back(claimed, Problem("unavailable", text), now)
            case _ if claimed.tries + 1 >= _TRIES:
                await self.store.failed(claimed, Problem("failed", text), now)
            case _:
                await self.store.put_back(claimed, Problem("failed", text), now, counts=True)
        _log.info("item_not_made", job=claimed.job, n=claimed.n, engine=place.name, reason=text)
