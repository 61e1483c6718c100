"""The ports to where sets are kept, and their errors.

StoreError
  NotFound            nothing has that key
  Conflict            `replace` found another version than expected
  StoreUnavailable    it does not answer now; trying again later may help
  StoreDenied         it refuses, and will again: rights, a read-only medium, a link out of the
                      folder; or the medium cannot read this key. Other keys may be none the worse
  StoreFull           no room left
  StoreCorrupt        it answered with something other than what was written

`BadKey`, of the keys module, is not among them: it is the caller's mistake, not the store's. Nor
is `UnreadableFile`: a file of this machine that was to be put cannot be read.

A contract suite, `tests/contracts/store_contract.py`, runs over every implementation.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Final, NamedTuple, NewType, Protocol, Self, runtime_checkable

from cache.model.keys import Key

Version = NewType("Version", str)
"""Stands for one content of one key. Opaque: compare it for equality only."""

PIECE: Final = 256 * 1024
"""Bytes. A stream hands out no larger piece."""


class StoreError(Exception):
    """A store could not do what it was asked; the tree is drawn above.

    Attributes:
        key: what was asked for: a key, or the prefix of a listing.
        reason: why not, in words.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.reason = message


class NotFound(StoreError):
    """Nothing has that key."""

    def __init__(self, key: str, message: str = "not in the store") -> None:
        super().__init__(key, message)


class Conflict(StoreError):
    """Another writer was first: the version in the store is not the one expected."""

    def __init__(self, key: str, message: str = "changed by another writer meanwhile") -> None:
        super().__init__(key, message)


class StoreUnavailable(StoreError):
    """The store does not answer now. Trying again later may help."""


class StoreDenied(StoreError):
    """The store refuses, and will refuse again: rights, a read-only medium, a link outside.

    Raised for a key that is read, it is that key's trouble: others may well be readable.
    """


class StoreFull(StoreError):
    """The store has no room left."""


class StoreCorrupt(StoreError):
    """The store answered with something other than what was written."""


class UnreadableFile(Exception):
    """A file that was to be put into a store cannot be read, or was changed meanwhile.

    Attributes:
        path: the file.
        reason: why not, in words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Versioned(NamedTuple):
    """A content, and the version that stands for it."""

    data: bytes
    version: Version


class Entry(NamedTuple):
    """One line of a listing. `size` is in bytes."""

    key: Key
    size: int


class ReadableStore(Protocol):
    """Hands out bytes by key. To be entered before use; leaving it closes connections.

    All methods may raise `StoreUnavailable` and `StoreDenied`, and `BadKey` for keys that
    `parse_key` never saw.
    """

    @property
    def url(self) -> str:
        """Where it is, for people: without passwords or keys."""
        ...

    async def __aenter__(self) -> Self:
        """Make ready. What cannot be reached may show only with the first request."""
        ...

    async def __aexit__(self, *exc_info: object) -> None:
        """Let go of connections and threads."""
        ...

    async def get(self, key: Key) -> bytes:
        """The content of a key.

        Raises:
            NotFound: there is none.
        """
        ...

    async def size(self, key: Key) -> int:
        """How many bytes a key has; its content is not read for it.

        Raises:
            NotFound: there is none.
        """
        ...

    def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of a key, or a part of it, in pieces: for what is too large to be held.

        To be used with `contextlib.aclosing`, and may be left at any time. However slowly it is
        read, it takes no connection from others meanwhile.

        Args:
            key: which.
            start: the first byte, counted from 0; behind the last there is nothing.
            stop: the byte before which it ends; None, or more than there are, for the end.

        Yields:
            At most `PIECE` bytes, and at least one.

        Raises:
            NotFound: there is none; told before the first piece.
            Conflict: it was changed or removed while it was read, and the new content is not to
                be mixed with the old. Reading it anew helps.
        """
        ...

    async def link(self, key: Key, good_for: float) -> str | None:
        """An address at which anybody may read a key without us, for a while.

        It is as secret as what it opens, and is to be logged nowhere. That there is such a key is
        not looked at.

        Args:
            key: which.
            good_for: seconds; a week at most. It may be over earlier, with the credentials.

        Returns:
            None where the store has no such addresses.
        """
        ...

    def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """All keys that begin with a prefix, ascending, while others may be writing.

        Keys there throughout are listed; one that comes or goes meanwhile may be or not.
        What is no key (hidden files, unfinished writes) is left out.

        Args:
            prefix: text that the keys begin with, as in S3: ``actions/prompt_00`` finds
                ``actions/prompt_001/config.json``. Empty for all.
        """
        ...


class Store(ReadableStore, Protocol):
    """Keeps bytes under keys.

    Whatever is cancelled or killed, each key holds a whole content: the one before, or the
    new one. A write that was cancelled may have taken place.

    A key that is written by `replace` should be written by nothing else: `put` and `delete`
    ask for no version, so they may undo a `replace` that happens at the same time.
    """

    async def put(self, key: Key, data: bytes) -> None:
        """Write a key, whatever was there. It is on the medium when this returns.

        Raises:
            StoreFull: no room; what was there before still is.
        """
        ...

    async def put_file(self, key: Key, path: Path) -> None:
        """Write a key from a file of this machine, however large; else as `put`.

        Raises:
            UnreadableFile: the file is missing, or was changed meanwhile.
            StoreFull: no room; what was there before still is.
        """
        ...

    async def get_versioned(self, key: Key) -> Versioned:
        """The content of a key, with the version that `replace` wants.

        Raises:
            NotFound: there is none.
        """
        ...

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        """Write a key if its content is still the expected one (compare-and-swap).

        Args:
            key: where.
            data: the new content.
            expected: the version it must have now; None if it must not exist.

        Returns:
            The version of the new content.

        Raises:
            Conflict: it has another version, or exists, or no longer exists.
            StoreFull: no room.
        """
        ...

    async def delete(self, key: Key) -> None:
        """Remove a key; one that is not there is fine."""
        ...


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that has one address on every machine: a bucket, and no folder."""

    @property
    def address(self) -> str:
        """``https://host/bucket/prefix``, without passwords or keys; equal for the same store."""
        ...


def content_version(data: bytes) -> Version:
    """A version for stores that have none of their own: a hash of the content."""
    return Version(hashlib.sha256(data).hexdigest())


def pieces_of(data: bytes, start: int, stop: int | None) -> Iterator[bytes]:
    """What `ReadableStore.stream` yields of a content that is in memory as it is."""
    end = len(data) if stop is None else min(stop, len(data))
    return (data[at : min(at + PIECE, end)] for at in range(start, end, PIECE))
