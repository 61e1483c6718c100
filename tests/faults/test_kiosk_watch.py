"""The watcher beside a kiosk: a browser whose wall shows nothing comes back, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.servers import ROOT, ServerProcess, plain_environment, server_process
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt

NAME = "left & 2nd"
TOKEN = 'a"b\\c d'

# Speaks the screen's wire; told to crash, it lets its socket go and stays, as a browser does whose
# page has crashed. Each start is one line of the file "starts".
BROWSER = """
import json, os, signal, sys, time, urllib.parse
from websockets.sync.client import connect
url = urllib.parse.urlsplit(sys.argv[-1])
asked = urllib.parse.parse_qs(url.query)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
crashed = []
signal.signal(signal.SIGUSR1, lambda *_: crashed.append(1))
while not crashed:
    try:
        with connect(f"ws://{url.netloc}/ws/screen", proxy=None) as socket:
            hello = {"type": "hello", "protocol": 1, "screen": asked["screen"][0]}
            socket.send(json.dumps(hello | {"token": asked["token"][0]}))
            while not crashed:
                try: socket.recv(timeout=0.1)
                except TimeoutError: pass
    except Exception:
        time.sleep(0.2)
time.sleep(600)
"""


@dataclass
class Watched:
    process: subprocess.Popen[bytes]
    starts: Path

    @property
    def pids(self) -> list[int]:
        """Of every browser there was, in order."""
        text = self.starts.read_text() if self.starts.exists() else ""
        return [int(line) for line in text.split()]

    def until(self, enough: Callable[[], object], why: str, within: float = 25.0) -> None:
        until = time.monotonic() + within
        while not enough():
            assert self.process.poll() is None, "the watcher has ended"
            assert time.monotonic() < until, why
            time.sleep(0.05)


@contextmanager
def watched(server: ServerProcess, folder: Path) -> Iterator[Watched]:
    browser, starts = folder / "browser.py", folder / "starts"
    browser.write_text(BROWSER)
    # The carriage return is a slip, of a file that was written on Windows: the server strips it.
    token = f"{TOKEN}\r"
    settings = {"KIOSK_EVERY": "1", "KIOSK_PATIENCE": "2", "UNDERSTUDY_SCREEN_TOKEN": token}
    command = ["deploy/kiosk-watch", f"{server.address.http}/", NAME]
    process = subprocess.Popen(
        [*command, sys.executable, str(browser), str(starts)],
        cwd=ROOT,
        env=plain_environment(**settings),
        start_new_session=True,
    )
    try:
        yield Watched(process, starts)
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def connected(server: ServerProcess) -> bool:
    return NAME in [each["screen"] for each in server.state()["screens"] if each["connected"]]


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    cues = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]
    return make_show(tmp_path / "show", cues, rhythm=Rhythm(previews=1, step=0.1), toml=MANUAL)


def test_what_shows_nothing_comes_back_and_nothing_else(tiny: TinyShow, tmp_path: Path) -> None:
    secret = {"UNDERSTUDY_SCREEN_TOKEN": TOKEN}
    with (
        server_process(tiny.folder, environment=secret) as server,
        watched(server, tmp_path) as kiosk,
    ):
        kiosk.until(lambda: connected(server), "the screen does not come")
        assert len(kiosk.pids) == 1
        os.kill(kiosk.pids[0], signal.SIGUSR1)  # the page has crashed; the browser is there
        kiosk.until(lambda: len(kiosk.pids) == 2, "a crashed page stays on the wall")
        assert not alive(kiosk.pids[0])
        kiosk.until(lambda: connected(server), "it does not come back")

        os.kill(kiosk.pids[1], signal.SIGKILL)  # the browser itself has gone
        kiosk.until(lambda: len(kiosk.pids) == 3, "a browser that ended stays away")
        kiosk.until(lambda: connected(server), "it does not come back")

        port = server.address.port
        server.kill()
        time.sleep(4)
        assert (len(kiosk.pids), alive(kiosk.pids[2])) == (3, True), "the picture was taken down"
        with server_process(tiny.folder, port=port, environment=secret) as again:
            kiosk.until(lambda: connected(again), "it does not come back")
            assert len(kiosk.pids) == 3
            kiosk.process.terminate()
            assert kiosk.process.wait(15) == 0
            assert not alive(kiosk.pids[2]), "the browser outlives its watcher"


def test_wrong_use_is_told() -> None:
    run = subprocess.run(
        ["deploy/kiosk-watch", "http://localhost"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "usage: kiosk-watch" in run.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("KIOSK_EVERY", "0.5"), ("KIOSK_PATIENCE", "soon"), ("KIOSK_LONGEST", "0")],
)
def test_what_is_no_number_of_seconds_is_told_before_a_browser_is_started(
    name: str, value: str, tmp_path: Path
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    browser.chmod(0o755)
    run = subprocess.run(
        ["deploy/kiosk-watch", "http://localhost:1", "left", str(browser)],
        cwd=ROOT,
        env=plain_environment(**{name: value}),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert run.returncode == 2
    assert name in run.stderr
    assert f"expected whole seconds, not '{value}'" in run.stderr
    assert not (tmp_path / "started").exists()
