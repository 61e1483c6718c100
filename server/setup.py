"""What a show on the wall and a watched rehearsal do differently, as two objects of one kind.

Everything else of a server is the same for both, and asks no further which of them it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Protocol

from generator.sets.harvest import Harvester
from generator.sheet.plan import Plan
from server.asrun.log import AsRun, AsRunLog
from server.asrun.record import Activation
from server.config.show import Show
from server.core.clock import Clock
from server.core.random_streams import new_seed
from server.core.timescale import REAL_TIME, TimeScale
from server.engines.live import LiveEngines, live_engines
from server.performance.state_file import STATE, StateFile
from server.providers.live import LiveEngine
from server.supply.sources import Supply
from server.timeline.playhead import Playhead
from server.timeline.schedule import Schedule, build_schedule

_FRESH_START_AFTER = 120.0
"""Seconds of absence (or one screening, if longer) after which a loop begins anew."""


class Setup(Protocol):
    """What a server plays with.

    Only a show obeys what is wired to the venue (OSC), is looked through by the preflight, and
    is rehearsed in the background. Screens, technicians, engines and the line to the store live
    in real time, outside the show's.

    Attributes:
        activation: a show for visitors, or a rehearsal of it.
        show: what is played.
        outside: real time.
        time_scale: how the show's time runs beside real time.
        no_live: in words, why nothing may be drawn live; empty where it may.
    """

    activation: Activation
    show: Show
    outside: Clock
    time_scale: TimeScale
    no_live: str

    @property
    def clock(self) -> Clock:
        """The show's time."""
        ...

    def state_file(self) -> AbstractAsyncContextManager[StateFile]:
        """What is remembered across restarts."""
        ...

    def asrun(self) -> AbstractAsyncContextManager[AsRun]:
        """Where it is written down what was played."""
        ...

    def seed(self, state_file: StateFile) -> int:
        """What is left to chance follows from it."""
        ...

    def schedule(self, state_file: StateFile) -> Schedule:
        """When screenings are; asked once, when all else is ready."""
        ...

    def engines(self, plan: Plan, supply: Supply) -> AbstractAsyncContextManager[LiveEngines]:
        """What may draw live, in order of preference."""
        ...

    def playing(self, playhead: Playhead) -> None:
        """Take note that it is about to play, and where one sees how far it is."""
        ...


class ShowSetup:
    """A show for visitors: it remembers, writes down, and draws with its own engines.

    Args:
        show: what is played.
        clock: the time; the show's and the real one are the same.
        given: what may draw live instead of the show's engines; opened and closed by its owner.
    """

    activation: Activation = "show"
    time_scale = REAL_TIME
    no_live = ""

    def __init__(self, show: Show, clock: Clock, given: Sequence[LiveEngine] | None = None) -> None:
        self.show = show
        self.clock = self.outside = clock
        self._given = given

    def state_file(self) -> AbstractAsyncContextManager[StateFile]:
        """See `Setup`."""
        return StateFile.open(self.show.state_folder / STATE)

    def asrun(self) -> AbstractAsyncContextManager[AsRun]:
        """See `Setup`."""
        path = self.show.state_folder / "asrun.sqlite"
        keep_days = self.show.settings.cache.asrun_days
        return AsRunLog.open(path, clock=self.clock, keep_days=keep_days)

    def seed(self, state_file: StateFile) -> int:
        """The show's own, or this machine's."""
        seed = self.show.settings.playback.seed
        if seed is None:
            seed = state_file.content.seed
        state_file.content.seed = new_seed() if seed is None else seed
        state_file.touch()
        return state_file.content.seed

    def schedule(self, state_file: StateFile) -> Schedule:
        """The show's; an endless loop goes on where it was before a short absence."""
        content, wall = state_file.content, self.clock.wall()
        absence = max(self.show.duration, _FRESH_START_AFTER)
        recent = content.alive_at is not None and 0 <= wall - content.alive_at < absence
        if content.loop_anchor is None or not recent or content.loop_anchor > wall:
            content.loop_anchor = wall
        content.alive_at = wall
        state_file.touch()
        return build_schedule(
            self.show.settings.schedule,
            duration=self.show.duration,
            zone=self.show.timezone,
            anchor=content.loop_anchor,
        )

    @asynccontextmanager
    async def engines(self, plan: Plan, supply: Supply) -> AsyncIterator[LiveEngines]:
        """See `Setup`. What the show's own draw is kept, where it says so."""
        if self._given is not None:
            yield LiveEngines(tuple(self._given))
            return
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(live_engines(self.show, plan, self.clock))
            origin = supply.origin
            if self.show.settings.playback.harvest and origin is not None:
                harvester = await stack.enter_async_context(Harvester(origin, lambda: plan.actions))
                ranked = [
                    replace(each, engine=harvester.tee(each.engine)) for each in opened.ranked
                ]
                opened = replace(opened, ranked=tuple(ranked))
            yield opened

    def playing(self, playhead: Playhead) -> None:
        """A show goes on until somebody ends it."""
