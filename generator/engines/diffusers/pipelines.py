"""Pipelines: loaded, kept, adapted, called by a recipe, and what they made decoded."""

from __future__ import annotations

import gc
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound
from PIL import Image

from generator.engines.diffusers.settings import DiffusersSection
from generator.engines.diffusers.untyped import Autoencoder, Pipeline, Precision, Scheduler, Tensor
from generator.engines.port import RecipeRefused
from generator.sheet.recipe import Lora, PipelineKind, Recipe

_UNET_FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_TRANSFORMER_FAMILIES = ("StableDiffusion3Pipeline", "FluxPipeline")
FAMILIES = _UNET_FAMILIES + _TRANSFORMER_FAMILIES
"""Text-to-image classes whose latents, arguments and previews we know."""

# What from_pretrained raises for a model that is not there, not one, or cut short.
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


@dataclass
class Model:
    """A model in memory.

    Attributes:
        name: as recipes name it.
        text: its text-to-image pipeline.
        scheduler: its own scheduler, never used, only copied.
        image: its image-to-image pipeline, sharing every weight; made when first asked for.
        loras: adapters laid over it now.
        decoder: how its previews are decoded; set by whoever does.
        warm: kinds and sizes drawn before: ``(kind, width, height)``.
    """

    name: str
    text: Pipeline
    scheduler: Scheduler
    image: Pipeline | None = None
    loras: tuple[Lora, ...] = ()
    decoder: Any = None
    warm: set[tuple[PipelineKind, int, int]] = field(default_factory=set)

    def pipeline(self, kind: PipelineKind) -> Pipeline:
        """The pipeline for a kind of recipe."""
        if kind is PipelineKind.TEXT_TO_IMAGE:
            return self.text
        if self.image is None:
            self.image = diffusers.AutoPipelineForImage2Image.from_pipe(self.text)
            self.image.set_progress_bar_config(disable=True)
        return self.image

    @property
    def size_multiple(self) -> int:
        """What widths and heights must be multiples of: the decoder's factor, times a patch."""
        factor = int(self.text.vae_scale_factor)
        return factor * 2 if type(self.text).__name__ in _TRANSFORMER_FAMILIES else factor


def _lay_on(model: Model, loras: tuple[Lora, ...], *, allow_download: bool) -> None:
    """Bring a model to have exactly these adapters over it.

    The model is not copied: adapters of the recipe before are taken off, which leaves its
    weights as they were; where only weights changed, nothing is loaded.

    Args:
        model: the model; its pipelines share what is changed.
        loras: in order; empty for none.
        allow_download: whether an adapter that is not on this machine is fetched.

    Raises:
        RecipeRefused: an adapter is not there, or does not fit the model.
    """
    if loras == model.loras:
        return
    pipeline = model.text
    names = [f"adapter_{index}" for index in range(len(loras))]
    if [lora.model for lora in loras] != [lora.model for lora in model.loras]:
        if model.loras:
            pipeline.unload_lora_weights()
            model.loras = ()
        for name, lora in zip(names, loras, strict=True):
            try:
                source = _adapter_source(lora.model, allow_download=allow_download)
                pipeline.load_lora_weights(source, adapter_name=name, use_safetensors=True)
                pipeline.set_adapters([name])
            # A file that is no adapter of this model surfaces as nearly anything.
            except Exception as error:
                pipeline.unload_lora_weights()
                raise RecipeRefused(
                    f"the LoRA {lora.model!r} cannot be laid over {model.name}: "
                    f"{type(error).__name__}: {error}"
                ) from error
    if loras:
        pipeline.set_adapters(names, [lora.weight for lora in loras])
    model.loras = loras


def _adapter_source(name: str, *, allow_download: bool) -> str:
    """A path to load from: a file, or a folder with one in it."""
    if Path(name).exists():
        return name
    return str(
        snapshot_download(
            name, local_files_only=not allow_download, allow_patterns=["*.safetensors", "*.json"]
        )
    )


