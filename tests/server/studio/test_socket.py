"""The Studio's socket, with real sockets: uvicorn on one side, websockets on the other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from generator.engines.port import StepImage
from generator.jobs.database import DatabaseUnavailable
from generator.jobs.store import JobStore
from server.core.clock import SystemClock
from server.sockets import connection
from server.studio import feed as feeds
from server.studio.feed import Feed
from tests.helpers.feeds import (
    Doors,
    Ear,
    ear,
    line,
    make_tables,
    new_job,
    opened,
    serving_feed,
    sqlite_in,
    work_off,
    write_at_random,
)
from tests.helpers.servers import Address


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    url = sqlite_in(tmp_path)
    make_tables(url)
    async with opened(url) as store:
        yield store


@pytest.fixture
def feed(store: JobStore) -> Feed:
    return Feed(store)


@pytest.fixture
def doors() -> Doors:
    return Doors()


@pytest.fixture
async def address(feed: Feed, doors: Doors) -> AsyncIterator[Address]:
    async with serving_feed(feed, doors) as address:
        yield address


# ---------------------------------------------------------------- what it is told


async def test_welcome_then_what_happens_in_order(
    address: Address, store: JobStore, feed: Feed
) -> None:
    await store.accept(new_job(), 0.0)
    before = SystemClock().now()
    async with ear(address) as ada, ear(address, "ben") as ben:
        (welcome,) = ada.heard
        assert before - 1 < welcome.pop("server_time") < before + 10
        assert welcome == {
            "type": "welcome",
            "protocol": 1,
            "member": {"id": "ada", "name": "Ada", "role": "client"},
            "last_event": 1,
        }
        (drawn,) = await work_off(store, feed.nudge)
        feed.show_preview(drawn, StepImage(3, 21, False, 0.0, 0.1, b"picture"))
        await ada.until(lambda me: me.of("step"))
        await ada.until(lambda me: len(me.ids) == 4)
        assert ada.told == ["job.started", "item.running", "item.ready", "job.completed"]
        assert ada.ids == [2, 3, 4, 5]
        assert ben.heard == ben.of("welcome")


async def test_who_comes_again_says_what_it_heard_last(
    address: Address, store: JobStore, feed: Feed
) -> None:
    for _ in range(4):
        await store.accept(new_job(), 0.0)
    async with ear(address, after=2) as ada:
        assert ada.heard[0]["last_event"] == 2
        await store.accept(new_job(), 0.0)
        feed.nudge()
        await ada.until(lambda me: len(me.ids) == 3)
        assert ada.ids == [3, 4, 5]
    async with ear(address, after=5000) as ada:
        await ada.until(lambda me: me.of("reset"))
        assert ada.heard[0]["last_event"] == 5
        assert ada.of("reset") == [{"type": "reset", "last_event": 5}]


async def test_the_queue_is_told_at_once_and_when_it_changes(store: JobStore) -> None:
    waiting = 1

    async def queue(_member: str) -> dict[str, int]:
        return {"waiting": waiting}

    feed = Feed(store, queue=queue)
    async with serving_feed(feed) as address, ear(address) as ada:
        await ada.until(lambda me: me.of("queue") == [{"type": "queue", "waiting": 1}])
        waiting = 2
        feed.nudge()
        await ada.until(lambda me: len(me.of("queue")) == 2)
        assert ada.of("queue")[-1]["waiting"] == 2


async def test_the_time_is_told(address: Address) -> None:
    async with ear(address) as ada:
        await ada.send({"type": "sync", "t0": 4.5})
        await ada.until(lambda me: me.of("sync"))
        (sync,) = ada.of("sync")
        assert sync["t0"] == 4.5
        assert sync["t1"] <= sync["t2"]


# ---------------------------------------------------------------- who may, once, in time


async def test_without_a_right_token_nobody_comes_in(address: Address, feed: Feed) -> None:
    for token in (None, "", "wrong"):
        async with line(address) as stranger:
            await stranger.send({"type": "hello", "token": token})
            assert await stranger.closed() == 1008
            assert [each.get("code") for each in stranger.heard] == ["unauthorized"]
    assert feed.listeners == 0


async def test_a_page_from_elsewhere_is_refused_before_it_is_opened(address: Address) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with Ear.line(
            f"ws://127.0.0.1:{address.port}/ws/studio", origin="http://elsewhere.example"
        ):
            pass


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "sync", "t0": 1.0}, "hello_first"),
        ({"type": "hello", "protocol": 2}, "unknown_protocol"),
        ({"type": "hello", "after": -1}, "invalid"),
        ({"type": "hello", "after": 2**63}, "invalid"),
        ({"type": "hello", "after": "x"}, "invalid"),
        ("nonsense", "malformed"),
        (b"binary", "binary"),
        ("x" * 5000, "too_large"),
    ],
)
async def test_what_is_no_hello_is_answered(address: Address, message: object, code: str) -> None:
    async with line(address) as stranger:
        await stranger.send(message)
        await stranger.until(lambda me: me.of("error"))
        assert stranger.heard[0]["code"] == code


async def test_hello_is_said_once(address: Address) -> None:
    async with ear(address) as ada:
        await ada.send({"type": "hello", "token": "ben"})
        await ada.until(lambda me: me.of("error"))
        assert ada.of("error")[0]["code"] == "hello_again"
        for _ in range(12):
            await ada.send("nonsense")
        assert await ada.closed() == 1008


async def test_who_says_nothing_is_let_go(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HELLO_WITHIN", 0.1)
    async with line(address) as stranger:
        assert await stranger.closed() == 1008


async def test_a_member_that_is_removed_is_let_go(
    address: Address, doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "CHECK_EVERY", 0.02)
    async with ear(address) as ada, ear(address, "ben") as ben:
        doors.broken = DatabaseUnavailable("it is away")  # nobody can tell: all stay
        await asyncio.sleep(0.1)
        doors.broken = None
        doors.removed.add("ada")
        assert await ada.closed() == 1008
        await ben.send({"type": "sync", "t0": 1.0})
        await ben.until(lambda me: me.of("sync"))


async def test_without_its_database_it_asks_to_come_again(address: Address, doors: Doors) -> None:
    doors.broken = DatabaseUnavailable("it is away")
    async with line(address) as stranger:
        await stranger.send({"type": "hello", "token": "ada"})
        assert await stranger.closed() == 1013
        assert [each["code"] for each in stranger.heard] == ["internal"]


async def test_where_too_many_listen_it_asks_to_come_again(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MOST_OF_ONE_MEMBER", 1)
    async with ear(address), line(address) as second:
        await second.send({"type": "hello", "token": "ada"})
        assert await second.closed() == 1013
        assert [each["code"] for each in second.heard] == ["too_many"]
        async with ear(address, "ben"):
            pass


async def test_with_the_feed_the_sockets_end(address: Address, feed: Feed) -> None:
    async with ear(address) as ada:
        feed.end()
        assert await ada.closed() == 1013


# ---------------------------------------------------------------- a hundred, and one that sleeps


async def test_who_never_reads_keeps_nobody_and_is_let_go(
    address: Address, store: JobStore, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READS_WITHIN", 1.0)
    # So that the line is full after a few events, not after what this machine's kernel takes.
    wide = {"type": "event", "padding": "x" * 100_000}
    plain = feeds._text
    monkeypatch.setattr(
        feeds, "_text", lambda document: plain({**wide, **document, "padding": wide["padding"]})
    )
    async with AsyncExitStack() as stack:
        sleeper = await stack.enter_async_context(ear(address))
        await sleeper.deaf()
        sleeper.socket.transport.pause_reading()
        others = [await stack.enter_async_context(ear(address)) for _ in range(9)]
        for _ in range(150):
            await store.accept(new_job(), 0.0)
            feed.nudge()
        for other in others:
            await other.until(lambda me: len(me.ids) == 150)
            assert other.ids == list(range(1, 151))
        async with asyncio.timeout(20):
            while feed.listeners > 9:  # noqa: ASYNC110 - nobody tells when one is let go
                await asyncio.sleep(0.05)
        for other in others:
            assert other.goodbye == (None, None)


async def test_a_hundred_hear_everything_once_though_one_never_reads(
    address: Address, store: JobStore, feed: Feed
) -> None:
    async with AsyncExitStack() as stack:
        ears = [await stack.enter_async_context(ear(address)) for _ in range(100)]
        sleeper = ears.pop()
        await sleeper.deaf()
        sleeper.socket.transport.pause_reading()
        for n in range(2):
            await write_at_random(store, random.Random(n), 20, feed.nudge)
        written = [each.id for each in await store.events_after(0, owner="ada")]
        assert len(written) > 20
        for each in ears:
            await each.until(lambda me: me.ids and me.ids[-1] == written[-1])
            assert each.ids == written


def has_heard(count: int, me: Ear) -> bool:
    return len(me.ids) >= count


async def test_sockets_that_break_at_random_moments_lose_and_double_nothing(
    address: Address, store: JobStore, feed: Feed
) -> None:
    chance = random.Random(5)
    over = asyncio.Event()

    async def listen(seed: int) -> list[int]:
        heard: list[int] = []
        breaks = random.Random(seed)
        while True:
            async with ear(address, after=heard[-1] if heard else 0) as ada:
                if over.is_set():
                    missing = [each for each in written if not heard or each > heard[-1]]
                    await ada.until(partial(has_heard, len(missing)))
                    return heard + ada.ids
                await asyncio.sleep(breaks.random() / 5)
                ada.socket.transport.abort()  # in the middle of whatever it was about
                await ada.deaf()
                heard += ada.ids

    written: list[int] = []
    listening = [asyncio.create_task(listen(seed)) for seed in range(6)]
    await asyncio.gather(
        *(write_at_random(store, random.Random(chance.random()), 80, feed.nudge) for _ in range(3))
    )
    written = [each.id for each in await store.events_after(0, owner="ada")]
    over.set()
    async with asyncio.timeout(60):
        for heard in await asyncio.gather(*listening):
            assert heard == written
