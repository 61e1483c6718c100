"""The socket on which ComfyUI tells of a run: kept open, and stamped on arrival."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from generator.engine import EngineUnavailable
from generator.engines._comfyui.messages import HELLO

MAX_MESSAGE: Final = 64 * 2**20
"""Bytes. A preview may be a PNG of the whole picture; the library's 1 MiB closes on it."""

_OPEN_WITHIN: Final = 5.0
_CLOSE_WITHIN: Final = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and when it came by `time.perf_counter`; None: the socket was lost."""

    at: float
    message: str | bytes | None


@asynccontextmanager
async def listening(
    url: str, headers: Mapping[str, str], silence: float
) -> AsyncIterator[asyncio.Queue[Heard]]:
    """Listen until the context is left; what is heard is in the queue.

    The queue has no bound: ComfyUI sends to all of its clients from one loop, so one that does
    not read would hold up the others. A run's previews are all that it can hold.

    Args:
        url: with the client id.
        headers: for the handshake.
        silence: seconds without a word after which the socket is replaced.

    Raises:
        EngineUnavailable: it cannot be opened; one that is lost later is opened again.
    """
    try:
        socket = await _opened(url, headers)
    except (OSError, WebSocketException, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise EngineUnavailable(f"ComfyUI's socket cannot be opened: {reason}") from error
    heard: asyncio.Queue[Heard] = asyncio.Queue()
    reader = asyncio.create_task(_read(socket, url, headers, silence, heard), name="comfyui socket")
    try:
        yield heard
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(
    socket: ClientConnection,
    url: str,
    headers: Mapping[str, str],
    silence: float,
    heard: asyncio.Queue[Heard],
) -> None:
    while True:
        try:
            async with socket:
                while True:
                    async with asyncio.timeout(silence):
                        message = await socket.recv()
                    heard.put_nowait(Heard(time.perf_counter(), message))
        except (OSError, WebSocketException, TimeoutError):
            heard.put_nowait(Heard(time.perf_counter(), None))
        socket = await _opened_again(url, headers)


async def _opened_again(url: str, headers: Mapping[str, str]) -> ClientConnection:
    pause = _FIRST_PAUSE
    while True:
        await asyncio.sleep(pause)
        try:
            return await _opened(url, headers)
        except (OSError, WebSocketException, TimeoutError):
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _opened(url: str, headers: Mapping[str, str]) -> ClientConnection:
    socket = await connect(
        url,
        additional_headers=dict(headers),
        max_size=MAX_MESSAGE,
        compression=None,
        open_timeout=_OPEN_WITHIN,
        close_timeout=_CLOSE_WITHIN,
    )
    try:
        await socket.send(HELLO)
    except BaseException:
        await socket.close()
        raise
    return socket
