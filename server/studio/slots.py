"""The engines of a show as slots of the Studio: one that is another process's is never the show's.

An engine of this machine runs as a child that is nicer than the show's, and keeps no rhythm: who
waits for a take wants it soon. One elsewhere is asked directly, without the show's priority.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from generator.engines.inbox import Inbox
from generator.engines.port import (
    DrawingFailed,
    Engine,
    EnginePreempted,
    EngineStarting,
    EngineUnavailable,
    StepImage,
    Timing,
)
from generator.engines.registry import AnyEngine, find_engine
from generator.engines.settings import BadEngine, EngineAccess, LocalSection
from generator.outgoing import Client, client_for_engines
from generator.sheet.recipe import Recipe
from server.config.show import Show
from server.core.clock import Clock
from server.engines.child import worker_child
from server.engines.local import LocalEngine, State
from server.engines.supervision import RestartPolicy, Supervision

_log = structlog.get_logger(__name__)

_PROBE: Final = Recipe(model="none", prompt="a lamp", steps=1, width=64, height=64)
_LOADED_WITHIN: Final = 600.0
"""Seconds to the first picture of a drawing: nothing is loaded before somebody wants it."""

_REST: Final = 60.0
"""Seconds for which a child is left alone that failed again and again: others wait behind."""

_KNOWN_WITHIN: Final = 5.0
_LOST: Final[tuple[State, ...]] = ("rested", "restarting", "stopped")
_ENDED: Final[tuple[State, ...]] = ("ready", "rested", "restarting", "stopped")


@dataclass(frozen=True, slots=True)
class StudioEngine:
    """An engine that the Studio draws with.

    Attributes:
        name: of its slot; an engine that draws several pictures beside each other has as many.
        section: its settings.
        engine: it, open.
    """

    name: str
    section: AnyEngine
    engine: Engine


@asynccontextmanager
async def studio_engines(
    show: Show, clock: Clock, inbox: Inbox | None
) -> AsyncIterator[Sequence[StudioEngine]]:
    """The engines of `show`, open while the context lasts; none is waited for.

    Args:
        show: whose `[[engines]]`; where there are none, sketch draws.
        clock: what those of this machine are supervised by.
        inbox: where generators answer that call back.
    """
    opened: list[StudioEngine] = []
    async with AsyncExitStack() as stack:
        client: Client | None = None  # it reads every certificate: for engines elsewhere alone
        for section in show.settings.engines or (find_engine((), None),):
            if isinstance(section, LocalSection):
                for name in _names(section):
                    child = await stack.enter_async_context(_child(section, clock))
                    opened.append(StudioEngine(name, section, _Patient(child)))
                continue
            if client is None:
                client = await stack.enter_async_context(client_for_engines())
            access = EngineAccess(
                client=client,
                token=show.settings.tokens.engines.get(section.kind),
                folder=show.folder,
                inbox=inbox,
            )
            try:
                opened += [
                    StudioEngine(name, section, section.connect(access)) for name in _names(section)
                ]
            except BadEngine as error:
                _log.error("engine_left_out", engine=section.name, reason=str(error))
        yield opened


def _names(section: AnyEngine) -> list[str]:
    """The names of its slots: the first is its own."""
    count = section.beside_each_other(os.cpu_count() or 1)
    return [section.name, *(f"{section.name}-{number}" for number in range(2, count + 1))]


def _child(section: LocalSection, clock: Clock) -> LocalEngine:
    return LocalEngine(
        section.name,
        partial(worker_child, section, _PROBE, clock, wait=False),
        warm_up=(),
        clock=clock,
        policy=Supervision(
            hang_after=section.hang_after,
            first_within=_LOADED_WITHIN,
            recycle_after=section.recycle_after,
            memory_growth=section.memory_growth,
            restarts=RestartPolicy(rest=_REST),
        ),
    )


@dataclass(frozen=True)
class _Patient:
    """An engine of this machine that is waited for while it starts: nobody stands before a wall.

    Where its process dies over a drawing, that counts as the drawing's fault: one that kills
    each process that tries it would else be tried for ever, and keep all behind it waiting.
    """

    child: LocalEngine

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return self.child.name

    @property
    def timing(self) -> Timing:
        """See `Engine.timing`."""
        return self.child.timing

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `Engine.render`.

        Raises:
            DrawingFailed: also where the process was lost meanwhile.
        """
        while True:
            async with AsyncExitStack() as stack:
                try:
                    images = await stack.enter_async_context(self.child.render(recipe))
                except EngineStarting:
                    await self.child.until(*_ENDED)
                    continue
                yield await stack.enter_async_context(aclosing(self._survived(images)))
                return

    async def _survived(self, images: AsyncIterator[StepImage]) -> AsyncGenerator[StepImage, None]:
        """The same pictures; that the process was lost over them is a failed drawing."""
        try:
            async for image in images:
                yield image
        except EnginePreempted:
            raise
        except EngineUnavailable as error:
            reason = str(error)
            # Its line breaks a moment before it is known how it ended, which says more.
            with suppress(TimeoutError):
                async with asyncio.timeout(_KNOWN_WITHIN):
                    reason = (await self.child.until(*_LOST)).reason
            raise DrawingFailed(f"the process that drew it was lost: {reason}") from error
