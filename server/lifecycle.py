"""Opens the supply, the state file, the as-run log and the engines, and builds what plays.

It also keeps what a restart takes up again: forces, a panic, when the show was last alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from cache.library import Library
from cache.model.documents import FormatError
from cache.prefetch.prefetcher import Need
from cache.stores.port import StoreError
from generator.sheet.plan import Plan
from server.asrun.log import AsRun
from server.config.show import Show
from server.core.clock import Clock
from server.core.conditions import Condition, Conditions
from server.core.metrics import Metrics
from server.core.random_streams import RandomStreams
from server.core.time_of_day import TimeOfDay, asleep
from server.core.timescale import TimeScale
from server.engines.live import LiveEngines
from server.modes.forces import Forces, read_back, written_down
from server.modes.manager import ForceBook
from server.performance.playback import LOOK_IN
from server.performance.state_file import KEPT_WITHIN, Panic, StateFile
from server.providers.shuffle import ShuffleBag
from server.runtime import Dependencies, Runtime, build_runtime
from server.setup import Setup
from server.stage.presence import ScreenPresence
from server.supply.sources import Supply, open_supply
from server.timeline.playhead import Playhead
from server.timeline.schedule import EndlessLoop

_log = structlog.get_logger(__name__)

_SIGN_OF_LIFE = 60.0
"""Seconds between two notes that the show was alive: an SD card is worn by each."""

_LOOKED_FOR_SET = 2.0
"""Seconds after which it is noted at the latest that the clock was set."""

_MANIFEST_WITHIN = 5.0
"""Seconds the start waits for the manifest: a store that never answers must not keep the wall."""


@dataclass(frozen=True, slots=True)
class Playout:
    """A show's playout, open: what is played with, and the parts that play.

    Attributes:
        setup: a show, or a rehearsal.
        supply: where sets come from.
        state_file: what is remembered across restarts.
        asrun: where it is written down what was played.
        engines: what may draw live.
        time_of_day: that of technicians, who are outside.
        runtime: the parts that play.
        presence: who minds the screens that are expected.
        metrics: where everything is counted.
    """

    setup: Setup
    supply: Supply
    state_file: StateFile
    asrun: AsRun
    engines: LiveEngines
    time_of_day: TimeOfDay
    runtime: Runtime
    presence: ScreenPresence
    metrics: Metrics


@asynccontextmanager
async def open_playout(setup: Setup, metrics: Metrics) -> AsyncIterator[Playout]:
    """Open what is played with, in order, and build those who play; it is closed on leaving."""
    show, clock, time_scale = setup.show, setup.clock, setup.time_scale
    runtime: Runtime | None = None

    def needs() -> list[Need]:
        # The line to the store is outside, and carries no more because the show is in haste.
        coming = [] if runtime is None else runtime.lookahead.needs()
        return [_in_real_time(need, time_scale) for need in coming]

    async with AsyncExitStack() as stack:
        supply = await stack.enter_async_context(open_supply(show, setup.outside, needs))
        state_file = await stack.enter_async_context(setup.state_file())
        asrun = await stack.enter_async_context(setup.asrun())
        streams = RandomStreams(setup.seed(state_file))
        plan = await _planned(show, supply.library)
        engines = await stack.enter_async_context(setup.engines(plan, supply))
        time_of_day, of_the_show = _times_of_day(setup, state_file)
        runtime = build_runtime(
            show,
            plan,
            supply,
            Dependencies(
                clock=clock,
                schedule=setup.schedule(state_file),
                streams=streams,
                bag=ShuffleBag(streams, state_file.content.bags, changed=state_file.touch),
                asrun=asrun,
                metrics=metrics,
                engines=engines.ranked,
                absent=engines.absent,
                book=force_book(state_file, of_the_show, clock),
                time_of_day=of_the_show,
                panic=state_file.content.panic,
                look_in=clock.stretch(LOOK_IN),
                activation=setup.activation,
                time_scale=time_scale,
                no_live=setup.no_live,
            ),
        )
        presence = _presence(setup, runtime, state_file)
        metrics.ask(supply.metrics, presence.metrics)
        yield Playout(
            setup, supply, state_file, asrun, engines, time_of_day, runtime, presence, metrics
        )


def _presence(setup: Setup, runtime: Runtime, state_file: StateFile) -> ScreenPresence:
    clock = setup.clock
    return ScreenPresence(
        runtime.stage,
        setup.outside,
        setup.show.timezone,
        named=setup.show.settings.stage.screens,
        known=state_file.content.screens,
        changed=state_file.touch,
        near=lambda seconds: runtime.playhead.begins_within(clock.now(), clock.stretch(seconds)),
    )


def _in_real_time(need: Need, time_scale: TimeScale) -> Need:
    """A run to come, and when in real time."""
    end = None if need.end is None else time_scale.to_real(need.end)
    return replace(need, start=time_scale.to_real(need.start), end=end)


async def _planned(show: Show, library: Library) -> Plan:
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
    return plan


def _times_of_day(setup: Setup, state_file: StateFile) -> tuple[TimeOfDay, TimeOfDay]:
    """That of technicians, who are outside, and the show's own: in a show they are the same."""
    zone, alive_at = setup.show.timezone, state_file.content.alive_at
    theirs = TimeOfDay(setup.outside, zone, slept=asleep, last_seen=alive_at)
    return theirs, theirs if setup.clock is setup.outside else TimeOfDay(setup.clock, zone)


def force_book(state_file: StateFile, time_of_day: TimeOfDay, clock: Clock) -> ForceBook:
    """The forces, as they are remembered; what is remembered of them keeps up with the clock."""
    book = ForceBook(read_back(state_file.content.forces, time_of_day.offset, clock.now()))

    def remember(forces: Forces) -> None:
        state_file.content.forces = written_down(forces, time_of_day.offset)
        state_file.touch()

    book.changed = remember
    time_of_day.on_step(lambda _by: remember(book.forces))
    return book


async def keep_panic(state_file: StateFile, panic: Panic | None) -> str | None:
    """Remember a panic, or its end, across a restart; why it could not be, or None."""
    why_not = await state_file.keep_panic(panic, KEPT_WITHIN)
    if why_not is not None:
        _log.error("panic_not_remembered", panic=panic is not None, reason=why_not)
    return why_not


async def signs_of_life(state_file: StateFile, clock: Clock, playhead: Playhead) -> None:
    """Note again and again that the show plays, and since when its loop has; also as it ends."""

    def note() -> None:
        content, schedule = state_file.content, playhead.schedule
        content.alive_at = clock.wall()
        if isinstance(schedule, EndlessLoop):
            content.loop_anchor = schedule.anchor  # a clock that was set has moved it along
        state_file.touch()

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


def tell_remarks(playout: Playout, conditions: Conditions) -> None:
    """Tell of what nobody reads in the settings, the sheet, and the like."""
    show = playout.setup.show
    unknown = [Condition("setting_unknown", "note", remark) for remark in show.settings.remarks]
    conditions.add(lambda: unknown)
    for condition in unknown:
        _log.warning(condition.code, remark=condition.message)
    for remark in (*show.sheet.remarks, *playout.runtime.plan.remarks):
        _log.warning("cue_sheet", remark=str(remark))
