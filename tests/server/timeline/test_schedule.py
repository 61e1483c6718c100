from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.config.sections import ScheduleSection
from server.timeline.schedule import (
    DailySchedule,
    EndlessLoop,
    Schedule,
    ScreeningSlot,
    build_schedule,
)

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
PIECE = 74 * 60.0
ANCHOR = 1_764_000_000.123456


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    """Unix time of a local ``2026-11-20 10:30``."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def local(unix: float, zone: ZoneInfo = BERLIN) -> str:
    return datetime.fromtimestamp(unix, zone).strftime("%a %H:%M:%S")


def daily(duration: float = PIECE, zone: ZoneInfo = BERLIN, **fields: Any) -> DailySchedule:
    """As the settings would have it, so that only what may be set is tested."""
    section = ScheduleSection(kind="loop" if "opens" in fields else "screenings", **fields)
    built = build_schedule(section, duration=duration, zone=zone, anchor=ANCHOR)
    assert isinstance(built, DailySchedule)
    return built


def starts(schedule: Schedule, after: str, count: int) -> list[str]:
    """When the next few screenings start, local time."""
    found, unix = [], at(after)
    for _ in range(count):
        slot = schedule.next_after(unix)
        assert slot is not None
        found.append(local(slot.start))
        unix = slot.start
    return found


# ---------------------------------------------------------------- screenings


def test_screenings_start_at_their_times_every_day() -> None:
    schedule = daily(screenings=("09:00", "10:30:30"))
    assert starts(schedule, "2026-11-20 08:00", 5) == [
        "Fri 09:00:00",
        "Fri 10:30:30",
        "Sat 09:00:00",
        "Sat 10:30:30",
        "Sun 09:00:00",
    ]


def test_a_screening_is_on_from_its_start_for_its_duration() -> None:
    schedule = daily(screenings=("09:00",))
    start = at("2026-11-20 09:00")
    slot = ScreeningSlot(start, start + PIECE)
    assert schedule.slot_at(start - 0.001) is None
    assert schedule.slot_at(start) == slot
    assert schedule.slot_at(start + PIECE - 0.001) == slot
    assert schedule.slot_at(start + PIECE) is None
    assert schedule.next_after(start - 0.001) == slot
    later = schedule.next_after(start)
    assert later is not None
    assert later.start == at("2026-11-21 09:00")


def test_only_on_its_days() -> None:
    schedule = daily(screenings=("09:00",), days=("fri", "mon"))
    assert starts(schedule, "2026-11-20 10:00", 3) == [
        "Mon 09:00:00",
        "Fri 09:00:00",
        "Mon 09:00:00",
    ]
    assert schedule.slot_at(at("2026-11-21 09:30")) is None


def test_once_a_week_is_found_from_any_day() -> None:
    schedule = daily(screenings=("09:00",), days=("thu",))
    for hours in range(0, 14 * 24, 7):
        slot = schedule.next_after(at("2026-11-20 08:00") + hours * HOUR)
        assert slot is not None
        assert local(slot.start) == "Thu 09:00:00"


def test_a_time_before_its_neighbour_is_past_midnight() -> None:
    schedule = daily(screenings=("22:00", "23:30", "00:30", "01:45"), days=("fri",))
    assert starts(schedule, "2026-11-20 12:00", 5) == [
        "Fri 22:00:00",
        "Fri 23:30:00",
        "Sat 00:30:00",
        "Sat 01:45:00",
        "Fri 22:00:00",
    ]
    slot = schedule.slot_at(at("2026-11-21 02:00"))
    assert slot is not None
    assert local(slot.start) == "Sat 01:45:00"


def test_midnight_may_be_written_as_the_end_of_a_day() -> None:
    for midnight in ("24:00", "00:00"):
        schedule = daily(screenings=("22:00", midnight), days=("fri",))
        assert starts(schedule, "2026-11-20 12:00", 2) == ["Fri 22:00:00", "Sat 00:00:00"]


def test_a_screening_that_passes_midnight_plays_on() -> None:
    schedule = daily(screenings=("23:30",), days=("fri",))
    slot = schedule.slot_at(at("2026-11-21 00:43"))
    assert slot is not None
    assert local(slot.end) == "Sat 00:44:00"


def test_none_begins_at_or_after_closing_and_one_that_has_begun_plays_to_its_end() -> None:
    schedule = daily(screenings=("09:00", "17:30", "18:00", "19:00"), closes="18:00")
    assert starts(schedule, "2026-11-20 08:00", 3) == [
        "Fri 09:00:00",
        "Fri 17:30:00",
        "Sat 09:00:00",
    ]
    slot = schedule.slot_at(at("2026-11-20 18:30"))
    assert slot is not None
    assert slot.end - slot.start == PIECE


def test_closing_past_midnight_belongs_to_the_day_before() -> None:
    schedule = daily(screenings=("22:00", "00:30", "02:00"), closes="02:00", days=("fri",))
    assert starts(schedule, "2026-11-20 12:00", 3) == [
        "Fri 22:00:00",
        "Sat 00:30:00",
        "Fri 22:00:00",
    ]


def test_where_two_overlap_the_later_one_is_on() -> None:
    schedule = daily(screenings=("09:00", "09:30"))
    for minute, start in ((15, "Fri 09:00:00"), (30, "Fri 09:30:00"), (40, "Fri 09:30:00")):
        slot = schedule.slot_at(at(f"2026-11-20 09:{minute}"))
        assert slot is not None
        assert local(slot.start) == start
    slot = schedule.slot_at(at("2026-11-20 10:30"))
    assert slot is not None
    assert local(slot.start) == "Fri 09:30:00"


def test_a_piece_of_several_days_is_still_on() -> None:
    schedule = daily(60 * HOUR, screenings=("09:00",), days=("fri",))
    slot = schedule.slot_at(at("2026-11-22 20:59"))
    assert slot is not None
    assert local(slot.start) == "Fri 09:00:00"
    assert schedule.slot_at(at("2026-11-22 21:00")) is None


def test_a_night_that_lasts_until_the_next_evening_is_still_on() -> None:
    schedule = daily(screenings=("23:59:30", "23:59:00"), days=("mon",))
    slot = schedule.slot_at(at("2026-11-25 00:30"))
    assert slot is not None
    assert local(slot.start) == "Tue 23:59:00"


# ---------------------------------------------------------------- loops


def test_a_loop_runs_from_opening_and_is_cut_at_closing() -> None:
    schedule = daily(3 * HOUR, opens="10:00", closes="18:00", gap=600.0)
    assert starts(schedule, "2026-11-20 08:00", 4) == [
        "Fri 10:00:00",
        "Fri 13:10:00",
        "Fri 16:20:00",
        "Sat 10:00:00",
    ]
    last = schedule.slot_at(at("2026-11-20 17:59:59"))
    assert last is not None
    assert (last.end - last.start, local(last.end)) == (100 * 60, "Fri 18:00:00")
    assert schedule.slot_at(at("2026-11-20 18:00")) is None
    assert schedule.slot_at(at("2026-11-20 13:05")) is None


def test_a_loop_past_midnight() -> None:
    schedule = daily(2 * HOUR, opens="20:00", closes="01:00", days=("fri",))
    assert starts(schedule, "2026-11-20 08:00", 4) == [
        "Fri 20:00:00",
        "Fri 22:00:00",
        "Sat 00:00:00",
        "Fri 20:00:00",
    ]
    slot = schedule.slot_at(at("2026-11-21 00:30"))
    assert slot is not None
    assert local(slot.end) == "Sat 01:00:00"


def test_a_loop_that_closes_when_it_opens_never_does() -> None:
    schedule = daily(5 * HOUR, opens="09:00", closes="09:00")
    for hour in range(48):
        assert schedule.slot_at(at("2026-11-20 09:00") + hour * HOUR + 1) is not None
    slot = schedule.slot_at(at("2026-11-21 08:59"))
    assert slot is not None
    assert local(slot.end) == "Sat 09:00:00"


def test_an_endless_loop_counts_from_its_anchor_both_ways() -> None:
    loop = EndlessLoop(1000.0, 100.0, 20.0)
    assert loop.slot_at(1000.0) == ScreeningSlot(1000.0, 1100.0)
    assert loop.slot_at(1099.999) == ScreeningSlot(1000.0, 1100.0)
    assert loop.slot_at(1100.0) is None
    assert loop.next_after(1100.0) == ScreeningSlot(1120.0, 1220.0)
    assert loop.next_after(1000.0) == ScreeningSlot(1120.0, 1220.0)
    assert loop.slot_at(900.0) == ScreeningSlot(880.0, 980.0)
    assert loop.next_after(999.0) == ScreeningSlot(1000.0, 1100.0)
    assert not loop.closed(1110.0)


@given(
    st.floats(1.6e9, 2e9),
    st.sampled_from([0.1, 1 / 3, 182.0, 188.1, PIECE, 86400.0]) | st.floats(1, 1e5),
    st.sampled_from([0.0, 0.1, 6.0]),
    st.integers(0, 5000),
)
@settings(deadline=None, max_examples=300)
def test_every_round_of_an_endless_loop_is_on_at_its_very_start(
    anchor: float, duration: float, gap: float, number: int
) -> None:
    loop = EndlessLoop(anchor, duration, gap)
    slot = loop.next_after(anchor + number * (duration + gap))
    assert slot is not None
    assert loop.slot_at(slot.start) == slot
    following = loop.next_after(slot.start)
    assert following is not None
    assert following.start > slot.start
    assert following.start - slot.start == pytest.approx(duration + gap, abs=1e-5)


def test_by_hand_nothing_starts() -> None:
    schedule = build_schedule(
        ScheduleSection(kind="manual"), duration=PIECE, zone=BERLIN, anchor=ANCHOR
    )
    assert type(schedule) is Schedule
    assert (schedule.slot_at(ANCHOR), schedule.next_after(ANCHOR)) == (None, None)
    assert not schedule.closed(ANCHOR)


def test_a_loop_without_hours_starts_at_its_anchor() -> None:
    schedule = build_schedule(
        ScheduleSection(kind="loop", gap=6.0), duration=182.0, zone=BERLIN, anchor=ANCHOR
    )
    assert schedule == EndlessLoop(ANCHOR, 182.0, 6.0)


# ---------------------------------------------------------------- summer time

SPRING, AUTUMN = "2026-03-29", "2026-10-25"


def test_a_time_that_spring_skips_is_when_the_clocks_have_moved_past_it() -> None:
    schedule = daily(screenings=("02:30",))
    slot = schedule.next_after(at(f"{SPRING} 00:00"))
    assert slot is not None
    assert local(slot.start) == "Sun 03:30:00"
    assert starts(schedule, f"{SPRING} 00:00", 2)[1] == "Mon 02:30:00"


def test_a_time_that_autumn_repeats_is_shown_once_at_the_first() -> None:
    schedule = daily(screenings=("02:30",))
    slot = schedule.next_after(at(f"{AUTUMN} 00:00"))
    assert slot is not None
    assert slot.start == at(f"{AUTUMN} 02:30", fold=0)
    following = schedule.next_after(slot.start)
    assert following is not None
    assert local(following.start) == "Mon 02:30:00"
    assert following.start - slot.start == 25 * HOUR


@pytest.mark.parametrize(
    ("day", "end"), [(SPRING, "Sun 03:44:00"), (AUTUMN, "Sun 02:44:00"), ("2026-06-01", None)]
)
def test_a_screening_across_the_change_keeps_its_real_length(day: str, end: str | None) -> None:
    schedule = daily(2 * HOUR + 14 * 60, screenings=("00:30",))
    slot = schedule.slot_at(at(f"{day} 01:00"))
    assert slot is not None
    assert slot.end - slot.start == 2 * HOUR + 14 * 60
    if end is not None:
        assert local(slot.end) == end


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 4.0), (AUTUMN, 6.0), ("2026-06-01", 5.0)])
def test_opening_hours_are_meant_in_local_time(day: str, hours: float) -> None:
    schedule = daily(HOUR, opens="00:30", closes="05:30")
    first = schedule.next_after(at(f"{day} 00:00"))
    assert first is not None
    total, slot = 0.0, first
    while local(slot.start)[:3] == local(first.start)[:3]:
        total += slot.end - slot.start
        following = schedule.next_after(slot.start)
        assert following is not None
        slot = following
    assert total == hours * HOUR


# ---------------------------------------------------------------- closed, or only waiting


@pytest.mark.parametrize(
    ("now", "closed"),
    [
        ("2026-11-20 08:00", False),  # Friday, before the first
        ("2026-11-20 10:20", False),  # between two
        ("2026-11-20 20:00", True),  # after the last
        ("2026-11-20 23:59", True),
        ("2026-11-24 03:00", True),  # Tuesday, the night before it opens
        ("2026-11-21 12:00", True),  # Saturday, and no screening before Monday
        ("2026-11-22 23:00", True),
        ("2026-11-23 08:00", False),
    ],
)
def test_closed_is_when_nothing_more_comes_today(now: str, closed: bool) -> None:
    schedule = daily(
        screenings=("09:00", "10:30", "18:00"), days=("mon", "tue", "wed", "thu", "fri")
    )
    assert schedule.closed(at(now)) == closed


def test_a_pause_over_midnight_is_no_closing_time() -> None:
    schedule = daily(screenings=("22:00", "23:50", "01:30"))
    assert not schedule.closed(at("2026-11-20 23:30"))
    late = daily(HOUR, screenings=("22:00", "00:15"))
    assert not late.closed(at("2026-11-20 23:30"))
    assert not late.closed(at("2026-11-21 21:00"))


def test_a_loop_is_closed_outside_its_hours_only() -> None:
    schedule = daily(HOUR, opens="10:00", closes="18:00", gap=600.0)
    assert not schedule.closed(at("2026-11-20 12:05"))
    assert schedule.closed(at("2026-11-20 18:00"))
    assert schedule.closed(at("2026-11-20 22:00"))


# ---------------------------------------------------------------- whatever the schedule

_TIMES = st.builds(
    lambda hour, minute: f"{hour:02d}:{minute:02d}",
    st.integers(0, 23),
    st.sampled_from([0, 15, 30, 45]),
)
_DAY_SETS = st.lists(
    st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1, unique=True
)
_ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
_DURATIONS = st.sampled_from([600.0, 1234.5, PIECE, 6 * HOUR])
_SCREENINGS = st.builds(
    lambda times, days, duration, zone, closes: daily(
        duration, ZoneInfo(zone), screenings=times, days=days, closes=closes
    ),
    st.lists(_TIMES, min_size=1, max_size=5),
    _DAY_SETS,
    _DURATIONS,
    _ZONES,
    st.none() | _TIMES,
)
_LOOPS = st.builds(
    lambda opens, closes, days, duration, zone, gap: daily(
        duration, ZoneInfo(zone), opens=opens, closes=closes, days=days, gap=gap
    ),
    _TIMES,
    _TIMES,
    _DAY_SETS,
    _DURATIONS,
    _ZONES,
    st.sampled_from([0.0, 6.0, 1800.0]),
)
_ENDLESS = st.builds(
    EndlessLoop, st.floats(1.7e9, 1.8e9), _DURATIONS | st.floats(1, 5000), st.floats(0, 100)
)
_MOMENTS = st.one_of(
    st.floats(at("2026-01-01 00:00"), at("2027-01-01 00:00")),
    st.builds(
        lambda day, hours: at(f"{day} 00:00") + hours * HOUR,
        st.sampled_from([SPRING, AUTUMN, "2026-11-01", "2026-03-08", "2026-04-05"]),
        st.floats(-12, 36) | st.integers(-12, 36).map(float),
    ),
)


@given(_SCREENINGS | _LOOPS | _ENDLESS, _MOMENTS)
@settings(deadline=None, max_examples=300)
def test_what_is_on_and_what_is_next_agree(schedule: Schedule, unix: float) -> None:
    following = schedule.next_after(unix)
    current = schedule.slot_at(unix)
    if current is not None:
        assert unix in current
        assert schedule.slot_at(current.start) == current
    if following is None:  # none begins before closing, ever
        return
    assert following.start > unix
    assert following.end > following.start
    # it is on when it starts, it is what comes next until then, and nothing starts before it
    assert schedule.slot_at(following.start) == following
    for part in (0.001, 0.3, 0.5, 0.9, 0.999):
        between = unix + part * (following.start - unix)
        if between < following.start:
            assert schedule.next_after(between) == following
            on = schedule.slot_at(between)
            assert on is None or on.start <= unix


@given(_SCREENINGS | _LOOPS, _MOMENTS)
@settings(deadline=None, max_examples=100)
def test_what_is_shown_stands_in_the_settings(schedule: DailySchedule, unix: float) -> None:
    slot = schedule.next_after(unix)
    if slot is None:
        return
    begins = datetime.fromtimestamp(slot.start, schedule.zone)
    assert 0 < slot.end - slot.start <= schedule.duration
    evening = (begins - timedelta(days=1)).strftime("%a").lower()
    assert {begins.strftime("%a").lower(), evening} & set(schedule.days)
    if schedule.opens is None:
        times = {begins.strftime("%H:%M"), (begins - timedelta(hours=1)).strftime("%H:%M")}
        half = (begins - timedelta(minutes=30)).strftime("%H:%M")  # Lord Howe moves by that
        assert {*times, half} & set(schedule.starts)
        assert slot.end - slot.start == schedule.duration
