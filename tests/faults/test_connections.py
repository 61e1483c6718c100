"""Connections that say nothing, that never end, that never read: the show has what it needs."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.config.sections import ServerSection
from server.network.connections import (
    BODY_RATE,
    BODY_WITHIN,
    Connection,
    ConnectionLimits,
    Connections,
)
from server.network.descriptors import FOR_THE_SHOW, raise_descriptor_limit, room_for_connections
from server.network.serving import connections_of
from tests.helpers.screens import screen, web
from tests.helpers.servers import Address, plain_environment, serving, serving_app
from tests.helpers.shows import TinyShow, cue, make_show, prompt

CUES = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]
UPGRADE = (
    b"GET /ws/screen HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
POST = b"POST /api/control/state HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything has a tenth of its time."""
    for name in ("server.network.protocols.HEAD_WITHIN", "server.network.connections.HEAD_WITHIN"):
        monkeypatch.setattr(name, 0.6)
    monkeypatch.setattr("server.network.protocols.BODY_WITHIN", 0.6)
    monkeypatch.setattr("server.network.connections.READS_WITHIN", 1.0)
    monkeypatch.setattr("server.network.connections.GONE_WITHIN", 0.6)
    monkeypatch.setattr("server.network.connections._LOOK_EVERY", 0.1)


@contextmanager
def crowd(address: Address, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say so much, and then nothing more."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", address.port))))
            found[-1].settimeout(10)
            found[-1].sendall(say)
        yield found


