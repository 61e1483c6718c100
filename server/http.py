"""Routes: the pages, the probes, the state, the pictures. Thin: others know the answers."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache.encoding import json_text
from cache.model.documents import real
from cache.model.formats import MAX_STEPS
from cache.model.images import BadImage, check_image, media_type_for
from cache.model.keys import MAX_SET_ID, BadKey, image_key, is_action_id
from cache.stores.port import StoreError
from cache.untrusted import Unfit, decode_message, one_line, whole_number
from generator.answers import JsonResponse
from server.access import Access, AccessDenied
from server.asrun.log import AsRun, Row, csv_piece, json_piece
from server.conditions import Conditions
from server.config.show import Show
from server.control.arguments import ARGUMENTS, RELEASED, Button, button
from server.control.dispatcher import MAX_ID, Caller, CommandError, Dispatcher, Envelope
from server.control.socket import ControlSocket
from server.control.state import StateView
from server.metrics import Metrics
from server.older.socket import OlderSocket
from server.rehearsal.desk import RehearsalDesk
from server.rehearsal.preflight import Preflight
from server.stage.messages import MAX_NAME
from server.stage.presence import ScreenPresence
from server.stage.screens import ScreenSocket
from server.stage.stage import Stage
from server.supply.readiness import Readiness
from server.supply.sources import Supply

WEB = Path(__file__).parent / "web"
MAX_BODY = 64 * 1024
"""Longest body of a command, in bytes."""

_FOREVER = "public, max-age=31536000, immutable"
_POLICY = b"content-security-policy"
_HEADERS = (
    (
        _POLICY,
        (
            b"default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
            b"connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_REPORT_POLICY = (
    "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-modals allow-downloads allow-popups"
)
"""A report is one page that brings all it needs. It is a stranger here: nothing of ours, such as
the token that a technician's page keeps, can be reached from it."""

_STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_command": 404,
    "unknown_cue": 404,
    "unknown_screen": 404,
    "unknown_failure": 404,
    "no_report": 404,
    "too_soon": 429,
    "bad_args": 400,
    "not_json": 415,
    "expired": 410,
    "id_reused": 422,
    "internal": 500,
}

_READ_AT_ONCE = 2
_READ_WITHIN = 10.0
_RETRY_AFTER = "30"
_MOST_ROWS = 10_000
_ROWS_AT_ONCE = 50


class SafeHeaders:
    """Middleware: our pages load nothing from elsewhere, and nobody frames them.

    A page that is stricter with itself says so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every HTTP response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name for name, _ in given}
                message["headers"] = given + [each for each in _HEADERS if each[0] not in names]
            await send(message)

        await self._app(scope, receive, add)


def build_routes(
    *,
    show: Show,
    supply: Supply,
    stage: Stage,
    readiness: Readiness,
    view: StateView,
    dispatcher: Dispatcher,
    asrun: AsRun,
    access: Access,
    screens: ScreenSocket,
    control: ControlSocket,
    older: OlderSocket,
    metrics: Metrics,
    preflight: Preflight,
    rehearsals: RehearsalDesk,
    conditions: Conditions,
    presence: ScreenPresence,
) -> list[BaseRoute]:
    """Everything that can be asked for over HTTP."""
    mimetypes.init()  # else it reads the system's list when the first page is asked for
    pages = Pages(show, access)
    probes = Probes(readiness, preflight, conditions, metrics)
    pictures = Pictures(stage, supply, access)
    api = Api(view, dispatcher, asrun, access)
    reports = ReportLinks(rehearsals, access)
    screen_probe = ScreenProbe(presence, access)
    return [
        Route("/", pages.kiosk),
        Route("/control", pages.control),
        Route("/control/", pages.control_below),
        Route("/still", pages.still),
        Mount("/static", StaticFiles(directory=WEB)),
        Route("/healthz", probes.health),
        Route("/readyz", probes.ready),
        Route("/metrics", probes.exposition),
        Route("/frames/{run}/{step}", pictures.frame),
        Route("/assets/{action_id}/{set_id}/{file}", pictures.asset),
        Route("/api/state", api.state),
        Route("/api/cues", api.cues),
        Route("/api/asrun", api.as_run),
        Route("/api/screen", screen_probe.ask),
        Route("/api/control/{command}", api.control, methods=["POST"]),
        Route("/rehearsal/report.html", reports.page),
        Route("/rehearsal/report.json", reports.data),
        WebSocketRoute("/ws/screen", screens.serve),
        WebSocketRoute("/ws/control", control.serve),
        WebSocketRoute("/ws", older.serve),
    ]


class Pages:
    """The kiosk page with the still image it falls back on, and the technician's page."""

    def __init__(self, show: Show, access: Access) -> None:
        self._show = show
        self._access = access
        self._kiosk = (WEB / "kiosk.html").read_bytes()
        self._control = (WEB / "control.html").read_bytes()

    async def kiosk(self, request: Request) -> Response:
        """`GET /`."""
        del request
        return Response(self._kiosk, media_type="text/html", headers={"cache-control": "no-cache"})

    async def control(self, request: Request) -> Response:
        """`GET /control`."""
        del request
        headers = {"cache-control": "no-cache"}
        return Response(self._control, media_type="text/html", headers=headers)

    async def control_below(self, request: Request) -> Response:
        """`GET /control/`: a slip; the page's own addresses would not be right there."""
        del request
        return Response(status_code=307, headers={"location": "../control"})

    async def still(self, request: Request) -> Response:
        """`GET /still`: the show's own still image.

        Where screens have a token, they are told the image's address with a key in it.
        """
        still = self._show.still
        if still is None:
            raise HTTPException(404)
        locked = self._access.tokens.screen is not None
        if locked and request.query_params.get("key") != self._show.still_key:
            try:
                self._access.may_see(request)
            except AccessDenied as error:
                return _error(error.code, str(error))
        return _picture(request, still.data, still.media_type, "no-cache", _etag(still.data))


