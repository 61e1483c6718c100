"""People: a crowd in a public space."""

from __future__ import annotations

import numpy as np

from generator.engines._sketch.canvas import Canvas, Point, between, ellipse, smooth_path, streams
from generator.engines._sketch.colour import Lab, lab
from generator.engines._sketch.noise import Random, fractal, smoothstep
from generator.engines._sketch.palettes import Palette

SKIN = ("8a5a3f", "a8714f", "b98460", "6e4a38", "c49a78", "94644a")
"""Complexions, as ``rrggbb``; light and haze are mixed in."""


def crowd(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Rows of standing and seated people under one light, fading into haze behind."""
    light = 1 if streams(rng, 0.5) else -1
    horizon = between(rng, 0.24, 0.36)
    source = canvas.aspect * (0.5 + 0.34 * light)
    warp = fractal(rng, canvas.width, canvas.height, cells=3, octaves=4) * 0.04
    wall = palette.haze.mix(palette.paper, 0.5)
    floor = palette.middle.mix(palette.haze, 0.35)
    canvas.lay(
        canvas.gradient(
            [
                (0, palette.haze.mix(palette.cool, 0.45)),
                (horizon, wall),
                (horizon + 0.1, floor),
                (1, palette.shade),
            ],
            canvas.y + warp,
        ),
        1,
    )
    _arcade(canvas, rng, palette, horizon)
    canvas.glow((source, horizon * 0.6), 0.35, palette.spark, 0.55)
    rows = int(rng.integers(5, 8))
    for row in range(rows):
        near = row / (rows - 1)
        size = 0.16 + 0.52 * near**1.5
        top = horizon - 0.02 + 0.40 * near**1.25
        pace = size * 0.44
        x = -between(rng, 0, pace)
        while x < canvas.aspect + pace:
            gap = streams(rng, 0.10 + 0.1 * near)
            if not gap:
                at = (x + rng.normal() * pace * 0.14, top + rng.normal() * size * 0.05)
                _figure(
                    canvas,
                    rng,
                    palette,
                    at,
                    size=size * between(rng, 0.88, 1.1),
                    near=near,
                    light=light,
                )
            x += pace * between(rng, 0.72, 1.2)
        if row < rows - 1:
            veil = smoothstep(top - 0.05, top + size, canvas.y + np.zeros_like(warp))
            canvas.lay(wall.mix(palette.spark, 0.15), veil * 0.16 * (1 - near))


def _arcade(canvas: Canvas, rng: Random, palette: Palette, horizon: float) -> None:
    """Pale architecture behind: arches, or the trunks of trees."""
    paint = palette.haze.mix(palette.shade, 0.4)
    count = int(rng.integers(4, 8))
    for index in range(count):
        x = canvas.aspect * (index + 0.5) / count + rng.normal() * 0.02
        wide = canvas.aspect / count * 0.3
        arch = [(x - wide, horizon + 0.2), (x - wide, horizon * 0.62)]
        arch += [
            (x - wide * float(np.cos(t)), horizon * 0.62 - wide * 0.9 * float(np.sin(t)))
            for t in np.linspace(0, np.pi, 12)
        ]
        arch += [(x + wide, horizon * 0.62), (x + wide, horizon + 0.2)]
        canvas.shape([arch], paint, opacity=0.6, soften=0.006)


def _figure(
    canvas: Canvas,
    rng: Random,
    palette: Palette,
    at: Point,
    *,
    size: float,
    near: float,
    light: int,
) -> None:
    """One person, head at `at`: body, garment, head and hair, lit from one side."""
    x, y = at
    head = size * 0.088
    garments = (
        palette.paper,
        palette.warm,
        palette.cool,
        palette.middle,
        palette.shade,
        palette.haze,
    )
    cloth = garments[int(rng.choice(6, p=[0.3, 0.13, 0.17, 0.14, 0.18, 0.08]))]
    distance = 0.62 * (1 - near) ** 1.2
    haze = palette.haze.mix(palette.paper, 0.35)
    cloth = cloth.lit(between(rng, -0.08, 0.0), 0.85).mix(haze, distance)
    skin = lab(SKIN[int(rng.integers(len(SKIN)))]).mix(palette.warm, 0.12).mix(haze, distance)
    dark = palette.dark.mix(palette.shade, 0.1).mix(haze, distance)
    wide = size * between(rng, 0.15, 0.185)
    neck, waist, foot = y + head * 1.15, y + size * 0.48, y + size * 1.05
    turn = between(rng, -0.25, 0.25) * head
    body = smooth_path(
        [
            (x - head * 0.42, neck - head * 0.2),
            (x - wide * 0.82, neck + size * 0.045),
            (x - wide * 1.04, waist - size * 0.16),
            (x - wide * between(rng, 0.82, 1.0), waist),
            (x - wide * between(rng, 0.7, 0.95), foot),
            (x + wide * between(rng, 0.7, 0.95), foot),
            (x + wide * between(rng, 0.82, 1.0), waist),
            (x + wide * 1.04, waist - size * 0.16),
            (x + wide * 0.82, neck + size * 0.045),
            (x + head * 0.42, neck - head * 0.2),
        ],
        per=4,
    )
    shadow = cloth.mix(palette.dark.mix(palette.cool, 0.35), 0.5).mix(haze, distance * 0.5)
    canvas.shape(
        [[(u - light * head * 0.5, v) for u, v in body]], dark, opacity=0.22, soften=size * 0.03
    )
    canvas.shape([body], shadow)
    lit = [(x + (u - x) * 0.62 + light * wide * 0.3, v + size * 0.012) for u, v in body]
    canvas.shape([lit], cloth, soften=size * 0.018)
    if streams(rng, 0.75):
        skirt = [(u, v) for u, v in body if v > waist - size * 0.02]
        canvas.shape([skirt], dark.mix(cloth, 0.25), opacity=0.75, soften=size * 0.008)
    canvas.shape(
        [ellipse((x, neck - head * 0.15), head * 0.42, head * 0.55, corners=12)],
        skin.mix(dark, 0.35),
    )
    face = (x + turn, y)
    canvas.shape([ellipse(face, head * 0.76, head, corners=18)], skin.mix(dark, 0.42))
    canvas.shape(
        [
            ellipse(
                (face[0] + light * head * 0.24, y + head * 0.06),
                head * 0.46,
                head * 0.82,
                corners=16,
            )
        ],
        skin.lit(0.07).mix(palette.spark, 0.14),
        soften=head * 0.12,
    )
    canvas.shape(
        [
            ellipse(
                (face[0] + light * head * 0.1, y + head * 0.08), head * 0.5, head * 0.12, corners=10
            )
        ],
        skin.mix(dark, 0.6),
        opacity=0.5,
        soften=head * 0.06,
    )
    _hair(canvas, rng, palette, face, head=head, dark=dark, light=light)


def _hair(
    canvas: Canvas,
    rng: Random,
    palette: Palette,
    at: Point,
    *,
    head: float,
    dark: Lab,
    light: int,
) -> None:
    x, y = at
    if streams(rng, 0.16):
        brim = palette.paper.mix(palette.middle, 0.4).mix(dark, 0.25)
        canvas.shape(
            [
                [
                    (x - head * 1.7, y - head * 0.45),
                    (x, y - head * 1.75),
                    (x + head * 1.7, y - head * 0.45),
                ]
            ],
            brim,
        )
        canvas.shape(
            [
                [
                    (x - light * head * 1.7, y - head * 0.45),
                    (x, y - head * 1.75),
                    (x - light * head * 0.1, y - head * 0.45),
                ]
            ],
            dark,
            opacity=0.4,
        )
        return
    low = head * (0.5 if streams(rng, 0.45) else -0.05)
    crown = smooth_path(
        [
            (x - head * 0.84, y + low),
            (x - head * 0.86, y - head * 0.5),
            (x, y - head * 1.14),
            (x + head * 0.86, y - head * 0.5),
            (x + head * 0.84, y + low),
            (x + head * 0.5, y - head * 0.35),
            (x, y - head * 0.5),
            (x - head * 0.5, y - head * 0.35),
        ],
        per=4,
    )
    canvas.shape([crown], dark)
