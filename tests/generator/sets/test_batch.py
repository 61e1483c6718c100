from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cache.index import load_manifest
from cache.library import Library
from cache.model.documents import FormatError
from cache.model.keys import MANIFEST, Key, meta_key
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import Store, StoreFull
from generator.engines.pooled import PooledEngine, process_pool
from generator.engines.port import (
    DrawingFailed,
    DrawnSet,
    Engine,
    EngineError,
    EnginePoisoned,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
    Timing,
)
from generator.engines.sketch.engine import NAME, SketchEngine, draw_set
from generator.sets.batch import (
    MISSES,
    BatchOutcome,
    Began,
    Event,
    Finished,
    Left,
    PutBack,
    run_batch,
)
from generator.sets.inventory import Holding, MissingSet, jobs_for, take_inventory
from generator.sets.job_queue import Failure
from generator.sets.recorder import Recorder
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe, seed_for
from tests.cache.samples import picture
from tests.helpers.servers import ROOT

SKETCH = SketchEngine(wait=False)


def action(number: int, prompt: str | None = None, at: float | None = None) -> Action:
    return Action(
        action_id=f"prompt_{number:03d}",
        type="prompt",
        cue_index=number,
        at=10.0 * number if at is None else at,
        program="P4",
        prompt="shown",
        override=None,
        recipe=Recipe(model="m", prompt=prompt or f"boats {number}", steps=2, width=48, height=48),
    )


@dataclass
class Pencil:
    """Draws two images of noise, another for each recipe and seed; fails where it is told to."""

    fails_on: dict[str, EngineError] = field(default_factory=dict)
    pause: float = 0.0
    name: str = "pencil 1"
    timing: Timing = "simulated"
    drawn: list[str] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        return self._render(recipe)

    @asynccontextmanager
    async def _render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        self.drawn.append(recipe.prompt)
        try:
            yield self._images(recipe)
        finally:
            self.busy -= 1

    async def _images(self, recipe: Recipe) -> AsyncIterator[StepImage]:
        for step in (1, 2):
            await asyncio.sleep(self.pause)
            if step == 2 and recipe.prompt in self.fails_on:
                raise self.fails_on[recipe.prompt]
            image = picture("jpg", recipe.seed % 1000 + step)
            yield StepImage(step, 2, step == 2, None, 0.5, image)


async def stock(store: Store, actions: list[Action]) -> list[Holding]:
    library = Library(store)
    await library.refresh()
    return await take_inventory(library, actions)


async def drawn_batch(
    store: Store, actions: list[Action], wanted: int, *engines: Engine
) -> BatchOutcome:
    jobs = jobs_for(await stock(store, actions), wanted)
    return await run_batch(jobs, engines or (Pencil(),), store, sleep=no_time)


# ---------------------------------------------------------------- what is there, what is to do


async def test_an_empty_store_lacks_everything() -> None:
    actions = [action(1), action(2)]
    holdings = await stock(MemoryStore(), actions)
    assert [(h.action, h.present, h.stale, h.broken) for h in holdings] == [
        (actions[0], (), (), ()),
        (actions[1], (), (), ()),
    ]
    assert holdings[0].missing(3) == (0, 1, 2)
    assert holdings[0].missing(0) == ()


async def test_present_stale_and_broken_sets_are_told_apart() -> None:
    store = MemoryStore()
    await drawn_batch(store, [action(1, "older")], 3)
    for number in (3, 4):
        await Recorder(Pencil(), store).record(action(1), number)
    del store.contents[meta_key("prompt_001", 4)]
    (holding,) = await stock(store, [action(1)])
    assert (holding.present, holding.stale) == ((3,), (0, 1, 2))
    assert [(set_id, "meta.json" in reason) for set_id, reason in holding.broken] == [(4, True)]
    assert holding.missing(3) == (4, 5), "what is broken is drawn again in its place"


