"""The port through which pictures are drawn, its errors, and a scripted engine for tests.

An engine draws one recipe at a time and knows nothing of who looks: the recorder points
it at a store, the live provider at the stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from generator.sheet.recipe import Recipe

Timing = Literal["measured", "profiled", "simulated"]
"""How step durations came about.

``measured``: this very run was timed. ``profiled``: drawn in a batch, timed by a single
run's profile on the same machine. ``simulated``: made up by an engine that only plays at
drawing, such as sketch.
"""


Priority = Literal["show"]
"""For whom an engine that several ask draws first: the show. None is everybody else."""


_PASSES, _FEW = 10, 100


class EngineError(Exception):
    """An engine could not draw.

    EngineError
      EngineUnavailable   nothing answers there now; another try later may do
        EngineStarting    it is on its way, and nothing is wrong with it
        EngineDenied      it does not let us in, and will not before somebody changes that
        EnginePoisoned    nor will it ever in this process; another process may
        EnginePreempted   it was taken for the show, and is free again afterwards
        EngineOccupied    it draws for somebody else, and gets on with it
      RecipeRefused       this engine cannot draw this recipe; no try will
      DrawingFailed       it began and broke off, or drew something unusable
    """


class EngineUnavailable(EngineError):
    """The engine cannot be reached or is not ready; trying later may help."""


class EngineStarting(EngineUnavailable):
    """The engine starts: its process, or its models. Nothing is wrong with it."""


class EngineDenied(EngineUnavailable):
    """The engine wants another token, or none will do."""


class EnginePoisoned(EngineUnavailable):
    """The engine can never draw again in this process, as after a CUDA error.

    Whoever supervises the process should end it and start another.
    """


class EnginePreempted(EngineUnavailable):
    """The engine was drawing, and was taken for the show. Nothing is wrong with it."""


class EngineOccupied(EngineUnavailable):
    """The engine was asked for a proof, and draws for somebody else, which is as good a one."""


class RecipeRefused(EngineError):
    """The engine cannot draw this recipe, however often it is asked."""


class DrawingFailed(EngineError):
    """The drawing began and broke off, or what came out is unusable."""


@dataclass(frozen=True, slots=True)
class StepImage:
    """One picture of a run, in the order drawn.

    Attributes:
        step: 1 for the first preview. The final image has the number after the last preview.
        steps: how many will come in all, the final image included; an engine that finds out
            on the way may correct it.
        final: whether this is the finished picture; exactly the last image of a run is.
        timestep: the scheduler's timestep (descending), None for a final image.
        duration: seconds of drawing since the previous image (or the start). What is done
            beside the drawing, such as making and encoding previews, is left out.
        image: encoded picture.
        media_type: what `image` is, ``image/jpeg`` for one.
        latency: of the first image, seconds from asking to the start of step 1, as the engine
            itself knows it; None where only whoever asks can tell.
        waited: of the first image, seconds before that in which the engine was not ready: it
            drew for somebody else, or loaded a model. Not part of `latency`.
    """

    step: int
    steps: int
    final: bool
    timestep: float | None
    duration: float
    image: bytes
    media_type: str = "image/jpeg"
    latency: float | None = None
    waited: float = 0.0


def check_count(recipe: Recipe, number: int) -> None:
    """Make sure that an engine on another machine comes to an end.

    Schedulers make up to twice as many steps as were asked for, and workflows have several
    passes; one that goes on and on would fill whatever its pictures are kept in.

    Raises:
        DrawingFailed: picture `number` is one too many.
    """
    most = _PASSES * recipe.steps + _FEW
    if number > most:
        raise DrawingFailed(f"it sent more than {most} pictures for {recipe.steps} steps")


async def each_of(images: Sequence[StepImage]) -> AsyncGenerator[StepImage, None]:
    """Images that are drawn already, as an engine hands them out."""
    for image in images:
        yield image


class Engine(Protocol):
    """Draws. `name` says what drew, with its version, and goes into the meta."""

    @property
    def name(self) -> str:
        """What draws, with its version: ``diffusers 0.42.1``."""
        ...

    @property
    def timing(self) -> Timing:
        """How the durations it reports came about."""
        ...

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe`; leaving the context cancels within a step and frees everything.

        Raises:
            EngineError: on entering or while iterating.
        """
        ...


