"""A portrait: head and shoulders, modelled by one light."""

from __future__ import annotations

import numpy as np

from generator.engines._sketch.canvas import Canvas, Point, between, ellipse, smooth_path, streams
from generator.engines._sketch.colour import Field, Lab, lab
from generator.engines._sketch.motifs.people import SKIN
from generator.engines._sketch.noise import Random, fractal, smoothstep
from generator.engines._sketch.palettes import Palette


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
            [
                (x0 - size * 1.06, y0 - size * 0.3),
                (x0, y0 - size * 1.5),
                (x0 + size * 1.06, y0 - size * 0.3),
                (x0 + size * 1.15, y0 + size * 1.5),
                (x0 - size * 1.15, y0 + size * 1.5),
            ],
            hair,
        )
    _torso(canvas, rng, palette, (x0, y0), size=size, cloth=cloth, light=light)
    _modelled(
        canvas,
        (x0, y0 + size * 1.05),
        size * 0.46,
        size * 0.75,
        skin=skin.lit(-0.06),
        palette=palette,
        light=light,
    )
    _head(canvas, rng, palette, (x0, y0), size=size, skin=skin, light=light)
    part = between(rng, -0.5, 0.5) * size
    fringe = y0 - size * between(rng, 0.42, 0.72)
    drop = y0 + size * (0.7 if long else -0.1)
    _mass(
        canvas,
        [
            (x0 - size * 1.02, drop),
            (x0 - size * 1.0, y0 - size * 0.7),
            (x0 - size * 0.45, y0 - size * 1.36),
            (x0 + size * 0.45, y0 - size * 1.38),
            (x0 + size * 1.0, y0 - size * 0.7),
            (x0 + size * 1.02, drop),
            (x0 + size * 0.82, y0 - size * 0.25),
            (x0 + part + size * 0.3, fringe),
            (x0 + part - size * 0.2, fringe - size * 0.12),
            (x0 - size * 0.82, y0 - size * 0.25),
        ],
        hair,
    )
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
    frame = [(x - wide, top), (x + wide, top), (x + wide, bottom), (x - wide, bottom)]
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
    outline = smooth_path(
        [
            (x0 - size * 0.5, shoulder - size * 0.42),
            (x0 - size * 1.75, shoulder + size * 0.12),
            (x0 - size * 2.25, shoulder + size * 1.2),
            (x0 - size * 2.4, 1.2),
            (x0 + size * 2.4, 1.2),
            (x0 + size * 2.25, shoulder + size * 1.2),
            (x0 + size * 1.75, shoulder + size * 0.12),
            (x0 + size * 0.5, shoulder - size * 0.42),
        ]
    )
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
        lapel = [
            (x0 + side * size * 0.42, shoulder - size * 0.4),
            (x0 + side * size * 0.95, shoulder - size * 0.1),
            (x0 + side * size * 0.12, shoulder + size * 1.1),
        ]
        canvas.shape(
            [lapel],
            cloth.mix(palette.paper if side == light else palette.dark, 0.4),
            opacity=0.8,
            soften=0.004,
        )


def _modelled(
    canvas: Canvas, at: Point, rx: float, ry: float, *, skin: Lab, palette: Palette, light: int
) -> None:
    """An ellipsoid under one side light."""
    canvas.shape(
        [ellipse(at, rx, ry, corners=40)],
        _shading(canvas, at, rx, ry, skin=skin, palette=palette, light=light),
        soften=0.003,
    )


def _shading(
    canvas: Canvas, at: Point, rx: float, ry: float, *, skin: Lab, palette: Palette, light: int
) -> Field:
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
    planes = _shading(
        canvas,
        (x0, y0 + size * 0.05),
        size * 1.02,
        size * 1.5,
        skin=skin,
        palette=palette,
        light=light,
    )
    jaw = between(rng, 0.52, 0.66)
    outline = smooth_path(
        [
            (x0 - size * 0.9, y0 - size * 0.5),
            (x0 - size * 0.55, y0 - size * 1.12),
            (x0 + size * 0.55, y0 - size * 1.12),
            (x0 + size * 0.9, y0 - size * 0.5),
            (x0 + size * 0.86, y0 + size * 0.25),
            (x0 + size * jaw, y0 + size * 0.88),
            (x0 + size * 0.2, y0 + size * 1.22),
            (x0 - size * 0.2, y0 + size * 1.22),
            (x0 - size * jaw, y0 + size * 0.88),
            (x0 - size * 0.86, y0 + size * 0.25),
        ]
    )
    canvas.shape([outline], planes, soften=0.003)
    deep = skin.mix(palette.dark, 0.72)
    gaze = light * size * 0.05
    for side in (-1, 1):
        eye = (x0 + side * size * 0.38 + gaze, y0 - size * 0.1)
        canvas.shape(
            [ellipse((eye[0], eye[1] - size * 0.04), size * 0.24, size * 0.15)],
            deep,
            opacity=0.6,
            soften=size * 0.07,
        )
        canvas.shape(
            [ellipse(eye, size * 0.14, size * 0.045)],
            palette.dark,
            opacity=0.85,
            soften=size * 0.018,
        )
        brow = smooth_path(
            [
                (eye[0] - size * 0.24, eye[1] - size * 0.16),
                (eye[0], eye[1] - size * 0.26),
                (eye[0] + size * 0.24, eye[1] - size * 0.17),
                (eye[0], eye[1] - size * 0.19),
            ],
            per=5,
        )
        canvas.shape([brow], palette.dark, opacity=0.65, soften=size * 0.02)
    nose = [
        (x0 + gaze, y0 - size * 0.2),
        (x0 + gaze - light * size * 0.2, y0 + size * 0.4),
        (x0 + gaze, y0 + size * 0.46),
    ]
    canvas.shape([nose], deep, opacity=0.5, soften=size * 0.05)
    canvas.shape(
        [ellipse((x0 + gaze + light * size * 0.04, y0 + size * 0.18), size * 0.05, size * 0.26)],
        skin.mix(palette.spark, 0.5),
        opacity=0.6,
        soften=size * 0.04,
    )
    canvas.shape(
        [ellipse((x0 + gaze, y0 + size * 0.45), size * 0.18, size * 0.05)],
        deep,
        opacity=0.6,
        soften=size * 0.03,
    )
    lips = skin.mix(palette.warm, 0.45)
    canvas.shape(
        [ellipse((x0 + gaze, y0 + size * 0.72), size * 0.27, size * 0.075)],
        lips.mix(palette.dark, 0.3),
        opacity=0.8,
        soften=size * 0.03,
    )
    canvas.shape(
        [ellipse((x0 + gaze, y0 + size * 0.715), size * 0.26, size * 0.018)],
        palette.dark,
        opacity=0.7,
        soften=size * 0.015,
    )
    canvas.shape(
        [ellipse((x0 + gaze, y0 + size * 0.88), size * 0.2, size * 0.05)],
        deep,
        opacity=0.4,
        soften=size * 0.04,
    )
    canvas.shape(
        [ellipse((x0 + light * size * 0.52, y0 + size * 0.26), size * 0.2, size * 0.2)],
        skin.mix(palette.warm, 0.35).lit(0.05),
        opacity=0.4,
        soften=size * 0.12,
    )
