"""Answers that several endpoints give: refusals, what may be kept, and headers for all of them."""

from __future__ import annotations

import hashlib
from typing import Final, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from generator.answers import JsonResponse
from server.control.command import CODES
from server.core.refusal import Refused

_POLICY: Final = b"content-security-policy"
_HEADERS: Final = (
    (
        _POLICY,
        (
            b"default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
            b"connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class SafeHeaders:
    """Middleware: our pages load nothing from elsewhere, and nobody frames them.

    A page that is stricter with itself says so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every HTTP response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name for name, _ in given}
                message["headers"] = given + [each for each in _HEADERS if each[0] not in names]
            await send(message)

        await self._app(scope, receive, add)


async def refusal(_request: Request, error: Exception) -> Response:
    """Why something was not done, as JSON, with the HTTP status that fits its code."""
    code = cast("Refused", error).code
    body = {"ok": False, "error": {"code": code, "message": str(error)}}
    return JsonResponse(body, status_code=CODES[code][0])


def etag_of(data: bytes) -> str:
    """By the content: the same bytes have the same one on every machine."""
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def cacheable(
    request: Request, data: bytes, media_type: str, cache_control: str, etag: str
) -> Response:
    """An answer that the client may keep, or 304 where it has that already."""
    headers = {"etag": etag, "cache-control": cache_control}
    known = {
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    }
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
