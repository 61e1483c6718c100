"""Replicate's predictions API, as its documentation has it, with ways to misbehave."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.generator.engines.comfyui_server import serving

TOKEN = "r8_0123456789abcdef"


@dataclass
class Replicate:
    """The API, and what tests may look at.

    Attributes:
        seconds: how long a prediction takes.
        predict_time: what its metrics say; None: it has none.
        refuse: statuses that the next requests to create are answered with.
        refuse_get: statuses that the next requests to ask are answered with.
        headers: of refusals.
        fails: the prediction fails, with this error.
        output: how the output is given: ``list``, ``text``, ``data``, ``redirect``, ``gone``,
            ``nothing``, ``no image``.
        foreign: the prediction's own addresses lead elsewhere.
        posted: path and body of each request to create.
        asked: every request, with its authorization.
        cancelled: ids.
    """

    seconds: float = 0.05
    predict_time: float | None = 1.25
    refuse: list[int] = field(default_factory=list)
    refuse_get: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    fails: str | None = None
    output: str = "list"
    foreign: bool = False
    posted: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    _predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    _works: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=itertools.count)
    _url: str = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve; where."""
        try:
            async with serving(self._app()) as url:
                self._url = url
                yield url
        finally:
            for work in self._works.values():
                work.cancel()
            await asyncio.gather(*self._works.values(), return_exceptions=True)

    def _app(self) -> Starlette:
        def noted(handler: Callable[[Request], Any], *, secret: bool = True) -> Any:
            async def handle(request: Request) -> Response:
                authorization = request.headers.get("authorization")
                self.asked.append((f"{request.method} {request.url.path}", authorization))
                if secret and authorization != f"Bearer {TOKEN}":
                    detail = f"You did not pass a valid token: {authorization}"
                    return JSONResponse({"title": "Unauthenticated", "detail": detail}, 401)
                answer: Response = await handler(request)
                return answer

            return handle

        create = noted(self._create)
        return Starlette(
            routes=[
                Route("/v1/predictions", create, methods=["POST"]),
                Route("/v1/models/{owner}/{name}/predictions", create, methods=["POST"]),
                Route("/v1/predictions/{id}", noted(self._get)),
                Route("/v1/predictions/{id}/cancel", noted(self._cancel), methods=["POST"]),
                Route("/files/{id}.{kind}", noted(self._file, secret=False)),
                Route("/elsewhere/{id}", noted(self._elsewhere, secret=False)),
            ]
        )

    async def _create(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.posted.append((request.url.path, body, dict(request.headers)))
        if self.refuse:
            status = self.refuse.pop(0)
            detail = "- input.width: must be one of 512, 768" if status == 422 else "no"
            problem = {"title": "Refused", "detail": detail, "status": status}
            return JSONResponse(problem, status, headers=self.headers)
        prediction_id = f"p{next(self._ids)}"
        base = "https://elsewhere.invalid" if self.foreign else self._url
        urls = {
            "get": f"{base}/v1/predictions/{prediction_id}",
            "cancel": f"{base}/v1/predictions/{prediction_id}/cancel",
        }
        prediction = self._predictions[prediction_id] = {
            "id": prediction_id,
            "status": "starting",
            "input": body["input"],
            "output": None,
            "error": None,
            "metrics": {},
            "urls": urls,
        }
        work = self._works[prediction_id] = asyncio.create_task(self._work(prediction))
        waiting = request.headers.get("prefer", "").partition("wait=")[2]
        if waiting:
            await asyncio.wait({work}, timeout=float(waiting))
        return JSONResponse(prediction, 201 if work.done() else 202)

    async def _work(self, prediction: dict[str, Any]) -> None:
        prediction["status"] = "processing"
        await asyncio.sleep(self.seconds)
        if self.fails is not None:
            prediction |= {"status": "failed", "error": self.fails}
            return
        address = f"{self._url}/files/{prediction['id']}.png"
        image = base64.b64encode(_picture(prediction["input"])).decode()
        outputs: dict[str, Any] = {
            "list": [address, "https://elsewhere.invalid/second.png"],
            "text": address,
            "data": f"data:image/png;base64,{image}",
            "redirect": f"{self._url}/elsewhere/{prediction['id']}",
            "gone": f"{self._url}/files/{prediction['id']}.gone",
            "no image": f"{self._url}/files/{prediction['id']}.txt",
            "nothing": None,
            "bad data": "data:image/png;base64,???",
        }
        prediction |= {"status": "succeeded", "output": outputs[self.output]}
        if self.predict_time is not None:
            prediction["metrics"] = {"predict_time": self.predict_time}

    async def _get(self, request: Request) -> Response:
        if self.refuse_get:
            return JSONResponse({"detail": "no"}, self.refuse_get.pop(0), headers=self.headers)
        return JSONResponse(self._predictions[request.path_params["id"]])

    async def _cancel(self, request: Request) -> Response:
        prediction_id = request.path_params["id"]
        self.cancelled.append(prediction_id)
        self._works[prediction_id].cancel()
        prediction = self._predictions[prediction_id]
        prediction["status"] = "canceled"
        return JSONResponse(prediction)

    async def _file(self, request: Request) -> Response:
        match request.path_params["kind"]:
            case "png":
                inputs = self._predictions[request.path_params["id"]]["input"]
                return Response(_picture(inputs), media_type="image/png")
            case "txt":
                return Response("no picture")
            case _:
                return Response(status_code=404)

    async def _elsewhere(self, request: Request) -> Response:
        return RedirectResponse(f"/files/{request.path_params['id']}.png")


def _picture(inputs: dict[str, Any]) -> bytes:
    generator = np.random.default_rng(inputs["seed"])
    size = (inputs.get("height", 96), inputs.get("width", 160), 3)
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
