"""`understudy worker` as a child process: started, listened to, ended.

It listens on loopback alone and wants a token that only we know. What it says goes to our log.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, SecretStr

from cache.tasks import cancel_and_wait
from cache.untrusted import clean_text, decode_answer
from generator.engines.port import Engine
from generator.engines.registry import AnyEngine
from generator.engines.remote.engine import RemoteEngine
from generator.outgoing import outgoing_client
from generator.sheet.recipe import Recipe
from server.core.child_process import (
    ChildFailed,
    ChildProcess,
    child_environment,
    child_process,
    exit_in_words,
)
from server.core.clock import Clock

_log = structlog.get_logger(__name__)

SILENCE: Final = 10.0
"""Seconds without a word after which a child is given up: two heartbeats, with no line between."""

TOKEN_VARIABLE: Final = "UNDERSTUDY_WORKER_TOKEN"  # noqa: S105 - the variable's name
"""Where a worker looks for the token that it is to be brought."""

_TERM_WITHIN: Final = 2.0
"""Seconds between asking a child to end and ending it. It holds nothing worth more."""

_HEARD_OUT_WITHIN: Final = 1.0
_MINUTE: Final = 60.0
_LINES_A_MINUTE: Final = 120
_LINE: Final = 2000
"""Characters of a line that are passed on."""

_CHUNK: Final = 65536
_ADDRESS: Final = re.compile(r"http://127\.0\.0\.1:[0-9]+")
_OURS: Final = re.compile(r"(UNDERSTUDY_|R2_|AWS_|REPLICATE_).*", re.DOTALL)
"""What only the show needs, secrets above all."""


class ChildAssignment(BaseModel):
    """What a child is told on its standard input, a line of JSON: what it is to be.

    It reads no `show.toml`: that may have been changed since the show was loaded.

    Attributes:
        engine: which engine.
        probe: the small recipe that proves it, drawn once before it serves.
        wait: whether an engine that only plays at drawing keeps a rhythm, as on a wall.
    """

    model_config = ConfigDict(frozen=True)

    engine: AnyEngine
    probe: Recipe
    wait: bool = True


class Child(Protocol):
    """A process that serves an engine."""

    @property
    def engine(self) -> Engine:
        """Draws there."""
        ...

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def memory(self) -> int | None:
        """Bytes of memory that it has, None where that cannot be told."""
        ...

    async def ended(self) -> str:
        """Wait until it has ended, by itself or by somebody's hand; how, in words."""
        ...

    def kill(self) -> None:
        """End it and its own children at once."""
        ...


StartChild = Callable[[], AbstractAsyncContextManager[Child]]
"""Starts a child, entered once it serves; leaving the context ends it.

Raises `ChildFailed` on entering.
"""


@dataclass(eq=False)
class ScriptedChild:
    """A child for tests: an engine in this process, which dies when it is told to.

    Attributes:
        engine: see `Child.engine`.
        pid: see `Child.pid`.
        bytes: the memory that it says it has.
        killed: whether somebody killed it.
        left: whether its context was left.
    """

    engine: Engine
    pid: int = 1
    bytes: int | None = 100 * 2**20
    killed: bool = False
    left: bool = False

    def __post_init__(self) -> None:
        self._how = ""
        self._dead = asyncio.Event()

    def memory(self) -> int | None:
        """See `Child.memory`."""
        return self.bytes

    async def ended(self) -> str:
        """See `Child.ended`."""
        await self._dead.wait()
        return self._how

    def die(self, how: str) -> None:
        """End by itself."""
        self._how = how
        self._dead.set()

    def kill(self) -> None:
        """See `Child.kill`."""
        self.killed = True
        self.die("it was killed")

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Child]:
        """Be the child that is started."""
        try:
            yield self
        finally:
            self.left = True


@dataclass(frozen=True)
class WorkerChild(ChildProcess):
    """A running `understudy worker`.

    Args:
        engine: what speaks to it.
        voice: what hears it out.
    """

    engine: Engine
    voice: _Voice

    async def ended(self) -> str:
        """See `Child.ended`."""
        return await _how_it_ended(self.process, self.voice)


