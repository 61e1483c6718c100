"""Tries engines out where nobody looks: those that failed, and those never tried.

An engine proves itself with a real small drawing, or by drawing for somebody else meanwhile. It
is tried when no picture is being drawn for the stage and none is due soon, one engine at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from generator.sheet.plan import Plan
from generator.sheet.recipe import PipelineKind, Recipe
from server.core.clock import Clock, timeout_at
from server.modes.manager import ModeManager
from server.providers.base import ActionRefused, NotThere, Preempted, ProviderError
from server.providers.live import LiveProvider

_log = structlog.get_logger(__name__)

LOOK_IN = 1.0
"""Seconds between two looks whether the stage is quiet, where an engine wants to be tried."""

IDLE = 5.0
"""Seconds between two looks whether one does; none rests for less."""

PROBE_WITHIN = 90.0
"""Seconds that a probe may take: an engine that is cold loads its model first."""

QUIET_FOR = 5.0
"""Seconds for which nothing may be due when a probe begins."""

PATIENT_FOR = 120.0
"""Seconds after which, in a show without pauses, any moment without a run will do."""

_SIZE = 256
_STEPS = 4


def probe_of(plan: Plan) -> Recipe | None:
    """Something small that the show's engines must be able to draw; None where it draws nothing."""
    recipes = [action.recipe for action in plan.actions]
    plain = [recipe for recipe in recipes if recipe.kind is PipelineKind.TEXT_TO_IMAGE]
    if not recipes:
        return None
    chosen = plain[0] if plain else max(recipes, key=lambda recipe: recipe.strength or 0.0)
    small: dict[str, Any] = {"width": _SIZE, "height": _SIZE, "steps": min(chosen.steps, _STEPS)}
    if chosen.strength is not None:
        small["strength"] = 1.0  # of a base image left as it is, an engine has drawn nothing
    return chosen.model_copy(update=small)


@dataclass(eq=False, kw_only=True)
class EngineProber:
    """Tries engines out.

    Args:
        modes: knows which engines want to be tried, and is told how they did.
        live: plays them.
        recipe: what they are to draw.
        quiet_for: whether the stage is quiet now and for some seconds to come.
        clock: the time.
    """

    modes: ModeManager
    live: Sequence[LiveProvider]
    recipe: Recipe | None
    quiet_for: Callable[[float], bool]
    clock: Clock
    _wanting: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def needed(self) -> bool:
        """Whether there is any engine to watch, and anything to have it draw."""
        return self.recipe is not None and bool(self.live)

    async def run(self) -> None:
        """Watch until cancelled; returns at once where there is nothing to."""
        if self.recipe is None or not self.live:
            return
        while True:
            for provider in self.live:
                if self._wants_a_probe(provider.live.name) and self._quiet(provider.live.name):
                    await self._probe(provider, self.recipe)
            wanted = any(self._wants_a_probe(provider.live.name) for provider in self.live)
            rest = LOOK_IN if wanted else IDLE
            await self.clock.sleep_until(self.clock.now() + rest)

    def _wants_a_probe(self, name: str) -> bool:
        health = self.modes.health(name)
        # Whoever told `until` knows whether it is over: in a rehearsal his clock is not ours.
        ask = health.state == "starting" and health.until is None
        wants = ask or health.state in {"due", "untried"}
        if self.modes.absent(name) is not None:
            wants = False  # it proves itself when it has started, and says so
        if not wants:
            self._wanting.pop(name, None)
        return wants

    def _quiet(self, name: str) -> bool:
        """Whether this is the moment to try an engine out."""
        since = self._wanting.setdefault(name, self.clock.now())
        patient = self.clock.now() - since < PATIENT_FOR
        return self.quiet_for(QUIET_FOR if patient else 0.0)

    async def _probe(self, provider: LiveProvider, recipe: Recipe) -> None:
        name = provider.live.name
        try:
            async with timeout_at(self.clock, self.clock.now() + PROBE_WITHIN):
                await provider.prove(recipe)
        except TimeoutError:
            self.modes.probe_failed(name, f"no picture in {PROBE_WITHIN:g} s when tried out")
        except ActionRefused:
            self.modes.probe_ok(name)  # it is there, and knows what it cannot do
        except Preempted:
            _log.info("probe_preempted", engine=name)  # tried again before long
        except NotThere as error:
            self.modes.not_there(name, error)
        except ProviderError as error:
            self.modes.probe_failed(name, f"when tried out: {error}")
        except Exception as error:  # noqa: BLE001 - one engine's mistake must not end the watch
            _log.exception("probe_failed", engine=name)
            self.modes.probe_failed(name, f"when tried out: {error!r}")
        else:
            self.modes.probe_ok(name)
