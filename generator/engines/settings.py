"""What every kind of engine has in `[[engines]]`: the classes that its own settings extend.

Processes that never draw read them, so they know no engine: the module `engine` beside a kind's
settings is loaded when one is opened.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, ClassVar, Final, Self, cast

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from websockets.exceptions import WebSocketException

from cache.outgoing import has_password, reason_of, redacted
from generator.engines.inbox import Inbox
from generator.engines.port import Engine, Priority
from generator.outgoing import Client, ask, bearer
from generator.sheet.cues import Identifier
from generator.sheet.plan import Action

PROBE_WITHIN: Final = 20.0
"""Seconds in which an engine must have answered when it is asked whether it is there."""

MAX_WORD: Final = 2**20
"""Bytes of what an engine says of itself."""

Address = Annotated[str, Field(pattern=r"^(https?|wss?)://[^\s]+$", repr=False)]


class BadEngine(Exception):
    """An engine that is set up in a way that cannot work."""


class NotReady(Exception):
    """An engine would not draw now, with the reason in words."""


@dataclass(frozen=True, kw_only=True)
class EngineAccess:
    """What an engine on another machine is reached with.

    Attributes:
        client: entered and closed by its owner.
        token: what it must be brought; its own alone.
        folder: the show's, where a path in its settings begins.
        actions: that it will be asked for, as far as they are known.
        priority: for whom it draws, where it is one that several ask.
        inbox: where an engine's answers arrive that come by a request of its own; the same for
            all engines of a process, None where nobody takes them in.
    """

    client: Client
    token: SecretStr | None = None
    folder: Path = Path()
    actions: Sequence[Action] = ()
    priority: Priority | None = None
    inbox: Inbox | None = None


class EngineSection(BaseModel):
    """One of `[[engines]]`, in order of preference; not itself, but as a kind of engine.

    Attributes:
        local: whether it draws on this machine.
        live_unless_told: whether it plays live where `live` says nothing.
        token_variable: the variable with the token that it is brought.
        secret_variable: the variable with the secret that it signs its answers with.
        schemes: of addresses by which an engine of this kind may be named on the command line.
        needs: keys without which it cannot be.
        passed_over: keys that have no effect on another kind; all other keys are refused there,
            if no third kind has them.
        name: what it is called.
        kind: what it is.
        live: whether it plays live.
        an_hour: what an hour of drawing costs, in the currency of `[studio]`; None where nobody
            said, which is not the same as nothing.
        a_picture: what each picture costs, beside that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    local: ClassVar[bool]
    live_unless_told: ClassVar[bool] = True
    token_variable: ClassVar[str | None] = None
    secret_variable: ClassVar[str | None] = None
    schemes: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[tuple[str, ...]] = ()
    passed_over: ClassVar[frozenset[str]] = frozenset()

    name: Identifier
    kind: str
    live: bool | None = None
    an_hour: Annotated[float, Field(ge=0)] | None = None
    a_picture: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        for key in self.needs:
            if not getattr(self, key):
                raise ValueError(f"{self.called}: a {self.kind} needs a {key}")
        return self

    @classmethod
    def has_effect(cls, key: str, value: object) -> bool:
        """Whether a key of this kind says something that another kind cannot do."""
        default = cls.model_fields[key].get_default(call_default_factory=True)
        return key not in cls.passed_over and value != default

    @property
    def called(self) -> str:
        """How a message speaks of it."""
        return f"the engine {self.name!r}"

    @property
    def plays_live(self) -> bool:
        """Whether it is a rung of the live ladder."""
        return self.live_unless_told if self.live is None else self.live

    @property
    def drawn_by(self) -> str | None:
        """What metas call what draws, without its version; None where that may be anything."""
        return self.kind

    def beside_each_other(self, cores: int) -> int:
        """How many sets it draws beside each other, on so many cores of this machine."""
        del cores
        return 1

    def _engine_module(self) -> ModuleType:
        return importlib.import_module(f"{type(self).__module__.rpartition('.')[0]}.engine")


