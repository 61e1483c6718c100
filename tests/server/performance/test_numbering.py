from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from server.performance.numbering import Numbering


def numbered(told: int, *frames: tuple[int, int]) -> list[tuple[int, int]]:
    numbering = Numbering(told)
    return [numbering.number(step, steps, final=step == steps) for step, steps in frames]


def test_a_run_of_one_take_is_numbered_as_it_is() -> None:
    frames = [(step, 21) for step in range(1, 22)]
    assert numbered(21, *frames) == frames


def test_another_take_with_the_same_count_goes_on_where_the_first_was() -> None:
    frames = [(1, 21), (2, 21), (3, 21), (4, 21), (21, 21)]
    assert numbered(21, *frames) == frames


def test_a_shorter_take_is_spread_over_what_is_left() -> None:
    assert numbered(21, (8, 21), (3, 6), (4, 6), (5, 6), (6, 6)) == [
        (8, 21),
        (10, 21),
        (14, 21),
        (18, 21),
        (21, 21),
    ]


def test_a_longer_take_makes_the_count_a_multiple_of_itself() -> None:
    told = numbered(4, (1, 4), (2, 4), *((step, 21) for step in range(11, 22)))
    assert told[:2] == [(1, 4), (2, 4)]
    assert {steps for _, steps in told[2:]} == {24}
    assert told[-1] == (24, 24)


def test_a_take_that_begins_again_goes_on_ascending() -> None:
    told = numbered(21, (8, 21), *((step, 21) for step in range(1, 22)))
    shares = [Fraction(step, steps) for step, steps in told]
    assert shares == sorted(shares)
    assert told[-1] == (42, 42)


def test_a_take_that_ends_sooner_than_it_said_ends_at_the_count() -> None:
    assert numbered(21, (1, 21), (2, 21), (3, 3)) == [(1, 21), (2, 21), (21, 21)]


takes = st.lists(
    st.tuples(st.integers(1, 80), st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=6
)


@settings(deadline=None)
@given(st.integers(1, 60), takes)
def test_numbers_ascend_and_the_share_never_falls(
    told: int, played: list[tuple[int, int, int]]
) -> None:
    numbering = Numbering(told)
    numbers: list[int] = []
    shares: list[Fraction] = []
    for place, (steps, first, last) in enumerate(played):
        for step in range(min(first, steps), min(last, steps) + 1):
            final = step == steps
            if step == 0 or (final and place < len(played) - 1):
                continue  # what comes after a final image is nothing
            number, count = numbering.number(step, steps, final=final)
            numbers.append(number)
            shares.append(Fraction(number, count))
            assert 1 <= number <= count
            assert (number == count) == final
    assert numbers == sorted(set(numbers))
    assert shares == sorted(shares)
