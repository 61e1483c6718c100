"""Opens the engines that play live, in the order in which they are asked.

Nothing here waits for an engine: one on another machine is reached when it is first asked to
draw, and the local GPU opens in its own time. Until then each says that it is unavailable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from generator.engines.port import Engine, EngineUnavailable, StepImage, Timing
from generator.engines.registry import AnyEngine
from generator.engines.settings import BadEngine, EngineAccess, LocalSection
from generator.outgoing import Client, client_for_engines
from generator.sheet.plan import Plan
from generator.sheet.recipe import Recipe
from server.config.show import Show
from server.core.clock import Clock
from server.engines.child import worker_child
from server.engines.local import LocalEngine, LocalStatus, warm_up_recipes
from server.engines.supervision import Supervision
from server.providers.live import LiveEngine

_log = structlog.get_logger(__name__)

_ANYTHING: Final = Recipe(model="none", prompt="a lamp", steps=1, width=64, height=64)
"""The probe of a child of a show that draws nothing: it is to be given something."""


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
async def live_engines(show: Show, plan: Plan, clock: Clock) -> AsyncIterator[LiveEngines]:
    """The engines of `show` that play live, open while the context lasts.

    Args:
        show: whose `[[engines]]`.
        plan: what they will have to draw: it is what local ones warm up with.
        clock: what local ones are supervised by.
    """
    local: dict[str, LocalEngine] = {}
    ranked: list[LiveEngine] = []
    async with AsyncExitStack() as stack:
        client: Client | None = None  # it reads every certificate: for engines elsewhere alone
        for section in ranked_sections(show):
            engine: Engine
            if isinstance(section, LocalSection):
                engine = local[section.name] = await stack.enter_async_context(
                    local_child(section, [action.recipe for action in plan.actions], clock)
                )
            else:
                if client is None:
                    client = await stack.enter_async_context(client_for_engines())
                access = EngineAccess(
                    client=client,
                    token=show.settings.tokens.engines.get(section.kind),
                    folder=show.folder,
                    actions=plan.actions,
                    priority="show",
                )
                try:
                    engine = section.connect(access)
                except BadEngine as error:
                    # The show goes on with the others; a batch that names it is told the same.
                    _log.error("engine_left_out", engine=section.name, reason=str(error))
                    continue
            ranked.append(LiveEngine(section.name, engine, section.local))
        yield LiveEngines(tuple(ranked), local)


def ranked_sections(show: Show) -> list[AnyEngine]:
    """Those of `[[engines]]` that play live, as they are asked: first those elsewhere."""
    live = [section for section in show.settings.engines if section.plays_live]
    return sorted(live, key=lambda section: section.local)  # stable: both keep their order


def named_only(show: Show, why: str) -> LiveEngines:
    """The engines of `show` that play live, in their order, none of them started or reached.

    Args:
        show: whose `[[engines]]`.
        why: in words, what one says that is asked all the same.
    """
    return LiveEngines(
        tuple(
            LiveEngine(section.name, _Unstarted(section.kind, why), section.local)
            for section in ranked_sections(show)
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


def local_child(section: LocalSection, recipes: Sequence[Recipe], clock: Clock) -> LocalEngine:
    """An engine in a child process, warmed up with `recipes`; to be entered."""
    warm_up = warm_up_recipes(recipes) or (_ANYTHING,)
    section = section.keeping(len({recipe.model for recipe in recipes}))
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
