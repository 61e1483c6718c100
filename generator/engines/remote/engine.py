"""An engine on another machine (or in a child process), over the worker protocol.

`POST /generate` answers with server-sent events; closing the response cancels the drawing.
The worker says something at least every five seconds, so silence means that it is gone.
`POST /action-sets` has the worker keep what it draws; it answers when that is done.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, cast

import httpx
from pydantic import SecretStr

from cache.model.documents import FormatError, real
from cache.model.formats import MAX_DURATION, MAX_STEPS, SetMeta, parse_meta
from cache.outgoing import reason_of, redacted
from cache.untrusted import Unfit, decode_answer, one_line
from generator.engines.port import (
    DrawingFailed,
    EngineDenied,
    EngineError,
    EngineOccupied,
    EnginePreempted,
    EngineUnavailable,
    Priority,
    RecipeRefused,
    StepImage,
    Timing,
    check_count,
)
from generator.engines.remote.protocol import PRIORITY_HEADER, NotKeptThere, SetRequest
from generator.engines.remote.settings import WorkerSection
from generator.engines.settings import EngineAccess
from generator.outgoing import Client, ask, bearer, bounded_lines, read_whole, stream
from generator.sheet.recipe import Recipe

SILENCE = 15.0
"""Seconds without a word, not even a heartbeat, after which the worker is given up."""

SET_WITHIN = 1800.0
"""Seconds within which a whole set has to be drawn and kept, the wait in the queue included."""

_ENDS_WITHIN = 0.1
"""Seconds in which a worker that has said its last must end its answer, or it is hung up on."""

_NOT_KEPT = frozenset({"no_store", "other_store", "number_taken"})
_NO_SUCH_PLACE = frozenset({404, 405})
_MAX_NAME = 200
_MAX_META = 2**20
_LEAST_EVENT = 8 * 2**20
_BYTES_A_PIXEL = 8
"""Of an encoded picture, at most, written as base64: four channels of a byte, and a third more."""

_ERRORS: dict[str, type[EngineError]] = {
    "refused": RecipeRefused,
    "invalid": RecipeRefused,
    "too_large": RecipeRefused,
    "unauthorized": EngineDenied,
    "busy": EngineUnavailable,
    "preempted": EnginePreempted,
    "unavailable": EngineUnavailable,
    "failed": DrawingFailed,
}


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event: its name and its data, a JSON object."""

    name: str
    data: dict[str, Any]


async def read_events(
    lines: AsyncIterator[str], limit: int = _LEAST_EVENT
) -> AsyncGenerator[ServerEvent, None]:
    """Server-sent events from the lines of a response; comments are passed over.

    Args:
        lines: each of them bounded.
        limit: characters of an event's data.

    Raises:
        DrawingFailed: what came is no such event.
    """
    name, data = "message", ""
    async for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
            if len(data) > limit:
                raise DrawingFailed("the worker sent an event that is too large")
        elif not line and data:
            try:
                parsed = decode_answer(data)
            except Unfit:
                parsed = None
            if not isinstance(parsed, dict):
                raise DrawingFailed("the worker sent an event that is no JSON object")
            yield ServerEvent(name, parsed)
            name, data = "message", ""
        elif not line:
            name = "message"


def error_of(data: dict[str, Any]) -> EngineError:
    """The engine's error that a worker's `error` tells of."""
    code, message = data.get("code"), f"{data.get('message') or 'it did not say why'!s:.600}"
    if code in _NOT_KEPT:
        return NotKeptThere(message)
    kind = _ERRORS.get(str(code))
    if kind is None:  # such as its store's, which says itself whether waiting helps
        kind = EngineUnavailable if data.get("retryable", True) else RecipeRefused
    return kind(message)


def connect_engine(settings: WorkerSection, access: EngineAccess) -> RemoteEngine:
    """See `RemoteSection.connect`."""
    return RemoteEngine(access.client, settings.url, token=access.token, priority=access.priority)


