"""A clock that runs so many times as fast as another."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.clock import ScaledClock, SystemClock, VirtualClock, settle


async def test_it_begins_with_the_other_and_runs_away_from_it() -> None:
    outside = VirtualClock(1_800_000_000.0)
    clock = ScaledClock(outside, 8)
    assert clock.now() == clock.wall() == outside.now()
    await outside.advance(2.5)
    assert clock.now() == clock.wall() == 1_800_000_020.0


async def test_its_day_is_its_own() -> None:
    outside = VirtualClock()
    clock = ScaledClock(outside, 4)
    outside.step_wall(3600)
    assert clock.wall() == clock.now()


@pytest.mark.parametrize("speed", [0.25, 1.0, 3.0, 7.3, 60.0])
@settings(deadline=None, max_examples=60)
@given(seconds=st.floats(0, 1e5))
def test_nobody_is_woken_early(speed: float, seconds: float) -> None:
    async def sleep() -> None:
        outside = VirtualClock(1_800_000_000.123)
        clock = ScaledClock(outside, speed)
        when = clock.now() + seconds
        sleeper = asyncio.ensure_future(clock.sleep_until(when))
        await settle(3)
        while not sleeper.done():
            assert outside.wake_next()
            await settle(3)
        assert clock.now() >= when
        assert clock.now() == pytest.approx(when, abs=1e-4)

    asyncio.run(sleep())


def test_what_takes_real_time_takes_longer_by_it() -> None:
    assert ScaledClock(VirtualClock(), 60).stretch(0.5) == 30
    assert ScaledClock(VirtualClock(), 0.25).stretch(2) == 0.5
    for clock in (SystemClock(), VirtualClock()):
        assert clock.stretch(0.3) == 0.3
