"""Copies on disk, by themselves: bounds, order, proof, and others in the same folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cache.local.disk_cache
from cache.local.disk_cache import (
    PROOF_BYTES,
    DiskCache,
    NoRoom,
    Unkeepable,
    listing_name,
    origin_folder,
)
from cache.local.memory_cache import CachedContent

REPOSITORY = Path(__file__).parents[3]
ORIGIN = "memory:"


class Time:
    """A time of day that goes on by itself, so that no two uses are at once."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


OPENED: list[DiskCache] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def copies_in(root: Path, **options: Any) -> DiskCache:
    """A cache that owns its folder; one that did before has let it go."""
    for each in OPENED:
        each.close()
    given: dict[str, Any] = {"limit": 10_000, "keep_free": 0, "wall": Time(), **options}
    copies = DiskCache(root, given.pop("origin", ORIGIN), **given)
    OPENED.append(copies)
    assert copies.open()
    copies.look()
    return copies


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(copies: DiskCache, name: str, data: bytes) -> None:
    copies.write(name, CachedContent(data, sha(data)))


def read(copies: DiskCache, name: str) -> bytes | None:
    copy = copies.read(name)
    assert copy is None or copy.sha256 == sha(copy.data)
    return None if copy is None else copy.data


def files(root: Path) -> dict[str, int]:
    """Bytes of every copy of every origin, by its path."""
    return {
        str(path.relative_to(root)): path.stat().st_size
        for path in root.glob("*-*/**/*")
        if path.is_file()
    }


def place(root: Path, name: str) -> Path:
    return root / origin_folder(ORIGIN) / name


def unfinished(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".unfinished").iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "copies"


def test_folders_of_origins_are_readable_and_differ() -> None:
    names = [origin_folder(text) for text in ("s3://a/b", "s3://a-b", "", "é" * 200, "x" * 200)]
    assert names[0].startswith("s3-a-b-")
    assert len(set(names)) == len(names)
    assert all(len(name) < 80 for name in names)


def test_what_is_written_is_read(root: Path) -> None:
    copies = copies_in(root)
    for data in (b"", b"x", bytes(range(256)) * 20):
        write(copies, "a/b", data)
        assert read(copies, "a/b") == data
        assert copies.holds("a/b")
        assert copies.total_bytes == len(data) + PROOF_BYTES == sum(files(root).values())
    assert place(root, "a/b").is_file()
    copies.remove("a/b")
    copies.remove("a/b")
    assert read(copies, "a/b") is None
    assert copies.total_bytes == copies.count == 0


# Bounds.


@st.composite
def actions(draw: st.DrawFn) -> tuple[str, str, int]:
    kind = draw(st.sampled_from(["write"] * 6 + ["read", "read", "remove", "pin", "hold", "free"]))
    return kind, draw(st.sampled_from("abcdefgh")), draw(st.integers(0, 700))


