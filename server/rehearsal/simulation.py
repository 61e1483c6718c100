"""Plays a show on a virtual clock, with everybody who would play it on the wall.

What is real: playback, the mode manager and its ladder, both providers, the shuffle bag,
the lookahead, the planner of fetches, the cache, the stage and a screen's mailbox. What is
simulated: time, the line, engines, and those pictures that come over a line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cache.library import BrokenSet, Library
from cache.local.cache import LocalCache
from cache.model.formats import SetMeta
from cache.model.keys import Key, meta_key, set_place
from cache.prefetch.availability import EverythingAvailable
from cache.prefetch.prefetcher import Need, Prefetcher
from cache.stores.folder import FolderStore
from cache.stores.port import NotFound, StoreError, StoreUnavailable
from generator.sheet.estimate import Experience, steps_of
from generator.sheet.recipe import Recipe
from server.asrun.log import AsRun
from server.asrun.record import RunRecord
from server.config.show import Show
from server.core.clock import VirtualClock
from server.core.metrics import Metrics
from server.core.random_streams import RandomStreams
from server.diagnostics.facts import ObservedRun, SimulationResult
from server.diagnostics.report import ProbedEngine
from server.diagnostics.sets import Inspector
from server.modes.forces import Forces
from server.modes.manager import ForceBook
from server.providers.shuffle import Bag, ShuffleBag
from server.rehearsal.screening_window import ScreeningWindow, WindowSchedule
from server.rehearsal.simulated_engines import TYPICAL_STEP, simulated_engines
from server.rehearsal.simulated_store import SimulatedLine, SimulatedStore
from server.runtime import Dependencies, Runtime, build_runtime
from server.stage.stage import Stage, StageFrame
from server.supply.inventory import StoreInventory
from server.supply.sources import Supply

T = TypeVar("T")

STORE: Final = "store"
"""What `--fail` calls the store."""

_SILENT: Final = "the store does not answer, as this rehearsal wants it"
_SETS_REMEMBERED: Final = 8192
_SELDOM: Final = 3600.0
"""Seconds between two looks at whether the clock was set, which a virtual one never is."""

_AFTERWARDS: Final = 0.5
"""Seconds after the last screening's end, for what ends with it."""


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """A store behind a line: what lies in it, and what the line carries."""

    inventory: StoreInventory
    line: SimulatedLine


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is rehearsed.

    Attributes:
        show: the show.
        windows: which screenings.
        streams: what is left to chance.
        bags: the shuffle bags as they are now.
        forces: the modes that technicians force.
        engines: every engine that plays live, as it answered.
        sets: the folder that they are in, or what is known of a store behind a line.
        ahead: seconds before the first screening from which the line is used.
        fail: what is to fail: ``store``, or an action's id.
        paces: seconds a step of engines that only play at drawing, by name.
    """

    show: Show
    windows: Sequence[ScreeningWindow]
    streams: RandomStreams
    bags: Mapping[str, Bag]
    sets: FolderStore | RemoteStore
    forces: Forces = ()
    engines: Sequence[ProbedEngine] = ()
    ahead: float = 1.0
    fail: frozenset[str] = frozenset()
    paces: Mapping[str, float] = field(default_factory=dict)

    @property
    def line(self) -> SimulatedLine | None:
        """The line to the store, if it is behind one."""
        return self.sets.line if isinstance(self.sets, RemoteStore) else None

    def lost(self, key: Key) -> bool:
        """Whether a file is missing because its action is to fail."""
        place = set_place(key)
        return place is not None and place.action_id in self.fail


async def simulate(
    scenario: Scenario, clock: VirtualClock, progress: Callable[[float], None] = lambda _share: None
) -> SimulationResult:
    """Play every window to its end. To be run in a `RehearsalLoop` of `clock`.

    Args:
        scenario: what is rehearsed.
        clock: stands somewhere before the first window.
        progress: told now and then which share has been played.
    """
    async with AsyncExitStack() as stack:

        def needs() -> list[Need]:
            return runtime.lookahead.needs()

        inspector = Inspector()
        supply = await stack.enter_async_context(_supply(scenario, clock, needs, inspector))
        with suppress(StoreError, ValueError):  # the inventory says so
            await supply.library.refresh()
        manifest = supply.library.manifest
        plan = scenario.show.plan(manifest.fingerprints)
        supply.library.want(plan.wanted)
        result = SimulationResult(plan, manifest)
        log = _ObservedLog(result, supply, clock)
        pace = _StepTimes(scenario.paces)
        runtime = build_runtime(
            scenario.show, plan, supply, _dependencies(scenario, clock, log, pace)
        )
        await runtime.readiness.look()
        pace.experience = Experience(await _metas(runtime, supply))
        if scenario.line is not None:
            scenario.line.open = False
        _strike(scenario, supply)
        jobs = [
            _watch(runtime.stage, result.observed),
            runtime.playback.run(),
            runtime.modes.keep_time(),
            supply.run(),
        ]
        if supply.prefetcher is not None:
            jobs.append(_mind_the_line(supply.prefetcher, clock, result))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
            await _to_the_end(scenario.windows, clock, progress)
            for task in tasks:
                task.cancel()
        result.rows = (await log.rows(limit=None))[::-1]
    result.flawed = inspector.flawed()
    result.uncovered = runtime.readiness.uncovered()
    result.faults = dict(runtime.static.faults)
    result.usable = {
        action.action_id: len(runtime.static.usable(action.action_id)) for action in plan.actions
    }
    if scenario.line is not None:
        result.came = scenario.line.came
    return result


class _StepTimes:
    """How long an engine is believed to take for a step, judged by what was drawn before."""

    def __init__(self, known: Mapping[str, float]) -> None:
        self._known = known
        self.experience = Experience(())

    def __call__(self, engine: str, recipe: Recipe) -> float:
        """Seconds."""
        if engine in self._known:
            return self._known[engine]
        cost = self.experience.cost(recipe, None).seconds
        return TYPICAL_STEP if cost is None else cost / max(1, steps_of(recipe))


async def _metas(runtime: Runtime, supply: Supply) -> list[SetMeta]:
    """The metas of every set that can be played, as far as they are at hand."""
    found: list[SetMeta] = []
    for action in runtime.plan.actions:
        for number in runtime.static.usable(action.action_id):
            if supply.availability.holds(meta_key(action.action_id, number)):
                with suppress(BrokenSet, StoreError):  # those who play say so
                    opened = await supply.library.open_set(action.action_id, number)
                    found.append(opened.meta)
    return found


def _dependencies(
    scenario: Scenario, clock: VirtualClock, log: AsRun, pace: _StepTimes
) -> Dependencies:
    streams = scenario.streams
    tokens = (f"rehearsal-{number}" for number in itertools.count(1))
    return Dependencies(
        clock=clock,
        schedule=WindowSchedule(scenario.windows),
        streams=streams,
        bag=ShuffleBag(streams, dict(scenario.bags)),
        asrun=log,
        metrics=Metrics(),
        engines=simulated_engines(scenario.engines, pace, clock),
        book=ForceBook(scenario.forces),
        live_seeds=lambda name: streams.stream("live", name),
        new_token=lambda: next(tokens),
        offload=_now,
        look_in=_SELDOM,
        activation="rehearsal",
    )


async def _now(function: Callable[[], T]) -> T:
    """In no virtual time."""
    return function()


async def _to_the_end(
    windows: Sequence[ScreeningWindow], clock: VirtualClock, progress: Callable[[float], None]
) -> None:
    """Let time pass up to the end of the last window."""
    if not windows:
        return
    begins = windows[0].opens
    ends = windows[-1].slot.end + _AFTERWARDS
    for percent in range(101):
        await clock.sleep_until(begins + (ends - begins) * percent / 100)
        progress(percent / 100)


async def _watch(stage: Stage, observed: dict[str, ObservedRun]) -> None:
    """Be a screen that reads at once."""
    with stage.join("rehearsal", "binary") as screen:
        while True:
            item = await screen.mailbox.take()
            if isinstance(item, StageFrame):
                header = item.header
                run = observed.setdefault(header.run, ObservedRun(header.steps))
                run.steps = header.steps
                run.due[header.step] = header.present_at
            elif (message := json.loads(item))["type"] == "run":
                observed[message["run"]] = ObservedRun(message["steps"])


async def _mind_the_line(
    prefetcher: Prefetcher, clock: VirtualClock, result: SimulationResult
) -> None:
    """Note how the fetching stands, now and then."""
    while True:
        await clock.sleep_until(clock.now() + 1.0)
        if prefetcher.busy:
            continue
        outlook = prefetcher.outlook()
        result.crowded_out = max(result.crowded_out, outlook.crowded_out)
        if result.ready_at is None and not outlook.missing_files:
            result.ready_at = clock.now()


class _ObservedLog(AsRun):
    """Also notes when each run began, and how much was at hand then."""

    def __init__(self, result: SimulationResult, supply: Supply, clock: VirtualClock) -> None:
        super().__init__()
        self._result = result
        self._supply = supply
        self._clock = clock

    def begin(self, record: RunRecord) -> None:
        """See `AsRun.begin`."""
        if record.run not in self._result.begun:
            self._result.begun[record.run] = self._clock.now()
            self._result.readiness[record.run] = self._supply.coverage(record.action_id)
        super().begin(record)


# ---------------------------------------------------------------- where sets come from


class _FolderThatMayFail(FolderStore):
    """The show's own folder, read at once; parts of it may be made to fail."""

    def __init__(
        self, folder: FolderStore, lost: Callable[[Key], bool], inspector: Inspector
    ) -> None:
        super().__init__(folder.root, threads=0, follow=folder.follow)
        self.silent = False
        self._lost = lost
        self._inspector = inspector

    async def get(self, key: Key) -> bytes:
        """See `Store.get`."""
        if self.silent:
            raise StoreUnavailable(key, _SILENT)
        if self._lost(key):
            raise NotFound(key)
        data = await super().get(key)
        self._inspector.look(key, data)
        return data


