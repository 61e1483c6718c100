"""What systemd is told: that the server serves, that the show moves, that it stops.

The protocol of `sd_notify(3)`: datagrams of `NAME=value` lines to the socket that the environment
names. Where it names none, nothing is said. The address is taken out of the environment: it is
for this process, and a child of ours that spoke there would speak for us.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final, Self

import structlog

from server.core.clock import Clock

_log = structlog.get_logger(__name__)

STATUS_EVERY: Final = 5.0
"""Seconds between two words on how it is, where no watchdog wants them sooner."""

_LEAST_OFTEN: Final = 3.0
"""In how many parts the watchdog's time is divided, at least: two may be lost or late."""

_LONGEST: Final = 300


class Notifier:
    """Tells systemd. It never waits and never raises: a show does not stop for want of a listener.

    Args:
        address: of its socket; None where nobody is to be told. One that begins with ``@`` is in
            the abstract namespace.
        watchdog: seconds within which it wants to hear that the show moves; None if it does not.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog
        self._lost = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The one that the environment names, which it then no longer does.

        A watchdog that is another process's is none of ours, and what is no number is none.
        """
        address = environment.pop("NOTIFY_SOCKET", None) or None
        micros, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        seconds = int(micros) / 1e6 if ours and micros.isascii() and micros.isdigit() else 0.0
        if address is not None and address[0] not in {"/", "@"}:
            _log.warning("systemd_not_told", reason="NOTIFY_SOCKET names no Unix socket")
            address = None
        return cls(address, seconds or None)

    @property
    def listening(self) -> bool:
        """Whether anybody is to be told."""
        return self._address is not None

    def ready(self) -> None:
        """The server serves."""
        self._tell("READY=1")

    def alive(self) -> None:
        """The show moves."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """The server is about to end."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """How it is, in a line, for `systemctl status`."""
        self._tell(f"STATUS={' '.join(text.split()):.{_LONGEST}}")

    def _tell(self, line: str) -> None:
        if self._address is None:
            return
        where = self._address
        abstract = where.startswith("@")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line_out:
                line_out.setblocking(False)
                line_out.connect("\0" + where[1:] if abstract else where)
                line_out.send(line.encode(errors="replace"))
        except OSError as error:
            if not self._lost:
                _log.warning("systemd_not_told", reason=error.strerror or str(error))
            self._lost = True
        else:
            self._lost = False


async def keep_telling(
    notifier: Notifier,
    clock: Clock,
    stands_still: Callable[[], str | None],
    status: Callable[[], str],
) -> None:
    """Feed the watchdog while the show moves, and say how it is, until cancelled.

    Args:
        notifier: who is told.
        clock: real time.
        stands_still: why the show does not move, None while it does.
        status: how the server is, in a line.
    """
    every = STATUS_EVERY
    if notifier.watchdog is not None:
        every = min(every, notifier.watchdog / _LEAST_OFTEN)
    told, fed = "", True
    while True:
        reason = stands_still()
        if reason is None:
            notifier.alive()
        elif fed:
            _log.error("watchdog_not_fed", reason=reason, within=notifier.watchdog)
        fed = reason is None
        text = status()
        if text != told:
            notifier.status(text)
            told = text
        await clock.sleep_until(clock.now() + every)
