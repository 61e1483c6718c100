"""The state, the cues, the as-run log, and commands, for those who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cache.encoding import json_text
from cache.model.documents import real
from cache.untrusted import Unfit, decode_message, whole_number
from generator.answers import JsonResponse
from server.asrun.file import Row, to_csv, to_json
from server.control.buttons import RELEASED, Button, button
from server.control.command import Caller, CommandError, ControlCommand
from server.control.dispatcher import MAX_ID, Envelope
from server.network.access import Role
from server.network.responses import cacheable, etag_of
from server.web.services import Services, services

MAX_BODY: Final = 64 * 1024
"""Longest body of a command, in bytes."""

_MOST_ROWS: Final = 10_000
_ROWS_AT_ONCE: Final = 50

_Answer = Callable[[Request, Services, Role], Awaitable[Response]]


def _for_roles(answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for those who have a role."""

    @wraps(answer)
    async def endpoint(request: Request) -> Response:
        parts = services(request)
        return await answer(request, parts, parts.access.role_of(request))

    return endpoint


@_for_roles
async def state(_request: Request, parts: Services, _role: Role) -> Response:
    """`GET /api/state`."""
    return JsonResponse(parts.view.state())


@_for_roles
async def cues(request: Request, parts: Services, _role: Role) -> Response:
    """`GET /api/cues`."""
    encoded = parts.view.cues().encoded
    return cacheable(request, encoded, "application/json", "no-cache", etag_of(encoded))


@_for_roles
async def asrun(request: Request, parts: Services, _role: Role) -> Response:
    """`GET /api/asrun?format=json|csv&limit=N&since=UNIX`."""
    query = request.query_params
    limit = whole_number(query.get("limit", "1000"), 0, _MOST_ROWS)
    if limit is None:
        raise CommandError("bad_args", f"limit: expected a number, {_MOST_ROWS} at most")
    since = real(query["since"]) if "since" in query else None
    if since is None and "since" in query:
        raise CommandError("bad_args", "since: expected seconds of Unix time")
    kind = query.get("format", "json")
    if kind not in {"json", "csv"}:
        raise CommandError("bad_args", f"format: expected json or csv, not {kind!r:.20}")
    rows = await parts.asrun.rows(limit=limit, since=since)
    if kind == "csv":
        name = {"content-disposition": 'attachment; filename="asrun.csv"'}
        pieces = _in_pieces(parts, rows, to_csv)
        return StreamingResponse(pieces, headers=name, media_type="text/csv")
    pieces = _in_pieces(parts, rows, to_json)
    return StreamingResponse(pieces, media_type="application/json")


@_for_roles
async def control(request: Request, parts: Services, role: Role) -> Response:
    """`POST /api/control/{command}` with the arguments as a JSON object.

    Beside them may stand `id`, `ttl` and `sent_at`, which no command takes as an argument.
    """
    command = request.path_params["command"]
    known = parts.dispatcher.commands.get(command)
    pressed, body = _button_in(request, known), await _json_body(request)
    if not isinstance(body, dict):
        pressed, body = button(body), {}
    if pressed == "released":
        return JsonResponse({"ok": True, "result": RELEASED})
    args, envelope = _opened(body)
    client = request.client.host if request.client else "?"
    caller = Caller(role, f"http {client} ({role})")
    result = await parts.dispatcher.dispatch(command, args, caller, envelope)
    return JsonResponse({"ok": True, "result": result})


class _Encode(Protocol):
    def __call__(self, rows: Sequence[Row], *, first: bool, last: bool) -> str: ...


async def _in_pieces(parts: Services, rows: Sequence[Row], encode: _Encode) -> AsyncIterator[str]:
    """A long answer in pieces, made in a thread: a year of runs must not hold up a frame."""
    starts = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
    for start in starts:
        piece = rows[start : start + _ROWS_AT_ONCE]
        first, last = start == 0, start == starts[-1]
        async with parts.encoding:
            text = await asyncio.to_thread(encode, piece, first=first, last=last)
        yield text


def _opened(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Envelope]:
    """Arguments and envelope of a command's body, apart."""
    args = dict(body)
    command_id, ttl, sent_at = (args.pop(name, None) for name in ("id", "ttl", "sent_at"))
    if isinstance(command_id, bool) or not isinstance(command_id, (str, int, type(None))):
        raise CommandError("bad_args", "id: expected a text or a number")
    if isinstance(command_id, str) and len(command_id) > MAX_ID:
        raise CommandError("bad_args", f"id: expected {MAX_ID} characters at most")
    for name, value in (("ttl", ttl), ("sent_at", sent_at)):
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise CommandError("bad_args", f"{name}: expected a number of seconds")
    return args, Envelope(None if command_id is None else str(command_id), ttl, sent_at)


def _button_in(request: Request, command: ControlCommand | None) -> Button | None:
    """What the query says of a button, as in `POST …/panic?1`.

    Raises:
        CommandError: `bad_args`, where it holds an argument: without it, another cue would go.
    """
    for name, _ in request.query_params.multi_items():
        if command is not None and name in command.fields:
            example = json_text({name: "…"}, place="http")
            raise CommandError("bad_args", f"{name}: expected in the body, as JSON: {example}")
    return button(request.url.query)


async def _json_body(request: Request) -> dict[str, Any] | float:
    """The arguments, or the number that a button sent.

    Raises:
        CommandError: `bad_args`: it is neither, or too long.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise CommandError("bad_args", f"a command may have {MAX_BODY} bytes")
    if not body:
        return {}
    try:
        args = decode_message(body)
    except Unfit as error:
        raise CommandError(
            "bad_args", f"expected the arguments as a JSON object: {error}"
        ) from None
    if not isinstance(args, (dict, int, float)):  # a truth value is a number, too
        raise CommandError("bad_args", "expected the arguments as a JSON object")
    return args
