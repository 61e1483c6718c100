"""The composition root: builds every part of a server once, in order, and takes it down.

Shutdown goes the other way: sockets are refused and told to go (uvicorn does that before
the lifespan ends), playback is cancelled, then the log, the memory and the store close.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware

from cache.documents import FormatError
from cache.library import Library
from cache.store import StoreError
from server import messages as wire
from server.access import Access
from server.asrun import AsRunLog
from server.clock import Clock, SystemClock
from server.commands import ShowCommands
from server.control import CommandLog, Dispatcher
from server.control_socket import ControlSocket
from server.http import SafeHeaders, build_routes
from server.memory import Memory, Panic
from server.metrics import Metrics
from server.older_socket import OlderSocket, Repertoire
from server.osc import osc_over_udp
from server.performer import Performer
from server.playback import Playback
from server.playhead import Playhead
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.readiness import Readiness
from server.schedule import build_schedule
from server.screens import ScreenSocket
from server.show import Show
from server.stage import Screen, Stage
from server.state import StateView
from server.state_feed import StateFeed
from server.stores import store_of

_log = structlog.get_logger(__name__)

_SIGN_OF_LIFE = 60.0
"""Seconds between two notes that the show was alive: an SD card is worn by each."""

_FRESH_START_AFTER = 120.0
"""Seconds of absence (or one screening, if longer) after which a loop begins anew."""

_MANIFEST_WITHIN = 5.0
"""Seconds the start waits for the manifest: a store that never answers must not keep the wall."""

_PANIC_KEPT_WITHIN = 2.0
"""Seconds that whoever panicked waits for the disk to have it."""

_LAG_PERIOD = 1.0


def create_app(show: Show, *, clock: Clock | None = None) -> Starlette:
    """The whole server for `show`, as an ASGI application; it plays while its lifespan lasts."""
    clock = clock or SystemClock()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with build(show, clock, app):
            yield

    return Starlette(middleware=[Middleware(SafeHeaders)], lifespan=lifespan)


@asynccontextmanager
async def build(show: Show, clock: Clock, app: Starlette) -> AsyncIterator[Playback]:
    """Build every part, add the routes to `app`, and play until left."""
    settings = show.settings
    metrics = Metrics()
    rng = Random()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(show))
        memory = await stack.enter_async_context(Memory.open(show.state_folder / "state.json"))
        asrun = await stack.enter_async_context(
            AsRunLog.open(
                show.state_folder / "asrun.sqlite",
                clock=clock,
                keep_days=settings.cache.asrun_days,
            )
        )
        library = Library(store)
        try:
            async with asyncio.timeout(_MANIFEST_WITHIN):
                await library.refresh()
        except (StoreError, FormatError, TimeoutError) as error:
            # The show goes on without: readiness keeps looking, and says so.
            reason = str(error) or f"no answer in {_MANIFEST_WITHIN:g} s"
            _log.error("manifest_unreadable", reason=reason)
        finished = {
            action_id: entry.fingerprint for action_id, entry in library.manifest.actions.items()
        }
        plan = show.plan(finished)

        schedule = build_schedule(
            settings.schedule,
            duration=show.duration,
            zone=show.timezone,
            anchor=_loop_anchor(memory, show, clock),
        )
        playhead = Playhead(
            [cue.at for cue in show.sheet.cues],
            [action.cue_index for action in plan.actions],
            show.duration,
            schedule,
        )

        def painted(screen: Screen, message: wire.Presented) -> None:
            stage_frame = stage.frame(message.run, message.step)
            if stage_frame is not None:
                late = message.at - stage_frame.header.present_at
                metrics.presented_lateness.observe(late)
            asrun.presented(message.run, screen.name, message.step, message.at)

        display = settings.display
        stage = Stage(
            clock,
            wire.ShowInfo(title=show.title, timezone=show.timezone_name, duration=show.duration),
            wire.Display(
                crossfade=display.crossfade,
                fade=display.fade,
                captions=display.captions,
                progress=display.progress,
                badge=display.badge,
                still="/still" if show.still is not None else "",
            ),
            painted,
        )
        bag = ShuffleBag(rng, memory.content.bags, changed=memory.touch)
        static = StaticProvider(library, bag, clock, rng, settings.playback.fit)
        performer = Performer(
            stage=stage,
            clock=clock,
            ladder=lambda _action: (static,),
            settings=settings.playback,
            crossfade=display.crossfade,
            asrun=asrun,
            metrics=metrics,
        )
        playback = Playback(
            show=show,
            plan=plan,
            playhead=playhead,
            clock=clock,
            stage=stage,
            performer=performer,
            metrics=metrics,
            rng=rng,
            panic=memory.content.panic,
        )
        readiness = Readiness(plan, library, static, clock, metrics)
        log = CommandLog()
        view = StateView(show, clock, playback, stage, readiness, commands=log)
        access = Access(settings.tokens, settings.server.host, settings.server.origins)

        async def remember(panic: Panic | None) -> None:
            memory.content.panic = panic
            if not await memory.save_now(_PANIC_KEPT_WITHIN):
                _log.error("panic_not_remembered", panic=panic is not None)

        commands = ShowCommands(
            playback=playback,
            stage=stage,
            view=view,
            asrun=asrun,
            clock=clock,
            min_go=settings.playback.min_go,
            log=log,
            remember=remember,
        )
        feed = StateFeed(view.state, clock)
        dispatcher = Dispatcher([commands], clock, log, changed=feed.nudge)
        # Sets of its own bag: who plays with the older wire must not turn the show's round.
        beside = StaticProvider(library, ShuffleBag(rng), clock, rng, settings.playback.fit)
        older = OlderSocket(
            Repertoire(plan, show.programs, show.base_images, playhead),
            lambda _action: (beside,),
            settings.playback,
            clock,
            access,
        )
        app.router.routes.extend(
            build_routes(
                show=show,
                store=store,
                stage=stage,
                playback=playback,
                readiness=readiness,
                view=view,
                dispatcher=dispatcher,
                asrun=asrun,
                access=access,
                screens=ScreenSocket(stage, clock, access, metrics),
                control=ControlSocket(dispatcher, feed, clock, access, metrics),
                older=older,
                metrics=metrics,
            )
        )
        for remark in (*show.sheet.remarks, *plan.remarks):
            _log.warning("cue_sheet", remark=str(remark))
        await stack.enter_async_context(osc_over_udp(settings.server, dispatcher, metrics))
        await stack.enter_async_context(
            _running(
                playback.run(),
                feed.run(),
                readiness.keep_looking(),
                _signs_of_life(memory, clock),
                _measure_lag(metrics, clock),
            )
        )
        yield playback


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


async def _signs_of_life(memory: Memory, clock: Clock) -> None:
    try:
        while True:
            await clock.sleep_until(clock.now() + _SIGN_OF_LIFE)
            memory.content.alive_at = clock.wall()
            memory.touch()
    finally:
        memory.content.alive_at = clock.wall()
        memory.touch()


async def _measure_lag(metrics: Metrics, clock: Clock) -> None:
    while True:
        due = clock.now() + _LAG_PERIOD
        await clock.sleep_until(due)
        metrics.loop_lag.set(clock.now() - due)


@asynccontextmanager
async def _running(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `jobs` beside the body; one that ends by itself is logged and does not end the rest."""
    tasks = [asyncio.create_task(job, name=getattr(job, "__qualname__", "job")) for job in jobs]
    for task in tasks:
        task.add_done_callback(_tell_if_failed)
    try:
        yield
    finally:
        for task in reversed(tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("job_failed", job=task.get_name(), exc_info=error)
