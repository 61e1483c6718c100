"""What may be set of the sketch engine."""

from __future__ import annotations

from typing import Literal

from generator.engines.settings import SimulatedSection


class SketchSection(SimulatedSection):
    """An engine that paints without a model."""

    kind: Literal["sketch"] = "sketch"

    def beside_each_other(self, cores: int) -> int:
        """One on each: see `generator.engines.pooled`."""
        return max(1, cores)
