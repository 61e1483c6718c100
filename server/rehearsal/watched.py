"""A rehearsal that is watched: the show's own server on its own screens, in another time.

Everybody plays who would play the show, so many times as fast; screens and technicians live
in real time all the while. It says that it is a rehearsal wherever it is seen, and leaves no
trace: what it remembers is a copy, what it writes down is gone with it, engines are left
alone, and nothing else that is wired to the show is obeyed. When its last screening is over
it ends by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import httpx
from starlette.applications import Starlette

from server.app import application, build
from server.clock import Clock, ScaledClock, SystemClock
from server.config.sections import ServerSection
from server.config.show import Show
from server.performance.playback import Playback
from server.process import HostProcess
from server.rehearsal.excerpts import in_a_row
from server.rehearsal.rehearsal import seed_of
from server.rehearsal.terms import Terms
from server.serving import AddressTaken, RefusedToServe, serve
from server.state_file import STATE, PersistedState, read_state
from server.timeline.schedule import Schedule

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
    rehearsal = WatchedRehearsal(
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


class WatchedRehearsal:
    """A rehearsal as an application, and whether it is over.

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
        self._process = process
        self._show = show
        self._clock = ScaledClock(outside, speed)
        self._part = (from_, to)
        self._screenings = screenings
        self._playback: Playback | None = None
        self._over_at: float | None = None
        chosen = seed_of(show, seed)
        self._terms = Terms(self._clock, self._schedule, chosen, _copy(show, chosen), spend_engines)
        self.app = application(self._opened, show.settings.server)

    @asynccontextmanager
    async def _opened(self, app: Starlette) -> AsyncIterator[None]:
        async with build(
            self._show, self._clock, app, rehearsal=self._terms, process=self._process
        ) as playback:
            self._playback = playback
            yield

    def _schedule(self, opens: float) -> Schedule:
        """The screenings, from this moment on."""
        section = self._show.settings.schedule
        gap = section.gap if section.kind == "loop" else self._clock.stretch(LOBBY)
        from_, to = self._part
        return in_a_row(self._show, opens, self._screenings, gap=gap, from_=from_, to=to)

    def over(self) -> bool:
        """Whether the last screening has ended, and the screens have gone to their lobby.

        One that somebody has moved by hand is over when it gets to its end all the same.
        """
        now = self._clock.outside.now()
        if self._playback is None or self._playback.playhead.status != "closed":
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


def _copy(show: Show, seed: int) -> PersistedState:
    """What a rehearsal begins with: what the show remembers by now, but for a black wall.

    With another seed the sets come in another order, from the beginning.
    """
    memory = read_state(show.state_folder / STATE)
    if memory is None:
        return PersistedState()
    return PersistedState(bags=memory.bags if memory.seed == seed else {}, forces=memory.forces)


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
