"""What may be set of the diffusers engine, and how it is set up: small comparable values."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from generator.engines.port import Engine
from generator.engines.settings import EngineAccess, LocalSection, NotReady

PreviewDecoder = Literal["auto", "vae", "taesd", "latent-rgb"]
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


class DiffusersSection(LocalSection):
    """Real diffusion on this machine.

    Attributes:
        device: ``cuda``, ``mps`` or ``cpu``, None for the best there is.
        previews: how previews are decoded.
        allow_download: whether a model that is not on this machine is fetched.
        keep_models: models kept in memory at once; None for one where sets are drawn, and for
            all that the show draws with where it is live.
        batch_size: sets of one action drawn together; None for 4 on CUDA, else 1.
    """

    passed_over: ClassVar[frozenset[str]] = frozenset(
        {"device", "previews", "allow_download", "keep_models"}
    )

    kind: Literal["diffusers"] = "diffusers"
    device: str | None = None
    previews: PreviewDecoder = "auto"
    allow_download: bool = False
    keep_models: Annotated[int, Field(ge=1, le=100)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)] | None = None

    @contextmanager
    def open(self, *, wait: bool, processes: int = 1) -> Iterator[Engine]:
        """See `LocalSection.open`."""
        from generator.engines.diffusers.engine import DiffusersEngine

        del wait, processes
        engine = DiffusersEngine(
            DiffusersSettings(
                device=self.device,
                previews=self.previews,
                allow_download=self.allow_download,
                keep_models=self.keep_models or 1,
                batch_size=self.batch_size,
            )
        )
        try:
            yield engine
        finally:
            engine.close()

    def keeping(self, models: int) -> Self:
        """All of them: one that has to be loaded when its cue comes makes the wall wait for it."""
        return self.model_copy(update={"keep_models": self.keep_models or max(1, models)})

    async def probe(self, access: EngineAccess) -> str:
        """See `EngineSection.probe`."""
        if any(importlib.util.find_spec(module) is None for module in ("diffusers", "torch")):
            raise NotReady("diffusers or torch is not installed on this machine")
        return await super().probe(access)
