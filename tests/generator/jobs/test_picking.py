"""A take that is picked is a set like any other, once and whole, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cache.index import load_manifest
from cache.library import Library
from cache.model.keys import image_key
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import NotFound, Store
from generator.engines.port import DrawnSet
from generator.jobs.drawing import NO_ACTION, take_store
from generator.jobs.picking import StaleTake, pick_take, unpick_take
from generator.sets import quarantine
from generator.sets.adoption import NotAdopted
from generator.sets.recorder import PlannedSet, Recorder
from generator.sets.verify import verify_sets
from generator.sheet.description import describe
from tests.cache.samples import picture
from tests.generator.sets.test_quarantine import Fatal
from tests.generator.sets.test_recorder import WHEN, Died, action, four, run_of

IMAGES = tuple(
    replace(image, duration=0.1234567 * image.step)
    for image in run_of(*(picture("jpg", seed) for seed in range(4)))
)


@pytest.fixture(params=["memory", "folder"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")
    async with opened:
        yield opened


async def drawn(store: Store, seed: int = 7, drawn_as: str = "prompt_001") -> str:
    """A take of the action's recipe; its id."""
    take = str(uuid.uuid4())
    planned = PlannedSet(drawn_as, 0, action().recipe.with_seed(seed), describe(action()))
    own = take_store(store, take)
    await Recorder(four(), own, lambda: WHEN, alone=True).keep(
        planned, DrawnSet(seed, IMAGES, "measured")
    )
    return take


async def is_a_set(store: Store, set_id: int, take: str) -> None:
    """The set is there, whole and registered, with the take's own pictures and durations."""
    library = Library(store)
    manifest = await library.refresh()
    assert set_id in manifest.set_ids("prompt_001")
    found = await library.open_set("prompt_001", set_id)
    own = Library(take_store(store, take))
    (drawn_as,) = (await own.refresh()).actions
    before = await own.open_set(drawn_as, 0)
    assert found.meta.durations == before.meta.durations
    assert (found.meta.set_id, found.meta.cue_id) == (set_id, "prompt_001")
    assert (found.meta.seed, found.meta.timing) == (before.meta.seed, "measured")
    assert [await library.image(s) for s in found.steps] == [
        await own.image(s) for s in before.steps
    ]
    assert [each async for each in verify_sets(library, [action()])] == []


@pytest.mark.parametrize("drawn_as", ["prompt_001", NO_ACTION])
async def test_a_pick_is_the_next_set_with_its_own_durations(store: Store, drawn_as: str) -> None:
    await Recorder(four(), store, lambda: WHEN).record(action(), 0)
    take = await drawn(store, drawn_as=drawn_as)
    assert await pick_take(store, take, action(), WHEN) == 1
    await is_a_set(store, 1, take)
    assert await pick_take(store, take, action(), WHEN) == 1  # it is already
    assert (await load_manifest(store)).set_ids("prompt_001") == (0, 1)
    assert [entry.key async for entry in store.list("quarantine/")] == []


async def test_two_who_pick_at_once_make_one_set(store: Store) -> None:
    take = await drawn(store)
    other = await drawn(store, 8)
    later = WHEN + timedelta(hours=1)
    numbers = await asyncio.gather(
        *(pick_take(store, take, action(), at) for at in (WHEN, later, WHEN, later)),
        pick_take(store, other, action(), WHEN),
    )
    assert len(set(numbers[:4])) == 1
    assert sorted({*numbers}) == [0, 1]
    await is_a_set(store, numbers[0], take)
    await is_a_set(store, numbers[4], other)


async def test_what_the_action_draws_no_more_is_not_picked(store: Store) -> None:
    take = await drawn(store)
    recipe = action().recipe.model_copy(update={"prompt": "ships", "steps": 9})
    with pytest.raises(StaleTake, match=r"prompt .*boats.* → .*ships") as caught:
        await pick_take(store, take, replace(action(), recipe=recipe), WHEN)
    assert len(caught.value.changes) == 2
    with pytest.raises(NotFound):
        await load_manifest(store)


async def test_what_is_not_there_or_damaged_is_not_picked(store: Store) -> None:
    with pytest.raises(NotFound):
        await pick_take(store, str(uuid.uuid4()), action(), WHEN)
    take = await drawn(store)
    await take_store(store, take).put(image_key("prompt_001", 0, "2.jpg"), b"torn")
    with pytest.raises(NotAdopted, match=r"2\.jpg"):
        await pick_take(store, take, action(), WHEN)
    with pytest.raises(NotFound):
        await load_manifest(store)


async def test_a_pick_is_taken_back_and_made_again(store: Store) -> None:
    take = await drawn(store)
    assert await unpick_take(store, take, "prompt_001") is None
    await pick_take(store, take, action(), WHEN)
    assert await unpick_take(store, take, "prompt_001") == 0
    entry = (await load_manifest(store)).actions["prompt_001"]
    assert (entry.set_ids, entry.rejected) == ((), (0,))
    other = await drawn(store, 8)
    assert await pick_take(store, other, action(), WHEN) == 1
    assert await pick_take(store, take, action(), WHEN) == 0
    assert (await load_manifest(store)).set_ids("prompt_001") == (0, 1)
    await is_a_set(store, 0, take)


@pytest.mark.parametrize("after", [False, True])
async def test_killed_between_any_two_writes_the_next_pick_makes_one_whole_set(after: bool) -> None:
    first = MemoryStore()
    await Recorder(four(), first, lambda: WHEN).record(action(), 0)
    take = await drawn(first)
    contents = {str(key): data for key, data in first.contents.items()}
    fatal = 0
    while True:
        fatal += 1
        store = Fatal(contents, fatal, after=after)
        try:
            await pick_take(store, take, action(), WHEN)
        except Died:
            pass
        else:
            break
        found = MemoryStore({str(key): data for key, data in store.contents.items()})
        if fatal % 2:  # whoever sweeps meanwhile takes nothing that is still needed
            await quarantine.sweep(found, WHEN + timedelta(minutes=1))
        assert await pick_take(found, take, action(), WHEN + timedelta(days=3)) == 1
        await is_a_set(found, 1, take)
        assert (await load_manifest(found)).set_ids("prompt_001") == (0, 1)
        assert [entry.key async for entry in found.list("quarantine/")] == []
    assert fatal > 8
