"""A ComfyUI workflow as a template: filled with a recipe, it is what `POST /prompt` takes (pure).

The template is a workflow in API format (in ComfyUI: *Export (API)*). An input that is exactly
``"{steps}"`` becomes the recipe's value in its own type; within a longer text it is put in:
``"{prompt}, oil on canvas"``. ``{{steps}}`` stands for ``{steps}`` as it is.

==================== ========================================================================
``prompt``, ``seed`` have to be there: without them every set would be the same picture
``strength``,        have to be there for image-to-image, and may not be for text-to-image;
``base_image``       the image is the uploaded file's name, as `LoadImage` wants it
``negative_prompt``, have to be there if the recipe says something of them, which else would be
``scheduler``,       lost in silence; loras are counted from 1
``lora_1``,
``lora_1_weight``, …
``steps``, ``model``, may be left out: then the workflow has its own
``guidance_scale``,
``width``, ``height``
==================== ========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from generator.engines.port import RecipeRefused
from generator.sheet.recipe import Recipe

Value = str | int | float

RUN_INPUT: Final = "understudy_run"
"""An input that no node knows. It is ignored, but enters the key of ComfyUI's cache."""

_PLACEHOLDER: Final = re.compile(r"\{\{([a-z][a-z0-9_]*)\}\}|\{([a-z][a-z0-9_]*)\}")
_ALWAYS: Final = frozenset({"prompt", "seed"})
_KNOWN: Final = re.compile(
    "prompt|negative_prompt|seed|steps|guidance_scale|width|height|strength|model|base_image"
    "|scheduler|lora_[1-9][0-9]?(_weight)?"
)


class Workflow:
    """A workflow template.

    Attributes:
        placeholders: every name that stands in it.
    """

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        """Take a workflow as JSON has it.

        Raises:
            ValueError: it is not in API format.
        """
        strange = [node_id for node_id, node in nodes.items() if not _is_node(node)]
        if strange:
            raise ValueError(
                "expected a workflow in API format, nodes with class_type and inputs, found"
                f" otherwise at {strange[0]!r}: export it from ComfyUI with 'Export (API)'"
            )
        if not nodes:
            raise ValueError("expected a workflow in API format, found one without nodes")
        self._nodes: dict[str, dict[str, Any]] = dict(nodes)
        self.placeholders = frozenset().union(
            *(_names(node["inputs"]) for node in self._nodes.values())
        )

    @property
    def takes_base(self) -> bool:
        """Whether a base image is to be uploaded."""
        return "base_image" in self.placeholders

    def check(self, recipe: Recipe) -> None:
        """Make sure that it can be filled with a recipe, and loses nothing of it.

        Raises:
            RecipeRefused: it cannot; every placeholder in question is named.
        """
        values = _values(recipe, "")
        unknown = {name for name in self.placeholders if not _KNOWN.fullmatch(name)}
        empty = self.placeholders - unknown - values.keys()
        missing = _demanded(recipe) - self.placeholders
        problems = [
            f"{text} {', '.join(f'{{{name}}}' for name in sorted(names))}"
            for text, names in (
                ("it has unknown placeholders", unknown),
                ("the recipe has no value for", empty),
                ("it has no place for", missing),
            )
            if names
        ]
        if problems:
            raise RecipeRefused(f"the ComfyUI workflow does not fit: {'; '.join(problems)}")

    def filled(self, recipe: Recipe, base_image: str, run: str) -> dict[str, Any]:
        """The workflow of one run.

        Args:
            recipe: one that `check` let through.
            base_image: the uploaded file's name; not looked at where there is no place for it.
            run: of this run alone, so that ComfyUI does not take the pictures from its cache.
        """
        values = _values(recipe, base_image)
        nodes: dict[str, Any] = {}
        for node_id, node in self._nodes.items():
            inputs = _mapped(node["inputs"], lambda text: _filled(text, values))
            if "seed" in _names(node["inputs"]):
                inputs[RUN_INPUT] = run
            nodes[node_id] = {**node, "inputs": inputs}
        return nodes

    def describe(self, node_id: object) -> str:
        """A node as its maker knows it: ``node 3 (KSampler)``."""
        node = self._nodes.get(str(node_id))
        return f"node {node_id} ({node['class_type']})" if node else f"node {node_id}"


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )


def _values(recipe: Recipe, base_image: str) -> dict[str, Value]:
    values: dict[str, Value] = {
        "prompt": recipe.prompt,
        "negative_prompt": recipe.negative_prompt,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
        "width": recipe.width,
        "height": recipe.height,
        "model": recipe.model,
    }
    if recipe.scheduler is not None:
        values["scheduler"] = recipe.scheduler
    if recipe.strength is not None:
        values["strength"] = recipe.strength
        values["base_image"] = base_image
    for number, lora in enumerate(recipe.loras, 1):
        values[f"lora_{number}"] = lora.model
        values[f"lora_{number}_weight"] = lora.weight
    return values


def _demanded(recipe: Recipe) -> set[str]:
    """What the workflow has to have a place for."""
    names = {*_ALWAYS, *(f"lora_{number}" for number in range(1, len(recipe.loras) + 1))}
    if recipe.strength is not None:
        names |= {"strength", "base_image"}
    if recipe.negative_prompt:
        names.add("negative_prompt")
    if recipe.scheduler is not None:
        names.add("scheduler")
    return names


def _filled(text: str, values: Mapping[str, Value]) -> Value:
    whole = _PLACEHOLDER.fullmatch(text)
    if whole is not None and whole[2] is not None:
        return values[whole[2]]
    # One pass: what is put in is not looked at again, though a prompt may have braces.
    return _PLACEHOLDER.sub(
        lambda match: f"{{{match[1]}}}" if match[1] else str(values[match[2]]), text
    )


def _mapped(value: Any, change: Callable[[str], Value]) -> Any:  # noqa: ANN401  # JSON
    """A copy of a JSON value with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _names(value: object) -> frozenset[str]:
    """Every placeholder within a JSON value."""
    found: set[str] = set()

    def note(text: str) -> str:
        found.update(match[2] for match in _PLACEHOLDER.finditer(text) if match[2])
        return text

    _mapped(value, note)
    return frozenset(found)
