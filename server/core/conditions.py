"""What is wrong at this moment, as told by those who know: one list, and everybody reads it.

A part that can be in trouble adds a source, which answers with its conditions whenever it is
asked. `health` in the state, `/healthz`, `/readyz` and `/metrics` are selections of the list,
so whatever is told in one of them is told in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

_log = structlog.get_logger(__name__)

Level = Literal["failing", "degraded", "note"]
"""`failing`: a visitor sees it or soon will, and `/healthz` is 503; `degraded`: somebody should
look at it before long; `note`: worth knowing, and all is well."""

_ORDER: Final[dict[Level, int]] = {"failing": 0, "degraded": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is so now, and is told until it no longer is.

    Attributes:
        code: a stable word in snake_case, to search and alert by.
        level: how bad it is.
        message: one sentence for the technician: what is so, since when, and what helps.
        blocks_ready: whether `/readyz` is 503 for it.
    """

    code: str
    level: Level
    message: str
    blocks_ready: bool = False


ConditionSource = Callable[[], Iterable[Condition]]


class Conditions:
    """The list, asked for anew each time; it holds nothing but who is to be asked."""

    def __init__(self) -> None:
        self._sources: list[ConditionSource] = []

    def add(self, *sources: ConditionSource) -> None:
        """Ask `sources` as well from now on. They must be quick, and must not wait.

        Where several things are as bad, what was added first is told first.
        """
        self._sources += sources

    def current(self) -> tuple[Condition, ...]:
        """Everything that is so now, the worst first."""
        found: list[Condition] = []
        for source in self._sources:
            try:
                found += source()
            except Exception as error:  # noqa: BLE001 - one that fails must not silence the others
                _log.exception("condition_source_failed")
                found.append(
                    Condition(
                        "condition_source_failed",
                        "degraded",
                        f"a part of the server cannot say how it does: {error!r}",
                    )
                )
        return tuple(sorted(found, key=lambda each: _ORDER[each.level]))

    def metrics(self) -> Iterable[Metric]:
        """How many there are of each code and level; no sample where all is well."""
        counts = Counter((each.code, each.level) for each in self.current())
        family = GaugeMetricFamily(
            "understudy_conditions",
            "What is wrong at this moment, by code and level.",
            labels=["code", "level"],
        )
        for key, count in counts.items():
            family.add_metric(key, count)
        yield family
