"""Planted faults, one by one: each is found, and named."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from contextlib import aclosing

import pytest
from PIL import Image

from cache.library import Library
from cache.model.keys import Key, image_key, meta_key
from cache.stores.memory import MemoryStore
from generator.engines.sketch.engine import SketchEngine
from generator.sets.recorder import Recorder
from generator.sets.verify import SetFinding, verify_sets
from generator.sheet.plan import Action
from tests.contracts.engine_contract import recipe

ACTION = Action("prompt_001", "prompt", 0, 0.0, "P4", "boats", None, recipe(steps=2))


async def recorded() -> MemoryStore:
    store = MemoryStore()
    async with store:
        await Recorder(SketchEngine(wait=False), store).record(ACTION, 0)
    return store


async def findings(store: MemoryStore, action: Action = ACTION) -> list[SetFinding]:
    async with store:
        library = Library(store)
        await library.refresh()
        return [finding async for finding in verify_sets(library, [action])]


def picture(size: tuple[int, int], colour: int | None) -> bytes:
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    if colour is not None:
        image = Image.new("RGB", size, (colour, colour, colour))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def without_hashes(store: MemoryStore) -> None:
    """An original meta, which says nothing of its files."""
    key = meta_key("prompt_001", 0)
    meta = json.loads(store.contents[key])
    del meta["files"]
    store.contents[key] = json.dumps(meta).encode()


async def test_a_whole_set_has_no_findings() -> None:
    assert await findings(await recorded()) == []


def _missing(store: MemoryStore) -> None:
    del store.contents[image_key("prompt_001", 0, "1.jpg")]


def _truncated(store: MemoryStore) -> None:
    key = image_key("prompt_001", 0, "2.jpg")
    store.contents[key] = store.contents[key][:-40]


def _flipped(store: MemoryStore) -> None:
    key = image_key("prompt_001", 0, "2.jpg")
    data = bytearray(store.contents[key])
    data[len(data) // 2] ^= 1
    store.contents[key] = bytes(data)


def _no_meta(store: MemoryStore) -> None:
    del store.contents[meta_key("prompt_001", 0)]


@pytest.mark.parametrize(
    ("plant", "named"),
    [(_missing, "1.jpg"), (_truncated, "2.jpg"), (_flipped, "2.jpg"), (_no_meta, "meta.json")],
)
async def test_what_is_broken_is_named(plant: Callable[[MemoryStore], None], named: str) -> None:
    store = await recorded()
    plant(store)
    (finding,) = await findings(store)
    assert (finding.action_id, finding.set_id, finding.code) == ("prompt_001", 0, "broken")
    assert named in finding.message


async def test_a_set_of_another_recipe_is_stale() -> None:
    edited = Action("prompt_001", "prompt", 0, 0.0, "P4", "cats", None, recipe(prompt="cats"))
    (finding,) = await findings(await recorded(), edited)
    assert finding.code == "stale"


@pytest.mark.parametrize(
    ("image", "codes"),
    [
        (picture((160, 96), 0), {"flat"}),
        (picture((64, 64), None), {"size"}),
        (picture((160, 96), None)[:300] + b"\xff\xd9", {"undecodable", "broken"}),
    ],
)
async def test_a_final_image_nobody_should_see(image: bytes, codes: set[str]) -> None:
    store = await recorded()
    without_hashes(store)
    store.contents[image_key("prompt_001", 0, "final.jpg")] = image
    (finding,) = await findings(store)
    assert finding.code in codes


async def test_several_sets_are_looked_through_at_once_and_few_images_are_in_memory() -> None:
    class Busy(MemoryStore):
        under_way = most = 0

        async def get(self, key: Key) -> bytes:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0.001)
            try:
                return await super().get(key)
            finally:
                self.under_way -= 1

    store = Busy()
    for set_id in range(6):
        await Recorder(SketchEngine(wait=False), store).record(ACTION, set_id)
    for set_id in (4, 1):
        store.contents[image_key("prompt_001", set_id, "2.jpg")] = b"nothing"
    library = Library(store)
    await library.refresh()
    store.most, looked = 0, list[int]()
    async with aclosing(
        verify_sets(library, [ACTION], lambda: looked.append(1), at_once=3)
    ) as found:
        findings = [(finding.set_id, finding.code) async for finding in found]
    assert findings == [(1, "broken"), (4, "broken")]
    assert len(looked) == 6
    assert store.most == 3
