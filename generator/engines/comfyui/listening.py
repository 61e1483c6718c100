"""The socket on which ComfyUI tells of a run: kept open, and stamped on arrival."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from cache.outgoing import reason_of
from cache.tasks import cancel_and_wait
from generator.engines.comfyui.messages import HELLO
from generator.engines.port import EngineUnavailable
from generator.outgoing import open_socket

MOST_WAITING: Final = 64 * 2**20
"""Bytes of messages that wait to be looked at; what comes beyond is dropped."""

_OVERHEAD: Final = 200
"""Bytes that a message takes beside its own."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0

_OpenListener = Callable[[], AbstractAsyncContextManager[ClientConnection]]
"""Opens a socket, and says who listens."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and when it came by `time.perf_counter`; None: the socket was lost."""

    at: float
    message: str | bytes | None


class HeardQueue:
    """What was heard and not looked at yet, in order, bounded in bytes."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._queue: asyncio.Queue[Heard] = asyncio.Queue()
        self._most = most
        self._bytes = 0
        self._dropping = False

    def put(self, heard: Heard) -> None:
        """Add one, or drop it where too much waits; the first that is dropped counts as a loss."""
        size = _OVERHEAD + len(heard.message or "")
        if self._bytes + size <= self._most:
            self._dropping = False
        elif self._dropping:
            return
        else:
            self._dropping, heard, size = True, Heard(heard.at, None), _OVERHEAD
        self._bytes += size
        self._queue.put_nowait(heard)

    async def get(self) -> Heard:
        """The next one, as soon as there is one."""
        heard = await self._queue.get()
        self._bytes -= _OVERHEAD + len(heard.message or "")
        return heard


@asynccontextmanager
async def listening(
    url: str, headers: Mapping[str, str], silence: float
) -> AsyncIterator[HeardQueue]:
    """Listen until the context is left; what is heard is in the queue.

    It is always read: ComfyUI sends to all of its clients from one loop, so one that does not
    read would hold up the others. What is heard faster than it is looked at waits, up to a
    bound; beyond it messages are dropped, as if the socket had been lost.

    Args:
        url: with the client id.
        headers: for the handshake.
        silence: seconds without a word after which the socket is replaced.

    Raises:
        EngineUnavailable: it cannot be opened; one that is lost later is opened again.
    """
    open_listener = partial(_open_listener, url, headers)
    async with AsyncExitStack() as line:
        try:
            socket = await line.enter_async_context(open_listener())
        except (OSError, WebSocketException, TimeoutError) as error:
            reason = reason_of(error, url)
            raise EngineUnavailable(f"ComfyUI's socket cannot be opened: {reason}") from error
        heard = HeardQueue()
        reader = asyncio.create_task(
            _read(line, socket, open_listener, silence, heard), name="comfyui socket"
        )
        try:
            yield heard
        finally:
            await cancel_and_wait(reader)


async def _read(
    line: AsyncExitStack,
    socket: ClientConnection,
    open_listener: _OpenListener,
    silence: float,
    heard: HeardQueue,
) -> None:
    """Read `socket`, and each one that takes its place; `line` holds the one that is open."""
    while True:
        try:
            while True:
                async with asyncio.timeout(silence):
                    message = await socket.recv()
                heard.put(Heard(time.perf_counter(), message))
        except (OSError, WebSocketException, TimeoutError):
            heard.put(Heard(time.perf_counter(), None))
        await line.aclose()
        socket = await _opened_again(line, open_listener)


async def _opened_again(line: AsyncExitStack, open_listener: _OpenListener) -> ClientConnection:
    pause = _FIRST_PAUSE
    while True:
        await asyncio.sleep(pause)
        try:
            return await line.enter_async_context(open_listener())
        except (OSError, WebSocketException, TimeoutError):
            pause = min(2 * pause, _LONGEST_PAUSE)


@asynccontextmanager
async def _open_listener(url: str, headers: Mapping[str, str]) -> AsyncIterator[ClientConnection]:
    async with open_socket(url, headers=headers) as socket:
        await socket.send(HELLO)
        yield socket
