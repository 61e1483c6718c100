"""The diffusers engine: real diffusion, on this machine's GPU or, for patience, its CPU.

Draws with models of the SD 1.5, SDXL, SD3 and Flux families. Drawing happens in a thread of
the engine's own; a second one decodes and encodes previews beside the next step (on CUDA in
a stream of its own), so that looking on costs the drawing next to nothing. Importing this
module imports neither torch nor diffusers: the drawing thread does, when it first draws.
That stalls the interpreter for a while, so keep the engine in a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
import random
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    closing,
)
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, ClassVar, TypeVar

import anyio

from generator.engines.diffusers.faults import Cancelled, is_out_of_memory
from generator.engines.diffusers.settings import DiffusersSection
from generator.engines.port import (
    DrawnSet,
    EngineError,
    EnginePoisoned,
    EngineUnavailable,
    StepImage,
    Timing,
)
from generator.sheet.recipe import Recipe

if TYPE_CHECKING:
    from generator.engines.diffusers.drawing import Studio

_ON_A_GPU = 4
"""Pictures drawn at once where nothing is said. On a CPU one: together they take as long."""

_IMAGES_WAITING = 4
"""Images that a slow reader may leave waiting before the drawing waits for it."""

Profile = tuple[float, ...]
"""What one run of a recipe took, alone: seconds of each preview in order, and last of the final
image."""

T = TypeVar("T")


def open_engine(
    settings: DiffusersSection, *, wait: bool, processes: int
) -> AbstractContextManager[DiffusersEngine]:
    """See `LocalSection.open`."""
    del wait, processes
    return closing(DiffusersEngine(settings))


@dataclass(eq=False)
class DiffusersEngine:
    """Draws with diffusers, one recipe at a time; who comes meanwhile waits in line.

    Usable from one event loop after another. What is loaded stays loaded until `close`.

    Args:
        settings: device, previews and how many models to keep.
        precision: name of a `torch.dtype`; None takes float32 on a CPU, float16 for U-Nets (SD 1.5,
            SDXL) and bfloat16 for transformers (SD3, Flux) elsewhere.
        tiny_decoder: name or path of the tiny decoder; None takes the one for the model.
    """

    settings: DiffusersSection
    _: KW_ONLY
    precision: str | None = None
    tiny_decoder: str | None = None
    timing: ClassVar[Timing] = "measured"
    """Of one picture; a `DrawnSet` of a batch says its own."""

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffusers-drawing")
        self._studio: Studio | None = None
        self._poison: EnginePoisoned | None = None
        self._profiles: dict[str, Profile] = {}
        self._fits: dict[tuple[str, int, int], int] = {}

    @property
    def name(self) -> str:
        """What draws, with its version."""
        try:
            return f"diffusers {importlib.metadata.version('diffusers')}"
        except importlib.metadata.PackageNotFoundError:
            return "diffusers (not installed)"

    @property
    def batch_size(self) -> int:
        """How many are drawn at once; 1 until it is known what is drawn on."""
        if self.settings.batch_size is not None:
            return self.settings.batch_size
        on_a_gpu = self._studio is not None and self._studio.device.startswith("cuda")
        return _ON_A_GPU if on_a_gpu else 1

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe`; leaving ends it within the step being drawn.

        A model being loaded is let finish loading first: that cannot be broken off.

        Raises:
            RecipeRefused: the model, scheduler, adapter or base image cannot be used.
            DrawingFailed: it broke off, memory ran out, or the final image is no picture.
            EnginePoisoned: the GPU is lost to this process, which should end.
            EngineUnavailable: diffusers is not installed.
        """
        return self._drawing(partial(self._draw_one, recipe, time.perf_counter()))

    def render_batch(
        self, recipe: Recipe, seeds: Sequence[int]
    ) -> AbstractAsyncContextManager[AsyncIterator[DrawnSet]]:
        """Draw one picture of `recipe` for each seed, several at once.

        Those that are drawn alone are ``measured``. One is where this engine has not timed the
        recipe yet: its profile serves those that are drawn together, which are ``profiled``.
        Where memory does not suffice for a batch, half of it is drawn, in the end one.

        Raises:
            EngineError: as `render`; sets handed out before are whole.
        """
        return self._drawing(partial(self._draw_batch, recipe, list(seeds)))

    async def prepare(self, recipe: Recipe) -> None:
        """Load and draw briefly, where a first run is slower than others: see `WarmingEngine`.

        Raises:
            EngineError: as `render`.
        """

        def draw(_: Callable[[None], None], cancelled: Callable[[], bool]) -> None:
            studio = self._opened()
            if not studio.is_warm(recipe):
                studio.warm_up(recipe, cancelled)

        async with self._drawing(draw) as nothing:
            async for _ in nothing:
                pass

    def close(self) -> None:
        """Wait for what is being drawn, forget the models and end the threads."""
        self._thread.shutdown(wait=True)
        if self._studio is not None:
            self._studio.close()
            self._studio = None

    @asynccontextmanager
    async def _drawing(
        self, draw: Callable[[Callable[[T], None], Callable[[], bool]], None]
    ) -> AsyncIterator[AsyncIterator[T]]:
        """Run `draw` in the drawing thread, hand out what it puts, and see it ended."""
        if self._poison is not None:
            raise self._poison
        loop, images = asyncio.get_running_loop(), asyncio.Queue[T | None]()
        room, left = threading.Semaphore(_IMAGES_WAITING), threading.Event()

        # The thread never waits for the loop, which may be waiting for it in `close`.
        def put(item: T) -> None:
            room.acquire()
            if left.is_set():
                room.release()  # for whatever else waits
                raise Cancelled
            loop.call_soon_threadsafe(images.put_nowait, item)

        def work() -> None:
            try:
                draw(put, left.is_set)
            except Cancelled:
                pass
            except EnginePoisoned as poisoned:
                self._poison = poisoned
                raise
            finally:
                if not left.is_set():
                    loop.call_soon_threadsafe(images.put_nowait, None)

        async def taken() -> AsyncGenerator[T, None]:
            while (item := await images.get()) is not None:
                room.release()
                yield item
            await asyncio.wrap_future(job)  # raises what it broke off with

        job = self._thread.submit(work)
        try:
            async with aclosing(taken()) as items:
                yield items
        finally:
            left.set()
            room.release()
            await _ended(job)

    def _opened(self) -> Studio:
        if self._studio is None:
            # They speak of every optional package they do without, when they are imported.
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
            try:
                from generator.engines.diffusers.drawing import Studio  # noqa: PLC0415 - an extra
            except ImportError as error:
                raise EngineUnavailable(
                    f"torch and diffusers are not installed here ({error}): "
                    "pip install 'understudy[diffusers]'"
                ) from error
            self._studio = Studio(self.settings, self.precision, self.tiny_decoder)
        return self._studio

    def _draw_one(
        self,
        recipe: Recipe,
        asked: float,
        put: Callable[[StepImage], None],
        cancelled: Callable[[], bool],
    ) -> None:
        studio = self._opened()
        warm = studio.is_warm(recipe)
        durations: list[float] = []

        def emit(_: int, image: StepImage) -> None:
            durations.append(image.duration)
            put(image)

        studio.draw(recipe, [recipe.seed], emit, cancelled, asked=asked)
        if warm:  # else its first steps took longer than others' will
            self._profiles.setdefault(recipe.fingerprint, tuple(durations))

    def _draw_batch(
        self,
        recipe: Recipe,
        seeds: list[int],
        put: Callable[[DrawnSet], None],
        cancelled: Callable[[], bool],
    ) -> None:
        studio, key = self._opened(), recipe.fingerprint
        if len(seeds) > 1 and not studio.is_warm(recipe):
            studio.warm_up(recipe, cancelled)
        kind = (recipe.model, recipe.width, recipe.height)
        while seeds:
            size = min(self.batch_size, self._fits.get(kind, self.batch_size))
            now = seeds[: size if key in self._profiles else 1]
            try:
                sets = _drawn(studio, recipe, now, cancelled)
            except EngineError as error:
                cause = error.__cause__
                if len(now) == 1 or cause is None or not is_out_of_memory(cause):
                    raise
                self._fits[kind] = len(now) // 2
                del error, cause  # they hold what was drawn so far
                gc.collect()
                continue
            alone = len(now) == 1
            for seed, images in zip(now, sets, strict=True):
                if alone:
                    took = tuple(image.duration for image in images)
                    self._profiles.setdefault(key, took)
                    put(DrawnSet(seed, images, "measured"))
                    continue
                durations = sample(self._profiles[key], seed)
                timed = zip(images, durations, strict=True)
                fitted = tuple(replace(image, duration=seconds) for image, seconds in timed)
                put(DrawnSet(seed, fitted, "profiled"))
            del seeds[: len(now)]


