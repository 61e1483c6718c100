"""The screen socket, with real sockets: uvicorn on one side, websockets on the other."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.config.show import load_show
from server.core.clock import SystemClock
from server.sockets import connection
from tests.helpers.screens import Heard, ScreenClient, command, line, screen, web
from tests.helpers.servers import Address, server_process, serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt

HEADER = {"type", "run", "cue", "step", "steps", "final", "present_at", "media_type"}
RUN = {"type", "run", "cue", "prompt", "steps"}

CUES = [
    cue(0, "start"),
    cue(0, "navigate", route="/studio"),
    cue(0, "set-fade-status", fade=False),
    prompt(0, "a lamp", id="lamp"),
    prompt(6, "a stage", id="stage"),
    prompt(60, "a curtain", id="curtain"),
    cue(120, "end"),
]
RHYTHM = Rhythm(previews=4, step=0.25, first=0.6)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM)


@pytest.fixture
async def address(tiny: TinyShow) -> AsyncIterator[Address]:
    async with serving(tiny.load()) as address:
        yield address


def ended(run: int = -1) -> Any:
    """Whether the run begun at place `run` is over for a screen."""

    def over(client: ScreenClient) -> bool:
        ends = {heard.message["run"] for heard in client.of("run_end")}
        return bool(client.runs) and client.runs[run] in ends

    return over


def assert_in_time(client: ScreenClient, frames: list[Heard]) -> None:
    """Assert that final images came before they were due.

    They are sent seconds ahead. A run's first previews are not, and a busy machine may be late
    with those: how late is measured by the benchmarks.
    """
    late = {
        frame.message["step"]: round(client.server_time(frame) - frame.message["present_at"], 3)
        for frame in frames
        if frame.message["final"] and client.server_time(frame) > frame.message["present_at"]
    }
    assert not late, f"late by seconds: {late}"


async def assert_still_served(client: ScreenClient) -> None:
    before = len(client.of("sync"))
    await client.send({"type": "sync", "t0": 7.5})
    await client.until(lambda me: len(me.of("sync")) > before, why="no answer")
    assert client.of("sync")[-1].message["t0"] == 7.5


# ---------------------------------------------------------------- what it is told


async def test_welcome_tells_what_a_screen_must_know(address: Address) -> None:
    before = SystemClock().now()
    async with screen(address, "north wall") as client:
        welcome = client.welcome
        assert set(welcome) == {
            "type",
            "protocol",
            "screen",
            "server_time",
            "show",
            "display",
            "snapshot",
        }
        assert (welcome["protocol"], welcome["screen"]) == (1, "north wall")
        assert before - 1 < welcome["server_time"] < before + 10
        assert welcome["show"] == {
            "title": "Tiny",
            "timezone": "UTC",
            "duration": 120.0,
            "characters": "",
        }
        assert set(welcome["display"]) == {
            "crossfade",
            "fade",
            "captions",
            "progress",
            "badge",
            "still",
            "language",
            "direction",
            "hours",
            "texts",
        }
        snapshot = dict(client.snapshot)
        assert snapshot.pop("screening")["status"] == "waiting"
        assert set(snapshot) == {
            "scene",
            "fade",
            "caption",
            "typing",
            "slider",
            "run",
            "frame",
            "picture",
        }
        assert set(snapshot.values()) == {None}


async def test_a_run_in_binary_comes_whole_in_order_and_ahead_of_its_time(
    address: Address, tiny: TinyShow
) -> None:
    async with screen(address) as client:
        await command(address, "go")
        await client.until(ended())
        (run,) = client.runs
        frames = client.frames_of(run)
        steps = RHYTHM.frames
        assert [frame.message["step"] for frame in frames] == list(range(1, steps + 1))
        assert [frame.message["final"] for frame in frames] == [False] * (steps - 1) + [True]
        started = client.of("screening")[-1].message["started_at"]
        for frame in frames:
            header = frame.message
            assert set(header) == HEADER
            assert (header["cue"], header["steps"]) == ("lamp", steps)
            assert header["media_type"] == "image/jpeg"
            assert header["present_at"] == pytest.approx(
                started + RHYTHM.due(header["step"]), abs=0.005
            )
        assert_in_time(client, frames)
        images = [frame.image for frame in frames]
        assert images in [
            [tiny.image("lamp", number, k + 1) for k in range(steps)] for number in (0, 1)
        ]
        kinds = [h.type for h in client.heard if h.message.get("run") == run]
        assert kinds == ["run", *["frame"] * steps, "run_end"]
        assert client.of("run_end")[0].message["outcome"] == "completed"


async def test_nothing_tells_a_replay_from_a_drawing(address: Address) -> None:
    async with screen(address) as binary, screen(address, "url", style="url") as by_url:
        await command(address, "go")
        for client in (binary, by_url):
            await client.until(ended())
            assert set(client.of("run")[0].message) == RUN
            assert re.fullmatch(r"[A-Za-z0-9_-]{8,64}", client.runs[0])
        heard = [h.message for h in (*binary.heard, *by_url.heard) if h.type != "typing"]
        said = json.dumps(heard).lower()  # the rhythm of typing has a seed, whoever draws
        for word in ("static", "live", "replay", "set_id", "sets", "seed", "engine", "provider"):
            assert f'"{word}' not in said
            assert f"/{word}" not in said
        async with web(address) as http:
            answer = await http.get(by_url.frames[0].message["url"])
        assert set(answer.headers) <= {
            "date",
            "content-type",
            "content-length",
            "cache-control",
            "content-security-policy",
            "x-content-type-options",
            "referrer-policy",
        }


async def test_frames_by_url_are_the_same_and_can_be_fetched(
    address: Address, tiny: TinyShow
) -> None:
    async with screen(address, style="url") as client:
        await command(address, "go")
        await client.until(ended())
        (run,) = client.runs
        frames = client.frames_of(run)
        assert len(frames) == RHYTHM.frames
        assert_in_time(client, frames)
        fetched = []
        async with web(address) as http:
            for frame in frames:
                header = frame.message
                assert frame.image is None
                assert set(header) == {*HEADER, "url"}
                assert header["url"] == f"/frames/{run}/{header['step']}"
                answer = await http.get(header["url"])
                assert answer.status_code == 200
                assert answer.headers["content-type"] == header["media_type"]
                fetched.append(answer.content)
            assert (await http.get(f"/frames/{run}/99")).status_code == 404
            assert (await http.get("/frames/nobody/1")).status_code == 404
        assert fetched[-1] in {tiny.final("lamp", 0), tiny.final("lamp", 1)}
        assert len(set(fetched)) == len(fetched)


async def test_a_new_cue_cuts_the_run_before_it_everywhere(address: Address) -> None:
    async with screen(address, "a") as one, screen(address, "b", style="url") as two:
        await command(address, "go")
        for client in (one, two):
            await client.until(lambda me: me.frames)
        await asyncio.sleep(0.55)
        await command(address, "go", cue="stage")
        for client in (one, two):
            await client.until(lambda me: len(me.runs) == 2)
            await client.until(ended())
            old, new = client.runs
            told = [(h.type, h.message["run"]) for h in client.heard if "run" in h.message]
            assert told.index(("run_end", old)) < told.index(("run", new))
            after = told[told.index(("run", new)) :]
            assert all(run == new for _, run in after)
            ends = [h.message for h in client.of("run_end")]
            assert [(end["run"], end["outcome"]) for end in ends] == [
                (old, "cut"),
                (new, "completed"),
            ]


async def test_joining_in_the_middle_of_a_run_looks_right_at_once(
    address: Address, tiny: TinyShow
) -> None:
    async with screen(address, "first") as first:
        await command(address, "go")
        await first.until(lambda me: len(me.frames) == RHYTHM.frames)
        second_due = first.frames[1].message["present_at"]
        await asyncio.sleep(max(0.0, second_due - first.ahead - time.monotonic() + 0.05))
        async with screen(address, "late") as late:
            snapshot = late.snapshot
            assert snapshot["screening"]["status"] == "active"
            assert snapshot["scene"] == {"type": "scene", "route": "/studio"}
            assert snapshot["fade"]["black"] is False
            assert snapshot["typing"]["text"] == "a lamp"
            assert snapshot["run"] == first.of("run")[0].message
            told = snapshot["frame"]
            assert told["step"] >= 2
            assert told["present_at"] <= late.welcome["server_time"]
            await late.until(ended_in_frames(told["run"]))
            steps = [frame.message["step"] for frame in late.frames]
            assert steps == list(range(told["step"], RHYTHM.frames + 1))
            assert late.frames[-1].image in {tiny.final("lamp", 0), tiny.final("lamp", 1)}
            async with web(address) as http:
                assert (await http.get(told["url"])).content == late.frames[0].image


def ended_in_frames(run: str) -> Any:
    """Whether a run's final image has come."""
    return lambda client: any(frame.message["final"] for frame in client.frames_of(run))


