"""What the benchmarks share: a real server in a process of its own, a screen, and figures."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.helpers.screens import decode_frame

PATIENCE: Final = 60.0
"""Seconds to wait for a server: all cores may be busy, on purpose."""
"""Seconds until a worker must have drawn something."""


def say(*words: object) -> None:
    """A line of the report, at once."""
    print(*words, flush=True)


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` of `values` lies, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def spread(values: Sequence[float], unit: float = 1e3, name: str = "ms") -> str:
    """Median, p95, p99 and most of some seconds, in milliseconds."""
    shown = [f"{quantile(values, q) * unit:.2f}" for q in (0.5, 0.95, 0.99)]
    most = f"{max(values) * unit:.2f}" if values else "nan"
    return (
        f"median {shown[0]}  p95 {shown[1]}  p99 {shown[2]}  most {most} {name}  (n={len(values)})"
    )


@dataclass(frozen=True)
class Running:
    """A server that serves: where, and as which process."""

    address: str
    pid: int

    def control(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Give a command, as the technician at the machine."""
        url = f"http://{self.address}/api/control/{command}"
        answer = httpx.post(url, json=dict(arguments), trust_env=False, timeout=PATIENCE)
        answer.raise_for_status()

    def state(self) -> dict[str, Any]:
        """The whole state."""
        answer = httpx.get(f"http://{self.address}/api/state", trust_env=False, timeout=PATIENCE)
        state: dict[str, Any] = answer.json()
        return state

    def memory(self) -> int:
        """Bytes it holds in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0


@contextmanager
def serving(
    show: Path,
    environment: Mapping[str, str] | None = None,
    *,
    log: Path | None = None,
    command: Sequence[str] = ("serve",),
) -> Iterator[Running]:
    """`understudy serve` on a free port, ended when left.

    Args:
        show: what is served.
        environment: added to ours.
        log: the file that its log goes to, whole; else only warnings are told, to our terminal.
        command: of `understudy`: which of its servers.
    """
    started = [
        *(sys.executable, "-m", "server"),
        *command,
        "--show",
        str(show),
        "--port",
        "0",
        "--log-level",
        "warning" if log is None else "info",
    ]
    environment = {**os.environ, **(environment or {})}
    with nullcontext() if log is None else log.open("wb") as errors:
        process = subprocess.Popen(
            started, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[^:]+:(\d+)/", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {line!r}")
        yield Running(f"127.0.0.1:{found[1]}", process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def working(show: Path, engine: str) -> Iterator[str]:
    """`understudy worker` on a free port, ended when left; where it is.

    Args:
        show: whose engine.
        engine: by name.
    """
    command = [sys.executable, "-m", "server", "worker", "--engine", engine, "--port", "0"]
    with subprocess.Popen(
        [*command, "--show", str(show)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                raise RuntimeError("the worker did not start")
            _wait_for_worker(found[0])
            yield found[0]
        finally:
            process.terminate()


def _wait_for_worker(url: str) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            httpx.get(f"{url}/health", timeout=PATIENCE, trust_env=False).raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@dataclass
class Seen:
    """What one screen was sent: each frame's due time, and when it had arrived."""

    offset: float = 0.0
    messages: list[dict[str, Any]] = field(default_factory=list)
    frames: list[tuple[str, int, float, float]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds on the server's steady clock, as this screen knows it."""
        return time.monotonic() + self.offset


@asynccontextmanager
async def screen(server: Running, name: str) -> AsyncIterator[tuple[ClientConnection, Seen]]:
    """A screen that has said hello and knows the server's clock (best of 20 by round trip)."""
    url = f"ws://{server.address}/ws/screen"
    async with connect(
        url, max_size=None, compression=None, max_queue=None, open_timeout=PATIENCE
    ) as socket:
        seen = Seen()
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "screen": name}))
        best = float("inf")
        for _ in range(20):
            sent = time.monotonic()
            await socket.send(json.dumps({"type": "sync", "t0": sent}))
            while True:
                message = await socket.recv()
                got = time.monotonic()
                if isinstance(message, bytes):
                    continue
                answer = json.loads(message)
                if answer["type"] == "sync" and answer["t0"] == sent:
                    break
                seen.messages.append(answer)
            trip = (got - sent) - (answer["t2"] - answer["t1"])
            if trip < best:
                best = trip
                seen.offset = ((answer["t1"] - sent) + (answer["t2"] - got)) / 2
        yield socket, seen


async def watch(socket: ClientConnection, seen: Seen, until: float) -> None:
    """Take everything that comes until `until` (monotonic seconds)."""
    while (left := until - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left):
                message = await socket.recv()
        except TimeoutError:
            return
        arrived = seen.now()
        if isinstance(message, bytes):
            header, _ = decode_frame(message)
            seen.frames.append((header["run"], header["step"], header["present_at"], arrived))
        else:
            seen.messages.append(json.loads(message))
