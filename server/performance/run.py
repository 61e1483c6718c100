"""One run, as the screens and the as-run log know it, whoever plays it.

A run is one picture to the screens: it has one token, its steps ascend, its frames never
fall due before one another, and the share of the picture that is done never falls. What it
is played by may change in the middle; that is told to the log and nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog

from generator.sheet.cues import Failover, Mode
from generator.sheet.plan import Action
from server.asrun.log import AsRun
from server.asrun.record import Activation, FailedOver, Outcome, RunRecord
from server.core.metrics import Metrics
from server.modes.ladder import Decision, Rung
from server.performance.numbering import Numbering
from server.providers.base import Frame, FrameStream, ProviderName, Slot
from server.stage import messages as wire
from server.stage.stage import Ending, Performance, Stage, StageFrame

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is to be performed, when, and why.

    Attributes:
        action: what is drawn.
        cue: the cue's content, for the log.
        start: steady time at which it begins: in the past to join it in the middle, to come
            while its text is still being typed.
        position: that, in seconds from the start of the screening.
        next_cue: steady time of the next generating cue, or the end; None for open.
        mode: the mode that the cue asks for, None for whichever is on.
        failover: where a takeover goes on, as the cue asks; None as the show has it.
        why: in words, where it is not simply its cue.
        before: what is on the wall until it begins, where the stage was set in between.
    """

    action: Action
    cue: Mapping[str, Any]
    start: float
    position: float
    next_cue: float | None
    mode: Mode | None = None
    failover: Failover | None = None
    why: str = ""
    before: Assignment | None = None


@dataclass(frozen=True, slots=True)
class OnStage:
    """The run that is on: for the state."""

    action: Action
    run: str
    provider: ProviderName | Literal["hold"]
    engine: str | None
    set_id: int | None
    cycle: int


@dataclass(frozen=True, slots=True)
class Reports:
    """Where a run is seen, written down and counted."""

    stage: Stage
    asrun: AsRun
    metrics: Metrics
    activation: Activation = "show"


