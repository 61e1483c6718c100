from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from typer.testing import CliRunner

from server.cli.main import app
from server.config.sections import ServerSection
from server.config.settings import SettingsError, load_settings
from server.config.show import load_show
from server.control.command import CommandError
from server.control.commands import COMMANDS
from server.control.osc import (
    ROOT,
    BadDatagram,
    OscCommand,
    OscEndpoint,
    OscNotHeard,
    hear_osc,
    messages_of,
    understand,
)
from server.core.background_jobs import BackgroundJobs
from server.core.clock import SystemClock
from tests.helpers.house import House, house
from tests.helpers.osc import Surface, encoded, surface
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import MANUAL, Rhythm, cue, make_show, prompt
from tests.helpers.technicians import technician

RELEASED = '{"button":"released"}'
CUES = [cue(0, "start"), prompt(5, "a", id="a"), prompt(10, "b", id="b"), cue(60, "end")]


@asynccontextmanager
async def listening(at: House, *senders: str) -> AsyncIterator[int]:
    """An endpoint of a house at a free port."""
    loop = asyncio.get_running_loop()
    endpoint = OscEndpoint(at.dispatcher, senders, at.metrics)
    transport, _ = await loop.create_datagram_endpoint(
        lambda: endpoint, local_addr=("127.0.0.1", 0)
    )
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        await endpoint.aclose()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, CUES, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL) as one:
        yield one


@pytest.fixture
async def desk(opened: House) -> AsyncIterator[Surface]:
    """A control surface, over real UDP."""
    async with listening(opened) as port, surface(port) as one:
        yield one


# ---------------------------------------------------------------- what a message means


def asked(command: str, *, released: bool = False, **args: Any) -> OscCommand:
    return OscCommand(command, args, released)


@pytest.mark.parametrize(
    ("address", "params", "expected"),
    [
        ("/understudy/go", [], asked("go")),
        ("/understudy/go", ["b"], asked("go", cue="b")),
        ("/understudy/go", ["2"], asked("go", cue="2")),
        ("/understudy/go/2", [], asked("go", cue="2")),
        ("/understudy/go/2", [1], asked("go", cue="2")),
        ("/understudy/go", [1], asked("go")),
        ("/understudy/go", [0], asked("go", released=True)),
        ("/understudy/go", [None], asked("go")),
        ("/understudy/pause", [1], asked("pause")),
        ("/understudy/pause", [127], asked("pause")),
        ("/understudy/pause", [0.7], asked("pause")),
        ("/understudy/pause", [True], asked("pause")),
        ("/understudy/pause", [None], asked("pause")),
        ("/understudy/pause", [""], asked("pause")),
        ("/understudy/pause", ["1"], asked("pause")),
        ("/understudy/pause", [0], asked("pause", released=True)),
        ("/understudy/pause", [-0.0], asked("pause", released=True)),
        ("/understudy/pause", ["0"], asked("pause", released=True)),
        ("/understudy/mode/release", [1], asked("mode.release")),
        ("/understudy/mode/release", [0], asked("mode.release", released=True)),
        ("/understudy/standby", [1], asked("standby")),
        ("/understudy/standby/b", [0], asked("standby", cue="b", released=True)),
        ("/understudy/seek/00:00:05", [1.0], asked("seek", time="00:00:05")),
        ("/understudy/seek/00:00:05", [0], asked("seek", time="00:00:05", released=True)),
        ("/understudy/asrun", [1], asked("asrun", limit=1)),
        ("/understudy/mode/force/static", [600], asked("mode.force", mode="static", until=600)),
        ("/understudy/mode/force", ["static", 1], asked("mode.force", mode="static")),
        ("/understudy/go/b", [], asked("go", cue="b")),
        ("/understudy/go", [1.0], asked("go")),
        ("/understudy/go", [True], asked("go")),
        ("/understudy/go/b", [1.0], asked("go", cue="b")),
        ("/understudy/go", [0.0], asked("go", released=True)),
        ("/understudy/go/b", [0.0], asked("go", cue="b", released=True)),
        ("/understudy/pause", [False], asked("pause", released=True)),
        ("/understudy/mode/force", ["static"], asked("mode.force", mode="static")),
        ("/understudy/mode/force/live", [1.0], asked("mode.force", mode="live")),
        ("/understudy/mode/force/live", [0.0], asked("mode.force", mode="live", released=True)),
        (
            "/understudy/mode/force",
            ["static", 600, "GPU noisy"],
            asked("mode.force", mode="static", until=600, reason="GPU noisy"),
        ),
        (
            "/understudy/mode/force",
            ["static", "", "", "b"],
            asked("mode.force", mode="static", cue="b"),
        ),
        ("/understudy/mode/release", [], asked("mode.release")),
        ("/understudy/identify/north wall", [], asked("identify", screen="north wall")),
        ("/understudy/seek", [0.0], asked("seek", time=0.0)),
        ("/understudy/seek", ["00:00:05"], asked("seek", time="00:00:05")),
        ("/understudy/asrun", [5], asked("asrun", limit=5)),
    ],
)
def test_what_a_message_means(address: str, params: list[Any], expected: OscCommand) -> None:
    assert understand(address, params, COMMANDS) == expected


