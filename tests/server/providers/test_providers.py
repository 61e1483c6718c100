"""The contract of providers, over every one there is."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from cache.library import Library
from cache.stores.memory import MemoryStore
from generator.engines.port import DrawingFailed, ScriptedEngine
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe
from server.config.show import load_show
from server.core.clock import VirtualClock
from server.core.random_streams import RandomStreams
from server.providers.live import LiveProvider
from server.providers.shuffle import ShuffleBag
from server.providers.static import StaticProvider
from tests.contracts.provider_contract import Bench, ProviderContract
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import at_once
from tests.helpers.shows import Rhythm, cue, prompt, store_contents, write_show

CUES = [prompt(0, "a lamp", id="lamp"), prompt(30, "impossible", id="lost"), cue(60, "end")]


def actions(folder: Path) -> tuple[Action, ...]:
    return load_show(write_show(folder, CUES), {}, {}).plan({}).actions


class TestStatic(ProviderContract):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> Bench:
        lamp, lost = actions(tmp_path)
        library = Library(MemoryStore(store_contents([lamp], Rhythm(previews=9, step=0.5))))
        await library.refresh()
        clock, streams = VirtualClock(), RandomStreams(1)
        provider = StaticProvider(
            library, ShuffleBag(streams), clock, streams, "squeeze", offload=at_once
        )

        async def nothing() -> int:
            return 0

        return Bench(provider, lamp, lost, clock, nothing)


class Choosy(ScriptedEngine):
    """Draws everything but the impossible."""

    def render(self, recipe: Recipe) -> Any:
        if "impossible" in recipe.prompt:
            return ScriptedEngine([], DrawingFailed("impossible")).render(recipe)
        return super().render(recipe)


class TestLive(ProviderContract):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> Bench:
        lamp, lost = actions(tmp_path)
        clock = VirtualClock()
        plain = scripted(clock, drawing("gpu", 9))
        engine = Choosy(plain.images, pause=0.5, sleep=clock.sleep)
        provider = LiveProvider(live(engine), clock, rng=Random(1), offload=at_once)

        async def drawing_still() -> int:
            return len(engine.asked) - len(engine.left)

        return Bench(provider, lamp, lost, clock, drawing_still)
