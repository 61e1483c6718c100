"""The sketch engine: no model and no download, and yet a picture worth looking at.

It paints with numpy and Pillow whatever the prompt suggests, and shows it coming out of the
noise as a diffusion model would. Rehearsals, the demo, tests and the last rung of a live
ladder need nothing else. It only plays at drawing, so its durations are nominal: fixed by the
recipe, and kept as a rhythm when it is waited for (`SketchEngine.wait`).
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
import numpy as np

from generator.engines.pictures import base_of, encoded
from generator.engines.pooled import PooledEngine, process_pool
from generator.engines.port import Engine, StepImage, Timing
from generator.engines.sketch.diffusion import OracleDenoiser, progressions, timesteps
from generator.engines.sketch.painting.painter import paint, stream
from generator.engines.sketch.settings import SketchSection
from generator.sheet.recipe import PipelineKind, Recipe

NAME = "sketch 1"
"""The number goes up when the same recipe gives other pixels."""

DEFAULT_PACE: float = SketchSection.model_fields["pace"].default
"""Nominal seconds a step."""

_FINAL_SECONDS = 0.35
_LATENCY = 0.06
"""Nominal seconds from asking to the first step."""
_WARM_UP = 1.6
"""The first step against the others."""
_SPREAD = 0.03
_HICCUP_CHANCE = 0.04
_PREVIEW_QUALITY, _FINAL_QUALITY = 80, 88


@contextmanager
def open_engine(settings: SketchSection, *, wait: bool, processes: int) -> Iterator[Engine]:
    """See `LocalSection.open`."""
    if processes == 1:
        yield SketchEngine(pace=settings.pace, wait=wait)
        return
    with process_pool(processes) as pool:
        yield PooledEngine(NAME, draw_set, settings.pace, pool)


def denoising_timesteps(recipe: Recipe) -> tuple[int, ...]:
    """The descending timesteps of a recipe's previews; empty where strength leaves none.

    Image-to-image skips the first part of the schedule, as ``get_timesteps`` of diffusers'
    img2img pipelines does: ``min(int(steps * strength), steps)`` steps remain.
    """
    schedule = timesteps(recipe.steps)
    if recipe.strength is None:
        return schedule
    count = min(int(recipe.steps * recipe.strength), recipe.steps)
    return schedule[len(schedule) - count :]


def nominal_durations(recipe: Recipe, pace: float = DEFAULT_PACE) -> list[float]:
    """Seconds of every preview and of the final image, as `draw` reports them.

    Args:
        recipe: the seed counts too, so that no two sets have the same rhythm.
        pace: seconds a step in the mean.
    """
    rng = stream(recipe, "rhythm")
    count = len(denoising_timesteps(recipe))
    seconds = pace * np.exp(rng.normal(0.0, _SPREAD, count))
    hiccups = rng.random(count) < _HICCUP_CHANCE
    seconds[hiccups] *= 1.0 + rng.random(int(hiccups.sum())) * 0.6 + 0.15
    seconds[:1] *= _WARM_UP
    final = _FINAL_SECONDS * float(np.exp(rng.normal(0.0, _SPREAD)))
    return [round(float(value), 4) for value in (*seconds, final)]


def nominal_latency(recipe: Recipe) -> float:
    """Seconds from asking to the first step, as `draw` reports them."""
    return round(_LATENCY * float(np.exp(stream(recipe, "latency").normal(0.0, 0.1))), 4)


def draw(recipe: Recipe, pace: float = DEFAULT_PACE) -> Iterator[StepImage]:
    """Draw a recipe in the calling thread, one image at each step, as fast as it goes.

    Args:
        recipe: what to draw.
        pace: nominal seconds a step, for the durations reported; nothing waits.

    Yields:
        The previews and then the final image, JPEG, of the recipe's size.

    Raises:
        RecipeRefused: the base image cannot be decoded.
    """
    return timed(_frames(recipe), recipe, pace)


def _frames(recipe: Recipe) -> Iterator[bytes]:
    schedule = denoising_timesteps(recipe)
    base = base_of(recipe) if recipe.kind is PipelineKind.IMAGE_TO_IMAGE else None
    if base is not None and not schedule:
        yield encoded(base, "JPEG", _FINAL_QUALITY)
        return
    final = paint(recipe, base)
    denoiser = OracleDenoiser(final, stream(recipe, "noise"), recipe.steps, base)
    for timestep, progress in zip(schedule, progressions(len(schedule)), strict=True):
        yield encoded(denoiser.preview(timestep, progress), "JPEG", _PREVIEW_QUALITY)
    yield encoded(final, "JPEG", _FINAL_QUALITY)


def timed(frames: Iterable[bytes], recipe: Recipe, pace: float) -> Iterator[StepImage]:
    """The previews and the final image of a recipe, each at its nominal time."""
    timesteps = (*map(float, denoising_timesteps(recipe)), None)
    planned = zip(timesteps, nominal_durations(recipe, pace), frames, strict=True)
    for step, (timestep, duration, image) in enumerate(planned, 1):
        latency = nominal_latency(recipe) if step == 1 else None
        final = timestep is None
        yield StepImage(step, len(timesteps), final, timestep, duration, image, latency=latency)


def draw_set(recipe: Recipe, pace: float = DEFAULT_PACE) -> list[StepImage]:
    """`draw` to the end: what a process pool maps over recipes.

    Raises:
        RecipeRefused: the base image cannot be decoded.
    """
    return list(draw(recipe, pace))


@dataclass(frozen=True)
class PaintingEngine:
    """An engine that only plays at drawing.

    Attributes:
        name: what draws, with its version.
        timing: always ``simulated``.
        pace: nominal seconds a step.
        wait: keep that rhythm, against absolute deadlines, for live use; otherwise images
            come as fast as they are drawn, for recording. Reported durations are the same.
    """

    name: ClassVar[str]
    timing: ClassVar[Timing] = "simulated"

    pace: float = DEFAULT_PACE
    wait: bool = True

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe` in a worker thread; leaving ends it within the step being drawn.

        Raises:
            RecipeRefused: the base image cannot be decoded; at the first image.
        """
        return aclosing(_played(self._draw(recipe), wait=self.wait))

    @abstractmethod
    def _draw(self, recipe: Recipe) -> Iterator[StepImage]:
        """Draw in the calling thread, an image each time it is advanced."""


class SketchEngine(PaintingEngine):
    """The embedded engine."""

    name: ClassVar[str] = NAME

    def _draw(self, recipe: Recipe) -> Iterator[StepImage]:
        return draw(recipe, self.pace)


async def _played(drawing: Iterator[StepImage], *, wait: bool) -> AsyncGenerator[StepImage, None]:
    """Take images from a drawing step by step in worker threads.

    Args:
        drawing: does its work when it is advanced.
        wait: hand each image out when its duration has passed since the one before was
            due, by absolute deadlines: no drift, and lateness is caught up.
    """
    due = time.monotonic()
    while (image := await _advanced(drawing)) is not None:
        if wait:
            due += (image.latency or 0.0) + image.duration
            await asyncio.sleep(due - time.monotonic())
        yield image


async def _advanced(drawing: Iterator[StepImage]) -> StepImage | None:
    """The next image of a drawing; None at its end. Never leaves its thread behind."""
    step = asyncio.ensure_future(asyncio.to_thread(next, drawing, None))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        # A thread cannot be stopped: the step is let finish before the context is left. The
        # shield is for scopes of anyio, which cancel every await anew.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({step})
        if not step.cancelled():
            step.exception()  # looked at, so that asyncio does not complain of it unseen
        raise
