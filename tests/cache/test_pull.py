from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cache.index import load_manifest
from cache.library import Library
from cache.model.documents import WrongVersion
from cache.model.keys import MANIFEST, META_NAME, Key, config_key, image_key, meta_key
from cache.model.manifest import dump_manifest
from cache.pull import PullReport, pull
from cache.stores.folder import FolderStore
from cache.stores.memory import MemoryStore
from cache.stores.port import NotFound, Store, StoreError, StoreFull, StoreUnavailable
from cache.stores.s3.store import S3Store
from tests.cache.s3_servers import S3Server
from tests.cache.samples import (
    FINGERPRINT,
    WHEN,
    add_set,
    images_of,
    original_meta,
    picture,
    small_store,
)
from tests.contracts.store_contract import listed

REPOSITORY = Path(__file__).parents[2]
FIRST = image_key("prompt_001", 0, "1.jpg")
META = meta_key("prompt_001", 0)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[FolderStore]:
    async with FolderStore(tmp_path / "pulled") as store:
        yield store


@pytest.fixture
def source() -> MemoryStore:
    source = small_store(3, 2)
    source.contents[config_key("prompt_001")] = b'{"type": "prompt"}'
    return source


async def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: await store.get(entry.key) for entry in await listed(store)}


async def playable(store: Store) -> dict[str, int]:
    """How many sets of each action can be played, every image of them."""
    library = Library(store)
    await library.refresh()
    found = Counter[str]()
    for action_id in library.manifest.actions:
        for set_id in library.set_ids(action_id):
            for step in (await library.open_set(action_id, set_id)).steps:
                await library.image(step)
            found[action_id] += 1
    return dict(found)


async def test_everything_comes_as_it_is_and_once(source: MemoryStore, target: FolderStore) -> None:
    told: list[tuple[int, int]] = []
    report = await pull(
        source, target, progress=lambda now: told.append((now.sets_whole, now.sets_wanted))
    )
    assert await contents(target) == source.contents
    assert (report.sets_whole, report.sets_wanted, report.files_fetched) == (6, 6, 24)
    assert report.bytes_fetched == sum(
        len(data) for key, data in source.contents.items() if key.endswith(".jpg")
    )
    assert told[0] == (0, 6)
    assert told[-1] == (6, 6)
    written = {path: path.stat().st_mtime_ns for path in target.root.rglob("*")}
    again = await pull(source, target)
    assert (again.files_fetched, again.files_present, again.sets_whole) == (0, 24, 6)
    assert {path: path.stat().st_mtime_ns for path in target.root.rglob("*")} == written


@pytest.mark.parametrize("name", ["rclone_server", "moto_server"])
async def test_from_a_bucket(
    source: MemoryStore, target: FolderStore, request: pytest.FixtureRequest, name: str
) -> None:
    server: S3Server = request.getfixturevalue(name)
    async with S3Store(
        server.new_bucket(),
        "shows/one",
        endpoint_url=server.endpoint_url,
        credentials=server.credentials,
    ) as bucket:
        for key, data in source.contents.items():
            await bucket.put(key, data)
        await bucket.delete(FIRST)
        report = await pull(bucket, target, parallel=4)
        assert [(left.action_id, left.set_id) for left in report.broken] == [("prompt_001", 0)]
        await bucket.put(FIRST, source.contents[FIRST])
        report = await pull(bucket, target)
    # Of the broken set, what was under way when the flaw was found was not brought to its end.
    assert 1 <= report.files_fetched <= 4
    assert report.sets_whole == 6
    assert await contents(target) == source.contents


async def test_only_some_actions_and_later_others(source: MemoryStore, target: FolderStore) -> None:
    await pull(source, target, only={"prompt_001": FINGERPRINT, "unheard_of": FINGERPRINT})
    assert await playable(target) == {"prompt_001": 2}
    await pull(source, target, only={"prompt_003": FINGERPRINT})
    assert await playable(target) == {"prompt_001": 2, "prompt_003": 2}
    await pull(source, target)
    assert await contents(target) == source.contents


async def test_images_then_meta_then_the_manifest(source: MemoryStore) -> None:
    order: list[Key] = []

    class Noting(MemoryStore):
        async def put(self, key: Key, data: bytes) -> None:
            order.append(key)
            await super().put(key, data)

    await pull(source, Noting(), parallel=3)
    assert order[-1] == MANIFEST
    for key in source.contents:
        if key.endswith(".jpg"):
            meta = Key(f"{key.rpartition('/')[0]}/{META_NAME}")
            assert order.index(key) < order.index(meta)
    # The first set of every action before the second of any, but for those under way at once.
    metas = [key for key in order if key.endswith(META_NAME)]
    assert {key.split("/")[3] for key in metas[:3]} == {"0"}


