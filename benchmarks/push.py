"""From the commit of an event to a hundred who listen, one of whom never reads.

The Studio's feed and socket over a real database, beside a bare loop that broadcasts the same text
over sockets of the `websockets` library and keeps nothing. They take turns in one process, so that
whatever else the machine does meets both alike; those who listen are a process of their own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import sqlalchemy as sa
from uvicorn import Config
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.lengths import length
from benchmarks.machinery import PATIENCE, quantile, say, spread
from cache.tasks import cancel_and_wait
from generator.jobs.store import JobStore, NewItem, NewJob
from server.core.logs import configure_logs
from server.network.connections import Connections
from server.network.serving import uvicorn_config
from server.studio.feed import Feed
from tests.helpers.feeds import Doors, feed_app, followed, make_tables, opened, sqlite_in
from tests.helpers.servers import listening

LISTENERS = length(100, 5)
ROUNDS = length(6, 2)
A_ROUND = length(60, 5)
"""Events that are told in one turn."""

PACE = length(0.05, 0.02)
"""Seconds between two of them."""

_LOOP = Config("").get_loop_factory()
"""As the Studio is served."""

_SETTLE = length(1.0, 0.2)

Times = dict[int, float]
"""Monotonic seconds, by the event's number."""

Arrivals = list[tuple[int, int, float]]
"""Who heard which event, and when."""


def main() -> None:
    """Print the figures."""
    configure_logs("warning")
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    crowd = spawn.Process(target=_crowd, args=(theirs,))
    crowd.start()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            asyncio.Runner(loop_factory=_LOOP) as runner,
        ):
            told = runner.run(_tell(Path(folder), ours))
    finally:
        crowd.join(10)
        crowd.kill()
    say(
        f"\n{LISTENERS} listeners, one of whom never reads; {len(told.committed)} events, and as "
        f"many of a bare broadcast, in {ROUNDS} turns each, one every {PACE * 1e3:.0f} ms"
    )
    after, simple = _delays(told.committed, told.heard), _delays(told.bare, told.heard_bare)
    before = _delays(told.begun, told.heard)
    say(f"  from the end of the commit to each who listens: {spread(after)}")
    say(f"  from its beginning, the flush to the medium in: {spread(before)}")
    say(f"  a bare broadcast, kept nowhere:                 {spread(simple)}")
    say(f"  p95 is {quantile(after, 0.95) / quantile(simple, 0.95):.2f} times the bare loop's")
    say(f"  missed or heard twice: {_wrong(told.committed, told.heard)}")


def _delays(times: Times, heard: Arrivals) -> list[float]:
    return [at - times[number] for _, number, at in heard]


def _wrong(times: Times, heard: Arrivals) -> int:
    counted = Counter((who, number) for who, number, _ in heard)
    expected = [(who, number) for who in range(LISTENERS - 1) for number in times]
    return sum(1 for each in expected if counted[each] != 1)


# ---------------------------------------------------------------- the two that tell


@dataclass
class Told:
    """When what was told, in monotonic seconds by number, and what was heard of it.

    Attributes:
        begun: when the commit of an event began.
        committed: when it had ended, as far as whoever wrote it can tell.
        bare: when a message was given to the bare loop.
        heard: by those who listen to the feed.
        heard_bare: by those who listen to the bare loop.
    """

    begun: Times = field(default_factory=dict)
    committed: Times = field(default_factory=dict)
    bare: Times = field(default_factory=dict)
    heard: Arrivals = field(default_factory=list)
    heard_bare: Arrivals = field(default_factory=list)


async def _tell(folder: Path, crowd: Connection) -> Told:
    url = sqlite_in(folder)
    make_tables(url)
    told = Told()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened(url))
        feed = Feed(store)
        app = feed_app(feed, Doors())
        app.state.connections = connections = Connections()
        port = await stack.enter_async_context(listening(uvicorn_config(app, connections)))
        await stack.enter_async_context(followed(feed))
        lines: set[ServerConnection] = set()

        async def stay(line: ServerConnection) -> None:
            lines.add(line)
            await line.wait_closed()

        bare = await stack.enter_async_context(serve(stay, "127.0.0.1", 0, compression=None))
        crowd.send((port, next(iter(bare.sockets)).getsockname()[1]))
        await asyncio.to_thread(crowd.recv)  # all are there
        await asyncio.sleep(_SETTLE)
        for _ in range(ROUNDS):
            await _tell_of_jobs(store, feed, told)
            await _broadcast(lines, told)
        await asyncio.sleep(_SETTLE)
        crowd.send("enough")
        told.heard, told.heard_bare = await asyncio.to_thread(crowd.recv)
    return told


async def _tell_of_jobs(store: JobStore, feed: Feed, told: Told) -> None:
    began: list[float] = []

    def note(_connection: sa.Connection) -> None:
        began.append(time.monotonic())

    sa.event.listen(store.database.writer, "commit", note)
    try:
        for _ in range(A_ROUND):
            job = NewJob(str(uuid.uuid4()), "draw", "ada", [NewItem(0, {})])
            await store.accept(job, time.time())  # one event, and one commit
            number = len(told.committed) + 1
            told.committed[number] = time.monotonic()
            told.begun[number] = began[-1]
            feed.nudge()
            await asyncio.sleep(PACE)
    finally:
        sa.event.remove(store.database.writer, "commit", note)


async def _broadcast(lines: set[ServerConnection], told: Told) -> None:
    for _ in range(A_ROUND):
        number = len(told.bare) + 1
        job, at, data = str(uuid.uuid4()), time.time(), {"total": 1}
        event = {"type": "event", "id": number, "event": "job.queued", "job": job}
        told.bare[number] = time.monotonic()
        broadcast(lines, json.dumps({**event, "at": at, "data": data}))
        await asyncio.sleep(PACE)


# ---------------------------------------------------------------- those who listen


def _crowd(answer: Connection) -> None:
    feed, bare = answer.recv()
    answer.send(asyncio.run(_attend(feed, bare, answer)))


async def _attend(feed: int, bare: int, answer: Connection) -> tuple[Arrivals, Arrivals]:
    """Listen to both until it is enough."""
    heard: tuple[Arrivals, Arrivals] = ([], [])
    async with AsyncExitStack() as stack:
        tasks = []
        for port, path, arrivals in ((feed, "/ws/studio", heard[0]), (bare, "/", heard[1])):
            for who in range(LISTENERS):
                sleeps = who == LISTENERS - 1
                line = await stack.enter_async_context(_line(port, path, sleeps=sleeps))
                await line.send(json.dumps({"type": "hello", "token": "ada"}))
                if port == feed:
                    await line.recv()
                if sleeps:
                    line.transport.pause_reading()
                else:
                    tasks.append(asyncio.create_task(_listen(line, who, arrivals)))
        answer.send("all are there")
        await asyncio.to_thread(answer.recv)
        await cancel_and_wait(*tasks)
    return heard


def _line(port: int, path: str, *, sleeps: bool) -> connect:
    ours = socket.create_connection(("127.0.0.1", port))
    if sleeps:  # else the system would read megabytes for it
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    url = f"ws://127.0.0.1:{port}{path}"
    return connect(
        url, sock=ours, compression=None, max_queue=None, close_timeout=0.1, open_timeout=PATIENCE
    )


async def _listen(line: ClientConnection, who: int, arrivals: Arrivals) -> None:
    async for text in line:
        arrived = time.monotonic()
        message = json.loads(text)
        if message["type"] == "event":
            arrivals.append((who, message["id"], arrived))


if __name__ == "__main__":
    main()
