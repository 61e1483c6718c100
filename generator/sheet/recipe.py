"""What determines the pixels of a picture, and the fingerprint of it (pure).

A `Recipe` is complete: two engines given the same recipe are asked for the same
picture, and a worker on another machine needs nothing beside it. Everything but the
seed enters the fingerprint, because the sets of one action differ by their seed alone.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SEED_LIMIT = 2**32
"""Seeds are in ``range(SEED_LIMIT)``: what every engine and random generator takes."""

_FINGERPRINT_VERSION = 1


class PipelineKind(StrEnum):
    """What a pipeline starts from."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"


class Lora(BaseModel):
    """A low-rank adapter laid over a model.

    `weight` scales it; 1.0 is as trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    weight: float = 1.0


class Recipe(BaseModel):
    """Everything that determines the pixels of one picture.

    Attributes:
        kind: text-to-image, or image-to-image from `base_image`.
        model: name or path of the model, as its engine knows it.
        prompt: what is drawn, with the program's suffix or the cue's override applied.
        negative_prompt: what is to be avoided; empty for nothing.
        steps: denoising steps asked for. What a scheduler really makes may differ.
        guidance_scale: classifier-free guidance; 1.0 or less is off.
        width: pixels.
        height: pixels.
        scheduler: name of the scheduler, None for the model's own.
        strength: 0 to 1, how far image-to-image goes from its base (0 is the base itself).
        base_image: encoded image (jpg, png or webp) that image-to-image starts from.
        loras: adapters, in the order they are laid on.
        seed: 0 to 2**32 - 1. Not part of the fingerprint.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    kind: PipelineKind = PipelineKind.TEXT_TO_IMAGE
    model: str = Field(min_length=1)
    prompt: str
    negative_prompt: str = ""
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.5
    width: Annotated[int, Field(ge=8, le=8192)]
    height: Annotated[int, Field(ge=8, le=8192)]
    scheduler: str | None = None
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    base_image: bytes | None = Field(default=None, repr=False)
    loras: tuple[Lora, ...] = ()
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 0

    @model_validator(mode="after")
    def _base_and_strength_belong_together(self) -> Self:
        image_to_image = self.kind is PipelineKind.IMAGE_TO_IMAGE
        if image_to_image and (self.base_image is None or self.strength is None):
            raise ValueError("an image-to-image recipe needs a base_image and a strength")
        if not image_to_image and (self.base_image is not None or self.strength is not None):
            raise ValueError("base_image and strength are for image-to-image recipes only")
        return self

    @property
    def is_base_itself(self) -> bool:
        """Whether `strength` leaves no step to draw: the picture is the base image."""
        return self.strength is not None and int(self.steps * self.strength) < 1

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe with another seed: another set of the same action."""
        return self.model_copy(update={"seed": seed % SEED_LIMIT})

    def essence(self) -> dict[str, Any]:
        """What the fingerprint covers, as plain JSON values.

        Fields at their default are left out, so that a field added in a later version
        makes no finished set stale. The base image stands in by its hash.
        """
        fields = self.model_dump(
            mode="python", exclude={"seed", "base_image"}, exclude_defaults=True
        )
        fields["kind"] = self.kind.value
        if self.base_image is not None:
            fields["base_image"] = hashlib.sha256(self.base_image).hexdigest()
        return fields

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:`` and the hash of everything but the seed.

        Equal for two recipes exactly when they may share their sets.
        """
        canonical = json.dumps(
            {"v": _FINGERPRINT_VERSION, **self.essence()},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def seed_for(fingerprint: str, set_id: int) -> int:
    """The seed of one set: fixed, so that a set drawn again is the same picture."""
    digest = hashlib.sha256(f"{fingerprint}/{set_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
