"""A store behind a line of known breadth, in virtual time: what comes of it, and when.

Documents are the store's own; pictures are stand-ins that weigh what the pictures weigh.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import NoReturn, Self

from cache.model.documents import FormatError, read_object, write_object
from cache.model.images import media_type_for
from cache.model.keys import META_NAME, Key, set_place
from cache.stores.port import Entry, NotFound, StoreDenied, StoreUnavailable, Version, Versioned
from server.clock import Clock
from server.rehearsal.catalogue import Catalogue
from server.rehearsal.standin import stand_in


@dataclass(frozen=True, slots=True)
class Came:
    """One file that came over the line; steady times."""

    key: Key
    asked_at: float
    here_at: float
    size: int


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
    came: list[Came] = field(default_factory=list)
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
        self.came.append(Came(key, asked_at, self._free_at, size))


class LineStore:
    """The store at the other end of a line. It is never written to.

    Args:
        url: what the real one is called.
        catalogue: what lies in it.
        line: how it is reached.
        clock: the time.
        lost: whether a file is to be missing though it is there.
    """

    def __init__(
        self,
        url: str,
        catalogue: Catalogue,
        line: SimulatedLine,
        clock: Clock,
        lost: Callable[[Key], bool] = lambda _key: False,
    ) -> None:
        self._url = url
        self._catalogue = catalogue
        self._line = line
        self._clock = clock
        self._lost = lost

    @property
    def url(self) -> str:
        """Where the real one is."""
        return self._url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """There is nothing to let go of."""

    async def get(self, key: Key) -> bytes:
        """See `Store.get`."""
        data = self._content(key)
        await self._line.carry(key, 0 if data is None else len(data), self._clock)
        if data is None:
            raise NotFound(key)
        return data

    async def get_versioned(self, key: Key) -> Versioned:
        """See `Store.get_versioned`; nobody changes anything here."""
        return Versioned(await self.get(key), Version("rehearsal"))

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `Store.list`."""
        await self._line.carry(Key(prefix), 0, self._clock)
        for key in sorted(self._catalogue.sizes):
            if key.startswith(prefix) and not self._lost(key):
                yield Entry(key, self._catalogue.sizes[key])

    async def put(self, key: Key, data: bytes) -> None:
        """Refused."""
        del data
        _refuse(key)

    async def replace(self, key: Key, data: bytes, *, expected: Version | None) -> Version:
        """Refused."""
        del data, expected
        _refuse(key)

    async def delete(self, key: Key) -> None:
        """Refused."""
        _refuse(key)

    def _content(self, key: Key) -> bytes | None:
        if self._lost(key):
            return None
        document = self._catalogue.documents.get(key)
        if document is not None:
            return without_hashes(document) if key.endswith(f"/{META_NAME}") else document
        size, media_type = self._catalogue.sizes.get(key), media_type_for(key)
        if size is None or media_type is None or set_place(key) is None:
            return None
        return stand_in(media_type, size)


def _refuse(key: Key) -> NoReturn:
    raise StoreDenied(key, "a rehearsal writes nothing")


def without_hashes(meta: bytes) -> bytes:
    """A meta that stand-ins agree with: it tells what its files weigh, not what is in them."""
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
