"""Whether there will be a screening at all: the schedule, the time zone, the clock (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Final

from cache.model.formats import SetMeta
from server.config.show import Show
from server.diagnostics.facts import SIMULATION, SimulationFacts
from server.diagnostics.findings import Finding, Level, kind
from server.timeline.schedule import Schedule, build_schedule

_DAY_BEGINS: Final = 4
"""O'clock: what is shown earlier belongs to the night before."""

_CLOCK_OFF: Final = 3600.0
"""Seconds that another machine's clock may be ahead of ours."""

_SET_ZONE: Final = (
    "set [show] timezone to the gallery's, such as Europe/Berlin, or the machine's zone"
)
NO_SCREENING = kind(
    "no_screening_today",
    "there would be one in the machine's time zone; the day is over, or has none",
    "nothing, if that is meant; else see [schedule] screenings and days",
    *("error", "warning", "note"),
)
TIME_ZONE = kind(
    "time_zone",
    "the show's times are meant in another time zone than this machine's",
    _SET_ZONE,
    "warning",
)
CLOCK_BEHIND = kind(
    "clock_behind",
    "a set was drawn after what this machine takes for now",
    "set the clock (timedatectl set-ntp true), and rehearse again",
    "error",
)


@SIMULATION
def calendar(facts: SimulationFacts) -> Iterator[Finding]:
    """Whether there will be a screening, and the clock can be believed."""
    metas = facts.around.inventory.metas.values()
    drawn = (meta.generated_at for meta in metas if isinstance(meta, SetMeta))
    newest = max((each.timestamp() for each in drawn if each is not None), default=None)
    yield from schedule_findings(facts.show, facts.wall, facts.machine, newest)


def schedule_findings(
    show: Show, wall: float, machine: tzinfo, newest_set: float | None, over: Level = "warning"
) -> Iterator[Finding]:
    """What is wrong with the times.

    Args:
        show: whose schedule.
        wall: Unix time, as the machine has it.
        machine: the time zone that the machine is set to.
        newest_set: Unix time at which the newest set was drawn, if that is known.
        over: how bad it is that the day's last screening has been.
    """
    if newest_set is not None and newest_set > wall + _CLOCK_OFF:
        yield CLOCK_BEHIND(
            f"this machine's clock says {_when(wall, machine)}, but a set was drawn at "
            f"{_when(newest_set, machine)}: the clock is wrong"
        )
    section = show.settings.schedule
    if section.kind == "manual" or (section.kind == "loop" and section.opens is None):
        return
    schedule = build_schedule(section, duration=show.duration, zone=show.timezone, anchor=wall)
    theirs, ours = _offset(wall, show.timezone), _offset(wall, machine)
    differ = theirs != ours
    zones = (
        f"the show's times are meant in {show.timezone_name or 'local time'}, where it is "
        f"{_when(wall, show.timezone)}; this machine is set to another time zone, where it is "
        f"{_when(wall, machine)}"
    )
    if _left_today(schedule, wall, show.timezone):
        if differ:
            yield TIME_ZONE(zones)
        return
    following = schedule.next_after(wall)
    coming = "none comes" if following is None else f"next {_when(following.start, show.timezone)}"
    text = f"no screening is left today: {coming}"
    # The same times of the day, as the machine's zone would have them.
    shifted = wall + (ours - theirs).total_seconds()
    if differ and _left_today(schedule, shifted, show.timezone):
        text += f". {zones[0].upper()}{zones[1:]}, and there would be one"
        yield NO_SCREENING(text, level="error", remedy=_SET_ZONE)
    else:
        yield NO_SCREENING(text, level="error" if following is None else over)


def _left_today(schedule: Schedule, wall: float, zone: tzinfo) -> bool:
    """Whether a screening is on, or begins before the day is over."""
    if schedule.slot_at(wall) is not None:
        return True
    following = schedule.next_after(wall)
    return following is not None and _day(following.start, zone) == _day(wall, zone)


def _day(unix: float, zone: tzinfo) -> datetime:
    begins = datetime.fromtimestamp(unix, zone) - timedelta(hours=_DAY_BEGINS)
    return begins.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)


def _offset(unix: float, zone: tzinfo) -> timedelta:
    return datetime.fromtimestamp(unix, zone).utcoffset() or timedelta()


def _when(unix: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(unix, zone):%Y-%m-%d %H:%M}"
