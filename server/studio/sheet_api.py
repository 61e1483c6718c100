"""The cue sheet over HTTP: read it, replace it, change one cue, take a change back.

Whoever changes it names the version that he has read (`If-Match`). What is answered says what
becomes stale, before (`?dry=1`) as after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from cache.untrusted import Unfit, decode_message, decode_sheet, whole_number
from generator.answers import JsonResponse
from generator.jobs.members import Member
from generator.sheet.cues import CueProblem
from generator.sheet.edits import NoSuchCue, cue_spans, edit_cue
from server.network.responses import cacheable
from server.studio.documents import timestamp
from server.studio.refusals import STATUSES, FieldRefusal, StudioRefused, no_such
from server.studio.requests import body_of, for_artists, only_json, query_number
from server.studio.services import StudioServices
from server.studio.sheet import (
    ANY,
    MAX_SHEET,
    MakeSheet,
    NothingToUndo,
    SheetChange,
    SheetConflict,
    SheetNotPlayable,
    SheetTooLarge,
    SheetUnusable,
    SheetVersion,
)

_log = structlog.get_logger(__name__)

_MOST_PROBLEMS: Final = 1000
"""Problems of a sheet that are told; what is wrong with more of it is no sheet at all."""

_LAST_CUE: Final = 10**9
_ASKED_EACH_TIME: Final = "private, no-cache"


@for_artists
async def sheet(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/sheet`: the file, byte for byte, and its ETag."""
    del member
    try:
        found = await parts.sheet.read()
    except SheetUnusable as error:
        raise _unusable(error) from error
    return cacheable(request, found.data, "application/json", _ASKED_EACH_TIME, f'"{found.etag}"')


@for_artists
async def replace_sheet(request: Request, parts: StudioServices, member: Member) -> Response:
    """`PUT /api/sheet`: the body takes the place of the file, byte for byte."""
    only_json(request)
    named, dry_run = _if_match(request), _dry_run(request)
    async with parts.recipes.body_of(request, MAX_SHEET) as body:
        return await _changed(
            parts,
            member,
            lambda: parts.sheet.change(lambda _: body, named, dry_run=dry_run),
            dry_run=dry_run,
            attempted=body,
        )


@for_artists
async def edit(request: Request, parts: StudioServices, member: Member) -> Response:
    """`PATCH /api/sheet/cues/{n}`: fields of one cue; null takes a field away."""
    only_json(request)
    named, dry_run = _if_match(request), _dry_run(request)
    index = whole_number(request.path_params["n"], 0, _LAST_CUE)
    if index is None:
        raise no_such("cue")
    changes = _changes(await body_of(request))
    make = _editing(index, changes)
    return await _changed(
        parts, member, lambda: parts.sheet.change(make, named, dry_run=dry_run), dry_run=dry_run
    )


