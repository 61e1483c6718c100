"""Contents in memory, bounded in bytes (pure)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from cachetools import Cache, LRUCache

_SHARE: Final = 8
"""A content larger than this part of the bound is not kept."""


class CachedContent(NamedTuple):
    """A content, its SHA-256 in hexadecimal, and whether it is fit to be kept."""

    data: bytes
    sha256: str
    sound: bool = True


class MemoryCache(LRUCache[str, CachedContent]):
    """What was used last, by name; what is needed stays.

    Args:
        limit: bytes that the contents may take.
        needed: whether a name must stay.
    """

    def __init__(self, limit: int, needed: Callable[[str], bool]) -> None:
        super().__init__(limit, getsizeof=lambda content: len(content.data))
        self._needed = needed

    def peek(self, name: str) -> CachedContent | None:
        """A content, without counting as its use."""
        return Cache.__getitem__(self, name) if name in self else None

    def offer(self, name: str, content: CachedContent) -> None:
        """Keep a content, unless it is too large or there is no room beside what is needed."""
        if len(content.data) * _SHARE <= self.maxsize:
            with suppress(KeyError):
                self[name] = content

    def popitem(self) -> tuple[str, CachedContent]:
        """Remove what was used longest ago.

        Raises:
            KeyError: all that is there is needed.
        """
        for _ in range(len(self)):
            name, content = super().popitem()
            if not self._needed(name):
                return name, content
            self[name] = content
        raise KeyError