@pytest.mark.parametrize(
    ("address", "params", "code"),
    [
        ("/understudy", [], "unknown_command"),
        ("/understudy/", [], "unknown_command"),
        ("/understudy/engage", [], "unknown_command"),
        ("/understudy/mode", ["static"], "unknown_command"),
        ("/go", [], "unknown_command"),
        ("go", [], "unknown_command"),
        ("/understudy/pause", ["now"], "bad_args"),
        ("/understudy/pause/now", [], "bad_args"),
        ("/understudy/go", ["a", "b"], "bad_args"),
        ("/understudy/go", [b"blob"], "bad_args"),
        ("/understudy/go", [2], "bad_args"),
        ("/understudy/go", [0.5], "bad_args"),
        ("/understudy/standby", [12], "bad_args"),
        ("/understudy/pause", [1, 1], "bad_args"),
        ("/understudy/pause", [b"blob"], "bad_args"),
        ("/understudy/seek", [1.0, 2.0], "bad_args"),
    ],
)
def test_what_means_nothing(address: str, params: list[Any], code: str) -> None:
    with pytest.raises(CommandError) as error:
        understand(address, params, COMMANDS)
    assert error.value.code == code


def test_a_bundle_is_its_messages_in_order() -> None:
    inner = OscBundleBuilder(IMMEDIATELY)
    inner.add_content(OscMessage(encoded("/understudy/go", "b")))
    outer = OscBundleBuilder(IMMEDIATELY)
    outer.add_content(OscMessage(encoded("/understudy/standby", "a")))
    outer.add_content(inner.build())
    assert list(messages_of(outer.build().dgram)) == [
        ("/understudy/standby", ["a"]),
        ("/understudy/go", ["b"]),
    ]


@pytest.mark.parametrize("size", [-4, -1, 0, 2**31 - 1, 3])
def test_a_bundle_whose_sizes_lie_is_refused(size: int) -> None:
    bundle = b"#bundle\0" + bytes(8) + struct.pack(">i", size) + b"ab"
    with pytest.raises(BadDatagram):
        list(messages_of(bundle))


def test_bundles_in_bundles_without_end_are_refused() -> None:
    bundle = encoded("/understudy/go")
    for _ in range(200):
        bundle = b"#bundle\0" + bytes(8) + struct.pack(">i", len(bundle)) + bundle
    with pytest.raises(BadDatagram):
        list(messages_of(bundle))


def after(start: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=80).map(lambda rest: start + rest)


