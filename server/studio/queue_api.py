"""The queue as a whole over HTTP: what each slot does, pause and resume, and how the days went."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cache.untrusted import one_line
from generator.answers import JsonResponse
from generator.jobs.members import Member
from generator.jobs.model import Problem
from generator.jobs.outlook import QueueOutlook
from generator.jobs.scheduler import Scheduler
from generator.jobs.statistics import MAX_HOURS, job_statistics
from server.studio.catalogue import engines_document, programs_document, styles_document
from server.studio.documents import problem_document, timestamp
from server.studio.refusals import StudioRefused
from server.studio.requests import for_artists, for_members, object_of, query_number
from server.studio.services import StudioServices

_MAX_REASON: Final = 200


async def queue_document(
    scheduler: Scheduler, outlook: QueueOutlook, member: str
) -> dict[str, Any]:
    """The queue as a member sees it: of other people's work, only that there is some."""
    pause, prospects = scheduler.paused, await outlook.look()
    return {
        "paused": None
        if pause is None
        else {
            "code": pause.code,
            "message": pause.message,
            "by": pause.by,
            "since": timestamp(pause.since),
        },
        "slots": [
            {
                "engine": slot.engine,
                "working_on": None
                if (claimed := slot.working_on) is None
                else {
                    "job": claimed.job if claimed.owner == member else None,
                    "n": claimed.n if claimed.owner == member else None,
                    "progress": round(slot.progress, 4),
                },
                "rests": problem_document(slot.rests),
            }
            for slot in scheduler.slots
        ],
        "waiting": prospects.waiting,
        "running": prospects.running,
    }


async def _queue(parts: StudioServices, member: Member) -> Response:
    return JsonResponse(await queue_document(parts.scheduler, parts.outlook, member.id))


@for_members
async def queue(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/queue`."""
    del request
    return await _queue(parts, member)


@for_artists
async def pause(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/queue/pause {"why": …?}`: what is being drawn is finished, nothing is begun."""
    why = (await object_of(request)).get("why", "")
    if not isinstance(why, str):
        raise StudioRefused("bad_request", "why: expected a text", field="why")
    text = one_line(why, _MAX_REASON) or "somebody paused it"
    await parts.scheduler.pause(Problem("by_hand", text), member.name)
    parts.changed()
    return await _queue(parts, member)


@for_artists
async def resume(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/queue/resume`."""
    del request
    await parts.scheduler.resume()
    parts.changed()
    return await _queue(parts, member)


@for_members
async def me(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/me`: who one is."""
    del request, parts
    return JsonResponse({"id": member.id, "name": member.name, "role": member.role})


@for_artists
async def stats(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/stats?hours=24`: how the last hours went, for everybody."""
    del member
    hours = query_number(request, "hours", 24, 1, MAX_HOURS)
    found = await job_statistics(parts.database, parts.wall(), hours)
    return JsonResponse(
        {"hours": hours, "currency": parts.catalogue.currency, **dataclasses.asdict(found)}
    )


@for_members
async def programs(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/programs`: how a picture may be drawn."""
    del request, member
    return JsonResponse(programs_document(parts.catalogue))


@for_members
async def styles(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/styles`."""
    del request, member
    return JsonResponse(styles_document(parts.catalogue))


@for_members
async def engines(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/engines`."""
    del request, member
    return JsonResponse(engines_document(parts.catalogue))
