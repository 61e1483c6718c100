"""A rehearsal from beginning to end: ask around, play, and say what would go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

from cache.library import Library
from cache.model.documents import FormatError
from cache.model.formats import SetMeta
from cache.model.manifest import Manifest
from cache.stores.folder import FolderStore
from cache.stores.port import ReadableStore, Store, StoreError
from generator.plan import Plan
from generator.verify import SetFinding, verify_sets
from server.chance import Chance
from server.clock import VirtualClock
from server.config.show import Show
from server.config.stores import store_of
from server.memory import STATE, remembered
from server.modes.proof import Unproven
from server.rehearsal.catalogue import Catalogue, read_catalogue
from server.rehearsal.excerpts import Excerpts, upcoming
from server.rehearsal.line import SimulatedLine
from server.rehearsal.loop import RehearsalLoop
from server.rehearsal.other_findings import line_findings, remark_findings, unproven_findings
from server.rehearsal.play import Behind, Played, Scenario, play
from server.rehearsal.report import (
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
from server.rehearsal.room_findings import (
    cache_too_small,
    disk_space,
    tight_cues,
    unknown_durations,
)
from server.rehearsal.run_findings import NOTHING_TO_SHOW, THINNED, run_findings
from server.rehearsal.schedule_findings import schedule_findings
from server.rehearsal.set_findings import (
    few_sets,
    listed_flaws,
    manifest_findings,
    played_flaws,
    set_findings,
    standing_behind,
    verified_flaws,
)
from server.rehearsal.told import fetched_of, runs_of, screenings_of, sheet_of, variety_of
from server.rehearsal.understudies import probe_engines
from server.supply.sources import copies_of, free_on_disk

AHEAD_AT_MOST: Final = 6 * 3600.0
"""Seconds before a screening from which its sets may be on their way."""

_MINUTE: Final = 60.0
_MANIFEST_WITHIN: Final = 5.0
"""Seconds in which a store must have said what it has, where only names are asked for."""


@dataclass(frozen=True, slots=True)
class Around:
    """What was found out before anything is played.

    Attributes:
        engines: every engine that plays live, as it answered.
        catalogue: what lies in the store.
        verified: what is wrong with any image of any set, where all of them were looked at.
        free: bytes free on the disk that copies are kept on; None where none are.
    """

    engines: tuple[ProbedEngine, ...]
    catalogue: Catalogue
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
    excerpts = upcoming(show, wall, asked.screenings, from_=asked.from_, to=asked.to)
    scene = _scene(show, asked, around, excerpts, wall)
    begins = excerpts.excerpts[0].opens if excerpts.excerpts else wall
    clock = VirtualClock(begins - scene.ahead)
    with asyncio.Runner(loop_factory=lambda: RehearsalLoop(clock)) as runner:
        played = runner.run(play(scene, clock, progress))
    here = machine or datetime.fromtimestamp(wall).astimezone().tzinfo or UTC
    times = schedule_findings(show, wall, here, _newest(around.catalogue))
    return _report(asked, around, scene, played, times)


def seed_of(show: Show, asked: int | None) -> int:
    """What is left to chance follows from it: what was asked for, else what the show has."""
    if asked is not None:
        return asked
    if show.settings.playback.seed is not None:
        return show.settings.playback.seed
    memory = remembered(show.state_folder / STATE)
    return 0 if memory is None or memory.seed is None else memory.seed


def fail_names(show: Show, asked: Sequence[str]) -> list[str]:
    """Those of `asked` that name nothing which could fail. Not to be called in an event loop."""
    engines = {engine.name for engine in show.settings.engines if engine.plays_live}
    known = {"store", "engines", *engines, *_ids(show.plan({}))}
    if not known.issuperset(asked):
        # A set that was drawn for an older sheet has kept its id: the manifest knows it.
        known |= asyncio.run(_ids_of_sets(show))
    return [name for name in asked if name not in known]


def _ids(plan: Plan) -> set[str]:
    return {action.action_id for action in plan.actions}


async def _ids_of_sets(show: Show) -> set[str]:
    with suppress(StoreError, FormatError, TimeoutError):
        async with asyncio.timeout(_MANIFEST_WITHIN), store_of(show) as store:
            manifest = await Library(store).refresh()
            return _ids(show.plan(manifest.fingerprints))
    return set()


# ---------------------------------------------------------------- beforehand


async def look_around(
    show: Show, asked: RehearsalOptions, known: Sequence[ProbedEngine] = ()
) -> Around:
    """Ask the engines whether they are there, and the store what lies in it.

    Raises:
        BadStoreAddress: `[store]` names no store.
    """
    engines, (catalogue, verified) = await asyncio.gather(
        probe_engines(show, asked.fail, known), _look_into_the_store(show, asked)
    )
    return Around(engines, catalogue, verified, await asyncio.to_thread(_free, show))


async def _look_into_the_store(
    show: Show, asked: RehearsalOptions
) -> tuple[Catalogue, tuple[SetFinding, ...]]:
    """What lies in the store, and what is wrong with its images where that is asked for."""

    def wanted(manifest: Manifest) -> Mapping[str, str]:
        return show.plan(manifest.fingerprints).wanted

    store, settings = store_of(show), show.settings.cache
    if isinstance(store, FolderStore) and settings.copies != "always":
        async with FolderStore(store.root, threads=0, follow=store.follow) as near:
            return await read_catalogue(near, None, wanted), await _verified(show, asked, near)
    async with copies_of(show, store) as cache:
        return await read_catalogue(store, cache, wanted), await _verified(show, asked, cache)


async def _verified(
    show: Show, asked: RehearsalOptions, store: ReadableStore
) -> tuple[SetFinding, ...]:
    """Every image of every set, looked at wholly; what is far away is fetched for it."""
    if not asked.deep:
        return ()
    library = Library(store, sets_remembered=1)
    with suppress(StoreError, FormatError):  # the catalogue says so
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


def _scene(
    show: Show, asked: RehearsalOptions, around: Around, excerpts: Excerpts, wall: float
) -> Scenario:
    memory = remembered(show.state_folder / STATE)
    goes_on = memory is not None and memory.seed == asked.seed
    ahead = 1.0
    store = store_of(show)
    sets: Path | Behind | None = _folder(show, asked, store)
    if sets is None:
        sets = Behind(around.catalogue, SimulatedLine((asked.bandwidth or 0.0) / 8, asked.latency))
        if excerpts.excerpts and excerpts.excerpts[0].scheduled and around.catalogue.here:
            # The server is at it already; in whole minutes, so that soon is the same as now.
            left = min(excerpts.excerpts[0].opens - wall, AHEAD_AT_MOST)
            ahead = max(1.0, left // _MINUTE * _MINUTE)
    return Scenario(
        show=show,
        excerpts=excerpts,
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
            if engine.kind in {"sketch", "testcard"}
        },
    )


# ---------------------------------------------------------------- afterwards


def _report(
    asked: RehearsalOptions,
    around: Around,
    scene: Scenario,
    played: Played,
    times: Sequence[Finding],
) -> Report:
    show, excerpts = scene.show, scene.excerpts
    runs = runs_of(show, played, excerpts)
    line = _line(show, asked, around, scene, played)
    of_sets = _of_sets(show, asked, around, played)
    tight = tight_cues(around.catalogue.sizes, played.plan, show.settings.cache.disk_bytes)
    of_runs = run_findings(
        runs, around.engines, show.settings.playback.fit, line, crowded=bool(tight)
    )
    findings = ranked(
        [
            *times,
            *_not_told_otherwise(of_runs, of_sets, played.unproven),
            *of_sets,
            *unproven_findings(played.plan, played.unproven),
            *line_findings(around.catalogue),
            *_of_room(around, scene, played, runs),
            *unknown_durations(around.catalogue.metas, played.plan),
            *remark_findings([*show.sheet.remarks, *played.plan.remarks]),
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
            actions=len(played.plan.actions),
            mode=show.settings.playback.mode,
            store=show.settings.store.url,
        ),
        asked=asked,
        screenings=screenings_of(show, excerpts, runs),
        cues=runs,
        sheet=sheet_of(show, played.plan),
        engines=around.engines,
        line=line,
        fetched=fetched_of(played.came, excerpts),
        variety=variety_of(played, runs),
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
    show: Show, asked: RehearsalOptions, around: Around, scene: Scenario, played: Played
) -> LineReport | None:
    if scene.line is None:
        return None
    origin = scene.excerpts.excerpts[0].slot.start if scene.excerpts.excerpts else 0.0
    ready_at = None if played.ready_at is None else round(played.ready_at - origin, 3)
    return LineReport(
        bits_per_second=asked.bandwidth,
        latency=asked.latency,
        here_bytes=around.catalogue.here_bytes,
        fetched_bytes=sum(each.size for each in played.came),
        room_bytes=show.settings.cache.disk_bytes,
        ready_at=ready_at,
    )


def _of_sets(show: Show, asked: RehearsalOptions, around: Around, played: Played) -> list[Finding]:
    manifest = played.manifest
    a_day = len(show.settings.schedule.screenings)
    lost = {*asked.fail} - {"store", "engines"}
    flawed = [
        *listed_flaws(around.catalogue, played.plan, manifest),
        *verified_flaws(around.verified),
        *played_flaws(played.faults),
    ]
    known = {(each.action_id, each.set_id) for each in flawed}
    looked_at = played.inspector.flawed()
    flawed += [each for each in looked_at if (each.action_id, each.set_id) not in known]
    return [
        *set_findings(
            # What this rehearsal has made fail is told of where it was to be played.
            (each for each in flawed if each.action_id not in lost),
            played.plan,
            lambda action_id: played.usable.get(action_id, 0),
            standing_behind(show, around.engines),
        ),
        *manifest_findings(around.catalogue, played.plan, manifest),
        *few_sets(played.plan, played.usable, max(asked.screenings, a_day)),
    ]


def _of_room(
    around: Around, scene: Scenario, played: Played, runs: Sequence[RehearsedRun]
) -> list[Finding]:
    """Whether there is room for what comes over the line."""
    if scene.line is None:
        return []
    cache, sizes = scene.show.settings.cache, around.catalogue.sizes
    harmed = next((run for run in runs if run.left_out), None)
    findings = cache_too_small(
        sizes,
        played.plan,
        cache.disk_bytes,
        crowded_out=played.crowded_out,
        harmed=None if harmed is None else harmed.cue,
    )
    if around.free is not None:
        to_come = min(sum(sizes.values()), cache.disk_bytes) - around.catalogue.here_bytes
        findings += disk_space(around.free, cache.keep_free, max(0, to_come), cache.dir)
    return findings


def _newest(catalogue: Catalogue) -> float | None:
    """Unix time at which the newest set was drawn, as far as the metas tell."""
    drawn = (meta.generated_at for meta in catalogue.metas.values() if isinstance(meta, SetMeta))
    return max((each.timestamp() for each in drawn if each is not None), default=None)
