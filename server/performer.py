"""Performs actions on stage: one at a time, a new one cutting off the one before.

Owns the run that is on: its token, its ladder of providers, its timeouts, its place in the
as-run log. What is due when is decided by others; this room sees to it that frames come.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog

from generator.plan import Action
from server import messages as wire
from server.asrun import AsRun, RunRecord
from server.clock import Clock, timeout_at
from server.metrics import Metrics
from server.providers.base import Frame, Provider, ProviderError, ProviderName, Slot, Take
from server.providers.timing import final_by
from server.sections import PlaybackSection
from server.stage import Outcome, Performance, Stage, StageFrame

_log = structlog.get_logger(__name__)

REGENERATION_PAUSE = 30.0
"""Seconds between two cycles of a regenerating cue."""

_LONGER_AFTER = 6
_TIGHTEST_SQUEEZE = 0.5
"""A further cycle that would have to be played faster than this is not begun."""


def pause_after(cycle: int) -> float:
    """Seconds to wait after a finished cycle (from 1): 30, and past the sixth 30 more each."""
    return REGENERATION_PAUSE * max(1, cycle - _LONGER_AFTER + 1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is to be performed, when, and why.

    Attributes:
        action: what is drawn.
        cue: the cue's content, for the log.
        start: steady time at which it begins, in the past to join it in the middle.
        position: seconds from the start of the screening.
        next_cue: steady time of the next generating cue, or the end; None for open.
        mode: the mode that decided.
        why: in words.
    """

    action: Action
    cue: Mapping[str, Any]
    start: float
    position: float
    next_cue: float | None
    mode: str
    why: str


@dataclass(frozen=True, slots=True)
class OnStage:
    """The run that is on: for the state."""

    action: Action
    run: str
    provider: ProviderName | Literal["hold"]
    engine: str | None
    set_id: int | None
    cycle: int


Ladder = Callable[[Action], Sequence[Provider]]


