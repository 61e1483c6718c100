"""The screen socket, `/ws/screen`: one kiosk's connection, from hello to goodbye.

Sending and receiving run side by side and end together: a handler that only sends would
hang the server's shutdown, and one that only receives would not notice a screen that is
too slow. What one screen does wrong, no other notices.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.access import Access, AccessDenied
from server.clock import Clock
from server.connections import identified
from server.metrics import Metrics
from server.sockets import POLICY_VIOLATION, TRY_AGAIN_LATER, Abuse, InboundLimiter, close, refuse
from server.stage import messages as wire
from server.stage.pace import to_real_time
from server.stage.presence import ScreenPresence
from server.stage.seats import Seats
from server.stage.stage import Screen, ScreenTooSlow, Stage, StageFrame

_log = structlog.get_logger(__name__)

HELLO_WITHIN = 10.0
"""Seconds in which a screen must say who it is."""

LONGEST_AGO = 60.0
"""Seconds after which a screen no more tells what it has painted: its clock is wrong."""

SOON = 5.0
"""Seconds that a screen's clock may be ahead of ours."""

READS_WITHIN = 30.0
"""Seconds in which a screen must have read what it was sent, or it is let go."""


class _Dismissed(Exception):
    """Another screen came by the same name, while this one had fallen silent."""


