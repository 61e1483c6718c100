"""Server-sent events as an answer: told until they end, or until nobody listens any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from cache.tasks import cancel_and_wait

READS_WITHIN: Final = 30.0
"""Seconds in which somebody must have read what it was sent, or it is let go."""

_Answer = TypeVar("_Answer")


def sse_event(name: str, data: str, number: int | None = None) -> bytes:
    """One event.

    Args:
        name: what kind of event it is.
        data: JSON on one line.
        number: the id that whoever comes again says it had last; None for none.
    """
    begin = "" if number is None else f"id: {number}\n"
    return f"{begin}event: {name}\ndata: {data}\n\n".encode()


async def with_heartbeat(
    events: AsyncGenerator[bytes, None],
    every: float,
    until: Callable[[], Awaitable[object]] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The same events, with a comment wherever nothing was said for a while.

    Args:
        events: they are closed at the end.
        every: seconds of silence after which there is a comment.
        until: they end as soon as this returns; None for never.
    """
    async with aclosing(events):
        end = None if until is None else asyncio.ensure_future(until())
        pending: asyncio.Task[bytes] | None = None
        try:
            while True:
                pending = pending or asyncio.ensure_future(anext(events))
                waited_for = {pending} if end is None else {pending, end}
                done, _ = await asyncio.wait(
                    waited_for, timeout=every, return_when=asyncio.FIRST_COMPLETED
                )
                if end in done:
                    end.result()  # raises what it raised
                    return
                if not done:
                    yield b": still here\n\n"
                    continue
                finished, pending = pending, None
                try:
                    yield finished.result()
                except StopAsyncIteration:
                    return
        finally:
            await cancel_and_wait(*filter(None, (pending, end)))


class EventStream(StreamingResponse):
    """Server-sent events; when the caller hangs up, what makes them is cancelled at once.

    Starlette's own notices only when it next sends, which a quiet stream may put off for long.

    Args:
        events: they are closed however the answer ends.
        reads_within: seconds in which the caller must have read what it was sent.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], *, reads_within: float = READS_WITHIN
    ) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            # A proxy that gathers an answer before it hands it on would gather this one for ever.
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._events = events
        self._reads_within = reads_within

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or nobody listens."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._reads_within):
                await send(message)

        try:
            with suppress(OSError, TimeoutError):  # it hung up while we sent, or does not read
                await unless_hung_up(receive, self.stream_response(send_in_time))
        finally:
            await self._events.aclose()


async def unless_hung_up(receive: Receive, work: Awaitable[_Answer]) -> _Answer | None:
    """Do `work`; None where the caller hangs up before it is done."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel_and_wait(task, gone)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
