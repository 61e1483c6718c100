"""One run: the climb up and down its ladder, and the take-over from rung to rung.

A run is one picture to the screens, whoever draws it: it has one token, its steps ascend,
and its frames never fall due before one another. Where a rung fails, the next one takes over
in the middle of it, as the artist decided (`failover`).
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import structlog

from generator.cues import Failover, Mode
from generator.plan import Action
from server import messages as wire
from server.asrun import AsRun, FailedOver, Outcome, RunRecord
from server.clock import Clock, timeout_at
from server.feed import Feed, Leftovers
from server.ladder import Decision, Rung
from server.metrics import Metrics
from server.modes import ModeManager
from server.numbering import Numbering
from server.providers.base import Frame, ProviderError, ProviderName, Slot, Take
from server.providers.timing import final_by
from server.sections import PlaybackSection
from server.stage import Outcome as Ending
from server.stage import Performance, Stage, StageFrame

_log = structlog.get_logger(__name__)

_JOINED: Final = 2.0
"""Seconds: a cue that began longer ago is joined in its middle."""

_SHARE_FOR_AN_ENGINE: Final = 0.5
"""Of the time there is, what engines may spend on a first frame while a set could still play."""


_WORTH_TRYING: Final = 1.0
"""Seconds that an engine must have to catch up, or it is not asked at all."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is to be performed, when, and why.

    Attributes:
        action: what is drawn.
        cue: the cue's content, for the log.
        start: steady time at which it begins, in the past to join it in the middle.
        position: seconds from the start of the screening.
        next_cue: steady time of the next generating cue, or the end; None for open.
        mode: the mode that the cue asks for, None for whichever is on.
        failover: where a take-over goes on, as the cue asks; None as the show has it.
        why: in words, where it is not simply its cue.
    """

    action: Action
    cue: Mapping[str, Any]
    start: float
    position: float
    next_cue: float | None
    mode: Mode | None = None
    failover: Failover | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class OnStage:
    """The run that is on: for the state."""

    action: Action
    run: str
    provider: ProviderName | Literal["hold"]
    engine: str | None
    set_id: int | None
    cycle: int


class TooLate(ProviderError):
    """A rung that may be sound, but the wall cannot wait for it."""


class LongPast(Exception):
    """Joined in the middle of a regenerating cue: a later cycle is on by now.

    Attributes:
        ended: steady time at which this one had ended.
    """

    def __init__(self, ended: float) -> None:
        super().__init__()
        self.ended = ended


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long a rung is waited for, in steady time.

    Attributes:
        first_frame_by: for its first frame, seen or not.
        shown_by: for the first that goes on screen, where the wall waits meanwhile.
    """

    first_frame_by: float
    shown_by: float = math.inf

    @property
    def to_first_frame(self) -> tuple[float, Exception]:
        """Until when, and what it is called if none comes."""
        if self.shown_by < self.first_frame_by:
            return self.shown_by, self.too_late
        return self.first_frame_by, TimeoutError("no frame in time")

    @property
    def too_late(self) -> TooLate:
        """The wall cannot wait any longer; that is not the rung's fault."""
        return TooLate("it could not catch up in time")


@dataclass
class _Run:
    """The run being performed: what is known of it so far."""

    token: str
    assignment: Assignment
    decision: Decision
    cycle: int
    failover: Failover
    end: float | None
    """Steady time by which its final image should be on the wall."""

    rung: Rung | None = None
    take: Take | None = None
    performance: Performance | None = None
    numbering: Numbering | None = None
    begun_by: tuple[Rung, Take] | None = None
    """What gave its first frame."""
    last_due: float = 0.0
    noted: bool = False
    setbacks: list[FailedOver] = field(default_factory=list)
    untold: FailedOver | None = None
    """The last of them, until it is known what took over."""

    @property
    def share(self) -> float:
        """How much of the picture the screens have been given; 0 where it is drawn anew."""
        if self.numbering is None or self.failover == "restart":
            return 0.0
        return self.numbering.share

    def slot(self) -> Slot:
        """Where the next take has its place."""
        if self.performance is None:
            return Slot(self.assignment.start, self.end)
        return Slot(self.last_due, self.end, self.share)


