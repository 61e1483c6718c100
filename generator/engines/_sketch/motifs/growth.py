"""Growing things: a garden or jungle of great leaves, light falling in from above."""

from __future__ import annotations

import numpy as np

from generator.engines._sketch.canvas import Canvas, Point, between, ellipse, streams
from generator.engines._sketch.colour import Lab
from generator.engines._sketch.motifs.land import frond
from generator.engines._sketch.noise import Random, fractal, smoothstep
from generator.engines._sketch.palettes import Palette

_LAYERS = 5


def garden(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Leaves before leaves, from pale and soft behind to dark and crisp in front."""
    cloud = fractal(rng, canvas.width, canvas.height, cells=4, octaves=5)
    opening = (canvas.aspect * between(rng, 0.35, 0.65), between(rng, 0.22, 0.42))
    foliage = palette.cool.mix(palette.middle, 0.4)
    foliage = Lab(foliage.L, foliage.a * 0.7 - 0.03, foliage.b * 0.7 + 0.045)
    back = palette.haze.mix(foliage, 0.3)
    wide = (canvas.x - opening[0]) / canvas.aspect * 1.5
    distance = np.sqrt(wide**2 + (canvas.y - opening[1]) ** 2)
    stops = [
        (0.0, palette.spark),
        (0.16, palette.paper.mix(back, 0.45)),
        (0.36, back.mix(foliage, 0.35)),
        (0.85, foliage.mix(palette.dark, 0.5)),
    ]
    canvas.lay(canvas.gradient(stops, distance + cloud * 0.04), 1)
    canvas.flow[:] = np.arctan2(canvas.y - opening[1], wide) + cloud * np.float32(0.5)
    for layer in range(_LAYERS):
        near = layer / (_LAYERS - 1)
        tone = back.mix(foliage, 0.35 + 0.65 * near).mix(palette.dark, 0.5 * near**1.8)
        _layer(canvas, rng, palette, tone, near=near, opening=opening)
        if layer < _LAYERS - 1:
            fog = smoothstep(0.6, 0.05, distance + cloud * 0.03)
            canvas.lay(palette.spark.mix(back, 0.3), fog * 0.3 * (1 - near))
    for _ in range(int(rng.integers(3, 7))):
        angle = rng.random() * 2 * np.pi
        at = (
            opening[0] + float(np.cos(angle)) * canvas.aspect * between(rng, 0.2, 0.42),
            0.55 + float(np.sin(angle)) * between(rng, 0.15, 0.36),
        )
        for _ in range(int(rng.integers(1, 4))):
            near_by = (at[0] + rng.normal() * 0.035, at[1] + rng.normal() * 0.03)
            _flower(canvas, rng, palette, near_by, between(rng, 0.014, 0.034))


def _layer(
    canvas: Canvas, rng: Random, palette: Palette, tone: Lab, *, near: float, opening: Point
) -> None:
    """One depth of leaves around the opening, most of them rising from below and hanging in."""
    soften = 0.010 * (1 - near) ** 2
    for _ in range(int(44 - 24 * near)):
        angle = rng.random() * 2 * np.pi
        reach = 0.26 + 0.36 * near + abs(rng.normal()) * 0.2
        root = (
            opening[0] + float(np.cos(angle)) * reach * canvas.aspect * 0.72,
            0.52 + float(np.sin(angle)) * reach * 1.05,
        )
        inward = float(np.arctan2(opening[1] - root[1], opening[0] - root[0]))
        inward += rng.normal() * (0.9 - 0.4 * near)
        size = between(rng, 0.18, 0.36) * (0.6 + 0.6 * near)
        paint = tone.lit(between(rng, -0.07, 0.07)).mix(palette.warm, rng.random() ** 3 * 0.4)
        paint = paint.mix(palette.cool, rng.random() ** 2 * 0.5)
        if streams(rng, 0.3):
            polygons = frond(root, inward, size * 1.2, size * between(rng, 0.0, 0.5), leaflets=18)
            canvas.shape(polygons, paint, soften=soften)
        else:
            _leaf(canvas, rng, palette, root, angle=inward, size=size, paint=paint, soften=soften)


def _leaf(
    canvas: Canvas,
    rng: Random,
    palette: Palette,
    root: Point,
    *,
    angle: float,
    size: float,
    paint: Lab,
    soften: float,
) -> None:
    """A banana or taro leaf: two halves, one in light, and pale veins."""
    wide = size * between(rng, 0.16, 0.3)
    bend = between(rng, -0.35, 0.35)
    t = np.linspace(0, 1, 16)
    turn = angle + bend * t
    step = size / 15
    ribs = np.stack(
        [root[0] + np.cumsum(np.cos(turn)) * step, root[1] + np.cumsum(np.sin(turn)) * step], 1
    )
    swell = np.sin(np.pi * t**0.75) ** 0.8 * wide
    normal = np.stack([-np.sin(turn), np.cos(turn)], 1)
    rib: list[Point] = [(float(u), float(v)) for u, v in ribs]
    for side in (-1, 1):
        rim = ribs + side * normal * swell[:, None]
        half = [*rib, *[(float(u), float(v)) for u, v in rim[::-1]]]
        upward = float((normal[8] * side)[1]) < 0
        lit = paint.mix(palette.spark, 0.24) if upward else paint.mix(palette.dark, 0.22)
        canvas.shape([half], lit, soften=soften)
        veins = []
        for index in range(2, 14, 2):
            (x0, y0), (x1, y1) = (
                rib[index],
                (float(rim[min(index + 2, 15)][0]), float(rim[min(index + 2, 15)][1])),
            )
            veins.append([(x0, y0 - 0.0009), (x1, y1), (x0, y0 + 0.0009)])
        canvas.shape(veins, lit.mix(palette.paper, 0.35), opacity=0.6, soften=soften)
    spine = [*[(u, v - 0.0014) for u, v in rib], *[(u, v + 0.0014) for u, v in reversed(rib)]]
    canvas.shape([spine], paint.mix(palette.paper, 0.45), opacity=0.8, soften=soften)


def _flower(canvas: Canvas, rng: Random, palette: Palette, at: Point, size: float) -> None:
    """A blossom of five petals."""
    colour = palette.warm if streams(rng, 0.65) else palette.paper
    start = rng.random() * 2 * np.pi
    for index in range(5):
        angle = start + index * 2 * np.pi / 5
        centre = (
            at[0] + float(np.cos(angle)) * size * 0.6,
            at[1] + float(np.sin(angle)) * size * 0.5,
        )
        petal = ellipse(centre, size * 0.62, size * 0.4, turn=float(angle), corners=14)
        canvas.shape(
            [petal], colour.lit(between(rng, -0.07, 0.07)).mix(palette.spark, 0.1 * (index % 2))
        )
    canvas.shape([ellipse(at, size * 0.2, size * 0.18)], palette.spark.mix(palette.warm, 0.3))
