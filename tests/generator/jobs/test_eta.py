"""When jobs will be done, by what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.jobs.eta import Ahead, Slot, WorkSize, seconds_left
from generator.jobs.paces import Paces
from generator.sheet.recipe import PipelineKind, Recipe

SIZE = WorkSize("sdxl", 1024, 1024, 20)


def measured(**seconds: float) -> Paces:
    paces = Paces()
    for engine, each in seconds.items():
        paces.learn(engine, SIZE, each)
    return paces


def steps(number: int) -> WorkSize:
    return WorkSize("sdxl", 1024, 1024, number)


def test_a_size_has_the_steps_that_are_really_made() -> None:
    asked: dict[str, Any] = {
        "model": "sdxl",
        "prompt": "a lamp",
        "width": 64,
        "height": 32,
        "steps": 20,
    }
    assert WorkSize.of(Recipe(**asked)) == WorkSize("sdxl", 64, 32, 20)
    image: dict[str, Any] = {"kind": PipelineKind.IMAGE_TO_IMAGE, "base_image": b"an image"}
    assert WorkSize.of(Recipe(**asked, **image, strength=0.33)).steps == 6
    assert WorkSize.of(Recipe(**asked, **image, strength=0.0)).steps == 0


def test_what_was_never_measured_is_not_known() -> None:
    paces = measured(gpu=10)
    assert paces.seconds("gpu", SIZE) == pytest.approx(10)
    assert paces.seconds("other", SIZE) is None
    assert paces.seconds("gpu", WorkSize("sdxl", 512, 512, 20)) is None
    assert seconds_left([Slot("other")], [Ahead("a", SIZE)], paces) == {"a": None}
    assert seconds_left([Slot("gpu")], [Ahead("a", None)], paces) == {"a": None}
    assert seconds_left([], [Ahead("a", SIZE)], paces) == {"a": None}


def test_from_one_number_of_steps_each_is_taken_to_cost_the_same() -> None:
    assert measured(gpu=10).seconds("gpu", steps(40)) == pytest.approx(20)


@given(
    st.floats(0.0, 60.0),
    st.floats(0.001, 10.0),
    st.lists(st.integers(1, 100), min_size=2, max_size=16).filter(lambda all_: len({*all_}) > 1),
    st.integers(0, 200),
)
def test_from_two_numbers_of_steps_both_costs_are_told_apart(
    fixed: float, each: float, drawn: list[int], asked: int
) -> None:
    paces = Paces()
    for number in drawn:
        paces.learn("gpu", steps(number), fixed + each * number)
    assert paces.seconds("gpu", steps(asked)) == pytest.approx(fixed + each * asked, abs=1e-4)


def test_one_slow_run_says_little() -> None:
    paces = measured(gpu=10)
    for _ in range(4):
        paces.learn("gpu", SIZE, 10)
        paces.learn("gpu", steps(40), 18)
    paces.learn("gpu", SIZE, 300)
    assert paces.seconds("gpu", SIZE) == pytest.approx(10)
    assert paces.seconds("gpu", steps(40)) == pytest.approx(18)


def test_what_an_engine_did_long_ago_is_forgotten() -> None:
    paces = measured(gpu=100)
    for _ in range(40):
        paces.learn("gpu", SIZE, 10)
    assert paces.seconds("gpu", steps(40)) == pytest.approx(20)


def test_the_whole_queue_is_foretold() -> None:
    slots = [Slot("gpu", "running", 4.0), Slot("gpu")]
    queue = [Ahead("a", SIZE), Ahead("a", SIZE), Ahead("b", SIZE)]
    assert seconds_left(slots, queue, measured(gpu=10)) == {
        "running": pytest.approx(4),
        "a": pytest.approx(14),
        "b": pytest.approx(20),
    }


def test_an_engine_that_refuses_takes_no_part() -> None:
    slots = [Slot("small"), Slot("large", "other", 30.0)]
    queue = [Ahead("a", SIZE, frozenset({"small"})), Ahead("b", SIZE)]
    left = seconds_left(slots, queue, measured(small=5, large=10))
    assert left["a"] == pytest.approx(40)
    assert left["b"] == pytest.approx(5)


def test_behind_what_nobody_knows_nobody_knows() -> None:
    odd = WorkSize("unknown", 8, 8, 1)
    queue = [Ahead("odd", odd), Ahead("a", SIZE)]
    assert seconds_left([Slot("gpu")], queue, measured(gpu=1)) == {"odd": None, "a": None}


def test_what_is_remembered_is_taken_up_behind_what_was_learnt_since() -> None:
    before, after = measured(gpu=10, other=3), Paces()
    for _ in range(16):
        after.learn("gpu", SIZE, 20)
    after.recall(before.document())
    assert after.seconds("gpu", SIZE) == pytest.approx(20)
    assert after.seconds("other", SIZE) == pytest.approx(3)
    again = Paces()
    again.recall(after.document())
    assert again.document() == after.document()


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"runs": 7},
        {"runs": [7, "gpu", [], ["gpu", "sdxl", 1024, 1024, 7]]},
        {"runs": [["gpu", "sdxl", 1024, 1024, [[20, "soon"]]]]},
        {"runs": [["gpu", "sdxl", 1024, 1024, [[20, float("nan")]]]]},
        {"runs": [["gpu", "sdxl", 1024, float("inf"), [[20, 1.0]]]]},
        {"runs": [["gpu", "sdxl", 1024, 1024, []]]},
    ],
)
def test_what_is_no_memory_is_left_alone(document: object) -> None:
    paces = Paces()
    paces.recall(document)
    assert paces.seconds("gpu", SIZE) is None


def test_what_others_have_learnt_counts_where_nothing_was_learnt_here() -> None:
    paces = measured(gpu=10)
    paces.recall_elsewhere([measured(gpu=99, far=4).document(), None])
    assert paces.seconds("gpu", SIZE) == pytest.approx(10)
    assert paces.seconds("far", SIZE) == pytest.approx(4)
    paces.recall_elsewhere([])
    assert paces.seconds("far", SIZE) is None
    assert "far" not in str(paces.document())
