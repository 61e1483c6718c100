"""Two times and the line between them: the show's, and the real one outside (pure).

A show plays in real time, where both are the same. A rehearsal that is watched runs so many
times as fast; who watches it, and what it is watched on, stays outside.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeScale:
    """How fast a show is played.

    Attributes:
        speed: seconds of the show in a real one.
        anchor: the moment, in steady seconds, at which both times are the same.
    """

    speed: float = 1.0
    anchor: float = 0.0

    def to_real(self, moment: float) -> float:
        """A moment of the show, in real time."""
        return self.anchor + (moment - self.anchor) / self.speed

    def to_show(self, moment: float) -> float:
        """A real moment, in the show's time."""
        return self.anchor + (moment - self.anchor) * self.speed

    def real_seconds(self, seconds: float) -> float:
        """How long something of the show really takes."""
        return seconds / self.speed

    def show_seconds(self, seconds: float) -> float:
        """How long something real takes by the show's time."""
        return seconds * self.speed


REAL_TIME = TimeScale()
"""The show, and no rehearsal of it."""
