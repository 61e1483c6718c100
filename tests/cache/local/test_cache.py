from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache.local.cache import LocalCache
from cache.local.disk_cache import PROOF_BYTES, DiskCache, origin_folder
from cache.local.memory_cache import CachedContent
from cache.model.keys import MANIFEST, Key, config_key, image_key, meta_key, parse_key
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import NotFound, ReadableStore, StoreUnavailable
from tests.cache.samples import add_set, images_of, original_meta, small_store
from tests.contracts.store_contract import ReadingContract, listed

META = meta_key("prompt_001", 0)
FINAL = image_key("prompt_001", 0, "final.jpg")
FIRST = image_key("prompt_001", 0, "1.jpg")
MEGABYTE = 2**20


def cache_of(origin: ReadableStore, folder: Path | None, **options: Any) -> LocalCache:
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
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
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


def condition_of(cache: LocalCache) -> str:
    return cache.stats.disk.condition


def waiting(cache: LocalCache) -> int:
    """How many wait for the origin."""
    return sum(flight.waiting for flight in cache._flights._under_way)


# It is read as a store is.


class Reading(ReadingContract):
    @pytest.fixture
    def contents(self) -> MemoryStore:
        return MemoryStore()


class TestOverMemory(Reading):
    @pytest.fixture
    async def store(self, contents: MemoryStore, folder: Path) -> AsyncIterator[ReadableStore]:
        async with cache_of(contents, folder) as store:
            await settled(lambda: store.stats.looked)  # its folder's lock is open from now on
            yield store


class TestInMemoryOnly(Reading):
    @pytest.fixture
    async def store(self, contents: MemoryStore) -> AsyncIterator[ReadableStore]:
        async with cache_of(contents, None) as store:
            yield store


class TestWithHardlyAnyRoom(Reading):
    @pytest.fixture
    async def store(self, contents: MemoryStore, folder: Path) -> AsyncIterator[ReadableStore]:
        async with cache_of(contents, folder, disk_bytes=200, memory_bytes=10) as store:
            await settled(lambda: store.stats.looked)
            yield store


