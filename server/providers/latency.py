"""How long engines take to begin, as far as it is known: what a replay keeps before its first step.

A set tells its own. One that does not, because it is older or was drawn together with others,
begins as late as what its engine has done otherwise.
"""

from __future__ import annotations

from random import Random
from statistics import median
from typing import Final

from cachetools import LRUCache

UNKNOWN_LATENCY: Final = (0.05, 0.2)
"""Seconds: where nothing is known of an engine, its beginning is drawn from this range."""

_REMEMBERED: Final = 512
_ENOUGH: Final = 3
"""Values from which on it can be told that another is out of the ordinary."""

_FAR: Final = 3.0
_SLACK: Final = 0.5

Sample = tuple[str, int]
"""What a value was seen of: an action's set, or a live run."""


class Latencies:
    """Seconds from asking to the first step, of sets and of live runs, by engine."""

    def __init__(self) -> None:
        self._known: LRUCache[Sample, tuple[str, float]] = LRUCache(_REMEMBERED)
        self._runs = 0

    def learn_set(self, action_id: str, set_id: int, engine: str | None, seconds: float) -> None:
        """Note what a set tells of its engine."""
        self._known[action_id, set_id] = (engine or "", seconds)

    def learn_run(self, engine: str, seconds: float) -> None:
        """Note how long a live run took to begin."""
        self._runs = (self._runs + 1) % (_REMEMBERED // 2)
        self._known["", self._runs] = (engine, seconds)

    def of_set(self, engine: str | None, recorded: float | None, random: Random) -> float:
        """What a replay keeps before its first step, in seconds.

        Args:
            engine: what drew the set.
            recorded: what the set tells; None for nothing.
            random: what is drawn from where it tells nothing, or nothing credible.
        """
        values = self._values(engine or "")
        if recorded is not None:
            if len(values) < _ENOUGH:
                return recorded
            usual = median(values)
            # Something was being loaded, or another drawn: no run of this engine begins so late.
            if recorded <= max(_FAR * usual, usual + _SLACK):
                return recorded
            values = [value for value in values if value < recorded]
        if values:
            return random.choice(values)
        return random.uniform(*UNKNOWN_LATENCY)

    def _values(self, engine: str) -> list[float]:
        """What is known of an engine, else of other versions of it, else of any live run."""
        known = list(self._known.items())
        alike = [value for _, (name, value) in known if name == engine]
        product = engine.partition(" ")[0]
        return sorted(
            alike
            or [value for _, (name, value) in known if name.partition(" ")[0] == product]
            or [value for (action_id, _), (_, value) in known if not action_id]
        )
