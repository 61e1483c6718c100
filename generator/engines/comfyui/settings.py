"""What may be set of a ComfyUI server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from cache.untrusted import decode_answer
from generator.engines.port import Engine
from generator.engines.settings import BadEngine, EngineAccess, RemoteSection


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

    def connect(self, access: EngineAccess) -> Engine:
        """See `RemoteSection.connect`."""
        from generator.engines.comfyui.engine import ComfyUIEngine

        path = access.folder / self.workflow
        try:
            return ComfyUIEngine(
                access.client,
                self.url,
                _workflow(path),
                token=access.token,
                preview_method=self.preview_method,
                output=self.output,
            )
        except ValueError as error:
            raise BadEngine(f"{self.called}: workflow: {path}: {error}") from error


def _workflow(path: Path) -> dict[str, Any]:
    """A workflow as it stands in a file.

    Raises:
        ValueError: there is none, with what was expected.
    """
    try:
        workflow = decode_answer(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if not isinstance(workflow, dict):
        raise ValueError("expected a workflow in API format, a JSON object of nodes")  # noqa: TRY004 - of a file, not of a caller
    return workflow
