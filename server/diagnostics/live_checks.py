"""What is wrong with a show that runs: what is known at any moment (`NOW`), and what is not.

What others know already (readiness, the mode manager, the copies) is asked of them. For the rest
(`PREFLIGHT`) the preflight goes in steps, small enough to be taken between two pictures: disks
are read in threads, nothing is fetched over a line, and no engine is asked to draw.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import partial, update_wrapper
from operator import itemgetter
from pathlib import Path
from typing import Final

import structlog

from cache.library import BrokenSet
from cache.model.keys import meta_key, set_prefix
from cache.stores.port import StoreError
from generator.sheet.plan import Action
from server.config.show import Show
from server.core.formatting import first_few, size
from server.diagnostics import sets
from server.diagnostics.capacity import CACHE_TOO_SMALL
from server.diagnostics.findings import LEVELS, Finding, Selection, kind
from server.diagnostics.report import ProbedEngine
from server.diagnostics.runs import CUT_SHORT, ENGINE_DEAD, LATE, TOLD_FROM, get_going, overrun
from server.diagnostics.schedule import schedule_findings
from server.diagnostics.show import NO_SETS, STORE_SILENT
from server.engines.live import LiveEngines
from server.providers.timing import final_by
from server.runtime import Runtime
from server.supply.readiness import Readiness
from server.supply.sources import Supply, free_on_disk

_log = structlog.get_logger(__name__)

LITTLE_ROOM: Final = 256 * 2**20
"""Bytes free on a disk below which logs and copies are about to stop."""

_UNKNOWN_DURATION: Final = 0.65
"""Seconds that a step whose duration was not recorded takes, in the mean."""

NOT_LOOKED_AT = kind(
    "not_looked_at",
    "looking failed for a mistake of ours, and the log says which; nothing was looked at yet",
    "see the server's log, and report it",
    *("warning", "error"),
)
NO_ANSWER = kind(
    "no_answer",
    "a disk did not answer in time",
    "see whether the disk and the store answer",
    "warning",
)
NOT_HERE = kind(
    "not_here",
    "nothing of a cue's sets is on this machine yet",
    "wait until it has come, or take the sets along with `understudy pull`",
    "error",
)
COPIES_STOPPED = kind(
    "copies_stopped",
    "the disk takes no more copies",
    "make room on the disk of [cache] dir",
    "warning",
)
DISK_FULL = kind(
    "disk_full",
    "less than 256 MiB are free where the server writes",
    "make room there, or name another place in [cache] dir",
    "warning",
)

NOW: Final = Selection[Readiness]()
"""What is known at any moment, at no cost: `/readyz` and the health tell it as it is now."""


_failing: Final[set[str]] = set()
"""Checks of `NOW` that raise: the log tells when one begins to, as they are asked all the time."""


def findings_now(readiness: Readiness) -> list[Finding]:
    """What is wrong at this moment, as far as is known at no cost.

    A check that fails costs nobody the others, nor an answer: it is `not_looked_at`.
    """
    failed: set[str] = set()

    def not_looked_at(check: str, error: Exception) -> Finding:
        failed.add(check)
        if check not in _failing:
            _log.exception("preflight_broke", look=check)
        return check_failed(check, error)

    found = NOW.findings(readiness, not_looked_at)
    _failing.clear()
    _failing.update(failed)
    return found


def check_failed(check: str, error: Exception) -> Finding:
    """What is told of a check that raised: not looked at is not well."""
    return NOT_LOOKED_AT(f"looking at the {check} failed: {error!r:.200}")


@NOW
def ladders(readiness: Readiness) -> Iterator[Finding]:
    """Whether every cue has something sure to stand on."""
    if not readiness.looked:
        text, soon = "the sets have not been looked through yet", "wait a moment"
        yield NOT_LOOKED_AT(text, level="error", remedy=soon)
    if readiness.store_problem is not None:
        yield STORE_SILENT(readiness.store_problem, level="error")
    why: dict[str, str] = {}
    for (action_id, number), fault in sorted(readiness.static.faults.items(), key=itemgetter(0)):
        why.setdefault(action_id, f" ({action_id} set {number}: {fault.reason})")
    otherwise = "" if readiness.supply.library.found else " (there is no manifest in the store)"
    for each in readiness.uncovered() if readiness.looked else ():
        text = f"there is no set to play, {each.reason}{why.get(each.action_id, otherwise)}"
        yield NO_SETS(text, readiness.plan.of_cue(each.cue_index))


@NOW
def copies(readiness: Readiness) -> Iterator[Finding]:
    """How the line and the copies do, where there is a line."""
    supply = readiness.supply
    status, unreachable = supply.status(), supply.unreachable()
    for action in readiness.plan.actions:
        if readiness.copies(action.action_id) == "none" and readiness.sets(action.action_id):
            why = unreachable or "its copies are being made"
            yield NOT_HERE(f"nothing of its sets is on this machine yet ({why})", action)
    if status is None:
        return
    line, disk = status["line"], status["copies"]["disk"]
    if unreachable is not None:
        yield STORE_SILENT(f"playing from the copies on this machine: {unreachable}")
    if disk["condition"] not in {"ok", "off"}:
        yield COPIES_STOPPED(
            f"no more copies are kept on disk ({disk['condition']}): {disk['reason']}"
        )
    if line["crowded_out"]:
        yield CACHE_TOO_SMALL(f"the cache has no room for {line['crowded_out']} of the coming sets")
    if line["late_files"]:
        yield LATE(
            f"the line carries {line['rate'] * 8e-6:.1f} Mbit/s: {line['late_files']} previews "
            "will not be here in time and are left out",
            remedy="begin earlier, or take the sets along with `understudy pull`",
        )


@dataclass(frozen=True, kw_only=True)
class RunningShow:
    """A show, those who play it, and what is around them.

    Attributes:
        show: what is played.
        runtime: those who play it.
        supply: where their sets come from.
        live: the engines of this machine.
        wall: Unix time, as the machine has it.
        machine: the time zone that it is set to; None to ask it.
        free: bytes that are free on the disk of a folder; raises `OSError` where it does not say.
    """

    show: Show
    runtime: Runtime
    supply: Supply
    live: LiveEngines
    wall: Callable[[], float]
    machine: tzinfo | None = None
    free: Callable[[Path], Awaitable[int]] = lambda folder: asyncio.to_thread(free_on_disk, folder)

    def engines(self) -> list[ProbedEngine]:
        """How each engine does, as the show knows without asking."""
        found = []
        for engine in self.runtime.modes.engines:
            absent, health = self.live.absent(engine.name), engine.health
            dead = absent is not None or not health.usable
            detail = f"{health.state}: {health.reason}" if dead else "it does well"
            found.append(
                ProbedEngine(
                    name=engine.name,
                    kind=engine.engine,
                    local=engine.local,
                    state="dead" if dead else "ready",
                    detail=absent or detail,
                )
            )
        return found


Steps = AsyncGenerator[Sequence[Finding], None]
"""A check in steps; each brings what it found."""

LiveCheck = Callable[[], Steps]

PREFLIGHT: Final = Selection[RunningShow]()
"""What the preflight checks beside `NOW`, in this order; each check yields `Steps`."""


def live_checks(running: RunningShow) -> list[LiveCheck]:
    """The checks of `PREFLIGHT` over a show."""
    return [update_wrapper(partial(check, running), check) for check in PREFLIGHT.checks]


@PREFLIGHT
async def faults(running: RunningShow) -> Steps:
    """Which sets are passed over. Where something else is sure to be seen, it is only a pity."""
    runtime = running.runtime
    unsure = {each.action_id for each in runtime.readiness.uncovered()}
    yield list(
        sets.findings_of(
            sets.passed_over(runtime.static.faults),
            runtime.plan,
            runtime.readiness.sets,
            lambda action: None if action.action_id in unsure else "",
        )
    )


@PREFLIGHT
async def engines(running: RunningShow) -> Steps:
    """Which engines would not draw now, and what stands behind them."""
    known = running.engines()
    other = next((each.name for each in known if each.state != "dead"), None)
    modes, plan = running.runtime.modes, running.runtime.plan
    cues, fallback = running.show.sheet.cues, running.show.settings.playback.fallback
    asked = [
        (action, modes.decide(action, cues[action.cue_index].mode).mode) for action in plan.actions
    ]
    alone = [
        action
        for action, mode in asked
        if not running.runtime.readiness.sets(action.action_id) and (fallback or mode != "static")
    ]
    for engine in known:
        if engine.state != "dead":
            continue
        dead = f"engine {engine.name} would not draw now ({engine.detail})"
        if alone and other is None:
            yield [
                ENGINE_DEAD(
                    f"{dead} and no set stands behind it",
                    action,
                    remedy=get_going(engine.name, action.action_id),
                )
                for action in alone
            ]
        else:
            yield [
                ENGINE_DEAD(
                    f"{dead}; {other or 'a set'} takes its place",
                    level="warning" if any(mode == "live" for _, mode in asked) else "note",
                    remedy=f"get {engine.name} going",
                )
            ]


@PREFLIGHT
async def calendar(running: RunningShow) -> Steps:
    """Whether there will be a screening at all, and the clock can be believed."""
    wall = running.wall()
    machine = running.machine or datetime.fromtimestamp(wall, UTC).astimezone().tzinfo or UTC
    generated = running.supply.library.manifest.generated_at
    newest = None if generated is None else generated.timestamp()
    # Every evening ends with no screening left: what the machine's clock explains is worse.
    yield list(schedule_findings(running.show, wall, machine, newest, over="note"))


@PREFLIGHT
async def disk(running: RunningShow) -> Steps:
    """Whether there is room for what the server must write."""
    folder = running.show.state_folder
    with suppress(OSError):
        free = await running.free(folder)
        if free < LITTLE_ROOM:
            text = f"{size(free)} are free on the disk of {folder}: logs and copies soon stop"
            yield [DISK_FULL(text)]


@PREFLIGHT
async def files(running: RunningShow) -> Steps:
    """For each action: whether its sets fit their slot, and all their files are there."""
    actions = running.runtime.plan.actions
    ends = [*(action.at for action in actions[1:]), running.show.duration]
    for action, until in zip(actions, ends, strict=False):  # a show may draw nothing
        yield await _of_action(running, action, until)


async def _of_action(running: RunningShow, action: Action, until: float) -> list[Finding]:
    """What is missing of its sets, and the worst of those that are too long."""
    supply = running.supply
    findings: list[Finding] = []
    too_long: list[Finding] = []
    begins = action.at + running.runtime.beginnings.after(action.cue_index)
    for number in running.runtime.static.usable(action.action_id):
        if not supply.availability.holds(meta_key(action.action_id, number)):
            continue  # it would have to come over the line
        try:
            found = await supply.library.open_set(action.action_id, number)
            here = None
            if supply.cache is None:  # else it would cost something to look
                prefix = set_prefix(action.action_id, number)
                here = {entry.key.removeprefix(prefix) async for entry in supply.store.list(prefix)}
        except (BrokenSet, StoreError):
            continue  # the survey says so in better words
        lacking = [step.name for step in found.steps if here is not None and step.name not in here]
        if lacking:
            are = "is" if len(lacking) == 1 else "are"
            text = f"{first_few(lacking)} of set {number} {are} missing: the run goes on without"
            missing = sets.FLAWS["missing_step"]
            findings.append(missing(text, action, level="warning", set_id=number))
        ahead = running.show.settings.playback.lead + (found.meta.latency or 0.0)
        durations = (step.duration for step in found.steps)
        takes = ahead + sum(_UNKNOWN_DURATION if each is None else each for each in durations)
        too_long += _overrun(running, action, number, takes, until - begins)
    return [*findings, *sorted(too_long, key=lambda each: LEVELS.index(each.level))[:1]]


def _overrun(
    running: RunningShow, action: Action, number: int, takes: float, slot: float
) -> Iterator[Finding]:
    """What becomes of a set that is longer than its slot; nothing where it is seen as drawn."""
    fit, crossfade = running.show.settings.playback.fit, running.show.settings.display.crossfade
    text = f"set {number} takes {takes:.1f} s and has {slot:.1f} s"
    squeeze: float | None = None
    if fit == "squeeze":
        squeeze = max(0.0, final_by(0.0, slot, crossfade) / takes) if takes > 0 else 1.0
    if takes > slot + CUT_SHORT if squeeze is None else squeeze < TOLD_FROM:
        yield overrun(text, action, number, squeeze=squeeze, fit=fit)
