"""What may be set of a ComfyUI server."""

from __future__ import annotations

from typing import ClassVar, Literal

from generator.engines.settings import RemoteSection


class ComfyUISection(RemoteSection):
    """A workflow on a ComfyUI server.

    Attributes:
        workflow: path of a workflow in API format, relative to the show.
        output: id of the node whose image is the final one, None for the last.
        preview_method: how ComfyUI decodes previews.
    """

    token_variable: ClassVar[str | None] = "UNDERSTUDY_COMFYUI_TOKEN"
    needs: ClassVar[tuple[str, ...]] = ("url", "workflow")
    health_path: ClassVar[str] = "/system_stats"

    kind: Literal["comfyui"] = "comfyui"
    workflow: str = ""
    output: str | None = None
    preview_method: Literal["auto", "latent2rgb", "taesd"] = "auto"
