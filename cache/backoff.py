"""How long to leave alone what has failed: longer each time (pure)."""

from __future__ import annotations

_MOST_DOUBLINGS = 32


def back_off(failures: int, first: float, longest: float) -> float:
    """Seconds after so many failures in a row: `first`, then twice as many each time."""
    return min(longest, first * 2.0 ** min(max(0, failures - 1), _MOST_DOUBLINGS))
