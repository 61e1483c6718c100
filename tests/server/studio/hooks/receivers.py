"""Somebody's program that is told by a webhook, on real sockets; `standardwebhooks` judges."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.client import parse_headers
from io import BytesIO
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass(frozen=True)
class Received:
    """One request.

    Attributes:
        path: of its address.
        headers: their names in lower case.
        body: as it came.
        verified: which of the receiver's secrets have signed it, by their number.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    verified: tuple[int, ...]

    @property
    def id(self) -> str:
        """Of the message."""
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        """What was said."""
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: of HTTP; None for none at all.
        headers: of it.
        resets: whether the line is cut off instead.
        hangs: whether it never comes.
    """

    status: int | None = 200
    headers: Sequence[str] = ()
    resets: bool = False
    hangs: bool = False


OK = Reply()
RESETS = Reply(None, resets=True)
HANGS = Reply(None, hangs=True)
CLOSES = Reply(None)


@dataclass
class Receiver:
    """Who is told.

    Attributes:
        replies: what is answered, one after another; then 200.
        secrets: what it verifies with.
        by_path: for a path, what is always answered there.
    """

    replies: list[Reply] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    by_path: dict[str, Reply] = field(default_factory=dict)
    port: int = 0
    got: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Where it listens."""
        return f"http://{host}:{self.port}{path}"

    async def until(self, enough: Callable[[Receiver], object], within: float = 30.0) -> None:
        """Wait until `enough` says so."""
        try:
            async with asyncio.timeout(within):
                while not enough(self):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within} s; got {self.got!r:.2000}") from None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self._answer(reader, writer)
        finally:
            self.at_once -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            first, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            headers = {name.lower(): value for name, value in parse_headers(BytesIO(rest)).items()}
            body = await reader.readexactly(int(headers["content-length"]))
            path = first.split()[1].decode()
            self.got.append(Received(path, headers, body, self._verified(body, headers)))
            self._more.set()
            reply = self.by_path.get(path) or (self.replies.pop(0) if self.replies else OK)
            if reply.hangs:
                await reader.read()
            elif reply.resets:
                linger = struct.pack("ii", 1, 0)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            elif reply.status is not None:
                lines = [f"HTTP/1.1 {reply.status} so", *reply.headers, "content-length: 7"]
                writer.write("\r\n".join([*lines, "", "said so"]).encode())
                await writer.drain()

    def _verified(self, body: bytes, headers: dict[str, str]) -> tuple[int, ...]:
        return tuple(n for n, secret in enumerate(self.secrets) if verifies(secret, body, headers))


def verifies(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a receiver that has the secret takes a message for ours."""
    try:
        Webhook(secret).verify(body, dict(headers))
    except WebhookVerificationError:
        return False
    return True


@asynccontextmanager
async def receiving(*replies: Reply, secrets: Sequence[str] = ()) -> AsyncIterator[Receiver]:
    """A receiver on all loopback addresses until the context is left."""
    receiver = Receiver(list(replies), list(secrets))
    server = await asyncio.start_server(receiver.serve, "0.0.0.0", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver
