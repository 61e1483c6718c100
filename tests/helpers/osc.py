"""A control surface that speaks OSC over UDP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from server.control.osc import REPLY


def encoded(address: str, *values: Any) -> bytes:
    builder = OscMessageBuilder(address=address)
    for value in values:
        builder.add_arg(value)
    datagram: bytes = builder.build().dgram
    return datagram


class Surface(asyncio.DatagramProtocol):
    """A control surface: sends datagrams and notes the replies."""

    def __init__(self) -> None:
        self.replies: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        message = OscMessage(data)
        assert message.address == REPLY
        self.replies.put_nowait(message.params)

    def send(self, datagram: bytes) -> None:
        assert self.transport is not None
        self.transport.sendto(datagram)

    async def ask(self, address: str, *values: Any) -> list[Any]:
        return await self.reply(encoded(address, *values))

    async def reply(self, datagram: bytes) -> list[Any]:
        self.send(datagram)
        async with asyncio.timeout(10):
            return await self.replies.get()


@asynccontextmanager
async def surface(port: int) -> AsyncIterator[Surface]:
    loop = asyncio.get_running_loop()
    one = Surface()
    transport, _ = await loop.create_datagram_endpoint(lambda: one, remote_addr=("127.0.0.1", port))
    try:
        yield one
    finally:
        transport.close()
