"""A still life: turned vessels and fruit on a table, and the shading of round things."""

from __future__ import annotations

import numpy as np

from generator.engines._sketch.canvas import Canvas, Point, between, ellipse, smooth_path, streams
from generator.engines._sketch.noise import Random, fractal, smoothstep
from generator.engines._sketch.palettes import Palette

_BOWL = ((0.0, 0.2), (0.1, 0.3), (0.35, 0.4), (0.6, 0.36), (0.85, 0.25), (1.0, 0.29))


def still_life(canvas: Canvas, rng: Random, palette: Palette) -> None:
    """Jugs, bottles, bowls and fruit on a table before a plain wall."""
    light = -1 if streams(rng, 0.6) else 1
    edge = between(rng, 0.56, 0.64)
    cloud = fractal(rng, canvas.width, canvas.height, cells=3, octaves=5)
    back = palette.shade.mix(palette.cool, 0.3).mix(palette.dark, between(rng, 0.1, 0.6))
    glow = back.mix(palette.haze, 0.55)
    fall = smoothstep(
        0.0,
        1.1,
        np.abs(canvas.x - canvas.aspect * (0.5 + 0.5 * light)) / canvas.aspect + cloud * 0.07,
    )
    canvas.lay(canvas.gradient([(0, glow), (1, back)], fall), 1)
    cloth = (
        palette.paper.mix(palette.haze, between(rng, 0.2, 0.8))
        if streams(rng, 0.6)
        else palette.middle.mix(palette.warm, 0.3)
    )
    top = canvas.gradient(
        [
            (edge, cloth.mix(palette.shade, 0.35)),
            (edge + 0.16, cloth),
            (1.1, cloth.mix(palette.shade, 0.5)),
        ],
        canvas.y + cloud * 0.012,
    )
    folds = fractal(rng, canvas.width, canvas.height, cells=4, octaves=4, stretch=2.5)
    top[0] += folds * np.float32(0.02) - fall * np.float32(0.10)
    canvas.lay(top, smoothstep(edge - 0.003, edge + 0.003, canvas.y + cloud * 0))
    centre = canvas.aspect * between(rng, 0.44, 0.56)
    count = int(rng.integers(5, 8))
    spread = np.linspace(-0.30, 0.30, count) * canvas.aspect * between(rng, 0.8, 1.05)
    order = rng.permutation(count)
    items = sorted(
        (
            (
                edge + between(rng, 0.06, 0.2),
                centre + float(spread[index]) + rng.normal() * 0.02,
                rank,
            )
            for rank, index in enumerate(order)
        ),
        key=lambda item: item[0],
    )
    for y, x, rank in items:
        if rank < count // 2 + 1:
            vessel(canvas, rng, palette, (x, y), between(rng, 0.26, 0.46), light=light)
        else:
            fruit(canvas, rng, palette, (x, y), between(rng, 0.05, 0.075), light=light)
    for _ in range(int(rng.integers(1, 4))):
        fruit(
            canvas,
            rng,
            palette,
            (centre + rng.normal() * 0.3, edge + between(rng, 0.2, 0.3)),
            between(rng, 0.05, 0.07),
            light=light,
        )


_PROFILES: tuple[tuple[tuple[float, float], ...], ...] = (
    # Half widths over height, bottom to top, in units of the vessel's height.
    ((0.0, 0.15), (0.08, 0.2), (0.35, 0.27), (0.55, 0.23), (0.72, 0.1), (0.92, 0.09), (1.0, 0.12)),
    (
        (0.0, 0.14),
        (0.05, 0.16),
        (0.5, 0.165),
        (0.62, 0.13),
        (0.7, 0.055),
        (0.97, 0.05),
        (1.0, 0.06),
    ),
    _BOWL,
    ((0.0, 0.12), (0.1, 0.14), (0.3, 0.22), (0.7, 0.26), (0.95, 0.23), (1.0, 0.24)),
)


