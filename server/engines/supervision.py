"""When a child that draws is to be asked for proof, replaced or killed (pure).

A child owes a picture while it draws, and is in doubt after a drawing that nobody waited
for to the end: only pictures that arrived prove anything. Between drawings it is asked for
one now and then, and replaced when it has drawn enough or grown too large. One that fails
is started again, later each time; one that fails again and again is rested for long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from cache.backoff import back_off
from server.core.formatting import size


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How soon a child that failed is started again. Times in seconds.

    Attributes:
        first_pause: after the first failure; twice as long after each further one.
        longest_pause: and never longer than that.
        cap: so many failures …
        within: … in such a time are enough: it is rested.
        rest: for how long. A show runs for months, so nothing is given up for good.
    """

    first_pause: float = 1.0
    longest_pause: float = 60.0
    cap: int = 5
    within: float = 600.0
    rest: float = 900.0


@dataclass(frozen=True, slots=True)
class Pause:
    """How long a failed child stays away, and whether that is a rest."""

    seconds: float
    rest: bool = False


def pause_after(failures: Sequence[float], now: float, policy: RestartPolicy) -> Pause:
    """The pause after the last of `failures`, given when they happened."""
    recent = sum(1 for at in failures if now - at < policy.within)
    if recent >= policy.cap:
        return Pause(policy.rest, rest=True)
    return Pause(back_off(recent, policy.first_pause, policy.longest_pause))


@dataclass(frozen=True, slots=True)
class Supervision:
    """What a child is held to. Times in seconds, memory in bytes.

    Attributes:
        start_within: until it must have opened, its models loaded and warm.
        hang_after: without a step of a drawing, after which it hangs.
        first_within: until the first picture of a drawing, which may have to load its models;
            None where they were loaded before.
        recycle_after: drawings after which it is replaced; 0 for never.
        memory_growth: beyond what it had when it opened, with which it is replaced; 0 for any.
        idle: how long nothing is drawn before it is replaced for having drawn enough. A drawing
            that comes meanwhile would find nobody.
        doubt: how long after a drawing was left before it is asked for proof.
        proof_every: how long without a picture before it is asked for proof.
        look_every: at least so often it is looked after.
        restarts: what happens when it fails.
    """

    start_within: float = 600.0
    hang_after: float = 30.0
    first_within: float | None = None
    recycle_after: int = 200
    memory_growth: int = 4 * 2**30
    idle: float = 5.0
    doubt: float = 1.0
    proof_every: float = 300.0
    look_every: float = 30.0
    restarts: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(slots=True)
class Life:
    """What is known of one child since it opened.

    Attributes:
        now_has: bytes of memory when it was last looked at; None where nobody can tell.
        had: bytes of memory when it opened.
        proven: when it last gave a picture.
        drawing: how many drawings are being waited for.
        runs: how many were begun, those for proof left out.
        idle_since: when the last one was left.
        owes_since: since when it owes a picture; None if it owes none.
        owes_first: whether that is the first of a drawing.
        doubted: when a drawing was left that had not ended well, with no picture since.
        lost: why it is past help, in words.
    """

    proven: float
    had: int | None = None
    now_has: int | None = None
    drawing: int = 0
    runs: int = 0
    idle_since: float = -math.inf
    owes_since: float | None = None
    owes_first: bool = False
    doubted: float | None = None
    lost: str | None = None

    def begins(self, now: float, *, proof: bool = False) -> None:
        """It was asked for a drawing."""
        self.drawing += 1
        self.runs += 0 if proof else 1
        # What it owed before, it owes still: asking again is no sign of life.
        if self.owes_since is None:
            self.owes_since, self.owes_first = now, not proof

    def gives(self, now: float) -> None:
        """A picture came."""
        self.proven = now
        self.owes_first = False
        self.doubted = None
        self.owes_since = now if self.drawing else None

    def excused(self) -> None:
        """Its drawing was overtaken by others who draw there: that it made no step is no fault."""
        if self.drawing == 1:
            self.owes_since = None

    def left(self, now: float, *, well: bool) -> None:
        """Nobody waits for a drawing any longer, which ended well or not."""
        self.drawing -= 1
        self.idle_since = now
        if not well:
            self.doubted = now
        elif not self.drawing:
            self.owes_since = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to be done before then, unless something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class Prove:
    """Ask it for a small picture."""


@dataclass(frozen=True, slots=True)
class Recycle:
    """Replace it, with all due respect."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """It is past help."""

    reason: str


Move = Wait | Prove | Recycle | Kill


def next_move(life: Life, now: float, policy: Supervision) -> Move:
    """What to do about a child now."""
    if life.lost is not None:
        return Kill(life.lost)
    wake = now + policy.look_every
    if life.owes_since is not None:
        patience = policy.hang_after
        if life.owes_first and policy.first_within is not None:
            patience = max(patience, policy.first_within)
        if now - life.owes_since >= patience:
            return Kill(f"it hangs: no step for {patience:g} s")
        wake = min(wake, life.owes_since + patience)
    if life.drawing:
        return Wait(wake)
    if policy.memory_growth and life.had is not None and life.now_has is not None:
        grown = life.now_has - life.had
        if grown > policy.memory_growth:
            return Recycle(f"it grew by {size(grown)}")
    if policy.recycle_after and life.runs >= policy.recycle_after:
        rested_at = life.idle_since + policy.idle
        if now >= rested_at:
            return Recycle(f"it has drawn {life.runs} times")
        wake = min(wake, rested_at)
    due = life.proven + policy.proof_every
    if life.doubted is not None:
        due = min(due, life.doubted + policy.doubt)
    return Prove() if now >= due else Wait(min(wake, due))
