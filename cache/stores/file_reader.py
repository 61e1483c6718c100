"""Reading a large file of this machine at any place, in threads that may be left alone."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from cache.stores.port import UnreadableFile


class FileChanged(OSError):
    """A file was changed in place while it was read: what came of it may be a mixture."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "changed while it was read")


class FileReader:
    """One file, held open: who removes or replaces it does not change what is read.

    Opening and reading block, and are for threads. Closing waits for nothing, not even for a
    thread that hangs in one of both: that thread closes the file as it comes out.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._opened_as = (0, 0)
        self._closed = False
        self._in_use = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: Path) -> int:
        """Open a file; how many bytes it has.

        Raises:
            OSError: it cannot be read, or is none.
        """
        with self._using():
            # Non-blocking, or a named pipe would hold this thread for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._descriptor = descriptor
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EISDIR, "is not a file")
            self._opened_as = (found.st_size, found.st_mtime_ns)
            return found.st_size

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from a place on, which the file has.

        Raises:
            OSError: they cannot be read.
            FileChanged: they are no longer those of the file that was opened.
        """
        with self._using():
            if self._descriptor is None:
                raise OSError(errno.EBADF, "was closed")
            pieces, missing = [], size
            while missing:
                piece = os.pread(self._descriptor, missing, start + size - missing)
                if not piece:
                    break
                pieces.append(piece)
                missing -= len(piece)
            now = os.fstat(self._descriptor)
            if missing or (now.st_size, now.st_mtime_ns) != self._opened_as:
                raise FileChanged
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close it, or have it closed by the thread that is reading it."""
        # In this order, and in the other in `_using`, so that one of both sees the other.
        self._closed = True
        if self._in_use.acquire(blocking=False):
            try:
                if self._descriptor is not None:
                    with suppress(OSError):  # it was only read: nothing is lost with it
                        os.close(self._descriptor)
                    self._descriptor = None
            finally:
                self._in_use.release()

    @contextmanager
    def _using(self) -> Iterator[None]:
        try:
            with self._in_use:
                yield
        finally:
            if self._closed:
                self.close()


class SourceFile(FileReader):
    """A file that is to be put into a store. What is wrong with it is not the store's trouble.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def look(self) -> int:
        """Open it; how many bytes it has.

        Raises:
            UnreadableFile: it cannot be read, or is none.
        """
        with self._told_of():
            return self.open(self._path)

    def part(self, start: int, size: int) -> bytes:
        """So many bytes from a place on, which it has.

        Raises:
            UnreadableFile: they cannot be read, or are no longer those of the file that was opened.
        """
        with self._told_of():
            return self.read(start, size)

    @contextmanager
    def _told_of(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreadableFile(self._path, error.strerror or str(error)) from error
