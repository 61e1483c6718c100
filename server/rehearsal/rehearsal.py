"""A rehearsal from beginning to end: ask around, play, and say what would go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

from cache.documents import FormatError
from cache.folder import FolderStore
from cache.formats import SetMeta
from cache.library import Library
from cache.manifest import Manifest
from cache.store import Store, StoreError
from generator.engines.settings import SimulatedSection
from generator.verify import SetFinding, verify_sets
from server.chance import Chance
from server.clock import VirtualClock
from server.config.show import Show
from server.config.stores import store_of
from server.diagnostics.capacity import (
    cache_too_small,
    disk_space,
    tight_cues,
    unknown_durations,
)
from server.diagnostics.report import (
    Finding,
    LineReport,
    ProbedEngine,
    RehearsalOptions,
    RehearsedRun,
    Report,
    ReportedShow,
    ranked,
    verdict_of,
)
from server.diagnostics.runs import NOTHING_TO_SHOW, THINNED, run_findings
from server.diagnostics.schedule import schedule_findings
from server.diagnostics.sets import (
    few_sets,
    listed_flaws,
    manifest_findings,
    played_flaws,
    set_findings,
    standing_behind,
    verified_flaws,
)
from server.diagnostics.show import line_findings, remark_findings, unproven_findings
from server.memory import STATE, remembered
from server.modes.proof import Unproven
from server.rehearsal.loop import RehearsalLoop
from server.rehearsal.report_builder import fetched_of, runs_of, screenings_of, sheet_of, variety_of
from server.rehearsal.screening_window import ScreeningWindows, upcoming
from server.rehearsal.simulated_engines import probe_engines
from server.rehearsal.simulated_store import SimulatedLine
from server.rehearsal.simulation import RemoteStore, Scenario, SimulationResult, simulate
from server.supply.inventory import StoreInventory, read_inventory
from server.supply.sources import copies_of, free_on_disk

AHEAD_AT_MOST: Final = 6 * 3600.0
"""Seconds before a screening from which its sets may be on their way."""

_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Around:
    """What was found out before anything is played.

    Attributes:
        engines: every engine that plays live, as it answered.
        inventory: what lies in the store.
        verified: what is wrong with any image of any set, where all of them were looked at.
        free: bytes free on the disk that copies are kept on; None where none are.
    """

    engines: tuple[ProbedEngine, ...]
    inventory: StoreInventory
    verified: tuple[SetFinding, ...] = ()
    free: int | None = None


def rehearse(
    show: Show,
    asked: RehearsalOptions,
    *,
    wall: float,
    machine: tzinfo | None = None,
    known: Sequence[ProbedEngine] = (),
    progress: Callable[[float], None] = lambda _share: None,
) -> Report:
    """Rehearse `show`. It takes its time, and event loops of its own: not to be called in one.

    Args:
        show: the show.
        asked: what of it, and under which circumstances.
        wall: Unix time now: what comes next follows from it.
        machine: the time zone that this machine is set to; None asks it.
        known: engines of which it is known how they do: they are not asked.
        progress: told now and then which share has been played.

    Raises:
        BadStoreAddress: `[store]` names no store.
    """
    around = asyncio.run(look_around(show, asked, known))
    windows = upcoming(show, wall, asked.screenings, from_=asked.from_, to=asked.to)
    scenario = _scenario(show, asked, around, windows, wall)
    begins = windows.windows[0].opens if windows.windows else wall
    clock = VirtualClock(begins - scenario.ahead)
    with asyncio.Runner(loop_factory=lambda: RehearsalLoop(clock)) as runner:
        result = runner.run(simulate(scenario, clock, progress))
    here = machine or datetime.fromtimestamp(wall).astimezone().tzinfo or UTC
    times = schedule_findings(show, wall, here, _newest(around.inventory))
    return _report(asked, around, scenario, result, times)


def seed_of(show: Show, asked: int | None) -> int:
    """What is left to chance follows from it: what was asked for, else what the show has."""
    if asked is not None:
        return asked
    if show.settings.playback.seed is not None:
        return show.settings.playback.seed
    memory = remembered(show.state_folder / STATE)
    return 0 if memory is None or memory.seed is None else memory.seed


# ---------------------------------------------------------------- beforehand


async def look_around(
    show: Show, asked: RehearsalOptions, known: Sequence[ProbedEngine] = ()
) -> Around:
    """Ask the engines whether they are there, and the store what lies in it.

    Raises:
        BadStoreAddress: `[store]` names no store.
    """
    engines, (inventory, verified) = await asyncio.gather(
        probe_engines(show, asked.fail, known), _look_into_the_store(show, asked)
    )
    return Around(engines, inventory, verified, await asyncio.to_thread(_free, show))


async def _look_into_the_store(
    show: Show, asked: RehearsalOptions
) -> tuple[StoreInventory, tuple[SetFinding, ...]]:
    """What lies in the store, and what is wrong with its images where that is asked for."""

    def wanted(manifest: Manifest) -> Mapping[str, str]:
        return show.plan(manifest.fingerprints).wanted

    store, settings = store_of(show), show.settings.cache
    if isinstance(store, FolderStore) and settings.copies != "always":
        async with FolderStore(store.root, threads=0, follow=store.follow) as near:
            return await read_inventory(near, None, wanted), await _verified(show, asked, near)
    async with copies_of(show, store) as cache:
        return await read_inventory(store, cache, wanted), await _verified(show, asked, cache)


async def _verified(show: Show, asked: RehearsalOptions, store: Store) -> tuple[SetFinding, ...]:
    """Every image of every set, looked at wholly; what is far away is fetched for it."""
    if not asked.deep:
        return ()
    library = Library(store, sets_remembered=1)
    with suppress(StoreError, FormatError):  # the inventory says so
        await library.refresh()
    manifest = library.manifest
    plan = show.plan(manifest.fingerprints)
    library.want(plan.wanted)
    found: list[SetFinding] = []
    with suppress(StoreError):
        async with aclosing(verify_sets(library, plan.actions)) as looking:
            found += [each async for each in looking]
    return tuple(found)


def _free(show: Show) -> int | None:
    """Bytes free on the disk of this machine's copies; None if it keeps none, or is not told."""
    if isinstance(store_of(show), FolderStore) and show.settings.cache.copies != "always":
        return None
    with suppress(OSError):
        return free_on_disk(show.state_folder)
    return None


