"""ComfyUI as an engine: a workflow with placeholders, drawn by a ComfyUI server.

Facts this rests on, read in ComfyUI's `server.py`, `execution.py`, `main.py`,
`latent_preview.py` and `comfy_execution/{progress,caching}.py` :

- A client that begins with ``feature_flags {supports_preview_metadata: true}`` gets previews as
  event 4: u32 4, u32 length of JSON, JSON, image; any other as event 1: u32 1, u32 format
  (1 JPEG, 2 PNG), image. Big-endian. Neither has a step number. A step sends `progress_state`,
  then either event 4 and `progress`, or `progress` and event 1: its number is known before.
- What a prompt's execution tells goes only to the client id that it was posted with. When an old
  socket of that id is noticed to be gone, the *new* one is unregistered and stays mute: a fresh
  id for each run, and after a reconnection within a run `/history` is asked as well.
- What is in the cache is not executed and has no previews. The key of a node is made of all its
  inputs, also those it does not know, which are otherwise ignored: a value of our own beside the
  seed makes it draw again, and the pixels stay the recipe's.
- `execution_success` is sent before the prompt is in `/history`.
- Previews are no larger than 512 pixels unless ComfyUI was started with `--preview-size`; those
  that are not of the recipe's size are brought to it.

A ComfyUI from before `/interrupt` knew prompt ids stops whatever it happens to draw.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import KW_ONLY, InitVar, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
import httpx
from pydantic import SecretStr

from cache.model.images import sniff
from cache.outgoing import reason_of, redacted
from cache.untrusted import decode_answer
from generator.engines.comfyui.listening import Heard, HeardQueue, listening
from generator.engines.comfyui.messages import (
    SHOWN,
    Event,
    Preview,
    Progress,
    final_output,
    object_of,
    parse,
    refusal,
    stands_in,
)
from generator.engines.comfyui.settings import ComfyUISection
from generator.engines.comfyui.workflow import Workflow
from generator.engines.pictures import (
    FINAL_QUALITY,
    base_itself,
    base_of,
    encoded,
    fitted_preview,
)
from generator.engines.port import (
    DrawingFailed,
    EngineDenied,
    EngineError,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
    check_count,
)
from generator.engines.settings import BadEngine, EngineAccess
from generator.outgoing import Client, ask, bearer, begun_there
from generator.sheet.recipe import Recipe

SILENCE: Final = 30.0
"""Seconds without a word of a run, after which it is asked after. A checkpoint takes as long."""

GIVE_UP: Final = 600.0
"""Seconds without progress of a prompt that is being executed, after which it is given up."""

_ANSWER_WITHIN: Final = 30.0
_CANCEL_WITHIN: Final = 3.0
_POLL: Final = 1.0
_POLLS_MISSED: Final = 5
_HISTORY_WITHIN: Final = 20.0
_HISTORY_PAUSE: Final = 0.05

_DENIED: Final = frozenset({401, 403})
_NOT_FOR_US: Final = frozenset({*_DENIED, 407, 429})


def connect_engine(settings: ComfyUISection, access: EngineAccess) -> ComfyUIEngine:
    """See `RemoteSection.connect`."""
    path = access.folder / settings.workflow
    try:
        return ComfyUIEngine(
            access.client,
            settings.url,
            _workflow(path),
            token=access.token,
            preview_method=settings.preview_method,
            output=settings.output,
        )
    except ValueError as error:
        raise BadEngine(f"{settings.called}: workflow: {path}: {error}") from error


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


@dataclass(slots=True)
class _Execution:
    """A prompt in ComfyUI's hands.

    Attributes:
        prompt_id: its id.
        ended: when it ended, well or not, by `time.perf_counter`; None while ComfyUI has it.
        unanswered: how often running ComfyUI did not answer when asked for it.
    """

    prompt_id: str
    ended: float | None = None
    unanswered: int = 0


@dataclass(eq=False)
class ComfyUIEngine:
    """Draws on a ComfyUI server.

    Its durations are measured, but from here: from one arrival of a step's number to the next,
    so they have the line's jitter and ComfyUI's decoding of previews in them. Image-to-image
    draws all of its steps whatever the strength, as ComfyUI's samplers do; where the other
    engines would be left without a step, the answer is the base image, as theirs is.

    Args:
        client: entered and closed by its owner; several engines may share one.
        url: where ComfyUI is, such as ``http://gpu.example:8188``.
        workflow: in API format, with placeholders: see `Workflow`.
        token: bearer token, for a server behind one that asks for it.
        preview_method: ``auto``, ``latent2rgb`` or ``taesd``.
        output: id of the node whose image is the final one; None for the one executed last.
        silence: seconds without a word of a run after which it is asked after.
        give_up: seconds without progress after which it has failed; waiting in ComfyUI's queue
            does not count.

    Raises:
        ValueError: the workflow is not in API format.
    """

    client: Client = field(repr=False)
    url: str = field(repr=False)
    workflow: InitVar[Mapping[str, Any]]
    _: KW_ONLY
    token: SecretStr | None = None
    preview_method: str = "auto"
    output: str | None = None
    silence: float = SILENCE
    give_up: float = GIVE_UP
    timing: ClassVar[Timing] = "measured"

    def __post_init__(self, workflow: Mapping[str, Any]) -> None:
        self.url = self.url.rstrip("/")
        self._workflow = Workflow(workflow)
        self._version: str | None = None

    @property
    def name(self) -> str:
        """ComfyUI and its version; before the first drawing, where it is."""
        return f"comfyui {self._version}" if self._version else f"comfyui at {redacted(self.url)}"

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe`; leaving the context interrupts ComfyUI, or takes it out of its queue.

        Raises:
            EngineUnavailable: ComfyUI cannot be reached.
            EngineDenied: it does not let us in.
            RecipeRefused: the workflow does not fit the recipe, or ComfyUI refuses it.
            DrawingFailed: a node failed, or it was interrupted, or lost by ComfyUI.
        """
        return aclosing(base_itself(recipe) if recipe.is_base_itself else self._images(recipe))

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        self._workflow.check(recipe)
        await self._introduce()
        base = await self._upload(recipe) if self._workflow.takes_base else ""
        run = uuid.uuid4().hex
        prompt = self._workflow.filled(recipe, base, run)
        address = f"ws{self.url.removeprefix('http')}/ws?clientId={run}"
        execution = _Execution(str(uuid.uuid4()))
        async with (
            listening(address, bearer(self.token), self.silence) as heard,
            begun_there(self._post(prompt, run, execution), partial(self._stop, execution)),
            aclosing(self._drawn(recipe, execution, heard)) as images,
        ):
            async for image in images:
                yield image

    async def _drawn(
        self, recipe: Recipe, execution: _Execution, heard: HeardQueue
    ) -> AsyncGenerator[StepImage, None]:
        size = (recipe.width, recipe.height)
        progress = Progress(time.perf_counter())
        number = 0
        async with aclosing(self._followed(execution, heard, progress)) as previews:
            async for preview, at in previews:
                fitted = await asyncio.to_thread(fitted_preview, preview.image, size)
                if fitted is None:  # what cannot be read is no reason to lose the picture
                    continue
                number += 1
                check_count(recipe, number)
                at_step = progress.place(preview, at)
                steps = number + at_step.left + 1
                yield StepImage(number, steps, False, at_step.timestep, at_step.duration, fitted)
        duration = progress.lap(execution.ended or time.perf_counter())
        image = await self._final(execution)
        media_type = sniff(image) or "application/octet-stream"
        yield StepImage(number + 1, number + 1, True, None, duration, image, media_type)

    async def _followed(
        self, execution: _Execution, heard: HeardQueue, progress: Progress
    ) -> AsyncGenerator[tuple[Preview, float], None]:
        """A run's previews and when each came, until the run has ended."""
        clock = asyncio.get_running_loop().time
        pause, told = self.silence, clock()
        due = told + pause
        while execution.ended is None:
            try:
                async with asyncio.timeout_at(due):
                    item = await heard.get()
            except TimeoutError:
                item = Heard(time.perf_counter(), None)
            if item.message is None:
                # From here on nobody can tell whether the socket speaks: it is asked after.
                pause = min(self.silence, _POLL)
                if not await self._still_running(execution):
                    told = clock()
                elif clock() - told > self.give_up:
                    raise DrawingFailed(f"ComfyUI made no progress for {self.give_up:g} s")
                due = clock() + pause
                continue
            said = parse(item.message)
            if said is None or said.prompt_id not in {None, execution.prompt_id}:
                continue
            if isinstance(said, Preview):
                yield said, item.at
            else:
                progress.heard(said, item.at)
                if said.prompt_id is None:  # ComfyUI's state, not the run's
                    continue
                self._heed(said, execution, item.at)
            told = clock()
            due = told + pause

    def _heed(self, event: Event, execution: _Execution, at: float) -> None:
        """End the execution where an event tells of its end.

        Raises:
            DrawingFailed: it did not end well.
        """
        match event.type:
            case "execution_success":
                execution.ended = at
            case "executing" if event.data.get("node") is None:
                execution.ended = at
            case "execution_error" | "execution_interrupted":
                execution.ended = at
                raise self._failure(event.type, event.data)
            case _:
                pass

    async def _still_running(self, execution: _Execution) -> bool:
        """Whether it is being executed; else it waits for its turn, or has ended.

        Raises:
            EngineUnavailable: nobody answers, several times running.
            DrawingFailed: ComfyUI knows nothing of it.
        """
        try:
            if await self._history(execution.prompt_id) is None:
                queue = await self._object("/queue")
                for name in ("queue_running", "queue_pending"):
                    if stands_in(queue.get(name), execution.prompt_id):
                        execution.unanswered = 0
                        return name == "queue_running"
                # It may have ended between the two questions.
                if await self._history(execution.prompt_id) is None:
                    raise DrawingFailed("ComfyUI has lost the prompt: was it started anew?")
        except EngineUnavailable:
            execution.unanswered += 1
            if execution.unanswered > _POLLS_MISSED:
                raise
            return True
        execution.ended = time.perf_counter()
        return False

    async def _final(self, execution: _Execution) -> bytes:
        """The final image. That the run has ended is told before its history is written."""
        deadline, pause = time.monotonic() + _HISTORY_WITHIN, _HISTORY_PAUSE
        while (entry := await self._history(execution.prompt_id)) is None:
            if time.monotonic() > deadline:
                raise DrawingFailed("ComfyUI has finished the prompt and keeps no history of it")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        self._check_ended_well(entry)
        found = final_output(entry, self.output)
        if found is None:
            where = f"node {self.output}" if self.output else "any node"
            raise DrawingFailed(f"ComfyUI finished without an image of {where}")
        params = {name: str(found.get(name, "")) for name in ("filename", "subfolder", "type")}
        # Not as it was saved: that is usually a PNG, with the whole workflow in it.
        params["preview"] = f"jpeg;{FINAL_QUALITY}"
        response = await self._ask("GET", "/view", params=params)
        if response.status_code != httpx.codes.OK or sniff(response.content) is None:
            raise DrawingFailed(
                f"ComfyUI does not show {params['filename']!r}: answered {response.status_code}"
            )
        return response.content

    def _check_ended_well(self, entry: dict[str, Any]) -> None:
        status = entry.get("status")
        if not isinstance(status, dict) or status.get("status_str") != "error":
            return
        for message in status.get("messages") or ():
            match message:
                case ["execution_error" | "execution_interrupted" as kind, dict(data)]:
                    raise self._failure(kind, data)
                case _:
                    pass
        raise DrawingFailed("ComfyUI failed, and does not say why")

    def _failure(self, kind: str, data: dict[str, Any]) -> DrawingFailed:
        node = self._workflow.describe(data.get("node_id"))
        if kind == "execution_interrupted":
            return DrawingFailed(f"ComfyUI was interrupted by somebody else, at {node}")
        what = f"{data.get('exception_type')}: {data.get('exception_message')}"
        return DrawingFailed(f"ComfyUI failed at {node}: {what.strip()[:SHOWN]}")

    # ------------------------------------------------------------ questions and answers

    async def _introduce(self) -> None:
        """Ask for the version, once; who does not know is ComfyUI all the same."""
        if self._version is None:
            system = (await self._object("/system_stats")).get("system")
            version = system.get("comfyui_version") if isinstance(system, dict) else None
            self._version = str(version or "of unknown version")

    async def _upload(self, recipe: Recipe) -> str:
        """Upload the base image in the recipe's size; how the workflow is to call it.

        Each time anew: whoever tidies ComfyUI's input folder breaks nothing.
        """
        data = await asyncio.to_thread(lambda: encoded(base_of(recipe), "PNG"))
        name = f"understudy-{hashlib.sha256(data).hexdigest()[:24]}.png"
        response = await self._ask(
            "POST",
            "/upload/image",
            files={"image": (name, data, "image/png")},
            data={"type": "input", "overwrite": "true"},
        )
        answer = object_of(response.content)
        if response.status_code != httpx.codes.OK or not isinstance(answer.get("name"), str):
            raise RecipeRefused(
                f"ComfyUI does not take the base image: answered {response.status_code}"
            )
        subfolder = answer.get("subfolder")
        return f"{subfolder}/{answer['name']}" if subfolder else str(answer["name"])

    async def _post(self, prompt: dict[str, Any], run: str, execution: _Execution) -> None:
        """Have a prompt executed."""
        response = await self._ask(
            "POST",
            "/prompt",
            json={
                "prompt": prompt,
                "client_id": run,
                "prompt_id": execution.prompt_id,
                "extra_data": {"preview_method": self.preview_method},
            },
        )
        answer = object_of(response.content)
        # An older ComfyUI gives an id of its own.
        execution.prompt_id = str(answer.get("prompt_id", execution.prompt_id))
        if response.status_code != httpx.codes.OK:
            execution.ended = time.perf_counter()
        if response.status_code != httpx.codes.OK or answer.get("node_errors"):
            raise RecipeRefused(f"ComfyUI refuses the prompt: {refusal(response, self._workflow)}")

    async def _stop(self, execution: _Execution, posting: asyncio.Task[None]) -> None:
        """Take a prompt out of the queue, or interrupt it; in this order, so it cannot slip by.

        An old ComfyUI interrupts whatever runs, whoever asked for it: so only what is ours.
        """
        if execution.ended is not None:
            return
        with anyio.move_on_after(_CANCEL_WITHIN):
            await asyncio.wait({posting})
            with suppress(EngineError):
                await self._ask("POST", "/queue", json={"delete": [execution.prompt_id]})
                queue = await self._object("/queue")
                if stands_in(queue.get("queue_running"), execution.prompt_id):
                    await self._ask("POST", "/interrupt", json={"prompt_id": execution.prompt_id})

    async def _history(self, prompt_id: str) -> dict[str, Any] | None:
        entry = (await self._object(f"/history/{prompt_id}")).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def _object(self, path: str) -> dict[str, Any]:
        return object_of((await self._ask("GET", path)).content)

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:  # noqa: ANN401  # httpx's
        try:
            response = await ask(
                self.client,
                method,
                f"{self.url}{path}",
                within=_ANSWER_WITHIN,
                headers=bearer(self.token),
                **content,
            )
        except httpx.HTTPError as error:
            where, reason = redacted(self.url), reason_of(error, self.url)
            raise EngineUnavailable(f"ComfyUI at {where}: {reason}") from error
        if response.is_server_error or response.status_code in _NOT_FOR_US:
            kind = EngineDenied if response.status_code in _DENIED else EngineUnavailable
            raise kind(f"ComfyUI at {redacted(self.url)} answered {response.status_code}")
        return response
