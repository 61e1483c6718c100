"""Everybody who plays, in one piece: what a show on the wall and a rehearsal have in common.

Built from what differs between the two: the clock, where sets come from, who may draw live,
what is remembered, where it is written down. Nothing here knows a socket, or opens anything.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from cache.library import Library
from generator.cues import PromptCue, TranscriptCue
from generator.plan import Action, PlanInForce
from generator.recipe import seed_for
from server.asrun.log import AsRun
from server.asrun.record import Activation
from server.chance import Chance
from server.clock import Clock
from server.config.lobby import calendar_signs, direction_of
from server.config.show import Show
from server.memory import Panic
from server.metrics import Metrics
from server.modes.budget import Budget
from server.modes.manager import ForceBook, ModeManager
from server.performance.performer import Performer
from server.performance.playback import LOOK_IN, Playback
from server.performance.progress import ShowProgress
from server.performance.run import Reports
from server.performance.runs import Runs
from server.providers.base import Beside
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
from server.tempo import REAL_TIME, Tempo
from server.timeline.beginnings import Beginnings
from server.timeline.playhead import BURST, Playhead
from server.timeline.schedule import Schedule
from server.timeofday import TimeOfDay


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What differs from one performance to another.

    Attributes:
        clock: the time.
        schedule: when screenings are.
        chance: what is left to chance.
        bag: which sets come next.
        asrun: where it is written down.
        metrics: where it is counted.
        engines: what may draw live, in order of preference.
        absent: in words, why an engine cannot draw at the moment, though it has not failed.
        book: the forces of technicians.
        panic: the wall was made black before.
        live_seeds: where the seeds of what is drawn live come from, by the engine's name.
        new_token: makes run tokens, which never repeat.
        beside: how pictures are looked at without keeping the event loop.
        look_in: seconds after which the playhead is asked at the latest.
        activation: a performance for visitors, or a dry run.
        tempo: how fast the clock runs beside that of the screens.
        no_live: in words, why nothing may be drawn live at all; empty if it may.
        time_of_day: in which hours are told in words; None for those of the machine.
    """

    clock: Clock
    schedule: Schedule
    chance: Chance
    bag: ShuffleBag
    asrun: AsRun
    metrics: Metrics
    engines: Sequence[LiveEngine] = ()
    absent: Callable[[str], str | None] = lambda _name: None
    book: ForceBook | None = None
    panic: Panic | None = None
    live_seeds: Callable[[str], Random] = lambda _name: Random()
    new_token: Callable[[], str] = lambda: secrets.token_urlsafe(9)
    beside: Beside = asyncio.to_thread
    look_in: float = LOOK_IN
    activation: Activation = "show"
    tempo: Tempo = REAL_TIME
    no_live: str = ""
    time_of_day: TimeOfDay | None = None


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Those who play. Each owns its own state; see their modules."""

    show: Show
    plan: PlanInForce
    beginnings: Beginnings
    playhead: Playhead
    stage: Stage
    static: StaticProvider
    live: tuple[LiveProvider, ...]
    lookahead: Lookahead
    readiness: Readiness
    modes: ModeManager
    playback: Playback


def assemble(show: Show, plan: PlanInForce, supply: Supply, around: Circumstances) -> Ensemble:
    """Build everybody who plays `show`.

    Args:
        show: what is played.
        plan: its actions.
        supply: where their sets come from; its prefetcher asks `Ensemble.lookahead`.
        around: everything else.
    """
    settings, clock = show.settings, around.clock
    beginnings = Beginnings(show.sheet, around.chance, settings.playback.draw, show.duration)
    playhead = Playhead(
        [cue.at for cue in show.sheet.cues],
        [action.cue_index for action in plan.actions],
        show.duration,
        around.schedule,
        clock.stretch(BURST),
    )
    stage = _stage(show, around)
    latencies = Latencies()
    static = StaticProvider(
        supply.library,
        around.bag,
        clock,
        around.chance,
        settings.playback.fit,
        lead=settings.playback.lead,
        latencies=latencies,
        longest_gap=settings.playback.frame_gap_timeout,
        availability=supply.availability,
        beside=around.beside,
    )
    budget = Budget(
        settings.playback.live_runs_per_hour, settings.playback.live_at_once, around.no_live
    )
    live = _live(show, supply.library, budget, latencies, around)
    readiness = Readiness(
        plan,
        supply,
        static,
        clock,
        around.metrics,
        still=show.still is not None,
        engines=[engine.name for engine in around.engines],
        may_draw=lambda action: (
            settings.playback.fallback
            or (show.sheet.cues[action.cue_index].mode or settings.playback.mode) != "static"
        ),
    )
    modes = ModeManager(
        settings=settings.playback,
        clock=clock,
        static=static,
        live=live,
        sets=readiness.sets_in_time,
        budget=budget,
        book=around.book,
        time_of_day=around.time_of_day,
        absent=around.absent,
    )
    progress = ShowProgress(clock, around.metrics, show.timezone)
    readiness.renamed = modes.renamed
    runs = Runs(
        clock=clock,
        modes=modes,
        settings=settings.playback,
        crossfade=settings.display.crossfade,
        reports=Reports(stage, around.asrun, around.metrics, around.activation),
        progress=progress,
        new_token=around.new_token,
        under_its_id=lambda action: plan.of_cue(action.cue_index) or action,
    )
    playback = Playback(
        show=show,
        plan=plan,
        playhead=playhead,
        clock=clock,
        stage=stage,
        performer=Performer(stage=stage, clock=clock, runs=runs, progress=progress),
        modes=modes,
        progress=progress,
        metrics=around.metrics,
        beginnings=beginnings,
        moved=supply.nudge,
        panic=around.panic,
        look_in=around.look_in,
    )
    return Ensemble(
        show=show,
        plan=plan,
        beginnings=beginnings,
        playhead=playhead,
        stage=stage,
        static=static,
        live=live,
        lookahead=Lookahead(show, plan, beginnings, playhead, static=static, clock=clock),
        readiness=readiness,
        modes=modes,
        playback=playback,
    )


def _live(
    show: Show, library: Library, budget: Budget, latencies: Latencies, around: Circumstances
) -> tuple[LiveProvider, ...]:
    """Who plays the engines, in their order."""

    def seeds_of_sets(action: Action) -> set[int]:
        sets = library.set_ids(action.action_id)
        return {seed_for(action.fingerprint, number) for number in sets}

    return tuple(
        LiveProvider(
            engine,
            around.clock,
            lead=around.clock.stretch(show.settings.playback.lead),
            rng=around.live_seeds(engine.name),
            taken=seeds_of_sets,
            budget=budget,
            latencies=latencies,
            beside=around.beside,
        )
        for engine in around.engines
    )


def _stage(show: Show, around: Circumstances) -> Stage:
    """The stage of a show; what its screens have painted is counted and written down."""
    display = show.settings.display

    def painted(screen: Screen, message: wire.Presented) -> None:
        stage_frame = stage.frame(message.run, message.step)
        if stage_frame is not None:
            late = around.tempo.real_seconds(message.at - stage_frame.header.present_at)
            around.metrics.presented_lateness.observe(late)
        around.asrun.presented(message.run, screen.name, message.step, message.at)

    stage = Stage(
        around.clock,
        _info(show, around),
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
        around.tempo,
    )
    return stage


def _still_url(show: Show) -> str:
    """Where screens find the still image; a key in it, where screens have a token, opens it."""
    if show.still is None:
        return ""
    return f"/still?key={show.still_key}" if show.settings.tokens.screen is not None else "/still"


def _info(show: Show, around: Circumstances) -> wire.ShowInfo:
    """What a screen needs to know of the show, or that it is none."""
    written = glyphs.characters(_texts(show))
    if around.activation == "show":
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
        rehearsal=wire.Rehearsal(speed=around.tempo.speed),
    )


def _texts(show: Show) -> Iterator[str]:
    """Everything that is written on the walls."""
    yield show.title
    yield from show.settings.display.lobby_texts.values()
    yield calendar_signs(show.settings.display.language)
    for cue in show.sheet.cues:
        match cue:
            case PromptCue():
                yield cue.prompt
            case TranscriptCue():
                yield cue.transcript
