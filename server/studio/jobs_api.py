"""Jobs over HTTP: ask, look, call off, retry, move; and the queue as a whole."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from generator.answers import JsonResponse
from generator.jobs.members import Member, QuotaExceeded
from generator.jobs.model import ENDED, Job
from generator.jobs.request import BadJobRequest, accept_request, estimate_request
from generator.jobs.store import KeyReused, NewJob, NotCancellable, NothingToRetry
from server.studio.event_stream import job_events, member_events
from server.studio.refusals import FieldRefusal, StudioRefused, no_such
from server.studio.requests import (
    MAX_RECIPE,
    for_members,
    id_in_path,
    json_of,
    key_of,
    object_of,
    query_number,
)
from server.studio.services import StudioServices

_LONGEST_WAIT: Final = 60
_MOST_JOBS: Final = 200
_STATUSES: Final = frozenset({"queued", "processing", *ENDED})


@for_members
async def ask(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/jobs`: 202 and where it is to be found; 200 for a key that is known."""
    key = key_of(request)
    asked = await json_of(request, MAX_RECIPE)
    return await accepted(request, parts, member, checked(parts, member, asked, key))


def checked(parts: StudioServices, member: Member, asked: object, key: str | None) -> NewJob:
    """What was asked for, as a job that may be accepted.

    Raises:
        StudioRefused: with everything that is wrong with it.
    """
    try:
        return accept_request(
            asked,
            parts.catalogue,
            owner=member.id,
            key=key,
            new_seed=lambda: secrets.randbits(32),
        )
    except BadJobRequest as error:
        raise refused(error) from error


def refused(error: BadJobRequest) -> StudioRefused:
    """A request that cannot be accepted, with all that is wrong with it."""
    first = error.problems[0]
    return StudioRefused(
        first.code,
        f"{first.field}: {first.message}" if first.field else first.message,
        field=first.field or None,
        problems=[FieldRefusal(each.code, each.field, each.message) for each in error.problems],
    )


async def keep(parts: StudioServices, member: Member, new: NewJob) -> tuple[Job, bool]:
    """Accept a job, and have it worked on; whether it is new.

    Raises:
        StudioRefused: `conflict`, `budget_exceeded`.
    """
    try:
        job, is_new = await parts.jobs.accept(
            new, parts.wall(), most_a_day=member.pictures_a_day
        )
    except KeyReused as error:
        raise StudioRefused("conflict", str(error)) from error
    except QuotaExceeded as error:
        raise StudioRefused("budget_exceeded", str(error)) from error
    parts.changed()
    return job, is_new


async def accepted(
    request: Request, parts: StudioServices, member: Member, new: NewJob
) -> Response:
    """The answer to who asked for a job."""
    job, is_new = await keep(parts, member, new)
    location = f"{request.scope.get('root_path', '')}/api/jobs/{job.id}"
    return JsonResponse(
        await parts.documents.of(job),
        status_code=202 if is_new else 200,
        headers={"location": location},
    )


