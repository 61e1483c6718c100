"""Whether there will be a screening at all: the schedule, the time zone, the clock (pure)."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Final

from server.config.sections import ScheduleSection
from server.config.show import Show
from server.diagnostics.report import Finding, Level
from server.timeline.schedule import Schedule, build_schedule

_DAY_BEGINS: Final = 4
"""O'clock: what is shown earlier belongs to the night before."""

_CLOCK_OFF: Final = 3600.0
"""Seconds that another machine's clock may be ahead of ours."""


def schedule_findings(
    show: Show, wall: float, machine: tzinfo, newest_set: float | None = None
) -> list[Finding]:
    """What is wrong with the times.

    Args:
        show: whose schedule.
        wall: Unix time, as the machine has it.
        machine: the time zone that the machine is set to.
        newest_set: Unix time at which the newest set was drawn, if that is known.
    """
    findings = []
    if newest_set is not None and newest_set > wall + _CLOCK_OFF:
        findings.append(
            Finding(
                level="error",
                code="clock_behind",
                message=f"this machine's clock says {_when(wall, machine)}, but a set was drawn at "
                f"{_when(newest_set, machine)}: the clock is wrong",
                remedy="set the clock (timedatectl set-ntp true), and rehearse again",
            )
        )
    section = show.settings.schedule
    if section.kind == "screenings" or (section.kind == "loop" and section.opens is not None):
        findings += _of_the_day(show, section, wall, machine)
    return findings


def _of_the_day(
    show: Show, section: ScheduleSection, wall: float, machine: tzinfo
) -> list[Finding]:
    schedule = build_schedule(section, duration=show.duration, zone=show.timezone, anchor=wall)
    theirs, ours = _offset(wall, show.timezone), _offset(wall, machine)
    differ = theirs != ours
    zones = (
        f"the show's times are meant in {show.timezone_name or 'local time'}, where it is "
        f"{_when(wall, show.timezone)}; this machine is set to another time zone, where it is "
        f"{_when(wall, machine)}"
    )
    set_zone = "set [show] timezone to the gallery's, such as Europe/Berlin, or the machine's zone"
    if _left_today(schedule, wall, show.timezone):
        if not differ:
            return []
        return [Finding(level="warning", code="time_zone", message=zones, remedy=set_zone)]
    following = schedule.next_after(wall)
    coming = "none comes" if following is None else f"next {_when(following.start, show.timezone)}"
    text = f"no screening is left today: {coming}"
    # The same times of the day, as the machine's zone would have them.
    shifted = wall + (ours - theirs).total_seconds()
    if differ and _left_today(schedule, shifted, show.timezone):
        return [
            Finding(
                level="error",
                code="no_screening_today",
                message=f"{text}. {zones[0].upper()}{zones[1:]}, and there would be one",
                remedy=set_zone,
            )
        ]
    remedy = "nothing, if that is meant; else see [schedule] screenings and days"
    level: Level = "error" if following is None else "warning"
    return [Finding(level=level, code="no_screening_today", message=text, remedy=remedy)]


def _left_today(schedule: Schedule, wall: float, zone: tzinfo) -> bool:
    """Whether a screening is on, or begins before the day is over."""
    if schedule.slot_at(wall) is not None:
        return True
    following = schedule.next_after(wall)
    if following is None:
        return False
    return _day(following.start, zone) == _day(wall, zone)


def _day(unix: float, zone: tzinfo) -> datetime:
    begins = datetime.fromtimestamp(unix, zone) - timedelta(hours=_DAY_BEGINS)
    return begins.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)


def _offset(unix: float, zone: tzinfo) -> timedelta:
    return datetime.fromtimestamp(unix, zone).utcoffset() or timedelta()


def _when(unix: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(unix, zone):%Y-%m-%d %H:%M}"
