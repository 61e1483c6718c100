"""The engine worker: any engine over HTTP, for a GPU box, a cloud function or a child process.

`POST /generate` streams a drawing as server-sent events, `POST /action-sets` draws one whole
set straight into the store, `GET /health` proves itself with a real small generation, or with a
step that was just drawn for somebody. One drawing at a time; the others wait their turn and hear
a heartbeat meanwhile. What is asked for the show goes first: see `generator/worker_queue.py`. A
request that is closed cancels its drawing within a step.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import structlog
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cache.encoding import json_text
from cache.model.documents import FormatError
from cache.model.formats import SetMeta, dump_meta
from cache.stores.port import Conflict, SharedStore, Store, StoreError, StoreUnavailable
from cache.tasks import cancel_and_wait, first_of
from cache.untrusted import Unfit, fit_json
from generator.answers import JsonResponse
from generator.engines.port import (
    Engine,
    EngineError,
    EnginePoisoned,
    EnginePreempted,
    EngineUnavailable,
    Priority,
    RecipeRefused,
    StepImage,
    draw_for_nobody,
)
from generator.engines.remote.protocol import PRIORITY_HEADER, SetRequest
from generator.observed_engine import ObservedEngine
from generator.sets.numbers import NumberTaken
from generator.sets.recorder import PlannedSet, Recorder, found_set, recipe_of_set
from generator.sheet.recipe import Recipe
from generator.worker_queue import EngineTurn, Queue, QueueIsFull

_log = structlog.get_logger(__name__)

HEARTBEAT = 4.0
"""Seconds of silence after which a comment is sent; the protocol promises one every 5 s."""

MAX_BODY = 64 * 2**20
"""Bytes a request may have: a recipe carries its base image."""

HEALTH_WITHIN = 60.0
"""Seconds the small generation of `/health` may take, its wait in the queue included."""

_AHEAD: Final = 2
"""Pictures that a drawing may be ahead of who reads them."""


def error_code(error: EngineError) -> tuple[str, bool]:
    """The stable word for an engine's error, and whether another try may help."""
    if isinstance(error, RecipeRefused):
        return "refused", False
    if isinstance(error, EnginePreempted):
        return "preempted", True
    code = "unavailable" if isinstance(error, EngineUnavailable) else "failed"
    return code, True


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json_text(data, place='worker')}\n\n".encode()


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


