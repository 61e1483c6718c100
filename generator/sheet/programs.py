"""Programs: how a family of cues is drawn, and the defaults of the programs we know (pure)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from generator.sheet.recipe import Lora, PipelineKind, Recipe

DEFAULT_PROGRAM = "P0"
"""What draws a cue that names no program."""

_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


Speed = Literal["full", "fast"]
"""Whether a program draws as it does for the show, or in the few steps of its fast variant."""


class FastVariant(BaseModel):
    """What drawing in few steps changes of a program; None leaves it as it is.

    Attributes:
        model: one that was made for few steps.
        steps: denoising steps, also where a cue or a style says how many.
        guidance_scale: such models mostly want 0 or 1.
        scheduler: name of the scheduler that it wants.
        strength: 0 to 1; image-to-image only, where fewer steps need a stronger start.
        loras: adapters, laid on after the program's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    scheduler: Annotated[str, Field(min_length=1)] | None = None
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    loras: tuple[Lora, ...] = ()

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_dump(exclude_defaults=True):
            raise ValueError("expected what a fast drawing changes, such as steps = 4")
        return self

    def over(self, recipe: Recipe) -> Recipe:
        """The recipe, to be drawn in few steps."""
        said = self.model_dump(exclude={"loras", "strength"}, exclude_none=True)
        if recipe.strength is not None and self.strength is not None:
            said["strength"] = self.strength
        return recipe.model_copy(update={**said, "loras": (*recipe.loras, *self.loras)})


class Program(BaseModel):
    """How a family of cues is drawn.

    Attributes:
        kind: text-to-image or image-to-image.
        model: model name or path, as the engines know it.
        steps: denoising steps asked for.
        guidance_scale: classifier-free guidance. Not to be confused with a cue's `guidance`,
            which is a slider percentage and sets the strength.
        width: pixels.
        height: pixels.
        suffix: appended to every prompt but an override.
        prompt: drawn in place of the cue's text, where the program has a text of its own.
        negative_prompt: what is to be avoided.
        scheduler: name of the scheduler, None for the model's own.
        strength: 0 to 1; image-to-image only, until a cue or the slider says otherwise.
        base_image: path of the picture that image-to-image starts from, relative to the show;
            None takes the bundled one.
        loras: adapters laid over the model.
        fast: what its fast variant changes; None where it has none. It is asked for by name and
            never the show's, so it is in no fingerprint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PipelineKind = PipelineKind.TEXT_TO_IMAGE
    model: str = Field(default=_SDXL, min_length=1)
    steps: Annotated[int, Field(ge=1, le=1000)] = 30
    guidance_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 7.5
    width: Annotated[int, Field(ge=64, le=8192)] = 1360
    height: Annotated[int, Field(ge=64, le=8192)] = 768
    suffix: str = ""
    prompt: str | None = None
    negative_prompt: str = ""
    scheduler: str | None = None
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.6
    base_image: str | None = None
    loras: tuple[Lora, ...] = ()
    fast: FastVariant | None = None

    @property
    def image_to_image(self) -> bool:
        """Whether it starts from a picture."""
        return self.kind is PipelineKind.IMAGE_TO_IMAGE

    def drawn_prompt(self, text: str, override: str | None = None) -> str:
        """What is really drawn for a cue's `text`.

        An override is drawn as it stands. Runs of white space count as one space, as they
        do for every text encoder, so that a typographic change makes no set stale.
        """
        if override is not None:
            return _plain(override)
        text = _plain(self.prompt if self.prompt is not None else text)
        suffix = " ".join(self.suffix.split())
        if not text:
            return suffix.lstrip(", ")
        return (
            text + ("" if not suffix or suffix.startswith((",", ".", ";", ":")) else " ") + suffix
        )

    def recipe(
        self,
        text: str,
        *,
        override: str | None = None,
        strength: float | None = None,
        steps: int | None = None,
        base_image: bytes | None = None,
    ) -> Recipe:
        """The recipe for one cue.

        Args:
            text: the cue's text, as displayed.
            override: drawn in its place.
            strength: 0 to 1, for image-to-image; None takes the program's.
            steps: None takes the program's.
            base_image: encoded picture; required for image-to-image, else ignored.
        """
        return Recipe(
            kind=self.kind,
            model=self.model,
            prompt=self.drawn_prompt(text, override),
            negative_prompt=self.negative_prompt,
            steps=steps or self.steps,
            guidance_scale=self.guidance_scale,
            width=self.width,
            height=self.height,
            scheduler=self.scheduler,
            strength=(self.strength if strength is None else strength)
            if self.image_to_image
            else None,
            base_image=base_image if self.image_to_image else None,
            loras=self.loras,
        )


def _plain(text: str) -> str:
    return " ".join(text.split())


DEFAULT_PROGRAMS: dict[str, dict[str, Any]] = {
    "P0": {"model": _SDXL, "steps": 30, "suffix": ", photorealistic"},
    "P2": {
        "kind": "image-to-image",
        "model": _SD15,
        "steps": 40,
        "width": 960,
        "height": 800,
    },
    "P2B": {
        "kind": "image-to-image",
        "model": _SD15,
        "steps": 40,
        "guidance_scale": 8.5,
        "width": 960,
        "height": 800,
        "prompt": "crowd of people in a public space",
    },
    "P3": {"model": _SDXL, "steps": 40, "guidance_scale": 5.5, "prompt": ""},
    "P3B": {"model": _SDXL, "steps": 40, "guidance_scale": 5.5, "suffix": ", photorealistic"},
    "P4": {"model": _SDXL, "steps": 30, "suffix": ", photorealistic"},
}
"""What each program is unless `show.toml` says otherwise: `[programs.P2]` lays over these."""
