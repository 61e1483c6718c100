"""Engine workers in processes of their own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from generator.engines.remote.engine import RemoteEngine
from tests.helpers.servers import ROOT, plain_environment

_PATIENCE = 30.0


@dataclass
class WorkerProcess:
    """An `understudy worker`."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """As the kernel would, for want of memory."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """Let it hang: it keeps its connections, and says nothing more."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def worker_process(show: Path, engine: str) -> Iterator[WorkerProcess]:
    """A worker for a show's engine, ended at the end."""
    command = [sys.executable, "-m", "server", "worker", "--show", str(show), "--engine", engine]
    with (show / "worker.log").open("ab") as stderr:
        process = subprocess.Popen(
            [*command, "--port", "0"],
            cwd=ROOT,
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    timer = threading.Timer(_PATIENCE, process.kill)
    timer.start()
    try:
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found is not None, f"it said {said!r}"
        _wait_until_it_listens(process, found[0])
        timer.cancel()
        yield WorkerProcess(process, found[0])
    finally:
        timer.cancel()
        timer.join()
        process.kill()  # also one that is frozen
        process.wait()
        process.stdout.close()


def _wait_until_it_listens(process: subprocess.Popen[str], url: str) -> None:
    """It says where it will listen a moment before it does."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    while process.poll() is None:
        with suppress(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        time.sleep(0.02)


@asynccontextmanager
async def remote(worker: WorkerProcess) -> AsyncIterator[RemoteEngine]:
    """A worker as an engine."""
    async with httpx.AsyncClient(trust_env=False) as client:
        yield RemoteEngine(client, worker.url)
