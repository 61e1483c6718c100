"""Draws an item of a job: a take, recorded as any set is, in a small store of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from cache.model.formats import SetMeta
from cache.stores.port import Store
from cache.stores.prefix import PrefixStore
from generator.engines.port import Engine, StepImage, Timing
from generator.jobs.scheduler import Done
from generator.jobs.store import Claimed
from generator.sets.recorder import PlannedSet, Recorder, found_set
from generator.sheet.description import Description
from generator.sheet.recipe import Recipe

TAKES: Final = "studio/takes/"
"""What the keys of takes begin with: outside of `actions/`, where all who look for sets look."""

NO_ACTION: Final = "take"
"""The action that a take is a set of, where it is of no cue."""

Look = Callable[[Claimed, StepImage], None]
"""Is shown every picture of a drawing as it comes; it must not wait."""


class DrawWork(BaseModel):
    """All that whoever draws an item must know.

    Attributes:
        action_id: the action whose set it may become.
        recipe: what is drawn, with its seed.
        description: what the manifest says of it, for people who read it.
    """

    model_config = ConfigDict(frozen=True)

    action_id: str = NO_ACTION
    recipe: Recipe
    description: Description = Description()

    def document(self) -> Mapping[str, Any]:
        """As it is kept with the item."""
        return self.model_dump(mode="json", exclude_defaults=True)


def take_store(store: Store, take: str) -> PrefixStore:
    """A take's own small store; in it, the take is set 0 of its action."""
    return PrefixStore(store, f"{TAKES}{take}/")


@dataclass(frozen=True)
class DrawingPlace:
    """A slot that draws.

    Args:
        name: the engine's in the settings.
        engine: what draws.
        store: where takes go.
        look: is shown what is drawn.
        an_hour: what an hour of the engine costs.
        now: steady seconds.
    """

    name: str
    engine: Engine
    store: Store
    _: KW_ONLY
    look: Look = lambda _claimed, _image: None
    an_hour: float = 0.0
    now: Callable[[], float] = time.monotonic

    async def work(self, claimed: Claimed) -> Done:
        """Draw an item, unless whoever died over it had drawn it already.

        Raises:
            EngineError, StoreError: no take came of it.
        """
        begun = self.now()
        asked = DrawWork.model_validate(claimed.work)
        own = take_store(self.store, claimed.take)
        planned = PlannedSet(asked.action_id, 0, asked.recipe, asked.description)
        meta: SetMeta | None = await found_set(own, planned)
        if meta is None:
            engine = _ShownEngine(self.engine, lambda image: self.look(claimed, image))
            await Recorder(engine, own, alone=True).record_planned(planned)
        seconds = self.now() - begun
        return Done(seconds, seconds * self.an_hour / 3600)


@dataclass(frozen=True)
class _ShownEngine:
    """An engine whose pictures somebody sees as they come."""

    engine: Engine
    look: Callable[[StepImage], None]

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return self.engine.name

    @property
    def timing(self) -> Timing:
        """See `Engine.timing`."""
        return self.engine.timing

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        return aclosing(self._images(recipe))

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        async with self.engine.render(recipe) as images:
            async for image in images:
                self.look(image)
                yield image
