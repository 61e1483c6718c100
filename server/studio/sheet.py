"""The owner of the cue sheet on the disk: reads it, writes it whole or not at all, takes it back.

Whoever writes says which version his own was made of. Was the sheet changed meanwhile, by another
page or in an editor, nothing is written, and both are told of both.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import anyio

from cache.durable import left_over, remove_durably, write_durably
from cache.threads import read_in_thread, write_in_thread
from generator.sheet.cues import CueProblem, CueSheet, CueSheetError
from server.studio.sheet_history import KeptVersion, SheetHistory, etag_of_sheet

T = TypeVar("T")

MAX_SHEET: Final = 4 * 2**20
"""Bytes of a sheet."""

ANY: Final = "*"
"""In place of an ETag: whatever the sheet is now."""

_PATIENCE: Final = 10.0
"""Seconds to wait for another process that is writing the sheet."""

_PAUSE: Final = 0.02
_READERS: Final = 4
_WRITABLE: Final = 0o222
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

ReadSheet = Callable[[bytes], CueSheet]
"""Reads a sheet; raises `CueSheetError` with all that is wrong with it."""

MakeSheet = Callable[["SheetVersion"], bytes]
"""Makes a new sheet of the present one."""


@dataclass(frozen=True, slots=True)
class SheetVersion:
    """A sheet as it was at some time.

    Attributes:
        data: its bytes.
        etag: the SHA-256 of them.
    """

    data: bytes = field(repr=False)
    etag: str

    @classmethod
    def of(cls, data: bytes) -> SheetVersion:
        """The version that has these bytes."""
        return cls(data, etag_of_sheet(data))

    @property
    def text(self) -> str:
        """As it may be shown; what is no UTF-8 in it is replaced."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class SheetChange:
    """What a change made of the sheet; of a dry run, what it would have made.

    Attributes:
        before, after: the sheet.
        sheet: what is in `after`.
    """

    before: SheetVersion
    after: SheetVersion
    sheet: CueSheet


@dataclass(frozen=True, slots=True)
class PastVersion:
    """A version that is kept, as it is told of.

    Attributes:
        etag: the SHA-256 of its bytes.
        since: Unix time at which it was kept.
        present: whether the sheet is that one now.
    """

    etag: str
    since: float
    present: bool


class SheetConflict(Exception):
    """The sheet is another than whoever changes it believes.

    Attributes:
        base: what the change was made of, where that is kept.
        mine: what the sheet would have become, where that can be told.
        theirs: what the sheet is.
    """

    def __init__(
        self, base: SheetVersion | None, mine: SheetVersion | None, theirs: SheetVersion
    ) -> None:
        super().__init__("the cue sheet was changed meanwhile; nothing is written")
        self.base = base
        self.mine = mine
        self.theirs = theirs


class NothingToUndo(Exception):
    """The sheet is the oldest version of it that is kept."""


class SheetUnusable(Exception):
    """The file cannot be read or written now; the message says why, and nothing is changed.

    Attributes:
        full: whether it is for want of room on the disk.
    """

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class SheetNotPlayable(Exception):
    """The sheet could not be played as it would be; nothing is written.

    Attributes:
        version: what it would be.
        problems: everything that is wrong with it.
    """

    def __init__(self, version: SheetVersion, problems: Sequence[CueProblem]) -> None:
        super().__init__(f"{problems[0]}")
        self.version = version
        self.problems = tuple(problems)


class SheetTooLarge(Exception):
    """The sheet would have more than `MAX_SHEET` bytes."""


