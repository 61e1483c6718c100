"""What may be set of the test card engine."""

from __future__ import annotations

from typing import Literal

from generator.engines.settings import SimulatedSection


class TestCardSection(SimulatedSection):
    """An engine that draws what technicians align screens with."""

    __test__ = False  # a test card is no test: pytest would collect it by its name

    kind: Literal["testcard"] = "testcard"