async def test_joining_after_a_run_and_after_a_cut_still_has_the_picture(
    address: Address, tiny: TinyShow
) -> None:
    async with screen(address, "first") as first:
        await command(address, "go")
        await first.until(ended())
        final = first.frames[-1]
        async with screen(address, "between") as between:
            await between.until(lambda me: me.frames)
            assert between.snapshot["frame"]["final"] is True
            assert between.frames[0].image == final.image
        tiny.set_folder("stage", 0).rename(tiny.folder / "gone0")
        tiny.set_folder("stage", 1).rename(tiny.folder / "gone1")
        await command(address, "go", cue="stage")  # nothing to play: it holds
        await first.until(lambda me: me.of("hold"))
        async with screen(address, "held") as held, web(address) as http:
            left = held.snapshot["frame"] or held.snapshot["picture"]
            assert left is not None, held.snapshot
            assert (await http.get(left["url"])).content == final.image


async def test_sync_answers_with_its_own_times(address: Address) -> None:
    async with screen(address) as client:
        sent = SystemClock().now()
        await client.send({"type": "sync", "t0": -3.25e9})
        await client.until(lambda me: me.of("sync")[-1].message["t0"] == -3.25e9)
        reply = client.of("sync")[-1].message
        assert set(reply) == {"type", "t0", "t1", "t2"}
        assert sent - 0.5 < reply["t1"] <= reply["t2"] < SystemClock().now() + 0.5


