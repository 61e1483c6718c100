"""The circuit breaker of one engine: when it is rested, tried again and trusted (pure).

    starting ──probe──▶ trusted    where nothing has answered yet since the show began

    trusted ──failure──▶ resting ──time──▶ due ──probe──▶ grace ──time──▶ trusted
                            ▲                  fails │
                            └────────────────────────┘  for twice as long each time

Times are steady seconds and always an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cache.backoff import back_off

REST = 15.0
"""Seconds that an engine rests after its first failure; twice as long with each further one."""

LONGEST_REST = 120.0
"""Seconds: a machine that somebody has started again should not wait for long."""

GRACE = 15.0
"""Seconds from a probe that went well until the engine is trusted with a picture again."""

ASK_AGAIN = 5.0
"""Seconds until an engine that has not answered yet is asked again."""

State = Literal["untried", "starting", "trusted", "resting", "due", "grace"]


@dataclass(frozen=True, slots=True)
class Health:
    """How an engine does, for the state and for reasons in words.

    Attributes:
        state: ``untried`` since the start, ``starting`` as long as nothing has answered,
            ``trusted``, ``resting``, ``due`` for a probe, or in its time of ``grace`` after one.
        failures: in a row.
        until: steady time until which it rests, its grace lasts, or it is not asked again; None
            otherwise, and once that is over.
        reason: why it failed last, empty if it has not.
    """

    state: State
    failures: int
    until: float | None
    reason: str

    @property
    def usable(self) -> bool:
        """Whether it may be in a ladder."""
        return self.state in {"untried", "trusted"}


class Breaker:
    """Remembers the failures of one engine.

    Only a picture that arrived counts as success: that a request was taken, or a connection
    stood, says nothing.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: somebody has looked after it."""
        self._tried = False
        self._ask_again: float | None = None
        self._failures = 0
        self._reason = ""
        self._rests_until: float | None = None
        self._grace_until: float | None = None

    def health(self, now: float) -> Health:
        """How it does at `now`."""
        state: State
        until: float | None = None
        if self._rests_until is not None:
            state = "resting" if now < self._rests_until else "due"
            until = self._rests_until if state == "resting" else None
        elif self._ask_again is not None:
            state = "starting"
            until = self._ask_again if now < self._ask_again else None
        elif self._grace_until is not None and now < self._grace_until:
            state, until = "grace", self._grace_until
        else:
            state = "trusted" if self._tried else "untried"
        return Health(state, self._failures, until, self._reason)

    def failed(self, now: float, reason: str) -> None:
        """It gave no picture, or broke off: it rests, longer each time in a row."""
        self._tried, self._ask_again = True, None
        self._failures += 1
        self._reason = reason
        self._grace_until = None
        self._rests_until = now + back_off(self._failures, REST, LONGEST_REST)

    def not_there(self, now: float, reason: str) -> None:
        """Nothing answers: a failure where it did before, else it may not have started yet."""
        if self._tried:
            self.failed(now, reason)
            return
        self._reason, self._ask_again = reason, now + ASK_AGAIN

    def succeeded(self) -> None:
        """It drew a whole picture for the stage; nothing is held against it any more."""
        if self._rests_until is None:
            self.reset()
            self._tried = True

    def probe_ok(self, now: float) -> None:
        """It drew a whole picture nobody saw.

        An engine that had failed is trusted after its grace, and its failures are not
        forgotten before it has given a picture to the stage.
        """
        self._tried, self._ask_again = True, None
        if self._rests_until is None:
            self._reason = "" if not self._failures else self._reason
        else:
            self._rests_until, self._grace_until = None, now + GRACE