def _folder(show: Show, asked: RehearsalOptions, store: Store) -> Path | None:
    """The folder that sets are read from as they are; None where there is a line."""
    if not isinstance(store, FolderStore) or show.settings.cache.copies == "always":
        return None
    return None if asked.bandwidth is not None or asked.latency else store.root


def _scenario(
    show: Show, asked: RehearsalOptions, around: Around, windows: ScreeningWindows, wall: float
) -> Scenario:
    memory = remembered(show.state_folder / STATE)
    goes_on = memory is not None and memory.seed == asked.seed
    ahead = 1.0
    store = store_of(show)
    sets: Path | RemoteStore | None = _folder(show, asked, store)
    if sets is None:
        sets = RemoteStore(
            around.inventory, SimulatedLine((asked.bandwidth or 0.0) / 8, asked.latency)
        )
        if windows.windows and windows.windows[0].scheduled and around.inventory.here:
            # The server is at it already; in whole minutes, so that soon is the same as now.
            left = min(windows.windows[0].opens - wall, AHEAD_AT_MOST)
            ahead = max(1.0, left // _MINUTE * _MINUTE)
    return Scenario(
        show=show,
        windows=windows,
        chance=Chance(asked.seed),
        bags=memory.bags if memory is not None and goes_on else {},
        forces=memory.forces if memory is not None else (),
        engines=around.engines,
        sets=sets,
        follow=store.follow if isinstance(store, FolderStore) else (),
        ahead=ahead,
        fail=frozenset(asked.fail),
        paces={
            engine.name: engine.pace
            for engine in show.settings.engines
            if isinstance(engine, SimulatedSection)
        },
    )


# ---------------------------------------------------------------- afterwards


def _report(
    asked: RehearsalOptions,
    around: Around,
    scenario: Scenario,
    result: SimulationResult,
    times: Sequence[Finding],
) -> Report:
    show, windows = scenario.show, scenario.windows
    runs = runs_of(show, result, windows)
    line = _line(show, asked, around, scenario, result)
    of_sets = _of_sets(show, asked, around, result)
    tight = tight_cues(around.inventory.sizes, result.plan, show.settings.cache.disk_bytes)
    of_runs = run_findings(
        runs, around.engines, show.settings.playback.fit, line, crowded=bool(tight)
    )
    findings = ranked(
        [
            *times,
            *_not_told_otherwise(of_runs, of_sets, result.unproven),
            *of_sets,
            *unproven_findings(result.plan, result.unproven),
            *line_findings(around.inventory),
            *_of_room(around, scenario, result, runs),
            *unknown_durations(around.inventory.metas, result.plan),
            *remark_findings([*show.sheet.remarks, *result.plan.remarks]),
        ]
    )
    return Report(
        verdict=verdict_of(findings),
        findings=findings,
        show=ReportedShow(
            title=show.title,
            sheet=show.settings.show.cues,
            duration=show.duration,
            timezone=show.timezone_name or "local",
            cues=len(show.sheet.cues),
            actions=len(result.plan.actions),
            mode=show.settings.playback.mode,
            store=show.settings.store.url,
        ),
        asked=asked,
        screenings=screenings_of(show, windows, runs),
        cues=runs,
        sheet=sheet_of(show, result.plan),
        engines=around.engines,
        line=line,
        fetched=fetched_of(result.came, windows),
        variety=variety_of(result, runs),
    )


def _not_told_otherwise(
    of_runs: Iterable[Finding], of_sets: Iterable[Finding], unproven: Iterable[Unproven]
) -> list[Finding]:
    """Findings of runs but those whose cause is told of in better words."""
    causes: dict[str, set[str | None]] = {
        THINNED: {each.action_id for each in of_sets},
        NOTHING_TO_SHOW: {each.action_id for each in unproven},
    }
    return [each for each in of_runs if each.action_id not in causes.get(each.code, ())]


def _line(
    show: Show,
    asked: RehearsalOptions,
    around: Around,
    scenario: Scenario,
    result: SimulationResult,
) -> LineReport | None:
    if scenario.line is None:
        return None
    origin = scenario.windows.windows[0].slot.start if scenario.windows.windows else 0.0
    ready_at = None if result.ready_at is None else round(result.ready_at - origin, 3)
    return LineReport(
        bits_per_second=asked.bandwidth,
        latency=asked.latency,
        here_bytes=around.inventory.here_bytes,
        fetched_bytes=sum(each.size for each in result.came),
        room_bytes=show.settings.cache.disk_bytes,
        ready_at=ready_at,
    )


def _of_sets(
    show: Show, asked: RehearsalOptions, around: Around, result: SimulationResult
) -> list[Finding]:
    manifest = result.manifest
    a_day = len(show.settings.schedule.screenings)
    lost = {*asked.fail} - {"store", "engines"}
    flawed = [
        *listed_flaws(around.inventory, result.plan, manifest),
        *verified_flaws(around.verified),
        *played_flaws(result.faults),
    ]
    known = {(each.action_id, each.set_id) for each in flawed}
    looked_at = result.inspector.flawed()
    flawed += [each for each in looked_at if (each.action_id, each.set_id) not in known]
    return [
        *set_findings(
            # What this rehearsal has made fail is told of where it was to be played.
            (each for each in flawed if each.action_id not in lost),
            result.plan,
            lambda action_id: result.usable.get(action_id, 0),
            standing_behind(show, around.engines),
        ),
        *manifest_findings(around.inventory, result.plan, manifest),
        *few_sets(result.plan, result.usable, max(asked.screenings, a_day)),
    ]


def _of_room(
    around: Around, scenario: Scenario, result: SimulationResult, runs: Sequence[RehearsedRun]
) -> list[Finding]:
    """Whether there is room for what comes over the line."""
    if scenario.line is None:
        return []
    cache, sizes = scenario.show.settings.cache, around.inventory.sizes
    harmed = next((run for run in runs if run.left_out), None)
    findings = cache_too_small(
        sizes,
        result.plan,
        cache.disk_bytes,
        crowded_out=result.crowded_out,
        harmed=None if harmed is None else harmed.cue,
    )
    if around.free is not None:
        to_come = min(sum(sizes.values()), cache.disk_bytes) - around.inventory.here_bytes
        findings += disk_space(around.free, cache.keep_free, max(0, to_come), cache.dir)
    return findings


def _newest(inventory: StoreInventory) -> float | None:
    """Unix time at which the newest set was drawn, as far as the metas tell."""
    drawn = (meta.generated_at for meta in inventory.metas.values() if isinstance(meta, SetMeta))
    return max((each.timestamp() for each in drawn if each is not None), default=None)
