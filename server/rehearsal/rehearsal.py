"""A rehearsal from beginning to end: ask around, play, and say what would go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, tzinfo
from typing import Final

from cache.library import Library
from cache.model.documents import FormatError
from cache.model.manifest import Manifest
from cache.stores.folder import FolderStore
from cache.stores.port import ReadableStore, StoreError
from generator.engines.settings import SimulatedSection
from generator.sets.verify import SetFinding, verify_sets
from server.config.show import Show
from server.config.stores import store_of
from server.core.clock import VirtualClock
from server.core.random_streams import RandomStreams
from server.diagnostics.facts import SIMULATION, SimulationFacts, SimulationResult, Surroundings
from server.diagnostics.findings import ranked, verdict_of
from server.diagnostics.report import (
    LineReport,
    ProbedEngine,
    RehearsalOptions,
    Report,
    ReportedShow,
)
from server.performance.state_file import STATE, read_state
from server.rehearsal.loop import RehearsalLoop
from server.rehearsal.report_builder import fetched_of, runs_of, screenings_of, sheet_of, variety_of
from server.rehearsal.screening_window import ScreeningWindow, upcoming
from server.rehearsal.simulated_engines import probe_engines
from server.rehearsal.simulated_store import SimulatedLine
from server.rehearsal.simulation import RemoteStore, Scenario, simulate
from server.supply.inventory import StoreInventory, read_inventory
from server.supply.sources import copies_of, free_on_disk, read_in_place

AHEAD_AT_MOST: Final = 6 * 3600.0
"""Seconds before a screening from which its sets may be on their way."""

_MINUTE: Final = 60.0


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
    begins = windows[0].opens if windows else wall
    clock = VirtualClock(begins - scenario.ahead)
    with asyncio.Runner(loop_factory=lambda: RehearsalLoop(clock)) as runner:
        result = runner.run(simulate(scenario, clock, progress))
    here = machine or datetime.fromtimestamp(wall).astimezone().tzinfo or UTC
    runs, line = runs_of(show, result, windows), _line(scenario, asked, around, result)
    return _report(SimulationFacts(show, asked, around, result, runs, line, wall, here), windows)


def seed_of(show: Show, asked: int | None) -> int:
    """What is left to chance follows from it: what was asked for, else what the show has."""
    if asked is not None:
        return asked
    if show.settings.playback.seed is not None:
        return show.settings.playback.seed
    state = read_state(show.state_folder / STATE)
    return 0 if state is None or state.seed is None else state.seed


# ---------------------------------------------------------------- beforehand


async def look_around(
    show: Show, asked: RehearsalOptions, known: Sequence[ProbedEngine] = ()
) -> Surroundings:
    """Ask the engines whether they are there, and the store what lies in it.

    Raises:
        BadStoreAddress: `[store]` names no store.
    """
    engines, (inventory, verified) = await asyncio.gather(
        probe_engines(show, asked.fail, known), _look_into_the_store(show, asked)
    )
    return Surroundings(engines, inventory, verified, await asyncio.to_thread(_free, show))


async def _look_into_the_store(
    show: Show, asked: RehearsalOptions
) -> tuple[StoreInventory, tuple[SetFinding, ...]]:
    """What lies in the store, and what is wrong with its images where that is asked for."""

    def wanted(manifest: Manifest) -> Mapping[str, str]:
        return show.plan(manifest.fingerprints).wanted

    store = store_of(show)
    if read_in_place(store, show):
        async with FolderStore(store.root, threads=0, follow=store.follow) as near:
            return await read_inventory(near, None, wanted), await _verified(show, asked, near)
    async with copies_of(show, store) as cache:
        return await read_inventory(store, cache, wanted), await _verified(show, asked, cache)


async def _verified(
    show: Show, asked: RehearsalOptions, store: ReadableStore
) -> tuple[SetFinding, ...]:
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
    if read_in_place(store_of(show), show):
        return None
    with suppress(OSError):
        return free_on_disk(show.state_folder)
    return None


def _scenario(
    show: Show,
    asked: RehearsalOptions,
    around: Surroundings,
    windows: Sequence[ScreeningWindow],
    wall: float,
) -> Scenario:
    state = read_state(show.state_folder / STATE)
    goes_on = state is not None and state.seed == asked.seed
    ahead = 1.0
    store = store_of(show)
    sets: FolderStore | RemoteStore
    if read_in_place(store, show) and asked.bandwidth is None and not asked.latency:
        sets = store
    else:
        sets = RemoteStore(
            around.inventory, SimulatedLine((asked.bandwidth or 0.0) / 8, asked.latency)
        )
        if windows and windows[0].scheduled and around.inventory.here:
            # The server is at it already; in whole minutes, so that soon is the same as now.
            left = min(windows[0].opens - wall, AHEAD_AT_MOST)
            ahead = max(1.0, left // _MINUTE * _MINUTE)
    return Scenario(
        show=show,
        windows=windows,
        streams=RandomStreams(asked.seed),
        bags=state.bags if state is not None and goes_on else {},
        forces=state.forces if state is not None else (),
        engines=around.engines,
        sets=sets,
        ahead=ahead,
        fail=frozenset(asked.fail),
        paces={
            engine.name: engine.pace
            for engine in show.settings.engines
            if isinstance(engine, SimulatedSection)
        },
    )


# ---------------------------------------------------------------- afterwards


def _report(facts: SimulationFacts, windows: Sequence[ScreeningWindow]) -> Report:
    show, result = facts.show, facts.result
    findings = ranked(SIMULATION.findings(facts))
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
        asked=facts.asked,
        screenings=screenings_of(show, windows, facts.runs),
        cues=facts.runs,
        sheet=sheet_of(show, result.plan),
        engines=facts.around.engines,
        line=facts.line,
        fetched=fetched_of(result.came, windows),
        variety=variety_of(result, facts.runs),
    )


def _line(
    scenario: Scenario, asked: RehearsalOptions, around: Surroundings, result: SimulationResult
) -> LineReport | None:
    if scenario.line is None:
        return None
    origin = scenario.windows[0].slot.start if scenario.windows else 0.0
    return LineReport(
        bits_per_second=asked.bandwidth,
        latency=asked.latency,
        here_bytes=around.inventory.here_bytes,
        fetched_bytes=sum(each.size for each in result.came),
        room_bytes=scenario.show.settings.cache.disk_bytes,
        ready_at=None if result.ready_at is None else round(result.ready_at - origin, 3),
    )
