"""Mode C: draws while visitors look, and hands every picture on as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from random import Random
from typing import ClassVar

import structlog

from cache.model.images import MAX_PIXELS, BadImage, decode_check
from generator.engines.port import (
    Engine,
    EngineDenied,
    EngineError,
    EngineOccupied,
    EnginePoisoned,
    EnginePreempted,
    EngineStarting,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    render_proof,
)
from generator.sets.recorder import latency_of
from generator.sheet.plan import Action
from generator.sheet.recipe import SEED_LIMIT, Recipe
from server.core.clock import Clock
from server.providers.base import (
    ActionRefused,
    Capped,
    Frame,
    FrameStream,
    NotThere,
    Offload,
    Preempted,
    ProviderError,
    ProviderName,
    Slot,
    Source,
    Starting,
)
from server.providers.budget import Budget
from server.providers.latency import Latencies
from server.providers.timing import TO_THE_WALL, LiveDates

_log = structlog.get_logger(__name__)

LEAD = 0.5
"""Seconds by which a live frame is sent ahead of its moment, the same for every screen."""

_ASKED_LATE = 0.5
"""Seconds after the beginning of its slot from which on a run is one that is joined late."""

BAD_IN_A_ROW = 3
"""Unusable previews one after the other that give an engine away: one may be a hiccup."""

_MOST_TIMES = 64
"""A picture may have so many times the pixels that were asked for: workflows enlarge, and tests
ask for little. More is not decoded: a few kilobytes may say that they are a gigabyte."""


@dataclass(frozen=True, slots=True)
class LiveEngine:
    """An engine that may draw for the stage.

    Attributes:
        name: what it is called in settings, states and logs.
        engine: what draws.
        local: whether it draws on this machine; the ladder tries those elsewhere first.
    """

    name: str
    engine: Engine
    local: bool


@dataclass(eq=False)
class LiveProvider:
    """Plays one engine.

    Args:
        live: which.
        clock: what frames are due by.
        lead: seconds from when a picture should be here to its moment on the wall.
        rng: where seeds come from.
        taken: the seeds of an action's sets, so that none of them is drawn a second time.
        budget: what caps live runs.
        latencies: is told how long the engine took to begin.
        offload: how pictures are looked at without keeping the event loop.
    """

    live: LiveEngine
    clock: Clock
    _: KW_ONLY
    lead: float = LEAD
    rng: Random = field(default_factory=Random)
    taken: Callable[[Action], Collection[int]] = lambda _action: ()
    budget: Budget = field(default_factory=Budget)
    latencies: Latencies = field(default_factory=Latencies)
    offload: Offload = asyncio.to_thread
    name: ClassVar[ProviderName] = "live"

    @asynccontextmanager
    async def open(self, action: Action, slot: Slot) -> AsyncIterator[FrameStream]:
        """Begin to draw `action`, with a seed of its own.

        An engine begins in the noise, whatever `slot` says.

        Raises:
            Capped: no live run is allowed now.
            ProviderError: while iterating: the engine failed, or what it drew is unusable.
            ActionRefused: while iterating: the engine can never draw this.
        """
        now = self.clock.now()
        on_time = slot.leads_in and now - slot.start < self.clock.stretch(_ASKED_LATE)
        asked = slot.start if on_time else now
        refusal = self.budget.refusal(now)
        if refusal is not None:
            raise Capped(refusal)
        seed = self._fresh_seed(action)
        name = f"{self.live.name}: {self.live.engine.name}"
        source = Source(provider="live", engine=name, seed=seed)
        with self.budget.run(now):
            recipe = action.recipe.with_seed(seed)
            async with aclosing(self._frames(recipe, asked)) as frames:
                yield FrameStream(source, action.recipe.steps, (), frames)

    async def prove(self, recipe: Recipe) -> None:
        """Draw `recipe` for nobody to see, after whatever others ask of the engine.

        Where it draws for others meanwhile, and gets on with it, that is proof enough.

        Raises:
            Preempted: it was taken for the show.
            ProviderError: no usable picture came of it.
        """
        seed = self.rng.randrange(SEED_LIMIT)
        with suppress(EngineOccupied):
            async with aclosing(self._usable(recipe.with_seed(seed), proof=True)) as images:
                async for _ in images:
                    pass

    def _fresh_seed(self, action: Action) -> int:
        taken = frozenset(self.taken(action))
        while (seed := self.rng.randrange(SEED_LIMIT)) in taken:
            pass
        return seed

    async def _frames(self, recipe: Recipe, asked: float) -> AsyncGenerator[Frame, None]:
        """The engine's pictures, each due when a replay of the run would show it."""
        margin = self.clock.stretch(TO_THE_WALL)
        stretch = self.clock.stretch  # an engine has real time
        dates = LiveDates(self.lead, margin)
        first, latency = True, None
        async with aclosing(self._usable(recipe)) as usable:
            async for image, arrived in usable:
                begun = None
                if first:
                    first, latency = False, latency_of(image, arrived - asked)
                    if image.latency is not None:
                        begun = asked + stretch(image.waited + image.latency)
                now, duration = self.clock.now(), stretch(image.duration)
                due = dates.due(duration, begun=begun, arrived=arrived, now=now)
                if image.final and latency is not None:
                    self.latencies.learn_run(self.live.engine.name, latency)
                yield Frame(
                    image.step, image.steps, image.final, due, image.image, image.media_type
                )

    async def _usable(
        self, recipe: Recipe, *, proof: bool = False
    ) -> AsyncGenerator[tuple[StepImage, float], None]:
        """What the engine draws and when it came, without previews fit for no wall.

        A duration is told from the usable image before.

        Raises:
            EngineOccupied: asked for a proof, it draws for others.
            ProviderError: it failed, ended too soon, or what it draws is unusable.
        """
        bad, last, finished = 0, 0, False
        first: StepImage | None = None
        passed_over = 0.0
        async with aclosing(self._drawn(recipe, proof=proof)) as images:
            async for image in images:
                if finished:
                    return
                arrived = self.clock.now()
                first = first or image
                try:
                    await self._look_at(image, recipe)
                except ProviderError as error:
                    bad += 1
                    passed_over += image.duration
                    if image.final or bad >= BAD_IN_A_ROW:
                        raise
                    _log.warning("preview_unusable", engine=self.live.name, reason=str(error))
                    continue
                bad, last = 0, max(image.step, last + 1)
                # A preview is never the last: an engine that makes more than it said is believed.
                placed = replace(
                    image,
                    step=last,
                    steps=max(image.steps, last + (not image.final)),
                    duration=image.duration + passed_over,
                    latency=first.latency,
                    waited=first.waited,
                )
                passed_over = 0.0
                yield placed, arrived
                # It is heard to the end: what it is, with its version, it may say last.
                finished = image.final
        if not finished:
            raise ProviderError("it ended without a final image")

    async def _drawn(
        self, recipe: Recipe, *, proof: bool = False
    ) -> AsyncGenerator[StepImage, None]:
        """What the engine draws, its errors translated."""
        engine = self.live.engine
        try:
            drawing = render_proof(engine, recipe) if proof else engine.render(recipe)
            async with drawing as images:
                async for image in images:
                    yield image
        except RecipeRefused as error:
            raise ActionRefused(f"it cannot draw this: {error}") from error
        except EngineOccupied:
            raise
        except EnginePreempted as error:
            raise Preempted(str(error)) from error
        except EngineStarting as error:
            raise Starting(str(error)) from error
        except (EngineDenied, EnginePoisoned) as error:
            raise ProviderError(str(error)) from error
        except EngineUnavailable as error:
            raise NotThere(str(error) or type(error).__name__) from error
        except EngineError as error:
            raise ProviderError(str(error) or type(error).__name__) from error

    async def _look_at(self, image: StepImage, recipe: Recipe) -> None:
        what = "its final image" if image.final else f"its preview {image.step}"
        coarse = not image.final
        try:
            most = min(MAX_PIXELS, _MOST_TIMES * recipe.width * recipe.height)
            seen = await self.offload(
                lambda: decode_check(image.image, coarse=coarse, most_pixels=most)
            )
        except BadImage as error:
            raise ProviderError(f"{what} is unusable: {error}") from error
        if seen.is_flat:
            raise ProviderError(f"{what} is unusable: it is all one colour")
