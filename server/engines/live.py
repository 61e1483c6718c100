"""Opens the engines that play live, in the order in which they are asked.

Nothing here waits for an engine: one on another machine is reached when it is first asked to
draw, and the local GPU opens in its own time. Until then each says that it is unavailable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog

from generator.engine import Engine, EngineUnavailable, StepImage, Timing
from generator.engines.older_wire import OlderWireEngine, command, command_of
from generator.outgoing import Client
from generator.plan import Action, Planned
from generator.recipe import Recipe
from server.clock import Clock
from server.config.sections import EngineSection
from server.config.show import Show
from server.engines.child import worker_child
from server.engines.elsewhere import BadEngine, client_for_engines, engine_elsewhere
from server.engines.local import LocalEngine, LocalStatus, warm_up_recipes
from server.engines.supervision import Supervision
from server.providers.live import LiveEngine

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LiveEngines:
    """What plays live.

    Attributes:
        ranked: in order of preference: as in `[[engines]]`, those on other machines first.
        local: those of them that are children of ours, by name.
    """

    ranked: tuple[LiveEngine, ...] = ()
    local: Mapping[str, LocalEngine] = field(default_factory=dict)

    def absent(self, name: str) -> str | None:
        """In words, why an engine cannot draw at the moment, though it has not failed."""
        child = self.local.get(name)
        if child is None:
            return None
        status = child.status()
        if status.state in {"ready", "drawing"}:
            return None
        told = f"engine {name} is {status.state}" + (f": {status.reason}" if status.reason else "")
        if status.ready_in is None:
            return told
        return f"{told}, ready in about {max(1, round(status.ready_in))} s"

    def process(self, name: str) -> LocalStatus | None:
        """How the process of an engine on this machine does; None for one elsewhere."""
        child = self.local.get(name)
        return None if child is None else child.status()

    def reset(self, name: str) -> None:
        """Start an engine's process at once, if it rests; nothing for one elsewhere."""
        child = self.local.get(name)
        if child is not None:
            child.reset()


@asynccontextmanager
async def live_engines(show: Show, plan: Planned, clock: Clock) -> AsyncIterator[LiveEngines]:
    """The engines of `show` that play live, open while the context lasts.

    Args:
        show: whose `[[engines]]`.
        plan: what they will have to draw: it is what local ones warm up with.
        clock: what local ones are supervised by.
    """
    sections = [section for section in show.settings.engines if section.plays_live]
    local: dict[str, LocalEngine] = {}
    ranked: list[LiveEngine] = []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_for_engines())
        # Sorting is stable: among themselves both keep their order.
        for section in sorted(sections, key=lambda section: section.local):
            engine: Engine
            if section.local:
                engine = local[section.name] = await stack.enter_async_context(
                    local_child(section, [action.recipe for action in plan.actions], clock)
                )
            else:
                try:
                    engine = distant_engine(section, client, show, plan.actions)
                except BadEngine as error:
                    # The show goes on with the others; a batch that names it is told the same.
                    _log.error("engine_left_out", engine=section.name, reason=str(error))
                    continue
            ranked.append(LiveEngine(section.name, engine, section.local))
        yield LiveEngines(tuple(ranked), local)


def named_only(show: Show, why: str) -> LiveEngines:
    """The engines of `show` that play live, in their order, none of them started or reached.

    Args:
        show: whose `[[engines]]`.
        why: in words, what one says that is asked all the same.
    """
    sections = [section for section in show.settings.engines if section.plays_live]
    return LiveEngines(
        tuple(
            LiveEngine(section.name, _Unstarted(section.kind, why), section.local)
            for section in sorted(sections, key=lambda section: section.local)
        )
    )


@dataclass(frozen=True)
class _Unstarted:
    """An engine that is left alone."""

    name: str
    why: str
    timing: Timing = "simulated"

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Never."""
        del recipe
        raise EngineUnavailable(self.why)


def local_child(section: EngineSection, recipes: Sequence[Recipe], clock: Clock) -> LocalEngine:
    """An engine in a child process, warmed up with `recipes`; to be entered."""
    warm_up = warm_up_recipes(recipes) or (_anything(),)
    if section.keep_models is None:
        # A model that has to be loaded when its cue comes makes the wall wait for it.
        models = len({recipe.model for recipe in recipes})
        section = section.model_copy(update={"keep_models": max(1, models)})
    return LocalEngine(
        section.name,
        partial(worker_child, section, warm_up[-1], clock),
        warm_up=warm_up if recipes else (),
        clock=clock,
        policy=Supervision(
            hang_after=section.hang_after,
            recycle_after=section.recycle_after,
            memory_growth=section.memory_growth,
        ),
    )


def distant_engine(
    section: EngineSection, client: Client, show: Show, actions: Iterable[Action]
) -> Engine:
    """An engine on another machine.

    Args:
        section: which.
        client: for those that speak HTTP; entered and closed by its owner.
        show: whose engine it is.
        actions: by which the older wire knows the program that a recipe is of.

    Raises:
        BadEngine: it is set up in a way that cannot work.
    """
    if section.kind == "older-wire":
        return OlderWireEngine(section.url or "", says=commands_of(actions))
    return engine_elsewhere(section, client, folder=show.folder, tokens=show.settings.tokens)


def commands_of(actions: Iterable[Action]) -> Callable[[Recipe], str]:
    """What the older wire says for the recipes of a show.

    A recipe does not tell by which program it is drawn, but the plan does. The wire takes the
    cue's own words: what a program adds to them, the program at the other end adds, too.
    """
    known = {
        action.fingerprint: command(
            action.program, action.override or action.prompt, action.recipe.strength
        )
        for action in reversed(tuple(actions))
    }
    return lambda recipe: known.get(recipe.fingerprint) or command_of(recipe)


def _anything() -> Recipe:
    """For a show that draws nothing: a child is to be given something as its probe."""
    return Recipe(model="none", prompt="a lamp", steps=1, width=64, height=64)