class LocalSection(EngineSection):
    """An engine of this machine; playing live, it draws in a process of its own.

    Attributes:
        recycle_after: drawings after which its process is replaced, 0 for never; where it is
            live, as the next two.
        memory_growth: bytes beyond what it opened with, with which it is; 0 for any.
        hang_after: seconds without a step after which it is killed.
    """

    local: ClassVar[bool] = True

    recycle_after: Annotated[int, Field(ge=0)] = 200
    memory_growth: Annotated[int, Field(ge=0)] = 4 * 2**30
    hang_after: Annotated[float, Field(gt=0)] = 30.0

    def open(self, *, wait: bool, processes: int = 1) -> AbstractContextManager[Engine]:
        """Open it in this process until the context is left: `open_engine` of its kind.

        Args:
            wait: whether an engine that only plays at drawing keeps a rhythm.
            processes: how many it may draw in at once.
        """
        opened = self._engine_module().open_engine(self, wait=wait, processes=processes)
        return cast("AbstractContextManager[Engine]", opened)

    def keeping(self, models: int) -> Self:
        """The same for a show that draws live with so many models."""
        del models
        return self

    async def probe(self, access: EngineAccess) -> str:
        """Say whether it would draw; it has no process that could be asked.

        Raises:
            NotReady: it would not.
        """
        del access
        return "it draws on this machine, in a process of its own"


class SimulatedSection(LocalSection):
    """An engine that only plays at drawing, at a pace of so many seconds a step."""

    live_unless_told: ClassVar[bool] = False

    pace: Annotated[float, Field(gt=0, le=60)] = 0.45


class RemoteSection(EngineSection):
    """An engine on another machine.

    Attributes:
        scheme: what its address begins with.
        health_path: what is asked for below its address, to know whether it is there.
        url: where it is.
    """

    local: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("url",)
    scheme: ClassVar[str] = "http"
    health_path: ClassVar[str] = ""

    url: Address = ""

    @field_validator("url")
    @classmethod
    def _keeps_no_secret(cls, url: str) -> str:
        """What stands in `show.toml` is passed around, and engines are named by their address."""
        if has_password(url):
            raise ValueError(
                "expected an address without user or password, not one with; a token for it goes "
                "into the environment: UNDERSTUDY_WORKER_TOKEN, UNDERSTUDY_COMFYUI_TOKEN"
            )
        if url.startswith("http") and {"?", "#"} & set(url):
            raise ValueError("expected an address without ? and #, not one with")
        return url

    @model_validator(mode="after")
    def _speaks_its_scheme(self) -> Self:
        if not self.url.startswith(self.scheme):
            scheme = f"{self.scheme}://"
            raise ValueError(f"{self.called}: the url of a {self.kind} begins with {scheme}")
        return self

    def connect(self, access: EngineAccess) -> Engine:
        """What draws there, by `connect_engine` of its kind; nothing is sent before it is to draw.

        Raises:
            BadEngine: it is set up in a way that cannot work.
        """
        return cast("Engine", self._engine_module().connect_engine(self, access))

    async def probe(self, access: EngineAccess) -> str:
        """Ask whether it is there, without having it draw; what it says.

        Raises:
            NotReady: it cannot be reached, or would not draw.
            TimeoutError: it does not answer.
        """
        try:
            await self._reach(access)
        except TimeoutError:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, OSError, WebSocketException) as error:
            where, reason = redacted(self.url), reason_of(error, self.url)
            raise NotReady(f"{where}: {reason}") from error
        return "it answers"

    async def _reach(self, access: EngineAccess) -> None:
        url, headers = f"{self.url}{self.health_path}", bearer(access.token)
        answer = await ask(
            access.client, "GET", url, within=PROBE_WITHIN, limit=MAX_WORD, headers=headers
        )
        if answer.status_code != httpx.codes.OK:
            raise NotReady(f"{redacted(url)} answers {answer.status_code} {answer.reason_phrase}")
