"""Live engines, as the mode manager ranks them."""

from __future__ import annotations

from dataclasses import dataclass

from generator.engine import Engine


@dataclass(frozen=True, slots=True)
class LiveEngine:
    """One rung of the live ladder.

    Attributes:
        name: what it is called in `[[engines]]`.
        engine: what draws.
        local: whether it draws on this machine.
    """

    name: str
    engine: Engine
    local: bool