class Performer:
    """Performs one assignment at a time.

    Args:
        stage: where frames go.
        clock: what they are due by.
        ladder: the providers for an action, in the order they are tried.
        settings: timeouts and fit.
        crossfade: seconds that a final image wants before the next run begins.
        asrun: where it is written down.
        metrics: where it is counted.
        new_token: makes run tokens, which never repeat.
    """

    def __init__(
        self,
        *,
        stage: Stage,
        clock: Clock,
        ladder: Ladder,
        settings: PlaybackSection,
        crossfade: float,
        asrun: AsRun,
        metrics: Metrics,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(9),
    ) -> None:
        self._stage = stage
        self._clock = clock
        self._ladder = ladder
        self._settings = settings
        self._crossfade = crossfade
        self._asrun = asrun
        self._metrics = metrics
        self._new_token = new_token
        self._task: asyncio.Task[None] | None = None
        self._cycles_on = False
        self._on_stage: OnStage | None = None
        self._pause_until: float | None = None

    @property
    def on_stage(self) -> OnStage | None:
        """What is being performed, or was last."""
        return self._on_stage

    @property
    def pause_until(self) -> float | None:
        """Steady time of the next regeneration, where one is waited for."""
        return self._pause_until

    def perform(self, assignment: Assignment) -> None:
        """Begin an assignment; whatever was on is cut off at once."""
        self.stop()
        self._cycles_on = assignment.action.regenerate
        self._task = asyncio.create_task(
            self._guarded(assignment), name=f"run {assignment.action.action_id}"
        )

    def stop(self) -> None:
        """Cut off what is being performed; the picture stays."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._cycles_on, self._pause_until = False, None
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

    async def _guarded(self, assignment: Assignment) -> None:
        try:
            await self._cycles(assignment)
        except Exception:  # noqa: BLE001 - one broken run must not end the show
            # Our own mistake; the wall keeps its picture, and the next cue gets its chance.
            _log.exception("run_failed", action_id=assignment.action.action_id)
            self._stage.tell(wire.Hold())

    async def _cycles(self, assignment: Assignment) -> None:
        start, cycle = assignment.start, 0
        while True:
            cycle += 1
            begun = replace(
                assignment,
                start=start,
                position=assignment.position + start - assignment.start,
            )
            ended = await self._climb(begun, cycle)
            start = ended + pause_after(cycle)
            length = ended - begun.start
            if not self._cycles_on or self._too_tight(assignment, start, length):
                return
            self._pause_until = start
            await self._clock.sleep_until(start)
            self._pause_until = None

    def _too_tight(self, assignment: Assignment, start: float, length: float) -> bool:
        if assignment.next_cue is None:
            return False
        return assignment.next_cue - start < length * _TIGHTEST_SQUEEZE

    async def _climb(self, assignment: Assignment, cycle: int) -> float:
        """Try rung after rung until one gives a picture; the steady time at which it ended."""
        action, now = assignment.action, self._clock.now()
        reasons: list[str] = []
        for provider in self._ladder(action):
            try:
                return await self._perform_with(provider, assignment, cycle)
            except ProviderError as error:
                reasons.append(f"{provider.name}: {error}")
            except TimeoutError:
                reasons.append(f"{provider.name}: no frame in time")
            _log.warning("rung_failed", action_id=action.action_id, reason=reasons[-1])
        run = self._new_token()
        why = "; ".join([assignment.why, *reasons])
        self._on_stage = OnStage(action, run, "hold", None, None, cycle)
        self._asrun.begin(self._record(replace(assignment, why=why), run, cycle, None))
        self._asrun.end(run, "held", now)
        self._metrics.runs.labels(provider="hold", outcome="held").inc()
        self._stage.tell(wire.Hold())
        return now

    async def _perform_with(self, provider: Provider, assignment: Assignment, cycle: int) -> float:
        """One run through one provider; the steady time at which it ended."""
        action, end = assignment.action, None
        if assignment.next_cue is not None:
            end = final_by(assignment.start, assignment.next_cue, self._crossfade)
        patience = self._settings.first_frame_timeout
        seconds = patience.static if provider.name == "static" else patience.live
        async with AsyncExitStack() as stack:
            async with timeout_at(self._clock, max(self._clock.now(), assignment.start) + seconds):
                opened = provider.open(action, Slot(assignment.start, end))
                take = await stack.enter_async_context(opened)
                if take.ends_at is not None and self._long_past(assignment, take.ends_at, cycle):
                    return take.ends_at
                frame = None if take.planned else await _next_frame(take)
            if frame is None:
                # Its final image is in hand, and it knows when what is due: where previews are
                # not there its first frame comes late, but nothing keeps it from its end.
                last = max(self._clock.now(), take.planned[-1][1])
                async with timeout_at(self._clock, last + self._settings.frame_gap_timeout):
                    frame = await _next_frame(take)
            run, source = self._new_token(), take.source
            self._on_stage = OnStage(
                action, run, source.provider, source.engine, source.set_id, cycle
            )
            self._asrun.begin(self._record(assignment, run, cycle, take))
            performance = self._stage.begin(
                wire.Run(run=run, cue=action.action_id, prompt=action.prompt, steps=take.steps)
            )
            outcome: Outcome = "cut"
            try:
                complete = await self._hand_over(take, performance, frame)
                outcome = "completed" if complete else "held"
            finally:
                performance.end(outcome)
                self._asrun.end(run, outcome, self._clock.now())
                self._metrics.runs.labels(provider=source.provider, outcome=outcome).inc()
        return take.ends_at or self._clock.now()

    def _long_past(self, assignment: Assignment, ended: float, cycle: int) -> bool:
        """Joined in the middle of a regenerating cue: whether a later cycle is on by now."""
        following = ended + pause_after(cycle)
        return (
            self._cycles_on
            and following <= self._clock.now()
            and not self._too_tight(assignment, following, ended - assignment.start)
        )

    async def _hand_over(self, take: Take, performance: Performance, frame: Frame) -> bool:
        """Give the stage every frame; whether the final image was among them, and was due."""
        run = performance.run
        while True:
            header = wire.Frame(
                run=run.run,
                cue=run.cue,
                step=frame.step,
                steps=frame.steps,
                final=frame.final,
                present_at=frame.due,
                media_type=frame.media_type,
            )
            performance.add(StageFrame.of(header, frame.image), self._clock.now())
            if frame.final:
                await self._clock.sleep_until(frame.due)
                return True
            while (full_until := performance.full_until(self._clock.now())) is not None:
                await self._clock.sleep_until(full_until)
            gap_ends = max(self._clock.now(), frame.due) + self._settings.frame_gap_timeout
            try:
                async with timeout_at(self._clock, gap_ends):
                    frame = await _next_frame(take)
            except (ProviderError, TimeoutError) as error:
                reason = str(error) or "no further frame in time"
                _log.warning("run_broke_off", action_id=run.cue, reason=reason)
                self._stage.tell(wire.Hold())
                return False

    def _record(self, assignment: Assignment, run: str, cycle: int, take: Take | None) -> RunRecord:
        action, source = assignment.action, take.source if take else None
        return RunRecord(
            run=run,
            activation="show",
            cue_index=action.cue_index,
            cue=assignment.cue,
            action_id=action.action_id,
            prompt=action.prompt,
            drawn_prompt=action.recipe.prompt,
            program=action.program,
            fingerprint=action.fingerprint,
            mode=assignment.mode,
            why=assignment.why,
            forced_by=None,
            provider=source.provider if source else "hold",
            engine=source.engine if source else None,
            set_id=source.set_id if source else None,
            set_hash=source.set_hash if source else None,
            seed=source.seed if source else None,
            started_at=assignment.start,
            position=assignment.position,
            cycle=cycle - 1,
            squeeze=source.squeeze if source else 1.0,
            planned=take.planned if take else (),
        )


async def _next_frame(take: Take) -> Frame:
    try:
        return await anext(take.frames)
    except StopAsyncIteration:
        raise ProviderError("it ended without a final image") from None
