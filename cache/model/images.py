"""Encoded images: what they are, and whether they are whole (pure).

`check_image` is cheap enough for every image before it goes on a wall: it reads the
container's own marks of wholeness and decodes nothing. `decode_check` decodes, for
verifying a store.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Final, Literal, cast

from PIL import Image

MediaType = Literal["image/jpeg", "image/png", "image/webp"]

_BY_EXTENSION: Final[dict[str, MediaType]] = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
}
_EXTENSIONS: Final[dict[MediaType, str]] = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
}
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_MARKER: Final = 0xFF
_START_OF_SCAN: Final = 0xDA
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a length behind them."""

_CHUNK_HEADER: Final = 8
MAX_PIXELS: Final = 8192 * 8192
"""Nothing larger is drawn (see Recipe), and more would only serve to exhaust memory."""

UNDECODABLE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""Pillow's decoders raise all of these on damaged files."""

_FLAT_SPAN: Final = 4 / 255
"""A band whose values span no more of its range than this is one colour to the eye."""


Flaw = Literal["empty", "no image", "wrong kind", "cut short", "size", "hash", "undecodable"]
"""In which way bytes are not the image they should be."""


class BadImage(ValueError):
    """Bytes that are not the image they should be.

    Attributes:
        name: the file's name, empty if unknown.
        reason: what was expected, and what was found.
        flaw: which kind of fault it is.
    """

    def __init__(self, name: str, reason: str, flaw: Flaw) -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.name = name
        self.reason = reason
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class Decoded:
    """What decoding an image showed.

    Attributes:
        width: pixels.
        height: pixels.
        is_flat: it is all one colour, as after NaN in a decoder (black), so fit for no wall.
    """

    width: int
    height: int
    is_flat: bool


def media_type_for(name: str) -> MediaType | None:
    """The media type that a file's name promises; None if it promises no image we know."""
    _, dot, extension = name.rpartition(".")
    return _BY_EXTENSION.get(extension.lower()) if dot else None


def extension_for(media_type: str) -> str:
    """How files of a media type are named, without the dot: ``jpg`` for ``image/jpeg``.

    Raises:
        ValueError: not an image that can lie in a store.
    """
    for known, extension in _EXTENSIONS.items():
        if known == media_type:
            return extension
    raise ValueError(f"expected one of {', '.join(_EXTENSIONS)}, found {media_type!r}")


def sniff(data: bytes) -> MediaType | None:
    """What the first bytes say that an image is; None if they are no image we know."""
    if data.startswith(_JPEG_START):
        return "image/jpeg"
    if data.startswith(_PNG_SIGNATURE):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def check_image(data: bytes, name: str = "") -> MediaType:
    """Check that an image is whole and is what its name says, without decoding it.

    Finds files cut short, also where the missing part was filled with zeros to the right
    length. Padding after the image's own end is allowed.

    Args:
        data: the encoded image.
        name: its file name, of which the extension counts; without one, any kind will do.

    Returns:
        What the image is.

    Raises:
        BadImage: it is not an image, another one than its name says, or not whole.
    """
    if not data:
        raise BadImage(name, "expected an image, found an empty file", "empty")
    found = sniff(data)
    if found is None:
        reason = f"expected jpg, png or webp, found bytes beginning {data[:8]!r}"
        raise BadImage(name, reason, "no image")
    if name:
        expected = media_type_for(name)
        if expected is None:
            reason = "expected a name ending in .jpg, .jpeg, .png or .webp"
            raise BadImage(name, reason, "wrong kind")
        if expected != found:
            reason = f"the name says {expected}, the bytes are {found}"
            raise BadImage(name, reason, "wrong kind")
    flaw = _FLAWS[found](data)
    if flaw is not None:
        reason = f"{found} of {len(data)} bytes is not whole: {flaw}"
        raise BadImage(name, reason, "cut short")
    return found


