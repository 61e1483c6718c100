"""What may be set of the sketch engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from generator.engines.port import Engine
from generator.engines.settings import SimulatedSection


class SketchSection(SimulatedSection):
    """An engine that paints without a model."""

    kind: Literal["sketch"] = "sketch"

    def beside_each_other(self, cores: int) -> int:
        """One on each: see `generator.engines.pooled`."""
        return max(1, cores)

    @contextmanager
    def open(self, *, wait: bool, processes: int = 1) -> Iterator[Engine]:
        """See `LocalSection.open`."""
        from generator.engines.pooled import PooledEngine, process_pool
        from generator.engines.sketch.engine import NAME, SketchEngine, draw_set

        if processes == 1:
            yield SketchEngine(pace=self.pace, wait=wait)
            return
        with process_pool(processes) as pool:
            yield PooledEngine(NAME, draw_set, self.pace, pool)
