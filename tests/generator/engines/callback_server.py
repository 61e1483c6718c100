"""A generator that answers by a signed webhook, with ways to misbehave, and what takes them in."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import httpx
import numpy as np
from PIL import Image
from pydantic import SecretStr
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from generator.engines.callback.inbox import CallbackInbox, CallbackReceipt
from tests.generator.engines.comfyui_server import serving

TOKEN: Final = "generators-token-0123456789"
SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
WEBHOOK: Final = "/api/generate/webhook"
STATUS: Final = {"bad_signature": 401, "expired": 401, "too_large": 413, "bad_request": 400}

Manner = Literal[
    "signed", "unsigned", "forged", "old", "early", "page", "by another secret", "other body"
]
"""How a webhook is sent."""


def picture(asked: dict[str, Any], size: tuple[int, int] | None = None) -> bytes:
    """What is drawn: as much noise as was asked for."""
    width, height = size or (asked["width"], asked["height"])
    generator = np.random.default_rng(asked["seed"])
    buffer = io.BytesIO()
    noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def completed(asked: dict[str, Any], **others: Any) -> dict[str, Any]:
    """The answer to a request."""
    image = base64.b64encode(picture(asked)).decode()
    return {"job_id": asked["job_id"], "status": "completed", "image_base64": image, **others}


def signed(
    body: bytes, *, message: str = "msg_1", secret: str = SECRET, at: float | None = None
) -> dict[str, str]:
    """The headers that the reference library makes."""
    when = datetime.fromtimestamp(int(time.time() if at is None else at), UTC)
    signature = Webhook(secret).sign(message, when, body.decode())
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": signature,
    }


@dataclass
class CallbackGenerator:
    """The generator, and what tests may look at.

    Attributes:
        seconds: how long a drawing takes.
        sends: how the webhooks of a drawing are sent, one after another.
        taken: how a request is answered: ``later`` (202 and JSON), ``plainly`` (200, ``ok``),
            ``at once`` (with the picture), ``failed at once``, ``page``, ``nonsense`` (a
            picture at once that is none), ``reset``, ``lost`` (the webhook comes, the answer
            breaks off).
        refuse: statuses that the next requests are answered with.
        headers: of refusals.
        answer: makes the answer's fields out of what was asked.
        asked: every request's body.
        authorization: of every request.
        posted: the status that each webhook was answered with.
    """

    seconds: float = 0.02
    sends: tuple[Manner, ...] = ("signed",)
    taken: str = "later"
    refuse: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[dict[str, Any]], dict[str, Any]] = completed
    asked: list[dict[str, Any]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)
    posted: list[int] = field(default_factory=list)
    _works: set[asyncio.Task[None]] = field(default_factory=set)
    _ids: itertools.count[int] = field(default_factory=itertools.count)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve; where."""
        app = Starlette(routes=[Route("/draw", self._draw, methods=["POST"])])
        try:
            async with serving(app) as url:
                yield f"{url}/draw"
        finally:
            for work in self._works:
                work.cancel()
            await asyncio.gather(*self._works, return_exceptions=True)

    async def finished(self) -> None:
        """Wait until every webhook was sent."""
        await asyncio.gather(*self._works)

    async def _draw(self, request: Request) -> Response:
        authorization = request.headers.get("authorization")
        self.authorization.append(authorization)
        if authorization != f"Bearer {TOKEN}":
            return JSONResponse({"detail": f"no such token: {authorization}"}, 401)
        asked = json.loads(await request.body())
        self.asked.append(asked)
        if self.refuse:
            return JSONResponse({"error": "no"}, self.refuse.pop(0), headers=self.headers)
        answer: Response
        match self.taken:
            case "at once":
                await asyncio.sleep(self.seconds)
                answer = JSONResponse(self.answer(asked))
            case "failed at once":
                answer = JSONResponse({"status": "failed", "error": "out of memory"})
            case "nonsense":
                answer = JSONResponse({"status": "completed", "image_base64": "!"})
            case "page":
                answer = HTMLResponse("<title>Sign in</title>")
            case "reset":
                answer = _Reset()
            case "lost":
                await self._work(asked)
                answer = _Reset()
            case _:
                self._works.add(asyncio.create_task(self._work(asked)))
                accepted = {"job_id": asked["job_id"], "status": "processing"}
                later = self.taken == "later"
                answer = JSONResponse(accepted, 202) if later else PlainTextResponse("ok")
        return answer

    async def _work(self, asked: dict[str, Any]) -> None:
        await asyncio.sleep(self.seconds)
        body = json.dumps(self.answer(asked)).encode()
        message = f"msg_{next(self._ids)}"
        async with httpx.AsyncClient() as client:
            for manner in self.sends:
                sent, headers = as_sent(body, message, manner)
                answer = await client.post(asked["webhook_url"], content=sent, headers=headers)
                self.posted.append(answer.status_code)


def as_sent(body: bytes, message: str, manner: Manner) -> tuple[bytes, dict[str, str]]:
    """A webhook's body and headers."""
    sent = b"<title>Bad gateway</title>" if manner == "page" else body
    secret = OTHER_SECRET if manner == "by another secret" else SECRET
    at = time.time() + {"old": -400, "early": 400}.get(manner, 0)
    headers = signed(sent, message=message, secret=secret, at=at)
    if manner == "forged":
        headers["webhook-signature"] = "v1,AAAA"
    if manner == "other body":
        sent = body.replace(b"completed", b"complete ")
    return sent, {} if manner == "unsigned" else headers


class _Reset(Response):
    """An answer that breaks off within its body."""

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        head: Message = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"1000")],
        }
        await send(head)
        await send({"type": "http.response.body", "body": b"{", "more_body": False})


@dataclass
class WebhookRoute:
    """A program that takes webhooks in, as the Studio does.

    Attributes:
        inbox: where they go.
        receipts: what became of each.
    """

    inbox: CallbackInbox = field(default_factory=lambda: CallbackInbox(SecretStr(SECRET)))
    receipts: list[CallbackReceipt] = field(default_factory=list)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve; the webhook's address."""
        async with serving(Starlette(routes=[Route(WEBHOOK, self._take, methods=["POST"])])) as url:
            yield url + WEBHOOK

    async def _take(self, request: Request) -> Response:
        receipt = await self.inbox.deliver(request.headers, await request.body(), time.time())
        self.receipts.append(receipt)
        if receipt.refusal is None:
            return JSONResponse({"ok": True})
        error = {"code": receipt.refusal.code, "message": receipt.refusal.message}
        return JSONResponse({"ok": False, "error": error}, STATUS[receipt.refusal.code])
