"""Who is connected: how many may be, how long one may keep us waiting, and who goes first.

Descriptors and memory are the show's as well. So connections have a bound, together and for one
address, and each of them is given little time for what costs an honest client none: a whole
request head, a body, to read what it asked for. Where there is no room, it is made at the cost
of whoever says least, at the address that has most; those who are known (a screen, a technician)
and those whose answer is on its way stay. The sockets' own rules: `server/network/protocols.py`.
"""

from __future__ import annotations

import array
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.requests import HTTPConnection

from server.config.sections import is_loopback
from server.core.conditions import Condition
from server.core.metrics import sampled

if sys.platform != "win32":
    import fcntl
    import termios

_log = structlog.get_logger(__name__)

HEAD_WITHIN: Final = 10.0
"""Seconds that a connection may take to send a whole request head."""

BODY_WITHIN: Final = 10.0
"""Seconds that a body may take, and as many more as it has `BODY_RATE` bytes."""

BODY_RATE: Final = 8192

READS_WITHIN: Final = 30.0
"""Seconds in which somebody must have read some of what it was sent."""

GONE_WITHIN: Final = 10.0
"""Seconds in which somebody must have read some of what goes before a goodbye: then it ends."""

MOST_UNSENT: Final = 64 * 2**20
"""Bytes that wait for one connection to read them, at most. A report is some ten."""

SLOW_AFTER: Final = 5.0
"""Seconds without reading anything after which somebody may have to make room."""

TOLD_FOR: Final = 60.0
"""Seconds that it is told that there was no room."""

_LOOK_EVERY: Final = 1.0

Phase = Literal["silent", "body", "answer", "idle", "stranger", "known"]
"""What a connection is about: it has yet to send a whole head, or a body; it is answered; it is
between two requests; it is a websocket that has not said who it is; it is one that has."""

_MAKES_ROOM: Final[tuple[Phase, ...]] = ("silent", "idle", "body", "stranger")
"""Who has to go where room is needed, first to last."""

Reason = Literal["head_timeout", "body_timeout", "unread", "crowded", "refused"]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be: together, and from one address.

    Loopback and `exempt` addresses, which speak for many, are bound by the first alone.
    """

    most: int = 1000
    most_of_one_address: int = 512
    exempt: Callable[[str], bool] = is_loopback


@dataclass(eq=False)
class Connection:
    """One connection, and what is known of it. Times are the event loop's, in seconds."""

    transport: asyncio.Transport
    host: str
    phase: Phase
    since: float
    deadline: float | None = None
    received: int = 0
    unsent: int = 0
    read_at: float = 0.0
    closing_since: float | None = None

    def becomes(self, phase: Phase, now: float, within: float | None = None) -> None:
        """It enters a phase, which may last so many seconds."""
        self.phase, self.since = phase, now
        self.deadline = None if within is None else now + within

    def progressed(self, now: float) -> None:
        """It has read some of what it was sent."""
        self.read_at = now

    def identified(self) -> None:
        """It has said who it is, and may."""
        self.becomes("known", self.since)