def _error_event(error: EngineError) -> bytes:
    code, retryable = error_code(error)
    return event("error", {"code": code, "message": str(error), "retryable": retryable})


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
        now: steady seconds.
    """

    engine: Engine
    _: KW_ONLY
    probe: Recipe
    store: Store | None = None
    token: SecretStr | None = None
    heartbeat: float = HEARTBEAT
    poisoned: Callable[[EngineError], None] = lambda _error: None
    now: Callable[[], float] = time.monotonic
    _queue: Queue = field(default_factory=Queue, init=False)
    _observed: ObservedEngine = field(init=False)

    def __post_init__(self) -> None:
        self._observed = ObservedEngine(self.engine, self.now)

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
        turn = EngineTurn(_priority_of(request))
        try:
            self._queue.check_room(turn.priority)
        except QueueIsFull:
            raise WorkerBusy from None
        return _Stream(self._events(recipe, turn))

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
            recording = self._record(self.store, asked, EngineTurn(_priority_of(request)))
            answer = await _unless_hung_up(request.receive, recording)
        except QueueIsFull:
            raise WorkerBusy from None
        except EnginePreempted as error:
            _log.info("drawing_preempted", action=asked.action_id, set=asked.set_id)
            raise RequestRefused(503, "preempted", str(error), retryable=True) from error
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
        """`GET /health`: draws something small, for only a picture proves that it can draw.

        A step that was drawn for somebody else just now is one, too: who waits behind a long
        drawing is not to believe that nothing comes.
        """
        del request
        begun = self.now()
        try:
            async with asyncio.timeout(HEALTH_WITHIN):
                proof = await self._proof()
        except TimeoutError:
            text = f"no picture in {HEALTH_WITHIN:g} s"
            raise RequestRefused(503, "slow", text, retryable=True) from None
        except QueueIsFull:
            raise WorkerBusy from None
        except EngineError as error:
            self._tell_if_poisoned(error)
            code, retryable = error_code(error)
            raise RequestRefused(503, code, str(error), retryable=retryable) from error
        return JsonResponse(
            {
                "healthy": True,
                "engine": self.engine.name,
                "proof": proof,
                "seconds": round(self.now() - begun, 3),
                "waiting": self._queue.waiting,
                "store": self._address,
            }
        )

    # ------------------------------------------------------------

    @property
    def _address(self) -> str | None:
        """Where its store is, for other machines; None where it means nothing to them."""
        return self.store.address if isinstance(self.store, SharedStore) else None

    async def _proof(self) -> Literal["drawing", "drawn"]:
        """That it draws: for others, or a picture of its own; whichever is known first.

        Raises:
            QueueIsFull: neither can be known soon.
            EngineError: it does not.
        """
        while not self._observed.is_proven:
            proving = asyncio.create_task(self._draw_probe(), name="probe")
            try:
                await first_of(asyncio.wait([proving]), self._observed.next_step())
                if proving.done():
                    proving.result()
                    return "drawn"
            except EnginePreempted:
                pass  # what the show draws now will be the proof
            finally:
                await cancel_and_wait(proving)
        return "drawing"

    async def _draw_probe(self) -> None:
        turn = EngineTurn()
        async with self._queue.given_to(turn):
            await turn.unless_overtaken(draw_for_nobody(self.engine, self.probe))

    async def _record(self, store: Store, asked: SetRequest, turn: EngineTurn) -> Response:
        """Draw a set and keep it; overtaken, it leaves no set, as whatever interrupts it."""
        recipe = recipe_of_set(asked.recipe, asked.set_id)
        planned = PlannedSet(asked.action_id, asked.set_id, recipe, asked.description)

        async def found_or_drawn() -> SetMeta:
            meta = await found_set(store, planned)
            return meta or await Recorder(self._observed, store).record_planned(planned)

        async with self._queue.given_to(turn):
            meta = await turn.unless_overtaken(found_or_drawn())
        return Response(dump_meta(meta), media_type="application/json")

    async def _events(self, recipe: Recipe, turn: EngineTurn) -> AsyncGenerator[bytes, None]:
        """The drawing as events, with a sign of life wherever nothing was said for a while.

        It draws in a task of its own: where nobody reads on, this stands still at a `yield`, and
        the show would wait for a reader that has stalled.
        """
        said, room = asyncio.Queue[bytes | None](), asyncio.Semaphore(_AHEAD)
        drawing = asyncio.create_task(
            self._draw(recipe, turn, said.put_nowait, room), name="drawing"
        )
        drawing.add_done_callback(lambda _ended: said.put_nowait(None))
        try:
            while True:
                try:
                    async with asyncio.timeout(self.heartbeat):
                        words = await said.get()
                except TimeoutError:
                    yield self._sign_of_life(turn)
                    continue
                if words is None:
                    drawing.result()
                    return
                yield words
                room.release()
        finally:
            await cancel_and_wait(drawing)

    def _sign_of_life(self, turn: EngineTurn) -> bytes:
        ahead = self._queue.ahead_of(turn)
        if ahead is not None and self._observed.is_proven:
            return event("waiting", {"ahead": ahead})
        return b": still here\n\n"

    async def _draw(
        self,
        recipe: Recipe,
        turn: EngineTurn,
        say: Callable[[bytes], None],
        room: asyncio.Semaphore,
    ) -> None:
        """Draw, and say what comes of it; the last is always `done` or `error`.

        Args:
            recipe: what.
            turn: not yet given.
            say: takes one event, or several.
            room: has a place for each picture that may wait to be read.
        """
        asked, finished = self.now(), False
        try:
            try:
                async with self._queue.given_to(turn), self._observed.render(recipe) as images:
                    queued = self.now() - asked
                    while (image := await turn.unless_overtaken(_next(images))) is not None:
                        await turn.unless_overtaken(room.acquire())
                        begins = started_event(image, queued) if image.step == 1 else b""
                        say(begins + step_event(image))
                        finished = image.final
            except EnginePreempted:
                if not finished:
                    raise  # else it was overtaken at its very end, and is whole
            engine = self.engine
            done = {"seed": recipe.seed, "engine": engine.name, "timing": engine.timing}
            say(event("done", done))
        except EnginePreempted as error:
            _log.info("drawing_preempted")
            say(_error_event(error))
        except EngineError as error:
            _log.warning("drawing_failed", code=error_code(error)[0], reason=str(error))
            say(_error_event(error))
            self._tell_if_poisoned(error)
        except QueueIsFull:
            say(event("error", WorkerBusy().error))

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


def _priority_of(request: Request) -> Priority | None:
    """For whom a request is; a word that we do not know, as a later version's, is nobody's."""
    word = request.headers.get(PRIORITY_HEADER, "").strip().lower()
    return "show" if word == "show" else None


async def _next(images: AsyncIterator[StepImage]) -> StepImage | None:
    return await anext(images, None)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


_Answer = TypeVar("_Answer")
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


class _Stream(StreamingResponse):
    """Server-sent events; when the caller hangs up, what makes them is cancelled at once.

    Starlette's own notices only when it next sends, which a slow step may put off for long.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or nobody listens."""
        try:
            with suppress(OSError):  # it hung up while we sent
                await _unless_hung_up(receive, self.stream_response(send))
        finally:
            await self._events.aclose()


async def _unless_hung_up(receive: Receive, work: Awaitable[_Answer]) -> _Answer | None:
    """Do `work`; None where the caller hangs up before it is done."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel_and_wait(task, gone)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
