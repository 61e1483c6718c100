"""When everything will be done, foretold through the real queue."""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from generator.jobs.choice import items_in_order
from generator.jobs.database import Database, open_database
from generator.jobs.drawing import DrawWork
from generator.jobs.eta import WorkSize
from generator.jobs.held import held_by
from generator.jobs.model import Job, Problem
from generator.jobs.outlook import FORETOLD, Prospect, QueueOutlook, queue_state, sizes_of
from generator.jobs.paces import Paces, remembered_paces
from generator.jobs.scheduler import Done, OnStep, Scheduler
from generator.jobs.store import Claimed, JobStore, NewItem, NewJob
from generator.sheet.recipe import PipelineKind, Recipe
from server.core.clock import VirtualClock

RECIPE = Recipe(model="sdxl", prompt="a lamp", steps=20, width=64, height=32)
SIZE = WorkSize.of(RECIPE)


@dataclass(eq=False)
class TimedPlace:
    """Takes a while by a clock, a little more or less each time."""

    name: str
    clock: VirtualClock
    paces: Paces
    seconds: float = 10.0
    drawn: int = 0
    asleep: bool = False

    async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
        recipe = DrawWork.model_validate(claimed.work).recipe
        self.drawn += 1
        took = self.seconds * (1.0 + 0.1 * ((7 * self.drawn) % 5 - 2))
        took *= recipe.steps / RECIPE.steps
        for step in range(1, 5):
            self.asleep = True
            await self.clock.sleep(took / 4)
            self.asleep = False
            on_step(step, 4)
        self.paces.learn(self.name, WorkSize.of(recipe), took)
        return Done(took)


async def ask(
    store: JobStore, count: int = 1, owner: str = "ada", recipe: Recipe = RECIPE, at: float = 0.0
) -> Job:
    work = [NewItem(n, DrawWork(recipe=recipe.with_seed(n)).document()) for n in range(count)]
    new = NewJob(id=str(uuid.uuid4()), kind="draw", owner=owner, items=work)
    return (await store.accept(new, at))[0]


async def never(_seconds: float) -> None:
    """Leases are none of this."""
    await asyncio.Event().wait()


@dataclass(eq=False)
class ForetoldStudio:
    """A queue that is worked off in a time of its own."""

    clock: VirtualClock
    places: Sequence[TimedPlace]
    scheduler: Scheduler
    outlook: QueueOutlook

    async def until(self, reached: Callable[[], bool]) -> None:
        """Let time pass from one event to the next, whenever everybody is at work."""
        async with asyncio.timeout(60):
            while not reached():
                await asyncio.sleep(0.001)
                if await self.all_are_at_work():
                    self.clock.wake_next()

    async def all_are_at_work(self) -> bool:
        """Whether nothing happens before more time has passed."""
        busy = [slot.engine for slot in self.scheduler.slots if slot.working_on is not None]
        if not all(place.asleep for place in self.places if place.name in busy):
            return False
        if len(busy) == len(self.places):
            return True
        self.scheduler.wake()
        read = self.outlook.store.database.read
        queue = await read(lambda connection: queue_state(connection, "here", 0.0))
        held = await read(lambda connection: held_by(connection, "here"))
        return not queue.lines and len(held) == len(busy) > 0


@asynccontextmanager
async def studio(
    url: sa.URL,
    make: Callable[[VirtualClock, Paces], Sequence[TimedPlace]],
) -> AsyncIterator[ForetoldStudio]:
    clock, paces = VirtualClock(), Paces()
    places = make(clock, paces)
    async with open_database(url) as database:
        store = JobStore(database, "here")
        scheduler = Scheduler(store, places, now=clock.now, wall=clock.wall, sleep=never)
        outlook = QueueOutlook(store, scheduler, paces, now=clock.now, wall=clock.wall)
        task = asyncio.create_task(scheduler.run())
        try:
            yield ForetoldStudio(clock, places, scheduler, outlook)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.pace
