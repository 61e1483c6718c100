"""A store in a folder of a local or mounted file system.

A write goes to a hidden file beside its place, to the medium, and only then, in one step,
to its name. Whoever is killed meanwhile leaves that hidden file and nothing else; the writer
holds a lock on it, so the next listing can tell an orphan from a write in progress.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import itertools
import os
import random
import secrets
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, Self, TypeVar
from urllib.parse import unquote

import anyio
import structlog

from cache.durable import sync_folder, write_all
from cache.model.keys import Key, is_key, parse_key, parse_prefix
from cache.stores.file_reader import FileChanged, FileReader, SourceFile
from cache.stores.port import (
    PIECE,
    Conflict,
    Entry,
    NotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    Version,
    Versioned,
    content_version,
)
from cache.stores.to_its_end import to_its_end
from cache.stores.urls import SCHEME, SUPPORTED, BadStoreAddress, StoreOptions
from cache.threads import read_in_thread, write_in_thread

T = TypeVar("T")

OWN_FOLDER: Final = ".understudy"
"""Hidden folder within the root for locks; never listed, and safe to delete when idle."""

_UNFINISHED: Final = ".understudy-"
_UNFINISHED_END: Final = ".tmp"
_ORPHAN_AGE: Final = 60.0
"""Seconds. A younger unfinished file may belong to a writer that has not locked it yet."""

_HELD: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""What a lock that another holds is told by; the last by some network file systems."""

_NO_LOCKS: Final = frozenset(
    {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
)
"""What file systems without locks answer: NFS without its daemon, SMB, FUSE."""

_LOCK_PATIENCE: Final = 10.0
_LISTED_AT_ONCE: Final = 512
_COPIED_AT_ONCE: Final = 4 * 2**20
"""Bytes that a thread copies before it looks whether the copy is still wanted."""

_LAST_WORD: Final = 2.0
"""Seconds for removing an unfinished file while being cancelled."""

_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
    }
)


_UNREADABLE: Final = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})
"""What a medium answers that cannot read one file, and will not next time either."""

_log = structlog.get_logger(__name__)


