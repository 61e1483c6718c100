"""A technician without a page: says hello on the control socket, and notes what comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.helpers.servers import Address

Message = dict[str, Any]


@dataclass
class Technician:
    """One connected control client. `heard` has everything, in order."""

    socket: ClientConnection
    heard: list[Message] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _reader: asyncio.Task[None] | None = None
    _ids: int = 0

    def of(self, kind: str) -> list[Message]:
        """Every message of a type."""
        return [message for message in self.heard if message["type"] == kind]

    @property
    def state(self) -> Message:
        """The state that was told last."""
        state: Message = self.of("state")[-1]["state"]
        return state

    def listen(self) -> None:
        """Begin to note what comes."""
        self._reader = asyncio.create_task(self._read())

    async def deaf(self) -> None:
        """Stop reading; the connection stays."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for raw in self.socket:
                self.heard.append(json.loads(raw))
                self._more.set()
        self._more.set()

    async def send(self, message: object) -> None:
        """Say something; text and bytes go as they are."""
        await self.socket.send(
            message if isinstance(message, (str, bytes)) else json.dumps(message)
        )

    async def until(self, enough: Callable[[Technician], object], *, within: float = 15.0) -> None:
        """Wait until `enough` says so; fail if it takes too long or the line is lost."""
        try:
            async with asyncio.timeout(within):
                while not enough(self):
                    self._more.clear()
                    gone = self._reader is not None and self._reader.done()
                    assert not gone, f"gone: {self.socket.close_code} {self.heard[-3:]}"
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within} s; told {self.heard[-3:]}") from None

    async def ask(self, command: str, **args: Any) -> Message:
        """Give a command; the reply, whatever it is."""
        self._ids += 1
        return await self.give({"id": f"t{self._ids}", "command": command, "args": args})

    async def give(self, message: Message) -> Message:
        """Send a command as it is; the reply to it."""
        before = len(self.replies(message.get("id")))
        await self.send({"type": "command", **message})
        await self.until(lambda me: len(me.replies(message.get("id"))) > before)
        return self.replies(message.get("id"))[-1]

    def replies(self, command_id: object) -> list[Message]:
        """The replies to an id."""
        return [reply for reply in self.of("reply") if reply["id"] == command_id]

    async def closed(self, within: float = 15.0) -> int | None:
        """Wait for the server to close the socket; its code."""
        async with asyncio.timeout(within):
            await self.socket.wait_closed()
        return self.socket.close_code


@asynccontextmanager
async def line(address: Address, **options: Any) -> AsyncIterator[Technician]:
    """An open socket on which nothing has been said yet."""
    async with connect(
        address.control, max_size=None, compression=None, proxy=None, **options
    ) as socket:
        client = Technician(socket)
        client.listen()
        try:
            yield client
        finally:
            await client.deaf()


@asynccontextmanager
async def technician(
    address: Address, name: str = "foh", token: str | None = None, **options: Any
) -> AsyncIterator[Technician]:
    """A technician who was welcomed and has the whole state."""
    async with line(address, **options) as client:
        hello = {"type": "hello", "protocol": 1, "name": name}
        await client.send({**hello, "token": token} if token else hello)
        await client.until(lambda me: me.of("state"))
        yield client
