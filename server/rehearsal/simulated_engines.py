"""Engines in a rehearsal: each is asked whether it is there, and none is made to draw.

What an engine would draw is simulated, at the pace that is known of it. The worker's
`GET /health` proves itself with a small generation of its own: that is its word, not ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import SecretStr

from generator.engines.port import EngineUnavailable, StepImage, Timing
from generator.engines.registry import AnyEngine
from generator.engines.settings import PROBE_WITHIN, EngineAccess, NotReady
from generator.outgoing import Client, outgoing_client
from generator.sheet.estimate import steps_of
from generator.sheet.recipe import Recipe
from server.config.show import Show
from server.core.clock import Clock
from server.diagnostics.report import ProbedEngine
from server.engines.live import ranked_sections
from server.providers.live import LiveEngine
from server.rehearsal.simulated_store import small_image

TYPICAL_STEP: Final = 0.65
"""Seconds a step is believed to take where nothing better is known."""

_SETTLED: Final = "it is set to fail in this rehearsal"


async def probe_engines(
    show: Show, fail: Collection[str] = (), known: Iterable[ProbedEngine] = ()
) -> tuple[ProbedEngine, ...]:
    """Ask every engine that plays live whether it is there, all at once.

    Args:
        show: whose `[[engines]]`.
        fail: names of those that are to fail whatever they say; ``engines`` for all.
        known: engines of which it is known how they do: a show that plays has asked them, and
            is not to be disturbed.
    """
    told = {engine.name: engine for engine in known}
    async with outgoing_client() as client:
        probes = (
            _probe(section, client, show.settings.tokens.engines, fail, told.get(section.name))
            for section in ranked_sections(show)
        )
        return tuple(await asyncio.gather(*probes))


async def _probe(
    section: AnyEngine,
    client: Client,
    tokens: Mapping[str, SecretStr],
    fail: Collection[str],
    known: ProbedEngine | None,
) -> ProbedEngine:
    state: Literal["ready", "dead", "not asked"] = "dead"
    if section.name in fail or "engines" in fail:
        detail = _SETTLED
    elif known is not None:
        return known
    else:
        try:
            async with asyncio.timeout(PROBE_WITHIN):
                token = tokens.get(section.kind)
                detail = await section.probe(EngineAccess(client=client, token=token))
            state = "not asked" if section.local else "ready"
        except TimeoutError:
            detail = f"no answer in {PROBE_WITHIN:g} s"
        except NotReady as error:
            detail = str(error)
    return ProbedEngine(
        name=section.name, kind=section.kind, local=section.local, state=state, detail=detail
    )


@dataclass(frozen=True)
class SimulatedEngine:
    """Draws nothing: hands out simulated images at an engine's pace, or fails as it would.

    Attributes:
        probed: what it said when it was asked.
        pace: seconds a step, by the engine's name and recipe.
        clock: the time.
        timing: nothing was measured.
    """

    probed: ProbedEngine
    pace: Callable[[str, Recipe], float]
    clock: Clock
    timing: Timing = "simulated"

    @property
    def name(self) -> str:
        """What sort of engine it stands for."""
        return self.probed.kind

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        if self.probed.state == "dead":
            raise EngineUnavailable(self.probed.detail)
        async with aclosing(self._steps(recipe)) as images:
            yield images

    async def _steps(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        previews = steps_of(recipe)
        pace, image = self.pace(self.probed.name, recipe), small_image("image/jpeg")
        due = self.clock.now()
        for step in range(1, previews + 2):
            due += pace
            await self.clock.sleep_until(due)
            final = step == previews + 1
            yield StepImage(step, previews + 1, final, None, pace, image)


def simulated_engines(
    probed: Sequence[ProbedEngine], pace: Callable[[str, Recipe], float], clock: Clock
) -> list[LiveEngine]:
    """Engines that may draw for the stage, none of them real."""
    return [
        LiveEngine(each.name, SimulatedEngine(each, pace, clock), each.local) for each in probed
    ]
