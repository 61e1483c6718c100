"""Servers that really serve: in this process, or in one of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from starlette.applications import Starlette

from server.app import create_app
from server.config.show import Show
from server.core.clock import SystemClock
from server.network.connections import ConnectionLimits, Connections
from server.network.serving import uvicorn_config
from server.providers.live import LiveEngine
from server.setup import ShowSetup

ROOT = Path(__file__).resolve().parents[2]
LIMITS = ConnectionLimits()
_PATIENCE = 20.0
_OURS = re.compile(r"UNDERSTUDY_|R2_|AWS_|SETS_PER_|DEFAULT_INFER|PARALLEL_GEN|EXHIBITION_")


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    port: int
    host: str = "127.0.0.1"

    @property
    def http(self) -> str:
        """Its pages."""
        return f"http://{self.host}:{self.port}"

    @property
    def screen(self) -> str:
        """Its screen socket."""
        return f"ws://{self.host}:{self.port}/ws/screen"

    @property
    def control(self) -> str:
        """Its control socket."""
        return f"ws://{self.host}:{self.port}/ws/control"

    @property
    def older(self) -> str:
        """The older wire's socket."""
        return f"ws://{self.host}:{self.port}/ws"


@asynccontextmanager
async def serving(
    show: Show, engines: Sequence[LiveEngine] = (), limits: ConnectionLimits = LIMITS
) -> AsyncIterator[Address]:
    """Serve `show` in this process as `understudy serve` does, at a free port of loopback."""
    async with serving_app(create_app(ShowSetup(show, SystemClock(), engines)), limits) as address:
        yield address


@asynccontextmanager
async def serving_app(
    app: Starlette, limits: ConnectionLimits = LIMITS, *, port: int = 0
) -> AsyncIterator[Address]:
    """Serve an application of ours in this process, at a port of loopback; 0 for a free one."""
    app.state.connections = connections = Connections(limits)
    async with listening(uvicorn_config(app, connections), port) as where:
        yield Address(where)


@asynccontextmanager
async def listening(config: uvicorn.Config, port: int = 0) -> AsyncIterator[int]:
    """Run a server in this loop at a port of loopback, 0 for a free one; which."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    server = uvicorn.Server(config)
    with listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                assert not task.done(), "the server did not start"
                await asyncio.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, _PATIENCE)


def free_port() -> int:
    """A port of loopback that nobody listens on, for a server that cannot tell its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def plain_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would set something of ours."""
    ours = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
    return {**ours, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **extra}


@dataclass
class ServerProcess:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    address: Address
    log: Path

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        port: int = 0,
        command: Sequence[str] = ("serve",),
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        fault: str | None = None,
    ) -> Self:
        """Start `python -m server serve`, or another command, and wait until it says where it is.

        Args:
            folder: the show's.
            port: where it is to listen; 0 for anywhere.
            command: what serves.
            arguments: more of them.
            environment: more of it.
            fault: a mistake of ours to be built in; see `tests/helpers/broken_server.py`.
        """
        log = folder / "server.log"
        program = ["server"] if fault is None else ["tests.helpers.broken_server", fault]
        called = [sys.executable, "-m", *program, *command, "--show", str(folder)]
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                [*called, "--port", str(port), *arguments],
                cwd=ROOT,
                env=plain_environment(**(environment or {})),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        first = first_line(process)
        found = re.search(r"http://\S+?:(\d+)/", first)
        if found is None:
            _end(process)
            raise AssertionError(f"it said {first!r} and {log.read_text()[-2000:]}")
        server = cls(process, Address(int(found[1])), log)
        server.wait_until_it_answers()
        return server

    def wait_until_it_answers(self) -> None:
        """Wait for the first answer over HTTP."""
        until = time.monotonic() + _PATIENCE
        while True:
            with suppress(httpx.TransportError):
                httpx.get(f"{self.address.http}/healthz", timeout=5, trust_env=False)
                return
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < until, "it does not answer"
            time.sleep(0.02)

    @property
    def resident(self) -> int:
        """Bytes of memory that it has resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def control(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Give a command, as the technician at the machine."""
        answer = httpx.post(
            f"{self.address.http}/api/control/{command}",
            json=arguments,
            timeout=10,
            trust_env=False,
        )
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()["result"]
        return result

    def state(self) -> dict[str, Any]:
        """The whole state."""
        answer = httpx.get(f"{self.address.http}/api/state", timeout=10, trust_env=False)
        state: dict[str, Any] = answer.json()
        return state

    def kill(self) -> None:
        """As a power cut would, or the kernel for want of memory."""
        self.process.send_signal(signal.SIGKILL)
        _end(self.process)

    def terminate(self) -> tuple[int, float]:
        """As systemd would: exit status, and the seconds it took."""
        began = time.monotonic()
        self.process.terminate()
        try:
            status = self.process.wait(_PATIENCE)
        finally:
            _end(self.process)
        return status, time.monotonic() - began

    def close(self) -> None:
        """Be done with it, whatever became of it."""
        _end(self.process)

    def log_lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        lines = self.log.read_text().splitlines()
        return [json.loads(text) for text in lines if text.startswith("{")]


@contextmanager
def server_process(folder: Path, **options: Any) -> Iterator[ServerProcess]:
    """A server in a process of its own, ended at the end."""
    server = ServerProcess.start(folder, **options)
    try:
        yield server
    finally:
        server.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """What it says first; empty if it ends or keeps silent too long."""
    assert process.stdout is not None
    timer = threading.Timer(_PATIENCE, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()
        timer.join()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
