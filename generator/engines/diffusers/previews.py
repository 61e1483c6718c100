"""Pictures of unfinished latents: three decoders, dear, cheap and free."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import torch

from generator.engines.diffusers.pipelines import decoded
from generator.engines.diffusers.settings import DiffusersSection
from generator.engines.diffusers.untyped import Autoencoder, Pipeline, Tensor
from generator.engines.port import RecipeRefused

Decoder = Callable[[Tensor], Tensor]
"""Latents (batch, channels, height, width) to pictures (batch, 3, height, width) of any size,
about 0 to 1, float32."""

_SD1, _SDXL, _SD3, _FLUX = 0.18215, 0.13025, 1.5305, 0.3611
"""Latent spaces, known by the scaling factor of the decoder that belongs to them."""

_TINY_DECODERS = {
    _SD1: "madebyollin/taesd",
    _SDXL: "madebyollin/taesdxl",
    _SD3: "madebyollin/taesd3",
    _FLUX: "madebyollin/taef1",
}

_RELEASED_BLOCKS = [128, 256, 512, 512]
"""Widths of the decoders that Stability AI and Black Forest Labs released."""

_SIDE, _PATCHES = 24, 6
"""On a side: latents that a matrix is fitted to, and random values that they run between."""

_MATRICES: dict[float, tuple[list[list[float]], list[float]]] = {
    # Rows are channels, columns red, green, blue in -1 to 1. Fitted for SD 1.4 by keturn:
    # discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
    _SD1: (
        [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264],
         [-0.184, -0.271, -0.473]],
        [0.0, 0.0, 0.0],
    ),
    # T. Alexis Vass, "Explaining the SDXL latent space" (huggingface.co/blog/TimothyAlexisVass),
    # and diffusers' guide to callbacks; there in codes of 0 to 255.
    _SDXL: (
        [[code / 127.5 for code in row]
         for row in ([60, 60, 60], [-60, -5, 10], [25, 15, -5], [-70, -50, -35])],
        [code / 127.5 - 1 for code in (150, 140, 130)],
    ),
}  # fmt: skip


def decoder_for(
    pipeline: Pipeline, settings: DiffusersSection, device: str, tiny_decoder: str | None
) -> Decoder:
    """The decoder of a model's previews.

    Args:
        pipeline: the model's.
        settings: which one is wanted.
        device: where latents are.
        tiny_decoder: see `DiffusersEngine`.

    Raises:
        RecipeRefused: the tiny decoder asked for is not on this machine.
    """
    vae = pipeline.vae
    wanted = settings.previews
    if wanted == "auto":
        wanted = "latent-rgb" if device == "cpu" else "taesd"
    if wanted == "vae":
        return lambda latents: decoded(pipeline, latents)
    if wanted == "taesd":
        try:
            return _tiny(tiny_decoder, settings, vae, device)
        except (OSError, ValueError, KeyError) as error:
            if settings.previews != "auto":
                raise RecipeRefused(
                    f"no tiny decoder for previews of this model ({error}): "
                    "expected tiny_decoder to name one, or previews = latent-rgb"
                ) from error
    return _matrix(pipeline, device)


def _tiny(name: str | None, settings: DiffusersSection, vae: Autoencoder, device: str) -> Decoder:
    scale = vae.config.scaling_factor
    name = name or _TINY_DECODERS.get(scale)
    if name is None:
        raise ValueError(f"none is known for a scaling factor of {scale}")
    tiny = diffusers.AutoencoderTiny.from_pretrained(
        name, local_files_only=not settings.allow_download, dtype=vae.dtype
    ).to(device)

    def decode(latents: Tensor) -> Tensor:
        # It reads latents as the denoising loop has them; its own factors are 1 and 0.
        latents = latents.to(tiny.dtype) / tiny.config.scaling_factor + tiny.config.shift_factor
        return tiny.decode(latents, return_dict=False)[0].float() / 2 + 0.5

    return decode


def _matrix(pipeline: Pipeline, device: str) -> Decoder:
    vae: Autoencoder = pipeline.vae
    known = _MATRICES.get(vae.config.scaling_factor)
    if known is not None and list(vae.config.block_out_channels) == _RELEASED_BLOCKS:
        factors, bias = (torch.tensor(values, device=device) for values in known)
    else:
        factors, bias = _fitted(pipeline, device)

    def decode(latents: Tensor) -> Tensor:
        rgb = torch.einsum("bchw,cr->brhw", latents.float(), factors) + bias.view(1, 3, 1, 1)
        return rgb / 2 + 0.5

    return decode


def _fitted(pipeline: Pipeline, device: str) -> tuple[Tensor, Tensor]:
    """The matrix that comes nearest to a decoder, by least squares over smooth random latents.

    For latent spaces of which no matrix is known, whatever their channels; measured once per
    model, in the time of decoding one small picture.

    Args:
        pipeline: whose decoder.
        device: where it is.

    Returns:
        Factors (channels, 3) and bias (3), to colours in -1 to 1.
    """
    channels = int(pipeline.vae.config.latent_channels)
    noise = torch.randn(
        (2, channels, _PATCHES, _PATCHES), generator=torch.Generator("cpu").manual_seed(0)
    )
    latents = torch.nn.functional.interpolate(noise, size=(_SIDE, _SIDE), mode="bilinear")
    with torch.no_grad():
        pictures = decoded(pipeline, latents.to(device)).cpu() * 2 - 1
    small = torch.nn.functional.adaptive_avg_pool2d(pictures, (_SIDE, _SIDE))
    known = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    found = torch.linalg.lstsq(known, small.permute(0, 2, 3, 1).reshape(-1, 3)).solution
    return found[:-1].to(device), found[-1].to(device)