async def test_what_a_screen_painted_is_known(address: Address) -> None:
    async with screen(address, "foyer") as client:
        await command(address, "go")
        await client.until(ended())
        header = client.frames[-1].message
        at = header["present_at"] + 0.004
        await client.send({"type": "presented", "run": header["run"], "step": 5, "at": at})
        await assert_still_served(client)
        (told,) = (await command(address, "screens"))["screens"]
        assert told["screen"] == "foyer"
        assert told["painted"] == {"run": header["run"], "step": 5}
        (row,) = (await command(address, "asrun", limit=5))["rows"]
        assert row["presented"] == {"foyer": {"5": pytest.approx(at, abs=0.001)}}


async def test_identify_and_reload_reach_the_screen_they_name(address: Address) -> None:
    async with screen(address, "a") as one, screen(address, "b") as other:
        assert await command(address, "identify", screen="a") == {"screens": 1}
        assert await command(address, "reload", screen="a") == {"screens": 1}
        await one.until(lambda me: me.of("reload"))
        assert [h.type for h in one.heard if h.type != "sync"] == ["welcome", "identify", "reload"]
        await assert_still_served(other)
        assert not other.of("identify")
        assert not other.of("reload")


# ---------------------------------------------------------------- what is not taken


async def test_hello_comes_first_and_may_be_tried_again(address: Address) -> None:
    async with line(address) as client:
        await client.send({"type": "sync", "t0": 1.0})
        await client.send({"type": "hello", "protocol": 1, "screen": ""})
        await client.send({"type": "hello", "protocol": 1, "screen": "x" * 65})
        await client.send({"type": "hello", "protocol": 1, "screen": "x", "frames": "smoke"})
        await client.hello("at last")
        codes = [heard.message["code"] for heard in client.of("error")]
        assert codes == ["hello_first", "invalid", "invalid", "invalid"]
        assert not client.of("sync")


async def test_a_connection_that_breaks_is_forgotten(address: Address) -> None:
    async with screen(address, "good"):
        async with screen(address, "breaking") as client:
            client.socket.transport.abort()
        names = {"breaking"}
        for _ in range(100):
            screens_now = (await command(address, "screens"))["screens"]
            names = {told["screen"] for told in screens_now}
            if "breaking" not in names:
                break
            await asyncio.sleep(0.05)
        assert "good" in names
        assert "breaking" not in names


# ---------------------------------------------------------------- who may come


async def test_where_screens_need_a_token_they_bring_it(tiny: TinyShow) -> None:
    token = "schlüssel 鍵"
    show = load_show(tiny.folder, {}, {"UNDERSTUDY_SCREEN_TOKEN": token})
    async with serving(show) as address:
        for wrong in ({}, {"token": None}, {"token": ""}, {"token": token + "x"}):
            async with line(address) as client:
                hello = {"type": "hello", "protocol": 1, "screen": "x", **wrong}
                await client.send(hello)
                assert await client.closed() == 1008
                assert [h.message["code"] for h in client.of("error")] == ["unauthorized"]
                assert not client.of("welcome")
        async with screen(address, token=token) as client:
            assert token not in json.dumps(client.welcome)


# ---------------------------------------------------------------- who does not read


