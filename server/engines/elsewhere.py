"""Engines that draw elsewhere: workers, ComfyUI, the older wire, Replicate.

Each is brought its own token alone.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from cache.untrusted import decode_answer
from generator.engine import Engine
from generator.engines.comfyui import ComfyUIEngine
from generator.engines.older_wire import OlderWireEngine
from generator.engines.remote import RemoteEngine
from generator.engines.replicate import API, DEFAULT_INPUT, ReplicateEngine
from generator.outgoing import Client, outgoing_client
from server.config.sections import EngineSection, Tokens

ELSEWHERE = frozenset({"worker", "comfyui", "older-wire", "replicate"})
"""Kinds that draw elsewhere."""

_GONE_AFTER = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between questions, and unanswered ones, after which a machine that
was switched off is noticed in the middle of a request."""


class BadEngine(Exception):
    """An engine that is set up in a way that cannot work."""


def client_for_engines() -> Client:
    """A client whose connections notice a machine that has vanished; to be entered."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options += [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _GONE_AFTER.items()
        if hasattr(socket, name)
    ]
    return outgoing_client(options)


def engine_elsewhere(
    section: EngineSection, client: Client, *, folder: Path, tokens: Tokens
) -> Engine:
    """An engine that draws on another machine.

    Args:
        section: which; of a kind in `ELSEWHERE`.
        client: entered and closed by its owner.
        folder: the show's, where a workflow's path begins.
        tokens: of which it is brought its own.

    Raises:
        BadEngine: its workflow cannot be used, or its token is missing.
    """
    if section.kind == "worker":
        return RemoteEngine(client, section.url or "", token=tokens.worker)
    if section.kind == "older-wire":
        return OlderWireEngine(section.url or "")
    if section.kind == "comfyui":
        path = folder / (section.workflow or "")
        try:
            return ComfyUIEngine(
                client,
                section.url or "",
                _workflow(path),
                token=tokens.comfyui,
                preview_method=section.preview_method,
                output=section.output,
            )
        except ValueError as error:
            raise BadEngine(f"the engine {section.name!r}: workflow: {path}: {error}") from error
    if tokens.replicate is None:
        raise BadEngine(
            f"the engine {section.name!r} needs a token of Replicate: set REPLICATE_API_TOKEN"
        )
    inputs = section.inputs or DEFAULT_INPUT
    return ReplicateEngine(
        client,
        section.model or "",
        token=tokens.replicate,
        input_map={str(ours): theirs for ours, theirs in inputs.items()},
        extra_input=section.extra_inputs,
        url=section.url or API,
    )


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
