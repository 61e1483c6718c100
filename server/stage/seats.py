"""How many screens there may be, and who makes room for one more.

Where a show gives its screens no token, anybody may say hello as one. Each of them costs memory,
and a share of the line to the others; so they have a bound. Screens that are expected come in
all the same: for one of them, another that is not has to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from server.core.clock import Clock
from server.core.conditions import Condition
from server.stage.presence import ScreenPresence
from server.stage.stage import Screen, Stage

_log = structlog.get_logger(__name__)

PAINTS_WITHIN: Final = 20.0
"""Seconds that a screen has to paint something before another may take its place."""

TOLD_FOR: Final = 60.0
"""Seconds that it is told that one was refused."""


class Seats:
    """Lets screens in, up to a number.

    Args:
        most: how many.
        stage: which they join.
        presence: who is expected.
        clock: real time.
    """

    def __init__(self, most: int, stage: Stage, presence: ScreenPresence, clock: Clock) -> None:
        self.most = most
        self._stage = stage
        self._presence = presence
        self._clock = clock
        self._refused_at: float | None = None

    def admits(self, name: str) -> bool:
        """Whether one more screen may join under that name; another may be sent away for it."""
        here = [screen for screen in self._stage.screens if not screen.dismissed.is_set()]
        if len(here) < self.most:
            return True
        leaves = self._who_leaves(name, here)
        if leaves is not None:
            _log.warning("screen_made_room", screen=leaves.name, for_=name)
            leaves.dismissed.set()
            return True
        now = self._clock.now()
        if self._refused_at is None or now - self._refused_at > TOLD_FOR:
            _log.warning("screen_refused", screen=name, connected=len(here))
        self._refused_at = now
        return False

    def conditions(self) -> Iterable[Condition]:
        """That a screen was refused a moment ago, as a source for `Conditions`."""
        if self._refused_at is not None and self._clock.now() - self._refused_at <= TOLD_FOR:
            yield Condition(
                "screens_full",
                "degraded",
                f"{self.most} screens are connected, and one more was refused: raise [server] "
                "max_screens, name yours in [stage] screens, or let only those in that bring "
                "a token (UNDERSTUDY_SCREEN_TOKEN)",
            )

    def _who_leaves(self, name: str, here: Sequence[Screen]) -> Screen | None:
        """Of those that nobody expects, the one that has had longest to paint, and has not."""
        expected = self._presence.expected
        now = self._clock.now()
        strangers = [screen for screen in here if screen.name not in expected]
        blind = [screen for screen in strangers if screen.painted is None]
        patient = [each for each in blind if now - each.liveness.joined_at >= PAINTS_WITHIN]
        if name in expected and all(screen.name != name for screen in here):
            patient = patient or blind or strangers
        return min(patient, key=lambda each: each.liveness.joined_at, default=None)
