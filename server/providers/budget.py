"""How many live runs are allowed, in an hour and at once (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

HOUR = 3600.0


class Budget:
    """Counts live runs against their caps.

    Args:
        per_hour: runs begun within any hour; 0 for no cap.
        at_once: runs going on at a time; 0 for no cap.
        closed: in words, why there is none at all; empty if there may be.
    """

    def __init__(self, per_hour: int = 0, at_once: int = 0, closed: str = "") -> None:
        self.closed = closed
        self._per_hour = per_hour
        self._at_once = at_once
        self._begun: deque[float] = deque()
        self._going_on = 0

    def refusal(self, now: float) -> str | None:
        """In words, why no live run may begin at `now` (steady seconds); None if one may."""
        if self.closed:
            return self.closed
        if self._at_once and self._going_on >= self._at_once:
            return f"{self._going_on} live runs are going on, and no more are allowed at once"
        if self._per_hour:
            while self._begun and now - self._begun[0] >= HOUR:
                self._begun.popleft()
            if len(self._begun) >= self._per_hour:
                return f"the {self._per_hour} live runs of this hour are spent"
        return None

    @contextmanager
    def run(self, now: float) -> Iterator[None]:
        """Count a run that begins at `now` and lasts as long as the context."""
        if self._per_hour:
            self._begun.append(now)
        self._going_on += 1
        try:
            yield
        finally:
            self._going_on -= 1