async def test_never_more_at_once_than_allowed(source: MemoryStore) -> None:
    most, now = 0, 0
    gate = asyncio.Event()

    class Counting(MemoryStore):
        async def get(self, key: Key) -> bytes:
            nonlocal most, now
            now += 1
            most = max(most, now)
            if now >= 3:
                gate.set()
            try:
                return await super().get(key)
            finally:
                now -= 1

    await pull(Counting(await contents(source)), MemoryStore(), parallel=3)
    assert gate.is_set()
    assert most == 3


# What is broken at the source.


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        (FIRST, None, "1.jpg is missing"),
        (FIRST, b"x", "expected 7"),
        (META, None, "meta.json is missing"),
        (META, b"{}", "total_steps"),
        (META, original_meta(3), "bytes"),
    ],
)
async def test_what_is_broken_is_told_and_not_brought(
    source: MemoryStore, target: FolderStore, key: Key, data: bytes | None, reason: str
) -> None:
    if data is None:
        del source.contents[key]
    else:
        source.contents[key] = data
    if reason == "bytes":  # an original set: an image that is not whole tells by itself
        source.contents[FIRST] = picture()[:-30]
        reason = "not whole"
    elif reason == "expected 7":
        reason = f"expected {len(picture('jpg', 0))} bytes, found 1"
    report = await pull(source, target)
    (left,) = report.broken
    assert (left.action_id, left.set_id) == ("prompt_001", 0)
    assert reason in str(left)
    assert report.sets_whole == 5
    assert await playable(target) == {"prompt_001": 1, "prompt_002": 2, "prompt_003": 2}
    assert META not in await contents(target)


async def test_a_hash_that_is_another_is_broken(source: MemoryStore, target: FolderStore) -> None:
    data = bytearray(source.contents[FIRST])
    data[-100] ^= 1
    source.contents[FIRST] = bytes(data)
    report = await pull(source, target)
    assert "SHA-256" in str(report.broken[0])


async def test_original_sets_are_checked_by_the_listing(
    source: MemoryStore, target: FolderStore
) -> None:
    source.contents[META] = original_meta(3)
    await pull(source, target)
    assert await playable(target) == {"prompt_001": 2, "prompt_002": 2, "prompt_003": 2}
    await target.put(FIRST, picture("jpg", 3) + b"\0")
    report = await pull(source, target)
    assert report.files_fetched == 1
    assert await contents(target) == source.contents


# What is in the target.


async def test_what_is_damaged_there_is_brought_again(
    source: MemoryStore, target: FolderStore
) -> None:
    await pull(source, target)
    flipped = bytearray(source.contents[FIRST])
    flipped[50] ^= 1
    await target.put(FIRST, bytes(flipped))
    await target.put(image_key("prompt_001", 1, "2.jpg"), b"")
    await target.put(MANIFEST, b"{")
    report = await pull(source, target)
    assert report.files_fetched == 2
    assert await contents(target) == source.contents


async def test_a_set_that_was_drawn_again_takes_the_place_of_the_old(
    source: MemoryStore, target: FolderStore
) -> None:
    await pull(source, target)
    for key in [key for key in source.contents if key.startswith("actions/prompt_001/sets/0/")]:
        del source.contents[key]
    redrawn: dict[str, bytes] = {}
    add_set(redrawn, "prompt_001", 0, images_of(2, "png"))
    source.contents.update({Key(key): data for key, data in redrawn.items()})
    source.fail_next(*[StoreUnavailable("", "cut")] * 9)
    with pytest.raises(StoreUnavailable):
        await pull(source, target)
    source._failures.clear()
    await pull(source, target)
    assert await contents(target) == source.contents


async def test_a_set_is_never_half_old_and_half_new(
    source: MemoryStore, target: FolderStore
) -> None:
    await pull(source, target)
    images = images_of(3)
    redrawn: dict[str, bytes] = {}
    add_set(redrawn, "prompt_001", 0, dict(zip(images, reversed(images.values()), strict=True)))
    source.contents.update({Key(key): data for key, data in redrawn.items()})

    class Failing(MemoryStore):
        async def get(self, key: Key) -> bytes:
            if key == image_key("prompt_001", 0, "2.jpg"):
                raise StoreUnavailable(key, "cut")
            return await super().get(key)

    failing = Failing()
    failing.contents = source.contents
    with pytest.raises(StoreUnavailable):
        await pull(failing, target, parallel=1)
    assert META not in await contents(target)
    await pull(source, target)
    assert await contents(target) == source.contents