class Probes:
    """What machines ask: alive, ready, how much."""

    def __init__(
        self,
        readiness: Readiness,
        preflight: Preflight,
        conditions: Conditions,
        metrics: Metrics,
    ) -> None:
        self._readiness = readiness
        self._preflight = preflight
        self._conditions = conditions
        self._metrics = metrics

    async def health(self, request: Request) -> Response:
        """`GET /healthz`: the loop ticks (it answers), the show moves, and nothing else fails."""
        del request
        failing = [each for each in self._conditions.current() if each.level == "failing"]
        if failing:
            body = {"healthy": False, "reason": failing[0].message}
            return JsonResponse(body, status_code=503)
        return JsonResponse({"healthy": True})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: every coming cue has a rung to stand on, else why not."""
        del request
        # Readiness knows of now; the preflight of a few minutes ago, and of more.
        current = self._conditions.current()
        problems = [
            *self._readiness.problems(),
            *(each.message for each in current if each.blocks_ready),
            *self._preflight.problems(),
        ]
        body = {
            "ready": not problems,
            "reasons": problems,
            "notes": [
                *self._readiness.notes(),
                *(each.message for each in current if not each.blocks_ready),
                *self._preflight.notes(),
            ],
            **self._readiness.coverage(),
        }
        return JsonResponse(body, status_code=503 if problems else 200)

    async def exposition(self, request: Request) -> Response:
        """`GET /metrics`."""
        del request
        return Response(
            self._metrics.expose(), headers={"content-type": self._metrics.content_type}
        )


class ScreenProbe:
    """What a watcher beside a kiosk asks: whether its screen is there, and shows anything."""

    def __init__(self, presence: ScreenPresence, access: Access) -> None:
        self._presence = presence
        self._access = access

    async def ask(self, request: Request) -> Response:
        """`GET /api/screen?name=left`: 200 where it is well, 503 and why where it is not.

        Whoever may be a screen may ask: where screens need a token, with that as the bearer's.
        """
        token = request.headers.get("authorization", "").partition(" ")[2]
        try:
            self._access.check_origin(request)
            try:
                self._access.check_screen(token)
            except AccessDenied:
                self._access.role_of(request)
        except AccessDenied as error:
            return _error(error.code, str(error))
        # As it is cleaned where a screen says it: else one that is well would be taken for another.
        name = one_line(request.query_params.get("name", ""), MAX_NAME)
        if not name:
            return _error("bad_args", "which screen? expected ?name=")
        status = self._presence.one(name)
        body = {"screen": name, "well": not status.trouble, "reason": status.message}
        headers = {"cache-control": "no-store"}
        return JsonResponse(body, status_code=503 if status.trouble else 200, headers=headers)


class Pictures:
    """Frames on stage, and images of sets.

    A frame's address is known to those alone who were told it: its run's token is drawn at
    random. What lies in the store is shown to roles and screens, from what is on this machine:
    nothing is fetched for them, whoever asks and however often, for the line is the show's.
    """

    def __init__(self, stage: Stage, supply: Supply, access: Access) -> None:
        self._stage = stage
        self._supply = supply
        self._access = access
        # A few at a time: the disk and the threads are the show's.
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)

    async def frame(self, request: Request) -> Response:
        """`GET /frames/{run}/{step}`: a frame of the run that is, or just was, on stage."""
        step = whole_number(request.path_params["step"], 1, MAX_STEPS)
        frame = None if step is None else self._stage.frame(request.path_params["run"], step)
        if frame is None:
            raise HTTPException(404)
        return Response(
            bytes(frame.image),
            media_type=frame.header.media_type,
            headers={"cache-control": _FOREVER},
        )

    async def asset(self, request: Request) -> Response:
        """`GET /assets/{action_id}/{set_id}/{file}`, where it is on this machine.

        503 with `Retry-After` for one that is in the store and not here yet.
        """
        try:
            self._access.may_see(request)
        except AccessDenied as error:
            return _error(error.code, str(error))
        params = request.path_params
        action_id, name = params["action_id"], params["file"]
        media_type = media_type_for(name)
        set_id = whole_number(params["set_id"], 0, MAX_SET_ID - 1)
        if media_type is None or set_id is None or not is_action_id(action_id):
            raise HTTPException(404)
        try:
            key = image_key(action_id, set_id, name)
            async with self._reading, asyncio.timeout(_READ_WITHIN):
                data = await self._supply.at_hand(key)
                if data is not None:
                    check_image(data, name)
                    etag = await asyncio.to_thread(_etag, data)
                    return _picture(request, data, media_type, _FOREVER, etag)
        except (BadKey, BadImage):
            raise HTTPException(404) from None
        except (StoreError, TimeoutError):
            return _not_here("the store cannot be read")
        if self._supply.is_here or set_id not in self._supply.library.set_ids(action_id):
            raise HTTPException(404)
        return _not_here("it is in the store, and not on this machine yet")


def _not_here(reason: str) -> Response:
    return Response(
        f"{reason}\n", 503, media_type="text/plain", headers={"retry-after": _RETRY_AFTER}
    )


class _Encode(Protocol):
    def __call__(self, rows: Sequence[Row], *, first: bool, last: bool) -> str: ...


class Api:
    """The state, and commands, for those who may."""

    def __init__(
        self, view: StateView, dispatcher: Dispatcher, asrun: AsRun, access: Access
    ) -> None:
        self._view = view
        self._dispatcher = dispatcher
        self._asrun = asrun
        self._access = access
        # One piece at a time: the threads are there for the show's own pictures.
        self._encoding = asyncio.Semaphore(1)

    async def state(self, request: Request) -> Response:
        """`GET /api/state`."""
        return await self._for_readers(request, self._state)

    async def cues(self, request: Request) -> Response:
        """`GET /api/cues`."""
        return await self._for_readers(request, self._cues)

    async def as_run(self, request: Request) -> Response:
        """`GET /api/asrun?format=json|csv&limit=N&since=UNIX`."""
        return await self._for_readers(request, self._as_run)

    async def control(self, request: Request) -> Response:
        """`POST /api/control/{command}` with the arguments as a JSON object.

        Beside them may stand `id`, `ttl` and `sent_at`, which no command takes as an argument.
        """
        try:
            role = self._access.role_of(request)
            command = request.path_params["command"]
            pressed, body = _button_in(request, command), await _json_body(request)
            if not isinstance(body, dict):
                pressed, body = button(body), {}
            if pressed == "released":
                return JsonResponse({"ok": True, "result": RELEASED})
            args, envelope = _opened(body)
            client = request.client.host if request.client else "?"
            caller = Caller(role, f"http {client} ({role})")
            result = await self._dispatcher.dispatch(command, args, caller, envelope)
        except (AccessDenied, CommandError) as error:
            return _error(error.code, str(error))
        return JsonResponse({"ok": True, "result": result})

    async def _for_readers(
        self, request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        try:
            self._access.role_of(request)
            return await answer(request)
        except (AccessDenied, CommandError) as error:
            return _error(error.code, str(error))

    async def _state(self, request: Request) -> Response:
        del request
        return JsonResponse(self._view.state())

    async def _cues(self, request: Request) -> Response:
        del request
        count = len(self._view.show.sheet.cues)
        return JsonResponse({"cues": [self._view.cue(index) for index in range(count)]})

    async def _as_run(self, request: Request) -> Response:
        query = request.query_params
        limit = whole_number(query.get("limit", "1000"), 0, _MOST_ROWS)
        if limit is None:
            raise CommandError("bad_args", f"limit: expected a number, {_MOST_ROWS} at most")
        since = real(query["since"]) if "since" in query else None
        if since is None and "since" in query:
            raise CommandError("bad_args", "since: expected seconds of Unix time")
        kind = query.get("format", "json")
        if kind not in {"json", "csv"}:
            raise CommandError("bad_args", f"format: expected json or csv, not {kind!r:.20}")
        rows = await self._asrun.rows(limit=limit, since=since)
        if kind == "csv":
            name = {"content-disposition": 'attachment; filename="asrun.csv"'}
            return StreamingResponse(
                self._in_pieces(rows, csv_piece), headers=name, media_type="text/csv"
            )
        return StreamingResponse(self._in_pieces(rows, json_piece), media_type="application/json")

    async def _in_pieces(self, rows: Sequence[Row], encode: _Encode) -> AsyncIterator[str]:
        """A long answer in pieces, made in a thread: a year of runs must not hold up a frame."""
        starts = range(0, max(1, len(rows)), _ROWS_AT_ONCE)
        for start in starts:
            piece = rows[start : start + _ROWS_AT_ONCE]
            first, last = start == 0, start == starts[-1]
            async with self._encoding:
                text = await asyncio.to_thread(encode, piece, first=first, last=last)
            yield text


class ReportLinks:
    """The newest report of a rehearsal, for those who may read the state.

    A link carries no token; so the state, which only those are told, has an address with a key
    that opens this one report, until there is another.
    """

    def __init__(self, desk: RehearsalDesk, access: Access) -> None:
        self._desk = desk
        self._access = access

    async def page(self, request: Request) -> Response:
        """`GET /rehearsal/report.html`."""
        headers = {"content-security-policy": _REPORT_POLICY}
        return await self._file(request, "report.html", "text/html", headers)

    async def data(self, request: Request) -> Response:
        """`GET /rehearsal/report.json`."""
        return await self._file(request, "report.json", "application/json", {})

    async def _file(
        self,
        request: Request,
        file: Literal["report.html", "report.json"],
        media_type: str,
        headers: Mapping[str, str],
    ) -> Response:
        try:
            if self._desk.opens(request.query_params.get("key")):
                self._access.check_origin(request)
            else:
                self._access.role_of(request)
        except AccessDenied as error:
            return _error(error.code, str(error))
        data = await self._desk.read(file)
        if data is None:
            return _error("no_report", "nothing has been rehearsed from here yet")
        return Response(
            data, media_type=media_type, headers={**headers, "cache-control": "no-store"}
        )


def _opened(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Envelope]:
    """Arguments and envelope of a command's body, apart."""
    args = dict(body)
    command_id, ttl, sent_at = (
        args.pop("id", None),
        args.pop("ttl", None),
        args.pop("sent_at", None),
    )
    if isinstance(command_id, bool) or not isinstance(command_id, (str, int, type(None))):
        raise CommandError("bad_args", "id: expected a text or a number")
    if isinstance(command_id, str) and len(command_id) > MAX_ID:
        raise CommandError("bad_args", f"id: expected {MAX_ID} characters at most")
    for name, value in (("ttl", ttl), ("sent_at", sent_at)):
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise CommandError("bad_args", f"{name}: expected a number of seconds")
    return args, Envelope(None if command_id is None else str(command_id), ttl, sent_at)


