"""A whole house on a virtual clock: playback, performer, stage and a store, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cache.library import Library
from cache.store import MemoryStore
from generator.plan import Action
from server import messages as wire
from server.asrun import MemoryLog, Row
from server.clock import VirtualClock, settle
from server.commands import Remember, ShowCommands, forget
from server.control import CommandLog, Dispatcher
from server.memory import Panic
from server.metrics import Metrics
from server.performer import Performer
from server.playback import Playback
from server.playhead import Playhead
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from server.readiness import Readiness
from server.schedule import build_schedule
from server.show import Show, load_show
from server.stage import Mailbox, Stage, StageFrame
from server.state import StateView
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


async def waiting(mailbox: Mailbox) -> list[str | StageFrame]:
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
    clock: VirtualClock
    store: MemoryStore
    library: Library
    static: StaticProvider
    bag: ShuffleBag
    stage: Stage
    performer: Performer
    playback: Playback
    readiness: Readiness
    view: StateView
    dispatcher: Dispatcher
    asrun: MemoryLog
    metrics: Metrics
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
    panic: Panic | None = None,
    remember: Remember = forget,
) -> AsyncIterator[House]:
    """Open a house; with the loop of `LOOP` the show begins at once."""
    write_show(folder, cues, toml)
    show = load_show(folder, {}, {})
    clock = VirtualClock()
    actions = show.plan({}).actions
    contents = store_contents(actions, rhythm or Rhythm(), rhythms)
    store = MemoryStore(contents)
    library = Library(store)
    await library.refresh()
    plan = show.plan({name: e.fingerprint for name, e in library.manifest.actions.items()})
    schedule = build_schedule(
        show.settings.schedule, duration=show.duration, zone=show.timezone, anchor=clock.wall()
    )
    generating = [action.cue_index for action in plan.actions]
    playhead = Playhead([cue.at for cue in show.sheet.cues], generating, show.duration, schedule)
    display = show.settings.display
    stage = Stage(
        clock,
        wire.ShowInfo(title=show.title, timezone="UTC", duration=show.duration),
        wire.Display(
            crossfade=display.crossfade, fade=display.fade, captions=True, progress=True, badge=True
        ),
    )
    metrics, asrun, rng = Metrics(), MemoryLog(), Random(seed)
    bag = ShuffleBag(rng)
    static = StaticProvider(library, bag, clock, rng, show.settings.playback.fit)
    tokens = iter(f"run-{number}" for number in range(100_000))
    performer = Performer(
        stage=stage,
        clock=clock,
        ladder=lambda _action: (static,),
        settings=show.settings.playback,
        crossfade=display.crossfade,
        asrun=asrun,
        metrics=metrics,
        new_token=lambda: next(tokens),
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
        panic=panic,
    )
    readiness = Readiness(plan, library, static, clock, metrics)
    log = CommandLog()
    view = StateView(show, clock, playback, stage, readiness, commands=log)
    commands = ShowCommands(
        playback=playback,
        stage=stage,
        view=view,
        asrun=asrun,
        clock=clock,
        min_go=show.settings.playback.min_go,
        log=log,
        remember=remember,
    )
    dispatcher = Dispatcher([commands], clock, log)
    opened = House(
        show=show,
        clock=clock,
        store=store,
        library=library,
        static=static,
        bag=bag,
        stage=stage,
        performer=performer,
        playback=playback,
        readiness=readiness,
        view=view,
        dispatcher=dispatcher,
        asrun=asrun,
        metrics=metrics,
        log=log,
        opened_at=clock.now(),
    )
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_cancelled, asyncio.create_task(opened.watch()))
        await settle()
        if play:
            stack.push_async_callback(_cancelled, asyncio.create_task(playback.run()))
        await opened.rest()
        yield opened
    await settle(50)
    left = (
        asyncio.all_tasks() - before - {asyncio.current_task()}
    )  # a fixture ends in a task of its own
    assert not left, f"still running: {left}"


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