@settings(max_examples=80)
@given(st.lists(actions(), max_size=40), st.integers(0, 3000))
def test_the_bound_holds_and_what_is_needed_stays(
    steps: list[tuple[str, str, int]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copies = copies_in(root, limit=limit)
        contents: dict[str, bytes] = {}
        used: dict[str, int] = {}
        for moment, (kind, name, size) in enumerate(steps):
            needed = copies.pinned | {held for held in copies.held if copies.held[held] > 0}
            before = dict(contents)
            if kind == "write":
                data = bytes([moment % 256]) * size
                try:
                    write(copies, name, data)
                except NoRoom:
                    free = limit - sum(
                        len(contents[each]) + PROOF_BYTES for each in needed & contents.keys()
                    )
                    assert size + PROOF_BYTES > free
                else:
                    contents[name], used[name] = data, moment
            elif kind == "read":
                assert read(copies, name) == contents.get(name)
                used[name] = moment
            elif kind == "remove":
                copies.remove(name)
                contents.pop(name, None)
                before.pop(name, None)
            elif kind == "pin":
                copies.pinned = frozenset({name, *list(copies.pinned)[:1]})
            elif kind == "hold":
                copies.held[name] += 1
            else:
                copies.held.clear()
            there = {path.partition("/")[2] for path in files(root)}
            assert sum(files(root).values()) <= limit
            assert copies.total_bytes == sum(files(root).values())
            evicted = before.keys() - there - ({name} if kind == "write" else set())
            assert not evicted & needed
            if evicted:
                left = {each for each in there & before.keys() if each not in needed | {name}}
                assert max(used[each] for each in evicted) <= min(
                    (used[each] for each in left), default=moment
                )
            contents = {each: data for each, data in contents.items() if each in there}
            assert contents.keys() == there
        assert unfinished(root) == []


@pytest.mark.parametrize("ahead", [365 * 86_400.0, 3600.0, -365 * 86_400.0])
def test_a_start_with_a_wrong_clock_does_not_turn_the_order_round(root: Path, ahead: float) -> None:
    def started(seconds: float) -> DiskCache:
        wall = Time()
        wall.now += seconds
        return copies_in(root, limit=4 * (1000 + PROOF_BYTES), wall=wall)

    write(started(0), "a", bytes(1000))
    wrong = started(ahead)
    write(wrong, "b", bytes(1000))
    read(wrong, "b")
    wrong.flush()
    right = started(60)
    for name in ("c", "d"):
        write(right, name, bytes(1000))
    right.used("a")
    right.flush()
    again = started(120)
    write(again, "e", bytes(1000))
    assert place(root, "b").exists() is False, "used before all others, whatever its clock said"
    assert all(place(root, name).exists() for name in "acde")


def test_a_clock_that_is_set_back_does_not_turn_the_order_round(root: Path) -> None:
    wall = Time()
    copies = copies_in(root, limit=3 * (1000 + PROOF_BYTES), wall=wall)
    for name in "abc":
        write(copies, name, bytes(1000))
        wall.now -= 7200.0
    copies.used("a")
    write(copies, "d", bytes(1000))
    assert not place(root, "b").exists()
    assert all(place(root, name).exists() for name in "acd")


def test_the_order_outlives_the_process(root: Path) -> None:
    clock = Time()
    copies = copies_in(root, wall=clock)
    for name in "abcd":
        write(copies, name, bytes(1000))
    read(copies, "a")
    copies.used("c")
    copies.flush()
    again = copies_in(root, limit=5000, wall=clock)
    write(again, "e", bytes(1000))  # makes room for itself, and a little more
    write(again, "f", bytes(1000))
    assert {path.partition("/")[2] for path in files(root)} == {"a", "c", "e", "f"}


def test_copies_of_other_origins_count_and_go_too(root: Path) -> None:
    clock = Time()
    other = copies_in(root, origin="s3://elsewhere", wall=clock)
    for name in "ab":
        write(other, name, bytes(2000))
    copies = copies_in(root, limit=5000, wall=clock)
    assert copies.total_bytes == 2 * (2000 + PROOF_BYTES)
    assert not copies.holds("a")
    write(copies, "a", bytes(2000))
    assert other.read("a") is None
    assert other.read("b") is not None


def test_where_all_is_needed_nothing_goes_and_nothing_is_looked_for_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    copies = copies_in(root, limit=4500, wall=clock)
    for name in "abcd":
        write(copies, name, bytes(1000))
    copies.pinned = frozenset("abcd")
    asked, protected = Counter[str](), copies._protected
    monkeypatch.setattr(
        copies, "_protected", lambda path: (asked.update([path]), protected(path))[1]
    )
    for _ in range(5):
        with pytest.raises(NoRoom) as caught:
            write(copies, "e", bytes(1000))
        assert not caught.value.floor
    assert set(asked.values()) == {1}
    write(copies, "f", bytes(50))  # less may still fit
    copies.pinned = frozenset("abc")
    write(copies, "e", bytes(1000))
    assert {path.partition("/")[2] for path in files(root)} == {"a", "b", "c", "e", "f"}
    with pytest.raises(NoRoom):
        write(copies, "g", bytes(100_000))
    assert copies.holds("e")


def test_a_part_of_the_disk_stays_free(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = copies_in(root, limit=10**9, keep_free=50_000)
    size, capacity = 10_000, 100_000

    def statvfs(_: object) -> Any:
        return SimpleNamespace(f_bavail=capacity - sum(files(root).values()), f_frsize=1)

    monkeypatch.setattr(os, "statvfs", statvfs)
    for number in range(12):
        write(copies, str(number), bytes(size))
        assert sum(files(root).values()) <= 50_000
    assert read(copies, "11") is not None
    capacity = 40_000  # others have filled it
    copies.pinned = frozenset(map(str, range(12)))
    with pytest.raises(NoRoom) as caught:
        write(copies, "x", bytes(size))
    assert caught.value.floor


def test_where_a_quota_is_spent_room_is_made_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_in(root, limit=10**6)
    for name in "abc":
        write(copies, name, bytes(1000))
    rename = os.rename

    def quota(source: str, target: str) -> None:
        if sum(files(root).values()) > 2500:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        rename(source, target)

    monkeypatch.setattr(os, "rename", quota)
    write(copies, "d", bytes(1000))
    assert read(copies, "d") == bytes(1000)
    assert read(copies, "a") is None
    assert unfinished(root) == []


# What else may be in the folder.


def test_what_is_not_ours_is_left_alone(root: Path) -> None:
    copies = copies_in(root, limit=2500)
    mine = {
        root / "notes.txt": b"mine",
        root / "photos" / "1.jpg": b"mine" * 1000,
        root / "Photos-12345678" / "1.jpg": b"mine" * 1000,
        place(root, ".DS_Store"): b"mine",
        root / ".hidden" / "x": b"mine",
    }
    for path, data in mine.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for number in range(20):
        write(copies, f"actions/{number}", bytes(1000))
    assert {path: path.read_bytes() for path in mine} == mine
    assert copies.count == 2


def test_names_that_something_is_in_the_way_of_are_not_kept(root: Path) -> None:
    copies = copies_in(root)
    write(copies, "a/b", b"x")
    for name in ("a", "a/b/c", "y" * 300):
        with pytest.raises(Unkeepable):
            write(copies, name, b"y")
        assert read(copies, name) is None
        copies.remove(name)
    assert read(copies, "a/b") == b"x"
    assert unfinished(root) == []


def test_a_folder_that_was_emptied_is_made_again(root: Path) -> None:
    copies = copies_in(root)
    write(copies, "a/b", b"x")
    subprocess.run(["rm", "-r", str(root)], check=True)
    assert read(copies, "a/b") is None
    write(copies, "a/b", b"y")
    assert read(copies, "a/b") == b"y"
    assert copies.count == 1


def test_folders_that_become_empty_go(root: Path) -> None:
    copies = copies_in(root, limit=1200)
    write(copies, "actions/a/sets/0/1.jpg", bytes(1000))
    write(copies, "actions/b/sets/0/1.jpg", bytes(1000))
    assert [path.name for path in place(root, "actions").iterdir()] == ["b"]


def test_what_a_dead_owner_left_goes(root: Path) -> None:
    copies_in(root)
    (root / ".unfinished" / "half").write_bytes(b"half")
    copies_in(root)
    assert unfinished(root) == []


def test_what_is_taken_from_a_writer_is_written_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_in(root)
    rename, swept = os.rename, Counter[str]()

    def sweep_once(source: str, target: str) -> None:
        swept[source.rpartition("/")[2]] += 1
        Path(source).unlink(missing_ok=swept.total() > 0)
        monkeypatch.setattr(os, "rename", rename)
        rename(source, target)

    monkeypatch.setattr(os, "rename", sweep_once)
    write(copies, "a/b", b"x")
    assert read(copies, "a/b") == b"x"
    assert unfinished(root) == []


def test_what_is_pinned_while_room_is_made_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_in(root, limit=3300)
    for name in "abc":
        write(copies, name, bytes(1000))
    forget = copies._forget

    def pinned_at_the_last_moment(path: str) -> Any:
        entry = forget(path)
        copies.pinned = frozenset("a")
        return entry

    monkeypatch.setattr(copies, "_forget", pinned_at_the_last_moment)
    write(copies, "d", bytes(1000))
    monkeypatch.undo()
    assert read(copies, "a") is not None
    assert copies.holds("a")
    assert read(copies, "b") is None


def test_what_is_removed_during_a_look_is_out_of_the_books(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is struck out first, and the look that begins just then still finds its file."""
    copies = copies_in(root)
    write(copies, "a/b", b"x")
    write(copies, "a/c", b"y")
    unlink = os.unlink

    def look_first(path: str) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        copies.look(again=True)
        unlink(path)

    monkeypatch.setattr(os, "unlink", look_first)
    copies.remove("a/b")
    assert not copies.holds("a/b")
    assert copies.holds("a/c")
    assert (copies.count, copies.total_bytes) == (1, 1 + PROOF_BYTES)
    write(copies, "a/b", b"xx")
    copies.look(again=True)
    assert copies.total_bytes == 2 + 1 + 2 * PROOF_BYTES


def test_what_is_written_during_a_look_is_in_the_books(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_in(root)
    write(copies, "gone", bytes(10))
    write(copies, "larger", bytes(10))
    scan = cache.local.disk_cache._files_in

    def slow_scan(root: str) -> Iterator[Any]:
        found = list(scan(root))
        copies.remove("gone")
        write(copies, "new", bytes(100))
        yield from found
        write(copies, "larger", bytes(200))

    with monkeypatch.context() as patch:
        patch.setattr(cache.local.disk_cache, "_files_in", slow_scan)
        copies.look(again=True)
    assert [copies.holds(name) for name in ("gone", "new", "larger")] == [False, True, True]
    assert copies.total_bytes == sum(files(root).values()) == 300 + 2 * PROOF_BYTES


def test_what_is_read_while_it_goes_does_not_come_back_into_the_books(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_in(root)
    write(copies, "a", b"x")

    read_copy = cache.local.disk_cache._read_copy

    def overtaken(*arguments: Any) -> Any:
        copy = read_copy(*arguments)
        copies.remove("a")
        return copy

    with monkeypatch.context() as patch:
        patch.setattr(cache.local.disk_cache, "_read_copy", overtaken)
        assert read(copies, "a") == b"x"
    assert not copies.holds("a")
    assert copies.total_bytes == 0


# Many at once.


def test_many_threads_keep_the_bound_and_their_books(root: Path) -> None:
    copies = copies_in(root, limit=20_000, wall=time.time)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                name = f"actions/{(number * 7 + turn) % 23}"
                with suppress(NoRoom):
                    write(copies, name, bytes([turn]) * 1500)
                data = read(copies, f"actions/{turn % 23}")
                assert data is None or len(data) == 1500
                with copies._books:
                    assert copies.total_bytes <= 20_000
        except BaseException as error:  # noqa: BLE001 - for the test to see
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert copies.total_bytes == sum(files(root).values())
    assert unfinished(root) == []


WRITER = """
import hashlib, sys
from pathlib import Path
from cache.local.disk_cache import DiskCache
from cache.local.memory_cache import CachedContent

root, limit = Path(sys.argv[1]), int(sys.argv[2])
copies = DiskCache(root, "memory:", limit=limit, keep_free=0)
print(copies.open(), flush=True)
copies.look()
turn = 0
while True:
    turn += 1
    data = bytes([1, turn % 256]) * 10_000
    name = f"actions/1/sets/{turn % 80}/1.jpg"
    copies.write(name, CachedContent(data, hashlib.sha256(data).hexdigest()))
"""


@contextmanager
def writer(root: Path, limit: int) -> Iterator[Any]:
    """Another process, that owns the folder and writes until it is killed."""
    command = [sys.executable, "-c", WRITER, str(root), str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_one_process_owns_a_folder_and_others_read_it(root: Path) -> None:
    limit = 1_000_000  # less than all that is written: what is read may go at any moment
    reader = DiskCache(root, ORIGIN, limit=limit, keep_free=0)
    with writer(root, limit):
        found, until = 0, time.monotonic() + 20
        for turn in itertools.count():
            copy = reader.read(f"actions/1/sets/{turn % 80}/1.jpg")
            assert copy is None or (len(copy.data), copy.data[0]) == (20_000, 1)
            found += copy is not None
            if found > 200 or time.monotonic() > until:
                break
        assert found > 200
        reader.look()
        assert not reader.open()
        mine = place(root, "mine")
        mine.write_bytes(b"flawed" * 20)
        with pytest.raises(OSError, match="another process keeps the copies") as caught:
            write(reader, "a", b"x")
        assert caught.value.errno == errno.EROFS
        with pytest.raises(OSError, match="another process keeps the copies"):
            reader.remove("mine")
        assert reader.read("mine") is None
        assert mine.exists(), "it is the owner's to remove"
        assert not reader.surely_lacks("nothing")
    assert sum(files(root).values()) <= limit
    write(reader, "a", b"x")
    assert read(reader, "a") == b"x"
    assert read(reader, "mine") is None
    assert not mine.exists()
    assert reader.surely_lacks("nothing")
    for path in files(root):
        assert reader.read(path.partition("/")[2]) is not None
    assert reader.healed == 2
    assert reader.total_bytes == sum(files(root).values()) <= limit
    reader.close()


def test_who_lets_a_folder_go_is_followed_by_another(root: Path) -> None:
    first = copies_in(root)
    second = DiskCache(root, ORIGIN, limit=10_000, keep_free=0)
    assert not second.open()
    first.close()
    assert second.open()
    assert not first.open()
    second.close()


def test_where_there_are_no_locks_all_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    one, two = (DiskCache(root, ORIGIN, limit=10_000, keep_free=0) for _ in range(2))
    for number, each in enumerate((one, two)):
        assert each.open()
        write(each, str(number), b"x")
        each.close()
    assert read(one, "1") == b"x"


def test_an_owner_that_is_killed_leaves_whole_copies_and_no_debris(root: Path) -> None:
    found = 0
    for round_ in range(4):
        with writer(root, 10**7):
            time.sleep(0.02 + 0.013 * round_)  # it is killed at any moment
        copies = copies_in(root, limit=10**7)
        names = [path.partition("/")[2] for path in files(root)]
        assert all(copies.read(name) is not None for name in names)
        found += len(names)
        assert copies.healed == 0
        assert unfinished(root) == []
        copies.close()
    assert found > 0


def test_listings_have_names_that_no_key_has() -> None:
    assert listing_name("prompt_001", 3) == "actions/prompt_001/sets/3/.listing"


def test_errors_of_the_medium_are_passed_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = copies_in(root)
    write(copies, "a", b"x")

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            copies.read("a")
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            write(copies, "b", b"y")
    assert read(copies, "a") == b"x"
    assert copies.total_bytes == sum(files(root).values())
