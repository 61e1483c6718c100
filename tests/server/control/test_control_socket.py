"""The control socket, with real sockets: uvicorn on one side, websockets on the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from server.config.show import load_show
from server.control import messages as control_messages
from server.control import socket as control_socket
from server.core.clock import SystemClock
from server.sockets import connection
from tests.helpers.screens import screen, web
from tests.helpers.servers import Address, serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt
from tests.helpers.technicians import line, technician

CUES = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), prompt(9, "b", id="b"), cue(60, "end")]
OPERATOR, VIEWER = "an operator's secret", "a viewer's secret"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=3, step=0.1), toml=MANUAL)


@pytest.fixture
async def address(tiny: TinyShow) -> AsyncIterator[Address]:
    async with serving(tiny.load()) as address:
        yield address


@pytest.fixture
async def guarded(tiny: TinyShow) -> AsyncIterator[Address]:
    tokens = {"UNDERSTUDY_OPERATOR_TOKEN": OPERATOR, "UNDERSTUDY_VIEWER_TOKEN": VIEWER}
    async with serving(load_show(tiny.folder, {}, tokens)) as address:
        yield address


async def assert_still_served(address: Address, token: str | None = None) -> None:
    async with technician(address, "after", token) as other:
        assert (await other.ask("state"))["ok"]


# ---------------------------------------------------------------- what it is told


async def test_welcome_then_a_whole_state(address: Address) -> None:
    before = SystemClock().now()
    async with technician(address) as foh:
        welcome, state = foh.heard[:2]
        commands = set(welcome.pop("commands"))
        assert {"go", "panic", "restore", "hold", "seek", "asrun", "identify"} <= commands
        assert before - 1 < welcome.pop("server_time") < before + 10
        epoch = welcome.pop("epoch")
        assert welcome == {"type": "welcome", "protocol": 1, "role": "operator", "name": "foh"}
        assert (state["type"], state["epoch"]) == ("state", epoch)
        told = state["state"]
        assert told["activation"] == "show"
        assert told["panic"] is None
        assert set(told) >= {
            "show", "screening", "position", "now", "standby", "next_cues", "mode", "coverage",
            "screens", "health",
        }  # fmt: skip


async def test_a_change_reaches_everybody_and_the_reply_the_caller(address: Address) -> None:
    async with technician(address) as foh, technician(address, "tablet") as tablet:
        reply = await foh.ask("standby", cue="b")
        assert reply["ok"]
        assert reply["result"]["standby"] == 2
        await tablet.until(lambda me: me.state["standby"]["cue"] == "b")
        assert tablet.of("reply") == []
        numbers = [state["seq"] for state in tablet.of("state")]
        assert numbers == sorted(set(numbers))
        (entry,) = tablet.state["commands"]
        assert (entry["command"], entry["sender"]) == ("standby", "foh (operator)")


async def test_a_restarted_server_has_another_epoch(tiny: TinyShow) -> None:
    epochs = []
    for _ in range(2):
        async with serving(tiny.load()) as address, technician(address) as foh:
            epochs.append(foh.of("welcome")[0]["epoch"])
    assert epochs[0] != epochs[1]


async def test_panic_outlives_the_server(tiny: TinyShow) -> None:
    async with serving(tiny.load()) as address, technician(address) as foh:
        assert (await foh.ask("panic"))["result"]["kept"] is True
        kept = json.loads((tiny.state / "panic.json").read_text())
        assert kept["by"] == "foh (operator)"  # on disk before it was answered
    async with serving(tiny.load()) as address, technician(address) as foh:
        assert foh.state["panic"]["by"] == "foh (operator)"
        async with screen(address) as kiosk:
            assert kiosk.snapshot["fade"]["black"] is True
        assert (await foh.ask("restore"))["result"]["kept"] is True
        assert not (tiny.state / "panic.json").exists()
    async with serving(tiny.load()) as address, technician(address) as foh:
        assert foh.state["panic"] is None


async def test_the_time_is_told(address: Address) -> None:
    async with technician(address) as foh:
        await foh.send({"type": "sync", "t0": 4.5})
        await foh.until(lambda me: me.of("sync"))
        (sync,) = foh.of("sync")
        assert sync["t0"] == 4.5
        assert sync["t1"] <= sync["t2"]


# ---------------------------------------------------------------- who may, once, in time


async def test_without_the_right_token_nobody_comes_in(guarded: Address) -> None:
    for token in (None, "", "wrong", OPERATOR + " "):
        async with line(guarded) as stranger:
            await stranger.send({"type": "hello", "protocol": 1, "name": "x", "token": token})
            assert await stranger.closed() == 1008
            told = [(message["type"], message.get("code")) for message in stranger.heard]
            assert told == [("error", "unauthorized")], token
    await assert_still_served(guarded, OPERATOR)


async def test_a_viewer_watches_and_may_not_operate(guarded: Address) -> None:
    async with (
        technician(guarded, "house", VIEWER) as house,
        technician(guarded, "foh", OPERATOR) as foh,
    ):
        assert house.of("welcome")[0]["role"] == "viewer"
        assert "go" not in house.of("welcome")[0]["commands"]
        for command in ("go", "panic", "seek", "reload"):
            reply = await house.ask(command)
            assert (reply["ok"], reply["error"]["code"]) == (False, "forbidden")
        assert (await house.ask("state"))["ok"]
        assert foh.state["screening"]["status"] == "waiting"
        await foh.ask("go")
        await house.until(lambda me: me.state["screening"]["status"] == "active")


async def test_a_replayed_id_takes_effect_once_over_two_connections(address: Address) -> None:
    message = {"id": "7", "command": "next", "args": {}}
    async with technician(address) as foh:
        first = await foh.give(message)
        assert await foh.give(message) == first
    async with technician(address) as foh:  # its line was lost, and it asks again
        assert await foh.give(message) == first
        assert foh.state["standby"]["cue"] == "b"
        other = await foh.give({**message, "command": "pause"})
        assert other["error"]["code"] == "id_reused"
    async with technician(address, "") as one, technician(address, "") as two:
        assert (await one.give({**message, "id": 1}))["ok"]
        assert (await two.give({**message, "id": 1}))["error"]["code"] == "no_such_cue"


async def test_expired_unknown_and_bad_commands_are_answered(address: Address) -> None:
    async with technician(address) as foh:
        late = {"id": "1", "command": "go", "ttl": 3, "sent_at": SystemClock().now() - 10}
        assert (await foh.give(late))["error"]["code"] == "expired"
        assert (await foh.give({"id": "2", "command": "go", "ttl": 0}))["error"][
            "code"
        ] == "expired"
        assert (await foh.ask("engage"))["error"]["code"] == "unknown_command"
        assert (await foh.ask("seek", time="soon"))["error"]["code"] == "bad_args"
        assert (await foh.ask("go", cue="nobody"))["error"]["code"] == "unknown_cue"
        assert foh.state["screening"]["status"] == "waiting"
        assert (await foh.give({"command": "go", "ttl": 3}))["ok"]  # an id is not needed
        assert (await foh.ask("go"))["error"]["code"] == "too_soon"


async def test_commands_of_one_technician_take_effect_in_their_order(address: Address) -> None:
    async with technician(address) as foh:
        for number, command in enumerate(("go", "pause", "resume", "pause")):
            await foh.send({"type": "command", "id": str(number), "command": command})
        await foh.until(lambda me: len(me.of("reply")) == 4)
        assert [reply["id"] for reply in foh.of("reply")] == ["0", "1", "2", "3"]
        assert all(reply["ok"] for reply in foh.of("reply"))
        assert foh.of("reply")[-1]["result"]["paused"] is True


# ---------------------------------------------------------------- crowds


async def test_a_thousand_that_never_say_hello_keep_nobody_out(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HELLO_WITHIN", 1.5)
    upgrade = (
        f"GET /ws/control HTTP/1.1\r\nHost: 127.0.0.1:{address.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    gone, half = 0, asyncio.Event()

    async def mute() -> None:
        nonlocal gone
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        try:
            writer.write(upgrade)
            while (heard := await reader.read(4096)) and b"\x88" not in heard:  # the goodbye
                pass  # or none: one that makes room for another connection is just ended
            gone += 1
            if gone == 500:
                half.set()
        except ConnectionResetError:
            gone += 1
        finally:
            writer.transport.abort()

    async with AsyncExitStack() as stack:
        foh = await stack.enter_async_context(technician(address))
        crowd = [asyncio.create_task(mute()) for _ in range(1000)]
        try:
            await half.wait()
            assert (await foh.ask("screens"))["ok"]
            await assert_still_served(address)
            async with asyncio.timeout(30):
                await asyncio.gather(*crowd)
        finally:
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
        assert (await foh.ask("go"))["ok"]


async def test_who_is_too_many_is_told_so(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "MOST_CLIENTS", 2)
    async with technician(address, "1") as one, technician(address, "2"):
        async with line(address) as third:
            await third.send({"type": "hello", "protocol": 1, "name": "3"})
            assert await third.closed() == 1013
            assert third.of("error")[0]["code"] == "too_many_clients"
        assert (await one.ask("state"))["ok"]


async def test_one_that_does_not_read_is_let_go_and_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READS_WITHIN", 0.3)
    marks = [cue(number, "navigate", route="/" + "x" * 180) for number in range(2000)]
    tiny = make_show(tmp_path / "show", [*marks, cue(3000, "end")], toml=MANUAL)
    async with (
        serving(tiny.load()) as address,
        technician(address) as foh,
        technician(address, "stuck") as stuck,
    ):
        await stuck.deaf()
        stuck.socket.transport.pause_reading()
        assert await technicians(address) == 2
        for number in range(control_socket.MOST_AT_ONCE - 1):
            await stuck.send({"type": "command", "id": number, "command": "cues"})
        async with asyncio.timeout(15):
            while await technicians(address) != 1:
                pass
            assert (await foh.ask("state"))["ok"]
        stuck.socket.transport.abort()


async def technicians(address: Address) -> int:
    async with web(address) as client:
        text = (await client.get("/metrics")).text
    (count,) = [row.split()[1] for row in text.splitlines() if row.startswith("understudy_techn")]
    return int(float(count))


async def test_a_technician_that_leaves_takes_its_commands_along(address: Address) -> None:
    async with technician(address) as foh:
        for number in range(20):
            await foh.send({"type": "command", "id": str(number), "command": "asrun"})
    await assert_still_served(address)


async def test_an_answer_that_cannot_be_encoded_is_one_all_the_same(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(*_: Any) -> str:
        raise TypeError("a set is not JSON serializable")

    async with technician(address) as foh:
        monkeypatch.setattr(control_messages, "reply", strange)
        assert (await foh.ask("state"))["error"]["code"] == "internal"
        monkeypatch.undo()
        assert (await foh.ask("state"))["ok"] is True


async def test_more_than_it_may_have_open_is_busy(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "MOST_AT_ONCE", 0)
    async with technician(address) as foh:
        assert (await foh.ask("state"))["error"]["code"] == "busy"
