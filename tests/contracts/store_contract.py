"""What every store must do. Each implementation's tests inherit it and bring a `store`.

What can only be read inherits `ReadingContract`, and brings `contents` too: where it reads from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from cache.model.keys import BadKey, Key, parse_key
from cache.stores.file_reader import FileReader
from cache.stores.port import (
    PIECE,
    Conflict,
    Entry,
    NotFound,
    ReadableStore,
    Store,
    UnreadableFile,
)

A = parse_key("actions/prompt_001/sets/0/1.jpg")
MANIFEST = parse_key("manifest.json")
NO_KEYS = ["", "../x", "/etc/passwd", "a/../../b", ".hidden", "a\0b"]


async def listed(store: ReadableStore, prefix: str = "") -> list[Entry]:
    return [entry async for entry in store.list(prefix)]


async def streamed(
    store: ReadableStore, key: Key = A, start: int = 0, stop: int | None = None
) -> bytes:
    async with contextlib.aclosing(store.stream(key, start, stop)) as pieces:
        found = [piece async for piece in pieces]
    assert all(0 < len(piece) <= PIECE for piece in found)
    return b"".join(found)


def opened() -> int:
    """How many files and sockets this process has open; what else it has is no store's."""
    found = 0
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that this list was read by
            mode = os.fstat(int(entry.name)).st_mode
            found += stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
    return found


async def not_more_than(most: int) -> bool:
    """Whether it comes to that: what hangs in a thread is closed as it comes out."""
    for _ in range(3000):
        if opened() <= most:
            return True
        await asyncio.sleep(0.01)
    return False


