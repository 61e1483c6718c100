"""The composition root: builds every part of a server once, in order, and takes it down.

Shutdown goes the other way: sockets are refused and told to go (uvicorn does that before
the lifespan ends), playback is cancelled, then the log, the memory and the store close.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware

from cache.library import Library
from cache.model.documents import FormatError
from cache.prefetch.prefetcher import Need
from cache.stores.port import StoreError
from generator.harvest import Harvester
from generator.plan import Action, PlanInForce
from server.access import Access
from server.asrun.log import AsRun, AsRunLog, MemoryLog
from server.asrun.record import Activation
from server.chance import Chance, new_seed
from server.clock import Clock, SystemClock
from server.conditions import Condition, ConditionCollector, Conditions
from server.config.sections import ServerSection
from server.config.show import Show
from server.connections import ConnectionCollector, Connections
from server.control.dispatcher import CommandLog, Dispatcher
from server.control.mode_commands import ModeCommands
from server.control.osc import hear_osc
from server.control.rehearsal_commands import RehearsalCommands
from server.control.show_commands import ShowCommands
from server.control.socket import ControlSocket
from server.control.state import StateView
from server.control.state_feed import StateFeed
from server.control.supply_commands import SupplyCommands
from server.engines.live import LiveEngines, live_engines, named_only
from server.engines.watch import EngineWatch, probe_of
from server.ensemble import Circumstances, Ensemble, assemble
from server.http import SafeHeaders, build_routes
from server.jobs import JobBody, JobName, Jobs
from server.logs import LogCollector
from server.memory import KEPT_WITHIN, STATE, Memory, Panic
from server.metrics import Metrics
from server.modes.forces import Forces, read_back, written_down
from server.modes.manager import ForceBook, ModeManager
from server.older.socket import OlderSocket, Repertoire
from server.output import OutputCollector, output_conditions
from server.performance.playback import LOOK_IN, Playback
from server.process import HostProcess
from server.providers.base import Provider
from server.providers.live import LiveEngine
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.rate_limit import LimitedRequests
from server.rehearsal.checks import open_checks
from server.rehearsal.terms import NOT_SPENT, Terms
from server.reverse_proxy import BehindProxies, ReverseProxies
from server.stage.presence import PresenceCollector, ScreenPresence
from server.stage.screens import ScreenSocket
from server.stage.seats import Seats
from server.stage.stage import Stage
from server.supply.sources import Supply, SupplyCollector, open_supply
from server.systemd import keep_telling
from server.tempo import REAL_TIME, Tempo
from server.timeline.playhead import Playhead
from server.timeline.schedule import EndlessLoop, Schedule, build_schedule
from server.timeofday import TimeOfDay, asleep
from server.unhandled import UnhandledErrors

_log = structlog.get_logger(__name__)

_SIGN_OF_LIFE = 60.0
"""Seconds between two notes that the show was alive: an SD card is worn by each."""

_LOOKED_FOR_SET = 2.0
"""Seconds after which it is noted at the latest that the clock was set."""

_FRESH_START_AFTER = 120.0
"""Seconds of absence (or one screening, if longer) after which a loop begins anew."""

_MANIFEST_WITHIN = 5.0
"""Seconds the start waits for the manifest: a store that never answers must not keep the wall."""

_LAG_PERIOD = 1.0


def create_app(
    show: Show,
    *,
    clock: Clock | None = None,
    engines: Sequence[LiveEngine] | None = None,
    process: HostProcess | None = None,
) -> Starlette:
    """The whole server for `show`, as an ASGI application; it plays while its lifespan lasts.

    Args:
        show: what is played.
        clock: the time; None for the machine's.
        engines: what may draw live, in order of preference; opened and closed by their owner.
            None for those of the show.
        process: what it runs in; None for one that it only visits.
    """
    return application(
        lambda app: build(show, clock or SystemClock(), app, engines, process=process),
        show.settings.server,
    )


def application(
    opened: Callable[[Starlette], AbstractAsyncContextManager[object]], server: ServerSection
) -> Starlette:
    """The application in which a server is open, as `build` opens it, while its lifespan lasts."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with opened(app):
            yield

    proxies = ReverseProxies(server.trusted_proxies, server.public_url)
    app = Starlette(
        middleware=[
            Middleware(SafeHeaders),
            Middleware(BehindProxies, proxies),
            Middleware(LimitedRequests),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # it would name this server as it knows itself
    return app


@asynccontextmanager
async def build(
    show: Show,
    clock: Clock,
    app: Starlette,
    engines: Sequence[LiveEngine] | None = None,
    *,
    rehearsal: Terms | None = None,
    process: HostProcess | None = None,
) -> AsyncIterator[Playback]:
    """Build every part, add the routes to `app`, and play until left.

    Args:
        show: what is played.
        clock: the time; that of the rehearsal, where it is one.
        app: where the routes go.
        engines: what may draw live, opened and closed by their owner; None for the show's.
        rehearsal: that this is no show, and on which terms.
        process: what it runs in, and ends with it where the show cannot move.
    """
    process = process or HostProcess()
    settings = show.settings
    activation: Activation = "show" if rehearsal is None else "rehearsal"
    outside = clock if rehearsal is None else rehearsal.clock.outside
    tempo = REAL_TIME if rehearsal is None else rehearsal.clock.tempo
    metrics, conditions = Metrics(), Conditions()
    _look_at_itself(app, metrics, conditions)
    async with AsyncExitStack() as stack:

        def needs() -> list[Need]:
            coming = lookahead.needs()  # it is built below, out of what the supply brings
            return coming if rehearsal is None else [_outside(need, tempo) for need in coming]

        # The line to the store is outside, and carries no more because the show is in haste.
        supply = await stack.enter_async_context(open_supply(show, outside, needs))
        memory = await stack.enter_async_context(_memory(show, rehearsal, conditions))
        asrun = await stack.enter_async_context(_asrun(show, clock, rehearsal))
        chance = Chance(_seed(memory, show) if rehearsal is None else rehearsal.seed)
        library = supply.library
        plan = await _planned(show, library)

        spent = rehearsal is None or rehearsal.spend_engines
        opened = await stack.enter_async_context(
            _engines(show, plan, supply, outside, given=engines, rehearsal=rehearsal)
        )
        time_of_day, of_the_show = _times_of_day(show, memory, clock, outside)
        ensemble = assemble(
            show,
            plan,
            supply,
            Circumstances(
                clock=clock,
                schedule=_schedule(show, memory, clock, rehearsal),
                chance=chance,
                bag=ShuffleBag(chance, memory.content.bags, changed=memory.touch),
                asrun=asrun,
                metrics=metrics,
                engines=opened.ranked,
                absent=opened.absent,
                book=_force_book(memory, of_the_show, clock),
                time_of_day=of_the_show,
                panic=memory.content.panic,
                look_in=clock.stretch(LOOK_IN),
                activation=activation,
                tempo=tempo,
                no_live="" if spent else NOT_SPENT,
            ),
        )
        lookahead, playback, modes = ensemble.lookahead, ensemble.playback, ensemble.modes
        stage, readiness = ensemble.stage, ensemble.readiness
        metrics.registry.register(SupplyCollector(supply))
        presence = _presence(show, ensemble, memory, outside, metrics)
        watch = EngineWatch(
            modes=modes,
            live=ensemble.live if spent else (),
            recipe=probe_of(plan),
            quiet_for=lambda seconds: playback.quiet_for(clock.stretch(seconds)),
            clock=outside,
        )
        log = CommandLog()
        checks = await stack.enter_async_context(
            open_checks(
                show,
                ensemble,
                supply,
                live=opened,
                clock=outside,
                metrics=metrics,
                on=rehearsal is None,
            )
        )
        view = StateView(
            show,
            clock,
            playback,
            stage,
            readiness,
            modes,
            live=opened,
            commands=log,
            activation=activation,
            tempo=tempo,
            conditions=conditions,
            time_of_day=time_of_day,
            presence=presence,
            **checks.told(),
        )
        access = Access.of(settings.tokens, settings.server)
        # Technicians and screens are outside, in real time, whatever time the show has.
        feed = StateFeed(view.state, outside)
        checks.tell(feed.nudge)
        dispatcher = Dispatcher(
            [
                ShowCommands(
                    playback=playback,
                    stage=stage,
                    view=view,
                    asrun=asrun,
                    clock=clock,
                    min_go=settings.playback.min_go,
                    log=log,
                    remember=_remembering(memory),
                ),
                mode_commands := ModeCommands(
                    modes=modes,
                    playback=playback,
                    view=view,
                    clock=clock,
                    engines=opened,
                    keep=partial(memory.keep, KEPT_WITHIN),
                ),
                SupplyCommands(supply, lookahead),
                *([RehearsalCommands(show, checks.desk)] if checks.on else []),
            ],
            outside,
            log,
            changed=feed.nudge,
        )
        unhandled = UnhandledErrors(outside, metrics, show.timezone)
        stack.enter_context(unhandled.of_the_loop())
        routes = unhandled.of_routes(
            build_routes(
                show=show,
                supply=supply,
                stage=stage,
                readiness=readiness,
                view=view,
                dispatcher=dispatcher,
                asrun=asrun,
                access=access,
                screens=ScreenSocket(
                    stage,
                    outside,
                    access,
                    metrics,
                    presence=presence,
                    seats=_seats(show, stage, presence, outside, conditions),
                ),
                control=ControlSocket(dispatcher, feed, outside, access, metrics),
                older=_older(show, ensemble, supply, clock, access),
                metrics=metrics,
                preflight=checks.preflight,
                rehearsals=checks.desk,
                conditions=conditions,
                presence=presence,
            )
        )
        app.router.routes.extend(routes)
        jobs = await stack.enter_async_context(Jobs(outside, metrics, process.fail))
        conditions.add(
            playback.conditions,
            jobs.conditions,
            presence.conditions,
            supply.conditions,
            time_of_day.conditions,
            asrun.conditions,
            unhandled.conditions,
        )
        _tell_remarks(show, plan, conditions)
        wanted: dict[JobName, JobBody | None] = {
            "playback": playback.run,
            "asrun": asrun.keep_writing if isinstance(asrun, AsRunLog) else None,
            "prefetch": supply.prefetcher.run if supply.prefetcher is not None else None,
            "state_feed": feed.run,
            "readiness": readiness.keep_looking,
            "forces": modes.keep_time,
            "late_live": mode_commands.run,
            "engine_watch": watch.run if watch.needed else None,
            "preflight": checks.preflight.run if checks.on else None,
            # A desk that is wired to the show means the show.
            "osc": partial(hear_osc, settings.server, dispatcher, metrics)
            if settings.server.osc_port and rehearsal is None
            else None,
            "signs_of_life": partial(_signs_of_life, memory, clock, ensemble.playhead),
            "time_of_day": time_of_day.run,
            "loop_lag": partial(_measure_lag, metrics, outside),
            "systemd": partial(
                keep_telling,
                process.notifier,
                outside,
                playback.stands_still,
                lambda: "{level}: {reason}".format_map(view.health()),
            )
            if process.notifier.listening
            else None,
        }
        jobs.start_all(wanted)
        yield playback


def _look_at_itself(app: Starlette, metrics: Metrics, conditions: Conditions) -> None:
    """Let the process tell how it does: what is wrong, its log, and who is connected."""
    metrics.registry.register(ConditionCollector(conditions))
    metrics.registry.register(OutputCollector())
    metrics.registry.register(LogCollector())
    conditions.add(output_conditions)
    connections = getattr(app.state, "connections", None)
    if isinstance(connections, Connections):  # else somebody else serves us, who knows of them
        metrics.registry.register(ConnectionCollector(connections))
        conditions.add(connections.conditions)


def _seats(
    show: Show, stage: Stage, presence: ScreenPresence, clock: Clock, conditions: Conditions
) -> Seats:
    """As many as the show has for screens."""
    seats = Seats(show.settings.server.max_screens, stage, presence, clock)
    conditions.add(seats.conditions)
    return seats


def _tell_remarks(show: Show, plan: PlanInForce, conditions: Conditions) -> None:
    """Tell of what nobody reads in the settings, the sheet, and the like."""
    told = [Condition("setting_unknown", "note", remark) for remark in show.settings.remarks]
    conditions.add(lambda: told)
    for condition in told:
        _log.warning(condition.code, remark=condition.message)
    for remark in (*show.sheet.remarks, *plan.remarks):
        _log.warning("cue_sheet", remark=str(remark))


def _outside(need: Need, tempo: Tempo) -> Need:
    """A run to come, and when in real time."""
    end = None if need.end is None else tempo.to_real(need.end)
    return replace(need, start=tempo.to_real(need.start), end=end)


@asynccontextmanager
async def _memory(
    show: Show, rehearsal: Terms | None, conditions: Conditions
) -> AsyncIterator[Memory]:
    if rehearsal is not None:
        async with Memory.unwritten(rehearsal.remembered) as memory:
            yield memory
        return
    async with Memory.open(show.state_folder / STATE) as memory:
        conditions.add(memory.conditions)
        yield memory


@asynccontextmanager
async def _asrun(show: Show, clock: Clock, rehearsal: Terms | None) -> AsyncIterator[AsRun]:
    """Where it is written down what was played; a rehearsal is nowhere."""
    if rehearsal is not None:
        yield MemoryLog()
        return
    keep_days, path = show.settings.cache.asrun_days, show.state_folder / "asrun.sqlite"
    async with AsRunLog.open(path, clock=clock, keep_days=keep_days) as log:
        yield log


def _schedule(show: Show, memory: Memory, clock: Clock, rehearsal: Terms | None) -> Schedule:
    if rehearsal is not None:
        return rehearsal.schedule(clock.wall())
    return build_schedule(
        show.settings.schedule,
        duration=show.duration,
        zone=show.timezone,
        anchor=_loop_anchor(memory, show, clock),
    )


async def _planned(show: Show, library: Library) -> PlanInForce:
    """The show's actions, under the ids that their finished sets have; it follows the store."""
    try:
        async with asyncio.timeout(_MANIFEST_WITHIN):
            await library.refresh()
    except (StoreError, FormatError, TimeoutError) as error:
        # The show goes on without: readiness keeps looking, and says so.
        reason = str(error) or f"no answer in {_MANIFEST_WITHIN:g} s"
        _log.error("manifest_unreadable", reason=reason)
    plan = show.plan(library.manifest.fingerprints)
    library.want(plan.wanted)
    return PlanInForce(plan)


@asynccontextmanager
async def _engines(
    show: Show,
    plan: PlanInForce,
    supply: Supply,
    clock: Clock,
    *,
    given: Sequence[LiveEngine] | None,
    rehearsal: Terms | None,
) -> AsyncIterator[LiveEngines]:
    """What may draw live: what was given, else the show's; what those draw is kept if it says so.

    In a rehearsal that spends none they are known by name alone.
    """
    if given is not None:
        yield LiveEngines(tuple(given))
        return
    if rehearsal is not None and not rehearsal.spend_engines:
        yield named_only(show, NOT_SPENT)
        return
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(live_engines(show, plan, clock))
        if show.settings.playback.harvest and supply.origin is not None and rehearsal is None:
            harvester = await stack.enter_async_context(
                Harvester(supply.origin, lambda: plan.actions)
            )
            ranked = [replace(each, engine=harvester.tee(each.engine)) for each in opened.ranked]
            opened = replace(opened, ranked=tuple(ranked))
        yield opened


def _older(
    show: Show, ensemble: Ensemble, supply: Supply, clock: Clock, access: Access
) -> OlderSocket:
    """The older wire, played from the show's sets and engines."""
    # Sets of its own bag: who plays with the older wire must not turn the show's round.
    chance = Chance(new_seed())
    sets = StaticProvider(
        supply.library,
        ShuffleBag(chance),
        clock,
        chance,
        show.settings.playback.fit,
        availability=supply.availability,
    )
    return OlderSocket(
        Repertoire(ensemble.plan, show.programs, show.base_images, ensemble.playhead),
        partial(_ladder_beside, ensemble.modes, sets),
        show.settings.playback,
        clock,
        access,
    )


def _ladder_beside(modes: ModeManager, sets: StaticProvider, action: Action) -> list[Provider]:
    """The show's own ladder for an action, its sets out of another bag."""
    rungs = modes.decide(action).rungs
    return [sets if rung.engine is None else modes.provider(rung) for rung in rungs]


def _seed(memory: Memory, show: Show) -> int:
    """What is left to chance follows from it: the show's own, or this machine's."""
    seed = show.settings.playback.seed
    if seed is None:
        seed = memory.content.seed
    memory.content.seed = new_seed() if seed is None else seed
    memory.touch()
    return memory.content.seed


def _remembering(memory: Memory) -> Callable[[Panic | None], Awaitable[str | None]]:
    """How a panic, or the end of one, is remembered across a restart; why it is not, or None."""

    async def remember(panic: Panic | None) -> str | None:
        why_not = await memory.keep_panic(panic, KEPT_WITHIN)
        if why_not is not None:
            _log.error("panic_not_remembered", panic=panic is not None, reason=why_not)
        return why_not

    return remember


def _presence(
    show: Show, ensemble: Ensemble, memory: Memory, outside: Clock, metrics: Metrics
) -> ScreenPresence:
    """Who minds the screens that are expected, and counts them."""
    clock, playhead = ensemble.stage.clock, ensemble.playhead
    presence = ScreenPresence(
        ensemble.stage,
        outside,
        show.timezone,
        named=show.settings.stage.screens,
        known=memory.content.screens,
        changed=memory.touch,
        near=lambda seconds: playhead.begins_within(clock.now(), clock.stretch(seconds)),
    )
    metrics.registry.register(PresenceCollector(presence))
    return presence


def _times_of_day(
    show: Show, memory: Memory, clock: Clock, outside: Clock
) -> tuple[TimeOfDay, TimeOfDay]:
    """That of technicians, who are outside, and the show's own: in a show they are the same."""
    theirs = TimeOfDay(outside, show.timezone, slept=asleep, last_seen=memory.content.alive_at)
    return theirs, theirs if clock is outside else TimeOfDay(clock, show.timezone)


def _force_book(memory: Memory, time_of_day: TimeOfDay, clock: Clock) -> ForceBook:
    """The forces, as they are remembered; what is remembered of them keeps up with the clock."""
    book = ForceBook(read_back(memory.content.forces, time_of_day.offset, clock.now()))

    def remember(forces: Forces) -> None:
        memory.content.forces = written_down(forces, time_of_day.offset)
        memory.touch()

    book.changed = remember
    time_of_day.on_step(lambda _by: remember(book.forces))
    return book


def _loop_anchor(memory: Memory, show: Show, clock: Clock) -> float:
    """When an endless loop began: where it was before a short absence, else now."""
    content, wall = memory.content, clock.wall()
    absence = max(show.duration, _FRESH_START_AFTER)
    recent = content.alive_at is not None and 0 <= wall - content.alive_at < absence
    if content.loop_anchor is None or not recent or content.loop_anchor > wall:
        content.loop_anchor = wall
    content.alive_at = wall
    memory.touch()
    return content.loop_anchor


async def _signs_of_life(memory: Memory, clock: Clock, playhead: Playhead) -> None:
    """Note again and again that the show plays, and since when its loop has; also as it ends."""

    def note() -> None:
        content, schedule = memory.content, playhead.schedule
        content.alive_at = clock.wall()
        if isinstance(schedule, EndlessLoop):
            content.loop_anchor = schedule.anchor  # a clock that was set has moved it along
        memory.touch()

    noted, schedule = clock.now(), playhead.schedule
    try:
        while True:
            await clock.sleep_until(clock.now() + _LOOKED_FOR_SET)
            if playhead.schedule is schedule and clock.now() - noted < _SIGN_OF_LIFE:
                continue
            noted, schedule = clock.now(), playhead.schedule
            note()
    finally:
        note()


async def _measure_lag(metrics: Metrics, clock: Clock) -> None:
    while True:
        due = clock.now() + _LAG_PERIOD
        await clock.sleep_until(due)
        metrics.loop_lag.set(clock.now() - due)
