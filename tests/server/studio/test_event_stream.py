"""Server-sent events, as programs that speak HTTP alone hear them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection

from generator import sse
from generator.jobs.model import Problem
from generator.jobs.store import JobStore
from generator.sse import with_heartbeat
from server.core.refusal import Refused
from server.studio import feed as feeds
from server.studio.event_stream import last_event_of
from server.studio.feed import Feed
from tests.helpers.feeds import (
    LEASE,
    Doors,
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
    async with serving_feed(feed, doors, heartbeat=0.2) as address:
        yield address
        feed.end()  # as a server does that is told to stop


@dataclass
class Heard:
    """An answer, read event by event; `comments` counts the heartbeats."""

    response: httpx.Response
    comments: int = 0
    lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = self.response.aiter_lines()

    async def next(self) -> dict[str, Any] | None:
        """The next event's fields; None at the end."""
        event: dict[str, Any] = {}
        async with asyncio.timeout(15):
            async for line in self.lines:
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments += 1
                elif name:
                    event[name] = json.loads(value) if name in {"id", "data"} else value
                elif event:
                    return event
        return None

    async def rest(self) -> list[dict[str, Any]]:
        """All that comes until it ends."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@asynccontextmanager
async def listening(
    address: Address, path: str, member: str = "ada", after: int | None = None
) -> AsyncIterator[Heard]:
    headers = {"x-api-key": member} | ({} if after is None else {"last-event-id": str(after)})
    async with (
        httpx.AsyncClient(trust_env=False, timeout=15) as client,
        client.stream("GET", f"{address.http}{path}", headers=headers) as response,
    ):
        yield Heard(response)


# ---------------------------------------------------------------- one job


async def test_a_job_is_told_from_its_beginning_to_its_end(
    address: Address, store: JobStore, feed: Feed
) -> None:
    job, _ = await store.accept(new_job(count=2), 0.0)
    await store.accept(new_job(), 0.0)
    async with listening(address, f"/api/jobs/{job.id}/events") as heard:
        assert heard.response.headers["content-type"].startswith("text/event-stream")
        assert heard.response.headers["x-accel-buffering"] == "no"
        assert heard.response.headers["cache-control"] == "no-store"
        first = await heard.next()
        assert first is not None
        assert first["event"] == "event"
        assert first["data"]["event"] == "job.queued"
        assert first["id"] == first["data"]["id"] == 1
        await work_off(store, feed.nudge)
        rest = await heard.rest()
    assert [each["data"]["event"] for each in rest] == [
        "job.started",
        "item.running",
        "item.ready",
        "item.running",
        "item.ready",
        "job.completed",
    ]
    assert {each["data"]["job"] for each in rest} == {job.id}


async def test_who_comes_again_hears_the_rest_and_then_that_there_is_no_more(
    address: Address, store: JobStore
) -> None:
    job, _ = await store.accept(new_job(), 0.0)
    await work_off(store)
    path = f"/api/jobs/{job.id}/events"
    async with listening(address, path, after=3) as heard:
        assert [each["id"] for each in await heard.rest()] == [4, 5]
    async with listening(address, f"{path}?after=4") as heard:
        assert [each["id"] for each in await heard.rest()] == [5]
    async with listening(address, path, after=5) as heard:
        assert heard.response.status_code == 204
    async with listening(address, f"{path}?after=1", after=5) as heard:  # the header is newer
        assert heard.response.status_code == 204


async def test_the_end_of_an_earlier_attempt_is_not_the_end(
    address: Address, store: JobStore, feed: Feed
) -> None:
    job, _ = await store.accept(new_job(), 0.0)
    claimed = await store.claim("gpu", 1.0, lease=LEASE)
    assert claimed is not None
    await store.failed(claimed, Problem("failed", "it broke off"), 2.0)
    await store.retry(job.id, 3.0)
    async with listening(address, f"/api/jobs/{job.id}/events") as heard:
        told = []
        while (event := await heard.next()) is not None:
            told.append(event["data"]["event"])
            if told[-1] == "job.queued" and len(told) > 1:
                await work_off(store, feed.nudge)
    assert told.count("job.failed") == 1
    assert told[-1] == "job.completed"


async def test_a_job_of_which_nobody_knows_any_more_how_it_went(
    address: Address, store: JobStore
) -> None:
    job, _ = await store.accept(new_job(), 0.0)
    await work_off(store)
    await store.accept(new_job(), 9.0)
    await store.forget_events(8.0)
    async with listening(address, f"/api/jobs/{job.id}/events") as heard:
        (reset,) = await heard.rest()
        assert reset["event"] == "reset"
        assert reset["data"] == {"type": "reset", "last_event": 6}


# ---------------------------------------------------------------- all of a member's


async def test_a_member_hears_of_its_own_jobs_and_no_others(
    address: Address, store: JobStore, feed: Feed
) -> None:
    await store.accept(new_job(), 0.0)
    async with (
        listening(address, "/api/events") as ada,
        listening(address, "/api/events", "ben") as ben,
    ):
        assert await ada.next() == {
            "id": 1,
            "event": "welcome",
            "data": {"type": "welcome", "last_event": 1},
        }
        await ben.next()
        await store.accept(new_job("ben"), 0.0)
        await store.accept(new_job("ada"), 0.0)
        feed.nudge()
        for heard, number in ((ada, 3), (ben, 2)):
            event = await heard.next()
            assert event is not None
            assert event["id"] == number


async def test_over_reconnects_nothing_is_missed_and_nothing_told_twice(
    address: Address, store: JobStore, feed: Feed
) -> None:
    over = asyncio.Event()
    written: list[int] = []

    async def listen(chance: random.Random) -> list[int]:
        heard: list[int] = []
        while not over.is_set() or heard != written:
            after = heard[-1] if heard else 0
            async with listening(address, "/api/events", after=after) as stream:
                for _ in range(chance.randint(1, 20)):
                    if over.is_set() and heard == written:
                        break
                    event = await stream.next()
                    assert event is not None
                    if event["event"] == "event":
                        heard.append(event["id"])
            assert heard == sorted(set(heard))
        return heard

    tasks = [asyncio.create_task(listen(random.Random(seed))) for seed in range(4)]
    await asyncio.gather(
        *(write_at_random(store, random.Random(n), 60, feed.nudge) for n in (8, 9))
    )
    await store.accept(new_job(), 9.0)  # so that nobody waits for one that never comes
    written += [each.id for each in await store.events_after(0, owner="ada")]
    over.set()
    feed.nudge()
    async with asyncio.timeout(60):
        for heard in await asyncio.gather(*tasks):
            assert heard == written


async def test_a_member_that_is_removed_is_let_go(
    address: Address, doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "CHECK_EVERY", 0.02)
    async with listening(address, "/api/events") as heard:
        await heard.next()
        doors.removed.add("ada")
        assert await heard.next() is None


async def test_where_too_many_listen_it_is_said_before_an_answer_begins(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MOST_OF_ONE_MEMBER", 1)
    async with listening(address, "/api/events") as first:
        await first.next()
        async with listening(address, "/api/events") as second:
            assert second.response.status_code == 400
            assert json.loads(await second.response.aread())["error"]["code"] == "too_many"


# ---------------------------------------------------------------- silence, and those who go


async def test_a_silent_stream_says_that_it_is_still_there(address: Address) -> None:
    async with listening(address, "/api/events") as heard:
        await heard.next()
        async with asyncio.timeout(15):
            async for line in heard.lines:
                if line == ": still here":
                    break
            else:
                raise AssertionError("it ended")


async def test_who_hangs_up_is_noticed_at_once(store: JobStore) -> None:
    feed = Feed(store)
    async with serving_feed(feed, heartbeat=3600.0) as address:
        async with listening(address, "/api/events") as heard:
            await heard.next()
            assert feed.listeners == 1
        async with asyncio.timeout(20):
            while feed.listeners:  # noqa: ASYNC110 - nobody tells when one has gone
                await asyncio.sleep(0.02)


async def test_who_never_reads_is_let_go(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse.EventStream.__init__, "__kwdefaults__", {"reads_within": 0.5})
    plain = feeds._text
    monkeypatch.setattr(feeds, "_text", lambda document: plain({**document, "p": "x" * 100_000}))
    feed = Feed(store)
    async with serving_feed(feed) as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port, limit=1)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nX-API-Key: ada\r\n\r\n")
        await reader.read(1)
        async with asyncio.timeout(20):
            for _ in range(150):
                await store.accept(new_job(), 0.0)
                feed.nudge()
            while feed.listeners:  # noqa: ASYNC110 - nobody tells when one is let go
                await asyncio.sleep(0.02)
        writer.transport.abort()


async def test_the_ends_of_a_stream_leave_nothing_behind() -> None:
    ended = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            ended.append("events")

    async def refused() -> None:
        try:
            await asyncio.sleep(0.01)
        finally:
            ended.append("check")

    told = [each async for each in with_heartbeat(events(), 3600.0, refused)]
    assert told == [b"one"]
    assert ended == ["check", "events"]
    async with aclosing(with_heartbeat(events(), 3600.0, refused)) as stream:
        assert await anext(stream) == b"one"
    assert ended == ["check", "events"] * 2

    async def broken() -> None:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        [each async for each in with_heartbeat(events(), 3600.0, broken)]


# ---------------------------------------------------------------- what a caller says it heard


@pytest.mark.parametrize(
    ("header", "query", "expected"),
    [
        (None, "", None),
        ("7", "", 7),
        (None, "after=8", 8),
        ("7", "after=8", 7),
        ("", "after=8", 8),
        ("0", "", 0),
    ],
)
def test_which_event_was_heard_last(header: str | None, query: str, expected: int | None) -> None:
    assert last_event_of(asking(header, query)) == expected


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "9" * 30, "\u0663", "1 2"])
def test_what_is_no_event_is_refused(text: str) -> None:
    for header, query in ((text, ""), (None, f"after={text}")):
        with pytest.raises(Refused) as refused:
            last_event_of(asking(header, query))
        assert refused.value.code == "bad_request"


def asking(header: str | None, query: str) -> HTTPConnection:
    headers = [] if header is None else [(b"last-event-id", header.encode())]
    scope = {"type": "http", "headers": headers, "query_string": query.encode()}
    return HTTPConnection(scope)
