"""Small pictures: like the large ones, small in bytes, and never more than was there."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from cache.model.images import BadImage, sniff
from cache.thumbnails import MEDIA_TYPE, thumbnail
from tests.cache.samples import picture, plain


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.copy()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_every_kind_of_image_becomes_small(kind: str) -> None:
    small = thumbnail(plain(kind, (200, 40, 40), size=512), width=64)

    image = opened(small.data)
    assert sniff(small.data) == MEDIA_TYPE
    assert image.size == (64, 64)
    assert (small.width, small.height) == (64, 64)
    red, green, blue = image.convert("RGB").resize((1, 1)).tobytes()
    assert abs(red - 200) < 8
    assert max(abs(green - 40), abs(blue - 40)) < 8


def test_proportions_stay() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1360, 768), "navy").save(buffer, "JPEG")

    small = thumbnail(buffer.getvalue(), width=176)

    assert (small.width, small.height) == (176, 99)


def test_a_small_image_is_not_blown_up() -> None:
    assert thumbnail(picture(size=48), width=176).width == 48


def test_what_is_transparent_shows_the_black_behind_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 255, 255, 0)).save(buffer, "PNG")

    image = opened(thumbnail(buffer.getvalue(), width=32).data)

    assert max(image.convert("RGB").tobytes()) < 8


def test_the_same_image_gives_the_same_bytes() -> None:
    assert thumbnail(picture(), width=32) == thumbnail(picture(), width=32)


@pytest.mark.parametrize("data", [b"", b"no image", picture()[:200], plain("png", (1, 2, 3))[:60]])
def test_what_cannot_be_decoded_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadImage, match=r"^3\.jpg: it cannot be decoded"):
        thumbnail(data, "3.jpg", width=32)


def test_what_is_larger_than_anything_that_is_drawn_is_not_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (8193, 8192)).save(buffer, "PNG")

    with pytest.raises(BadImage, match="8193 x 8192"):
        thumbnail(buffer.getvalue(), "vast.png", width=32)
