"""The parts that play, built and connected: what a show on the wall and a rehearsal share.

What differs between the two is `Dependencies`: the clock, who may draw live, what is
remembered, where it is written down. Nothing here knows a socket, or opens anything.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from cache.library import Library
from generator.sheet.plan import Action, Plan
from generator.sheet.recipe import seed_for
from server.asrun.log import AsRun
from server.asrun.record import Activation
from server.config.lobby import calendar_signs, direction_of
from server.config.show import Show
from server.core.clock import Clock
from server.core.metrics import Metrics
from server.core.random_streams import RandomStreams
from server.core.time_of_day import TimeOfDay
from server.core.timescale import REAL_TIME, TimeScale
from server.modes.manager import ForceBook, ModeManager
from server.performance.performer import Performer
from server.performance.playback import LOOK_IN, Playback
from server.performance.progress import ShowProgress
from server.performance.run import Reports
from server.performance.runs import Runs
from server.performance.state_file import Panic
from server.providers.base import Offload
from server.providers.budget import Budget
from server.providers.latency import Latencies
from server.providers.live import LiveEngine, LiveProvider
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.stage import glyphs
from server.stage import messages as wire
from server.stage.stage import Screen, Stage
from server.supply.lookahead import Lookahead
from server.supply.readiness import Readiness
from server.supply.sources import Supply
from server.timeline.beginnings import Beginnings
from server.timeline.playhead import BURST, Playhead
from server.timeline.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a runtime is given, and what differs from one performance to another.

    Attributes:
        clock: the time.
        schedule: when screenings are.
        streams: what is left to chance.
        bag: which sets come next.
        asrun: where it is written down.
        metrics: where it is counted.
        engines: what may draw live, in order of preference.
        absent: in words, why an engine cannot draw at the moment, though it has not failed.
        book: the forces of technicians.
        panic: the wall was made black before.
        live_seeds: where the seeds of what is drawn live come from, by the engine's name.
        new_token: makes run tokens, which never repeat.
        offload: how pictures are looked at without keeping the event loop.
        look_in: seconds after which the playhead is asked at the latest.
        activation: a performance for visitors, or a dry run.
        time_scale: how fast the clock runs beside that of the screens.
        no_live: in words, why nothing may be drawn live at all; empty if it may.
        time_of_day: in which hours are told in words; None for those of the machine.
    """

    clock: Clock
    schedule: Schedule
    streams: RandomStreams
    bag: ShuffleBag
    asrun: AsRun
    metrics: Metrics
    engines: Sequence[LiveEngine] = ()
    absent: Callable[[str], str | None] = lambda _name: None
    book: ForceBook | None = None
    panic: Panic | None = None
    live_seeds: Callable[[str], Random] = lambda _name: Random()
    new_token: Callable[[], str] = lambda: secrets.token_urlsafe(9)
    offload: Offload = asyncio.to_thread
    look_in: float = LOOK_IN
    activation: Activation = "show"
    time_scale: TimeScale = REAL_TIME
    no_live: str = ""
    time_of_day: TimeOfDay | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts that play. Each owns its own state; see their modules."""

    plan: Plan
    beginnings: Beginnings
    playhead: Playhead
    stage: Stage
    static: StaticProvider
    live: tuple[LiveProvider, ...]
    lookahead: Lookahead
    readiness: Readiness
    modes: ModeManager
    playback: Playback


def build_runtime(show: Show, plan: Plan, supply: Supply, given: Dependencies) -> Runtime:
    """Build and connect everything that plays `show`.

    Args:
        show: what is played.
        plan: its actions.
        supply: where their sets come from; its prefetcher asks `Runtime.lookahead`.
        given: everything else.
    """
    settings, clock = show.settings.playback, given.clock
    beginnings = Beginnings(show.sheet, given.streams, settings.draw, show.duration)
    playhead = Playhead(
        [cue.at for cue in show.sheet.cues],
        [action.cue_index for action in plan.actions],
        show.duration,
        given.schedule,
        clock.stretch(BURST),
    )
    stage = _stage(show, given)
    latencies = Latencies()
    budget = Budget(settings.live_runs_per_hour, settings.live_at_once, given.no_live)
    static = _static(show, supply, latencies, given)
    live = _live(show, supply.library, budget, latencies, given)
    readiness = _readiness(show, plan, supply, static, given)
    modes = ModeManager(
        settings=settings,
        clock=clock,
        static=static,
        live=live,
        sets=readiness.sets_in_time,
        budget=budget,
        book=given.book,
        time_of_day=given.time_of_day,
        absent=given.absent,
    )
    readiness.renamed = modes.renamed
    progress = ShowProgress(clock, given.metrics, show.timezone)
    playback = Playback(
        show=show,
        plan=plan,
        playhead=playhead,
        clock=clock,
        stage=stage,
        performer=_performer(show, plan, given, stage=stage, modes=modes, progress=progress),
        modes=modes,
        progress=progress,
        metrics=given.metrics,
        beginnings=beginnings,
        moved=supply.nudge,
        panic=given.panic,
        look_in=given.look_in,
    )
    lookahead = Lookahead(show, plan, beginnings, playhead, static=static, clock=clock)
    return Runtime(
        plan, beginnings, playhead, stage, static, live, lookahead, readiness, modes, playback
    )


def _static(
    show: Show, supply: Supply, latencies: Latencies, given: Dependencies
) -> StaticProvider:
    settings = show.settings.playback
    return StaticProvider(
        supply.library,
        given.bag,
        given.clock,
        given.streams,
        settings.fit,
        lead=settings.lead,
        latencies=latencies,
        longest_gap=settings.frame_gap_timeout,
        availability=supply.availability,
        offload=given.offload,
    )


def _readiness(
    show: Show, plan: Plan, supply: Supply, static: StaticProvider, given: Dependencies
) -> Readiness:
    settings, cues = show.settings.playback, show.sheet.cues
    return Readiness(
        plan,
        supply,
        static,
        given.clock,
        given.metrics,
        still=show.still is not None,
        engines=[engine.name for engine in given.engines],
        may_draw=lambda action: (
            settings.fallback or (cues[action.cue_index].mode or settings.mode) != "static"
        ),
    )


def _performer(
    show: Show,
    plan: Plan,
    given: Dependencies,
    *,
    stage: Stage,
    modes: ModeManager,
    progress: ShowProgress,
) -> Performer:
    runs = Runs(
        clock=given.clock,
        modes=modes,
        settings=show.settings.playback,
        crossfade=show.settings.display.crossfade,
        reports=Reports(stage, given.asrun, given.metrics, given.activation),
        progress=progress,
        new_token=given.new_token,
        under_its_id=lambda action: plan.of_cue(action.cue_index) or action,
    )
    return Performer(stage=stage, clock=given.clock, runs=runs, progress=progress)


def _live(
    show: Show, library: Library, budget: Budget, latencies: Latencies, given: Dependencies
) -> tuple[LiveProvider, ...]:
    """Who plays the engines, in their order."""

    def seeds_of_sets(action: Action) -> set[int]:
        sets = library.set_ids(action.action_id)
        return {seed_for(action.fingerprint, number) for number in sets}

    return tuple(
        LiveProvider(
            engine,
            given.clock,
            lead=given.clock.stretch(show.settings.playback.lead),
            rng=given.live_seeds(engine.name),
            taken=seeds_of_sets,
            budget=budget,
            latencies=latencies,
            offload=given.offload,
        )
        for engine in given.engines
    )


def _stage(show: Show, given: Dependencies) -> Stage:
    """The stage of a show; what its screens have painted is counted and written down."""
    display = show.settings.display

    def painted(screen: Screen, message: wire.Presented) -> None:
        stage_frame = stage.frame(message.run, message.step)
        if stage_frame is not None:
            late = given.time_scale.real_seconds(message.at - stage_frame.header.present_at)
            given.metrics.presented_lateness.observe(late)
        given.asrun.presented(message.run, screen.name, message.step, message.at)

    stage = Stage(
        given.clock,
        _info(show, given),
        wire.Display(
            crossfade=display.crossfade,
            fade=display.fade,
            captions=display.captions,
            progress=display.progress,
            badge=display.badge,
            still=_still_url(show),
            language=display.language,
            direction=direction_of(display.language),
            hours=display.hours,
            texts=display.lobby_texts,
        ),
        painted,
        given.time_scale,
    )
    return stage


def _still_url(show: Show) -> str:
    """Where screens find the still image; a key in it, where screens have a token, opens it."""
    if show.still is None:
        return ""
    return f"/still?key={show.still_key}" if show.settings.tokens.screen is not None else "/still"


def _info(show: Show, given: Dependencies) -> wire.ShowInfo:
    """What a screen needs to know of the show, or that it is none."""
    written = glyphs.characters(_texts(show))
    if given.activation == "show":
        return wire.ShowInfo(
            title=show.title,
            timezone=show.timezone_name,
            duration=show.duration,
            characters=written,
        )
    return wire.RehearsedShow(
        title=f"Rehearsal: {show.title}",  # on screens, too, that know of no rehearsals
        timezone=show.timezone_name,
        duration=show.duration,
        characters=written,
        rehearsal=wire.Rehearsal(speed=given.time_scale.speed),
    )


def _texts(show: Show) -> Iterator[str]:
    """Everything that is written on the walls."""
    yield show.title
    yield from show.settings.display.lobby_texts.values()
    yield calendar_signs(show.settings.display.language)
    yield from (cue.written for cue in show.sheet.cues)
