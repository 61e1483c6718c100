"""The Studio's composition root: opens every part once, in order, and takes it down.

Read `_open_studio` from top to bottom: that is the order in which a Studio is built. Shutdown goes
the other way: sockets are refused and told to go, jobs are cancelled (what was being drawn is put
back first of all), then the engines, the database and the store close.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cache.stores.folder import FolderStore
from cache.stores.port import Store, StoreError
from generator.engines.callback.inbox import CallbackInbox, callback_inbox
from generator.guarded_outgoing import Reach, guarded_client, reach_of
from generator.jobs.database import Database, open_database, sqlite_file
from generator.jobs.drawing import sweep_unfinished
from generator.jobs.members import Members
from generator.jobs.outlook import QueueOutlook
from generator.jobs.paces import Paces, remembered_paces
from generator.jobs.room import room_on_disks
from generator.jobs.scheduler import Scheduler
from generator.jobs.store import JobStore
from generator.outgoing import Client, outgoing_client
from server.config.sections import StudioSection
from server.config.show import Show
from server.config.stores import store_of
from server.core.background_jobs import BackgroundJobs, JobBody, JobName
from server.core.clock import Clock, SystemClock
from server.core.conditions import Condition, Conditions, Level
from server.core.host_process import HostProcess
from server.core.logs import log_metrics
from server.core.metrics import ProcessMetrics, StudioMetrics, measure_loop_lag
from server.core.output import output_conditions, output_metrics
from server.core.refusal import Refused
from server.core.systemd import keep_telling
from server.core.unhandled import UnhandledErrors
from server.network.connections import Connections
from server.network.rate_limit import LimitedRequests
from server.network.responses import SafeHeaders
from server.network.reverse_proxy import BehindProxies, ReverseProxies
from server.studio.access import StudioAccess
from server.studio.catalogue import offered_engine
from server.studio.current_catalogue import CurrentCatalogue, finished_of, sheet_of
from server.studio.documents import JobDocuments
from server.studio.drawings import Drawings, hook_images
from server.studio.feed import Feed
from server.studio.hooks.deliveries import DeliveryQueue
from server.studio.hooks.sender import HookSender
from server.studio.hooks.webhooks import Webhooks
from server.studio.large_bodies import LargeBodies
from server.studio.links import SealedLinks
from server.studio.opening import database_url, held_name, links_secret
from server.studio.previews import LivePreviews
from server.studio.queue_api import queue_document
from server.studio.refusals import broke_off, http_refusal, studio_refusal
from server.studio.routes import ROUTES
from server.studio.services import StudioServices
from server.studio.sheet import SheetFile
from server.studio.show_link import ShowLink
from server.studio.slots import StudioEngine, studio_engines
from server.studio.socket import StudioSocket

_log = structlog.get_logger(__name__)

_TIDIED_EACH: Final = 3600.0
_SWEPT_FOR: Final = 86400.0
"""Seconds for which takes are looked through again that somebody was killed over."""

_EVENTS_KEPT: Final = 7 * 86400.0
"""Seconds for which it is remembered what happened, for whoever comes back to listen."""


def create_studio(
    show: Show,
    clock: Clock | None = None,
    process: HostProcess | None = None,
    given: Sequence[StudioEngine] | None = None,
) -> Starlette:
    """The whole Studio, as an ASGI application; it draws while its lifespan lasts.

    Args:
        show: whose programs, styles, engines and store.
        clock: the time; None for the machine's.
        process: what it runs in; None for one that it only visits.
        given: engines that are open already; None for those of the show.
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
        exception_handlers={
            Refused: studio_refusal,
            HTTPException: http_refusal,
            Exception: broke_off,
        },
        lifespan=partial(
            _open_studio, show, clock or SystemClock(), process or HostProcess(), given
        ),
    )
    app.router.redirect_slashes = False  # it would name this server as it knows itself
    return app


async def why_not_to_listen(show: Show) -> str | None:
    """Why a Studio must not listen where `show` says; None if it may.

    It is opened once for that: what is wrong with its files is told here, in words.

    Raises:
        BadStoreAddress: the store is nowhere.
        DatabaseError: its jobs cannot be kept, or another Studio has them.
        OSError: its folder cannot be written.
    """
    store_of(show)
    async with open_database(database_url(show), alone=True) as database:
        with held_name(show):
            members = Members(database)
        implicit = await members.ensure_implicit(SystemClock().wall())
        links = SealedLinks(b"", SystemClock().wall)
        access = StudioAccess(show.settings.studio.server, members, implicit, links)
        return await access.refuses_to_listen()


