"""A disk may stop for as long as it likes: on the event loop, nobody waits for one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.helpers.screens import screen, web
from tests.helpers.servers import (
    ROOT,
    Address,
    ServerProcess,
    free_port,
    plain_environment,
    serving,
)
from tests.helpers.shows import LOOP, TinyShow, cue, make_show, prompt

CUES = [
    cue(0, "start"),
    prompt(0, "a lamp", id="lamp"),
    prompt(1.2, "a stage", id="stage"),
    cue(600, "end"),
]
PATHS = (
    *("/", "/control", "/still", "/static/kiosk/main.js", "/static/none", "/healthz", "/readyz"),
    *("/metrics", "/api/state", "/api/cues", "/api/asrun", "/api/asrun?format=csv"),
    *("/rehearsal/report.html", "/assets/lamp/0/1.jpg", "/assets/lamp/7/1.jpg", "/frames/x/1"),
)
COMMANDS = (
    *("state", "screens", "engines", "prefetch", "asrun", "log", "sets.refresh", "next"),
    *("regenerate", "hold", "pause", "resume", "rejoin", "panic", "restore", "show.reload"),
)

_EVENTS = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "os.rmdir"),
        *("os.utime", "shutil.rmtree", "sqlite3.connect", "socket.getaddrinfo", "time.sleep"),
    }
)
_OURS = tuple(str(ROOT / package) + os.sep for package in ("server", "generator", "cache"))


class _Watch:
    """Notes what one thread does that may block, and which of our lines had it done."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.found: set[str] = set()
        self._within = False
        sys.addaudithook(self._heard)  # for good: there is no taking it back

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            self.note(event, arguments)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread != threading.get_ident() or self._within:
            return
        self._within = True
        try:
            stack = traceback.extract_stack()
            ours = [each for each in stack if each.filename.startswith(_OURS)]
            imports = any("importlib" in each.filename for each in stack)
            kernel = bool(arguments) and str(arguments[0]).startswith("/proc/")
            if ours and not imports and not kernel:
                place = Path(ours[-1].filename).relative_to(ROOT)
                self.found.add(f"{event} {arguments[:1]} at {place}:{ours[-1].lineno}")
        finally:
            self._within = False

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patched:
            for name in ("stat", "lstat", "fsync", "statvfs", "replace", "access"):
                patched.setattr(os, name, self._noting(name))
            self.thread = threading.get_ident()
            try:
                yield
            finally:
                self.thread = None

    def _noting(self, name: str) -> Any:
        real = getattr(os, name)

        def noting(*args: Any, **options: Any) -> Any:
            self.note(f"os.{name}", args)
            return real(*args, **options)

        return noting


_WATCH = _Watch()


async def test_nothing_waits_for_a_disk_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = make_show(tmp_path / "show", CUES, toml=LOOP)
    async with serving(tiny.load()) as address, web(address) as client:
        with _WATCH.watching(monkeypatch):
            async with screen(address) as wall, connect(address.older, proxy=None) as older:
                await older.send("P4:a lamp")
                await wall.until(lambda me: len(me.of("run_end")) >= 2)
                for path in PATHS:
                    assert (await client.get(path)).status_code < 500, path
                for command in COMMANDS:
                    answer = await client.post(f"/api/control/{command}", json={})
                    assert answer.status_code < 500, command
                await asyncio.sleep(1.5)  # what is kept is written a moment later
    assert _WATCH.found == set()


async def test_the_watch_would_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above relies on."""
    tiny = make_show(tmp_path / "show", CUES)
    show = tiny.load()
    _WATCH.found.clear()
    with _WATCH.watching(monkeypatch):
        tiny.load()
    assert any(each.startswith("open ") for each in _WATCH.found)
    assert any(each.startswith("os.stat ") for each in _WATCH.found)
    _WATCH.found.clear()
    with _WATCH.watching(monkeypatch):
        assert show.state_folder == tiny.state
    assert _WATCH.found == set()


STUCK = """
import sys, time
def hook(event, arguments):
    if event == "open" and "/lamp/" in str(arguments[0]) and str(arguments[0]).endswith(".jpg"):
        time.sleep(90)
sys.addaudithook(hook)
from server.cli.main import main
main(["serve", "--show", sys.argv[1], "--port", sys.argv[2]])
"""
"""A server of whose disk one folder does not answer."""


@contextmanager
def half_stuck(tiny: TinyShow) -> Iterator[ServerProcess]:
    """It, serving."""
    port, log = free_port(), tiny.folder / "server.log"
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(tiny.folder), str(port)],
            cwd=ROOT,
            env=plain_environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        )
    server = ServerProcess(process, Address(port), log)
    try:
        server.wait_until_it_answers()
        yield server
    finally:
        server.close()


async def test_what_a_disk_does_not_answer_holds_up_neither_the_others_nor_the_end(
    tmp_path: Path,
) -> None:
    with half_stuck(make_show(tmp_path / "show", CUES)) as server:
        async with screen(server.address) as wall:
            await asyncio.to_thread(server.control, "go")
            await wall.until(lambda me: me.frames and me.frames[-1].message["cue"] == "stage")
        status, took = await asyncio.to_thread(server.terminate)
    assert status == 0
    assert took < 15, "systemd would have killed it"