def some_bytes(size: int) -> bytes:
    """Such that no part of it is like another."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


class ReadingContract:
    """What everything must do that is read as a store is.

    Attributes:
        has_links: whether there are addresses at which anybody may read a key.
    """

    has_links: ClassVar[bool] = False

    async def test_what_is_there_is_got(self, store: ReadableStore, contents: Store) -> None:
        for number, data in enumerate((b"picture", b"", bytes(range(256)) * 4096)):
            key = parse_key(f"actions/a/sets/{number}/1.jpg")
            await contents.put(key, data)
            assert await store.get(key) == data

    async def test_what_leads_to_other_keys_is_not_found_itself(
        self, store: ReadableStore, contents: Store
    ) -> None:
        await contents.put(A, b"x")
        for key in ("actions", "actions/prompt_001", f"{A}/deeper"):
            with pytest.raises(NotFound):
                await store.get(parse_key(key))

    @pytest.mark.parametrize("prefix", ["../", "/", ".hidden", "a//b"])
    async def test_what_no_key_begins_with_is_refused(
        self, store: ReadableStore, prefix: str
    ) -> None:
        with pytest.raises(BadKey):
            await listed(store, prefix)

    async def test_a_listing_is_ascending_and_by_prefix(
        self, store: ReadableStore, contents: Store
    ) -> None:
        keys = ["a", "b.json", "b-/x", "b/y", "b0", "ab/c", "ab/d/e", "ab/d.jpg", "é/漢", "a b"]
        for key in keys:
            if key != "a":
                await contents.put(parse_key(key), key.encode())
        await contents.put(parse_key("a"), b"a")
        everything = [Entry(parse_key(key), len(key.encode())) for key in sorted(keys)]
        assert await listed(store) == everything
        for prefix in (
            "a",
            "ab",
            "ab/",
            "ab/d",
            "ab/d/",
            "ab/d/e",
            "b",
            "b/",
            "é/",
            "none",
            "none/",
        ):
            expected = [entry for entry in everything if entry.key.startswith(prefix)]
            assert await listed(store, prefix) == expected, prefix

    async def test_a_long_listing_is_whole(self, store: ReadableStore, contents: Store) -> None:
        keys = [parse_key(f"actions/a/sets/{number}/meta.json") for number in range(1100)]
        await asyncio.gather(*(contents.put(key, b"{}") for key in keys))
        assert [entry.key for entry in await listed(store, "actions/")] == sorted(keys)

    async def test_names_of_every_allowed_kind(self, store: ReadableStore, contents: Store) -> None:
        for text in ("x" * 255, "é漢字 with space", "-rf", "a:b*c?", "%2e%2e", "CON", "a.tmp", "~"):
            key = parse_key(f"actions/{text}")
            await contents.put(key, text.encode())
            assert await store.get(key) == text.encode()
            assert Entry(key, len(text.encode())) in await listed(store, "actions/")

    async def test_the_address_is_for_people(self, store: ReadableStore) -> None:
        assert ":" in store.url
        assert "@" not in store.url

    async def test_nothing_is_found_where_nothing_is(self, store: ReadableStore) -> None:
        with pytest.raises(NotFound) as caught:
            await store.get(A)
        assert caught.value.key == A
        assert A in str(caught.value)

    @pytest.mark.parametrize("key", NO_KEYS)
    async def test_what_is_no_key_is_not_read(self, store: ReadableStore, key: str) -> None:
        with pytest.raises(BadKey):
            await store.get(Key(key))

    @pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * 2**20])
    async def test_a_stream_is_what_is_got(
        self, store: ReadableStore, contents: Store, size: int
    ) -> None:
        data = some_bytes(size)
        await contents.put(A, data)
        assert await store.size(A) == size
        assert await streamed(store) == data
        assert await store.get(A) == data
        assert await streamed(store) == data  # of a copy, where one is kept
        assert await store.size(A) == size

    async def test_a_part_is_streamed_as_it_lies_in_the_whole(
        self, store: ReadableStore, contents: Store
    ) -> None:
        data = some_bytes(1_000_000)
        await contents.put(A, data)
        for start, stop in [
            (0, 1),
            (0, PIECE),
            (100_001, 900_003),
            (PIECE - 1, PIECE + 1),
            (999_995, None),
            (999_995, 2_000_000),
            (0, 2_000_000),
            (1_000_000, None),
            (1_000_000, 1_000_001),
            (5_000_000, None),
            (5_000_000, 6_000_000),
            (7, 7),
            (7, 3),
        ]:
            assert await streamed(store, A, start, stop) == data[start:stop], (start, stop)

    async def test_what_is_not_there_is_neither_streamed_nor_has_a_size(
        self, store: ReadableStore, contents: Store
    ) -> None:
        await contents.put(A, b"x")
        for key in (parse_key("actions/a/other"), parse_key("actions"), parse_key(f"{A}/deeper")):
            with pytest.raises(NotFound) as caught:
                await store.size(key)
            assert caught.value.key == key
            for stop in (None, 10, 0):
                with pytest.raises(NotFound):
                    await streamed(store, key, 0, stop)

    @pytest.mark.parametrize("key", NO_KEYS)
    async def test_what_is_no_key_is_not_streamed(self, store: ReadableStore, key: str) -> None:
        with pytest.raises(BadKey):
            await store.size(Key(key))
        with pytest.raises(BadKey):
            await streamed(store, Key(key))
        with pytest.raises(BadKey):
            await store.link(Key(key), 60)

    async def test_a_link_is_an_address_or_there_is_none(
        self, store: ReadableStore, contents: Store
    ) -> None:
        await contents.put(A, b"x")
        address = await store.link(A, 60)
        assert (address is not None) is self.has_links
        assert (address or "http://").startswith("http://")

    async def test_a_stream_that_is_left_early_leaves_nothing_open(
        self, store: ReadableStore, contents: Store
    ) -> None:
        await contents.put(A, some_bytes(3 * 2**20))
        assert await store.size(A)
        await streamed(store)
        before = opened()
        for _ in range(10):
            async with contextlib.aclosing(store.stream(A)) as pieces:
                async for _ in pieces:
                    break
        assert await not_more_than(before)

    async def test_a_stream_that_is_cancelled_leaves_nothing_open(
        self, store: ReadableStore, contents: Store
    ) -> None:
        data = some_bytes(3 * 2**20)
        await contents.put(A, data)
        await streamed(store)
        before = opened()
        for turns in range(40):
            task = asyncio.create_task(streamed(store))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # unless it was done before
                await task
        assert await streamed(store) == data
        assert await not_more_than(before)

    async def test_a_stream_mixes_no_two_contents(
        self, store: ReadableStore, contents: Store
    ) -> None:
        for other in (b"b" * 3 * 2**20, b"b" * 1_000_000, b""):
            await contents.put(A, b"a" * 3 * 2**20)
            found = bytearray()
            with contextlib.suppress(Conflict):
                async with contextlib.aclosing(store.stream(A)) as pieces:
                    async for piece in pieces:
                        if not found:
                            await contents.put(A, other)
                        found += piece
                assert len(found) == 3 * 2**20
            assert set(found) == {ord("a")}


class StoreContract(ReadingContract):
    """What every store must do.

    Attributes:
        large: bytes of a file that the store takes in several parts.
        is_memory: whether what is put is in this process's memory afterwards.
        connections: how many it keeps for a while after use.
    """

    large: ClassVar[int] = 9 * 2**20
    is_memory: ClassVar[bool] = False
    connections: ClassVar[int] = 0

    @pytest.fixture
    def contents(self, store: Store) -> Store:
        return store

    async def test_what_is_put_is_got(self, store: Store) -> None:
        for data in (b"picture", b"", bytes(range(256)) * 4096):
            await store.put(A, data)
            assert await store.get(A) == data

    async def test_nothing_has_no_version(self, store: Store) -> None:
        with pytest.raises(NotFound):
            await store.get_versioned(A)

    async def test_deleting_is_done_once_or_twice(self, store: Store) -> None:
        await store.put(A, b"x")
        await store.delete(A)
        await store.delete(A)
        await store.delete(parse_key("actions"))
        with pytest.raises(NotFound):
            await store.get(A)
        assert await listed(store) == []

    async def test_deleting_a_part_of_a_path_deletes_nothing(self, store: Store) -> None:
        await store.put(A, b"x")
        await store.delete(parse_key("actions/prompt_001"))
        assert await store.get(A) == b"x"

    @pytest.mark.parametrize("key", NO_KEYS)
    async def test_what_is_no_key_is_refused_everywhere(self, store: Store, key: str) -> None:
        bad = Key(key)
        with pytest.raises(BadKey):
            await store.get_versioned(bad)
        with pytest.raises(BadKey):
            await store.put(bad, b"x")
        with pytest.raises(BadKey):
            await store.replace(bad, b"x", expected=None)
        with pytest.raises(BadKey):
            await store.delete(bad)

    async def test_replace_creates_once(self, store: Store) -> None:
        version = await store.replace(MANIFEST, b"1", expected=None)
        assert await store.get_versioned(MANIFEST) == (b"1", version)
        with pytest.raises(Conflict) as caught:
            await store.replace(MANIFEST, b"2", expected=None)
        assert caught.value.key == MANIFEST
        assert await store.get(MANIFEST) == b"1"

    async def test_replace_wants_the_version_that_is_there(self, store: Store) -> None:
        first = await store.replace(MANIFEST, b"1", expected=None)
        second = await store.replace(MANIFEST, b"2", expected=first)
        assert second != first
        with pytest.raises(Conflict):
            await store.replace(MANIFEST, b"3", expected=first)
        assert await store.get_versioned(MANIFEST) == (b"2", second)
        await store.replace(MANIFEST, b"3", expected=second)

    async def test_replace_does_not_bring_back_what_was_removed(self, store: Store) -> None:
        version = await store.replace(MANIFEST, b"1", expected=None)
        await store.delete(MANIFEST)
        with pytest.raises(Conflict):
            await store.replace(MANIFEST, b"2", expected=version)
        with pytest.raises(NotFound):
            await store.get(MANIFEST)

    async def test_replace_goes_on_from_what_was_put(self, store: Store) -> None:
        await store.put(MANIFEST, b"1")
        _, version = await store.get_versioned(MANIFEST)
        await store.replace(MANIFEST, b"2", expected=version)
        assert await store.get(MANIFEST) == b"2"
        assert [entry.key for entry in await listed(store)] == [MANIFEST]

    async def test_of_many_replacing_at_once_one_wins(self, store: Store) -> None:
        version = await store.replace(MANIFEST, b"0", expected=None)
        outcomes = await asyncio.gather(
            *(store.replace(MANIFEST, b"%d" % n, expected=version) for n in range(1, 13)),
            return_exceptions=True,
        )
        winners = [n for n, outcome in enumerate(outcomes, 1) if isinstance(outcome, str)]
        assert len(winners) == 1
        assert all(isinstance(each, Conflict | str) for each in outcomes)
        assert await store.get(MANIFEST) == b"%d" % winners[0]

    async def test_of_many_putting_at_once_one_is_there_whole(self, store: Store) -> None:
        contents = [bytes([n]) * 200_000 for n in range(12)]
        await asyncio.gather(*(store.put(A, data) for data in contents))
        assert await store.get(A) in contents

    async def test_what_is_cancelled_leaves_the_whole_old_or_new(self, store: Store) -> None:
        old, new = b"old" * 100_000, b"new" * 100_000
        await store.put(A, old)
        for turns in range(6):
            task = asyncio.create_task(store.put(A, new))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # unless it was done before
                await task
            assert await store.get(A) in {old, new}
        assert await listed(store) == [Entry(A, len(old))]

    async def test_a_file_is_put_whole(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        await store.put(A, b"old")
        for size in (0, 10, self.large + 1):
            data = some_bytes(size)
            path.write_bytes(data)
            await store.put_file(A, path)
            assert await streamed(store) == data
            assert await listed(store) == [Entry(A, size)]
            assert path.read_bytes() == data

    async def test_a_large_file_is_neither_put_nor_streamed_in_one(
        self, store: Store, tmp_path: Path
    ) -> None:
        size = 64 * 2**20
        path = tmp_path / "clip.mp4"
        with path.open("wb") as file:
            file.truncate(size)
        tracemalloc.start()
        try:
            await store.put_file(A, path)
            held, most = tracemalloc.get_traced_memory()
            assert self.is_memory or most < size / 2
            tracemalloc.reset_peak()
            came = 0
            async with contextlib.aclosing(store.stream(A)) as pieces:
                async for piece in pieces:
                    came += len(piece)
            assert came == size
            assert tracemalloc.get_traced_memory()[1] - held < size / 8
        finally:
            tracemalloc.stop()

    async def test_putting_a_file_cancelled_leaves_the_whole_old_or_new(
        self, store: Store, tmp_path: Path
    ) -> None:
        path = tmp_path / "clip.mp4"
        new = some_bytes(self.large)
        path.write_bytes(new)
        await store.put(A, b"old")
        before = opened()
        outcomes = []
        for delay in (None, 0.0, 0.002, 0.01, 0.03, 0.1):
            task = asyncio.create_task(store.put_file(A, path))
            if delay is not None:
                await asyncio.sleep(delay)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # unless it was done before
                await task
            outcomes.append(await streamed(store))
        assert outcomes[0] == b"old"
        assert all(outcome in {b"old", new} for outcome in outcomes)
        assert [entry.key for entry in await listed(store)] == [A]
        assert await not_more_than(before + self.connections)

    async def test_what_is_no_file_is_not_put(self, store: Store, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        for path in (tmp_path / "missing", tmp_path, pipe):
            with pytest.raises(UnreadableFile) as caught:
                await store.put_file(A, path)
            assert caught.value.path == path
            assert str(path) in str(caught.value)
        with pytest.raises(BadKey):
            await store.put_file(Key("../x"), tmp_path)
        assert await listed(store) == []

    @pytest.mark.parametrize("size", [1000, 0])
    @pytest.mark.parametrize(
        "change",
        [
            lambda path: os.truncate(path, path.stat().st_size // 2 + 1),
            lambda path: path.write_bytes(b"y" * (path.stat().st_size + 1)),
        ],
        ids=["shrinks", "grows"],
    )
    async def test_a_file_that_changes_while_it_is_put_is_told_of(
        self,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        size: int,
        change: Callable[[Path], object],
    ) -> None:
        path = tmp_path / "clip.mp4"
        path.write_bytes(b"x" * (size or self.large))
        really_open = FileReader.open

        def open_then_change(self: FileReader, opening: Path) -> int:
            found = really_open(self, opening)
            if opening == path:
                change(path)
            return found

        monkeypatch.setattr(FileReader, "open", open_then_change)
        await store.put(A, b"old")
        with pytest.raises(UnreadableFile, match="changed while it was read"):
            await store.put_file(A, path)
        assert await store.get(A) == b"old"
        assert await listed(store) == [Entry(A, 3)]

    async def test_a_file_that_is_removed_while_it_is_put_is_put_whole(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "clip.mp4"
        data = some_bytes(self.large)
        path.write_bytes(data)
        really_open = FileReader.open

        def open_then_remove(self: FileReader, opening: Path) -> int:
            found = really_open(self, opening)
            if opening == path:
                path.unlink()
            return found

        monkeypatch.setattr(FileReader, "open", open_then_remove)
        await store.put_file(A, path)
        assert await streamed(store) == data
