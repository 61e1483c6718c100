"""Draws an item of a job: a take, recorded as any set is, in a small store of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from cache.library import Library
from cache.model.documents import FormatError
from cache.model.formats import ImageSet
from cache.stores.port import NotFound, Store
from cache.stores.prefix import PrefixStore
from cache.threads import offload_large
from generator.engines.observed import Look, ObservedEngine
from generator.engines.port import Engine, StepImage
from generator.jobs.eta import WorkSize
from generator.jobs.scheduler import Done, OnStep
from generator.jobs.store import Claimed
from generator.sets.recorder import PlannedSet, Recorder, found_set
from generator.sheet.description import Description
from generator.sheet.recipe import Recipe

TAKES: Final = "studio/takes/"
"""What the keys of takes begin with: outside of `actions/`, where all who look for sets look."""

NO_ACTION: Final = "take"
"""The action that a take is a set of, where it is of no cue."""

LookAtTake = Callable[[Claimed, StepImage], None]
"""Is shown every picture of a drawing as it comes; it must not wait."""

Learn = Callable[[str, WorkSize, float], None]
"""Is told how many seconds an engine took for a picture."""


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


@dataclass(frozen=True, slots=True)
class OpenedTake:
    """A take that is whole, as far as its meta tells.

    Attributes:
        library: reads its images.
        image_set: it, as the set that it is.
    """

    library: Library
    image_set: ImageSet


async def open_take(store: Store, take: str) -> OpenedTake:
    """Open a take, whatever action it is for.

    Raises:
        NotFound: there is none, or not yet.
        BrokenSet: an image of it is missing.
        StoreError: the store could not be read.
        FormatError: its manifest cannot be understood.
    """
    own = take_store(store, take)
    library = Library(own)
    actions = (await library.refresh()).actions
    if not actions:
        raise NotFound(f"{TAKES}{take}", "no such take")
    return OpenedTake(library, await library.open_set(next(iter(actions)), 0))


@dataclass(frozen=True)
class DrawingPlace:
    """A slot that draws.

    Args:
        name: the engine's in the settings.
        engine: what draws.
        store: where takes go.
        look: is shown what is drawn.
        learn: is told how long it took.
        cost_of: what so many seconds of the engine cost; None where nobody has said.
        now: steady seconds.
    """

    name: str
    engine: Engine
    store: Store
    _: KW_ONLY
    look: LookAtTake = lambda _claimed, _image: None
    learn: Learn = lambda _engine, _size, _seconds: None
    cost_of: Callable[[float], float | None] = lambda _seconds: None
    now: Callable[[], float] = time.monotonic

    async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
        """Draw an item, unless whoever died over it had drawn it already.

        Raises:
            EngineError, StoreError: no take came of it.
        """
        begun = self.now()
        planned = await _planned(claimed.work)
        own = take_store(self.store, claimed.take)
        if await _is_there(own, planned):
            on_step(1, 1)
        else:
            await _sweep(own)
            await self._draw(claimed, planned, own, on_step)
        seconds = self.now() - begun
        return Done(seconds, self.cost_of(seconds))

    async def _draw(
        self, claimed: Claimed, planned: PlannedSet, own: Store, on_step: OnStep
    ) -> None:
        begun = self.now()

        @contextmanager
        def observe(_recipe: Recipe) -> Iterator[Look]:
            nonlocal begun
            begun = self.now()  # until now an engine may have warmed up, which is soon past
            yield look

        def look(image: StepImage) -> None:
            on_step(image.step, image.steps)
            self.look(claimed, image)

        engine = ObservedEngine(self.engine, observe)
        await Recorder(engine, own, alone=True).record_planned(planned)
        self.learn(self.name, WorkSize.of(planned.recipe), self.now() - begun)


async def _planned(work: Mapping[str, Any]) -> PlannedSet:
    """What an item asks for; its base image is decoded and hashed in a thread if it is large."""

    def understand() -> PlannedSet:
        asked = DrawWork.model_validate(work)
        _ = asked.recipe.fingerprint  # kept by the recipe, for whoever asks for it later
        return PlannedSet(asked.action_id, 0, asked.recipe, asked.description)

    base = work.get("recipe", {}).get("base_image") or ""
    return await offload_large(len(base), understand)


async def _is_there(own: Store, planned: PlannedSet) -> bool:
    """Whether a take is whole already. One that cannot be understood is drawn anew."""
    try:
        return await found_set(own, planned) is not None
    except FormatError:
        return False


async def _sweep(own: Store) -> None:
    """Remove what an earlier try has left; another engine may draw other steps than it did."""
    left = [entry.key async for entry in own.list()]
    for key in left:
        await own.delete(key)


async def sweep_unfinished(store: Store, take: str) -> None:
    """Have a store remove what those have left who were killed while they wrote a take's files.

    A listing does that, as soon as nobody can be writing them any more.

    Raises:
        StoreError: the store could not be read.
    """
    async for _ in take_store(store, take).list():
        pass
