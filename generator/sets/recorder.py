"""Records an engine into a store: one action's set, measured step by step.

A set exists once its `meta.json` does, so that is written last, and removed first where a
set is drawn again. Whatever interrupts a recording leaves no set, or a whole one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from cache.index import register
from cache.library import BrokenSet, Library
from cache.model.formats import FINAL, MAX_DURATION, MAX_LATENCY, FileFacts, SetMeta, dump_meta
from cache.model.images import check_image, decode_check, extension_for
from cache.model.keys import Key, config_key, image_key, meta_key
from cache.model.manifest import ManifestAction, dump_config
from cache.stores.port import Store
from cache.tasks import cancel_and_wait
from cache.threads import offload_large
from generator.engines.port import (
    BatchEngine,
    DrawingFailed,
    DrawnSet,
    Engine,
    StepImage,
    WarmingEngine,
    each_of,
)
from generator.sets.numbers import NumberTaken, claim, release
from generator.sheet.description import Description, describe
from generator.sheet.plan import Action
from generator.sheet.provenance import model_config
from generator.sheet.recipe import Recipe, seed_for

_UPLOADS = 4
"""Files of one set that are under way to the store at once."""


def now_in_seconds() -> datetime:
    """The time of day, as metas have it."""
    return datetime.now(UTC).replace(microsecond=0)


def entry_of(description: Description, recipe: Recipe) -> ManifestAction:
    """What the manifest says of an action that is known by its description and recipe."""
    return ManifestAction(
        **description.model_dump(), steps=recipe.steps, fingerprint=recipe.fingerprint
    )


def manifest_entry(action: Action) -> ManifestAction:
    """What the manifest says of a planned action."""
    return entry_of(describe(action), action.recipe)


@dataclass(frozen=True, slots=True)
class PlannedSet:
    """Where a set belongs, and what it is of; the recipe has the set's own seed."""

    action_id: str
    set_id: int
    recipe: Recipe
    description: Description

    @classmethod
    def of(cls, action: Action, set_id: int) -> PlannedSet:
        """A set of a planned action."""
        return cls(action.action_id, set_id, recipe_of_set(action.recipe, set_id), describe(action))

    @property
    def entry(self) -> ManifestAction:
        """What the manifest says of its action."""
        return entry_of(self.description, self.recipe)


@dataclass(frozen=True)
class Recorder:
    """Draws sets with an engine and keeps them in a store.

    Args:
        engine: what draws.
        store: where sets go.
        now: the time of day, for the meta.
        alone: nobody else draws into that store, so that no number need be claimed.
    """

    engine: Engine
    store: Store
    now: Callable[[], datetime] = now_in_seconds
    alone: bool = False

    async def record(self, action: Action, set_id: int) -> SetMeta:
        """Draw set `set_id` of `action`, keep it, and register it in the manifest.

        Raises:
            EngineError: the engine could not draw it, or drew something unusable.
            NumberTaken: a set of that number is there, of another recipe; it is left alone.
            StoreError: it could not be kept.
            FormatError: the store's manifest cannot be understood.
        """
        return await self.record_planned(PlannedSet.of(action, set_id))

    async def record_planned(self, planned: PlannedSet) -> SetMeta:
        """The same for a set that comes without its cue sheet.

        Raises:
            EngineError, StoreError, FormatError: as `record` does.
        """
        if isinstance(self.engine, WarmingEngine):
            await self.engine.prepare(planned.recipe)
        return await self._keep(planned, self.engine.render(planned.recipe), self.engine)

    async def record_batch(
        self, engine: BatchEngine, action: Action, set_ids: Sequence[int]
    ) -> AsyncGenerator[SetMeta, None]:
        """Draw several sets of an action together; each is whole when its meta comes.

        Args:
            engine: this recorder's, which can.
            action: whose sets.
            set_ids: which.

        Raises:
            EngineError, StoreError, FormatError: as `record` does; what came before is kept.
        """
        planned = [PlannedSet.of(action, set_id) for set_id in set_ids]
        seeds = [each.recipe.seed for each in planned]
        async with engine.render_batch(action.recipe, seeds) as sets:
            for each in planned:
                drawn = await anext(sets, None)
                if drawn is None or drawn.seed != each.recipe.seed:
                    raise DrawingFailed(f"{engine.name} drew other pictures than it was asked for")
                yield await self.keep(each, drawn)

    async def keep(self, planned: PlannedSet, drawn: DrawnSet) -> SetMeta:
        """Keep a set that the engine has drawn already.

        Raises:
            DrawingFailed: an image is unusable.
            StoreError, FormatError: as `record` does.
        """
        return await self._keep(planned, aclosing(each_of(drawn.images)), drawn)

    async def _keep(
        self,
        planned: PlannedSet,
        drawing: AbstractAsyncContextManager[AsyncIterator[StepImage]],
        timed: Engine | DrawnSet,
    ) -> SetMeta:
        """Keep what is drawn as it comes, then the meta, and register it."""
        action_id, set_id, recipe = planned.action_id, planned.set_id, planned.recipe
        if not self.alone and not await claim(self.store, action_id, set_id, recipe.fingerprint):
            raise NumberTaken(action_id, set_id)
        await self.store.delete(meta_key(action_id, set_id))
        durations: dict[str, float | None] = {}
        latency: float | None = None
        files: dict[str, FileFacts] = {}
        finished, asked = False, time.monotonic()
        async with (
            uploads(self.store) as upload,
            drawing as images,
            aclosing(_checked(images)) as checked,
        ):
            async for image in checked:
                if image.step == 1:
                    latency = latency_of(image, time.monotonic() - asked)
                # The last numbered image of a run without previews is its final one.
                alone = image.final and image.step == 1
                stem = FINAL if image.final and not alone else str(image.step)
                name = f"{stem}.{extension_for(image.media_type)}"
                await upload(image_key(action_id, set_id, name), image.image)
                durations[stem] = max(round(image.duration, 6), 1e-6)
                files[name] = await offload_large(
                    len(image.image), partial(FileFacts.of, image.image)
                )
                finished = image.final
        if not finished:
            raise DrawingFailed(f"{self.engine.name} ended without a final image")
        meta = SetMeta(
            cue_id=action_id,
            set_id=set_id,
            total_steps=sum(1 for stem in durations if stem != FINAL),
            durations=durations,
            total_duration=round(sum(d for d in durations.values() if d is not None), 6),
            generated_at=self.now(),
            config=model_config(recipe, planned.description.program),
            seed=recipe.seed,
            fingerprint=recipe.fingerprint,
            engine=self.engine.name,
            timing=timed.timing,
            latency=latency,
            files=files,
        )
        await self.store.put(config_key(action_id), dump_config(planned.entry))
        await self.store.put(meta_key(action_id, set_id), dump_meta(meta))
        await register(self.store, action_id, planned.entry, set_id)
        if not self.alone:
            await release(self.store, action_id, set_id, recipe.fingerprint)
        return meta


