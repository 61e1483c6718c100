"""What may be set of a model on Replicate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from generator.engines.settings import Address, EngineAccess, NotReady, RemoteSection

API: Final = "https://api.replicate.com"

RecipeInput = Literal[
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance_scale",
    "width",
    "height",
    "strength",
    "base_image",
    "scheduler",
]
"""A field of ours that a model may take."""

DEFAULT_INPUT: Final[Mapping[RecipeInput, str]] = {
    **{name: name for name in get_args(RecipeInput)},
    "steps": "num_inference_steps",
    "strength": "prompt_strength",
    "base_image": "image",
}
"""How the inputs of Replicate's Stable Diffusion models are called, by our fields."""


class ReplicateSection(RemoteSection):
    """A model on Replicate.

    Attributes:
        model: ``owner/name``, ``owner/name:version`` or a version.
        inputs: what the model calls our fields, None for the usual names.
        extra_inputs: further inputs of the model, as they are.
        at_once: predictions under way at once.
    """

    live_unless_told: ClassVar[bool] = False
    token_variable: ClassVar[str | None] = "REPLICATE_API_TOKEN"  # as Replicate's programs call it
    needs: ClassVar[tuple[str, ...]] = ("model",)
    health_path: ClassVar[str] = "/account"

    kind: Literal["replicate"] = "replicate"
    url: Address = API
    model: Annotated[str, Field(pattern=r"^[^\s?#]+$")] = ""
    inputs: dict[RecipeInput, str] | None = None
    extra_inputs: dict[str, Any] = Field(default_factory=dict)
    at_once: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _is_told_what_sets_differ_by(self) -> Self:
        if self.inputs is not None and not {"prompt", "seed"} <= self.inputs.keys():
            raise ValueError(f"{self.called}: inputs needs names for prompt and seed")
        return self

    def beside_each_other(self, cores: int) -> int:
        """As many as may be under way."""
        del cores
        return self.at_once

    async def _reach(self, access: EngineAccess) -> None:
        if access.token is None:
            raise NotReady(f"{self.token_variable} is not set")
        await super()._reach(access)
