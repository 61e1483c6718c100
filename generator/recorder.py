"""Records an engine into a store: one action's set, measured step by step.

A set exists once its `meta.json` does, so that is written last, and removed first where a
set is drawn again. Whatever interrupts a recording leaves no set, or a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cache.formats import FINAL, MAX_DURATION, FileFacts, SetMeta, dump_meta
from cache.images import check_image, decode_check, extension_for
from cache.index import update_manifest
from cache.keys import config_key, image_key, meta_key
from cache.manifest import ManifestAction, dump_config
from cache.store import Store
from generator.cues import format_time
from generator.engine import DrawingFailed, Engine, StepImage
from generator.plan import Action
from generator.recipe import seed_for


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def manifest_entry(action: Action) -> ManifestAction:
    """What the manifest says of an action."""
    return ManifestAction(
        type=action.type,
        program=action.program,
        prompt=action.prompt,
        steps=action.recipe.steps,
        time=format_time(action.at),
        override_prompt=action.override,
        fingerprint=action.fingerprint,
    )


@dataclass(frozen=True)
class Recorder:
    """Draws sets with an engine and keeps them in a store.

    Args:
        engine: what draws.
        store: where sets go.
        now: the time of day, for the meta.
    """

    engine: Engine
    store: Store
    now: Callable[[], datetime] = _now

    async def record(self, action: Action, set_id: int) -> SetMeta:
        """Draw set `set_id` of `action`, keep it, and register it in the manifest.

        Raises:
            EngineError: the engine could not draw it, or drew something unusable.
            StoreError: it could not be kept.
        """
        recipe = action.recipe.with_seed(seed_for(action.fingerprint, set_id))
        await self.store.delete(meta_key(action.action_id, set_id))
        durations: dict[str, float | None] = {}
        files: dict[str, FileFacts] = {}
        finished = False
        async with self.engine.render(recipe) as images, aclosing(_checked(images)) as checked:
            async for image in checked:
                # The last numbered image of a run without previews is its final one.
                alone = image.final and image.step == 1
                stem = FINAL if image.final and not alone else str(image.step)
                name = f"{stem}.{extension_for(image.media_type)}"
                await self.store.put(image_key(action.action_id, set_id, name), image.image)
                durations[stem] = max(round(image.duration, 6), 1e-6)
                files[name] = FileFacts.of(image.image)
                finished = image.final
        if not finished:
            raise DrawingFailed(f"{self.engine.name} ended without a final image")
        meta = SetMeta(
            cue_id=action.action_id,
            set_id=set_id,
            total_steps=sum(1 for stem in durations if stem != FINAL),
            durations=durations,
            total_duration=round(sum(d for d in durations.values() if d is not None), 6),
            generated_at=self.now(),
            config=_model_config(action),
            seed=recipe.seed,
            fingerprint=action.fingerprint,
            engine=self.engine.name,
            timing=self.engine.timing,
            files=files,
        )
        entry = manifest_entry(action)
        await self.store.put(config_key(action.action_id), dump_config(entry))
        await self.store.put(meta_key(action.action_id, set_id), dump_meta(meta))
        await update_manifest(
            self.store, lambda manifest: manifest.with_set(action.action_id, entry, set_id)
        )
        return meta


def _model_config(action: Action) -> dict[str, Any]:
    recipe = action.recipe
    config: dict[str, Any] = {
        "program": action.program,
        "model": recipe.model,
        "prompt": recipe.prompt,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
        "width": recipe.width,
        "height": recipe.height,
    }
    if recipe.strength is not None:
        config["strength"] = recipe.strength
    return config


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