class TestOverAFolder(ReadingContract):
    @pytest.fixture
    def contents(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        return FolderStore(tmp_path / "store")

    @pytest.fixture
    async def store(self, contents: FolderStore, folder: Path) -> AsyncIterator[ReadableStore]:
        async with cache_of(contents, folder) as store:
            await settled(lambda: store.stats.looked)  # its folder's lock is open from now on
            yield store


class TestWithoutTheFolder(Reading):
    """To a process that does not own the folder of copies it is a disk that is read-only."""

    @pytest.fixture
    async def store(self, contents: MemoryStore, folder: Path) -> AsyncIterator[ReadableStore]:
        async with cache_of(MemoryStore(), folder) as owner:
            await settled(lambda: owner.stats.looked)
            async with cache_of(contents, folder) as store:
                await settled(lambda: store.stats.looked)
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
    assert not cache.holds(FINAL)


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
    for _ in range(2):
        for content in (b"one", b"two"):
            origin = MemoryStore({FIRST: content})
            identity = f"s3://bucket at {content.decode()}"
            async with cache_of(origin, folder, identity=identity) as cache:
                assert await cache.get(FIRST) == content
                await settled(lambda: not len(cache._flights))
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

    async with cache_of(origin, folder, sleep=sleep) as cache:
        manifest = await cache.refresh(MANIFEST)
        origin.answering.clear()
        assert await cache.get(MANIFEST) == manifest
        assert 5 in waits
        assert "5 s" in cache.stats.origin.reason
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
    origin.fail_next(*[StoreUnavailable("", "cut")] * 3, on="list")
    assert await listed(cache, prefix) == entries
    with pytest.raises(StoreUnavailable):
        await listed(cache, "actions/")
    with pytest.raises(StoreUnavailable):
        await listed(cache, "actions/prompt_001/sets/1/")
    await settled(lambda: any(path.endswith(".listing") for path in on_disk(folder)))
    origin.contents[image_key("prompt_001", 0, "4.jpg")] = b"x"
    assert len(await listed(cache, prefix)) == 6
    origin.fail_next(StoreUnavailable("", "cut"), on="list")
    assert len(await listed(cache, prefix)) == 6


async def test_what_came_last_answers_while_it_is_being_kept(
    cache: LocalCache, origin: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await cache.refresh(MANIFEST) == origin.contents[MANIFEST]
    write, go_on = DiskCache.write, threading.Event()

    def slow(disk: DiskCache, name: str, content: CachedContent) -> None:
        go_on.wait(20)
        write(disk, name, content)

    monkeypatch.setattr(DiskCache, "write", slow)
    origin.contents[MANIFEST] = b'{"version": 2, "actions": {}, "name": "newer"}'
    assert await cache.get(MANIFEST) == origin.contents[MANIFEST]
    origin.fail_next(StoreUnavailable(MANIFEST, "cut"))
    assert await cache.get(MANIFEST) == origin.contents[MANIFEST]
    go_on.set()


async def test_what_arrives_later_is_kept_last(
    cache: LocalCache, origin: MemoryStore, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    key = parse_key("notes.txt")
    origin.contents[key] = b"old"
    write, go_on = DiskCache.write, threading.Event()

    def slow(disk: DiskCache, name: str, content: CachedContent) -> None:
        if content.data == b"old":
            go_on.wait(20)
        write(disk, name, content)

    monkeypatch.setattr(DiskCache, "write", slow)
    assert await cache.get(key) == b"old"  # and it is still being kept
    origin.fail_next(StoreUnavailable(key, "cut"))
    with pytest.raises(StoreUnavailable):
        await cache.refresh(key)
    origin.contents[key] = b"new"
    refreshing = asyncio.create_task(cache.refresh(key))
    await settled(lambda: origin.calls["get"] == 3)
    await asyncio.sleep(0.02)
    go_on.set()
    assert await refreshing == b"new"
    assert await cache.get(key) == b"new"
    assert place_of(folder, key).read_bytes().startswith(b"new")


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


# Copies that are no copies.


def flip(place: Path, at: int) -> None:
    data = bytearray(place.read_bytes())
    data[at] ^= 0x10
    place.write_bytes(data)


def in_place_of(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(place: Path) -> None:
        place.unlink()
        make(place)

    return replace


def holding(place: Path, data: bytes) -> None:
    place.write_bytes(data)


FLAWS: dict[str, Callable[[Path], None]] = {
    "a bit of the content": lambda place: flip(place, 1000),
    "a bit of the proof": lambda place: flip(place, -20),
    "a bit of the mark": lambda place: flip(place, -1),
    "cut short": lambda place: os.truncate(place, 700),
    "cut at the proof": lambda place: os.truncate(place, place.stat().st_size - PROOF_BYTES),
    "empty": lambda place: os.truncate(place, 0),
    "longer": lambda place: holding(place, place.read_bytes() + b"x"),
    "zeros, as after a power cut": lambda place: holding(place, bytes(2045)),
    "a foreign file": lambda place: holding(place, b"mine" * 1000),
    "the copy of another key": lambda place: holding(place, place.with_name("2.jpg").read_bytes()),
    "a link": in_place_of(lambda place: place.symlink_to("2.jpg")),
    "a link to nowhere": in_place_of(lambda place: place.symlink_to("nowhere")),
    "a named pipe": in_place_of(os.mkfifo),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_flawed_copy_heals(origin: MemoryStore, folder: Path, flaw: str) -> None:
    second = image_key("prompt_001", 0, "2.jpg")
    async with cache_of(origin, folder) as cache:
        await cache.fetch(FIRST)
        await cache.fetch(second)
    asked = origin.calls["get"]
    FLAWS[flaw](place_of(folder, FIRST))
    # Where the origin cannot give it either, its error is what is heard.
    async with cache_of(origin, folder) as cache:
        origin.fail_next(StoreUnavailable(FIRST, "cut"))
        with pytest.raises(StoreUnavailable):
            await cache.get(FIRST)
        assert not cache.holds(FIRST)
        assert cache.stats.healed == (flaw != "gone")
    async with cache_of(origin, folder) as cache:
        assert await cache.get(FIRST) == origin.contents[FIRST]
    async with cache_of(origin, folder) as cache:
        assert await cache.get(FIRST) == origin.contents[FIRST]
        assert await cache.get(second) == origin.contents[second]
        assert cache.stats.disk_hits == 2
    assert origin.calls["get"] == asked + 2


async def test_a_flawed_copy_is_found_before_it_is_needed(
    origin: MemoryStore, folder: Path
) -> None:
    async with cache_of(origin, folder) as cache:
        await cache.fetch(FIRST)
    flip(place_of(folder, FIRST), 5)
    async with cache_of(origin, folder) as cache:
        assert await cache.fetch(FIRST) == len(origin.contents[FIRST])
        assert await cache.fetch(FIRST) == 0
        place_of(folder, FIRST).unlink()  # by another process, say
        assert await cache.fetch(FIRST) == len(origin.contents[FIRST])


async def test_a_folder_in_place_of_a_copy_stays_and_the_show_goes_on(
    cache: LocalCache, origin: MemoryStore, folder: Path
) -> None:
    (place_of(folder, FIRST) / "mine").mkdir(parents=True)
    for _ in range(2):
        await cache.fetch(FIRST)
        assert await cache.get(FIRST) == origin.contents[FIRST]
    assert cache.stats.disk.condition == "ok"
    assert (place_of(folder, FIRST) / "mine").is_dir()


# Against the set's meta.


async def test_what_is_not_what_the_meta_tells_of_is_handed_on_and_not_kept(
    cache: LocalCache, origin: MemoryStore
) -> None:
    await cache.get(META)
    right = origin.contents[FIRST]
    for wrong in (right[:-1], right[:-1] + b"x"):
        origin.contents[FIRST] = wrong
        assert await cache.get(FIRST) == wrong  # the library says what is wrong with it
        assert not cache.holds(FIRST)
    assert cache.stats.rejected == 2
    origin.contents[FIRST] = right
    assert await cache.get(FIRST) == right
    assert cache.holds(FIRST)


@pytest.mark.parametrize("disk", [True, False])
async def test_a_set_that_was_drawn_again_is_noticed(folder: Path, disk: bool) -> None:
    origin = small_store(1, 1)
    async with cache_of(origin, folder if disk else None) as cache:
        for key in (META, FIRST, FINAL):
            await cache.fetch(key)
            await cache.get(key)
        changed = rotated(images_of(3))
        draw_again(origin, changed)
        second = image_key("prompt_001", 0, "2.jpg")
        # An image that was not here comes with the meta that tells of it.
        assert await cache.get(second) == changed["2.jpg"]
        assert cache.holds(second)
        assert await cache.get(META) == origin.contents[META]
        # Those that were here, of the set as it was, are asked for again.
        assert await cache.get(FIRST) == changed["1.jpg"]
        assert await cache.fetch(FINAL) in {0, len(changed["final.jpg"])}
        assert await cache.get(FINAL) == changed["final.jpg"]
        assert cache.stats.rejected == 0


def draw_again(origin: MemoryStore, images: dict[str, bytes]) -> None:
    contents: dict[str, bytes] = {}
    add_set(contents, "prompt_001", 0, images)
    origin.contents.update({Key(key): data for key, data in contents.items()})


def rotated(images: dict[str, bytes]) -> dict[str, bytes]:
    """The same names with other contents."""
    names = list(images)
    return {name: images[other] for name, other in zip(names, names[1:] + names[:1], strict=True)}


async def test_what_is_being_played_stays_as_it_was(cache: LocalCache, origin: MemoryStore) -> None:
    await cache.get(META)
    first = await cache.get(FIRST)
    draw_again(origin, rotated(images_of(3)))
    with cache.holding([META, FIRST]):
        await cache.refresh(META)
        assert await cache.get(FIRST) == first
    assert await cache.get(FIRST) == origin.contents[FIRST]


async def test_what_is_still_being_written_is_not_taken_for_new(
    cache: LocalCache, origin: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, go_on = DiskCache.write, threading.Event()

    def slow(disk: DiskCache, name: str, content: CachedContent) -> None:
        assert name != FIRST or go_on.wait(20)
        write(disk, name, content)

    monkeypatch.setattr(DiskCache, "write", slow)
    await cache.get(META)
    await cache.get(FIRST)
    draw_again(origin, rotated(images_of(3)))
    await cache.refresh(META)
    again = asyncio.create_task(cache.get(FIRST))
    await asyncio.wait({again}, timeout=0.05)
    go_on.set()
    assert await again == origin.contents[FIRST]
    assert await cache.get(FIRST) == origin.contents[FIRST]


async def test_a_meta_that_cannot_be_read_is_not_kept(
    cache: LocalCache, origin: MemoryStore
) -> None:
    right = origin.contents[META]
    origin.contents[META] = b"<html>"
    assert await cache.get(META) == b"<html>"
    origin.contents[META] = right
    assert await cache.get(META) == right


async def test_an_original_set_has_nothing_to_be_checked_against() -> None:
    origin = MemoryStore({META: original_meta(1), FIRST: b"anything"})
    async with cache_of(origin, None) as cache:
        await cache.get(META)
        assert await cache.get(FIRST) == b"anything"
        assert cache.holds(FIRST)


# Room.


@pytest.mark.parametrize("disk", [True, False])
async def test_what_is_needed_stays_and_the_rest_passes_through(folder: Path, disk: bool) -> None:
    origin = MemoryStore({str(number): bytes([number]) * 1000 for number in range(10)})
    keys = [Key(str(number)) for number in range(10)]
    room = 4 * (1000 + PROOF_BYTES)
    options = {"disk_bytes": room, "memory_bytes": 1000 if disk else 8000}
    async with cache_of(origin, folder if disk else None, **options) as cache:
        for key in keys[:3]:
            await cache.fetch(key)
        cache.pin(keys[:2])
        with cache.holding([keys[2]]), cache.holding([keys[2]]):
            for _ in range(2):
                for key in keys:
                    assert await cache.get(key) == origin.contents[key]
                    await cache.fetch(key)
                assert all(cache.holds(key) for key in keys[:3])
        assert cache.stats.disk_bytes <= room
        cache.pin(keys[:4])
        for key in keys[:4]:
            await cache.fetch(key)
        if disk:
            assert all(cache.holds(key) for key in keys[:4])
            assert cache.stats.unkept == 0
            await cache.fetch(keys[5])
            assert (cache.stats.unkept, cache.stats.unkept_bytes) == (1, 1000)
            assert cache.stats.disk.condition == "ok"
        cache.pin([])
        await cache.fetch(keys[6])
        assert cache.holds(keys[6])


async def test_a_pinned_meta_keeps_the_listing_of_its_set(
    origin: MemoryStore, folder: Path
) -> None:
    prefix = "actions/prompt_001/sets/0/"
    async with cache_of(origin, folder, disk_bytes=9000) as cache:
        await cache.fetch(META)
        entries = await listed(cache, prefix)
        cache.pin([META])
        for key in list(origin.contents):
            await cache.fetch(key)
        assert cache.stats.evicted > 0
        origin.fail_next(StoreUnavailable("", "cut"), on="list")
        assert await listed(cache, prefix) == entries


# A disk that is not well.


class Disk:
    """Fails writes as a disk does, while told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self._open, self._writev, self._unlink = os.open, os.writev, os.unlink
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "writev", self.writev)
        monkeypatch.setattr(os, "unlink", self.unlink)

    def _fail(self, *errors: int) -> None:
        if self.error in errors:
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._fail(errno.EROFS, errno.EACCES)
        return self._open(path, flags, *rest, **more)

    def writev(self, descriptor: int, parts: Any) -> int:
        self._fail(errno.ENOSPC, errno.EDQUOT, errno.EIO)
        return self._writev(descriptor, parts)

    def unlink(self, path: Any, **more: Any) -> None:
        self._fail(errno.EROFS, errno.EACCES)
        self._unlink(path, **more)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "read-only"),
        (errno.EIO, "failing"),
    ],
)
async def test_a_disk_that_cannot_be_written_is_said_once_and_tried_again(
    origin: MemoryStore, folder: Path, disk: Disk, error: int, condition: str
) -> None:
    time = [1000.0]
    keys = [key for key in origin.contents if key != MANIFEST]
    async with cache_of(origin, folder, now=lambda: time[0]) as cache:
        await settled(lambda: cache.stats.looked)
        await cache.fetch(keys[0])
        disk.error = error
        with capture_logs() as log:
            for key in keys:
                await cache.fetch(key)
                assert await cache.get(key) == origin.contents[key]
        assert cache.stats.disk.condition == condition
        assert cache.stats.disk.reason == os.strerror(error)
        said = [line for line in log if line["log_level"] == "warning"]
        assert [line["condition"] for line in said] == [condition]
        # What was kept before is read all the same; the rest came into memory.
        assert all(cache.holds(key) for key in keys)
        assert cache.stats.disk_entries == 1
        disk.error = None
        await cache.refresh(keys[1])
        assert cache.stats.disk.condition == condition  # too early
        time[0] += 61
        await cache.refresh(keys[1])
        assert cache.stats.disk.condition == "ok"
        assert cache.stats.disk_entries == 2


async def test_a_disk_that_is_read_only_from_the_start_is_read(
    origin: MemoryStore, folder: Path, disk: Disk
) -> None:
    async with cache_of(origin, folder) as cache:
        await cache.fetch(FIRST)
        await cache.fetch(META)
    flip(place_of(folder, META), 3)
    disk.error = errno.EROFS
    async with cache_of(origin, folder) as cache:
        assert await cache.get(FIRST) == origin.contents[FIRST]
        assert cache.stats.disk_hits == 1
        for _ in range(2):  # a flawed copy that cannot be removed does no harm
            assert await cache.get(META) == origin.contents[META]
        await settled(lambda: cache.stats.disk.condition == "read-only")


async def test_a_folder_that_cannot_be_made_is_no_reason_not_to_play(
    origin: MemoryStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with cache_of(origin, tmp_path / "file" / "copies") as cache:
        assert await cache.get(FIRST) == origin.contents[FIRST]
        assert await cache.get(FIRST) == origin.contents[FIRST]
        await settled(lambda: cache.stats.disk.condition == "failing")


async def test_copies_that_another_keeps_are_read_until_it_leaves(
    origin: MemoryStore, folder: Path
) -> None:
    clock = [0.0]
    async with cache_of(origin, folder) as owner:
        await owner.fetch(FIRST)
        async with cache_of(origin, folder, now=lambda: clock[0]) as cache:
            assert await cache.get(FIRST) == origin.contents[FIRST]
            assert cache.stats.disk_hits == 1
            assert await cache.fetch(META) > 0
            assert cache.holds(META)  # in memory
            assert condition_of(cache) == "read-only"
            assert cache.stats.disk.reason == "another process keeps the copies in this folder"
            assert len(on_disk(folder)) == 1
            await owner.fetch(FINAL)
            assert await cache.fetch(FINAL) == 0
            await owner.__aexit__(None, None, None)
            clock[0] += 1  # soon: most often it is the server before this one that ends
            await cache.refresh(META)
            assert condition_of(cache) == "ok"
            assert len(on_disk(folder)) == 3
            await settled(lambda: cache.stats.looked)
            assert cache.stats.disk_entries == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB, where it may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_on_a_real_disk_that_is_full_and_then_read_only(small_disk: Path) -> None:
    origin = MemoryStore({f"a/{number}": bytes([number]) * 30_000 for number in range(12)})
    keys = [Key(key) for key in origin.contents]
    others = small_disk / "others"
    others.write_bytes(bytes(120_000))
    clock = [0.0]
    folder = small_disk / "copies"
    async with cache_of(origin, folder, now=lambda: clock[0]) as cache:
        cache.pin(keys)
        for key in keys:
            await cache.fetch(key)
            assert await cache.get(key) == origin.contents[key]
        assert cache.stats.disk.condition == "full"
        kept = cache.stats.disk_entries
        assert 0 < kept < 5
        others.unlink()
        clock[0] += 61
        await cache.refresh(keys[6])
        assert condition_of(cache) == "ok"
        remount = ["mount", "-o", "remount,ro", str(small_disk)]
        subprocess.run(remount, check=True, capture_output=True)  # noqa: ASYNC221
        await cache.refresh(keys[7])
        assert condition_of(cache) == "read-only"
        assert "Read-only" in cache.stats.disk.reason
    async with cache_of(origin, folder) as cache:
        assert await cache.get(keys[6]) == origin.contents[keys[6]]
        assert cache.stats.disk_hits == 1


async def test_a_long_show_grows_nothing(folder: Path) -> None:
    """Through a cache a tenth of its store, with the coming cues pinned."""
    origin = MemoryStore({f"a/{number}": bytes(1000) for number in range(200)})
    keys = [Key(key) for key in origin.contents]
    limit = 20 * (1000 + PROOF_BYTES)
    async with cache_of(origin, folder, disk_bytes=limit, memory_bytes=10_000) as cache:
        await settled(lambda: cache.stats.looked)
        tasks = len(asyncio.all_tasks())
        for turn in range(3 * len(keys)):
            coming = [keys[(turn + ahead) % len(keys)] for ahead in range(8)]
            cache.pin(coming)
            await cache.fetch(coming[-1])
            with cache.holding(coming[:1]):
                assert cache.holds(coming[0]) or turn < 8
                await cache.get(coming[0])
            assert cache.stats.disk_bytes <= limit
            assert cache.stats.memory_bytes <= 10_000
        assert len(asyncio.all_tasks()) <= tasks
        assert cache.stats.unkept == 0
        assert not cache._held


@pytest.mark.parametrize("mistake", [ValueError("a mistake"), asyncio.CancelledError()])
async def test_a_mistake_in_tidying_costs_a_round_and_is_told(
    origin: MemoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch, mistake: BaseException
) -> None:
    rightly, calls = DiskCache.flush, 0

    def flush(disk: DiskCache) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise mistake
        rightly(disk)

    async def soon(_seconds: float) -> None:
        await asyncio.sleep(0.01)

    monkeypatch.setattr(DiskCache, "flush", flush)
    with capture_logs() as logs:
        async with cache_of(origin, folder, sleep=soon) as cache:
            await settled(lambda: cache.untidy is not None)
            await settled(lambda: cache.untidy is None)
            assert calls >= 3
    assert [each["event"] for each in logs].count("copies_not_tidied") == 1
