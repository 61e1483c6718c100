"""Copies on disk: each with its own proof, bounded in bytes, written by one process at a time.

::

    {root}/{origin}/actions/…/1.jpg         a copy: the content, then its proof
    {root}/{origin}/actions/…/0/.listing    the same for what is no key (see `listing_name`)
    {root}/.unfinished/                     copies that are being written
    {root}/.lock                            held by the process that owns the folder

What is not hidden within an origin's folder is taken for a copy and may be evicted; all else
in the root is left alone. The bound counts the copies of every origin.

**One owner, many readers.** Whoever opens the folder first owns it until it closes it, or ends:
it alone writes, removes and evicts, so its books are right without a look at the folder. To all
others the folder is a disk that is read-only, until they own it in their turn.

**The proof** is part of the file: content and proof come into being in one rename. Whatever
happens to a file later (bits that flip, an end that is missing, another file in its place) is seen
when it is read. A flawed copy is removed then, and counts as never kept. That is why nothing is
flushed to the medium: a power cut may cost the copies of the last half minute, which are fetched
again, where flushing each would cost every fetch (`benchmarks/cache.py`).

**Order.** A file's time of modification is when it was last used, so the order outlives us. Uses
are noted in memory and written by `flush`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.durable import write_all
from cache.local.memory_cache import CachedContent
from cache.model.keys import set_prefix

PROOF_BYTES: Final = 56
"""How much larger a copy's file is than its content."""

LISTING_NAME: Final = ".listing"
_UNFINISHED: Final = ".unfinished"
_LOCK: Final = ".lock"

_MAGIC: Final = b"UNDRSTD1"
_PROOF: Final = struct.Struct(">32sQ8s8s")
_ORIGIN: Final = re.compile(r"[a-z0-9-]+-[0-9a-f]{8}")

_BEYOND_REASON_NS: Final = 50 * 366 * 86_400 * 10**9
"""Beyond this, what a file says of its last use was never a clock's."""

_HOPELESS_FOR: Final = 5.0
"""Seconds before it is tried again to make room where all was needed."""

_STEP: Final = 32
"""This part of the bound is freed at once."""

