"""What may be set of the diffusers engine (free of torch)."""

from __future__ import annotations

import importlib.util
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from generator.engines.settings import EngineAccess, LocalSection, NotReady

PreviewDecoder = Literal["auto", "vae", "taesd", "latent-rgb"]
"""What makes a picture of a step's latents.

``vae``: the model's own decoder, dear (+78 % at 1024 x 1024 on SDXL). ``taesd``: a tiny
decoder distilled from it (+4 %). ``latent-rgb``: a matrix, all but free, blurred. ``auto``:
taesd on a GPU if its weights are on this machine, else latent-rgb.
"""


class DiffusersSection(LocalSection):
    """Real diffusion on this machine.

    Attributes:
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``, None for the best there is.
        previews: how previews are decoded.
        allow_download: whether a model that is not on this machine is fetched.
        keep_models: models kept in memory at once, the one unused for longest goes first; None
            for one where sets are drawn, and for all that the show draws with where it is live.
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

    def keeping(self, models: int) -> Self:
        """All of them: one that has to be loaded when its cue comes makes the wall wait for it."""
        return self.model_copy(update={"keep_models": self.keep_models or max(1, models)})

    async def probe(self, access: EngineAccess) -> str:
        """See `EngineSection.probe`."""
        if any(importlib.util.find_spec(module) is None for module in ("diffusers", "torch")):
            raise NotReady("diffusers or torch is not installed on this machine")
        return await super().probe(access)