@for_artists
async def undo(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/sheet/undo`: the sheet as it was before its last change, and so further back."""
    only_json(request)
    named, dry_run = _if_match(request, needed=False), _dry_run(request)
    return await _changed(
        parts, member, lambda: parts.sheet.undo(named, dry_run=dry_run), dry_run=dry_run
    )


@for_artists
async def versions(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/sheet/versions`: what is kept, the newest first."""
    del request, member
    try:
        found = await parts.sheet.versions()
    except SheetUnusable as error:
        raise _unusable(error) from error
    return JsonResponse(
        {
            "versions": [
                {
                    "etag": each.etag,
                    "since": timestamp(each.since),
                    "present": each.present,
                }
                for each in found
            ]
        }
    )


# ---------------------------------------------------------------- what is asked


def _if_match(request: Request, *, needed: bool = True) -> list[str]:
    """The ETags of which the sheet must have one.

    Raises:
        StudioRefused: `precondition`: none is named, and one is needed.
    """
    given = request.headers.get("if-match", "" if needed else ANY)
    # A proxy that compresses answers makes the ETag a weak one. It is of the content, so that
    # is the same.
    named = [tag.strip().removeprefix("W/").strip('"') for tag in given.split(",")]
    if not any(named):
        text = (
            "expected If-Match with the ETag of the sheet that was changed; GET /api/sheet has it"
        )
        raise StudioRefused("precondition", text)
    return named


def _dry_run(request: Request) -> bool:
    return query_number(request, "dry", 0, 0, 1) == 1


def _changes(body: bytes) -> dict[str, Any]:
    """The fields of a cue that are to be others; None for those to be taken away.

    Raises:
        StudioRefused: `bad_request`.
    """
    try:
        # What says nothing is left out by the border; here it says that a field is to go.
        fields, (given, _) = decode_message(body), decode_sheet(body.decode("utf-8"))
    except (Unfit, UnicodeDecodeError) as error:
        raise StudioRefused("bad_request", f"expected a JSON object: {error}") from None
    if not isinstance(fields, dict) or not isinstance(given, dict):
        raise StudioRefused("bad_request", "expected a JSON object with fields of the cue")
    gone = {name: None for name, value in given.items() if value is None}
    return {**gone, **fields}


def _editing(index: int, changes: Mapping[str, Any]) -> MakeSheet:
    def make(present: SheetVersion) -> bytes:
        return edit_cue(present.data.decode("utf-8"), index, changes).encode()

    return make


# ---------------------------------------------------------------- what is answered


async def _changed(
    parts: StudioServices,
    member: Member,
    change: Callable[[], Awaitable[SheetChange]],
    *,
    dry_run: bool,
    attempted: bytes | None = None,
) -> Response:
    """Make a change, or try it, and say what becomes of it.

    Args:
        parts: the Studio's.
        member: who makes it.
        change: makes it.
        dry_run: whether nothing was written.
        attempted: what the sheet was to become, where that does not depend on what it was.

    Raises:
        StudioRefused: it is not made.
    """
    try:
        made = await change()
    except SheetConflict as error:
        return await asyncio.to_thread(_conflict, error, attempted)
    except SheetNotPlayable as error:
        return await asyncio.to_thread(_problems, error)
    except NoSuchCue as error:
        raise StudioRefused("not_found", str(error)) from error
    except (Unfit, UnicodeDecodeError) as error:
        text = f"the sheet that is there cannot be read: {error}; PUT replaces it"
        raise StudioRefused("conflict", text) from error
    except SheetTooLarge as error:
        raise StudioRefused("too_large", str(error)) from error
    except NothingToUndo as error:
        raise StudioRefused("conflict", str(error)) from error
    except SheetUnusable as error:
        raise _unusable(error) from error
    plan = await parts.offered.difference(made)
    if not dry_run and made.before.etag != made.after.etag:
        _log.info("sheet_written", by=member.name, etag=made.after.etag, before=made.before.etag)
        await parts.offered.look()
    return JsonResponse(
        {"etag": made.after.etag, "plan": plan, "problems": []},
        headers={} if dry_run else {"etag": f'"{made.after.etag}"'},
    )


def _unusable(error: SheetUnusable) -> StudioRefused:
    _log.warning("sheet_not_usable", reason=str(error))
    return StudioRefused("disk_full" if error.full else "unavailable", str(error))


def _conflict(error: SheetConflict, attempted: bytes | None) -> Response:
    """The answer to who changed another version; made in a thread, for it may be large."""
    mine = SheetVersion.of(attempted) if attempted is not None else error.mine
    refused = StudioRefused("precondition", f"{error}: read it anew, and change that")
    both = {"base": _told(error.base), "mine": _told(mine), "theirs": _told(error.theirs)}
    return JsonResponse({**refused.document, **both}, status_code=STATUSES[refused.code])


def _told(version: SheetVersion | None) -> dict[str, str] | None:
    """A version with its text: of JSON that was read, the spelling would be lost."""
    return None if version is None else {"etag": version.etag, "text": version.text}


def _problems(error: SheetNotPlayable) -> Response:
    """The answer to who would write what cannot be played; made in a thread, as `_conflict`."""
    lines = _lines(error.version)
    told = error.problems[:_MOST_PROBLEMS]
    more = len(error.problems) - 1
    refused = StudioRefused(
        "bad_request",
        f"{error}, and {more} more problems" if more else str(error),
        problems=[FieldRefusal("bad_request", _field(each), each.message) for each in told],
    )
    places = [
        {
            "cue": each.index,
            "time": each.time,
            "line": lines.get(each.index),
            "kind": each.kind,
            "message": each.message,
        }
        for each in told
    ]
    beside = {"problems": places, "problems_left_out": len(error.problems) - len(told)}
    return JsonResponse({**refused.document, **beside}, status_code=STATUSES[refused.code])


def _field(problem: CueProblem) -> str:
    return "" if problem.index is None else f"cues.{problem.index}"


def _lines(version: SheetVersion) -> dict[int | None, int]:
    """In which line each cue begins, counted from 1; nothing where that is not known."""
    try:
        written = version.data.decode("utf-8")
        spans = cue_spans(written)
    except (Unfit, UnicodeDecodeError):
        return {}
    found: dict[int | None, int] = {}
    line, at = 1, 0
    for index, span in enumerate(spans):
        line, at = line + written.count("\n", at, span.start), span.start
        found[index] = line
    return found
