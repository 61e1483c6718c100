"""The engine worker: any engine over HTTP, for a GPU box, a cloud function or a child process.

`POST /generate` streams a drawing as server-sent events, `POST /action-sets` draws one whole
set straight into the store, `GET /health` proves itself with a real small generation. One
drawing at a time; the others wait their turn and hear a heartbeat meanwhile. A request that
is closed cancels its drawing within a step.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache.encoding import json_text
from cache.model.documents import FormatError
from cache.model.formats import dump_meta
from cache.stores.port import Conflict, SharedStore, Store, StoreError, StoreUnavailable
from cache.untrusted import Unfit, fit_json
from generator.answers import JsonResponse
from generator.engines.port import (
    Engine,
    EngineError,
    EnginePoisoned,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    draw_for_nobody,
)
from generator.engines.remote.protocol import SetRequest
from generator.sets.numbers import NumberTaken
from generator.sets.recorder import PlannedSet, Recorder, found_set, recipe_of_set
from generator.sheet.recipe import Recipe
from generator.sse import EventStream, sse_event, unless_hung_up, with_heartbeat

_log = structlog.get_logger(__name__)

HEARTBEAT = 4.0
"""Seconds of silence after which a comment is sent; the protocol promises one every 5 s."""

MAX_BODY = 64 * 2**20
"""Bytes a request may have: a recipe carries its base image."""

HEALTH_WITHIN = 60.0
"""Seconds the small generation of `/health` may take, its wait in the queue included."""

_QUEUE = 32


def error_code(error: EngineError) -> tuple[str, bool]:
    """The stable word for an engine's error, and whether another try may help."""
    if isinstance(error, RecipeRefused):
        return "refused", False
    code = "unavailable" if isinstance(error, EngineUnavailable) else "failed"
    return code, True


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return sse_event(name, json_text(data, place="worker"))


def step_event(image: StepImage) -> bytes:
    """The `step` or `final` event of an image."""
    data: dict[str, Any] = {
        "duration": image.duration,
        "media_type": image.media_type,
        "image": base64.b64encode(image.image).decode(),
    }
    if image.final:
        return event("final", data)
    return event("step", {"step": image.step, "timestep": image.timestep, **data})


def started_event(image: StepImage, queued: float) -> bytes:
    """The `started` event of a drawing.

    Args:
        image: its first.
        queued: seconds that it waited for its turn.
    """
    data: dict[str, Any] = {"steps": image.steps, "waited": round(queued + image.waited, 6)}
    if image.latency is not None:
        data["latency"] = image.latency
    return event("started", data)


class RequestRefused(Exception):
    """A request that is answered with an error: its status, its code, and what to say."""

    def __init__(self, status: int, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"code": code, "message": message, "retryable": retryable}


class WorkerBusy(RequestRefused):
    """So many drawings wait already that another would not begin in useful time."""

    def __init__(self) -> None:
        super().__init__(503, "busy", "too many drawings wait already", retryable=True)


