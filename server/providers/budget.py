"""How many live runs are allowed, in an hour and at once (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

HOUR = 3600.0


@dataclass
class Budget:
    """Counts live runs against their caps.

    Args:
        per_hour: runs begun within any hour; 0 for no cap.
        at_once: runs going on at a time; 0 for no cap.
        closed: in words, why there is none at all; empty if there may be.
    """

    per_hour: int = 0
    at_once: int = 0
    closed: str = ""
    _begun: deque[float] = field(default_factory=deque, init=False)
    _going_on: int = field(default=0, init=False)

    def refusal(self, now: float) -> str | None:
        """In words, why no live run may begin at `now` (steady seconds); None if one may."""
        if self.closed:
            return self.closed
        if self.at_once and self._going_on >= self.at_once:
            return f"{self._going_on} live runs are going on, and no more are allowed at once"
        if self.per_hour:
            while self._begun and now - self._begun[0] >= HOUR:
                self._begun.popleft()
            if len(self._begun) >= self.per_hour:
                return f"the {self.per_hour} live runs of this hour are spent"
        return None

    @contextmanager
    def run(self, now: float) -> Iterator[None]:
        """Count a run that begins at `now` and lasts as long as the context."""
        if self.per_hour:
            self._begun.append(now)
        self._going_on += 1
        try:
            yield
        finally:
            self._going_on -= 1
