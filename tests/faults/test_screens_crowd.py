"""Screens without number, and screens that never read: the wall has its seat and its pictures."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvloop

from tests.helpers.screens import line, screen, web
from tests.helpers.servers import Address, server_process, serving
from tests.helpers.shows import Rhythm, TinyShow, cue, make_show, prompt

CUES = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]
LARGE = Rhythm(previews=9, step=0.1, size=400_000)


def show(folder: Path, toml: str, rhythm: Rhythm | None = None) -> TinyShow:
    return make_show(folder / "show", CUES, rhythm=rhythm, toml=toml)


MANUAL = '[schedule]\nkind = "manual"\n'


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Address]:
    """Three seats, one of them for the foyer's screen."""
    toml = MANUAL + '[server]\nmax_screens = 3\n[stage]\nscreens = ["foyer"]\n'
    async with serving(show(tmp_path, toml).load()) as address:
        yield address


async def names(client: httpx.AsyncClient) -> list[str]:
    """Those that the state calls connected."""
    state = (await client.get("/api/state")).json()
    return [each["screen"] for each in state["screens"] if each["connected"]]


async def test_one_screen_too_many_is_refused_and_told(full: Address) -> None:
    async with AsyncExitStack() as stack:
        for name in "abc":
            await stack.enter_async_context(screen(full, name))
        late = await stack.enter_async_context(line(full))
        await late.send({"type": "hello", "protocol": 1, "screen": "late", "frames": "url"})
        assert await late.closed() == 1013
        assert late.heard[-1].message["code"] == "too_many_screens"
        async with web(full) as client:
            state = (await client.get("/api/state")).json()
        codes = [each["code"] for each in state["health"]["conditions"]]
        assert "screens_full" in codes
        assert len(state["screens"]) == 4, "three, and the one that is missing"


async def test_the_screen_that_is_expected_comes_in_all_the_same(full: Address) -> None:
    async with AsyncExitStack() as stack:
        first, *_ = [await stack.enter_async_context(screen(full, name)) for name in "abc"]
        foyer = await stack.enter_async_context(screen(full, "foyer"))
        assert foyer.welcome["screen"] == "foyer"
        assert await first.closed() == 1013
        async with web(full) as client:
            async with asyncio.timeout(10):
                # Its handler ends a moment after the goodbye.
                while "a" in await names(client):  # noqa: ASYNC110 - from outside
                    await asyncio.sleep(0.05)
            assert sorted(await names(client)) == ["b", "c", "foyer"], "and no ghost is left of it"


async def test_who_paints_nothing_makes_room(
    full: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.stage.seats.PAINTS_WITHIN", 0.0)
    async with AsyncExitStack() as stack:
        a, b, _ = [await stack.enter_async_context(screen(full, name)) for name in "abc"]
        async with web(full) as client:
            await client.post("/api/control/go", json={})
        await a.until(lambda me: me.frames)
        header = a.frames[0].message
        painted = {"run": header["run"], "step": header["step"], "at": header["present_at"]}
        await a.send({"type": "presented", **painted})
        await a.sync(1)
        await stack.enter_async_context(screen(full, "late"))
        assert await b.closed() == 1013
        assert a.socket.close_code is None


async def test_large_pictures_arrive_whole_though_they_are_copied_for_nobody(
    tmp_path: Path,
) -> None:
    tiny = show(tmp_path, MANUAL, LARGE)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(tiny.load()))
        both = [await stack.enter_async_context(screen(address, name)) for name in "ab"]
        client = await stack.enter_async_context(web(address))
        await client.post("/api/control/go", json={})
        for each in both:
            await each.until(lambda me: me.of("run_end"))
            last = each.frames[-1]
            assert last.message["final"]
            assert last.image in {tiny.final("lamp", number) for number in (0, 1)}


def deaf(address: Address) -> socket.socket:
    """A screen that says hello and never reads."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect((address.host, address.port))
    found.sendall(
        b"GET /ws/screen HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    found.recv(4096)
    hello = {"type": "hello", "protocol": 1, "screen": "deaf", "frames": "binary"}
    text = json.dumps(hello).encode()
    found.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_screens_that_never_read_cost_a_bounded_memory(tmp_path: Path) -> None:
    tiny = show(tmp_path, MANUAL, LARGE)
    with ExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, server_process(tiny.folder))
        async with screen(server.address, "wall") as wall:
            await asyncio.to_thread(server.control, "go")
            await wall.until(lambda me: me.of("run_end"))
            before = server.resident
            for _ in range(80):  # not all of them find a seat
                stack.enter_context(await asyncio.to_thread(deaf, server.address))
            await asyncio.to_thread(server.control, "regenerate")
            await wall.until(lambda me: len(me.of("run_end")) == 2)
            grown = server.resident - before
            state = await asyncio.to_thread(server.state)
    assert 60 < len(state["screens"]) <= 64
    assert grown < 64 * 300_000, "of a picture of 400 kB no screen had a copy of its own"


def test_a_screen_that_never_reads_ends_without_a_word_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.network.connections.READS_WITHIN", 0.5)
    monkeypatch.setattr("server.network.connections._LOOK_EVERY", 0.05)
    larger = show(tmp_path, MANUAL, replace(LARGE, size=1_500_000))
    # The loop that serves: what is written to a transport that has ended, another forgives.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_the_deaf_have_gone(larger))
    assert "ERROR" not in {record.levelname for record in caplog.records}


async def _until_the_deaf_have_gone(larger: TinyShow) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(larger.load()))
        wall = await stack.enter_async_context(screen(address, "wall"))
        client = await stack.enter_async_context(web(address))
        for _ in range(3):
            stack.enter_context(await asyncio.to_thread(deaf, address))
        await client.post("/api/control/go", json={})
        await wall.until(lambda me: me.of("run_end"))
        async with asyncio.timeout(10):
            while len((await client.get("/api/state")).json()["screens"]) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        metrics = (await client.get("/metrics")).text
        assert 'understudy_connections_ended_total{reason="unread"} 3.0' in metrics