async def test_a_set_that_does_not_say_what_it_is_of_is_taken_at_its_word() -> None:
    store = MemoryStore()
    await drawn_batch(store, [action(1)], 1)
    key = meta_key("prompt_001", 0)
    document = json.loads(store.contents[key])
    del document["fingerprint"]
    store.contents[key] = json.dumps(document).encode()
    (holding,) = await stock(store, [action(1, "another")])
    assert (holding.present, holding.stale) == ((0,), ())


def test_first_one_set_for_each_cue_in_the_order_of_the_show() -> None:
    # How many there are decides, then `at` and not the order given.
    late, early = action(1, at=90.0), action(2, at=10.0)
    holdings = [Holding(late, ()), Holding(early, (1,))]
    assert [(job.action.action_id, job.set_id) for job in jobs_for(holdings, 3)] == [
        ("prompt_001", 0),
        ("prompt_002", 0),
        ("prompt_001", 1),
        ("prompt_002", 2),
        ("prompt_001", 2),
    ]


def test_more_sets_than_wanted_are_no_work() -> None:
    assert jobs_for([Holding(action(1), (0, 1, 2, 7))], 2) == []


# ---------------------------------------------------------------- drawing


async def test_everything_that_is_missing_is_drawn_in_order() -> None:
    store, engine = MemoryStore(), Pencil()
    outcome = await drawn_batch(store, [action(1), action(2), action(3)], 2, engine)
    assert engine.drawn == [f"boats {number}" for _ in range(2) for number in (1, 2, 3)]
    assert [(job.action.action_id, job.set_id) for job in outcome.drawn][:3] == [
        ("prompt_001", 0),
        ("prompt_002", 0),
        ("prompt_003", 0),
    ]
    assert outcome.failed == []
    manifest = await load_manifest(store)
    assert [manifest.set_ids(f"prompt_{n:03d}") for n in (1, 2, 3)] == [(0, 1)] * 3


async def test_a_second_batch_has_nothing_to_do_and_touches_nothing() -> None:
    store = MemoryStore()
    await drawn_batch(store, [action(1), action(2)], 2)
    before = dict(store.contents)
    engine = Pencil()
    outcome = await drawn_batch(store, [action(1), action(2)], 2, engine)
    assert (outcome.drawn, outcome.failed, engine.drawn) == ([], [], [])
    assert store.contents == before


async def no_time(_seconds: float) -> None:
    """Waits are told apart in other tests; here only what comes of them counts."""
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "error", [DrawingFailed("no ink"), EngineUnavailable("asleep"), RecipeRefused("too large")]
)
async def test_a_set_that_fails_stops_nothing_and_is_listed(error: EngineError) -> None:
    store = MemoryStore()
    told: list[Event] = []
    actions = [action(1), action(2), action(3)]
    jobs = jobs_for(await stock(store, actions), 1)
    pencil = Pencil({"boats 2": error})
    outcome = await run_batch(jobs, [pencil], store, told.append, sleep=no_time)
    assert [job.action.action_id for job in outcome.drawn] == ["prompt_001", "prompt_003"]
    ((failed, reason),) = [(failure.job, failure.reason) for failure in outcome.failed]
    assert failed == jobs[1]
    assert str(error) in reason
    again = {RecipeRefused: 0, DrawingFailed: 2, EngineUnavailable: 1 + MISSES}[type(error)]
    assert [event for event in told if isinstance(event, PutBack)] == [
        PutBack(0, jobs[1], str(error))
    ] * again
    assert [event for event in told if isinstance(event, Finished)] == [
        Finished(0, jobs[0], drawn=True),
        Finished(0, jobs[2], drawn=True),
    ]
    assert [event for event in told if isinstance(event, Failure)] == outcome.failed
    engine = Pencil()
    await drawn_batch(store, actions, 1, engine)
    assert engine.drawn == ["boats 2"]


async def test_a_store_that_fails_once_costs_one_set() -> None:
    store = MemoryStore()
    store.fail_next(StoreFull("k", "no room"), on="put")
    outcome = await run_batch([MissingSet(action(n), 0) for n in (1, 2)], [Pencil()], store)
    assert [job.action.action_id for job in outcome.drawn] == ["prompt_002"]
    assert ["no room" in failure.reason for failure in outcome.failed] == [True]


