"""A quiet interior with light from a window, after Hammershøi."""

from __future__ import annotations

import numpy as np

from generator.engines._sketch.canvas import (
    Canvas,
    Point,
    between,
    ellipse,
    rectangle,
    smooth_path,
    streams,
)
from generator.engines._sketch.colour import Lab
from generator.engines._sketch.motifs.still_life import vessel
from generator.engines._sketch.noise import Random, fractal, smoothstep
from generator.engines._sketch.palettes import Palette


def interior(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """A room with its window's light on wall and floor: a door, a table, perhaps someone."""
    floor = between(rng, 0.66, 0.74)
    wall = palette.haze.mix(palette.paper, between(rng, 0.0, 0.35))
    _walls(canvas, rng, palette, floor, wall)
    _window(canvas, rng, palette, floor)
    _door(canvas, rng, palette, floor, wall)
    middle = canvas.aspect * between(rng, 0.44, 0.52)
    if streams(rng, 0.7):
        _picture(canvas, rng, palette, (middle, between(rng, 0.26, 0.34)))
    figure_first = streams(rng, 0.5)
    if figure_first:
        _figure(canvas, rng, palette, (canvas.aspect * between(rng, 0.62, 0.70), floor + 0.1))
    _table(canvas, rng, palette, middle, floor)
    if not figure_first and streams(rng, 0.4):
        _figure(canvas, rng, palette, (canvas.aspect * between(rng, 0.34, 0.40), floor + 0.15))
    canvas.glow((canvas.aspect * 0.16, 0.36), 0.4, palette.spark, 0.22)
    if streams(rng, 0.5):
        canvas.mirror()


def _walls(canvas: Canvas, rng: Random, palette: Palette, floor: float, wall: Lab) -> None:
    """The wall, darker away from the window, a skirting board and floor boards."""
    plaster = fractal(rng, canvas.width, canvas.height, cells=3, octaves=6, gain=0.55)
    far = wall.mix(palette.shade, between(rng, 0.45, 0.7))
    along = canvas.x / canvas.aspect + (canvas.y - 0.45) ** 2 * 0.5 + plaster * 0.025
    stops = [
        (0.0, wall.mix(palette.shade, 0.3)),
        (0.2, wall),
        (0.5, wall.mix(far, 0.45)),
        (1.0, far),
    ]
    canvas.lay(canvas.gradient(stops, along), 1)
    boards = palette.middle.mix(palette.shade, 0.45)
    deep = canvas.y + plaster * 0.01
    ground = canvas.gradient([(floor, boards.mix(palette.dark, 0.3)), (1.0, boards)], deep)
    fan = (canvas.x - canvas.aspect * 0.5) / (0.35 + (canvas.y - floor).clip(0)) * 14
    ground[0] += np.sin(fan).astype(np.float32) * np.float32(0.014) + plaster * np.float32(0.014)
    canvas.lay(ground, smoothstep(floor - 0.002, floor + 0.002, canvas.y + plaster * 0))
    below = canvas.y >= floor
    canvas.flow[below[:, 0]] = np.arctan2(canvas.y - floor + 0.35, canvas.x - canvas.aspect * 0.5)[
        below[:, 0]
    ]
    skirting = rectangle(0, floor - 0.03, canvas.aspect, floor)
    canvas.shape([skirting], wall.mix(palette.paper, 0.35), opacity=0.7)
    line = rectangle(0, floor - 0.002, canvas.aspect, floor + 0.006)
    canvas.shape([line], palette.dark, opacity=0.5, soften=0.002)


def _window(canvas: Canvas, rng: Random, palette: Palette, floor: float) -> None:
    """A tall window with six panes, and the sun through it on the wall and on the floor."""
    unit = canvas.aspect
    left, right, top, bottom = 0.075 * unit, 0.225 * unit, 0.11, floor - 0.16
    frame = palette.paper.mix(palette.shade, 0.3)
    reveal = rectangle(left - 0.035, top - 0.04, right + 0.035, bottom + 0.04)
    canvas.shape([reveal], palette.shade, opacity=0.5, soften=0.008)
    canvas.shape([rectangle(left - 0.022, top - 0.028, right + 0.022, bottom + 0.03)], frame)
    sill = rectangle(left - 0.04, bottom + 0.02, right + 0.04, bottom + 0.04)
    canvas.shape([sill], palette.paper)
    sun = palette.spark.mix(palette.warm, 0.06)
    drop, slide = between(rng, 0.1, 0.2), between(rng, 0.19, 0.26) * unit
    wide, high = (right - left) / 2, (bottom - top) / 3
    for column in range(2):
        for row in range(3):
            x, y = left + wide * column, top + high * row
            pane = rectangle(x + wide * 0.07, y + high * 0.06, x + wide * 0.93, y + high * 0.94)
            sky = palette.spark.lit(0.03).mix(palette.cool.mix(palette.haze, 0.6), 0.16 * row)
            canvas.shape([pane], sky)
            u, v = x + slide, y + drop
            cast = [
                (u + wide * 0.1, v),
                (u + wide * 0.86, v + 0.03),
                (u + wide * 0.86, v + high * 0.84 + 0.03),
                (u + wide * 0.1, v + high * 0.84),
            ]
            canvas.shape([cast], sun, opacity=0.6, soften=0.005)
    for start, end in ((0.16, 0.27), (0.285, 0.40)):
        patch = [
            (start * unit, floor + 0.05),
            (end * unit, floor + 0.035),
            ((end * 1.45 - 0.03) * unit, 0.985),
            ((start * 1.45 + 0.01) * unit, 1.0),
        ]
        canvas.shape([patch], sun, opacity=0.55, soften=0.010)


def _door(canvas: Canvas, rng: Random, palette: Palette, floor: float, wall: Lab) -> None:
    """A door standing open on a darker room."""
    unit = canvas.aspect
    left, right, top = 0.78 * unit, 0.91 * unit, 0.16
    casing = rectangle(left - 0.022, top - 0.028, right + 0.022, floor)
    canvas.shape([casing], wall.mix(palette.paper, 0.3))
    canvas.shape([rectangle(left, top, right, floor)], palette.dark.mix(palette.shade, 0.45))
    beyond = palette.middle.mix(palette.warm, between(rng, 0.0, 0.5))
    inside = rectangle(left + 0.35 * (right - left), top + 0.05, right, floor - 0.03)
    canvas.shape([inside], beyond, opacity=0.6, soften=0.012)
    leaf = [(left, top), (left - 0.1, top - 0.04), (left - 0.1, floor + 0.07), (left, floor)]
    canvas.shape([leaf], wall.mix(palette.paper, 0.4))
    for low, high in ((0.06, 0.22), (0.28, 0.46)):
        panel = [
            (left - 0.02, top + low),
            (left - 0.08, top + low - 0.012),
            (left - 0.08, top + high + 0.012),
            (left - 0.02, top + high),
        ]
        canvas.shape([panel], wall.mix(palette.shade, 0.35), opacity=0.6, soften=0.002)


def _picture(canvas: Canvas, rng: Random, palette: Palette, at: Point) -> None:
    """A small framed landscape and its shadow on the wall."""
    x, y = at
    wide, high = between(rng, 0.07, 0.11), between(rng, 0.07, 0.11)
    shadow = rectangle(x - wide + 0.012, y - high + 0.016, x + wide + 0.014, y + high + 0.018)
    canvas.shape([shadow], palette.dark, opacity=0.35, soften=0.008)
    frame = rectangle(x - wide, y - high, x + wide, y + high)
    canvas.shape([frame], palette.dark.mix(palette.warm, 0.3))
    inner = rectangle(x - wide * 0.86, y - high * 0.84, x + wide * 0.86, y + high * 0.84)
    canvas.shape([inner], palette.cool.mix(palette.haze, 0.6))
    hill = [
        (x - wide * 0.86, y + high * 0.2),
        (x - wide * 0.2, y - high * 0.2),
        (x + wide * 0.86, y + high * 0.3),
        (x + wide * 0.86, y + high * 0.84),
        (x - wide * 0.86, y + high * 0.84),
    ]
    canvas.shape([hill], palette.shade.mix(palette.warm, 0.25))


def _table(canvas: Canvas, rng: Random, palette: Palette, middle: float, floor: float) -> None:
    """A table with a book and vessels."""
    half, top = between(rng, 0.2, 0.27), floor - 0.04
    wood = palette.shade.mix(palette.warm, 0.35).mix(palette.dark, 0.3)
    shadow = [
        (middle - half, floor + 0.2),
        (middle + half + 0.12, floor + 0.17),
        (middle + half + 0.2, floor + 0.22),
        (middle - half + 0.03, floor + 0.24),
    ]
    canvas.shape([shadow], palette.dark, opacity=0.5, soften=0.015)
    for share, length in ((-0.94, 0.23), (-0.74, 0.16), (0.72, 0.16), (0.92, 0.23)):
        leg = middle + half * share
        foot = top + length
        polygon = [(leg, top), (leg + 0.014, top), (leg + 0.010, foot), (leg + 0.004, foot)]
        canvas.shape([polygon], wood.mix(palette.dark, 0.3))
    board = [
        (middle - half, top + 0.035),
        (middle + half, top + 0.035),
        (middle + half * 0.86, top - 0.035),
        (middle - half * 0.86, top - 0.035),
    ]
    canvas.shape([board], wood.mix(palette.spark, 0.35))
    canvas.shape([rectangle(middle - half, top + 0.035, middle + half, top + 0.065)], wood)
    book = (middle + half * between(rng, -0.1, 0.2), top + 0.015)
    cover = rectangle(book[0] - 0.05, book[1] - 0.02, book[0] + 0.05, book[1])
    canvas.shape([cover], palette.warm.mix(palette.shade, 0.2))
    pages = rectangle(book[0] - 0.045, book[1] - 0.036, book[0] + 0.04, book[1] - 0.02)
    canvas.shape([pages], palette.paper)
    for share in (-0.55, 0.62):
        at = (middle + half * share, top + between(rng, -0.01, 0.015))
        vessel(canvas, rng, palette, at, between(rng, 0.11, 0.18), light=-1)


def _figure(canvas: Canvas, rng: Random, palette: Palette, foot: Point) -> None:
    """Someone in a dark dress, seen from behind, the light on one shoulder and the neck."""
    x, y = foot
    size = between(rng, 0.52, 0.6)
    head = size * 0.075
    dress = palette.dark.mix(palette.cool, between(rng, 0.05, 0.3)).lit(0.04)
    skin = palette.paper.mix(palette.warm, 0.35).mix(palette.middle, 0.25)
    top = y - size
    shadow = [(x - 0.05, y - 0.01), (x + 0.2, y - 0.03), (x + 0.26, y + 0.01), (x, y + 0.02)]
    canvas.shape([shadow], palette.dark, opacity=0.45, soften=0.014)
    waist = top + size * 0.42
    half = [0.02, 0.085, 0.10, 0.062, 0.085, 0.125, 0.15]
    down = [
        top + head * 1.9,
        top + size * 0.21,
        top + size * 0.3,
        waist,
        waist + size * 0.1,
        y - size * 0.16,
        y,
    ]
    right = [(x + size * w, v) for w, v in zip(half, down, strict=True)]
    left = [(x - size * w, v) for w, v in zip(reversed(half), reversed(down), strict=True)]
    body = smooth_path([*right, *left], per=5)
    canvas.shape([ellipse((x, top + head * 1.6), head * 0.42, head * 0.9, corners=14)], skin)
    across = (canvas.x - x) / np.float32(size * 0.13) + 0 * canvas.y
    stops = [
        (-1.0, dress.mix(palette.haze, 0.4)),
        (-0.45, dress),
        (1.0, dress.mix(palette.dark, 0.6)),
    ]
    canvas.shape([body], canvas.gradient(stops, across), soften=0.002)
    bow = [
        (x - head * 0.6, waist - 0.006),
        (x + head * 0.6, waist - 0.006),
        (x + head * 0.5, waist + 0.006),
    ]
    canvas.shape([bow], palette.paper, opacity=0.5, soften=0.003)
    hair = palette.dark.mix(palette.warm, 0.22)
    canvas.shape([ellipse((x, top + head * 0.55), head * 0.72, head * 0.85, corners=20)], hair)
    canvas.shape(
        [ellipse((x + head * 0.1, top - head * 0.1), head * 0.36, head * 0.32)], hair.lit(0.03)
    )
    glint = ellipse((x - head * 0.45, top + head * 0.5), head * 0.18, head * 0.5)
    canvas.shape([glint], palette.spark, opacity=0.35, soften=head * 0.15)
