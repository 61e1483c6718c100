"""The queue is worked off, whatever happens."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from cache.stores.memory import MemoryStore
from cache.stores.port import StoreFull, StoreUnavailable
from generator.engines.port import (
    DrawingFailed,
    EnginePreempted,
    EngineUnavailable,
    RecipeRefused,
    ScriptedEngine,
)
from generator.jobs.database import Database, DatabaseUnavailable, open_database
from generator.jobs.drawing import DrawingPlace, DrawWork
from generator.jobs.migrations import upgrade
from generator.jobs.model import ENDED, Job, Problem
from generator.jobs.room import room_on_disks
from generator.jobs.scheduler import Done, OnStep, Scheduler, Workplace
from generator.jobs.schema import jobs, members
from generator.jobs.store import Claimed, JobStore, NewItem, NewJob
from generator.sheet.recipe import Recipe
from tests.helpers.drawing_studio import scripted_images
from tests.helpers.postgres import PostgresServer

RECIPE = Recipe(model="none", prompt="a lamp", steps=2, width=160, height=96)
BY_HAND = Problem("by_hand", "we look at what is there first")


@dataclass(eq=False)
class ScriptedPlace:
    """Does what a list says, one after the other, then always well."""

    name: str = "gpu"
    script: list[Exception] = field(default_factory=list)
    pause: float = 0.0
    steps: int = 0
    worked_on: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)

    async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
        self.worked_on.append((claimed.job, claimed.n))
        try:
            if self.steps:
                on_step(self.steps, 4)
            await asyncio.sleep(self.pause)
        finally:
            self.ended.append((claimed.job, claimed.n))
        if self.script:
            raise self.script.pop(0)
        return Done(1.0, 0.25)


@pytest.fixture
def url(tmp_path: Path) -> sa.URL:
    address = sa.URL.create("sqlite", database=str(tmp_path / "studio.sqlite"))
    prepare(address)
    return address


@pytest.fixture
def shared_url(postgres_server: PostgresServer) -> Iterator[sa.URL]:
    engine = sa.create_engine(postgres_server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE shared_queue"))
    address = postgres_server.url.set(database="shared_queue")
    prepare(address)
    yield address
    engine.dispose()  # the server may have been down meanwhile
    with engine.connect() as connection:
        connection.execute(sa.text("DROP DATABASE shared_queue WITH (FORCE)"))
    engine.dispose()


def prepare(address: sa.URL) -> None:
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        upgrade(connection)
        connection.execute(
            sa.insert(members),
            [{"id": n, "name": n, "role": "client", "created_at": 0.0} for n in ("ada", "ben")],
        )
    engine.dispose()


async def no_rest(_seconds: float) -> None:
    await asyncio.sleep(0.001)


@asynccontextmanager
async def working(
    url: sa.URL,
    places: Sequence[Workplace],
    *,
    name: str = "here",
    store: Callable[[Database, str], JobStore] = JobStore,
    wall: Callable[[], float] = lambda: 1_700_000_000.0,
    lease: float = 30.0,
    now: Callable[[], float] | None = None,
) -> AsyncIterator[Scheduler]:
    async with open_database(url) as database:
        scheduler = Scheduler(store(database, name), places, sleep=no_rest, wall=wall, lease=lease)
        if now is not None:
            scheduler.now = now
        task = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def ask(
    scheduler: Scheduler, count: int = 1, owner: str = "ada", recipe: Recipe = RECIPE
) -> Job:
    work = [
        NewItem(seed, DrawWork(recipe=recipe.with_seed(seed)).document()) for seed in range(count)
    ]
    new = NewJob(id=str(uuid.uuid4()), kind="draw", owner=owner, items=work)
    job, _ = await scheduler.store.accept(new, 0.0)
    scheduler.wake()
    return job


async def over(scheduler: Scheduler, job: Job) -> Job:
    return await until(lambda: _ended(scheduler, job))


async def _ended(scheduler: Scheduler, job: Job) -> Job | None:
    found = await scheduler.store.get(job.id)
    assert found is not None
    return found if found.status in ENDED else None


Found = TypeVar("Found")


async def until(look: Callable[[], Awaitable[Found | None]]) -> Found:
    async with asyncio.timeout(20):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.002)


async def happens(what: Callable[[], object]) -> None:
    async def look() -> bool:
        return bool(what())

    await until(look)


async def until_equal(what: Callable[[], int], wanted: int) -> None:
    await happens(lambda: what() == wanted)


async def crashes(scheduler: Scheduler, job: Job) -> int:
    query = sa.select(jobs.c.crashes).where(jobs.c.id == job.id)
    return int(await scheduler.store.database.read(lambda c: c.scalar(query)) or 0)


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
        await happens(lambda: place.worked_on)
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
            await until_equal(partial(len, place.worked_on), 1)
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
        await happens(lambda: scheduler.paused)
        assert scheduler.paused is not None
        assert scheduler.paused.code == "disk_full"
        await asyncio.sleep(0.05)
        assert not place.worked_on
        room = True
        assert (await over(scheduler, job)).status == "completed"
        assert scheduler.paused is None


async def test_a_full_bucket_is_tried_again_after_a_while(url: sa.URL) -> None:
    seconds = 0.0
    place = ScriptedPlace(script=[StoreFull("studio", "no room")] * 3)
    async with working(url, [place], now=lambda: seconds) as scheduler:
        job = await ask(scheduler)
        for tried in range(3):
            await happens(lambda: scheduler.paused)
            await asyncio.sleep(0.05)
            assert len(place.worked_on) == tried + 1
            seconds += 30.0
            scheduler.wake()
            await until_equal(lambda: len(place.worked_on), tried + 2)
        done = await over(scheduler, job)
        assert (done.status, scheduler.paused) == ("completed", None)


async def test_a_pause_is_remembered_with_who_made_it(url: sa.URL) -> None:
    async with working(url, [ScriptedPlace()]) as scheduler:
        await scheduler.pause(BY_HAND, "Ada")
        job = await ask(scheduler)
    async with working(url, [ScriptedPlace()]) as scheduler:
        await happens(lambda: scheduler.paused)
        pause = scheduler.paused
        assert pause is not None
        assert (pause.code, pause.message) == (BY_HAND.code, BY_HAND.message)
        assert (pause.by, pause.since) == ("Ada", 1_700_000_000.0)
        await asyncio.sleep(0.05)
        found = await scheduler.store.get(job.id)
        assert found is not None
        assert found.status == "queued"
        await scheduler.resume()
        assert (await over(scheduler, job)).status == "completed"
    async with working(url, [ScriptedPlace()]) as scheduler:
        assert (await over(scheduler, await ask(scheduler))).status == "completed"


def test_no_two_places_have_one_name(url: sa.URL) -> None:
    async def attempt() -> None:
        async with open_database(url) as database:
            Scheduler(JobStore(database, "here"), [ScriptedPlace("a"), ScriptedPlace("a")])

    with pytest.raises(ValueError, match="different names"):
        asyncio.run(attempt())


async def test_an_idle_engine_takes_on_what_another_could_not(url: sa.URL) -> None:
    for error in (RecipeRefused("too large"), EngineUnavailable("gone"), EnginePreempted("show")):
        away = ScriptedPlace("away", [error] * 1000)
        idle = ScriptedPlace("idle")
        async with working(url, [away, idle]) as scheduler:
            made = [await over(scheduler, await ask(scheduler)) for _ in range(10)]
            assert {job.status for job in made} == {"completed"}
            assert {job.items[0].engine for job in made} == {"idle"}


async def test_what_engines_of_old_refused_is_not_counted(url: sa.URL) -> None:
    old = [ScriptedPlace(name, [RecipeRefused("no")]) for name in ("old", "older")]
    new = ScriptedPlace("new", [RecipeRefused("no")])
    other = ScriptedPlace("other", pause=30)
    async with working(url, [*old, other]) as scheduler:
        await ask(scheduler)
        await happens(lambda: other.worked_on)
        job = await ask(scheduler)
        await happens(lambda: old[0].worked_on and old[1].worked_on)
    async with working(url, [new, ScriptedPlace("newer")]) as scheduler:
        assert (await over(scheduler, job)).status == "completed"


async def test_an_error_of_the_program_fails_the_item_and_ends_nothing(url: sa.URL) -> None:
    place = ScriptedPlace(script=[KeyError("what")] * 3)
    with capture_logs() as logs:
        async with working(url, [place]) as scheduler:
            failed = await over(scheduler, await ask(scheduler))
            assert failed.problem is not None
            assert failed.problem.code == "internal"
            assert (await over(scheduler, await ask(scheduler))).status == "completed"
    broke = [line for line in logs if line["event"] == "item_broke"]
    assert len(broke) == 3
    assert all(isinstance(line["exc_info"], KeyError) for line in broke)


async def test_a_cancellation_that_nobody_asked_for_is_a_failure(url: sa.URL) -> None:
    class Cancelling(ScriptedPlace):
        async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
            await super().work(claimed, on_step)
            raise asyncio.CancelledError

    place = Cancelling()
    async with working(url, [place]) as scheduler:
        failed = await over(scheduler, await ask(scheduler))
        assert (failed.status, len(place.worked_on)) == ("failed", 3)


async def test_a_store_that_is_away_costs_a_picture_nothing(url: sa.URL) -> None:
    away = StoreUnavailable("studio", "no answer")
    place = ScriptedPlace(script=[away] * 8)
    async with working(url, [place]) as scheduler:
        assert (await over(scheduler, await ask(scheduler))).status == "completed"
    assert len(place.worked_on) == 9


async def test_a_slot_says_why_it_rests_and_the_item_why_it_waits(url: sa.URL) -> None:
    gone = EngineUnavailable("nothing answers at 10.0.0.7")
    async with open_database(url) as database:
        resting = asyncio.Event()

        async def sleep(seconds: float) -> None:
            if seconds < 10:
                resting.set()
            await asyncio.sleep(3600)

        scheduler = Scheduler(
            JobStore(database, "here"), [ScriptedPlace(script=[gone])], sleep=sleep
        )
        job = await ask(scheduler)
        task = asyncio.create_task(scheduler.run())
        async with asyncio.timeout(20):
            await resting.wait()
        why = Problem("unavailable", "nothing answers at 10.0.0.7")
        assert scheduler.slots[0].rests == why
        found = await scheduler.store.get(job.id)
        assert found is not None
        assert (found.items[0].status, found.items[0].problem) == ("queued", why)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class UnreliableStore(JobStore):
    """Fails now and then: before a write, or after it, when only the answer is lost."""

    chances = random.Random(7)

    async def claim(self, *args: object, **named: object) -> Claimed | None:
        return await self._perhaps(super().claim(*args, **named))  # type: ignore[arg-type] # passed on as they came

    async def ready(self, *args: object, **named: object) -> bool:
        return await self._perhaps(super().ready(*args, **named))  # type: ignore[arg-type] # passed on as they came

    async def ready_and_claim(self, *args: object, **named: object) -> tuple[bool, Claimed | None]:
        return await self._perhaps(super().ready_and_claim(*args, **named))  # type: ignore[arg-type] # passed on as they came

    async def put_back(self, *args: object, **named: object) -> bool:
        return await self._perhaps(super().put_back(*args, **named))  # type: ignore[arg-type] # passed on as they came

    async def _perhaps(self, write: Awaitable[Found]) -> Found:
        before, after = self.chances.random() < 0.2, self.chances.random() < 0.2
        if before:
            write.close()  # type: ignore[attr-defined] # a coroutine, as all of them are
            raise DatabaseUnavailable("it is away")
        found = await write
        if after:
            raise DatabaseUnavailable("the answer was lost")
        return found


async def test_with_an_unreliable_database_nothing_is_lost_or_told_twice(url: sa.URL) -> None:
    script: list[Exception] = [DrawingFailed("it broke off"), EngineUnavailable("gone")]
    places = [ScriptedPlace("one", [*script]), ScriptedPlace("two", [*script])]
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    async with working(url, places, store=UnreliableStore, lease=0.1) as scheduler:
        scheduler.on_change = changed
        asked = [await ask(scheduler, 4) for _ in range(5)]
        for job in asked:
            done = await over(scheduler, job)
            assert (done.status, done.seconds, await crashes(scheduler, job)) == (
                "completed",
                4.0,
                0,
            )
        told = await scheduler.store.events_after(0)
        ready = [(event.job, event.data["n"]) for event in told if event.type == "item.ready"]
        assert len(ready) == len(set(ready)) == 20
        assert changes >= 20


async def test_called_off_for_nothing_it_is_done_all_the_same(url: sa.URL) -> None:
    place = ScriptedPlace(pause=30)
    async with working(url, [place]) as scheduler:
        job = await ask(scheduler)
        await happens(lambda: place.worked_on)
        place.pause = 0.0
        scheduler.stop_working_on(job.id, [1])
        await asyncio.sleep(0.01)
        assert not place.ended
        scheduler.stop_working_on(job.id, [0])
        assert (await over(scheduler, job)).status == "completed"


async def test_asked_for_again_at_once_no_two_work_on_it(url: sa.URL) -> None:
    beside: list[str] = []
    together: list[list[str]] = []

    class Lingering(ScriptedPlace):
        async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
            together.append([*beside])
            beside.append(self.name)
            try:
                return await super().work(claimed, on_step)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # the step that it is at
                raise
            finally:
                beside.remove(self.name)

    places = [Lingering("one", pause=30), Lingering("two", pause=30)]
    async with working(url, places) as scheduler:
        job = await ask(scheduler)
        await happens(lambda: beside)
        for place in places:
            place.pause = 0.0
        await scheduler.store.cancel(job.id, 1.0)
        await scheduler.store.retry(job.id, 2.0)
        scheduler.wake()
        assert (await over(scheduler, job)).status == "completed"
    assert len(together) >= 2
    assert not any(together)


async def test_stopped_all_is_put_back_before_the_engine_has_let_go(url: sa.URL) -> None:
    let_go = asyncio.Event()

    class Slow(ScriptedPlace):
        async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
            try:
                return await super().work(claimed, on_step)
            finally:
                await let_go.wait()

    place = Slow(pause=30)
    async with open_database(url) as database:
        scheduler = Scheduler(JobStore(database, "here"), [place], sleep=no_rest)
        job = await ask(scheduler)
        task = asyncio.create_task(scheduler.run())
        await happens(lambda: place.worked_on)
        task.cancel()

        async def is_queued() -> bool:
            found = await scheduler.store.get(job.id)
            return found is not None and found.items[0].status == "queued"

        await until(is_queued)
        assert not task.done()
        let_go.set()
        await asyncio.gather(task, return_exceptions=True)
        assert await crashes(scheduler, job) == 0


async def test_what_is_worked_on_tells_how_far_it_is(url: sa.URL) -> None:
    place = ScriptedPlace(pause=30, steps=3)
    async with working(url, [place]) as scheduler:
        job = await ask(scheduler, 2)
        await happens(lambda: scheduler.progress_of(job.id, 0))
        assert scheduler.progress_of(job.id, 0) == pytest.approx(0.75)
        assert scheduler.progress_of(job.id, 1) == 0.0
        assert scheduler.progress_of("another", 0) == 0.0


async def test_called_off_by_another_studio_it_stops(shared_url: sa.URL) -> None:
    place = ScriptedPlace(pause=30)
    async with working(shared_url, [place]) as scheduler, open_database(shared_url) as elsewhere:
        job = await ask(scheduler)
        await happens(lambda: place.worked_on)
        await JobStore(elsewhere, "elsewhere").cancel(job.id, 1.0)
        await happens(lambda: place.ended)


async def test_a_pause_holds_for_all_who_share_the_queue(shared_url: sa.URL) -> None:
    async with (
        working(shared_url, [ScriptedPlace()]) as here,
        working(shared_url, [], name="there") as there,
    ):
        await there.pause(BY_HAND)
        await happens(lambda: here.paused)
        await there.resume()
        await happens(lambda: here.paused is None)


async def test_what_another_studio_may_be_able_to_draw_is_left_to_it(shared_url: sa.URL) -> None:
    small, large = ScriptedPlace("small", [RecipeRefused("no")]), ScriptedPlace("large")
    async with working(shared_url, [large], name="there") as there:
        await there.pause(BY_HAND)
        await until(lambda: there.store.remembered("engines/there"))
        async with working(shared_url, [small], name="here") as here:
            await happens(lambda: here.paused)
            await here.resume()
            job = await ask(here)
            done = await over(here, job)
            assert (done.status, done.items[0].engine) == ("completed", "large")


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_that_is_set_costs_nobody_what_it_holds(
    shared_url: sa.URL, jump: float
) -> None:
    clock = 1_700_000_000.0
    here, there = ScriptedPlace("here", pause=0.3), ScriptedPlace("there", pause=0.3)

    async with (
        working(shared_url, [here], name="here", wall=lambda: clock) as scheduler,
        working(shared_url, [there], name="there") as other,
    ):
        job = await ask(scheduler, 6)
        other.wake()
        await happens(lambda: here.worked_on and there.worked_on)
        clock += jump
        assert (await over(scheduler, job)).status == "completed"
        told = await scheduler.store.events_after(0)
        assert "item.queued" not in {event.type for event in told}
        assert len([*here.worked_on, *there.worked_on]) == 6


async def test_what_a_silent_studio_held_is_taken_over_after_its_lease(shared_url: sa.URL) -> None:
    seconds = 0.0

    async with open_database(shared_url) as database:
        dead = JobStore(database, "dead")
        place = ScriptedPlace(pause=30)
        async with working(shared_url, [place], now=lambda: seconds) as scheduler:
            await scheduler.pause(BY_HAND)
            job = await ask(scheduler)
            # Its clock is a year fast, so that by the clock it would hold the item for a year.
            assert await dead.claim("gpu", 1_731_000_000.0, lease=30.0) is not None
            await scheduler.resume()
            for _ in range(29):
                seconds += 1.0
                await asyncio.sleep(0.02)
            assert not place.worked_on
            for _ in range(5):
                seconds += 1.0
                await asyncio.sleep(0.02)
            await happens(lambda: place.worked_on)
            assert await crashes(scheduler, job) == 1


async def test_while_the_database_is_down_all_wait_and_then_go_on(
    shared_url: sa.URL, postgres_server: PostgresServer
) -> None:
    places = [ScriptedPlace("one", pause=0.05), ScriptedPlace("two", pause=0.05)]
    async with working(shared_url, places) as scheduler:
        job = await ask(scheduler, 10)
        await happens(lambda: sum(len(place.worked_on) for place in places) >= 4)
        await asyncio.to_thread(postgres_server.stop)
        await happens(lambda: all(slot.rests for slot in scheduler.slots))
        await asyncio.to_thread(postgres_server.start)
        done = await over(scheduler, job)
        assert (done.status, done.seconds) == ("completed", 10.0)
        told = await scheduler.store.events_after(0)
        ready = [event.data["n"] for event in told if event.type == "item.ready"]
        assert sorted(ready) == list(range(10))
        did = [n for place in places for _, n in place.worked_on]
        assert len(did) == 10


async def test_what_a_killed_studio_held_is_queued_at_its_next_start(url: sa.URL) -> None:
    async with open_database(url) as database:
        dead = Scheduler(JobStore(database, "here"), [])
        job = await ask(dead)
        assert await dead.store.claim("gpu", 1_731_000_000.0, lease=30.0) is not None
    place = ScriptedPlace(pause=30)
    async with working(url, [place]) as scheduler:
        await happens(lambda: place.worked_on)
        assert await crashes(scheduler, job) == 1


@pytest.mark.parametrize("slots", [1, 2, 3])
async def test_one_job_never_waits_for_more_than_one_item_a_slot_of_a_hundred(
    url: sa.URL, slots: int
) -> None:
    places = [ScriptedPlace(str(n), pause=0.01) for n in range(slots)]
    async with working(url, places) as scheduler:
        many = await ask(scheduler, 64)
        await happens(lambda: sum(len(place.worked_on) for place in places) >= 2 * slots)
        for _ in range(5):
            begun = await _begun(scheduler)
            one = await ask(scheduler, owner="ben")
            done = await over(scheduler, one)
            assert done.status == "completed"
            order = await _begun(scheduler)
            between = order[len(begun) : order.index(one.id)]
            # Those that were begun before the question got there count as begun already.
            assert between.count(many.id) <= slots


async def _begun(scheduler: Scheduler) -> list[str]:
    told = await scheduler.store.events_after(0)
    return [event.job for event in told if event.type == "item.running"]


async def test_called_off_a_drawing_ends_within_a_step(url: sa.URL) -> None:
    steps: asyncio.Queue[None] = asyncio.Queue()

    async def next_step(_seconds: float) -> None:
        await steps.get()

    engine = ScriptedEngine(scripted_images(50), pause=1.0, sleep=next_step)
    seen: list[int] = []
    place = DrawingPlace(
        "gpu", engine, MemoryStore(), look=lambda _, image: seen.append(image.step)
    )
    async with working(url, [place]) as scheduler:
        job = await ask(scheduler)
        for number in range(1, 11):
            steps.put_nowait(None)
            await until_equal(lambda: len(seen), number)
        assert scheduler.progress_of(job.id, 0) == pytest.approx(10 / 50)
        await scheduler.store.cancel(job.id, 1.0)
        scheduler.stop_working_on(job.id)
        for _ in range(40):
            steps.put_nowait(None)
        await happens(lambda: engine.left)
        assert len(seen) <= 11
        assert (await over(scheduler, job)).status == "cancelled"


async def test_room_is_looked_for_on_every_disk_that_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=100 if folder == tmp_path else 50)

    monkeypatch.setattr("shutil.disk_usage", usage)
    state = tmp_path / "state"
    state.mkdir()
    to_come = tmp_path / "store" / "not made yet"
    assert await room_on_disks([to_come], 100)()
    assert asked == [tmp_path]
    assert await room_on_disks([to_come, state], 50)()
    assert not await room_on_disks([to_come, state], 51)()


async def test_what_an_engine_refused_that_is_here_no_more_is_refused_after_the_next_start(
    url: sa.URL,
) -> None:
    refusal = Problem("refused", "too large")
    async with working(url, []) as scheduler:  # as if another engine could, and were away
        job = await ask(scheduler)
        claimed = await scheduler.store.claim("small", 1.0, lease=30)
        assert claimed is not None
        await scheduler.store.put_back(claimed, refusal, 1.0, refused_by="small")
    again = ScriptedPlace("small", script=[RecipeRefused("too large")])
    async with working(url, [again]) as scheduler:
        found = await over(scheduler, job)
        assert (found.status, found.problem) == ("failed", refusal)
