"""An engine whose pictures somebody else sees pass: whoever shows, counts or keeps them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass

from generator.engines.port import Engine, StepImage, Timing, WarmingEngine
from generator.sheet.recipe import Recipe

Look = Callable[[StepImage], None]
"""Is shown every picture of a run before whoever draws gets it; it must not wait, nor raise."""

Observe = Callable[[Recipe], AbstractContextManager[Look]]
"""Observes one run: entered before the engine is asked, left after the engine has let go."""


@dataclass(frozen=True, slots=True)
class ObservedEngine:
    """Draws as another engine does, and shows what passes.

    Args:
        engine: what draws.
        observe: is called for each run.
    """

    engine: Engine
    observe: Observe

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @property
    def timing(self) -> Timing:
        """The engine's."""
        return self.engine.timing

    async def prepare(self, recipe: Recipe) -> None:
        """See `WarmingEngine.prepare`; nothing where the engine needs none."""
        if isinstance(self.engine, WarmingEngine):
            await self.engine.prepare(recipe)

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """Draw `recipe` as the engine does.

        Raises:
            EngineError: as the engine.
        """
        with self.observe(recipe) as look:
            async with self.engine.render(recipe) as images, aclosing(_seen(images, look)) as seen:
                yield seen


async def _seen(images: AsyncIterator[StepImage], look: Look) -> AsyncGenerator[StepImage, None]:
    async for image in images:
        look(image)
        yield image