async def test_a_manifest_that_cannot_be_read_is_told_and_left_alone() -> None:
    store = MemoryStore({"manifest.json": b'{"version": "2.0.0", "actions": {}}'})
    outcome = await run_batch([MissingSet(action(n), 0) for n in (1, 2)], [Pencil()], store)
    assert outcome.drawn == []
    assert len(outcome.failed) == 2
    assert all("2.0.0" in failure.reason for failure in outcome.failed)
    assert store.contents[MANIFEST] == b'{"version": "2.0.0", "actions": {}}'
    with pytest.raises(FormatError):
        await load_manifest(store)


async def test_stopped_in_the_middle_it_goes_on_without_redrawing() -> None:
    store, first = MemoryStore(), Pencil(pause=0.002)
    actions = [action(number) for number in range(1, 7)]
    done = asyncio.Event()
    finished: list[str] = []

    def progress(event: Event) -> None:
        if isinstance(event, Finished):
            finished.append(event.job.action.recipe.prompt)
            if len(finished) == 3:
                done.set()

    jobs = jobs_for(await stock(store, actions), 1)
    task = asyncio.create_task(run_batch(jobs, [first], store, progress))
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.busy == 0

    kept = {key: data for key, data in store.contents.items() if key != MANIFEST}
    second = Pencil()
    outcome = await drawn_batch(store, actions, 1, second)
    assert outcome.failed == []
    assert set(second.drawn).isdisjoint(finished)
    assert sorted({*second.drawn, *finished}) == [a.recipe.prompt for a in actions]
    for prompt in finished:
        whole = [key for key in kept if f"prompt_{prompt[-1]:0>3}" in key]
        assert whole
        assert all(store.contents[key] == kept[key] for key in whole)
    assert all(holding.present == (0,) for holding in await stock(store, actions))


async def test_sets_of_another_recipe_stay_and_new_ones_get_new_numbers() -> None:
    store = MemoryStore()
    await drawn_batch(store, [action(1, "older"), action(2)], 2)
    engine = Pencil()
    edited = [action(1, "newer"), action(2)]
    outcome = await drawn_batch(store, edited, 2, engine)
    assert engine.drawn == ["newer", "newer"]
    assert [(job.action.action_id, job.set_id) for job in outcome.drawn] == [
        ("prompt_001", 2),
        ("prompt_001", 3),
    ]
    found = [(h.present, h.stale) for h in await stock(store, edited)]
    assert found == [((2, 3), (0, 1)), ((0, 1), ())]
    entry = (await load_manifest(store)).actions["prompt_001"]
    assert entry.fingerprint == edited[0].fingerprint


# ---------------------------------------------------------------- several engines


async def test_two_engines_share_the_work_each_one_set_at_a_time(tmp_path: Path) -> None:
    one, other = Pencil(pause=0.01, name="one 1"), Pencil(pause=0.01, name="other 1")
    actions = [action(number) for number in range(1, 7)]
    async with FolderStore(tmp_path) as store:
        outcome = await drawn_batch(store, actions, 2, one, other)
        assert len(outcome.drawn) == 12
        assert len({(job.action.action_id, job.set_id) for job in outcome.drawn}) == 12
        assert sorted(one.drawn + other.drawn) == sorted(a.recipe.prompt for a in actions * 2)
        assert one.drawn
        assert other.drawn
        assert (one.busiest, other.busiest) == (1, 1)
        manifest = await load_manifest(store)
        assert [manifest.set_ids(a.action_id) for a in actions] == [(0, 1)] * 6


async def test_what_one_engine_cannot_draw_the_other_does() -> None:
    good = Pencil(name="good 1")
    troubles: list[EngineError] = [
        DrawingFailed("broken"),
        EngineUnavailable("gone"),
        RecipeRefused("not mine"),
    ]
    for error in troubles:
        bad = Pencil({f"boats {n}": error for n in range(9)}, pause=0.01, name="bad 1")
        store = MemoryStore()
        actions = [action(number) for number in range(1, 7)]
        outcome = await drawn_batch(store, actions, 1, bad, good)
        assert len(outcome.drawn) == 6, error
        assert outcome.failed == []
        assert bad.drawn


