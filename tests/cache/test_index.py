from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cache.index import load_manifest, rebuild, reindex, update_manifest
from cache.model.documents import FormatError, WrongVersion
from cache.model.keys import MANIFEST, config_key, image_key, meta_key
from cache.model.manifest import (
    Manifest,
    ManifestAction,
    dump_config,
    dump_manifest,
    parse_manifest,
)
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import Conflict, Entry, NotFound, StoreUnavailable
from tests.cache.samples import (
    FINGERPRINT,
    WHEN,
    original_meta,
    small_store,
)

ENTRY = ManifestAction(type="prompt", program="P2", prompt="malaya", steps=3)
LATER = WHEN + timedelta(days=1)


async def test_a_manifest_begins_with_the_first_set() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound):
        await load_manifest(store)
    made = await update_manifest(store, lambda m: m.with_set("a", ENTRY, 2), now=lambda: WHEN)
    assert made == await load_manifest(store)
    assert made.set_ids("a") == (2,)
    assert made.generated_at == WHEN


async def test_nothing_is_written_where_nothing_changes() -> None:
    store = small_store()
    tracked = store.contents[MANIFEST] = store.contents[MANIFEST].replace(b"  ", b"\t")
    kept = await update_manifest(store, lambda m: m.with_set("prompt_001", ENTRY, 1))
    assert kept.generated_at == WHEN
    assert store.contents[MANIFEST] == tracked
    assert store.calls["replace"] == 0


async def test_a_store_that_has_none_gets_none_for_nothing() -> None:
    store = MemoryStore()
    assert await update_manifest(store, lambda m: m) == Manifest()
    assert store.contents == {}


async def test_writers_in_one_process_lose_nothing() -> None:
    store = MemoryStore()
    await asyncio.gather(
        *(
            update_manifest(store, lambda m, set_id=set_id: m.with_set("a", ENTRY, set_id))  # type: ignore[misc]
            for set_id in range(20)
        )
    )
    assert (await load_manifest(store)).set_ids("a") == tuple(range(20))


async def test_other_writers_may_win_a_bounded_number_of_times() -> None:
    store = small_store()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    store.fail_next(*(Conflict(MANIFEST) for _ in range(5)), on="replace")
    with pytest.raises(Conflict, match="5 times"):
        await update_manifest(
            store, lambda m: m.with_set("a", ENTRY, 0), attempts=5, sleep=sleep, now=lambda: LATER
        )
    assert len(waits) == 5
    assert all(0 <= wait <= 1 for wait in waits)
    await update_manifest(store, lambda m: m.with_set("a", ENTRY, 0), now=lambda: LATER)
    assert (await load_manifest(store)).generated_at == LATER


async def test_other_failures_are_not_retried_here() -> None:
    store = small_store()
    store.fail_next(StoreUnavailable(MANIFEST, "down"), on="replace")
    with pytest.raises(StoreUnavailable):
        await update_manifest(store, lambda m: m.with_set("a", ENTRY, 0))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"version": "2.0.0", "actions": {}}'])
async def test_a_manifest_that_is_not_understood_is_not_overwritten(data: bytes) -> None:
    store = MemoryStore({MANIFEST: data})
    with pytest.raises(FormatError, match=MANIFEST):
        await update_manifest(store, lambda m: m.with_set("a", ENTRY, 0))
    assert store.contents == {MANIFEST: data}


REGISTRAR = """
import asyncio, sys
from cache.stores.folder import FolderStore
from cache.index import update_manifest
from cache.model.manifest import ManifestAction

async def main():
    root, name = sys.argv[1:]
    async with FolderStore(root) as store:
        for set_id in range(20):
            await update_manifest(store, lambda m: m.with_set(name, ManifestAction(), set_id))
            await update_manifest(store, lambda m: m.with_set("both", ManifestAction(), set_id))

asyncio.run(main())
"""


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", REGISTRAR, str(tmp_path), name] for name in ("a", "b")]
    root = Path(__file__).parents[2]
    writers = [subprocess.Popen(command, cwd=root) for command in commands]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    manifest = parse_manifest((tmp_path / MANIFEST).read_bytes())
    for name in ("a", "b", "both"):
        assert manifest.set_ids(name) == tuple(range(20))


# From the sets that are there.


async def test_a_manifest_is_rebuilt_as_it_was() -> None:
    store = small_store(actions=12, sets=3)
    present = await load_manifest(store)
    rebuilt = await rebuild(store)
    assert list(rebuilt.actions) == [f"prompt_{number:03d}" for number in range(1, 13)]
    assert {key: entry.set_ids for key, entry in rebuilt.actions.items()} == {
        key: entry.set_ids for key, entry in present.actions.items()
    }
    entry = rebuilt.actions["prompt_001"]
    assert entry == ENTRY.model_copy(update={"fingerprint": FINGERPRINT, "set_ids": (0, 1, 2)})
    assert rebuilt.remarks == ()


