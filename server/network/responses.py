"""Answers over HTTP that every server of ours gives: safe headers, and what may be kept."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY: Final = b"content-security-policy"
_ERROR: Final = 500
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


class CloseAfterError:
    """Around an application: an answer of 500 says that its connection ends with it.

    For it does: uvicorn ends it once the error has come through to it. Who was not told would send
    its next request down a line that is being closed, and hear nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and add the header where the program had an error."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == _ERROR:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, told if scope["type"] == "http" else send)


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


NO_CACHE: Final = {"cache-control": "no-cache"}
"""Kept, and asked for each time whether it is the newest."""


class PageFiles(StaticFiles):
    """What the pages load. A browser asks each time whether it has the newest.

    A page of which some modules are of an older release does not run.
    """

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """See `StaticFiles`."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(NO_CACHE)
        return response
