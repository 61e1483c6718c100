"""A whole house on a virtual clock: playback, performer, stage and a store, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.library import Library
from cache.local.cache import LocalCache
from cache.model.images import Decoded
from cache.prefetch.availability import EverythingAvailable
from cache.prefetch.prefetcher import Need, Prefetcher
from cache.stores.memory import MemoryStore
from generator.sheet.plan import Action
from server.asrun.file import Row
from server.asrun.log import AsRun
from server.config.show import Show, load_show
from server.control.commands.modes import ModeCommands
from server.control.commands.show import Remember, ShowCommands
from server.control.commands.supply import SupplyCommands
from server.control.dispatcher import CommandLog, Dispatcher
from server.control.state import StateView
from server.core.clock import VirtualClock, settle
from server.core.conditions import Conditions
from server.core.metrics import Metrics
from server.core.random_streams import RandomStreams
from server.core.time_of_day import TimeOfDay
from server.diagnostics.findings import Level, sentences
from server.diagnostics.live_checks import findings_now
from server.engines.live import LiveEngines
from server.engines.prober import EngineProber, probe_of
from server.modes.manager import ForceBook, ModeManager
from server.performance.performer import Performer
from server.performance.playback import Playback
from server.performance.state_file import Panic
from server.providers.live import LiveEngine
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.runtime import Dependencies, Runtime, build_runtime
from server.stage.presence import ScreenPresence
from server.stage.stage import ScreenMailbox, Stage, StageFrame
from server.supply.readiness import Readiness
from server.supply.sources import Supply
from server.timeline.schedule import build_schedule
from tests.helpers.shows import LOOP, Rhythm, store_contents, write_show


@dataclass(frozen=True)
class Told:
    """One thing that a screen was sent: at which position of the show, and what."""

    at: float
    message: dict[str, Any]
    image: bytes | None = None

    @property
    def type(self) -> str:
        """What kind of message."""
        kind: str = self.message["type"]
        return kind


def as_message(item: str | StageFrame) -> dict[str, Any]:
    """What a mailbox gave, as a plain message."""
    text = item if isinstance(item, str) else item.header.encode()
    message: dict[str, Any] = json.loads(text)
    return message


async def waiting(mailbox: ScreenMailbox) -> list[str | StageFrame]:
    """Everything that a screen could be sent now."""
    taken: list[str | StageFrame] = []
    while True:
        task = asyncio.ensure_future(mailbox.take())
        await settle(3)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return taken
        taken.append(task.result())


@dataclass
class House:
    """The parts, and what one screen was told."""

    show: Show
    runtime: Runtime
    clock: VirtualClock
    store: MemoryStore
    library: Library
    static: StaticProvider
    bag: ShuffleBag
    stage: Stage
    modes: ModeManager
    performer: Performer
    playback: Playback
    readiness: Readiness
    view: StateView
    dispatcher: Dispatcher
    asrun: AsRun
    metrics: Metrics
    supply: Supply
    log: CommandLog
    opened_at: float
    told: list[Told] = field(default_factory=list)

    @property
    def actions(self) -> tuple[Action, ...]:
        """What the show draws."""
        return self.playback.plan.actions

    @property
    def position(self) -> float:
        """Seconds since the house opened."""
        return self.clock.now() - self.opened_at

    def position_now(self) -> float | None:
        """Where the show is."""
        return self.playback.playhead.position(self.clock.now())

    def wrong_now(self, level: Level) -> list[str]:
        """What is wrong at this moment, in words."""
        return sentences(findings_now(self.readiness), level)

    async def play_to(self, position: float, step: float = 0.25) -> None:
        """Let time pass, in small steps, and everybody do what they have to do."""
        while self.position < position - 1e-6:  # what a float of today can tell apart
            await self.clock.advance(min(step, position - self.position))
            await settle(60)

    async def rest(self) -> None:
        """Let everybody do what can be done without time passing."""
        await settle(300)

    def of(self, *kinds: str) -> list[Told]:
        """What was told, of some types."""
        return [told for told in self.told if told.type in kinds]

    def since(self, position: float) -> list[Told]:
        """What was told from a position on."""
        return [told for told in self.told if told.at >= position - 1e-6]

    def frames_of(self, run: str) -> list[Told]:
        """The frames of a run that were sent."""
        return [told for told in self.of("frame") if told.message["run"] == run]

    def due(self, told: Told) -> float:
        """The position at which a frame is due."""
        present_at: float = told.message["present_at"]
        return present_at - self.opened_at

    def runs(self) -> list[tuple[float, str]]:
        """Position and cue of each run."""
        return [(round(told.at, 3), told.message["cue"]) for told in self.of("run")]

    async def rows(self) -> list[Row]:
        """The as-run log, oldest first."""
        return (await self.asrun.rows())[::-1]

    async def watch(self) -> None:
        """Be a screen that reads at once."""
        with self.stage.join("watcher", "binary") as screen:
            while True:
                item = await screen.mailbox.take()
                image = bytes(item.image) if isinstance(item, StageFrame) else None
                self.told.append(Told(self.position, as_message(item), image))


@dataclass(frozen=True)
class Far:
    """A store behind a line, whose sets are fetched ahead of time.

    Attributes:
        room: bytes of copies.
        disk: where they are kept; in memory by default.
        latency: seconds of each request, once the manifest was read.
        bytes_per_second: what the line carries; 0 for any.
    """

    room: int = 2**30
    disk: Path | None = None
    latency: float = 0.0
    bytes_per_second: float = 0.0


async def _open_store(
    contents: Mapping[str, bytes], clock: VirtualClock, far: Far | None
) -> tuple[MemoryStore, LocalCache | None, Library]:
    rest = _Sleeper(clock)
    store = MemoryStore(contents, sleep=rest)
    if far is None:
        library = Library(store)
        await library.refresh()
        return store, None, library
    cache = LocalCache(
        store,
        far.disk,
        disk_bytes=far.room if far.disk is not None else 0,
        memory_bytes=far.room if far.disk is None else 2**20,
        keep_free=0,
        now=clock.now,
        wall=clock.wall,
        sleep=rest,
    )
    library = Library(cache, sets_remembered=1000, reread=cache.refresh)
    await library.refresh()
    rest.virtual = True
    store.latency, store.bytes_per_second = far.latency, far.bytes_per_second
    return store, cache, library


def _supply(
    clock: VirtualClock,
    streams: RandomStreams,
    needs: Callable[[], list[Need]],
    opened_store: tuple[MemoryStore, LocalCache | None, Library],
) -> Supply:
    """Where sets come from."""
    store, cache, library = opened_store
    prefetcher = None
    if cache is not None:
        uniform = streams.stream("prefetch").uniform
        prefetcher = Prefetcher(cache, library, needs, clock, uniform=uniform)
    return Supply(cache or store, library, prefetcher or EverythingAvailable(), cache, prefetcher)


class _Sleeper:
    """Sleeps by the virtual clock, once somebody moves it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.virtual = False

    async def __call__(self, seconds: float) -> None:
        """Let `seconds` pass."""
        if self.virtual:
            await self._clock.sleep_until(self._clock.now() + seconds)
        else:
            await asyncio.sleep(0)


