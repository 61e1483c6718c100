"""Who of the others has fallen silent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from generator.jobs.held import LeaseWatch


def test_who_renews_a_lease_is_there_whatever_its_clock_says() -> None:
    watch = LeaseWatch(30.0, 15.0)
    for second in range(0, 200, 10):
        renewed = 1e9 - 7 * second if second % 20 else 5.0 + second  # forwards and backwards
        assert watch.silent({"there": renewed}, float(second)) == []


def test_who_renews_nothing_is_gone_after_its_lease_and_no_sooner() -> None:
    watch = LeaseWatch(30.0, 15.0)
    gone = [watch.silent({"dead": 1e12}, float(second)) for second in range(0, 50, 10)]
    assert gone == [[], [], [], ["dead"], ["dead"]]


def test_who_held_nothing_meanwhile_begins_anew() -> None:
    watch = LeaseWatch(30.0, 15.0)
    assert watch.silent({"there": 1.0}, 0.0) == []
    assert watch.silent({}, 10.0) == []
    assert watch.silent({"there": 1.0}, 20.0) == []
    assert watch.silent({"there": 1.0}, 30.0) == []


def test_while_nobody_could_look_nobody_is_taken_for_gone() -> None:
    watch = LeaseWatch(30.0, 15.0)
    assert watch.silent({"there": 1.0}, 0.0) == []
    assert watch.silent({"there": 1.0}, 100.0) == []
    assert watch.silent({"there": 2.0}, 105.0) == []


@given(st.lists(st.tuples(st.floats(0.1, 14.0), st.booleans()), min_size=1, max_size=60))
def test_it_is_the_time_since_the_last_change_that_counts(looks: list[tuple[float, bool]]) -> None:
    watch = LeaseWatch(30.0, 15.0)
    now, changed, lease = 0.0, 0.0, 0.0
    watch.silent({"there": lease}, now)
    for passed, renews in looks:
        now += passed
        if renews:
            lease, changed = lease + 1.0, now
        assert (watch.silent({"there": lease}, now) == ["there"]) == (now - changed >= 30.0)