class FolderStore:
    """A store in a folder.

    The folder is made with the first write. If it was there once and is gone (a disk that
    was pulled out), requests raise `StoreUnavailable`, and nothing is written in its place.

    Links within the folder are followed, and those that lead below one of the folders that were
    named for it; any other that leads out is refused. On a file system without locks two who
    write the same key at once are not safe: `without_locks` says so. Where the file
    system takes ``A`` and ``a`` for the same name, as on macOS, a key is found under its
    exact spelling only, and may not be written beside another spelling.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        threads: int = 8,
        follow: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        """Choose the folder; nothing is touched yet.

        Args:
            root: the folder; relative ones are taken from the current directory, now.
            threads: how many requests may wait for the medium at once; with 0 whoever asks
                waits for it, and nobody else goes on meanwhile.
            follow: folders, such as other disks, below which links in the store may lead.
        """
        self._root = Path(root).absolute()
        self._follow = tuple(Path(each).absolute() for each in follow)
        self._seen = False
        self._disk: tuple[int, int] | None = None
        self._without_locks: str | None = None
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None
        self._folds_case: bool | None = None

    @property
    def root(self) -> Path:
        """The folder, absolute."""
        return self._root

    @property
    def follow(self) -> tuple[Path, ...]:
        """The folders outside, absolute, below which links may lead."""
        return self._follow

    @property
    def without_locks(self) -> str | None:
        """In words, why two who write at once are not safe here; None as far as they are."""
        return self._without_locks

    @property
    def url(self) -> str:
        """The folder as a ``file:`` URL."""
        return self._root.as_uri()

    async def __aenter__(self) -> Self:
        with suppress(StoreError):  # whoever asks for something is told, then as now
            await self._in_thread("", partial(self._look, ""))
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def get(self, key: Key) -> bytes:
        """See `Store.get`."""
        return await self._in_thread(parse_key(key), partial(self._read, key), abandon=True)

    async def get_versioned(self, key: Key) -> Versioned:
        """See `Store.get_versioned`."""
        data = await self.get(key)
        return Versioned(data, content_version(data))

    async def put(self, key: Key, data: bytes) -> None:
        """See `Store.put`."""
        await self._in_thread(parse_key(key), partial(self._write, key, data), writing=True)

    async def put_file(self, key: Key, path: Path) -> None:
        """See `Store.put_file`.

        One thread after the other copies a part: a long copy is left soon after it is cancelled.
        """
        unfinished = _Unfinished()
        with SourceFile(path) as file:
            try:
                begin = partial(self._begin, parse_key(key), file, unfinished)
                size = await self._in_thread(key, begin, writing=True)
                for at in range(0, size, _COPIED_AT_ONCE):
                    copy = partial(unfinished.copy, file, at, min(_COPIED_AT_ONCE, size - at))
                    await self._in_thread(key, copy, writing=True)
                await self._in_thread(key, unfinished.finish, writing=True)
            except BaseException:  # a cancel, too, leaves no file behind
                await to_its_end(self._discard(key, unfinished))
                raise

    async def size(self, key: Key) -> int:
        """See `Store.size`."""

        def look() -> int:
            with FileReader() as file:
                return self._open(key, file)

        return await self._in_thread(parse_key(key), look, abandon=True)

    async def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Store.stream`. A file that is replaced meanwhile is read as it was."""
        with FileReader() as file:
            opening = partial(self._open, parse_key(key), file)
            size = await self._in_thread(key, opening, abandon=True)
            end = size if stop is None else min(stop, size)
            for at in range(start, end, PIECE):
                reading = partial(_read_piece, key, file, at, min(PIECE, end - at))
                yield await self._in_thread(key, reading, abandon=True)

    async def link(self, key: Key, good_for: float) -> None:  # noqa: ARG002 - the port has it; there is nothing to be good for so long
        """See `Store.link`: there are none."""
        parse_key(key)

    async def _discard(self, key: str, unfinished: _Unfinished) -> None:
        """Remove what was not finished, for some seconds at most; then the next listing does."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await self._in_thread(key, unfinished.discard, abandon=True)

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        """See `Store.replace`. Holds for all processes that use the same folder."""
        parse_key(key)
        deadline = time.monotonic() + _LOCK_PATIENCE
        attempt = partial(self._replace, key, data, expected)
        # Waiting for the lock happens here, not in a thread, so that it can be cancelled.
        while not await self._in_thread(key, attempt, writing=True):
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    key, f"another process has held its lock for {_LOCK_PATIENCE:.0f} s"
                )
            await asyncio.sleep(random.uniform(0.001, 0.02))
        return content_version(data)

    async def delete(self, key: Key) -> None:
        """See `Store.delete`."""
        await self._in_thread(parse_key(key), partial(self._remove, key), writing=True)

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `Store.list`."""
        entries = self._walk(parse_prefix(prefix))

        def some() -> tuple[Entry, ...]:
            return tuple(itertools.islice(entries, _LISTED_AT_ONCE))

        while found := await self._in_thread(prefix, some, abandon=True):
            for entry in found:
                yield entry

    async def _in_thread(
        self, key: str, work: Callable[[], T], *, abandon: bool = False, writing: bool = False
    ) -> T:
        """Do blocking work in a thread, with its errors translated.

        A write is waited for even when cancelled: given up half-way, it could still come
        to its end later, over a newer content. A read is left alone.
        """
        if not self._threads:
            try:
                return work()
            except OSError as error:
                _translate(error, key, writing=writing)
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._threads)
        run = read_in_thread if abandon else write_in_thread
        try:
            return await run(work, self._limiter)
        except OSError as error:
            _translate(error, key, writing=writing)

    # What follows runs in threads.

    def _look(self, key: str) -> None:
        """Note whether the folder is there; a key cannot be asked for if it is gone."""
        # Asked before the look: another thread may make the folder, and say so, right after it.
        seen = self._seen
        try:
            found = self._root.stat()  # once: between two looks another writer may make it
        except (FileNotFoundError, NotADirectoryError):
            if seen:
                raise StoreUnavailable(
                    key, f"the folder {self._root} is gone; is its disk still connected?"
                ) from None
            return
        if not stat.S_ISDIR(found.st_mode):
            raise StoreDenied(key, f"{self._root} is a file, expected a folder")
        self._seen = True
        disk = (found.st_dev, found.st_ino)
        if disk != self._disk:  # another disk was mounted there, which may be of another kind
            self._disk, self._folds_case = disk, None

    def _place(self, key: str) -> Path:
        """The real path of a key, links followed.

        Raises:
            StoreUnavailable: the folder was there, and is gone.
            StoreDenied: a link leads out of the folder, and below none that may be followed.
        """
        self._look(key)
        place = Path(os.path.realpath(self._root / key))
        roots = (self._root, *self._follow)
        if not any(place.is_relative_to(os.path.realpath(root)) for root in roots):
            raise StoreDenied(
                key,
                f"a link leads out of {self._root}, to {place}; [store] follow names the folders "
                "below which links may lead",
            )
        return place

    def _linked(self, key: str) -> Path:
        """The real path of a key that is a link.

        Raises:
            StoreDenied: it leads out of the folder, or in a circle.
        """
        place = self._place(key)
        if place.is_symlink():
            raise StoreDenied(key, "is a link in a circle")
        return place

    def _open(self, key: Key, file: FileReader) -> int:
        """Open a key's file; how many bytes it has."""
        place = self._place(key)
        self._check_spelling(key)
        return file.open(place)

    def _read(self, key: Key) -> bytes:
        place = self._place(key)
        self._check_spelling(key)
        # Non-blocking, or a named pipe in the folder would hold this thread for ever.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFound(key, "is not a file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)

    def _write(self, key: Key, data: bytes) -> None:
        unfinished = _Unfinished()
        try:
            unfinished.begin(self._place_to_write(key))
            unfinished.write(data)
            unfinished.finish()
        finally:
            unfinished.discard()

    def _begin(self, key: Key, file: SourceFile, unfinished: _Unfinished) -> int:
        """Open a source, then the file that it is copied to; how many bytes it has."""
        size = file.look()  # first: a source that is missing makes no folder
        unfinished.begin(self._place_to_write(key))
        return size

    def _place_to_write(self, key: Key) -> Path:
        """The real path of a key, in a folder that is there."""
        place = self._place(key)
        self._check_spelling(key, writing=True)
        self._make_folder(place.parent)
        if place.is_dir():
            raise StoreDenied(key, "is a folder")
        return place

    def _replace(self, key: Key, data: bytes, expected: Version | None) -> bool:
        """Compare and swap; False if the lock is held by another."""
        place = self._place(key)
        if expected is not None and not place.is_file():
            raise Conflict(key, "was removed meanwhile")
        self._make_folder(place.parent)
        with self._lock(place) as held:
            if not held:
                return False
            try:
                present = content_version(self._read(key))
            except (FileNotFoundError, NotADirectoryError, NotFound):
                present = None
            if present != expected:
                raise Conflict(key)
            self._write(key, data)
        with suppress(OSError):
            for path in place.parent.glob(f"{_UNFINISHED}*{_UNFINISHED_END}"):
                _sweep(path)
        return True

    def _remove(self, key: Key) -> None:
        place = self._place(key)
        try:
            self._check_spelling(key)
            place.unlink()
        except (FileNotFoundError, NotADirectoryError, NotFound):
            return
        except (IsADirectoryError, PermissionError):
            if place.is_dir():  # not a key, so it is not there
                return
            raise
        sync_folder(place.parent)

    @contextmanager
    def _lock(self, place: Path) -> Iterator[bool]:
        """Hold the lock of one file against other processes and threads; say if it was free."""
        folder = Path(os.path.realpath(self._root)) / OWN_FOLDER
        folder.mkdir(exist_ok=True)
        # Few names: a lock's file stays, and a store of many takes has a manifest for each.
        name = hashlib.sha256(os.path.relpath(place, folder.parent).encode()).hexdigest()[:2]
        descriptor = os.open(
            folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
        )
        try:
            yield self._is_locked(descriptor)
        finally:
            os.close(descriptor)  # and with it the lock

    def _is_locked(self, descriptor: int) -> bool:
        """Lock an open file; False if it is another's. Where there are no locks, all may write."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            if error.errno not in _NO_LOCKS:
                raise
            if self._without_locks is None:
                self._without_locks = (
                    f"the file system of {self._root} has no locks ({error.strerror}): let only "
                    "one program at a time write to it"
                )
                _log.warning("store_without_locks", reason=self._without_locks)
        return True

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, lasting."""
        made = []
        missing = folder
        while not missing.is_dir():
            made.append(missing)
            missing = missing.parent
        folder.mkdir(parents=True, exist_ok=True)
        for child in made:
            sync_folder(child.parent)
        self._seen = True

    def _check_spelling(self, key: str, *, writing: bool = False) -> None:
        """Where case does not count, insist on the spelling of the key."""
        if self._folds_case is None:
            self._folds_case = _folds_case(self._root)
        if not self._folds_case:
            return
        folder = self._root
        for name in key.split("/"):
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            if name not in names:
                other = next((found for found in names if found.lower() == name.lower()), None)
                if other is None:
                    return
                if writing:
                    raise StoreDenied(key, f"this disk takes it for {other!r}, which is there")
                raise NotFound(key)
            folder /= name

    def _walk(self, prefix: str) -> Iterator[Entry]:
        """The entries of a listing, ascending."""
        above, _, _ = prefix.rpartition("/")
        try:
            start = self._place(above)
            self._check_spelling(above)
            yield from self._walk_folder(start, f"{above}/" if above else "", prefix, frozenset())
        except (FileNotFoundError, NotADirectoryError, NotFound):
            return

    def _walk_folder(
        self, folder: Path, before: str, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[Entry]:
        info = folder.stat()
        here = (info.st_dev, info.st_ino)
        if here in above:  # by a link to a folder that it lies in
            return
        with os.scandir(folder) as scan:
            found = sorted(scan, key=_listing_order)
        for item in found:
            key = f"{before}{item.name}"
            if item.name.startswith(_UNFINISHED):
                _sweep(folder / item.name)
            if not (key.startswith(prefix) or prefix.startswith(f"{key}/")) or not is_key(key):
                continue
            # Others delete while we walk; a link may dangle, or lead out of the store.
            with suppress(FileNotFoundError, NotADirectoryError, StoreDenied):
                place = self._linked(key) if item.is_symlink() else folder / item.name
                info = place.stat()
                if stat.S_ISDIR(info.st_mode):
                    yield from self._walk_folder(place, f"{key}/", prefix, above | {here})
                elif stat.S_ISREG(info.st_mode) and key.startswith(prefix):
                    yield Entry(Key(key), info.st_size)


class _Unfinished:
    """A write that has no name yet. All of it blocks, and is for threads, one after the other."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._place = self._path = Path()

    def begin(self, place: Path) -> None:
        """Make the hidden file beside the place where its content is to be."""
        path = place.parent / f"{_UNFINISHED}{secrets.token_hex(8)}{_UNFINISHED_END}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._place, self._path = place, path
        with suppress(OSError):  # no locks on this file system: orphans stay
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes) -> None:
        """Write on."""
        write_all(self._opened(), data)

    def copy(self, file: SourceFile, start: int, size: int) -> None:
        """Write on with a part of a file."""
        self.write(file.part(start, size))

    def finish(self) -> None:
        """Bring it to the medium, and then to its name."""
        descriptor = self._opened()
        os.fsync(descriptor)
        self._path.replace(self._place)
        self._descriptor = None
        os.close(descriptor)
        sync_folder(self._place.parent)

    def discard(self) -> None:
        """Remove it, unless it is finished or was not begun."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(descriptor)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise RuntimeError("an unfinished write is to be begun first")
        return self._descriptor


def open_address(address: str, options: StoreOptions) -> FolderStore:
    """The store in a folder: ``file:relative``, ``file:///absolute``, or a path.

    Raises:
        BadStoreAddress: it is no folder's.
    """
    path, scheme = address, SCHEME.match(address)
    if scheme is not None:
        path = unquote(address[scheme.end() :])
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            if host not in {"", "localhost"} or not slash:
                raise BadStoreAddress(
                    f"a file: address names no host, expected {SUPPORTED}; found host {host!r}"
                )
            path = f"/{rest}"
    if not path or "\0" in path:
        raise BadStoreAddress(f"expected {SUPPORTED}, found {'nothing' if not path else 'a NUL'}")
    folder = Path(path).expanduser() if path.startswith("~") else Path(path)
    follow = [options.base / Path(each).expanduser() for each in options.follow]
    return FolderStore(options.base / folder, follow=follow)


def _read_piece(key: Key, file: FileReader, start: int, size: int) -> bytes:
    try:
        return file.read(start, size)
    except FileChanged as error:  # by somebody who writes in place, which we never do
        raise Conflict(key, "changed while it was read") from error


def _listing_order(item: os.DirEntry[str]) -> str:
    """Sorts the names in one folder as their keys sort in the whole store."""
    with suppress(OSError):  # a link in a circle
        return f"{item.name}/" if item.is_dir() else item.name
    return item.name


def _sweep(unfinished: Path) -> None:
    """Remove an unfinished write if its writer is dead."""
    with suppress(OSError):
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if time.time() - os.fstat(descriptor).st_mtime > _ORPHAN_AGE:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unfinished.unlink()
        finally:
            os.close(descriptor)


def _folds_case(folder: Path) -> bool | None:
    """Whether a file system takes ``A`` and ``a`` for the same; None while there is no telling."""
    with suppress(OSError):
        for path in folder.iterdir():
            other = path.with_name(path.name.swapcase())
            if other.name != path.name:
                return other.exists() and other.samefile(path)
    return None


def _translate(error: OSError, key: str, *, writing: bool) -> NoReturn:
    """Raise the store's error for one of the operating system."""
    kind: type[StoreError]
    if not writing and error.errno in _MISSING:
        raise NotFound(key) from error
    if error.errno in _FULL:
        kind = StoreFull
    elif error.errno in _DENIED or (not writing and error.errno in _UNREADABLE):
        kind = StoreDenied
    else:
        kind = StoreUnavailable
    # A listing is asked for by a prefix, and one folder below it is the trouble.
    where = f": {error.filename}" if isinstance(error.filename, str) and not is_key(key) else ""
    raise kind(key, f"{error.strerror or error}{where}") from error
