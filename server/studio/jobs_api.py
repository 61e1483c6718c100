"""Jobs over HTTP: ask, look, call off, retry, move; and the queue as a whole."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response

from cache.library import BrokenSet
from cache.model.documents import FormatError
from cache.stores.port import NotFound, StoreError
from generator.answers import JsonResponse
from generator.guarded_outgoing import AddressRefused, Reach, checked_address
from generator.jobs.drawing import open_take
from generator.jobs.fields import BadJobRequest
from generator.jobs.members import Member
from generator.jobs.model import ENDED, Job, JobKind, JobStatus
from generator.jobs.request import (
    accept_request,
    asked_take,
    estimate_request,
)
from generator.jobs.store import (
    KeyReused,
    NewJob,
    NotCancellable,
    NothingToRetry,
    NotMovable,
    QuotaExceeded,
)
from server.studio.event_stream import Check, job_events, last_event_of, member_events
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


@for_members
async def ask(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/jobs`: 202 and where it is to be found; 200 for a key that is known."""
    key = key_of(request)
    asked = await json_of(request, MAX_RECIPE)
    return await accepted(request, parts, await checked(parts, member, asked, key))


async def checked(parts: StudioServices, member: Member, asked: object, key: str | None) -> NewJob:
    """What was asked for, as a job that may be accepted.

    Raises:
        StudioRefused: with everything that is wrong with it.
    """
    bases = await _bases(parts, member, asked)

    def accept() -> NewJob:
        return accept_request(
            asked,
            parts.catalogue,
            owner=member.id,
            key=key,
            new_seed=lambda: secrets.randbits(32),
            bases=bases,
            why_no_hook=lambda url: why_no_hook(url, parts.reach),
        )

    try:
        # A template and a picture are read in a thread: it may take a while.
        large = isinstance(asked, dict) and ("recipe" in asked or asked.get("template") or bases)
        return await asyncio.to_thread(accept) if large else accept()
    except BadJobRequest as error:
        raise refused(error) from error


async def _bases(
    parts: StudioServices, member: Member, asked: object
) -> Mapping[str, bytes] | None:
    """The take that a request starts from, where it is the member's own."""
    take = asked_take(asked)
    if take is None:
        return None
    if not await parts.jobs.owns_take(take, member.id):
        return {}
    try:
        found = await open_take(parts.store, take)
        return {take: await found.library.image(found.image_set.steps[-1])}
    except (NotFound, BrokenSet, FormatError):
        return {}
    except StoreError as error:
        raise StudioRefused("unavailable", f"the store cannot be read now: {error}") from error


def why_no_hook(url: str, reach: Reach) -> str | None:
    """Why an address may be told nothing; None where it may."""
    try:
        checked_address(url, reach)
    except AddressRefused as error:
        return str(error)
    return None


def refused(error: BadJobRequest) -> StudioRefused:
    """A request that cannot be accepted, with all that is wrong with it."""
    first = error.problems[0]
    return StudioRefused(
        first.code,
        f"{first.field}: {first.message}" if first.field else first.message,
        field=first.field or None,
        problems=[FieldRefusal(each.code, each.field, each.message) for each in error.problems],
    )


async def keep(parts: StudioServices, new: NewJob) -> tuple[Job, bool]:
    """Accept a job, and have it worked on; whether it is new.

    Raises:
        StudioRefused: `conflict`, `budget_exceeded`.
    """
    try:
        job, is_new = await parts.jobs.accept(new, parts.wall())
    except KeyReused as error:
        raise StudioRefused("conflict", str(error)) from error
    except QuotaExceeded as error:
        raise StudioRefused("budget_exceeded", str(error)) from error
    parts.changed()
    return job, is_new


async def accepted(request: Request, parts: StudioServices, new: NewJob) -> Response:
    """The answer to who asked for a job."""
    job, is_new = await keep(parts, new)
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
    new = await checked(parts, member, asked, None)
    return JsonResponse(estimate_request(new, parts.catalogue, parts.paces))


@for_members
async def jobs(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/jobs?status=&kind=&before=&limit=`: one's own, the newest first.

    With `sort=queue` those come first that are next in line.
    """
    query = request.query_params
    found = await parts.jobs.find(
        owner=member.id,
        statuses=_statuses(query.get("status")),
        kind=_kind(query.get("kind")),
        before=query.get("before") or None,
        limit=query_number(request, "limit", 50, 1, _MOST_JOBS),
        in_line=query.get("sort") == "queue",
    )
    return JsonResponse({"jobs": [await parts.documents.of(job) for job in found]})


def _statuses(text: str | None) -> list[JobStatus] | None:
    """Some states, with commas between them; None for any."""
    found = [status for status in get_args(JobStatus) if status in (text or "").split(",")]
    if text and len(found) < len(set(text.split(","))):
        known = f"status: expected some of {', '.join(get_args(JobStatus))}"
        raise StudioRefused("bad_request", known, field="status")
    return found or None


def _kind(text: str | None) -> JobKind | None:
    kind: JobKind
    for kind in get_args(JobKind):
        if text == kind:
            return kind
    if text:
        known = f"kind: expected one of {', '.join(get_args(JobKind))}"
        raise StudioRefused("bad_request", known, field="kind")
    return None


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


async def _when_over(parts: StudioServices, member: Member, found: Job, seconds: float) -> Job:
    async with parts.feed.listen(member.id, job=found.id) as messages:
        try:
            async with asyncio.timeout(seconds):
                # Looked at only now that it is listened to: nothing falls between the two.
                found = await own_job(parts, member, found.id)
                async for message in messages:
                    if found.status in ENDED:
                        break
                    if message.type in {"event", "reset"}:
                        found = await own_job(parts, member, found.id)
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
    """`POST /api/jobs/{id}/move {"to": "first"|"last"} or {"before": id}`: among one's own."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    body = await object_of(request)
    to, before = body.get("to"), body.get("before")
    if (to is None) == (before is None) or to not in {None, "first", "last"}:
        text = 'expected {"to": "first"}, {"to": "last"} or {"before": id}'
        raise StudioRefused("bad_request", text, field="to")
    if before is not None:
        before = (await own_job(parts, member, str(before)[:64])).id
    try:
        moved = await parts.jobs.move(found.id, parts.wall(), to=to, before=before)
    except NotMovable as error:
        raise StudioRefused("conflict", str(error)) from error
    parts.changed()
    return JsonResponse(await parts.documents.of(moved))


@for_members
async def events_of_job(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/jobs/{id}/events`: what happens to it, as server-sent events, until it is over."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    after, check = last_event_of(request), _still(request, parts)
    return await job_events(parts.feed, member.id, found.id, after, check)


@for_members
async def events_of_member(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/events`: what happens to all of one's own."""
    return await member_events(
        parts.feed, member.id, last_event_of(request), _still(request, parts)
    )


def _still(request: Request, parts: StudioServices) -> Check:
    """Asks whether who listens is still a member."""

    async def check() -> Member:
        return await parts.access.member_of(request)

    return check
