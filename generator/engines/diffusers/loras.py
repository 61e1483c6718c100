"""Low-rank adapters: laid over a model that is kept, and taken off again."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from generator.engines.diffusers.pipelines import Model
from generator.engines.port import RecipeRefused
from generator.sheet.recipe import Lora


def lay_on(model: Model, loras: tuple[Lora, ...], *, allow_download: bool) -> None:
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
                source = _source(lora.model, allow_download=allow_download)
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


def _source(name: str, *, allow_download: bool) -> str:
    """A path to load from: a file, or a folder with one in it."""
    if Path(name).exists():
        return name
    return str(
        snapshot_download(
            name, local_files_only=not allow_download, allow_patterns=["*.safetensors", "*.json"]
        )
    )
