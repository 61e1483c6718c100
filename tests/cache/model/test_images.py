from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache.model.images import (
    BadImage,
    check_image,
    decode_check,
    extension_for,
    media_type_for,
    sniff,
)
from tests.cache.samples import KINDS, picture, plain

TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
kinds = pytest.mark.parametrize("kind", KINDS)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@kinds
def test_a_whole_image_is_what_it_is(kind: str) -> None:
    data = picture(kind)
    assert sniff(data) == TYPES[kind]
    assert check_image(data, f"1.{kind}") == TYPES[kind]
    assert check_image(data) == TYPES[kind]
    decoded = decode_check(data, f"1.{kind}")
    assert (decoded.width, decoded.height, decoded.is_flat) == (48, 48, False)
    assert extension_for(TYPES[kind]) == kind


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("jpg", {"progressive": True}),
        ("jpg", {"quality": 100, "subsampling": 0}),
        ("jpg", {"exif": b"Exif\0\0" + picture("jpg", size=16)}),
        ("webp", {"lossless": True}),
        ("webp", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        ("png", {"compress_level": 0}),
    ],
)
def test_every_way_of_writing_them_is_whole(kind: str, options: dict[str, object]) -> None:
    assert check_image(picture(kind, size=200, **options), f"1.{kind}") == TYPES[kind]


@kinds
@pytest.mark.parametrize("colour", [(0, 0, 0), (120, 130, 10)])
def test_an_image_of_one_colour_is_whole_but_flat(kind: str, colour: tuple[int, int, int]) -> None:
    data = plain(kind, colour, 1024)
    check_image(data, f"1.{kind}")
    assert decode_check(data).is_flat


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_flatness_is_seen_in_every_mode(mode: str) -> None:
    image = Image.new("L", (64, 64), 0).convert(mode)
    assert decode_check(encoded(image, "PNG")).is_flat
    image = Image.linear_gradient("L").convert("I;16" if mode == "I;16" else "RGB")
    if mode == "I;16":
        image = image.point(lambda level: level * 200)
    assert not decode_check(encoded(image.convert(mode), "PNG")).is_flat


def test_one_bright_star_is_not_flat() -> None:
    image = Image.new("RGB", (512, 512))
    image.putpixel((100, 100), (255, 255, 255))
    assert not decode_check(encoded(image, "PNG")).is_flat


@kinds
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_found(kind: str, share: float) -> None:
    data = picture(kind)
    with pytest.raises(BadImage, match=f"1.{kind}"):
        check_image(data[: int(len(data) * share)], f"1.{kind}")


@kinds
@given(share=st.floats(0, 0.8))
def test_a_file_cut_short_and_filled_up_with_zeros_is_found(kind: str, share: float) -> None:
    data = picture(kind, size=96)
    cut = data[: int(len(data) * share)].ljust(len(data), b"\0")
    with pytest.raises(BadImage):
        check_image(cut, f"1.{kind}")


@kinds
def test_padding_behind_the_end_is_no_fault(kind: str) -> None:
    check_image(picture(kind) + bytes(4096), f"1.{kind}")


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    data = picture("jpg", size=200, exif=b"Exif\0\0" + picture("jpg", size=16))
    with pytest.raises(BadImage, match="cut short"):
        check_image(data[: len(data) // 2], "1.jpg")


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (picture("png"), "1.jpg", "the name says image/jpeg, the bytes are image/png"),
        (picture("jpg"), "1.gif", "expected a name ending in"),
        (picture("jpg"), "jpg", "expected a name ending in"),
        (b"", "1.jpg", "empty file"),
        (b"<html>not found</html>", "1.jpg", "expected jpg, png or webp, found bytes"),
        (b"GIF89a" + bytes(50), "", "expected jpg, png or webp"),
        (b"\xff\xd8\xff" + b"x" * 100, "1.jpg", "cut short|marker|header"),
        (b"\xff\xd8\xff\xe0\0\x04zz" + b"x" * 100, "1.jpg", "expected a marker"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "1.png", "expected a chunk"),
        (b"RIFF\x10\0\0\0WEBPEXIF\x04\0\0\0abcd", "1.webp", "no picture data"),
        (b"RIFF\x0c\0\0\0WEBPVP8 \xff\0\0\0", "1.webp", "ends at byte"),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_found(
    data: bytes, name: str, message: str
) -> None:
    with pytest.raises(BadImage, match=message) as caught:
        check_image(data, name)
    assert caught.value.name == name


def test_a_png_without_picture_data_is_refused() -> None:
    data = picture("png")
    start = data.index(b"IDAT") - 4
    end = data.index(b"IEND") - 4
    with pytest.raises(BadImage, match="IDAT"):
        check_image(data[:start] + data[end:], "1.png")


@kinds
@settings(max_examples=50)
@given(data=st.data())
def test_damage_never_raises_anything_else(kind: str, data: st.DataObject) -> None:
    image = bytearray(picture(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    for check in (check_image, decode_check):
        with contextlib.suppress(BadImage):
            check(bytes(image), f"1.{kind}")


@given(st.sampled_from(list(KINDS)), st.binary(max_size=200))
def test_bytes_behind_a_good_beginning_never_raise_anything_else(kind: str, tail: bytes) -> None:
    with contextlib.suppress(BadImage):
        decode_check(picture(kind)[:16] + tail)


def test_a_picture_of_absurd_size_is_not_decoded() -> None:
    data = bytearray(picture("png"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(BadImage):
        decode_check(bytes(data))


def test_names_promise_types() -> None:
    assert media_type_for("1.JPEG") == "image/jpeg"
    assert media_type_for("final.webp") == "image/webp"
    assert media_type_for("meta.json") is None
    assert media_type_for("png") is None
    with pytest.raises(ValueError, match="image/gif"):
        extension_for("image/gif")


def test_what_is_wholly_transparent_is_flat_whatever_colours_it_hides() -> None:
    colours = Image.linear_gradient("L").convert("RGBA")
    assert not decode_check(encoded(colours, "PNG")).is_flat
    colours.putalpha(0)
    assert decode_check(encoded(colours, "PNG")).is_flat
