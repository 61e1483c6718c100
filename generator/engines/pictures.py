"""Encoded pictures, as several engines take and give them."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncGenerator
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from cache.model.images import on_black
from generator.engines.port import RecipeRefused, StepImage
from generator.sheet.recipe import Recipe

PREVIEW_QUALITY: Final = 80
FINAL_QUALITY: Final = 92

_MOST_TIMES: Final = 16
_SMALL: Final = 512 * 512
"""Pixels. A preview may be 16 times as large as what was asked for, or as this."""

FLOOR: Final = 0.001
"""Seconds: no duration is shorter, since a duration of nothing is none."""


def base_of(recipe: Recipe) -> Image.Image:
    """The base image in the recipe's size, upright, RGB.

    Raises:
        RecipeRefused: it cannot be decoded.
    """
    data = recipe.base_image or b""
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return upright.resize((recipe.width, recipe.height), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise RecipeRefused(
            f"the base image ({len(data)} bytes) is not a readable jpg, png or webp: {error}"
        ) from error


async def base_itself(recipe: Recipe) -> AsyncGenerator[StepImage, None]:
    """What is drawn where strength leaves no step: see `Recipe.is_base_itself`."""
    yield await asyncio.to_thread(base_as_final, recipe)


def base_as_final(recipe: Recipe) -> StepImage:
    """The same in the calling thread: the base image as the final and only one.

    Raises:
        RecipeRefused: it cannot be decoded.
    """
    begun = time.perf_counter()
    image = encoded(base_of(recipe), "JPEG", FINAL_QUALITY)
    duration = max(time.perf_counter() - begun, FLOOR)
    return StepImage(1, 1, final=True, timestep=None, duration=duration, image=image)


def fitted_preview(data: bytes, size: tuple[int, int]) -> bytes | None:
    """A preview as JPEG in the recipe's size; None if it cannot be read, or is far too large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MOST_TIMES * max(size[0] * size[1], _SMALL):
                return None  # a few kilobytes may say that they are a gigabyte
            if image.size == size and image.format == "JPEG":
                image.load()
                return data
            fitted = on_black(image).resize(size, Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return encoded(fitted, "JPEG", PREVIEW_QUALITY)


def encoded(image: Image.Image, image_format: str, quality: int | None = None) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    options = {} if quality is None else {"quality": quality}
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
