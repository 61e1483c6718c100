"""The control socket, `/ws/control`: one technician's connection, from hello to goodbye.

Each command is carried out in a task of its own, begun in the order they came: a long answer
does not stand before a panic. Its mailbox keeps every reply, and of the states the newest.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial

import structlog
from starlette.websockets import WebSocket

from cache.tasks import cancel_and_wait
from server.control import messages as wire
from server.control.command import Caller, CommandError
from server.control.dispatcher import Dispatcher, Envelope
from server.control.state_feed import StateFeed, TechnicianMailbox
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

_log = structlog.get_logger(__name__)

MOST_SILENT = 256
"""Sockets that may be open without having said hello."""

MOST_CLIENTS = 512
"""Technicians at once."""

MOST_AT_ONCE = 32
"""Commands of one technician that are carried out or wait to be fetched."""

_RATE, _BURST = 40.0, 200.0


_Connection = JsonConnection[wire.FromTechnician]


class ControlSocket:
    """The endpoint: a websocket comes in, a technician watches and commands."""

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
        self._pending = PendingHandshakes(MOST_SILENT)
        self._strangers = 0

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it goes."""
        limiter = InboundLimiter(self._clock, _RATE, _BURST)
        connection = JsonConnection(websocket, limiter, wire.decode, self._metrics.control_errors)
        check = partial(self._access.check_origin, websocket)
        await connection.serve(check, partial(self._attend, connection))

    async def _attend(self, connection: _Connection) -> int:
        try:
            hello, caller = await connection.hello(
                self._pending,
                wire.TechnicianHello,
                wire.PROTOCOL,
                partial(self._caller, connection.websocket),
            )
            return await self._converse(connection, hello, caller)
        except ProtocolAbuse:
            _log.warning("technician_closed", reason="too many bad messages, or no token")
        except TimeoutError:
            pass
        return POLICY_VIOLATION

    def _caller(self, websocket: WebSocket, hello: wire.TechnicianHello) -> Caller:
        """Who says hello.

        Raises:
            AccessDenied: it is not let in.
        """
        role = self._access.role_on(websocket, hello.token)
        name = hello.name.strip()
        if not name:  # nobody else's ids may be taken for those of somebody without a name
            self._strangers += 1
            name = f"socket {websocket.client.host if websocket.client else '?'} #{self._strangers}"
        return Caller(role, f"{name} ({role})")

    async def _converse(
        self, connection: _Connection, hello: wire.TechnicianHello, caller: Caller
    ) -> int:
        """Tell one technician the state and do as it says until it goes; the code to close with."""
        if self._feed.listeners >= MOST_CLIENTS:
            text = f"{MOST_CLIENTS} technicians are here already"
            await connection.send(ErrorReply(code="too_many_clients", message=text).encode())
            return TRY_AGAIN_LATER
        welcome = wire.welcome(
            caller.role,
            hello.name,
            self._feed.epoch,
            self._clock.now(),
            self._dispatcher.open_to(caller.role),
        )
        identified(connection.websocket)
        _log.info("technician_joined", name=caller.name)
        with ExitStack() as stack:
            mailbox = stack.enter_context(self._feed.join(welcome))
            self._metrics.technicians.set(self._feed.listeners)
            try:
                await side_by_side(
                    self._send(connection, mailbox), self._listen(connection, mailbox, caller)
                )
            except SlowReader:
                _log.warning("technician_too_slow", name=caller.name)
            finally:
                stack.close()
                self._metrics.technicians.set(self._feed.listeners)
                _log.info("technician_left", name=caller.name)
        return TRY_AGAIN_LATER

    async def _send(self, connection: _Connection, mailbox: TechnicianMailbox) -> None:
        while True:
            await connection.send(await mailbox.take())

    async def _listen(
        self, connection: _Connection, mailbox: TechnicianMailbox, caller: Caller
    ) -> None:
        at_work: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await connection.receive()
                received_at = self._clock.now()
                match message:
                    case wire.CommandMessage():
                        if len(at_work) + mailbox.waiting >= MOST_AT_ONCE:
                            text = f"{MOST_AT_ONCE} commands of yours are not answered yet"
                            mailbox.reply(wire.refusal(message.id, "busy", text))
                            connection.limiter.strike()
                            continue
                        task = asyncio.create_task(
                            self._carry_out(message, mailbox, caller, received_at),
                            name=f"command {message.command:.40}",
                        )
                        at_work.add(task)
                        task.add_done_callback(at_work.discard)
                    case SyncRequest():
                        reply = SyncReply(t0=message.t0, t1=received_at, t2=self._clock.now())
                        mailbox.reply(reply.encode())
                    case wire.TechnicianHello():
                        await connection.refuse("hello_again", "hello is said once a connection")
                    case None:
                        pass
        finally:
            await cancel_and_wait(*at_work)

    async def _carry_out(
        self,
        message: wire.CommandMessage,
        mailbox: TechnicianMailbox,
        caller: Caller,
        received_at: float,
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
