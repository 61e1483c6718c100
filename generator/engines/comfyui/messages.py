"""What ComfyUI says, on its socket and over HTTP, and which step each preview is of (pure)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from cache.untrusted import Unfit, decode_answer
from generator.engines.comfyui.workflow import Workflow
from generator.engines.pictures import FLOOR

HELLO: Final = json.dumps(
    {"type": "feature_flags", "data": {"supports_preview_metadata": True}},
)
"""The first message of a client that wants to know which node and prompt a preview is of."""

SHOWN: Final = 600
"""Characters of a foreign message that ours may quote."""

_PREVIEW: Final = 1
_PREVIEW_WITH_METADATA: Final = 4
_WORD: Final = 4
_FIRST_TIMESTEP: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Event:
    """A JSON message: its type and data."""

    type: str
    data: dict[str, Any]

    @property
    def prompt_id(self) -> str | None:
        """Whose it is; None where it does not say."""
        value = self.data.get("prompt_id")
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Preview:
    """A binary message with a picture; without metadata, node and prompt are None."""

    image: bytes
    node: str | None = None
    prompt_id: str | None = None


def parse(message: str | bytes) -> Event | Preview | None:
    """Understand a message; None for what does not concern us or cannot be understood."""
    if isinstance(message, str):
        data = object_of(message)
        kind, content = data.get("type"), data.get("data")
        return Event(kind, content) if isinstance(kind, str) and isinstance(content, dict) else None
    kind_of_bytes, rest = _word(message), message[_WORD:]
    if kind_of_bytes == _PREVIEW and len(rest) > _WORD:
        return Preview(rest[_WORD:])
    length = _word(rest)
    if kind_of_bytes != _PREVIEW_WITH_METADATA or len(rest) <= _WORD + length:
        return None
    metadata = object_of(rest[_WORD : _WORD + length])
    node, prompt_id = metadata.get("node_id"), metadata.get("prompt_id")
    return Preview(
        rest[_WORD + length :],
        None if node is None else str(node),
        prompt_id if isinstance(prompt_id, str) else None,
    )


@dataclass(frozen=True, slots=True)
class Tick:
    """A node was at step `value` of `limit`, heard of at `at` (seconds of some clock)."""

    value: float
    limit: float
    at: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Where in the run a preview belongs.

    Attributes:
        duration: seconds since the picture before, or since its node began.
        left: steps that its node still has to go.
        timestep: nominal.
    """

    duration: float
    left: int
    timestep: float


@dataclass(slots=True)
class Progress:
    """Pairs previews, which carry no step number, with the progress told of their nodes.

    A step's time is when its number was first heard, not when its picture was: that comes
    behind the number, by as much as it is large. The first begins when the node that draws it
    does, so that reading a checkpoint from disk is nobody's step.

    ComfyUI does not tell timesteps: nominal ones descend evenly from 1000, and stay where they
    are while a second pass makes up for what the first had done.

    Args:
        mark: when the run began, in seconds of the clock that all times here are of.
    """

    mark: float
    _ticks: dict[str, Tick] = field(default_factory=dict)
    _latest: str | None = None
    _timestep: float = math.inf
    _placed: bool = False

    def heard(self, event: Event, at: float) -> None:
        """Take in what an event tells of how far nodes are."""
        match event.type:
            case "execution_start" | "executing" if not self._placed:
                self.mark = at
            case "progress":
                self._note(event.data.get("node"), event.data, at)
            case "progress_state":
                nodes = event.data.get("nodes")
                for node, state in nodes.items() if isinstance(nodes, dict) else ():
                    if isinstance(state, dict) and state.get("state") == "running":
                        self._note(node, state, at)
            case _:
                pass

    def place(self, preview: Preview, at: float) -> Placed:
        """Say where a preview that came at `at` belongs."""
        tick = self._ticks.get(preview.node or self._latest or "")
        # Not told of, or told of already: then its own arrival is all there is.
        at = tick.at if tick is not None and tick.at > self.mark else at
        duration = self.lap(at)
        self._placed = True
        if tick is None:
            return Placed(duration, 0, self._timestep_at(0.0))
        left = max(0, math.ceil(tick.limit - tick.value))
        return Placed(duration, left, self._timestep_at((tick.value - 1) / tick.limit))

    def lap(self, at: float) -> float:
        """Seconds since the last picture; a new one begins."""
        duration = max(at - self.mark, FLOOR)
        self.mark = max(at, self.mark)
        return duration

    def _note(self, node: object, state: dict[str, Any], at: float) -> None:
        value, limit = state.get("value"), state.get("max")
        if (
            node is None
            or not isinstance(value, int | float)
            or not isinstance(limit, int | float)
            or not 0 < value <= limit
        ):
            return
        known = self._ticks.get(str(node))
        # The same step is told of twice, by `progress_state` and by `progress`.
        if known is None or (known.value, known.limit) != (value, limit):
            self._ticks[str(node)] = Tick(value, limit, at)
            self._latest = str(node)

    def _timestep_at(self, done: float) -> float:
        self._timestep = min(self._timestep, _FIRST_TIMESTEP * (1.0 - max(0.0, done)))
        return self._timestep


def _word(data: bytes) -> int:
    return int.from_bytes(data[:_WORD], "big")


def object_of(text: str | bytes) -> dict[str, Any]:
    """The object that a message or an answer is; empty where it is none."""
    try:
        value = decode_answer(text)
    except Unfit:
        return {}
    return value if isinstance(value, dict) else {}


# ---------------------------------------------------------------- answers over HTTP


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


def refusal(response: httpx.Response, workflow: Workflow) -> str:
    """Why a prompt was refused: every node that is at fault, and its reason."""
    answer = object_of(response.content)
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
