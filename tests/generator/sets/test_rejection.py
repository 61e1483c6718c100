"""Sets that are rejected: never shown, never drawn again, and back when somebody wants them."""

from __future__ import annotations

import asyncio

import pytest

from cache.index import load_manifest, reindex
from cache.library import Library
from cache.model.keys import meta_key
from cache.model.manifest import ManifestAction, dump_manifest, parse_manifest
from cache.stores.memory import MemoryStore
from generator.engines.sketch.engine import SketchEngine
from generator.sets.inventory import jobs_for, take_inventory
from generator.sets.recorder import Recorder
from generator.sets.rejection import NoSuchSet, reject_set, restore_set
from generator.sheet.plan import Action
from tests.contracts.engine_contract import recipe

ACTION = Action("boats", "prompt", 0, 0.0, "P4", "boats", None, recipe(steps=2))


async def recorded(sets: int = 3) -> MemoryStore:
    store = MemoryStore()
    async with store:
        for number in range(sets):
            await Recorder(SketchEngine(wait=False), store).record(ACTION, number)
    return store


async def entry(store: MemoryStore) -> ManifestAction:
    return (await load_manifest(store)).actions["boats"]


async def test_a_rejected_set_is_not_shown_and_its_number_not_drawn_again() -> None:
    store = await recorded()
    assert await reject_set(store, "boats", 1, "the mast is bent")
    found = await entry(store)
    assert (found.set_ids, found.rejected) == ((0, 2), (1,))
    assert found.rejected_because == {1: "the mast is bent"}
    library = Library(store)
    await library.refresh()
    library.want({"boats": ACTION.fingerprint})
    assert library.set_ids("boats") == (0, 2)
    holdings = await take_inventory(library, [ACTION])
    assert [job.set_id for job in jobs_for(holdings, 4)] == [3, 4]
    assert not await reject_set(store, "boats", 1)  # it is already
    assert await entry(store) == found


async def test_a_set_that_was_rejected_comes_back() -> None:
    store = await recorded()
    before = await entry(store)
    await reject_set(store, "boats", 1, "the mast is bent")
    assert await restore_set(store, "boats", 1)
    assert await entry(store) == before
    assert not await restore_set(store, "boats", 1)


async def test_a_set_of_another_recipe_comes_back_under_its_own() -> None:
    store = await recorded()
    other = Action("boats", "prompt", 0, 0.0, "P4", "boats", None, recipe(steps=3))
    await Recorder(SketchEngine(wait=False), store).record(other, 3)
    before = await entry(store)
    assert before.fingerprint == other.fingerprint
    await reject_set(store, "boats", 1)
    await restore_set(store, "boats", 1)
    assert await entry(store) == before
    assert before.other_sets == {ACTION.fingerprint: (0, 1, 2)}


async def test_what_there_is_not_is_told_with_what_there_is() -> None:
    store = await recorded(2)
    with pytest.raises(NoSuchSet, match="boats has no set 7; it has 0, 1"):
        await reject_set(store, "boats", 7)
    with pytest.raises(NoSuchSet, match="no set of ships"):
        await reject_set(store, "ships", 0)
    await reject_set(store, "boats", 1)
    with pytest.raises(NoSuchSet, match="no set 7 that was rejected; rejected are 1"):
        await restore_set(store, "boats", 7)
    await store.delete(meta_key("boats", 1))  # as pruning does
    with pytest.raises(NoSuchSet, match="its files are gone"):
        await restore_set(store, "boats", 1)


async def test_that_it_was_rejected_survives_reindexing_and_the_manifests_own_form() -> None:
    store = await recorded()
    await reject_set(store, "boats", 1, "bent")
    manifest = await reindex(store)
    assert (manifest.actions["boats"].set_ids, manifest.actions["boats"].rejected) == ((0, 2), (1,))
    assert parse_manifest(dump_manifest(manifest)).actions == manifest.actions
    assert manifest.actions["boats"].rejected_because == {1: "bent"}


async def test_many_who_reject_and_restore_at_once_lose_nothing() -> None:
    store = await recorded(12)
    await asyncio.gather(*(reject_set(store, "boats", n, f"why {n}") for n in range(0, 12, 2)))
    found = await entry(store)
    assert (found.rejected, found.set_ids) == ((0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11))
    assert found.rejected_because == {n: f"why {n}" for n in range(0, 12, 2)}
    await asyncio.gather(
        *(restore_set(store, "boats", n) for n in (0, 4, 8)),
        *(reject_set(store, "boats", n) for n in (1, 5)),
    )
    assert (await entry(store)).rejected == (1, 2, 5, 6, 10)
