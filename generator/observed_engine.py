"""An engine, and when it last drew something: a step just drawn proves it as a probe would."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Final

from generator.engines.port import (
    Engine,
    EngineError,
    RecipeRefused,
    StepImage,
    Timing,
    WarmingEngine,
)
from generator.sheet.recipe import Recipe

PROVEN_FOR: Final = 10.0
"""Seconds for which a step that was drawn proves the engine."""


@dataclass(eq=False)
class ObservedEngine:
    """Draws with `engine`, and remembers when that last went well.

    Args:
        engine: what draws.
        now: steady seconds.
    """

    engine: Engine
    now: Callable[[], float]
    _drew_at: float = field(default=-math.inf, init=False)
    _step: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return self.engine.name

    @property
    def timing(self) -> Timing:
        """See `Engine.timing`."""
        return self.engine.timing

    @property
    def is_proven(self) -> bool:
        """Whether it drew a step just now, and has not failed since."""
        return self.now() - self._drew_at <= PROVEN_FOR

    async def next_step(self) -> None:
        """Wait until it has drawn a step."""
        await self._step.wait()

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        return aclosing(self._images(recipe))

    async def prepare(self, recipe: Recipe) -> None:
        """See `WarmingEngine.prepare`; nothing for an engine that needs none."""
        if isinstance(self.engine, WarmingEngine):
            await self.engine.prepare(recipe)

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        try:
            async with self.engine.render(recipe) as images:
                async for image in images:
                    self._drew()
                    yield image
        except EngineError as error:
            if not isinstance(error, RecipeRefused):
                self._drew_at = -math.inf
            raise

    def _drew(self) -> None:
        self._drew_at = self.now()
        step, self._step = self._step, asyncio.Event()
        step.set()
