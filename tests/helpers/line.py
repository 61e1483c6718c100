"""A network line between two programs on this machine: as slow, as far and as broken as asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_CHUNK = 16 * 1024


@dataclass
class Line:
    """What the line is like; to be changed while it is used.

    Attributes:
        port: where it begins, on 127.0.0.1.
        bytes_per_second: what it carries towards the client, all connections together; 0 for any.
        latency: seconds that each byte travels, each way.
        up: whether it answers at all. Down: connections are closed, new ones refused.
        delivers: while cleared, it accepts everything and delivers nothing.
        carried: bytes carried towards the client.
    """

    port: int = 0
    bytes_per_second: float = 0.0
    latency: float = 0.0
    up: bool = True
    delivers: asyncio.Event = field(default_factory=asyncio.Event)
    carried: int = 0
    _free_at: float = 0.0
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where a client of the program behind it connects."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Take it down, whatever is on its way."""
        self.up = False
        for writer in list(self._connections):
            writer.transport.abort()

    def mend(self) -> None:
        """Bring it up again."""
        self.up = True


@asynccontextmanager
async def line_to(
    port: int, *, bytes_per_second: float = 0.0, latency: float = 0.0
) -> AsyncIterator[Line]:
    """A line to what listens on `port` of 127.0.0.1."""
    line = Line(bytes_per_second=bytes_per_second, latency=latency)
    line.delivers.set()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(ConnectionError, asyncio.CancelledError):
            await _through(line, port, reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.cut()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _through(
    line: Line, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if not line.up:
        return
    behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
    line._connections |= {writer, behind_writer}
    there = asyncio.create_task(_carry(line, reader, behind_writer, counted=False))
    back = asyncio.create_task(_carry(line, behind_reader, writer, counted=True))
    try:
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (there, back):
            task.cancel()
        await asyncio.gather(there, back, return_exceptions=True)
        line._connections -= {writer, behind_writer}
        behind_writer.transport.abort()


async def _carry(
    line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool
) -> None:
    """Pass bytes on, each after its latency; reading goes on meanwhile, as on a real line."""
    loop = asyncio.get_running_loop()
    # A line has some buffer, not an endless one: what is sent too fast waits at its sender.
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

    async def deliver() -> None:
        while True:
            at, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, at - loop.time()))
            await line.delivers.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    try:
        while not delivering.done():
            data = await reader.read(_CHUNK)
            at = loop.time()
            if counted:
                line.carried += len(data)
                if line.bytes_per_second:
                    line._free_at = max(line._free_at, at) + len(data) / line.bytes_per_second
                    at = line._free_at
                    await asyncio.sleep(max(0.0, at - loop.time()))
            await on_the_way.put((at + line.latency, data))
            if not data:
                await delivering
                return
    finally:
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
