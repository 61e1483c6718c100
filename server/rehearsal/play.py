"""Plays a show on a virtual clock, with everybody who would play it on the wall.

What is real: playback, the mode manager and its ladder, both providers, the shuffle bag,
the lookahead, the planner of fetches, the cache, the stage and a screen's mailbox. What is
stood in for: time, the line, engines, and those pictures that come over a line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from cache.library import BrokenSet, Library
from cache.local.cache import LocalCache
from cache.model.formats import SetMeta
from cache.model.keys import Key, meta_key, set_place
from cache.model.manifest import Manifest
from cache.prefetch.availability import EverythingAvailable
from cache.prefetch.prefetcher import Coverage, Need, Prefetcher
from cache.stores.folder import FolderStore
from cache.stores.port import NotFound, StoreError, StoreUnavailable
from generator.estimate import Experience, steps_of
from generator.plan import Plan, PlanInForce
from generator.recipe import Recipe
from server.asrun.file import Row
from server.asrun.log import MemoryLog
from server.asrun.record import RunRecord
from server.chance import Chance
from server.clock import VirtualClock
from server.config.show import Show
from server.ensemble import Circumstances, Ensemble, assemble
from server.metrics import Metrics
from server.modes.forces import Forces
from server.modes.manager import ForceBook
from server.modes.proof import Unproven
from server.providers.shuffle import Bag, ShuffleBag
from server.providers.static import Fault
from server.rehearsal.catalogue import Catalogue
from server.rehearsal.excerpts import Excerpts
from server.rehearsal.inspection import Inspector
from server.rehearsal.line import Came, LineStore, SimulatedLine
from server.rehearsal.report import ProbedEngine
from server.rehearsal.understudies import TYPICAL_STEP, stand_ins
from server.stage.stage import Stage, StageFrame
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
class Behind:
    """A store behind a line: what lies in it, and what the line carries."""

    catalogue: Catalogue
    line: SimulatedLine


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is rehearsed.

    Attributes:
        show: the show.
        excerpts: which screenings.
        chance: what is left to chance.
        bags: the shuffle bags as they are now.
        forces: the modes that technicians force.
        engines: every engine that plays live, as it answered.
        sets: the folder that they are in, or what is known of a store behind a line.
        follow: the folders below which links in that folder may lead.
        ahead: seconds before the first screening from which the line is used.
        fail: what is to fail: ``store``, or an action's id.
        paces: seconds a step of engines that only play at drawing, by name.
    """

    show: Show
    excerpts: Excerpts
    chance: Chance
    bags: Mapping[str, Bag]
    sets: Path | Behind
    follow: tuple[Path, ...] = ()
    forces: Forces = ()
    engines: Sequence[ProbedEngine] = ()
    ahead: float = 1.0
    fail: frozenset[str] = frozenset()
    paces: Mapping[str, float] = field(default_factory=dict)

    @property
    def line(self) -> SimulatedLine | None:
        """The line to the store, if it is behind one."""
        return self.sets.line if isinstance(self.sets, Behind) else None

    def lost(self, key: Key) -> bool:
        """Whether a file is missing because its action is to fail."""
        place = set_place(key)
        return place is not None and place.action_id in self.fail


@dataclass(slots=True)
class Watched:
    """What a screen was sent of one run: when each step is due, by its number."""

    steps: int
    due: dict[int, float] = field(default_factory=dict)


