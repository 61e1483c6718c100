"""The job room under a crowd: what a post costs beside an empty one, and 10,000 jobs that wait.

The peer of a post is a route of Starlette's that reads JSON and answers 202, keeps nothing, and
is served as the Studio is. Thirty-two who ask are one process that writes bytes to connections
that stay open, as an HTTP client would cost more than what it measures. What waits for a request
that does nothing tells how long the Studio's loop is held up.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.lengths import length
from benchmarks.machinery import PATIENCE, Running, say, serving, spread
from benchmarks.shows import write_plain_show
from cache.tasks import cancel_and_wait
from server.core.logs import configure_logs
from server.network.connections import Connections
from server.network.serving import uvicorn_config

_CLIENTS = length(32, 4)
_POSTS = length(2_000, 12)
_ROUNDS = length(5, 2)
_WAITING = length(10_000, 40)
_ASKED = length(200, 5)
_LISTENERS = length(100, 3)
_CROWD_SECONDS = length(10.0, 1.0)
_PROBE_EVERY = 0.005
_LOOP: Final = uvicorn.Config("").get_loop_factory()

_ENGINES = (
    '[[engines]]\nname = "one"\nkind = "testcard"\n[[engines]]\nname = "two"\nkind = "testcard"\n'
)
_PROGRAM = '[programs.P0]\nmodel = "card"\nsteps = 10\nwidth = 512\nheight = 512\n'


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, _bare_route() as bare:
        write_plain_show(Path(folder), _ENGINES + _PROGRAM)
        with (
            serving(Path(folder), command=("studio", "serve")) as server,
            asyncio.Runner(loop_factory=_LOOP) as runner,
        ):
            runner.run(_measure(server, bare))


async def _measure(server: Running, bare: str) -> None:
    async with _line(server.address) as line:
        await line.ask("POST", "/api/queue/pause", b"{}")
    await _post(server.address, _CLIENTS)  # both have warmed up
    await _post(bare, _CLIENTS)
    empty = server.memory()
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(await _post(server.address, _POSTS))
        theirs.append(await _post(bare, _POSTS))
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    say(f"{_POSTS} posts by {_CLIENTS} at once, {_ROUNDS} rounds by turns, medians")
    say(f"  an empty route of Starlette's  {median(theirs):.0f} a second")
    say(f"  a job, on the medium           {median(ours):.0f} a second, {ratio:.2f} x")
    asked = _CLIENTS + _ROUNDS * _POSTS
    if asked < _WAITING:
        await _post(server.address, _WAITING - asked)
    grown = (server.memory() - empty) / 1e6
    say(f"{max(asked, _WAITING)} jobs wait: memory + {grown:.1f} MB, of {empty / 1e6:.0f}")
    async with _line(server.address) as line:
        newest = await line.json("/api/jobs?limit=50")
        for what, path in (
            ("a list of 50", "/api/jobs?limit=50"),
            ("a job", f"/api/jobs/{newest['jobs'][0]['id']}"),
            ("the queue", "/api/queue"),
        ):
            say(f"  {what:<14} {spread(await _timed(line, path))}")
    await _hold_up(server)


async def _hold_up(server: Running) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(_LISTENERS):
            await stack.enter_async_context(_listening(server))
        idle = await _waits(server)
        say(f"what does nothing waits, {_LISTENERS} listening, none drawing: {spread(idle)}")
        async with _line(server.address) as line:
            await line.ask("POST", "/api/queue/resume", b"{}")
        await asyncio.sleep(1.0)
        busy = await _waits(server)
        say(f"  two slots drawing:                                 {spread(busy)}")


async def _waits(server: Running) -> list[float]:
    """Seconds in which the smallest request is answered, asked again and again for a while."""
    took = []
    async with _line(server.address) as line:
        until = time.perf_counter() + _CROWD_SECONDS
        while (began := time.perf_counter()) < until:
            await line.ask("GET", "/api/me")
            took.append(time.perf_counter() - began)
            await asyncio.sleep(_PROBE_EVERY)
    return took


async def _timed(line: Line, path: str) -> list[float]:
    """Seconds that one answer takes, asked for one after the other."""
    took = []
    for _ in range(_ASKED):
        began = time.perf_counter()
        await line.ask("GET", path)
        took.append(time.perf_counter() - began)
    return took


async def _post(address: str, posts: int) -> float:
    """Posts a second, by `_CLIENTS` at once; each with a key of its own."""
    numbers = iter(range(posts))

    async def client() -> None:
        async with _line(address) as line:
            for number in numbers:
                body = json.dumps({"prompt": f"a lamp, number {number}", "n": 1}).encode()
                await line.ask("POST", "/api/jobs", body, key=str(uuid.uuid4()))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return posts / (time.perf_counter() - began)


# ---------------------------------------------------------------- who asks


@dataclass(frozen=True)
class Line:
    """A connection that stays open; one request after another."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, method: str, path: str, body: bytes = b"", key: str = "") -> bytes:
        """Ask for something; the body of the answer.

        Raises:
            RuntimeError: it was refused.
        """
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/json\r\nIdempotency-Key: {key}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", answer)
        told = await self.reader.readexactly(int(found[1]) if found else 0)
        if not answer.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"{method} {path}: {answer[:40]!r} {told[:200]!r}")
        return told

    async def json(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """What there is at `path`."""
        return json.loads(await self.ask("GET", path))


@asynccontextmanager
async def _line(address: str) -> AsyncIterator[Line]:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def _listening(server: Running) -> AsyncIterator[None]:
    async with connect(
        f"ws://{server.address}/ws/studio", compression=None, open_timeout=PATIENCE
    ) as line:
        await line.send(json.dumps({"type": "hello"}))
        task = asyncio.create_task(_hear(line))
        try:
            yield
        finally:
            await cancel_and_wait(task)


async def _hear(line: ClientConnection) -> None:
    async for _ in line:
        pass


# ---------------------------------------------------------------- the peer


@contextmanager
def _bare_route() -> Iterator[str]:
    """An empty route, served in a process of its own; where."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve_bare, args=(theirs,))
    process.start()
    theirs.close()  # so that nobody waits for a process that has ended
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join(10)
        process.kill()


def _serve_bare(answer: Connection) -> None:
    async def take(request: Request) -> Response:
        await request.json()
        return JSONResponse({"ok": True}, status_code=202)

    configure_logs("warning")
    app = Starlette(routes=[Route("/api/jobs", take, methods=["POST"])])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn_config(app, Connections())).run(sockets=[listener])


if __name__ == "__main__":
    main()