async def test_what_was_brought_before_outlives_its_source(
    source: MemoryStore, target: FolderStore
) -> None:
    await pull(source, target)
    for key in [key for key in source.contents if key.endswith(META_NAME)]:
        del source.contents[key]
    report = await pull(source, target)
    assert (report.sets_whole, len(report.broken)) == (0, 6)
    assert await playable(target) == {"prompt_001": 2, "prompt_002": 2, "prompt_003": 2}


async def test_sets_that_are_no_longer_listed_are_left_alone(
    source: MemoryStore, target: FolderStore
) -> None:
    await pull(source, target)
    manifest = (await load_manifest(source)).without_set("prompt_001", 0)
    source.contents[MANIFEST] = dump_manifest(manifest)
    for _ in range(2):
        report = await pull(source, target)
        assert report.left_alone == 1
        assert (await target.get(FIRST)) == source.contents[FIRST]
        assert (await playable(target))["prompt_001"] == 1


async def test_a_manifest_without_a_time_gets_one(target: FolderStore) -> None:
    source = MemoryStore({"manifest.json": b'{"version": "1.0.0", "actions": {}}'})
    await pull(source, target, now=lambda: WHEN)
    assert (await load_manifest(target)).generated_at == WHEN


async def test_a_target_of_another_version_is_not_touched(
    source: MemoryStore, target: FolderStore
) -> None:
    await target.put(MANIFEST, b'{"version": "2.0.0", "actions": {}}')
    with pytest.raises(WrongVersion):
        await pull(source, target)
    assert list(await contents(target)) == [MANIFEST]


# What stops it.


async def test_a_source_without_a_manifest_has_nothing(target: FolderStore) -> None:
    with pytest.raises(NotFound):
        await pull(MemoryStore(), target)


@pytest.mark.parametrize("error", [StoreUnavailable("x", "cut"), StoreFull("x", "no room")])
async def test_errors_end_it_and_the_same_call_goes_on(
    source: MemoryStore, target: FolderStore, error: StoreError
) -> None:
    before = asyncio.all_tasks()
    allowed = asked = 0

    class Failing(MemoryStore):
        async def get(self, key: Key) -> bytes:
            nonlocal asked
            asked += 1
            if asked > allowed:
                raise error
            return await super().get(key)

    failing = Failing()
    failing.contents = source.contents
    for limit in (1, 4, 9, 9):
        allowed, asked = limit, 0
        with pytest.raises(type(error)):
            await pull(failing, target, parallel=3)
        assert asyncio.all_tasks() == before
        kept = await contents(target)  # and all of it is whole
        assert all(source.contents[Key(key)] == data for key, data in kept.items())
    allowed, asked = 100, 0
    report = await pull(failing, target, parallel=3)
    assert await contents(target) == source.contents
    # What is whole is not fetched again. How much that was before is the machine's affair: a
    # write that is under way when another fails is given up.
    again = await pull(failing, target, parallel=3)
    assert again.files_fetched == 0
    assert again.files_present == report.files_present + report.files_fetched


async def test_cancelled_it_leaves_nothing_behind(source: MemoryStore, target: FolderStore) -> None:
    before = asyncio.all_tasks()
    for files in (1, 5, 11):
        reached = asyncio.Event()

        def note(report: PullReport, files: int = files, reached: Any = reached) -> None:
            if report.files_fetched + report.files_present >= files:
                reached.set()

        pulling = asyncio.create_task(pull(source, target, parallel=2, progress=note))
        await reached.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        assert asyncio.all_tasks() == before
        assert not list(target.root.rglob(".understudy-*"))
        kept = await contents(target)
        assert MANIFEST not in kept
        assert all(source.contents[Key(key)] == data for key, data in kept.items())
    await pull(source, target)
    assert await contents(target) == source.contents


PULLER = """
import asyncio, sys
from cache.stores.folder import FolderStore
from cache.pull import pull

def told(report):
    print(report.files_fetched, flush=True)

async def main():
    async with FolderStore(sys.argv[1]) as source, FolderStore(sys.argv[2]) as target:
        await pull(source, target, parallel=2, progress=told)

asyncio.run(main())
"""


async def test_killed_it_resumes(source: MemoryStore, target: FolderStore, tmp_path: Path) -> None:
    async with FolderStore(tmp_path / "source") as folder:
        for key, data in source.contents.items():
            await folder.put(key, data)
        for round_ in range(3):
            command = [sys.executable, "-c", PULLER, str(folder.root), str(target.root)]
            with subprocess.Popen(  # noqa: ASYNC220 - it is to be killed at once
                command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
            ) as process:
                assert process.stdout is not None
                for _ in range(3 + round_):
                    process.stdout.readline()
                process.kill()
            kept = await contents(target)
            assert all(source.contents[Key(key)] == data for key, data in kept.items())
        report = await pull(folder, target)
        assert report.files_present > 0
        assert await contents(target) == source.contents
