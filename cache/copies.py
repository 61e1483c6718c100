"""Copies on disk: each with its own proof, bounded in bytes, shared by processes.

::

    {root}/{origin}/actions/…/1.jpg         a copy: the content, then its proof
    {root}/{origin}/actions/…/0/.listing    the same for what is no key (see `listing_name`)
    {root}/.unfinished/                     copies that are being written
    {root}/.lock                            held by whoever evicts
    {root}/.ledger                          how much all have written

What is not hidden within an origin's folder is taken for a copy and may be evicted; all else
in the root is left alone. The bound counts the copies of every origin.

**The proof** (`cache/copy_files.py`) is part of the file. A flawed copy is removed as it is read,
and counts as never kept. That is why nothing is flushed to the medium: a power cut may cost the
copies of the last half minute, which are fetched again, where flushing each would cost every
fetch (`benchmarks/cache.py`).

**Order.** A file's time of modification is when it was last used, so the order outlives us and is
seen by other processes. Uses are noted in memory and written by `flush`.

**The bound** holds exactly for one process. So that others are reckoned with, each appends to a
ledger, a byte for each 4 KiB that it is about to write: the file's length tells everybody how much
was written since they last looked through the folder, at the price of one call. Several processes
together exceed the bound by no more than what the others are writing at that moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.copy_files import PROOF_BYTES, Copy, files_in, origin_folder, read_copy, write_copy

_UNFINISHED: Final = ".unfinished"
_LOCK: Final = ".lock"
_LEDGER: Final = ".ledger"
_LEDGER_UNIT: Final = 4096
_LEDGER_LENGTH: Final = 2**20
"""Bytes. A longer ledger is begun anew."""

_ABANDONED_AFTER: Final = 60.0
"""Seconds. Nobody takes that long to write a file."""

_UNFINISHED_BYTES: Final = 256 * 2**20
"""More than this in unfinished files is swept whatever their age."""

_LOCK_PATIENCE: Final = 2.0
_LOCK_LOOK: Final = 0.01
_BEYOND_REASON_NS: Final = 50 * 366 * 86_400 * 10**9
"""Beyond this, what a file says of its last use was never a clock's."""

_HOPELESS_FOR: Final = 5.0
"""Seconds before it is tried again to make room where all was needed."""

_PLENTY: Final = 2**30
_ROOM_KNOWN_FOR: Final = 1.0
"""Seconds that plenty of room is taken to last: whoever else writes fills less in that time."""

_STEP: Final = 32
"""This part of the bound is freed at once."""

