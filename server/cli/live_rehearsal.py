"""`understudy rehearse --speed`: serves a rehearsal on the show's own screens until it is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import httpx

from server.app import create_app
from server.config.sections import ServerSection
from server.config.show import Show
from server.core.clock import SystemClock
from server.core.host_process import HostProcess
from server.diagnostics.report import RehearsalOptions
from server.network.serving import AddressTaken, RefusedToServe, serve
from server.rehearsal.live_rehearsal import LiveRehearsal
from server.rehearsal.request import CannotRehearse, check_asked

SLOWEST: Final = 0.25
FASTEST: Final = 60.0
"""Seconds of the show in a real one."""

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
    _check(show, asked, speed)
    show = _elsewhere(show, host, port)
    process = HostProcess.of_this_server()
    rehearsal = LiveRehearsal(show, SystemClock(), asked, speed=speed)
    app = create_app(rehearsal, process)
    title = f"Rehearsal of {show.title}, {speed:g} times as fast"
    try:
        serve(show, app, title, process, log_level=log_level, over=rehearsal.over)
    except AddressTaken as error:
        raise RefusedToServe(f"{error}{_the_show(show)}; rehearse on another --port", 1) from error


def _check(show: Show, asked: RehearsalOptions, speed: float) -> None:
    """Refuse what cannot be watched."""
    if not SLOWEST <= speed <= FASTEST:
        text = f"expected a speed from {SLOWEST:g} to {FASTEST:g}, not {speed:g}"
        raise RefusedToServe(text, 2)
    try:
        check_asked(show, from_=asked.from_, to=asked.to)
    except CannotRehearse as error:
        raise RefusedToServe(f"--{error.option}: {error}", 2) from None


def _elsewhere(show: Show, host: str | None, port: int | None) -> Show:
    """The show, to be served at another address."""
    given = {"host": host, "port": port}
    changed = {name: value for name, value in given.items() if value is not None}
    server = ServerSection.model_validate({**show.settings.server.model_dump(), **changed})
    return replace(show, settings=show.settings.model_copy(update={"server": server}))


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
