"""When each frame of a run is due (pure).

Replayed or drawn live, a run begins at the same distance from its asking (what its engine took
to begin, and the lead), and goes on in the rhythm that the engine measured. Deadlines are
absolute: nothing drifts, and neither loading nor the line can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Final, Literal

from server.providers.base import Slot

Fit = Literal["squeeze", "recorded"]

UNKNOWN_DURATION = (0.3, 1.0)
"""Seconds: a duration that was not recorded is drawn from this range, anew for each run."""

TO_THE_WALL: Final = 0.1
"""Seconds that a frame given now needs to be on the wall."""

_CATCH_UP: Final = 0.04
"""Of each duration, what may be left out of it where a run is late: less than it varies by."""

_WAITS: Final = 1.5
"""Seconds by which a picture may wait for its moment beyond the lead, before the run hurries."""

_WAITS_AT_MOST: Final = 3.0
_HURRY: Final = 2.0
"""How many times as fast a run is shown that hurries."""


def complete(durations: Sequence[float | None], rng: Random) -> tuple[float, ...]:
    """The durations with every unknown one made up."""
    return tuple(rng.uniform(*UNKNOWN_DURATION) if d is None else d for d in durations)


def due_times(
    durations: Sequence[float], slot: Slot, fit: Fit, ahead: float = 0.0
) -> tuple[tuple[float, ...], float]:
    """Steady time of each frame, and the factor by which the run was squeezed.

    Args:
        durations: seconds from each frame to the one before it, the first from the start of
            the first step.
        slot: when the run may take place; with `squeeze` its end bounds the final image.
        fit: whether a run that does not fit is played faster, or as it was recorded.
        ahead: seconds from the slot's start to that of the first step.
    """
    durations = [durations[0] + ahead, *durations[1:]] if durations else []
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


class LiveDates:
    """Dates the pictures of a live run by what its engine measured, as a replay will have them.

    That the line or a busy machine brought one late is not seen, as long as `lead` covers it.
    What comes later than that is shown as soon as it can be, and what follows is late by as
    much; little by little, faster than any eye, that is made up for.

    Args:
        lead: seconds from when a picture should be here to its moment on the wall.
        margin: seconds that a picture given now needs to be on the wall.
    """

    def __init__(self, lead: float, margin: float) -> None:
        self._lead = lead
        self._margin = min(margin, lead)
        self._due: float | None = None
        self._behind = 0.0

    def due(
        self, duration: float, *, begun: float | None = None, arrived: float, now: float
    ) -> float:
        """Steady time at which the next picture of the run is to be shown.

        Args:
            duration: seconds from the picture before, or from the start of the first step.
            begun: of the first picture, steady time of that start, as far as it is known.
            arrived: steady time at which the picture came.
            now: steady time, the picture having been looked at.
        """
        caught_up = 0.0
        if self._due is not None:
            caught_up = min(self._behind, _CATCH_UP * duration)
            planned = self._due + duration - caught_up
        elif begun is not None:
            planned = begun + self._lead + duration
        else:
            planned = arrived + self._lead
        # Late by a stalled line, or by an engine that speaks of more time than has passed.
        on_time = arrived + self._lead
        if self._due is not None and planned > on_time + _WAITS:
            planned = max(on_time + _WAITS, self._due + duration / _HURRY)
        planned = min(planned, on_time + _WAITS_AT_MOST)
        due = max(planned, now + self._margin, self._due or -math.inf)
        self._behind = max(0.0, self._behind - caught_up + max(0.0, due - planned))
        self._due = due
        return due
