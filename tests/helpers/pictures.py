"""Small pictures that can be told apart, by pixels and not only by bytes."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 160, 96
_BLOCK = 16
_LONGEST_SEGMENT = 65_533

Pixels = npt.NDArray[np.float32]


@lru_cache(maxsize=4096)
def picture(label: str, size: int = 0) -> bytes:
    """A JPEG of coloured squares, another for each label.

    Args:
        label: what it is a picture of.
        size: bytes that it is padded to, incompressibly; 0 leaves it as small as it comes.
    """
    rng = np.random.default_rng(list(label.encode()))
    blocks = rng.integers(0, 256, (HEIGHT // _BLOCK, WIDTH // _BLOCK, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    big = Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    big.save(buffer, "JPEG", quality=92)
    return _padded(buffer.getvalue(), size, rng)


def _padded(jpeg: bytes, size: int, rng: np.random.Generator) -> bytes:
    """Comment segments behind the start marker: as whole a JPEG as before, only longer."""
    head, rest = jpeg[:2], jpeg[2:]
    comments: list[bytes] = []
    missing = size - len(jpeg)
    while missing >= 4:
        length = min(missing - 4, _LONGEST_SEGMENT - 2)
        comments.append(struct.pack(">BBH", 0xFF, 0xFE, length + 2) + rng.bytes(length))
        missing -= length + 4
    return b"".join((head, *comments, rest))


def pixels(image: bytes) -> Pixels:
    """Decoded RGB, shape (height, width, 3)."""
    with Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.float32)


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in codes; 255 where the shapes differ."""
    return float(np.abs(one - other).mean()) if one.shape == other.shape else 255.0
