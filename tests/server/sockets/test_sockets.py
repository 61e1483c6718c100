"""What all sockets have in common: one contract, run over each of them on a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.core.clock import VirtualClock
from server.network.serving import MAX_MESSAGE
from server.sockets import connection
from server.sockets.connection import (
    InboundLimiter,
    PendingHandshakes,
    ProtocolAbuse,
    side_by_side,
)
from tests.helpers.screens import command, screen
from tests.helpers.servers import Address, ServerProcess, server_process, serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt
from tests.helpers.sockets import Message, SocketClient
from tests.server.sockets.test_messages import NONSENSE, VALUES, of

CUES = [prompt(0, "a lamp", id="lamp"), cue(60, "end")]
RHYTHM = Rhythm(previews=4, step=0.2, first=0.4)


class Peer(SocketClient[Message]):
    """Somebody on any of the sockets; what is no JSON is noted as a type."""

    def note(self, raw: str | bytes) -> Message:
        message: Message = json.loads(raw) if raw[:1] == "{" else {"type": raw}
        return message

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.heard if message["type"] == kind]

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in self.of("error")]

    async def told(self, kind: str) -> None:
        await self.until(lambda me: me.of(kind), why=f"no {kind}")


@dataclass(frozen=True)
class Wire:
    """One socket's path, and how somebody honest speaks there.

    Attributes:
        most_silent: the setting of how many may be silent.
        hello: the first message, None where there is none.
        welcome: the type of the first answer.
        ping: what is always answered, with a message of type `pong`.
        turned_away: the code for who has to make room.
    """

    path: str
    most_silent: str
    hello: Message | None = None
    welcome: str = "welcome"
    ping: str = '{"type": "sync", "t0": 7.5}'
    pong: str = "sync"
    turned_away: int = 1008

    def line(self, address: Address, **options: Any) -> AbstractAsyncContextManager[Peer]:
        """A socket on which nothing has been said yet."""
        return Peer.line(f"ws://{address.host}:{address.port}{self.path}", **options)

    @asynccontextmanager
    async def client(self, address: Address) -> AsyncIterator[Peer]:
        """Somebody who has said hello, and was heard."""
        async with self.line(address) as peer:
            if self.hello is not None:
                await peer.send(self.hello)
            await peer.told(self.welcome)
            yield peer

    async def assert_served(self, peer: Peer) -> None:
        before = len(peer.of(self.pong))
        await peer.send(self.ping)
        await peer.until(lambda me: len(me.of(self.pong)) > before)


@asynccontextmanager
async def a_run_undisturbed(address: Address) -> AsyncIterator[None]:
    """A picture that comes to the wall whole and in time, whatever is done meanwhile."""
    async with screen(address, "good") as good:
        await command(address, "go", cue="lamp")
        await good.until(lambda me: me.runs)
        yield
        (run,) = good.runs
        await good.until(lambda me: run in {end.message["run"] for end in me.of("run_end")})
        frames = good.frames_of(run)
        assert len(frames) == RHYTHM.frames
        assert good.server_time(frames[-1]) <= frames[-1].message["present_at"]
        assert not good.of("error")


SCREEN = Wire(
    "/ws/screen",
    "server.stage.screens.MOST_SILENT",
    {"type": "hello", "protocol": 1, "screen": "wall", "frames": "url"},
)
CONTROL = Wire(
    "/ws/control",
    "server.control.socket.MOST_SILENT",
    {"type": "hello", "protocol": 1, "name": "foh"},
)
OLDER = Wire(
    "/ws",
    "server.older_wire.socket.MOST_CLIENTS",
    welcome="ready",
    ping="ping",
    pong="pong",
    turned_away=1013,
)
every_wire = pytest.mark.parametrize("wire", [SCREEN, CONTROL, OLDER], ids=lambda wire: wire.path)
json_wire = pytest.mark.parametrize("wire", [SCREEN, CONTROL], ids=lambda wire: wire.path)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all those who mean it ill."""
    folder = tmp_path_factory.mktemp("abused") / "show"
    make_show(folder, CUES, rhythm=RHYTHM, toml=MANUAL)
    with server_process(folder) as server:
        yield server


# ---------------------------------------------------------------- who may come


