from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cache.stores.folder
from cache.model.keys import BadKey, Key, parse_key
from cache.stores.folder import FolderStore
from cache.stores.port import (
    Conflict,
    Entry,
    NotFound,
    Store,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnreadableFile,
    content_version,
)
from tests.contracts.store_contract import (
    StoreContract,
    listed,
    not_more_than,
    opened,
    some_bytes,
    streamed,
)

KEY = parse_key("actions/a/sets/0/1.jpg")
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[FolderStore]:
    async with FolderStore(root) as store:
        yield store


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out waiting for the medium, where durability is not what is tested."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("no_sync")
class TestFolderStore(StoreContract):
    @pytest.fixture
    async def store(self, root: Path) -> AsyncIterator[Store]:
        async with FolderStore(root) as store:
            yield store


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def exists(path: Path) -> bool:
    return path.exists()


def move(source: Path, target: Path) -> None:
    source.rename(target)


async def test_keys_are_files_and_writes_leave_nothing_else(store: FolderStore, root: Path) -> None:
    await store.put(KEY, b"x")
    assert files_in(root) == [KEY]
    assert (root / KEY).read_bytes() == b"x"
    assert store.url == root.as_uri()


async def test_reading_makes_no_folder(store: FolderStore, root: Path) -> None:
    with pytest.raises(NotFound):
        await store.get(KEY)
    with pytest.raises(Conflict):
        await store.replace(KEY, b"", expected=content_version(b""))
    await store.delete(KEY)
    assert await listed(store) == []
    assert not exists(root)


async def test_a_store_is_usable_unentered_and_in_several_loops(root: Path) -> None:
    store = FolderStore(root)
    await asyncio.to_thread(lambda: asyncio.run(store.put(KEY, b"x")))
    assert await store.get(KEY) == b"x"


async def test_a_folder_that_vanished_is_unavailable_and_not_made_again(
    store: FolderStore, root: Path
) -> None:
    await store.put(KEY, b"x")
    unplugged = root.with_name("unplugged")
    move(root, unplugged)
    with pytest.raises(StoreUnavailable, match="disk"):
        await store.get(KEY)
    with pytest.raises(StoreUnavailable, match="disk"):
        await store.put(KEY, b"y")
    with pytest.raises(StoreUnavailable, match="disk"):
        await listed(store)
    assert not exists(root)
    move(unplugged, root)
    assert await store.get(KEY) == b"x"


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    async with FolderStore(path) as store:  # it may be mended later
        with pytest.raises(StoreDenied, match="expected a folder"):
            await store.get(KEY)
        with pytest.raises(StoreDenied, match="expected a folder"):
            await store.put(KEY, b"x")
    assert path.read_text() == "x"


async def test_listings_leave_out_what_others_left(store: FolderStore, root: Path) -> None:
    await store.put(KEY, b"x")
    place = (root / KEY).parent
    for name in (".DS_Store", "._1.jpg", ".1.jpg.Xq3d", ".understudy-ab.tmp"):
        (place / name).write_bytes(b"junk")
    (place / "bad\nname").write_bytes(b"junk")
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_bytes(b"junk")
    os.mkfifo(place / "pipe")
    assert await listed(store) == [Entry(KEY, 1)]


async def test_a_named_pipe_hangs_nobody(store: FolderStore, root: Path) -> None:
    await store.put(KEY, b"x")
    os.mkfifo(root / "pipe")
    with pytest.raises(NotFound, match="not a file"):
        await asyncio.wait_for(store.get(parse_key("pipe")), 2)
    for asked in (store.size(parse_key("pipe")), streamed(store, parse_key("pipe"))):
        with pytest.raises(NotFound):
            await asyncio.wait_for(asked, 2)


async def test_a_file_where_a_folder_is_needed_is_refused(store: FolderStore) -> None:
    await store.put(KEY, b"x")
    with pytest.raises(StoreDenied):
        await store.put(parse_key(f"{KEY}/deeper"), b"y")
    with pytest.raises(StoreDenied, match="folder"):
        await store.put(parse_key("actions"), b"y")
    assert await store.get(KEY) == b"x"


# Nothing leads out.