@asynccontextmanager
async def house(
    folder: Path,
    cues: Sequence[Mapping[str, Any]],
    *,
    rhythm: Rhythm | None = None,
    rhythms: Mapping[str, Rhythm] | None = None,
    toml: str = LOOP,
    seed: int = 1,
    play: bool = True,
    clock: VirtualClock | None = None,
    engines: Sequence[LiveEngine] = (),
    watch_engines: bool = False,
    book: ForceBook | None = None,
    far: Far | None = None,
    contents: Mapping[str, bytes] | None = None,
    panic: Panic | None = None,
    remember: Remember | None = None,
) -> AsyncIterator[House]:
    """Open a house; with the loop of `LOOP` the show begins at once.

    Args:
        folder: where the show is written.
        cues: its sheet.
        rhythm: how the sets are made.
        rhythms: how those of some actions are made.
        toml: what follows `[show]`.
        seed: of what is left to chance.
        play: whether the show plays, or only stands there.
        clock: the time; one of its own by default.
        engines: what may draw live.
        watch_engines: whether they are tried out while nobody looks.
        book: the forces that are remembered.
        far: where the store is far away; None reads it as it is.
        contents: of the store, by key; by default sets of a rhythm.
        panic: the wall was made black before.
        remember: is told of panics.
    """
    write_show(folder, cues, toml)
    show = load_show(folder, {}, {})
    clock = clock or VirtualClock()
    actions = show.plan({}).actions
    if contents is None:
        contents = store_contents(actions, rhythm or Rhythm(), rhythms)
    opened_store = await _open_store(contents, clock, far)
    store, cache, library = opened_store
    plan = show.plan(library.manifest.fingerprints)
    library.want(plan.wanted)
    schedule = build_schedule(
        show.settings.schedule, duration=show.duration, zone=show.timezone, anchor=clock.wall()
    )
    metrics, asrun, streams = Metrics(), AsRun(), RandomStreams(seed)
    log, bag = CommandLog(), ShuffleBag(streams)

    def needs() -> list[Need]:
        return runtime.lookahead.needs()

    supply = _supply(clock, streams, needs, opened_store)
    tokens = iter(f"run-{number}" for number in range(100_000))
    time_of_day = TimeOfDay(clock, show.timezone)
    runtime = build_runtime(
        show,
        plan,
        supply,
        Dependencies(
            clock=clock,
            schedule=schedule,
            streams=streams,
            bag=bag,
            asrun=asrun,
            metrics=metrics,
            engines=engines,
            book=book,
            panic=panic,
            time_of_day=time_of_day,
            live_seeds=lambda name: streams.stream("live", name),
            new_token=lambda: next(tokens),
            offload=at_once,
        ),
    )
    stage, playback, modes = runtime.stage, runtime.playback, runtime.modes
    readiness = runtime.readiness
    watch = EngineProber(
        modes=modes,
        live=runtime.live,
        recipe=probe_of(plan),
        quiet_for=playback.quiet_for,
        clock=clock,
    )
    conditions = Conditions()
    conditions.add(playback.conditions)
    presence = ScreenPresence(stage, clock, show.timezone)
    view = StateView(
        show,
        clock,
        playback,
        stage,
        readiness,
        modes,
        commands=log,
        conditions=conditions,
        presence=presence,
        time_of_day=time_of_day,
    )
    commands = ShowCommands(
        playback=playback,
        stage=stage,
        view=view,
        asrun=asrun,
        clock=clock,
        remember=remember or forget,
    )
    mode_commands = ModeCommands(
        modes=modes,
        playback=playback,
        view=view,
        clock=clock,
        engines=LiveEngines(tuple(engines)),
        keep=forget,
    )
    dispatcher = Dispatcher(
        (commands, mode_commands, SupplyCommands(supply, runtime.lookahead, runtime.readiness)),
        clock,
        log,
    )
    opened = House(
        show=show,
        runtime=runtime,
        clock=clock,
        store=store,
        library=library,
        static=runtime.static,
        bag=bag,
        stage=stage,
        modes=modes,
        performer=playback.performer,
        playback=playback,
        readiness=readiness,
        view=view,
        dispatcher=dispatcher,
        asrun=asrun,
        metrics=metrics,
        supply=supply,
        log=log,
        opened_at=clock.now(),
    )
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        if cache is not None:
            await stack.enter_async_context(cache)
            stack.push_async_callback(_cancelled, asyncio.create_task(supply.run()))
        stack.push_async_callback(_cancelled, asyncio.create_task(opened.watch()))
        await settle()
        if play:
            stack.push_async_callback(_cancelled, asyncio.create_task(playback.run()))
        stack.push_async_callback(_cancelled, asyncio.create_task(modes.keep_time()))
        stack.push_async_callback(_cancelled, asyncio.create_task(mode_commands.run()))
        stack.push_async_callback(_cancelled, asyncio.create_task(time_of_day.run()))
        if watch_engines:
            stack.push_async_callback(_cancelled, asyncio.create_task(watch.run()))
        await opened.rest()
        yield opened
    await settle(50)
    left = (
        asyncio.all_tasks() - before - {asyncio.current_task()}
    )  # a fixture ends in a task of its own
    assert not left, f"still running: {left}"


async def forget(*_: Panic | None) -> str | None:
    """Nothing survives a restart of this house, and nobody says why."""
    return None


async def at_once(function: Callable[[], Decoded]) -> Decoded:
    """Time stands still while a picture is looked at."""
    return function()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
