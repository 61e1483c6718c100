from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cache.index import load_manifest, rebuild, reindex
from cache.library import Library
from cache.model.keys import Key, image_key, meta_key
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import Store, StoreUnavailable, Version
from generator.engines.port import DrawingFailed
from generator.sets import quarantine
from generator.sets.adoption import NotAdopted
from generator.sets.quarantine import Harvested, approve
from generator.sets.recorder import Recorder
from generator.sets.verify import verify_sets
from generator.sheet.plan import Action
from tests.cache.samples import picture
from tests.generator.sets.test_recorder import WHEN, Died, action, four, run_of

IMAGES = run_of(*(picture("jpg", seed) for seed in range(4)))
FILES = ("1.jpg", "2.jpg", "3.jpg", "final.jpg")


@pytest.fixture(params=["memory", "folder"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")
    async with opened:
        yield opened


async def kept(store: Store, seed: int = 7, of: Action | None = None) -> Harvested:
    drawn = of or action()
    recipe = drawn.recipe.with_seed(seed)
    token = await quarantine.keep(store, drawn, recipe, IMAGES, engine=four(), now=WHEN)
    runs = (await quarantine.waiting(store, drawn.action_id)).runs
    return next(run for run in runs if run.token == token)


def own_store(store: Store, run: Harvested) -> Store:
    return quarantine.store_of(store, run.action_id, run.token)


async def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key async for entry in store.list(prefix)]


async def is_a_set(store: Store, set_id: int, seed: int = 7, action_id: str = "prompt_001") -> None:
    """The set is there, whole and registered, as if it had been recorded."""
    library = Library(store)
    await library.refresh()
    assert set_id in library.set_ids(action_id)
    found = await library.open_set(action_id, set_id)
    assert (found.meta.set_id, found.meta.seed) == (set_id, seed)
    assert [await library.image(step) for step in found.steps] == [i.image for i in IMAGES]
    assert [finding async for finding in verify_sets(library, [action(action_id)])] == []


# ---------------------------------------------------------------- in quarantine


async def test_a_run_lies_where_nobody_takes_it_for_a_set(store: Store) -> None:
    run = await kept(store)
    assert run.token.startswith("20261120T103000Z-")
    names = {f"sets/0/{name}" for name in (*FILES, "meta.json")} | {"config.json"}
    own = {"manifest.json", *(f"actions/prompt_001/{name}" for name in names)}
    assert set(await keys(store)) == {f"quarantine/prompt_001/{run.token}/{key}" for key in own}
    library = Library(store)
    assert (await library.refresh()).actions == {}
    assert (await rebuild(store)).actions == {}
    assert (await reindex(store)).total_sets == 0


async def test_it_can_be_verified_where_it_lies(store: Store) -> None:
    library = Library(own_store(store, await kept(store)))
    await library.refresh()
    assert [finding async for finding in verify_sets(library, [action()])] == []
    assert library.set_ids("prompt_001") == (0,)


async def test_its_meta_says_what_any_sets_does(store: Store) -> None:
    await kept(store)
    (run,) = (await quarantine.waiting(store)).runs
    meta = run.meta
    assert (meta.cue_id, meta.seed, meta.engine) == ("prompt_001", 7, "scripted 1")
    assert (meta.fingerprint, meta.timing) == (action().fingerprint, "simulated")
    assert meta.durations == {"1": 0.5, "2": 0.5, "3": 0.5, "final": 0.5}
    assert meta.generated_at == WHEN
    assert (run.entry.prompt, run.entry.override_prompt) == ("shown", "boats")


async def test_what_no_set_may_hold_is_not_kept(store: Store) -> None:
    cut_short = IMAGES[:3]
    for images in (cut_short, [*IMAGES[:3], *run_of(b"no picture")], []):
        with pytest.raises(DrawingFailed):
            await quarantine.keep(store, action(), action().recipe, images, engine=four(), now=WHEN)
    assert (await quarantine.waiting(store)).runs == ()


async def test_what_cannot_be_read_is_told(store: Store) -> None:
    run = await kept(store)
    await own_store(store, run).put(meta_key(run.action_id, 0), b"{}")
    found = await quarantine.waiting(store)
    assert found.runs == ()
    assert "total_steps" in found.remarks[0]


# ---------------------------------------------------------------- approved


async def test_approved_it_is_the_next_set_and_out_of_quarantine(store: Store) -> None:
    await Recorder(four(), store, lambda: WHEN).record(action(), 0)
    await Recorder(four(), store, lambda: WHEN).record(action(), 4)
    assert await approve(store, await kept(store)) == 5
    await is_a_set(store, 5)
    assert await keys(store, "quarantine/") == []
    assert (await load_manifest(store)).set_ids("prompt_001") == (0, 4, 5)


async def test_the_first_set_of_an_action_that_has_none_is_set_0(store: Store) -> None:
    assert await approve(store, await kept(store)) == 0
    entry = (await load_manifest(store)).actions["prompt_001"]
    assert (entry.prompt, entry.fingerprint) == ("shown", action().fingerprint)


async def test_a_number_into_which_somebody_draws_is_not_free(store: Store) -> None:
    await store.put(image_key("prompt_001", 3, "1.jpg"), picture("jpg"))
    assert await approve(store, await kept(store)) == 4


async def test_a_number_that_became_somebody_elses_set_meanwhile_is_passed_over(
    store: Store,
) -> None:
    run = await kept(store)
    await own_store(store, run).put(quarantine.APPROVAL, b'{"set_id": 0}')
    await Recorder(four(), store, lambda: WHEN).record(action(), 0)
    assert await approve(store, run) == 1
    await is_a_set(store, 1)
    assert (await Library(store).open_set("prompt_001", 0)).meta.seed != 7
    assert await keys(store, "quarantine/") == []


async def test_approved_twice_it_is_one_set(store: Store) -> None:
    run = await kept(store)
    assert await approve(store, run) == 0
    with pytest.raises(NotAdopted, match="no meta"):
        await approve(store, run)
    assert (await load_manifest(store)).set_ids("prompt_001") == (0,)


async def test_two_who_approve_of_the_same_at_once_make_one_set(store: Store) -> None:
    run = await kept(store)
    outcomes = await asyncio.gather(
        *(approve(store, run) for _ in range(4)), return_exceptions=True
    )
    assert [o for o in outcomes if not isinstance(o, NotAdopted)].count(0) >= 1
    assert set(map(type, outcomes)) <= {int, NotAdopted}
    await is_a_set(store, 0)
    assert await keys(store, "quarantine/") == []
    assert (await load_manifest(store)).set_ids("prompt_001") == (0,)


class Overtaken(MemoryStore):
    """While one reads a run's last image, another settles the run."""

    settle: Callable[[Store], Awaitable[object]] | None = None

    async def get(self, key: Key) -> bytes:
        data = await super().get(key)
        if key.startswith("quarantine/") and key.endswith("final.jpg") and self.settle is not None:
            settle, self.settle = self.settle, None
            await settle(self)
        return data


@pytest.mark.parametrize("rejected", [False, True])
async def test_who_is_overtaken_on_the_way_makes_no_second_set(rejected: bool) -> None:
    store = Overtaken()
    run = await kept(store)
    done = quarantine.reject if rejected else approve
    store.settle = lambda whole: done(whole, run)
    with pytest.raises(NotAdopted, match="somebody else was first"):
        await approve(store, run)
    assert await keys(store, "quarantine/") == []
    if rejected:
        assert await keys(store) == []
    else:
        await is_a_set(store, 0)
        assert (await load_manifest(store)).set_ids("prompt_001") == (0,)


async def test_many_approved_at_once_get_a_number_each(store: Store) -> None:
    runs = [await kept(store, seed) for seed in range(5)]
    numbers = await asyncio.gather(*(approve(store, run) for run in runs))
    assert sorted(numbers) == [0, 1, 2, 3, 4]
    for seed, number in enumerate(numbers):
        await is_a_set(store, number, seed)
    assert await keys(store, "quarantine/") == []


async def test_a_damaged_image_leaves_nothing_behind(store: Store) -> None:
    run = await kept(store)
    await own_store(store, run).put(image_key(run.action_id, 0, "2.jpg"), picture("jpg", 99))
    before = await keys(store)
    with pytest.raises(NotAdopted, match=r"2\.jpg"):
        await approve(store, run)
    assert await keys(store) == before


# ---------------------------------------------------------------- broken off anywhere


class Fatal(MemoryStore):
    """Dies at its `fatal`-th change, before making it or after."""

    def __init__(self, contents: dict[str, bytes], fatal: int, *, after: bool) -> None:
        super().__init__(contents)
        self.changes = 0
        self._fatal, self._after = fatal, after

    def _change(self, *, after: bool) -> None:
        self.changes += 0 if after else 1
        if self.changes == self._fatal and after == self._after:
            raise Died

    async def put(self, key: Key, data: bytes) -> None:
        self._change(after=False)
        await super().put(key, data)
        self._change(after=True)

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        self._change(after=False)
        version = await super().replace(key, data, expected=expected)
        self._change(after=True)
        return version

    async def delete(self, key: Key) -> None:
        self._change(after=False)
        await super().delete(key)
        self._change(after=True)


@pytest.mark.parametrize("after", [False, True])
async def test_killed_anywhere_the_same_command_finishes_it(after: bool) -> None:
    """Whatever is lost, the set is there once and whole, or the run still waits."""
    first = MemoryStore()
    await Recorder(four(), first, lambda: WHEN).record(action(), 0)
    run = await kept(first)
    contents = {str(key): data for key, data in first.contents.items()}
    fatal = 0
    while True:
        fatal += 1
        store = Fatal(contents, fatal, after=after)
        try:
            await approve(store, run)
        except Died:
            pass
        else:
            break
        # What is there now is what readers and writers find after a restart.
        found = MemoryStore({str(key): data for key, data in store.contents.items()})
        for waiting in (await quarantine.waiting(found)).runs:
            assert await approve(found, waiting) == 1
        await is_a_set(found, 1)
        assert (await load_manifest(found)).set_ids("prompt_001") == (0, 1)
        await quarantine.sweep(found, WHEN + timedelta(days=2))
        assert await keys(found, "quarantine/") == []
    assert fatal > 12


async def test_a_store_that_fails_leaves_it_to_another_try() -> None:
    store = MemoryStore()
    run = await kept(store)
    store.fail_next(StoreUnavailable("", "gone"), on="replace")
    with pytest.raises(StoreUnavailable):
        await approve(store, run)
    assert await approve(store, run) == 0
    await is_a_set(store, 0)


# ---------------------------------------------------------------- rejected, swept


async def test_rejected_it_is_gone_and_its_number_free(store: Store) -> None:
    run, other = await kept(store), await kept(store, 8)
    await quarantine.reject(store, run)
    await quarantine.reject(store, run)
    assert [left.token for left in (await quarantine.waiting(store)).runs] == [other.token]
    assert await approve(store, other) == 0


async def test_rejected_half_way_through_an_approval_it_is_gone() -> None:
    first = MemoryStore()
    run = await kept(first)
    store = Fatal({str(key): data for key, data in first.contents.items()}, 3, after=True)
    with pytest.raises(Died):
        await approve(store, run)
    await quarantine.reject(store, run)
    assert await keys(store, "quarantine/") == []


async def test_what_a_killed_writer_left_is_swept_when_it_is_old(store: Store) -> None:
    whole = await kept(store)
    left = quarantine.store_of(store, "prompt_001", quarantine.new_token(WHEN))
    await left.put(image_key("prompt_001", 0, "1.jpg"), picture("jpg"))
    assert await quarantine.sweep(store, WHEN + timedelta(hours=1)) == 0
    assert await quarantine.sweep(store, WHEN + timedelta(days=2)) == 1
    assert [run.token for run in (await quarantine.waiting(store)).runs] == [whole.token]
    assert await quarantine.count(store, "prompt_001") == 1


def test_a_token_is_of_its_time_whatever_the_zone() -> None:
    assert quarantine.new_token(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)).startswith(
        "20260102T030405Z-"
    )
