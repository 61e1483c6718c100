"""The requests of the project's brief for pictures in a style, as they stand there.

POST /api/generate {prompt, style, franchise?, width, height, seed}  →  {jobId, status}
GET  /api/generate/status/{jobId}                                   →  asked every two seconds
POST /api/generate/webhook                                          ←  a generator's answer
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from generator.answers import JsonResponse
from generator.engines.callback.inbox import MAX_CALLBACK
from generator.jobs.brief_request import generate_request
from generator.jobs.fields import BadJobRequest
from generator.jobs.members import Member
from server.studio.documents import timestamp
from server.studio.jobs_api import keep, own_job, refused
from server.studio.refusals import StudioRefused
from server.studio.requests import for_members, id_in_path, json_of, key_of
from server.studio.services import StudioServices, studio_services

_OVER: Final = {"cancelled": "failed"}
"""Who asks so knows four states, and would ask for ever after a fifth."""


@for_members
async def generate(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/generate`."""
    asked = await json_of(request)
    try:
        new = generate_request(
            asked,
            parts.catalogue,
            owner=member.id,
            key=key_of(request),
            new_seed=lambda: secrets.randbits(32),
        )
    except BadJobRequest as error:
        raise refused(error) from error
    job, is_new = await keep(parts, new)
    return JsonResponse(
        {"jobId": job.id, "status": _OVER.get(job.status, job.status)},
        status_code=202 if is_new else 200,
        # Beside the address that was asked, below whatever path a proxy shows it.
        headers={"location": f"generate/status/{job.id}"},
    )


@for_members
async def status(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/generate/status/{jobId}`."""
    job = await own_job(parts, member, id_in_path(request, "job"))
    document = await parts.documents.of(job)
    result = document["result_url"]
    message = job.problem.message if job.problem is not None else None
    if job.status == "cancelled":
        message = "it was called off"
    return JsonResponse(
        {
            "jobId": job.id,
            "status": _OVER.get(job.status, job.status),
            "result_url": None if result is None else f"{_address_of(request, parts)}{result}",
            "error_message": message,
            "processing_time_ms": round(job.seconds * 1000) if job.completed_at else None,
            "created_at": timestamp(job.created_at),
            "started_at": timestamp(job.started_at),
            "completed_at": timestamp(job.completed_at),
            "metadata": job.metadata,
        },
        headers={"cache-control": "no-store"},
    )


def _address_of(request: Request, parts: StudioServices) -> str:
    """What the Studio's addresses begin with for who asks: a page that may be of another server."""
    public = parts.show.settings.studio.public_url
    return public.rstrip("/") if public else str(request.base_url).rstrip("/")


async def webhook(request: Request) -> Response:
    """`POST /api/generate/webhook`: signed; the same twice has no further effect."""
    parts = studio_services(request)
    if parts.callbacks is None:
        text = "no generator may answer here: set UNDERSTUDY_CALLBACK_SECRET, and start again"
        raise StudioRefused("not_configured", text)
    if "webhook-signature" not in request.headers:  # nothing is read that nobody has signed
        raise StudioRefused("bad_signature", "expected a signed webhook: webhook-signature, …")
    async with parts.answers.body_of(request, MAX_CALLBACK) as body:
        receipt = await parts.callbacks.deliver(request.headers, body, parts.wall())
    if receipt.refusal is not None:
        raise StudioRefused(receipt.refusal.code, receipt.refusal.message)
    return JsonResponse({"ok": True})