async def test_an_engine_that_is_gone_is_given_up_and_what_is_left_is_listed() -> None:
    gone = Pencil({f"boats {n}": EngineUnavailable("gone") for n in range(9)})
    actions = [action(number) for number in range(1, 7)]
    outcome = await drawn_batch(MemoryStore(), actions, 1, gone)
    assert outcome.drawn == []
    assert sorted(failure.job.action.action_id for failure in outcome.failed) == [
        f"prompt_{number:03d}" for number in range(1, 7)
    ]
    assert all("gone" in failure.reason for failure in outcome.failed)
    assert len(gone.drawn) == MISSES


async def test_a_limit_spaces_out_what_is_begun() -> None:
    begun = time.monotonic()
    jobs = [MissingSet(action(n), 0) for n in range(1, 5)]
    outcome = await run_batch(jobs, [Pencil(), Pencil()], MemoryStore(), per_minute=600)
    assert len(outcome.drawn) == 4
    assert time.monotonic() - begun >= 0.3


async def test_no_jobs_are_done_at_once() -> None:
    assert await run_batch([], [Pencil()], MemoryStore()) == BatchOutcome()


# ---------------------------------------------------------------- several at once


@dataclass
class Press(Pencil):
    """Draws several pictures of one recipe together."""

    batch_size: int = 3
    together: list[tuple[str, int]] = field(default_factory=list)
    spoiled: set[int] = field(default_factory=set)

    @asynccontextmanager
    async def render_batch(
        self, recipe: Recipe, seeds: Sequence[int]
    ) -> AsyncIterator[AsyncIterator[DrawnSet]]:
        self.together.append((recipe.prompt, len(seeds)))

        async def sets() -> AsyncIterator[DrawnSet]:
            for seed in seeds:
                if seed in self.spoiled:
                    raise DrawingFailed("the final image is all one colour")
                images = [image async for image in self._images(recipe.with_seed(seed))]
                yield DrawnSet(seed, tuple(images), "profiled")

        yield sets()


def timings(store: MemoryStore, action_id: str, count: int) -> list[str]:
    keys = [meta_key(action_id, number) for number in range(count)]
    return [json.loads(store.contents[key])["timing"] for key in keys if key in store.contents]


async def test_sets_of_one_action_are_drawn_together_once_every_cue_has_one() -> None:
    store, press, told = MemoryStore(), Press(), list[Event]()
    jobs = jobs_for(await stock(store, [action(1), action(2)]), 6)
    outcome = await run_batch(jobs, [press], store, told.append)
    assert press.drawn == ["boats 1", "boats 2"]
    assert press.together == [("boats 1", 3), ("boats 2", 3), ("boats 1", 2), ("boats 2", 2)]
    assert [len(event.jobs) for event in told if isinstance(event, Began)] == [1, 1, 3, 3, 2, 2]
    assert len(outcome.drawn) == 12
    assert timings(store, "prompt_001", 6) == ["simulated"] + ["profiled"] * 5
    assert [h.present for h in await stock(store, [action(1)])] == [tuple(range(6))]
    alone = MemoryStore()
    await drawn_batch(alone, [action(1), action(2)], 6, Pencil())
    images = {key: data for key, data in alone.contents.items() if key.endswith(".jpg")}
    assert {key: data for key, data in store.contents.items() if key in images} == images


async def test_who_failed_in_company_is_tried_alone_and_spoils_nothing() -> None:
    store, press, told = MemoryStore(), Press(batch_size=4), list[Event]()
    bad = seed_for(action(1).fingerprint, 2)
    press.spoiled = {bad}
    jobs = jobs_for([Holding(action(1), (0,))], 5)
    outcome = await run_batch(jobs, [press], store, told.append)
    assert outcome.failed == []
    assert [job.set_id for job in outcome.drawn] == [1, 2, 3, 4]
    assert press.together == [("boats 1", 4)]
    assert [event.job.set_id for event in told if isinstance(event, PutBack)] == [2, 3, 4]
    assert timings(store, "prompt_001", 5) == ["profiled"] + ["simulated"] * 3