@dataclass
class Played:
    """What came of it. Steady times.

    Attributes:
        plan: the show's actions, under their sets' ids.
        manifest: as it was read.
        rows: the as-run log, oldest first.
        watched: what a screen was sent, by run.
        begun: when each run began.
        readiness: how much of its action was at hand then.
        faults: why a set, by action id and number, is not played.
        usable: how many sets of each action can be played.
        unproven: cues that nothing sure stands beneath.
        came: what came over the line.
        ready_at: when everything that was wanted was here first; None for never.
        crowded_out: coming runs that found no room in the cache, at the worst.
        store_problem: why the sets could not be looked through.
        inspector: looked at the pictures that went by.
    """

    plan: Plan
    manifest: Manifest
    rows: list[Row] = field(default_factory=list)
    watched: dict[str, Watched] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    readiness: dict[str, Coverage | None] = field(default_factory=dict)
    faults: dict[tuple[str, int], Fault] = field(default_factory=dict)
    usable: dict[str, int] = field(default_factory=dict)
    unproven: tuple[Unproven, ...] = ()
    came: list[Came] = field(default_factory=list)
    ready_at: float | None = None
    crowded_out: int = 0
    store_problem: str | None = None
    inspector: Inspector = field(default_factory=Inspector)


async def play(
    scene: Scenario, clock: VirtualClock, progress: Callable[[float], None] = lambda _share: None
) -> Played:
    """Play every excerpt to its end. To be run in a `RehearsalLoop` of `clock`.

    Args:
        scene: what is rehearsed.
        clock: stands somewhere before the first excerpt.
        progress: told now and then which share has been played.
    """
    async with AsyncExitStack() as stack:

        def needs() -> list[Need]:
            return ensemble.lookahead.needs()

        inspector = Inspector()
        supply = await stack.enter_async_context(_supply(scene, clock, needs, inspector))
        problem = None
        try:
            await supply.library.refresh()
        except (StoreError, ValueError) as error:
            problem = str(error)
        manifest = supply.library.manifest
        plan = scene.show.plan(manifest.fingerprints)
        supply.library.want(plan.wanted)
        played = Played(plan, manifest, store_problem=problem, inspector=inspector)
        log = _NotingLog(played, supply, clock)
        pace = _StepTimes(scene.paces)
        ensemble = assemble(
            scene.show, PlanInForce(plan), supply, _circumstances(scene, clock, log, pace)
        )
        await ensemble.readiness.look()
        pace.experience = Experience(await _metas(ensemble, supply))
        if scene.line is not None:
            scene.line.open = False
        _strike(scene, supply)
        jobs = [
            _watch(ensemble.stage, played.watched),
            ensemble.playback.run(),
            ensemble.modes.keep_time(),
            supply.run(),
        ]
        if supply.prefetcher is not None:
            jobs.append(_mind_the_line(supply.prefetcher, clock, played))
        async with _beside(jobs):
            await _to_the_end(scene.excerpts, clock, progress)
        played.rows = (await log.rows(limit=None))[::-1]
    played.unproven = ensemble.readiness.unproven()
    played.faults = dict(ensemble.static.faults)
    played.usable = {
        action.action_id: len(ensemble.static.usable(action.action_id)) for action in plan.actions
    }
    if scene.line is not None:
        played.came = scene.line.came
    return played


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


async def _metas(ensemble: Ensemble, supply: Supply) -> list[SetMeta]:
    """Those of every set that can be played, as far as they are at hand."""
    found: list[SetMeta] = []
    for action in ensemble.plan.actions:
        for number in ensemble.static.usable(action.action_id):
            if supply.availability.holds(meta_key(action.action_id, number)):
                with suppress(BrokenSet, StoreError):  # those who play say so
                    opened = await supply.library.open_set(action.action_id, number)
                    found.append(opened.meta)
    return found


def _circumstances(
    scene: Scenario, clock: VirtualClock, log: MemoryLog, pace: _StepTimes
) -> Circumstances:
    chance = scene.chance
    tokens = (f"rehearsal-{number}" for number in itertools.count(1))
    return Circumstances(
        clock=clock,
        schedule=scene.excerpts,
        chance=chance,
        bag=ShuffleBag(chance, dict(scene.bags)),
        asrun=log,
        metrics=Metrics(),
        engines=stand_ins(scene.engines, pace, clock),
        book=ForceBook(scene.forces),
        live_seeds=lambda name: chance.stream("live", name),
        new_token=lambda: next(tokens),
        beside=_now,
        look_in=_SELDOM,
        activation="rehearsal",
    )


