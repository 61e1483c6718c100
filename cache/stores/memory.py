"""A store in memory, for tests, with ways to make it slow, failing or silent."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal, Self

from cache.model.keys import Key, parse_key, parse_prefix
from cache.stores.file_reader import SourceFile
from cache.stores.port import (
    Conflict,
    Entry,
    NotFound,
    StoreError,
    Version,
    Versioned,
    content_version,
    pieces_of,
)

Operation = Literal["get", "put", "replace", "delete", "list", "size", "stream", "put_file"]


class MemoryStore:
    """A store in memory, for tests, with ways to make it slow, failing or silent.

    Attributes:
        contents: what it keeps; tests may look and tamper.
        latency: seconds that each request takes.
        bytes_per_second: what the line to it carries, all requests together; 0 for any.
        answering: while cleared, requests are accepted and never answered.
        calls: how often each operation was asked for.
    """

    def __init__(
        self,
        contents: Mapping[str, bytes] | None = None,
        *,
        latency: float = 0.0,
        bytes_per_second: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Begin answering, at once or slowly.

        Args:
            contents: what it holds to begin with.
            latency: seconds that each request takes.
            bytes_per_second: what the line to it carries towards us; 0 for any.
            sleep: how it waits for them; of a virtual clock, perhaps.
        """
        self.contents: dict[Key, bytes] = {
            parse_key(key): bytes(data) for key, data in (contents or {}).items()
        }
        self.latency = latency
        self.bytes_per_second = bytes_per_second
        self.answering = asyncio.Event()
        self.answering.set()
        self.calls: Counter[Operation] = Counter()
        self._sleep = sleep
        self._failures: dict[Operation | None, deque[StoreError]] = {}
        self._line = asyncio.Lock()

    @property
    def url(self) -> str:
        """Always ``memory:``."""
        return "memory:"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def fail_next(self, *errors: StoreError, on: Operation | None = None) -> None:
        """Raise these errors, one per request, in the next requests.

        Args:
            errors: what to raise, in order.
            on: count and fail only requests of this kind; any kind by default.
        """
        self._failures.setdefault(on, deque()).extend(errors)

    async def get(self, key: Key) -> bytes:
        """See `Store.get`."""
        return (await self.get_versioned(key)).data

    async def get_versioned(self, key: Key) -> Versioned:
        """See `Store.get_versioned`."""
        parse_key(key)
        await self._request("get")
        data = self._content(key)
        await self._carry(len(data))
        return Versioned(data, content_version(data))

    async def size(self, key: Key) -> int:
        """See `Store.size`."""
        parse_key(key)
        await self._request("size")
        return len(self._content(key))

    async def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Store.stream`."""
        parse_key(key)
        await self._request("stream")
        data = self._content(key)  # whatever is put meanwhile, these bytes stay as they are
        for piece in pieces_of(data, start, stop):
            await self._carry(len(piece))
            yield piece

    async def link(self, key: Key, good_for: float) -> None:  # noqa: ARG002 - the port has it; there is nothing to be good for so long
        """See `Store.link`: there are none."""
        parse_key(key)

    async def put(self, key: Key, data: bytes) -> None:
        """See `Store.put`."""
        parse_key(key)
        await self._request("put")
        self.contents[key] = bytes(data)

    async def put_file(self, key: Key, path: Path) -> None:
        """See `Store.put_file`."""
        parse_key(key)
        await self._request("put_file")
        with SourceFile(path) as file:
            self.contents[key] = await asyncio.to_thread(lambda: file.part(0, file.look()))

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        """See `Store.replace`."""
        parse_key(key)
        await self._request("replace")
        present = self.contents.get(key)
        if (None if present is None else content_version(present)) != expected:
            raise Conflict(key)
        self.contents[key] = bytes(data)
        return content_version(data)

    async def delete(self, key: Key) -> None:
        """See `Store.delete`."""
        parse_key(key)
        await self._request("delete")
        self.contents.pop(key, None)

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `Store.list`."""
        parse_prefix(prefix)
        await self._request("list")
        for key in sorted(self.contents):
            data = self.contents.get(key)
            if key.startswith(prefix) and data is not None:
                yield Entry(key, len(data))

    def _content(self, key: Key) -> bytes:
        data = self.contents.get(key)
        if data is None:
            raise NotFound(key)
        return data

    async def _carry(self, size: int) -> None:
        if self.bytes_per_second:
            async with self._line:
                await self._sleep(size / self.bytes_per_second)

    async def _request(self, operation: Operation) -> None:
        self.calls[operation] += 1
        # Even at no latency others must get their turn, as they would with a real store.
        await self._sleep(self.latency)
        await self.answering.wait()
        for failures in (self._failures.get(operation), self._failures.get(None)):
            if failures:
                raise failures.popleft()
