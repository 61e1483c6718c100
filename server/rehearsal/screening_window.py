"""Which screenings are rehearsed, and how much of each: a schedule of its own (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from server.config.show import Show
from server.timeline.schedule import EndlessLoop, Schedule, ScreeningSlot, build_schedule

SOME_DAY: Final = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()
"""When a rehearsal of a show without times of the day begins: always then, so that two
rehearsals are the same to the last digit."""


@dataclass(frozen=True, slots=True)
class ScreeningWindow:
    """The part of one screening that is rehearsed. Unix seconds.

    Attributes:
        opens: when it begins.
        slot: the screening's place in time; its end is that of the window.
        scheduled: whether it is at a time of the day.
    """

    opens: float
    slot: ScreeningSlot
    scheduled: bool

    @property
    def from_(self) -> float:
        """Position at which it begins."""
        return self.opens - self.slot.start

    @property
    def to(self) -> float:
        """Position at which it ends."""
        return self.slot.end - self.slot.start


@dataclass(frozen=True)
class WindowSchedule(Schedule):
    """A schedule of nothing but windows."""

    windows: Sequence[ScreeningWindow]

    def slot_at(self, unix: float) -> ScreeningSlot | None:
        """See `Schedule.slot_at`."""
        on = (each for each in self.windows if each.opens <= unix < each.slot.end)
        return next((each.slot for each in on), None)

    def next_after(self, unix: float) -> ScreeningSlot | None:
        """See `Schedule.next_after`; it starts where the window does."""
        coming = (each for each in self.windows if each.opens > unix)
        return next((ScreeningSlot(each.opens, each.slot.end) for each in coming), None)

    def closed(self, unix: float) -> bool:
        """See `Schedule.closed`."""
        return not self.windows or unix >= self.windows[-1].slot.end


def upcoming(
    show: Show, wall: float, count: int, *, from_: float = 0.0, to: float | None = None
) -> tuple[ScreeningWindow, ...]:
    """The next `count` screenings of a show; those without a time of the day follow on another.

    Args:
        show: whose schedule.
        wall: Unix time; screenings that have begun are over for this.
        count: how many.
        from_: position at which each begins.
        to: position at which each ends; None for its end.
    """
    section = show.settings.schedule
    schedule = build_schedule(section, duration=show.duration, zone=show.timezone, anchor=SOME_DAY)
    scheduled = section.kind == "screenings" or section.opens is not None
    if section.kind == "manual" or not scheduled:
        schedule, wall = EndlessLoop(SOME_DAY, show.duration, section.gap), SOME_DAY - 1.0
    windows = [
        ScreeningWindow(slot.start, _part(slot, from_, to), scheduled)
        for slot in _following(schedule, wall, count)
    ]
    # What begins before the one before it is over cuts that off, here as in the show.
    return tuple(_cut_off(windows))


def in_a_row(
    show: Show, opens: float, count: int, *, gap: float, from_: float = 0.0, to: float | None = None
) -> WindowSchedule:
    """So many screenings, whatever the time of the day.

    Args:
        show: whose screenings.
        opens: Unix time at which the first begins.
        count: how many.
        gap: seconds between two.
        from_: position at which each begins.
        to: position at which each ends; None for its end.
    """
    windows = []
    for _ in range(count):
        slot = _part(ScreeningSlot(opens, opens + show.duration), from_, to)
        windows.append(ScreeningWindow(opens, slot, scheduled=False))
        opens = slot.end + gap
    return WindowSchedule(tuple(windows))


def _following(schedule: Schedule, wall: float, count: int) -> list[ScreeningSlot]:
    slots: list[ScreeningSlot] = []
    while len(slots) < count and (slot := schedule.next_after(wall)) is not None:
        slots.append(slot)
        wall = slot.start
    return slots


def _part(slot: ScreeningSlot, from_: float, to: float | None) -> ScreeningSlot:
    length = slot.end - slot.start
    until = length if to is None else min(to, length)
    return ScreeningSlot(slot.start - from_, slot.start - from_ + until, enters=from_)


def _cut_off(windows: Sequence[ScreeningWindow]) -> list[ScreeningWindow]:
    following = [each.opens for each in windows[1:]]
    return [
        replace(each, slot=replace(each.slot, end=min(each.slot.end, after)))
        for each, after in zip(windows, [*following, math.inf], strict=True)
    ]
