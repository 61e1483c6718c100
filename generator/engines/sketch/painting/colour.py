"""OKLab, in which every colour here is mixed: equal steps look equal, and no mixture turns muddy.

Source: Björn Ottosson, "A perceptual color space for image processing" (2020),
https://bottosson.github.io/posts/oklab/; sRGB transfer function from IEC 61966-2-1.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
"""One float32 value a pixel, shape (height, width); or (3, height, width) for OKLab planes."""
Values = npt.NDArray[np.floating[Any]]
"""Numbers of any precision that broadcast against a field."""
Pixels = npt.NDArray[np.uint8]
"""sRGB as Pillow has it: shape (height, width, 3)."""

_LUT_SIZE = 4096
_LINEAR_CODE, _LINEAR_LIGHT = 0.04045, 0.0031308
"""Below these the transfer function is a straight line."""


class Lab(NamedTuple):
    """A colour in OKLab: lightness 0 to 1, green to red and blue to yellow about ±0.3."""

    L: float
    a: float
    b: float

    def mix(self, other: Lab, share: float) -> Lab:
        """This colour with `share` (0 to 1) of another in it."""
        return Lab(*(mine + (its - mine) * share for mine, its in zip(self, other, strict=True)))

    def lit(self, lightness: float, chroma: float = 1.0) -> Lab:
        """Lightness shifted by `lightness`, chroma multiplied by `chroma`."""
        return Lab(min(max(self.L + lightness, 0.0), 1.0), self.a * chroma, self.b * chroma)


@cache
def _linear_of_srgb() -> npt.NDArray[np.float32]:
    code = np.arange(256) / 255.0
    linear = np.where(code <= _LINEAR_CODE, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


@cache
def _srgb_of_linear() -> npt.NDArray[np.uint8]:
    # Indexed by the square root of the linear value, so that the darks get codes enough.
    linear = (np.arange(_LUT_SIZE) / (_LUT_SIZE - 1)) ** 2
    code = np.where(linear <= _LINEAR_LIGHT, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(code * 255).astype(np.uint8)


def lab(code: str) -> Lab:
    """The colour of an ``rrggbb`` code."""
    pixel = np.frombuffer(bytes.fromhex(code), np.uint8).reshape(1, 1, 3)
    return Lab(*(float(value) for value in to_oklab(pixel)[:, 0, 0]))


def to_oklab(pixels: Pixels) -> Field:
    """Pixels in sRGB, shape (h, w, 3), as OKLab planes, shape (3, h, w)."""
    # Written out instead of a matrix product: BLAS would wake its threads beside the show.
    r, g, b = (_linear_of_srgb()[pixels[..., channel]] for channel in range(3))
    long = np.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    medium = np.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = np.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    planes[0] = 0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short
    planes[1] = 1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short
    planes[2] = 0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short
    return planes


def to_srgb(planes: Field) -> Pixels:
    """OKLab planes, shape (3, h, w), as sRGB pixels (h, w, 3); out of gamut is clipped."""
    lightness, a, b = planes
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    pixels = np.empty((*lightness.shape, 3), np.uint8)
    rows = (
        (4.0767416621, -3.3077115913, 0.2309699292),
        (-1.2684380046, 2.6097574011, -0.3413193965),
        (-0.0041960863, -0.7034186147, 1.7076147010),
    )
    for channel, (from_long, from_medium, from_short) in enumerate(rows):
        linear = from_long * long + from_medium * medium + from_short * short
        index = np.sqrt(np.clip(linear, 0.0, 1.0)) * (_LUT_SIZE - 1) + 0.5
        pixels[..., channel] = _srgb_of_linear()[index.astype(np.intp)]
    return pixels
