"""The queue is worked off, whatever happens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from cache.stores.memory import MemoryStore
from cache.stores.port import StoreFull
from generator.engines.port import (
    DrawingFailed,
    EnginePreempted,
    EngineUnavailable,
    RecipeRefused,
    ScriptedEngine,
    StepImage,
)
from generator.jobs.database import open_database
from generator.jobs.drawing import DrawingPlace, DrawWork, take_store
from generator.jobs.model import ENDED, Job, Problem
from generator.jobs.scheduler import Done, Scheduler
from generator.jobs.schema import members, metadata
from generator.jobs.store import Claimed, JobStore, NewItem, NewJob
from generator.sheet.recipe import Recipe
from tests.helpers.pictures import picture

RECIPE = Recipe(model="none", prompt="a lamp", steps=2, width=160, height=96)


@dataclass(eq=False)
class ScriptedPlace:
    """Does what a list says, one after the other, then always well."""

    name: str = "gpu"
    script: list[Exception] = field(default_factory=list)
    pause: float = 0.0
    worked_on: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)

    async def work(self, claimed: Claimed) -> Done:
        self.worked_on.append((claimed.job, claimed.n))
        try:
            await asyncio.sleep(self.pause)
        finally:
            self.ended.append((claimed.job, claimed.n))
        if self.script:
            raise self.script.pop(0)
        return Done(1.0, 0.25)


@pytest.fixture
def url(tmp_path: Path) -> sa.URL:
    address = sa.URL.create("sqlite", database=str(tmp_path / "studio.sqlite"))
    engine = sa.create_engine(address)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(members),
            [{"id": n, "name": n, "role": "client", "created_at": 0.0} for n in ("ada", "ben")],
        )
    engine.dispose()
    return address


async def no_rest(_seconds: float) -> None:
    await asyncio.sleep(0.001)


@asynccontextmanager
async def working(
    url: sa.URL, places: Sequence[ScriptedPlace | DrawingPlace]
) -> AsyncIterator[Scheduler]:
    async with open_database(url) as database:
        scheduler = Scheduler(JobStore(database, "here"), places, sleep=no_rest)
        task = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def ask(scheduler: Scheduler, count: int = 1, owner: str = "ada") -> Job:
    work = [
        NewItem(seed, DrawWork(recipe=RECIPE.with_seed(seed)).document()) for seed in range(count)
    ]
    new = NewJob(id=str(uuid.uuid4()), kind="draw", owner=owner, items=work)
    job, _ = await scheduler.store.accept(new, 0.0)
    scheduler.wake()
    return job


async def over(scheduler: Scheduler, job: Job) -> Job:
    async with asyncio.timeout(10):
        while True:
            found = await scheduler.store.get(job.id)
            assert found is not None
            if found.status in ENDED:
                return found
            await asyncio.sleep(0.005)


async def test_everything_is_worked_on_once(url: sa.URL) -> None:
    places = [ScriptedPlace("one"), ScriptedPlace("two")]
    async with working(url, places) as scheduler:
        jobs = [await ask(scheduler, 3) for _ in range(10)]
        for job in jobs:
            done = await over(scheduler, job)
            assert (done.status, done.seconds, done.cost) == ("completed", 3.0, 0.75)
    did = [*places[0].worked_on, *places[1].worked_on]
    assert len(did) == len(set(did)) == 30


async def test_a_failure_is_tried_again_a_few_times(url: sa.URL) -> None:
    place = ScriptedPlace(script=[DrawingFailed("it broke off")] * 2)
    async with working(url, [place]) as scheduler:
        assert (await over(scheduler, await ask(scheduler))).status == "completed"
        assert len(place.worked_on) == 3
        place.script += [DrawingFailed("it broke off")] * 3
        failed = await over(scheduler, await ask(scheduler))
        assert failed.problem == Problem("failed", "it broke off")


async def test_an_engine_that_is_away_costs_a_picture_nothing(url: sa.URL) -> None:
    place = ScriptedPlace(script=[EngineUnavailable("gone")] * 20)
    async with working(url, [place]) as scheduler:
        assert (await over(scheduler, await ask(scheduler))).status == "completed"
    assert len(place.worked_on) == 21


async def test_what_the_show_needs_goes_first_and_is_not_counted(url: sa.URL) -> None:
    place = ScriptedPlace(script=[EnginePreempted("the show")] * 9)
    async with working(url, [place]) as scheduler:
        done = await over(scheduler, await ask(scheduler))
        assert (done.status, done.seconds) == ("completed", 1.0)


async def test_refused_by_all_is_refused(url: sa.URL) -> None:
    small = ScriptedPlace("small", [RecipeRefused("too large")])
    large = ScriptedPlace("large", [RecipeRefused("too small")])
    async with working(url, [small, large]) as scheduler:
        refused = await over(scheduler, await ask(scheduler))
        assert refused.problem is not None
        assert refused.problem.code == "refused"
    assert len(small.worked_on) == len(large.worked_on) == 1


async def test_called_off_it_stops_and_the_next_is_taken_on(url: sa.URL) -> None:
    place = ScriptedPlace(pause=30)
    async with working(url, [place]) as scheduler:
        doomed, other = await ask(scheduler), await ask(scheduler)
        while not place.worked_on:
            await asyncio.sleep(0.001)
        place.pause = 0.0
        await scheduler.store.cancel(doomed.id, 1.0)
        scheduler.stop_working_on(doomed.id)
        assert (await over(scheduler, other)).status == "completed"
        assert (await over(scheduler, doomed)).status == "cancelled"
        assert place.ended[0] == (doomed.id, 0)


async def test_stopped_cleanly_nothing_counts_as_a_crash(url: sa.URL) -> None:
    for _ in range(5):
        place = ScriptedPlace(pause=30)
        async with working(url, [place]) as scheduler:
            if not await scheduler.store.find():
                await ask(scheduler)
            while not place.worked_on:
                await asyncio.sleep(0.001)
    async with working(url, [ScriptedPlace()]) as scheduler:
        job = (await scheduler.store.find())[0]
        assert (await over(scheduler, job)).status == "completed"


async def test_a_full_disk_pauses_and_it_goes_on_by_itself(url: sa.URL) -> None:
    place = ScriptedPlace(script=[StoreFull("studio", "no room")])
    room = False

    async def has_room() -> bool:
        await asyncio.sleep(0)
        return room

    async with working(url, [place]) as scheduler:
        scheduler.has_room = has_room
        job = await ask(scheduler)
        while scheduler.paused is None:
            await asyncio.sleep(0.001)
        assert scheduler.paused.code == "disk_full"
        room = True
        assert (await over(scheduler, job)).status == "completed"
        assert scheduler.paused is None


async def test_a_pause_is_remembered(url: sa.URL) -> None:
    async with working(url, [ScriptedPlace()]) as scheduler:
        await scheduler.pause(Problem("by_hand", "Ada paused it"))
        job = await ask(scheduler)
    async with working(url, [ScriptedPlace()]) as scheduler:
        while scheduler.paused is None:
            await asyncio.sleep(0.001)
        assert scheduler.paused == Problem("by_hand", "Ada paused it")
        await asyncio.sleep(0.05)
        found = await scheduler.store.get(job.id)
        assert found is not None
        assert found.status == "queued"
        await scheduler.resume()
        assert (await over(scheduler, job)).status == "completed"


async def test_a_take_is_a_set_and_is_not_drawn_twice(url: sa.URL) -> None:
    images = [
        StepImage(n, 3, n == 3, None if n == 3 else 9.0, 0.1, picture(str(n))) for n in (1, 2, 3)
    ]
    engine, store = ScriptedEngine(images), MemoryStore()
    seen: list[int] = []
    place = DrawingPlace("gpu", engine, store, look=lambda _, image: seen.append(image.step))
    async with working(url, [place]) as scheduler:
        job = await over(scheduler, await ask(scheduler, 2))
        assert job.status == "completed"
        assert seen == [1, 2, 3] * 2
        for item in job.items:
            own = take_store(store, item.take)
            keys = sorted([entry.key async for entry in own.list("actions/")])
            assert [key.rsplit("/", 1)[1] for key in keys if "/sets/" in key] == [
                "1.jpg",
                "2.jpg",
                "final.jpg",
                "meta.json",
            ]
        claimed = Claimed(
            job.id,
            1,
            0,
            0,
            job.items[0].take,
            "ada",
            DrawWork(recipe=RECIPE.with_seed(0)).document(),
        )
        await place.work(claimed)
        assert len(engine.asked) == 2
