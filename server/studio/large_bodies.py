"""Bodies of requests that may be large: a few of them are in memory at once, whoever sends them.

What is small is read at once. What turns out to be large waits for a place, meanwhile unread: then
it is the sender that is held up, and nothing of it is here but a buffer. A place is held until all
that came of the body is done with, for what is made of it takes several times its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from starlette.requests import Request

from server.studio.refusals import StudioRefused

SMALL: Final = 64 * 1024
"""Bytes of a body that waits for no place."""

_AT_ONCE: Final = 2
_PATIENCE: Final = 10.0
"""Seconds to wait for a place. The line to somebody who sends nothing is ended soon after."""

_WITHIN: Final = 60.0
"""Seconds in which a body must have come that holds a place others wait for."""

_DIGITS: Final = 20


@dataclass(eq=False)
class LargeBodies:
    """The places.

    Args:
        at_once: how many there are.
        patience: see `_PATIENCE`.
        within: see `_WITHIN`.
    """

    _: KW_ONLY
    at_once: int = _AT_ONCE
    patience: float = _PATIENCE
    within: float = _WITHIN
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.at_once)

    @asynccontextmanager
    async def body_of(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The whole body of a request; where it is large it has a place until the context is left.

        Args:
            request: whose.
            limit: bytes that it may have.

        Raises:
            StudioRefused: `too_large`; `too_many` where no place was free in time; `bad_request`
                where it came too slowly.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and len(declared) < _DIGITS and int(declared) > limit:
            raise _too_large(limit)  # before any of it is read
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(None) as deadline:
                    body = await self._read(request, limit, stack, deadline)
            except TimeoutError:
                raise StudioRefused("bad_request", "the body came too slowly") from None
            yield body

    async def _read(
        self, request: Request, limit: int, stack: AsyncExitStack, deadline: asyncio.Timeout
    ) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            before, size = size, size + len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
            if before <= SMALL < size:
                await self._take_place(stack)
                deadline.reschedule(asyncio.get_running_loop().time() + self.within)
        return b"".join(parts)

    async def _take_place(self, stack: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(self.patience):
                await stack.enter_async_context(self._places)
        except TimeoutError:
            text = f"{self.at_once} large requests are being read already; come again"
            raise StudioRefused("too_many", text) from None


def _too_large(limit: int) -> StudioRefused:
    return StudioRefused("too_large", f"a request of this kind may have {limit} bytes")
