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
from server.diagnostics.report import RehearsalOptions
from server.memory import STATE, Remembered, remembered
from server.performance.playback import Playback
from server.process import HostProcess
from server.rehearsal.options import LiveOptions
from server.rehearsal.screening_window import in_a_row
from server.serving import AddressTaken, RefusedToServe, serve
from server.timeline.schedule import Schedule

SLOWEST: Final = 0.25
FASTEST: Final = 60.0
"""Seconds of the show in a real one."""

LOBBY: Final = 5.0
"""Real seconds between two screenings of a show that is no loop: hours are not waited for."""

LINGERS: Final = 3.0
"""Real seconds after the last screening in which screens go to their lobby."""

_ASKED_WITHIN: Final = 1.0


def rehearse_live(
    show: Show,
    asked: RehearsalOptions,
    *,
    speed: float,
    host: str | None = None,
    port: int | None = None,
    log_level: str = "info",
) -> None:
    """Rehearse `show` on its screens until the last screening is over, or SIGINT or SIGTERM.

    Args:
        show: the show.
        asked: which part of it, and with which seed.
        speed: seconds of the show in a real one.
        host: the address to listen on; None for the show's.
        port: the port; None for the show's, 0 for any.
        log_level: what is logged.

    Raises:
        RefusedToServe: it cannot be watched so, or not there.
        ShowStopped: it could not go on.
    """
    _check(show, speed, asked.from_, asked.to)
    show = _elsewhere(show, host, port)
    process = HostProcess.of_this_server()
    rehearsal = LiveRehearsal(show, SystemClock(), asked, speed=speed, process=process)
    title = f"Rehearsal of {show.title}, {speed:g} times as fast"
    try:
        serve(show, rehearsal.app, title, process, log_level=log_level, over=rehearsal.over)
    except AddressTaken as error:
        raise RefusedToServe(f"{error}{_the_show(show)}; rehearse on another --port", 1) from error


class LiveRehearsal:
    """A rehearsal as an application, and whether it is over.

    Args:
        show: the show.
        outside: real time.
        asked: which part of the show, and with which seed.
        speed: seconds of the show in a real one.
        spend_engines: whether engines that play live are started, and asked.
        process: what it runs in; None for one that it only visits.
    """

    def __init__(
        self,
        show: Show,
        outside: Clock,
        asked: RehearsalOptions,
        *,
        speed: float,
        spend_engines: bool = False,
        process: HostProcess | None = None,
    ) -> None:
        self._process = process
        self._show = show
        self._asked = asked
        self._clock = ScaledClock(outside, speed)
        self._playback: Playback | None = None
        self._over_at: float | None = None
        self._options = LiveOptions(
            self._clock, self._schedule, asked.seed, _copy(show, asked.seed), spend_engines
        )
        self.app = application(self._opened, show.settings.server)

    @asynccontextmanager
    async def _opened(self, app: Starlette) -> AsyncIterator[None]:
        async with build(
            self._show, self._clock, app, rehearsal=self._options, process=self._process
        ) as playback:
            self._playback = playback
            yield

    def _schedule(self, opens: float) -> Schedule:
        """The screenings, from this moment on."""
        section = self._show.settings.schedule
        gap = section.gap if section.kind == "loop" else self._clock.stretch(LOBBY)
        asked = self._asked
        return in_a_row(
            self._show, opens, asked.screenings, gap=gap, from_=asked.from_, to=asked.to
        )

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
