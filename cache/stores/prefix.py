"""A part of a store, taken for a store of its own: all that lies below one prefix."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Self

from cache.model.keys import Key, parse_key, parse_prefix
from cache.stores.port import Entry, Store, StoreError, Version, Versioned


class PrefixStore:
    """The store that lies below a prefix of another.

    Args:
        store: the whole; entered and left by its owner.
        prefix: what the keys of the part begin with, the last ``/`` included.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = parse_prefix(prefix)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self._store.url.rstrip('/')}/{self._prefix}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def get(self, key: Key) -> bytes:
        """See `Store.get`."""
        with self._asked_for(key) as within:
            return await self._store.get(within)

    async def put(self, key: Key, data: bytes) -> None:
        """See `Store.put`."""
        with self._asked_for(key) as within:
            await self._store.put(within, data)

    async def put_file(self, key: Key, path: Path) -> None:
        """See `Store.put_file`."""
        with self._asked_for(key) as within:
            await self._store.put_file(within, path)

    async def size(self, key: Key) -> int:
        """See `Store.size`."""
        with self._asked_for(key) as within:
            return await self._store.size(within)

    async def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Store.stream`."""
        with self._asked_for(key) as within:
            async with aclosing(self._store.stream(within, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def link(self, key: Key, good_for: float) -> str | None:
        """See `Store.link`."""
        with self._asked_for(key) as within:
            return await self._store.link(within, good_for)

    async def get_versioned(self, key: Key) -> Versioned:
        """See `Store.get_versioned`."""
        with self._asked_for(key) as within:
            return await self._store.get_versioned(within)

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        """See `Store.replace`."""
        with self._asked_for(key) as within:
            return await self._store.replace(within, data, expected=expected)

    async def delete(self, key: Key) -> None:
        """See `Store.delete`."""
        with self._asked_for(key) as within:
            await self._store.delete(within)

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `Store.list`."""
        async for entry in self._store.list(f"{self._prefix}{parse_prefix(prefix)}"):
            yield Entry(Key(entry.key.removeprefix(self._prefix)), entry.size)

    @contextmanager
    def _asked_for(self, key: Key) -> Iterator[Key]:
        """The key in the whole; what goes wrong with it is told of the key that was asked for."""
        within = parse_key(f"{self._prefix}{parse_key(key)}")
        try:
            yield within
        except StoreError as error:
            error.key = key
            raise
