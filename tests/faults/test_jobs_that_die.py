"""Real servers with a mistake of ours built in: what is told, and what becomes of them."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.helpers import walls
from tests.helpers.broken_server import FAULTS
from tests.helpers.servers import ServerProcess, server_process
from tests.helpers.shows import LOOP, Rhythm, TinyShow, cue, line, make_show, prompt
from tests.helpers.walls import wall

PATIENCE = 20.0
RHYTHM = Rhythm(previews=3, step=0.1)
CUES = [
    cue(0, "start"),
    line(0.5, "one"),
    line(1.5, "two"),
    line(2.5, "three"),
    cue(4, "end"),
]
COPIES = LOOP + '[cache]\ncopies = "always"\n'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


def a_show(folder: Path, toml: str = LOOP) -> TinyShow:
    return make_show(folder, CUES, rhythm=RHYTHM, toml=toml)


def asked(server: ServerProcess, path: str) -> httpx.Response:
    return httpx.get(f"{server.address.http}{path}", timeout=10, trust_env=False)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


@contextmanager
def client(address: str, **hello: Any) -> Iterator[ClientConnection]:
    with connect(address, proxy=None, max_size=None) as line_in:
        line_in.send(json.dumps({"type": "hello", "protocol": 1, **hello}))
        yield line_in


def heard_out(line_in: ClientConnection) -> None:
    while True:
        line_in.recv(timeout=PATIENCE)


def events(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    return [entry for entry in server.log_lines() if entry["event"] == event]


def codes(server: ServerProcess) -> set[str]:
    return {each["code"] for each in server.state()["health"]["conditions"]}


def metric(server: ServerProcess, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", asked(server, "/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_every_mistake_that_may_be_built_in_has_its_place_in_the_code() -> None:
    astray = [name for name, (owner, place, _) in FAULTS.items() if not hasattr(owner, place)]
    assert astray == []


@pytest.mark.pace
def test_without_its_playback_the_process_ends_within_a_second(tmp_path: Path) -> None:
    tiny = a_show(tmp_path / "show")
    with (
        server_process(tiny.folder, fault="playhead-raises-once") as server,
        client(server.address.screen, screen="wall", frames="url") as screen,
    ):
        status = server.process.wait(PATIENCE)
        ended = time.time()
        (failed,) = events(server, "job_failed")
        assert status == 1
        assert (failed["job"], failed["level"]) == ("playback", "critical")
        assert ended - datetime.fromisoformat(failed["timestamp"]).timestamp() < 1.5
        with pytest.raises(ConnectionClosed):
            heard_out(screen)
        assert screen.close_code == 1012
        assert "the show does not move" in server.log.read_text().splitlines()[-1]


@pytest.mark.browser
def test_the_wall_keeps_its_picture_while_the_server_ends_and_comes_back(
    tmp_path: Path, browser: Browser
) -> None:
    cues = [cue(0, "start"), *(prompt(3 * k, f"nr {k}", id=f"nr{k}") for k in range(20))]
    tiny = make_show(
        tmp_path / "show",
        [*cues, cue(300, "end")],
        rhythm=Rhythm(previews=6, step=0.3),
        toml=LOOP + "[display]\ncrossfade = 0.5\n",
    )
    server = ServerProcess.start(tiny.folder, fault="playhead-raises-after-a-while")
    try:
        with wall(browser, server.address) as page:
            now: dict[str, Any] = {}
            with suppress(httpx.TransportError):
                while server.process.poll() is None:
                    now = server.state()["now"] or now
                    time.sleep(0.02)
            assert server.process.wait(PATIENCE) == 1
            server.close()
            final = tiny.final(now["cue"], now["set_id"])
            page.until(lambda s: s.is_of(final) and not s.crossfading, why="the end of its run")
            time.sleep(0.5)
            assert page.look().is_of(final), "it stays"
            server = ServerProcess.start(tiny.folder, port=server.address.port)
            page.until(
                lambda s: s.shown and not s.is_of(final), why="a later picture", within=PATIENCE
            )
    finally:
        server.close()


def test_a_feed_that_raises_is_started_again_and_technicians_hear_on(tmp_path: Path) -> None:
    tiny = a_show(tmp_path / "show")
    with (
        server_process(tiny.folder, fault="feed-raises-once") as server,
        client(server.address.control, name="tests") as desk,
    ):
        until(lambda: bool(events(server, "job_restarted")), "it is started again")
        assert "job_failed" in codes(server)
        assert metric(server, 'understudy_job_restarts_total{job="state_feed"}') == 1
        assert metric(server, 'understudy_conditions{code="job_failed",level="degraded"}') == 1
        assert asked(server, "/healthz").status_code == 200
        assert "state_feed" in " ".join(asked(server, "/readyz").json()["notes"])
        server.control("panic")
        deadline = time.monotonic() + PATIENCE
        while True:
            told = json.loads(desk.recv(timeout=PATIENCE))
            if told["type"] == "state" and told["state"]["panic"] is not None:
                break
            assert time.monotonic() < deadline


def test_a_fetcher_that_raises_costs_nobody_a_preview(tmp_path: Path) -> None:
    tiny = a_show(tmp_path / "show", COPIES)
    with (
        server_process(tiny.folder, fault="fetcher-raises-once") as server,
        client(server.address.screen, screen="wall", frames="url") as screen,
    ):
        steps: dict[str, set[int]] = {}
        deadline = time.monotonic() + PATIENCE
        while not any(len(each) == RHYTHM.frames for each in steps.values()):
            assert time.monotonic() < deadline, steps
            told = json.loads(screen.recv(timeout=PATIENCE))
            if told["type"] == "frame":
                steps.setdefault(told["run"], set()).add(told["step"])
        assert metric(server, "understudy_prefetch_failures_total") == 1
        assert [entry["level"] for entry in events(server, "prefetch_failed")] == ["error"]
        assert events(server, "job_failed") == []


def test_a_writer_of_the_as_run_log_that_ends_is_followed_by_another(tmp_path: Path) -> None:
    tiny = a_show(tmp_path / "show")
    with server_process(tiny.folder, fault="asrun-writer-raises-once") as server:
        until(lambda: bool(events(server, "asrun_writer_failed")), "its writer fails")
        until(lambda: bool(events(server, "job_restarted")), "another begins")
        now = time.time()

        def written() -> bool:
            rows = asked(server, "/api/asrun").json()
            return any(row["ended_at"] and row["started_wall"] > now for row in rows)

        until(written, "a run that began since is written with its end")
        assert asked(server, "/healthz").status_code == 200


@contextmanager
def ear(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """What systemd would hear, at `folder`/notify: all of it so far."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(folder / "notify"))
        listener.setblocking(False)

        def so_far() -> list[str]:
            while True:
                try:
                    heard.append(listener.recv(4096).decode())
                except BlockingIOError:
                    return heard

        yield so_far