class Run:
    """The run being performed.

    Args:
        token: never repeats.
        assignment: what is performed.
        decision: what it is played from, and why.
        cycle: which time it is, from 1.
        failover: where in the picture a takeover goes on.
        end: steady time by which its final image should be on the wall; None for open.
        reports: where it is seen, written down and counted.
    """

    def __init__(
        self,
        token: str,
        assignment: Assignment,
        decision: Decision,
        *,
        cycle: int,
        failover: Failover,
        end: float | None,
        reports: Reports,
    ) -> None:
        self.assignment = assignment
        self.decision = decision
        self.failover = failover
        self.end = end
        self._token = token
        self._cycle = cycle
        self._reports = reports
        self._rung: Rung | None = None
        self._stream: FrameStream | None = None
        self._first: tuple[Rung, FrameStream] | None = None  # what gave its first frame
        self._performance: Performance | None = None
        self._numbering: Numbering | None = None
        self._last_due = assignment.start
        self._noted = False
        self._setbacks: list[FailedOver] = []
        self._untold: FailedOver | None = None  # the last of them, until something has taken over

    @property
    def action(self) -> Action:
        """What is drawn."""
        return self.assignment.action

    @property
    def begun(self) -> bool:
        """Whether a frame of it has been given to the screens."""
        return self._performance is not None

    @property
    def last_due(self) -> float:
        """Steady time of its last frame; of its beginning, where none was given yet."""
        return self._last_due

    @property
    def share(self) -> float:
        """How much of the picture the screens have been given; 0 where it is drawn anew."""
        if self._numbering is None or self.failover == "restart":
            return 0.0
        return self._numbering.share

    @property
    def slot(self) -> Slot:
        """Where the next stream has its place."""
        fresh = not self.begun and not self._setbacks
        return Slot(self._last_due, self.end, self.share, leads_in=fresh)

    @property
    def broken_off_for_good(self) -> bool:
        """Whether, now that something has failed, the picture is to stay as it is."""
        return self.begun and self.failover == "hold"

    def full_until(self, now: float) -> float | None:
        """Until when the stage wants no more frames ahead of their time; None if it does."""
        return self._performance.full_until(now) if self._performance is not None else None

    # ------------------------------------------------------------ what happens to it

    def ask(self, rung: Rung) -> None:
        """A rung is to play it, or the rest of it."""
        self._rung, self._stream = rung, None

    def opened(self, stream: FrameStream) -> None:
        """The rung that was asked has opened a stream."""
        self._stream = stream
        self._note()
        self._tell_setback(stream)

    def show(self, stream: FrameStream, frame: Frame) -> bool:
        """Give the screens a frame of a stream; whether it was given.

        It is passed over where it would take the picture back behind what a stream before
        this one has shown.
        """
        if self._performance is None or self._numbering is None:
            self._performance, self._numbering = self._begin(stream, frame.steps)
        elif self._too_early(stream, frame):
            return False
        step, steps = self._numbering.number(frame.step, frame.steps, final=frame.final)
        self._last_due = max(self._last_due, frame.due)
        header = wire.FrameHeader(
            run=self._token,
            cue=self.action.action_id,
            step=step,
            steps=steps,
            final=frame.final,
            present_at=self._last_due,
            media_type=frame.media_type,
        )
        stage = self._reports.stage
        self._performance.add(
            StageFrame.of(header, frame.image, stage.time_scale), stage.clock.now()
        )
        self._reports.asrun.planned(self._token, step, self._last_due)
        return True

    def _begin(self, stream: FrameStream, steps: int) -> tuple[Performance, Numbering]:
        if self._rung is not None:
            self._first = (self._rung, stream)
        # A stream that joins in its middle brings frames that were due before it was opened.
        self._last_due = -math.inf
        message = wire.RunStarted(
            run=self._token, cue=self.action.action_id, prompt=self.action.prompt, steps=steps
        )
        for step, due in stream.planned:
            self._reports.asrun.planned(self._token, step, due)
        return self._reports.stage.begin(message), Numbering(steps)

    def _too_early(self, stream: FrameStream, frame: Frame) -> bool:
        took_over = self._first is None or self._first[1] is not stream
        return took_over and not frame.final and frame.step / frame.steps <= self.share

    def set_back(self, rung: Rung, to: Rung | None, error: Exception, at: float) -> None:
        """A rung has failed, and gives way to another, or to the picture that is there."""
        setback = FailedOver(
            at=at,
            step=self._numbering.last if self._numbering is not None else 0,
            from_=str(rung),
            to="hold" if to is None else str(to),
            reason=str(error) or type(error).__name__,
        )
        _log.warning("rung_failed", action_id=self.action.action_id, **setback.row())
        self._reports.metrics.setbacks.labels(rung=setback.from_).inc()
        self._stream = None
        if not self.begun:
            # Nothing of it has been seen: it begins now, and not in its middle.
            self._last_due = max(self._last_due, at)
        self._note()
        self._tell_setback()
        self._setbacks.append(setback)
        self._untold = setback

    def hold(self) -> None:
        """Nothing is left to play it: the picture that is there stays."""
        if not self.begun:
            self._rung = self._stream = None
            self._note()
        self._reports.stage.hold()

    def over(self, ending: Ending, at: float) -> None:
        """It has ended, at `at` steady seconds."""
        if not self._noted:
            return  # nothing came of it, and nobody has been told
        outcome: Outcome = ending
        if ending == "completed" and self._setbacks:
            outcome = "failed over"
        if self._performance is not None:
            self._performance.end(ending)
        self._tell_setback()
        self._reports.asrun.end(self._token, outcome, at)
        provider = self._rung.provider if self._rung is not None else "hold"
        self._reports.metrics.runs.labels(provider=provider, outcome=outcome).inc()

    # ------------------------------------------------------------ what is known of it

    @property
    def on_stage(self) -> OnStage | None:
        """What it is played by now; None before there is anything to tell."""
        if not self._noted:
            return None
        source = self._stream.source if self._stream is not None else None
        engine = self._rung.engine if self._rung is not None else None
        return OnStage(
            action=self.action,
            run=self._token,
            provider=self._rung.provider if self._rung is not None else "hold",
            engine=engine or (source.engine if source is not None else None),
            set_id=source.set_id if source is not None else None,
            cycle=self._cycle,
        )

    def _tell_setback(self, took_over: FrameStream | None = None) -> None:
        """Write down the last setback, with what took over, where something has."""
        if self._untold is None:
            return
        if took_over is not None:
            source = took_over.source
            self._untold = replace(
                self._untold,
                engine=source.engine,
                set_id=source.set_id,
                set_hash=source.set_hash,
                seed=source.seed,
            )
        self._reports.asrun.failover(self._token, self._untold)
        self._untold = None

    def _note(self) -> None:
        """Write down what is known by now: of what gave its first frame, once something has."""
        self._noted = True
        action, assignment, decision = self.action, self.assignment, self.decision
        rung, stream = self._first or (self._rung, self._stream)
        source = stream.source if stream is not None else None
        why = [decision.why, assignment.why]
        if rung is None:
            why += [f"{setback.from_}: {setback.reason}" for setback in self._setbacks]
        self._reports.asrun.begin(
            RunRecord(
                run=self._token,
                activation=self._reports.activation,
                cue_index=action.cue_index,
                cue=assignment.cue,
                action_id=action.action_id,
                prompt=action.prompt,
                drawn_prompt=action.recipe.prompt,
                program=action.program,
                fingerprint=action.fingerprint,
                mode=decision.mode,
                why="; ".join(part for part in why if part),
                forced_by=decision.forced_by,
                provider=rung.provider if rung is not None else "hold",
                engine=source.engine if source is not None else None,
                set_id=source.set_id if source is not None else None,
                set_hash=source.set_hash if source is not None else None,
                seed=source.seed if source is not None else None,
                started_at=assignment.start,
                position=assignment.position,
                cycle=self._cycle - 1,
                squeeze=source.squeeze if source is not None else 1.0,
            )
        )
