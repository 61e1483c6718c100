"""Whatever is asked of the jobs at once, in whatever order: each has one end, and its own."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter, defaultdict
from contextlib import suppress

import pytest
import sqlalchemy as sa

from generator.jobs.database import open_database
from generator.jobs.model import ENDED, JOB_MOVES, JobStatus, Problem, status_of
from generator.jobs.schema import items, jobs, refusals
from generator.jobs.store import (
    Claimed,
    JobEvent,
    JobStore,
    NewItem,
    NewJob,
    NotCancellable,
    NothingToRetry,
)

CANCELS = 1_000
JOBS = 500
SEEDS = (1, 2)
ENGINES = ("gpu", "other")
Held = tuple[Claimed, str]
"""What an engine works on, and its name."""

SORTS = ({"queued", "running"}, {"ready"}, {"failed"})


def new(chance: random.Random, owner: str) -> NewJob:
    pieces = [NewItem(seed, {}) for seed in range(chance.randint(1, 3))]
    return NewJob(str(uuid.uuid4()), "draw", owner, pieces, priority=chance.choice([1, 5, 9]))


def walked_through(events: list[JobEvent]) -> dict[str, list[JobStatus]]:
    """What each job was, one after the other, by what was told of it."""
    became: dict[str, JobStatus] = {
        "job.queued": "queued",
        "job.started": "processing",
        "job.completed": "completed",
        "job.failed": "failed",
        "job.cancelled": "cancelled",
    }
    found: dict[str, list[JobStatus]] = defaultdict(list)
    for event in events:
        if event.type in became:
            found[event.job].append(became[event.type])
    return found


async def end_somehow(
    store: JobStore, chance: random.Random, claimed: Claimed
) -> tuple[bool, Claimed | None]:
    """Say what became of an item: whether it was still ours, and what was taken on with that."""
    wanted = chance.random()
    if wanted < 0.4:
        return await store.ready_and_claim(claimed, "gpu", 2.0, seconds=1.0, cost=0.0, lease=60)
    if wanted < 0.8:
        return await store.ready(claimed, 2.0, seconds=1.0, cost=0.0), None
    if wanted < 0.9:
        return await store.failed(claimed, Problem("failed", "broke"), 2.0), None
    return await store.put_back(claimed, None, 2.0), None


async def test_a_thousand_cancels_against_finishing_jobs_touch_no_other(url: sa.URL) -> None:
    chance = random.Random(7)
    async with (
        open_database(url) as database,
        open_database(url) as another,
    ):
        here, there = JobStore(database, "here"), JobStore(another, "there")
        accepted = await asyncio.gather(
            *(here.accept(new(chance, chance.choice(["ada", "ben"])), 0.0) for _ in range(JOBS))
        )
        doomed = set(chance.sample([job.id for job, _ in accepted], JOBS // 2))
        cancelled: set[str] = set()
        over = asyncio.Event()

        async def work(store: JobStore) -> None:
            claimed = None
            while not over.is_set():
                claimed = claimed or await store.claim("gpu", 1.0, lease=60)
                if claimed is None:
                    return
                kept, following = await end_somehow(store, chance, claimed)
                assert kept or claimed.job in doomed, "a cancel touched another job"
                claimed = following

        async def cancel(store: JobStore, some: list[str]) -> None:
            for job in some:
                try:
                    called_off = await store.cancel(job, 2.0)
                except NotCancellable:
                    continue
                assert (called_off.id, called_off.status) == (job, "cancelled")
                cancelled.add(job)

        # Each is cancelled again and again, from two Studios: CANCELS in all.
        order = [*doomed] * (CANCELS // len(doomed))
        chance.shuffle(order)
        async with asyncio.timeout(300):
            await asyncio.gather(
                *(work(store) for store in (here, there) for _ in range(8)),
                *(
                    cancel(store, order[part::16])
                    for store, parts in ((here, range(0, 16, 2)), (there, range(1, 16, 2)))
                    for part in parts
                ),
            )
        assert len(cancelled) > JOBS // 20
        found = await here.find(limit=JOBS)
        assert len(found) == JOBS
        for job in found:
            became = [item.status for item in job.items]
            assert job.status == status_of(became, begun=True, cancelled=job.id in cancelled)
            assert (job.status == "cancelled") == (job.id in cancelled)
            assert ("cancelled" in became) <= (job.id in doomed)
            assert job.status in ENDED
        told = walked_through(await there.events_after(0, limit=10**6))
        for steps in told.values():
            assert steps[0] == "queued"
            assert sum(step in ENDED for step in steps) == 1
            assert steps[-1] in ENDED
            for before, after in itertools.pairwise(steps):
                assert after in JOB_MOVES[before]


async def do_something(
    store: JobStore, chance: random.Random, now: float, job: str, held: list[Held]
) -> None:
    match chance.randrange(8):
        case 0 | 1 | 2:
            engine = chance.choice(ENGINES)
            claimed = await store.claim(engine, now, lease=chance.choice([1.0, 50.0]))
            held += [(claimed, engine)] if claimed is not None else []
        case 3 | 4 if held:
            await come_to_an_end(store, chance, now, held.pop(chance.randrange(len(held))), held)
        case 5:
            with suppress(NotCancellable):
                await store.cancel(job, now)
        case 6:
            with suppress(NothingToRetry):
                await store.retry(job, now)
        case _:
            await store.take_over(now, others=chance.random() < 0.8)


async def come_to_an_end(
    store: JobStore, chance: random.Random, now: float, one: Held, held: list[Held]
) -> None:
    claimed, engine = one
    match chance.randrange(5):
        case 0:
            await store.failed(claimed, Problem("failed", "broke"), now)
        case 1:
            await store.put_back(claimed, None, now, counts=True)
        case 2:
            await store.put_back(claimed, None, now, refused_by=engine)
        case 3:
            _, following = await store.ready_and_claim(
                claimed, engine, now, seconds=1.0, cost=None, lease=chance.choice([1.0, 50.0])
            )
            held += [(following, engine)] if following is not None else []
        case _:
            await store.ready(claimed, now, seconds=1.0, cost=0.0)


async def miscounted(store: JobStore) -> list[object]:
    """What the jobs and items say of how many there are of each sort, where that is not so."""
    of_jobs = sa.select(jobs.c.number, jobs.c.unsettled, jobs.c.done, jobs.c.failed)
    of_items = sa.select(items.c.job, items.c.n, items.c.status, items.c.refused)

    def look(connection: sa.Connection) -> list[object]:
        refused = Counter(
            (job, n) for job, n in connection.execute(sa.select(refusals.c.job, refusals.c.n))
        )
        became: dict[int, list[str]] = defaultdict(list)
        wrong: list[object] = []
        for job, n, status, count in connection.execute(of_items):
            became[job].append(status)
            wrong += [(job, n)] if count != refused[job, n] else []
        for job, *said in connection.execute(of_jobs):
            counted = [sum(each in sort for each in became[job]) for sort in SORTS]
            wrong += [job] if said != counted else []
        return wrong

    return await store.database.read(look)


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_a_job_is_follows_from_its_items_after_whatever_was_done(
    url: sa.URL, seed: int
) -> None:
    chance = random.Random(seed)
    async with open_database(url) as database:
        store = JobStore(database, "here")
        asked = [(await store.accept(new(chance, "ada"), 0.0))[0].id for _ in range(6)]
        held: list[Held] = []
        told: list[JobEvent] = []
        for step in range(250):
            await do_something(store, chance, float(step), chance.choice(asked), held)
            told += await store.events_after(told[-1].id if told else 0, limit=10**6)
            walked = walked_through(told)
            for found in await store.find():
                became = [item.status for item in found.items]
                steps = walked[found.id]
                assert found.status == steps[-1]
                assert found.status == status_of(
                    became, begun=steps[-1] == "processing", cancelled=steps[-1] == "cancelled"
                )
                assert not ("running" in became and found.status != "processing")
            if step % 10 == 0:  # a wrong count stays wrong
                assert await miscounted(store) == []
        assert [event.id for event in await store.events_after(0, limit=10**6)] == [
            event.id for event in told
        ]
        for steps in walked_through(told).values():
            for before, after in itertools.pairwise(steps):
                assert after in JOB_MOVES[before]
