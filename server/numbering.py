"""How the frames of one run are numbered for the screens, whatever they are drawn by (pure).

One run may be played by several takes, each with its own count of steps, and an engine may
find out on the way that it makes more or fewer than it said. To a screen the numbers only
ever ascend, no number comes twice, and the share of the picture that is done never falls.
"""

from __future__ import annotations


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

    @property
    def last(self) -> int:
        """The number given last; 0 before the first."""
        return self._last

    @property
    def share(self) -> float:
        """How much of the picture has been given, from 0 to 1."""
        return self._last / self._steps

    def number(self, step: int, steps: int, *, final: bool) -> tuple[int, int]:
        """Number and count for a frame that its take counts as `step` of `steps`."""
        to_come = 0 if final else max(1, steps - step)
        least = self._least()
        while least + to_come > self._steps:
            self._last = self._last * (self._steps + self._told) // self._steps
            self._steps += self._told
            least = self._least()
        wanted = self._steps if final else round(step / steps * self._steps)
        self._last = min(max(wanted, least), self._steps - to_come)
        return self._last, self._steps

    def _least(self) -> int:
        return self._last + 1