async def test_a_link_out_of_the_folder_is_refused(
    store: FolderStore, root: Path, tmp_path: Path
) -> None:
    await store.put(KEY, b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "linked").symlink_to(outside)
    (root / "direct").symlink_to(outside / "secret")
    (root / "nowhere").symlink_to(outside / "new")
    for text in ("linked/secret", "direct", "nowhere"):
        key = parse_key(text)
        with pytest.raises(StoreDenied, match="leads out"):
            await store.get(key)
        with pytest.raises(StoreDenied, match="leads out"):
            await store.size(key)
        with pytest.raises(StoreDenied, match="leads out"):
            await streamed(store, key)
        with pytest.raises(StoreDenied, match="leads out"):
            await store.put_file(key, Path(__file__))
        with pytest.raises(StoreDenied, match="leads out"):
            await store.put(key, b"y")
        with pytest.raises(StoreDenied, match="leads out"):
            await store.replace(key, b"y", expected=None)
        with pytest.raises(StoreDenied, match="leads out"):
            await store.delete(key)
    assert await listed(store) == [Entry(KEY, 1)]
    with pytest.raises(StoreDenied, match="leads out"):
        await listed(store, "linked/")
    assert files_in(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


async def test_links_within_the_folder_are_followed_but_not_in_circles(
    store: FolderStore, root: Path
) -> None:
    await store.put(KEY, b"x")
    (root / "actions/b").symlink_to(root / "actions/a")
    (root / "actions/a/up").symlink_to(root / "actions")
    (root / "actions/self").symlink_to(root / "actions/self")
    other = parse_key(KEY.replace("/a/", "/b/"))
    assert await store.get(other) == b"x"
    assert [entry.key for entry in await listed(store)] == [KEY, other]
    with pytest.raises(StoreDenied):
        await store.get(parse_key("actions/self"))


async def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    store = FolderStore(tmp_path / "link")
    await store.put(KEY, b"x")
    assert await store.get(KEY) == b"x"
    assert files_in(real) == [KEY]


@settings(max_examples=50)
@given(st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["..", ".", "", "a", "é", "x" * 255, "~", "$HOME", "\\..", "\0"]),
             max_size=12).map("/".join),
))  # fmt: skip
def test_no_key_escapes_the_folder(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "above" / "store"
        store = FolderStore(root)
        try:
            asyncio.run(store.put(Key(text), b"x"))
        except (BadKey, StoreError):
            assert files_in(Path(folder)) == []
        else:
            assert files_in(root) == [text]
            assert files_in(Path(folder)) == [f"above/store/{text}"]


# What the operating system says, in the store's words.


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EROFS, StoreDenied),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.ENOENT, StoreUnavailable),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "mkdir"])
async def test_a_write_that_fails_says_why_and_changes_nothing(
    store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[StoreError],
    call: str,
) -> None:
    other = parse_key("actions/b/1.jpg")
    await store.put(KEY, b"old")
    key = other if call == "mkdir" else KEY

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(kind, match=f"{key}: {os.strerror(number)}") as caught:
            await store.put(key, b"new" * 1000)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.key == key
    assert files_in(store.root) == [KEY]
    assert await store.get(KEY) == b"old"


