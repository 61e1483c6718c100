from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cache.index import load_manifest
from cache.library import BrokenSet, Library
from cache.model.keys import Key, config_key, image_key, meta_key
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import NotFound, Store, StoreUnavailable, Version
from generator.engines.port import DrawingFailed, EngineUnavailable, ScriptedEngine, StepImage
from generator.engines.sketch.engine import SketchEngine, nominal_durations
from generator.sets.numbers import claim_key
from generator.sets.recorder import Recorder
from generator.sheet.plan import Action
from generator.sheet.recipe import PipelineKind, Recipe, seed_for
from tests.cache.samples import picture, plain
from tests.contracts.engine_contract import base_image, difference

WHEN = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
FILES = ("1.jpg", "2.jpg", "3.jpg", "final.jpg")


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "model": "m",
        "prompt": "boats",
        "steps": 3,
        "width": 64,
        "height": 64,
    }
    return Recipe(**{**fields, **changes})


def action(action_id: str = "prompt_001", **changes: Any) -> Action:
    return Action(
        action_id=action_id,
        type="prompt",
        cue_index=3,
        at=2662.5,
        program="P4",
        prompt="shown",
        override="boats",
        recipe=recipe(**changes),
    )


def run_of(*images: bytes, media_type: str = "image/jpeg", seconds: float = 0.5) -> list[StepImage]:
    count = len(images)
    return [
        StepImage(
            step=number,
            steps=count,
            final=number == count,
            timestep=None if number == count else 1000.0 - number,
            duration=seconds,
            image=image,
            media_type=media_type,
        )
        for number, image in enumerate(images, 1)
    ]


def scripted(*images: bytes, **fields: Any) -> ScriptedEngine:
    return ScriptedEngine(run_of(*images, **fields))


def four() -> ScriptedEngine:
    return scripted(*(picture("jpg", seed) for seed in range(4)))


def recorder(store: Store, engine: ScriptedEngine | SketchEngine | None = None) -> Recorder:
    return Recorder(engine or four(), store, lambda: WHEN)


async def seen_whole(store: Store, action_id: str = "prompt_001", set_id: int = 0) -> bool:
    """Whether the set exists; one that exists must be whole to the last byte."""
    try:
        await store.get(meta_key(action_id, set_id))
    except NotFound:
        return False
    library = Library(store)
    found = await library.open_set(action_id, set_id)
    for step in found.steps:
        assert await library.image(step)
    return True