_MISSING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
)
_FOREIGN: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EIO, errno.EMLINK})
_UNKEEPABLE: Final = frozenset(
    {
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,
        errno.ELOOP,
    }
)
"""What a name may be refused with, though the medium is well."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoom(Exception):
    """It was not kept: all that could make room is protected.

    Attributes:
        floor: whether it is the disk that is to stay free, rather than our own bound.
    """

    def __init__(self, *, floor: bool) -> None:
        super().__init__("the disk has to stay free" if floor else "all that is kept is needed")
        self.floor = floor


class Unkeepable(Exception):
    """This one name cannot be kept: something else is in its place, or it is too long."""


@dataclass(slots=True)
class _CopyRecord:
    """What is known of a copy: bytes of its file, when it was used, whether we proved it."""

    size: int
    used_ns: int
    proven: bool = False


class Copies:
    """Copies of one origin, in a folder that others may share.

    All methods may be called in any thread. Those under "Without I/O" never wait; the others
    do, and belong in threads other than the event loop's. They raise `OSError` where the
    medium is at fault.

    Attributes:
        pinned: names that are not evicted; to be replaced as a whole.
        held: names that are not evicted while their count is above 0.
        healed: how many flawed copies were found and removed.
        evicted: how many copies were removed to make room.
    """

    def __init__(
        self,
        root: Path,
        origin: str,
        *,
        limit: int,
        keep_free: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Choose the folder; nothing is touched yet.

        Args:
            root: the folder.
            origin: of whom these are copies: any text; see `origin_folder`.
            limit: bytes that all copies in `root` may take.
            keep_free: bytes of the disk that are to stay free.
            wall: the time of day in seconds, that uses are noted with.
        """
        self._root = root.absolute()
        self._text = os.fspath(self._root)
        self._origin = origin_folder(origin)
        self._limit = limit
        self._keep_free = keep_free
        self._wall = wall
        self._wall_ns = self._noted_ns = int(wall() * 1e9)
        self._me = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.pinned: frozenset[str] = frozenset()
        self.held: Counter[str] = Counter()
        self.healed = 0
        self.evicted = 0
        # `_books` guards what follows and is never held during I/O; `_evicting` is.
        self._books = threading.Lock()
        self._evicting = threading.Lock()
        self._entries: dict[str, _CopyRecord] = {}
        self._bytes = 0
        self._pending = 0
        self._others_unfinished = 0
        self._alone = False
        self._room_known_until = 0.0
        self._room_known = 0
        self._ledger_seen = 0
        self._ledger_mine = 0
        self._journal: dict[str, _CopyRecord | None] | None = None
        self._uses: dict[str, int] = {}
        self._removing: Counter[str] = Counter()
        self._removals = 0
        self._looked = False
        self._hopeless: tuple[int, frozenset[str], int, float] | None = None

    # Without I/O.

    @property
    def root(self) -> Path:
        """The folder, absolute."""
        return self._root

    @property
    def limit(self) -> int:
        """Bytes that all copies may take."""
        return self._limit

    @property
    def total_bytes(self) -> int:
        """Bytes that all copies take, as far as known."""
        return self._bytes

    @property
    def count(self) -> int:
        """How many copies there are, as far as known."""
        return len(self._entries)

    @property
    def complete(self) -> bool:
        """Whether the folder was looked through at least once."""
        return self._looked

    def surely_lacks(self, name: str) -> bool:
        """Whether there is no copy, as we know all that is there and nobody else writes."""
        return self._looked and self._alone and self._path_of(name) not in self._entries

    def size(self, name: str) -> int | None:
        """Bytes of a copy's content, None if there is none, as far as known."""
        entry = self._entries.get(self._path_of(name))
        return None if entry is None else max(0, entry.size - PROOF_BYTES)

    def used(self, name: str) -> None:
        """Note that a copy was used just now."""
        path = self._path_of(name)
        entry = self._entries.get(path)
        if entry is not None:
            entry.used_ns = self._uses[path] = self._now_ns()

    # With I/O.

    def open(self) -> None:
        """Make the folder."""
        (self._root / _UNFINISHED).mkdir(parents=True, exist_ok=True)

    def look(self) -> None:
        """See what is there, whoever wrote it, and sweep what dead writers left."""
        with self._evicting:
            self._sweep()
            self._look()

    def read(self, name: str) -> Copy | None:
        """A copy, proven. One that is flawed is removed.

        Returns:
            None if there is no sound copy.
        """
        path = self._path_of(name)
        removals = self._removals
        try:
            copy = read_copy(self._text, path)
        except OSError as error:
            if error.errno in _MISSING:
                self._forget(path)
                return None
            if error.errno not in _FOREIGN:
                raise
            copy = None
        if copy is None:
            self.healed += 1
            with suppress(OSError):  # on a disk that is read-only it stays, and is no copy
                self._unlink(path)
            return None
        now = self._now_ns()
        with self._books:
            entry = self._entries.get(path)
            size = len(copy.data) + PROOF_BYTES
            if entry is None and (self._removing or removals != self._removals):
                return copy  # it may just have gone, and is not to come back into the books
            if entry is None or entry.size != size:
                entry = self._enter(path, _CopyRecord(size, now))
            entry.proven = True
            entry.used_ns = self._uses[path] = now
        return copy

    def check(self, name: str) -> Copy | bool:
        """Make sure of a copy: that it is there still, or, the first time, by reading it.

        Returns:
            What was read, where it was; else whether it is there.
        """
        path = self._path_of(name)
        entry = self._entries.get(path)
        if entry is not None and entry.proven:
            with suppress(OSError):
                found = os.stat(f"{self._text}/{path}", follow_symlinks=False)  # noqa: PTH116
                if found.st_size == entry.size:
                    return True
        return self.read(name) or False

    def write(self, name: str, data: bytes, sha256: str) -> None:
        """Keep a copy, whatever was there.

        Raises:
            NoRoom: nothing was written.
            Unkeepable: this name cannot be kept.
        """
        path = self._path_of(name)
        size = len(data) + PROOF_BYTES
        now = self._now_ns()
        try:
            self._reserve(size)
        except FileNotFoundError:  # somebody removed the folder
            self.open()
            with self._books:
                self._looked = False
            self._reserve(size)
        kept = False
        try:
            try:
                self._write(path, Copy(data, sha256), now)
            except OSError as error:
                if error.errno not in _FULL or not self._free(0, at_least=size):
                    raise
                self._write(
                    path, Copy(data, sha256), now
                )  # a quota, say, that statvfs does not tell of
            kept = True
        except OSError as error:
            if error.errno in _UNKEEPABLE:
                raise Unkeepable(str(error)) from error
            raise
        finally:
            with self._books:
                self._pending -= size
                if kept:
                    self._uses.pop(path, None)
                    self._enter(path, _CopyRecord(size, now, proven=True))

    def remove(self, name: str) -> None:
        """Drop a copy; one that is not there is fine."""
        self._unlink(self._path_of(name))

    def flush(self, *, keep_young: float) -> None:
        """Write down when copies were used.

        Args:
            keep_young: seconds; what is pinned or held counts as used this long ago at most,
                so that other processes evict it last.
        """
        now = self._now_ns()
        due = now - int(keep_young * 1e9)
        with self._books:
            uses, self._uses = self._uses, {}
            for name in (*self.pinned, *self.held):
                path = self._path_of(name)
                entry = self._entries.get(path)
                if entry is not None and entry.used_ns < due:
                    entry.used_ns = uses[path] = now
        for path, used_ns in uses.items():
            try:
                os.utime(f"{self._text}/{path}", ns=(used_ns, used_ns), follow_symlinks=False)
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                self._forget(path)

    # The rest is ours.

    def _path_of(self, name: str) -> str:
        return f"{self._origin}/{name}"

    def _now_ns(self) -> int:
        """Now, as uses are noted: the time of day, but never before what was noted already.

        They are an order and no dates. After a start with the clock a year ahead, the copies of
        that evening would else be the last used for a year, and all that is used since be evicted.
        """
        wall = int(self._wall() * 1e9)
        passed, self._wall_ns = max(1, wall - self._wall_ns), wall
        self._noted_ns = max(self._noted_ns + passed, wall)
        return self._noted_ns

    def _was_noted(self, used_ns: int) -> int:
        """When a file says that it was used; what we note from now on is after that."""
        if used_ns > self._noted_ns:
            if used_ns > self._wall_ns + _BEYOND_REASON_NS:
                return self._noted_ns
            self._noted_ns = used_ns
        return used_ns

    def _protected(self, path: str) -> bool:
        origin, _, name = path.partition("/")
        return origin == self._origin and (name in self.pinned or self.held[name] > 0)

    def _enter(self, path: str, entry: _CopyRecord) -> _CopyRecord:
        """Write a copy into the books, which the caller has locked."""
        old = self._entries.get(path)
        self._bytes += entry.size - (old.size if old else 0)
        self._entries[path] = entry
        if self._journal is not None:
            self._journal[path] = entry
        return entry

    def _forget(self, path: str) -> _CopyRecord | None:
        """Strike a copy out of the books."""
        with self._books:
            entry = self._entries.pop(path, None)
            self._uses.pop(path, None)
            if entry is not None:
                self._bytes -= entry.size
            if self._journal is not None:
                self._journal[path] = None
            return entry

    def _unlink(self, path: str) -> None:
        with self._removal(path):
            self._forget(path)
            try:
                os.unlink(f"{self._text}/{path}")  # noqa: PTH108 - a Path costs more than the call
            except OSError as error:
                if error.errno not in _MISSING | {errno.EISDIR}:
                    raise

    @contextmanager
    def _removal(self, path: str) -> Iterator[None]:
        """While a file goes: who reads or finds it meanwhile does not count on it."""
        with self._books:
            self._removing[path] += 1
        try:
            yield
        finally:
            with self._books:
                self._removing[path] -= 1
                if not self._removing[path]:
                    del self._removing[path]
                self._removals += 1

    def _write(self, path: str, copy: Copy, now: int) -> None:
        unfinished = f"{_UNFINISHED}/{self._me}-{secrets.token_hex(4)}"
        try:
            write_copy(self._text, unfinished, path, copy, now)
        except FileNotFoundError:
            # Somebody removed the folder, or the file while it was being written.
            self.open()
            write_copy(self._text, unfinished, path, copy, now)

    # Making room.

    def _reserve(self, size: int) -> None:
        """Have room for a copy, and count it as if it were there.

        A copy that it replaces is there until it is, and so needs its own room.

        Raises:
            NoRoom: there is none.
        """
        with self._books:
            length = self._note_in_ledger(size)
        while True:
            floor = self._is_too_full(size)
            with self._books:
                others = self._written_by_others(length)
                known = self._looked and others is not None
                if known and not floor and self._total() + (others or 0) + size <= self._limit:
                    self._pending += size
                    return
            if not self._free(size):
                raise NoRoom(floor=floor)
            length = self._ledger_length()

    def _total(self) -> int:
        return self._bytes + self._pending + self._others_unfinished

    def _note_in_ledger(self, size: int) -> int:
        """Tell other processes of what is about to be written; says how long the ledger is now."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        # Not kept open: a disk that is to be pulled out could not be unmounted.
        descriptor = os.open(f"{self._text}/{_LEDGER}", flags, 0o666)
        try:
            self._ledger_mine += os.write(descriptor, bytes(-(-size // _LEDGER_UNIT)))
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def _written_by_others(self, length: int) -> int | None:
        """Bytes, at most, since we looked; None if there is no telling but by looking."""
        units = length - self._ledger_seen - self._ledger_mine
        self._alone = length >= self._ledger_seen and units <= 0
        return None if length < self._ledger_seen else max(0, units) * _LEDGER_UNIT

    def _ledger_length(self) -> int:
        try:
            return os.stat(f"{self._text}/{_LEDGER}").st_size  # noqa: PTH116
        except FileNotFoundError:
            return 0

    def _room_on_disk(self) -> int:
        """Bytes that may be written before the disk is fuller than it should get."""
        found = os.statvfs(self._text)
        return found.f_bavail * found.f_frsize - self._keep_free

    def _is_too_full(self, size: int) -> bool:
        """Whether so much may not be written; where there is plenty, not asked for each time."""
        now = time.monotonic()
        if now > self._room_known_until or self._room_known < _PLENTY:
            self._room_known = self._room_on_disk()
            self._room_known_until = now + _ROOM_KNOWN_FOR
        self._room_known -= size
        return self._room_known < 0

    def _free(self, size: int, *, at_least: int = 0) -> bool:
        """Look anew, and evict what was used longest ago until there is room.

        Args:
            size: bytes that are wanted.
            at_least: bytes to evict however much room there seems to be.

        Returns:
            False if there is no room, and none can be made; then nothing was evicted.
        """
        with self._evicting:
            if self._is_hopeless(size):
                return False
            with self._lock() as held:
                if not held:
                    return False
                if self._ledger_length() > _LEDGER_LENGTH:
                    os.truncate(f"{self._text}/{_LEDGER}", 0)
                self._sweep()
                self._look()
                with self._books:
                    over = self._total() + size - self._limit
                need = max(over, size - self._room_on_disk(), at_least)
                if need <= 0:
                    return True
                with self._books:
                    found = sorted(
                        (entry.used_ns, path, entry.size)
                        for path, entry in self._entries.items()
                        if not self._protected(path)
                    )
                if sum(each[2] for each in found) < need:
                    self._hopeless = (size, self.pinned, self.held.total(), self._wall())
                    return False
                # Somewhat more, lest every further copy begin with a look.
                self._evict(found, need, need + self._limit // _STEP)
                return True

    def _evict(self, found: list[tuple[int, str, int]], need: int, wanted: int) -> None:
        gone = 0
        for _, path, size in found:
            if gone >= need and gone + size > wanted:
                return
            with self._removal(path):
                # First out of the books, then a look at who needs it: who pins it and then sees
                # it in the books can rely on it.
                entry = self._forget(path)
                if entry is not None and self._protected(path):
                    with self._books:
                        self._enter(path, entry)
                    continue
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    os.unlink(f"{self._text}/{path}")  # noqa: PTH108
            self.evicted += 1
            gone += size
            self._remove_empty(path)

    def _remove_empty(self, path: str) -> None:
        """Remove the folders of a copy that have become empty; not the origin's."""
        folder = path.rpartition("/")[0]
        while "/" in folder:
            try:
                os.rmdir(f"{self._text}/{folder}")  # noqa: PTH106
            except OSError:
                return
            folder = folder.rpartition("/")[0]

    def _is_hopeless(self, size: int) -> bool:
        """Whether it was in vain a moment ago, with the same needed."""
        if self._hopeless is None:
            return False
        wanted, pinned, held, when = self._hopeless
        same = pinned is self.pinned and held == self.held.total() and size >= wanted
        if same and 0 <= self._wall() - when < _HOPELESS_FOR:
            return True
        self._hopeless = None
        return False

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        """Keep other processes from evicting; False if one does not stop doing so."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{self._text}/{_LOCK}", flags, 0o666)
        try:
            give_up = time.monotonic() + _LOCK_PATIENCE
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        yield False
                        return
                    time.sleep(_LOCK_LOOK)
                except OSError:  # no locks on this file system: then without
                    break
                else:
                    break
            yield True
        finally:
            os.close(descriptor)  # and with it the lock

    # Looking through the folder.

    def _look(self) -> None:
        with self._books:
            # What is out of the books already may still be on the disk as we look.
            self._journal = {path: None for path in self._removing if path not in self._entries}
            # What is noted from here on may or may not be among what is found.
            self._ledger_seen, self._ledger_mine = self._ledger_length(), 0
            self._alone = True
        found: dict[str, _CopyRecord] = {}
        try:
            for path, info in files_in(self._text):
                known = self._entries.get(path)
                if known is not None and known.size == info.st_size:
                    known.used_ns = max(known.used_ns, self._was_noted(info.st_mtime_ns))
                    found[path] = known
                else:
                    found[path] = _CopyRecord(info.st_size, self._was_noted(info.st_mtime_ns))
            unfinished = sum(size for _, size, _ in self._unfinished())
        except BaseException:
            self._journal = None
            raise
        with self._books:
            journal, self._journal = self._journal or {}, None
            # What we did meanwhile, the look may or may not have seen.
            for path, entry in journal.items():
                found.pop(path, None)
                if entry is not None:
                    found[path] = entry
            self._entries = found
            self._bytes = sum(entry.size for entry in found.values())
            self._others_unfinished = unfinished
            self._looked = True

    def _unfinished(self) -> list[tuple[str, int, float]]:
        """What others are writing, or were when they died: path, bytes, when last written."""
        found = []
        with suppress(FileNotFoundError), os.scandir(f"{self._text}/{_UNFINISHED}") as scan:
            for item in scan:
                if item.name.startswith(self._me):
                    continue
                with suppress(FileNotFoundError):
                    info = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        found.append((item.path, info.st_size, info.st_mtime))
        return found

    def _sweep(self) -> None:
        """Remove what dead writers left. One that lives, and is as slow, loses a copy by it."""
        now = time.time()  # the medium's clock, not ours
        found = self._unfinished()
        excess = sum(size for _, size, _ in found) - _UNFINISHED_BYTES
        for path, size, written in sorted(found, key=lambda each: each[2]):
            if now - written < _ABANDONED_AFTER and excess <= 0:
                continue
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
                excess -= size