def latency_of(image: StepImage, elapsed: float) -> float | None:
    """What preceded the first step of a run.

    Args:
        image: its first.
        elapsed: seconds after which that came.

    Returns:
        Seconds, as the engine knows it, else as it was seen from here. None where neither is
        known, as of pictures drawn before, or where the engine was not ready.
    """
    seconds = image.latency
    if seconds is None:
        seconds = elapsed - image.waited - image.duration
    return round(seconds, 6) if 0 <= seconds <= MAX_LATENCY else None


def recipe_of_set(recipe: Recipe, set_id: int) -> Recipe:
    """An action's recipe with the seed of one of its sets."""
    return recipe.with_seed(seed_for(recipe.fingerprint, set_id))


async def found_set(store: Store, planned: PlannedSet) -> SetMeta | None:
    """A set that is there already, whole as far as its meta tells, and drawn from its recipe.

    It is registered in the manifest, where whoever drew it was stopped before that.

    Raises:
        StoreError: the store could not be read or written.
        FormatError: the store's manifest cannot be understood.
    """
    try:
        found = await Library(store).open_set(planned.action_id, planned.set_id)
    except BrokenSet:
        return None
    if found.meta.fingerprint != planned.recipe.fingerprint:
        return None
    await register(store, planned.action_id, planned.entry, planned.set_id)
    return found.meta


Upload = Callable[[Key, bytes], Awaitable[None]]


@asynccontextmanager
async def uploads(store: Store) -> AsyncIterator[Upload]:
    """Keep files beside the drawing, a few at once; on leaving, all are kept.

    A far store takes longer for a file than an engine for a step: one after the other, the
    engine would wait for the line.

    Raises:
        StoreError: one could not be kept; at the next one, or on leaving.
    """
    gate = asyncio.Semaphore(_UPLOADS)
    tasks: list[asyncio.Task[None]] = []

    async def put(key: Key, data: bytes) -> None:
        try:
            await store.put(key, data)
        finally:
            gate.release()

    async def upload(key: Key, data: bytes) -> None:
        for task in tasks:
            if task.done():
                task.result()  # raises what went wrong with an earlier one
        await gate.acquire()
        tasks.append(asyncio.create_task(put(key, data)))

    try:
        yield upload
        await asyncio.gather(*tasks)
    finally:
        await cancel_and_wait(*tasks)


async def _checked(images: AsyncIterator[StepImage]) -> AsyncGenerator[StepImage, None]:
    """The engine's images: counted from 1, timed, whole, the final one fit to be looked at."""
    number, finished = 0, False
    async for image in images:
        number += 1
        what = "the final image" if image.final else f"the preview of step {number}"
        if finished or image.step != number:
            found = f"step {image.step}" + (" after the final image" if finished else "")
            raise DrawingFailed(f"expected step {number}, found {found}")
        if not 0 < image.duration <= MAX_DURATION:
            raise DrawingFailed(f"{what}: expected a duration in seconds, found {image.duration}")
        await _check_image(image, what)
        finished = image.final
        yield image


async def _check_image(image: StepImage, what: str) -> None:
    try:
        name = f"{image.step}.{extension_for(image.media_type)}"
        if not image.final:
            check_image(image.image, name)
            return
        decoded = await asyncio.to_thread(decode_check, image.image, name)
    except ValueError as error:  # `BadImage`, and a media type that no store keeps
        raise DrawingFailed(f"{what} cannot be read: {error}") from error
    if decoded.is_flat:
        raise DrawingFailed(f"{what} is all one colour")
