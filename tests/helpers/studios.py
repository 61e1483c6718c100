"""Studios that really serve, on a socket of this process, and the members who ask them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import httpx
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from generator.engines.port import Engine, EngineError, StepImage, Timing
from generator.engines.testcard.settings import TestCardSection
from generator.jobs.database import open_database
from generator.jobs.members import Members, Role
from generator.sheet.recipe import Recipe
from server.config.show import Show, load_show
from server.studio.app import create_studio
from server.studio.opening import database_url
from server.studio.routes import ROUTES
from server.studio.services import StudioServices
from server.studio.slots import StudioEngine
from tests.helpers.feeds import Ear
from tests.helpers.pictures import picture
from tests.helpers.postgres import PostgresServer
from tests.helpers.servers import Address, serving_app
from tests.helpers.shows import cue, write_show

Document = dict[str, Any]

CUES: Final = (cue(0, "prompt", prompt="a lake", id="lake"), cue(8, "end"))
FAST: Final = "[programs.P0.fast]\nsteps = 4\n"
_PATIENCE: Final = 20.0


def images(count: int = 3, label: str = "") -> list[StepImage]:
    """A drawing of so many pictures, the last of them the final one."""
    return [
        StepImage(n, count, n == count, None if n == count else 9.0, 0.1, picture(f"{label}{n}"))
        for n in range(1, count + 1)
    ]


@dataclass
class Pencil:
    """An engine that draws in no time, until it is held.

    Attributes:
        images: of each drawing.
        error: what comes in place of the final one; None for nothing.
        asked: what it was given, in order.
    """

    images: Sequence[StepImage] = field(default_factory=images)
    error: EngineError | None = None
    name: str = "pencil 1"
    timing: Timing = "measured"
    asked: list[Recipe] = field(default_factory=list)
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.let_go()

    def hold(self) -> None:
        """From now on nothing comes to its end: all but the final picture is drawn."""
        self._free.clear()

    def let_go(self) -> None:
        """Whatever was begun comes to its end."""
        self._free.set()

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        self.asked.append(recipe)
        async with aclosing(self.draw()) as drawn:
            yield drawn

    async def draw(self) -> AsyncGenerator[StepImage, None]:
        """The pictures of what was asked for last."""
        for image in self.images:
            if image.final:
                await self._free.wait()
                if self.error is not None:
                    raise self.error
            yield image


def slot(engine: Engine, name: str = "pencil") -> StudioEngine:
    """The slot of an engine that is here already."""
    return StudioEngine(name, TestCardSection(name=name), engine)


class Caller(httpx.AsyncClient):
    """One who asks a Studio, as a program does; it knows who it is.

    Args:
        address: the Studio's.
        token: None for whoever sits at the machine.
        host: the address of its own that it asks from, which each has a budget of its own at.
    """

    def __init__(self, address: Address, token: str | None = None, host: str = "127.0.0.1") -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # The server ends a line on which nothing was asked for 5 s: none is used again by then.
        limits = httpx.Limits(keepalive_expiry=2)
        transport = httpx.AsyncHTTPTransport(local_address=host, limits=limits)
        super().__init__(
            base_url=address.http, headers=headers, timeout=60, transport=transport, trust_env=False
        )
        self.token = token

    async def document(self, path: str, **query: Any) -> Document:
        """What is answered to a GET that is let in."""
        answer = await self.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return cast("Document", answer.json())

    async def ask(self, *, key: str | None = None, **asked: Any) -> Document:
        """Ask for pictures; the job."""
        headers = {} if key is None else {"idempotency-key": key}
        answer = await self.post("/api/jobs", json={"prompt": "a lake", **asked}, headers=headers)
        assert answer.status_code in {200, 202}, answer.text
        return cast("Document", answer.json())

    async def job(self, job: Mapping[str, Any]) -> Document:
        """A job as it is now."""
        return await self.document(f"/api/jobs/{job['id']}")

    async def over(self, job: Mapping[str, Any]) -> Document:
        """A job once it is over."""
        async with asyncio.timeout(3 * _PATIENCE):
            while True:
                found = await self.document(f"/api/jobs/{job['id']}", wait=20)
                if found["status"] in {"completed", "failed", "cancelled"}:
                    return found

    async def until(self, job: Mapping[str, Any], enough: Callable[[Document], object]) -> Document:
        """A job once it is as it should be."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                found = await self.job(job)
                if enough(found):
                    return found
                await asyncio.sleep(0.02)

    async def picture(self, address: str) -> bytes:
        """What an address opens."""
        answer = await self.get(address)
        assert answer.status_code == 200, answer.text
        return answer.content


