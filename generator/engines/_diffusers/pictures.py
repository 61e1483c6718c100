"""Between encoded pictures, Pillow and tensors."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from generator.engine import DrawingFailed
from generator.engines._diffusers.untyped import Tensor

PREVIEW_QUALITY, FINAL_QUALITY = 80, 92

_FLAT_SPAN = 4 / 255
"""A picture whose channels span no more is one colour to the eye: see `cache.model.images`."""


def to_image(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """A picture of a tensor, brought to a size.

    Args:
        pixels: shape (3, height, width), 0 to 1, on any device.
        size: (width, height) in pixels.

    Raises:
        DrawingFailed: a value is not a number.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise DrawingFailed("values that are no numbers, as a decoder in half precision gives them")
    codes = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(codes.cpu().numpy()))
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def check_not_flat(pixels: Tensor) -> None:
    """Refuse a picture that is all one colour: black, after a decoder's failure.

    Args:
        pixels: shape (3, height, width), 0 to 1.

    Raises:
        DrawingFailed: it is.
    """
    shown = pixels.clamp(0, 1).flatten(1)
    if bool(((shown.amax(1) - shown.amin(1)) <= _FLAT_SPAN).all()):
        raise DrawingFailed("the final image is all one colour")


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Encoded, baseline, 4:2:0."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
