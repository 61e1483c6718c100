from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cache.copies import PROOF_BYTES, origin_folder
from cache.folder import FolderStore
from cache.keys import MANIFEST, Key, config_key, image_key, meta_key, parse_key
from cache.local import LocalCache
from cache.store import (
    MemoryStore,
    NotFound,
    Store,
    StoreUnavailable,
)
from tests.cache.samples import small_store
from tests.cache.store_contract import StoreContract, listed

META = meta_key("prompt_001", 0)
FINAL = image_key("prompt_001", 0, "final.jpg")
FIRST = image_key("prompt_001", 0, "1.jpg")
MEGABYTE = 2**20


def cache_of(origin: Store, folder: Path | None, **options: Any) -> LocalCache:
    given = {"disk_bytes": 64 * MEGABYTE, "memory_bytes": 16 * MEGABYTE, "keep_free": 0, **options}
    return LocalCache(origin, folder, **given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "copies"


@pytest.fixture
def origin() -> MemoryStore:
    return small_store()


@pytest.fixture
async def cache(origin: MemoryStore, folder: Path) -> AsyncIterator[LocalCache]:
    async with cache_of(origin, folder) as cache:
        yield cache


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file of copies, by its path within the folder; those of listings included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in {".lock", ".unfinished"}
    }


def place_of(folder: Path, key: str, origin: str = "memory:") -> Path:
    return folder / origin_folder(origin) / key


def sizes(folder: Path) -> int:
    return sum(map(len, on_disk(folder).values()))


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - most of what is waited for tells nobody
            await asyncio.sleep(0.001)


def waiting(cache: LocalCache) -> int:
    """How many wait for the origin."""
    return sum(flight.waiting for flight in cache._flights._under_way)


# It is a store.


class TestOverMemory(StoreContract):
    @pytest.fixture
    async def store(self, folder: Path) -> AsyncIterator[Store]:
        async with cache_of(MemoryStore(), folder) as store:
            yield store


