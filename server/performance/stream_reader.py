"""A frame stream read in a task of its own.

An engine that hangs may also hang in letting go. So whoever performs does not wait for a
stream to close: it is cancelled, and closes in its own time while the next one plays.
"""

from __future__ import annotations

import asyncio

import structlog

from generator.sheet.plan import Action
from server.providers.base import Frame, FrameStream, Provider, ProviderError, Slot

_log = structlog.get_logger(__name__)

_CLOSED_WITHIN = 5.0
"""Seconds that streams have to close when the show ends."""


class StreamReader:
    """The frames of one stream, as they come.

    At most one frame waits to be fetched, so a stream is never far ahead of the stage.
    """

    def __init__(self, provider: Provider, action: Action, slot: Slot) -> None:
        self._came: asyncio.Queue[FrameStream | Frame | Exception] = asyncio.Queue(1)
        self._task = asyncio.create_task(
            self._play(provider, action, slot), name=f"stream {action.action_id}"
        )

    async def opened(self) -> FrameStream:
        """The stream, once it has opened. To be asked first, and once.

        Raises:
            Exception: whatever kept it from opening; `ProviderError` unless it is a mistake.
        """
        came = await self._next()
        assert isinstance(came, FrameStream)  # noqa: S101 - what is put first
        return came

    async def frame(self) -> Frame:
        """The next frame.

        Raises:
            Exception: whatever ended the stream; `ProviderError` unless it is a mistake.
        """
        came = await self._next()
        assert isinstance(came, Frame)  # noqa: S101 - what is put after the stream
        return came

    async def _next(self) -> FrameStream | Frame:
        came = await self._came.get()
        if isinstance(came, Exception):
            raise came
        return came

    async def _play(self, provider: Provider, action: Action, slot: Slot) -> None:
        try:
            async with provider.open(action, slot) as stream:
                await self._came.put(stream)
                async for frame in stream.frames:
                    await self._came.put(frame)
            await self._came.put(ProviderError("it ended without a final image"))
        except Exception as error:  # noqa: BLE001 - raised where the frames are awaited
            await self._came.put(error)

    def drop(self) -> asyncio.Task[None]:
        """Take nothing more from it; the task that closes it."""
        self._task.cancel()
        return self._task


class DrainingTasks:
    """Streams that are closing while something else plays already."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, task: asyncio.Task[None]) -> None:
        """Mind a task until it has ended."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("take_closed_badly", exc_info=error)

    async def aclose(self) -> None:
        """Wait for them, but not for ever."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSED_WITHIN)
