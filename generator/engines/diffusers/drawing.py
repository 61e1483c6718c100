"""Draws, in the calling thread: from a recipe and seeds to previews and final images."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import torch
from PIL import Image

from generator.engines.diffusers.faults import Cancelled, is_out_of_memory, translated
from generator.engines.diffusers.pipelines import (
    Model,
    Models,
    best_device,
    call_arguments,
    decoded,
    unpacked,
)
from generator.engines.diffusers.previews import decoder_for
from generator.engines.diffusers.schedulers import StepWatch, fresh_scheduler
from generator.engines.diffusers.settings import DiffusersSection
from generator.engines.diffusers.timing import DeviceClock, clock_for
from generator.engines.diffusers.untyped import Mark, Pipeline, Tensor
from generator.engines.pictures import (
    FINAL_QUALITY,
    PREVIEW_QUALITY,
    base_as_final,
    base_of,
    encoded,
)
from generator.engines.port import DrawingFailed, StepImage
from generator.sheet.recipe import PipelineKind, Recipe

Emit = Callable[[int, StepImage], None]
"""Takes an image of the picture at a place among the seeds; called from two threads in turn."""

_PREVIEWS_WAITING = 8
"""Steps whose previews may be unfinished; beyond that the drawing waits."""
_WARM_UP_STEPS = 2
_TO_BE_WAITED_FOR = 0.05
"""Seconds: a drawing that begins sooner has waited for nothing but its own beginning."""

_FLAT_SPAN = 4 / 255
"""A picture whose channels span no more is one colour to the eye: see `cache.model.images`."""

ALWAYS_WARM = frozenset({"cpu"})
"""Devices on which a first run takes no longer than others, once its model is loaded."""


class Studio:
    """Everything that drawing needs and that outlives a run; used by one thread.

    Args:
        settings: how it draws.
        precision: see `DiffusersEngine`, also of `tiny_decoder`.
    """

    def __init__(
        self, settings: DiffusersSection, precision: str | None, tiny_decoder: str | None
    ) -> None:
        self._settings = settings
        self._tiny_decoder = tiny_decoder
        self.device = settings.device or best_device()
        self._models = Models(settings, self.device, precision)
        self._clock = clock_for(self.device)
        self._previewer = ThreadPoolExecutor(1, thread_name_prefix="diffusers-previews")

    def draw(
        self,
        recipe: Recipe,
        seeds: Sequence[int],
        emit: Emit,
        cancelled: Callable[[], bool],
        *,
        asked: float | None = None,
    ) -> None:
        """Draw a picture for each seed, all at once.

        Args:
            recipe: what; its own seed is not looked at.
            seeds: one for each picture.
            emit: is given every image, the final one of each picture last.
            cancelled: asked at each step whether to leave off.
            asked: when it was asked for, by `time.perf_counter`; by default now.

        Raises:
            Cancelled: it left off.
            EngineError: it could not, or what it drew is unusable.
        """
        run: _PipelineCall | None = None
        try:
            _leave_off_if(cancelled)
            asked = time.perf_counter() if asked is None else asked
            if recipe.is_base_itself:
                final = base_as_final(recipe)
                for index in range(len(seeds)):
                    emit(index, final)
                return
            base = base_of(recipe) if recipe.base_image is not None else None
            model = self._fetched(recipe)
            waited = time.perf_counter() - asked
            _leave_off_if(cancelled)
            run = _PipelineCall(
                model,
                recipe,
                clock=self._clock,
                previewer=self._previewer,
                emit=emit,
                cancelled=cancelled,
                asked=asked,
                waited=waited if waited > _TO_BE_WAITED_FOR else 0.0,
            )
            run.go(seeds, base)
            model.warm.add((recipe.kind, recipe.width, recipe.height))
        except Cancelled:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                traceback.clear_frames(error.__traceback__)  # they hold tensors
                self._models.forget(but=recipe.model)  # so that another try has more room
            raise translated(error, begun=run is not None and run.steps_drawn > 0) from error

    def warm_up(self, recipe: Recipe, cancelled: Callable[[], bool]) -> None:
        """Load a recipe's model and draw two steps at its size, shown to nobody.

        The first run at a size is slower on a GPU. Does nothing where that has been.

        Raises:
            Cancelled: it left off.
            EngineError: as `draw`.
        """
        short = {"steps": _WARM_UP_STEPS}
        if recipe.kind is PipelineKind.IMAGE_TO_IMAGE:
            short["strength"] = 1
        try:
            warm = self._fetched(recipe).warm
        except Exception as error:
            raise translated(error, begun=False) from error
        if (recipe.kind, recipe.width, recipe.height) not in warm:
            self.draw(
                recipe.model_copy(update=short),
                [recipe.seed],
                lambda _index, _image: None,
                cancelled,
            )

    def is_warm(self, recipe: Recipe) -> bool:
        """Whether a run of this recipe now takes as long as any later one."""
        if self.device in ALWAYS_WARM:
            return True
        model = self._models.kept(recipe.model)
        return model is not None and (recipe.kind, recipe.width, recipe.height) in model.warm

    def close(self) -> None:
        """Forget the models and end the preview thread."""
        self._previewer.shutdown(wait=True, cancel_futures=True)
        self._models.forget()

    def _fetched(self, recipe: Recipe) -> Model:
        model = self._models.fetch(recipe)
        if model.decoder is None:
            model.decoder = decoder_for(model.text, self._settings, self.device, self._tiny_decoder)
        return model


@dataclass(eq=False)
class _PipelineCall:
    """One call of a pipeline, watched step by step.

    Durations: the first step's begins before the prompt is encoded, the final image's ends
    when it is encoded, so that together they are all of the drawing. Left out is what a
    callback does between steps, and the wait for the last previews: whoever reads them
    slowly, as a far store does, slows down no replay.
    """

    model: Model
    recipe: Recipe
    _: KW_ONLY
    clock: DeviceClock
    previewer: ThreadPoolExecutor
    emit: Emit
    cancelled: Callable[[], bool]
    asked: float
    waited: float

    def __post_init__(self) -> None:
        self._latency: float | None = None
        self._pipeline = self.model.pipeline(self.recipe.kind)
        self._pipeline.scheduler = fresh_scheduler(self.model.scheduler, self.recipe.scheduler)
        self._watch = StepWatch(self._pipeline.scheduler)
        self._jobs: deque[Future[None]] = deque()
        self._given_up = threading.Event()
        self._begun: Mark = None
        self._ended_before: Mark = None
        self.steps_drawn = 0

    def go(self, seeds: Sequence[int], base: Image.Image | None) -> None:
        """Draw; everything is emitted, or it is raised, and nothing runs on."""
        try:
            arguments = call_arguments(self._pipeline, self.recipe, seeds, base)
            self._latency = max(0.0, time.perf_counter() - self.asked - self.waited)
            self._begun = self.clock.mark()
            latents = self._pipeline(callback_on_step_end=self._on_step_end, **arguments)[0]
            left = self.clock.mark()
            while self._jobs:
                self._jobs.popleft().result()
            after_steps = self.clock.seconds(self._begun, left)
            self._finish(unpacked(self._pipeline, latents, self.recipe), after_steps)
        finally:
            self._given_up.set()
            while self._jobs:
                self._jobs.popleft().exception()
            self._pipeline.scheduler = self.model.scheduler

    def _on_step_end(
        self, pipeline: Pipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Diffusers' callback, once its step is launched."""
        del index
        ended = self.clock.mark()
        _leave_off_if(self.cancelled)
        self.steps_drawn += 1
        end = self._watch.take(tensors["latents"])
        self._jobs.append(
            self.previewer.submit(
                self._preview,
                (self.steps_drawn, int(pipeline.num_timesteps) + 1),
                end,
                timestep,
                (self._begun, ended),
            )
        )
        while self._jobs and (self._jobs[0].done() or len(self._jobs) > _PREVIEWS_WAITING):
            self._jobs.popleft().result()
        # One step ahead of the device keeps it busy; more would put off a cancellation.
        if self._ended_before is not None:
            self.clock.catch_up(self._ended_before)
        self._ended_before = ended
        self._begun = self.clock.mark()
        return {}

    def _preview(
        self, place: tuple[int, int], end: Tensor, timestep: Tensor, marks: tuple[Mark, Mark]
    ) -> None:
        """Decode, encode and emit a step's previews; in the previews' thread."""
        if self._given_up.is_set():
            return
        recipe, (step, steps), (begun, ended) = self.recipe, place, marks
        size = (recipe.width, recipe.height)
        with torch.no_grad(), self.clock.beside(ended, end):
            decoder = self.model.decoder
            pictures = decoder(unpacked(self._pipeline, end, recipe))
            images = [_to_image(pixels, size) for pixels in pictures]
            moment = float(timestep)
        duration = self.clock.seconds(begun, ended)
        for index, image in enumerate(images):
            data = encoded(image, "JPEG", PREVIEW_QUALITY)
            preview = StepImage(step, steps, False, moment, duration, data)
            self.emit(index, self._dated(preview) if step == 1 else preview)

    def _finish(self, latents: Tensor, after_steps: float) -> None:
        """Decode the finished latents one by one, and emit what comes of them.

        Args:
            latents: shape (batch, channels, height, width).
            after_steps: seconds of drawing from the last step's end to here.
        """
        recipe, step = self.recipe, self.steps_drawn + 1
        for index in range(len(latents)):
            _leave_off_if(self.cancelled)
            begun = self.clock.mark()
            with torch.no_grad():
                pixels = decoded(self._pipeline, latents[index : index + 1])[0]
            image = _to_image(pixels, (recipe.width, recipe.height))
            _check_not_flat(pixels)
            data = encoded(image, "JPEG", FINAL_QUALITY)
            duration = after_steps + self.clock.seconds(begun, self.clock.mark())
            final = StepImage(step, step, True, None, duration, data)
            self.emit(index, self._dated(final) if step == 1 else final)

    def _dated(self, first: StepImage) -> StepImage:
        """A first image, with what preceded it."""
        return replace(first, latency=self._latency, waited=self.waited)


def _leave_off_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled


def _to_image(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """A picture of a tensor, brought to a size.

    Args:
        pixels: shape (3, height, width), 0 to 1, on any device.
        size: (width, height) in pixels.

    Raises:
        DrawingFailed: a value is not a number.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise DrawingFailed("values that are no numbers, as a decoder in half precision gives them")
    codes = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(codes.cpu().numpy()))
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _check_not_flat(pixels: Tensor) -> None:
    """Refuse a picture that is all one colour: black, after a decoder's failure.

    Args:
        pixels: shape (3, height, width), 0 to 1.

    Raises:
        DrawingFailed: it is.
    """
    shown = pixels.clamp(0, 1).flatten(1)
    if bool(((shown.amax(1) - shown.amin(1)) <= _FLAT_SPAN).all()):
        raise DrawingFailed("the final image is all one colour")