def _drawn(
    studio: Studio, recipe: Recipe, seeds: Sequence[int], cancelled: Callable[[], bool]
) -> list[tuple[StepImage, ...]]:
    """The images of each seed, drawn together."""
    sets: list[list[StepImage]] = [[] for _ in seeds]
    studio.draw(recipe, seeds, lambda index, image: sets[index].append(image), cancelled)
    return [tuple(images) for images in sets]


async def _ended(job: Future[None]) -> None:
    """Wait until a job of the drawing thread has ended, or was not begun and never will be."""
    if job.cancel():
        return
    # A thread cannot be stopped; the shield is for scopes of anyio, which cancel every await.
    with anyio.CancelScope(shield=True):
        # What it broke off with has been told, or nobody stayed to hear it.
        await asyncio.gather(asyncio.wrap_future(job), return_exceptions=True)


def sample(profile: Profile, seed: int) -> list[float]:
    """Durations as another run of the recipe might have had them.

    Every step's is one that the profiled run really took for some step (a bootstrap, so
    the spread is the machine's own). The first step and the final image, of which a run
    has but one each, are scaled by a step's deviation from the median step.

    Args:
        profile: of the run that was timed.
        seed: the picture's; the same gives the same durations.
    """
    if len(profile) <= 2:  # noqa: PLR2004 - no step beside the first and the final
        return list(profile)
    rng = random.Random(seed)
    first, *steady, final = profile
    usual = median(steady)
    drawn = [rng.choice(steady) for _ in steady]
    return [first * _ratio(steady, usual, rng), *drawn, final * _ratio(steady, usual, rng)]


def _ratio(steady: Sequence[float], usual: float, rng: random.Random) -> float:
    return rng.choice(steady) / usual if usual > 0 else 1.0
