from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from server.core.clock import VirtualClock
from server.core.time_of_day import TimeOfDay, asleep, local_text, read

BERLIN = ZoneInfo("Europe/Berlin")
NOW = 1_795_996_800.0  # 2026-11-30, midnight in UTC
YEAR = 365 * 86_400.0


def codes(time_of_day: TimeOfDay) -> list[tuple[str, str]]:
    return [(each.code, each.level) for each in time_of_day.conditions()]


@pytest.mark.parametrize("step", [10 * YEAR, -10 * YEAR, 3600.0, -61.0, 1.5])
def test_a_clock_that_was_set_is_told_for_an_hour_and_printed_hours_follow_it(step: float) -> None:
    clock = VirtualClock(NOW)
    times = TimeOfDay(clock, BERLIN)
    heard: list[float] = []
    times.on_step(heard.append)
    moment = clock.now() + 60
    assert times.hour(moment) == "01:01:00"
    clock.step_wall(step)
    with capture_logs() as logs:
        times.look()
    assert heard == [pytest.approx(step)]
    assert [entry["event"] for entry in logs] == ["clock_stepped"]
    assert times.unix(moment) == pytest.approx(moment + step)
    assert times.steady(times.unix(moment)) == pytest.approx(moment)
    told = [each for each in times.conditions() if each.code == "clock_stepped"]
    assert [(each.level, each.blocks_ready) for each in told] == [("note", False)]
    assert ("forward" if step > 0 else "back") in told[0].message
    clock.jump(3601)
    times.look()
    assert "clock_stepped" not in [code for code, _ in codes(times)]


def test_a_slewed_clock_is_followed_and_not_told() -> None:
    clock = VirtualClock(NOW)
    times = TimeOfDay(clock, BERLIN)
    with capture_logs() as logs:
        for _ in range(100):
            clock.step_wall(0.05)
            times.look()
    assert logs == []
    assert times.offset == pytest.approx(5.0, abs=0.3)


def test_a_machine_that_slept_has_no_wrong_clock() -> None:
    clock = VirtualClock(NOW)
    sleep = [100.0]
    times = TimeOfDay(clock, BERLIN, slept=lambda: sleep[0])
    sleep[0] += 8 * 3600
    clock.step_wall(8 * 3600)
    with capture_logs() as logs:
        times.look()
    assert [entry["event"] for entry in logs] == ["machine_slept"]
    assert codes(times) == []
    clock.step_wall(600)
    times.look()
    assert codes(times) == [("clock_stepped", "note")]


def test_how_long_this_machine_has_slept_is_known() -> None:
    assert asleep() >= -1


@pytest.mark.parametrize("wall", [0.0, 1_500_000_000.0, 4_200_000_000.0, 1e15, -1e15])
def test_a_time_of_day_that_cannot_be_is_told_and_breaks_nothing(wall: float) -> None:
    times = TimeOfDay(VirtualClock(wall), BERLIN)
    assert codes(times) == [("clock_implausible", "degraded")]
    (told,) = times.conditions()
    assert "timedatectl" in told.message
    assert isinstance(times.hour(wall), str)
    assert isinstance(times.utc_offset(), float)


def test_one_that_is_behind_what_it_was_before_a_restart_is_told() -> None:
    assert codes(TimeOfDay(VirtualClock(NOW), BERLIN, last_seen=NOW + 7200)) == [
        ("clock_stepped", "note")
    ]
    for before in (None, NOW, NOW - YEAR, NOW + 60):
        assert codes(TimeOfDay(VirtualClock(NOW), BERLIN, last_seen=before)) == []


@pytest.mark.parametrize(
    ("unix", "text"),
    [
        (1795998600.0 - 7e-6, "2026-11-30T01:30:00+01:00"),  # a hair before its minute
        (1774746000.0, "2026-03-29T03:00:00+02:00"),  # clocks have gone forward
        (1774746000.0 - 1, "2026-03-29T01:59:59+01:00"),
        (1792890000.0, "2026-10-25T02:00:00+01:00"),  # and back: the hour once more
        (1792890000.0 - 1, "2026-10-25T02:59:59+02:00"),
        (1835395200.0, "2028-02-29T01:00:00+01:00"),
        (1e18, None),
    ],
)
def test_what_is_printed_is_the_hour_in_the_shows_zone(unix: float, text: str | None) -> None:
    assert local_text(unix, BERLIN) == text


@dataclass
class Interrupted:
    """A clock between whose two readings others get to run, sometimes for long."""

    delays: Iterator[float]
    at: float = NOW
    readings: list[str] = field(default_factory=list)

    def _passes(self) -> float:
        self.at += next(self.delays)
        return self.at

    def now(self) -> float:
        return self._passes()

    def wall(self) -> float:
        return self._passes() + 3600.0

    async def sleep_until(self, when: float) -> None:
        raise NotImplementedError

    def stretch(self, seconds: float) -> float:
        return seconds


def test_two_clocks_are_read_as_at_one_moment_even_if_others_run_in_between() -> None:
    clock = Interrupted(iter([0.0, 0.4, 0.0, 0.0, 1e-6, 0.0, 0.0, 0.3, 0.2]))
    now, wall = read(clock)
    assert wall - now == pytest.approx(3600.0, abs=1e-5)
