"""The control socket, `/ws/control`: one technician's connection, from hello to goodbye.

Sending and receiving run side by side and end together. Each command is carried out in a task
of its own, begun in the order they came: a long answer does not stand before a panic.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.access import Access, AccessDenied
from server.clock import Clock
from server.connections import identified
from server.control import messages as wire
from server.control.command import Caller, CommandError
from server.control.dispatcher import Dispatcher, Envelope
from server.control.state_feed import StateFeed, TechnicianMailbox
from server.metrics import Metrics
from server.sockets import (
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Abuse,
    Antechamber,
    InboundLimiter,
    close,
    refuse,
)
from server.stage.messages import MessageError

_log = structlog.get_logger(__name__)

HELLO_WITHIN = 10.0
"""Seconds in which a technician must say who it is."""

READS_WITHIN = 30.0
"""Seconds in which one must have read what it was sent, or it is let go."""

SEATS = 256
"""Sockets that may be open without having said hello."""

MOST_CLIENTS = 512
"""Technicians at once."""

MOST_AT_ONCE = 32
"""Commands of one technician that are carried out or wait to be fetched."""

_RATE, _BURST = 40.0, 200.0


class _TooSlow(Exception):
    """Somebody who does not read."""


class ControlSocket:
    """The endpoint: a websocket comes in, a technician watches and commands.

    Args:
        dispatcher: who carries out what is asked.
        feed: who tells the state.
        clock: what technicians synchronise with.
        access: who may.
        metrics: where it is counted.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        feed: StateFeed,
        clock: Clock,
        access: Access,
        metrics: Metrics,
    ) -> None:
        self._dispatcher = dispatcher
        self._feed = feed
        self._clock = clock
        self._access = access
        self._metrics = metrics
        self._antechamber = Antechamber(SEATS)
        self._strangers = 0

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it goes."""
        try:
            self._access.check_origin(websocket)
        except AccessDenied as error:
            await refuse(websocket, error)
            return
        await websocket.accept()
        patience = InboundLimiter(self._clock, _RATE, _BURST)
        code = POLICY_VIOLATION
        try:
            async with asyncio.timeout(HELLO_WITHIN) as waits:
                with self._antechamber.wait(waits):
                    hello, caller = await self._hello(websocket, patience)
            code = await self._attend(websocket, hello, caller, patience)
        except WebSocketDisconnect:
            return
        except Abuse:
            _log.warning("technician_closed", reason="too many bad messages, or no token")
        except TimeoutError:
            pass
        await close(websocket, code)

    async def _hello(
        self, websocket: WebSocket, patience: InboundLimiter
    ) -> tuple[wire.TechnicianHello, Caller]:
        while True:
            message = await self._receive(websocket, patience)
            if message is None:
                continue
            if not isinstance(message, wire.TechnicianHello):
                await self._refuse(websocket, patience, "hello_first", "say hello first")
                continue
            if message.protocol != wire.PROTOCOL:
                text = f"expected protocol {wire.PROTOCOL}, not {message.protocol}"
                await self._refuse(websocket, patience, "unknown_protocol", text)
                raise Abuse
            client = websocket.client.host if websocket.client else None
            try:
                role = self._access.role_on(websocket, message.token)
            except AccessDenied as error:
                await self._refuse(websocket, patience, error.code, str(error))
                raise Abuse from None
            name = message.name.strip()
            if not name:  # nobody else's ids may be taken for those of somebody without a name
                self._strangers += 1
                name = f"socket {client or '?'} #{self._strangers}"
            return message, Caller(role, f"{name} ({role})")

    async def _attend(
        self,
        websocket: WebSocket,
        hello: wire.TechnicianHello,
        caller: Caller,
        patience: InboundLimiter,
    ) -> int:
        """Tell one technician the state and do as it says until it goes; the code to close with."""
        if self._feed.listeners >= MOST_CLIENTS:
            text = wire.error("too_many_clients", f"{MOST_CLIENTS} technicians are here already")
            await websocket.send_text(text)
            return TRY_AGAIN_LATER
        welcome = wire.welcome(
            caller.role,
            hello.name,
            self._feed.epoch,
            self._clock.now(),
            self._dispatcher.open_to(caller.role),
        )
        identified(websocket)
        _log.info("technician_joined", name=caller.name)
        with self._feed.join(welcome) as mailbox:
            self._metrics.technicians.set(self._feed.listeners)
            tasks = {
                asyncio.create_task(self._send(websocket, mailbox), name="control send"),
                asyncio.create_task(
                    self._listen(websocket, mailbox, caller, patience), name="control hear"
                ),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._metrics.technicians.set(self._feed.listeners)
        _log.info("technician_left", name=caller.name)
        for task in done:
            error = task.exception()
            if isinstance(error, _TooSlow):
                _log.warning("technician_too_slow", name=caller.name)
                return TRY_AGAIN_LATER
            if error is not None:
                raise error
        return 1000

    async def _send(self, websocket: WebSocket, mailbox: TechnicianMailbox) -> None:
        while True:
            text = await mailbox.take()
            try:
                async with asyncio.timeout(READS_WITHIN):
                    await websocket.send_text(text)
            except TimeoutError:
                raise _TooSlow from None

    async def _listen(
        self,
        websocket: WebSocket,
        mailbox: TechnicianMailbox,
        caller: Caller,
        patience: InboundLimiter,
    ) -> None:
        at_work: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await self._receive(websocket, patience)
                received_at = self._clock.now()
                match message:
                    case wire.Command():
                        if len(at_work) + mailbox.waiting >= MOST_AT_ONCE:
                            text = f"{MOST_AT_ONCE} commands of yours are not answered yet"
                            mailbox.reply(wire.refusal(message.id, "busy", text))
                            patience.strike()
                            continue
                        task = asyncio.create_task(
                            self._carry_out(message, mailbox, caller, received_at),
                            name=f"command {message.command:.40}",
                        )
                        at_work.add(task)
                        task.add_done_callback(at_work.discard)
                    case wire.TechnicianSyncRequest():
                        mailbox.reply(wire.sync(message.t0, received_at, self._clock.now()))
                    case wire.TechnicianHello():
                        await self._refuse(
                            websocket, patience, "hello_again", "hello is said once a connection"
                        )
                    case None:
                        pass
        finally:
            for task in at_work:
                task.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

    async def _carry_out(
        self, message: wire.Command, mailbox: TechnicianMailbox, caller: Caller, received_at: float
    ) -> None:
        sent_at = received_at if message.sent_at is None else message.sent_at
        # A number and its digits are the same id.
        envelope = Envelope(None if message.id is None else str(message.id), message.ttl, sent_at)
        try:
            result = await self._dispatcher.dispatch(
                message.command, message.args, caller, envelope
            )
            reply = wire.reply(message.id, result)
        except CommandError as error:
            reply = wire.refusal(message.id, error.code, str(error))
        except Exception:  # noqa: BLE001 - every caller hears the outcome
            _log.exception("command_failed", command=message.command, sender=caller.name)
            text = f"{message.command:.40} failed; the server's log says why"
            reply = wire.refusal(message.id, "internal", text)
        mailbox.reply(reply)

    async def _receive(
        self, websocket: WebSocket, patience: InboundLimiter
    ) -> wire.FromTechnician | None:
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
        except MessageError as error:
            await self._refuse(websocket, patience, error.code, str(error))
            return None

    async def _refuse(
        self, websocket: WebSocket, patience: InboundLimiter, code: str, message: str
    ) -> None:
        self._metrics.control_errors.labels(code=code).inc()
        with suppress(RuntimeError):  # it has gone in the meantime
            async with asyncio.timeout(READS_WITHIN):
                await websocket.send_text(wire.error(code, message))
        patience.strike()
