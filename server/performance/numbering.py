"""How the frames of one run are numbered for the screens, whatever they are drawn by (pure).

One run may be played by several streams, each with its own count of steps, and an engine may
find out on the way that it makes more or fewer than it said. To a screen the numbers only
ever ascend, no number comes twice, and the share of the picture that is done never falls.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor


class Numbering:
    """Numbers the frames of a run.

    The count that the screens were told stays as long as what is still to come finds room
    in it; where it does not, the count becomes a multiple of itself, so that what was
    shown keeps its share.

    Args:
        steps: how many frames the screens were told of.
    """

    def __init__(self, steps: int) -> None:
        self._told = max(1, steps)
        self._steps = self._told
        self._last = 0
        self._share = Fraction(0)

    @property
    def last(self) -> int:
        """The number given last; 0 before the first."""
        return self._last

    @property
    def share(self) -> float:
        """How much of the picture has been given, from 0 to 1."""
        return float(self._share)

    def number(self, step: int, steps: int, *, final: bool) -> tuple[int, int]:
        """Number and count for a frame that its stream counts as `step` of `steps`."""
        to_come = 0 if final else max(1, steps - step)
        while self._least() + to_come > self._steps:
            self._steps += self._told
        wanted = self._steps if final else round(Fraction(step, steps) * self._steps)
        self._last = min(max(wanted, self._least()), self._steps - to_come)
        self._share = Fraction(self._last, self._steps)
        return self._last, self._steps

    def _least(self) -> int:
        """The first number beyond what is done, by the present count."""
        return floor(self._share * self._steps) + 1