def ended(connection: socket.socket) -> bool:
    """Whether the server ends a connection, having said whatever it says."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


async def told(address: Address) -> list[str]:
    async with web(address) as client:
        state = (await client.get("/api/state")).json()
    return [each["code"] for each in state["health"]["conditions"]]


@pytest.mark.parametrize(
    "say",
    [b"", b"GET / HT", POST, POST + b"{"],
    ids=["nothing", "half a head", "no body", "half a body"],
)
@pytest.mark.usefixtures("hurry")
async def test_who_keeps_the_server_waiting_is_ended(tiny: TinyShow, say: bytes) -> None:
    async with serving(tiny.load()) as address:
        with crowd(address, 1, say) as (silent,):
            assert await asyncio.to_thread(ended, silent)


@pytest.mark.usefixtures("hurry")
async def test_a_drop_now_and_then_does_not_keep_a_second_head_alive(tiny: TinyShow) -> None:
    async with serving(tiny.load()) as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.write(b"GET / HTTP/1.1\r\n")
        drip = asyncio.create_task(_drip(writer))
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                while await reader.read(65536):
                    pass
        drip.cancel()
        await asyncio.gather(drip, return_exceptions=True)
        writer.close()


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x: y\r\n")
        await asyncio.sleep(0.1)


async def test_a_crowd_that_says_nothing_makes_room_and_is_told(tiny: TinyShow) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        address = await enter(serving(tiny.load(), limits=ConnectionLimits(20, 16)))
        wall, client = await enter(screen(address, "wall")), await enter(web(address))
        with crowd(address, 30) as silent, crowd(address, 30, UPGRADE):
            assert (await client.get("/healthz")).status_code == 200
            assert "connections_crowded" in await told(address)
            late = await enter(screen(address, "late"))
            assert late.welcome["screen"] == "late"
            metrics = (await client.get("/metrics")).text
            assert 'understudy_connections_ended_total{reason="crowded"}' in metrics
            assert await asyncio.to_thread(ended, silent[0])
        assert wall.socket.close_code is None
        before = len(wall.of("sync"))
        await wall.send({"type": "sync", "t0": 0.0})
        await wall.until(lambda me: len(me.of("sync")) > before)


async def test_those_who_are_known_make_room_for_nobody(tiny: TinyShow) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        address = await enter(serving(tiny.load(), limits=ConnectionLimits(3, 3)))
        known = [await enter(screen(address, name)) for name in "abc"]
        with crowd(address, 2) as (one, other):
            assert await asyncio.to_thread(ended, one)
            assert await asyncio.to_thread(ended, other)
        assert [each.socket.close_code for each in known] == [None] * 3


@asynccontextmanager
async def serving_much(size: int) -> AsyncIterator[tuple[Address, Connections]]:
    async def much(_request: Request) -> Response:
        return Response(bytes(size))

    app = Starlette(routes=[Route("/", much)])
    async with serving_app(app) as address:
        yield address, app.state.connections


@pytest.mark.usefixtures("hurry")
async def test_who_does_not_read_its_answer_is_ended_and_nothing_of_it_is_kept() -> None:
    async with serving_much(8 * 2**20) as (address, connections):
        with crowd(address, 3, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            async with asyncio.timeout(10):
                while len(connections) or not connections.ended:  # noqa: ASYNC110 - from outside
                    await asyncio.sleep(0.05)
        assert connections.ended["unread"] == 3


@pytest.mark.parametrize("after", ["close", "keep-alive"])
@pytest.mark.usefixtures("hurry")
async def test_over_a_slow_line_the_whole_of_an_answer_comes(after: str) -> None:
    # Our system holds megabytes, and takes more of us only once a third of them is gone.
    size = 24 * 2**20
    async with serving_much(size) as (address, connections):

        def sip() -> int:
            got, until = 0, time.monotonic() + 2.0
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # as much as a line
                slow.settimeout(10)
                slow.connect(("127.0.0.1", address.port))
                slow.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: {after}\r\n\r\n".encode())
                while got < size and (piece := slow.recv(32_768)):
                    got += len(piece)
                    if time.monotonic() < until:  # then all of the rest
                        time.sleep(0.1)
            return got

        assert await asyncio.to_thread(sip) >= size
        assert not connections.ended


@asynccontextmanager
async def serving_at_once() -> AsyncIterator[tuple[Address, Connections]]:
    """An application that answers before a body has come, and one that breaks."""

    async def hasty(_request: Request) -> Response:
        return Response("yes")

    async def broken(_request: Request) -> Response:
        raise RuntimeError("a mistake of ours")

    routes = [
        Route("/hasty", hasty, methods=["GET", "POST"]),
        Route("/broken", broken, methods=["GET", "POST"]),
    ]
    app = Starlette(routes=routes)
    async with serving_app(app) as address:
        yield address, app.state.connections


async def test_whoever_met_an_error_of_ours_is_told_that_the_line_ends() -> None:
    async with serving_at_once() as (address, connections), web(address) as client:
        for _ in range(50):
            answer = await client.get("/broken")
            assert (answer.status_code, answer.headers["connection"]) == (500, "close")
            # Had it not been told, this would go down a line that is being closed.
            assert (await client.get("/hasty")).text == "yes"
        assert not connections.ended


@pytest.mark.usefixtures("hurry")
async def test_a_body_that_comes_after_its_answer_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.network.serving._KEEP_ALIVE", 2)
    async with serving_at_once() as (address, connections):
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        for _ in range(2):
            writer.write(b"POST /hasty HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
            assert b"yes" in await reader.readuntil(b"yes")
            writer.write(b"late")
            await asyncio.sleep(1.0)  # longer than a head may take
            assert connections.of_phase("idle") == 1
        assert await asyncio.wait_for(reader.read(), 30) == b""
        assert not connections.ended
        writer.close()


@pytest.mark.usefixtures("hurry")
async def test_while_the_server_itself_stands_still_nobody_is_late() -> None:
    async with serving_at_once() as (address, connections):
        with crowd(address, 1) as (patient,):
            while not len(connections):  # noqa: ASYNC110 - from outside
                await asyncio.sleep(0.01)
            time.sleep(2.0)  # noqa: ASYNC251 - the loop is held, for longer than a head may take
            patient.sendall(b"GET /hasty HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"yes" in await asyncio.to_thread(patient.recv, 4096)
            assert not connections.ended


async def test_pings_whose_answers_are_not_read_are_not_answered(tiny: TinyShow) -> None:
    async with serving(tiny.load()) as address:
        with crowd(address, 1, UPGRADE) as (deaf,):
            pings = (b"\x89\xfd" + bytes(4) + bytes(125)) * 1000
            deaf.settimeout(2)

            def ping() -> None:
                for _ in range(100):
                    deaf.sendall(pings)

            await asyncio.to_thread(_until_it_blocks, ping)
            async with web(address) as client:
                assert (await client.get("/healthz")).status_code == 200


async def test_a_message_in_endless_pieces_ends_its_connection(tiny: TinyShow) -> None:
    first, more = b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4)
    async with serving(tiny.load()) as address:
        with crowd(address, 1, UPGRADE) as (endless,):
            assert b"101" in await asyncio.to_thread(endless.recv, 4096)
            endless.sendall(first + more * 3000)
            assert await asyncio.to_thread(ended, endless)


def _until_it_blocks(call: Any) -> None:
    try:
        call()
    except (TimeoutError, ConnectionError):
        return


def test_the_soft_limit_is_raised_to_the_hard_one_and_the_show_has_its_share() -> None:
    code = (
        "import resource, server.network.descriptors as d; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 900)); "
        "print(d.raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["900", "900"]
    assert room_for_connections(1000, 900) == 900 - FOR_THE_SHOW
    assert room_for_connections(1000, 65_536) == 1000
    assert room_for_connections(1000, None) == 1000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_descriptor_limit(most=16) == soft, "never lowered"


class Idle(asyncio.Transport):
    """A connection on which nothing happens."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent, self.aborted, self.closing = 0, False, False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent


