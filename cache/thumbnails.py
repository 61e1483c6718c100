"""Small pictures of pictures: what an eye needs to recognise one (pure)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from cache.model.images import MAX_PIXELS, UNDECODABLE, BadImage, MediaType, on_black

MEDIA_TYPE: Final[MediaType] = "image/webp"
"""At this size a JPEG's tables alone are a third of it; WebP takes half as many bytes."""

_QUALITY: Final = 66
_EFFORT: Final = 4


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture.

    Attributes:
        data: of `MEDIA_TYPE`.
        width: pixels.
        height: pixels.
    """

    data: bytes
    width: int
    height: int


def thumbnail(data: bytes, name: str = "", *, width: int) -> Thumbnail:
    """Make an image small. Takes some 3 ms for a megapixel of JPEG.

    Args:
        data: the encoded image.
        name: its file name, for messages.
        width: pixels at most; a smaller image is not blown up.

    Raises:
        BadImage: it cannot be decoded, or is larger than anything that is drawn.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["jpeg", "png", "webp"]) as image:
            size = image.size
            if size[0] * size[1] <= MAX_PIXELS:
                return _small(image, min(width, size[0]))
    except UNDECODABLE as error:
        raise BadImage(name, f"it cannot be decoded: {error}", "undecodable") from error
    reason = f"expected at most {MAX_PIXELS} pixels, found {size[0]} x {size[1]}"
    raise BadImage(name, reason, "undecodable")


def _small(image: Image.Image, width: int) -> Thumbnail:
    height = max(1, round(image.height * width / image.width))
    # A JPEG is decoded at the next larger eighth of its size, in a fraction of the time.
    image.draft("RGB", (width, height))
    small = on_black(image).resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=_QUALITY, method=_EFFORT)
    return Thumbnail(out.getvalue(), width, height)
