"""Performs runs: the climb down a run's ladder, from rung to rung.

Each rung is given its time. Where it fails, the next one takes over in the middle of the
run, as the artist decided; when none is left, the picture that is there stays.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from generator.sheet.plan import Action
from server.config.sections import PlaybackSection
from server.core.clock import Clock, timeout_at
from server.modes.ladder import Rung
from server.modes.manager import ModeManager
from server.performance.progress import ShowProgress
from server.performance.run import Assignment, OnStage, Reports, Run
from server.performance.stream_reader import DrainingTasks, StreamReader
from server.providers.base import Frame, FrameStream, ProviderError
from server.providers.timing import final_by
from server.stage.stage import Ending

_log = structlog.get_logger(__name__)

_JOINED: Final = 2.0
"""Seconds: a cue that began longer ago is joined in its middle."""

_FOR_AN_ENGINE: Final = 0.5
"""Of the time there is, what an engine may take to its first frame while a set could still play."""

_WORTH_TRYING: Final = 1.0
"""Seconds that an engine must have to catch up, or it is not asked at all."""

IsSuperseded = Callable[[float], bool]
"""Whether a run that ended at a steady time need not be shown any more: another is on by now."""


class TooLate(ProviderError):
    """A rung that may be sound, but the wall cannot wait for it."""


class _RunSuperseded(Exception):
    """A run that need not be shown any more; it had `ended` at that steady time."""

    def __init__(self, ended: float) -> None:
        super().__init__()
        self.ended = ended


@dataclass(frozen=True, slots=True)
class _Deadlines:
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


class Runs:
    """Performs runs, one at a time.

    Args:
        clock: what frames are due by.
        modes: decides what each run is played from.
        settings: timeouts and failover.
        crossfade: seconds that a final image wants before the next run begins.
        reports: where runs are seen, written down and counted.
        progress: is told how each run fared.
        new_token: makes run tokens, which never repeat.
        under_its_id: an action under the id that its sets have now: a cue that is drawn again and
            again may outlast a change of it.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        modes: ModeManager,
        settings: PlaybackSection,
        crossfade: float,
        reports: Reports,
        progress: ShowProgress,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(9),
        under_its_id: Callable[[Action], Action] = lambda action: action,
    ) -> None:
        self._clock = clock
        self._modes = modes
        self._settings = settings
        # An engine, a disk and a wall that waits have real time; a rehearsal's may be another.
        self._frame_gap = clock.stretch(settings.frame_gap_timeout)
        self._crossfade = crossfade
        self._reports = reports
        self._progress = progress
        self._mistake: Exception | None = None
        self._waits_until: float | None = None
        self._new_token = new_token
        self._under_its_id = under_its_id
        self._draining = DrainingTasks()
        self._run: Run | None = None
        self._was_on: OnStage | None = None

    @property
    def on_stage(self) -> OnStage | None:
        """What is being performed, or was last."""
        return (self._run.on_stage if self._run is not None else None) or self._was_on

    @property
    def waits_until(self) -> float | None:
        """Steady time until which it may take before anything more happens; None between runs."""
        return self._waits_until

    async def aclose(self) -> None:
        """Wait until what the runs began has ended."""
        await self._draining.aclose()

    async def perform(
        self, assignment: Assignment, cycle: int, is_superseded: IsSuperseded
    ) -> float:
        """Perform `assignment` once, for the `cycle`th time; the steady time at which it ended."""
        self._was_on = self.on_stage
        assignment = replace(assignment, action=self._under_its_id(assignment.action))
        run = self._run = self._prepare(assignment, cycle)
        ending: Ending = "cut"
        passed_over = False
        self._mistake = None
        try:
            ending = await self._climb(run, is_superseded)
        except _RunSuperseded as superseded:
            passed_over = True
            return superseded.ended
        finally:
            self._waits_until = None
            run.over(ending, self._clock.now())
            self._progress.run_over(
                run.action.action_id,
                reached=run.begun,
                mistake=self._mistake,
                cut=ending == "cut" and not passed_over,
            )
        return run.last_due if ending == "completed" else self._clock.now()

    def _prepare(self, assignment: Assignment, cycle: int) -> Run:
        joined = self._clock.now() - assignment.start > self._clock.stretch(_JOINED)
        end = None
        if assignment.next_cue is not None:
            end = final_by(assignment.start, assignment.next_cue, self._crossfade)
        return Run(
            self._new_token(),
            assignment,
            self._modes.decide(assignment.action, assignment.mode, joined=joined),
            cycle=cycle,
            failover=assignment.failover or self._settings.failover,
            end=end,
            reports=self._reports,
        )

    # ------------------------------------------------------------ the ladder

    async def _climb(self, run: Run, is_superseded: IsSuperseded) -> Ending:
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
                await self._play(run, rung, rungs, is_superseded)
            except _RunSuperseded:
                raise
            except Exception as error:  # noqa: BLE001 - the rungs below are none the worse for it
                if isinstance(error, TooLate):
                    set_aside.append(rung)
                else:
                    self._failed(run, rung, error)
                following = (
                    None if run.broken_off_for_good else next(iter((*rungs, *set_aside)), None)
                )
                run.set_back(rung, following, error, self._clock.now())
                if run.broken_off_for_good:
                    break
            else:
                return "completed"
        run.hold()
        return "held"

    def _failed(self, run: Run, rung: Rung, error: Exception) -> None:
        if not isinstance(error, (ProviderError, TimeoutError)):
            # A mistake of ours, or of an engine's.
            _log.exception("run_failed", action_id=run.action.action_id)
            self._mistake = error
        self._modes.failed(rung, run.action, error)

    async def _play(
        self, run: Run, rung: Rung, below: Iterable[Rung], is_superseded: IsSuperseded
    ) -> None:
        """Play the run, or the rest of it, from one rung up to its final image."""
        deadlines = self._deadlines(run, rung, below)
        run.ask(rung)
        async with self._reader(
            StreamReader(self._modes.provider(rung), run.action, run.slot)
        ) as reader:
            async with self._within(*deadlines.to_first_frame):
                stream = await reader.opened()
                if stream.ends_at is not None and not run.begun and is_superseded(stream.ends_at):
                    raise _RunSuperseded(stream.ends_at)
                run.opened(stream)
                frame = None if stream.planned else await reader.frame()
            if frame is None:
                # Its final image is in hand, and it knows when what is due: where previews are
                # not there its first frame comes late, but nothing keeps it from its end.
                by = max(self._clock.now(), stream.planned[-1][1]) + self._frame_gap
                async with self._within(by, TimeoutError("no frame in time")):
                    frame = await reader.frame()
            seen = run.show(stream, frame)
            while not frame.final:
                await self._until_there_is_room(run)
                async with self._within(*self._to_next_frame(stream, frame, deadlines, seen=seen)):
                    frame = await reader.frame()
                seen = run.show(stream, frame) or seen
            self._modes.succeeded(rung)
            await self._sleep_until(run.last_due)

    @asynccontextmanager
    async def _reader(self, reader: StreamReader) -> AsyncIterator[StreamReader]:
        """Left, it closes in its own time."""
        try:
            yield reader
        finally:
            self._draining.add(reader.drop())

    @asynccontextmanager
    async def _within(self, when: float, otherwise: Exception) -> AsyncIterator[None]:
        """Raise `otherwise` in place of the body once it is `when`."""
        self._waits_until = when
        try:
            async with timeout_at(self._clock, when):
                yield
        except TimeoutError:
            raise otherwise from None

    async def _until_there_is_room(self, run: Run) -> None:
        """Wait while the stage has more frames ahead of their time than it should keep."""
        while (full_until := run.full_until(self._clock.now())) is not None:
            await self._sleep_until(full_until)

    async def _sleep_until(self, when: float) -> None:
        self._waits_until = when
        await self._clock.sleep_until(when)

    # ------------------------------------------------------------ how long it is waited for

    def _deadlines(self, run: Run, rung: Rung, below: Iterable[Rung]) -> _Deadlines:
        """The rung's own, unless a set that is sure stands below it and the wall waits.

        Raises:
            TooLate: there is none left.
        """
        now, timeouts = self._clock.now(), self._settings.first_frame_timeout
        begins = max(now, run.assignment.start)
        if rung.provider == "static":
            return _Deadlines(begins + self._clock.stretch(timeouts.static))
        by = begins + self._clock.stretch(timeouts.live)
        a_set_below = any(other.provider == "static" for other in below)
        if not a_set_below or self._modes.sets(run.action) != "ready":
            return _Deadlines(by)
        if not run.begun:
            if run.end is not None:
                by = min(by, begins + max(0.0, run.end - begins) * _FOR_AN_ENGINE)
            return _Deadlines(by)
        # Drawn from the noise, it would have to catch up unseen: as long as no gap shows.
        shown_by = run.last_due + self._frame_gap
        if shown_by - now < self._clock.stretch(_WORTH_TRYING):
            raise TooLate("the wall has waited long enough for engines")
        return _Deadlines(by, shown_by)

    def _to_next_frame(
        self, stream: FrameStream, frame: Frame, deadlines: _Deadlines, *, seen: bool
    ) -> tuple[float, Exception]:
        """Until when the frame after `frame` must be here, and what it is called if it is not.

        Of a stream with a plan that is measured against the plan: a step that was recorded
        slow is no failure.
        """
        planned = next((due for step, due in stream.planned if step > frame.step), 0.0)
        gap_ends = max(self._clock.now(), planned) + self._frame_gap
        if not seen and deadlines.shown_by < gap_ends:
            return deadlines.shown_by, deadlines.too_late
        return gap_ends, TimeoutError("no further frame in time")