async def _now(function: Callable[[], T]) -> T:
    """In no virtual time."""
    return function()


async def _to_the_end(
    excerpts: Excerpts, clock: VirtualClock, progress: Callable[[float], None]
) -> None:
    """Let time pass up to the end of the last excerpt."""
    if not excerpts.excerpts:
        return
    begins = excerpts.excerpts[0].opens
    ends = excerpts.excerpts[-1].slot.end + _AFTERWARDS
    for percent in range(101):
        await clock.sleep_until(begins + (ends - begins) * percent / 100)
        progress(percent / 100)


@asynccontextmanager
async def _beside(jobs: Sequence[Any]) -> AsyncIterator[None]:
    """Run jobs beside the body, the first of them to have failed raising in its place."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _watch(stage: Stage, watched: dict[str, Watched]) -> None:
    """Be a screen that reads at once."""
    with stage.join("rehearsal", "binary") as screen:
        while True:
            item = await screen.mailbox.take()
            if isinstance(item, StageFrame):
                header = item.header
                run = watched.setdefault(header.run, Watched(header.steps))
                run.steps = header.steps
                run.due[header.step] = header.present_at
            elif (message := json.loads(item))["type"] == "run":
                watched[message["run"]] = Watched(message["steps"])


async def _mind_the_line(prefetcher: Prefetcher, clock: VirtualClock, played: Played) -> None:
    """Note how the fetching stands, now and then."""
    while True:
        await clock.sleep_until(clock.now() + 1.0)
        if prefetcher.busy:
            continue
        outlook = prefetcher.outlook()
        played.crowded_out = max(played.crowded_out, outlook.crowded_out)
        if played.ready_at is None and not outlook.missing_files:
            played.ready_at = clock.now()


class _NotingLog(MemoryLog):
    """Also notes when each run began, and how much was at hand then."""

    def __init__(self, played: Played, supply: Supply, clock: VirtualClock) -> None:
        super().__init__()
        self._played = played
        self._supply = supply
        self._clock = clock

    def begin(self, record: RunRecord) -> None:
        """See `AsRun.begin`."""
        if record.run not in self._played.begun:
            self._played.begun[record.run] = self._clock.now()
            self._played.readiness[record.run] = self._supply.coverage(record.action_id)
        super().begin(record)


# ---------------------------------------------------------------- where sets come from


class _FolderThatMayFail(FolderStore):
    """The show's own folder, read at once; parts of it may be made to fail."""

    def __init__(
        self,
        root: Path,
        lost: Callable[[Key], bool],
        inspector: Inspector,
        follow: Iterable[Path],
    ) -> None:
        super().__init__(root, threads=0, follow=follow)
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
    scene: Scenario, clock: VirtualClock, needs: Callable[[], list[Need]], inspector: Inspector
) -> AsyncIterator[Supply]:
    settings = scene.show.settings.cache
    if isinstance(scene.sets, Path):
        may_fail = _FolderThatMayFail(scene.sets, scene.lost, inspector, scene.follow)
        async with may_fail as store:
            yield Supply(
                store, Library(store, sets_remembered=_SETS_REMEMBERED), EverythingAvailable()
            )
        return
    catalogue = scene.sets.catalogue
    origin = LineStore("the store", catalogue, scene.sets.line, clock, scene.lost)
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
            uniform=scene.chance.stream("prefetch").uniform,
        )
        for key in sorted(catalogue.here):
            with suppress(StoreError):
                await cache.fetch(key)
        yield Supply(cache, library, prefetcher, cache, prefetcher)


def _strike(scene: Scenario, supply: Supply) -> None:
    """Now what is to fail fails."""
    if STORE not in scene.fail:
        return
    if scene.line is not None:
        scene.line.silent = _SILENT
    elif isinstance(supply.store, _FolderThatMayFail):
        supply.store.silent = True
