"""Without objects: fields of colour, islands on a chart, currents of paint."""

from __future__ import annotations

import numpy as np

from generator.engines.sketch.painting.canvas import Canvas, around, between
from generator.engines.sketch.painting.noise import Random, fractal, smoothstep
from generator.engines.sketch.painting.palettes import Palette

_APART = 0.05
"""Least difference in lightness between a field and its ground."""


def colour_field(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Two to four soft-edged fields floating on a ground, in thin layers of paint."""
    width, height = canvas.width, canvas.height
    colours = [
        palette.warm,
        palette.cool,
        palette.middle,
        palette.shade,
        palette.haze,
        palette.spark.mix(palette.warm, 0.3),
        palette.dark,
    ]
    ground = colours[int(rng.choice([0, 1, 2, 3, 6]))].mix(palette.dark, between(rng, 0.1, 0.5))
    colours = [colour for colour in colours if abs(colour.L - ground.L) > _APART]
    wash = fractal(rng, width, height, cells=2, octaves=7, gain=0.62)
    canvas.lay(ground, 1)
    canvas.planes[0] += wash * np.float32(0.018)
    count = int(rng.choice([2, 3, 3, 4]))
    heights = rng.dirichlet(np.full(count, 5.0)) * 0.86
    margin_x, gap = canvas.aspect * between(rng, 0.05, 0.09), between(rng, 0.018, 0.035)
    rough = fractal(rng, width, height, cells=5, octaves=6, gain=0.62) * np.float32(0.011)
    sway = fractal(rng, width, height, cells=1.5, octaves=2) * np.float32(0.012)
    thin = fractal(rng, width, height, cells=3, octaves=6, gain=0.66, stretch=1.8)
    top = 0.07
    picks = rng.permutation(len(colours))
    for index, part in enumerate(heights):
        colour = colours[int(picks[index % len(picks)])]
        bottom = top + float(part) - gap
        for layer in range(4):
            # Other places of the same noise are noise enough, and cost nothing.
            shift = (int(rng.integers(height)), int(rng.integers(width)))
            edge = np.roll(rough, shift, (0, 1)) + np.roll(sway, shift[::-1], (0, 1))
            inset = margin_x + rng.normal() * 0.008
            reach = np.minimum(
                np.minimum(canvas.x - inset, canvas.aspect - inset - canvas.x),
                np.minimum(canvas.y - top, bottom - canvas.y),
            )
            feather = 0.035 - 0.006 * layer
            cover = smoothstep(-feather, feather, reach + edge)
            body = np.float32(0.5) + np.float32(0.22) * np.roll(thin, shift, (0, 1))
            tint = colour.lit(between(rng, -0.04, 0.04)).mix(ground, 0.25 if layer == 0 else 0.0)
            canvas.lay(tint, np.clip(cover * body, 0, 1))
        top = bottom + gap
    canvas.flow_weight[:] = 0.8
    canvas.flow[:] = wash * 0.15


def archipelago(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Islands seen from above, in contour bands, with soundings and routes between."""
    width, height = canvas.width, canvas.height
    land = fractal(rng, width, height, cells=2.6, octaves=7, gain=0.44)
    tilt = between(rng, -0.9, 0.9)
    spine = (canvas.y - 0.5) - tilt * (canvas.x / canvas.aspect - 0.5)
    land -= np.float32(2.2) * spine**2 + np.float32(between(rng, 0.0, 0.35))
    sea_level = 0.25
    deep = palette.cool.mix(palette.dark, 0.35)
    shoal = palette.haze.mix(palette.cool, 0.35)
    stops = [
        (-2.6, deep.mix(palette.dark, 0.35)),
        (-0.9, deep),
        (sea_level - 0.1, shoal),
        (sea_level, palette.paper.mix(shoal, 0.4)),
        (sea_level + 0.12, palette.haze.mix(palette.warm, 0.25)),
        (sea_level + 0.9, palette.middle.mix(palette.warm, 0.3)),
        (sea_level + 1.9, palette.shade),
    ]
    step = 0.16
    banded = (np.floor(land / step) + 0.5) * np.float32(step)
    canvas.lay(canvas.gradient(stops, banded * 0.75 + land * 0.25), 1)
    slope_y, slope_x = np.gradient(land)
    light = np.clip((-slope_x - slope_y) * height * 0.02, -1, 1) * (land > sea_level)
    canvas.planes[0] += light.astype(np.float32) * 0.10
    fraction = np.abs(land / step - np.round(land / step))
    steep = np.sqrt(slope_x**2 + slope_y**2) / step + 1e-4
    line = smoothstep(1.1, 0.3, (fraction / steep).astype(np.float32))
    ink = palette.dark.mix(palette.cool, 0.2)
    canvas.lay(ink, line * np.where(land > sea_level, 0.34, 0.18).astype(np.float32))
    coast = smoothstep(2.2, 0.7, (np.abs(land - sea_level) / (steep * step)).astype(np.float32))
    canvas.lay(ink, coast * 0.8)
    grain = fractal(rng, width, height, cells=40, octaves=3)
    canvas.planes[0] += grain * np.float32(0.008)
    _routes(canvas, rng, palette, land < sea_level)
    canvas.flow[:] = np.arctan2(slope_x, -slope_y)
    canvas.flow_weight[:] = 0.8


def _routes(canvas: Canvas, rng: Random, palette: Palette, water: np.ndarray) -> None:
    """Dotted sailing routes, on water only."""
    for _ in range(int(rng.integers(3, 6))):
        start, end = rng.random(2), rng.random(2)
        bow = rng.normal() * 0.25
        t = np.linspace(0, 1, 90)
        x = (start[0] + (end[0] - start[0]) * t) * canvas.aspect + bow * np.sin(np.pi * t)
        y = start[1] + (end[1] - start[1]) * t + bow * 0.6 * np.sin(np.pi * t)
        dots = []
        for u, v in zip(x, y, strict=True):
            row, column = int(v * canvas.height), int(u * canvas.height)
            if 0 <= row < canvas.height and 0 <= column < canvas.width and water[row, column]:
                size = 0.0026
                dots.append(around((float(u), float(v)), size, (-1, 0, 1, 0), (0, -1, 0, 1)))
        canvas.shape(dots, palette.warm, opacity=0.9)


def currents(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """A vortex of light: bands of colour carried round by eddies, brightest at its eye."""
    width, height = canvas.width, canvas.height
    eye = (canvas.aspect * between(rng, 0.3, 0.7), between(rng, 0.38, 0.6))
    x = np.broadcast_to(canvas.x, (height, width)).copy()
    y = np.broadcast_to(canvas.y, (height, width)).copy()
    eddies = [(eye, between(rng, 0.34, 0.5), between(rng, 1.4, 2.8) * float(rng.choice([-1, 1])))]
    for _ in range(int(rng.integers(3, 6))):
        at = (canvas.aspect * rng.random(), float(rng.random()))
        eddies.append((at, between(rng, 0.12, 0.28), rng.normal() * 1.5))
    for (u, v), radius, turn in eddies:
        dx, dy = x - u, y - v
        angle = np.float32(turn) * np.exp(-(dx * dx * 0.6 + dy * dy) / (radius * radius))
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = u + dx * cos - dy * sin, v + dx * sin + dy * cos
    fold = fractal(rng, width, height, cells=3, octaves=6, gain=0.5)
    lean = between(rng, -1.1, 1.1)
    across = y + lean * (x - eye[0]) + fold * 0.028
    tones = [palette.cool.mix(palette.dark, 0.4), palette.haze, palette.middle, palette.paper]
    tones += [palette.warm.mix(palette.middle, 0.45), palette.shade, palette.dark]
    places = np.sort(rng.random(len(tones))) * 0.5 + np.linspace(-0.1, 0.6, len(tones))
    stops = [(float(at), colour) for at, colour in zip(places, tones, strict=True)]
    canvas.lay(canvas.gradient(stops, across), 1)
    strands = np.sin(across * 42 + fold * 1.6) * 0.5 + np.sin(across * 97 + 2.0) * 0.3
    canvas.planes[0] += strands.astype(np.float32) * np.float32(0.022)
    canvas.glow(eye, 0.26, palette.spark, 0.75)
    canvas.glow(eye, 0.07, palette.spark.lit(0.02), 0.6)
    slope_y, slope_x = np.gradient(across)
    canvas.flow[:] = np.arctan2(slope_x, -slope_y)
    canvas.flow_weight[:] = 1.0
