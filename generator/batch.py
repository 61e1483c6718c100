"""Draws what is missing: many sets with several engines, resumable at any moment.

What is whole stays: a batch that was stopped goes on where it was. One set that fails
stops nothing and is listed at the end with its reason.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cache.documents import FormatError
from cache.library import BrokenSet, Library
from cache.store import Store, StoreError
from generator.engine import Engine, EngineError
from generator.plan import Action
from generator.recorder import Recorder


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


async def run_batch(
    jobs: Sequence[Job],
    engines: Sequence[Engine],
    store: Store,
    progress: Callable[[Job, Failure | None], None] = lambda _job, _failure: None,
) -> Outcome:
    """Draw `jobs`, each engine one at a time.

    Args:
        jobs: what to draw, in order.
        engines: what draws; each works through the jobs beside the others.
        store: where sets go.
        progress: told of each job that is done, and why it failed where it did.
    """
    waiting, outcome = deque(jobs), Outcome()

    async def work(engine: Engine) -> None:
        recorder = Recorder(engine, store)
        while waiting:
            job = waiting.popleft()
            failure = None
            try:
                await recorder.record(job.action, job.set_id)
                outcome.drawn.append(job)
            except (EngineError, StoreError, FormatError) as error:
                failure = Failure(job, str(error))
                outcome.failed.append(failure)
            progress(job, failure)

    async with asyncio.TaskGroup() as group:
        for engine in engines:
            group.create_task(work(engine), name=f"batch {engine.name}")
    return outcome