class Models:
    """The models in memory, the one unused for longest first to go.

    Args:
        settings: how many, and from where.
        device: where they lie.
        precision: see `DiffusersEngine`.
    """

    def __init__(self, settings: DiffusersSection, device: str, precision: str | None) -> None:
        self._settings = settings
        self._device = device
        self._wanted_precision = precision
        self._kept: OrderedDict[str, Model] = OrderedDict()
        for library in (diffusers, transformers):
            library.utils.logging.disable_progress_bar()

    def fetch(self, recipe: Recipe) -> Model:
        """The model of a recipe, with the recipe's adapters over it and none other.

        Raises:
            RecipeRefused: the model or an adapter is not there or cannot be used, or the
                size cannot be drawn with it.
        """
        model = self._kept.get(recipe.model)
        if model is None:
            index = self._index(recipe.model)
            while len(self._kept) >= (self._settings.keep_models or 1):
                self._kept.popitem(last=False)
                free_memory()
            model = self._load(recipe.model, index)
            self._kept[recipe.model] = model
        self._kept.move_to_end(recipe.model)
        multiple = model.size_multiple
        if recipe.width % multiple or recipe.height % multiple:
            raise RecipeRefused(
                f"{recipe.model} draws sizes that are multiples of {multiple}, "
                f"found {recipe.width} x {recipe.height}"
            )
        _lay_on(model, recipe.loras, allow_download=self._settings.allow_download)
        return model

    def kept(self, name: str) -> Model | None:
        """A model, if it is in memory."""
        return self._kept.get(name)

    def forget(self, *, but: str | None = None) -> None:
        """Let them go, all but perhaps one."""
        for name in [name for name in self._kept if name != but]:
            del self._kept[name]
        free_memory()

    def _index(self, name: str) -> dict[str, Any]:
        """What a model consists of; looked up before another one has to go for it."""
        local = not self._settings.allow_download
        try:
            index: dict[str, Any] = diffusers.DiffusionPipeline.load_config(
                name, local_files_only=local
            )
        except _LOADING_ERRORS as error:
            raise RecipeRefused(
                f"no model {name!r} {'on this machine' if local else 'to be had'} ({error}); "
                f"here are: {', '.join(_models_here()) or 'none'}"
            ) from error
        return index

    def _load(self, name: str, index: dict[str, Any]) -> Model:
        options: dict[str, Any] = {
            "local_files_only": not self._settings.allow_download,
            "dtype": self._precision(str(index.get("_class_name"))),
        }
        if "safety_checker" in index:
            # It blackens pictures it takes offence at; a gallery has chosen its prompts.
            options |= {"safety_checker": None, "requires_safety_checker": False}
        pipeline = self._loaded(name, options)
        if type(pipeline).__name__ not in FAMILIES:
            raise RecipeRefused(
                f"{name} is a {type(pipeline).__name__}: expected one of {', '.join(FAMILIES)}"
            )
        pipeline.to(self._device)
        pipeline.set_progress_bar_config(disable=True)
        return Model(name, pipeline, pipeline.scheduler)

    def _loaded(self, name: str, options: dict[str, Any]) -> Pipeline:
        load = diffusers.AutoPipelineForText2Image.from_pretrained
        if options["dtype"] is torch.float16:
            try:  # Half the bytes to read, where they are there.
                return load(name, variant="fp16", **options)
            except (OSError, ValueError):
                pass
        try:
            return load(name, **options)
        except _LOADING_ERRORS as error:
            raise RecipeRefused(f"the model {name!r} cannot be loaded: {error}") from error

    def _precision(self, family: str) -> Precision:
        if self._wanted_precision is not None:
            return getattr(torch, self._wanted_precision)
        if self._device == "cpu":
            return torch.float32
        return torch.float16 if family.startswith(_UNET_FAMILIES) else torch.bfloat16


def best_device() -> str:
    """``cuda``, ``mps`` or ``cpu``: the best that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_memory() -> None:
    """Give back to the device what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _models_here() -> list[str]:
    """Names of the models in Hugging Face's cache on this machine."""
    try:
        found = scan_cache_dir()
    except CacheNotFound:
        return []
    return sorted(repo.repo_id for repo in found.repos if repo.repo_type == "model")


def call_arguments(
    pipeline: Pipeline, recipe: Recipe, seeds: Sequence[int], base: Image.Image | None
) -> dict[str, Any]:
    """A recipe as arguments of a pipeline's call, as far as the pipeline takes them.

    Args:
        pipeline: what will be called.
        recipe: what is drawn.
        seeds: one for each picture. Random numbers come from the CPU, so that a seed is the
            same picture on every device.
        base: what image-to-image starts from, in the recipe's size.
    """
    count = len(seeds)
    wanted: dict[str, Any] = {
        "prompt": [recipe.prompt] * count,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
        "width": recipe.width,
        "height": recipe.height,
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        "output_type": "latent",
        "return_dict": False,
    }
    if recipe.negative_prompt:
        # Left out where empty: SDXL then takes zeros in its place, as it was trained to.
        wanted["negative_prompt"] = [recipe.negative_prompt] * count
    if base is not None:
        wanted |= {"image": [base] * count, "strength": recipe.strength}
    accepted = inspect.signature(pipeline.__call__).parameters
    return {name: value for name, value in wanted.items() if name in accepted}


def unpacked(pipeline: Pipeline, latents: Tensor, recipe: Recipe) -> Tensor:
    """Latents as a decoder wants them, shape (batch, channels, height, width).

    Flux draws on patches of 2 x 2 latents laid out as a sequence (batch, patches, channels x 4).
    """
    if type(pipeline).__name__.startswith("Flux"):
        unpack = pipeline._unpack_latents  # noqa: SLF001 - diffusers has no public one
        return unpack(latents, recipe.height, recipe.width, pipeline.vae_scale_factor)
    return latents


def decoded(pipeline: Pipeline, latents: Tensor) -> Tensor:
    """Pictures of latents, by the model's own decoder.

    Args:
        pipeline: whose decoder. SDXL's overflows in half precision and is lifted to full for
            the while, as its pipeline does it.
        latents: shape (batch, channels, height, width), as the denoising loop has them.

    Returns:
        Shape (batch, 3, height x factor, width x factor), 0 to 1, float32, not clamped.
    """
    vae: Autoencoder = pipeline.vae
    config, precision = vae.config, vae.dtype
    lifted = precision is torch.float16 and config.force_upcast and hasattr(pipeline, "upcast_vae")
    if lifted:
        vae.to(dtype=torch.float32)
    latents = latents.to(vae.dtype)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        latents = latents * _per_channel(std, latents)
    latents = latents / config.scaling_factor
    if mean is not None and std is not None:
        latents = latents + _per_channel(mean, latents)
    latents = latents + (getattr(config, "shift_factor", None) or 0.0)
    try:
        return vae.decode(latents, return_dict=False)[0].float() / 2 + 0.5
    finally:
        if lifted:
            vae.to(dtype=precision)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
