"""With what it is painted: oil, wash, woodcut or lens. A medium turns a canvas into pixels.

The oil is a painterly rendering after Hertzmann 1998 ("Painterly rendering with curved brush
strokes of multiple sizes"): strokes from broad to fine, coloured from the canvas, running
along its forms, and then lit from the side as paint with a body is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from generator.engines.sketch.painting.canvas import Canvas
from generator.engines.sketch.painting.colour import Field, Pixels, to_oklab, to_srgb
from generator.engines.sketch.painting.noise import Random, fractal, smoothstep, softened
from generator.engines.sketch.painting.palettes import Palette

_MAX_STROKE_PIXELS = 4_500_000
"""Strokes are drawn twice as large and reduced, unless that would be more pixels than this."""


@dataclass(frozen=True, slots=True)
class Brush:
    """One pass of strokes.

    Attributes:
        width: of a stroke, in picture heights.
        length: in widths.
        density: strokes for each stroke's area of canvas.
        detail: how much contrast the canvas must have under it, 0 for everywhere.
        jitter: spread of lightness between strokes.
    """

    width: float
    length: float
    density: float
    detail: float
    jitter: float


_OIL = (
    Brush(0.032, 4.2, 2.2, 0.0, 0.018),
    Brush(0.015, 4.4, 1.05, 0.035, 0.016),
    Brush(0.0070, 4.6, 0.85, 0.16, 0.014),
)


def forms(canvas: Canvas) -> tuple[Field, Field]:
    """How brush strokes run over a canvas, and where it is full of detail.

    Returns:
        Angles in radians along the forms (from the structure tensor of lightness, mixed with
        the canvas's own flow), and contrast, about 0 to 1; both of the canvas's shape.
    """
    dy, dx = np.gradient(canvas.planes[0])
    radius = canvas.height / 60
    xx, yy, xy = (softened(part, radius) for part in (dx * dx, dy * dy, dx * dy))
    # The tensor's two components are a doubled vector, as a stroke has no front and back.
    # Its length grows with contrast, so strong edges outweigh the canvas's own flow.
    gain = 2.2 / (np.percentile(xx + yy, 90) + 1e-7)
    cos = (yy - xx) * gain + np.cos(2 * canvas.flow) * canvas.flow_weight * 0.5
    sin = -2 * xy * gain + np.sin(2 * canvas.flow) * canvas.flow_weight * 0.5
    contrast = np.sqrt(softened(dx * dx + dy * dy, max(2.0, canvas.height / 150)).clip(0))
    contrast *= canvas.height / 26.0
    return (0.5 * np.arctan2(sin, cos)).astype(np.float32), np.clip(contrast, 0, 1)


def _strokes(
    rng: Random, canvas: Canvas, brush: Brush, angle: Field, contrast: Field, *, coarse: float
) -> tuple[npt.NDArray[np.float64], Pixels, npt.NDArray[np.intp]]:
    """Where a pass's strokes go: corners (n, 10, 2) in canvas units, RGB (n, 1, 3), body (n,)."""
    wide = brush.width * coarse
    area = wide * wide * brush.length
    count = int(brush.density * canvas.aspect / area)
    at = rng.random((count, 2)) * (canvas.aspect, 1.0)
    row = (at[:, 1] * canvas.height).astype(np.intp)
    column = np.minimum((at[:, 0] * canvas.height).astype(np.intp), canvas.width - 1)
    if brush.detail > 0:
        wanted = contrast[row, column] > brush.detail * (0.55 + 0.9 * rng.random(count))
        at, row, column = at[wanted], row[wanted], column[wanted]
        count = len(at)
    turn = angle[row, column] + rng.normal(0, 0.16, count)
    # Near an edge strokes are short: a long one's tip would lie as a blot beyond it.
    busy = np.minimum(softened(contrast, canvas.height / 40)[row, column] * 5.0, 1.0)
    half = wide * brush.length * 0.5 * (0.7 + 0.6 * rng.random(count)) * (1.1 - 0.7 * busy)
    thick = wide * 0.5 * (0.65 + 0.6 * rng.random(count))
    bend = rng.normal(0, 0.35, count)
    source = canvas.planes
    radius = brush.width * canvas.height * 0.45
    if round(radius) > 1:
        source = np.stack([softened(plane, radius) * 0.5 + plane * 0.5 for plane in canvas.planes])
    colour = source[:, row, column].astype(np.float32)
    colour[0] += rng.normal(0, brush.jitter, count).astype(np.float32)
    colour[1:] += rng.normal(0, brush.jitter * 0.2, (2, count)).astype(np.float32)
    along = np.array([-1.0, -0.82, -0.3, 0.35, 0.9, 1.0, 0.8, 0.3, -0.35, -0.92])
    across = np.array([-0.25, -0.85, -1.0, -0.95, -0.6, 0.3, 0.8, 1.0, 1.0, 0.7])
    u = along[None, :] * half[:, None]
    v = across[None, :] * thick[:, None] * (0.85 + 0.3 * rng.random((count, 10)))
    v = v + bend[:, None] * u * u / (half[:, None] * 2.2)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    corners = np.stack([at[:, :1] + u * cos - v * sin, at[:, 1:] + u * sin + v * cos], axis=-1)
    body = rng.integers(60, 200, count)
    return corners, to_srgb(colour[:, :, None]), body


def _bristles(rng: Random, angle: Field, doublings: int) -> Field:
    """Noise drawn out along the strokes, standard deviation 1.

    A line integral convolution (Cabral and Leedom 1993), ``2**doublings`` pixels long: each
    round adds the last one's result from twice as far along.
    """
    height, width = angle.shape
    total = rng.standard_normal((height, width), dtype=np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    for step in (2**round_ for round_ in range(doublings)):
        row = np.clip(rows + sin * np.float32(step) + 0.5, 0, height - 1).astype(np.int32)
        column = np.clip(columns + cos * np.float32(step) + 0.5, 0, width - 1).astype(np.int32)
        total = total + total.ravel()[row * width + column]
    return total / np.float32(total.std() + 1e-6)


def _weave(rng: Random, width: int, height: int, *, tooth: float) -> npt.NDArray[np.float32]:
    """Linen or paper: a tile of fine texture, repeated; standard deviation `tooth` codes."""
    tile = rng.standard_normal((256, 256), dtype=np.float32)
    tile = tile + np.roll(tile, 1, 0) + np.roll(tile, 1, 1) * 0.9
    threads = np.sin(np.arange(256) * (2 * np.pi / 4)).astype(np.float32)
    tile += 0.5 * (threads[:, None] + threads[None, :])
    tile *= np.float32(tooth / tile.std())
    return np.tile(tile, (-(-height // 256), -(-width // 256)))[:height, :width]


def _finish(image: Image.Image, relief: npt.NDArray[np.float32]) -> Image.Image:
    """Add relief and grain, in codes, to all channels of a picture."""
    pixels = np.asarray(image).astype(np.int16)
    pixels += np.rint(relief).astype(np.int16)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _full_size(field: Field, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A field of about ±3 at another size, in steps of 1/40: enough for texture."""
    codes = Image.fromarray(np.clip(field * 40 + 128, 0, 255).astype(np.uint8))
    large = codes.resize(size, Image.Resampling.BICUBIC)
    return (np.asarray(large, dtype=np.float32) - 128) * np.float32(1 / 40)


def oil(
    canvas: Canvas, rng: Random, palette: Palette, size: tuple[int, int], coarse: float
) -> Image.Image:
    """Oil on linen. `coarse` scales the brushes."""
    del palette  # its colours are on the canvas already
    angle, contrast = forms(canvas)
    angle = angle + fractal(rng, canvas.width, canvas.height, cells=4, octaves=3) * np.float32(0.16)
    zoom = 2 if size[0] * size[1] * 4 <= _MAX_STROKE_PIXELS else 1
    large = (size[0] * zoom, size[1] * zoom)
    under = Image.fromarray(to_srgb(canvas.planes))
    under = under.resize(size, Image.Resampling.BICUBIC)
    ground = under.resize(large, Image.Resampling.NEAREST).split()
    # A fourth band takes the paint's body along: ImageDraw writes it beside the colour. Pillow
    # treats CMYK as any four bands, where RGBA would be premultiplied at every scaling.
    paint = Image.merge("CMYK", (*ground, Image.new("L", large, 110)))
    pen = ImageDraw.Draw(paint)
    for brush in _OIL:
        corners, colours, body = _strokes(rng, canvas, brush, angle, contrast, coarse=coarse)
        places = np.rint(corners * large[1]).astype(np.int32).reshape(len(corners), -1).tolist()
        fills = np.concatenate([colours[:, 0], body[:, None]], axis=1).tolist()
        for place, fill in zip(places, fills, strict=True):
            pen.polygon(place, fill=tuple(fill))
    if zoom > 1:
        paint = paint.reduce(zoom)
    red, green, blue, height = paint.split()
    picture = Image.merge("RGB", (red, green, blue))
    # Where the canvas is full of detail, a sharp underpainting shows between the strokes.
    rim = softened(contrast, canvas.height / 75)
    sharp = Image.fromarray(np.rint(smoothstep(0.06, 0.36, rim) * 212).astype(np.uint8))
    picture.paste(under, mask=sharp.resize(size))
    lit = height.filter(
        ImageFilter.Kernel((3, 3), (-2, -1, 0, -1, 0, 1, 0, 1, 2), scale=9, offset=128)
    )
    relief = (np.asarray(lit, dtype=np.float32) - 128.0) * np.float32(0.40)
    relief += _full_size(_bristles(rng, angle, 3), size) * np.float32(2.3)
    return _finish(picture, relief + _weave(rng, *size, tooth=1.4))


def lens(
    canvas: Canvas, rng: Random, palette: Palette, size: tuple[int, int], coarse: float
) -> Image.Image:
    """As through an old lens: hardly a stroke to be seen, a soft bloom, film grain."""
    image = oil(canvas, rng, palette, size, coarse * 0.8)
    small = image.reduce(max(1, round(size[1] / 96)))
    bloom = small.filter(ImageFilter.GaussianBlur(3)).resize(size, Image.Resampling.BICUBIC)
    sharp = Image.fromarray(to_srgb(canvas.planes)).resize(size, Image.Resampling.BICUBIC)
    image = Image.blend(image, sharp, 0.5)
    image = Image.blend(image, bloom, 0.16)
    grain = rng.standard_normal((512, 512), dtype=np.float32) * 3.0
    tiles = np.tile(grain, (-(-size[1] // 512), -(-size[0] // 512)))[: size[1], : size[0]]
    return _finish(image, tiles)


def wash(
    canvas: Canvas, rng: Random, palette: Palette, size: tuple[int, int], coarse: float
) -> Image.Image:
    """Gouache and watercolour on rough paper: wandering edges, pooled pigment, bare rims."""
    width, height = canvas.width, canvas.height
    wander = [fractal(rng, width, height, cells=14 / coarse, octaves=4, gain=0.6) for _ in range(2)]
    reach = height * 0.0028 * coarse
    rows = np.clip(np.arange(height)[:, None] + wander[0] * reach, 0, height - 1).astype(np.intp)
    columns = np.clip(np.arange(width)[None, :] + wander[1] * reach, 0, width - 1).astype(np.intp)
    planes = canvas.planes[:, rows, columns]
    soft = softened(planes[0], height / 70)
    pooled = np.clip(planes[0] - soft, -0.12, 0.12)
    planes[0] += pooled * 0.55
    pigment = fractal(rng, width, height, cells=70, octaves=3, gain=0.8)
    flood = fractal(rng, width, height, cells=3, octaves=6, gain=0.6)
    depth = smoothstep(0.98, 0.45, planes[0])
    planes[0] += (pigment * np.float32(0.016) + flood * np.float32(0.022)) * depth
    for index, value in enumerate(palette.paper.lit(0.03, 0.7)):
        planes[index] += (value - planes[index]) * np.float32(0.06)
    image = Image.fromarray(to_srgb(planes)).resize(size, Image.Resampling.BICUBIC)
    return _finish(image, _weave(rng, *size, tooth=2.6))


def woodcut(
    canvas: Canvas, rng: Random, palette: Palette, size: tuple[int, int], coarse: float
) -> Image.Image:
    """A colour woodcut: few flat inks, and a dark key block cut in lines along the forms."""
    del coarse  # a knife has one width
    width, height = canvas.width, canvas.height
    angle, _ = forms(canvas)
    lightness = canvas.planes[0]
    levels = 6
    flat = np.stack([softened(plane, 2.0) for plane in canvas.planes])
    step = np.clip(flat[0], 0, 0.999) * levels
    frac = step - np.floor(step)
    flat[0] = (np.floor(step) + smoothstep(0.42, 0.58, frac) * 0.999 + 0.35) / levels
    flat[1:] *= 1.12
    ink = fractal(rng, width, height, cells=50, octaves=3, gain=0.8)
    flat[0] += ink * np.float32(0.010)
    base = Image.fromarray(to_srgb(flat)).resize(size, Image.Resampling.BICUBIC)
    lines = _full_size(_bristles(rng, angle, 4), size)
    tone = _full_size(lightness, size)
    # The darkest third of any picture is the key block's, so that none drowns in ink.
    bite = (tone - np.float32(np.quantile(lightness, 0.33))) * np.float32(5.5)
    cut = smoothstep(-0.25, 0.25, lines * 0.5 + bite)
    key = np.array(to_srgb(np.array(palette.dark, np.float32)[:, None, None])[0, 0], np.float32)
    pixels = np.asarray(base, dtype=np.float32)
    pixels = pixels + (key - pixels) * ((1.0 - cut) * 0.86)[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return _finish(image, _weave(rng, *size, tooth=1.6))


Medium = Callable[[Canvas, Random, Palette, tuple[int, int], float], Image.Image]

MEDIA: Mapping[str, Medium] = {"oil": oil, "lens": lens, "wash": wash, "woodcut": woodcut}


def canvas_of(image: Image.Image, canvas: Canvas) -> None:
    """Put a picture on a canvas, scaled to its size."""
    small = image.resize((canvas.width, canvas.height), Image.Resampling.BICUBIC, reducing_gap=3)
    canvas.planes[:] = to_oklab(np.asarray(small.convert("RGB")))