@every_wire
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1:1", "null", "http://127.0.0.1.evil.example"],
)
async def test_a_page_from_elsewhere_is_refused(
    process: ServerProcess, wire: Wire, origin: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with wire.line(process.address, origin=origin):
            pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "forbidden"


@every_wire
async def test_our_own_page_is_let_in(process: ServerProcess, wire: Wire) -> None:
    async with wire.line(process.address, origin=process.address.http):
        pass


@every_wire
async def test_a_foreign_name_for_this_machine_is_refused(
    process: ServerProcess, wire: Wire
) -> None:
    port = process.address.port
    foreign = Address(port, "rebound.example")
    with pytest.raises(InvalidStatus) as refused:
        async with wire.line(
            foreign, host="127.0.0.1", port=port, origin=f"http://rebound.example:{port}"
        ):
            pass
    assert refused.value.response.status_code == 403


# ---------------------------------------------------------------- who says nothing


@every_wire
async def test_a_silent_crowd_makes_way_for_somebody_honest(
    tiny: TinyShow, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire.most_silent, 3)
    async with serving(tiny.load(server={"max_screens": 3})) as address, AsyncExitStack() as stack:
        crowd = []
        for _ in range(3):
            crowd.append(await stack.enter_async_context(wire.line(address)))
            await asyncio.sleep(0.05)
        async with wire.client(address) as honest:
            assert await crowd[0].closed() == wire.turned_away
            await wire.assert_served(honest)
        assert [each.socket.close_code for each in crowd[1:]] == [None, None]


@every_wire
async def test_who_says_nothing_is_let_go_where_hello_is_wanted(
    tiny: TinyShow, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HELLO_WITHIN", 0.2)
    async with serving(tiny.load()) as address, wire.line(address) as mute:
        if wire.hello is not None:
            assert await mute.closed() == 1008
            assert mute.heard == []
        else:
            await asyncio.sleep(0.4)
            await wire.assert_served(mute)


# ---------------------------------------------------------------- who says too much


@pytest.mark.pace
@every_wire
async def test_a_flood_is_held_back_and_nobody_else_notices(
    process: ServerProcess, wire: Wire
) -> None:
    address = process.address
    async with wire.client(address) as good, wire.client(address) as flood:

        async def pour() -> None:
            with suppress(ConnectionClosed):
                for _ in range(3000):
                    await flood.send(wire.ping)

        pouring = asyncio.create_task(pour())
        if wire.hello is not None:
            await flood.told("error")
            assert flood.codes[0] == "too_many"
        else:
            assert await flood.closed() == 1013
        for _ in range(5):
            began = time.monotonic()
            await wire.assert_served(good)
            assert time.monotonic() - began < 1.0
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)
        flood.socket.transport.abort()  # it would wait for an answer to its goodbye


@pytest.mark.pace
@every_wire
async def test_a_huge_message_closes_its_socket_alone(process: ServerProcess, wire: Wire) -> None:
    address = process.address
    async with a_run_undisturbed(address), wire.client(address) as huge:
        with suppress(ConnectionClosed):
            await huge.send("x" * (MAX_MESSAGE + 1))
        assert await huge.closed() == 1009
        async with wire.client(address) as below:
            await below.send("x" * MAX_MESSAGE)
            answer = "error" if wire.hello else "unknown command: xxx"
            await below.until(lambda me: me.heard[-1]["type"].startswith(answer))
            assert below.codes == (["too_large"] if wire.hello else [])


async def test_what_an_older_client_sends_in_binary_is_unknown(process: ServerProcess) -> None:
    async with OLDER.client(process.address) as client:
        await client.send(b"\x00\x01")
        await client.told("unknown command: (binary)")
        await OLDER.assert_served(client)


@pytest.mark.parametrize(
    ("wire", "said", "code"),
    [
        *((wire, said, code) for wire in (SCREEN, CONTROL) for said, code in NONSENSE[::4]),
        *((wire, b'{"type": "sync", "t0": 1}', "binary") for wire in (SCREEN, CONTROL)),
        (SCREEN, of("presented", run="r", step=1, at=-1e308), "bad_time"),
        (SCREEN, of("hello", protocol=1, screen="\u0000 \u001b"), "hello_again"),
        (SCREEN, of("log", message="x" * 16384), "too_large"),
        (CONTROL, of("command", command="go", args={"x": "y" * 70_000}), "too_large"),
    ],
)
async def test_what_cannot_be_taken_is_answered_and_forgiven(
    process: ServerProcess, wire: Wire, said: str | bytes, code: str
) -> None:
    async with wire.client(process.address) as other, wire.client(process.address) as client:
        await client.send(said)
        await client.told("error")
        (error,) = client.of("error")
        assert set(error) == {"type", "code", "message"}
        assert error["code"] == code
        assert error["message"]
        await wire.assert_served(client)
        await wire.assert_served(other)


_fields = dict.fromkeys(("protocol", "screen", "frames", "run", "step", "at", "command"), VALUES)
_nearly = st.fixed_dictionaries(
    {"type": st.sampled_from(["hello", "sync", "presented", "log", "error", "command"])},
    optional={**_fields, "t0": VALUES, "args": VALUES, "level": VALUES, "message": VALUES},
)


@json_wire
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.text(max_size=200)
        | st.binary(max_size=200)
        | VALUES.map(json.dumps)
        | _nearly.map(json.dumps),
        max_size=9,
    )
)
async def test_whatever_is_said_the_socket_lives(
    process: ServerProcess, wire: Wire, messages: list[str | bytes]
) -> None:
    async with wire.client(process.address) as client:
        for message in messages:
            with suppress(UnicodeEncodeError):  # which is never sent
                await client.send(message)
        await wire.assert_served(client)


