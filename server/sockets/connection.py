"""One websocket from its opening to its goodbye: what all our sockets have in common.

    SocketConnection        who is let in, how much is taken of it, how long it may leave unread
    └── JsonConnection      and it speaks JSON: hello first; what cannot be taken is answered

What somebody who reads slowly is sent, and what is left out, is its mailbox's affair: a screen's
drops steps, a technician's the older states. Here it is only found out, and let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prometheus_client import Counter
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from cache.tasks import cancel_and_wait
from generator.answers import JsonResponse
from server.core.clock import Clock
from server.network.access import AccessDenied
from server.network.rate_limit import TokenBucket
from server.sockets.messages import ErrorReply, Hello, MessageDecoder, MessageError, WireMessage

POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013

HELLO_WITHIN = 10.0
"""Seconds in which somebody must say who it is."""

READS_WITHIN = 30.0
"""Seconds in which somebody must have read what it was sent, or it is let go."""

_GOODBYE = 1.0
_STRIKES = 10
_STRIKES_FORGIVEN_AFTER = 60.0

M = TypeVar("M", bound=WireMessage)
H = TypeVar("H", bound=Hello)
T = TypeVar("T")


class ProtocolAbuse(Exception):
    """Somebody has sent too much nonsense, or may not come in; its connection is closed."""


class SlowReader(TimeoutError):
    """Somebody has not read within `READS_WITHIN` what it was sent."""


class TooManyMessages(MessageError):
    """Somebody sends faster than it may."""


@dataclass
class InboundLimiter:
    """How much one connection may send.

    Args:
        clock: what it is measured by.
        rate: messages a second that are taken for long.
        burst: messages that are taken at once.
    """

    clock: Clock
    rate: float = 120.0
    burst: float = 480.0

    def __post_init__(self) -> None:
        self._strikes: list[float] = []
        self._bucket = TokenBucket(self.rate, self.burst, self.burst, self.clock.now())

    def message(self) -> bool:
        """Whether one more message is within the rate."""
        return not self._bucket.wait(1, self.clock.now())

    def strike(self) -> None:
        """Something was wrong.

        Raises:
            ProtocolAbuse: it was too much of it within a minute.
        """
        now = self.clock.now()
        self._strikes = [at for at in self._strikes if now - at < _STRIKES_FORGIVEN_AFTER]
        self._strikes.append(now)
        if len(self._strikes) > _STRIKES:
            raise ProtocolAbuse


class PendingHandshakes:
    """Where connections wait that have not said who they are: a few, and the newest of them.

    Somebody honest says hello at once. So where more wait than there are seats, the one that has
    been silent longest is sent away, and a crowd that says nothing keeps nobody else out.
    """

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._waiting: dict[asyncio.Timeout, None] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def wait(self, within: float | None) -> AsyncIterator[None]:
        """Wait in the body, so many seconds at the most.

        Raises:
            TimeoutError: they have passed, or room was needed.
        """
        async with asyncio.timeout(within) as deadline:
            while len(self._waiting) >= self._seats:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with suppress(RuntimeError):  # its own time is over in this very moment
                    oldest.reschedule(asyncio.get_running_loop().time())
            self._waiting[deadline] = None
            try:
                yield
            finally:
                self._waiting.pop(deadline, None)


@dataclass
class SocketConnection:
    """A websocket, and how much it may send."""

    websocket: WebSocket
    limiter: InboundLimiter

    async def serve(
        self, check: Callable[[], object], attend: Callable[[], Awaitable[int]]
    ) -> None:
        """Open it, attend to it until it goes, and say goodbye.

        Args:
            check: raises `AccessDenied` where it is not to be opened: HTTP 403, and why.
            attend: gives the code to close it with.
        """
        websocket = self.websocket
        try:
            check()
        except AccessDenied as error:
            body = {"ok": False, "error": {"code": error.code, "message": str(error)}}
            if "websocket.http.response" in websocket.scope.get("extensions", {}):
                await websocket.send_denial_response(JsonResponse(body, status_code=403))
            else:
                await websocket.close(POLICY_VIOLATION)  # before accepting: 403 as well
            return
        await websocket.accept()
        # It may go by itself meanwhile, or not even read the goodbye.
        with suppress(WebSocketDisconnect):
            code = await attend()
            if websocket.application_state is WebSocketState.CONNECTED:
                with suppress(RuntimeError, OSError, TimeoutError):
                    async with asyncio.timeout(_GOODBYE):
                        await websocket.close(code)

    async def receive_text(self) -> str | None:
        """The next message; None for one that is binary.

        Raises:
            TooManyMessages: it comes too soon.
            WebSocketDisconnect: none will come.
        """
        event: Any = await self.websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        if not self.limiter.message():
            raise TooManyMessages("too_many", "too many messages; wait a little")
        text: str | None = event.get("text")
        return text

    async def send(self, message: str | bytes) -> None:
        """Send a text, or a binary message, and wait until the line has taken it.

        Raises:
            SlowReader: it has not, for too long.
            WebSocketDisconnect: nobody is there any more.
        """
        try:
            async with asyncio.timeout(READS_WITHIN):
                if isinstance(message, str):
                    await self.websocket.send_text(message)
                else:
                    await self.websocket.send_bytes(message)
        except TimeoutError:
            raise SlowReader from None
        except RuntimeError as error:  # the goodbye was said in the meantime
            raise WebSocketDisconnect(1006) from error


@dataclass
class JsonConnection(SocketConnection, Generic[M]):
    """A websocket that speaks JSON.

    Args:
        decode: reads its messages.
        errors: counts, by code, what was not taken.
    """

    decode: MessageDecoder[M]
    errors: Counter

    async def hello(
        self, pending: PendingHandshakes, kind: type[H], protocol: int, admit: Callable[[H], T]
    ) -> tuple[H, T]:
        """Wait for the first message, and for what `admit` makes of it.

        `admit` raises `AccessDenied` where somebody is not let in.

        Raises:
            ProtocolAbuse: it may not come in, or says everything but hello.
            TimeoutError: it says nothing.
        """
        async with pending.wait(HELLO_WITHIN):
            while not isinstance(message := await self.receive(), kind):
                if message is not None:
                    await self.refuse("hello_first", "say hello first")
            try:
                if message.protocol == protocol:
                    return message, admit(message)
                text = f"expected protocol {protocol}, not {message.protocol}"
                await self.refuse("unknown_protocol", text)
            except AccessDenied as error:
                await self.refuse(error.code, str(error))
            raise ProtocolAbuse

    async def receive(self) -> M | None:
        """The next message; None for one that was refused."""
        try:
            text = await self.receive_text()
            if text is not None:
                return self.decode(text)
            await self.refuse("binary", "expected text, got binary")
        except MessageError as error:
            await self.refuse(error.code, str(error))
            if isinstance(error, TooManyMessages):
                await asyncio.sleep(1.0)  # while we do not read, it cannot send
        return None

    async def refuse(self, code: str, message: str) -> None:
        """Answer what cannot be taken; too much of it is `ProtocolAbuse`."""
        await self.error(code, message)
        self.limiter.strike()

    async def error(self, code: str, message: str) -> None:
        """Tell of something wrong that is nobody's fault."""
        self.errors.labels(code=code).inc()
        await self.send(ErrorReply(code=code, message=message).encode())


async def side_by_side(*works: Coroutine[Any, Any, object]) -> None:
    """Run `works` until one of them ends, and see the others ended; its error is raised.

    Sending and receiving are such works: a handler that only sends would hang the server's
    shutdown, and one that only receives would not notice a peer that is too slow.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*tasks)
    error = next(filter(None, [task.exception() for task in done]), None)
    # An error holds all frames that it came through, and those would hold it by their tasks: a
    # circle in which pictures of 150 kB each lie until the collector comes by, minutes later.
    tasks.clear()
    done.clear()
    try:
        if error is not None:
            raise error
    finally:
        del error
