"""What every store must do. Each implementation's tests inherit it and bring a `store`.

What can only be read inherits `ReadingContract`, and brings `contents` too: where it reads from.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from cache.model.keys import BadKey, Key, parse_key
from cache.stores.port import Conflict, Entry, NotFound, ReadableStore, Store

A = parse_key("actions/prompt_001/sets/0/1.jpg")
MANIFEST = parse_key("manifest.json")
NO_KEYS = ["", "../x", "/etc/passwd", "a/../../b", ".hidden", "a\0b"]


async def listed(store: ReadableStore, prefix: str = "") -> list[Entry]:
    return [entry async for entry in store.list(prefix)]


class ReadingContract:
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


class StoreContract(ReadingContract):
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
