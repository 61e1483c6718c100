"""What nobody has caught: told and counted, where else it would be a line in the log.

A mistake of ours may come up where nobody awaits it: in a task that was let go, in a callback
of the loop, in the handler of a request or a socket. The show goes on; but somebody should know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import tzinfo
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from server.core.clock import Clock
from server.core.conditions import Condition
from server.core.formatting import moment
from server.core.metrics import ProcessMetrics

_log = structlog.get_logger(__name__)

TOLD_FOR: Final = 600.0
"""Seconds for which an error is told after it was met last."""

LOOP: Final = "the event loop"

_NO_MISTAKES: Final = (
    HTTPException,
    ClientDisconnect,
    WebSocketDisconnect,
    OSError,
    TimeoutError,
)
"""How others leave, or the machine fails: whoever serves them knows."""


class UnhandledErrors:
    """Notes them.

    Args:
        clock: real time.
        metrics: where they are counted.
        zone: the show's, for times of the day.
    """

    def __init__(self, clock: Clock, metrics: ProcessMetrics, zone: tzinfo | None = None) -> None:
        self._clock = clock
        self._metrics = metrics
        self._zone = zone
        self._last: tuple[float, str] | None = None

    def note(self, where: str, error: BaseException | None, what: str = "") -> None:
        """One was met.

        Args:
            where: one of few words; it is counted by them.
            error: what was raised, as far as known.
            what: more about it, in words.
        """
        self._metrics.unhandled_errors.labels(where=where).inc()
        wall = self._clock.wall()
        at = moment(wall, wall, self._zone)
        reason = repr(error) if error is not None else what
        text = f"an error that nobody caught, in {where} at {at}: {reason:.200}; the log has it"
        self._last = self._clock.now(), text

    def conditions(self) -> Iterable[Condition]:
        """The last one, for a while."""
        if self._last is not None and self._clock.now() - self._last[0] < TOLD_FOR:
            yield Condition("unhandled_error", "degraded", self._last[1])

    @contextmanager
    def of_the_loop(self) -> Iterator[None]:
        """Within the body, note what reaches the running loop: tasks that nobody awaited, too."""
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()

        def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            task = context.get("task") or context.get("future")
            name = task.get_name() if isinstance(task, asyncio.Task) else None
            message = context.get("message", "")
            if isinstance(error, ConnectionError):
                _log.info("connection_lost", what=message, reason=str(error))
                return
            _log.error("unhandled_error", what=message, task=name, exc_info=error)
            self.note(LOOP, error, message)

        loop.set_exception_handler(handle)
        try:
            yield
        finally:
            loop.set_exception_handler(before)


def noting_errors(*routes: Route | WebSocketRoute | Mount) -> Sequence[BaseRoute]:
    """The same routes: what their endpoints raise is noted, and goes on to the server's log.

    By whom, the lifespan's state says: `unhandled`.
    """
    for route in routes:
        route.app = _NotingErrors(route.app, route.path)
    return routes


class _NotingErrors:
    """An endpoint whose errors are noted in passing."""

    def __init__(self, app: ASGIApp, where: str) -> None:
        self._app = app
        self._where = where

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        try:
            await self._app(scope, receive, send)
        except _NO_MISTAKES:
            raise
        except Exception as error:
            unhandled: UnhandledErrors = scope["state"]["unhandled"]
            unhandled.note(self._where, error)
            raise
