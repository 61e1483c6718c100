"""What happens to jobs, told: each event once, in order, to its owner; whatever happens."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from generator.engines.port import StepImage
from generator.jobs.database import DatabaseUnavailable
from generator.jobs.model import Problem
from generator.jobs.store import Claimed, JobStore
from server.studio import feed as feeds
from server.studio.feed import Feed, FeedMessage, Listener, TooManyListeners
from tests.helpers.feeds import (
    LEASE,
    OWNERS,
    followed,
    make_tables,
    new_job,
    opened,
    sqlite_in,
    work_off,
    write_at_random,
)
from tests.helpers.postgres import postgres


@pytest.fixture
def url(tmp_path: Path) -> sa.URL:
    address = sqlite_in(tmp_path)
    make_tables(address)
    return address


@pytest.fixture
async def store(url: sa.URL) -> AsyncIterator[JobStore]:
    async with opened(url) as store:
        yield store


async def next_of(listener: Listener) -> FeedMessage:
    async with asyncio.timeout(15):
        return await anext(listener)


async def told(listener: Listener, count: int) -> list[FeedMessage]:
    return [await next_of(listener) for _ in range(count)]


async def nothing_more(listener: Listener) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            raise AssertionError(await anext(listener))


def step(number: int, *, final: bool = False) -> StepImage:
    return StepImage(number, 21, final, None if final else 0.0, 0.1, b"picture")


# ---------------------------------------------------------------- events


async def test_what_happens_to_a_job_is_told_to_its_owner_in_order(store: JobStore) -> None:
    async with followed(Feed(store)) as feed:
        async with feed.listen("ada") as ada, feed.listen("ben") as ben:
            await store.accept(new_job("ada"), 5.0)
            feed.nudge()
            (drawn,) = await work_off(store, feed.nudge)
            messages = await told(ada, 5)
            await nothing_more(ben)
        assert [message.event for message in messages] == [
            "job.queued",
            "job.started",
            "item.running",
            "item.ready",
            "job.completed",
        ]
        assert json.loads(messages[0].text) == {
            "type": "event",
            "id": messages[0].id,
            "event": "job.queued",
            "job": drawn.job,
            "at": 5.0,
            "data": {"total": 1},
        }
        assert json.loads(messages[3].text)["data"] == {"n": 0, "take": drawn.take}


async def test_who_asks_for_one_job_hears_of_no_other_and_from_its_beginning(
    store: JobStore,
) -> None:
    one, _ = await store.accept(new_job(), 0.0)
    await store.accept(new_job(), 0.0)
    async with followed(Feed(store)) as feed, feed.listen("ada", job=one.id) as listener:
        await work_off(store, feed.nudge)
        messages = await told(listener, 5)
        assert {message.job for message in messages} == {one.id}
        assert messages[0].event == "job.queued"
        await nothing_more(listener)
        async with feed.listen("ben", job=one.id) as stranger:
            await nothing_more(stranger)


async def test_who_says_nothing_hears_what_happens_from_now_on(store: JobStore) -> None:
    await store.accept(new_job(), 0.0)
    async with followed(Feed(store)) as feed, feed.listen("ada") as listener:
        assert listener.position == 1
        await nothing_more(listener)
        await store.accept(new_job(), 0.0)
        feed.nudge()
        assert (await next_of(listener)).id == 2


async def test_who_comes_again_hears_what_it_missed_then_what_is_new(store: JobStore) -> None:
    for _ in range(3):
        await store.accept(new_job(), 0.0)
    async with followed(Feed(store)) as feed, feed.listen("ada", after=1) as listener:
        assert listener.position == 1
        assert [message.id for message in await told(listener, 2)] == [2, 3]
        await store.accept(new_job(), 0.0)
        feed.nudge()
        assert [message.id for message in await told(listener, 1)] == [4]
        assert listener.position == 4


async def test_an_event_of_which_nobody_told_is_found_by_looking(store: JobStore) -> None:
    async with followed(Feed(store, poll=0.02)) as feed, feed.listen("ada") as listener:
        await nothing_more(listener)
        await store.accept(new_job(), 0.0)
        assert (await next_of(listener)).event == "job.queued"


async def test_a_message_is_encoded_once_however_many_listen(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []

    def count(event: Any) -> FeedMessage:
        encoded.append(event.id)
        return feeds_message(event)

    feeds_message = feeds.event_message
    monkeypatch.setattr(feeds, "event_message", count)
    async with followed(Feed(store)) as feed:
        async with feed.listen("ada") as one, feed.listen("ada") as other, feed.listen("ada"):
            await asyncio.sleep(0.05)  # it is followed by now
            await store.accept(new_job(), 0.0)
            feed.nudge()
            first, second = await next_of(one), await next_of(other)
        assert first.text is second.text
        assert encoded == [1]


async def test_who_does_not_read_has_nothing_kept_for_it_and_reads_on_in_the_table(
    store: JobStore,
) -> None:
    async with followed(Feed(store, log=4)) as feed, feed.listen("ada") as slow:
        async with feed.listen("ada") as quick:
            for _ in range(60):
                await store.accept(new_job(), 0.0)
                feed.nudge()
                await next_of(quick)
        assert feed._log is not None
        assert len(feed._log._ids) <= 8
        assert not slow._events
        assert [message.id for message in await told(slow, 60)] == list(range(1, 61))
        await nothing_more(slow)


async def test_a_page_of_nothing_but_others_is_passed_over(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_PAGE", 3)
    async with followed(Feed(store, log=50)) as feed:
        async with feed.listen("ada") as ada, feed.listen("ada", after=0) as other:
            for _ in range(10):
                await store.accept(new_job("ben"), 0.0)
            await store.accept(new_job("ada"), 0.0)
            feed.nudge()
            assert (await next_of(ada)).id == 11
            assert (await next_of(other)).id == 11
        async with feed.listen("ada", after=3) as late:
            assert (await next_of(late)).id == 11
            assert late.position == 11


@asynccontextmanager
async def two_stores(url: sa.URL) -> AsyncIterator[tuple[JobStore, JobStore]]:
    async with opened(url, "here") as here:
        if here.database.is_shared:
            async with opened(url, "there") as there:
                yield here, there
        else:
            yield here, here


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.URL]:
    if request.param == "sqlite":
        address = sqlite_in(tmp_path)
        make_tables(address)
        yield address
    else:
        with postgres() as server:
            make_tables(server.url)
            yield server.url


async def come_and_go(
    feed: Feed, member: str, chance: random.Random, last: asyncio.Future[Mapping[str, int]]
) -> list[int]:
    """Listen to a few events at a time, and say each time which was heard last.

    Args:
        feed: what is told.
        member: who listens.
        chance: when it goes, and how soon it comes again.
        last: of each member, the last event there will be, once that is known.

    Returns:
        All that it heard.
    """
    heard: list[int] = []
    position = 0
    while True:
        async with feed.listen(member, after=position) as listener:
            assert listener.position == position
            for _ in range(chance.randint(0, 12)):
                if last.done() and listener.position >= last.result()[member]:
                    return heard
                with suppress(TimeoutError):
                    async with asyncio.timeout(chance.random() / 20):
                        message = await anext(listener)
                        assert message.owner == member
                        assert message.id is not None
                        heard.append(message.id)
                        position = message.id
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.random() / 50)
            if chance.random() < 0.5:  # nor need it look again through what was somebody else's
                position = listener.position


@pytest.mark.parametrize(("seed", "log"), [(0, 2), (1, 16), (2, 500)])
async def test_over_reconnects_nothing_is_missed_and_nothing_told_twice(
    any_url: sa.URL, seed: int, log: int
) -> None:
    chance = random.Random(seed)
    last: asyncio.Future[Mapping[str, int]] = asyncio.get_running_loop().create_future()
    async with (
        two_stores(any_url) as (here, there),
        followed(Feed(here, poll=0.02, log=log)) as feed,
    ):
        who = [name for name in OWNERS for _ in range(4)]
        listening = [
            asyncio.create_task(come_and_go(feed, name, random.Random(chance.random()), last))
            for name in who
        ]
        nudged, alone = feed.nudge, lambda: None
        await asyncio.gather(
            *(
                write_at_random(store, random.Random(chance.random()), 60, nudge)
                for store, nudge in [(here, nudged), (there, alone), (there, nudged)]
            )
        )
        written = await here.events_after(0, limit=10**6)
        mine = {name: [each.id for each in written if each.owner == name] for name in OWNERS}
        last.set_result({name: ids[-1] for name, ids in mine.items()})
        async with asyncio.timeout(60):
            heard = await asyncio.gather(*listening)
    assert len(written) > 150
    for name, ids in zip(who, heard, strict=True):
        assert ids == mine[name]


# ---------------------------------------------------------------- what nobody has any more


async def ask(store: JobStore, count: int) -> None:
    """Jobs, asked for one after the other at 1, 2, 3 …, which makes one event each."""
    for at in range(1, count + 1):
        await store.accept(new_job(), float(at))


async def forget(store: JobStore, up_to: int) -> None:
    """Forget the first events of those that `ask` made."""
    assert await store.forget_events(up_to + 1.0) == up_to


async def test_who_missed_what_was_forgotten_is_told_to_begin_anew(store: JobStore) -> None:
    await ask(store, 10)
    await forget(store, 6)
    async with followed(Feed(store)) as feed:
        async with feed.listen("ada", after=5) as listener:
            reset = await next_of(listener)
            assert json.loads(reset.text) == {"type": "reset", "last_event": 10}
            assert listener.position == 10
            await store.accept(new_job(), 0.0)
            feed.nudge()
            assert (await next_of(listener)).id == 11
        async with feed.listen("ada", after=6) as listener:  # that has all that it needs
            assert [message.id for message in await told(listener, 5)] == [7, 8, 9, 10, 11]


async def test_an_event_of_another_database_is_no_place_to_begin(store: JobStore) -> None:
    await store.accept(new_job(), 0.0)
    async with followed(Feed(store)) as feed, feed.listen("ada", after=700) as listener:
        assert listener.position == 1
        assert (await next_of(listener)).type == "reset"
        await store.accept(new_job(), 0.0)
        feed.nudge()
        assert (await next_of(listener)).id == 2


async def test_who_fell_behind_what_is_kept_is_told_to_begin_anew(store: JobStore) -> None:
    async with (
        followed(Feed(store, log=2)) as feed,
        feed.listen("ada") as slow,
        feed.listen("ada") as quick,
    ):
        await ask(store, 20)
        feed.nudge()
        await told(quick, 20)
        await forget(store, 9)
        assert [message.type for message in await told(slow, 1)] == ["reset"]
        assert slow.position == 20
        await nothing_more(slow)


async def test_what_was_forgotten_before_it_was_followed_makes_all_begin_anew(
    store: JobStore,
) -> None:
    async with followed(Feed(store)) as feed, feed.listen("ada") as listener:
        await nothing_more(listener)
        await ask(store, 10)
        await forget(store, 7)
        feed.nudge()
        reset, *others = await told(listener, 1)
        assert (reset.type, others) == ("reset", [])
        assert listener.position == 10


# ---------------------------------------------------------------- steps


def claimed(n: int = 0, job: str = "job", owner: str = "ada") -> Claimed:
    take = f"take-{n}"
    return Claimed(job=job, number=1, n=n, seed=0, take=take, owner=owner, work={})


async def test_a_step_is_told_to_its_owner_and_the_newest_wins(store: JobStore) -> None:
    async with (
        followed(Feed(store)) as feed,
        feed.listen("ada") as ada,
        feed.listen("ben") as ben,
        feed.listen("ada", job="other") as other,
    ):
        for number in (1, 2, 3):
            feed.show_preview(claimed(0), step(number))
        feed.show_preview(claimed(1), step(1))
        feed.show_preview(claimed(2), step(21, final=True))
        messages = [json.loads(message.text) for message in await told(ada, 3)]
        assert messages[0] == {
            "type": "step",
            "job": "job",
            "n": 0,
            "take": "take-0",
            "step": 3,
            "steps": 21,
            "url": "/takes/take-0/3.jpg",
        }
        assert [(each["n"], each["step"]) for each in messages] == [(0, 3), (1, 1), (2, 21)]
        assert messages[2]["url"] == "/takes/take-2/final.jpg"
        for one in (ada, ben, other):
            await nothing_more(one)


async def test_of_steps_that_nobody_reads_a_few_are_kept(store: JobStore) -> None:
    async with followed(Feed(store)) as feed, feed.listen("ada") as listener:
        for n in range(1000):
            feed.show_preview(claimed(n), step(1))
        assert len(listener._steps) == 64
        assert json.loads((await next_of(listener)).text)["n"] == 936


async def test_no_step_is_told_after_what_ended_it(store: JobStore) -> None:
    async with followed(Feed(store)) as feed, feed.listen("ada") as listener:
        job, _ = await store.accept(new_job(count=3), 0.0)
        taken = [await store.claim("gpu", 1.0, lease=LEASE) for _ in range(3)]
        for each in taken:
            assert each is not None
            feed.show_preview(each, step(7))
        first, second, _third = taken
        assert first is not None
        assert second is not None
        await store.ready(first, 2.0, seconds=1.0, cost=0.0)
        await store.put_back(second, Problem("failed", "it broke off"), 2.0)
        feed.nudge()
        await asyncio.sleep(0.1)  # all of that has been read by the feed
        messages = await told(listener, 8)
        assert [message.type for message in messages] == ["event"] * 7 + ["step"]
        assert (messages[-1].job, messages[-1].n) == (job.id, 2)
        feed.show_preview(claimed(2, job.id), step(8))
        await store.cancel(job.id, 3.0)
        feed.nudge()
        await asyncio.sleep(0.1)
        assert (await next_of(listener)).event == "job.cancelled"
        await nothing_more(listener)


# ---------------------------------------------------------------- the queue


async def test_the_queue_is_told_when_it_changes_and_once_for_all_of_a_member(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "QUEUE_EVERY", 0.01)
    asked: list[str] = []
    waiting = 3

    async def queue(member: str) -> Mapping[str, Any]:
        asked.append(member)
        return {"member": member, "waiting": waiting}

    async with followed(Feed(store, queue=queue)) as feed:
        async with feed.listen("ada") as one, feed.listen("ada") as other, feed.listen("ben") as b:
            first, second, third = [await next_of(each) for each in (one, other, b)]
            assert first.text == second.text
            assert json.loads(first.text) == {"type": "queue", "member": "ada", "waiting": 3}
            assert json.loads(third.text)["member"] == "ben"
            feed.nudge()
            await nothing_more(one)
            waiting = 4
            feed.nudge()
            assert json.loads((await next_of(one)).text)["waiting"] == 4
        asked.clear()
        async with feed.listen("ada", job="job") as job:
            feed.nudge()
            await nothing_more(job)
            assert asked == []


async def test_a_queue_that_changes_all_the_time_is_told_now_and_then(store: JobStore) -> None:
    looks = 0

    async def queue(_member: str) -> Mapping[str, Any]:
        nonlocal looks
        looks += 1
        return {"looks": looks}

    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        await asyncio.sleep(0.05)

    async with (
        followed(Feed(store, queue=queue, sleep=sleep)) as feed,
        feed.listen("ada") as listener,
    ):
        for _ in range(100):
            feed.nudge()
            await asyncio.sleep(0)
        await next_of(listener)
        assert looks <= 2
        assert set(rests) == {feeds.QUEUE_EVERY}


# ---------------------------------------------------------------- trouble, and the end


class Broken:
    """A way to the table that can be cut."""

    def __init__(self, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut = False
        read = store.database.read

        async def maybe(operation: Any) -> Any:
            if self.cut:
                raise DatabaseUnavailable("it is away")
            return await read(operation)

        monkeypatch.setattr(store.database, "read", maybe)


async def test_a_database_that_goes_away_makes_nobody_miss_anything(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(store, monkeypatch)
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        await asyncio.sleep(0.01)

    with structlog.testing.capture_logs() as logs:
        async with followed(Feed(store, sleep=sleep)) as feed, feed.listen("ada") as listener:
            await nothing_more(listener)
            broken.cut = True
            with pytest.raises(DatabaseUnavailable):
                async with feed.listen("ada"):
                    pass
            await store.accept(new_job(), 0.0)
            feed.nudge()
            await nothing_more(listener)
            broken.cut = False
            assert (await next_of(listener)).id == 1
    assert rests[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(rests) <= 5.0
    assert [log["event"] for log in logs] == ["feed_interrupted", "feed_resumed"]


async def test_with_the_feed_everybodys_messages_end(store: JobStore) -> None:
    feed = Feed(store)
    async with followed(feed), feed.listen("ada") as listener:
        await nothing_more(listener)
        feed.end()
        assert [message async for message in listener] == []
    async with followed(feed), feed.listen("ada") as listener:  # it may run once more
        await asyncio.sleep(0)
        await store.accept(new_job(), 0.0)
        feed.nudge()
        assert (await next_of(listener)).id == 1


async def test_nobody_is_left_behind_and_nothing_followed_for_nobody(store: JobStore) -> None:
    async with followed(Feed(store)) as feed:
        async with feed.listen("ada") as listener:
            await nothing_more(listener)
            assert feed.listeners == 1
        assert feed.listeners == 0
        feed.nudge()
        await asyncio.sleep(0.05)
        assert feed._log is None
        feed.show_preview(claimed(), step(1))


async def test_one_member_keeps_nobody_else_out(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MOST_OF_ONE_MEMBER", 2)
    monkeypatch.setattr(feeds, "MOST_LISTENERS", 3)
    feed = Feed(store)
    async with feed.listen("ada"), feed.listen("ada"):
        with pytest.raises(TooManyListeners, match="2 connections of yours") as refused:
            feed.check_room("ada")
        assert refused.value.code == "too_many"
        async with feed.listen("ben"):
            with pytest.raises(TooManyListeners, match="3 connections listen"):
                async with feed.listen("cleo"):
                    pass
    assert feed.listeners == 0


async def test_whether_a_job_is_over_is_about_its_present_attempt(store: JobStore) -> None:
    feed = Feed(store)
    job, _ = await store.accept(new_job(), 0.0)
    assert not await feed.is_over(job.id, 10)
    claim = await store.claim("gpu", 1.0, lease=LEASE)
    assert claim is not None
    await store.failed(claim, Problem("failed", "it broke off"), 2.0)
    failed = (await store.events_after(0))[-1].id
    assert await feed.is_over(job.id, failed)
    assert not await feed.is_over(job.id, failed - 1)
    await store.retry(job.id, 3.0)
    assert not await feed.is_over(job.id, failed)
    await work_off(store)
    assert not await feed.is_over(job.id, failed)
    assert await feed.is_over(job.id, failed + 10)


async def test_who_comes_late_is_told_where_a_drawing_is(store: JobStore) -> None:
    async with followed(Feed(store)) as feed:
        for number in (1, 2):
            feed.show_preview(claimed(0), step(number))
        feed.show_preview(claimed(1), step(1))
        feed.drawing_over(claimed(1))
        async with feed.listen("ada") as ada, feed.listen("ben") as ben:
            (message,) = [json.loads(each.text) for each in await told(ada, 1)]
            assert (message["n"], message["step"]) == (0, 2)
            for one in (ada, ben):
                await nothing_more(one)
