"""Small pictures that weigh what the files weigh they stand for.

A rehearsal of a line moves thousands of images whose content does not matter to it, but
whose size does: held whole, they would fill the memory of a small machine.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Self

from PIL import Image

from cache.model.images import MediaType, extension_for

_SIDE = 16
"""Pixels: looked at coarsely, at an eighth, there must still be something to see."""


class StandIn(bytes):
    """A picture's bytes, and the length of another's."""

    _weight: int

    def __new__(cls, picture: bytes, weight: int) -> Self:
        """A stand-in that weighs `weight` bytes."""
        made = super().__new__(cls, picture)
        made._weight = weight
        return made

    def __len__(self) -> int:
        """Bytes of what it stands for."""
        return self._weight


@cache
def picture(media_type: MediaType) -> bytes:
    """A picture in a few hundred bytes: a corner of light."""
    image = Image.linear_gradient("L").resize((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, extension_for(media_type).replace("jpg", "jpeg"))
    return buffer.getvalue()


def stand_in(media_type: MediaType, weight: int) -> StandIn:
    """A picture that can be decoded, and weighs `weight` bytes."""
    return StandIn(picture(media_type), weight)
