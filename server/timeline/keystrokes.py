"""Typing, stroke by stroke: what stands when, and when the last letter is typed (pure).

The kiosk types by the same rules from the same seed (`server/web/static/kiosk/typing.js`), so all
know beforehand how long it takes: every screen, and whoever plans ahead. A stroke is a code
point, which both sides count alike whatever their version of Unicode; a screen shows a letter
once all of its code points are typed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

REST: Final = 0.6
"""Seconds for which a text that is not to stay rests before it is erased."""

FASTEST: Final = 0.012
"""Seconds: no key follows another faster than this."""

_WORD: Final = 0xFFFFFFFF
_TOLERANCE: Final = 0.002


def mulberry32(seed: int) -> Callable[[], float]:
    """A small seeded generator of numbers in [0, 1), the same in any language."""
    state = seed & _WORD

    def draw() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) & _WORD
        mixed = ((state ^ (state >> 15)) * (1 | state)) & _WORD
        mixed = ((mixed + ((mixed ^ (mixed >> 7)) * (61 | mixed) & _WORD)) & _WORD) ^ mixed
        return (mixed ^ (mixed >> 14)) / 2**32

    return draw


@dataclass(frozen=True, slots=True)
class Stroke:
    """One key: `at` seconds after the beginning, the first `count` code points of a text stand.

    `new` tells of which: of what is being typed, or of what stood before.
    """

    at: float
    new: bool
    count: int


@dataclass(frozen=True)
class Keystrokes:
    """A text that is typed in place of another.

    What stands is erased down to the beginning that both have in common, then the rest of
    the text is typed; with `erase` it rests for a moment and is erased again.

    Attributes:
        standing: what stands before.
        text: what is typed.
        erase: whether nothing is to stay.
        base: seconds a stroke in the mean.
        variance: by how much more or less, in seconds.
        seed: what the rhythm follows from.
        hurry: factor on every time, below 1 where it would else not be done in time.
    """

    standing: str
    text: str
    erase: bool
    base: float
    variance: float
    seed: int
    hurry: float = 1.0

    def strokes(self) -> Iterator[Stroke]:
        """Every key, in order."""
        draw, at = mulberry32(self.seed), 0.0
        pairs = zip(self.standing, self.text, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        keys = [(False, count) for count in range(len(self.standing) - 1, common - 1, -1)]
        keys += [(True, count) for count in range(common + 1, len(self.text) + 1)]
        typed = len(keys)
        if self.erase and self.text:
            keys += [(True, count) for count in range(len(self.text) - 1, -1, -1)]
        for number, (new, count) in enumerate(keys):
            if number == typed:
                at += REST
            # Two dice rather than one: hands are mostly near their mean.
            at += max(FASTEST, self.base + self.variance * (draw() + draw() - 1))
            yield Stroke(at * self.hurry, new, count)

    @cached_property
    def seconds(self) -> float:
        """Until the last key is pressed; 0 where there is nothing to press."""
        return max((key.at for key in self.strokes()), default=0.0)

    def shown_at(self, elapsed: float) -> str:
        """What stands `elapsed` seconds after the beginning."""
        if elapsed >= self.seconds:
            return "" if self.erase else self.text
        past = itertools.takewhile(lambda key: key.at <= elapsed + _TOLERANCE, self.strokes())
        shown = self.standing
        for key in past:
            shown = (self.text if key.new else self.standing)[: key.count]
        return shown