@json_wire
async def test_hello_is_said_first_once_and_of_this_protocol(
    process: ServerProcess, wire: Wire
) -> None:
    async with wire.line(process.address) as client:
        await client.send(wire.ping)
        await client.send(wire.hello)
        await client.told("welcome")
        assert client.codes == ["hello_first"]
        await client.send(wire.hello)
        await wire.assert_served(client)
        assert client.codes == ["hello_first", "hello_again"]
    async with wire.line(process.address) as client:
        await client.send({**(wire.hello or {}), "protocol": 2})
        assert await client.closed() == 1008
        assert client.codes == ["unknown_protocol"]


@pytest.mark.pace
@json_wire
async def test_repeated_abuse_is_closed_and_nobody_else_notices(
    process: ServerProcess, wire: Wire
) -> None:
    address = process.address
    async with (
        a_run_undisturbed(address),
        wire.client(address) as good,
        wire.client(address) as bad,
    ):
        with suppress(ConnectionClosed):
            for _ in range(200):
                await bad.send("nonsense")
                await asyncio.sleep(0.005)
        assert await bad.closed() == 1008
        assert 10 <= len(bad.codes) <= 12
        assert set(bad.codes) == {"malformed"}
        await wire.assert_served(good)


def test_after_all_that_the_server_is_well(process: ServerProcess) -> None:
    assert process.state()["activation"] == "show"
    log = process.log.read_text()
    assert "Traceback" not in log
    assert "Exception in ASGI" not in log


# ---------------------------------------------------------------- the parts


async def test_so_many_handshakes_may_be_pending_and_the_newest_are() -> None:
    room, sent_away = PendingHandshakes(3), []

    async def wait(name: int) -> None:
        try:
            async with room.wait(60):
                await asyncio.Event().wait()
        except TimeoutError:
            sent_away.append(name)

    waiting = []
    for name in range(10):
        waiting.append(asyncio.create_task(wait(name)))
        await asyncio.sleep(0)
        assert len(room) <= 3
    await asyncio.wait(waiting[:7])
    assert sent_away == [0, 1, 2, 3, 4, 5, 6]
    assert len(room) == 3
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(room) == 0


async def test_who_says_hello_leaves_a_seat_and_its_time_is_its_own_again() -> None:
    room = PendingHandshakes(1)
    async with room.wait(0.05):
        assert len(room) == 1
    assert len(room) == 0
    async with room.wait(60):
        await asyncio.sleep(0.1)
    assert len(room) == 0


class Picture:
    """Something large."""


async def test_of_works_that_end_by_an_error_nothing_lies_about() -> None:
    held: list[weakref.ref[Picture]] = []
    others: list[str] = []

    async def fails() -> None:
        picture = Picture()
        held.append(weakref.ref(picture))
        await asyncio.sleep(0)
        raise OSError("it broke")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            others.append("ended")

    gc.collect()
    gc.disable()
    try:
        with suppress(OSError):
            await side_by_side(waits(), fails(), waits())
        assert others == ["ended", "ended"]
        await asyncio.sleep(0)
        assert held[0]() is None
    finally:
        gc.enable()


def test_the_limiter_takes_a_burst_then_a_rate() -> None:
    clock = VirtualClock()
    limiter = InboundLimiter(clock, rate=10, burst=5)
    assert [limiter.message() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.jump(0.25)
    assert [limiter.message() for _ in range(3)] == [True, True, False]
    clock.jump(100)
    assert [limiter.message() for _ in range(6)] == [True] * 5 + [False]


def test_the_limiter_ends_with_the_eleventh_strike_of_a_minute() -> None:
    clock = VirtualClock()
    limiter = InboundLimiter(clock)
    for _ in range(10):
        limiter.strike()
    clock.jump(61)
    for _ in range(10):
        limiter.strike()
    with pytest.raises(ProtocolAbuse):
        limiter.strike()