async def test_after_a_quarter_the_end_of_forty_jobs_is_foretold(url: sa.URL) -> None:
    ended: dict[str, float] = {}

    def two(clock: VirtualClock, paces: Paces) -> list[TimedPlace]:
        return [TimedPlace("fast", clock, paces, 6.0), TimedPlace("slow", clock, paces, 15.0)]

    async with studio(url, two) as here:
        store = here.outlook.store
        jobs = [await ask(store, 1 + n % 3, at=float(n)) for n in range(40)]
        assert {each.eta_seconds for each in (await here.outlook.look()).values()} == {None}

        def done() -> int:
            return len(ended)

        async def watch() -> None:
            last = 0
            while True:
                for event in await store.events_after(last):
                    last = event.id
                    if event.type == "job.completed":
                        ended[event.job] = event.at
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        try:
            await here.until(lambda: done() >= 10)
            foretold = dict(await here.outlook.look())
            at = here.clock.wall()
            await here.until(lambda: done() == 40)
        finally:
            watching.cancel()
        left = {job: ended[job] - at for job in foretold if ended[job] > at}
        assert len(left) >= 25
        errors = []
        for job, really in left.items():
            said = foretold[job].eta_seconds
            assert said is not None
            errors.append(abs(said - really) / really)
        last = max(left, key=lambda job: left[job])
        assert abs((foretold[last].eta_seconds or 0.0) - left[last]) <= 0.2 * left[last]
        assert statistics.median(errors) <= 0.2
        assert {job.id for job in jobs} >= set(foretold)


@pytest.fixture
def idle() -> Callable[[Database, Paces], QueueOutlook]:
    """An outlook on a queue that nobody works off."""

    def make(database: Database, paces: Paces) -> QueueOutlook:
        store = JobStore(database, "here")
        clock = VirtualClock()
        places = [TimedPlace("gpu", clock, paces)]
        scheduler = Scheduler(store, places, now=clock.now, wall=clock.wall)
        return QueueOutlook(store, scheduler, paces, now=clock.now, wall=clock.wall)

    return make


def known() -> Paces:
    paces = Paces()
    paces.learn("gpu", SIZE, 10.0)
    return paces


Idle = Callable[[Database, Paces], QueueOutlook]


async def test_places_are_told_as_they_will_be_served(url: sa.URL, idle: Idle) -> None:
    async with open_database(url) as database:
        outlook = idle(database, known())
        many = await ask(outlook.store, 3, "ada", at=1.0)
        more = await ask(outlook.store, 1, "ada", at=2.0)
        one = await ask(outlook.store, 1, "ben", at=3.0)
        assert await outlook.look() == {
            many.id: Prospect(1, 40.0),  # one of Ben's comes in between
            one.id: Prospect(2, 20.0),
            more.id: Prospect(3, 50.0),
        }


async def test_paused_it_will_not_be_done(url: sa.URL, idle: Idle) -> None:
    async with open_database(url) as database:
        outlook = idle(database, known())
        job = await ask(outlook.store)
        await outlook.scheduler.pause(Problem("by_hand", "later"))
        assert await outlook.look() == {job.id: Prospect(1, None)}


async def test_other_studios_take_part(url: sa.URL, idle: Idle) -> None:
    paces = known()
    paces.learn("far", SIZE, 4.0)
    async with open_database(url) as database:
        outlook = idle(database, paces)
        job, wall = await ask(outlook.store, 3), outlook.wall()
        there = JobStore(database, "there")
        assert await there.claim("far", wall - 1.0, lease=30.0) is not None
        # Far is done in 3 s and again in 7 s, and here it takes 10 s.
        assert await outlook.look() == {job.id: Prospect(0, 10.0)}


async def test_an_engine_that_is_away_is_not_counted_on(url: sa.URL, idle: Idle) -> None:
    async with open_database(url) as database:
        outlook = idle(database, known())
        job = await ask(outlook.store)
        outlook.scheduler.slots[0].rests = Problem("unavailable", "gone")
        assert await outlook.look() == {job.id: Prospect(1, None)}


