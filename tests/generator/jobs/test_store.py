"""Jobs, kept: on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa

from generator.jobs.choice import Waiting, in_order
from generator.jobs.database import open_database
from generator.jobs.model import ENDED, MAX_ITEMS, SETTLED, Problem
from generator.jobs.schema import items, jobs, members
from generator.jobs.store import (
    Claimed,
    EventsForgotten,
    JobStore,
    KeyReused,
    NewItem,
    NewJob,
    NotCancellable,
    NothingToRetry,
    NotMovable,
)

LEASE = 30.0
BROKE = Problem("failed", "it broke off")


@asynccontextmanager
async def studio(url: sa.URL, name: str = "here") -> AsyncIterator[JobStore]:
    async with open_database(url) as database:
        yield JobStore(database, name)


def new(
    owner: str = "ada", count: int = 1, *, key: str | None = None, priority: int = 5, what: str = ""
) -> NewJob:
    return NewJob(
        id=str(uuid.uuid4()),
        kind="draw",
        owner=owner,
        items=[NewItem(seed, {"prompt": what, "seed": seed}) for seed in range(count)],
        request={"prompt": what, "n": count},
        priority=priority,
        key=key,
    )


async def taken(store: JobStore, engine: str = "gpu", now: float = 0.0) -> Claimed:
    claimed = await store.claim(engine, now, lease=LEASE)
    assert claimed is not None
    return claimed


async def waiting(store: JobStore) -> tuple[list[Waiting], dict[str, int]]:
    """All that waits, and when each member was served last: what the pure rule goes by."""

    def look(connection: sa.Connection) -> tuple[list[Waiting], dict[str, int]]:
        rows = connection.execute(
            sa.select(jobs.c.id, items.c.n, items.c.owner, items.c.priority, items.c.rank)
            .join_from(items, jobs)
            .where(items.c.status == "queued")
        )
        turns = connection.execute(
            sa.select(members.c.id, members.c.turn).where(members.c.turn > 0)
        )
        return [Waiting(*row) for row in rows], {row.id: row.turn for row in turns}

    return await store.database.read(look)


async def next_one(store: JobStore) -> Claimed | None:
    return await store.claim("gpu", 1.0, lease=LEASE)


async def claim_after(store: JobStore, done: Claimed) -> Claimed | None:
    _, claimed = await store.ready_and_claim(done, "gpu", 1.0, seconds=1.0, cost=0.0, lease=LEASE)
    return claimed


async def test_what_is_accepted_is_found_as_it_was(url: sa.URL) -> None:
    async with studio(url) as store:
        made, is_new = await store.accept(new(count=3, what="a lamp", key="k"), 7.0)
        assert is_new
        assert await store.get(made.id) == made
        assert made.status == "queued"
        assert [item.seed for item in made.items] == [0, 1, 2]
    async with studio(url) as store:
        assert await store.get(made.id) == made
        assert await store.get(made.id, "ada") == made
        assert await store.get(made.id, "ben") is None
        assert await store.get(str(uuid.uuid4())) is None


async def test_a_hundred_at_once_with_one_key_are_one_job(url: sa.URL) -> None:
    async with studio(url) as store:
        accepted = await asyncio.gather(
            *(store.accept(new(count=4, key="same"), float(n)) for n in range(100))
        )
        assert len({job.id for job, _ in accepted}) == 1
        assert sum(is_new for _, is_new in accepted) == 1
        assert len(await store.find()) == 1
        for another in (
            new(count=5, key="same"),
            new(count=4, key="same", what="else"),
            new(count=4, key="same", priority=9),
        ):
            with pytest.raises(KeyReused):
                await store.accept(another, 0.0)
        other, is_new = await store.accept(new("ben", count=4, key="same"), 0.0)
        assert is_new
        assert other.id != accepted[0][0].id


async def test_a_job_runs_through(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=2), 1.0)
        first, second = await taken(store, now=2.0), await taken(store, now=3.0)
        assert [first.n, second.n] == [0, 1]
        assert await store.claim("gpu", 3.0, lease=LEASE) is None
        assert await store.ready(first, 4.0, seconds=2.0, cost=0.5)
        assert await store.failed(second, BROKE, 5.0)
        over = await store.get(job.id)
        assert over is not None
        assert (over.status, over.partial, over.done, over.failed) == ("completed", True, 1, 1)
        assert (over.started_at, over.completed_at, over.seconds, over.cost) == (2.0, 5.0, 2.0, 0.5)
        assert over.items[1].problem == BROKE
        told = [(event.type, event.data.get("n")) for event in await store.events_after(0)]
        assert told == [
            ("job.queued", None),
            ("job.started", None),
            ("item.running", 0),
            ("item.running", 1),
            ("item.ready", 0),
            ("item.failed", 1),
            ("job.completed", None),
        ]


async def test_where_all_fail_the_job_says_the_commonest_reason(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=3), 1.0)
        for problem in (BROKE, Problem("refused", "no such model"), BROKE):
            assert await store.failed(await taken(store), problem, 2.0)
        over = await store.get(job.id)
        assert over is not None
        assert (over.status, over.problem) == ("failed", BROKE)


async def test_it_chooses_as_the_rule_says(url: sa.URL) -> None:
    chance = random.Random(3)
    async with studio(url) as store:
        waiting: list[Waiting] = []
        for number in range(30):
            owner, priority = chance.choice(["ada", "ben"]), chance.choice([1, 5, 9])
            count = chance.randint(1, 4)
            job, _ = await store.accept(new(owner, count, priority=priority), float(number))
            waiting += [Waiting(job.id, n, owner, priority, float(number)) for n in range(count)]
        order = [(each.job, each.n) for each in in_order(waiting, {})]
        got = []
        while (claimed := await store.claim("gpu", 99.0, lease=LEASE)) is not None:
            got.append((claimed.job, claimed.n))
        assert got == order


async def test_what_an_engine_refused_is_left_to_the_others(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(priority=9), 0.0)
        other, _ = await store.accept(new(), 1.0)
        claimed = await taken(store, "small")
        await store.put_back(claimed, Problem("refused", "too large"), 2.0, refused_by="small")
        assert (await taken(store, "small")).job == other.id
        assert (await taken(store, "large")).job == job.id


async def test_what_is_put_back_is_queued_and_its_job_goes_on(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(), 0.0)
        claimed = await taken(store)
        assert await store.put_back(claimed, None, 1.0)
        found = await store.get(job.id)
        assert found is not None
        assert (found.status, found.items[0].status) == ("processing", "queued")
        assert not await store.ready(claimed, 2.0, seconds=1.0, cost=0.0)


async def test_cancelled_means_this_one_and_for_good(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=3), 0.0)
        other, _ = await store.accept(new(count=1), 1.0)
        done, held = await taken(store), await taken(store)
        assert await store.ready(done, 2.0, seconds=1.0, cost=0.0)
        cancelled = await store.cancel(job.id, 3.0)
        assert cancelled.status == "cancelled"
        assert [item.status for item in cancelled.items] == ["ready", "cancelled", "cancelled"]
        assert not await store.ready(held, 4.0, seconds=1.0, cost=0.0)
        with pytest.raises(NotCancellable):
            await store.cancel(job.id, 5.0)
        with pytest.raises(LookupError):
            await store.cancel(str(uuid.uuid4()), 5.0)
        assert (await taken(store)).job == other.id


async def test_a_retry_draws_what_failed_and_nothing_else(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=3), 0.0)
        with pytest.raises(NothingToRetry):
            await store.retry(job.id, 1.0)
        for n in range(3):
            claimed = await taken(store)
            if n == 1:
                assert await store.ready(claimed, 1.0, seconds=1.0, cost=0.0)
            else:
                assert await store.failed(claimed, BROKE, 1.0)
        with pytest.raises(NothingToRetry):
            await store.retry(job.id, 2.0, [1])
        again = await store.retry(job.id, 2.0, [2])
        assert (again.status, again.attempt, again.failed) == ("queued", 2, 1)
        claimed = await taken(store)
        assert (claimed.n, claimed.seed) == (2, 2)
        assert await store.ready(claimed, 3.0, seconds=1.0, cost=0.0)
        over = await store.get(job.id)
        assert over is not None
        assert [item.status for item in over.items] == ["failed", "ready", "ready"]
        assert (over.status, over.partial) == ("completed", True)


async def test_what_a_killed_studio_held_is_queued_again(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=2), 0.0)
        await taken(store)
    async with studio(url) as store:
        assert await store.take_over(1.0) == [job.id]
        found = await store.get(job.id)
        assert found is not None
        assert (found.status, found.items[0].status) == ("processing", "queued")
        assert (await taken(store)).n == 0
        assert await store.take_over(2.0) == [job.id]
        await taken(store)
        await store.take_over(3.0)
        over = await store.get(job.id)
        assert over is not None
        assert over.status == "failed"
        assert over.problem is not None
        assert over.problem.code == "crashed"


async def test_what_another_studio_holds_is_its_own_until_its_lease_is_over(url: sa.URL) -> None:
    async with studio(url, "here") as here, studio(url, "there") as there:
        await here.accept(new(), 0.0)
        claimed = await taken(there, now=0.0)
        assert await here.take_over(LEASE - 1) == []
        await there.renew(LEASE - 1, lease=LEASE)
        assert await here.take_over(LEASE + 1) == []
        assert await here.take_over(3 * LEASE) == [claimed.job]
        assert (await taken(here)).n == 0
        assert not await there.ready(claimed, 3 * LEASE, seconds=1.0, cost=0.0)


async def test_two_studios_never_work_on_the_same(url: sa.URL) -> None:
    async with studio(url, "here") as here, studio(url, "there") as there:
        for _ in range(30):
            await here.accept(new(count=2), 0.0)

        async def work(store: JobStore) -> list[tuple[str, int]]:
            done = []
            while (claimed := await store.claim("gpu", 1.0, lease=LEASE)) is not None:
                done.append((claimed.job, claimed.n))
                assert await store.ready(claimed, 2.0, seconds=1.0, cost=0.0)
            return done

        did = await asyncio.gather(*(work(store) for store in (here, there) for _ in range(2)))
        everything = [each for some in did for each in some]
        assert len(everything) == len(set(everything)) == 60
        assert {job.status for job in await here.find(limit=100)} == {"completed"}


async def test_those_who_cancel_and_those_who_finish_agree(url: sa.URL) -> None:
    chance = random.Random(11)
    async with studio(url) as store:
        accepted = [(await store.accept(new(count=2), 0.0))[0] for _ in range(40)]
        doomed = {job.id for job in accepted if chance.random() < 0.5}

        async def work() -> None:
            while (claimed := await store.claim("gpu", 1.0, lease=LEASE)) is not None:
                await asyncio.sleep(chance.random() / 200)
                wanted = await store.ready(claimed, 2.0, seconds=1.0, cost=0.0)
                assert wanted or claimed.job in doomed

        async def cancel(job: str) -> None:
            await asyncio.sleep(chance.random() / 4)
            try:
                await store.cancel(job, 2.0)
            except NotCancellable:
                doomed.discard(job)

        await asyncio.gather(*(work() for _ in range(3)), *map(cancel, list(doomed)))
        for job in await store.find(limit=100):
            assert job.status == ("cancelled" if job.id in doomed else "completed")
            assert all(item.status in SETTLED for item in job.items)
        told: dict[str, list[str]] = {}
        for event in await store.events_after(0):
            told.setdefault(event.job, []).append(event.type)
        for types in told.values():
            assert sum(kind.removeprefix("job.") in ENDED for kind in types) == 1
            assert types[-1].removeprefix("job.") in ENDED


async def test_events_are_in_the_order_in_which_they_are_seen(url: sa.URL) -> None:
    async with studio(url, "here") as here, studio(url, "there") as there:
        seen: list[int] = []
        over = asyncio.Event()

        async def look() -> None:
            while True:
                last_look = over.is_set()
                seen.extend(e.id for e in await there.events_after(seen[-1] if seen else 0))
                if last_look:
                    return

        async def ask(store: JobStore) -> None:
            for _ in range(40):
                await store.accept(new(), 0.0)

        looking = asyncio.create_task(look())
        await asyncio.gather(ask(here), ask(there))
        over.set()
        await looking
        assert seen == [event.id for event in await here.events_after(0)]
        assert len(seen) == 80


async def test_what_is_no_job_is_refused(url: sa.URL) -> None:
    async with studio(url) as store:
        for bad in (new(count=0), new(count=MAX_ITEMS + 1), new(priority=10), new(priority=-1)):
            with pytest.raises(ValueError, match="expected"):
                await store.accept(bad, 0.0)
        with pytest.raises(LookupError):
            await store.accept(new("nobody"), 0.0)
        assert await store.find() == []


async def test_a_clock_that_is_set_back_puts_nobody_in_front(url: sa.URL) -> None:
    async with studio(url) as store:
        first, _ = await store.accept(new(), 1000.0)
        second, _ = await store.accept(new(), 5.0)
        assert [(await taken(store)).job for _ in range(2)] == [first.id, second.id]


async def test_a_job_is_moved_in_its_own_line(url: sa.URL) -> None:
    async with studio(url) as store:
        a, b, c, d = [(await store.accept(new(), 7.0))[0].id for _ in range(4)]
        names = {a: "a", b: "b", c: "c", d: "d"}

        async def line() -> str:
            found, turns = await waiting(store)
            return "".join(names.get(each.job, "") for each in in_order(found, turns))

        assert await line() == "abcd"
        assert (await store.move(d, 8.0, to="first")).id == d
        assert await line() == "dabc"
        await store.move(d, 8.0, to="last")
        assert await line() == "abcd"
        await store.move(c, 8.0, before=b)
        assert await line() == "acbd"
        await store.move(a, 8.0, to="first")
        assert await line() == "acbd"
        later, _ = await store.accept(new(), 7.0)
        names[later.id] = "e"
        assert await line() == "acbde"
        other, _ = await store.accept(new("ben"), 9.0)
        urgent, _ = await store.accept(new(priority=9), 9.0)
        for elsewhere in (other.id, urgent.id, a, str(uuid.uuid4())):
            with pytest.raises(NotMovable):
                await store.move(a, 9.0, before=elsewhere)
        with pytest.raises(LookupError):
            await store.move(str(uuid.uuid4()), 9.0, to="first")
        assert [(await taken(store)).job for _ in range(3)] == [urgent.id, other.id, a]
        with pytest.raises(NotMovable):
            await store.move(a, 9.0, to="last")  # it is being worked on


async def test_there_is_always_room_between_two(url: sa.URL) -> None:
    chance = random.Random(5)
    now = 1.7e9
    async with studio(url) as store:
        order = [(await store.accept(new(), now))[0].id for _ in range(6)]
        for _ in range(120):
            job, before = chance.sample(order, 2)
            if chance.random() < 0.7:  # always between the same two: numbers run out there
                job, before = (order[0], order[2]) if order[1] != order[0] else (job, before)
            await store.move(job, now, before=before)
            order.remove(job)
            order.insert(order.index(before), job)
        last, _ = await store.accept(new(), now)
        assert [(await taken(store)).job for _ in range(7)] == [*order, last.id]


async def test_put_back_it_keeps_its_place(url: sa.URL) -> None:
    async with studio(url) as store:
        first, _ = await store.accept(new(count=2), 0.0)
        await store.accept(new(), 1.0)
        claimed = await taken(store)
        await store.put_back(claimed, None, 2.0)
        again = await taken(store)
        assert (again.job, again.n, again.claim) == (first.id, 0, claimed.claim + 1)


async def test_what_was_done_under_an_earlier_claim_comes_too_late(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(), 0.0)
        old = await taken(store)
        await store.cancel(job.id, 1.0)
        await store.retry(job.id, 2.0)
        current = await taken(store)
        assert not await store.ready(old, 3.0, seconds=1.0, cost=0.0)
        assert not await store.failed(old, BROKE, 3.0)
        assert not await store.put_back(old, BROKE, 3.0)
        assert await store.ready(current, 4.0, seconds=1.0, cost=0.0)


async def test_a_retry_has_all_its_tries_again(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(), 0.0)
        await store.put_back(await taken(store), BROKE, 1.0, counts=True)
        claimed = await taken(store)
        assert claimed.tries == 1
        await store.failed(claimed, BROKE, 1.0)
        await store.retry(job.id, 2.0)
        assert (await taken(store)).tries == 0


async def test_a_job_of_which_something_comes_is_not_what_the_process_dies_of(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=4), 0.0)
        for _ in range(4):
            await taken(store)
            await store.take_over(1.0)  # it died, and begins again
            assert await store.ready(await taken(store), 2.0, seconds=1.0, cost=0.0)
        over = await store.get(job.id)
        assert over is not None
        assert (over.status, over.done) == ("completed", 4)


async def test_who_crashed_is_told_of_to_those_who_watch(url: sa.URL) -> None:
    async with studio(url) as store:
        job, _ = await store.accept(new(count=2), 0.0)
        for _ in range(3):
            await taken(store)
            await store.take_over(1.0)
        told = [
            (event.type, event.data.get("n")) for event in await store.events_after(0, job=job.id)
        ]
        assert told == [
            ("job.queued", None),
            ("job.started", None),
            *[("item.running", 0), ("item.queued", 0)] * 2,
            *[("item.running", 0), ("item.failed", 0), ("item.failed", 1)],
            ("job.failed", None),
        ]


async def test_a_claim_that_nobody_heard_of_is_anybodys_in_time(url: sa.URL) -> None:
    async with studio(url) as store:
        await store.accept(new(count=2), 0.0)
        heard, lost = await taken(store), await taken(store)
        await store.renew(LEASE, lease=LEASE, held=[heard])
        assert await store.take_over(LEASE + 1, others=True) == [lost.job]
        assert (await taken(store)).n == lost.n
        assert await store.ready(heard, LEASE + 2, seconds=1.0, cost=0.0)


async def test_a_claim_that_is_cancelled_holds_nothing(url: sa.URL) -> None:
    async with studio(url) as store:
        waits, _ = await store.accept(new(), 0.0)
        for number in range(30):
            if number % 2:
                claiming = asyncio.create_task(next_one(store))
            else:
                await store.accept(new("ben", priority=9), 1.0)
                claiming = asyncio.create_task(claim_after(store, await taken(store)))
            await asyncio.sleep(random.Random().random() / 300)
            claiming.cancel()
            await asyncio.wait([claiming])
            if not claiming.cancelled():
                claimed = claiming.result()
                assert claimed is not None
                await store.put_back(claimed, None, 1.0)
        assert (await taken(store)).job == waits.id
        assert await next_one(store) is None


async def test_what_is_done_and_what_is_next_are_written_at_once(url: sa.URL) -> None:
    async with studio(url) as store:
        first, _ = await store.accept(new(), 0.0)
        second, _ = await store.accept(new(count=2), 0.0)
        claimed = await taken(store)
        kept, following = await store.ready_and_claim(
            claimed, "gpu", 1.0, seconds=2.0, cost=0.5, lease=LEASE
        )
        assert kept
        assert following is not None
        assert (following.job, following.n, following.claim) == (second.id, 0, 1)
        over = await store.get(first.id)
        assert over is not None
        assert (over.status, over.seconds, over.cost) == ("completed", 2.0, 0.5)
        told = [(event.job, event.type) for event in await store.events_after(0)]
        assert told[2:] == [
            (first.id, "job.started"),
            (first.id, "item.running"),
            (first.id, "item.ready"),
            (first.id, "job.completed"),
            (second.id, "job.started"),
            (second.id, "item.running"),
        ]
        other = await taken(store)
        for each, now in ((following, 3.0), (other, 4.0)):
            assert await store.ready_and_claim(
                each, "gpu", now, seconds=1.0, cost=None, lease=LEASE
            ) == (True, None)
        over = await store.get(second.id)
        assert over is not None
        assert (over.status, over.done, over.seconds, over.cost) == ("completed", 2, 2.0, None)
        assert [event.type for event in await store.events_after(0)][-4:] == [
            *("item.running", "item.ready", "item.ready", "job.completed")
        ]


async def test_who_says_too_late_that_something_is_done_goes_on_all_the_same(url: sa.URL) -> None:
    async with studio(url) as store:
        lost, _ = await store.accept(new(), 0.0)
        other, _ = await store.accept(new(), 0.0)
        claimed = await taken(store)
        await store.cancel(lost.id, 1.0)
        kept, following = await store.ready_and_claim(
            claimed, "gpu", 2.0, seconds=1.0, cost=0.0, lease=LEASE
        )
        assert not kept
        assert following is not None
        assert following.job == other.id
        called_off = await store.get(lost.id)
        assert called_off is not None
        assert (called_off.status, called_off.done) == ("cancelled", 0)
        told = [event.type for event in await store.events_after(0, job=lost.id)]
        assert told == ["job.queued", "job.started", "item.running", "job.cancelled"]


async def test_what_was_refused_is_left_to_others_whatever_its_place(url: sa.URL) -> None:
    async with studio(url) as store:
        urgent, _ = await store.accept(new(priority=9), 0.0)
        usual, _ = await store.accept(new(count=2), 0.0)
        claimed = await taken(store)
        await store.put_back(claimed, BROKE, 1.0, refused_by="gpu")
        assert (await taken(store)).job == usual.id
        able = await taken(store, "other")
        assert (able.job, able.refusals) == (urgent.id, 1)
        assert await store.failed(able, BROKE, 2.0)
        await store.retry(urgent.id, 3.0)
        again = await taken(store)  # by whoever is there, since much may have changed
        assert (again.job, again.refusals) == (urgent.id, 0)


async def test_who_asks_after_forgotten_events_is_told(url: sa.URL) -> None:
    async with studio(url) as store:
        assert await store.last_event() == 0
        assert await store.events_after(0) == []
        for at in range(10):
            await store.accept(new(), float(at))
        every = [event.id for event in await store.events_after(0)]
        assert await store.last_event() == every[-1]
        assert await store.forget_events(4.0) == 4
        assert await store.forget_events(4.0) == 0
        assert [event.id for event in await store.events_after(every[3])] == every[4:]
        for unknown in (0, every[2], every[-1] + 1):
            with pytest.raises(EventsForgotten) as forgotten:
                await store.events_after(unknown)
            assert forgotten.value.last == every[-1]
        assert await store.forget_events(99.0) == 6
        assert await store.last_event() == every[-1]
        assert await store.events_after(every[-1]) == []
    async with studio(url) as store:
        await store.accept(new(), 11.0)
        assert [event.id for event in await store.events_after(every[-1])] == [every[-1] + 1]
