"""What systemd hears, over a real socket: ready once it serves, alive while the show moves."""

from __future__ import annotations

import asyncio
import configparser
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.core.clock import VirtualClock, settle
from server.core.systemd import STATUS_EVERY, Notifier, keep_telling


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + address[1:] if address.startswith("@") else address)
        ear.setblocking(False)
        yield ear


def heard(ear: socket.socket) -> list[str]:
    lines: list[str] = []
    while True:
        try:
            lines += ear.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


@pytest.fixture(params=["a file", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "abstract":
        if sys.platform != "linux":
            pytest.skip("abstract sockets are Linux's")
        return f"@understudy-{secrets.token_hex(8)}"
    return str(tmp_path / "notify")


def test_what_is_told_and_that_no_child_inherits_the_address(address: str) -> None:
    environment = {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "6000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    with listening(address) as ear:
        notifier = Notifier.from_environment(environment)
        assert environment == {"HOME": "/"}
        assert notifier.watchdog == 6.0
        notifier.ready()
        notifier.status("ok: every cue\nREADY=0")
        notifier.alive()
        notifier.stopping()
        assert heard(ear) == ["READY=1", "STATUS=ok: every cue READY=0", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    ("environment", "listens", "watchdog"),
    [
        ({}, False, None),
        ({"NOTIFY_SOCKET": ""}, False, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, False, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, True, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "0"}, True, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "٣"}, True, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, True, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}, True, None),
    ],
)
def test_what_the_environment_may_say(
    environment: dict[str, str], listens: bool, watchdog: float | None
) -> None:
    with capture_logs():
        notifier = Notifier.from_environment(environment)
    assert (notifier.listening, notifier.watchdog) == (listens, watchdog)
    assert environment == {}


def test_nobody_there_or_nobody_who_reads_costs_nothing(tmp_path: Path) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            Notifier(str(tmp_path / "nowhere")).ready()
        full = Notifier(str(tmp_path / "full"))
        with listening(str(tmp_path / "full")):
            for _ in range(2000):
                full.status("x" * 300)
    assert {each["event"] for each in logs} == {"systemd_not_told"}
    assert len(logs) == 4, "told once each, not each time"


async def test_the_watchdog_is_fed_while_the_show_moves_and_only_then(tmp_path: Path) -> None:
    clock, address = VirtualClock(), str(tmp_path / "notify")
    why: list[str | None] = [None]
    with listening(address) as ear, capture_logs() as logs:
        notifier = Notifier(address, 6.0)
        task = asyncio.create_task(
            keep_telling(notifier, clock, lambda: why[0], lambda: f"because {why[0]}")
        )
        await settle()
        assert heard(ear) == ["WATCHDOG=1", "STATUS=because None"]
        await clock.advance(6)
        assert heard(ear) == ["WATCHDOG=1"] * 3
        why[0] = "the show does not move"
        await clock.advance(60)
        assert heard(ear) == ["STATUS=because the show does not move"]
        assert [each["event"] for each in logs] == ["watchdog_not_fed"]
        why[0] = None
        await clock.advance(2)
        assert "WATCHDOG=1" in heard(ear)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_the_unit_is_restarted_for_ever_and_waits_to_be_told() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(Path(__file__).parents[3] / "deploy" / "understudy.service")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    service = unit["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert int(service["WatchdogSec"]) >= 10 * STATUS_EVERY / 3
