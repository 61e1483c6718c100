"""What the preflight looks at, in steps small enough to be taken between two pictures.

What others know already (readiness, the mode manager, the copies) is asked of them; disks are
read beside the event loop. Nothing is fetched over a line, and no engine is asked to draw.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

from cache.library import BrokenSet
from cache.model.keys import meta_key, set_prefix
from cache.stores.port import StoreError
from generator.plan import Action
from server.config.show import Show
from server.engines.live import LiveEngines
from server.ensemble import Ensemble
from server.modes.ladder import Decision
from server.rehearsal import glances
from server.rehearsal.other_findings import unproven_findings
from server.rehearsal.preflight import Look
from server.rehearsal.report import Finding, Level, ProbedEngine
from server.rehearsal.schedule_findings import schedule_findings
from server.rehearsal.set_findings import played_flaws, set_findings
from server.supply.sources import Supply, free_on_disk

Findings = AsyncGenerator[Sequence[Finding], None]

_SEE_TO_THE_LINE: Final = "look after the line, or the store"
_RATE: Final = 8e-6
"""Mbit/s in a byte a second."""


def known_engines(ensemble: Ensemble, live: LiveEngines) -> list[ProbedEngine]:
    """How each engine does, as the show knows without asking."""
    found = []
    for engine in ensemble.modes.engines:
        absent, health = live.absent(engine.name), engine.health
        dead = absent is not None or not health.usable
        found.append(
            ProbedEngine(
                name=engine.name,
                kind=engine.engine,
                local=engine.local,
                state="dead" if dead else "ready",
                detail=absent or (f"{health.state}: {health.reason}" if dead else "it does well"),
            )
        )
    return found


class Looks:
    """Everything that the preflight looks at.

    Args:
        show: what is played.
        ensemble: those who play it.
        supply: where their sets come from.
        live: the engines of this machine.
        wall: Unix time, as the machine has it.
        machine: the time zone that it is set to; None to ask it.
        free: bytes that are free on the disk of a folder.
    """

    def __init__(
        self,
        show: Show,
        ensemble: Ensemble,
        supply: Supply,
        *,
        live: LiveEngines,
        wall: Callable[[], float],
        machine: tzinfo | None = None,
        free: Callable[[Path], Awaitable[int]] | None = None,
    ) -> None:
        self._show = show
        self._ensemble = ensemble
        self._supply = supply
        self._live = live
        self._wall = wall
        self._machine = machine
        self._free = free or free_bytes

    def all(self) -> tuple[Look, ...]:
        """In the order in which they are looked at: what is at hand first."""
        return (self.ladders, self.engines, self.calendar, self.copies, self.disk, self.sets)

    async def ladders(self) -> Findings:
        """Whether every cue has something sure to stand on, and which sets are passed over."""
        actions = {action.action_id: action for action in self._ensemble.plan.actions}
        readiness = self._ensemble.readiness
        if readiness.store_problem is not None:
            yield [_finding("error", "store_silent", readiness.store_problem, _SEE_TO_THE_LINE)]
        yield unproven_findings(self._ensemble.plan, readiness.unproven())
        sure = actions.keys() - {each.action_id for each in readiness.unproven()}
        found = set_findings(
            played_flaws(self._ensemble.static.faults), self._ensemble.plan, readiness.sets
        )
        # Where something else is sure to be seen, it is no more than a pity.
        yield [glances.survived(each) if each.action_id in sure else each for each in found]

    async def calendar(self) -> Findings:
        """Whether there will be a screening at all, and the clock can be believed."""
        wall = self._wall()
        machine = self._machine or datetime.fromtimestamp(wall, UTC).astimezone().tzinfo or UTC
        generated = self._supply.library.manifest.generated_at
        newest = None if generated is None else generated.timestamp()
        found = schedule_findings(self._show, wall, machine, newest)
        # Every evening ends with no screening left: what the machine's clock explains is worse.
        yield [
            glances.noted(each)
            if each.level == "warning" and each.code == "no_screening_today"
            else each
            for each in found
        ]

    async def engines(self) -> Findings:
        """Which engines would not draw now, and what stands behind them."""
        known = known_engines(self._ensemble, self._live)
        unfit = {engine.name: engine.detail for engine in known if engine.state == "dead"}
        fit = [each.name for each in self._ensemble.modes.engines if each.name not in unfit]
        decided = [(each, self._decided(each)) for each in self._ensemble.plan.actions]
        fallback = self._show.settings.playback.fallback
        alone = [
            action
            for action, decision in decided
            if not self._sets(action) and (fallback or decision.mode != "static")
        ]
        for name, reason in unfit.items():
            yield glances.engine_dead(
                name,
                reason,
                alone=alone,
                wanted=any(decision.mode == "live" for _, decision in decided),
                other=fit[0] if fit else None,
            )

    async def copies(self) -> Findings:
        """How the line and the copies do, where there is a line."""
        status = self._supply.status()
        if status is None:
            return
        unreachable = self._supply.unreachable()
        why = "its copies are being made" if unreachable is None else unreachable
        yield [
            glances.not_here(action, why)
            for action in self._ensemble.plan.actions
            if self._supply.coverage(action.action_id) == "none" and self._sets(action)
        ]
        yield list(self._line(unreachable))

    def _line(self, unreachable: str | None) -> Iterator[Finding]:
        status = self._supply.status()
        if status is None:
            return
        line, disk = status["line"], status["copies"]["disk"]
        if unreachable is not None:
            yield _warning(
                "store_silent",
                f"the store does not answer ({unreachable}): what is on this machine is played",
                _SEE_TO_THE_LINE,
            )
        if disk["condition"] not in {"ok", "off"}:
            yield _warning(
                "copies_stopped",
                f"no more copies are kept on disk ({disk['condition']}: {disk['reason']})",
                "make room on the disk of [cache] dir",
            )
        if line["crowded_out"]:
            yield _warning(
                "cache_too_small",
                f"the cache has no room for {line['crowded_out']} of the coming sets",
                "give [cache] disk_bytes more room",
            )
        if line["late_files"]:
            yield _warning(
                "late",
                f"the line carries {line['rate'] * _RATE:.1f} Mbit/s: {line['late_files']} "
                "previews of the coming sets will not be here in time",
                "begin earlier, or take the sets along with `understudy pull`",
            )

    async def disk(self) -> Findings:
        """Whether there is room for what the server must write."""
        folder = self._show.state_folder
        with suppress(OSError):
            found = glances.little_room(await self._free(folder), str(folder))
            yield [] if found is None else [found]

    async def sets(self) -> Findings:
        """For each action: whether its sets fit their slot, and all their files are there."""
        actions = self._ensemble.plan.actions
        ends = [*(action.at for action in actions[1:]), self._show.duration]
        for action, until in zip(actions, ends, strict=False):  # a show may draw nothing
            yield await self._of_action(action, until)

    async def _of_action(self, action: Action, until: float) -> list[Finding]:
        settings = self._show.settings
        findings: list[Finding] = []
        longest: Finding | None = None
        for number in self._ensemble.static.usable(action.action_id):
            if not self._supply.availability.holds(meta_key(action.action_id, number)):
                continue  # it would have to come over the line
            try:
                found = await self._supply.library.open_set(action.action_id, number)
                durations = [step.duration for step in found.steps]
                ahead = settings.playback.lead + (found.meta.latency or 0.0)
                files = await self._files(action, number)
            except (BrokenSet, StoreError):
                continue  # the survey says so in better words
            if files is not None:
                absent = glances.absent([step.name for step in found.steps], files)
                findings += [glances.missing(action, number, absent)] if absent else []
            longest = glances.worse(
                longest,
                glances.overrun(
                    action,
                    durations,
                    number,
                    begins=action.at + self._ensemble.beginnings.after(action.cue_index),
                    ahead=ahead,
                    until=until,
                    crossfade=settings.display.crossfade,
                    fit=settings.playback.fit,
                ),
            )
        return findings if longest is None else [*findings, longest]

    async def _files(self, action: Action, number: int) -> list[str] | None:
        """The files of a set, where it costs nothing to look; else None."""
        if self._supply.cache is not None:
            return None
        prefix = set_prefix(action.action_id, number)
        return [entry.key.removeprefix(prefix) async for entry in self._supply.store.list(prefix)]

    def _sets(self, action: Action) -> int:
        return self._ensemble.readiness.sets(action.action_id)

    def _decided(self, action: Action) -> Decision:
        cue = self._show.sheet.cues[action.cue_index]
        return self._ensemble.modes.decide(action, cue.mode)


def _warning(code: str, message: str, remedy: str) -> Finding:
    return _finding("warning", code, message, remedy)


def _finding(level: Level, code: str, message: str, remedy: str) -> Finding:
    return Finding(level=level, code=code, message=message, remedy=remedy)


async def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, or of where it will be; asked in a thread.

    Raises:
        OSError: the disk does not say.
    """
    return await asyncio.to_thread(free_on_disk, folder)
