"""When each frame of a replayed run is due (pure).

Deadlines are absolute: frame k is due at the run's start plus the durations up to k, so
nothing drifts and loading time is never added.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Literal

from server.providers.base import Slot

Fit = Literal["squeeze", "recorded"]

UNKNOWN_DURATION = (0.3, 1.0)
"""Seconds: a duration that was not recorded is drawn from this range, anew for each run."""


def complete(durations: Sequence[float | None], rng: Random) -> tuple[float, ...]:
    """The durations with every unknown one made up."""
    return tuple(rng.uniform(*UNKNOWN_DURATION) if d is None else d for d in durations)


def due_times(durations: Sequence[float], slot: Slot, fit: Fit) -> tuple[tuple[float, ...], float]:
    """Steady time of each frame, and the factor by which the run was squeezed.

    Args:
        durations: seconds from each frame to the one before it, the first from the start.
        slot: when the run may take place; with `squeeze` its end bounds the final image.
        fit: whether a run that does not fit is played faster, or as it was recorded.
    """
    total = sum(durations)
    factor = 1.0
    if fit == "squeeze" and slot.end is not None and total > 0:
        factor = min(1.0, max(slot.end - slot.start, 0.0) / total)
    return tuple(slot.start + factor * elapsed for elapsed in accumulate(durations)), factor


def final_by(start: float, next_cue: float, crossfade: float) -> float:
    """When a run's final image must come so that it is seen before the next one begins.

    It wants its whole crossfade, but no more than a quarter of the run's time.
    """
    return next_cue - min(crossfade, 0.25 * max(next_cue - start, 0.0))