@dataclass
class RunningStudio:
    """A Studio that serves.

    Attributes:
        address: where.
        show: whose.
        tokens: of its members, by their names.
    """

    address: Address
    show: Show
    tokens: dict[str, str] = field(default_factory=dict)
    _seen: list[StudioServices] = field(default_factory=list)

    @property
    def services(self) -> StudioServices:
        """Its parts."""
        return self._seen[0]

    async def add(self, name: str, role: Role = "artist", pictures_a_day: int | None = None) -> str:
        """Make somebody a member, from another process as it were; the token."""
        async with open_database(database_url(self.show)) as database:
            _, token = await Members(database).add(name, role, pictures_a_day)
        self.tokens[name] = token
        return token

    async def remove(self, name: str) -> None:
        """End a membership, in this process."""
        await self.services.access.members.remove(name)

    async def end_elsewhere(self, name: str) -> None:
        """End a membership, in another process as it were."""
        async with open_database(database_url(self.show)) as database:
            await Members(database).remove(name)

    def caller(self, name: str | None = None, host: str = "127.0.0.1") -> Caller:
        """Somebody who asks: a member by its name, or whoever sits at the machine."""
        return Caller(self.address, None if name is None else self.tokens[name], host)

    @asynccontextmanager
    async def ear(
        self, name: str | None = None, after: int | None = None, **headers: str
    ) -> AsyncIterator[Ear]:
        """One who listens on the socket and was welcomed."""
        url = f"ws://{self.address.host}:{self.address.port}/ws/studio"
        async with Ear.line(url, additional_headers=headers) as client:
            hello: Document = {"type": "hello"}
            if name is not None:
                hello["token"] = self.tokens[name]
            if after is not None:
                hello["after"] = after
            await client.send(hello)
            await client.until(lambda me: me.of("welcome"))
            yield client


class _Noting:
    """Middleware: notes a Studio's parts."""

    def __init__(self, app: ASGIApp, seen: list[StudioServices]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not self._seen and "services" in scope.get("state", {}):
            self._seen.append(scope["state"]["services"])
        await self._app(scope, receive, send)


def show_in(
    folder: Path,
    toml: str = "",
    studio: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Show:
    """A tiny show of one cue.

    Args:
        folder: where it lies, and keeps its state.
        toml: what follows in its show.toml.
        studio: `[studio]`, over what it says there.
        environ: the environment; empty where none is given.
    """
    write_show(folder, CUES, f"{FAST}{toml}")
    given = {"port": 0, "keep_free": 0, **(studio or {})}
    return load_show(folder, {"studio": given}, environ or {})


@asynccontextmanager
async def studio(
    show: Show,
    *engines: StudioEngine,
    own_engines: bool = False,
    members: Mapping[str, Role] | None = None,
    port: int = 0,
) -> AsyncIterator[RunningStudio]:
    """A Studio that serves on a socket of this process, until the context is left.

    Args:
        show: whose; `show_in` makes one.
        engines: that are here already; a pencil where there are none.
        own_engines: whether the show's own draw instead.
        members: who has a token, and in which role.
        port: where it listens; 0 for anywhere.
    """
    given: Sequence[StudioEngine] | None = engines or (slot(Pencil()),)
    app: Starlette = create_studio(show, given=None if own_engines else given)
    seen: list[StudioServices] = []
    app.add_middleware(_Noting, seen=seen)
    async with serving_app(app, port=port) as address:
        running = RunningStudio(address, show, _seen=seen)
        for name, role in (members or {}).items():
            await running.add(name, role)
        async with running.caller() as caller:
            await caller.get("/healthz")
        yield running


def routes() -> set[tuple[str, str]]:
    """Every address of the Studio, by the ways in which it is asked."""
    found: set[tuple[str, str]] = set()
    for route in ROUTES:
        match route:
            case Mount():
                found.add(("MOUNT", route.path))
            case WebSocketRoute():
                found.add(("WS", route.path))
            case Route():
                methods = (route.methods or set()) - {"HEAD"}
                found |= {(method, route.path) for method in methods}
            case _:
                raise AssertionError(f"nobody has looked at {route}")
    return found


def on_postgres(url: sa.URL) -> Mapping[str, Any]:
    """`[studio]` for a database of Postgres."""
    return {"database": url.set(drivername="postgresql").render_as_string(hide_password=False)}


@contextmanager
def database_on(server: PostgresServer, name: str) -> Iterator[sa.URL]:
    """A database of a Postgres server, which is dropped at the end."""
    # The server may be stopped meanwhile: no connection is kept.
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        yield server.url.set(database=name)
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()
