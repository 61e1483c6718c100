"""The composition root: opens every part of a server once, in order, and takes it down.

Read `_open_server` from top to bottom: that is the order in which a server is built. Shutdown
goes the other way: sockets are refused and told to go (uvicorn does that before the lifespan
ends), jobs are cancelled, playback the last of them, then the log, what is remembered and the
store close. What becomes of a job that fails is declared in `server.core.background_jobs.CARE`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware

from server.control.build import Control, build_control
from server.control.osc import hear_osc
from server.control.socket import ControlSocket
from server.core.background_jobs import BackgroundJobs, JobBody, JobName
from server.core.conditions import Conditions
from server.core.host_process import HostProcess
from server.core.logs import log_metrics
from server.core.metrics import Metrics, measure_loop_lag
from server.core.output import output_conditions, output_metrics
from server.core.refusal import Refused
from server.core.systemd import keep_telling
from server.core.unhandled import UnhandledErrors
from server.engines.prober import EngineProber, probe_of
from server.lifecycle import Playout, open_playout, signs_of_life, tell_remarks
from server.network.access import Access
from server.network.connections import Connections
from server.network.rate_limit import LimitedRequests
from server.network.responses import SafeHeaders
from server.network.reverse_proxy import BehindProxies, ReverseProxies
from server.older_wire.socket import OlderWireSocket
from server.rehearsal.checks import Checks, open_checks
from server.setup import Setup
from server.stage.screens import ScreenSocket
from server.stage.seats import Seats
from server.web.responses import refusal
from server.web.routes import ROUTES
from server.web.services import Services

_log = structlog.get_logger(__name__)


def create_app(setup: Setup, process: HostProcess | None = None) -> Starlette:
    """The whole server, as an ASGI application; it plays while its lifespan lasts.

    Args:
        setup: a show, or a rehearsal on its screens.
        process: what it runs in; None for one that it only visits.
    """
    server = setup.show.settings.server
    proxies = ReverseProxies(server.trusted_proxies, server.public_url)
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(BehindProxies, proxies),
            Middleware(LimitedRequests),
        ],
        exception_handlers={Refused: refusal},
        lifespan=partial(_open_server, setup, process or HostProcess()),
    )
    app.router.redirect_slashes = False  # it would name this server as it knows itself
    return app


@asynccontextmanager
async def _open_server(
    setup: Setup, process: HostProcess, app: Starlette
) -> AsyncIterator[Mapping[str, Any]]:
    """Build every part, and play until left; yields what endpoints find in `request.state`."""
    metrics, conditions = Metrics(), Conditions()
    _observe_process(app, metrics, conditions)
    async with AsyncExitStack() as stack:
        playout = await stack.enter_async_context(open_playout(setup, metrics))
        conditions.add(playout.state_file.conditions)
        max_screens = setup.show.settings.server.max_screens
        seats = Seats(max_screens, playout.runtime.stage, playout.presence, setup.outside)
        conditions.add(seats.conditions)
        checks = await stack.enter_async_context(open_checks(playout))
        control = build_control(playout, checks, conditions)
        unhandled = UnhandledErrors(setup.outside, metrics, setup.show.timezone)
        stack.enter_context(unhandled.of_the_loop())
        jobs = await stack.enter_async_context(BackgroundJobs(setup.outside, metrics, process.fail))
        conditions.add(
            playout.runtime.playback.conditions,
            jobs.conditions,
            playout.presence.conditions,
            playout.supply.conditions,
            playout.time_of_day.conditions,
            playout.asrun.conditions,
            unhandled.conditions,
        )
        tell_remarks(playout, conditions)
        setup.playing(playout.runtime.playhead)
        jobs.start_all(_jobs(playout, checks, control, process))
        yield {
            "services": _services(playout, checks, control, seats, conditions),
            "unhandled": unhandled,
        }


def _observe_process(app: Starlette, metrics: Metrics, conditions: Conditions) -> None:
    """Let the process tell how it does: what is wrong, its log, and who is connected."""
    metrics.ask(conditions.metrics, output_metrics, log_metrics)
    conditions.add(output_conditions)
    connections = getattr(app.state, "connections", None)
    if isinstance(connections, Connections):  # else somebody else serves us, who knows of them
        metrics.ask(connections.metrics)
        conditions.add(connections.conditions)


def _services(
    playout: Playout,
    checks: Checks,
    control: Control,
    seats: Seats,
    conditions: Conditions,
) -> Services:
    setup, runtime = playout.setup, playout.runtime
    show, outside, stage = setup.show, setup.outside, runtime.stage
    metrics, presence = playout.metrics, playout.presence
    access = Access(show.settings.tokens, show.settings.server)
    return Services(
        show=show,
        access=access,
        supply=playout.supply,
        stage=stage,
        readiness=runtime.readiness,
        view=control.view,
        dispatcher=control.dispatcher,
        asrun=playout.asrun,
        screens=ScreenSocket(stage, outside, access, metrics, presence=presence, seats=seats),
        control=ControlSocket(control.dispatcher, control.feed, outside, access, metrics),
        older_wire=OlderWireSocket(show, runtime, playout.supply, setup.clock, access),
        metrics=metrics,
        preflight=checks.preflight,
        rehearsals=checks.rehearsals,
        conditions=conditions,
        presence=presence,
    )


def _jobs(
    playout: Playout, checks: Checks, control: Control, process: HostProcess
) -> Mapping[JobName, JobBody | None]:
    """What goes on as long as the server does; None for what is not wanted here."""
    setup, runtime = playout.setup, playout.runtime
    prefetcher = playout.supply.prefetcher
    clock, outside, playback = setup.clock, setup.outside, runtime.playback
    is_show, server = setup.activation == "show", setup.show.settings.server
    watch = EngineProber(
        modes=runtime.modes,
        live=() if setup.no_live else runtime.live,
        recipe=probe_of(runtime.plan),
        quiet_for=lambda seconds: playback.quiet_for(clock.stretch(seconds)),
        clock=outside,
    )

    def status() -> str:
        return "{level}: {reason}".format_map(control.view.health())

    tell_systemd = partial(keep_telling, process.notifier, outside, playback.stands_still, status)
    return {
        "playback": playback.run,
        "asrun": playout.asrun.keep_writing,
        "prefetch": prefetcher.run if prefetcher is not None else None,
        "state_feed": control.feed.run,
        "readiness": runtime.readiness.keep_looking,
        "forces": runtime.modes.keep_time,
        "late_live": control.modes.run,
        "engine_watch": watch.run if watch.needed else None,
        "preflight": checks.preflight.run if is_show else None,
        # An OSC desk that is wired to the show means the show.
        "osc": partial(hear_osc, server, control.dispatcher, playout.metrics)
        if server.osc_port and is_show
        else None,
        "signs_of_life": partial(signs_of_life, playout.state_file, clock, runtime.playhead),
        "time_of_day": playout.time_of_day.run,
        "loop_lag": partial(measure_loop_lag, playout.metrics, outside),
        "systemd": tell_systemd if process.notifier.listening else None,
    }
