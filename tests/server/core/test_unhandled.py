"""What nobody has caught is counted, and told for a while."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from structlog.testing import capture_logs

from server.core.clock import VirtualClock, settle
from server.core.metrics import Metrics
from server.core.unhandled import LOOP, TOLD_FOR, UnhandledErrors, noting_errors


class Planted(Exception):
    pass


def counted(metrics: Metrics, where: str) -> float:
    labels = {"where": where}
    return metrics.registry.get_sample_value("understudy_unhandled_errors_total", labels) or 0.0


def broken_callback() -> None:
    raise Planted("broken callback")


async def fails() -> None:
    raise Planted("a mistake")


async def test_a_task_that_nobody_awaits_is_told_for_a_while() -> None:
    clock, metrics = VirtualClock(), Metrics()
    unhandled = UnhandledErrors(clock, metrics)
    before = asyncio.get_running_loop().get_exception_handler()
    with capture_logs() as logs, unhandled.of_the_loop():
        asyncio.create_task(fails(), name="forgotten")  # noqa: RUF006 - it is the mistake
        await settle()
        gc.collect()
        asyncio.get_running_loop().call_soon(broken_callback)
        await settle()
        assert counted(metrics, LOOP) == 2
        (told,) = unhandled.conditions()
        assert (told.code, told.level, told.blocks_ready) == ("unhandled_error", "degraded", False)
        assert "broken callback" in told.message
        clock.jump(TOLD_FOR)
        assert list(unhandled.conditions()) == []
    assert [(each["event"], each["task"]) for each in logs] == [
        ("unhandled_error", "forgotten"),
        ("unhandled_error", None),
    ]
    assert asyncio.get_running_loop().get_exception_handler() is before


async def test_a_lost_connection_is_nobodys_mistake() -> None:
    metrics = Metrics()
    unhandled = UnhandledErrors(VirtualClock(), metrics)
    with capture_logs() as logs, unhandled.of_the_loop():
        context = {"message": "Fatal write error", "exception": ConnectionResetError(104, "reset")}
        asyncio.get_running_loop().call_exception_handler(context)
    assert counted(metrics, LOOP) == 0
    assert [each["event"] for each in logs] == ["connection_lost"]


async def breaks(request: Request) -> Response:
    if "status" in request.query_params:
        raise HTTPException(404)
    if "fine" in request.query_params:
        return PlainTextResponse("fine")
    raise Planted("a mistake")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    text = await websocket.receive_text()
    if text == "break":
        raise Planted("a mistake")
    raise WebSocketDisconnect(1001)


def noting_app(unhandled: UnhandledErrors, *routes: Route | WebSocketRoute) -> ASGIApp:
    """An application with these routes, whose lifespan's state it gives itself."""
    app = Starlette(routes=noting_errors(*routes))

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"unhandled": unhandled}}, receive, send)

    return with_state


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_an_endpoint_that_raises_is_told_by_its_route_and_one_that_refuses_is_not() -> None:
    metrics = Metrics()
    unhandled = UnhandledErrors(VirtualClock(), metrics)
    app = noting_app(unhandled, Route("/api/{name}", breaks))
    async with served(app) as client:
        assert (await client.get("/api/x?fine")).text == "fine"
        assert (await client.get("/api/x?status")).status_code == 404
        assert counted(metrics, "/api/{name}") == 0
        assert (await client.get("/api/x")).status_code == 500
    assert counted(metrics, "/api/{name}") == 1
    assert "Planted" in next(iter(unhandled.conditions())).message


def say(client: TestClient, text: str) -> None:
    with client.websocket_connect("/ws") as line_in:
        line_in.send_text(text)
        line_in.receive_text()


def test_a_socket_that_raises_is_told_and_one_whose_client_leaves_is_not() -> None:
    metrics = Metrics()
    unhandled = UnhandledErrors(VirtualClock(), metrics)
    app = noting_app(unhandled, WebSocketRoute("/ws", socket))
    client = TestClient(app)
    for text, raised in (("leave", WebSocketDisconnect), ("break", Planted)):
        with pytest.raises(raised):
            say(client, text)
    assert counted(metrics, "/ws") == 1
