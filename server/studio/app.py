"""The Studio's composition root: opens every part once, in order, and takes it down.

Read `_open_studio` from top to bottom: that is the order in which a Studio is built. Shutdown goes
the other way: sockets are refused and told to go, jobs are cancelled (what was being drawn is put
back first of all), then the engines, the database and the store close.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware

from generator.engines.callback.inbox import CallbackInbox
from generator.jobs.cost import cost_by_settings
from generator.jobs.database import Database
from generator.jobs.drawing import DrawingPlace
from generator.jobs.members import Members
from generator.jobs.outlook import Outlook
from generator.jobs.paces import Paces
from generator.jobs.room import RoomOnDisk
from generator.jobs.scheduler import Scheduler
from generator.jobs.store import JobStore
from server.config.show import Show
from server.config.stores import store_of
from server.core.background_jobs import BackgroundJobs, JobBody, JobName
from server.core.clock import Clock, SystemClock
from server.core.conditions import Conditions
from server.core.host_process import HostProcess
from server.core.logs import log_metrics
from server.core.metrics import ProcessMetrics, measure_loop_lag
from server.core.output import output_conditions, output_metrics
from server.core.refusal import Refused
from server.core.unhandled import UnhandledErrors
from server.network.connections import Connections
from server.network.rate_limit import LimitedRequests
from server.network.responses import SafeHeaders
from server.network.reverse_proxy import BehindProxies, ReverseProxies
from server.studio.access import StudioAccess
from server.studio.catalogue import catalogue_of
from server.studio.documents import JobDocuments
from server.studio.feed import Feed
from server.studio.links import SealedLinks
from server.studio.opening import open_jobs
from server.studio.previews import LivePreviews
from server.studio.refusals import studio_refusal
from server.studio.routes import ROUTES
from server.studio.services import StudioServices
from server.studio.slots import studio_engines

JOBS_TIDIED_EACH: Final = 3600.0
_EVENTS_KEPT: Final = 7 * 86400.0
"""Seconds for which it is remembered what happened, for whoever comes back to listen."""


def create_studio(
    show: Show, clock: Clock | None = None, process: HostProcess | None = None
) -> Starlette:
    """The whole Studio, as an ASGI application; it draws while its lifespan lasts.

    Args:
        show: whose programs, styles, engines and store.
        clock: the time; None for the machine's.
        process: what it runs in; None for one that it only visits.
    """
    server = show.settings.studio.server
    proxies = ReverseProxies(server.trusted_proxies, server.public_url)
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(BehindProxies, proxies),
            Middleware(LimitedRequests),
        ],
        exception_handlers={Refused: studio_refusal},
        lifespan=partial(_open_studio, show, clock or SystemClock(), process or HostProcess()),
    )
    app.router.redirect_slashes = False  # it would name this server as it knows itself
    return app


async def why_not_to_listen(show: Show) -> str | None:
    """Why a Studio must not listen where `show` says; None if it may.

    Raises:
        DatabaseError: its members cannot be read.
    """
    async with open_database(database_url(show)) as database:
        members = Members(database)
        implicit = await members.ensure_implicit(SystemClock().wall())
        links = SealedLinks(b"", SystemClock().wall)
        access = StudioAccess(show.settings.studio.server, members, implicit, links)
        return await access.refuses_to_listen()


@asynccontextmanager
async def _open_studio(
    show: Show, clock: Clock, process: HostProcess, app: Starlette
) -> AsyncIterator[Mapping[str, Any]]:
    """Build every part, and draw until left; yields what endpoints find in `request.state`."""
    section = show.settings.studio
    metrics, conditions = ProcessMetrics(), Conditions()
    _observe_process(app, metrics, conditions)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(show))
        database = await stack.enter_async_context(open_database(database_url(show), alone=True))
        jobs, members = JobStore(database, holder_of(show)), Members(database)
        links = SealedLinks(await links_secret(database), clock.wall, base_address(show))
        implicit = await members.ensure_implicit(clock.wall())
        access = StudioAccess(section.server, members, implicit, links)
        unhandled = UnhandledErrors(clock, metrics, show.timezone)
        stack.enter_context(unhandled.of_the_loop())

        inbox, previews, paces = Inbox(), LivePreviews(), Paces()
        engines = await stack.enter_async_context(studio_engines(show, clock, inbox))
        feed = Feed(jobs, queue=lambda member: queue_document(scheduler, member))
