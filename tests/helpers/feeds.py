"""A feed on a real database, served on real sockets, and those who listen to it."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from cache.tasks import cancel_and_wait
from generator.answers import JsonResponse
from generator.jobs.database import open_database
from generator.jobs.members import Member
from generator.jobs.migrations import upgrade
from generator.jobs.model import Problem
from generator.jobs.schema import members
from generator.jobs.store import Claimed, JobStore, NewItem, NewJob, NotCancellable, NothingToRetry
from server.core.clock import SystemClock
from server.core.refusal import Refused
from server.network.access import AccessDenied
from server.studio.event_stream import job_events, last_event_of, member_events
from server.studio.feed import Feed
from server.studio.socket import StudioSocket
from tests.helpers.servers import Address, serving_app
from tests.helpers.sockets import Message, SocketClient

OWNERS = ("ada", "ben")
LEASE = 30.0


def sqlite_in(folder: Path) -> sa.URL:
    """The address of a database that is not there yet."""
    return sa.URL.create("sqlite", database=str(folder / "studio.sqlite"))


def make_tables(url: sa.URL) -> None:
    """The tables, and the members."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        upgrade(connection)
        rows = [{"id": n, "name": n, "role": "client", "created_at": 0.0} for n in OWNERS]
        connection.execute(sa.insert(members), rows)
    engine.dispose()


@asynccontextmanager
async def opened(url: sa.URL, name: str = "here") -> AsyncIterator[JobStore]:
    """The jobs in a database."""
    async with open_database(url) as database:
        yield JobStore(database, name)
        # Threads still read for those who were cancelled; Postgres warns of lines that are dropped.
        await asyncio.sleep(0.2 if database.is_shared else 0.0)


def new_job(owner: str = "ada", count: int = 1) -> NewJob:
    """A job that nobody has asked for yet."""
    return NewJob(
        id=str(uuid.uuid4()),
        kind="draw",
        owner=owner,
        items=[NewItem(seed, {"seed": seed}) for seed in range(count)],
    )


async def work_off(store: JobStore, nudge: Callable[[], None] = lambda: None) -> list[Claimed]:
    """Take on and finish all that waits."""
    done = []
    while (claimed := await store.claim("gpu", 1.0, lease=LEASE)) is not None:
        nudge()
        await store.ready(claimed, 2.0, seconds=1.0, cost=0.0)
        nudge()
        done.append(claimed)
    return done


async def write_at_random(
    store: JobStore, chance: random.Random, count: int, nudge: Callable[[], None]
) -> None:
    """Ask, draw, fail, put back, cancel and ask again, so many times; it breathes now and then."""
    asked: list[str] = []
    for _ in range(count):
        what = chance.random()
        if what < 0.4 or not asked:
            owner = chance.choice(OWNERS)
            asked.append((await store.accept(new_job(owner, chance.randint(1, 3)), 0.0))[0].id)
        elif what < 0.8:
            claimed = await store.claim("gpu", 1.0, lease=LEASE)
            if claimed is not None and what < 0.6:
                await store.ready(claimed, 2.0, seconds=1.0, cost=0.0)
            elif claimed is not None and what < 0.7:
                await store.failed(claimed, Problem("failed", "it broke off"), 2.0)
            elif claimed is not None:
                await store.put_back(claimed, None, 2.0)
        else:
            try:
                await (store.cancel if what < 0.9 else store.retry)(chance.choice(asked), 3.0)
            except (NotCancellable, NothingToRetry):
                continue
        nudge()
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() / 100)


@asynccontextmanager
async def followed(feed: Feed) -> AsyncIterator[Feed]:
    """A feed that runs."""
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        await cancel_and_wait(task)


@dataclass
class Doors:
    """Who is let in: whoever brings a name for a token."""

    removed: set[str] = field(default_factory=set)
    broken: Exception | None = None

    async def member_of(self, _connection: HTTPConnection, token: str | None) -> Member:
        """See `MemberOf`."""
        if self.broken is not None:
            raise self.broken
        if token not in OWNERS or token in self.removed:
            raise AccessDenied("unauthorized", "a token is needed")
        return Member(token, token.title(), "client")

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse pages from elsewhere."""
        if connection.headers.get("origin"):
            raise AccessDenied("forbidden", "a page from elsewhere")


def feed_app(feed: Feed, doors: Doors, *, heartbeat: float = 15.0) -> Starlette:
    """The push routes, as the Studio mounts them."""
    counter = Counter("errors", "Of this application.", ["code"], registry=None)
    socket = StudioSocket(feed, SystemClock(), doors.check_origin, doors.member_of, counter)

    async def stream(request: Request) -> Response:
        token = request.headers.get("x-api-key")

        async def check() -> Member:
            return await doors.member_of(request, token)

        try:
            member, after = await check(), last_event_of(request)
            job = request.path_params.get("job")
            if job is None:
                return await member_events(feed, member.id, after, check, heartbeat=heartbeat)
            return await job_events(feed, member.id, job, after, check, heartbeat=heartbeat)
        except Refused as refused:
            return JsonResponse({"error": {"code": refused.code}}, status_code=400)

    return Starlette(
        routes=[
            WebSocketRoute("/ws/studio", socket.serve),
            Route("/api/events", stream),
            Route("/api/jobs/{job}/events", stream),
        ]
    )


@asynccontextmanager
async def serving_feed(
    feed: Feed, doors: Doors | None = None, *, heartbeat: float = 15.0
) -> AsyncIterator[Address]:
    """A feed that runs and is served; whoever still listens at the end is told that it ends."""
    app = feed_app(feed, doors or Doors(), heartbeat=heartbeat)
    async with serving_app(app) as address, followed(feed):
        yield address


@dataclass
class Ear(SocketClient[Message]):
    """One who listens on the Studio's socket."""

    def note(self, raw: str | bytes) -> Message:
        """See `SocketClient.note`."""
        message: Message = json.loads(raw)
        return message

    def of(self, kind: str) -> list[Message]:
        """Every message of a type."""
        return [message for message in self.heard if message["type"] == kind]

    @property
    def ids(self) -> list[int]:
        """Ids of the events that it heard."""
        return [message["id"] for message in self.of("event")]

    @property
    def told(self) -> list[str]:
        """What happened, as it heard it."""
        return [message["event"] for message in self.of("event")]


def line(address: Address) -> AbstractAsyncContextManager[Ear]:
    """An open socket on which nothing has been said yet."""
    return Ear.line(f"ws://{address.host}:{address.port}/ws/studio")


@asynccontextmanager
async def ear(
    address: Address, member: str = "ada", after: int | None = None
) -> AsyncIterator[Ear]:
    """One who listens and was welcomed."""
    async with line(address) as client:
        hello = {"type": "hello", "token": member}
        await client.send(hello if after is None else {**hello, "after": after})
        await client.until(lambda me: me.of("welcome"))
        yield client