@for_members
async def estimate(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/estimate`: pictures, seconds and cost of what is asked for, and nothing drawn."""
    asked = await json_of(request, MAX_RECIPE)
    new = checked(parts, member, asked, None)
    return JsonResponse(estimate_request(new, parts.catalogue, parts.outlook.paces))


@for_members
async def jobs(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/jobs?status=&kind=&before=&limit=`: one's own, the newest first."""
    query = request.query_params
    status = query.get("status") or None
    wanted = None if status is None else status.split(",")
    if wanted is not None and not _STATUSES.issuperset(wanted):
        text = f"status: expected some of {', '.join(sorted(_STATUSES))}"
        raise StudioRefused("bad_request", text, field="status")
    found = await parts.jobs.find(
        owner=member.id,
        statuses=wanted,  # type: ignore[arg-type] - they were looked at above
        kind=query.get("kind") or None,  # type: ignore[arg-type] - of another kind there are none
        before=query.get("before") or None,
        limit=query_number(request, "limit", 50, 1, _MOST_JOBS),
    )
    return JsonResponse({"jobs": [await parts.documents.of(job) for job in found]})


@for_members
async def job(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/jobs/{id}?wait=25`: at once, or when it is over, or after so many seconds."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    wait = query_number(request, "wait", 0, 0, _LONGEST_WAIT)
    if wait and found.status not in ENDED:
        found = await _when_over(parts, member, found, wait)
    headers = {"cache-control": "no-store"}
    if found.status not in ENDED:
        headers["retry-after"] = "2"
    return JsonResponse(await parts.documents.of(found), headers=headers)


async def _when_over(
    parts: StudioServices, member: Member, found: Job, seconds: float
) -> Job:
    async with parts.feed.listen(member.id, job=found.id) as messages:
        try:
            async with asyncio.timeout(seconds):
                # Looked at only now that it is listened to: nothing falls between the two.
                found = await own_job(parts, member, found.id)
                async for message in messages:
                    if found.status in ENDED:
                        break
                    if message.get("type") in {"event", "reset"}:
                        found = await own_job(parts, member, found.id)
                    if found.status in ENDED:
                        break
        except TimeoutError:
            pass
    return await own_job(parts, member, found.id)


async def own_job(parts: StudioServices, member: Member, job_id: str) -> Job:
    """A member's own job.

    Raises:
        StudioRefused: `not_found`: there is none, or it is somebody else's.
    """
    found = await parts.jobs.get(job_id, owner=member.id)
    if found is None:
        raise no_such("job")
    return found


@for_members
async def cancel(request: Request, parts: StudioServices, member: Member) -> Response:
    """`DELETE /api/jobs/{id}`: nothing more of it is drawn; what is ready stays."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    try:
        cancelled = await parts.jobs.cancel(found.id, parts.wall())
    except NotCancellable as error:
        raise StudioRefused("not_cancellable", str(error)) from error
    parts.scheduler.stop_working_on(found.id)
    parts.changed()
    return JsonResponse(await parts.documents.of(cancelled))


@for_members
async def retry(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/jobs/{id}/retry {"items": [2]?}`: what failed, with the same seeds."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    body = await object_of(request)
    numbers = body.get("items")
    if numbers is not None and not _are_numbers(numbers):
        raise StudioRefused("bad_request", "items: expected a list of numbers", field="items")
    try:
        again = await parts.jobs.retry(found.id, parts.wall(), numbers)
    except NothingToRetry as error:
        raise StudioRefused("nothing_to_retry", str(error)) from error
    parts.changed()
    return JsonResponse(await parts.documents.of(again), status_code=202)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) for each in value
    )


@for_members
async def move(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/jobs/{id}/move {"to": "first"|"last"} or {"before": id}`, and its priority."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    body = await object_of(request)
    to, before, priority = (body.get(name) for name in ("to", "before", "priority"))
    if to not in {None, "first", "last"}:
        raise StudioRefused("bad_request", "to: expected first or last", field="to")
    if before is not None:
        before = (await own_job(parts, member, str(before)[:64])).id
    if priority is not None and priority not in range(10):
        raise StudioRefused("bad_request", "priority: expected 0 to 9", field="priority")
    await parts.jobs.move(found.id, to=to, before=before, priority=priority)
    parts.changed()
    return JsonResponse(await parts.documents.of(await own_job(parts, member, found.id)))


@for_members
async def events_of_job(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/jobs/{id}/events`: what happens to it, as server-sent events, until it is over."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    return job_events(parts.feed, member, found, last_event_id(request))


@for_members
async def events_of_member(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/events`: what happens to all of one's own."""
    return member_events(parts.feed, member, last_event_id(request))


def last_event_id(request: Request) -> int | None:
    """After which event somebody goes on, None for from now on.

    Raises:
        StudioRefused: `bad_request`.
    """
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise StudioRefused("bad_request", "Last-Event-ID: expected a number")
    return int(text)