@asynccontextmanager
async def worker_child(
    section: AnyEngine,
    probe: Recipe,
    clock: Clock,
    *,
    silence: float = SILENCE,
    wait: bool = True,
) -> AsyncIterator[Child]:
    """Run a worker for `section` until the context is left.

    Args:
        section: what it draws with.
        probe: the small recipe of its `/health`.
        clock: that the time it is given to end is told by.
        silence: seconds without a word, not even a heartbeat, after which a drawing is given up.
        wait: see `ChildAssignment`.

    Raises:
        ChildFailed: it could not be started, or ended before it served.
    """
    token = secrets.token_urlsafe(32)
    voice = _Voice(section.name, token)
    assignment = ChildAssignment(engine=section, probe=probe, wait=wait)
    async with (
        child_process(
            *("worker", "--supervised", "--port", "0"),
            environment=worker_environment(os.environ, token),
            clock=clock,
            stuck=lambda pid: _log.error("engine_cannot_be_killed", engine=section.name, pid=pid),
            term_within=_TERM_WITHIN,
        ) as child,
        voice.heard(child.process.stderr),
    ):
        address = await _address(child, assignment, voice)
        async with outgoing_client() as client, voice.heard(child.process.stdout):
            engine = RemoteEngine(
                client, address, token=SecretStr(token), silence=silence, priority="show"
            )
            yield WorkerChild(child.process, engine, voice)


def worker_environment(environment: Mapping[str, str], token: str) -> dict[str, str]:
    """What a worker gets to know: nothing of what only the show needs, least of all secrets."""
    more = {TOKEN_VARIABLE: token, "PYTHONUNBUFFERED": "1"}
    return child_environment(environment, _OURS, **more)


async def _address(child: ChildProcess, assignment: ChildAssignment, voice: _Voice) -> str:
    """Tell the child what it is to be, and hear from its first line where it listens."""
    process = child.process
    if process.stdin is None or process.stdout is None:  # pragma: no cover - both were asked for
        raise ChildFailed("it has no pipes")
    with suppress(ConnectionError):  # it is dead; what it says below is the reason
        process.stdin.write(assignment.model_dump_json().encode() + b"\n")
        await process.stdin.drain()
    try:
        line = await process.stdout.readline()
    except ValueError:  # longer than any address
        line = b""
    found = _ADDRESS.search(line.decode(errors="replace"))
    if found is not None:
        return found[0]
    child.kill()
    raise ChildFailed(await _how_it_ended(process, voice))


async def _how_it_ended(process: asyncio.subprocess.Process, voice: _Voice) -> str:
    how = exit_in_words(await process.wait())
    await voice.heard_out()
    return f"{how}: {voice.last_words}" if voice.last_words else how


class _Voice:
    """What a child says: passed on to our log line by line, not more than anybody would read."""

    def __init__(self, name: str, token: str) -> None:
        self.last_words = ""
        self._name = name
        self._token = token
        self._minute, self._said = -math.inf, 0
        self._listening: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def heard(self, stream: asyncio.StreamReader | None) -> AsyncIterator[None]:
        """Read a stream for as long as the context lasts: a full pipe would stop its writer."""
        task = asyncio.create_task(self._listen(stream), name=f"{self._name} voice")
        self._listening.add(task)
        try:
            yield
        finally:
            await cancel_and_wait(task)
            self._listening.discard(task)

    async def heard_out(self) -> None:
        """Wait until a child that has ended is heard to its last word."""
        if self._listening:
            await asyncio.wait(self._listening, timeout=_HEARD_OUT_WITHIN)

    async def _listen(self, stream: asyncio.StreamReader | None) -> None:
        rest = b""
        while stream is not None and (chunk := await stream.read(_CHUNK)):
            *whole, rest = (rest + chunk).split(b"\n")
            rest = rest[:_LINE]
            for line in whole:
                self._hear(line[:_LINE])
        self._hear(rest)

    def _hear(self, line: bytes) -> None:
        try:
            # An engine's colours and other controls are no part of what it says.
            said = clean_text(_COLOURS.sub("", line.decode(errors="replace"))).strip()
            if said:
                level, self.last_words = _level_of(said.replace(self._token, "…"))
                self._pass_on(level, self.last_words)
        except Exception:  # noqa: BLE001 - unread, its pipe would fill and stop the engine
            _log.exception("engine_not_understood", engine=self._name)

    def _pass_on(self, level: int, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._minute >= _MINUTE:
            self._minute, self._said = now, 0
        self._said += 1
        if self._said < _LINES_A_MINUTE:
            _log.log(level, "engine_says", engine=self._name, line=text)
        elif self._said == _LINES_A_MINUTE:
            _log.warning("engine_says_too_much", engine=self._name)


_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def _level_of(line: str) -> tuple[int, str]:
    """How bad it is, and what is left to say; a line of JSON is one of our own log."""
    try:
        entry = decode_answer(line)
        level = _LEVELS[entry.pop("level")]
        entry.pop("timestamp", None)
        event = entry.pop("event")
    except (ValueError, KeyError, TypeError, AttributeError):
        return _LEVELS["info"], line
    return level, " ".join([str(event), *(f"{key}={value}" for key, value in entry.items())])
