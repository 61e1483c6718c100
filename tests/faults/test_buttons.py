"""What buttons send beside a command: it does what its label says, and letting go does nothing."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from typer.testing import CliRunner

from server.cli.main import app
from server.control.commands import COMMANDS
from server.control.osc import ROOT, OscEndpoint
from tests.helpers.house import House, house
from tests.helpers.osc import Surface, encoded, surface
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import MANUAL, Rhythm, cue, make_show, prompt
from tests.helpers.technicians import technician

CUES = [cue(0, "start"), prompt(5, "a", id="a"), prompt(10, "b", id="b"), cue(60, "end")]

RELEASED = '{"button":"released"}'


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, CUES, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL) as one:
        yield one


@pytest.fixture
async def desk(opened: House) -> AsyncIterator[Surface]:
    """A control surface, over real UDP."""
    endpoint = OscEndpoint(opened.dispatcher, (), opened.metrics)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: endpoint, local_addr=("127.0.0.1", 0)
    )
    try:
        async with surface(transport.get_extra_info("sockname")[1]) as one:
            yield one
    finally:
        await endpoint.aclose()


async def reply(desk: Surface, datagram: bytes) -> list[Any]:
    desk.send(datagram)
    async with asyncio.timeout(10):
        return await desk.replies.get()


def typed(address: str, types: bytes, values: bytes = b"") -> bytes:
    """A message that our encoder cannot make."""

    def padded(text: bytes) -> bytes:
        return text + bytes(4 - len(text) % 4)

    return padded(address.encode()) + padded(b"," + types) + values


async def test_a_stream_decks_panic_is_a_panic_and_its_release_is_nothing(
    opened: House, desk: Surface
) -> None:
    assert (await desk.ask("/understudy/panic", 1))[:2] == ["panic", "ok"]
    assert opened.playback.panicked is not None
    assert await desk.ask("/understudy/panic", 0) == ["panic", "ok", RELEASED]
    assert await desk.ask("/understudy/restore", 0) == ["restore", "ok", RELEASED]
    assert opened.playback.panicked is not None, "letting go restores nothing"
    assert (await desk.ask("/understudy/restore", 1))[:2] == ["restore", "ok"]
    assert opened.playback.panicked is None


async def test_go_pressed_and_let_go_goes_once_and_never_to_the_beginning(
    opened: House, desk: Surface
) -> None:
    assert (await desk.ask("/understudy/go", 1))[:2] == ["go", "ok"]
    await opened.play_to(7)
    before = opened.position_now()
    assert before is not None
    assert before > 5
    assert await desk.ask("/understudy/go", 0) == ["go", "ok", RELEASED]
    assert opened.position_now() == before
    assert [entry["command"] for entry in opened.log.entries] == ["go"]


async def test_a_cue_is_chosen_by_text_or_in_the_address_and_never_by_a_number(
    opened: House, desk: Surface
) -> None:
    command, code, message = await desk.ask("/understudy/go", 2)
    assert (command, code) == ("go", "bad_args")
    assert "/understudy/go/2" in message
    assert opened.position_now() is None
    assert (await desk.ask("/understudy/standby", "2"))[:2] == ["standby", "ok"]
    assert opened.playback.playhead.standby == 2
    assert (await desk.ask("/understudy/standby/a", 1.0))[:2] == ["standby", "ok"]
    assert opened.playback.playhead.standby == 1


@pytest.mark.parametrize(
    "beside",
    [
        encoded("/understudy/panic"),
        encoded("/understudy/panic", 1),
        encoded("/understudy/panic", 1.0),
        encoded("/understudy/panic", 127),
        encoded("/understudy/panic", True),
        encoded("/understudy/panic", "1"),
        encoded("/understudy/panic", ""),
        typed("/understudy/panic", b"N"),
        typed("/understudy/panic", b"I"),
        typed("/understudy/panic", b"d", struct.pack(">d", 1.0)),
        typed("/understudy/panic", b"h", struct.pack(">q", 1)),
    ],
)
async def test_no_button_is_refused_a_panic(opened: House, desk: Surface, beside: bytes) -> None:
    assert (await reply(desk, beside))[:2] == ["panic", "ok"]
    assert opened.playback.panicked is not None


async def test_a_bundle_for_another_time_is_meant_now(opened: House, desk: Surface) -> None:
    bundle = OscBundleBuilder(2_000_000_000)  # in 2033, by its time tag
    bundle.add_content(OscMessage(encoded("/understudy/panic", 1)))
    bundle.add_content(OscMessage(encoded("/understudy/panic", 0)))
    desk.send(bundle.build().dgram)
    async with asyncio.timeout(10):
        answers = [await desk.replies.get(), await desk.replies.get()]
    assert sorted(answer[2] == RELEASED for answer in answers) == [False, True]
    assert opened.playback.panicked is not None


async def test_every_command_is_in_the_table_and_takes_a_release(
    tmp_path: Path, opened: House, desk: Surface
) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=2, step=0.1))
    async with serving(tiny.load()) as address, technician(address) as operator:
        welcome = operator.of("welcome")[0]
    assert set(welcome["commands"]) == set(COMMANDS)
    for command, declared in opened.dispatcher.commands.items():
        if not declared.is_number:
            answer = await desk.ask(ROOT + command.replace(".", "/"), 0)
            assert answer == [command, "ok", RELEASED]
    assert not opened.log.entries


async def test_over_http_a_number_is_a_button_as_well(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=2, step=0.1))
    async with serving(tiny.load()) as address, web(address) as client:

        async def post(path: str, content: str = "") -> tuple[int, dict[str, Any]]:
            answer = await client.post(f"/api/control/{path}", content=content)
            return answer.status_code, answer.json()

        async def panicked() -> bool:
            return (await client.get("/api/state")).json()["panic"] is not None

        assert (await post("panic?1"))[0] == 200
        assert await panicked()
        for released in (("restore?0", ""), ("restore", "0"), ("restore", "false")):
            assert await post(*released) == (200, {"ok": True, "result": json.loads(RELEASED)})
        assert await panicked()
        assert (await post("restore", "1"))[0] == 200
        assert not await panicked()
        status, body = await post("go?cue=b")
        assert (status, body["error"]["code"]) == (400, "bad_args")
        assert "cue: expected in the body, as JSON" in body["error"]["message"]
        state = (await client.get("/api/state")).json()
        assert state["position"] is None, "without its cue, another would have gone"


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [(["go", "1"], "go takes cue=…"), (["panic", "1"], "panic takes no arguments")],
)
def test_in_a_terminal_a_bare_number_is_told_what_the_command_takes(
    arguments: list[str], helps: str
) -> None:
    result = CliRunner().invoke(app, ["control", *arguments])
    assert result.exit_code == 2
    assert helps in result.output
