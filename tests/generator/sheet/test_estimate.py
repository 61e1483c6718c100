from __future__ import annotations

from typing import Any

import pytest

from cache.model.formats import FileFacts, SetMeta
from generator.sheet.estimate import Cost, Experience
from generator.sheet.provenance import model_config
from generator.sheet.recipe import Recipe
from tests.contracts.engine_contract import from_base, recipe

UNKNOWN = Cost(None, None)


def meta(drawn: Recipe, seconds: float = 8.0, size: int = 4000, **changed: Any) -> SetMeta:
    return SetMeta(
        **{
            "total_steps": 2,
            "total_duration": seconds,
            "config": model_config(drawn, "P4"),
            "engine": "diffusers 0.42.1",
            "timing": "measured",
            "files": {name: FileFacts(size=size // 2, sha256=None) for name in ("1.jpg", "2.jpg")},
            **changed,
        }
    )


def test_nothing_is_known_of_what_was_never_drawn() -> None:
    assert Experience([]).cost(recipe(), None) == UNKNOWN
    known = Experience([meta(recipe())])
    assert known.cost(recipe(width=320), None) == UNKNOWN
    assert known.cost(recipe().model_copy(update={"model": "other"}), None) == UNKNOWN


def test_a_set_takes_what_others_like_it_took_by_their_steps() -> None:
    known = Experience([meta(recipe(steps=4), seconds) for seconds in (8.0, 8.4, 99.0)])
    assert known.cost(recipe(steps=4, prompt="cats"), None) == Cost(8.4, 4000)
    twice = known.cost(recipe(steps=8), {"diffusers"})
    assert twice.seconds == pytest.approx(16.8)
    assert twice.size == 8000


def test_image_to_image_takes_the_share_that_its_strength_leaves() -> None:
    known = Experience([meta(from_base(0.4), 8.0)])  # 4 of 10 steps
    cost = known.cost(from_base(0.8), None)
    assert cost.seconds == pytest.approx(16.0)
    assert cost.size == 8000
    assert known.cost(from_base(0.0), None).seconds == pytest.approx(2.0)


def test_what_another_engine_took_does_not_count() -> None:
    known = Experience([meta(recipe(), engine="comfyui 0.3.1")])
    assert known.cost(recipe(), {"diffusers"}) == UNKNOWN
    assert known.cost(recipe(), {"comfyui", "diffusers"}) == Cost(8.0, 4000)
    assert known.cost(recipe(), None) == Cost(8.0, 4000)


@pytest.mark.parametrize("timing", ["simulated", None])
def test_durations_that_were_made_up_say_nothing_of_time(timing: str | None) -> None:
    known = Experience([meta(recipe(), timing=timing)])
    assert known.cost(recipe(), None) == Cost(None, 4000)


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {}},
        {"config": {"program": "P4", "prompt": "x", "num_inference_steps": 4}},
        {"config": {**model_config(recipe(), None), "num_inference_steps": 0}},
        {"engine": None},
        {"total_duration": None, "files": {}},
    ],
)
def test_metas_that_do_not_say_enough_are_passed_over(changed: dict[str, Any]) -> None:
    assert Experience([meta(recipe(), **changed)]).cost(recipe(), None) == UNKNOWN


def test_a_strange_strength_is_none() -> None:
    strange = {**model_config(recipe(), None), "strength": "much"}
    assert Experience([meta(recipe(), config=strange)]).cost(recipe(), None) == Cost(8.0, 4000)