class SheetFile:
    """The cue sheet of a show, for those of one Studio that read and write it.

    Writers come one after the other, those of other processes on this machine as well.

    Args:
        path: the sheet.
        versions: the folder in which its versions are kept.
        check: reads a sheet; what it refuses is never written.
        timer: steady seconds.
        sleep: waits for so many seconds, in a thread.
    """

    def __init__(
        self,
        path: Path,
        versions: Path,
        check: ReadSheet,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._history = SheetHistory(versions)
        self._check = check
        self._timer = timer
        self._sleep = sleep
        self._one_writes = anyio.CapacityLimiter(1)
        self._some_read = anyio.CapacityLimiter(_READERS)

    async def read(self) -> SheetVersion:
        """The sheet as it is now.

        Raises:
            SheetUnusable: it cannot be read.
        """
        return await self._reading(lambda: SheetVersion.of(self.path.read_bytes()), self._some_read)

    async def stamp(self) -> tuple[int, ...]:
        """What is another one after each change of the file; asked without reading the file.

        Raises:
            SheetUnusable: there is no such file.
        """
        return await self._reading(lambda: _stamp(self.path.stat()), self._some_read)

    async def versions(self) -> list[PastVersion]:
        """The versions that are kept, the newest first.

        Raises:
            SheetUnusable: they cannot be read.
        """
        return await self._reading(self._versions, self._one_writes)

    async def change(
        self, make: MakeSheet, if_match: Sequence[str], *, dry_run: bool = False
    ) -> SheetChange:
        """Make another sheet of the one that there is.

        Args:
            make: makes it; what it raises is raised here. Its argument is the sheet that was
                named, so it may be asked once more, for what is told of a conflict.
            if_match: ETags, one of which the sheet must have now; see `ANY`.
            dry_run: whether nothing is written.

        Raises:
            SheetConflict: it has none of them.
            SheetNotPlayable: with everything that is wrong with what `make` made.
            SheetTooLarge: it is too large.
            SheetUnusable: the file cannot be read or written.
        """
        return await self._writing(lambda: self._change(make, if_match, dry_run=dry_run))

    async def undo(self, if_match: Sequence[str] = (ANY,), *, dry_run: bool = False) -> SheetChange:
        """Have the sheet be what it was before its last change; again, before the one before.

        Raises:
            SheetConflict: it is none of `if_match`, or was changed by somebody else.
            NothingToUndo: nothing is kept that it was before.
            SheetNotPlayable: what it was before could not be played now.
            SheetUnusable: the file cannot be read or written.
        """
        return await self._writing(lambda: self._undo(if_match, dry_run=dry_run))

    # What follows runs in threads.

    def _versions(self) -> list[PastVersion]:
        present = self._history.present(SheetVersion.of(self.path.read_bytes()).etag)
        return [
            PastVersion(each.etag, each.file.stat().st_mtime, each == present)
            for each in reversed(self._history.versions())
        ]

    def _change(self, make: MakeSheet, if_match: Sequence[str], *, dry_run: bool) -> SheetChange:
        with self._alone(dry_run=dry_run) as before:
            if not _matches(before, if_match):
                raise self._conflict(before, if_match, make)
            after = SheetVersion.of(make(before))
            change = SheetChange(before, after, self._checked(after))
            if not dry_run and after.etag != before.etag:
                source = self._known(before)
                self._move(source, self._history.keep(after.data, source), after)
            return change

    def _undo(self, if_match: Sequence[str], *, dry_run: bool) -> SheetChange:
        with self._alone(dry_run=dry_run) as before:
            present, last = self._history.present(before.etag), self._history.last()
            if not _matches(before, if_match) or (present is None and last is not None):
                # Undone would be what somebody else has made, whom nobody has asked.
                raise self._undo_conflict(before, last)
            target = None if present is None else self._history.before(present)
            data = None if target is None else self._history.read(target)
            if present is None or target is None or data is None:
                raise NothingToUndo("nothing is kept that the cue sheet was before")
            after = SheetVersion.of(data)
            change = SheetChange(before, after, self._checked(after))
            if not dry_run:
                self._move(present, target, after)
            return change

    def _checked(self, version: SheetVersion) -> CueSheet:
        if len(version.data) > MAX_SHEET:
            raise SheetTooLarge(f"a cue sheet may have {MAX_SHEET} bytes, not {len(version.data)}")
        try:
            return self._check(version.data)
        except CueSheetError as error:
            raise SheetNotPlayable(version, error.problems) from error

    def _known(self, before: SheetVersion) -> KeptVersion:
        """The version that the sheet is; kept now, where somebody else has written it."""
        present = self._history.present(before.etag)
        return present or self._history.keep(before.data, self._history.last())

    def _move(self, source: KeptVersion, target: KeptVersion, after: SheetVersion) -> None:
        # In this order: killed after any of them, the sheet is whole, and `SheetHistory.present`
        # knows whether it is the old one or the new one.
        self._history.move(source, target)
        place = self.path.resolve()  # of a link, what it leads to is written
        mode = place.stat().st_mode & 0o777
        write_durably(place, after.data, mode=mode, make_folder=False)
        with suppress(OSError):  # the umask may have taken something of it
            place.chmod(mode)
        self._history.prune()

    def _conflict(
        self, before: SheetVersion, if_match: Sequence[str], make: MakeSheet
    ) -> SheetConflict:
        base = next((found for etag in if_match if (found := self._kept(etag)) is not None), None)
        mine = None
        if base is not None:
            with suppress(Exception):  # of what cannot be made, nothing can be told
                mine = SheetVersion.of(make(base))
        return SheetConflict(base, mine, before)

    def _undo_conflict(self, before: SheetVersion, last: KeptVersion | None) -> SheetConflict:
        target = None if last is None else self._history.before(last)
        base, mine = (None if each is None else self._kept(each.etag) for each in (last, target))
        return SheetConflict(base, mine, before)

    def _kept(self, etag: str) -> SheetVersion | None:
        data = self._history.find(etag)
        return None if data is None else SheetVersion(data, etag)

    @contextmanager
    def _alone(self, *, dry_run: bool) -> Iterator[SheetVersion]:
        """The sheet as it is, while nobody else writes it.

        The lock is on the folder: on the sheet itself it would be on a file that the next version
        takes the place of, and a file beside it would lie about in the artist's folder.
        """
        folder = self.path.resolve().parent
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not dry_run:
                self._lock(descriptor)
                self._refuse_what_is_read_only()
                for left in left_over(self.path.resolve()):  # of a writer that was killed
                    remove_durably(left)
            yield SheetVersion.of(self.path.read_bytes())
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        until = self._timer() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._timer() > until:
                    text = f"{self.path}: another process has been writing it for {_PATIENCE:g} s"
                    raise SheetUnusable(text) from None
                self._sleep(_PAUSE)
            else:
                return

    def _refuse_what_is_read_only(self) -> None:
        # A file that nobody may write could still be replaced; that is not what was meant by it.
        if not self.path.stat().st_mode & _WRITABLE:
            raise SheetUnusable(f"{self.path}: it is read-only; chmod u+w lets it be written")

    async def _reading(self, work: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        try:
            return await read_in_thread(work, limiter)
        except OSError as error:
            raise self._unusable(error) from error

    async def _writing(self, work: Callable[[], T]) -> T:
        try:
            return await write_in_thread(work, self._one_writes)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> SheetUnusable:
        where = error.filename or self.path
        reason = error.strerror or str(error)
        text = f"{self.path}: the cue sheet cannot be used: {where}: {reason}"
        return SheetUnusable(text, full=error.errno in _FULL)


def _matches(version: SheetVersion, if_match: Sequence[str]) -> bool:
    return version.etag in if_match or ANY in if_match


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