def decode_check(
    data: bytes, name: str = "", *, coarse: bool = False, most_pixels: int = MAX_PIXELS
) -> Decoded:
    """Decode an image wholly. Slow: some 10 ms per megapixel.

    Args:
        data: the encoded image.
        name: its file name, as for `check_image`.
        coarse: decode a JPEG at an eighth of its size, in a fraction of the time; enough to
            tell whether it is a picture. The size told is the whole one's all the same.
        most_pixels: one that has more is refused before it is decoded.

    Raises:
        BadImage: it cannot be decoded, or is larger than anything that is drawn.
    """
    media_type = check_image(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=[media_type.removeprefix("image/")]) as image:
            width, height = image.size
            if width * height <= most_pixels:
                if coarse:
                    image.draft(None, (max(1, width // 8), max(1, height // 8)))
                image.load()
                return Decoded(width, height, _is_flat(image))
    except UNDECODABLE as error:
        reason = f"{media_type} cannot be decoded: {error}"
        raise BadImage(name, reason, "undecodable") from error
    reason = f"expected at most {most_pixels} pixels, found {width} x {height}"
    raise BadImage(name, reason, "undecodable")


def on_black(image: Image.Image) -> Image.Image:
    """An image in RGB as it is seen: what is transparent shows the wall, and that is black."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB")


def _is_flat(image: Image.Image) -> bool:
    """Whether no band of an image's colours varies visibly, as it is seen on the wall."""
    if image.has_transparency_data or image.mode in {"P", "1", "CMYK"}:
        image = on_black(image)
    full = 65535 if image.mode.startswith(("I", "F")) else 255
    extrema = image.getextrema() if len(image.getbands()) > 1 else (image.getextrema(),)
    spans = cast("tuple[tuple[float, float], ...]", extrema)
    return all(high - low <= full * _FLAT_SPAN for low, high in spans)


def _jpeg_flaw(data: bytes) -> str | None:
    """Walk the segments up to the picture data, then look for the end marker behind it.

    The header is walked because an embedded thumbnail brings an end marker of its own.
    Within picture data the two bytes of an end marker cannot occur.
    """
    position = 2
    while position + 4 <= len(data):
        if data[position] != _MARKER:
            return f"expected a marker at byte {position}, found {data[position]:#04x}"
        marker = data[position + 1]
        if marker == _MARKER:  # a fill byte
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2 + length
        if marker == _START_OF_SCAN:
            if data.rfind(_JPEG_END, position) < 0:  # from behind, where it nearly always is
                return "the end marker is missing, it was cut short"
            return None
    return "it ends within its header"


def _png_flaw(data: bytes) -> str | None:
    position = len(_PNG_SIGNATURE)
    kind = b""
    picture = False
    while kind != b"IEND":
        header = data[position : position + _CHUNK_HEADER]
        if len(header) < _CHUNK_HEADER:
            return "the IEND chunk is missing, it was cut short"
        length = int.from_bytes(header[:4], "big")
        first, kind = not kind, header[4:]
        if not kind.isalpha() or first != (kind == b"IHDR"):
            return f"expected a chunk at byte {position}, found {kind!r}"
        picture = picture or kind == b"IDAT"
        position += 12 + length
        if position > len(data):
            return f"chunk {kind.decode('ascii')} ends at byte {position}, it was cut short"
    return None if picture else "it has no picture data (IDAT)"


def _webp_flaw(data: bytes) -> str | None:
    end = int.from_bytes(data[4:8], "little") + 8
    if end > len(data):
        return f"its header says {end} bytes, it was cut short"
    position, picture = 12, False
    while position + 8 <= end:
        kind = data[position : position + 4]
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        if position > end:
            return f"chunk {kind!r} ends at byte {position}, the file at {end}"
        picture = picture or kind in {b"VP8 ", b"VP8L", b"ANMF"}
        position += position % 2
    if not picture:
        return "it has no picture data (VP8)"
    # WebP has no end mark. Real ones end in up to a twentieth of zeros (a plain black one).
    zeros = end - len(data[:end].rstrip(b"\0"))
    if zeros > max(1024, end // 8):
        return f"the last {zeros} bytes are zeros, it was cut short and filled up"
    return None


_FLAWS: Final = {
    "image/jpeg": _jpeg_flaw,
    "image/png": _png_flaw,
    "image/webp": _webp_flaw,
}
