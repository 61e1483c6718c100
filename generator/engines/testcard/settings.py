"""What may be set of the test card engine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from generator.engines.port import Engine
from generator.engines.settings import SimulatedSection


class TestCardSection(SimulatedSection):
    """An engine that draws what technicians align screens with."""

    __test__ = False  # a test card is no test: pytest would collect it by its name

    kind: Literal["testcard"] = "testcard"

    def open(self, *, wait: bool, processes: int = 1) -> AbstractContextManager[Engine]:
        """See `LocalSection.open`."""
        from generator.engines.testcard.engine import TestCardEngine

        del processes
        return nullcontext(TestCardEngine(pace=self.pace, wait=wait))
