from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from generator.sheet.plan import plan_actions
from generator.sheet.programs import DEFAULT_PROGRAMS, FastVariant, Program
from generator.sheet.recipe import Lora
from server.config.show import DEMO, load_show

TURBO = FastVariant(
    model="turbo",
    steps=4,
    guidance_scale=0.0,
    scheduler="LCMScheduler",
    strength=0.9,
    loras=(Lora(model="lightning"),),
)


def test_a_fast_variant_changes_what_it_names() -> None:
    own = Program(negative_prompt="blur", loras=(Lora(model="house"),)).recipe("a lake")
    fast = TURBO.over(own)
    assert (fast.model, fast.steps, fast.guidance_scale) == ("turbo", 4, 0.0)
    assert fast.scheduler == "LCMScheduler"
    assert [lora.model for lora in fast.loras] == ["house", "lightning"]
    kept = {"prompt", "negative_prompt", "width", "height", "kind", "seed", "strength"}
    assert fast.model_dump(include=kept) == own.model_dump(include=kept)
    assert FastVariant(steps=4).over(own) == own.model_copy(update={"steps": 4})


def test_a_strength_is_for_what_starts_from_a_picture() -> None:
    program = Program.model_validate({**DEFAULT_PROGRAMS["P2"]})
    fast = TURBO.over(program.recipe("a lake", strength=0.2, base_image=b"base"))
    assert (fast.strength, fast.base_image) == (0.9, b"base")


@pytest.mark.parametrize(
    "given", [{}, {"loras": []}, {"steps": None}, {"width": 512}, {"steps": True, "stepz": 1}]
)
def test_a_fast_variant_that_changes_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FastVariant.model_validate(given)


def test_a_fast_variant_is_in_no_fingerprint() -> None:
    show = load_show(DEMO, None, {})
    before = show.plan({}).wanted
    assert len(before) > 5
    also_fast = {
        name: program.model_copy(update={"fast": TURBO}) for name, program in show.programs.items()
    }
    assert plan_actions(show.sheet, also_fast, show.base_images).wanted == before


def test_a_program_has_no_fast_variant_unless_it_says_so() -> None:
    assert all(Program.model_validate(given).fast is None for given in DEFAULT_PROGRAMS.values())
    named = Program.model_validate_json(json.dumps({"fast": {"steps": 4}}))
    assert named.fast == FastVariant(steps=4)