@dataclass(eq=False)
class RemoteEngine:
    """Draws on a worker.

    Args:
        client: entered and closed by its owner; several engines may share one.
        url: the worker's address, such as ``http://gpu.example:9000``.
        token: what it must be brought.
        silence: seconds without a word after which it is given up.
        priority: for whom it draws; what is for the show goes before all else there.

    Attributes:
        name: what drew last there, with its version; before that, where it is.
        timing: how the durations of the last drawing came about, as the worker says.
    """

    client: Client = field(repr=False)
    url: str = field(repr=False)
    _: KW_ONLY
    token: SecretStr | None = None
    silence: float = SILENCE
    priority: Priority | None = None

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.name = f"worker at {redacted(self.url)}"
        self.timing: Timing = "measured"

    @property
    def headers(self) -> dict[str, str]:
        """What every request brings, but one for a proof."""
        return self._headers(self.priority)

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe` there; leaving hangs up, and the worker stops within a step.

        Raises:
            EngineUnavailable: it cannot be reached, is busy, or fell silent.
            EnginePreempted: it was taken for the show.
            EngineDenied: it wants another token.
            RecipeRefused: it cannot draw this.
            DrawingFailed: it broke off, or what it sent cannot be understood.
        """
        return aclosing(self._images(recipe))

    def render_proof(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """See `SharedEngine.render_proof`: it is asked for nobody in particular."""
        return aclosing(self._images(recipe, proof=True))

    async def draw_set(self, asked: SetRequest) -> SetMeta:
        """Have the worker draw a set, keep it in its own store and register it.

        One that is there already is only looked at.

        Raises:
            NotKeptThere: it has no store, or not the one that `asked` names. Nothing was drawn.
            EngineError: as `render`.
        """
        try:
            response = await ask(
                self.client,
                "POST",
                f"{self.url}/action-sets",
                within=SET_WITHIN,
                limit=_MAX_META,
                content=asked.model_dump_json(),
                headers=self.headers,
            )
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error
        if response.status_code != httpx.codes.OK:
            raise _refusal(response.status_code, response.content)
        try:
            meta = parse_meta(response.content, f"the answer of {redacted(self.url)}")
        except FormatError as error:
            raise DrawingFailed(f"the worker answered with no meta: {error}") from error
        self.name = meta.engine or self.name
        return meta

    def _headers(self, priority: Priority | None) -> dict[str, str]:
        whom = {} if priority is None else {PRIORITY_HEADER: priority}
        return {"content-type": "application/json", **bearer(self.token), **whom}

    async def _images(
        self, recipe: Recipe, *, proof: bool = False
    ) -> AsyncGenerator[StepImage, None]:
        limit = max(_LEAST_EVENT, recipe.width * recipe.height * _BYTES_A_PIXEL)
        begun = stream(
            self.client,
            "POST",
            f"{self.url}/generate",
            within=self.silence,
            content=recipe.model_dump_json(),
            headers=self._headers(None if proof else self.priority),
        )
        try:
            async with begun as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response.status_code, await read_whole(response, self.silence))
                lines = bounded_lines(response, limit=limit, within=self.silence)
                async with (
                    aclosing(lines),
                    aclosing(read_events(lines, limit)) as events,
                    aclosing(self._read(events, recipe, proof=proof)) as images,
                ):
                    async for image in images:
                        yield image
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error

    async def _read(
        self, events: AsyncGenerator[ServerEvent, None], recipe: Recipe, *, proof: bool
    ) -> AsyncGenerator[StepImage, None]:
        steps = number = 0
        latency, waited = None, 0.0
        async for event in events:
            match event.name:
                case "waiting" if proof:
                    raise EngineOccupied(f"{self.name} draws for somebody else")
                case "started":
                    steps = _whole(event.data, "steps")
                    latency = _seconds(event.data, "latency")
                    waited = _seconds(event.data, "waited") or 0.0
                case "step" | "final":
                    number += 1
                    check_count(recipe, number)
                    image = _image(event, number, max(steps, number))
                    if number == 1:
                        image = replace(image, latency=latency, waited=waited)
                    yield image
                case "done":
                    self.name = one_line(str(event.data.get("engine") or self.name), _MAX_NAME)
                    if event.data.get("timing") in {"measured", "profiled", "simulated"}:
                        self.timing = cast("Timing", event.data["timing"])
                    await _come_to_the_end(events)
                    return
                case "error":
                    raise error_of(event.data)
                case _:
                    pass  # a later version's
        raise DrawingFailed("the worker hung up in the middle of a drawing")


async def _come_to_the_end(events: AsyncGenerator[ServerEvent, None]) -> None:
    """Read on after the last event: only a connection that was read to its end is used again."""
    with suppress(TimeoutError, EngineError, httpx.HTTPError):
        async with asyncio.timeout(_ENDS_WITHIN):
            await anext(events, None)


def _image(event: ServerEvent, number: int, steps: int) -> StepImage:
    data = event.data
    duration, timestep = data.get("duration"), data.get("timestep")
    try:
        image = base64.b64decode(data["image"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise DrawingFailed("the worker sent an image that is not base64") from None
    seconds = real(duration)
    if seconds is None or isinstance(duration, str) or not 0 <= seconds <= MAX_DURATION:
        raise DrawingFailed(f"the worker sent a duration that is none: {duration!r:.40}")
    media_type = str(data.get("media_type", "image/jpeg"))
    return StepImage(
        number, steps, event.name == "final", real(timestep), seconds, image, media_type
    )


def _whole(data: dict[str, Any], field: str) -> int:
    value = data.get(field)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_STEPS
    return value if usable and value is not None else 0


def _seconds(data: dict[str, Any], field: str) -> float | None:
    value = real(data.get(field))
    return value if value is not None and value >= 0 else None


def _refusal(status: int, body: bytes) -> EngineError:
    if status in _NO_SUCH_PLACE:
        return NotKeptThere(f"the worker knows no such request: it answered {status}")
    try:
        error = decode_answer(body)["error"]
        return error_of(error) if isinstance(error, dict) else DrawingFailed(f"{error!s:.600}")
    except (Unfit, KeyError, TypeError):
        return EngineUnavailable(f"the worker answered {status}")


def _unreachable(url: str, error: httpx.HTTPError) -> EngineError:
    silent = isinstance(error, httpx.ReadTimeout)
    reason = "it fell silent" if silent else reason_of(error, url)
    return EngineUnavailable(f"worker at {redacted(url)}: {reason}")