async def test_sets_that_are_not_whole_do_not_count() -> None:
    store = small_store(actions=1, sets=5)
    del store.contents[meta_key("prompt_001", 0)]
    del store.contents[image_key("prompt_001", 1, "2.jpg")]
    store.contents[meta_key("prompt_001", 2)] = b"{"
    store.contents[image_key("prompt_001", 99, "1.jpg")] = b""
    rebuilt = await rebuild(store)
    assert rebuilt.set_ids("prompt_001") == (3, 4)
    assert len(rebuilt.remarks) == 2
    assert "2.jpg is missing" in rebuilt.remarks[0]
    assert meta_key("prompt_001", 2) in rebuilt.remarks[1]


async def test_descriptions_come_from_config_then_from_before_then_from_the_newest_set() -> None:
    store = MemoryStore(
        {
            config_key("a"): dump_config(ManifestAction(prompt="config", unknown={"x": 1})),
            meta_key("a", 0): original_meta(
                1, generated_at="2026-01-01T00:00:00Z", model_config={"program": "old"}
            ),
            meta_key("a", 1): original_meta(
                1,
                generated_at="2026-02-01T00:00:00Z",
                model_config={"program": "new", "prompt": "meta", "num_inference_steps": 0},
            ),
            meta_key("slider_002", 0): original_meta(1),
            config_key("slider_002"): b"broken",
            **{image_key(name, n, "1.jpg"): b"" for name in ("a", "slider_002") for n in (0, 1)},
        }
    )
    known = Manifest(
        actions={
            "gone": ManifestAction(set_ids=(0,)),
            "a": ManifestAction(prompt="before", time="00:01:00", set_ids=(7,)),
        },
        aside={"odd one": 5},
        unknown={"curator": "me"},
    )
    rebuilt = await rebuild(store, known)
    assert rebuilt.actions == {
        "a": ManifestAction(
            program="new", prompt="config", time="00:01:00", set_ids=(0, 1), unknown={"x": 1}
        ),
        "slider_002": ManifestAction(type="slider", set_ids=(0,)),
    }
    assert rebuilt.aside == known.aside
    assert rebuilt.unknown == known.unknown


async def test_reindexing_puts_a_manifest_right_once() -> None:
    store = small_store()
    store.contents[MANIFEST] = dump_manifest(
        (await load_manifest(store)).without_set("prompt_001", 0).with_set("b", ENTRY, 5)
    )
    fixed = await reindex(store, now=lambda: LATER)
    assert fixed.set_ids("prompt_001") == (0, 1)
    assert "b" not in fixed.actions
    assert fixed.generated_at == LATER
    assert await load_manifest(store) == fixed
    assert await reindex(store) == fixed
    assert store.calls["replace"] == 1


@pytest.mark.parametrize("damaged", [b"", b"half a man", None])
async def test_reindexing_replaces_a_damaged_manifest(damaged: bytes | None) -> None:
    store = small_store()
    del store.contents[MANIFEST]
    if damaged is not None:
        store.contents[MANIFEST] = damaged
    assert (await reindex(store)).total_sets == 4
    assert (await load_manifest(store)).total_sets == 4


async def test_reindexing_an_empty_store_leaves_a_good_manifest() -> None:
    store = MemoryStore({MANIFEST: b"damaged"})
    await reindex(store)
    assert (await load_manifest(store)).actions == {}


async def test_reindexing_does_not_touch_another_major_version() -> None:
    data = b'{"version": "2.0.0", "actions": {}}'
    store = MemoryStore({MANIFEST: data})
    with pytest.raises(WrongVersion):
        await reindex(store)
    assert store.contents[MANIFEST] == data


class BusyStore(MemoryStore):
    """Another writer registers a set in it just after each listing."""

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        async for entry in super().list(prefix):
            yield entry
        await update_manifest(self, lambda m: m.with_set("a_new_one", ENTRY, 3))


async def test_sets_registered_while_reindexing_stay() -> None:
    store = BusyStore({str(key): data for key, data in small_store().contents.items()})
    store.contents[MANIFEST] = dump_manifest(
        (await load_manifest(store)).without_set("prompt_001", 0)
    )
    fixed = await reindex(store)
    assert fixed.set_ids("a_new_one") == (3,)
    assert fixed.set_ids("prompt_001") == (0, 1)
    assert await load_manifest(store) == fixed


async def test_a_store_on_disk_is_reindexed(tmp_path: Path) -> None:
    async with FolderStore(tmp_path) as store:
        for key, data in small_store().contents.items():
            if key != MANIFEST:
                await store.put(key, data)
        assert (await reindex(store)).total_sets == 4
