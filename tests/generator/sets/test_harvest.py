from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from cache.stores.memory import MemoryStore
from cache.stores.port import StoreFull
from generator.engines.port import DrawingFailed, Engine, ScriptedEngine, StepImage
from generator.engines.sketch.engine import SketchEngine
from generator.sets import quarantine
from generator.sets.harvest import Harvester
from generator.sets.quarantine import approve
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe
from tests.cache.samples import picture
from tests.contracts.engine_contract import EngineContract, drawn, recipe
from tests.generator.sets.test_recorder import WHEN, action, run_of

IMAGES = run_of(*(picture("jpg", seed) for seed in range(4)))


@asynccontextmanager
async def harvesting(
    store: MemoryStore, actions: Sequence[Action] | None = None, **options: object
) -> AsyncIterator[Harvester]:
    before = asyncio.all_tasks()
    harvester = Harvester(
        store,
        lambda: [action()] if actions is None else actions,
        now=lambda: WHEN,
        **options,  # type: ignore[arg-type]
    )
    async with harvester:
        yield harvester
    assert asyncio.all_tasks() == before


async def waiting(store: MemoryStore) -> int:
    return len((await quarantine.waiting(store)).runs)


class TestTee(EngineContract):
    """An engine that is harvested is the engine that it is."""

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        # Kept are none of the contract's recipes: they are no action's.
        async with Harvester(MemoryStore(), lambda: [action()]) as harvester:
            yield harvester.tee(SketchEngine(pace=0.005, wait=False))


async def test_a_whole_run_is_kept_as_it_was_drawn() -> None:
    store = MemoryStore()
    async with harvesting(store) as harvester:
        engine = harvester.tee(ScriptedEngine(IMAGES))
        assert (engine.name, engine.timing) == ("scripted 1", "simulated")
        wanted = action().recipe.with_seed(99)
        assert await drawn(engine, wanted) == IMAGES
        await harvester.settled()
        (run,) = (await quarantine.waiting(store)).runs
        assert (run.action_id, run.meta.seed) == ("prompt_001", 99)
        assert await approve(store, run) == 0


async def test_of_two_actions_with_one_recipe_it_is_the_first_ones() -> None:
    store = MemoryStore()
    async with harvesting(store, [action("b"), action("a")]) as harvester:
        await drawn(harvester.tee(ScriptedEngine(IMAGES)), action().recipe)
        await harvester.settled()
    assert [run.action_id for run in (await quarantine.waiting(store)).runs] == ["b"]


async def drawn_until(engine: Engine, wanted: Recipe, step: int) -> None:
    """Draw, and go away after a step, as when the next cue comes."""
    async with engine.render(wanted) as images:
        async for image in images:
            if image.step == step:
                return


async def test_a_run_that_was_cut_is_not_kept_unless_it_was_over() -> None:
    store = MemoryStore()
    async with harvesting(store) as harvester:
        engine = harvester.tee(ScriptedEngine(IMAGES))
        for step in (1, 3):
            await drawn_until(engine, action().recipe, step)
        await harvester.settled()
        assert store.contents == {}
        await drawn_until(engine, action().recipe, 4)
        await harvester.settled()
        assert await waiting(store) == 1


@pytest.mark.parametrize(
    "images",
    [IMAGES[:3], run_of(*[picture("jpg", 1)] * 3, b"no picture"), []],
    ids=["broke off", "unreadable", "empty"],
)
async def test_a_run_that_failed_is_not_kept(images: Sequence[StepImage]) -> None:
    store = MemoryStore()
    engine = ScriptedEngine(images, DrawingFailed("no more"))
    async with harvesting(store) as harvester:
        with pytest.raises(DrawingFailed, match="no more"):
            await drawn(harvester.tee(engine), action().recipe)
        await harvester.settled()
        assert await waiting(store) == 0


async def test_what_is_no_action_of_the_show_is_not_kept() -> None:
    store = MemoryStore()
    async with harvesting(store) as harvester:
        await drawn(harvester.tee(ScriptedEngine(IMAGES)), recipe())
        await harvester.settled()
    assert store.contents == {}


async def test_a_store_that_never_answers_costs_the_show_nothing() -> None:
    store = MemoryStore()
    store.answering.clear()
    async with harvesting(store) as harvester:
        engine = harvester.tee(ScriptedEngine(IMAGES))
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                assert await drawn(engine, action().recipe) == IMAGES
                await asyncio.sleep(0)
        dropped = [entry for entry in logs if entry["event"] == "harvest_dropped"]
        # One is being written, two wait.
        assert [entry["reason"] for entry in dropped] == ["the store is too slow"] * 2
        store.answering.set()
        await harvester.settled()
        assert await waiting(store) == 3


async def test_one_that_takes_too_long_is_given_up_and_the_next_is_kept() -> None:
    store = MemoryStore()
    store.answering.clear()
    async with harvesting(store, keep_within=0.02) as harvester:
        engine = harvester.tee(ScriptedEngine(IMAGES))
        with structlog.testing.capture_logs() as logs:
            await drawn(engine, action().recipe)
            await harvester.settled()
        assert [entry["reason"] for entry in logs] == ["the store took more than 0.02 s"]
    store.answering.set()
    async with harvesting(store) as harvester:
        await drawn(harvester.tee(ScriptedEngine(IMAGES)), action().recipe)
        await harvester.settled()
    assert await waiting(store) == 1


async def test_a_full_store_is_told_in_the_log_alone() -> None:
    store = MemoryStore()
    store.fail_next(StoreFull("", "no room"), on="put")
    async with harvesting(store) as harvester:
        engine = harvester.tee(ScriptedEngine(IMAGES))
        with structlog.testing.capture_logs() as logs:
            assert await drawn(engine, action().recipe) == IMAGES
            await harvester.settled()
        assert [entry["event"] for entry in logs] == ["harvest_dropped"]
        assert await waiting(store) == 0


async def test_a_run_that_is_too_large_passes_and_is_forgotten() -> None:
    store = MemoryStore()
    size = sum(len(image.image) for image in IMAGES)
    for limit, expected in ((size - 1, 0), (size, 1)):
        async with harvesting(store, run_bytes=limit) as harvester:
            assert await drawn(harvester.tee(ScriptedEngine(IMAGES)), action().recipe) == IMAGES
            await harvester.settled()
        assert await waiting(store) == expected


async def test_no_more_wait_than_anybody_will_look_at() -> None:
    store = MemoryStore()
    async with harvesting(store, most=2) as harvester:
        engine = harvester.tee(ScriptedEngine(IMAGES))
        for _ in range(4):
            await drawn(engine, action().recipe)
            await harvester.settled()
        runs = (await quarantine.waiting(store)).runs
        assert len(runs) == 2
        await approve(store, runs[0])
        await drawn(engine, action().recipe)
        await harvester.settled()
        assert await waiting(store) == 2


@pytest.mark.parametrize("mistake", [ValueError("a mistake"), asyncio.CancelledError()])
async def test_a_mistake_with_one_run_does_not_end_the_keeping(
    monkeypatch: pytest.MonkeyPatch, mistake: BaseException
) -> None:
    store, rightly, calls = MemoryStore(), quarantine.keep, 0

    async def keep(*args: Any, **kwargs: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise mistake
        return await rightly(*args, **kwargs)

    monkeypatch.setattr(quarantine, "keep", keep)
    async with harvesting(store) as harvester:
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                await drawn(harvester.tee(ScriptedEngine(IMAGES)), action().recipe)
                await harvester.settled()
        assert await waiting(store) == 1
    assert "harvest_failed" in {each["event"] for each in logs}