def vessel(
    canvas: Canvas, rng: Random, palette: Palette, foot: Point, height: float, *, light: int
) -> None:
    """A turned vessel, modelled by light from one side, with its shadow on the table."""
    points = _PROFILES[int(rng.integers(len(_PROFILES)))]
    height *= 0.72 if points is _BOWL else 1.0
    x, y = foot
    right = [(x + r * height, y - t * height) for t, r in points]
    left = [(x - r * height, y - t * height) for t, r in reversed(points)]
    outline = smooth_path([*right, *left], per=6)
    widest = max(r for _, r in points) * height
    shadow = ellipse((x - light * widest * 1.3, y + widest * 0.06), widest * 1.9, widest * 0.26)
    canvas.shape([shadow], palette.dark.mix(palette.cool, 0.3), opacity=0.55, soften=widest * 0.18)
    glaze = (palette.warm, palette.cool, palette.middle, palette.paper, palette.shade)[
        int(rng.integers(5))
    ]
    glaze = glaze.mix(palette.middle, 0.15)
    at = np.clip((y - canvas.y) / height, 0, 1)
    radius = np.interp(at[:, 0], [t for t, _ in points], [r for _, r in points])[:, None] * height
    turned = np.clip((canvas.x - x) / radius, -1, 1).astype(np.float32)
    lambert = 0.72 * light * turned + 0.62 * np.sqrt(1 - turned**2)
    planes = canvas.gradient(
        [
            (-0.7, glaze.mix(palette.dark, 0.75)),
            (-0.35, glaze.mix(palette.dark, 0.82)),
            (0.15, glaze.mix(palette.dark, 0.5)),
            (0.62, glaze),
            (0.97, glaze.mix(palette.spark, 0.4)),
        ],
        lambert,
    )
    canvas.shape([outline], planes, soften=0.0025)
    mouth = points[-1][1] * height
    canvas.shape([ellipse((x, y - height), mouth, mouth * 0.24)], glaze.mix(palette.dark, 0.7))
    canvas.shape(
        [ellipse((x, y - height + mouth * 0.06), mouth * 0.96, mouth * 0.2)],
        palette.dark,
        opacity=0.6,
    )
    glint = ellipse(
        (x + light * widest * 0.5, y - height * 0.42),
        widest * 0.07,
        height * 0.11,
        turn=light * 0.12,
    )
    canvas.shape([glint], palette.spark, opacity=0.75, soften=0.004)


def fruit(
    canvas: Canvas, rng: Random, palette: Palette, foot: Point, radius: float, *, light: int
) -> None:
    """A round fruit with form shadow, reflected light and a highlight."""
    x, y = foot[0], foot[1] - radius * 0.8
    canvas.shape(
        [ellipse((x - light * radius * 0.9, foot[1] + radius * 0.05), radius * 1.5, radius * 0.3)],
        palette.dark.mix(palette.cool, 0.25),
        opacity=0.6,
        soften=radius * 0.16,
    )
    skin = (
        palette.warm,
        palette.spark.mix(palette.warm, 0.35),
        palette.middle.mix(palette.cool, 0.3),
        palette.warm.mix(palette.dark, 0.3),
    )[int(rng.integers(4))]
    u = np.clip((canvas.x - x) / radius, -1, 1)
    v = np.clip((canvas.y - y) / (radius * 0.94), -1, 1)
    lambert = 0.6 * light * u - 0.48 * v + 0.55 * np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    planes = canvas.gradient(
        [
            (-0.75, skin.mix(palette.middle, 0.4).mix(palette.dark, 0.35)),
            (-0.35, skin.mix(palette.dark, 0.7)),
            (0.1, skin.mix(palette.dark, 0.4)),
            (0.55, skin),
            (0.97, skin.mix(palette.spark, 0.45)),
        ],
        lambert.astype(np.float32),
    )
    canvas.shape([ellipse((x, y), radius, radius * 0.94, corners=36)], planes, soften=0.002)
    canvas.shape(
        [ellipse((x + light * radius * 0.4, y - radius * 0.42), radius * 0.12, radius * 0.09)],
        palette.spark,
        opacity=0.8,
        soften=radius * 0.05,
    )
