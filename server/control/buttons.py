"""What a bare number beside a command means (pure).

Buttons can often send nothing but that they were pressed: a Stream Deck or QLab sends 1, a
push button of TouchOSC 1.0 and, let go, 0.0. So a number without a name chooses no cue: it is
a button. A cue is chosen by text, by name, or in the address.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

Button = Literal["pressed", "released"]

RELEASED: Final = {"button": "released"}
"""What is answered to a button that was let go: nothing was done."""

_SAID: Final[Mapping[str, float]] = {"true": 1.0, "false": 0.0}


def as_number(value: object) -> float | None:
    """A number or a truth value, also one that is written out; None for everything else."""
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _SAID:
            return _SAID[text]
        try:
            value = float(text) if text[:1].isdigit() or text[:1] in "+-." else None
        except ValueError:
            return None
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
    return None if math.isnan(number) else number


def button(value: object) -> Button | None:
    """What a number says of a button: 0 is one let go, every other one pressed."""
    number = as_number(value)
    if number is None:
        return None
    return "pressed" if number else "released"
