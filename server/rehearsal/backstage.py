"""Where a rehearsal runs while the show is on: in a process of its own, which gives way to it.

The child is told by its command line what to rehearse, and by its environment where the sets
are: credentials of the store are inherited, the tokens that let people in are not.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog
from pydantic import TypeAdapter

from server.config.show import Show
from server.core.child_process import ChildFailed, child_environment, child_process
from server.core.clock import SystemClock
from server.diagnostics.report import ProbedEngine
from server.rehearsal.request import RehearsalRequest
from server.reports.archive import HTML, JSON

_log = structlog.get_logger(__name__)

_LETS_IN: Final = re.compile(r"UNDERSTUDY_(OPERATOR|VIEWER|SCREEN)_TOKEN(_FILE)?")
"""What a rehearsal has no use for. What engines are asked with it has."""

_TELLING: Final = TypeAdapter(tuple[ProbedEngine, ...])

_LAST_WORDS: Final = 4000
"""Bytes of what a child says that are remembered."""


class BackstageError(Exception):
    """A rehearsal that came to nothing, in words."""


@dataclass(frozen=True, slots=True)
class RehearsalEnded:
    """How a rehearsal ended.

    Attributes:
        status: the exit status: 0 ready, 1 not ready, or anything else for neither.
        words: what was said last, for people.
    """

    status: int
    words: str = ""


class Backstage(Protocol):
    """Rehearses where it disturbs nobody."""

    async def rehearse(self, request: RehearsalRequest, into: Path) -> RehearsalEnded:
        """Rehearse; what was found lies in folder `into` then. To cancel this ends it.

        Raises:
            BackstageError: it could not be started.
        """
        ...


class ScriptedBackstage:
    """For tests: ends when, and how, it is told to.

    Attributes:
        requests: what was asked for.
        cancelled: how many were cancelled.
    """

    def __init__(self) -> None:
        self.requests: list[RehearsalRequest] = []
        self.cancelled = 0
        self._ending: asyncio.Future[tuple[RehearsalEnded, str | None]] | None = None

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self._ending is not None

    def end(self, status: int, report: str | None = None, words: str = "") -> None:
        """Let the one that is under way end, with a report or without."""
        self._under_way().set_result((RehearsalEnded(status, words), report))

    def refuse(self, error: BackstageError) -> None:
        """Let the one that is under way not have begun."""
        self._under_way().set_exception(error)

    def _under_way(self) -> asyncio.Future[tuple[RehearsalEnded, str | None]]:
        if self._ending is None:
            raise RuntimeError("nothing is rehearsed")
        return self._ending

    async def rehearse(self, request: RehearsalRequest, into: Path) -> RehearsalEnded:
        """See `Backstage.rehearse`."""
        self.requests.append(request)
        self._ending = asyncio.get_running_loop().create_future()
        try:
            ended, report = await self._ending
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._ending = None
        if report is not None:
            (into / JSON).write_text(report)
            (into / HTML).write_text("<!doctype html><title>Rehearsal</title>")
        return ended


class ChildBackstage:
    """Runs `understudy rehearse` as a child.

    Args:
        show: what is rehearsed: its folder as it is on disk now, played as the server plays it.
        engines: how each engine does, as the show knows: what may be drawing for it is not asked.
    """

    def __init__(
        self, show: Show, engines: Callable[[], Sequence[ProbedEngine]] = lambda: ()
    ) -> None:
        self._show = show
        self._engines = engines
        self._path = show.toml if show.toml.exists() else show.folder

    async def rehearse(self, request: RehearsalRequest, into: Path) -> RehearsalEnded:
        """See `Backstage.rehearse`."""
        try:
            report = await asyncio.to_thread((into / JSON).open, "wb")
        except OSError as error:
            raise BackstageError(f"it cannot be started: {error.strerror}") from error
        try:
            with report:
                async with child_process(
                    *("rehearse", "--supervised", "--show", str(self._path)),
                    *("--json", "--html", str(into / HTML)),
                    *("--engines", _TELLING.dump_json(tuple(self._engines())).decode()),
                    *request.arguments(),
                    environment=rehearsal_environment(os.environ, self._show),
                    clock=SystemClock(),
                    stuck=lambda pid: _log.error("rehearsal_cannot_be_killed", pid=pid),
                    stdout=report,
                ) as child:
                    words = await _heard_out(child.process.stderr)
                    return RehearsalEnded(await child.process.wait(), words)
        except ChildFailed as error:
            raise BackstageError(str(error)) from error


def rehearsal_environment(environment: Mapping[str, str], show: Show) -> dict[str, str]:
    """What the child gets to know: all but who may come in, and what our command line said.

    Args:
        environment: ours.
        show: as it plays here.
    """
    settings = show.settings
    # A server started with --store or --mode is rehearsed with them.
    said = {
        "UNDERSTUDY_STORE_URL": settings.store.url,
        "UNDERSTUDY_PLAYBACK_MODE": settings.playback.mode,
    }
    if settings.store.endpoint_url is not None:
        said["UNDERSTUDY_STORE_ENDPOINT_URL"] = settings.store.endpoint_url
    return child_environment(environment, _LETS_IN, **said)


async def _heard_out(stream: asyncio.StreamReader | None) -> str:
    """Listen to the end, or the pipe would fill; the last that was said."""
    tail = b""
    while stream is not None and (chunk := await stream.read(65536)):
        tail = (tail + chunk)[-_LAST_WORDS:]
    return tail.decode(errors="replace").strip()
