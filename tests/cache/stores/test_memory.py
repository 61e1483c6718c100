from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import cache.stores.port
from cache.model.keys import parse_key
from cache.stores.memory import MemoryStore
from cache.stores.port import (
    Conflict,
    NotFound,
    Store,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from tests.contracts.store_contract import StoreContract

KEY = parse_key("a/b")


class TestMemoryStore(StoreContract):
    is_memory = True

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with MemoryStore() as store:
            yield store


def test_the_tree_is_the_one_that_is_drawn() -> None:
    drawn = cache.stores.port.__doc__ or ""
    kinds = [NotFound, Conflict, StoreUnavailable, StoreDenied, StoreFull, StoreCorrupt]
    ours = {
        each
        for each in StoreError.__subclasses__()
        if each.__module__ == cache.stores.port.__name__
    }
    assert ours == set(kinds)
    for kind in kinds:
        assert f"\n  {kind.__name__} " in drawn
        assert str(kind("a/b", "why")) == "a/b: why"


async def test_failures_come_in_order_and_then_end() -> None:
    store = MemoryStore({"a/b": b"x"})
    store.fail_next(StoreUnavailable("a/b", "1"), StoreDenied("a/b", "2"))
    store.fail_next(StoreFull("a/b", "3"), on="put")
    with pytest.raises(StoreUnavailable):
        await store.get(KEY)
    with pytest.raises(StoreFull):
        await store.put(KEY, b"y")
    with pytest.raises(StoreDenied):
        await store.delete(KEY)
    assert await store.get(KEY) == b"x"
    assert store.calls == {"get": 2, "put": 1, "delete": 1}


async def test_a_store_can_be_slow() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    store = MemoryStore({"a/b": b"x"}, latency=0.25, sleep=sleep)
    await store.get(KEY)
    assert waits == [0.25]


async def test_a_store_can_fall_silent_and_answer_again() -> None:
    store = MemoryStore({"a/b": b"x"})
    store.answering.clear()
    request = asyncio.create_task(store.get(KEY))
    _, pending = await asyncio.wait([request], timeout=0.02)
    assert pending
    store.answering.set()
    assert await request == b"x"