@pytest.fixture(params=["memory", "folder"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")
    async with opened:
        yield opened


# ---------------------------------------------------------------- a whole set


async def test_a_recording_is_a_whole_set(store: Store) -> None:
    meta = await recorder(store).record(action(), 2)
    library = Library(store)
    await library.refresh()
    assert library.set_ids("prompt_001") == (2,)
    found = await library.open_set("prompt_001", 2)
    assert [step.name for step in found.steps] == list(FILES)
    assert [step.final for step in found.steps] == [False, False, False, True]
    assert [await library.image(step) for step in found.steps] == [
        picture("jpg", seed) for seed in range(4)
    ]
    assert found.meta == meta
    assert (meta.total_steps, meta.total_duration) == (3, 2.0)
    assert meta.durations == {"1": 0.5, "2": 0.5, "3": 0.5, "final": 0.5}


async def test_the_meta_tells_what_was_drawn_by_whom_and_from_what(store: Store) -> None:
    drawn = action()
    await recorder(store).record(drawn, 7)
    document = json.loads(await store.get(meta_key("prompt_001", 7)))
    assert document["cue_id"] == "prompt_001"
    assert document["set_id"] == 7
    assert document["generated_at"] == "2026-11-20T10:30:00Z"
    assert document["engine"] == "scripted 1"
    assert document["timing"] == "simulated"
    assert document["fingerprint"] == drawn.fingerprint
    assert document["seed"] == seed_for(drawn.fingerprint, 7)
    assert document["model_config"] == {
        "program": "P4",
        "kind": "text-to-image",
        "model": "m",
        "prompt": "boats",
        "negative_prompt": "",
        "num_inference_steps": 3,
        "guidance_scale": 7.5,
        "width": 64,
        "height": 64,
        "scheduler": None,
        "loras": [],
    }


async def test_the_manifest_and_the_config_describe_the_action(store: Store) -> None:
    drawn = action()
    await recorder(store).record(drawn, 1)
    await recorder(store).record(drawn, 0)
    await recorder(store).record(action("prompt_002", prompt="sea"), 0)
    manifest = await load_manifest(store)
    assert manifest.set_ids("prompt_001") == (0, 1)
    assert manifest.set_ids("prompt_002") == (0,)
    entry = manifest.actions["prompt_001"]
    assert (entry.type, entry.program, entry.prompt, entry.steps) == ("prompt", "P4", "shown", 3)
    assert (entry.time, entry.override_prompt) == ("00:44:22.5", "boats")
    assert entry.fingerprint == drawn.fingerprint
    config = json.loads(await store.get(config_key("prompt_001")))
    assert config["fingerprint"] == drawn.fingerprint


async def test_the_sketch_engine_is_recorded_as_it_drew(store: Store) -> None:
    drawn = action()
    meta = await recorder(store, SketchEngine(pace=0.4, wait=False)).record(drawn, 1)
    seeded = drawn.recipe.with_seed(seed_for(drawn.fingerprint, 1))
    assert list(meta.durations.values()) == pytest.approx(nominal_durations(seeded, 0.4))
    assert await seen_whole(store, set_id=1)


async def test_each_set_is_another_picture_and_drawn_again_the_same(store: Store) -> None:
    engine = SketchEngine(wait=False)
    for set_id in (0, 1):
        await recorder(store, engine).record(action(), set_id)
    keys = [image_key("prompt_001", set_id, "final.jpg") for set_id in (0, 1)]
    first, second = [await store.get(key) for key in keys]
    assert difference(first, second) > 1
    await recorder(store, engine).record(action(), 0)
    assert await store.get(keys[0]) == first


async def test_other_kinds_of_image_are_named_by_what_they_are(store: Store) -> None:
    images = [picture("webp", seed) for seed in range(2)]
    meta = await recorder(store, scripted(*images, media_type="image/webp")).record(action(), 0)
    assert sorted(meta.files) == ["1.webp", "final.webp"]
    assert await seen_whole(store)


async def test_image_to_image_at_no_strength_is_one_step(store: Store) -> None:
    drawn = action(kind=PipelineKind.IMAGE_TO_IMAGE, strength=0.0, base_image=base_image())
    meta = await recorder(store, SketchEngine(wait=False)).record(drawn, 0)
    assert (meta.total_steps, list(meta.files), list(meta.durations)) == (1, ["1.jpg"], ["1"])
    assert meta.config["strength"] == 0.0
    library = Library(store)
    (step,) = (await library.open_set("prompt_001", 0)).steps
    assert (step.name, step.final) == ("1.jpg", True)
    assert await library.image(step)


# ---------------------------------------------------------------- broken off anywhere


class Died(BaseException):
    """The process is gone: nothing may catch this."""


class BreakingStore(MemoryStore):
    """Fails at its `fatal`-th change: before or after making it."""

    def __init__(
        self, fatal: int, error: BaseException, *, after: bool, contents: dict[str, bytes]
    ) -> None:
        super().__init__(contents)
        self.changes: list[str] = []
        self._fatal, self._error, self._after = fatal, error, after

    def _begins(self, what: str) -> None:
        self.changes.append(what)
        if len(self.changes) == self._fatal and not self._after:
            raise self._error

    def _done(self) -> None:
        if len(self.changes) == self._fatal and self._after:
            raise self._error

    async def put(self, key: Key, data: bytes) -> None:
        self._begins(f"put {key}")
        await super().put(key, data)
        self._done()

    async def delete(self, key: Key) -> None:
        self._begins(f"delete {key}")
        await super().delete(key)
        self._done()

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        self._begins(f"replace {key}")
        version = await super().replace(key, data, expected=expected)
        self._done()
        return version


async def changes_of(contents: dict[str, bytes]) -> list[str]:
    store = BreakingStore(0, Died(), after=False, contents=contents)
    await recorder(store).record(action(), 0)
    return store.changes


async def old_set() -> dict[str, bytes]:
    """A set of the same number with more and other images, and its manifest."""
    store = MemoryStore()
    older = scripted(*(picture("png", seed) for seed in range(10, 16)), media_type="image/png")
    await recorder(store, older).record(action(), 0)
    await recorder(store, older).record(action(), 1)
    return {str(key): data for key, data in store.contents.items()}


async def test_the_meta_goes_first_and_comes_last() -> None:
    meta = meta_key("prompt_001", 0)
    for contents in ({}, await old_set()):
        changes = await changes_of(contents)
        assert changes[:2] == [f"replace {claim_key('prompt_001', 0)}", f"delete {meta}"]
        assert changes[-1] == f"delete {claim_key('prompt_001', 0)}"
        assert changes.index(f"put {meta}") > max(
            changes.index(f"put {image_key('prompt_001', 0, name)}") for name in FILES
        )
        assert changes.count(f"put {meta}") == 1
        if not contents:  # else the manifest says so already
            assert changes.index("replace manifest.json") > changes.index(f"put {meta}")


@pytest.mark.parametrize("error", [Died(), asyncio.CancelledError(), StoreUnavailable("k", "gone")])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("redrawn", [False, True])
async def test_broken_off_at_any_write_there_is_no_set_or_a_whole_one(
    error: BaseException, after: bool, redrawn: bool
) -> None:
    contents = await old_set() if redrawn else {}
    changes = await changes_of(contents)
    gone_at = changes.index(f"delete {meta_key('prompt_001', 0)}") + 1
    meta_at = changes.index(f"put {meta_key('prompt_001', 0)}") + 1
    for fatal in range(1, len(changes)):  # the last lets go of the number, and nothing hangs on it
        store = BreakingStore(fatal, error, after=after, contents=contents)
        with pytest.raises(type(error)):
            await recorder(store).record(action(), 0)
        exists = await seen_whole(store)
        untouched = redrawn and (fatal < gone_at or (fatal == gone_at and not after))
        assert exists == (untouched or fatal > meta_at or (after and fatal == meta_at))
        if redrawn:
            assert await seen_whole(store, set_id=1)
        # and whatever lies about, the next recording is whole
        await recorder(store).record(action(), 0)
        assert await seen_whole(store)
        found = await Library(store).open_set("prompt_001", 0)
        assert [step.name for step in found.steps] == list(FILES)
        assert found.meta.fingerprint == action().fingerprint


async def test_a_redrawn_set_does_not_show_what_was_left_of_the_old_one(store: Store) -> None:
    longer = scripted(*(picture("jpg", seed) for seed in range(20, 28)))
    await recorder(store, longer).record(action(), 0)
    await recorder(store).record(action(), 0)
    library = Library(store)
    found = await library.open_set("prompt_001", 0)
    assert [await library.image(step) for step in found.steps] == [
        picture("jpg", seed) for seed in range(4)
    ]


async def test_cancelled_while_drawing_it_leaves_nothing_and_frees_the_engine() -> None:
    store = MemoryStore()
    engine = replace(four(), pause=0.02)
    before = asyncio.all_tasks()
    task = asyncio.create_task(recorder(store, engine).record(action(), 0))
    while store.calls["put"] < 2:  # noqa: ASYNC110 - the store tells nobody
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    assert not await seen_whole(store)
    assert "manifest.json" not in store.contents


# ---------------------------------------------------------------- what no visitor may see


CUT = picture("jpg", 1)[:-200]
GARBLED = picture("png", 1)[:60] + b"\x00" * 200 + picture("png", 1)[260:]


@pytest.mark.parametrize(
    ("final", "media_type", "reason"),
    [
        (plain("jpg", (0, 0, 0), 64), "image/jpeg", "one colour"),
        (plain("jpg", (200, 10, 10), 64), "image/jpeg", "one colour"),
        (plain("png", (255, 255, 255), 64), "image/png", "one colour"),
        (CUT, "image/jpeg", "cannot be read"),
        (GARBLED, "image/png", "cannot be read"),
        (b"", "image/jpeg", "cannot be read"),
        (b"<html>502</html>", "image/jpeg", "cannot be read"),
    ],
)
async def test_an_unusable_final_image_is_refused(
    final: bytes, media_type: str, reason: str
) -> None:
    kind = media_type.removeprefix("image/").replace("jpeg", "jpg")
    store = MemoryStore()
    engine = scripted(picture(kind, 1), final, media_type=media_type)
    with pytest.raises(DrawingFailed, match=reason):
        await recorder(store, engine).record(action(), 0)
    assert not await seen_whole(store)
    assert "manifest.json" not in store.contents


@pytest.mark.parametrize("preview", [CUT, b"", b"<html>502</html>", picture("png", 3)])
async def test_a_preview_that_could_not_be_shown_is_refused_too(preview: bytes) -> None:
    # Else the set looks whole to a batch, and is passed over as broken in the show.
    store = MemoryStore()
    engine = scripted(picture("jpg", 1), preview, picture("jpg", 2))
    with pytest.raises(DrawingFailed, match="step 2"):
        await recorder(store, engine).record(action(), 0)
    assert not await seen_whole(store)


async def test_bytes_that_are_not_what_the_engine_says_are_refused() -> None:
    store = MemoryStore()
    engine = scripted(picture("png", 1), picture("png", 2), media_type="image/jpeg")
    with pytest.raises(DrawingFailed):
        await recorder(store, engine).record(action(), 0)
    assert not await seen_whole(store)


@pytest.mark.parametrize("media_type", ["image/gif", "text/html", ""])
async def test_a_kind_of_image_that_no_store_keeps_is_the_engines_fault(media_type: str) -> None:
    engine = scripted(picture("jpg", 1), picture("jpg", 2), media_type=media_type)
    with pytest.raises(DrawingFailed):
        await recorder(MemoryStore(), engine).record(action(), 0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
async def test_a_duration_that_is_none_is_the_engines_fault(seconds: float) -> None:
    store = MemoryStore()
    engine = scripted(picture("jpg", 1), picture("jpg", 2), seconds=seconds)
    with pytest.raises(DrawingFailed, match="duration"):
        await recorder(store, engine).record(action(), 0)
    assert not await seen_whole(store)


@pytest.mark.parametrize(
    "images",
    [
        [],
        run_of(picture("jpg", 1), picture("jpg", 2), picture("jpg", 3))[:-1],
    ],
)
async def test_a_drawing_that_ends_without_a_final_image_is_none(images: list[StepImage]) -> None:
    store = MemoryStore()
    with pytest.raises(DrawingFailed, match="without a final image"):
        await recorder(store, ScriptedEngine(images)).record(action(), 0)
    assert not await seen_whole(store)


@pytest.mark.parametrize("numbers", [(1, 3, 4), (2, 3, 4), (1, 1, 2), (0, 1, 2)])
async def test_steps_that_are_not_counted_from_one_are_the_engines_fault(
    numbers: tuple[int, ...],
) -> None:
    images = run_of(*(picture("jpg", seed) for seed in range(3)))
    images = [replace(image, step=step) for image, step in zip(images, numbers, strict=True)]
    store = MemoryStore()
    with pytest.raises(DrawingFailed, match="step"):
        await recorder(store, ScriptedEngine(images)).record(action(), 0)
    assert not await seen_whole(store)


async def test_nothing_comes_after_the_final_image() -> None:
    store = MemoryStore()
    images = run_of(picture("jpg", 1), picture("jpg", 2))
    images.append(replace(images[-1], step=3))
    with pytest.raises(DrawingFailed, match="after the final image"):
        await recorder(store, ScriptedEngine(images)).record(action(), 0)
    assert not await seen_whole(store)


async def test_a_step_too_short_to_measure_is_a_step() -> None:
    store = MemoryStore()
    engine = scripted(picture("jpg", 1), picture("jpg", 2), seconds=1e-9)
    meta = await recorder(store, engine).record(action(), 0)
    assert all(seconds and seconds < 1e-3 for seconds in meta.durations.values())
    assert await seen_whole(store)


async def test_an_engines_error_is_passed_on_and_leaves_no_set() -> None:
    store = MemoryStore()
    engine = replace(four(), error=EngineUnavailable("the box is off"))
    engine = replace(engine, images=engine.images[:2])
    with pytest.raises(EngineUnavailable, match="the box is off"):
        await recorder(store, engine).record(action(), 0)
    with pytest.raises(BrokenSet):
        await Library(store).open_set("prompt_001", 0)
