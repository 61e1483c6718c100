"""When jobs will be done."""

from __future__ import annotations

import pytest

from generator.jobs.eta import Paces, Slot, WorkSize, seconds_left

SIZE = WorkSize("sdxl", 1024, 1024, 20)
NOBODY: frozenset[str] = frozenset()


def measured(**seconds: float) -> Paces:
    paces = Paces()
    for engine, each in seconds.items():
        paces.learn(engine, SIZE, each)
    return paces


def test_what_was_never_measured_is_not_known() -> None:
    paces = measured(gpu=10)
    assert paces.seconds("gpu", SIZE) == pytest.approx(10)
    assert paces.seconds("other", SIZE) is None
    assert paces.seconds("gpu", WorkSize("sdxl", 512, 512, 20)) is None
    assert seconds_left([Slot("other")], [("a", SIZE, NOBODY)], paces) == {"a": None}


def test_it_grows_with_the_steps() -> None:
    twice = WorkSize("sdxl", 1024, 1024, 40)
    assert measured(gpu=10).seconds("gpu", twice) == pytest.approx(20)


def test_one_slow_run_says_little() -> None:
    paces = measured(gpu=10)
    for _ in range(4):
        paces.learn("gpu", SIZE, 10)
    paces.learn("gpu", SIZE, 300)
    assert paces.seconds("gpu", SIZE) == pytest.approx(10)


def test_the_whole_queue_is_foretold() -> None:
    slots = [Slot("gpu", "running", 4.0), Slot("gpu")]
    queue = [("a", SIZE, NOBODY), ("a", SIZE, NOBODY), ("b", SIZE, NOBODY)]
    left = seconds_left(slots, queue, measured(gpu=10))
    assert left == {
        "running": pytest.approx(4),
        "a": pytest.approx(14),
        "b": pytest.approx(20),
    }


def test_an_engine_that_refuses_takes_no_part() -> None:
    slots = [Slot("small"), Slot("large", "other", 30.0)]
    left = seconds_left(
        slots, [("a", SIZE, frozenset({"small"})), ("b", SIZE, NOBODY)], measured(small=5, large=10)
    )
    assert left["a"] == pytest.approx(40)
    assert left["b"] == pytest.approx(5)


def test_behind_what_nobody_knows_nobody_knows() -> None:
    odd = WorkSize("unknown", 8, 8, 1)
    left = seconds_left([Slot("gpu")], [("odd", odd, NOBODY), ("a", SIZE, NOBODY)], measured(gpu=1))
    assert left == {"odd": None, "a": None}