class Runs:
    """Performs runs, one at a time.

    Args:
        stage: where frames go.
        clock: what they are due by.
        modes: decides what each run is played from.
        settings: timeouts and failover.
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
        modes: ModeManager,
        settings: PlaybackSection,
        crossfade: float,
        asrun: AsRun,
        metrics: Metrics,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(9),
    ) -> None:
        self._stage = stage
        self._clock = clock
        self._modes = modes
        self._settings = settings
        self._crossfade = crossfade
        self._asrun = asrun
        self._metrics = metrics
        self._new_token = new_token
        self._leftovers = Leftovers()
        self._on_stage: OnStage | None = None

    @property
    def on_stage(self) -> OnStage | None:
        """What is being performed, or was last."""
        return self._on_stage

    async def aclose(self) -> None:
        """Wait until what the runs began has ended."""
        await self._leftovers.aclose()

    async def perform(
        self, assignment: Assignment, cycle: int, long_past: Callable[[float], bool]
    ) -> float:
        """Perform `assignment` once; the steady time at which it ended.

        Args:
            assignment: what.
            cycle: which time it is, from 1.
            long_past: whether a run that ended at a steady time need not be shown any more.
        """
        run = self._begin(assignment, cycle)
        ending: Ending = "cut"
        try:
            ending = await self._climb(run, long_past)
        except LongPast as past:
            return past.ended
        finally:
            self._end(run, ending)
        return run.last_due if ending == "completed" else self._clock.now()

    def _begin(self, assignment: Assignment, cycle: int) -> _Run:
        joined = self._clock.now() - assignment.start > _JOINED
        decision = self._modes.decide(assignment.action, assignment.mode, joined=joined)
        end = None
        if assignment.next_cue is not None:
            end = final_by(assignment.start, assignment.next_cue, self._crossfade)
        return _Run(
            token=self._new_token(),
            assignment=assignment,
            decision=decision,
            cycle=cycle,
            failover=assignment.failover or self._settings.failover,
            end=end,
        )

    def _end(self, run: _Run, ending: Ending) -> None:
        if not run.noted:
            return  # nothing came of it, and nobody has been told
        outcome: Outcome = ending
        if ending == "completed" and run.setbacks:
            outcome = "failed over"
        if run.performance is not None:
            run.performance.end(ending)
        self._tell_setback(run)
        self._asrun.end(run.token, outcome, self._clock.now())
        provider = run.rung.provider if run.rung is not None else "hold"
        self._metrics.runs.labels(provider=provider, outcome=outcome).inc()

    # ------------------------------------------------------------ the ladder

    async def _climb(self, run: _Run, long_past: Callable[[float], bool]) -> Ending:
        """Try rung after rung until one has given the final image.

        A rung that the wall could not wait for is asked again once those below it have
        given nothing either.
        """
        rungs, set_aside = deque(run.decision.rungs), deque[Rung]()
        while rungs or set_aside:
            if not rungs:
                rungs, set_aside = set_aside, rungs
            rung = rungs.popleft()
            try:
                await self._play(run, rung, rungs, long_past)
            except LongPast:
                raise
            except TooLate as error:
                set_aside.append(rung)
                self._set_back(run, rung, (*rungs, *set_aside), error)
            except Exception as error:  # noqa: BLE001 - the rungs below are none the worse for it
                if not isinstance(error, (ProviderError, TimeoutError)):
                    # A mistake of ours, or of an engine's.
                    _log.exception("run_failed", action_id=run.assignment.action.action_id)
                self._modes.failed(rung, run.assignment.action, error)
                self._set_back(run, rung, (*rungs, *set_aside), error)
            else:
                return "completed"
            if run.performance is not None and run.failover == "hold":
                break
        self._hold(run)
        return "held"

    async def _play(
        self, run: _Run, rung: Rung, below: Iterable[Rung], long_past: Callable[[float], bool]
    ) -> None:
        """Play the run, or the rest of it, from one rung up to its final image."""
        patience = self._patience(run, rung, below)
        run.rung, run.take = rung, None
        provider = self._modes.provider(rung)
        async with self._feed(Feed(provider, run.assignment.action, run.slot())) as feed:
            async with self._within(*patience.to_first_frame):
                take = await feed.opened()
                if take.ends_at is not None and run.performance is None and long_past(take.ends_at):
                    raise LongPast(take.ends_at)
                run.take = take
                self._note(run)
                self._tell_setback(run, take)
                frame = await feed.frame()
            shown = False
            while True:
                shown = self._show(run, rung, take, frame) or shown
                if frame.final:
                    self._modes.gave(rung)
                    await self._clock.sleep_until(run.last_due)
                    return
                await self._until_there_is_room(run)
                gap_ends = self._gap_ends(take, frame)
                if not shown and patience.shown_by < gap_ends:
                    limit = self._within(patience.shown_by, patience.too_late)
                else:
                    limit = self._within(gap_ends, TimeoutError("no further frame in time"))
                async with limit:
                    frame = await feed.frame()

    @asynccontextmanager
    async def _feed(self, feed: Feed) -> AsyncIterator[Feed]:
        try:
            yield feed
        finally:
            self._leftovers.add(feed.drop())

    @asynccontextmanager
    async def _within(self, when: float, otherwise: Exception) -> AsyncIterator[None]:
        try:
            async with timeout_at(self._clock, when):
                yield
        except TimeoutError:
            raise otherwise from None

    async def _until_there_is_room(self, run: _Run) -> None:
        """Wait while the stage has more frames ahead of their time than it should keep."""
        if run.performance is not None:
            while (full_until := run.performance.full_until(self._clock.now())) is not None:
                await self._clock.sleep_until(full_until)

    # ------------------------------------------------------------ how long it is waited for

    def _patience(self, run: _Run, rung: Rung, below: Iterable[Rung]) -> _Patience:
        """The rung's own, unless a set that is sure stands below it and the wall waits.

        Raises:
            TooLate: there is none left.
        """
        now, timeouts = self._clock.now(), self._settings.first_frame_timeout
        begins = max(now, run.assignment.start)
        if rung.provider == "static":
            return _Patience(begins + timeouts.static)
        by = begins + timeouts.live
        if not any(other.provider == "static" for other in below):
            return _Patience(by)
        if run.performance is None:
            if run.end is not None:
                by = min(by, begins + max(0.0, run.end - begins) * _SHARE_FOR_AN_ENGINE)
            return _Patience(by)
        # Drawn from the noise, it would have to catch up unseen: as long as no gap shows.
        shown_by = run.last_due + self._settings.frame_gap_timeout
        if shown_by - now < _WORTH_TRYING:
            raise TooLate("the wall has waited long enough for engines")
        return _Patience(by, shown_by)

    def _gap_ends(self, take: Take, frame: Frame) -> float:
        """Until when the next frame must be here.

        Of a take with a plan that is measured against the plan: a step that was recorded
        slow is no failure.
        """
        following = next((due for step, due in take.planned if step > frame.step), 0.0)
        return max(self._clock.now(), following) + self._settings.frame_gap_timeout

    # ------------------------------------------------------------ what is seen and written down

    def _show(self, run: _Run, rung: Rung, take: Take, frame: Frame) -> bool:
        """Give the stage a frame; whether it was given, and not passed over as too early."""
        if run.performance is None or run.numbering is None:
            run.begun_by = (rung, take)
            run.numbering = Numbering(frame.steps)
            action = run.assignment.action
            run.performance = self._stage.begin(
                wire.Run(
                    run=run.token,
                    cue=action.action_id,
                    prompt=action.prompt,
                    steps=frame.steps,
                )
            )
            for number, due in take.planned:
                self._asrun.planned(run.token, number, due)
        elif _too_early(run, take, frame):
            return False
        step, steps = run.numbering.number(frame.step, frame.steps, final=frame.final)
        run.last_due = max(run.last_due, frame.due)
        header = wire.Frame(
            run=run.token,
            cue=run.assignment.action.action_id,
            step=step,
            steps=steps,
            final=frame.final,
            present_at=run.last_due,
            media_type=frame.media_type,
        )
        run.performance.add(StageFrame.of(header, frame.image), self._clock.now())
        if (step, run.last_due) not in take.planned:
            self._asrun.planned(run.token, step, run.last_due)
        return True

    def _set_back(self, run: _Run, rung: Rung, others: Sequence[Rung], error: Exception) -> None:
        """A rung has failed: say so, and who takes over."""
        held = not others or (run.performance is not None and run.failover == "hold")
        setback = FailedOver(
            at=self._clock.now(),
            step=run.numbering.last if run.numbering else 0,
            from_=str(rung),
            to="hold" if held else str(others[0]),
            reason=str(error) or type(error).__name__,
        )
        action_id = run.assignment.action.action_id
        _log.warning("rung_failed", action_id=action_id, **setback.row())
        run.take = None
        self._note(run)
        self._tell_setback(run)
        run.setbacks.append(setback)
        run.untold = setback

    def _tell_setback(self, run: _Run, took_over: Take | None = None) -> None:
        """Write down the last setback, with what took over, where something has."""
        if run.untold is None:
            return
        if took_over is not None:
            source = took_over.source
            run.untold = replace(
                run.untold,
                engine=source.engine,
                set_id=source.set_id,
                set_hash=source.set_hash,
                seed=source.seed,
            )
        self._asrun.failover(run.token, run.untold)
        run.untold = None

    def _hold(self, run: _Run) -> None:
        """No rung is left: the picture that is there stays."""
        if run.performance is None:
            run.rung = run.take = None
            self._note(run)
        self._stage.tell(wire.Hold())

    def _note(self, run: _Run) -> None:
        """Write down what is known of the run by now."""
        run.noted = True
        action, assignment, decision = run.assignment.action, run.assignment, run.decision
        self._on_stage = _on_stage(run)
        rung, take = run.begun_by or (run.rung, run.take)
        made = take.source if take is not None else None
        why = [decision.why, assignment.why]
        if run.rung is None:
            why += [f"{setback.from_}: {setback.reason}" for setback in run.setbacks]
        self._asrun.begin(
            RunRecord(
                run=run.token,
                activation="show",
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
                engine=made.engine if made else None,
                set_id=made.set_id if made else None,
                set_hash=made.set_hash if made else None,
                seed=made.seed if made else None,
                started_at=assignment.start,
                position=assignment.position,
                cycle=run.cycle - 1,
                squeeze=made.squeeze if made else 1.0,
            )
        )


def _on_stage(run: _Run) -> OnStage:
    source = run.take.source if run.take is not None else None
    engine = run.rung.engine if run.rung is not None else None
    return OnStage(
        action=run.assignment.action,
        run=run.token,
        provider=run.rung.provider if run.rung is not None else "hold",
        engine=engine or (source.engine if source is not None else None),
        set_id=source.set_id if source is not None else None,
        cycle=run.cycle,
    )


def _too_early(run: _Run, take: Take, frame: Frame) -> bool:
    """Whether a frame of a take that took over would take the picture back."""
    took_over = run.begun_by is None or run.begun_by[1] is not take
    return took_over and not frame.final and frame.step / frame.steps <= run.share
