"""What drawing costs: by the hour, by the picture, or both (pure).

Nothing is invented: where nobody said what an engine costs, nobody knows what a picture does. An
engine that costs nothing says so, `an_hour = 0`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from generator.engines.settings import EngineSection
from generator.jobs.eta import WorkSize

_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Tariff:
    """What an engine costs; None where nobody said.

    Attributes:
        an_hour: of drawing.
        a_picture: beside that.
    """

    an_hour: float | None = None
    a_picture: float | None = None

    def cost(self, seconds: float | None) -> float | None:
        """What a picture costs that is drawn in so many seconds; None where that is not known.

        Args:
            seconds: of drawing; None where they are not known.
        """
        if self.an_hour is None:
            return self.a_picture
        if not self.an_hour:
            return self.a_picture or 0.0
        if seconds is None:
            return None
        return self.an_hour * seconds / _HOUR + (self.a_picture or 0.0)


def tariff_of(section: EngineSection) -> Tariff:
    """What an engine costs, by its settings."""
    return Tariff(section.an_hour, section.a_picture)


def cost_by_settings(section: EngineSection) -> Callable[[float], float | None]:
    """What a picture of an engine costs, by the seconds of drawing it; None where nobody said."""
    return tariff_of(section).cost


@dataclass(frozen=True, slots=True)
class OfferedEngine:
    """An engine that may be asked.

    Attributes:
        name: what the settings call it.
        kind: what it is.
        tariff: what it costs.
        local: whether it draws on the Studio's machine.
        live: whether it plays live in the show, which goes first.
    """

    name: str
    kind: str
    tariff: Tariff = Tariff()
    local: bool = True
    live: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """What pictures will take that nobody waits in front of; None for what is not known.

    Attributes:
        pictures: how many.
        seconds: from the first to the last.
        cost: of all, in `currency`.
        currency: such as EUR.
    """

    pictures: int
    seconds: float | None
    cost: float | None
    currency: str

    def document(self) -> dict[str, Any]:
        """As it is answered."""
        return {
            "pictures": self.pictures,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "cost": None if self.cost is None else round(self.cost, 4),
            "currency": self.currency,
        }


SecondsOf = Callable[[str, WorkSize], float | None]
"""How long an engine, by its name, draws; None where that was never measured."""


def estimate(
    sizes: Iterable[WorkSize],
    engines: Sequence[OfferedEngine],
    seconds_of: SecondsOf,
    currency: str,
) -> Estimate:
    """What pictures will take, each drawn by the engine that is free first.

    Args:
        sizes: of the pictures.
        engines: that draw beside each other, in order of preference.
        seconds_of: what was measured.
        currency: that the tariffs are in.
    """
    pictures = 0
    seconds: float | None = 0.0 if engines else None
    costs: float | None = 0.0 if engines else None
    free = [(0.0, number) for number in range(len(engines))]
    for size in sizes:
        pictures += 1
        start, number = free[0] if free else (0.0, 0)
        took = None if seconds is None else seconds_of(engines[number].name, size)
        if seconds is None or took is None:
            seconds = None
        else:
            heapq.heapreplace(free, (start + took, number))
            seconds = max(seconds, start + took)
        if costs is not None:
            # Who draws it is known only while the paces are: else all have to cost the same.
            drawn_by = engines if took is None else [engines[number]]
            cost = _common(each.tariff.cost(took) for each in drawn_by)
            costs = None if cost is None else costs + cost
    return Estimate(pictures, seconds, costs, currency)


def _common(costs: Iterable[float | None]) -> float | None:
    found = set(costs)
    return found.pop() if len(found) == 1 else None
