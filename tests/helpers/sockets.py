"""What a client of any of our sockets is: it notes what comes, and waits for it."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from cache.tasks import cancel_and_wait

Message = dict[str, Any]
T = TypeVar("T")


@dataclass
class SocketClient(ABC, Generic[T]):
    """One connected client. `heard` has everything, in order."""

    socket: ClientConnection
    heard: list[T] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _reader: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def line(cls, url: str, **options: Any) -> AsyncIterator[Self]:
        """An open socket on which nothing has been said yet."""
        async with connect(
            url, **{"max_size": None, "compression": None, "proxy": None, **options}
        ) as socket:
            client = cls(socket)
            client.listen()
            try:
                yield client
            finally:
                await client.deaf()

    @abstractmethod
    def note(self, raw: str | bytes) -> T:
        """What is remembered of a message."""

    def listen(self) -> None:
        """Begin to note what comes."""
        self._reader = asyncio.create_task(self._read())

    async def deaf(self) -> None:
        """Stop reading; the connection stays."""
        if self._reader is not None:
            await cancel_and_wait(self._reader)
            self._reader = None

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for raw in self.socket:
                self.heard.append(self.note(raw))
                self._more.set()
        self._more.set()

    async def send(self, message: object) -> None:
        """Say something; text and bytes go as they are."""
        await self.socket.send(
            message if isinstance(message, (str, bytes)) else json.dumps(message)
        )

    async def until(
        self, enough: Callable[[Self], object], *, within: float = 15.0, why: str = ""
    ) -> None:
        """Wait until `enough` says so; fail if it takes too long or the line is lost."""
        try:
            async with asyncio.timeout(within):
                while not enough(self):
                    self._more.clear()
                    gone = self._reader is not None and self._reader.done()
                    assert not gone, f"gone: {self.goodbye}; told {self.heard[-3:]}"
                    await self._more.wait()
        except TimeoutError:
            told = f"{self.heard[-40:]!r:.2000}"
            raise AssertionError(f"{why or 'not'} within {within} s; told {told}") from None

    async def closed(self, within: float = 15.0) -> int | None:
        """Wait for the server to close the socket; its code."""
        async with asyncio.timeout(within):
            await self.socket.wait_closed()
        return self.socket.close_code

    @property
    def goodbye(self) -> tuple[int | None, str | None]:
        """Why the server closed, if it did."""
        return self.socket.close_code, self.socket.close_reason