@dataclass
class Connections:
    """Every connection of one server.

    Args:
        limits: how many there may be.
        monotonic: what waiting is measured by, in seconds.
    """

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    monotonic: Callable[[], float] = time.monotonic
    ended: Counter[Reason] = field(default_factory=Counter, init=False)
    _open: dict[asyncio.BaseTransport, Connection] = field(default_factory=dict, init=False)
    _of_host: Counter[str] = field(default_factory=Counter, init=False)
    _crowded_at: float | None = field(default=None, init=False)
    _crowd: str = field(default="", init=False)
    _looking: asyncio.TimerHandle | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)

    def __len__(self) -> int:
        return len(self._open)

    def of_phase(self, phase: Phase) -> int:
        """How many are in a phase."""
        return sum(1 for each in self._open.values() if each.phase == phase)

    # ------------------------------------------------------------ coming and going

    def opened(self, transport: asyncio.Transport, host: str) -> Connection | None:
        """A connection came in; None, and it is ended, where there is no room for it."""
        now = self.monotonic()
        self._make_room(host, now)
        connection = Connection(transport, host, "silent", now, now + HEAD_WITHIN, read_at=now)
        if self._is_full(host):
            self.ended["refused"] += 1
            transport.abort()
            return None
        self._open[transport] = connection
        self._of_host[host] += 1
        self._look_later()
        return connection

    def of(self, transport: asyncio.BaseTransport) -> Connection | None:
        """The connection of a transport; None where it was refused, or has ended."""
        return self._open.get(transport)

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """A connection has ended."""
        connection = self._open.pop(transport, None)
        if connection is not None:
            self._of_host[connection.host] -= 1
            if not self._of_host[connection.host]:
                del self._of_host[connection.host]

    # ------------------------------------------------------------ room

    def _is_full(self, host: str) -> bool:
        return len(self._open) >= self.limits.most or self._has_its_share(host)

    def _has_its_share(self, host: str) -> bool:
        share = self.limits.most_of_one_address
        return self._of_host[host] >= share and not self.limits.exempt(host)

    def _make_room(self, host: str, now: float) -> None:
        """End whoever has least to say, if there is no room for one more from `host`."""
        if not self._is_full(host):
            return
        if self._crowded_at is None or now - self._crowded_at > TOLD_FOR:
            _log.warning("connections_crowded", open=len(self._open), host=host)
        self._crowded_at = now
        own_share = self._has_its_share(host)
        crowd = host if own_share else max(self._of_host, key=self._of_host.__getitem__)
        self._crowd = f"{self._of_host[crowd]} of {len(self._open)} are from {crowd}"
        found = self._who_may_go(crowd, now)
        if found is None and not own_share:
            found = self._who_may_go(None, now)
        if found is not None:
            self._end(found, "crowded")

    def _who_may_go(self, host: str | None, now: float) -> Connection | None:
        """Of those of an address, or of all, the one that has kept silent longest."""
        first: dict[Phase, Connection] = {}
        slow: Connection | None = None
        for each in self._open.values():
            if host is not None and each.host != host:
                continue
            if each.phase not in first or each.since < first[each.phase].since:
                first[each.phase] = each
            if each.phase == "answer" and each.unsent and now - each.read_at > SLOW_AFTER:
                slow = slow or each
        return next((first[phase] for phase in _MAKES_ROOM if phase in first), slow)

    # ------------------------------------------------------------ time

    def look(self) -> None:
        """End those that have taken too long."""
        now = self.monotonic()
        for each in list(self._open.values()):
            reason = self._overdue(each, now)
            if reason is not None:
                self._end(each, reason)

    def _overdue(self, each: Connection, now: float) -> Reason | None:
        waiting = each.transport.get_write_buffer_size()
        unsent = waiting + _with_the_system(each.transport) if waiting else 0
        before, each.unsent = each.unsent, unsent
        if unsent == 0 or unsent < before:
            each.progressed(now)
        if each.transport.is_closing():
            if each.closing_since is None or unsent < before:
                each.closing_since = now
            return "unread" if now - each.closing_since >= GONE_WITHIN else None
        if each.deadline is not None and now >= each.deadline + each.received / BODY_RATE:
            return "head_timeout" if each.phase == "silent" else "body_timeout"
        return "unread" if now - each.read_at >= READS_WITHIN or waiting > MOST_UNSENT else None

    def _end(self, connection: Connection, reason: Reason) -> None:
        """End it at once: a goodbye would wait for it to be read, and keep what it has."""
        self.ended[reason] += 1
        self.closed(connection.transport)
        connection.transport.abort()

    def _look_later(self) -> None:
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._due = self.monotonic() + _LOOK_EVERY
            self._looking = loop.call_later(_LOOK_EVERY, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        try:
            self._forgive(self.monotonic() - self._due)
            self.look()
        finally:  # one that cannot be looked at must not end the looking
            if self._open:
                self._look_later()

    def _forgive(self, late: float) -> None:
        """Count against nobody the seconds in which it is we who did nothing.

        Where the machine slept, or something held the loop, what they sent lies here unread.
        """
        if late < _LOOK_EVERY:
            return
        for each in self._open.values():
            each.read_at += late
            if each.deadline is not None:
                each.deadline += late
            if each.closing_since is not None:
                each.closing_since += late

    # ------------------------------------------------------------ told

    def conditions(self) -> Iterable[Condition]:
        """That there was no room a moment ago, as a source for `Conditions`."""
        if self._crowded_at is None or self.monotonic() - self._crowded_at > TOLD_FOR:
            return
        yield Condition(
            "connections_crowded",
            "degraded",
            f"there is no room for more connections ({self._crowd}; [server] max_connections = "
            f"{self.limits.most}, max_connections_per_address = "
            f"{self.limits.most_of_one_address}): those that say nothing are closed",
        )

    def metrics(self) -> Iterable[Metric]:
        """How many are in each phase, and how many were ended, by reason."""
        now = GaugeMetricFamily(
            "understudy_connections",
            "Open connections, by what they are about.",
            labels=["phase"],
        )
        yield sampled(now, {phase: self.of_phase(phase) for phase in get_args(Phase)})
        ended = CounterMetricFamily(
            "understudy_connections_ended",
            "Connections that the server ended for want of time or room, by reason.",
            labels=["reason"],
        )
        yield sampled(ended, self.ended)


def _with_the_system(transport: asyncio.BaseTransport) -> int:
    """Bytes that the system has of us and the peer has not taken; 0 where it does not say.

    It takes more of us only once a third of what it holds is gone: megabytes, which are minutes
    of a slow line. What waits here stands still meanwhile, though all of it is being read.
    """
    held = array.array("i", [0])
    if sys.platform != "win32":
        with suppress(OSError, ValueError, AttributeError):  # its socket is gone, or it has none
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
    return held[0]


def identified(connection: HTTPConnection) -> None:
    """Somebody on a websocket has said who it is, and may: it makes room for no stranger."""
    # Where another server than ours serves the application, nobody counts.
    found = getattr(connection.state, "connection", None)
    if isinstance(found, Connection):
        found.identified()