class ScreenSocket:
    """The endpoint: a websocket comes in, a screen joins the stage.

    Args:
        stage: which it joins.
        clock: what it synchronises with, which runs as its own does.
        access: who may.
        metrics: where it is counted.
        presence: who is told that it came, and that it went.
        seats: how many there may be.
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

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it goes."""
        try:
            self._access.check_origin(websocket)
        except AccessDenied as error:
            await refuse(websocket, error)
            return
        await websocket.accept()
        patience = InboundLimiter(self._clock)
        code = POLICY_VIOLATION
        try:
            async with asyncio.timeout(HELLO_WITHIN):
                hello = await self._hello(websocket, patience)
            code = await self._perform(websocket, hello, patience)
        except WebSocketDisconnect:
            return
        except Abuse:
            _log.warning("screen_closed", reason="too many bad messages")
        except TimeoutError:
            pass
        await close(websocket, code)

    async def _hello(self, websocket: WebSocket, patience: InboundLimiter) -> wire.ScreenHello:
        while True:
            message = await self._receive(websocket, patience)
            if message is None:
                continue
            if not isinstance(message, wire.ScreenHello):
                await self._refuse(websocket, patience, "hello_first", "say hello first")
                continue
            if message.protocol != wire.PROTOCOL:
                text = f"expected protocol {wire.PROTOCOL}, not {message.protocol}"
                await self._refuse(websocket, patience, "unknown_protocol", text)
                raise Abuse
            try:
                self._access.check_screen(message.token)
            except AccessDenied as error:
                await self._refuse(websocket, patience, error.code, str(error))
                raise Abuse from None
            return message

    async def _perform(
        self, websocket: WebSocket, hello: wire.ScreenHello, patience: InboundLimiter
    ) -> int:
        """Play to one screen until it goes; the code to close with."""
        if not self._seats.admits(hello.screen):
            text = f"{self._seats.most} screens are here already"
            await websocket.send_text(wire.Error(code="too_many_screens", message=text).encode())
            return TRY_AGAIN_LATER
        identified(websocket)
        with self._stage.join(hello.screen, hello.frames) as screen:
            _log.info("screen_joined", screen=screen.name, asked=screen.asked)
            self._presence.look()
            self._metrics.screens.set(len(self._stage.screens))
            tasks = {
                asyncio.create_task(self._send(websocket, screen), name="screen send"),
                asyncio.create_task(self._listen(websocket, screen, patience), name="screen hear"),
                asyncio.create_task(self._dismissed(screen), name="screen dismissed"),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._presence.left(screen)
        self._metrics.screens.set(len(self._stage.screens))
        self._metrics.frames_skipped.inc(screen.mailbox.skipped)
        _log.info("screen_left", screen=screen.name, skipped=screen.mailbox.skipped)
        tasks.clear()
        return self._code_after(done, screen)

    @staticmethod
    def _code_after(done: set[asyncio.Task[None]], screen: Screen) -> int:
        """What to close a socket with, one of whose tasks is over; its error is raised."""
        error = next((each for task in done if (each := task.exception()) is not None), None)
        # An error holds all frames that it came through, and those would hold it by their tasks:
        # a circle in which pictures of 150 kB each lie until the collector comes by, minutes later.
        done.clear()
        try:
            if isinstance(error, ScreenTooSlow):
                _log.warning("screen_too_slow", screen=screen.name)
                return TRY_AGAIN_LATER
            if isinstance(error, _Dismissed):
                _log.warning("screen_replaced", screen=screen.name)
                return TRY_AGAIN_LATER
            if error is not None:
                raise error
            return 1000
        finally:
            del error

    async def _send(self, websocket: WebSocket, screen: Screen) -> None:
        while True:
            # What was sent has no name here while the next is waited for: see `ScreenMailbox.take`.
            await self._send_one(websocket, screen, await screen.mailbox.take())

    async def _send_one(self, websocket: WebSocket, screen: Screen, item: str | StageFrame) -> None:
        try:
            async with asyncio.timeout(READS_WITHIN):
                if isinstance(item, str):
                    await websocket.send_text(item)
                    return
                await self._send_frame(websocket, item, by_url=screen.frames == "url")
        except TimeoutError:
            raise ScreenTooSlow from None
        screen.frames_sent += 1
        self._metrics.frames_sent.inc()
        self._stage.sent(screen, item)

    async def _dismissed(self, screen: Screen) -> None:
        await screen.dismissed.wait()
        raise _Dismissed

    async def _send_frame(self, websocket: WebSocket, frame: StageFrame, *, by_url: bool) -> None:
        if by_url:
            await websocket.send_text(to_real_time(frame.by_url(), self._stage.time_scale).encode())
        else:
            await websocket.send_bytes(frame.message)

    async def _listen(self, websocket: WebSocket, screen: Screen, patience: InboundLimiter) -> None:
        while True:
            message = await self._receive(websocket, patience)
            received_at = self._clock.now()
            screen.liveness.heard(received_at)
            match message:
                case wire.ScreenSyncRequest():
                    screen.liveness.synced(received_at)
                    # Past the mailbox: a picture on its way must not pass for latency.
                    reply = wire.SyncReply(t0=message.t0, t1=received_at, t2=self._clock.now())
                    await websocket.send_text(reply.encode())
                case wire.Presented() if not -LONGEST_AGO <= message.at - received_at <= SOON:
                    await self._doubt(websocket, message.at - received_at)
                case wire.Presented():
                    self._stage.presented(screen, message)
                case wire.Log():
                    _log.log(
                        _LEVELS[message.level],
                        "screen_says",
                        screen=screen.name,
                        message=message.message,
                    )
                case wire.Glyphs():
                    screen.lacks, screen.lacks_count = message.missing, message.count
                case wire.ScreenHello():
                    await self._refuse(
                        websocket, patience, "hello_again", "hello is said once a connection"
                    )
                case None:
                    pass

    async def _receive(
        self, websocket: WebSocket, patience: InboundLimiter
    ) -> wire.FromScreen | None:
        """The next message; None for one that was refused."""
        event: Any = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        if not patience.message():
            await self._refuse(websocket, patience, "too_many", "too many messages; wait a little")
            await asyncio.sleep(1.0)  # while we do not read, it cannot send
            return None
        text = event.get("text")
        if text is None:
            await self._refuse(websocket, patience, "binary", "expected text, got binary")
            return None
        try:
            return wire.decode(text)
        except wire.MessageError as error:
            await self._refuse(websocket, patience, error.code, str(error))
            return None

    async def _doubt(self, websocket: WebSocket, off: float) -> None:
        """Answer a time that cannot be; no strike: the screen's clock is wrong, and soon right."""
        self._metrics.screen_errors.labels(code="bad_time").inc()
        text = f"at: expected a moment just past by the server's clock, not {off:+.4g} s from now"
        await websocket.send_text(wire.Error(code="bad_time", message=text).encode())

    async def _refuse(
        self, websocket: WebSocket, patience: InboundLimiter, code: str, message: str
    ) -> None:
        self._metrics.screen_errors.labels(code=code).inc()
        await websocket.send_text(wire.Error(code=code, message=message).encode())
        patience.strike()


_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
