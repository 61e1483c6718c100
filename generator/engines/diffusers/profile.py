"""Durations for pictures drawn in a batch, from a single run's on the same machine (pure)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median

Profile = tuple[float, ...]
"""What one run of a recipe took, alone: seconds of each preview in order, and last of the final
image."""


def sample(profile: Profile, seed: int) -> list[float]:
    """Durations as another run of the recipe might have had them.

    Every step's is one that the profiled run really took for some step (a bootstrap, so
    the spread is the machine's own). The first step and the final image, of which a run
    has but one each, are scaled by a step's deviation from the median step.

    Args:
        profile: of the run that was timed.
        seed: the picture's; the same gives the same durations.
    """
    if len(profile) <= 2:  # noqa: PLR2004 - no step beside the first and the final
        return list(profile)
    rng = random.Random(seed)
    first, *steady, final = profile
    usual = median(steady)
    drawn = [rng.choice(steady) for _ in steady]
    return [first * _ratio(steady, usual, rng), *drawn, final * _ratio(steady, usual, rng)]


def _ratio(steady: Sequence[float], usual: float, rng: random.Random) -> float:
    return rng.choice(steady) / usual if usual > 0 else 1.0
