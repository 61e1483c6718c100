"""Webhooks over HTTP: a member's own addresses, and what became of what they were to be told."""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from generator.answers import JsonResponse
from generator.jobs.members import Member
from server.studio.documents import timestamp
from server.studio.hooks.registration import BadHook, checked_hook
from server.studio.hooks.webhooks import Delivery, Hook, TooManyHooks
from server.studio.refusals import StudioRefused, no_member, no_such
from server.studio.requests import (
    for_members,
    id_in_path,
    object_of,
    query_number,
)
from server.studio.services import StudioServices

_DELIVERY: Final = re.compile(r"msg_[0-9a-f]{32}", re.ASCII)


def hook_document(hook: Hook) -> dict[str, Any]:
    """A hook as it is answered: without its secret, which is told once."""
    return {
        "id": hook.id,
        "url": hook.url,
        "events": list(hook.events),
        "status": hook.status,
        "problem": hook.problem,
        "created_at": timestamp(hook.created_at),
    }


def delivery_document(delivery: Delivery) -> dict[str, Any]:
    """What became of what a hook was to be told."""
    return {
        "id": delivery.id,
        "event": delivery.type,
        "job": delivery.job,
        "status": delivery.status,
        "tries": delivery.tries,
        "next_at": timestamp(delivery.next_at),
        "created_at": timestamp(delivery.created_at),
        "ended_at": timestamp(delivery.ended_at),
        "answer_status": delivery.answer_status,
        "answer": delivery.answer,
    }


@for_members
async def hooks(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/hooks`."""
    del request
    found = await parts.webhooks.of(member.id)
    return JsonResponse({"hooks": [hook_document(hook) for hook in found]})


@for_members
async def add(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/hooks {"url", "secret"?, "events"?}`: 201, and the secret, this once."""
    try:
        new = checked_hook(await object_of(request), parts.reach)
        hook, secret = await parts.webhooks.add(member.id, new, parts.wall())
    except BadHook as error:
        raise StudioRefused("bad_request", str(error), field=error.field) from error
    except TooManyHooks as error:
        raise StudioRefused("too_many", str(error)) from error
    except LookupError:  # its membership ended while it asked
        raise no_member() from None
    document = {**hook_document(hook), "secret": secret.get_secret_value()}
    return JsonResponse(document, status_code=201)


@for_members
async def remove(request: Request, parts: StudioServices, member: Member) -> Response:
    """`DELETE /api/hooks/{id}`."""
    try:
        await parts.webhooks.delete(member.id, id_in_path(request, "hook"))
    except LookupError:
        raise no_such("hook") from None
    return Response(status_code=204)


@for_members
async def deliveries(request: Request, parts: StudioServices, member: Member) -> Response:
    """`GET /api/hooks/{id}/deliveries?before=&limit=`: the newest first."""
    limit = query_number(request, "limit", 50, 1, 200)
    before = request.query_params.get("before")
    before = _delivery_id(before, "before") if before else None
    hook = id_in_path(request, "hook")
    try:
        found = await parts.webhooks.deliveries(member.id, hook, before=before, limit=limit)
    except LookupError:
        raise no_such("hook") from None
    return JsonResponse({"deliveries": [delivery_document(each) for each in found]})


def _delivery_id(text: object, name: str) -> str:
    """A delivery's id that a request names.

    Raises:
        StudioRefused: `bad_request`: it is none.
    """
    if not isinstance(text, str) or _DELIVERY.fullmatch(text) is None:
        raise StudioRefused("bad_request", f"{name}: expected a delivery's id", field=name)
    return text


@for_members
async def redeliver(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/hooks/{id}/redeliver {"delivery": id}`: the same message once more."""
    hook, body = id_in_path(request, "hook"), await object_of(request)
    wanted = _delivery_id(body.get("delivery"), "delivery")
    try:
        delivery = await parts.webhooks.redeliver(member.id, hook, wanted, parts.wall())
    except LookupError:
        raise no_such("delivery") from None
    parts.sender.nudge()
    return JsonResponse(delivery_document(delivery), status_code=202)


@for_members
async def rotate(request: Request, parts: StudioServices, member: Member) -> Response:
    """`POST /api/hooks/{id}/rotate`: another secret; for a day the old one signs beside it."""
    try:
        secret = await parts.webhooks.rotate(member.id, id_in_path(request, "hook"), parts.wall())
    except LookupError:
        raise no_such("hook") from None
    return JsonResponse({"secret": secret.get_secret_value()})