async def test_hundreds_who_ask_at_once_are_answered_by_one_look(
    url: sa.URL, idle: Idle, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    read = Database.read

    async def counted(database: Database, operation: Callable[[sa.Connection], object]) -> object:
        nonlocal looks
        looks += 1
        return await read(database, operation)

    monkeypatch.setattr(Database, "read", counted)
    monkeypatch.setattr(Database, "is_shared", False)
    async with open_database(url) as database:
        paces = known()
        outlook = idle(database, paces)
        clock = outlook.scheduler.places[0].clock  # type: ignore[attr-defined] # a `TimedPlace`
        await ask(outlook.store)
        answers = await asyncio.gather(*(outlook.look() for _ in range(300)))
        assert looks == 1
        assert all(answer is answers[0] for answer in answers)
        await clock.advance(0.9)
        outlook.scheduler.wake()
        await outlook.look()
        assert looks == 1
        await clock.advance(0.2)
        await outlook.look()
        assert looks == 2
        await clock.advance(60.0)  # nothing happens, and nothing is worked on
        await outlook.look()
        assert looks == 2


async def test_far_back_only_the_place_is_told(url: sa.URL, idle: Idle) -> None:
    async with open_database(url) as database:
        outlook = idle(database, known())
        jobs = [await ask(outlook.store, 64, at=float(n)) for n in range(FORETOLD // 64 + 2)]
        found = await outlook.look()
        assert [found[job.id].position for job in jobs] == list(range(1, len(jobs) + 1))
        etas = [found[job.id].eta_seconds for job in jobs]
        assert etas[: FORETOLD // 64] == [640.0 * n for n in range(1, FORETOLD // 64 + 1)]
        assert etas[FORETOLD // 64 :] == [None, None]


async def test_only_what_decides_the_size_is_read(url: sa.URL) -> None:
    image = {"kind": PipelineKind.IMAGE_TO_IMAGE, "base_image": b"\xff" * 1000, "strength": 0.5}
    async with open_database(url) as database:
        store = JobStore(database, "here")
        plain, drawn = await ask(store, 2), await ask(store, recipe=RECIPE.model_copy(update=image))
        new = NewJob(id=str(uuid.uuid4()), kind="draw", owner="ada", items=[NewItem(0, {})])
        other = (await store.accept(new, 0.0))[0]

        def look(connection: sa.Connection) -> Mapping[str, WorkSize | None]:
            numbers = queue_state(connection, "here", 0.0).numbers
            sizes = sizes_of(connection, numbers.values())
            return {job: sizes[number] for job, number in numbers.items()}

        assert await database.read(look) == {
            plain.id: WorkSize("sdxl", 64, 32, 20),
            drawn.id: WorkSize("sdxl", 64, 32, 10),
            other.id: None,
        }


async def test_the_order_is_the_one_in_which_the_store_gives_them_out(url: sa.URL) -> None:
    async with open_database(url) as database:
        store = JobStore(database, "here")
        for n in range(12):
            await ask(store, 1 + n % 3, ("ada", "ben")[n % 5 == 0], at=float(n))
        first = await store.claim("gpu", 0.0, lease=30.0)
        assert first is not None
        queue = await database.read(lambda connection: queue_state(connection, "here", 0.0))
        for expected in items_in_order(queue.lines, queue.turns):
            claimed = await store.claim("gpu", 0.0, lease=30.0)
            assert claimed is not None
            assert claimed.job == expected


async def test_what_was_learnt_is_known_after_a_restart(url: sa.URL) -> None:
    async with open_database(url) as database:
        here, there = JobStore(database, "here"), JobStore(database, "there")
        async with remembered_paces(here, sleep=never) as paces:
            paces.learn("gpu", SIZE, 10.0)
        async with remembered_paces(there, sleep=never) as paces:
            paces.learn("gpu", SIZE, 30.0)
            paces.learn("far", SIZE, 5.0)
    async with (
        open_database(url) as database,
        remembered_paces(JobStore(database, "here"), sleep=never) as paces,
    ):
        assert paces.seconds("gpu", SIZE) == pytest.approx(10.0)
        assert paces.seconds("far", SIZE) == pytest.approx(5.0)


async def test_what_is_learnt_is_kept_every_while(url: sa.URL) -> None:
    rests: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def rest(_seconds: float) -> None:
        over = asyncio.Event()
        rests.put_nowait(over)
        await over.wait()

    async with open_database(url) as database:
        store = JobStore(database, "here")
        async with remembered_paces(store, sleep=rest) as paces, asyncio.timeout(20):
            first = await rests.get()
            paces.learn("gpu", SIZE, 10.0)
            first.set()
            await rests.get()  # it rests again once it has kept them
            assert await store.remembered("paces/here") == paces.document()
