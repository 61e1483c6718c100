"""Land: hills behind hills in the haze, and a village by the river."""

from __future__ import annotations

import numpy as np

from generator.engines.sketch.painting.canvas import (
    Canvas,
    Point,
    between,
    ellipse,
    rectangle,
    streams,
)
from generator.engines.sketch.painting.colour import Lab
from generator.engines.sketch.painting.motifs.sky import luminary, reflection, sky
from generator.engines.sketch.painting.noise import Random, fractal, profile, smoothstep
from generator.engines.sketch.painting.palettes import Palette

_PLOT = 0.16
"""Least distance between two houses, in picture heights."""


def hills(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Layered hills in atmospheric perspective under a low sun, trees in the foreground."""
    night = streams(rng, 0.15)
    horizon = between(rng, 0.42, 0.6)
    low = sky(canvas, rng, palette, horizon, night=night)
    luminary(canvas, rng, palette, horizon, night=night)
    count = int(rng.integers(4, 7))
    for layer in range(count):
        near = layer / (count - 1)
        base = horizon - 0.06 + (1.02 - horizon) * near**1.35 * 0.78
        ridge(canvas, rng, palette, base, near=near, mist=low)
    trees(canvas, rng, palette, between(rng, 0.86, 0.93))


def ridge(
    canvas: Canvas, rng: Random, palette: Palette, base: float, *, near: float, mist: Lab
) -> None:
    """One ridge: its crest around `base`, as hazy as it is far (`near` 0 to 1)."""
    roughness = 0.045 + 0.05 * (1 - abs(near - 0.4))
    crest = base + profile(rng, canvas.width, cells=2.0 + 2 * near, gain=0.42) * roughness * 0.8
    depth = canvas.y - crest[None, :]
    mask = smoothstep(-0.001, 0.003, depth)
    colour = mist.mix(palette.cool, 0.35).mix(palette.shade.mix(palette.cool, 0.25), near**0.9)
    colour = colour.mix(palette.dark, max(0.0, near - 0.55) * 1.1)
    foot = mist.mix(colour, 0.35 + 0.5 * near)
    planes = canvas.gradient([(0.0, colour), (0.16 + 0.2 * near, foot)], depth)
    relief = fractal(rng, canvas.width, canvas.height, cells=6 + 8 * near, octaves=5, stretch=1.6)
    slope = np.gradient(crest) * canvas.height
    lit = np.clip(relief * 0.5 - slope[None, :] * 0.12, -1.4, 1.4)
    planes[0] += lit * np.float32(0.012 + 0.028 * near)
    sunlit = palette.warm.mix(palette.spark, 0.4)
    share = smoothstep(0.2, 1.4, lit) * np.float32(0.10 + 0.16 * near)
    for index in range(3):
        planes[index] += (np.float32(sunlit[index]) - planes[index]) * share
    canvas.lay(planes, mask)
    inside = mask.astype(bool)
    canvas.flow[inside] = np.broadcast_to(np.arctan(slope * 0.6)[None, :], mask.shape)[inside]
    canvas.flow_weight[inside] = 0.55


def trees(canvas: Canvas, rng: Random, palette: Palette, ground: float) -> None:
    """A dark foreground with clumps of trees at one side, their crowns lit from the sky."""
    left = streams(rng, 0.5)
    line = ground + profile(rng, canvas.width, cells=4) * 0.012
    lean = canvas.x if left else canvas.aspect - canvas.x
    line = line[None, :] + (lean / canvas.aspect - 0.5) * 0.1
    earth = palette.dark.mix(palette.shade, 0.25)
    texture = fractal(rng, canvas.width, canvas.height, cells=24, octaves=3, stretch=2)
    planes = canvas.gradient(
        [(0, earth.mix(palette.warm, 0.12).lit(0.04)), (0.2, earth)], canvas.y - line
    )
    planes[0] += texture * np.float32(0.016)
    canvas.lay(planes, smoothstep(-0.002, 0.004, canvas.y - line))
    side = 0.16 if left else 0.84
    for _ in range(int(rng.integers(3, 7))):
        x = canvas.aspect * (side + between(rng, -0.16, 0.16))
        column = min(max(int(x * canvas.height), 0), canvas.width - 1)
        foot = float(line[0, column]) + 0.015
        if streams(rng, 0.45):
            palm(canvas, rng, palette, (x, foot), between(rng, 0.22, 0.42))
        else:
            crown(canvas, rng, palette, (x, foot), between(rng, 0.14, 0.3))


def crown(canvas: Canvas, rng: Random, palette: Palette, foot: Point, height: float) -> None:
    """A broad tree: a trunk and clumps of leaves, darker below."""
    x, y = foot
    dark = palette.dark.mix(palette.shade, 0.2)
    lean = between(rng, -0.02, 0.02)
    trunk = [
        (x - 0.007, y),
        (x + 0.007, y),
        (x + lean + 0.004, y - height * 0.7),
        (x + lean - 0.004, y - height * 0.7),
    ]
    canvas.shape([trunk], dark)
    leaf = palette.shade.mix(palette.cool, 0.3)
    for layer, paint in enumerate((dark, dark.mix(leaf, 0.5), leaf.mix(palette.warm, 0.15))):
        clumps = [
            ellipse(
                (
                    x + lean + rng.normal() * height * 0.22,
                    y - height * (0.68 + 0.08 * layer) + rng.normal() * height * 0.11,
                ),
                height * between(rng, 0.07, 0.19) * (1 - 0.22 * layer),
                height * between(rng, 0.05, 0.11) * (1 - 0.22 * layer),
                turn=between(rng, -0.4, 0.4),
                corners=12,
            )
            for _ in range(11 - 2 * layer)
        ]
        canvas.shape(clumps, paint, opacity=0.92, soften=0.002)


def palm(canvas: Canvas, rng: Random, palette: Palette, foot: Point, height: float) -> None:
    """A coconut palm: a leaning trunk and drooping fronds."""
    x, y = foot
    lean = between(rng, -0.28, 0.28) * height
    spine = [(x + lean * t * t, y - height * t) for t in np.linspace(0, 1, 9)]
    thick = height * 0.022
    outline = [(u - thick * (1.3 - i / 12), v) for i, (u, v) in enumerate(spine)]
    outline += [(u + thick * (1.3 - i / 12), v) for i, (u, v) in reversed(list(enumerate(spine)))]
    dark = palette.dark.mix(palette.shade, 0.25)
    canvas.shape([outline], dark)
    top = spine[-1]
    count = int(rng.integers(9, 14))
    for index in range(count):
        angle = np.pi * (-1.08 + 1.16 * index / (count - 1)) + rng.normal() * 0.08
        length = height * between(rng, 0.3, 0.44)
        droop = length * between(rng, 0.35, 0.75)
        paint = dark.mix(palette.shade.mix(palette.cool, 0.25), between(rng, 0, 0.7))
        canvas.shape(frond(top, float(angle), length, droop), paint)


def frond(
    at: Point, angle: float, length: float, droop: float, *, leaflets: int = 15
) -> list[list[Point]]:
    """The polygons of one drooping palm frond: leaflets on either side of a bent rib."""
    polygons = []
    rib = [
        (
            at[0] + float(np.cos(angle)) * length * t,
            at[1] + float(np.sin(angle)) * length * t + droop * t * t,
        )
        for t in np.linspace(0, 1, leaflets)
    ]
    for index in range(1, leaflets):
        (x0, y0), (x1, y1) = rib[index - 1], rib[index]
        polygons.append([(x0, y0 - 0.0012), (x1, y1), (x0, y0 + 0.0016)])
        along = float(np.arctan2(y1 - y0, x1 - x0))
        t = index / leaflets
        reach = length * 0.30 * (float(np.sin(np.pi * min(t * 0.9 + 0.1, 1.0))) + 0.12)
        for side in (-1, 1):
            turn = along + side * (0.75 - 0.3 * t)
            tip = (x1 + float(np.cos(turn)) * reach, y1 + float(np.sin(turn)) * reach + reach * 0.3)
            polygons.append([(x0, y0), tip, (x1 + (x1 - x0) * 0.5, y1 + (y1 - y0) * 0.5)])
    return polygons


def village(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Houses on stilts under palms, along a river that mirrors them."""
    night = streams(rng, 0.3)
    bank = between(rng, 0.6, 0.68)
    low = sky(canvas, rng, palette, bank, night=night)
    light = luminary(canvas, rng, palette, bank, night=night)
    for layer in range(2):
        ridge(canvas, rng, palette, bank - 0.16 + 0.07 * layer, near=0.15 + 0.3 * layer, mist=low)
    grove = bank - 0.05 - np.abs(profile(rng, canvas.width, cells=7, gain=0.6)) * 0.045
    green = palette.shade.mix(palette.cool, 0.35).mix(palette.dark, 0.3)
    texture = fractal(rng, canvas.width, canvas.height, cells=22, octaves=3)
    planes = np.stack([np.full_like(texture, value) for value in green])
    planes[0] += texture * np.float32(0.025)
    canvas.lay(planes, smoothstep(-0.003, 0.006, canvas.y - grove[None, :]))
    centre = canvas.aspect * between(rng, 0.3, 0.7)
    places = sorted(centre + rng.normal() * canvas.aspect * 0.26 for _ in range(7))
    for x in places:
        palm(canvas, rng, palette, (x + rng.normal() * 0.08, bank), between(rng, 0.2, 0.42))
    last = -1.0
    for x in places:
        if x - last > _PLOT:
            house(canvas, rng, palette, (x, bank), between(rng, 0.13, 0.2), night=night)
            last = x
    reflection(canvas, rng, palette, bank, light=light, calm=0.82)
    shore = smoothstep(0.012, 0.0, np.abs(canvas.y - bank) * np.ones_like(texture))
    canvas.lay(palette.dark.mix(palette.warm, 0.15), shore * 0.55)


def house(
    canvas: Canvas, rng: Random, palette: Palette, foot: Point, size: float, *, night: bool
) -> None:
    """One house on stilts, half in light, with a steep thatched roof."""
    x, y = foot
    wide, floor, eave = size * 0.5, y - size * 0.28, y - size * 0.62
    dark = palette.dark.mix(palette.warm, 0.12)
    wall = palette.middle.mix(palette.paper, between(rng, 0.0, 0.45))
    if night:
        wall = wall.mix(palette.shade, 0.6)
    stilts = [
        rectangle(x + offset * wide - 0.003, floor, x + offset * wide + 0.003, y + 0.004)
        for offset in (-0.85, -0.3, 0.3, 0.85)
    ]
    below = rectangle(x - wide * 0.9, floor, x + wide * 0.9, y)
    canvas.shape([below], dark, opacity=0.45, soften=0.006)
    canvas.shape(stilts, dark)
    front = rectangle(x - wide * 0.9, eave, x + wide * 0.9, floor)
    canvas.shape([front], wall.mix(palette.shade, 0.4))
    canvas.shape([rectangle(x - wide * 0.9, eave, x + wide * 0.15, floor)], wall)
    opening = palette.spark if night or streams(rng, 0.3) else dark
    for offset in (-0.55, 0.5):
        at = x + offset * wide
        door = rectangle(at - wide * 0.13, eave + size * 0.1, at + wide * 0.13, floor)
        canvas.shape([door], opening)
    roof = palette.shade.mix(palette.warm, between(rng, 0.2, 0.65))
    ridge_y = eave - size * between(rng, 0.34, 0.46)
    left = [(x - wide * 1.18, eave), (x - wide * 0.5, ridge_y)]
    whole = [*left, (x + wide * 0.62, ridge_y), (x + wide * 1.2, eave)]
    canvas.shape([whole], roof.mix(palette.dark, 0.35))
    canvas.shape([[*left, (x + wide * 0.2, ridge_y), (x + wide * 0.3, eave)]], roof.lit(0.05))
    if night:
        canvas.glow((x, eave + size * 0.15), size * 0.5, palette.spark, 0.22)