WATCHDOG = 0.6


def under_systemd(folder: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}


def test_systemd_hears_when_it_serves_that_the_show_moves_and_when_it_stops(
    tmp_path: Path,
) -> None:
    tiny = a_show(tmp_path / "show")
    with (
        ear(tmp_path) as heard,
        server_process(tiny.folder, environment=under_systemd(tmp_path)) as server,
    ):
        until(lambda: heard().count("WATCHDOG=1") >= 3, "it is fed")
        assert "READY=1" in heard()
        assert any(each.startswith("STATUS=ok: ") for each in heard()) or any(
            each.startswith("STATUS=degraded: ") for each in heard()
        )
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        server.control("rehearse", screenings=10)
        ours = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()

        def began() -> list[str]:
            """Children that are programs of their own: between fork and exec one is a copy."""
            return [
                child
                for child in children.read_text().split()
                if Path(f"/proc/{child}/cmdline").read_bytes() not in (ours, b"")
            ]

        until(lambda: bool(began()), "a process for the rehearsal")
        for child in began():
            environment = Path(f"/proc/{child}/environ").read_bytes()
            assert b"PATH=" in environment
            assert b"NOTIFY_SOCKET" not in environment
            assert b"WATCHDOG" not in environment
        assert server.terminate()[0] == 0
        assert heard().count("STOPPING=1") == 1


def test_a_show_that_moves_in_name_only_fails_every_probe_and_starves_the_watchdog(
    tmp_path: Path,
) -> None:
    tiny = a_show(tmp_path / "show")
    with (
        ear(tmp_path) as heard,
        server_process(
            tiny.folder, fault="runs-raise", environment=under_systemd(tmp_path)
        ) as server,
    ):
        until(lambda: "run_failed" in codes(server), "the first is told")
        until(lambda: asked(server, "/healthz").status_code == 503, "two of them")
        assert "Planted: planted" in asked(server, "/healthz").json()["reason"]
        assert asked(server, "/readyz").status_code == 503
        assert server.state()["health"]["level"] == "failing"
        assert metric(server, "understudy_run_failures_total") >= 2
        until(lambda: bool(events(server, "watchdog_not_fed")), "it is no longer fed")
        fed = heard().count("WATCHDOG=1")
        time.sleep(2 * WATCHDOG)
        assert heard().count("WATCHDOG=1") == fed
        failing = "STATUS=failing: nothing that cues began"
        until(lambda: any(each.startswith(failing) for each in heard()), "systemd is told")
