"""Looks at the pictures that go by while a show is rehearsed: each file once."""

from __future__ import annotations

import io
from collections import defaultdict

from PIL import Image, UnidentifiedImageError

from cache.model.images import BadImage, check_image, media_type_for
from cache.model.keys import Key, set_place
from server.rehearsal.set_findings import Flawed


class Inspector:
    """Reads the headers of pictures. What else is wrong with them, those who play them find."""

    def __init__(self) -> None:
        self._seen: set[Key] = set()
        self._sizes: dict[tuple[str, int], dict[tuple[int, int], str]] = defaultdict(dict)
        self._flawed: list[Flawed] = []

    def look(self, key: Key, data: bytes) -> None:
        """Look at a file of a set that is about to be shown."""
        place = set_place(key)
        if place is None or key in self._seen or media_type_for(key) is None:
            return
        self._seen.add(key)
        name = key.rpartition("/")[2]
        try:
            check_image(data, name)
        except BadImage:
            return  # those who play it say so
        try:
            with Image.open(io.BytesIO(data)) as image:
                size = image.size
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            reason = f"{name} cannot be decoded: {error}"
            self._flawed.append(Flawed(place.action_id, place.set_id, "undecodable", reason))
            return
        self._sizes[place.action_id, place.set_id].setdefault(size, name)

    def flawed(self) -> list[Flawed]:
        """What was wrong with what went by."""
        mixed = [
            Flawed(action_id, number, "mixed_sizes", _mixed(sizes))
            for (action_id, number), sizes in self._sizes.items()
            if len(sizes) > 1
        ]
        return [*self._flawed, *mixed]


def _mixed(sizes: dict[tuple[int, int], str]) -> str:
    shown = ", ".join(f"{name} {width} x {height}" for (width, height), name in sizes.items())
    return f"expected images of one size, found {shown}"
