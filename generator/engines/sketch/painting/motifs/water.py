"""The sea: boats and a far coast between sky and its reflection."""

from __future__ import annotations

import numpy as np

from generator.engines.sketch.painting.canvas import (
    Canvas,
    Point,
    around,
    between,
    smooth_path,
    streams,
)
from generator.engines.sketch.painting.motifs.sky import luminary, reflection, sky
from generator.engines.sketch.painting.noise import Random, profile, smoothstep
from generator.engines.sketch.painting.palettes import Palette


def sea(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """A harbour or open sea, by day or by night, with the light's path on the water."""
    night = palette.name in ("nocturne", "prussian") or streams(rng, 0.3)
    horizon = between(rng, 0.44, 0.62)
    low = sky(canvas, rng, palette, horizon, night=night)
    light = luminary(canvas, rng, palette, horizon, night=night)
    for layer in range(int(rng.integers(1, 4))):
        left = streams(rng, 0.5)
        lean = canvas.x if left else canvas.aspect - canvas.x
        reach = canvas.aspect * between(rng, 0.3, 0.75)
        height = profile(rng, canvas.width, cells=5) * 0.012 + 0.035 + 0.03 * layer
        crest = horizon - height[None, :] * (1.0 - lean / reach)
        coast = low.mix(palette.cool, 0.45 + 0.15 * layer).mix(palette.shade, 0.2 + 0.25 * layer)
        canvas.lay(coast, smoothstep(0.0, 0.003, canvas.y - crest) * (lean < reach))
        if night:
            lamps(canvas, rng, palette, horizon - 0.006, left=left, reach=reach)
    if streams(rng, 0.75):
        ship(canvas, rng, palette, canvas.aspect * between(rng, 0.15, 0.85), horizon)
    calm = between(rng, 0.25, 0.8)
    reflection(canvas, rng, palette, horizon, light=light, calm=calm)
    places = rng.permutation([0.14, 0.3, 0.46, 0.6, 0.76, 0.88])[: int(rng.integers(2, 5))]
    depths = sorted(between(rng, 0.06, 0.75) for _ in places)
    for place, depth in zip(places, depths, strict=True):
        y = horizon + (0.96 - horizon) * depth
        boat(
            canvas, rng, palette, (canvas.aspect * float(place), y), 0.05 + 0.2 * depth, night=night
        )


def lamps(
    canvas: Canvas, rng: Random, palette: Palette, y: float, *, left: bool, reach: float
) -> None:
    """Lights along a coast."""
    for _ in range(14):
        lean = reach * rng.random() * 0.8
        x = lean if left else canvas.aspect - lean
        canvas.glow((x, y - between(rng, 0, 0.012)), between(rng, 0.003, 0.006), palette.spark, 0.9)


def ship(canvas: Canvas, rng: Random, palette: Palette, x: float, y: float) -> None:
    """A freighter far out, small and pale."""
    size = between(rng, 0.05, 0.1)
    paint = palette.shade.mix(palette.haze, 0.3)
    hull = around((x, y), size, (-1, 1, 0.9, -0.9), (-0.16, -0.2, 0, 0))
    house = around((x, y), size, (0.45, 0.7, 0.72, 0.43), (-0.42, -0.42, -0.15, -0.15))
    mast = around((x, y), size, (-0.3, -0.27, -0.26, -0.32), (-0.5, -0.5, 0, 0))
    canvas.shape([hull, house, mast], paint)
    keel = [(x - size, y - 0.004), (x + size, y - 0.004), *hull[2:]]
    canvas.shape([keel], palette.warm, opacity=0.5)


def boat(
    canvas: Canvas, rng: Random, palette: Palette, at: Point, size: float, *, night: bool
) -> None:
    """A sampan or a sailing boat with its broken reflection."""
    x, y = at
    facing = 1 if streams(rng, 0.5) else -1
    dark = palette.dark.mix(palette.warm, 0.1)
    xs = [facing * forward for forward in (-1, -0.5, 0.4, 1.1, 0.6, -0.6)]
    hull = smooth_path(around(at, size, xs, (-0.16, -0.02, -0.02, -0.24, 0.14, 0.14)))
    mirrored = [(u, 2 * (y + size * 0.13) - v) for u, v in hull]
    canvas.shape([mirrored], dark, opacity=0.45, soften=size * 0.05)
    if streams(rng, 0.6):
        tall = size * between(rng, 1.3, 1.9)
        sail = smooth_path(
            [
                (x + facing * size * 0.1, y - tall),
                (x + facing * size * 0.55, y - tall * 0.45),
                (x + facing * size * 0.62, y - size * 0.14),
                (x - facing * size * 0.62, y - size * 0.12),
                (x - facing * size * 0.35, y - tall * 0.6),
            ]
        )
        cloth = palette.warm if streams(rng, 0.55) else palette.paper
        cloth = cloth.mix(palette.shade, 0.5 if night else 0.15)
        down = [
            (u + size * 0.02 * float(np.sin(v * 90)), 2 * (y + size * 0.1) - v * 0.9 - y * 0.1)
            for u, v in sail
        ]
        canvas.shape([down], cloth.mix(palette.cool, 0.4), opacity=0.35, soften=size * 0.06)
        canvas.shape([sail], cloth)
        shaded = [point for point in sail if (point[0] - x) * facing < size * 0.12]
        canvas.shape([shaded], cloth.mix(palette.shade, 0.45), opacity=0.8, soften=size * 0.02)
    else:
        canopy = around(at, size, (-0.5, -0.42, 0, 0.42, 0.5), (0, -0.3, -0.4, -0.3, 0))
        canvas.shape([smooth_path(canopy)], palette.middle.mix(palette.shade, 0.35))
    canvas.shape([hull], dark)
    rim = [(u, v + size * 0.012) for u, v in hull if v < y + size * 0.02]
    plank = [*rim, *((u, v + size * 0.05) for u, v in reversed(rim))]
    canvas.shape([plank], palette.warm.mix(palette.paper, 0.3), opacity=0.6)
    if night:
        canvas.glow((x, y - size * 0.1), size * 0.12, palette.spark, 0.9)
        canvas.glow((x, y + size * 0.35), size * 0.16, palette.spark, 0.25)
