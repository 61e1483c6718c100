"""What machines ask: is it alive, is it ready, how much, and does this screen show anything?"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from cache.untrusted import one_line
from generator.answers import JsonResponse
from server.config.screen_names import MAX_NAME
from server.control.command import CommandError
from server.diagnostics.findings import sentences
from server.diagnostics.live_checks import findings_now
from server.network.access import AccessDenied
from server.web.services import services


async def health(request: Request) -> Response:
    """`GET /healthz`: the loop ticks (it answers), the show moves, and nothing else fails."""
    current = services(request).conditions.current()
    failing = [each for each in current if each.level == "failing"]
    if failing:
        return JsonResponse({"healthy": False, "reason": failing[0].message}, status_code=503)
    return JsonResponse({"healthy": True})


async def ready(request: Request) -> Response:
    """`GET /readyz`: every coming cue has a rung to stand on, else why not."""
    parts = services(request)
    readiness, preflight = parts.readiness, parts.preflight
    conditions, now = parts.conditions.current(), findings_now(readiness)
    problems = [
        *sentences(now, "error"),
        *(each.message for each in conditions if each.blocks_ready),
        *preflight.problems(),
    ]
    body = {
        "ready": not problems,
        "reasons": problems,
        "notes": [
            *sentences(now, "warning"),
            *(each.message for each in conditions if not each.blocks_ready),
            *preflight.notes(),
        ],
        **readiness.coverage(),
    }
    return JsonResponse(body, status_code=503 if problems else 200)


async def exposition(request: Request) -> Response:
    """`GET /metrics`."""
    metrics = services(request).metrics
    return Response(metrics.expose(), headers={"content-type": metrics.content_type})


async def screen(request: Request) -> Response:
    """`GET /api/screen?name=left`: 200 where it is well, 503 and why where it is not.

    A watcher beside a kiosk asks it. Whoever may be a screen may ask: where screens need a
    token, with that as the bearer's.
    """
    access, presence = services(request).access, services(request).presence
    token = request.headers.get("authorization", "").partition(" ")[2]
    access.check_origin(request)
    try:
        access.check_screen(token)
    except AccessDenied:
        access.role_of(request)
    # As it is cleaned where a screen says it: else one that is well would be taken for another.
    name = one_line(request.query_params.get("name", ""), MAX_NAME)
    if not name:
        raise CommandError("bad_args", "which screen? expected ?name=")
    status = presence.one(name)
    body = {"screen": name, "well": not status.trouble, "reason": status.message}
    headers = {"cache-control": "no-store"}
    return JsonResponse(body, status_code=503 if status.trouble else 200, headers=headers)
