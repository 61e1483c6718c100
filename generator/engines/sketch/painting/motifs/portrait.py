"""A portrait: head and shoulders, modelled by one light."""

from __future__ import annotations

import numpy as np

from generator.engines.sketch.painting.canvas import (
    Canvas,
    Point,
    around,
    between,
    ellipse,
    rectangle,
    smooth_path,
    streams,
)
from generator.engines.sketch.painting.colour import Field, Lab, lab
from generator.engines.sketch.painting.motifs.people import SKIN
from generator.engines.sketch.painting.noise import Random, fractal, smoothstep
from generator.engines.sketch.painting.palettes import Palette


def portrait(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Head and shoulders, modelled by one light out of a dark ground."""
    light = 1 if streams(rng, 0.5) else -1
    ground = palette.shade.mix(palette.dark, between(rng, 0.2, 0.75)).mix(palette.cool, 0.2)
    cloud = fractal(rng, canvas.width, canvas.height, cells=3, octaves=5)
    x0 = canvas.aspect * between(rng, 0.42, 0.58)
    side = smoothstep(-0.5, 0.6, (canvas.x - x0) * -light + cloud * 0.12 + (0.5 - canvas.y) * 0.3)
    glow = ground.mix(palette.haze.mix(palette.middle, 0.5), 0.65)
    canvas.lay(canvas.gradient([(0, ground), (1, glow)], side), 1)
    canvas.planes[0] += cloud * np.float32(0.014)
    if streams(rng, 0.5):
        _window_behind(canvas, rng, palette, x0, light)
    size = between(rng, 0.155, 0.185)
    y0 = between(rng, 0.37, 0.42)
    skin = lab(SKIN[int(rng.integers(len(SKIN)))]).mix(palette.warm, 0.1)
    cloth = (palette.warm, palette.cool, palette.dark, palette.paper, palette.middle)[
        int(rng.integers(5))
    ]
    cloth = cloth.lit(-0.05, 0.8)
    hair = palette.dark.mix(palette.warm, between(rng, 0.0, 0.18)).lit(-0.03)
    long = streams(rng, 0.5)
    if long:
        _mass(
            canvas,
            around((x0, y0), size, (-1.06, 0, 1.06, 1.15, -1.15), (-0.3, -1.5, -0.3, 1.5, 1.5)),
            hair,
        )
    _torso(canvas, rng, palette, (x0, y0), size=size, cloth=cloth, light=light)
    throat, rx, ry = (x0, y0 + size * 1.05), size * 0.46, size * 0.75
    planes = _shading(canvas, throat, rx, ry, skin=skin.lit(-0.06), palette=palette, light=light)
    canvas.shape([ellipse(throat, rx, ry, corners=40)], planes, soften=0.003)
    _head(canvas, rng, palette, (x0, y0), size=size, skin=skin, light=light)
    part = between(rng, -0.5, 0.5) * size
    fringe = y0 - size * between(rng, 0.42, 0.72)
    drop = 0.7 if long else -0.1
    xs = (-0.82, -1.02, -1.0, -0.45, 0.45, 1.0, 1.02, 0.82)
    left, *crown = around((x0, y0), size, xs, (-0.25, drop, -0.7, -1.36, -1.38, -0.7, drop, -0.25))
    parted = [(x0 + part + size * 0.3, fringe), (x0 + part - size * 0.2, fringe - size * 0.12)]
    _mass(canvas, [*crown, *parted, left], hair)
    sheen = ellipse(
        (x0 + light * size * 0.45, y0 - size * 1.08), size * 0.4, size * 0.11, turn=light * 0.5
    )
    canvas.shape([sheen], hair.mix(palette.spark, 0.35), opacity=0.5, soften=size * 0.08)


def _mass(canvas: Canvas, points: list[Point], paint: Lab) -> None:
    canvas.shape([smooth_path(points)], paint, soften=0.006)


def _window_behind(canvas: Canvas, rng: Random, palette: Palette, x0: float, light: int) -> None:
    """A picture or a window on the wall behind, out of focus."""
    x = x0 - light * canvas.aspect * between(rng, 0.26, 0.34)
    wide, top, bottom = canvas.aspect * 0.1, between(rng, 0.08, 0.16), between(rng, 0.45, 0.6)
    frame = rectangle(x - wide, top, x + wide, bottom)
    canvas.shape([frame], palette.haze.mix(palette.cool, 0.3), opacity=0.55, soften=0.012)
    inner = [
        (x - wide * 0.85, bottom - 0.12),
        (x, bottom - 0.2),
        (x + wide * 0.85, bottom - 0.1),
        (x + wide * 0.85, bottom - 0.02),
        (x - wide * 0.85, bottom - 0.02),
    ]
    canvas.shape([inner], palette.shade, opacity=0.5, soften=0.014)


def _torso(
    canvas: Canvas, rng: Random, palette: Palette, at: Point, *, size: float, cloth: Lab, light: int
) -> None:
    """Shoulders and chest, their folds and an open collar."""
    x0, y0 = at
    shoulder = y0 + size * 1.75
    left = around((x0, shoulder), size, (-0.5, -1.75, -2.25), (-0.42, 0.12, 1.2))
    right = around((x0, shoulder), size, (2.25, 1.75, 0.5), (1.2, 0.12, -0.42))
    hem = [(x0 - size * 2.4, 1.2), (x0 + size * 2.4, 1.2)]
    outline = smooth_path([*left, *hem, *right])
    folds = fractal(rng, canvas.width, canvas.height, cells=7, octaves=3, stretch=0.45)
    across = (canvas.x - x0) / (size * 2.3)
    lit = np.clip(
        0.55
        + 0.55 * light * across
        - 0.35 * across**2
        + folds * 0.07
        - (canvas.y - shoulder) * 0.5,
        0,
        1,
    )
    planes = canvas.gradient(
        [
            (0.0, cloth.mix(palette.dark, 0.78)),
            (0.55, cloth.mix(palette.dark, 0.25)),
            (1.0, cloth.mix(palette.spark, 0.22)),
        ],
        lit,
    )
    canvas.shape([outline], planes, soften=0.004)
    for side in (-1, 1):
        xs = [side * out for out in (0.42, 0.95, 0.12)]
        lapel = around((x0, shoulder), size, xs, (-0.4, -0.1, 1.1))
        paint = cloth.mix(palette.paper if side == light else palette.dark, 0.4)
        canvas.shape([lapel], paint, opacity=0.8, soften=0.004)


def _shading(
    canvas: Canvas, at: Point, rx: float, ry: float, *, skin: Lab, palette: Palette, light: int
) -> Field:
    """An ellipsoid under one side light."""
    u = np.clip((canvas.x - at[0]) / rx, -1, 1)
    v = np.clip((canvas.y - at[1]) / ry, -1, 1)
    depth = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    lambert = 0.62 * light * u - 0.32 * v + 0.66 * depth
    shadow = skin.mix(palette.dark.mix(palette.cool, 0.25), 0.72)
    return canvas.gradient(
        [
            (-0.2, shadow),
            (0.22, skin.mix(shadow, 0.62)),
            (0.5, skin.mix(palette.warm, 0.12)),
            (0.95, skin.lit(0.10).mix(palette.spark, 0.25)),
        ],
        lambert,
    )


def _head(
    canvas: Canvas, rng: Random, palette: Palette, at: Point, *, size: float, skin: Lab, light: int
) -> None:
    """A face of broad planes: sockets, nose, mouth and cheek, no more than paint would say."""
    x0, y0 = at
    middle, rx, ry = (x0, y0 + size * 0.05), size * 1.02, size * 1.5
    planes = _shading(canvas, middle, rx, ry, skin=skin, palette=palette, light=light)
    jaw = between(rng, 0.52, 0.66)
    xs = (-0.9, -0.55, 0.55, 0.9, 0.86, jaw, 0.2, -0.2, -jaw, -0.86)
    ys = (-0.5, -1.12, -1.12, -0.5, 0.25, 0.88, 1.22, 1.22, 0.88, 0.25)
    outline = smooth_path(around(at, size, xs, ys))
    canvas.shape([outline], planes, soften=0.003)
    deep = skin.mix(palette.dark, 0.72)
    gaze = light * size * 0.05
    for side in (-1, 1):
        eye = (x0 + side * size * 0.38 + gaze, y0 - size * 0.1)
        socket = ellipse((eye[0], eye[1] - size * 0.04), size * 0.24, size * 0.15)
        canvas.shape([socket], deep, opacity=0.6, soften=size * 0.07)
        lid = ellipse(eye, size * 0.14, size * 0.045)
        canvas.shape([lid], palette.dark, opacity=0.85, soften=size * 0.018)
        brow = around(eye, size, (-0.24, 0, 0.24, 0), (-0.16, -0.26, -0.17, -0.19))
        canvas.shape([smooth_path(brow, per=5)], palette.dark, opacity=0.65, soften=size * 0.02)
    nose = around((x0 + gaze, y0), size, (0, -light * 0.2, 0), (-0.2, 0.4, 0.46))
    canvas.shape([nose], deep, opacity=0.5, soften=size * 0.05)
    lips = skin.mix(palette.warm, 0.45)
    nose_x = x0 + gaze
    # The bridge of the nose, its shadow, the lips and the line between them, chin and cheek.
    for x, down, wide, high, paint, opacity, soften in (
        (nose_x + light * size * 0.04, 0.18, 0.05, 0.26, skin.mix(palette.spark, 0.5), 0.6, 0.04),
        (nose_x, 0.45, 0.18, 0.05, deep, 0.6, 0.03),
        (nose_x, 0.72, 0.27, 0.075, lips.mix(palette.dark, 0.3), 0.8, 0.03),
        (nose_x, 0.715, 0.26, 0.018, palette.dark, 0.7, 0.015),
        (nose_x, 0.88, 0.2, 0.05, deep, 0.4, 0.04),
        (
            x0 + light * size * 0.52,
            0.26,
            0.2,
            0.2,
            skin.mix(palette.warm, 0.35).lit(0.05),
            0.4,
            0.12,
        ),
    ):
        spot = ellipse((x, y0 + size * down), size * wide, size * high)
        canvas.shape([spot], paint, opacity=opacity, soften=size * soften)
