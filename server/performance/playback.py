"""Drives the show: asks the playhead what is due, and makes it happen on stage.

Owns the performance of a show from start to end. It decides nothing about time (the
playhead does) and nothing about pictures (the performer does); it turns cues into what
screens are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from cache.tasks import first_of
from generator.sheet.cues import CueSheet, format_time
from generator.sheet.plan import Action, Plan
from server.config.show import Show
from server.core.clock import Clock
from server.core.conditions import Condition
from server.core.formatting import moment
from server.core.metrics import Metrics
from server.core.time_of_day import local_text, read
from server.modes.manager import ModeManager
from server.performance.cue_messages import CueMessages
from server.performance.performer import Performer
from server.performance.progress import ShowProgress
from server.performance.run import Assignment
from server.performance.state_file import Panic
from server.stage import messages as wire
from server.stage.stage import Stage
from server.timeline.beginnings import Beginnings
from server.timeline.playhead import Ended, Event, Fired, Jumped, Playhead, Started, Status
from server.timeline.tableau import tableau_at

_log = structlog.get_logger(__name__)

LOOK_IN = 0.5
"""Seconds after which the playhead is asked at the latest, to notice a clock that was set."""

_MAY_LAG = 5.0
"""Seconds that performing may be late with anything before it is believed to hang."""

_NO_PAUSE = 1.0
"""Seconds: a shorter pause between two screenings is none."""

_LOBBY_TAKES = 4.0
"""Seconds in which a screen has put its lobby before the stage."""

PANIC_TAKES = 1.0
"""Seconds in which a panic has every screen black, and in which light comes back after it."""

_CURTAIN_WAITS = 0.3
"""Seconds in which a picture is loaded and hung behind the curtain."""


class Playback:
    """Plays a show on a stage.

    Others read its `plan`, `playhead` and `performer`; moves go through the methods here.

    Args:
        show: what is played.
        plan: its actions.
        playhead: where it is.
        clock: the time.
        stage: where it is seen.
        performer: draws its pictures there.
        modes: is told which cues and screenings begin and end.
        progress: is told how cues fare.
        metrics: where it is counted.
        beginnings: when each cue's picture begins, and how its text is typed.
        moved: called when a cue fired or the show was moved, so that others look ahead anew.
        panic: the wall was made black before a restart, and is to stay so.
        look_in: seconds after which the playhead is asked at the latest.
    """

    def __init__(
        self,
        *,
        show: Show,
        plan: Plan,
        playhead: Playhead,
        clock: Clock,
        stage: Stage,
        performer: Performer,
        modes: ModeManager,
        progress: ShowProgress,
        metrics: Metrics,
        beginnings: Beginnings,
        moved: Callable[[], None] = lambda: None,
        panic: Panic | None = None,
        look_in: float = LOOK_IN,
    ) -> None:
        self._look_in = look_in
        self._moved = moved
        self._show = show
        self._sheet: CueSheet = show.sheet
        self.plan = plan
        self.playhead = playhead
        self._clock = clock
        self._stage = stage
        self.performer = performer
        self._modes = modes
        self._progress = progress
        self._metrics = metrics
        self._beginnings = beginnings
        self._cues = CueMessages(show.sheet, plan, beginnings, show.settings.display.fade)
        self._nudged = asyncio.Event()
        self._looked_at = clock.now()
        self._panic = panic
        self._panicked_at: float | None = None
        if panic is not None:
            stage.darken(0.0)

    @property
    def panicked(self) -> Panic | None:
        """Who made the wall black and when, while it is to stay so."""
        return self._panic

    @property
    def panicked_at(self) -> float | None:
        """Steady time of a panic in this life of the server: the clock may have been set since."""
        return self._panicked_at if self._panic is not None else None

    async def run(self) -> None:
        """Play until cancelled."""
        try:
            while True:
                now = self._clock.now()
                self._looked_at = now
                self._apply(self.playhead.tick(*read(self._clock)))
                self._announce()
                self.performer.look()
                await self._sleep_until(min(self.playhead.wake_at(now), now + self._look_in))
        finally:
            self._stage.let_go()  # whatever ends us, no picture is to stop half drawn for it
            await self.performer.aclose()

    def stuck_for(self) -> float:
        """Seconds by which the show is behind what it should have done; 0 when all is well."""
        now = self._clock.now()
        not_looked = now - self._looked_at - 2 * self._look_in
        hangs = self.performer.late_for(now) - self._clock.stretch(_MAY_LAG)
        return max(0.0, not_looked, hangs)

    def stands_still(self) -> str | None:
        """Why the show does not move, or moves in name only, in words; None where it moves.

        It moves where its cues fire, and what they begin reaches the stage.
        """
        behind = self.stuck_for()
        if behind > 0:
            wall = self._clock.wall()
            since = moment(wall - behind, wall, self._show.timezone)
            return f"the show has not moved since {since}"
        return self._progress.in_vain

    def conditions(self) -> Iterable[Condition]:
        """That the show stands still, and what of it has failed and has not gone well since."""
        reason = self.stands_still()
        if reason is not None:
            yield Condition("show_stands_still", "failing", reason, blocks_ready=True)
        yield from self._progress.conditions()

    # ------------------------------------------------------------ somebody decides

    def go(self, index: int | None = None) -> None:
        """Fire the standby cue, or cue `index`. Raises `PlayheadError`, as all moves do."""
        self._move(self.playhead.go(self._clock.now(), index))

    def next(self) -> None:
        """Go to the next cue that draws."""
        self._move(self.playhead.next(self._clock.now()))

    def previous(self) -> None:
        """Go back to the cue that is being drawn, or the one before it."""
        self._move(self.playhead.previous(self._clock.now()))

    def stand_by(self, index: int) -> None:
        """Make cue `index` what the next `go` fires."""
        self.playhead.stand_by(index)
        self._moved()

    def seek(self, position: float) -> None:
        """Go to `position`, in seconds from the start of the screening."""
        self._move(self.playhead.seek(position, self._clock.now()))

    def pause(self) -> None:
        """Stop the position; what is being drawn is finished."""
        self.playhead.pause(self._clock.now())
        self._move([])

    def resume(self) -> None:
        """Play on."""
        self.playhead.resume(self._clock.now())
        self._move([])

    def rejoin(self) -> None:
        """Go back to where the schedule is now."""
        self._move(self.playhead.rejoin(*read(self._clock)))

    @property
    def current(self) -> Action | None:
        """What the picture on the wall is of, where a screening is on."""
        if self.playhead.status != "active":
            return None
        index = tableau_at(self._sheet, self.playhead.cursor).generating
        return None if index is None else self.plan.of_cue(index)

    def regenerate(self, why: str = "drawn again by hand") -> bool:
        """Draw the current cue's picture again, now; whether there is one.

        While it is still being typed, it begins with the last letter all the same.
        """
        action, now = self.current, self._clock.now()
        position = self.playhead.position(now)
        if action is None or position is None or self._panic is not None:
            return False
        start = max(now, self.performer.begins_at or now)
        assignment = self._assignment(action, start, now - position + action.at, why)
        self.performer.perform(assignment)
        if not tableau_at(self._sheet, self.playhead.cursor).alone:
            self.performer.no_more_cycles()
        return True

    def quiet_for(self, seconds: float) -> bool:
        """Whether no picture is being drawn, and none is due within so long."""
        if not self.performer.quiet_for(seconds):
            return False
        playhead, now = self.playhead, self._clock.now()
        if playhead.status == "active":
            upcoming = playhead.next_generating()
            due = None
            if upcoming is not None and not playhead.paused:
                due = playhead.due_at(upcoming) + self._beginnings.after(upcoming)
        else:
            due = playhead.next_at
        return due is None or due - now > seconds

    def hold(self) -> None:
        """Stop what is being drawn and keep the picture, until the next cue that draws."""
        self.performer.stop()
        self._stage.hold()

    def panic(self, by: str) -> Panic:
        """Fade every screen to black and stop what is being drawn, until `restore`.

        The position goes on unseen, and no cue lights the stage again. Asked twice, the
        first counts.
        """
        if self._panic is None:
            self._panic = Panic(by=by, at=self._clock.wall())
            self._panicked_at = self._clock.now()
            _log.warning("panic", by=by)
            self._stage.darken(self._clock.stretch(PANIC_TAKES))
            self.performer.stop()
        return self._panic

    def restore(self) -> bool:
        """Undo a panic: the stage is as it should be where the show is now; whether there was one.

        The picture is set behind the curtain first, so that nothing old is seen again.
        """
        if self._panic is None:
            return False
        self._panic = self._panicked_at = None
        now = self._clock.now()
        position = self.playhead.position(now)
        if position is not None:
            self._apply([Jumped(self.playhead.cursor, position, now - position)])
        stretch = self._clock.stretch
        self._stage.lighten(now + stretch(_CURTAIN_WAITS), stretch(PANIC_TAKES))
        return True

    def _move(self, events: Sequence[Event]) -> None:
        self._apply(events)
        self._moved()
        self._nudged.set()

    async def _sleep_until(self, when: float) -> None:
        """Sleep until `when`, or until somebody moves the show."""
        try:
            await first_of(self._clock.sleep_until(when), self._nudged.wait())
        finally:
            self._nudged.clear()

    # ------------------------------------------------------------ what happens

    def _apply(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._panic is not None and isinstance(event, Fired | Jumped):
                continue  # nothing of it would be seen, and no engine is asked for it
            kind: str = type(event).__name__.lower()
            if isinstance(event, Fired):
                kind = self._sheet.cues[event.index].action
            try:
                self._apply_one(event)
            except Exception as error:  # noqa: BLE001 - one cue that fails must not cost the others
                _log.exception("cue_failed", happening=repr(event))
                self._progress.cue_failed(kind, self._in_words(event), error)
            else:
                self._progress.cue_done(kind)
        if events:
            self._moved()

    def _apply_one(self, event: Event) -> None:
        match event:
            case Started():
                self.performer.stop()
                self._modes.screening_begins(event.at + self._show.duration)
                _log.info("screening_started", scheduled=event.scheduled)
                black = self._stage.black
                self._stage.open_screening(event.at)
                if black:
                    self._stage.tell(self._cues.light(self._clock.now()))
            case Fired():
                self._fire(event.index, event.at)
            case Jumped():
                self._metrics.jumps.inc()
                _log.info("jumped", position=round(event.position, 3))
                now = self._clock.now()
                scenery = self._cues.bare_stage(now)
                try:
                    self._cues.fill(scenery, event.index, event.at, now)
                finally:  # words that cannot be told must cost neither the light nor the picture
                    for message in scenery:
                        self._stage.tell(message)
                    if not event.keep_picture:
                        self._join(event)
            case Ended():
                self.performer.stop()
                self._modes.screening_over()
                _log.info("screening_over", status=event.status)
                if self._no_pause(event.next_at):
                    return  # the next round follows on its heels: the lobby would only flicker
                self._stage.tell(self._lobby(event.status))
                if self._stage.black:
                    # First the lobby, behind the curtain: the picture must not be seen again.
                    lobby_takes = self._clock.stretch(_LOBBY_TAKES)
                    self._stage.tell(self._cues.light(self._clock.now() + lobby_takes))

    def _no_pause(self, next_at: float | None) -> bool:
        """Whether the next screening follows at once."""
        pause = self._clock.stretch(_NO_PAUSE)  # a lobby takes its time on every screen
        return next_at is not None and next_at - self._clock.now() < pause

    def _lobby(self, status: Status) -> wire.Screening:
        """What a screen is told while no screening is on: what to count to, and what to print."""
        playhead = self.playhead
        start = playhead.next_start
        return wire.Screening(
            status=status,
            next=playhead.next_at,
            next_local=None if start is None else local_text(start, self._show.timezone),
        )

    def _announce(self) -> None:
        """Tell the lobby anew where it says something else than the schedule does by now.

        Nothing need have happened for that: the server has only started, a clock was set, the
        clocks have gone back.
        """
        playhead, told = self.playhead, self._stage.screening
        if playhead.status == "active":
            return
        if told.status == "active" and self._no_pause(playhead.next_at):
            return
        lobby = self._lobby(playhead.status)
        if lobby != told:
            self._stage.tell(lobby)

    def _in_words(self, event: Event) -> str:
        match event:
            case Fired():
                cue = self._sheet.cues[event.index]
                return f"the cue {cue.action} of {format_time(cue.at)}"
            case Jumped():
                return f"setting the stage for {format_time(int(event.position))}"
            case Started():
                return "the beginning of a screening"
            case Ended():
                return "the end of a screening"

    def _fire(self, index: int, at: float) -> None:
        cue = self._sheet.cues[index]
        late = max(0.0, self._clock.now() - at)
        self._metrics.cues.labels(action=cue.action).inc()
        self._metrics.cue_lateness.observe(late)
        _log.debug("cue", index=index, action=cue.action, late=round(late, 4))
        if cue.ends_part:
            self.performer.no_more_cycles()
        try:
            for message in self._cues.of(index, at, at):
                self._stage.tell(message)
        finally:  # words that cannot be told must not cost the picture
            if cue.generates:
                self._begin(index, at)

    def _begin(
        self, index: int, at: float, why: str = "", before: Assignment | None = None
    ) -> None:
        """A generating cue fires, or has fired, `at`; its picture begins when it is asked for."""
        action = self.plan.of_cue(index)
        if action is None:
            return
        try:
            self._modes.cue_begins(action.action_id)
            start = at + self._beginnings.after(index)
            self.performer.perform(self._assignment(action, start, at, why, before))
        except Exception as error:  # noqa: BLE001 - a picture that fails must not cost the others
            _log.exception("run_failed", action_id=action.action_id)
            self._progress.run_over(action.action_id, reached=False, mistake=error)

    def _assignment(
        self, action: Action, start: float, at: float, why: str, before: Assignment | None = None
    ) -> Assignment:
        """What is to be performed from `start` on, its cue having fired `at`."""
        index = action.cue_index
        following = self.playhead.next_generating(after=index)
        origin = self.playhead.started_at
        next_cue = None
        if origin is not None:
            ends = self._show.duration if following is None else self._sheet.cues[following].at
            next_cue = origin + ends
        cue = self._sheet.cues[index]
        as_written = cue.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return Assignment(
            action=action,
            cue={**as_written, "time": format_time(cue.at)},
            start=start,
            position=cue.at + start - at,
            next_cue=next_cue if next_cue is not None and next_cue > start else None,
            mode=cue.mode,
            failover=cue.failover,
            why=why,
            before=before,
        )

    def _join(self, jump: Jumped) -> None:
        """Perform what is on, in its middle; while it is still being typed, what was before."""
        tableau, why = tableau_at(self._sheet, jump.index), "the show was set here"
        index, origin = tableau.generating, jump.at
        if index is None:
            self.performer.stop()
            return
        at = origin + self._sheet.cues[index].at
        before = None
        if tableau.before is not None and at + self._beginnings.after(index) > self._clock.now():
            action = self.plan.of_cue(tableau.before)
            if action is not None:
                fired = origin + self._sheet.cues[tableau.before].at
                start = fired + self._beginnings.after(tableau.before)
                before = self._assignment(action, start, fired, why)
        self._begin(index, at, why, before)
        if not tableau.alone:
            self.performer.no_more_cycles()
