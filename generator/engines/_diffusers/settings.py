"""How the diffusers engine is set up: small comparable values (free of torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PreviewDecoder = Literal["auto", "taesd", "latent-rgb", "vae"]
"""What makes a picture of a step's latents.

``vae``: the model's own decoder, dear (+78 % at 1024 x 1024 on SDXL). ``taesd``: a tiny
decoder distilled from it (+4 %). ``latent-rgb``: a matrix, all but free, blurred. ``auto``:
taesd on a GPU if its weights are on this machine, else latent-rgb.
"""

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class DiffusersSettings:
    """How the engine draws.

    Attributes:
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; None takes the best there is.
        precision: None takes float32 on a CPU, float16 for U-Nets (SD 1.5, SDXL) and bfloat16
            for transformers (SD3, Flux) elsewhere.
        allow_download: whether a model that is not on this machine is fetched.
        keep_models: models kept in memory; the one unused for longest goes first.
        previews: how previews are decoded.
        tiny_decoder: name or path of the tiny decoder; None takes the one for the model.
        batch_size: most pictures drawn at once by `render_batch`; None takes 4 on CUDA and 1
            elsewhere.
    """

    device: str | None = None
    precision: Precision | None = None
    allow_download: bool = False
    keep_models: int = 1
    previews: PreviewDecoder = "auto"
    tiny_decoder: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.keep_models < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError(
                "expected keep_models and batch_size of 1 or more, "
                f"found {self.keep_models} and {self.batch_size}"
            )
