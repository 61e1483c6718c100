"""Where the show is and what is due: a state machine without I/O (pure).

The playhead is told the time and answers with what happens. It follows the schedule
until somebody takes it off, and goes back at `rejoin` or when the next screening starts.
Each cue fires exactly once, in order; where time was lost (a stall, a suspended machine,
a clock that was set), nothing is fired in a burst: the answer is `Jumped`, and the stage
is set as it should be now.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from server.core.refusal import Refused
from server.timeline.schedule import Schedule, ScreeningSlot

BURST = 2.0
"""Seconds of lost time beyond which cues are passed over instead of fired late."""

CLOCK_STEP = 1.0
"""Seconds by which the time of day must jump to be believed to have been set."""

_REWIND = 3.0
_HAIR = 0.001

Status = Literal["waiting", "active", "closed"]


@dataclass(frozen=True, slots=True)
class Started:
    """A screening begins; `at` is the steady time of its position 0."""

    at: float
    scheduled: bool


@dataclass(frozen=True, slots=True)
class Fired:
    """Cue `index` is due; `at` is the steady time it was due at."""

    index: int
    at: float


@dataclass(frozen=True, slots=True)
class Jumped:
    """The position changed without playing there: set the stage as it should be.

    Cues before `index` have been; `at` is the steady time of position 0. With
    `keep_picture` a cue that draws fires right after, so the picture is left alone.
    """

    index: int
    position: float
    at: float
    keep_picture: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """The screening is over. `next_at` is the steady time of the next, None for unknown."""

    status: Status
    next_at: float | None


Event = Started | Fired | Jumped | Ended


class PlayheadError(Refused):
    """A move that cannot be made."""


class Playhead:
    """The position in the show.

    Args:
        times: when each cue is due, in seconds from the start of the screening, ascending.
        generating: which of them draw a picture: what `go`, `next` and `previous` move between.
        duration: seconds a screening takes.
        schedule: when screenings are.
        burst: seconds of lost time beyond which cues are passed over.
    """

    def __init__(
        self,
        times: Sequence[float],
        generating: Sequence[int],
        duration: float,
        schedule: Schedule,
        burst: float = BURST,
    ) -> None:
        self._burst = burst
        self._times = tuple(times)
        self._generating = tuple(generating)
        self._duration = duration
        self._schedule = schedule
        self._active = False
        self._origin = 0.0
        self._paused_at: float | None = None
        self._cursor = 0
        self._limit = duration
        self._on_schedule = True
        self._known_slot: float | None = None
        self._offset: float | None = None
        self._last_tick: float | None = None
        self._status: Status = "waiting"
        self._next_at: float | None = None
        self._next_start: float | None = None
        self._standby: int | None = None

    # ------------------------------------------------------------ what it knows

    @property
    def status(self) -> Status:
        """Whether a screening is on."""
        return "active" if self._active else self._status

    @property
    def on_schedule(self) -> bool:
        """Whether the schedule decides."""
        return self._on_schedule

    @property
    def paused(self) -> bool:
        """Whether the position stands still."""
        return self._paused_at is not None

    @property
    def started_at(self) -> float | None:
        """Steady time of position 0, None where no screening is on."""
        return self._origin if self._active else None

    @property
    def next_at(self) -> float | None:
        """Steady time at which the next screening starts, to count to; None for unknown."""
        return self._next_at

    def begins_within(self, now: float, seconds: float) -> bool:
        """Whether a screening is on, or may be within `seconds` of `now`.

        One that waits for a hand may begin at any time from now on.
        """
        if self._active:
            return True
        if self._next_at is None:
            return seconds > 0 and self._status == "waiting"
        return self._next_at - now <= seconds

    @property
    def next_start(self) -> float | None:
        """The same as the schedule has it, in Unix time: the one to print."""
        return self._next_start

    @property
    def schedule(self) -> Schedule:
        """When screenings are, as the time of day is now."""
        return self._schedule

    @property
    def cursor(self) -> int:
        """Index of the next cue to fire."""
        return self._cursor

    def position(self, now: float) -> float | None:
        """Seconds from the start of the screening, None where none is on."""
        if not self._active:
            return None
        return self._paused_at if self._paused_at is not None else now - self._origin

    def due_at(self, index: int) -> float:
        """Steady time at which cue `index` is due, if nothing intervenes."""
        return self._origin + self._times[index]

    def next_generating(self, after: int | None = None) -> int | None:
        """The first cue that draws, from the cursor (or after cue `after`) on."""
        first = self._cursor if after is None else after + 1
        return next((index for index in self._generating if index >= first), None)

    @property
    def standby(self) -> int | None:
        """The cue that `go` fires: the one put on standby, else the next that draws."""
        return self._standby if self._standby is not None else self.next_generating()

    def wake_at(self, now: float) -> float:
        """Steady time of the next thing to happen; infinite if only a hand moves it.

        The driver looks in more often than this, to notice a clock that was set.
        """
        if self._active and self._paused_at is None:
            upcoming = self._limit
            if self._cursor < len(self._times):
                upcoming = min(upcoming, self._times[self._cursor])
            candidates = [self._origin + upcoming]
        else:
            candidates = []
        if self._next_at is not None:
            candidates.append(self._next_at)
        return max(now, min(candidates, default=math.inf))

    # ------------------------------------------------------------ time passes

    def tick(self, now: float, wall: float) -> list[Event]:
        """What happens by `now` (steady) and `wall` (time of day), both in seconds."""
        offset = wall - now
        before = offset if self._offset is None else self._offset
        stepped = abs(offset - before) > CLOCK_STEP
        if self._offset is None or stepped:
            self._offset = offset
        if stepped:
            stepped = not self._schedule_moves(offset - before)
        stalled = self._stalled(now)
        self._last_tick = now

        # Time was lost and the schedule says where that leaves us: nothing is played up to here.
        lost = self._on_schedule and (stepped or stalled)

        events: list[Event] = []
        if not lost:
            # First what is left of the screening that is on; then what the schedule says.
            if stalled:
                events += self._catch_up(now, wall)
            events += self._play(now, wall)
        slot = self._schedule.slot_at(wall)
        if slot is None:
            if lost and self._active:
                events += self._end(wall)
            if stepped:  # back before a screening, perhaps, that is then to begin again
                self._known_slot = None
        elif slot.start != self._known_slot:
            if lost or not (self._on_schedule and self._about_to_end(now)):
                events += self._begin(slot, now, wall)
                events += self._play(now, wall)
        elif lost:
            events += self._begin(slot, now, wall)
            events += self._play(now, wall)
        return events + self._look_ahead(wall)

    def _schedule_moves(self, by: float) -> bool:
        """Whether the schedule is one that a clock set `by` seconds forward does not touch."""
        schedule = self._schedule.after_step(by)
        if schedule is self._schedule:
            return False
        self._schedule = schedule
        if self._known_slot is not None:
            # The slot that is known is the same one, under its new time, which floats may round.
            slot = schedule.slot_at(self._known_slot + by + _HAIR)
            self._known_slot = self._known_slot + by if slot is None else slot.start
        return True

    def _stalled(self, now: float) -> bool:
        """Whether nobody looked for a while and cues were missed by too much to fire late."""
        return (
            self._last_tick is not None
            and now - self._last_tick > self._burst
            and self._active
            and self._paused_at is None
            and self._cursor < len(self._times)
            and now - self.due_at(self._cursor) > self._burst
        )

    def _catch_up(self, now: float, wall: float) -> list[Event]:
        """Stand where the position has got to meanwhile, off the schedule."""
        position = now - self._origin
        return self._land(position) if position < self._limit else self._end(wall)

    def _about_to_end(self, now: float) -> bool:
        """Whether the last cues are still to come by the steady clock, in under a second.

        The time of day may run a hair ahead of the steady clock over a long screening; a
        loop's next round must not cut off the `end` of the one before for that.
        """
        if not self._active or self._paused_at is not None:
            return False
        return self._origin + self._limit - now < CLOCK_STEP

    def _begin(self, slot: ScreeningSlot, now: float, wall: float) -> list[Event]:
        """Stand where the schedule says: at the start of `slot`, or in the middle of it."""
        position = wall - slot.start
        fresh = not self._active or slot.start != self._known_slot
        self._known_slot, self._on_schedule = slot.start, True
        self._origin, self._paused_at, self._standby = now - position, None, None
        self._limit = min(self._duration, slot.end - slot.start)
        events: list[Event] = []
        if fresh:
            self._active, self._cursor = True, 0
            events.append(Started(self._origin, scheduled=True))
        if not fresh or position - slot.enters > self._burst:
            events += self._land(position)
        elif slot.enters:
            events.append(self._enter(slot.enters))
        return events

    def _enter(self, position: float) -> Jumped:
        """Come in at `position`, where nothing has been lost: a cue that is due there fires."""
        self._cursor = bisect_left(self._times, position)
        picture = any(self._times[index] == position for index in self._generating)
        return Jumped(self._cursor, position, self._origin, keep_picture=picture)

    def _play(self, now: float, wall: float) -> list[Event]:
        """Fire what is due, and end the screening when its time is over."""
        if not self._active or self._paused_at is not None:
            return []
        events: list[Event] = []
        while self._cursor < len(self._times) and self.due_at(self._cursor) <= now:
            events.append(Fired(self._cursor, self.due_at(self._cursor)))
            if self._standby == self._cursor:
                self._standby = None
            self._cursor += 1
        if now - self._origin >= self._limit:
            events += self._end(wall)
        return events

    def _land(self, position: float) -> list[Event]:
        """Stand at `position` without having played there."""
        self._cursor = bisect_right(self._times, position)
        return [Jumped(self._cursor, position, self._origin)]

    def _end(self, wall: float) -> list[Event]:
        self._active, self._paused_at, self._standby = False, None, None
        self._look_ahead(wall)
        slot = self._schedule.slot_at(wall)
        if slot is not None and slot.start != self._known_slot:
            # In a loop without a gap the next one has begun in this very moment.
            return [Ended("waiting", slot.start - (self._offset or 0.0))]
        return [Ended(self._status, self._next_at)]

    def _look_ahead(self, wall: float) -> list[Event]:
        """Keep `status` and `next_at` true; tell where a pause turned into closing time."""
        following = self._schedule.next_after(wall)
        self._next_start = None if following is None else following.start
        self._next_at = None if following is None else following.start - (self._offset or 0.0)
        status: Status = "closed" if self._schedule.closed(wall) else "waiting"
        changed = status != self._status and not self._active
        self._status = status
        return [Ended(status, self._next_at)] if changed else []

    # ------------------------------------------------------------ somebody decides

    def seek(self, position: float, now: float) -> list[Event]:
        """Go to `position` (seconds) and play on from there, off the schedule."""
        if not 0 <= position < self._duration:
            raise PlayheadError(
                "out_of_range",
                f"expected a position from 0 to {self._duration:g} s, not {position:g}",
            )
        events = self._leave_schedule(now, position)
        return events + self._land(position)

    def go(self, now: float, index: int | None = None) -> list[Event]:
        """Fire the standby cue, or cue `index`, now; the show goes on from there.

        With no screening on and nothing on standby, the show starts from its beginning.
        """
        if index is None:
            if not self._active and self._standby is None:
                return self._leave_schedule(now, 0.0)
            index = self.standby
        if index is None:
            raise PlayheadError("no_standby", "no generating cue is left in this screening")
        self._check_cue(index)
        events = self._leave_schedule(now, self._times[index])
        self._cursor, self._standby = index + 1, None
        picture = index in self._generating
        events.append(Jumped(index, self._times[index], self._origin, keep_picture=picture))
        events.append(Fired(index, now))
        return events

    def next(self, now: float) -> list[Event]:
        """Go to the next cue that draws."""
        return self.go(now, self._or_refuse(self.next_generating(), "after"))

    def previous(self, now: float) -> list[Event]:
        """Go back to the cue that is being drawn; within its first three seconds, before it."""
        position = self.position(now)
        past = [i for i in self._generating if i < self._cursor] if position is not None else []
        if len(past) > 1 and position is not None and position - self._times[past[-1]] < _REWIND:
            past.pop()
        return self.go(now, self._or_refuse(past[-1] if past else None, "before"))

    def stand_by(self, index: int) -> None:
        """Make cue `index` the one that the next `go` fires."""
        self._check_cue(index)
        self._standby = index

    def pause(self, now: float) -> None:
        """Let the position stand still; what is being drawn is finished."""
        if not self._active:
            raise PlayheadError("not_active", "no screening is on")
        if self._paused_at is None:
            self._on_schedule = False
            self._paused_at = now - self._origin

    def resume(self, now: float) -> None:
        """Play on from where it was paused, still off the schedule."""
        if self._paused_at is None:
            raise PlayheadError("not_paused", "the show is not paused")
        self._origin, self._paused_at = now - self._paused_at, None

    def rejoin(self, now: float, wall: float) -> list[Event]:
        """Go back to where the schedule says the show is now."""
        self._offset = wall - now
        slot = self._schedule.slot_at(wall)
        self._on_schedule = True
        if slot is None:
            return self._end(wall) if self._active else []
        events = self._begin(slot, now, wall)
        if not any(isinstance(event, Jumped) for event in events):
            events += self._land(wall - slot.start)
        return events

    def _leave_schedule(self, now: float, position: float) -> list[Event]:
        events: list[Event] = []
        self._on_schedule = False
        self._origin, self._paused_at = now - position, None
        self._limit = self._duration
        if not self._active:
            self._active, self._cursor = True, 0
            events.append(Started(self._origin, scheduled=False))
        return events

    def _check_cue(self, index: int) -> None:
        if not 0 <= index < len(self._times):
            raise PlayheadError("unknown_cue", f"expected a cue from 0 to {len(self._times) - 1}")

    def _or_refuse(self, index: int | None, where: str) -> int:
        if index is None:
            raise PlayheadError("no_such_cue", f"no generating cue {where} this one")
        return index