async def test_a_disk_that_fills_up_half_way_keeps_the_old_content(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await store.replace(KEY, b"old", expected=None)
    write, room = os.write, [1000]

    def write_while_there_is_room(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_while_there_is_room)
        with pytest.raises(StoreFull):
            await store.replace(KEY, bytes(5000), expected=version)
    assert await store.get_versioned(KEY) == (b"old", version)
    assert [name for name in files_in(root) if name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, StoreDenied), (errno.EIO, StoreDenied), (errno.EMFILE, StoreUnavailable)],
)
async def test_a_read_that_fails_says_why(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    await store.put(KEY, b"x")

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(kind, match=str(KEY)):
        await store.get(KEY)


async def test_a_file_system_that_cannot_sync_folders_will_do(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112  # a link, not a path
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    await store.put(KEY, b"x")
    assert await store.get(KEY) == b"x"


async def test_content_and_name_reach_the_medium_in_that_order(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(KEY, b"old")
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    await store.put(KEY, b"new")
    unfinished, *rest = steps
    assert unfinished.startswith(".understudy-")
    assert rest == ["replace", (root / KEY).parent.name]


# Writers that die, and writers that do not.

WRITER = """
import asyncio, sys
from cache.stores.folder import FolderStore
from cache.model.keys import parse_key

async def main():
    async with FolderStore(sys.argv[1]) as store:
        print("ready", flush=True)
        turn = 0
        while True:
            turn += 1
            await store.put(parse_key(sys.argv[2]), bytes([turn % 256]) * 400_000)

asyncio.run(main())
"""


@contextmanager
def writing_for_ever(root: Path) -> Iterator[Any]:
    command = [sys.executable, "-c", WRITER, str(root), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as writer:
        try:
            yield writer
        finally:
            writer.kill()


async def test_a_writer_killed_at_any_moment_leaves_no_half_file(
    store: FolderStore, root: Path
) -> None:
    await store.put(KEY, bytes(400_000))
    seen = set()
    for round_ in range(5):
        with writing_for_ever(root) as writer:
            await asyncio.to_thread(writer.stdout.readline)  # it says that it has begun
            until = time.monotonic() + 0.05 + 0.013 * round_
            while time.monotonic() < until:
                data = await store.get(KEY)
                assert len(data) == 400_000
                assert data == data[:1] * len(data)
                seen.add(data[0])
        data = await store.get(KEY)
        assert data == data[:1] * 400_000
    assert len(seen) > 1
    assert [entry.key for entry in await listed(store)] == [KEY]


async def test_what_dead_writers_left_goes_and_what_live_ones_write_stays(
    store: FolderStore, root: Path
) -> None:
    await store.put(KEY, b"x")
    place = (root / KEY).parent
    dead, alive, young = (place / f".understudy-{name}.tmp" for name in ("dead", "alive", "young"))
    for path in (dead, alive, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 3600
    os.utime(dead, (long_ago, long_ago))
    os.utime(alive, (long_ago, long_ago))
    with alive.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert await listed(store) == [Entry(KEY, 1)]
        assert sorted(place.glob(".understudy-*")) == [alive, young]
    await listed(store)
    assert sorted(place.glob(".understudy-*")) == [young]


async def test_replacing_sweeps_beside_the_manifest(store: FolderStore, root: Path) -> None:
    manifest = parse_key("manifest.json")
    await store.put(manifest, b"1")
    dead = root / ".understudy-dead.tmp"
    dead.write_bytes(b"half")
    os.utime(dead, (0, 0))
    _, version = await store.get_versioned(manifest)
    await store.replace(manifest, b"2", expected=version)
    assert not dead.exists()


async def test_a_lock_that_is_never_let_go_makes_it_unavailable_not_stuck(
    store: FolderStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores.folder, "_LOCK_PATIENCE", 0.05)
    version = await store.replace(KEY, b"1", expected=None)
    (lock,) = (root / ".understudy").iterdir()
    with lock.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="lock"):
            await store.replace(KEY, b"2", expected=version)
        assert await store.get(KEY) == b"1"
    await store.replace(KEY, b"2", expected=version)


async def test_locks_stay_few_however_many_keys_are_replaced(
    store: FolderStore, root: Path
) -> None:
    for number in range(400):
        await store.replace(parse_key(f"takes/{number}/manifest.json"), b"1", expected=None)
    assert len(list((root / ".understudy").iterdir())) <= 256


async def test_a_read_that_hangs_can_be_cancelled(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(KEY, b"x")
    free, ended = threading.Event(), threading.Event()

    def slow(*_: object) -> NoReturn:
        free.wait(30)
        ended.set()
        raise OSError(errno.EIO, "late")

    monkeypatch.setattr(store, "_read", slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.get(KEY), 0.05)
    assert not ended.is_set()
    free.set()


# Large files.


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(some_bytes(3 * cache.stores.folder._COPIED_AT_ONCE + 1))
    return path


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        ("write", (errno.ENOSPC, StoreFull)),
        ("fsync", (errno.EIO, StoreUnavailable)),
        ("replace", (errno.EROFS, StoreDenied)),
    ],
)
async def test_a_copy_that_fails_is_the_stores_trouble_and_changes_nothing(
    store: FolderStore,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: tuple[int, type[StoreError]],
) -> None:
    await store.put(KEY, b"old")
    number, kind = failure

    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(kind, match=os.strerror(number)):
            await store.put_file(KEY, clip)
    assert files_in(store.root) == [KEY]
    assert await store.get(KEY) == b"old"


async def test_a_file_that_cannot_be_read_is_not_the_stores_trouble(
    store: FolderStore, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UnreadableFile, match=os.strerror(errno.EIO)):
        await store.put_file(KEY, clip)
    assert files_in(store.root) == []


async def test_a_copy_and_its_name_reach_the_medium_in_that_order(
    store: FolderStore, root: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(KEY, b"old")
    steps: list[str] = []
    sync, replace, write = os.fsync, os.replace, os.write

    def noted_sync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name[:12])
        sync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        steps.append("replace")
        replace(source, target)

    def noted_write(descriptor: int, data: memoryview) -> int:
        steps.append("write")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", noted_write)
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    await store.put_file(KEY, clip)
    assert steps == [*["write"] * 4, ".understudy-", "replace", (root / KEY).parent.name]


async def test_a_copy_that_is_cancelled_ends_with_the_part_that_is_being_copied(
    store: FolderStore, root: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(KEY, b"old")
    write, reached, go_on = os.write, threading.Event(), threading.Event()
    written: list[int] = []

    def held(descriptor: int, data: memoryview) -> int:
        written.append(len(data))
        reached.set()
        go_on.wait()
        return write(descriptor, data)

    before = opened()
    monkeypatch.setattr(os, "write", held)
    task = asyncio.create_task(store.put_file(KEY, clip))
    await asyncio.to_thread(reached.wait)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(written) == 1
    assert files_in(root) == [KEY]
    assert await store.get(KEY) == b"old"
    assert await not_more_than(before)


async def test_a_stream_whose_disk_hangs_can_be_left_and_is_closed_when_it_answers(
    store: FolderStore, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_file(KEY, clip)
    pread, free = os.pread, threading.Event()

    def slow(descriptor: int, size: int, start: int) -> bytes:
        free.wait()
        return pread(descriptor, size, start)

    before = opened()
    monkeypatch.setattr(os, "pread", slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streamed(store, KEY), 0.05)
    assert opened() > before
    free.set()
    assert await not_more_than(before)


async def test_a_file_that_somebody_writes_in_place_is_not_streamed_on(
    store: FolderStore, root: Path
) -> None:
    await store.put(KEY, some_bytes(1_000_000))
    stream = store.stream(KEY)
    await anext(stream)
    (root / KEY).write_bytes(b"y" * 500_000)
    with pytest.raises(Conflict, match="changed while it was read"):
        await anext(stream)


async def test_without_threads_large_files_come_and_go_as_well(root: Path, clip: Path) -> None:
    async with FolderStore(root, threads=0) as store:
        await store.put_file(KEY, clip)
        assert await store.size(KEY) == clip.stat().st_size
        assert await streamed(store, KEY, 5_000_000) == clip.read_bytes()[5_000_000:]


# Where case does not count.


@pytest.fixture
async def folding(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    """A store on a file system that takes A and a for the same, as far as can be played."""
    monkeypatch.setattr(cache.stores.folder, "_folds_case", lambda _: True)
    await store.put(KEY, b"x")
    return store


async def test_another_spelling_is_not_found(folding: FolderStore) -> None:
    other = parse_key(KEY.replace("/a/", "/A/"))
    assert await folding.get(KEY) == b"x"
    with pytest.raises(NotFound):
        await folding.get(other)
    await folding.delete(other)
    assert await listed(folding, "ACTIONS/") == []
    assert await folding.get(KEY) == b"x"


async def test_another_spelling_is_not_written(folding: FolderStore) -> None:
    with pytest.raises(StoreDenied, match="takes it for 'a'"):
        await folding.put(parse_key(KEY.replace("/a/", "/A/")), b"y")
    with pytest.raises(StoreDenied, match=r"takes it for '1.jpg'"):
        await folding.put(parse_key(KEY.replace("1.jpg", "1.JPG")), b"y")


def test_a_folder_is_asked_whether_case_counts(tmp_path: Path) -> None:
    folds = cache.stores.folder._folds_case
    assert folds(tmp_path) is None
    assert folds(tmp_path / "missing") is None
    (tmp_path / "1").touch()
    assert folds(tmp_path) is None
    (tmp_path / "a").touch()
    # As true as the file system that the tests run on.
    assert folds(tmp_path) is (tmp_path / "A").exists()
    (tmp_path / "A").touch()


async def test_many_first_writers_at_once_make_one_folder(tmp_path: Path) -> None:
    for attempt in range(40):
        async with FolderStore(tmp_path / str(attempt) / "store") as store:
            keys = [parse_key(f"actions/a/sets/{number}/1.jpg") for number in range(8)]
            await asyncio.gather(*(store.put(key, b"x") for key in keys))
            assert [await store.get(key) for key in keys] == [b"x"] * 8