class TestInMemoryOnly(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with cache_of(MemoryStore(), None) as store:
            yield store


class TestOverAFolder(StoreContract):
    @pytest.fixture
    async def store(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Store]:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        async with cache_of(FolderStore(tmp_path / "store"), folder) as store:
            yield store


class TestWithHardlyAnyRoom(StoreContract):
    @pytest.fixture
    async def store(self, folder: Path) -> AsyncIterator[Store]:
        async with cache_of(MemoryStore(), folder, disk_bytes=200, memory_bytes=10) as store:
            yield store


# Where things come from.


async def test_what_was_read_once_is_not_asked_for_again(
    cache: LocalCache, origin: MemoryStore
) -> None:
    for _ in range(3):
        assert await cache.get(FIRST) == origin.contents[FIRST]
    assert origin.calls["get"] == 1
    stats = cache.stats
    assert (stats.misses, stats.memory_hits, stats.disk_hits) == (1, 2, 0)
    assert stats.fetched_bytes == len(origin.contents[FIRST])
    assert stats.origin.reachable
    assert cache.holds(FIRST)
    assert cache.size_of(FIRST) == len(origin.contents[FIRST])
    assert not cache.holds(FINAL)
    assert cache.size_of(FINAL) is None


async def test_it_outlives_the_process(origin: MemoryStore, folder: Path) -> None:
    async with cache_of(origin, folder) as cache:
        await cache.get(FIRST)
    origin.fail_next(StoreUnavailable("", "cut"))
    async with cache_of(origin, folder) as cache:
        assert await cache.get(FIRST) == origin.contents[FIRST]
        assert cache.stats.disk_hits == 1
        await settled(lambda: cache.stats.looked)
        assert cache.stats.disk_entries == 1
        assert cache.stats.disk_bytes == sizes(folder)


async def test_fetching_fills_the_disk_and_not_the_memory(
    cache: LocalCache, origin: MemoryStore, folder: Path
) -> None:
    size = len(origin.contents[FIRST])
    assert await cache.fetch(FIRST) == size
    assert cache.holds(FIRST)
    assert cache.stats.memory_entries == 0
    assert sizes(folder) == size + PROOF_BYTES
    assert await cache.fetch(FIRST) == 0
    assert await cache.get(FIRST) == origin.contents[FIRST]
    assert origin.calls["get"] == 1


async def test_without_a_disk_fetching_fills_the_memory(origin: MemoryStore) -> None:
    for options in ({"folder": None}, {"folder": Path("nowhere"), "disk_bytes": 0}):
        async with cache_of(origin, **options) as cache:
            assert await cache.fetch(FIRST) > 0
            assert await cache.fetch(FIRST) == 0
            assert cache.holds(FIRST)
            assert cache.stats.disk.condition == "off"
    assert not Path("nowhere").exists()


async def test_two_origins_never_mix(folder: Path) -> None:
    first, second = MemoryStore({FIRST: b"first"}), MemoryStore({FIRST: b"second"})
    async with (
        cache_of(first, folder, identity="s3://bucket at one") as one,
        cache_of(second, folder, identity="s3://bucket at two") as two,
    ):
        assert await one.get(FIRST) == b"first"
        assert await two.get(FIRST) == b"second"
    assert len(on_disk(folder)) == 2
    assert all(path.startswith("s3-bucket-at-") for path in on_disk(folder))


async def test_large_contents_are_not_kept_in_memory(folder: Path) -> None:
    origin = MemoryStore({"a": bytes(2000), "b": bytes(100)})
    async with cache_of(origin, folder, memory_bytes=8000) as cache:
        await cache.get(Key("a"))
        await cache.get(Key("b"))
        assert cache.stats.memory_entries == 1
        await settled(lambda: cache.stats.disk_entries == 2)


# What changes under its name.


@pytest.mark.parametrize("key", [MANIFEST, config_key("prompt_001")])
@pytest.mark.parametrize("disk", [True, False])
async def test_the_manifest_is_asked_for_each_time(folder: Path, key: Key, disk: bool) -> None:
    origin = MemoryStore({key: b'{"actions": {}}'})
    async with cache_of(origin, folder if disk else None) as cache:
        await cache.get(key)
        origin.contents[key] = b'{"actions": {"a": {}}}'
        assert await cache.get(key) == origin.contents[key]
        await settled(lambda: not len(cache._flights))
        origin.fail_next(StoreUnavailable(key, "cut"))
        assert await cache.get(key) == origin.contents[key]
        assert cache.stats.origin.reachable is False
        assert cache.stats.origin.reason == "cut"
        del origin.contents[key]
        with pytest.raises(NotFound):
            await cache.get(key)
        assert cache.stats.origin.reachable


async def test_a_silent_origin_is_not_waited_for_where_there_is_a_copy(folder: Path) -> None:
    origin = small_store()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if seconds == 60:
            await asyncio.Event().wait()

    async with cache_of(origin, folder, sleep=sleep, answer_within=7) as cache:
        manifest = await cache.refresh(MANIFEST)
        origin.answering.clear()
        assert await cache.get(MANIFEST) == manifest
        assert 7 in waits
        assert "7 s" in cache.stats.origin.reason
        # What comes late is there for the next who asks.
        origin.contents[MANIFEST] = b'{"actions": {}}'
        origin.answering.set()
        await settled(lambda: not len(cache._flights))
        assert cache.stats.origin.reachable
        origin.fail_next(StoreUnavailable("", "cut"))
        assert await cache.get(MANIFEST) == b'{"actions": {}}'


async def test_a_silent_origin_is_waited_for_where_there_is_none(origin: MemoryStore) -> None:
    async def sleep(_: float) -> None:
        return

    async with cache_of(origin, None, sleep=sleep) as cache:
        origin.answering.clear()
        reading = asyncio.create_task(cache.get(MANIFEST))
        await settled(lambda: origin.calls["get"] == 1)
        assert not reading.done()
        origin.answering.set()
        assert await reading == origin.contents[MANIFEST]


async def test_a_manifest_that_is_none_does_not_replace_ours(
    cache: LocalCache, origin: MemoryStore
) -> None:
    manifest = await cache.refresh(MANIFEST)
    for page in (b"<html>Welcome to the hotel</html>", b'{"login": "required"}'):
        origin.contents[MANIFEST] = page
        assert await cache.get(MANIFEST) == page  # who reads it says what is wrong with it
        await settled(lambda: not len(cache._flights))
        origin.fail_next(StoreUnavailable("", "cut"))
        assert await cache.get(MANIFEST) == manifest


async def test_refreshing_replaces_the_copy_or_leaves_it(
    cache: LocalCache, origin: MemoryStore
) -> None:
    key = parse_key("notes.txt")
    origin.contents[key] = b"old"
    assert await cache.get(key) == b"old"
    origin.contents[key] = b"new"
    origin.fail_next(StoreUnavailable(key, "cut"))
    with pytest.raises(StoreUnavailable):
        await cache.refresh(key)
    assert await cache.get(key) == b"old"
    assert await cache.refresh(key) == b"new"
    assert await cache.get(key) == b"new"


async def test_the_listing_of_a_set_is_remembered(
    cache: LocalCache, origin: MemoryStore, folder: Path
) -> None:
    prefix = "actions/prompt_001/sets/0/"
    entries = await listed(cache, prefix)
    assert len(entries) == 5
    origin.fail_next(*[StoreUnavailable("", "cut")] * 4, on="list")
    assert await listed(cache, prefix) == entries
    with pytest.raises(StoreUnavailable):
        await listed(cache, "actions/")
    with pytest.raises(StoreUnavailable):
        await listed(cache, "actions/prompt_001/sets/1/")
    assert [path for path in on_disk(folder) if path.endswith(".listing")]
    await cache.put(image_key("prompt_001", 0, "4.jpg"), b"x")
    with pytest.raises(StoreUnavailable):  # what is remembered would be wrong
        await listed(cache, prefix)
    assert len(await listed(cache, prefix)) == 6


# Writing.


async def test_what_is_written_is_at_the_origin_and_here(
    cache: LocalCache, origin: MemoryStore
) -> None:
    key = parse_key("notes.txt")
    await cache.put(key, b"1")
    assert origin.contents[key] == b"1"
    assert cache.holds(key)
    _, version = await cache.get_versioned(key)
    await cache.replace(key, b"2", expected=version)
    assert await cache.get(key) == b"2"
    await cache.delete(key)
    assert not cache.holds(key)
    with pytest.raises(NotFound):
        await cache.get(key)
    origin.contents[key] = b"3"
    assert (await cache.get_versioned(key)).data == b"3"
    assert cache.holds(key)
    assert await cache.get(key) == b"3"


async def test_a_write_that_failed_half_way_leaves_no_copy(
    cache: LocalCache, origin: MemoryStore
) -> None:
    key = parse_key("notes.txt")
    origin.contents[key] = b"old"
    await cache.get(key)
    origin.contents[key] = b"new"  # it was written, and the answer was lost
    origin.fail_next(StoreUnavailable(key, "hung up"), on="put")
    with pytest.raises(StoreUnavailable):
        await cache.put(key, b"new")
    assert not cache.holds(key)
    assert await cache.get(key) == b"new"


async def test_what_is_read_while_it_is_written_is_not_kept(
    cache: LocalCache, origin: MemoryStore
) -> None:
    key = parse_key("notes.txt")
    origin.contents[key] = b"old"
    origin.answering.clear()
    reading = asyncio.create_task(cache.get(key))
    await settled(lambda: origin.calls["get"] == 1)
    writing = asyncio.create_task(cache.put(key, b"new"))
    await settled(lambda: origin.calls["put"] == 1)
    origin.answering.set()
    assert await reading in {b"old", b"new"}
    await writing
    assert await cache.get(key) == b"new"


async def test_of_two_who_write_at_once_neither_is_believed(
    cache: LocalCache, origin: MemoryStore
) -> None:
    key = parse_key("notes.txt")
    origin.answering.clear()
    writers = [asyncio.create_task(cache.put(key, data)) for data in (b"1", b"2")]
    await settled(lambda: origin.calls["put"] == 2)
    origin.answering.set()
    await asyncio.gather(*writers)
    assert not cache.holds(key)
    assert await cache.get(key) == origin.contents[key]


# Many at once, and those who leave.


async def test_all_who_want_the_same_share_one_request(
    cache: LocalCache, origin: MemoryStore
) -> None:
    origin.answering.clear()
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(cache.get(FIRST)) for _ in range(20)]
    tasks += [asyncio.create_task(cache.fetch(FIRST)) for _ in range(3)]
    await settled(lambda: origin.calls["get"] == 1 and cache.demand == 20)
    origin.answering.set()
    data = origin.contents[FIRST]
    *contents, one, two, three = await asyncio.gather(*tasks)
    assert contents == [data] * 20
    assert {one, two, three} <= {0, len(data)}
    assert origin.calls["get"] == 1
    assert cache.demand == 0


