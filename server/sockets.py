"""What all sockets have in common: how much is taken from one, who is kept waiting, a goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from generator.answers import JsonResponse
from server.access import AccessDenied
from server.clock import Clock

POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013

_GOODBYE = 1.0
_STRIKES = 10
_STRIKES_FORGIVEN_AFTER = 60.0


class Abuse(Exception):
    """Somebody has sent too much nonsense; the socket is closed."""


@dataclass
class InboundLimiter:
    """The patience with one socket.

    Args:
        clock: what it is measured by.
        rate: messages a second that are taken for long.
        burst: messages that are taken at once.
    """

    clock: Clock
    rate: float = 120.0
    burst: float = 480.0
    strikes: list[float] = field(default_factory=list, init=False)
    allowance: float = field(default=0.0, init=False)
    seen_at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.allowance = self.burst

    def message(self) -> bool:
        """Whether one more message is within the rate."""
        now = self.clock.now()
        if self.seen_at is not None:
            gained = (now - self.seen_at) * self.rate
            self.allowance = min(self.burst, self.allowance + gained)
        self.seen_at = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True

    def strike(self) -> None:
        """Something was wrong.

        Raises:
            Abuse: it was too much of it within a minute.
        """
        now = self.clock.now()
        self.strikes = [at for at in self.strikes if now - at < _STRIKES_FORGIVEN_AFTER]
        self.strikes.append(now)
        if len(self.strikes) > _STRIKES:
            raise Abuse


class Antechamber:
    """Where sockets wait that have not said who they are: a few, and the newest of them.

    Somebody honest says hello at once. So where too many wait, the one that has been
    silent longest is sent away, and a crowd that says nothing keeps nobody else out.

    Args:
        seats: how many may wait.
    """

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._waiting: dict[asyncio.Timeout, None] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextmanager
    def wait(self, patience: asyncio.Timeout) -> Iterator[None]:
        """Wait within the body, for as long as `patience` lasts or until room is needed."""
        while len(self._waiting) >= self._seats:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            with suppress(RuntimeError):  # its own time is over in this very moment
                oldest.reschedule(asyncio.get_running_loop().time())
        self._waiting[patience] = None
        try:
            yield
        finally:
            self._waiting.pop(patience, None)


async def refuse(websocket: WebSocket, error: AccessDenied) -> None:
    """Do not open a socket, and say why: HTTP 403, with which setting helps."""
    body = {"ok": False, "error": {"code": error.code, "message": str(error)}}
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(JsonResponse(body, status_code=403))
    else:
        await websocket.close(POLICY_VIOLATION)  # before accepting: 403 as well


async def close(websocket: WebSocket, code: int) -> None:
    """Say goodbye with `code`, if there is still somebody to hear it."""
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    try:
        async with asyncio.timeout(_GOODBYE):
            await websocket.close(code)
    except (RuntimeError, OSError, WebSocketDisconnect, TimeoutError):
        return  # it has gone by itself, or does not read even this
