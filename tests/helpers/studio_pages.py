"""A Studio that follows a script, for its page: what happens in it, a test says."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.network.responses import PageFiles, SafeHeaders
from server.studio import pages
from tests.helpers.pictures import picture
from tests.helpers.servers import Address, listening

Document = dict[str, Any]

STEPS = 5
ENDED = {"completed", "failed", "cancelled"}
_PATIENCE = 10.0


def paint(take: str, step: int | None) -> bytes:
    """The picture of a step, or the final one: of one size, told apart by pixels."""
    return picture(f"{take} {'final' if step is None else step}")


@dataclass
class ScriptedStudio:
    """What it has, and what it was asked.

    Attributes:
        token: that it wants; None: whoever comes is the artist.
        painter: what draws the pictures that it gives.
        asked: each request that changes something, as method, path, body and idempotency key.
        served: the names of the pictures that it gave.
        estimates: how often an estimate was asked for.
        refuse: the error that the next request which changes something is answered with.
        away: whether it lets no socket in.
        broken: takes of which there is no picture.
    """

    token: str | None = None
    role: str = "artist"
    painter: Callable[[str, int | None], bytes] = paint
    width: int = 160
    height: int = 96
    jobs: dict[str, Document] = field(default_factory=dict)
    asked: list[tuple[str, str, Any, str | None]] = field(default_factory=list)
    estimates: int = 0
    served: list[str] = field(default_factory=list)
    refuse: Document | None = None
    away: bool = False
    broken: set[str] = field(default_factory=set)
    paused: Document | None = None
    slots: list[Document] = field(
        default_factory=lambda: [{"engine": "sketch", "working_on": None, "rests": None}]
    )
    stats: Document = field(
        default_factory=lambda: {
            "hours": 24,
            "jobs": {"completed": 118, "failed": 2},
            "pictures": 412,
            "success_rate": 0.983,
            "p50_seconds": 4.1,
            "p95_seconds": 7.4,
            "cost": 0.84,
            "currency": "EUR",
        }
    )
    _events: list[Document] = field(default_factory=list)
    _sockets: set[WebSocket] = field(default_factory=set)
    _keys: dict[str, str] = field(default_factory=dict)
    _clock: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _loop: asyncio.AbstractEventLoop | None = None
    _wants_to_stop: asyncio.Event = field(default_factory=asyncio.Event)

    # ------------------------------------------------------------ what a test says

    def add(
        self,
        prompt: str,
        *,
        n: int = 4,
        program: str = "P0",
        style: str = "",
        speed: str = "full",
        seed: int = 1000,
        quiet: bool = False,
    ) -> Document:
        """Somebody asks for pictures."""
        number = next(self._clock)
        job: Document = {
            "id": str(uuid.UUID(int=number)),
            "kind": "draw",
            "status": "queued",
            "progress": 0.0,
            "eta_seconds": None,
            "priority": 5,
            "partial": False,
            "items": [
                {
                    "n": each,
                    "status": "queued",
                    "seed": seed + each,
                    "take": str(uuid.uuid5(uuid.UUID(int=number), str(each))),
                    "engine": None,
                    "error": None,
                    "url": None,
                    "thumb": None,
                }
                for each in range(n)
            ],
            "cost": {"amount": None, "currency": "EUR"},
            "error": None,
            "created_at": time.time(),
            "started_at": None,
            "completed_at": None,
            "request": {"prompt": prompt, "program": program, "style": style, "speed": speed},
            "width": self.width,
            "height": self.height,
            "order": number,
        }
        job["job_id"] = job["id"]
        self.jobs[job["id"]] = job
        if not quiet:
            self.tell("job.queued", job)
        return job

    def start(self, job: Document, n: int = 0, *, engine: str = "sketch") -> None:
        """A picture of it is begun."""
        if job["status"] == "queued":
            job.update(status="processing", started_at=time.time(), error=None)
            self.tell("job.started", job)
        job["items"][n].update(status="running", engine=engine)
        self.slots[0]["working_on"] = {"job": job["id"], "n": n, "progress": 0.0}
        self.tell("item.running", job)

    def step(self, job: Document, n: int, step: int, *, steps: int = STEPS) -> None:
        """A step of a picture is there."""
        take = job["items"][n]["take"]
        url = f"/takes/{take}/{step}.jpg"
        told = {"type": "step", "job": job["id"], "n": n, "take": take, "step": step}
        self._send({**told, "steps": steps, "url": url})

    def ready(self, job: Document, n: int) -> None:
        """A picture is finished."""
        item = job["items"][n]
        path = f"/takes/{item['take']}"
        item.update(status="ready", url=f"{path}/final.jpg?seal=1", thumb=f"{path}/thumb?seal=1")
        self.tell("item.ready", job)
        self._settle(job)

    def fail(self, job: Document, n: int, message: str, code: str = "internal") -> None:
        """A picture fails."""
        job["items"][n].update(status="failed", error={"code": code, "message": message})
        self.tell("item.failed", job)
        self._settle(job)

    def finish(self, job: Document) -> None:
        """All of its pictures are drawn, with no step told."""
        for item in job["items"]:
            self.start(job, item["n"])
            self.ready(job, item["n"])

    def tell(self, event: str, job: Document) -> None:
        """Something happened to a job."""
        happened = {"type": "event", "id": len(self._events) + 1, "event": event}
        self._events.append({**happened, "job": job["id"], "at": time.time(), "data": {}})
        self._send(self._events[-1])

    def pause(self, code: str, message: str) -> None:
        """The queue stands still."""
        self.paused = {"code": code, "message": message, "by": None}
        self._send({"type": "queue", **self.queue()})

    def cut(self) -> None:
        """Every socket is lost."""

        async def close() -> None:
            for socket in list(self._sockets):
                with suppress(RuntimeError):
                    await socket.close(1012)

        self._run(close())

    def queue(self) -> Document:
        """The queue as a whole."""
        counts = {
            status: sum(job["status"] == status for job in list(self.jobs.values()))
            for status in ("queued", "processing")
        }
        return {
            "paused": self.paused,
            "slots": self.slots,
            "waiting": counts["queued"],
            "running": counts["processing"],
        }

    def requests(self, method: str, path: str) -> list[Any]:
        """The bodies of what was asked for."""
        return [body for asked, at, body, _ in self.asked if asked == method and path in at]

    # ------------------------------------------------------------ what it answers

    def document(self, job: Document, waiting: list[Document] | None = None) -> Document:
        """A job as it is answered; `waiting` is the queue, where it has been looked at."""
        items = job["items"]
        done, failed = (sum(i["status"] == s for i in items) for s in ("ready", "failed"))
        if job["status"] != "queued":
            position = None
        else:
            position = (self._waiting() if waiting is None else waiting).index(job) + 1
        return {
            **{name: value for name, value in job.items() if name != "order"},
            "total": len(items),
            "done": done,
            "failed": failed,
            "partial": job["status"] == "completed" and failed > 0,
            "position": position,
        }

    def _waiting(self) -> list[Document]:
        queued = (job for job in list(self.jobs.values()) if job["status"] == "queued")
        return sorted(queued, key=lambda job: job["order"])

    def _settle(self, job: Document) -> None:
        states = [item["status"] for item in job["items"]]
        if any(state in {"queued", "running"} for state in states):
            return
        ready = "ready" in states
        self.slots[0]["working_on"] = None
        job.update(
            status="completed" if ready else "failed",
            completed_at=time.time(),
            error=None if ready else next(item["error"] for item in job["items"]),
            cost={"amount": 0.0125 * states.count("ready"), "currency": "EUR"},
        )
        self.tell(f"job.{job['status']}", job)

    def _member(self) -> Document:
        return {"id": "artist", "name": "Maria", "role": self.role}

    def _allowed(self, token: str | None) -> bool:
        return self.token is None or token == self.token

    def _send(self, message: Document) -> None:
        text = json.dumps(message)

        async def send() -> None:
            for socket in list(self._sockets):
                with suppress(RuntimeError, WebSocketDisconnect):
                    await socket.send_text(text)

        if self._loop is not None:
            self._run(send())

    def _run(self, work: Any) -> None:
        assert self._loop is not None
        if self._loop is _running_loop():
            task = self._loop.create_task(work)
            task.add_done_callback(lambda done: done.exception())
            return
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _socket(self, socket: WebSocket) -> None:
        if self.away:
            await socket.close(1012)
            return
        await socket.accept()
        hello = await socket.receive_json()
        if not self._allowed(hello.get("token")):
            message = "a token is needed"
            await socket.send_json({"type": "error", "code": "unauthorized", "message": message})
            await socket.close(1008)
            return
        last = len(self._events)
        await socket.send_json({"type": "welcome", "member": self._member(), "last_event": last})
        for event in self._events[hello.get("after", last) :]:
            await socket.send_json(event)
        self._sockets.add(socket)
        try:
            while True:
                asked = await socket.receive_json()
                await socket.send_json({"type": "sync", "t0": asked["t0"], "t1": 0.0, "t2": 0.0})
        except WebSocketDisconnect:
            pass
        finally:
            self._sockets.discard(socket)

    async def _get(self, request: Request) -> Response:
        path, query = request.url.path, request.query_params
        if path == "/api/queue":
            return JSONResponse(self.queue())
        if path == "/api/stats":
            return JSONResponse(self.stats)
        if path == "/api/styles":
            watercolour = {"name": "Watercolor", "words": "soft watercolor painting"}
            return JSONResponse({"styles": [watercolour, {"name": "Line Art", "words": "ink"}]})
        if path == "/api/programs":
            size = {"width": self.width, "height": self.height, "steps": STEPS}
            offered = [("P0", True), ("P2", False)]
            programs = [
                {"name": name, "fast": fast, "image_to_image": False, **size}
                for name, fast in offered
            ]
            return JSONResponse({"programs": programs})
        if path != "/api/jobs":
            return JSONResponse(self.document(self.jobs[request.path_params["id"]]))
        wanted = set(query["status"].split(","))
        found = [job for job in list(self.jobs.values()) if job["status"] in wanted]
        found.sort(key=lambda job: -job["order"])
        if wanted == {"queued"}:
            found = self._waiting()
        if "before" in query:
            found = found[[job["id"] for job in found].index(query["before"]) + 1 :]
        shown = found[: int(query["limit"])]
        waiting = self._waiting()
        return JSONResponse({"jobs": [self.document(job, waiting) for job in shown]})

    async def _change(self, request: Request) -> Response:
        raw = await request.body()
        body: Document = json.loads(raw) if raw else {}
        path = request.url.path
        if path == "/api/estimate":
            self.estimates += 1
            cost = {"amount": 0.0125 * body["n"], "currency": "EUR"}
            return JSONResponse({"pictures": body["n"], "seconds": 10.0 * body["n"], "cost": cost})
        key = request.headers.get("idempotency-key")
        self.asked.append((request.method, path, body, key))
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            return JSONResponse({"ok": False, "error": error}, 400)
        if path == "/api/jobs":
            return self._accept(body, key)
        if path.startswith("/api/queue/"):
            by_hand = {"code": "by_hand", "message": "somebody paused it", "by": "Maria"}
            self.paused = by_hand if path.endswith("pause") else None
            self._send({"type": "queue", **self.queue()})
            return JSONResponse(self.queue())
        job = self.jobs[request.path_params["id"]]
        if request.method == "DELETE":
            self._cancel(job)
        elif path.endswith("/retry"):
            self._retry(job, body.get("items"))
        else:
            self._move(job, body)
        return JSONResponse(self.document(job))

    def _accept(self, body: Document, key: str | None) -> Response:
        if key in self._keys:
            return JSONResponse(self.document(self.jobs[self._keys[key]]))
        wanted = {
            name: body[name] for name in ("program", "style", "speed", "seed") if name in body
        }
        job = self.add(body["prompt"], n=body["n"], **wanted)
        if key is not None:
            self._keys[key] = job["id"]
        return JSONResponse(self.document(job), 202)

    def _cancel(self, job: Document) -> None:
        job.update(status="cancelled", completed_at=time.time())
        for item in job["items"]:
            if item["status"] in {"queued", "running"}:
                item["status"] = "cancelled"
        self.tell("job.cancelled", job)

    def _retry(self, job: Document, again: list[int] | None) -> None:
        for item in job["items"]:
            over = item["status"] in {"failed", "cancelled"}
            if over and (again is None or item["n"] in again):
                item.update(status="queued", error=None)
        job.update(status="queued", completed_at=None, error=None)
        self.tell("job.queued", job)

    def _move(self, job: Document, body: Document) -> None:
        orders = [each["order"] for each in self._waiting()]
        if body.get("to") == "first":
            job["order"] = min(orders) - 1
        elif body.get("to") == "last":
            job["order"] = max(orders) + 1
        elif "before" in body:
            job["order"] = self.jobs[body["before"]]["order"] - 0.5
        self.tell("job.queued", job)

    async def _picture(self, request: Request) -> Response:
        take, name = request.path_params["take"], request.path_params["name"]
        self.served.append(name)
        sealed = "seal" in request.query_params
        if not sealed and not self._allowed(_token_of(request)):
            return JSONResponse({"ok": False}, 401)
        if take in self.broken:
            return JSONResponse({"ok": False}, 404)
        stem = name.partition(".")[0]
        data = await asyncio.to_thread(self.painter, take, int(stem) if stem.isdecimal() else None)
        return Response(data, media_type="image/jpeg")

    async def _door(self, request: Request) -> Response:
        if not self._allowed(_token_of(request)):
            error = {"code": "unauthorized", "message": "a token is needed"}
            return JSONResponse({"ok": False, "error": error}, 401)
        return await (self._get(request) if request.method == "GET" else self._change(request))

    def app(self) -> Starlette:
        """It, as an application."""
        methods = ["GET", "POST", "DELETE"]
        return Starlette(
            routes=[
                Route("/", pages.studio),
                Route("/studio/", pages.studio_below),
                Mount("/static", PageFiles(directory=pages.STATIC)),
                Route("/api/{what}", self._door, methods=methods),
                Route("/api/jobs/{id}", self._door, methods=methods),
                Route("/api/jobs/{id}/{deed}", self._door, methods=methods),
                Route("/api/queue/{deed}", self._door, methods=methods),
                Route("/takes/{take}/{name}", self._picture),
                WebSocketRoute("/ws/studio", self._socket),
            ],
            middleware=[Middleware(SafeHeaders)],
        )

    async def serve(self, begun: Callable[[int], None]) -> None:
        """Serve until `stop`; `begun` is told the port."""
        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            self.app(), ws="websockets-sansio", log_config=None, timeout_graceful_shutdown=1
        )
        async with listening(config) as port:
            begun(port)
            await self._wants_to_stop.wait()
        self._loop = None

    def stop(self) -> None:
        """Serve no longer."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._wants_to_stop.set)


def _token_of(request: Request) -> str | None:
    return request.headers.get("authorization", "").removeprefix("Bearer ") or None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@contextmanager
def scripted_studio(studio: ScriptedStudio) -> Iterator[Address]:
    """Serve it in a thread of its own: who drives a browser step by step has no loop."""
    ports: list[int] = []
    listens = threading.Event()

    def begun(port: int) -> None:
        ports.append(port)
        listens.set()

    thread = threading.Thread(target=lambda: asyncio.run(studio.serve(begun)))
    thread.start()
    try:
        assert listens.wait(_PATIENCE), "the scripted Studio does not listen"
        yield Address(ports[0])
    finally:
        studio.stop()
        thread.join(_PATIENCE)
