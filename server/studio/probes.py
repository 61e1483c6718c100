"""What machines ask the Studio: is it alive, is it ready, how much."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from generator.answers import JsonResponse
from server.studio.services import studio_services


async def health(request: Request) -> Response:
    """`GET /healthz`: the loop ticks (it answers), and nothing fails."""
    current = studio_services(request).conditions.current()
    failing = [each for each in current if each.level == "failing"]
    if failing:
        return JsonResponse({"healthy": False, "reason": failing[0].message}, status_code=503)
    return JsonResponse({"healthy": True})


async def ready(request: Request) -> Response:
    """`GET /readyz`: what is asked for would be drawn, else why not."""
    current = studio_services(request).conditions.current()
    reasons = [each.message for each in current if each.blocks_ready]
    body = {
        "ready": not reasons,
        "reasons": reasons,
        "notes": [each.message for each in current if not each.blocks_ready],
    }
    return JsonResponse(body, status_code=503 if reasons else 200)


async def exposition(request: Request) -> Response:
    """`GET /metrics`."""
    metrics = studio_services(request).metrics
    return Response(metrics.expose(), headers={"content-type": metrics.content_type})