def _error(code: str, message: str) -> Response:
    body = {"ok": False, "error": {"code": code, "message": message}}
    return JsonResponse(body, status_code=_STATUS.get(code, 409))


def _button_in(request: Request, command: str) -> Button | None:
    """What the query says of a button, as in `POST …/panic?1`.

    Raises:
        CommandError: `bad_args`, where it holds an argument: without it, another cue would go.
    """
    for name, _ in request.query_params.multi_items():
        if name in ARGUMENTS.get(command, ()):
            example = json_text({name: "…"}, place="http")
            raise CommandError("bad_args", f"{name}: expected in the body, as JSON: {example}")
    return button(request.url.query)


async def _json_body(request: Request) -> dict[str, Any] | float:
    """The arguments, or the number that a button sent.

    Raises:
        CommandError: `bad_args`: it is neither, or too long.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise CommandError("bad_args", f"a command may have {MAX_BODY} bytes")
    if not body:
        return {}
    try:
        args = decode_message(body)
    except Unfit as error:
        raise CommandError(
            "bad_args", f"expected the arguments as a JSON object: {error}"
        ) from None
    if not isinstance(args, (dict, int, float)):  # a truth value is a number, too
        raise CommandError("bad_args", "expected the arguments as a JSON object")
    return args


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _picture(
    request: Request, data: bytes, media_type: str, cache_control: str, etag: str
) -> Response:
    headers = {"etag": etag, "cache-control": cache_control}
    asked = {
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    }
    if etag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
