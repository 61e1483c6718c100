"""On which terms a server plays a rehearsal on the show's own screens, instead of the show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.clock import ScaledClock
from server.state_file import PersistedState
from server.timeline.schedule import Schedule

NOT_SPENT: Final = "rehearsal: engines are not spent"
"""Why nothing is drawn live."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a rehearsal may take from the show, and what it plays.

    Attributes:
        clock: the show's time; screens and technicians live in the one outside it.
        schedule: when screenings are, asked once, with the Unix time at which all else is ready.
        seed: what is left to chance follows from it.
        remembered: what it begins with: a copy, of which nothing is ever written.
        spend_engines: whether the show's engines are started, and asked to draw.
    """

    clock: ScaledClock
    schedule: Callable[[float], Schedule]
    seed: int
    remembered: PersistedState
    spend_engines: bool = False
