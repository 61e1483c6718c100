"""What the metas that were seen tell of their sets' files (pure)."""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

from cache.model.documents import FormatError
from cache.model.formats import FileFacts, parse_meta
from cache.model.keys import META_NAME, set_place

_METAS: Final = 1024
"""Of how many sets something is remembered."""


class KnownMetas:
    """Sizes and hashes of images, from the last metas that passed by."""

    def __init__(self) -> None:
        self._sets: LRUCache[tuple[str, int], dict[str, FileFacts]] = LRUCache(_METAS)

    def learn(self, name: str, data: bytes) -> bool:
        """Note what a content tells, if it is a meta; false if it is one and unusable."""
        place = set_place(name)
        if place is None or place.name != META_NAME:
            return True
        try:
            meta = parse_meta(data, name)
        except FormatError:
            return False
        self._sets[place.action_id, place.set_id] = meta.files
        return True

    def know(self, action_id: str, set_id: int) -> bool:
        """Whether the meta of a set was seen."""
        return (action_id, set_id) in self._sets

    def allow(self, name: str, size: int, sha256: str) -> bool:
        """Whether a content may be the one that its set's meta tells of, as far as known."""
        place = set_place(name)
        if place is None:
            return True
        facts = self._sets.get((place.action_id, place.set_id), {}).get(place.name)
        return facts is None or (facts.size in {None, size} and facts.sha256 in {None, sha256})
