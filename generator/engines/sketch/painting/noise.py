"""Smooth random fields: what clouds, ground, pigment and the wandering of a hand are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from generator.engines.sketch.painting.colour import Field, Values

Random = np.random.Generator


def _taps(count: int, size: int) -> tuple[npt.NDArray[np.intp], Field]:
    """Which four of `count` samples each of `size` lies among, and their cubic weights."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(count / size) - 0.5
    whole = np.floor(at)
    t = (at - whole).astype(np.float32)
    # Uniform cubic B-spline: smooth to the second derivative, so no lattice shows.
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t * (1 + t - t * t), t**3])
    index = whole.astype(np.intp)[None, :] + np.arange(-1, 3)[:, None]
    return np.clip(index, 0, count - 1), (weights / 6).astype(np.float32)


def enlarged(field: Field, width: int, height: int) -> Field:
    """A small field drawn smoothly over a larger one: several times quicker than Pillow."""
    index, weights = _taps(field.shape[1], width)
    rows = np.zeros((field.shape[0], width), np.float32)
    for tap in range(4):
        rows += field[:, index[tap]] * weights[tap]
    index, weights = _taps(field.shape[0], height)
    total: Field = rows[index[0]] * weights[0][:, None]
    part = np.empty_like(total)
    for tap in range(1, 4):
        np.take(rows, index[tap], axis=0, out=part, mode="clip")
        part *= weights[tap][:, None]
        total += part
    return total


def softened(field: Field, radius: float) -> Field:
    """A field blurred by about `radius` pixels, through a smaller copy: quick at any radius."""
    height, width = field.shape
    factor = max(1, min(round(radius), height // 2, width // 2))
    small = np.asarray(Image.fromarray(field).reduce(factor), dtype=np.float32)
    return enlarged(small, width, height)


def fractal(
    rng: Random,
    width: int,
    height: int,
    *,
    cells: float = 4.0,
    octaves: int = 4,
    gain: float = 0.5,
    stretch: float = 1.0,
) -> Field:
    """Fractal value noise, mean 0 and standard deviation 1, shape (height, width).

    Args:
        rng: where chance comes from.
        width: pixels.
        height: pixels.
        cells: lumps over the picture's height in the first octave.
        octaves: each has lumps half as large as the one before.
        gain: weight of each octave against the one before.
        stretch: above 1 the lumps are that many times wider than high.
    """
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for _ in range(octaves):
        rows = max(2, min(height, round(cells) + 2))
        columns = max(2, min(width, round(cells * width / height / stretch) + 2))
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        total += enlarged(grid * np.float32(weight), width, height)
        if rows >= height and columns >= width:
            break
        weight *= gain
        cells *= 2.0
    total -= total.mean()
    return total / np.float32(total.std() + 1e-6)


def profile(
    rng: Random, width: int, *, cells: float = 3.0, octaves: int = 6, gain: float = 0.5
) -> Field:
    """A fractal line, shape (width,), standard deviation 1: ridges, tree tops, coasts."""
    at = np.linspace(0.0, 1.0, width)
    total = np.zeros(width)
    weight = 1.0
    for _ in range(octaves):
        count = max(3, round(cells) + 3)
        knots = rng.standard_normal(count)
        position = at * (count - 3) + rng.random()
        left = position.astype(np.intp)
        part = position - left
        part = part * part * (3 - 2 * part)
        total += weight * (knots[left] * (1 - part) + knots[left + 1] * part)
        weight *= gain
        cells *= 2.0
    total -= total.mean()
    result: Field = (total / (total.std() + 1e-6)).astype(np.float32)
    return result


def smoothstep(low: float, high: float, value: Values) -> Field:
    """0 below `low`, 1 above `high`, an S between; with `low` above `high` it falls instead."""
    share = np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    result: Field = (share * share * (3.0 - 2.0 * share)).astype(np.float32)
    return result
