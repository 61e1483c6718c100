"""Jobs over HTTP: ask, look, call off, retry, move; and the queue as a whole."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
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
from generator.sse import unless_hung_up
from server.studio.event_stream import Check, job_events, last_event_of, member_events
from server.studio.feed import FINAL_EVENTS
from server.studio.large_bodies import SMALL
from server.studio.refusals import FieldRefusal, StudioRefused, no_member, no_such
from server.studio.requests import (
    MAX_RECIPE,
    decoded,
    for_members,
    given_id,
    id_in_path,
    key_of,
    object_of,
    query_id,
    query_number,
)
from server.studio.services import StudioServices

_LONGEST_WAIT: Final = 60
_MOST_JOBS: Final = 200


@for_members
async def ask(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/jobs`: 202 and where it is to be found; 200 for a key that is known."""
    key = key_of(request)
    async with _checked(request, parts, member, key) as new:
        return await accepted(parts, new)


@asynccontextmanager
async def _checked(
    request: Request, parts: StudioServices, member: Member, key: str | None = None
) -> AsyncIterator[NewJob]:
    """What a request asks for, as a job that may be accepted while the context lasts.

    Raises:
        StudioRefused: with everything that is wrong with it.
    """
    async with parts.recipes.body_of(request, MAX_RECIPE) as body:
        asked = await decoded(request, body)
        yield await checked(parts, member, asked, key, large=len(body) > SMALL)


async def checked(
    parts: StudioServices, member: Member, asked: object, key: str | None, *, large: bool
) -> NewJob:
    """What was asked for, as a job that may be accepted.

    Args:
        parts: the Studio's.
        member: who asks.
        asked: the JSON value that was sent.
        key: the idempotency key.
        large: whether reading it would hold up the loop.

    Raises:
        StudioRefused: with everything that is wrong with it.
    """
    bases = await _bases(parts, member, asked)
    # A cue is drawn as it is in the sheet now, whoever has changed that.
    of_sheet = isinstance(asked, dict) and "cue" in asked
    catalogue = await parts.offered.look() if of_sheet else parts.catalogue

    def accept() -> NewJob:
        return accept_request(
            asked,
            catalogue,
            owner=member.id,
            key=key,
            new_seed=lambda: secrets.randbits(32),
            bases=bases,
            why_no_hook=lambda url: why_no_hook(url, parts.reach),
        )

    try:
        # A template and a picture are read in a thread: it may take a while.
        slow = isinstance(asked, dict) and ("recipe" in asked or asked.get("template") or bases)
        return await asyncio.to_thread(accept) if large or slow else accept()
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
        StudioRefused: `conflict`, `budget_exceeded`, `unauthorized`.
    """
    try:
        job, is_new = await parts.jobs.accept(new, parts.wall())
    except KeyReused as error:
        raise StudioRefused("conflict", str(error)) from error
    except QuotaExceeded as error:
        raise StudioRefused("budget_exceeded", str(error)) from error
    except LookupError:  # its membership ended while it asked
        raise no_member() from None
    parts.changed()
    return job, is_new


async def accepted(parts: StudioServices, new: NewJob) -> Response:
    """The answer to who asked for a job."""
    job, is_new = await keep(parts, new)
    return JsonResponse(
        await parts.documents.of(job),
        status_code=202 if is_new else 200,
        # Beside the address that was asked, below whatever path a proxy shows it.
        headers={"location": f"jobs/{job.id}"},
    )


@for_members
async def estimate(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/estimate`: pictures, seconds and cost of what is asked for, and nothing drawn."""
    async with _checked(request, parts, member) as new:
        found = await asyncio.to_thread(estimate_request, new, parts.catalogue, parts.paces)
    return JsonResponse(found)


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
        before=query_id(request, "before"),
        limit=query_number(request, "limit", 50, 1, _MOST_JOBS),
        in_line=query.get("sort") == "queue",
    )
    documents = await parts.documents.of_all(found)
    # A long list takes a while to write, too.
    return await asyncio.to_thread(JsonResponse, {"jobs": documents})


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
        waited = _when_over(parts, member, found.id, wait)
        found = await unless_hung_up(request.receive, waited) or found
    headers = {"cache-control": "no-store"}
    if found.status not in ENDED:
        headers["retry-after"] = "2"
    return JsonResponse(await parts.documents.of(found), headers=headers)


async def _when_over(parts: StudioServices, member: Member, job_id: str, seconds: float) -> Job:
    """A job as soon as it is over, or as it is after so many seconds."""
    async with parts.feed.listen(member.id, job=job_id) as messages:
        # Looked at only now that it is listened to: nothing falls between the two.
        found = await own_job(parts, member, job_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while found.status not in ENDED:
                    message = await anext(messages, None)
                    if message is None:  # the Studio ends
                        break
                    # What ended an earlier attempt is told as well.
                    if message.event in FINAL_EVENTS or message.type == "reset":
                        found = await own_job(parts, member, job_id)
    return found if found.status in ENDED else await own_job(parts, member, job_id)


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
    if numbers is not None and not _are_items(numbers, found):
        expected = f"items: expected a list of numbers from 0 to {len(found.items) - 1}"
        raise StudioRefused("bad_request", expected, field="items")
    try:
        again = await parts.jobs.retry(found.id, parts.wall(), numbers)
    except NothingToRetry as error:
        raise StudioRefused("nothing_to_retry", str(error)) from error
    parts.changed()
    return JsonResponse(await parts.documents.of(again), status_code=202)


def _are_items(value: object, job: Job) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < len(job.items)
        for each in value
    )


@for_members
async def move(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/jobs/{id}/move {"to": "first"|"last"} or {"before": id}`: among one's own."""
    found = await own_job(parts, member, id_in_path(request, "job"))
    body = await object_of(request)
    to, before = body.get("to"), body.get("before")
    if (to is None) == (before is None) or to not in (None, "first", "last"):
        text = 'expected {"to": "first"}, {"to": "last"} or {"before": id}'
        raise StudioRefused("bad_request", text, field="to")
    if before is not None:
        before = (await own_job(parts, member, given_id(before, "before"))).id
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
    if request.method == "HEAD":
        return _no_events()
    return await job_events(parts.feed, member.id, found.id, after, check)


@for_members
async def events_of_member(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/events`: what happens to all of one's own."""
    after, check = last_event_of(request), _still(request, parts)
    if request.method == "HEAD":
        return _no_events()
    return await member_events(parts.feed, member.id, after, check)


def _no_events() -> Response:
    """What is answered to HEAD: a stream's end would never come."""
    return Response(media_type="text/event-stream", headers={"cache-control": "no-store"})


def _still(request: Request, parts: StudioServices) -> Check:
    """Asks whether who listens is still a member."""

    async def check() -> Member:
        return await parts.access.member_of(request)

    return check
