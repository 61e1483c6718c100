"""Every address of the server, and who answers there."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from server.core.unhandled import noting_errors
from server.network.responses import PageFiles
from server.web import api, images, pages, probes, reports
from server.web.services import services

mimetypes.init()  # else it reads the system's list when the first page is asked for


async def _screen_socket(websocket: WebSocket) -> None:
    await services(websocket).screens.serve(websocket)


async def _control_socket(websocket: WebSocket) -> None:
    await services(websocket).control.serve(websocket)


async def _older_wire_socket(websocket: WebSocket) -> None:
    await services(websocket).older_wire.serve(websocket)


ROUTES: Final[Sequence[BaseRoute]] = noting_errors(
    Route("/", pages.kiosk),
    Route("/control", pages.control),
    Route("/control/", pages.control_below),
    Route("/still", pages.still),
    Mount("/static", PageFiles(directory=pages.STATIC)),
    Route("/healthz", probes.health),
    Route("/readyz", probes.ready),
    Route("/metrics", probes.exposition),
    Route("/frames/{run}/{step}", images.frame),
    Route("/assets/{action_id}/{set_id}/{file}", images.asset),
    Route("/api/state", api.state),
    Route("/api/cues", api.cues),
    Route("/api/asrun", api.asrun),
    Route("/api/screen", probes.screen),
    Route("/api/control/{command}", api.control, methods=["POST"]),
    Route("/rehearsal/report.html", reports.page),
    Route("/rehearsal/report.json", reports.data),
    WebSocketRoute("/ws/screen", _screen_socket),
    WebSocketRoute("/ws/control", _control_socket),
    WebSocketRoute("/ws", _older_wire_socket),
)
