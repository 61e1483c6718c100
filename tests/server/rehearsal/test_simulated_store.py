from __future__ import annotations

import pytest

from cache.model.keys import MANIFEST, parse_key
from cache.stores.port import NotFound
from server.core.clock import SystemClock
from server.rehearsal.simulated_store import SimulatedLine, SimulatedStore
from server.supply.inventory import StoreInventory
from tests.contracts.store_contract import streamed

IMAGE = parse_key("actions/a/sets/0/1.jpg")
LOST = parse_key("actions/a/sets/0/2.jpg")


async def test_sizes_are_those_of_the_store_and_what_is_streamed_is_what_is_got() -> None:
    document = b"x" * 1_000_000
    inventory = StoreInventory({MANIFEST: document}, {IMAGE: 5_000_000, LOST: 1})
    store = SimulatedStore(inventory, SimulatedLine(0, 0), SystemClock(), lambda key: key == LOST)
    async with store:
        assert await store.size(MANIFEST) == 1_000_000
        assert await streamed(store, MANIFEST, 999_990) == document[999_990:]
        assert await store.size(IMAGE) == 5_000_000
        assert await streamed(store, IMAGE) == bytes(memoryview(await store.get(IMAGE)))
        for missing in (LOST, parse_key("other")):
            with pytest.raises(NotFound):
                await store.size(missing)
            with pytest.raises(NotFound):
                await streamed(store, missing)
