"""Takes are drawn, whatever interrupts it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cache.library import Library
from cache.model.formats import parse_meta
from cache.model.keys import Key, meta_key
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from generator.engines.port import ScriptedEngine, StepImage
from generator.engines.testcard.engine import TestCardEngine
from generator.jobs.database import open_database
from generator.jobs.drawing import NO_ACTION, DrawingPlace, DrawWork, take_store
from generator.jobs.eta import WorkSize
from generator.jobs.model import ENDED, Job, take_id
from generator.jobs.store import Claimed, JobEvent, JobStore, NewItem, NewJob
from generator.sheet.recipe import PipelineKind, Recipe
from tests.helpers.drawing_studio import scripted_images
from tests.helpers.pictures import picture

RECIPE = Recipe(model="none", prompt="a lamp", steps=2, width=160, height=96)
ROOT = Path(__file__).parents[3]


def claimed(recipe: Recipe = RECIPE, job: str = "a0000000-0000-4000-8000-000000000000") -> Claimed:
    work = DrawWork(recipe=recipe).document()
    return Claimed(job, 1, 0, recipe.seed, take_id(job, 0), "ada", work)


def no_step(_step: int, _steps: int) -> None:
    """Nobody looks."""


async def keys(store: MemoryStore) -> list[str]:
    return sorted([entry.key async for entry in store.list()])


async def test_a_take_is_a_set_and_is_not_drawn_twice() -> None:
    engine, store = ScriptedEngine(scripted_images(3)), MemoryStore()
    seen: list[tuple[str, int]] = []
    steps: list[tuple[int, int]] = []
    item = claimed()
    place = DrawingPlace(
        "gpu", engine, store, look=lambda of, image: seen.append((of.take, image.step))
    )
    await place.work(item, lambda *step: steps.append(step))
    assert seen == [(item.take, n) for n in (1, 2, 3)]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    own = take_store(store, item.take)
    found = await Library(own).open_set(NO_ACTION, 0)
    assert (found.meta.total_steps, found.meta.engine) == (2, "scripted 1")
    assert found.meta.durations == {"1": 0.1, "2": 0.1, "final": 0.1}
    assert await own.get(Key(f"actions/{NO_ACTION}/sets/0/final.jpg")) == picture("3")
    again = await place.work(item, no_step)
    assert len(engine.asked) == 1
    assert again.cost is None


async def test_it_tells_what_it_took_and_what_that_cost() -> None:
    clock = 100.0

    async def passes(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        await asyncio.sleep(0)

    engine = ScriptedEngine(scripted_images(3), pause=2.0, sleep=passes)
    learnt: list[tuple[str, WorkSize, float]] = []
    place = DrawingPlace(
        "gpu",
        engine,
        MemoryStore(),
        learn=lambda *what: learnt.append(what),
        cost_of=lambda seconds: seconds * 0.5,
        now=lambda: clock,
    )
    done = await place.work(claimed(), no_step)
    assert (done.seconds, done.cost) == (6.0, 3.0)
    assert learnt == [("gpu", WorkSize("none", 160, 96, 2), 6.0)]
    await place.work(claimed(), no_step)
    assert len(learnt) == 1  # what was found says nothing about the engine


async def test_what_an_earlier_try_has_left_is_swept() -> None:
    store = MemoryStore()
    item = claimed()
    own = take_store(store, item.take)
    within = f"actions/{NO_ACTION}/sets/0/"
    for name in ("1.jpg", "2.jpg", "7.jpg", "final.png"):
        await own.put(Key(f"{within}{name}"), b"half a picture")
    await own.put(Key("manifest.json"), b"no manifest")
    other = take_store(store, claimed(job="b0000000-0000-4000-8000-000000000000").take)
    await other.put(Key("manifest.json"), b"somebody else's")
    place = DrawingPlace("gpu", ScriptedEngine(scripted_images(3)), store)
    await place.work(item, no_step)
    left = [key.removeprefix(f"studio/takes/{item.take}/{within}") for key in await keys(store)]
    assert "7.jpg" not in left
    assert "final.png" not in left
    assert {"1.jpg", "2.jpg", "final.jpg", "meta.json"} <= set(left)
    assert await other.get(Key("manifest.json")) == b"somebody else's"


async def test_a_take_of_another_recipe_is_drawn_anew() -> None:
    engine, store = ScriptedEngine(scripted_images(3)), MemoryStore()
    place = DrawingPlace("gpu", engine, store)
    await place.work(claimed(), no_step)
    item = claimed(RECIPE.model_copy(update={"prompt": "a lighthouse"}))
    await place.work(item, no_step)
    assert len(engine.asked) == 2
    own = take_store(store, item.take)
    key = meta_key(NO_ACTION, 0)
    assert parse_meta(await own.get(key), key).fingerprint == engine.asked[1].fingerprint


async def test_an_engine_that_warms_up_is_made_ready_first() -> None:
    clock = 0.0

    @dataclass(frozen=True)
    class Cold(ScriptedEngine):
        prepared: list[Recipe] = field(default_factory=list)

        async def prepare(self, recipe: Recipe) -> None:
            nonlocal clock
            clock += 60.0
            assert not self.asked
            self.prepared.append(recipe)

    engine = Cold(scripted_images(3))
    learnt: list[float] = []
    place = DrawingPlace(
        "gpu",
        engine,
        MemoryStore(),
        learn=lambda _engine, _size, seconds: learnt.append(seconds),
        now=lambda: clock,
    )
    done = await place.work(claimed(), no_step)
    assert engine.prepared == engine.asked == [RECIPE]
    assert (done.seconds, learnt) == (60.0, [0.0])


async def test_a_large_base_image_is_understood_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe(
        kind=PipelineKind.IMAGE_TO_IMAGE,
        model="none",
        prompt="a lamp",
        steps=2,
        width=160,
        height=96,
        strength=0.5,
        base_image=os.urandom(2**21),
    )
    where: list[bool] = []
    validate = DrawWork.model_validate

    def noted(work: Any) -> DrawWork:
        where.append(threading.current_thread() is threading.main_thread())
        return validate(work)

    monkeypatch.setattr(DrawWork, "model_validate", noted)
    engine = ScriptedEngine(scripted_images(2))
    await DrawingPlace("gpu", engine, MemoryStore()).work(claimed(recipe), no_step)
    await DrawingPlace("gpu", engine, MemoryStore()).work(claimed(), no_step)
    assert where == [False, True]
    assert engine.asked[0] == recipe


# ---------------------------------------------------------------- killed


def final_of(recipe: Recipe) -> bytes:
    """The final image, as an undisturbed engine draws it."""

    async def draw() -> StepImage:
        async with TestCardEngine(wait=False).render(recipe) as images:
            return [image async for image in images][-1]

    return asyncio.run(draw()).image


@dataclass(eq=False)
class MortalStudio:
    """A process that works a queue off, and is started again each time it is killed.

    Args:
        url: the database.
        store: where takes go.
        folder: where the engine calls are counted.
        name: the holder.
        slots: how many pictures are drawn at once.
    """

    url: sa.URL
    store: Path
    folder: Path
    name: str
    slots: int
    kills: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        address = self.url.render_as_string(hide_password=False)
        given = [address, str(self.store), self.name, str(self._calls), str(self.slots)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.drawing_studio", *given],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )

    @property
    def _calls(self) -> Path:
        return self.folder / f"calls of {self.name}"

    @property
    def calls(self) -> int:
        """How often its engines were asked."""
        return self._calls.read_bytes().count(b"\n") if self._calls.exists() else 0

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, "it ended by itself"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    async def live(self, chances: random.Random, kills: int) -> None:
        """Start it, kill it at random moments of its work, and leave it running at last."""
        self.start()
        for _ in range(kills):
            wanted = self.calls + chances.randint(self.slots + 1, self.slots + 4)
            async with asyncio.timeout(60):
                while self.calls < wanted:  # noqa: ASYNC110 - another process counts them
                    await asyncio.sleep(0.001)
            await asyncio.sleep(chances.random() * 0.03)
            self.kill()
            self.kills += 1
            self.start()


@asynccontextmanager
async def told(store: JobStore, look: Callable[[JobEvent], None]) -> AsyncIterator[list[JobEvent]]:
    """Everything that is told of the jobs, each shown to `look` as soon as it is."""
    events: list[JobEvent] = []

    async def follow() -> None:
        while True:
            for event in await store.events_after(events[-1].id if events else 0):
                look(event)
                events.append(event)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(follow())
    try:
        yield events
    finally:
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, Exception):
            raise result


async def test_killed_again_and_again_everything_is_drawn_once(url: sa.URL, tmp_path: Path) -> None:
    shared = url.get_backend_name() == "postgresql"
    studios, count, kills = (2, 40, 2) if shared else (1, 30, 3)
    chances = random.Random(count)
    recipe = Recipe(model="none", prompt="a lamp", steps=12, width=640, height=384)
    folder = tmp_path / "store"
    folder.mkdir()
    mortals = [MortalStudio(url, folder, tmp_path, f"studio-{n}", 2) for n in range(studios)]
    async with open_database(url) as database, FolderStore(folder) as files:
        store = JobStore(database, "nobody")
        jobs: list[Job] = []
        for seed in range(count):
            own = recipe.model_copy(update={"prompt": f"lamp {seed}", "seed": seed})
            new = NewJob(
                id=str(uuid.UUID(int=chances.getrandbits(128), version=4)),
                kind="draw",
                owner="ada",
                items=[NewItem(seed, DrawWork(recipe=own).document())],
            )
            jobs.append((await store.accept(new, float(seed)))[0])

        def is_there(event: JobEvent) -> None:
            if event.type in {"item.ready", "job.completed"}:
                item = next(job for job in jobs if job.id == event.job).items[0]
                place = folder / f"studio/takes/{item.take}/actions/{NO_ACTION}/sets/0"
                assert (place / "meta.json").is_file()
                assert (place / "final.jpg").is_file()

        async with told(store, is_there) as events:
            try:
                await asyncio.gather(*(each.live(chances, kills) for each in mortals))
                found = await _all_over(store, count)
                await asyncio.sleep(0.1)
            finally:
                for each in mortals:
                    if each.process is not None and each.process.poll() is None:
                        each.kill()
        assert Counter(job.status for job in found) == {"completed": count}
        killed = sum(each.kills for each in mortals)
        assert killed == studios * kills
        assert sum(each.calls for each in mortals) <= count + 2 * killed
        for job in jobs:
            _goes_forwards([event.type for event in events if event.job == job.id])
            own_store = take_store(files, job.items[0].take)
            final = await own_store.get(Key(f"actions/{NO_ACTION}/sets/0/final.jpg"))
            asked = recipe.model_copy(
                update={"prompt": f"lamp {job.items[0].seed}", "seed": job.items[0].seed}
            )
            assert final == await asyncio.to_thread(final_of, asked)


async def _all_over(store: JobStore, count: int) -> list[Job]:
    async with asyncio.timeout(120):
        while True:
            found = await store.find(limit=count)
            if all(job.status in ENDED for job in found):
                return found
            await asyncio.sleep(0.02)


def _goes_forwards(types: list[str]) -> None:
    """Each thing is told once, in its order; but for an item that is begun once more."""
    assert types[:2] == ["job.queued", "job.started"]
    assert types[-2:] == ["item.ready", "job.completed"]
    assert set(types[2:-2]) <= {"item.running", "item.queued"}
