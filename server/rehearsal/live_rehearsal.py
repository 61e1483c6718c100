"""A rehearsal that is watched: the show's own server on its own screens, in another time.

Everybody plays who would play the show, so many times as fast; screens and technicians live
in real time all the while. It says that it is a rehearsal wherever it is seen, and leaves no
trace: what it remembers is a copy, what it writes down is gone with it, engines are left
alone, and nothing else that is wired to the show is obeyed. When its last screening is over
it ends by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import httpx

from generator.plan import PlanInForce
from server.app import application, open_server
from server.asrun.log import AsRun, MemoryLog
from server.asrun.record import Activation
from server.clock import Clock, ScaledClock, SystemClock
from server.config.sections import ServerSection
from server.config.show import Show
from server.engines.live import LiveEngines, live_engines, named_only
from server.lifecycle import Playout
from server.memory import STATE, Memory, Remembered, remembered
from server.process import HostProcess
from server.rehearsal.rehearsal import seed_of
from server.rehearsal.screening_window import in_a_row
from server.serving import AddressTaken, RefusedToServe, serve
from server.supply.sources import Supply
from server.timeline.playhead import Playhead
from server.timeline.schedule import Schedule

NOT_SPENT: Final = "rehearsal: engines are not spent"
"""Why nothing is drawn live."""

SLOWEST: Final = 0.25
FASTEST: Final = 60.0
"""Seconds of the show in a real one."""

LOBBY: Final = 5.0
"""Real seconds between two screenings of a show that is no loop: hours are not waited for."""

LINGERS: Final = 3.0
"""Real seconds after the last screening in which screens go to their lobby."""

_ASKED_WITHIN: Final = 1.0


def watch(
    show: Show,
    *,
    speed: float,
    seed: int | None = None,
    from_: float = 0.0,
    to: float | None = None,
    screenings: int = 1,
    spend_engines: bool = False,
    host: str | None = None,
    port: int | None = None,
    log_level: str = "info",
) -> int:
    """Rehearse `show` on its screens until the last screening is over, or SIGINT or SIGTERM.

    Args:
        show: the show.
        speed: seconds of the show in a real one.
        seed: of what is left to chance; None for the show's.
        from_: position at which each screening begins.
        to: position at which each ends; None for its end.
        screenings: how many, one after another.
        spend_engines: whether engines that play live are started, and asked.
        host: the address to listen on; None for the show's.
        port: the port; None for the show's, 0 for any.
        log_level: what is logged.

    Returns:
        The program's exit status.

    Raises:
        RefusedToServe: it cannot be watched so, or not there.
        ShowStopped: it could not go on.
    """
    _check(show, speed, from_, to)
    show = _elsewhere(show, host, port)
    process = HostProcess.of_this_server()
    rehearsal = LiveRehearsal(
        show,
        SystemClock(),
        process=process,
        speed=speed,
        seed=seed,
        from_=from_,
        to=to,
        screenings=screenings,
        spend_engines=spend_engines,
    )
    title = f"Rehearsal of {show.title}, {speed:g} times as fast"
    try:
        serve(show, rehearsal.app, title, process, log_level=log_level, over=rehearsal.over)
    except AddressTaken as error:
        raise RefusedToServe(f"{error}{_the_show(show)}; rehearse on another --port", 1) from error
    return 0


class LiveRehearsal:
    """A rehearsal on the show's own screens: what it plays with, and whether it is over.

    It is the `Setup` of a server, as `ShowSetup` is: what it remembers is a copy, of which
    nothing is ever written, and engines are left alone, but where they are to be spent.

    Args:
        show: the show.
        outside: real time.
        speed: seconds of the show in a real one.
        seed: of what is left to chance; None for the show's.
        from_: position at which each screening begins.
        to: position at which each ends; None for its end.
        screenings: how many, one after another.
        spend_engines: whether engines that play live are started, and asked.
        process: what it runs in; None for one that it only visits.
    """

    activation: Activation = "rehearsal"

    def __init__(
        self,
        show: Show,
        outside: Clock,
        *,
        speed: float,
        seed: int | None = None,
        from_: float = 0.0,
        to: float | None = None,
        screenings: int = 1,
        spend_engines: bool = False,
        process: HostProcess | None = None,
    ) -> None:
        self.show = show
        self.outside = outside
        self.clock = ScaledClock(outside, speed)
        self.tempo = self.clock.tempo
        self.no_live = "" if spend_engines else NOT_SPENT
        self._part = (from_, to)
        self._screenings = screenings
        self._seed = seed_of(show, seed)
        self._playhead: Playhead | None = None
        self._over_at: float | None = None
        opened = partial(open_server, self, process=process, playing=self._playing)
        self.app = application(opened, show.settings.server)

    def _playing(self, playout: Playout) -> None:
        self._playhead = playout.runtime.playhead

    def memory(self) -> AbstractAsyncContextManager[Memory]:
        """See `Setup`."""
        return Memory.unwritten(_copy(self.show, self._seed))

    @asynccontextmanager
    async def asrun(self) -> AsyncIterator[AsRun]:
        """Nowhere."""
        yield MemoryLog()

    def seed(self, memory: Memory) -> int:
        """See `Setup`."""
        del memory
        return self._seed

    def schedule(self, memory: Memory) -> Schedule:
        """The screenings, from this moment on."""
        del memory
        section = self.show.settings.schedule
        gap = section.gap if section.kind == "loop" else self.clock.stretch(LOBBY)
        from_, to = self._part
        opens = self.clock.wall()
        return in_a_row(self.show, opens, self._screenings, gap=gap, from_=from_, to=to)

    @asynccontextmanager
    async def engines(self, plan: PlanInForce, supply: Supply) -> AsyncIterator[LiveEngines]:
        """See `Setup`. Those that are not spent are known by name alone."""
        del supply  # nothing of a rehearsal is kept
        if self.no_live:
            yield named_only(self.show, self.no_live)
            return
        async with live_engines(self.show, plan, self.outside) as opened:
            yield opened

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


def _check(show: Show, speed: float, from_: float, to: float | None) -> None:
    """Refuse what cannot be watched."""
    if not SLOWEST <= speed <= FASTEST:
        text = f"expected a speed from {SLOWEST:g} to {FASTEST:g}, not {speed:g}"
        raise RefusedToServe(text, 2)
    until = show.duration if to is None else to
    if not 0 <= from_ < min(until, show.duration):
        text = f"expected to begin between 0 and {min(until, show.duration):g} s, not at {from_:g}"
        raise RefusedToServe(text, 2)


def _elsewhere(show: Show, host: str | None, port: int | None) -> Show:
    """The show, to be served at another address."""
    given = {"host": host, "port": port}
    changed = {name: value for name, value in given.items() if value is not None}
    server = ServerSection.model_validate({**show.settings.server.model_dump(), **changed})
    return replace(show, settings=show.settings.model_copy(update={"server": server}))


def _copy(show: Show, seed: int) -> Remembered:
    """What a rehearsal begins with: what the show remembers by now, but for a black wall.

    With another seed the sets come in another order, from the beginning.
    """
    memory = remembered(show.state_folder / STATE)
    if memory is None:
        return Remembered()
    return Remembered(bags=memory.bags if memory.seed == seed else {}, forces=memory.forces)


def _the_show(show: Show) -> str:
    """Who listens there, where that is a show; else nothing."""
    server = show.settings.server
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on
    host = everywhere.get(server.host, server.host)
    address = f"http://[{host}]" if ":" in host else f"http://{host}"
    try:
        answer = httpx.get(  # noqa: TID251 - ourselves
            f"{address}:{server.port}/healthz", timeout=_ASKED_WITHIN, trust_env=False
        )
        ours = "healthy" in answer.json()
    except (httpx.HTTPError, ValueError):
        ours = False
    return " (a show is running there)" if ours else ""
