"""Sky, light and reflecting water: shared by every motif that is out of doors."""

from __future__ import annotations

import numpy as np

from generator.engines.sketch.painting.canvas import Canvas, Point, between, ellipse, streams
from generator.engines.sketch.painting.colour import Lab
from generator.engines.sketch.painting.noise import Random, fractal, smoothstep
from generator.engines.sketch.painting.palettes import Palette


def sky(canvas: Canvas, rng: Random, palette: Palette, horizon: float, *, night: bool) -> Lab:
    """A sky with banks of cloud down to `horizon`; returns its colour at the horizon."""
    if night:
        high, low = palette.dark.lit(0.03), palette.shade.mix(palette.middle, 0.5)
    else:
        high, low = palette.haze.mix(palette.cool, between(rng, 0.3, 0.75)), palette.paper
    tint = palette.warm if streams(rng, 0.6) else palette.spark
    low = low.mix(tint, 0.10 if night else between(rng, 0.05, 0.28))
    middle = high.mix(low, 0.45).lit(0.02)
    warp = fractal(rng, canvas.width, canvas.height, cells=2, octaves=3, stretch=3) * 0.05
    canvas.lay(
        canvas.gradient([(0.0, high), (horizon * 0.55, middle), (horizon, low)], canvas.y + warp), 1
    )
    clouds = fractal(rng, canvas.width, canvas.height, cells=3, octaves=6, gain=0.55, stretch=2.6)
    bank = smoothstep(between(rng, -0.1, 0.5), 1.7, clouds + 0.5 * np.sin(canvas.y * 9 + 2))
    lit = low.mix(palette.spark, 0.35).lit(-0.12 if night else 0.02)
    canvas.lay(lit, bank * 0.75)
    # The undersides: the same cloud a little lower, in shadow.
    shift = max(2, canvas.height // 40)
    under = np.clip(np.roll(bank, shift, axis=0) - bank, 0, 1)
    canvas.lay(high.mix(palette.shade, 0.45), under * 0.7)
    return low


def luminary(
    canvas: Canvas, rng: Random, palette: Palette, horizon: float, *, night: bool
) -> Point:
    """A sun or moon with its glow; returns its place."""
    at = (
        canvas.aspect * float(rng.choice([0.31, 0.38, 0.62, 0.69])) + between(rng, -0.05, 0.05),
        horizon * (between(rng, 0.25, 0.55) if night else between(rng, 0.45, 0.86)),
    )
    light = palette.spark
    canvas.glow(at, 0.30, light.mix(palette.warm, 0.15), 0.42 if night else 0.55)
    canvas.glow(at, 0.09, light, 0.45)
    radius = between(rng, 0.032, 0.05)
    canvas.shape([ellipse(at, radius, radius, corners=48)], light.lit(0.02), soften=0.003)
    return at


def reflection(
    canvas: Canvas,
    rng: Random,
    palette: Palette,
    horizon: float,
    *,
    light: Point | None,
    calm: float = 0.5,
) -> None:
    """Turn what is below `horizon` into water that mirrors what is painted above.

    The path of the sun or moon, if there is one at `light`, glitters. With `calm` 1 it is a
    mirror, with 0 a choppy sea.
    """
    height, width = canvas.height, canvas.width
    edge = min(max(int(horizon * height), 1), height - 2)
    below = (canvas.y - horizon).clip(0.0)
    depth = below / (1.0 - horizon)
    # Waves are foreshortened: sample tall noise ever more densely towards the horizon.
    rows = 256
    tile = fractal(rng, width, rows, cells=18, octaves=4, gain=0.6, stretch=7)
    v = (rows * 0.9 * (1.0 - 1.0 / (1.0 + 3.2 * depth)) * 1.3).astype(np.intp) % rows
    waves = tile[v[:, 0]]
    push = (1.0 - calm) * (2.0 + 16.0 * depth) + 1.5
    source = np.clip(2 * edge - np.arange(height)[:, None] + waves * push * 1.6, 0, edge - 1)
    columns = np.clip(np.arange(width)[None, :] + waves * push * 1.2, 0, width - 1)
    mirror = canvas.planes[:, source.astype(np.intp), columns.astype(np.intp)]
    body = palette.cool.mix(palette.shade, 0.5).mix(palette.dark, 0.25)
    share = (0.24 + 0.36 * depth) * np.ones_like(waves)
    water = np.empty_like(mirror)
    for index in range(3):
        water[index] = mirror[index] + (np.float32(body[index]) - mirror[index]) * share
    water[0] += waves * np.float32(0.016) * (0.3 + depth)
    cover = (canvas.y >= horizon).astype(np.float32) * np.ones_like(waves)
    canvas.lay(water, cover)
    if light is not None:
        path = np.exp(-(((canvas.x - light[0]) / (0.035 + 0.16 * depth)) ** 2))
        glitter = smoothstep(0.35, 1.3, waves + 0.9 * path - 0.25) * path
        canvas.lay(palette.spark, np.clip(glitter * 1.1, 0, 0.95) * cover)
    canvas.flow_weight[edge:] = 0.85
    canvas.flow[edge:] = 0.0