@dataclass
class Queue:
    """One drawing at a time, in the order they came."""

    limit: int = _QUEUE
    waiting: int = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn and keep it.

        Raises:
            WorkerBusy: too many wait already.
        """
        if self.waiting >= self.limit:
            raise WorkerBusy
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turn.release()


@dataclass(eq=False)
class Worker:
    """Serves one engine.

    Args:
        engine: what draws.
        store: where `/action-sets` keeps what it drew; None refuses them.
        token: what callers must bring; None lets everybody in, so listen on loopback alone.
        probe: the recipe that `/health` draws.
        heartbeat: seconds of silence after which a comment is sent.
        poisoned: called when the engine can never draw again in this process.
    """

    engine: Engine
    _: KW_ONLY
    probe: Recipe
    store: Store | None = None
    token: SecretStr | None = None
    heartbeat: float = HEARTBEAT
    poisoned: Callable[[EngineError], None] = lambda _error: None
    _queue: Queue = field(default_factory=Queue, init=False)

    def app(self) -> Starlette:
        """The worker as an ASGI application; it opens and closes its store."""

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            async with self.store or nullcontext():
                yield

        return Starlette(
            lifespan=lifespan,
            routes=[
                Route("/generate", self._guarded(self.generate), methods=["POST"]),
                Route("/action-sets", self._guarded(self.action_set), methods=["POST"]),
                Route("/health", self._guarded(self.health)),
            ],
        )

    # ------------------------------------------------------------ the three requests

    async def generate(self, request: Request) -> Response:
        """`POST /generate`: a recipe in, events out."""
        recipe = await _read(Recipe, request)
        if self._queue.waiting >= self._queue.limit:
            raise WorkerBusy
        return EventStream(with_heartbeat(self._events(recipe), self.heartbeat))

    async def action_set(self, request: Request) -> Response:
        """`POST /action-sets`: draw one set into the store; the same request again only looks."""
        asked = await _read(SetRequest, request)
        if self.store is None:
            raise RequestRefused(409, "no_store", "this worker was given no store")
        if asked.store not in {None, self._address}:
            where = self._address or "in a folder of its own"
            text = f"this worker keeps its sets elsewhere: {where}"
            raise RequestRefused(409, "other_store", text)
        try:
            answer = await unless_hung_up(request.receive, self._record(self.store, asked))
        except EngineError as error:
            code, retryable = error_code(error)
            self._tell_if_poisoned(error)
            status = 502 if retryable else 422
            raise RequestRefused(status, code, str(error), retryable=retryable) from error
        except NumberTaken as error:
            raise RequestRefused(409, "number_taken", str(error)) from error
        except (StoreError, FormatError) as error:
            passing = isinstance(error, StoreUnavailable | Conflict)
            raise RequestRefused(507, "store", str(error), retryable=passing) from error
        return answer or Response(status_code=499)  # nobody hears it

    async def health(self, request: Request) -> Response:
        """`GET /health`: draws something small, for only that proves that it can draw."""
        del request
        begun = time.monotonic()
        try:
            async with asyncio.timeout(HEALTH_WITHIN), self._queue.turn():
                await draw_for_nobody(self.engine, self.probe)
        except TimeoutError:
            text = f"no picture in {HEALTH_WITHIN:g} s"
            raise RequestRefused(503, "slow", text, retryable=True) from None
        except EngineError as error:
            self._tell_if_poisoned(error)
            code, retryable = error_code(error)
            raise RequestRefused(503, code, str(error), retryable=retryable) from error
        return JsonResponse(
            {
                "healthy": True,
                "engine": self.engine.name,
                "seconds": round(time.monotonic() - begun, 3),
                "waiting": self._queue.waiting,
                "store": self._address,
            }
        )

    # ------------------------------------------------------------

    @property
    def _address(self) -> str | None:
        """Where its store is, for other machines; None where it means nothing to them."""
        return self.store.address if isinstance(self.store, SharedStore) else None

    async def _record(self, store: Store, asked: SetRequest) -> Response:
        recipe = recipe_of_set(asked.recipe, asked.set_id)
        planned = PlannedSet(asked.action_id, asked.set_id, recipe, asked.description)
        async with self._queue.turn():
            meta = await found_set(store, planned)
            if meta is None:
                meta = await Recorder(self.engine, store).record_planned(planned)
            return Response(dump_meta(meta), media_type="application/json")

    async def _events(self, recipe: Recipe) -> AsyncGenerator[bytes, None]:
        """The drawing as events; the last is always `done` or `error`."""
        try:
            asked = time.monotonic()
            async with self._queue.turn():
                queued = time.monotonic() - asked
                async with self.engine.render(recipe) as images:
                    started = False
                    async for image in images:
                        if not started:
                            yield started_event(image, queued)
                            started = True
                        yield step_event(image)
            engine = self.engine
            done = {"seed": recipe.seed, "engine": engine.name, "timing": engine.timing}
            yield event("done", done)
        except EngineError as error:
            code, retryable = error_code(error)
            _log.warning("drawing_failed", code=code, reason=str(error))
            yield event("error", {"code": code, "message": str(error), "retryable": retryable})
            self._tell_if_poisoned(error)
        except WorkerBusy as error:
            yield event("error", error.error)

    def _tell_if_poisoned(self, error: EngineError) -> None:
        if isinstance(error, EnginePoisoned):
            self.poisoned(error)

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                self._admit(request)
                return await answer(request)
            except RequestRefused as refused:
                return JsonResponse({"error": refused.error}, status_code=refused.status)

        return guarded

    def _admit(self, request: Request) -> None:
        refusal = _from_a_page(request, open_to_all=self.token is None)
        if refusal is not None:
            raise RequestRefused(403, "forbidden", refusal)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise RequestRefused(415, "not_json", "expected Content-Type: application/json")
        if self.token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            expected = self.token.get_secret_value().encode()
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), expected):
                raise RequestRefused(401, "unauthorized", "a bearer token is needed")


def _from_a_page(request: Request, *, open_to_all: bool) -> str | None:
    """Why a request is a web page's, which has no business here; None if it is not.

    Any page that is open in a browser on this machine, or whose name resolves to it, could have
    pictures drawn and sets kept where no token is asked for.
    """
    if request.headers.get("origin") is not None:
        return "web pages may not ask a worker"
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return "web pages may not ask a worker"
    if open_to_all and not _is_loopback(request.headers.get("host", "")):
        return "without a token this worker answers to its loopback name only: 127.0.0.1"
    return None


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


_Model = TypeVar("_Model", bound=BaseModel)


async def _read(model: type[_Model], request: Request) -> _Model:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RequestRefused(413, "too_large", f"a request may have {MAX_BODY} bytes")
    try:
        return model.model_validate_json(fit_json(bytes(body)))
    except Unfit as error:
        raise RequestRefused(422, "invalid", f"body: {error}") from error
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'body'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise RequestRefused(422, "invalid", places[:2000]) from error