async def test_who_leaves_does_not_spoil_it_for_the_others(
    cache: LocalCache, origin: MemoryStore
) -> None:
    origin.answering.clear()
    one, two = (asyncio.create_task(cache.get(FIRST)) for _ in range(2))
    await settled(lambda: waiting(cache) == 2)
    one.cancel()
    await asyncio.wait([one])
    origin.answering.set()
    assert await two == origin.contents[FIRST]
    assert origin.calls["get"] == 1


async def test_the_last_who_leaves_cancels_the_request(
    cache: LocalCache, origin: MemoryStore
) -> None:
    origin.answering.clear()
    tasks = [asyncio.create_task(cache.get(FIRST)) for _ in range(3)]
    tasks.append(asyncio.create_task(cache.get(MANIFEST)))
    await settled(lambda: waiting(cache) == 4)
    for task in tasks:
        task.cancel()
    # Who comes at this moment is not drawn into it.
    late = asyncio.create_task(cache.get(FIRST))
    await asyncio.wait(tasks)
    origin.answering.set()
    assert await late == origin.contents[FIRST]
    await settled(lambda: not len(cache._flights))


async def test_all_hear_of_a_failure_and_the_next_asks_anew(
    cache: LocalCache, origin: MemoryStore
) -> None:
    origin.fail_next(StoreUnavailable(FIRST, "cut"))
    origin.answering.clear()
    tasks = [asyncio.create_task(cache.get(FIRST)) for _ in range(3)]
    await settled(lambda: waiting(cache) == 3)
    origin.answering.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) for each in outcomes)
    assert await cache.get(FIRST) == origin.contents[FIRST]


async def test_leaving_lets_go_of_everything(folder: Path) -> None:
    before = asyncio.all_tasks()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    origin = small_store()
    async with cache_of(origin, folder) as cache:
        await asyncio.gather(*(cache.get(key) for key in list(origin.contents)))
        origin.answering.clear()
        waiting = [asyncio.create_task(cache.get(Key(key))) for key in ("x", "y", MANIFEST)]
        await settled(lambda: len(cache._flights) == 3)
    for outcome in await asyncio.gather(*waiting[:2], return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable)
    await asyncio.wait(waiting)
    assert asyncio.all_tasks() == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # noqa: PTH208