async def test_an_engine_that_draws_other_pictures_than_asked_for_is_not_believed() -> None:
    class Confused(Press):
        @asynccontextmanager
        async def render_batch(
            self, recipe: Recipe, seeds: Sequence[int]
        ) -> AsyncIterator[AsyncIterator[DrawnSet]]:
            async with super().render_batch(recipe, list(reversed(seeds))) as sets:
                yield sets

    store, told = MemoryStore(), list[Event]()
    jobs = jobs_for([Holding(action(1), (0,))], 3)
    outcome = await run_batch(jobs, [Confused()], store, told.append)
    assert len(outcome.drawn) == 2
    assert "other pictures" in str([event for event in told if isinstance(event, PutBack)])


async def test_stopped_in_the_middle_of_a_batch_there_are_only_whole_sets() -> None:
    store, press = MemoryStore(), Press(pause=0.01)
    seen = asyncio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, Finished):
            seen.set()

    jobs = jobs_for([Holding(action(1), (0,))], 4)
    task = asyncio.create_task(run_batch(jobs, [press], store, watch))
    await asyncio.wait_for(seen.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (holding,) = await stock(store, [action(1)])
    assert 1 in holding.present
    assert holding.broken == ()
    outcome = await run_batch(jobs_for([holding], 4), [Press()], store)
    assert len(outcome.drawn) == 4 - len(holding.present)


# ---------------------------------------------------------------- lost engines, other batches


async def test_an_engine_that_can_draw_no_more_is_asked_nothing_further() -> None:
    poison = EnginePoisoned("the GPU is lost to this process")
    lost = Pencil({f"boats {n}": poison for n in range(9)}, name="lost 1")
    actions, told = [action(number) for number in range(1, 5)], list[Event]()
    jobs = jobs_for(await stock(MemoryStore(), actions), 1)
    outcome = await run_batch(jobs, [lost], MemoryStore(), told.append)
    assert lost.drawn == ["boats 1"]
    assert [event for event in told if isinstance(event, Left)] == [Left(0, str(poison))]
    assert len(outcome.failed) == 4
    assert all("lost 1: the GPU is lost" in failure.reason for failure in outcome.failed)

    lost.drawn.clear()
    good = Pencil(name="good 1", pause=0.002)
    outcome = await run_batch(jobs, [lost, good], MemoryStore())
    assert len(outcome.drawn) == 4
    assert lost.drawn == ["boats 1"]


async def test_an_engine_is_waited_for_longer_each_time() -> None:
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    gone = Pencil({"boats 1": EngineUnavailable("gone")})
    await run_batch([MissingSet(action(1), 0)], [gone], MemoryStore(), sleep=sleep)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0]


async def test_what_another_batch_has_drawn_meanwhile_is_not_drawn_again() -> None:
    store, actions = MemoryStore(), [action(1), action(2), action(3)]
    jobs = jobs_for(await stock(store, actions), 1)
    await Recorder(Pencil(), store).record(actions[1], 0)
    del store.contents[MANIFEST]  # it was stopped before it could register it
    engine, told = Pencil(), list[Event]()
    outcome = await run_batch(jobs, [engine], store, told.append)
    assert engine.drawn == ["boats 1", "boats 3"]
    assert outcome.found == [jobs[1]]
    assert Finished(0, jobs[1], drawn=False) in told
    manifest = await load_manifest(store)
    assert [manifest.set_ids(a.action_id) for a in actions] == [(0,)] * 3

    outcome = await run_batch(jobs, [engine], store, anew=True)
    assert len(outcome.drawn) == 3