@asynccontextmanager
async def stuck_screen(address: Address, name: str) -> AsyncIterator[ScreenClient]:
    """A screen that says hello and then reads nothing, with little room to hide it."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (address.host, address.port))
    async with line(address, sock=raw, max_queue=1, close_timeout=1, ping_interval=None) as client:
        await client.hello(name)
        await client.deaf()
        yield client


async def test_a_screen_that_stops_reading_costs_nobody_anything(tmp_path: Path) -> None:
    size, gap = 150_000, 1.3
    rhythm = Rhythm(previews=19, step=0.02, first=0.5, size=size, sets=1)
    count = 7
    cues = [prompt(gap * place, f"picture {place}") for place in range(count)]
    tiny = make_show(tmp_path / "show", [*cues, cue(60, "end")], rhythm=rhythm, toml=MANUAL)
    with server_process(tiny.folder) as server:
        address = server.address
        async with AsyncExitStack() as stack:
            good = await stack.enter_async_context(screen(address, "good"))
            stuck = [
                await stack.enter_async_context(stuck_screen(address, f"stuck {number}"))
                for number in range(5)
            ]
            await asyncio.to_thread(server.control, "go")
            await good.until(ended(0))
            resident = server.resident
            await good.until(lambda me: len(me.runs) == count, within=30)
            await good.until(ended(), within=30)
            grown = server.resident - resident

            # Everything reached the good screen, and in time.
            assert len(good.frames) == count * rhythm.frames
            assert len(good.frames) - rhythm.frames >= 100
            assert_in_time(good, good.frames)
            # Queued for each, it would have been 5 x 120 x 150 kB = 90 MB.
            assert grown < 40 * 2**20, f"{grown / 2**20:.1f} MB"

            # Those who read again catch up with the final image, or were let go.
            last = good.runs[-1]
            for client in stuck:
                client.listen()
                try:
                    await client.until(ended_in_frames(last), within=10)
                except AssertionError:
                    assert await client.closed() in {1013, 1006, 1011}
                else:
                    assert client.frames[-1].image == good.frames[-1].image
                    assert len(client.frames) < len(good.frames)
                    order = [heard.message["run"] for heard in client.frames]
                    assert sorted(order, key=good.runs.index) == order


async def test_a_screen_that_never_reads_again_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READS_WITHIN", 0.5)
    rhythm = Rhythm(previews=39, step=0.05, size=250_000, sets=1)
    tiny = make_show(tmp_path / "show", [prompt(0, "one"), cue(60, "end")], rhythm=rhythm)
    async with (
        serving(tiny.load()) as address,
        screen(address, "good") as good,
        stuck_screen(address, "stuck") as stuck,
    ):
        await command(address, "go")
        await good.until(ended())
        names: set[str] = set()
        for _ in range(100):
            told = (await command(address, "screens"))["screens"]
            names = {one["screen"] for one in told}
            if "stuck" not in names:
                break
            await asyncio.sleep(0.05)
        assert names == {"good"}
        stuck.socket.transport.abort()


# ---------------------------------------------------------------- the end


@pytest.mark.pace
async def test_sigterm_ends_it_in_seconds_with_sockets_open(tmp_path: Path) -> None:
    rhythm = Rhythm(previews=19, step=0.2, size=150_000, sets=1)
    tiny = make_show(
        tmp_path / "show", [prompt(0, "one"), prompt(5, "two"), cue(60, "end")], rhythm=rhythm
    )
    with server_process(tiny.folder) as server:
        async with AsyncExitStack() as stack:
            good = await stack.enter_async_context(screen(server.address, "good"))
            await stack.enter_async_context(screen(server.address, "url", style="url"))
            await stack.enter_async_context(line(server.address))
            await asyncio.to_thread(server.control, "go")
            await good.until(lambda me: me.frames)
            status, took = await asyncio.to_thread(server.terminate)
            assert await good.closed() in {1001, 1012}
        assert status == 0, server.log.read_text()[-2000:]
        assert took < 4.0
        assert "Traceback" not in server.log.read_text()


async def test_sigterm_does_not_wait_for_a_screen_that_does_not_read(tmp_path: Path) -> None:
    rhythm = Rhythm(previews=39, step=0.1, size=250_000, sets=1)
    tiny = make_show(tmp_path / "show", [prompt(0, "one"), cue(60, "end")], rhythm=rhythm)
    with server_process(tiny.folder) as server:
        async with stuck_screen(server.address, "stuck"):
            await asyncio.to_thread(server.control, "go")
            await asyncio.sleep(1.5)
            status, took = await asyncio.to_thread(server.terminate)
        assert status == 0
        assert took < 10.0
