from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from generator.sheet.recipe import SEED_LIMIT, Lora, PipelineKind, Recipe, seed_for

TEXT: dict[str, Any] = {
    "model": "m",
    "prompt": "a lake",
    "steps": 30,
    "width": 1360,
    "height": 768,
}
IMAGE: dict[str, Any] = {
    "kind": "image-to-image",
    "model": "m",
    "prompt": "é 詩",
    "negative_prompt": "text",
    "steps": 40,
    "guidance_scale": 8.5,
    "width": 960,
    "height": 800,
    "scheduler": "Euler",
    "strength": 0.4,
    "base_image": b"base",
    "loras": (Lora(model="l", weight=0.5),),
}

# Written down once: if one of these changes, every set that was ever drawn is stale.
GOLDEN_TEXT = "sha256:ebfd746399286757854c521155699ff948b36640167616b7efc8b1309b26d484"
GOLDEN_IMAGE = "sha256:bd672c4aac9a377910d1856cf9a627502ec50c7b40792cac2fc7e69bffaa724f"


def test_fingerprints_are_what_they_always_were() -> None:
    assert Recipe(**TEXT).fingerprint == GOLDEN_TEXT
    assert Recipe(**IMAGE).fingerprint == GOLDEN_IMAGE


def test_fingerprints_do_not_depend_on_the_process() -> None:
    root = Path(__file__).parents[3]
    script = f"from generator.sheet.recipe import Recipe; print(Recipe(**{TEXT!r}).fingerprint)"
    for hash_seed in ("0", "1"):
        told = subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == GOLDEN_TEXT


@given(st.integers(0, SEED_LIMIT - 1))
@settings(deadline=None, max_examples=30)
def test_the_seed_is_no_part_of_it(seed: int) -> None:
    fresh = Recipe(**IMAGE, seed=seed)
    assert fresh.fingerprint == GOLDEN_IMAGE
    again = Recipe(**IMAGE).with_seed(seed)
    assert again == fresh
    assert again.fingerprint == GOLDEN_IMAGE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "another"),
        ("prompt", "é 詩."),
        ("negative_prompt", ""),
        ("steps", 41),
        ("guidance_scale", 8.6),
        ("width", 961),
        ("height", 801),
        ("scheduler", None),
        ("scheduler", "DDIM"),
        ("strength", 0.41),
        ("strength", 0.0),
        ("base_image", b"Base"),
        ("base_image", b""),
        ("loras", ()),
        ("loras", (Lora(model="l", weight=0.6),)),
        ("loras", (Lora(model="k", weight=0.5),)),
        ("loras", (Lora(model="l", weight=0.5), Lora(model="l", weight=0.5))),
    ],
)
def test_every_other_field_is_part_of_it(field: str, value: object) -> None:
    assert Recipe(**{**IMAGE, field: value}).fingerprint != GOLDEN_IMAGE


def test_the_kind_is_part_of_it() -> None:
    plain = {name: value for name, value in IMAGE.items() if name not in {"strength", "base_image"}}
    assert Recipe(**{**plain, "kind": PipelineKind.TEXT_TO_IMAGE}).fingerprint != GOLDEN_IMAGE
    assert "kind" in Recipe(**TEXT).essence()


def test_every_field_is_either_covered_or_the_seed() -> None:
    # A field that is added and forgotten in `essence` would let two pictures share their sets.
    assert Recipe.model_fields.keys() - Recipe(**IMAGE).essence().keys() == {"seed"}


def test_the_order_of_loras_matters() -> None:
    one, other = Lora(model="a"), Lora(model="b")
    first = Recipe(**{**IMAGE, "loras": (one, other)})
    second = Recipe(**{**IMAGE, "loras": (other, one)})
    assert first.fingerprint != second.fingerprint


def test_defaults_are_left_out_so_that_a_later_field_makes_nothing_stale() -> None:
    assert Recipe(**TEXT).essence() == {**TEXT, "kind": "text-to-image"}
    spelled_out = Recipe(
        **TEXT, negative_prompt="", guidance_scale=7.5, scheduler=None, loras=(), seed=0
    )
    assert spelled_out.fingerprint == GOLDEN_TEXT


def test_spelling_of_a_number_does_not_matter() -> None:
    assert Recipe(**{**TEXT, "guidance_scale": 7}).fingerprint == (
        Recipe(**{**TEXT, "guidance_scale": 7.0}).fingerprint
    )


@given(st.binary(max_size=300), st.floats(0, 1), st.text(max_size=20))
@settings(deadline=None, max_examples=60)
def test_json_gives_back_the_very_same_recipe(base: bytes, strength: float, prompt: str) -> None:
    recipe = Recipe(**{**IMAGE, "base_image": base, "strength": strength, "prompt": prompt})
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert again.base_image == base
    assert again.fingerprint == recipe.fingerprint


def test_json_of_another_program_may_use_either_alphabet_of_base64() -> None:
    base = bytes(range(256))
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        document = {
            **IMAGE,
            "base_image": encode(base).decode(),
            "loras": [{"model": "l", "weight": 0.5}],
        }
        assert Recipe.model_validate_json(json.dumps(document)).base_image == base


def test_a_base_image_never_fills_a_log_line() -> None:
    assert "base_image" not in repr(Recipe(**{**IMAGE, "base_image": b"x" * 100_000}))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "image-to-image"},
        {"kind": "image-to-image", "strength": 0.5},
        {"kind": "image-to-image", "base_image": b"x"},
        {"strength": 0.5},
        {"base_image": b"x"},
        {"steps": 0},
        {"steps": 1001},
        {"width": 7},
        {"height": 8193},
        {"guidance_scale": -0.1},
        {"guidance_scale": float("nan")},
        {"guidance_scale": float("inf")},
        {"seed": -1},
        {"seed": SEED_LIMIT},
        {"model": ""},
        {"sampler": "typo"},
        {"loras": [{"model": "l", "wieght": 1}]},
    ],
)
def test_what_cannot_be_drawn_is_no_recipe(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe(**{**TEXT, **changes})


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan")])
def test_strength_is_a_fraction(strength: float) -> None:
    with pytest.raises(ValidationError):
        Recipe(**{**IMAGE, "strength": strength})


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe(**TEXT).prompt = "another"  # type: ignore[misc]


def test_the_seed_of_a_set_is_what_it_always_was() -> None:
    assert [seed_for(GOLDEN_TEXT, set_id) for set_id in (0, 1)] == [2195297162, 1174672724]


@given(st.text(max_size=80), st.integers(0, 10**9))
@settings(deadline=None, max_examples=60)
def test_the_seed_of_a_set_is_in_range(fingerprint: str, set_id: int) -> None:
    seed = seed_for(fingerprint, set_id)
    assert seed in range(SEED_LIMIT)
    assert seed == seed_for(fingerprint, set_id)


def test_no_two_sets_of_an_action_have_the_same_seed() -> None:
    seeds = {seed_for(GOLDEN_TEXT, set_id) for set_id in range(1000)}
    assert len(seeds) == 1000
    assert seeds.isdisjoint(seed_for(GOLDEN_IMAGE, set_id) for set_id in range(1000))


@pytest.mark.parametrize(
    ("seed", "taken"), [(0, 0), (SEED_LIMIT, 0), (SEED_LIMIT + 5, 5), (-1, SEED_LIMIT - 1)]
)
def test_any_number_makes_a_seed(seed: int, taken: int) -> None:
    assert Recipe(**TEXT).with_seed(seed).seed == taken