_MISSING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
)
_FOREIGN: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EIO, errno.EMLINK})
_UNKEEPABLE: Final = (_MISSING - {errno.ENOENT}) | frozenset(
    {errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
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


class DiskCache:
    """Copies of one origin, in a folder that copies of others may lie in, too.

    All methods may be called in any thread. Those under "Without I/O" never wait; the others
    do, and belong in threads other than the event loop's. They raise `OSError` where the
    medium is at fault, or is another process's.

    Attributes:
        pinned: names that are not evicted; to be replaced as a whole.
        held: names that are not evicted while their count is above 0.
        total_bytes: bytes that all copies take, as far as known.
        looked: whether the folder was looked through at least once.
        healed: how many flawed copies were found.
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
        self._root = os.fspath(root.absolute())
        self._origin = origin_folder(origin)
        self.limit = limit
        self._keep_free = keep_free
        self._wall = wall
        self._wall_ns = self._noted_ns = int(wall() * 1e9)
        self.pinned: frozenset[str] = frozenset()
        self.held: Counter[str] = Counter()
        self.healed = 0
        self.evicted = 0
        # `_books` guards what follows and is never held during I/O; `_changing` is.
        self._books = threading.Lock()
        self._changing = threading.Lock()
        self._entries: dict[str, _CopyRecord] = {}
        self.total_bytes = 0
        self._pending = 0
        self._uses: dict[str, int] = {}
        self._journal: dict[str, _CopyRecord | None] | None = None
        self.looked = False
        self._lock: int | None = None
        self._writes = itertools.count()
        self._hopeless: tuple[int, frozenset[str], int, float] | None = None

    # Without I/O.

    @property
    def count(self) -> int:
        """How many copies there are, as far as known."""
        return len(self._entries)

    def surely_lacks(self, name: str) -> bool:
        """Whether there is no copy, as we know all that is there and nobody else writes."""
        return self.looked and self._lock is not None and self._path_of(name) not in self._entries

    def holds(self, name: str) -> bool:
        """Whether there is a copy, as far as known."""
        return self._path_of(name) in self._entries

    def used(self, name: str) -> None:
        """Note that a copy was used just now."""
        path = self._path_of(name)
        entry = self._entries.get(path)
        if entry is not None:
            entry.used_ns = self._uses[path] = self._now_ns()

    # With I/O.

    def open(self) -> bool:
        """Make the folder, and own it if nobody does. Once more finds out whether it is so still.

        Returns:
            Whether we own it.
        """
        with self._changing:
            os.makedirs(f"{self._root}/{_UNFINISHED}", exist_ok=True)
            place = f"{self._root}/{_LOCK}"
            if self._lock is not None:
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self._lock), os.stat(place)):
                        return True
                self.close()  # somebody removed the folder, and with it what we knew of it
            # Not for writing: the disk could not be made read-only while it is open.
            flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(place, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:
                pass  # no locks on this file system: then without
            self.looked = False  # the owner before us has changed it
            self._lock = descriptor
            with os.scandir(f"{self._root}/{_UNFINISHED}") as scan:
                for item in scan:  # what it was writing when it died
                    with suppress(OSError):
                        os.unlink(item.path)
            return True

    def close(self) -> None:
        """Let others own the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def look(self, *, again: bool = False) -> None:
        """See what is there, whoever wrote it. The owner need not look again."""
        with self._changing:
            if self.looked and not again:
                return
            with self._books:
                self._journal = {}
            found: dict[str, _CopyRecord] = {}
            try:
                for path, info in _files_in(self._root):
                    known = self._entries.get(path)
                    used_ns = self._was_noted(info.st_mtime_ns)
                    if known is None or known.size != info.st_size:
                        known = _CopyRecord(info.st_size, used_ns)
                    known.used_ns = max(known.used_ns, used_ns)
                    found[path] = known
            except BaseException:
                self._journal = None
                raise
            with self._books:
                # What changed meanwhile, the look may or may not have seen.
                for path, entry in (self._journal or {}).items():
                    found.pop(path, None)
                    if entry is not None:
                        found[path] = entry
                self._journal = None
                self._entries = found
                self.total_bytes = sum(entry.size for entry in found.values())
                self.looked = True

    def read(self, name: str) -> CachedContent | None:
        """A copy, proven. One that is flawed is removed.

        Returns:
            None if there is no sound copy.
        """
        path = self._path_of(name)
        try:
            copy = _read_copy(self._root, path)
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
        size = len(copy.data) + PROOF_BYTES
        with self._books:
            entry = self._entries.get(path)
            if entry is None and self.looked and self._lock is not None:
                return copy  # it has just gone, and is not to come back into the books
            if entry is None or entry.size != size:
                entry = self._enter(path, _CopyRecord(size, now))
            entry.proven = True
            entry.used_ns = self._uses[path] = now
        return copy

    def check(self, name: str) -> CachedContent | bool:
        """Make sure of a copy: that it is there still, or, the first time, by reading it.

        Returns:
            What was read, where it was; else whether it is there.
        """
        path = self._path_of(name)
        entry = self._entries.get(path)
        if entry is not None and entry.proven:
            with suppress(OSError):
                found = os.stat(f"{self._root}/{path}", follow_symlinks=False)
                if found.st_size == entry.size:
                    return True
        return self.read(name) or False

    def write(self, name: str, content: CachedContent) -> None:
        """Keep a copy, whatever was there.

        Raises:
            NoRoom: nothing was written.
            Unkeepable: this name cannot be kept.
        """
        path = self._path_of(name)
        size = len(content.data) + PROOF_BYTES
        now = self._now_ns()
        self._be_owner()
        self._reserve(size)
        kept = False
        try:
            try:
                self._write(path, content, now)
            except FileNotFoundError:
                # Somebody removed the folder, or the file while it was being written.
                self._be_owner(still=True)
                self._write(path, content, now)
            except OSError as error:
                if error.errno not in _FULL or not self._free(0, at_least=size):
                    raise
                self._write(path, content, now)  # a quota, say, that statvfs does not tell of
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

    def flush(self) -> None:
        """Write down when copies were used."""
        with self._books:
            uses, self._uses = self._uses, {}
        for path, used_ns in uses.items():
            try:
                os.utime(f"{self._root}/{path}", ns=(used_ns, used_ns), follow_symlinks=False)
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
        self.total_bytes += entry.size - (old.size if old else 0)
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
                self.total_bytes -= entry.size
            if self._journal is not None:
                self._journal[path] = None
            return entry

    def _be_owner(self, *, still: bool = False) -> None:
        if (still or self._lock is None) and not self.open():
            raise OSError(errno.EROFS, "another process keeps the copies in this folder")

    def _unlink(self, path: str) -> None:
        self._forget(path)
        self._be_owner()
        try:
            os.unlink(f"{self._root}/{path}")
        except OSError as error:
            if error.errno not in _MISSING:
                raise
        self._forget(path)  # a look may have seen it in between

    def _write(self, path: str, content: CachedContent, now: int) -> None:
        """Write a file, whatever was there; where that fails, nothing is left of it."""
        place = f"{self._root}/{path}"
        unfinished = f"{self._root}/{_UNFINISHED}/{os.getpid()}-{id(self):x}-{next(self._writes)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(unfinished, flags, 0o666)
        try:
            try:
                proof = _proof(path, len(content.data), bytes.fromhex(content.sha256))
                written = os.writev(descriptor, [content.data, proof])
                if written < len(content.data) + PROOF_BYTES:
                    write_all(descriptor, (content.data + proof)[written:])
                os.utime(descriptor, ns=(now, now))
            finally:
                os.close(descriptor)
            try:
                os.rename(unfinished, place)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.rename(unfinished, place)
        except BaseException:  # whatever ended it: nothing of it is left
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    # Making room.

    def _reserve(self, size: int) -> None:
        """Have room for a copy, and count it as if it were there.

        A copy that it replaces is there until it is, and so needs its own room.

        Raises:
            NoRoom: there is none.
        """
        if not self.looked:
            self.look()
        while True:
            floor = self._room_on_disk() < size
            with self._books:
                if not floor and self.total_bytes + self._pending + size <= self.limit:
                    self._pending += size
                    return
            if not self._free(size):
                raise NoRoom(floor=floor)

    def _room_on_disk(self) -> int:
        """Bytes that may be written before the disk is fuller than it should get."""
        # By the lock, which is there even where somebody removed the folder.
        found = os.statvfs(self._root if self._lock is None else self._lock)
        return found.f_bavail * found.f_frsize - self._keep_free

    def _free(self, size: int, *, at_least: int = 0) -> bool:
        """Evict what was used longest ago until there is room.

        Args:
            size: bytes that are wanted.
            at_least: bytes to evict however much room there seems to be.

        Returns:
            False if there is no room, and none can be made; then nothing was evicted.
        """
        with self._changing:
            if self._is_hopeless(size):
                return False
            with self._books:
                over = self.total_bytes + self._pending + size - self.limit
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
            # Somewhat more, lest every further copy begin with a sort.
            self._evict(found, need, need + self.limit // _STEP)
            return True

    def _evict(self, found: list[tuple[int, str, int]], need: int, wanted: int) -> None:
        gone = 0
        for _, path, size in found:
            if gone >= need and gone + size > wanted:
                return
            # First out of the books, then a look at who needs it: who pins it and then sees
            # it in the books can rely on it.
            entry = self._forget(path)
            if entry is not None and self._protected(path):
                with self._books:
                    self._enter(path, entry)
                continue
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                os.unlink(f"{self._root}/{path}")
            self.evicted += 1
            gone += size
            self._remove_empty(path)

    def _remove_empty(self, path: str) -> None:
        """Remove the folders of a copy that have become empty; not the origin's."""
        folder = path.rpartition("/")[0]
        while "/" in folder:
            try:
                os.rmdir(f"{self._root}/{folder}")
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


def origin_folder(origin: str) -> str:
    """The folder's name for copies of one origin: readable, and no other's."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", origin).strip("-").lower()[:60].rstrip("-")
    return f"{slug or 'origin'}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def listing_name(action_id: str, set_id: int) -> str:
    """The name under which a set's listing is kept; it is hidden, so no key is named so.

    Raises:
        BadKey: `action_id` is no action id, or `set_id` no set number.
    """
    return f"{set_prefix(action_id, set_id)}{LISTING_NAME}"


def _read_copy(root: str, path: str) -> CachedContent | None:
    """A copy if it is sound.

    Raises:
        OSError: it cannot be opened or read.
    """
    # Non-blocking and without following links: what stands in its place may be anything.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    with open(f"{root}/{path}", "rb", opener=lambda place, _: os.open(place, flags)) as file:
        info = os.fstat(file.fileno())
        length = info.st_size - PROOF_BYTES
        if not stat.S_ISREG(info.st_mode) or length < 0:
            return None
        data, proof = file.read(length), file.read(PROOF_BYTES)
    digest = hashlib.sha256(data)
    if len(data) != length or proof != _proof(path, length, digest.digest()):
        return None
    return CachedContent(data, digest.hexdigest())


def _files_in(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every copy of every origin: its path within the root, and its file's facts."""
    with os.scandir(root) as scan:
        folders = [
            item.name
            for item in scan
            if _ORIGIN.fullmatch(item.name) and item.is_dir(follow_symlinks=False)
        ]
    while folders:
        folder = folders.pop()
        # The owner may evict it meanwhile.
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(f"{root}/{folder}") as scan,
        ):
            for item in scan:
                if item.name.startswith(".") and item.name != LISTING_NAME:
                    continue
                path = f"{folder}/{item.name}"
                if item.is_dir(follow_symlinks=False):
                    folders.append(path)
                    continue
                with suppress(FileNotFoundError):
                    yield path, item.stat(follow_symlinks=False)


def _proof(path: str, length: int, sha256: bytes) -> bytes:
    """What stands behind a content that belongs in this place, and nowhere else."""
    place = hashlib.sha256(path.encode()).digest()[:8]
    return _PROOF.pack(sha256, length, place, _MAGIC)
