"""A technician without a page: says hello on the control socket, and notes what comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.helpers.servers import Address
from tests.helpers.sockets import Message, SocketClient


@dataclass
class Technician(SocketClient[Message]):
    """One connected control client."""

    _ids: int = 0

    def note(self, raw: str | bytes) -> Message:
        """See `SocketClient.note`."""
        message: Message = json.loads(raw)
        return message

    def of(self, kind: str) -> list[Message]:
        """Every message of a type."""
        return [message for message in self.heard if message["type"] == kind]

    @property
    def state(self) -> Message:
        """The state that was told last."""
        state: Message = self.of("state")[-1]["state"]
        return state

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


def line(address: Address, **options: Any) -> AbstractAsyncContextManager[Technician]:
    """An open socket on which nothing has been said yet."""
    return Technician.line(address.control, **options)


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
