"""A rehearsal on the show's own screens: the show's own server, in another time.

Everybody plays who would play the show, so many times as fast; screens and technicians live
in real time all the while. It says that it is a rehearsal wherever it is seen, and leaves no
trace: what it remembers is a copy, what it writes down is gone with it, engines are left
alone, and nothing else that is wired to the show is obeyed. When its last screening is over
it ends by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from generator.sheet.plan import Plan
from server.asrun.log import AsRun
from server.asrun.record import Activation
from server.config.show import Show
from server.core.clock import Clock, ScaledClock
from server.diagnostics.report import RehearsalOptions
from server.engines.live import LiveEngines, named_only
from server.performance.state_file import STATE, PersistedState, StateFile, read_state
from server.rehearsal.screening_window import in_a_row
from server.supply.sources import Supply
from server.timeline.playhead import Playhead
from server.timeline.schedule import Schedule

NOT_SPENT: Final = "rehearsal: engines are not spent"
"""Why nothing is drawn live."""

LOBBY: Final = 5.0
"""Real seconds between two screenings of a show that is no loop: hours are not waited for."""

LINGERS: Final = 3.0
"""Real seconds after the last screening in which screens go to their lobby."""


class LiveRehearsal:
    """A rehearsal on the show's own screens: what it plays with, and whether it is over.

    It is the `Setup` of a server, as `ShowSetup` is: what it remembers is a copy, of which
    nothing is ever written, and engines are left alone.

    Args:
        show: the show.
        outside: real time.
        asked: which part of the show, and with which seed.
        speed: seconds of the show in a real one.
    """

    activation: Activation = "rehearsal"
    no_live = NOT_SPENT

    def __init__(
        self, show: Show, outside: Clock, asked: RehearsalOptions, *, speed: float
    ) -> None:
        self.show = show
        self.outside = outside
        self.clock = ScaledClock(outside, speed)
        self.time_scale = self.clock.time_scale
        self._asked = asked
        self._playhead: Playhead | None = None
        self._over_at: float | None = None

    def playing(self, playhead: Playhead) -> None:
        """See `Setup`."""
        self._playhead = playhead

    def state_file(self) -> AbstractAsyncContextManager[StateFile]:
        """See `Setup`."""
        return StateFile.unwritten(_copy(self.show, self._asked.seed))

    @asynccontextmanager
    async def asrun(self) -> AsyncIterator[AsRun]:
        """Nowhere."""
        yield AsRun()

    def seed(self, state_file: StateFile) -> int:
        """See `Setup`."""
        del state_file
        return self._asked.seed

    def schedule(self, state_file: StateFile) -> Schedule:
        """The screenings, from this moment on."""
        del state_file
        section = self.show.settings.schedule
        gap = section.gap if section.kind == "loop" else self.clock.stretch(LOBBY)
        opens, asked = self.clock.wall(), self._asked
        return in_a_row(self.show, opens, asked.screenings, gap=gap, from_=asked.from_, to=asked.to)

    @asynccontextmanager
    async def engines(self, plan: Plan, supply: Supply) -> AsyncIterator[LiveEngines]:
        """See `Setup`. As they are not spent, they are known by name alone."""
        del plan, supply
        yield named_only(self.show, self.no_live)

    def over(self) -> bool:
        """Whether the last screening has ended, and the screens have gone to their lobby.

        One that somebody has moved by hand is over when it gets to its end all the same.
        """
        now = self.outside.now()
        if self._playhead is None or self._playhead.status != "closed":
            self._over_at = None
        elif self._over_at is None:
            self._over_at = now
        return self._over_at is not None and now - self._over_at >= LINGERS


def _copy(show: Show, seed: int) -> PersistedState:
    """What a rehearsal begins with: what the show remembers by now, but for a black wall.

    With another seed the sets come in another order, from the beginning.
    """
    state_file = read_state(show.state_folder / STATE)
    if state_file is None:
        return PersistedState()
    return PersistedState(
        bags=state_file.bags if state_file.seed == seed else {}, forces=state_file.forces
    )
