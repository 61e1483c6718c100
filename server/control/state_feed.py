"""The state, told to every technician when it has changed: encoded once, however many listen.

What only tells the time does not make a change: `server_time`, the position, when a screen
last painted. A state carries them as they are at that moment, and whoever shows them lets his
own clock run on from there. Where nothing changes it is told again every few seconds, so that
silence means that nobody tells it any more.

Nobody is waited for: each listener has a mailbox in which a newer state takes the place of an
older one that was not fetched, while replies are kept.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog

from cache.tasks import first_of
from server.control import messages as wire
from server.core.clock import Clock

_log = structlog.get_logger(__name__)

LOOK_EVERY = 0.1
"""Seconds between two looks at the state while somebody listens."""

NOT_OFTENER_THAN = 0.02
"""Seconds between two states, however much is asked for."""

REFRESH = 5.0
"""Seconds after which the state is told though nothing has changed: whoever hears none for twice
as long knows that what he sees is old."""

_TELLS_THE_TIME = frozenset({"server_time", "position", "position_text"})
_OF_A_SCREEN = frozenset({"painted", "painted_at", "painted_age", "skipped"})
"""What screens report changes all the time, and is told with the next state."""


def lasting(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a state makes a change: everything but what passes with the time (pure)."""
    kept = {name: value for name, value in state.items() if name not in _TELLS_THE_TIME}
    kept["screens"] = [
        {name: value for name, value in screen.items() if name not in _OF_A_SCREEN}
        for screen in state.get("screens", ())
    ]
    return kept


class TechnicianMailbox:
    """What one technician has still to be told: replies in order, then the newest state."""

    def __init__(self) -> None:
        self._replies: deque[str] = deque()
        self._state: str | None = None
        self._ready = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many replies were not fetched yet."""
        return len(self._replies)

    def reply(self, text: str) -> None:
        """Leave a reply; it is never dropped."""
        self._replies.append(text)
        self._ready.set()

    def state(self, text: str) -> None:
        """Leave a state in the place of an older one."""
        self._state = text
        self._ready.set()

    async def take(self) -> str:
        """The next thing to send, as soon as there is one."""
        while True:
            if self._replies:
                return self._replies.popleft()
            if self._state is not None:
                text, self._state = self._state, None
                return text
            self._ready.clear()
            await self._ready.wait()


class StateFeed:
    """Tells the state to those who listen; `epoch` names this life of the server."""

    def __init__(
        self, state: Callable[[], Mapping[str, Any]], clock: Clock, epoch: str | None = None
    ) -> None:
        self._state = state
        self._clock = clock
        self.epoch = epoch or secrets.token_hex(8)
        self._seq = 0
        self._listeners: list[TechnicianMailbox] = []
        self._nudged = asyncio.Event()
        self._told: dict[str, Any] | None = None
        self._told_at = clock.now()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def nudge(self) -> None:
        """The state has probably changed: look at once."""
        self._nudged.set()

    @contextmanager
    def join(self, welcome: str) -> Iterator[TechnicianMailbox]:
        """Listen; the mailbox begins with a welcome and the whole state."""
        mailbox = TechnicianMailbox()
        mailbox.reply(welcome)
        state = self._look()
        mailbox.state(wire.state(self.epoch, self._seq, state))
        self._listeners.append(mailbox)
        try:
            yield mailbox
        finally:
            self._listeners.remove(mailbox)

    async def run(self) -> None:
        """Look at the state again and again, until cancelled.

        Raises:
            Exception: the state cannot be told. That is for whoever minds this to tell and to try
                again: to go on as if nothing were would leave those who listen with an old one.
        """
        while True:
            try:
                soon = self._clock.now() + LOOK_EVERY
                await first_of(self._clock.sleep_until(soon), self._nudged.wait())
            finally:
                self._nudged.clear()
            if not self._listeners:
                continue
            self._look()
            await self._clock.sleep_until(self._clock.now() + NOT_OFTENER_THAN)

    def _look(self) -> Mapping[str, Any]:
        """Read the state, and tell it if it has changed, or was not told for a while."""
        state, now = self._state(), self._clock.now()
        seen = lasting(state)
        if seen != self._told or now - self._told_at >= REFRESH:
            self._seq += 1
            self._told, self._told_at = seen, now
            text = wire.state(self.epoch, self._seq, state) if self._listeners else ""
            for mailbox in self._listeners:
                mailbox.state(text)
        return state
