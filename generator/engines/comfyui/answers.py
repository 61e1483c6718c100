"""What ComfyUI answers over HTTP, understood (pure)."""

from __future__ import annotations

from typing import Any, Final

import httpx

from cache.untrusted import Unfit, decode_answer
from generator.engines.comfyui.workflow import Workflow

SHOWN: Final = 600
"""Characters of a foreign message that ours may quote."""


def final_output(entry: dict[str, Any], node: str | None) -> dict[str, Any] | None:
    """Which image of a history's entry is the final one.

    Of the node executed last, saved ones before temporary ones; of a batch the first, as
    previews show that.
    """
    outputs = entry.get("outputs")
    found: dict[str, Any] | None = None
    for node_id, output in outputs.items() if isinstance(outputs, dict) else ():
        images = output.get("images") if isinstance(output, dict) else None
        if not images or not isinstance(images[0], dict) or node not in {None, node_id}:
            continue
        if found is None or images[0].get("type") == "output" or found.get("type") != "output":
            found = images[0]
    return found


def json_of(response: httpx.Response) -> dict[str, Any]:
    """An answer's object; empty where it is none."""
    try:
        value = decode_answer(response.content)
    except Unfit:
        return {}
    return value if isinstance(value, dict) else {}


def refusal(response: httpx.Response, workflow: Workflow) -> str:
    """Why a prompt was refused: every node that is at fault, and its reason."""
    answer = json_of(response)
    problems = []
    by_node = answer.get("node_errors")
    for node, found in by_node.items() if isinstance(by_node, dict) else ():
        errors = found.get("errors") if isinstance(found, dict) else None
        problems += [
            f"{workflow.describe(node)}: {error.get('message')}: {error.get('details')}"
            for error in errors or ()
            if isinstance(error, dict)
        ]
    error = answer.get("error")
    if not problems and isinstance(error, dict):
        problems.append(f"{error.get('message')}: {error.get('details')}")
    return "; ".join(problems)[:SHOWN] or f"answered {response.status_code}"


def stands_in(queue: object, prompt_id: str) -> bool:
    """Whether a prompt is in a queue: a list whose items are lists, the second is the id."""
    items = queue if isinstance(queue, list) else []
    return any(isinstance(item, list) and item[1:2] == [prompt_id] for item in items)
