"""When the show is shown: screenings at times of the day, a loop, or by hand (pure).

Schedules are meant in local time and answer in Unix time, so that a screening runs its
full length through a change to or from summer time. A local time that does not exist
(02:30 when clocks go forward) is the moment the clocks have moved past it by as much;
one that exists twice is the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from server.config.sections import Day, ScheduleSection

_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SOON = 3600.0
_LOOKAHEAD_DAYS = 8
"""A week and a day: a schedule that names a weekday at all has a screening in it."""


@dataclass(frozen=True, slots=True)
class ScreeningSlot:
    """One screening's place in time: Unix seconds, `end` exclusive.

    Attributes:
        start: the time of its position 0.
        end: when it ends.
        enters: position at which it is entered, where what is before is left out.
    """

    start: float
    end: float
    enters: float = 0.0

    def __contains__(self, unix: float) -> bool:
        """Whether the screening is on at `unix`."""
        return self.start <= unix < self.end


class Schedule:
    """Answers when screenings are; Unix seconds throughout. This one: never by itself.

    So it asks for no time; those that extend it do.
    """

    def slot_at(self, unix: float) -> ScreeningSlot | None:  # noqa: ARG002 - see the class
        """The screening that is on at `unix`, if one is."""
        return None

    def next_after(self, unix: float) -> ScreeningSlot | None:  # noqa: ARG002 - see the class
        """The first screening that starts after `unix`, if there is one."""
        return None

    def closed(self, unix: float) -> bool:  # noqa: ARG002 - see the class
        """Whether, with no screening on, this is closing time and not a pause."""
        return False

    def after_step(self, by: float) -> Schedule:  # noqa: ARG002 - see the class
        """The schedule once the time of day was set `by` seconds forward.

        Itself, where it is meant in hours of the day; another where it is not, and nothing of
        it is to be moved by that.
        """
        return self


@dataclass(frozen=True)
class EndlessLoop(Schedule):
    """One screening after the other, from `anchor` on, `gap` seconds apart."""

    anchor: float
    duration: float
    gap: float = 0.0

    def slot_at(self, unix: float) -> ScreeningSlot | None:
        """The screening that is on at `unix`, unless it is the gap."""
        slot = self._slot(self._number(unix))
        return slot if unix in slot else None

    def next_after(self, unix: float) -> ScreeningSlot | None:
        """The next round's."""
        return self._slot(self._number(unix) + 1)

    def after_step(self, by: float) -> Schedule:
        """It goes on where it is: it counts from its own beginning, whatever hour that was."""
        return replace(self, anchor=self.anchor + by)

    def _number(self, unix: float) -> int:
        number = int((unix - self.anchor) // (self.duration + self.gap))
        # Floats round: the very start of a round must be in it, and not in the one before.
        if self._slot(number + 1).start <= unix:
            return number + 1
        return number if self._slot(number).start <= unix else number - 1

    def _slot(self, number: int) -> ScreeningSlot:
        start = self.anchor + number * (self.duration + self.gap)
        return ScreeningSlot(start, start + self.duration)


@dataclass(frozen=True)
class DailySchedule(Schedule):
    """Screenings at local times of the day, or looped from opening to closing.

    A listed screening that has begun plays to its end, also past closing; none begins at
    or after it. A loop is cut off at closing. Past midnight belongs to the day before it:
    a listed time earlier than the one it follows (22:00, 00:30), and a closing time at or
    before the day's first.
    """

    zone: ZoneInfo
    duration: float
    starts: tuple[str, ...] = ()
    opens: str | None = None
    closes: str | None = None
    days: tuple[Day, ...] = _DAYS
    gap: float = 0.0

    def slot_at(self, unix: float) -> ScreeningSlot | None:
        """The screening that is on: the latest to have begun, where two overlap."""
        found = None
        # two days, because what is past midnight belongs to the day before and may pass another
        for slot in self._around(unix, back=2 + int(self.duration // 86400), ahead=1):
            if slot.start > unix:
                break
            if unix in slot:
                found = slot
        return found

    def next_after(self, unix: float) -> ScreeningSlot | None:
        """The first screening that starts after `unix`, up to a week ahead."""
        for ahead in (1, _LOOKAHEAD_DAYS):  # nearly always it is today or tomorrow
            for slot in self._around(unix, back=1, ahead=ahead):
                if slot.start > unix:
                    return slot
        return None

    def closed(self, unix: float) -> bool:
        """Whether the day's screenings are over, or not near yet: more than an hour away."""
        following = self.next_after(unix)
        if following is not None and following.start - unix <= _SOON:
            return False
        today = datetime.fromtimestamp(unix, self.zone).date()
        for offset in (-1, 0):  # yesterday's may pass midnight
            slots = list(self._day(today + timedelta(days=offset)))
            if slots and slots[0].start <= unix < slots[-1].start:
                return False  # a pause between two of the same day
        return True

    def _around(self, unix: float, back: int, ahead: int) -> Iterator[ScreeningSlot]:
        today = datetime.fromtimestamp(unix, self.zone).date()
        slots = [
            slot
            for offset in range(-back, ahead + 1)
            for slot in self._day(today + timedelta(days=offset))
        ]
        yield from sorted(slots, key=lambda slot: slot.start)

    def _day(self, day: date) -> Iterator[ScreeningSlot]:
        if _DAYS[day.weekday()] not in self.days:
            return
        if self.opens is not None and self.closes is not None:
            start, closing = self._unix(day, self.opens), self._closing(day, self.opens)
            while start < closing:
                yield ScreeningSlot(start, min(start + self.duration, closing))
                start += self.duration + self.gap
            return
        closing = self._closing(day, self.starts[0])
        night = False
        for before, text in zip(("", *self.starts), self.starts, strict=False):
            night = night or text < before
            start = self._unix(day + timedelta(days=1) if night else day, text)
            if start < closing:
                yield ScreeningSlot(start, start + self.duration)

    def _closing(self, day: date, first: str) -> float:
        if self.closes is None:
            return float("inf")
        night = self.closes <= first
        return self._unix(day + timedelta(days=1) if night else day, self.closes)

    def _unix(self, day: date, text: str) -> float:
        hour, minute, second = (*(int(part) for part in text.split(":")), 0)[:3]
        if hour == 24:  # noqa: PLR2004 - the end of a day, as schedules write it
            day, hour = day + timedelta(days=1), 0
        return datetime(
            day.year, day.month, day.day, hour, minute, second, tzinfo=self.zone
        ).timestamp()


def build_schedule(
    section: ScheduleSection, *, duration: float, zone: ZoneInfo, anchor: float
) -> Schedule:
    """The schedule that `[schedule]` describes.

    Args:
        section: the settings.
        duration: seconds a screening takes.
        zone: in which its times are meant.
        anchor: Unix time at which a loop without opening hours has begun.
    """
    if section.kind == "manual":
        return Schedule()
    if section.kind == "loop" and section.opens is None:
        return EndlessLoop(anchor, duration, section.gap)
    looped = section.kind == "loop"
    return DailySchedule(
        zone=zone,
        duration=duration,
        starts=() if looped else section.screenings,
        opens=section.opens if looped else None,
        closes=section.closes,
        days=section.days,
        gap=section.gap,
    )
