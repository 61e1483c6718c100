"""The screen socket, `/ws/screen`: one kiosk's connection, from hello to goodbye.

Its mailbox drops what it is too slow for. What one screen does wrong, no other notices.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import structlog
from starlette.websockets import WebSocket

from server.core.clock import Clock
from server.core.metrics import Metrics
from server.network.access import Access
from server.network.connections import identified
from server.sockets.connection import (
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    InboundLimiter,
    JsonConnection,
    PendingHandshakes,
    ProtocolAbuse,
    SlowReader,
    side_by_side,
)
from server.sockets.messages import ErrorReply, SyncReply, SyncRequest
from server.stage import messages as wire
from server.stage.presence import ScreenPresence
from server.stage.seats import Seats
from server.stage.stage import Screen, ScreenTooSlow, Stage, StageFrame
from server.stage.wire_time import to_real_time

_log = structlog.get_logger(__name__)

MOST_SILENT = 256
"""Sockets that may be open without having said hello, if no more screens may be."""

LONGEST_AGO = 60.0
"""Seconds after which a screen no more tells what it has painted: its clock is wrong."""

SOON = 5.0
"""Seconds that a screen's clock may be ahead of ours."""

_Connection = JsonConnection[wire.FromScreen]


class ScreenSocket:
    """The endpoint: a websocket comes in, a screen joins the stage.

    `clock` is what it synchronises with, which runs as its own does.
    """

    def __init__(
        self,
        stage: Stage,
        clock: Clock,
        access: Access,
        metrics: Metrics,
        *,
        presence: ScreenPresence,
        seats: Seats,
    ) -> None:
        self._stage = stage
        self._presence = presence
        self._seats = seats
        self._clock = clock
        self._access = access
        self._metrics = metrics
        # All screens come back at once when the server was restarted.
        self._pending = PendingHandshakes(max(MOST_SILENT, seats.most))

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it goes."""
        connection = JsonConnection(
            websocket, InboundLimiter(self._clock), wire.decode, self._metrics.screen_errors
        )
        check = partial(self._access.check_origin, websocket)
        await connection.serve(check, partial(self._attend, connection))

    async def _attend(self, connection: _Connection) -> int:
        try:
            hello, _ = await connection.hello(
                self._pending,
                wire.ScreenHello,
                wire.PROTOCOL,
                lambda hello: self._access.check_screen(hello.token),
            )
            return await self._perform(connection, hello)
        except ProtocolAbuse:
            _log.warning("screen_closed", reason="too many bad messages")
        except TimeoutError:
            pass
        return POLICY_VIOLATION

    async def _perform(self, connection: _Connection, hello: wire.ScreenHello) -> int:
        """Play to one screen until it goes; the code to close with."""
        if not self._seats.admits(hello.screen):
            text = f"{self._seats.most} screens are here already"
            await connection.send(ErrorReply(code="too_many_screens", message=text).encode())
            return TRY_AGAIN_LATER
        identified(connection.websocket)
        with ExitStack() as stack:
            screen = stack.enter_context(self._stage.join(hello.screen, hello.frames))
            _log.info("screen_joined", screen=screen.name, asked=screen.asked)
            self._presence.look()
            self._metrics.screens.set(len(self._stage.screens))
            try:
                # Of these only the last can end without an error.
                await side_by_side(
                    self._send(connection, screen),
                    self._listen(connection, screen),
                    screen.dismissed.wait(),
                )
                _log.warning("screen_replaced", screen=screen.name)
            except (ScreenTooSlow, SlowReader):
                _log.warning("screen_too_slow", screen=screen.name)
            finally:
                stack.close()  # whoever is told now looks at who is still there
                self._presence.left(screen)
                self._metrics.screens.set(len(self._stage.screens))
                self._metrics.frames_skipped.inc(screen.mailbox.skipped)
                _log.info("screen_left", screen=screen.name, skipped=screen.mailbox.skipped)
        return TRY_AGAIN_LATER

    async def _send(self, connection: _Connection, screen: Screen) -> None:
        while True:
            # What was sent has no name here while the next is waited for: see `ScreenMailbox.take`.
            await self._send_one(connection, screen, await screen.mailbox.take())

    async def _send_one(
        self, connection: _Connection, screen: Screen, item: str | StageFrame
    ) -> None:
        if isinstance(item, str):
            await connection.send(item)
            return
        by_url = screen.frames == "url"
        await connection.send(
            to_real_time(item.by_url(), self._stage.time_scale).encode() if by_url else item.message
        )
        screen.frames_sent += 1
        self._metrics.frames_sent.inc()
        self._stage.sent(screen, item)

    async def _listen(self, connection: _Connection, screen: Screen) -> None:
        while True:
            message = await connection.receive()
            received_at = self._clock.now()
            screen.liveness.heard(received_at)
            match message:
                case SyncRequest():
                    screen.liveness.synced(received_at)
                    # Past the mailbox: a picture on its way must not pass for latency.
                    reply = SyncReply(t0=message.t0, t1=received_at, t2=self._clock.now())
                    await connection.send(reply.encode())
                case wire.Presented() if not -LONGEST_AGO <= message.at - received_at <= SOON:
                    # No strike: the screen's clock is wrong, and soon right.
                    off = message.at - received_at
                    expected = "at: expected a moment just past by the server's clock"
                    await connection.error("bad_time", f"{expected}, not {off:+.4g} s from now")
                case wire.Presented():
                    self._stage.presented(screen, message)
                case wire.Log():
                    say = getattr(_log, message.level)
                    say("screen_says", screen=screen.name, message=message.message)
                case wire.Glyphs():
                    screen.lacks, screen.lacks_count = message.missing, message.count
                case wire.ScreenHello():
                    await connection.refuse("hello_again", "hello is said once a connection")
                case None:
                    pass
