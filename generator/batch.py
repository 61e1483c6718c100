"""Draws what is missing: many sets with several engines, resumable at any moment.

What is whole stays: a batch that was stopped goes on where it was. One set that fails
stops nothing and is listed at the end with its reason.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cache.documents import FormatError
from cache.library import BrokenSet, Library
from cache.store import Store, StoreError, StoreUnavailable
from generator.engine import Engine, EngineError, EngineUnavailable, RecipeRefused
from generator.plan import Action
from generator.recorder import Recorder

TRIES = 3
"""How often a set is tried before it is listed as failed."""

MISSES = 3
"""How often in a row an engine or the store may be missing before an engine is given up."""

REST = 0.5
"""Seconds an engine rests after the first miss; twice as long after each further one."""


@dataclass(frozen=True, slots=True)
class Job:
    """One set to be drawn."""

    action: Action
    set_id: int


@dataclass(frozen=True, slots=True)
class Holding:
    """What a store holds of one action.

    Attributes:
        action: whose sets.
        present: sets that are there and drawn from the action's recipe.
        stale: sets that are there and drawn from another.
        broken: sets that the manifest lists and that are not whole, with the reason.
    """

    action: Action
    present: tuple[int, ...]
    stale: tuple[int, ...] = ()
    broken: tuple[tuple[int, str], ...] = ()

    def missing(self, wanted: int) -> tuple[int, ...]:
        """Numbers of the sets to draw so that there are `wanted` from 0 on."""
        return tuple(number for number in range(wanted) if number not in self.present)


@dataclass(frozen=True, slots=True)
class Failure:
    """A set that could not be drawn, and why."""

    job: Job
    reason: str


@dataclass
class Outcome:
    """What a batch has done."""

    drawn: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


async def take_stock(library: Library, actions: Iterable[Action]) -> list[Holding]:
    """Look at what a store holds of each action: every set's meta, not its images.

    Raises:
        StoreError: the store could not be read.
    """
    holdings: list[Holding] = []
    for action in actions:
        present: list[int] = []
        stale: list[int] = []
        broken: list[tuple[int, str]] = []
        for set_id in library.set_ids(action.action_id):
            try:
                found = await library.open_set(action.action_id, set_id)
            except BrokenSet as error:
                broken.append((set_id, error.reason))
                continue
            fingerprint = found.meta.fingerprint
            fits = fingerprint is None or fingerprint == action.fingerprint
            (present if fits else stale).append(set_id)
        holdings.append(Holding(action, tuple(present), tuple(stale), tuple(broken)))
    return holdings


def jobs_for(holdings: Sequence[Holding], wanted: int) -> list[Job]:
    """The sets to draw so that each action has `wanted`, in an order that helps soonest.

    First one set for each cue, then the second for each: a batch that is cut short has
    something for every cue.
    """
    jobs = [Job(h.action, set_id) for h in holdings for set_id in h.missing(wanted)]
    return sorted(jobs, key=lambda job: (job.set_id, job.action.at))


class _Board:
    """The jobs of a batch: who may take which, and how often each was tried.

    Engines are known by their place in the list: a remote one's name changes once it has
    said what it is.
    """

    def __init__(self, jobs: Sequence[Job], engines: int) -> None:
        self._waiting = deque(jobs)
        self._here = set(range(engines))
        self._tries: Counter[Job] = Counter()
        self._failed_at: dict[Job, set[int]] = defaultdict(set)
        self._refused_by: dict[Job, set[int]] = defaultdict(set)
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def take(self, engine: int) -> Job | None:
        """The next job for `engine`; None once there will be none."""
        async with self._changed:
            while True:
                for job in self._waiting:
                    if self._may_take(job, engine):
                        self._waiting.remove(job)
                        self._in_flight += 1
                        return job
                if not self._in_flight:
                    return None
                # What another is drawing may yet come back.
                await self._changed.wait()

    async def settle(self, job: Job, engine: int, error: Exception | None) -> bool:
        """What was taken has been tried; whether that was the last word on it."""
        async with self._changed:
            self._in_flight -= 1
            self._tries[job] += 1
            over = True
            if isinstance(error, RecipeRefused):
                self._refused_by[job].add(engine)
                over = self._here <= self._refused_by[job]
            elif isinstance(error, (EngineError, StoreUnavailable)):
                self._failed_at[job].add(engine)
                over = self._tries[job] >= TRIES
            if not over:
                self._waiting.append(job)
            self._changed.notify_all()
            return over

    async def leave(self, engine: int) -> None:
        """An engine takes no more."""
        async with self._changed:
            self._here.discard(engine)
            self._changed.notify_all()

    def left(self) -> list[Job]:
        """What nobody took."""
        return list(self._waiting)

    def _may_take(self, job: Job, engine: int) -> bool:
        """Not what it refused; and what failed with it is rather tried by another."""
        if engine in self._refused_by[job]:
            return False
        others = self._here - self._failed_at[job] - self._refused_by[job]
        return engine not in self._failed_at[job] or not others


Progress = Callable[[Job, "Failure | None"], None]


async def run_batch(
    jobs: Sequence[Job],
    engines: Sequence[Engine],
    store: Store,
    progress: Progress = lambda _job, _failure: None,
    *,
    per_minute: float | None = None,
) -> Outcome:
    """Draw `jobs`, each engine one at a time.

    A drawing that fails is tried again, later and rather elsewhere; what one engine refuses
    is offered to the others. An engine that is not there is waited for a little longer each
    time, and given up after a few: its jobs go to the others.

    Args:
        jobs: what to draw, in order.
        engines: what draws; each works through the jobs beside the others.
        store: where sets go.
        progress: told of each job that is done, and why it failed where it did.
        per_minute: at most so many drawings are begun in a minute; None for no limit.
    """
    board, pace, outcome = _Board(jobs, len(engines)), _Pace(per_minute), Outcome()
    last_words: list[str] = []

    def tell(job: Job, error: Exception | None) -> None:
        failure = None if error is None else Failure(job, str(error))
        if failure is None:
            outcome.drawn.append(job)
        else:
            outcome.failed.append(failure)
        progress(job, failure)

    async def work(number: int, engine: Engine) -> None:
        recorder, misses = Recorder(engine, store), 0
        while (job := await board.take(number)) is not None:
            await pace.wait()
            error = await _try(recorder, job)
            if await board.settle(job, number, error):
                tell(job, error)
            missing = isinstance(error, (EngineUnavailable, StoreUnavailable))
            misses = misses + 1 if missing else 0
            if misses >= MISSES:
                last_words.append(f"{engine.name}: {error}")
                break
            if missing:
                await asyncio.sleep(REST * 2 ** (misses - 1))
        await board.leave(number)

    async with asyncio.TaskGroup() as group:
        for number, engine in enumerate(engines):
            group.create_task(work(number, engine), name=f"batch {engine.name}")
    for job in board.left():
        reason = "; ".join(last_words) or "no engine would draw it"
        tell(job, EngineUnavailable(f"no engine is left: {reason}"))
    return outcome


async def _try(recorder: Recorder, job: Job) -> Exception | None:
    """Draw one set; what went wrong, if something did."""
    try:
        await recorder.record(job.action, job.set_id)
    except (EngineError, StoreError, FormatError) as error:
        return error
    return None


class _Pace:
    """Spaces out what is begun."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Until the next may begin."""
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._interval
        if at > now:
            await asyncio.sleep(at - now)
