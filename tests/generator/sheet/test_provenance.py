from __future__ import annotations

from typing import Any

import pytest

from generator.sheet.provenance import changes, model_config
from generator.sheet.recipe import Lora, Recipe
from tests.contracts.engine_contract import base_image, from_base, recipe


def test_what_is_written_of_a_recipe_differs_from_it_in_nothing() -> None:
    for wanted in (recipe(), from_base(0.4), recipe().model_copy(update={"scheduler": "Heun"})):
        assert changes(model_config(wanted, "P2"), wanted) == []
        assert changes(model_config(wanted, "P2"), wanted.with_seed(99)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "cats"}, ['prompt "boats on the sea" → "cats"']),
        ({"prompt": "x" * 99}, [f'prompt "boats on the sea" → "{"x" * 47}…"']),
        ({"strength": 0.6}, ["strength 0.4 → 0.6"]),
        ({"steps": 20}, ["steps 10 → 20"]),
        ({"guidance_scale": 8.0}, ["guidance scale 7.5 → 8"]),
        ({"negative_prompt": "fog"}, ['negative prompt "" → "fog"']),
        ({"scheduler": "Heun"}, ['scheduler none → "Heun"']),
        ({"model": "other", "width": 320}, ['model "test" → "other"', "width 160 → 320"]),
        ({"loras": (Lora(model="l", weight=0.5),)}, ["LoRAs changed"]),
        ({"base_image": base_image(40, 40)}, ["base image changed"]),
        (
            {"kind": "text-to-image", "strength": None, "base_image": None},
            [
                'kind "image-to-image" → "text-to-image"',
                "strength 0.4 → none",
                "base image changed",
            ],
        ),
    ],
)
def test_every_change_is_told(changed: dict[str, Any], told: list[str]) -> None:
    before = from_base(0.4)
    after = Recipe.model_validate({**before.model_dump(), **changed})
    assert after.fingerprint != before.fingerprint
    assert changes(model_config(before, None), after) == told


def test_what_a_meta_does_not_say_is_not_guessed() -> None:
    original = {"program": "P9", "prompt": "boats on the sea", "num_inference_steps": 4}
    assert changes(original, recipe()) == []
    assert changes({**original, "prompt": 7}, recipe()) == ['prompt 7 → "boats on the sea"']
    assert changes({}, recipe()) == []
