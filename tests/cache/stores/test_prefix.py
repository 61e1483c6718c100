from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cache.model.keys import BadKey, parse_key
from cache.stores.memory import MemoryStore
from cache.stores.port import Store
from cache.stores.prefix import PrefixStore
from tests.contracts.store_contract import StoreContract, listed

PART = "quarantine/prompt_001/20261120T103000Z-0a1b2c/"


class TestStoreWithin(StoreContract):
    is_memory = True

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        whole = MemoryStore({"manifest.json": b"the whole's", f"{PART[:-1]}f/x": b"another part's"})
        async with PrefixStore(whole, PART) as store:
            yield store
        assert all(key.startswith(PART) for key in list(whole.contents)[2:])


async def test_it_sees_its_part_alone() -> None:
    whole = MemoryStore({f"{PART}a": b"1", "b": b"2", "quarantine/prompt_001/c": b"3"})
    store = PrefixStore(whole, PART)
    assert [entry.key for entry in await listed(store)] == ["a"]
    await store.put(parse_key("d/e"), b"4")
    assert whole.contents[parse_key(f"{PART}d/e")] == b"4"
    assert store.url == f"memory:/{PART}"


def test_what_begins_no_key_is_no_part() -> None:
    with pytest.raises(BadKey):
        PrefixStore(MemoryStore(), "../elsewhere/")
