"""A server that answers whatever does most harm: without end, compressed, or drop by drop.

It speaks just enough HTTP and websocket to be taken for an engine or a store. `sent` counts
what the other side took off it: who is bounded hangs up before it is much.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

Harm = Literal[
    "endless line",
    "endless lines",
    "endless body",
    "endless error",
    "gzip",
    "endless headers",
    "endless header",
    "drip",
    "drip head",
]
HARMS: Final[tuple[Harm, ...]] = (
    "endless line",
    "endless body",
    "endless error",
    "gzip",
    "endless headers",
    "endless header",
    "drip",
    "drip head",
)
SocketHarm = Literal["huge message", "endless fragments", "flood", "drip", "silence"]
SOCKET_HARMS: Final[tuple[SocketHarm, ...]] = (
    "huge message",
    "endless fragments",
    "flood",
    "drip",
)

_CHUNK: Final = b"A" * 65536
_MOST: Final = 400 * 2**20
"""Bytes after which even this server has enough: nobody has stopped it."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_DRIP: Final = 0.05


@functools.cache
def gzip_bomb() -> bytes:
    """A gigabyte in some hundred kilobytes, as members one after another."""
    member = gzip.compress(bytes(16 * 2**20), 6)
    return member * 64


@dataclass
class Hostile:
    """What it does, and how much of it was taken."""

    harm: Harm = "endless line"
    socket_harm: SocketHarm = "flood"
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    url: str = ""
    shakes_hands: bool = True
    at_work: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task: asyncio.Task[None] | None = asyncio.current_task()
        self.at_work.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # it was hung up on, or the test is over
        finally:
            writer.transport.abort()
            self.at_work.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.asked.append(head.split("\r\n", 1)[0])
        key = next(
            (
                line.split(":", 1)[1].strip()
                for line in head.split("\r\n")
                if line.lower().startswith("sec-websocket-key:")
            ),
            None,
        )
        send = self._sender(writer)
        if key is not None and self.shakes_hands:
            accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest())
            await send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            await self._talk(send)
        else:
            await self._answer(send)

    def _sender(self, writer: asyncio.StreamWriter) -> Callable[[bytes], Awaitable[None]]:
        async def send(data: bytes) -> None:
            writer.write(data)
            async with asyncio.timeout(5):
                await writer.drain()
            self.sent += len(data)

        return send

    async def _answer(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
        match self.harm:
            case "endless line":
                await send(plain + b"\r\nevent: step\ndata: ")
                await self._on(send, _CHUNK)
            case "endless lines":
                await send(plain + b"\r\n")
                await self._on(send, b"data: {}\n" * 4096)
            case "endless body":
                await send(plain + b'\r\n{"a": "')
                await self._on(send, _CHUNK)
            case "endless error":
                await send(b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\n\r\n")
                await self._on(send, _CHUNK)
            case "gzip":
                await send(plain + b"Content-Encoding: gzip\r\n\r\n" + gzip_bomb())
            case "endless headers":
                await send(plain)
                await self._on(send, b"X-More: and more\r\n" * 1000)
            case "endless header":
                await send(plain + b"X-Long: ")
                await self._on(send, _CHUNK)
            case "drip":
                await send(plain + b"\r\ndata: ")
                await self._on(send, b"A", pause=_DRIP)
            case "drip head":
                await send(plain)
                await self._on(send, b"X: y\r\n", pause=_DRIP)

    async def _talk(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        match self.socket_harm:
            case "huge message":
                await send(b"\x82\x7f" + (2**40).to_bytes(8, "big"))
                await self._on(send, _CHUNK)
            case "endless fragments":
                part = b"\x7f" + len(_CHUNK).to_bytes(8, "big") + _CHUNK
                await send(b"\x02" + part)
                await self._on(send, b"\x00" + part)
            case "flood":
                size = 2**20
                message = b"\x82\x7f" + size.to_bytes(8, "big") + b"A" * size
                await self._on(send, message)
            case "drip":
                await send(b"\x82\x7f" + (2**20).to_bytes(8, "big"))
                await self._on(send, b"A", pause=_DRIP)
            case "silence":
                await asyncio.sleep(3600)

    async def _on(
        self, send: Callable[[bytes], Awaitable[None]], data: bytes, pause: float = 0.0
    ) -> None:
        while self.sent < _MOST:
            await send(data)
            await asyncio.sleep(pause)


@asynccontextmanager
async def hostile(
    harm: Harm = "endless line", socket_harm: SocketHarm = "flood"
) -> AsyncIterator[Hostile]:
    """A hostile server at a free port of loopback."""
    it = Hostile(harm, socket_harm)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()
        working = [task for task in it.at_work if task is not None]
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
