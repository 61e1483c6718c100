"""Small files that are there after a power cut: the one way they are written.

A content goes to a file of its own beside its place, to the medium, and then in one step to its
name; at last the folder goes to the medium, for a name that is not there yet leads nowhere.
The file beside it has a name that nobody else chooses, not even another thread of this
process: a write that hangs may come to its end long after its successor.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
"""For what is nobody else's business: what technicians did, and what was played."""

PRIVATE_FOLDER: Final = 0o700
SHARED: Final = 0o666
"""As the process's umask says: for what was asked for at a place that somebody chose."""

_BESIDE_END: Final = ".tmp"
_RETRY: Final = 2.0
"""Seconds after which what could not be written is tried again."""

_NO_LINKS: Final = (OSError, NotImplementedError)


def write_durably(
    path: Path,
    data: bytes,
    *,
    mode: int = PRIVATE,
    previous: Path | None = None,
    make_folder: bool = True,
) -> None:
    """Replace a file, so that after a power cut it has its old content or the new one.

    Args:
        path: where.
        data: the content.
        mode: the file's permissions; the umask applies.
        previous: where the content of before is kept, on a file system that knows links.
        make_folder: whether its folder is made where it is missing, for this user alone.

    Raises:
        OSError: it could not be written; then nothing has changed.
    """
    if make_folder:
        make_private_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(6)}{_BESIDE_END}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if previous is not None:
            _keep_previous(path, previous)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, in however many pieces the system takes it.

    Raises:
        OSError: some of it may be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def remove_durably(path: Path) -> None:
    """Remove a file, so that it does not come back with a power cut.

    Raises:
        OSError: it may be there still.
    """
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder last through a power cut.

    Raises:
        OSError: they may not.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems sync folders by themselves and refuse to be asked.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Make what lies in a folder last through a power cut, before it is given its name.

    Raises:
        OSError: it may not.
    """
    for each in folder.iterdir():
        if each.is_file():
            sync_folder(each)
    sync_folder(folder)


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it, for this user alone; one that is there stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def make_private(path: Path) -> None:
    """Take a file or folder of ours from others, where an older release let them read it."""
    with suppress(OSError):
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            path.chmod(mode & 0o700)


def left_over(path: Path) -> list[Path]:
    """What writers of `path` have left beside it, killed before they were done; the newest last."""
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        for left in path.parent.glob(f".{path.name}.*{_BESIDE_END}"):
            with suppress(OSError):
                found.append((left.stat().st_mtime, left))
    return [left for _, left in sorted(found)]


def _keep_previous(path: Path, previous: Path) -> None:
    """Give the present content a second name, which costs no copy."""
    second = previous.with_name(f".{previous.name}.{secrets.token_hex(6)}{_BESIDE_END}")
    with suppress(*_NO_LINKS):
        os.link(path, second)
        second.replace(previous)


class KeptFile:
    """A small file, of which the newest content is kept; a thread of its own writes it.

    Whoever puts a content waits for nothing, or for as long as he likes: the thread goes on in
    any case, tries again what failed, and never writes an older content over a newer one, for
    there is no other writer. It is a daemon: a disk that hangs keeps no process alive.

    Args:
        path: the file.
        previous: where the content before the present one is kept; None for nowhere.
        told: called in the thread with what went wrong, and with None once it is well again.
        timer: steady seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        previous: Path | None = None,
        told: Callable[[str | None], None] = lambda _trouble: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._previous = previous
        self._told = told
        self._timer = timer
        self._changed = threading.Condition(threading.Lock())
        self._data: bytes | None = None
        self._twice = False
        self._asked = 0
        self._written = 0
        self._tried = 0
        self._asked_at: float | None = None
        self._trouble: str | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def put(self, data: bytes | None, *, twice: bool = False) -> int:
        """Have a content written.

        Args:
            data: the content; None for no file at all.
            twice: that it is not to be lost even where the medium loses the file: it is written
                over the previous content as well.

        Returns:
            The number to ask for it by.
        """
        with self._changed:
            pending = self._tried < self._asked
            self._twice = twice or (pending and self._twice)
            self._asked += 1
            self._data = data
            if self._asked_at is None:
                self._asked_at = self._timer()
            if (self._thread is None or not self._thread.is_alive()) and not self._closing:
                self._thread = threading.Thread(
                    target=self._write_on, name=f"keeps {self.path.name}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
            return self._asked

    async def kept(self, number: int, within: float) -> str | None:
        """Wait for a content, or a newer one, to be on the medium; why it is not, or None."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        entry = (number, loop, done)
        with self._changed:
            if self._tried < number:
                self._waiting.append(entry)
            else:
                done.set_result(None)
        try:
            async with asyncio.timeout(within):
                await done
        except TimeoutError:
            return f"the disk has not answered for {within:g} s"
        finally:
            with self._changed, suppress(ValueError):
                self._waiting.remove(entry)
        with self._changed:
            return None if self._written >= number else self._trouble

    def trouble(self, patience: float) -> str | None:
        """Why the newest content is not on the medium; None where it is, or may be soon.

        Args:
            patience: seconds that a write may take.
        """
        with self._changed:
            if self._written == self._asked or self._asked_at is None:
                return None
            waited = self._timer() - self._asked_at
            if self._trouble is not None:
                return self._trouble
            return f"the disk has not answered for {waited:.0f} s" if waited > patience else None

    def close(self, within: float) -> str | None:
        """Write what is left, for some seconds at most; why it could not be, or None."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(within)
        with self._changed:
            if self._written == self._asked:
                return None
            return self._trouble or f"the disk has not answered for {within:g} s"

    # What follows runs in the thread.

    def _write_on(self) -> None:
        while (job := self._next()) is not None:
            number, data, twice = job
            trouble: str | None = None
            try:
                if data is None:
                    for each in (self.path, *left_over(self.path)):
                        remove_durably(each)
                else:
                    write_durably(self.path, data, previous=self._previous)
            except OSError as error:
                trouble = error.strerror or str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next must be written
                trouble = repr(error)
            self._tell(number, trouble)
            if twice and trouble is None and data is not None and self._previous is not None:
                with suppress(OSError):
                    write_durably(self._previous, data)

    def _next(self) -> tuple[int, bytes | None, bool] | None:
        with self._changed:
            while self._tried == self._asked:
                if self._closing:
                    return None
                if self._written == self._asked:
                    self._changed.wait()
                elif not self._changed.wait(_RETRY):
                    break  # it failed, and is tried again
            return self._asked, self._data, self._twice

    def _tell(self, number: int, trouble: str | None) -> None:
        with self._changed:
            news = (trouble is None) is not (self._trouble is None)
            self._tried, self._trouble = number, trouble
            if trouble is None:
                self._written = number
                self._asked_at = None if number == self._asked else self._timer()
            heard = [entry for entry in self._waiting if entry[0] <= number]
            self._waiting = [entry for entry in self._waiting if entry[0] > number]
        if news:
            with suppress(Exception):  # who cannot be told must not end the writing
                self._told(trouble)
        for _, loop, done in heard:
            with suppress(RuntimeError):  # its loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_wake, done)


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
