"""What a set's meta says of how it was drawn, and in what that differs from a recipe (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from generator.sheet.recipe import Recipe

_SHOWN: Final = 48
"""Characters of a text in a sentence."""

_NAMES: Final[Mapping[str, str]] = {
    "kind": "kind",
    "model": "model",
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance scale",
    "width": "width",
    "height": "height",
    "scheduler": "scheduler",
    "strength": "strength",
    "loras": "LoRAs",
    "base_image": "base image",
}


def model_config(recipe: Recipe, program: str | None) -> dict[str, Any]:
    """What a meta's ``model_config`` says of a recipe: all of it but the seed.

    The base image stands in by its SHA-256.
    """
    base = recipe.base_image
    return {
        "program": program,
        "kind": recipe.kind.value,
        "model": recipe.model,
        "prompt": recipe.prompt,
        "negative_prompt": recipe.negative_prompt,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
        "width": recipe.width,
        "height": recipe.height,
        "scheduler": recipe.scheduler,
        "loras": [lora.model_dump() for lora in recipe.loras],
        **({} if recipe.strength is None else {"strength": recipe.strength}),
        **({} if base is None else {"base_image": hashlib.sha256(base).hexdigest()}),
    }


def changes(config: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """In what a recipe differs from what a set was drawn from, a sentence each.

    Args:
        config: the ``model_config`` of the set's meta; other generators write less into it.
        recipe: what the set should be of.

    Returns:
        ``strength 0.4 → 0.6``. Empty where the meta does not tell what differs.
    """
    wanted = model_config(recipe, None)
    return [
        _sentence(name, config.get(field), wanted.get(field))
        for field, name in _NAMES.items()
        if field in config and config[field] != wanted.get(field)
    ]


def _sentence(name: str, before: object, after: object) -> str:
    if name in {"LoRAs", "base image"}:
        return f"{name} changed"
    return f"{name} {_shown(before)} → {_shown(after)}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= _SHOWN else f'"{value[: _SHOWN - 1]}…"'
    return f"{value:g}" if isinstance(value, float) else str(value)[:_SHOWN]
