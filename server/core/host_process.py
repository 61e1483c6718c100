"""The process that a server runs in: how it ends when the show cannot go on.

A show that cannot move is worth less than a process that ends: whoever started it starts it
again, and the picture stays on the kiosks. So the end is bounded: the loop is asked to come to
an orderly one, and where it has not within a moment, the process ends without it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from server.core.systemd import Notifier

ENDS_WITHIN: Final = 0.9
"""Seconds from a failure to the end of the process, however its shutdown fares."""

LEAVES_WITHIN: Final = 3.0
"""Seconds from the end of an orderly shutdown to that of the process, whoever still waits."""

STATUS: Final = 1
"""The exit status of a process that ended because the show could not go on."""


class HostProcess:
    """What a server may do with the process that it runs in.

    Args:
        ours: whether the process is the server's own and ends with it. One that a server only
            visits (a test, another program) takes note, and goes on.
        notifier: whoever has started it, and wants to hear how it is.
    """

    def __init__(self, *, ours: bool = False, notifier: Notifier | None = None) -> None:
        self.notifier = notifier or Notifier()
        self._ours = ours
        self._failure: str | None = None
        self._stopping: list[Callable[[], None]] = []

    @classmethod
    def of_this_server(cls) -> Self:
        """This very process, as it was started to serve; systemd is told, where it wants to be.

        Ended by its watchdog (SIGABRT), it says on standard error where every thread of it was.
        """
        with suppress(Exception):  # there may be no standard error
            faulthandler.enable(sys.__stderr__ or sys.stderr)
        return cls(ours=True, notifier=Notifier.from_environment(os.environ))

    @property
    def failure(self) -> str | None:
        """Why the process is to end; None while the show can go on."""
        return self._failure

    def fail(self, reason: str) -> None:
        """The show cannot go on: have the process end. Returns at once; the first reason counts."""
        if self._failure is not None:
            return
        self._failure = reason
        self.notifier.status(f"ending: {reason}")
        if not self._ours:
            return
        # A thread: what is wrong may be the very loop that should bring us to an end.
        _end_within(ENDS_WITHIN, STATUS)

    def when_stopping(self, call: Callable[[], None]) -> None:
        """Have something done once nobody new is served, before those who are have been waited for.

        Args:
            call: has answers end that would else never do; it must not wait, nor raise.
        """
        self._stopping.append(call)

    def stopping(self) -> None:
        """It is told to end: whoever has started it hears so, and whoever wanted to be told."""
        self.notifier.stopping()
        for call in self._stopping:
            call()

    def leave(self) -> None:
        """All that mattered is closed: have the process end, well, within a moment.

        Python would wait for every thread, and one that reads from a disk which does not answer
        never comes back.
        """
        if self._ours and self._failure is None:
            _end_within(LEAVES_WITHIN, 0)


def _end_within(seconds: float, status: int) -> None:
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()
