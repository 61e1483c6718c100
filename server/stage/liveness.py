"""Whether one connected screen is alive, judged by what it was sent and what it says (pure).

A socket that is open proves nothing: a browser answers pings while its page hangs, while its tab
is hidden, and while its graphics are dead. What proves a wall is `presented`. So a screen owes
an answer for each frame that it was sent; between runs it owes nothing, and is not judged.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

PAINTS_WITHIN: Final = 20.0
"""Seconds after a frame was due in which a screen must have painted it, or a newer one."""

SPEAKS_WITHIN: Final = 90.0
"""Seconds in which a screen that keeps its clock must be heard: a hidden tab runs once a minute."""

STALE_AFTER: Final = 6.0
"""Seconds without a word after which a newcomer may take over a screen's name."""

_JUST_DUE: Final = 2.0
"""Seconds after it was due in which a frame may still be on its way to the display."""

_BEATS: Final = 3
_BEATS_OVER: Final = 5.0
_MOST_OWED: Final = 512


class _Owed(NamedTuple):
    run: str
    step: int
    due: float


class Liveness:
    """What one connection owes, and when it was last heard. Times in real steady seconds.

    Only a screen that keeps its clock by `sync`, or has reported a frame, is judged: others may
    speak this wire and report nothing.
    """

    def __init__(self, joined_at: float) -> None:
        self.joined_at: Final = joined_at
        self.heard_at = joined_at
        self._owed: deque[_Owed] = deque(maxlen=_MOST_OWED)
        self._first_beat: float | None = None
        self._beats = 0
        self._keeps_clock = False
        self._reports = False

    def sent(self, run: str, step: int, due: float, now: float) -> None:
        """A frame went out that is due at `due`."""
        # What was due before it joined may be on its wall already, from the connection before.
        if due > self.joined_at:
            self._owed.append(_Owed(run, step, max(due, now)))

    def void(self, now: float) -> None:
        """The run was cut: what is not due yet will not be seen, and is not owed.

        Nor is what is due at this very moment: a screen that hears of the cut before its next
        display frame leaves it out, and where nothing follows (a panic, the night) would owe it
        for hours.
        """
        while self._owed and self._owed[-1].due > now - _JUST_DUE:
            self._owed.pop()

    def heard(self, now: float) -> None:
        """It said something."""
        self.heard_at = now

    def synced(self, now: float) -> None:
        """It asked for the time: again and again, if it keeps its clock."""
        self._beats += 1
        self._first_beat = now if self._first_beat is None else self._first_beat
        if self._beats >= _BEATS and now - self._first_beat >= _BEATS_OVER:
            self._keeps_clock = True

    def presented(self, run: str, step: int) -> None:
        """It painted a frame; what was due before is settled, painted or skipped."""
        self._reports = True
        if any(each.run == run and each.step == step for each in self._owed):
            while self._owed:
                settled = self._owed.popleft()
                if settled.run == run and settled.step == step:
                    return

    def unpainted_since(self, now: float) -> float | None:
        """Since when it should have painted and has not; None if it owes nothing for long."""
        if not self._owed or not (self._keeps_clock or self._reports):
            return None
        due = self._owed[0].due
        return due if now - due > PAINTS_WITHIN else None

    def silent_since(self, now: float) -> float | None:
        """When it was last heard, if that is long ago for one that keeps its clock."""
        silent = self._keeps_clock and now - self.heard_at > SPEAKS_WITHIN
        return self.heard_at if silent else None

    def is_stale(self, now: float) -> bool:
        """Whether it may have gone without a word: one that keeps its clock has lost its beat."""
        return self._keeps_clock and now - self.heard_at > STALE_AFTER