@asynccontextmanager
async def _supply(
    scenario: Scenario, clock: VirtualClock, needs: Callable[[], list[Need]], inspector: Inspector
) -> AsyncIterator[Supply]:
    settings = scenario.show.settings.cache
    if isinstance(scenario.sets, FolderStore):
        async with _FolderThatMayFail(scenario.sets, scenario.lost, inspector) as store:
            library = Library(store, sets_remembered=_SETS_REMEMBERED)
            yield Supply(store, library, EverythingAvailable())
        return
    inventory = scenario.sets.inventory
    origin = SimulatedStore(inventory, scenario.sets.line, clock, scenario.lost)
    cache = LocalCache(
        origin,
        None,
        disk_bytes=0,
        memory_bytes=settings.disk_bytes,
        threads=0,
        now=clock.now,
        wall=clock.wall,
        sleep=clock.sleep,
    )
    async with cache:
        library = Library(cache, sets_remembered=_SETS_REMEMBERED, reread=cache.refresh)
        prefetcher = Prefetcher(
            cache,
            library,
            needs,
            clock,
            parallel=settings.parallel,
            bits_per_second=settings.bandwidth,
            uniform=scenario.streams.stream("prefetch").uniform,
        )
        for key in sorted(inventory.here):
            with suppress(StoreError):
                await cache.fetch(key)
        yield Supply(cache, library, prefetcher, cache, prefetcher)


def _strike(scenario: Scenario, supply: Supply) -> None:
    """Now what is to fail fails."""
    if STORE not in scenario.fail:
        return
    if scenario.line is not None:
        scenario.line.silent = _SILENT
    elif isinstance(supply.store, _FolderThatMayFail):
        supply.store.silent = True