async def test_an_address_has_its_share_and_whoever_speaks_for_many_has_all() -> None:
    section = ServerSection(
        max_connections=64, max_connections_per_address=16, trusted_proxies=("10.0.0.7",)
    )
    connections = connections_of(section)
    for host, most in (("10.0.0.8", 16), ("10.0.0.7", 24), ("127.0.0.1", 24)):
        opened = [Idle() for _ in range(24)]
        for transport in opened:
            connections.opened(transport, host)
        assert sum(not each.aborted for each in opened) == most, host
        assert not opened[-1].aborted, "the newest is heard first"
    assert len(connections) == 64
    # The crowd is where most are: whoever comes from elsewhere costs those nothing that are few.
    honest = Idle()
    assert connections.opened(honest, "10.0.0.9") is not None
    assert connections.opened(Idle(), "10.0.0.8") is not None
    assert not honest.aborted
    assert connections.ended["refused"] == 0


async def test_who_cannot_be_looked_at_does_not_end_the_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Odd(Idle):
        def get_write_buffer_size(self) -> int:
            raise ValueError("odd")

    class Gone(Idle):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            if name != "socket":
                return default
            closed = socket.socket()
            closed.close()
            return closed

    monkeypatch.setattr("server.network.connections._LOOK_EVERY", 0.1)
    monkeypatch.setattr("server.network.connections.HEAD_WITHIN", 1.0)
    gone = Gone()
    gone.unsent = 10
    connections = Connections()
    assert connections.opened(gone, "10.0.0.8") is not None
    connections.look()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    odd = Odd()
    assert connections.opened(odd, "10.0.0.8") is not None
    await asyncio.sleep(0.3)
    connections.closed(odd)
    async with asyncio.timeout(10):
        while not gone.aborted:  # noqa: ASYNC110 - from outside
            await asyncio.sleep(0.01)


async def test_time_runs_by_what_a_connection_is_about() -> None:
    now = [0.0]
    connections = Connections(monotonic=lambda: now[0])

    def opened() -> tuple[Idle, Connection]:
        transport = Idle()
        connection = connections.opened(transport, "127.0.0.1")
        assert connection is not None
        return transport, connection

    silent, _ = opened()
    sending, body = opened()
    body.becomes("body", 0.0, BODY_WITHIN)
    deaf, answer = opened()
    answer.becomes("answer", 0.0)
    leaving, _ = opened()
    leaving.closing = True
    known, screen = opened()
    screen.identified()
    for second in range(200):
        now[0] = float(second)
        body.received += BODY_RATE if second < 20 else 0
        deaf.unsent = 1000 if second >= 50 else 0
        connections.look()
        told = (silent.aborted, sending.aborted, deaf.aborted, leaving.aborted, known.aborted)
        assert told == (second >= 10, second >= 30, second >= 79, second >= 10, False), second
