from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.providers.base import Slot
from server.providers.timing import UNKNOWN_DURATION, complete, due_times, final_by

START = 1_764_000_000.25
DURATIONS = st.lists(st.floats(0.01, 5.0), min_size=1, max_size=60)


def test_a_frame_is_due_at_the_start_plus_the_durations_up_to_it() -> None:
    due, factor = due_times([0.5, 0.25, 1.0], Slot(START), "squeeze")
    assert due == (START + 0.5, START + 0.75, START + 1.75)
    assert factor == 1.0


@pytest.mark.parametrize("fit", ["squeeze", "recorded"])
def test_a_thousand_steps_do_not_drift(fit: str) -> None:
    # Quarters and eighths are exact in floats, so exactly is exactly.
    durations = [(0.25, 0.625, 0.125, 1.0)[step % 4] for step in range(1000)]
    due, factor = due_times(durations, Slot(START), "squeeze" if fit == "squeeze" else "recorded")
    elapsed = Fraction(0)
    for step, duration in enumerate(durations):
        elapsed += Fraction(duration)
        assert Fraction(due[step]) == Fraction(START) + elapsed
    assert factor == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_durations_a_thousand_steps_stay_within_a_microsecond(seed: int) -> None:
    rng = Random(seed)
    durations = [rng.uniform(0.05, 2.0) for _ in range(1000)]
    due, _ = due_times(durations, Slot(START), "recorded")
    for step in (1, 10, 500, 1000):
        assert due[step - 1] - START == pytest.approx(math.fsum(durations[:step]), abs=1e-6)


@given(DURATIONS, st.floats(0, 100))
@settings(deadline=None, max_examples=150)
def test_squeezed_the_final_image_makes_it_and_the_rhythm_stays(
    durations: list[float], room: float
) -> None:
    slot = Slot(START, START + room)
    due, factor = due_times(durations, slot, "squeeze")
    total = sum(durations)
    assert 0 <= factor <= 1
    assert list(due) == sorted(due)
    assert due[0] >= START
    if total <= room - 1e-6:  # the clock's figures are that coarse
        assert factor == 1.0
        assert due == due_times(durations, slot, "recorded")[0]
    elif total > room + 1e-6:
        assert due[-1] == pytest.approx(slot.end, abs=1e-5)
        for step, duration in enumerate(durations[1:], 1):
            assert due[step] - due[step - 1] == pytest.approx(duration * room / total, abs=1e-5)


def test_recorded_never_squeezes() -> None:
    due, factor = due_times([1.0, 2.0], Slot(START, START + 0.5), "recorded")
    assert (due, factor) == ((START + 1.0, START + 3.0), 1.0)


@pytest.mark.parametrize("end", [START, START - 5])
def test_with_no_room_at_all_everything_is_due_at_once(end: float) -> None:
    due, factor = due_times([1.0, 2.0], Slot(START, end), "squeeze")
    assert (due, factor) == ((START, START), 0.0)


def test_a_run_of_no_duration_is_due_at_its_start() -> None:
    assert due_times([0.0, 0.0], Slot(START, START + 1), "squeeze") == ((START, START), 1.0)
    assert due_times([], Slot(START, START + 1), "squeeze") == ((), 1.0)


@given(st.lists(st.none() | st.floats(0.01, 5.0), max_size=30), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_unknown_durations_are_made_up_and_known_ones_kept(
    durations: list[float | None], seed: int
) -> None:
    filled = complete(durations, Random(seed))
    assert len(filled) == len(durations)
    for known, used in zip(durations, filled, strict=True):
        if known is None:
            assert 0.3 <= used <= 1.0
        else:
            assert used == known


def test_unknown_durations_are_made_up_anew_for_each_run() -> None:
    rng = Random(1)
    first, second = (complete([None] * 200, rng) for _ in range(2))
    assert first != second
    assert UNKNOWN_DURATION == (0.3, 1.0)
    assert min(first) < 0.4
    assert max(first) > 0.9
    assert len(set(first)) == 200


@pytest.mark.parametrize(
    ("start", "next_cue", "crossfade", "expected"),
    [
        (100.0, 200.0, 3.0, 197.0),  # the whole crossfade
        (100.0, 108.0, 3.0, 106.0),  # no more than a quarter of the run's time
        (100.0, 112.0, 3.0, 109.0),  # just both
        (100.0, 200.0, 0.0, 200.0),
        (100.0, 100.0, 3.0, 100.0),
        (100.0, 90.0, 3.0, 90.0),  # the next cue has been already
    ],
)
def test_the_final_image_is_seen_before_the_next_one(
    start: float, next_cue: float, crossfade: float, expected: float
) -> None:
    assert final_by(start, next_cue, crossfade) == expected


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 60))
@settings(deadline=None, max_examples=100)
def test_the_final_image_never_comes_after_the_next_cue_nor_in_the_first_three_quarters(
    start: float, room: float, crossfade: float
) -> None:
    by = final_by(start, start + room, crossfade)
    assert start + 0.75 * room - 1e-6 <= by <= start + room
    assert by >= start + room - crossfade - 1e-6
