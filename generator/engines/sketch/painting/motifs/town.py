"""The city: blocks behind blocks in the haze, lit windows, a wet street."""

from __future__ import annotations

import numpy as np

from generator.engines.sketch.painting.canvas import Canvas, Point, between, rectangle, streams
from generator.engines.sketch.painting.colour import Lab
from generator.engines.sketch.painting.motifs.sky import luminary, reflection, sky
from generator.engines.sketch.painting.noise import Random, fractal, smoothstep
from generator.engines.sketch.painting.palettes import Palette

_LAYERS = 4
_ROOFS = ("flat", "stepped", "pitched", "spired")
_BLIND = 0.55
"""Share of a facade without a window to be seen, lit ones included."""


def city(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """A skyline at dusk or by day, over water or a wet street."""
    dusk = streams(rng, 0.65)
    ground = between(rng, 0.74, 0.84)
    low = sky(canvas, rng, palette, ground * 0.85, night=dusk and streams(rng, 0.6))
    light = luminary(canvas, rng, palette, ground * 0.8, night=False)
    focus = canvas.aspect * between(rng, 0.3, 0.7)
    for layer in range(_LAYERS):
        near = layer / (_LAYERS - 1)
        haze = low.mix(palette.cool, 0.3)
        body = haze.mix(palette.shade.mix(palette.cool, 0.25), 0.25 + 0.6 * near)
        body = body.mix(palette.dark, max(0.0, near - 0.4) * 0.9)
        _blocks(canvas, rng, palette, ground, near=near, focus=focus, body=body, dusk=dusk)
        mist = smoothstep(ground - 0.34, ground, canvas.y + np.zeros_like(canvas.flow))
        canvas.lay(low.mix(palette.spark, 0.2), mist * (0.34 * (1 - near) ** 1.5))
    reflection(canvas, rng, palette, ground, light=light if dusk else None, calm=0.6)
    kerb = smoothstep(0.008, 0.0, np.abs(canvas.y - ground) + np.zeros_like(canvas.flow))
    canvas.lay(palette.dark, kerb * 0.7)


def _blocks(
    canvas: Canvas,
    rng: Random,
    palette: Palette,
    ground: float,
    *,
    near: float,
    focus: float,
    body: Lab,
    dusk: bool,
) -> None:
    """One row of buildings, tallest around `focus`."""
    x = -between(rng, 0.0, 0.1)
    lit: list[list[Point]] = []
    dim: list[list[Point]] = []
    wear = fractal(rng, canvas.width, canvas.height, cells=10, octaves=3, stretch=0.5)
    while x < canvas.aspect:
        wide = between(rng, 0.06, 0.15) * (0.75 + 0.5 * near)
        swell = float(np.exp(-(((x - focus) / (0.5 * canvas.aspect)) ** 2)))
        tall = (0.14 + 0.42 * swell * rng.random() ** 1.3 + 0.05) * (1.18 - 0.45 * near)
        top = ground - tall
        paint = body.mix(palette.warm, rng.random() * 0.14).lit(between(rng, -0.03, 0.03))
        outline = _outline(rng, x, wide, top, ground)
        canvas.shape([outline], paint)
        side = wide * between(rng, 0.3, 0.55)
        shadow = rectangle(x + wide - side, top, x + wide, ground)
        canvas.shape([shadow], paint.mix(palette.dark, 0.3), opacity=0.7)
        lit_share = (0.10 + 0.26 * near) if dusk else 0.04
        _windows(rng, x, wide, top, ground=ground, near=near, lit_share=lit_share, lit=lit, dim=dim)
        x += wide * between(rng, 0.82, 1.25)
    canvas.shape(dim, body.mix(palette.dark, 0.45), opacity=0.5)
    canvas.shape(lit, palette.spark.mix(palette.warm, 0.15), opacity=0.55 + 0.4 * near)
    below = smoothstep(ground - 0.5, ground - 0.2, canvas.y + np.zeros_like(wear))
    canvas.planes[0] += wear * below * np.float32(0.010)


def _outline(rng: Random, x: float, wide: float, top: float, ground: float) -> list[Point]:
    """A block with a flat, stepped, pitched or spired roof."""
    right = x + wide
    kind = str(rng.choice(_ROOFS, p=(0.5, 0.22, 0.18, 0.1)))
    if kind == "flat":
        roof = [(x, top), (right, top)]
    elif kind == "stepped":
        step = wide * between(rng, 0.18, 0.3)
        rise = wide * between(rng, 0.2, 0.5)
        roof = [
            (x, top),
            (x + step, top),
            (x + step, top - rise),
            (right - step, top - rise),
            (right - step, top),
            (right, top),
        ]
    elif kind == "pitched":
        roof = [(x, top), (x + wide * 0.5, top - wide * between(rng, 0.15, 0.4)), (right, top)]
    else:
        mid = x + wide * 0.5
        tip = top - wide * between(rng, 0.8, 1.5)
        roof = [
            (x, top),
            (mid - wide * 0.12, top - wide * 0.25),
            (mid - 0.0015, tip),
            (mid + 0.0015, tip),
            (mid + wide * 0.12, top - wide * 0.25),
            (right, top),
        ]
    return [*roof, (right, ground), (x, ground)]


def _windows(
    rng: Random,
    x: float,
    wide: float,
    top: float,
    *,
    ground: float,
    near: float,
    lit_share: float,
    lit: list[list[Point]],
    dim: list[list[Point]],
) -> None:
    """Add a block's windows to those that are lit and those that are not."""
    pitch = 0.017 + 0.011 * near
    columns = int((wide - pitch * 0.6) / pitch)
    rows = int((ground - top - pitch) / (pitch * 1.35))
    if columns < 1 or rows < 1:
        return
    draw = rng.random((rows, columns))
    margin = (wide - columns * pitch) / 2
    for row in range(rows):
        y = top + pitch * (0.8 + 1.35 * row)
        for column in range(columns):
            if lit_share < draw[row, column] < _BLIND:
                continue
            left = x + margin + pitch * (column + 0.22)
            pane = rectangle(left, y, left + pitch * 0.55, y + pitch * 0.8)
            (lit if draw[row, column] <= lit_share else dim).append(pane)
