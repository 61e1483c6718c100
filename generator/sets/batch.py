"""Draws what is missing: many sets with several engines, resumable at any moment.

What is whole stays: a batch that was stopped goes on where it was, and of two batches on one
store neither draws what the other has finished. One set that fails stops nothing and is
listed at the end with its reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from cache.model.documents import FormatError
from cache.stores.port import Store, StoreError, StoreUnavailable
from generator.engines.port import (
    DrawingFailed,
    Engine,
    EngineDenied,
    EngineError,
    EnginePoisoned,
    EnginePreempted,
    EngineUnavailable,
)
from generator.sets.inventory import Job
from generator.sets.job_queue import Failure, JobQueue
from generator.sets.numbers import Numbers
from generator.sets.recorders import SetRecorder, recorder_for

MISSES = 6
"""How often in a row an engine or the store may be missing before an engine is given up."""

REST = 0.5
"""Seconds an engine rests after the first miss; twice as long after each further one. In all
a quarter of a minute, in which a worker that was started anew is back. As long an engine rests
that was taken for the show."""


@dataclass
class BatchOutcome:
    """What a batch has done.

    Attributes:
        drawn: in the order they were finished.
        found: not drawn, because another batch had done so meanwhile.
        failed: with their reasons.
    """

    drawn: list[Job] = field(default_factory=list)
    found: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


# What happens in a batch, for who looks on. `engine` is a place in the list of engines.


@dataclass(frozen=True, slots=True)
class Began:
    """An engine takes on sets of one action."""

    engine: int
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A set is whole; `drawn` is False where it was there already."""

    engine: int
    job: Job
    drawn: bool


@dataclass(frozen=True, slots=True)
class PutBack:
    """A set was not drawn this time, and will be tried again."""

    engine: int
    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """An engine takes no more."""

    engine: int
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """An engine lets something be known."""

    engine: int
    text: str


Event = Began | Finished | PutBack | Failure | Left | Said
Watcher = Callable[[Event], None]


async def run_batch(
    jobs: Sequence[Job],
    engines: Sequence[Engine],
    store: Store,
    watch: Watcher = lambda _event: None,
    *,
    anew: bool = False,
    per_minute: float | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BatchOutcome:
    """Draw `jobs`, each engine one after the other, or several of one action where it can.

    A drawing that fails is tried again, later and rather elsewhere; what one engine refuses
    is offered to the others. An engine that is not there is waited for a little longer each
    time, and given up after a few: its jobs go to the others. One that can draw no more in
    this process, or does not let us in, is asked nothing further. One that was taken for the
    show is asked again, however often.

    Args:
        jobs: what to draw, in order.
        engines: what draws; each works through the jobs beside the others.
        store: where sets go.
        watch: told of everything that happens.
        anew: draw also what is there already.
        per_minute: at most so many drawings are begun in a minute; None for no limit.
        now: steady seconds.
        sleep: how to wait.
    """
    pace = _Throttle(per_minute, now, sleep)
    batch = _Batch(JobQueue(jobs, len(engines)), pace, watch, sleep)
    numbers = Numbers(store, ((job.action.action_id, job.set_id) for job in jobs))
    async with asyncio.TaskGroup() as group:
        for number, engine in enumerate(engines):
            say = partial(batch.say, number)
            recorder = recorder_for(engine, store, anew=anew, numbers=numbers, say=say)
            group.create_task(batch.work(number, recorder), name=f"batch {engine.name}")
    for failure in batch.queue.left(batch.last_words):
        batch.give_up(failure)
    return batch.outcome


@dataclass
class _Batch:
    """A batch that runs."""

    queue: JobQueue
    pace: _Throttle
    watch: Watcher
    sleep: Callable[[float], Awaitable[None]]
    outcome: BatchOutcome = field(default_factory=BatchOutcome)
    last_words: list[str] = field(default_factory=list)

    async def work(self, number: int, recorder: SetRecorder) -> None:
        """Have one engine record what it can."""
        misses = 0
        while taken := await self.queue.take(number, recorder.at_once):
            await self.pace.wait(len(taken))
            self.watch(Began(number, taken))
            error = await self._attempt(number, recorder, taken)
            preempted = isinstance(error, EnginePreempted)
            missing = isinstance(error, EngineUnavailable | StoreUnavailable) and not preempted
            misses = misses + 1 if missing else 0
            if isinstance(error, EnginePoisoned | EngineDenied) or misses >= MISSES:
                self.last_words.append(f"{recorder.engine.name}: {error}")
                self.watch(Left(number, str(error)))
                break
            if missing or preempted:
                await self.sleep(REST * 2 ** max(0, misses - 1))
        await self.queue.leave(number)

    async def _attempt(
        self, number: int, recorder: SetRecorder, taken: Sequence[Job]
    ) -> Exception | None:
        """Have sets recorded; what went wrong, if something did."""
        left = {job.set_id: job for job in taken}
        error: Exception = DrawingFailed(f"{recorder.engine.name} ended too early")
        try:
            async with aclosing(recorder.record(taken[0].action, list(left))) as recording:
                async for made in recording:
                    job = left.pop(made.set_id)
                    await self.queue.done()
                    (self.outcome.drawn if made.drawn else self.outcome.found).append(job)
                    self.watch(Finished(number, job, made.drawn))
        except (EngineError, StoreError, FormatError) as caught:
            error = caught
        for job in left.values():
            if await self.queue.settle(job, number, error, alone=len(taken) == 1):
                self.give_up(Failure(job, str(error)))
            else:
                self.watch(PutBack(number, job, str(error)))
        return error if left else None

    def give_up(self, failure: Failure) -> None:
        """List a set as failed."""
        self.outcome.failed.append(failure)
        self.watch(failure)

    def say(self, number: int, text: str) -> None:
        """Let something be known of an engine."""
        self.watch(Said(number, text))


@dataclass
class _Throttle:
    """Spaces out what is begun."""

    per_minute: float | None
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    _next: float = 0.0

    async def wait(self, count: int) -> None:
        """Until the next `count` may begin."""
        now = self.now()
        at = max(now, self._next)
        self._next = at + (60 * count / self.per_minute if self.per_minute else 0.0)
        if at > now:
            await self.sleep(at - now)