async def test_metas_are_read_several_at_once_and_told_in_order() -> None:
    class Busy(MemoryStore):
        under_way = most = 0

        async def get(self, key: Key) -> bytes:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            # Whoever comes first is done last.
            for _ in range(100 - self.under_way):
                await asyncio.sleep(0)
            try:
                return await super().get(key)
            finally:
                self.under_way -= 1

    store = Busy()
    actions = [action(number) for number in range(1, 7)]
    await drawn_batch(store, actions, 3)
    library = Library(store)
    await library.refresh()
    store.most = 0
    holdings = await take_inventory(library, actions, at_once=8)
    assert store.most == 8
    assert [h.action for h in holdings] == actions
    assert [h.present for h in holdings] == [(0, 1, 2)] * 6
    assert [list(h.metas) for h in holdings] == [[0, 1, 2]] * 6


async def test_remarks_say_why_sets_will_not_do() -> None:
    store = MemoryStore()
    await drawn_batch(store, [action(1, "older")], 4)
    key = meta_key("prompt_001", 1)
    document = json.loads(store.contents[key])
    del document["model_config"]
    store.contents[key] = json.dumps(document).encode()
    for number in (2, 3):
        del store.contents[meta_key("prompt_001", number)]
    (holding,) = await stock(store, [action(1, "newer")])
    assert holding.remarks() == [
        'prompt "older" → "newer"',
        "another recipe; its meta does not say in what",
        "set 2, 3: it has no meta.json",
    ]


# ---------------------------------------------------------------- in processes


def die(recipe: Recipe, pace: float) -> list[StepImage]:
    """What the memory killer does to a process in the middle of a picture."""
    del pace
    if recipe.prompt == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return draw_set(recipe)


def refuse(recipe: Recipe, pace: float) -> list[StepImage]:
    del recipe, pace
    raise RecipeRefused("not this one")


async def test_a_pool_draws_what_the_engine_itself_draws() -> None:
    alone, pooled = MemoryStore(), MemoryStore()
    actions = [action(1), action(2)]
    await drawn_batch(alone, actions, 1, SKETCH)
    with process_pool(1) as pool:
        engines = [PooledEngine(NAME, draw_set, 0.45, pool) for _ in range(2)]
        outcome = await drawn_batch(pooled, actions, 1, *engines)
    assert len(outcome.drawn) == 2
    images = {key: data for key, data in alone.contents.items() if key.endswith(".jpg")}
    assert images
    assert {key: data for key, data in pooled.contents.items() if key in images} == images
    assert [h.present for h in await stock(pooled, actions)] == [(0,), (0,)]


async def test_an_engines_refusal_comes_back_from_its_process() -> None:
    with process_pool(1) as pool:
        engine = PooledEngine("pool 1", refuse, 0.45, pool)
        with pytest.raises(RecipeRefused, match="not this one"):
            await Recorder(engine, MemoryStore()).record(action(1), 0)


async def test_a_process_that_was_killed_is_an_engine_that_is_not_available() -> None:
    store = MemoryStore()
    with process_pool(1) as pool:
        engine = PooledEngine("pool 1", die, 0.45, pool)
        jobs = [
            MissingSet(action(1), 0),
            MissingSet(action(2, "deadly"), 0),
            MissingSet(action(3), 0),
        ]
        outcome = await run_batch(jobs, [engine], store)
        with pytest.raises(EngineUnavailable):
            await Recorder(engine, store).record(action(4), 0)
    assert [job.action.action_id for job in outcome.drawn] == ["prompt_001"]
    assert sorted(failure.job.action.action_id for failure in outcome.failed) == [
        "prompt_002",
        "prompt_003",
    ]
    assert all("process died" in failure.reason for failure in outcome.failed)
    holdings = await stock(store, [action(1), action(2, "deadly")])
    assert [holding.present for holding in holdings] == [(0,), ()]


_PARENT = """
import sys, time
from generator.engines.pooled import process_pool
import os
with process_pool(2) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    time.sleep(60)
"""


def test_the_processes_of_a_pool_do_not_outlive_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert children
    until = time.monotonic() + 20
    while any(_is_running(pid) for pid in children):
        assert time.monotonic() < until, "they wait for a parent that is gone"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to take leave of it