async def draw_for_nobody(engine: Engine, recipe: Recipe) -> None:
    """Draw to the end, and look at nothing: that an engine can is all that is asked.

    Raises:
        EngineError: it cannot, or was taken for the show.
    """
    finished = False
    try:
        async with render_proof(engine, recipe) as images:
            async for image in images:
                finished = image.final
    except EngineOccupied:
        return
    if not finished:
        raise DrawingFailed("it ended without a final image")


@runtime_checkable
class SharedEngine(Engine, Protocol):
    """An engine that draws for others, too: none of them is to be kept from it by a proof."""

    def render_proof(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """As `render`, only to see that it draws; it gives way to what is asked for the show.

        Raises:
            EngineOccupied: while iterating: it draws for somebody else, and gets on with it.
            EnginePreempted: while iterating: it was taken for the show.
            EngineError: as `render`.
        """
        ...


def render_proof(
    engine: Engine, recipe: Recipe
) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
    """Draw `recipe` only to see that `engine` can: `SharedEngine.render_proof` where it has one."""
    if isinstance(engine, SharedEngine):
        return engine.render_proof(recipe)
    return engine.render(recipe)


@dataclass(frozen=True, slots=True)
class DrawnSet:
    """One picture of several that were drawn together, whole.

    Attributes:
        seed: whose picture.
        images: as `Engine.render` hands them out.
        timing: how this one's durations came about.
    """

    seed: int
    images: tuple[StepImage, ...]
    timing: Timing


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """An engine that draws several pictures of one recipe sooner together than one by one."""

    @property
    def batch_size(self) -> int:
        """How many at once are worth asking for now; it may grow once the engine has drawn."""
        ...

    def render_batch(
        self, recipe: Recipe, seeds: Sequence[int]
    ) -> AbstractAsyncContextManager[AsyncIterator[DrawnSet]]:
        """Draw a picture of `recipe` for each seed, in their order, as many at once as it can.

        Raises:
            EngineError: on entering or while iterating; what was handed out before is whole.
        """
        ...


@runtime_checkable
class WarmingEngine(Engine, Protocol):
    """An engine whose first run of a kind takes longer than the others: none to be recorded."""

    async def prepare(self, recipe: Recipe) -> None:
        """See to it that a run of `recipe` takes as long now as any later one.

        Raises:
            EngineError: as `Engine.render`.
        """
        ...


@dataclass(frozen=True)
class ScriptedEngine:
    """An engine for tests: hands out given images, then perhaps fails, or says nothing more.

    Attributes:
        images: what it hands out.
        error: what it raises after them; None for nothing.
        pause: seconds before each image.
        first: seconds before the first one, as of an engine that is cold; None for `pause`.
        hangs: whether, after its images, it neither ends nor fails.
        sleep: how it waits: `asyncio.sleep`, or a virtual clock's.
        asked: every recipe it was given, in order.
        left: every recipe whose drawing was left again, finished or not.
    """

    images: Sequence[StepImage]
    error: EngineError | None = None
    pause: float = 0.0
    first: float | None = None
    hangs: bool = False
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    name: str = "scripted 1"
    timing: Timing = "simulated"
    asked: list[Recipe] = field(default_factory=list, compare=False)
    left: list[Recipe] = field(default_factory=list, compare=False)

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """Play the script, whatever the recipe."""
        self.asked.append(recipe)
        try:
            async with aclosing(self._play()) as images:
                yield images
        finally:
            self.left.append(recipe)

    async def _play(self) -> AsyncGenerator[StepImage, None]:
        for number, image in enumerate(self.images):
            cold = self.first if number == 0 else None
            await self.sleep(self.pause if cold is None else cold)
            yield image
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
