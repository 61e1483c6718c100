"""Performs actions on stage: one at a time, a new one cutting off the one before.

Owns the assignment that is on and its regeneration. What is due when is decided by others,
and what each picture is played by in `server/performance/runs.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog

from cache.tasks import being_cancelled
from server.core.clock import Clock, timeout_at
from server.performance.progress import Hung, ShowProgress, Stray
from server.performance.run import Assignment, OnStage
from server.performance.runs import Runs
from server.stage.stage import Stage

_log = structlog.get_logger(__name__)

REGENERATION_PAUSE = 30.0
"""Seconds between two cycles of a regenerating cue."""

_LATE = 1.0
"""Seconds by which a sign of life may be late: a busy machine, a long garbage collection."""

_LONGER_AFTER = 6
_TIGHTEST_SQUEEZE = 0.5
"""A further cycle that would have to be played faster than this is not begun."""


def pause_after(cycle: int) -> float:
    """Seconds to wait after a finished cycle (from 1): 30, and past the sixth 30 more each."""
    return REGENERATION_PAUSE * max(1, cycle - _LONGER_AFTER + 1)


class Performer:
    """Performs one assignment at a time.

    Args:
        stage: where it is seen.
        clock: the time.
        runs: performs each run.
        progress: is told of what could not be performed.
    """

    def __init__(self, *, stage: Stage, clock: Clock, runs: Runs, progress: ShowProgress) -> None:
        self._progress = progress
        self._begins, self._name = clock.now(), ""
        self._late_since: float | None = None
        self._stage = stage
        self._clock = clock
        self._runs = runs
        self._task: asyncio.Task[None] | None = None
        self._cycles_on = False
        self._begins_at: float | None = None
        self._pause_until: float | None = None

    @property
    def on_stage(self) -> OnStage | None:
        """What is being performed, or was last."""
        return self._runs.on_stage

    def quiet_for(self, seconds: float) -> bool:
        """Whether nothing is being drawn, nor will be drawn again, for so long."""
        if self._task is None or self._task.done():
            return True
        waits_until = self._pause_until if self._begins_at is None else self._begins_at
        return waits_until is not None and waits_until - self._clock.now() > seconds

    @property
    def begins_at(self) -> float | None:
        """Steady time at which the picture begins that is waited for; None where none is."""
        return self._begins_at

    @property
    def pause_until(self) -> float | None:
        """Steady time of the next regeneration, where one is waited for."""
        return self._pause_until

    def look(self) -> None:
        """See whether what is being performed still gives signs of life; to be called often.

        Whatever is waited for is waited for with a limit, so it does whatever engines and disks
        do, unless the performing itself hangs. That is timed from look to look: a machine that
        stood still hangs nobody.
        """
        now = self._clock.now()
        if self._task is None or self._task.done():
            self._late_since = None
            return
        waits = (self._begins_at, self._pause_until, self._runs.waits_until)
        until = next((each for each in waits if each is not None), None)
        if now - (self._begins if until is None else until) < self._clock.stretch(_LATE):
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now

    def late_for(self, now: float) -> float:
        """Seconds for which it has given no sign of life though it should; 0 when all is well."""
        return 0.0 if self._late_since is None else now - self._late_since

    def perform(self, assignment: Assignment) -> None:
        """Begin an assignment, when it is time; whatever was on is cut off at once."""
        self.stop()
        self._begins, self._name = (
            max(self._clock.now(), assignment.start),
            assignment.action.action_id,
        )
        self._cycles_on = assignment.action.regenerate
        self._task = asyncio.create_task(
            self._guarded(assignment), name=f"run {assignment.action.action_id}"
        )

    def stop(self) -> None:
        """Cut off what is being performed; the picture stays."""
        late = self.late_for(self._clock.now())
        if late > self._clock.stretch(_LATE):
            hung = Hung(f"no sign of life for {late:.1f} s")
            self._progress.run_over(self._name, reached=False, mistake=hung)
        self._late_since = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._cycles_on, self._pause_until, self._begins_at = False, None, None
        self._stage.cut()

    def no_more_cycles(self) -> None:
        """Let the picture that is being drawn be the last of its cue."""
        self._cycles_on = False
        if self._pause_until is not None and self._task is not None:
            self._task.cancel()  # it only waits for the next cycle
            self._task, self._pause_until = None, None

    async def aclose(self) -> None:
        """Stop, and wait until everything it began has ended."""
        task = self._task
        self.stop()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
        await self._runs.aclose()

    async def _guarded(self, assignment: Assignment) -> None:
        try:
            await self._until_it_begins(assignment)
            await self._cycles(assignment)
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            self._failed(assignment, Stray(repr(error)))
        except Exception as error:  # noqa: BLE001 - one broken run must not end the show
            self._failed(assignment, error)

    def _failed(self, assignment: Assignment, error: Exception) -> None:
        """Our own mistake: the wall keeps its picture, and the next cue gets its chance."""
        _log.error("run_failed", action_id=assignment.action.action_id, exc_info=error)
        self._progress.run_over(assignment.action.action_id, reached=False, mistake=error)
        self._stage.hold()

    async def _until_it_begins(self, assignment: Assignment) -> None:
        """Wait for the beginning; what was set before it is on the wall meanwhile."""
        start, before = assignment.start, assignment.before
        if start <= self._clock.now():
            return
        self._begins_at = start
        if before is not None:
            with suppress(TimeoutError):
                async with timeout_at(self._clock, start):
                    await self._before(before)
        await self._clock.sleep_until(start)
        self._begins_at = None

    async def _before(self, assignment: Assignment) -> None:
        try:
            await self._runs.perform(assignment, 1, lambda _ended: False)
        except Exception:  # noqa: BLE001 - the picture that is to come is none the worse for it
            _log.exception("run_failed", action_id=assignment.action.action_id)

    async def _cycles(self, assignment: Assignment) -> None:
        start, cycle = assignment.start, 0
        while True:
            cycle += 1
            begun = replace(
                assignment,
                start=start,
                position=assignment.position + start - assignment.start,
            )
            ended = await self._runs.perform(begun, cycle, partial(self._long_past, begun, cycle))
            start = ended + pause_after(cycle)
            length = ended - begun.start
            if not self._cycles_on or self._too_tight(assignment, start, length):
                return
            self._pause_until = start
            await self._clock.sleep_until(start)
            self._begins, self._pause_until = self._clock.now(), None

    def _too_tight(self, assignment: Assignment, start: float, length: float) -> bool:
        if assignment.next_cue is None:
            return False
        return assignment.next_cue - start < length * _TIGHTEST_SQUEEZE

    def _long_past(self, assignment: Assignment, cycle: int, ended: float) -> bool:
        """Joined in the middle of a regenerating cue: whether a later cycle is on by now."""
        following = ended + pause_after(cycle)
        return (
            self._cycles_on
            and following <= self._clock.now()
            and not self._too_tight(assignment, following, ended - assignment.start)
        )
