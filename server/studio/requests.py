"""Reading what a request brings: its member, its body, its query; each bounded and checked."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response

from cache.threads import offload_large
from cache.untrusted import Unfit, decode_message, whole_number
from generator.jobs.database import DatabaseError, DatabaseFull
from generator.jobs.members import Member
from server.studio.large_bodies import SMALL, LargeBodies
from server.studio.refusals import StudioRefused, no_such
from server.studio.services import StudioServices, studio_services

_log = structlog.get_logger(__name__)

MAX_BODY: Final = SMALL
"""Bytes of a common request."""

_SMALL_ALONE: Final = LargeBodies()
"""Has no large ones: what is no larger than `MAX_BODY` takes no place."""

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
            _log.warning("request_not_kept", reason=str(error))
            raise StudioRefused("disk_full", "the Studio's disk is full") from error
        except DatabaseError as error:
            # What the database says names it, and who opens it: that is for the log alone.
            _log.warning("request_not_served", path=request.url.path, reason=str(error))
            text = "the Studio's database cannot be used now; the Studio's log says why"
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


async def body_of(request: Request) -> bytes:
    """The whole body, which is small.

    Raises:
        StudioRefused: `too_large`.
    """
    async with _SMALL_ALONE.body_of(request, MAX_BODY) as body:
        return body


async def json_of(request: Request, *, empty: Any = None) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The body, which is small, read as JSON; `empty` where there is none and that is allowed.

    Raises:
        StudioRefused: `too_large`, `unsupported_media`, `bad_request`.
    """
    body = await body_of(request)
    if not body.strip() and empty is not None:
        return empty
    return await decoded(request, body)


async def decoded(request: Request, body: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """A body, read as JSON; in a thread where it is large.

    Raises:
        StudioRefused: `unsupported_media`, `bad_request`.
    """
    only_json(request)
    try:
        return await offload_large(len(body), lambda: decode_message(body), large=SMALL)
    except Unfit as error:
        raise StudioRefused("bad_request", f"expected a JSON object: {error}") from None


def only_json(request: Request) -> None:
    """Refuse a body that does not say it is JSON.

    Raises:
        StudioRefused: `unsupported_media`.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        # Also what a page elsewhere could send without being asked.
        raise StudioRefused("unsupported_media", "expected Content-Type: application/json")


async def object_of(request: Request) -> dict[str, Any]:
    """The body, read as a JSON object; an empty one where there is no body.

    Raises:
        StudioRefused: as `json_of`.
    """
    found = await json_of(request, empty={})
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


def query_id(request: Request, name: str) -> str | None:
    """An id of the query, as we write ids; None for none.

    Raises:
        StudioRefused: `bad_request`: it is no UUID.
    """
    text = request.query_params.get(name)
    return None if not text else given_id(text, name)


def given_id(text: object, name: str) -> str:
    """An id that a field names, as we write ids.

    Raises:
        StudioRefused: `bad_request`: it is no UUID.
    """
    try:
        return str(UUID(text if isinstance(text, str) else ""))
    except ValueError:
        raise StudioRefused("bad_request", f"{name}: expected an id", field=name) from None


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