@asynccontextmanager
async def _open_studio(
    show: Show,
    clock: Clock,
    process: HostProcess,
    given: Sequence[StudioEngine] | None,
    app: Starlette,
) -> AsyncIterator[Mapping[str, Any]]:
    """Build every part, and draw until left; yields what endpoints find in `request.state`."""
    metrics, conditions = StudioMetrics(), Conditions()
    _observe_process(app, metrics, conditions)
    unhandled = UnhandledErrors(clock, metrics, show.timezone)
    async with AsyncExitStack() as stack:
        ground = await stack.enter_async_context(_open_ground(show, clock))
        stack.enter_context(unhandled.of_the_loop())
        callbacks = callback_inbox(show.settings.tokens.secrets)
        engines = given
        if engines is None:
            engines = await stack.enter_async_context(studio_engines(show, clock, callbacks))
        paces = await stack.enter_async_context(remembered_paces(ground.jobs))
        reach = reach_of(show.settings.studio.hooks_may_reach)
        client = await stack.enter_async_context(guarded_client(reach))
        show_client = await stack.enter_async_context(outgoing_client())
        sheet = sheet_of(show)
        services = _services(
            ground,
            engines,
            paces,
            sheet=sheet,
            offered=CurrentCatalogue(
                show,
                await finished_of(ground.store) or {},
                ground.store,
                sheet,
                [offered_engine(each.section, each.name) for each in engines],
            ),
            callbacks=callbacks,
            reach=reach,
            client=client,
            show_link=ShowLink(show_url(show), show.settings.tokens.operator, show_client),
            metrics=metrics,
            conditions=conditions,
        )
        process.when_stopping(services.feed.end)  # who listens would else be waited for
        background = await stack.enter_async_context(BackgroundJobs(clock, metrics, process.fail))
        conditions.add(
            partial(_queue_conditions, services.scheduler),
            background.conditions,
            unhandled.conditions,
        )
        background.start_all(_jobs(services, clock, process))
        yield {"services": services, "unhandled": unhandled}


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is there before anything is drawn: where jobs and pictures are kept, and who may."""

    show: Show
    clock: Clock
    store: Store
    database: Database
    jobs: JobStore
    links: SealedLinks
    access: StudioAccess


@asynccontextmanager
async def _open_ground(show: Show, clock: Clock) -> AsyncIterator[_Ground]:
    section = show.settings.studio
    async with (
        store_of(show) as store,
        open_database(database_url(show), alone=True) as database,
    ):
        with held_name(show) as holder:
            members = Members(database)
            links = SealedLinks(await links_secret(database), clock.wall, base_address(section))
            implicit = await members.ensure_implicit(clock.wall())
            access = StudioAccess(section.server, members, implicit, links)
            yield _Ground(show, clock, store, database, JobStore(database, holder), links, access)


def _services(
    ground: _Ground,
    engines: Sequence[StudioEngine],
    paces: Paces,
    *,
    sheet: SheetFile,
    offered: CurrentCatalogue,
    callbacks: CallbackInbox | None,
    reach: Reach,
    client: Client,
    show_link: ShowLink,
    metrics: StudioMetrics,
    conditions: Conditions,
) -> StudioServices:
    """The parts that draw, listen and tell, each knowing those that it needs."""
    jobs, store, wall = ground.jobs, ground.store, ground.clock.wall
    section, access = ground.show.settings.studio, ground.access
    previews = LivePreviews()

    async def queue_of(member: str) -> Mapping[str, Any]:
        return await queue_document(scheduler, outlook, member)

    feed = Feed(jobs, queue=queue_of)
    drawing = Drawings(store, previews, feed, paces)
    sender = HookSender(
        DeliveryQueue(ground.database, jobs.holder, reach),
        client,
        jobs.get,
        partial(hook_images, store, ground.links),
        wall=wall,
    )

    def written() -> None:
        feed.nudge()
        sender.nudge()

    scheduler = Scheduler(
        jobs,
        [drawing.place(each) for each in engines],
        wall=wall,
        has_room=room_on_disks(_folders(ground.show, store), section.keep_free),
        on_change=written,
    )
    outlook = QueueOutlook(jobs, scheduler, paces, wall=wall)
    return StudioServices(
        show=ground.show,
        wall=wall,
        store=store,
        database=ground.database,
        jobs=jobs,
        access=access,
        sheet=sheet,
        offered=offered,
        scheduler=scheduler,
        outlook=outlook,
        paces=paces,
        documents=JobDocuments(outlook, scheduler, ground.links, section.currency),
        feed=feed,
        previews=previews,
        socket=StudioSocket(
            feed, ground.clock, access.check_origin, access.member_of, metrics.member_errors
        ),
        webhooks=Webhooks(ground.database),
        sender=sender,
        show_link=show_link,
        reach=reach,
        callbacks=callbacks,
        recipes=LargeBodies(),
        answers=LargeBodies(),
        metrics=metrics,
        conditions=conditions,
    )


def show_url(show: Show) -> str:
    """Where the server is that plays the show, as seen from here."""
    section = show.settings.server
    if show.settings.studio.show_url:
        return show.settings.studio.show_url
    here = section.host in {"0.0.0.0", "::"}  # noqa: S104 - read, not bound
    name = "127.0.0.1" if here else section.host
    return f"http://{f'[{name}]' if ':' in name else name}:{section.port}"


def base_address(section: StudioSection) -> str:
    """What stands before the path in an address that others are told."""
    if section.public_url:
        return section.public_url.rstrip("/")
    # Where it listens on every address, none of them is what others know it by.
    named = socket.gethostname() if section.host in {"0.0.0.0", "::"} else section.host  # noqa: S104 - read, not bound
    host = f"[{named}]" if ":" in named else named
    return f"http://{host}:{section.port}"


def _folders(show: Show, store: Store) -> list[Path]:
    """The folders that a Studio writes to: their disks are looked at."""
    folders = [show.state_folder]
    if (file := sqlite_file(database_url(show))) is not None:
        folders.append(file.parent)
    if isinstance(store, FolderStore):
        folders.append(store.root)
    return folders


def _observe_process(app: Starlette, metrics: ProcessMetrics, conditions: Conditions) -> None:
    metrics.ask(conditions.metrics, output_metrics, log_metrics)
    conditions.add(output_conditions)
    connections = getattr(app.state, "connections", None)
    if isinstance(connections, Connections):  # else somebody else serves us, who knows of them
        metrics.ask(connections.metrics)
        conditions.add(connections.conditions)


def _queue_conditions(scheduler: Scheduler) -> Iterable[Condition]:
    """Why what is asked for is not drawn now."""
    paused = scheduler.paused
    if paused is not None:
        by_itself = paused.by is None
        level: Level = "degraded" if by_itself else "note"
        text = f"the queue is paused: {paused.message}"
        yield Condition("queue_paused", level, text, blocks_ready=by_itself)
    resting = [slot for slot in scheduler.slots if slot.rests is not None]
    for slot in resting:
        reason = slot.rests.message if slot.rests is not None else ""
        text = f"the engine {slot.engine} does not draw now: {reason}"
        nobody = len(resting) == len(scheduler.slots)
        yield Condition("slot_rests", "degraded", text, blocks_ready=nobody)


def _jobs(
    services: StudioServices, clock: Clock, process: HostProcess
) -> Mapping[JobName, JobBody | None]:
    """What goes on as long as the Studio does."""
    conditions = services.conditions

    def status() -> str:
        current = conditions.current()
        return current[0].message if current else "ok"

    telling = partial(keep_telling, process.notifier, clock, lambda: None, status)
    return {
        "studio_feed": services.feed.run,
        "studio_hooks": services.sender.run,
        "studio_tidying": partial(_keep_tidying, services, clock),
        "loop_lag": partial(measure_loop_lag, services.metrics, clock),
        "systemd": telling if process.notifier.listening else None,
        # Last, so that it ends first: what is being drawn is put back before all else goes.
        "studio_queue": services.scheduler.run,
    }


async def _keep_tidying(services: StudioServices, clock: Clock) -> None:
    """Delete what is old, until cancelled."""
    while True:
        await services.jobs.forget_events(clock.wall() - _EVENTS_KEPT)
        await services.jobs.forget_refusals(of_settled=True)
        try:
            for take in await services.jobs.drawn_again(clock.wall() - _SWEPT_FOR):
                await sweep_unfinished(services.store, take)
        except StoreError as error:
            _log.warning("takes_not_swept", reason=str(error))
        await clock.sleep_until(clock.now() + _TIDIED_EACH)
