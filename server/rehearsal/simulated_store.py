"""A store behind a line of known breadth, in virtual time: what comes of it, and when.

Documents are the store's own. Images are simulated: small ones that weigh what the real ones
weigh, as thousands of them, held whole, would fill the memory of a small machine.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Self

from PIL import Image

from cache.model.documents import FormatError, read_object, write_object
from cache.model.images import MediaType, extension_for, media_type_for
from cache.model.keys import META_NAME, Key, set_place
from cache.stores.port import Entry, NotFound, StoreUnavailable, pieces_of
from server.core.clock import Clock
from server.diagnostics.facts import FetchedFile
from server.supply.inventory import StoreInventory

_SIDE = 16
"""Pixels: looked at coarsely, at an eighth, there must still be something to see."""


class SimulatedImage(bytes):
    """A picture's bytes, and the length of another's."""

    _weight: int

    def __new__(cls, picture: bytes, weight: int) -> Self:
        """An image that weighs `weight` bytes."""
        made = super().__new__(cls, picture)
        made._weight = weight
        return made

    def __len__(self) -> int:
        """Bytes of what it stands for."""
        return self._weight


@cache
def small_image(media_type: MediaType) -> bytes:
    """A picture in a few hundred bytes: a corner of light."""
    image = Image.linear_gradient("L").resize((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, extension_for(media_type).replace("jpg", "jpeg"))
    return buffer.getvalue()


@dataclass
class SimulatedLine:
    """What the line is like.

    Attributes:
        bytes_per_second: that it carries; 0 for any.
        latency: seconds before the first byte of each answer.
        open: whether it costs nothing for now: what is on this machine already comes this way.
        silent: in words, why the store does not answer at all; None if it does.
    """

    bytes_per_second: float
    latency: float
    open: bool = True
    silent: str | None = None
    came: list[FetchedFile] = field(default_factory=list)
    _free_at: float = 0.0

    async def carry(self, key: Key, size: int, clock: Clock) -> None:
        """Wait until so many bytes have come; what was asked first comes first.

        Raises:
            StoreUnavailable: the store is silent.
        """
        if self.open:
            return
        asked_at = clock.now()
        begins = max(asked_at + self.latency, self._free_at)
        if self.silent is not None:
            await clock.sleep_until(asked_at + self.latency)
            raise StoreUnavailable(key, self.silent)
        self._free_at = begins + (size / self.bytes_per_second if self.bytes_per_second else 0.0)
        await clock.sleep_until(self._free_at)
        self.came.append(FetchedFile(key, asked_at, self._free_at, size))


@dataclass(eq=False)
class SimulatedStore:
    """The store at the other end of a line: a `ReadableStore`.

    Args:
        inventory: what lies in it.
        line: how it is reached.
        clock: the time.
        lost: whether a file is to be missing though it is there.
    """

    inventory: StoreInventory
    line: SimulatedLine
    clock: Clock
    lost: Callable[[Key], bool]
    url: ClassVar[str] = "the store"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """There is nothing to let go of."""

    async def get(self, key: Key) -> bytes:
        """See `ReadableStore.get`."""
        data = self._content(key)
        await self.line.carry(key, 0 if data is None else len(data), self.clock)
        if data is None:
            raise NotFound(key)
        return data

    async def size(self, key: Key) -> int:
        """See `ReadableStore.size`."""
        await self.line.carry(key, 0, self.clock)
        data = self._content(key)
        if data is None:
            raise NotFound(key)
        return len(data)

    async def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `ReadableStore.stream`; of a simulated image, its small picture's bytes."""
        for piece in pieces_of(bytes(memoryview(await self.get(key))), start, stop):
            yield piece

    async def link(self, key: Key, good_for: float) -> None:
        """See `ReadableStore.link`: there are none."""

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `ReadableStore.list`."""
        await self.line.carry(Key(prefix), 0, self.clock)
        for key in sorted(self.inventory.sizes):
            if key.startswith(prefix) and not self.lost(key):
                yield Entry(key, self.inventory.sizes[key])

    def _content(self, key: Key) -> bytes | None:
        if self.lost(key):
            return None
        document = self.inventory.documents.get(key)
        if document is not None:
            return without_hashes(document) if key.endswith(f"/{META_NAME}") else document
        size, media_type = self.inventory.sizes.get(key), media_type_for(key)
        if size is None or media_type is None or set_place(key) is None:
            return None
        return SimulatedImage(small_image(media_type), size)


def without_hashes(meta: bytes) -> bytes:
    """A meta that simulated images agree with: it tells what files weigh, not what is in them."""
    try:
        document, _ = read_object(meta, META_NAME)
    except FormatError:
        return meta
    files = document.get("files")
    if not isinstance(files, dict):
        return meta
    for facts in files.values():
        if isinstance(facts, dict):
            facts.pop("sha256", None)
    return write_object(document, META_NAME)