@given(
    st.one_of(
        st.binary(max_size=120), after(b"#bundle\0"), after(b"/understudy/go\0\0,sif\0\0\0\0")
    )
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_osc_or_refused(datagram: bytes) -> None:
    try:
        for address, params in messages_of(datagram):
            understand(address, params, COMMANDS)
    except (BadDatagram, CommandError):
        pass


# ---------------------------------------------------------------- over real UDP


async def test_a_surface_operates_and_hears_the_outcome(opened: House) -> None:
    async with listening(opened) as port, surface(port) as desk:
        command, code, result = await desk.ask("/understudy/go")
        assert (command, code) == ("go", "ok")
        assert json.loads(result)["status"] == "active"
        assert (await desk.ask("/understudy/go"))[:2] == ["go", "too_soon"]
        assert (await desk.ask("/understudy/panic", 1.0))[:2] == ["panic", "ok"]
        assert await desk.ask("/understudy/panic", 0.0) == ["panic", "ok", RELEASED]
        assert opened.playback.panicked is not None
        command, code, message = await desk.ask("/understudy/go", "nobody")
        assert (command, code) == ("go", "panicked")
        assert "restore" in message
        assert (await desk.ask("/understudy/restore"))[:2] == ["restore", "ok"]
        assert (await desk.ask("/understudy/engage"))[:2] == ["engage", "unknown_command"]
        assert (await desk.ask("/understudy/state"))[:2] == ["state", "ok"]
    senders = {entry["sender"] for entry in opened.log.entries}
    assert senders == {"osc 127.0.0.1 (operator)"}


async def test_nonsense_and_strangers_get_no_answer(opened: House) -> None:
    async with listening(opened, "10.0.0.7", "192.168.4.0/24") as port, surface(port) as desk:
        desk.send(encoded("/understudy/go"))
        refused = opened.metrics.control_errors.labels(code="forbidden")
        async with asyncio.timeout(10):
            while refused._value.get() < 1:  # noqa: ASYNC110 - nobody tells a stranger
                await asyncio.sleep(0.01)
        assert desk.replies.empty()
    async with listening(opened) as port, surface(port) as desk:
        for datagram in (b"", b"nonsense", b"#bundle\0", bytes(2000)):
            desk.send(datagram)
        desk.send(encoded("/understudy/pause"))
        async with asyncio.timeout(10):
            assert (await desk.replies.get())[:2] == ["pause", "not_active"]
        assert desk.replies.empty()
    assert [entry["command"] for entry in opened.log.entries] == ["pause"]


@pytest.mark.parametrize(
    ("senders", "host", "may"),
    [
        ((), "127.0.0.1", True),
        ((), "::1", True),
        ((), "::ffff:127.0.0.1", True),
        ((), "10.0.0.7", False),
        ((), "nonsense", False),
        (("10.0.0.7",), "10.0.0.7", True),
        (("10.0.0.7",), "::ffff:10.0.0.7", True),
        (("10.0.0.7",), "10.0.0.8", False),
        (("10.0.0.7",), "127.0.0.1", False),
        (("10.0.0.0/24", "fe80::/10"), "10.0.0.200", True),
        (("10.0.0.0/24", "fe80::/10"), "fe80::1%eth0", True),
        (("10.0.0.0/24",), "10.0.1.1", False),
    ],
)
def test_who_may(opened: House, senders: tuple[str, ...], host: str, may: bool) -> None:
    assert OscEndpoint(opened.dispatcher, senders, opened.metrics)._may(host) is may


async def test_a_server_hears_osc_where_a_port_is_set(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        # The port is taken: the show plays all the same.
        show = load_show(tiny.folder, {"server": {"osc_port": port}}, {})
        async with serving(show) as address, web(address) as client:
            assert (await client.get("/healthz")).status_code == 200
    async with (
        serving(load_show(tiny.folder, {"server": {"osc_port": port}}, {})) as address,
        surface(port) as desk,
    ):
        assert (await desk.ask("/understudy/go", "b"))[:2] == ["go", "ok"]
        async with web(address) as client:
            assert (await client.get("/api/state")).json()["screening"]["status"] == "active"


async def test_a_socket_that_is_lost_or_taken_is_opened_again(opened: House) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        settings = ServerSection(osc_port=port)
        with pytest.raises(OscNotHeard, match=f"127.0.0.1 port {port}: "):
            await hear_osc(settings, opened.dispatcher, opened.metrics)
    endpoints: list[OscEndpoint] = []

    def endpoint(*args: Any) -> OscEndpoint:
        endpoints.append(OscEndpoint(*args))
        return endpoints[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.control.osc.OscEndpoint", endpoint)
        async with BackgroundJobs(SystemClock(), opened.metrics) as jobs:
            jobs.start("osc", partial(hear_osc, settings, opened.dispatcher, opened.metrics))
            await heard(port)
            transport = endpoints[-1]._transport
            assert transport is not None
            transport.abort()
            await asyncio.sleep(0.05)
            assert [each.code for each in jobs.conditions()] == ["job_failed"]
            await heard(port)
            assert len(endpoints) == 2


async def heard(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(0.5), surface(port) as desk:
                    assert (await desk.ask("/understudy/pause"))[0] == "pause"
                    return
            await asyncio.sleep(0.05)


async def test_a_mistake_with_a_command_is_answered_all_the_same(
    opened: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def strange(*_: Any) -> dict[str, Any]:
        raise ValueError("a mistake")

    monkeypatch.setattr(opened.dispatcher, "dispatch", strange)
    async with listening(opened) as port, surface(port) as desk:
        assert (await desk.ask("/understudy/pause"))[:2] == ["pause", "internal"]


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ('osc_port = 9000\nosc_host = "0.0.0.0"', "osc_senders"),
        ('osc_port = 9000\nosc_host = "show.local"', "osc_senders"),
        ('osc_port = 9000\nosc_senders = ["tablet"]', "expected an address or a network"),
        ("osc_port = 70000", "osc_port"),
        ('osc_port = 9000\nosc_host = "0.0.0.0"\nosc_senders = ["10.0.0.0/24"]', None),
        ('osc_port = 9000\nosc_host = "localhost"', None),
        ('osc_host = "0.0.0.0"', None),
    ],
)
def test_osc_beyond_this_machine_names_its_senders(
    tmp_path: Path, server: str, problem: str | None
) -> None:
    toml = tmp_path / "show.toml"
    toml.write_text(f"[server]\n{server}\n")
    if problem is None:
        load_settings(toml, {}, {})
        return
    with pytest.raises(SettingsError) as error:
        load_settings(toml, {}, {})
    assert problem in str(error.value)
    assert "show.toml: [server]" in str(error.value)


# ---------------------------------------------------------------- what buttons send


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
    assert (await desk.reply(beside))[:2] == ["panic", "ok"]
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
        if not declared.takes_number:
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
