"""uvicorn's protocols, with a bound to how long and how much: it has none of its own.

What an honest client does is served as ever. Who keeps us waiting is ended by `Connections`.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, ClassVar, Final

import h11
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.protocol import State

from server.network.connections import BODY_WITHIN, HEAD_WITHIN, Connection, Connections

_MOST_PIECES: Final = 1024
"""Frames that one websocket message may come in: empty ones add up in no other bound."""

_SHARED: Final = 65_536
"""Bytes of a binary message from which on they are not copied into a frame of their own."""

_BINARY: Final = struct.Struct("!BBQ")
"""The head of a server's binary frame of such a length (RFC 6455, 5.2): whole, and not masked."""

_MOST_PONGS: Final = 64 * 1024
"""Bytes that somebody has yet to read, beyond which its pings are not answered."""


class BoundedHttp(H11Protocol):
    """HTTP/1.1: heads and bodies must come, and answers be read, in some time."""

    known: ClassVar[Connections]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        self._connection: Connection | None = self.known.opened(transport, host)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.known.closed(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request has come, or the beginning of the next one."""
        connection = self._connection
        if connection is None:
            return
        if connection.phase == "idle":
            connection.becomes("silent", self.known.monotonic(), HEAD_WITHIN)
        elif connection.phase == "body":
            connection.received += len(data)
        super().data_received(data)
        self._look()

    def resume_writing(self) -> None:
        """What it was sent, it has read for the most part."""
        super().resume_writing()
        if self._connection is not None:
            self._connection.progressed(self.known.monotonic())

    def on_response_complete(self) -> None:
        """A response has been handed over; another request may have come already."""
        if self._connection is not None:
            self._connection.becomes("idle", self.known.monotonic())
        super().on_response_complete()
        self._look()

    def _rest(self) -> None:
        """Nothing is asked now: it ends by itself where nothing is for long, as uvicorn has it."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _look(self) -> None:
        """What the connection is about now."""
        connection, cycle = self._connection, self.cycle
        # Before the first request there is no cycle, whatever its type says.
        if connection is None or cycle is None or connection.phase in {"stranger", "known"}:  # type: ignore[redundant-expr]
            return
        now = self.known.monotonic()
        if cycle.response_complete:
            if connection.phase != "silent":
                connection.becomes("idle", now)
            elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
                # What came was the rest of a body that was answered before it was there.
                connection.becomes("idle", now)
                self._rest()
        elif not cycle.more_body:
            connection.becomes("answer", now)
        elif connection.phase != "body":
            connection.received = 0
            connection.becomes("body", now, BODY_WITHIN)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A websocket: of no peer that does not read is anything kept that it did not ask for."""

    known: ClassVar[Connections]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A request for a websocket has come in."""
        super().connection_made(transport)
        self._connection = self.known.of(transport)
        if self._connection is not None:
            self._connection.becomes("stranger", self.known.monotonic())
            self.app_state = {**self.app_state, "connection": self._connection}

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.known.closed(self.transport)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """What it was sent, it has read for the most part."""
        super().resume_writing()
        if self._connection is not None:
            self._connection.progressed(self.known.monotonic())

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; a picture's bytes are the same for every screen, and never copied."""
        if message["type"] != "websocket.send":
            await super().send(message)
            if message["type"] == "websocket.http.response.body":
                # It is refused, and was told why; else the library logs an error of the program's.
                self.handshake_complete = True
            return
        await self.writable.wait()
        # Ended by us, it is not lost yet; uvloop does not forgive what is written to it.
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        data = message.get("bytes")
        if not isinstance(data, bytes) or len(data) < _SHARED or not self._plain():
            await super().send(message)
            return
        self.transport.write(_BINARY.pack(0x82, 127, len(data)))
        self.transport.write(data)

    def _plain(self) -> bool:
        """Whether a message goes out as it is."""
        return self.conn.state is State.OPEN and not self.conn.extensions

    def handle_ping(self) -> None:
        """Answer a ping, unless the answers are not read."""
        if self.transport.get_write_buffer_size() > _MOST_PONGS:
            self.conn.data_to_send()
            return
        super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        """One more piece of a message."""
        if len(self.frames) >= _MOST_PIECES:
            self.transport.abort()
            return
        super().handle_cont(event)


def bounded_by(
    connections: Connections,
) -> tuple[type[BoundedHttp], type[BoundedWebSocket]]:
    """The protocols of a server whose connections are those."""

    class Http(BoundedHttp):
        known = connections

    class WebSocket(BoundedWebSocket):
        known = connections

    return Http, WebSocket
