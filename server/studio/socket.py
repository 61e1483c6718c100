"""The Studio's socket, `/ws/studio`: what happens to a member's jobs, from hello to goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final

import structlog
from prometheus_client import Counter
from pydantic import Field
from starlette.websockets import WebSocket

from cache.encoding import json_text
from generator.jobs.database import DatabaseError
from generator.jobs.members import Member
from server.core.clock import Clock
from server.core.refusal import Refused
from server.network.connections import identified
from server.sockets.connection import (
    HELLO_WITHIN,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    InboundLimiter,
    JsonConnection,
    PendingHandshakes,
    ProtocolAbuse,
    SlowReader,
    side_by_side,
)
from server.sockets.messages import (
    BY_TYPE,
    ErrorReply,
    Hello,
    MessageDecoder,
    SyncReply,
    SyncRequest,
)
from server.studio.feed import Feed, Listener, TooManyListeners, until_refused

_log = structlog.get_logger(__name__)

PROTOCOL: Final = 1

MOST_SILENT: Final = 256
"""Sockets that may be open without having said hello."""

_MAX_TEXT_BYTES: Final = 4096
_RATE, _BURST = 20.0, 40.0


class StudioHello(Hello):
    """The first message: who it is, and which event it heard last.

    Attributes:
        protocol: may be left out while there is one only.
        after: id of the event that it heard last; None where it has heard none.
    """

    protocol: int = PROTOCOL
    after: int | None = Field(default=None, ge=0, lt=2**63)


FromMember = Annotated[StudioHello | SyncRequest, BY_TYPE]
decode: Final[MessageDecoder[FromMember]] = MessageDecoder(FromMember, _MAX_TEXT_BYTES)
"""Reads one message of a member."""


MemberOf = Callable[[WebSocket, str | None], Awaitable[Member]]
"""Who is on a connection and brings a token in its hello, or none; raises `Refused`."""

_Connection = JsonConnection[FromMember]


def welcome(member: Member, last_event: int, server_time: float) -> str:
    """The answer to hello: all that happens after `last_event` follows (pure)."""
    document = {
        "type": "welcome",
        "protocol": PROTOCOL,
        "member": {"id": member.id, "name": member.name, "role": member.role},
        "last_event": last_event,
        "server_time": server_time,
    }
    return json_text(document, place="studio")


class StudioSocket:
    """The endpoint: a websocket comes in, and a member hears what happens to its jobs.

    Args:
        feed: what is told.
        clock: what its limits are measured by.
        check_origin: raises `AccessDenied` where a socket is not to be opened.
        member_of: who somebody is; asked again every few seconds.
        errors: counts, by code, what was not taken.
    """

    def __init__(
        self,
        feed: Feed,
        clock: Clock,
        check_origin: Callable[[WebSocket], object],
        member_of: MemberOf,
        errors: Counter,
    ) -> None:
        self._feed = feed
        self._clock = clock
        self._check_origin = check_origin
        self._member_of = member_of
        self._errors = errors
        self._pending = PendingHandshakes(MOST_SILENT)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it goes."""
        limiter = InboundLimiter(self._clock, _RATE, _BURST)
        connection = JsonConnection(websocket, limiter, decode, self._errors)
        await connection.serve(
            partial(self._check_origin, websocket), partial(self._attend, connection)
        )

    async def _attend(self, connection: _Connection) -> int:
        try:
            hello, _ = await connection.hello(
                self._pending, StudioHello, PROTOCOL, lambda _hello: None
            )
            check = partial(self._member_of, connection.websocket, hello.token)
            async with asyncio.timeout(HELLO_WITHIN):
                member = await check()
        except Refused as refused:
            await connection.error(refused.code, str(refused))
        except ProtocolAbuse:
            _log.warning("member_closed", reason="too many bad messages, or no hello")
        except DatabaseError as error:
            await connection.error("internal", "the database cannot be read; come again")
            _log.warning("member_closed", reason=str(error))
            return TRY_AGAIN_LATER
        except TimeoutError:
            pass
        else:
            return await self._converse(connection, hello, member, check)
        return POLICY_VIOLATION

    async def _converse(
        self,
        connection: _Connection,
        hello: StudioHello,
        member: Member,
        check: Callable[[], Awaitable[object]],
    ) -> int:
        """Tell one member what happens until it goes; the code to close with."""
        code = TRY_AGAIN_LATER
        try:
            async with self._feed.listen(member.id, after=hello.after) as listener:
                identified(connection.websocket)
                _log.info("member_joined", member=member.id)
                text = welcome(member, listener.position, self._clock.now())
                await connection.send(text)

                async def mind() -> None:
                    nonlocal code
                    await until_refused(check)
                    code = POLICY_VIOLATION

                await side_by_side(_tell(connection, listener), self._listen(connection), mind())
        except TooManyListeners as refused:
            await connection.send(ErrorReply(code=refused.code, message=str(refused)).encode())
        except ProtocolAbuse:
            code = POLICY_VIOLATION
        except SlowReader:
            _log.warning("member_too_slow", member=member.id)
        except DatabaseError as error:
            _log.warning("member_closed", reason=str(error))
        finally:
            _log.info("member_left", member=member.id)
        return code

    async def _listen(self, connection: _Connection) -> None:
        while True:
            match await connection.receive():
                case SyncRequest(t0=sent):
                    now = self._clock.now()
                    reply = SyncReply(t0=sent, t1=now, t2=self._clock.now())
                    await connection.send(reply.encode())
                case StudioHello():
                    await connection.refuse("hello_again", "hello is said once a connection")
                case None:
                    pass


async def _tell(connection: _Connection, listener: Listener) -> None:
    async for message in listener:
        await connection.send(message.text)
