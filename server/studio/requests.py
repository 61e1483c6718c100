"""Reading what a request brings: its member, its body, its query; each bounded and checked."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from cache.untrusted import Unfit, decode_message, whole_number
from generator.jobs.database import DatabaseError, DatabaseFull
from generator.jobs.members import Member
from server.studio.refusals import StudioRefused, no_such
from server.studio.services import StudioServices, studio_services

MAX_BODY: Final = 64 * 1024
"""Bytes of a common request."""

MAX_RECIPE: Final = 32 * 2**20
"""Bytes of one that may bring a picture."""

MAX_KEY: Final = 255
"""Characters of an idempotency key."""

Answer = Callable[[Request, StudioServices, Member], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def refusing(endpoint: Endpoint) -> Endpoint:
    """The same endpoint; where the database fails, that is told as a refusal."""

    @functools.wraps(endpoint)
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except DatabaseFull as error:
            raise StudioRefused("disk_full", f"the Studio's database is full: {error}") from error
        except DatabaseError as error:
            text = f"the Studio's database cannot be used now: {error}"
            raise StudioRefused("unavailable", text) from error

    return guarded


def for_members(answer: Answer) -> Endpoint:
    """An endpoint for those who are a member."""

    @functools.wraps(answer)
    async def endpoint(request: Request) -> Response:
        parts = studio_services(request)
        return await answer(request, parts, await parts.access.member_of(request))

    return refusing(endpoint)


def for_artists(answer: Answer) -> Endpoint:
    """An endpoint for members who are an artist: what concerns everybody's work."""

    @functools.wraps(answer)
    async def artists_alone(request: Request, parts: StudioServices, member: Member) -> Response:
        if member.role != "artist":
            raise StudioRefused("forbidden", "an artist's token is needed for this")
        return await answer(request, parts, member)

    return for_members(artists_alone)


async def body_of(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body.

    Raises:
        StudioRefused: `too_large`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise StudioRefused("too_large", f"a request of this kind may have {limit} bytes")
    return bytes(body)


async def json_of(request: Request, limit: int = MAX_BODY, *, empty: Any = None) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The body, read as JSON; `empty` where there is none and that is allowed.

    Raises:
        StudioRefused: `too_large`, `unsupported_media`, `bad_request`.
    """
    body = await body_of(request, limit)
    if not body.strip() and empty is not None:
        return empty
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        # Also what a page elsewhere could send without being asked.
        raise StudioRefused("unsupported_media", "expected Content-Type: application/json")
    try:
        return decode_message(body)
    except Unfit as error:
        raise StudioRefused("bad_request", f"expected a JSON object: {error}") from None


async def object_of(request: Request, limit: int = MAX_BODY) -> dict[str, Any]:
    """The body, read as a JSON object; an empty one where there is no body.

    Raises:
        StudioRefused: as `json_of`.
    """
    found = await json_of(request, limit, empty={})
    if not isinstance(found, dict):
        raise StudioRefused("bad_request", "expected a JSON object")
    return found


def query_number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query.

    Raises:
        StudioRefused: `bad_request`.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    number = whole_number(text, least, most)
    if number is None:
        text = f"expected a number from {least} to {most}"
        raise StudioRefused("bad_request", f"{name}: {text}", field=name)
    return number


def id_in_path(request: Request, what: str) -> str:
    """The id in the address, as we write ids.

    Raises:
        StudioRefused: `not_found`: it is no UUID, so there is nothing of that id.
    """
    try:
        return str(UUID(request.path_params["id"]))
    except ValueError:
        raise no_such(what) from None


def key_of(request: Request) -> str | None:
    """The idempotency key, None for none.

    Raises:
        StudioRefused: `bad_request`.
    """
    key = request.headers.get("idempotency-key")
    if key is None or (key := key.strip()) == "":
        return None
    if len(key) > MAX_KEY or not (key.isascii() and key.isprintable()):
        text = f"Idempotency-Key: expected {MAX_KEY} printable signs of ASCII at most"
        raise StudioRefused("bad_request", text)
    return key
