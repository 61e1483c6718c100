"""Every address of the Studio, and who answers there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from server.core.unhandled import noting_errors
from server.network.responses import PageFiles
from server.studio import (
    generate_api,
    hooks_api,
    jobs_api,
    pages,
    picks_api,
    pictures,
    probes,
    queue_api,
    sheet_api,
)
from server.studio.services import studio_services


async def _socket(websocket: WebSocket) -> None:
    await studio_services(websocket).socket.serve(websocket)


ROUTES: Final[Sequence[BaseRoute]] = noting_errors(
    Route("/", pages.studio),
    Route("/studio/", pages.studio_below),
    Mount("/static", PageFiles(directory=pages.STATIC)),
    Route("/healthz", probes.health),
    Route("/readyz", probes.ready),
    Route("/metrics", probes.exposition),
    Route("/api/me", queue_api.me),
    Route("/api/jobs", jobs_api.jobs),
    Route("/api/jobs", jobs_api.ask, methods=["POST"]),
    Route("/api/jobs/{id}", jobs_api.job),
    Route("/api/jobs/{id}", jobs_api.cancel, methods=["DELETE"]),
    Route("/api/jobs/{id}/retry", jobs_api.retry, methods=["POST"]),
    Route("/api/jobs/{id}/move", jobs_api.move, methods=["POST"]),
    Route("/api/jobs/{id}/events", jobs_api.events_of_job),
    Route("/api/events", jobs_api.events_of_member),
    Route("/api/estimate", jobs_api.estimate, methods=["POST"]),
    Route("/api/queue", queue_api.queue),
    Route("/api/queue/pause", queue_api.pause, methods=["POST"]),
    Route("/api/queue/resume", queue_api.resume, methods=["POST"]),
    Route("/api/stats", queue_api.stats),
    Route("/api/programs", queue_api.programs),
    Route("/api/styles", queue_api.styles),
    Route("/api/engines", queue_api.engines),
    Route("/api/hooks", hooks_api.hooks),
    Route("/api/hooks", hooks_api.add, methods=["POST"]),
    Route("/api/hooks/{id}", hooks_api.remove, methods=["DELETE"]),
    Route("/api/hooks/{id}/deliveries", hooks_api.deliveries),
    Route("/api/hooks/{id}/redeliver", hooks_api.redeliver, methods=["POST"]),
    Route("/api/hooks/{id}/rotate", hooks_api.rotate, methods=["POST"]),
    Route("/api/generate", generate_api.generate, methods=["POST"]),
    Route("/api/generate/status/{id}", generate_api.status),
    Route("/api/generate/webhook", generate_api.webhook, methods=["POST"]),
    Route("/api/sheet", sheet_api.sheet),
    Route("/api/sheet", sheet_api.replace_sheet, methods=["PUT"]),
    Route("/api/sheet/cues/{n}", sheet_api.edit, methods=["PATCH"]),
    Route("/api/sheet/undo", sheet_api.undo, methods=["POST"]),
    Route("/api/sheet/versions", sheet_api.versions),
    Route("/takes/{id}/{name}", pictures.picture),
    Route("/api/takes/{id}/pick", picks_api.pick, methods=["POST"]),
    Route("/api/takes/{id}/unpick", picks_api.unpick, methods=["POST"]),
    WebSocketRoute("/ws/studio", _socket),
)
