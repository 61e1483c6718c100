"""A ComfyUI that draws nothing much, but speaks as the real one does, and can misbehave.

Order of messages, layouts, the cache by node inputs, the queue, and the way sockets are registered
are those of ComfyUI's `server.py`, `execution.py`, `main.py` and `comfy_execution/`.
"""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import hashlib
import io
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from PIL import Image, ImageOps
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.helpers.servers import listening

JPEG, PNG = 1, 2
SAMPLERS = ("euler", "ddim", "dpmpp_2m")


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app` in this loop at a free port of loopback; where."""
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    async with listening(config) as port:
        yield f"http://127.0.0.1:{port}"


def workflow(**ksampler: Any) -> dict[str, Any]:
    """A text-to-image workflow in API format."""
    sampler: dict[str, Any] = {
        "seed": "{seed}",
        "steps": "{steps}",
        "cfg": "{guidance_scale}",
        "sampler_name": "euler",
        "denoise": 1.0,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "{model}"}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": "{width}", "height": "{height}", "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "{prompt}, oil on canvas"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "{negative_prompt}"}},
        "3": {"class_type": "KSampler", "inputs": {**sampler, **ksampler}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "us"}},
    }


def workflow_from_base() -> dict[str, Any]:
    """An image-to-image workflow in API format."""
    nodes = workflow(denoise="{strength}", latent_image=["11", 0])
    del nodes["5"]
    nodes["10"] = {"class_type": "LoadImage", "inputs": {"image": "{base_image}"}}
    nodes["11"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
    return nodes


@dataclass
class Behaviour:
    """How the server behaves; the defaults are ComfyUI's.

    Attributes:
        step_seconds: how long a step takes.
        load_seconds: how long reading a checkpoint takes.
        metadata: it knows previews with metadata (event 4).
        progress_state: it sends these; an old one did not.
        own_ids: it gives prompt ids of its own and interrupts whatever runs, as an old one did.
        preview_pixels: longest edge of a preview.
        preview_noise: extra bytes behind each preview, to make it large.
        bad_preview: this preview is no picture.
        fail_at: the sampler raises at this step.
        mute_at: from this preview on the socket stays open and says nothing.
        drop_at: at this preview the socket is closed.
        forget_at: at this step the server loses queue, history and sockets, as on a restart.
        hang_at: at this step it stands still for ever.
        history_seconds: how long after the end the history is written.
        cache_everything: what was ever drawn is in the cache, whatever the inputs.
        save: the workflow's output is there; else it ends without any.
        wants: bearer token that it asks for.
        busy_seconds: what `POST /prompt` takes to be answered.
    """

    step_seconds: float = 0.01
    load_seconds: float = 0.0
    metadata: bool = True
    progress_state: bool = True
    own_ids: bool = False
    preview_pixels: int = 64
    preview_noise: int = 0
    bad_preview: int | None = None
    fail_at: int | None = None
    mute_at: int | None = None
    drop_at: int | None = None
    forget_at: int | None = None
    hang_at: int | None = None
    history_seconds: float = 0.02
    cache_everything: bool = False
    save: bool = True
    wants: str | None = None
    busy_seconds: float = 0.0


class Interrupted(Exception):
    """Somebody asked for it."""


class Failed(Exception):
    """A node raised."""


class Forgotten(Exception):
    """The server was started anew."""


@dataclass
class ComfyUI:
    """The server, and what tests may look at."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    posted: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    client_ids: list[str] = field(default_factory=list)
    interrupts: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, Image.Image] = field(default_factory=dict)
    pending: list[tuple[str, dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    running: tuple[str, dict[str, Any], dict[str, Any]] | None = None
    history: dict[str, dict[str, Any]] = field(default_factory=dict)
    sockets: dict[str, WebSocket] = field(default_factory=dict)
    open_sockets: int = 0
    _flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    _cache: dict[str, Image.Image] = field(default_factory=dict)
    _interrupt: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _mute: bool = False
    _count: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve; where."""
        worker = asyncio.create_task(self._work(), name="comfyui worker")
        try:
            async with serving(self._app()) as url:
                yield url
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

    def _app(self) -> ASGIApp:
        routes: list[tuple[str, str, Callable[[Request], Any]]] = [
            ("GET", "/system_stats", self._system_stats),
            ("POST", "/prompt", self._post_prompt),
            ("GET", "/history/{prompt_id}", self._get_history),
            ("GET", "/queue", self._get_queue),
            ("POST", "/queue", self._post_queue),
            ("POST", "/interrupt", self._post_interrupt),
            ("POST", "/upload/image", self._upload),
            ("GET", "/view", self._view),
        ]

        def guarded(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
            async def handle(request: Request) -> Response:
                self.asked.append(f"{request.method} {request.url.path}")
                wanted = self.behaviour.wants
                if wanted and request.headers.get("authorization") != f"Bearer {wanted}":
                    return Response(status_code=401)
                answer: Response = await handler(request)
                return answer

            return handle

        return Starlette(
            routes=[
                *(Route(path, guarded(handler), methods=[verb]) for verb, path, handler in routes),
                WebSocketRoute("/ws", self._socket),
            ]
        )

    # ---------------------------------------------------------------- HTTP

    async def _system_stats(self, _request: Request) -> Response:
        return JSONResponse({"system": {"os": "posix", "comfyui_version": "0.9.1"}, "devices": []})

    async def _post_prompt(self, request: Request) -> Response:
        body = json.loads(await request.body())
        prompt, extra = body["prompt"], dict(body.get("extra_data") or {})
        extra["client_id"] = body.get("client_id")
        self.posted.append(body)
        errors = self._invalid(prompt)
        if errors:
            error = {
                "type": "prompt_outputs_failed_validation",
                "message": "Prompt outputs failed validation",
                "details": "",
                "extra_info": {},
            }
            return JSONResponse({"error": error, "node_errors": errors}, 400)
        self._count += 1
        own = f"00000000-0000-4000-8000-{self._count:012d}"
        prompt_id = own if self.behaviour.own_ids else body.get("prompt_id", own)
        self.pending.append((prompt_id, prompt, extra))
        self._wake.set()
        await asyncio.sleep(self.behaviour.busy_seconds)
        return JSONResponse({"prompt_id": prompt_id, "number": self._count, "node_errors": {}})

    def _invalid(self, prompt: dict[str, Any]) -> dict[str, Any]:
        errors: dict[str, Any] = {}
        for node_id, node in prompt.items():
            inputs = node["inputs"]
            details = None
            if inputs.get("sampler_name", "euler") not in SAMPLERS:
                details = f"sampler_name: '{inputs['sampler_name']}' not in {list(SAMPLERS)}"
            if node["class_type"] == "LoadImage" and inputs["image"] not in self.uploads:
                details = f"image - Invalid image file: {inputs['image']}"
            if details is not None:
                error = {
                    "type": "value_not_in_list",
                    "message": "Value not in list",
                    "details": details,
                    "extra_info": {},
                }
                errors[node_id] = {
                    "errors": [error],
                    "dependent_outputs": ["9"],
                    "class_type": node["class_type"],
                }
        return errors

    async def _get_history(self, request: Request) -> Response:
        prompt_id = request.path_params["prompt_id"]
        entry = self.history.get(prompt_id)
        return JSONResponse({} if entry is None else {prompt_id: entry})

    async def _get_queue(self, _request: Request) -> Response:
        def row(item: tuple[str, dict[str, Any], dict[str, Any]]) -> list[Any]:
            return [1, *item, ["9"]]

        running = [] if self.running is None else [row(self.running)]
        return JSONResponse(
            {"queue_running": running, "queue_pending": list(map(row, self.pending))}
        )

    async def _post_queue(self, request: Request) -> Response:
        for prompt_id in json.loads(await request.body()).get("delete", ()):
            self.deleted.append(prompt_id)
            self.pending = [item for item in self.pending if item[0] != prompt_id]
        return Response()

    async def _post_interrupt(self, request: Request) -> Response:
        prompt_id = json.loads(await request.body()).get("prompt_id")
        self.interrupts.append(prompt_id)
        # An old one does not read the body: `nodes.interrupt_processing()`, whoever's it is.
        anybody = self.behaviour.own_ids or prompt_id is None
        if anybody or (self.running and self.running[0] == prompt_id):
            self._interrupt = True
        return Response()

    async def _upload(self, request: Request) -> Response:
        # As python-multipart is not among our packages, the standard library reads the form.
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            head + await request.body()
        )
        parts = {
            str(p.get_param("name", header="content-disposition")): p for p in form.iter_parts()
        }
        part = parts["image"]
        data, name = part.get_payload(decode=True), part.get_filename()
        assert isinstance(data, bytes)
        assert isinstance(name, str)
        assert parts["overwrite"].get_content().strip() == "true"
        self.uploads[name] = data
        return JSONResponse({"name": name, "subfolder": "", "type": "input"})

    async def _view(self, request: Request) -> Response:
        query = request.query_params
        image = self.files.get(query["filename"])
        if image is None or query.get("type") != "output":
            return Response(status_code=404)
        buffer = io.BytesIO()
        if "preview" in query:
            kind, _, quality = query["preview"].partition(";")
            image.save(buffer, kind.upper(), quality=int(quality))
            return Response(buffer.getvalue(), media_type=f"image/{kind}")
        image.save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    # ---------------------------------------------------------------- the socket

    async def _socket(self, websocket: WebSocket) -> None:
        sid = websocket.query_params.get("clientId", "")
        self.client_ids.append(sid)
        wanted = self.behaviour.wants
        if wanted and websocket.headers.get("authorization") != f"Bearer {wanted}":
            await websocket.close()
            return
        await websocket.accept()
        self.open_sockets += 1
        self.sockets[sid] = websocket
        self._flags[sid] = {}
        try:
            await self._send(sid, "status", {"status": {"exec_info": {"queue_remaining": 0}}})
            first = True
            while True:
                data = json.loads(await websocket.receive_text())
                if first and data.get("type") == "feature_flags":
                    self._flags[sid] = data["data"]
                    await self._send(sid, "feature_flags", {"supports_preview_metadata": True})
                first = False
        except WebSocketDisconnect:
            pass
        finally:
            self.open_sockets -= 1
            self.sockets.pop(sid, None)  # whoever is registered by now: ComfyUI's own trap

    async def _send(self, sid: str | None, kind: str, data: dict[str, Any]) -> None:
        await self._sent(sid, lambda ws: ws.send_text(json.dumps({"type": kind, "data": data})))

    async def _sent(self, sid: str | None, send: Callable[[WebSocket], Any]) -> None:
        websocket = self.sockets.get(sid or "")
        if websocket is not None and not self._mute:
            with suppress(WebSocketDisconnect, RuntimeError):
                await send(websocket)

    # ---------------------------------------------------------------- execution

    async def _work(self) -> None:
        while True:
            while not self.pending:
                self._wake.clear()
                await self._wake.wait()
            self.running = self.pending.pop(0)
            prompt_id, prompt, extra = self.running
            self._interrupt, self._mute = False, False
            messages: list[Any] = []
            outputs: dict[str, Any] = {}
            sid = extra.get("client_id")

            async def tell(
                kind: str,
                data: dict[str, Any],
                *,
                sid: str | None = sid,
                prompt_id: str = prompt_id,
                messages: list[Any] = messages,
            ) -> None:
                data = {"prompt_id": prompt_id, **data}
                messages.append([kind, data])
                await self._send(sid, kind, data)

            await tell("execution_start", {})
            ended = "error"
            try:
                outputs = await self._execute(prompt_id, prompt, extra, tell)
                await tell("execution_success", {})
                ended = "success"
            except Interrupted:
                self.interrupted.append(prompt_id)
                await tell("execution_interrupted", {"node_id": "3", "node_type": "KSampler"})
            except Failed as error:
                details = {
                    "node_id": "3",
                    "node_type": "KSampler",
                    "exception_message": str(error),
                    "exception_type": "torch.OutOfMemoryError",
                    "traceback": [],
                }
                await tell("execution_error", details)
            except Forgotten:
                self.running = None
                self.history.clear()
                continue
            await asyncio.sleep(self.behaviour.history_seconds)
            status = {"status_str": ended, "completed": ended == "success", "messages": messages}
            self.history[prompt_id] = {
                "prompt": [1, prompt_id, prompt, extra, ["9"]],
                "outputs": outputs,
                "status": status,
            }
            self.running = None
            await self._send(sid, "executing", {"node": None, "prompt_id": prompt_id})
            self._mute = False

    async def _execute(
        self, prompt_id: str, prompt: dict[str, Any], extra: dict[str, Any], tell: Any
    ) -> dict[str, Any]:
        sid = extra.get("client_id")
        key = hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()
        if self.behaviour.cache_everything:
            key = "the same"
        cached = self._cache.get(key)
        await tell("execution_cached", {"nodes": [] if cached is None else list(prompt)})
        if cached is None:
            for node in ("4", "6", "3"):
                await self._send(sid, "executing", {"node": node, "prompt_id": prompt_id})
                if node == "4":
                    await self._pause(self.behaviour.load_seconds)
            cached = self._cache[key] = await self._sampled(prompt_id, prompt, extra)
            await self._send(sid, "executing", {"node": "8", "prompt_id": prompt_id})
            await self._pause(self.behaviour.step_seconds)
        if not self.behaviour.save:
            return {}
        name = f"us_{len(self.files):05d}_.png"
        self.files[name] = cached
        image = {"filename": name, "subfolder": "", "type": "output"}
        await self._send(
            sid, "executed", {"node": "9", "output": {"images": [image]}, "prompt_id": prompt_id}
        )
        return {"9": {"images": [image]}}

    async def _sampled(
        self, prompt_id: str, prompt: dict[str, Any], extra: dict[str, Any]
    ) -> Image.Image:
        how, sid = self.behaviour, extra.get("client_id")
        sampler = prompt["3"]["inputs"]
        steps, final = sampler["steps"], _picture(prompt, self.uploads)
        previews = extra.get("preview_method") in {"auto", "latent2rgb", "taesd"}
        if how.progress_state:
            await self._progress_state(sid, prompt_id, 0, 1)
        for step in range(1, steps + 1):
            if step == how.hang_at:
                await self._pause(3600.0)
            await self._pause(how.step_seconds)
            if step == how.fail_at:
                raise Failed("Allocation on device")
            if step == how.forget_at:
                raise Forgotten
            if step == how.mute_at:
                self._mute = True
            if step == how.drop_at and sid in self.sockets:
                await self.sockets[sid].close()
            mix = Image.effect_noise(final.size, 90).convert("RGB")
            image = Image.blend(mix, final, step / steps)
            fresh = how.metadata and self._flags.get(sid or "", {}).get("supports_preview_metadata")
            if how.progress_state:
                await self._progress_state(sid, prompt_id, step, steps)
            if previews and fresh:
                await self._preview(sid, image, step, {"node_id": "3", "prompt_id": prompt_id})
            progress = {"value": step, "max": steps, "prompt_id": prompt_id, "node": "3"}
            await self._send(sid, "progress", progress)
            if previews and not fresh:
                await self._preview(sid, image, step, None)
        return final

    async def _progress_state(
        self, sid: str | None, prompt_id: str, value: float, limit: float
    ) -> None:
        done = {"value": 1, "max": 1, "state": "finished", "node_id": "4", "prompt_id": prompt_id}
        state = {
            "value": value,
            "max": limit,
            "state": "running",
            "node_id": "3",
            "prompt_id": prompt_id,
        }
        nodes = {"4": done, "3": state}
        await self._send(sid, "progress_state", {"prompt_id": prompt_id, "nodes": nodes})

    async def _preview(
        self, sid: str | None, image: Image.Image, step: int, metadata: dict[str, Any] | None
    ) -> None:
        how = self.behaviour
        buffer = io.BytesIO()
        ImageOps.contain(image, (how.preview_pixels, how.preview_pixels)).save(buffer, "JPEG")
        picture = buffer.getvalue() + b"\0" * how.preview_noise
        if step == how.bad_preview:
            picture = b"GIF89a, but not really"
        if metadata is None:
            message = struct.pack(">II", 1, JPEG) + picture
        else:
            text = json.dumps({**metadata, "image_type": "image/jpeg"}).encode()
            message = struct.pack(">II", 4, len(text)) + text + picture
        await self._sent(sid, lambda ws: ws.send_bytes(message))

    async def _pause(self, seconds: float) -> None:
        """Work for a while; between steps it looks whether it is interrupted."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            if self._interrupt:
                self._interrupt = False
                raise Interrupted
            left = until - loop.time()
            if left <= 0:
                await asyncio.sleep(0)
                return
            await asyncio.sleep(min(left, 0.02))


def _picture(prompt: dict[str, Any], uploads: dict[str, bytes]) -> Image.Image:
    """What these inputs always give: waves whose place the seed and the text decide."""
    sampler = prompt["3"]["inputs"]
    if "10" in prompt:
        with Image.open(io.BytesIO(uploads[prompt["10"]["inputs"]["image"]])) as base:
            width, height = base.size
    else:
        width, height = prompt["5"]["inputs"]["width"], prompt["5"]["inputs"]["height"]
    text = f"{sampler['seed']} {prompt['6']['inputs']['text']}"
    generator = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
    rows, columns = np.mgrid[0:height, 0:width]
    bands = [
        128 + 100 * np.sin(columns * a / width * 9 + rows * b / height * 9 + c * 6)
        for a, b, c in generator.random((3, 3))
    ]
    return Image.fromarray(np.stack(bands, -1).astype(np.uint8))
