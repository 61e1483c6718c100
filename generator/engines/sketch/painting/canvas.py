"""A canvas of OKLab planes, and the few ways in which motifs lay colour on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from generator.engines.sketch.painting.colour import Field, Lab, Values
from generator.engines.sketch.painting.noise import Random

Point = tuple[float, float]
Paint = Lab | Field
"""One colour, or OKLab planes of the canvas's shape."""

_SUPERSAMPLE = 3
_SOFT = 1.5
"""Blur radius in pixels from which an edge needs no supersampling."""
_TRIANGLE = 3
_FADED = 8.0
"""Radii from its centre at which a glow has come down to 1/500."""
_RAMP = 1024
"""Steps of a gradient: finer than eight bits can show."""


class Canvas:
    """An OKLab picture with y from 0 (top) to 1 and x from 0 to `aspect`.

    Args:
        width: pixels.
        height: pixels.
        ground: colour it starts with.

    Attributes:
        planes: OKLab, shape (3, height, width).
        x: horizontal place of each column, shape (1, width).
        y: vertical place of each row, shape (height, 1).
        aspect: width over height.
        flow: angle in radians in which brush strokes tend to run, shape (height, width).
        flow_weight: how much they do, 0 to 1, same shape; the rest follows the forms.
    """

    def __init__(self, width: int, height: int, ground: Lab) -> None:
        self.width, self.height = width, height
        self.aspect = width / height
        self.planes = np.empty((3, height, width), np.float32)
        for plane, value in zip(self.planes, ground, strict=True):
            plane.fill(value)
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) / height)[None, :]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
        self.flow = np.zeros((height, width), np.float32)
        self.flow_weight = np.full((height, width), 0.25, np.float32)

    def lay(self, paint: Paint, cover: Values | float) -> None:
        """Mix `paint` in everywhere, by `cover` (0 to 1)."""
        for index, value in enumerate(paint):
            self.planes[index] += (value - self.planes[index]) * cover

    def mirror(self) -> None:
        """Swap left and right."""
        self.planes = np.ascontiguousarray(self.planes[:, :, ::-1])
        self.flow = -self.flow[:, ::-1]
        self.flow_weight = self.flow_weight[:, ::-1]

    def gradient(self, stops: Sequence[tuple[float, Lab]], along: Values) -> Field:
        """OKLab planes that run through `stops` (value, colour) along a field."""
        at = [place for place, _ in stops]
        ramp = np.linspace(at[0], at[-1], _RAMP)
        table = np.stack(
            [np.interp(ramp, at, [colour[index] for _, colour in stops]) for index in range(3)]
        ).astype(np.float32)
        scale = np.float32((_RAMP - 1) / (at[-1] - at[0]))
        place = np.clip((along - np.float32(at[0])) * scale + 0.5, 0, _RAMP - 1)
        full = np.broadcast_to(place.astype(np.intp), (self.height, self.width))
        return np.take(table, full, axis=1)

    def cover(
        self, polygons: Sequence[Sequence[Point]], *, soften: float = 0.0
    ) -> tuple[tuple[slice, slice], Field] | None:
        """Where polygons lie: the window they touch and their antialiased mask in it.

        Args:
            polygons: corners, in canvas units.
            soften: blur radius in canvas units.

        Returns:
            Row and column slices and a mask of that shape, or None if all is outside.
        """
        spread = soften * 2.5
        xs = [x for polygon in polygons for x, _ in polygon]
        ys = [y for polygon in polygons for _, y in polygon]
        if not xs:
            return None
        left = max(0, int((min(xs) - spread) * self.height) - 1)
        right = min(self.width, int((max(xs) + spread) * self.height) + 2)
        top = max(0, int((min(ys) - spread) * self.height) - 1)
        bottom = min(self.height, int((max(ys) + spread) * self.height) + 2)
        if left >= right or top >= bottom:
            return None
        zoom = _SUPERSAMPLE if soften * self.height < _SOFT else 1
        size = ((right - left) * zoom, (bottom - top) * zoom)
        mask = Image.new("L", size, 0)
        pen = ImageDraw.Draw(mask)
        factor = self.height * zoom
        for polygon in polygons:
            if len(polygon) >= _TRIANGLE:
                pen.polygon(
                    [(x * factor - left * zoom, y * factor - top * zoom) for x, y in polygon],
                    fill=255,
                )
        if zoom > 1:
            mask = mask.reduce(zoom)
        if soften > 0:
            mask = mask.filter(ImageFilter.GaussianBlur(soften * self.height))
        return (
            (slice(top, bottom), slice(left, right)),
            np.asarray(mask, dtype=np.float32) / np.float32(255),
        )

    def shape(
        self,
        polygons: Sequence[Sequence[Point]],
        paint: Paint,
        *,
        opacity: float = 1.0,
        soften: float = 0.0,
        within: Field | None = None,
    ) -> None:
        """Paint polygons.

        Args:
            polygons: corners, in canvas units; together one shape.
            paint: its colour.
            opacity: 0 to 1.
            soften: blur of its edge, canvas units.
            within: a mask of the canvas's shape that limits it.
        """
        covered = self.cover(polygons, soften=soften)
        if covered is None:
            return
        (rows, columns), mask = covered
        if opacity != 1.0:
            mask = mask * np.float32(opacity)
        if within is not None:
            mask = mask * within[rows, columns]
        for plane, value in zip(self.planes, paint, strict=True):
            part = plane[rows, columns]
            new = value if isinstance(value, float) else value[rows, columns]
            part += (new - part) * mask

    def glow(self, at: Point, radius: float, paint: Lab, strength: float = 1.0) -> None:
        """Soft light around a place, falling off over `radius`."""
        left, right = (int((at[0] + side * radius) * self.height) for side in (-_FADED, _FADED))
        top, bottom = (int((at[1] + side * radius) * self.height) for side in (-_FADED, _FADED))
        rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
        distance2 = (self.x[:, columns] - at[0]) ** 2 + (self.y[rows] - at[1]) ** 2
        fall = (1.0 + distance2 / np.float32(radius * radius)) ** np.float32(1.5)
        cover = np.float32(strength) / fall
        for index, value in enumerate(paint):
            part = self.planes[index, rows, columns]
            part += (value - part) * cover


def around(at: Point, unit: float, xs: Sequence[float], ys: Sequence[float]) -> list[Point]:
    """Corners, by how many `unit` they are right of and below `at`."""
    return [(at[0] + x * unit, at[1] + y * unit) for x, y in zip(xs, ys, strict=True)]


def ellipse(
    at: Point, rx: float, ry: float, *, turn: float = 0.0, corners: int = 28
) -> list[Point]:
    """The corners of an ellipse, turned by `turn` radians."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    x, y = np.cos(angle) * rx, np.sin(angle) * ry
    cos, sin = np.cos(turn), np.sin(turn)
    return [
        (at[0] + float(u * cos - v * sin), at[1] + float(u * sin + v * cos))
        for u, v in zip(x, y, strict=True)
    ]


def smooth_path(points: Sequence[Point], *, per: int = 8) -> list[Point]:
    """A closed Catmull-Rom curve through `points`, `per` corners a span."""
    count = len(points)
    result: list[Point] = []
    for index in range(count):
        p0, p1, p2, p3 = (points[(index + step) % count] for step in (-1, 0, 1, 2))
        for part in range(per):
            t = part / per
            result.append(
                (
                    _spline(p0[0], p1[0], p2[0], p3[0], t),
                    _spline(p0[1], p1[1], p2[1], p3[1], t),
                )
            )
    return result


def _spline(p0: float, p1: float, p2: float, p3: float, t: float) -> float:
    return 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t * t
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )


def rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The corners of an upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def between(rng: Random, low: float, high: float) -> float:
    """A number between two, evenly."""
    return float(low + (high - low) * rng.random())


def streams(rng: Random, share: float) -> bool:
    """Whether what happens `share` of the time (0 to 1) happens now."""
    return bool(rng.random() < share)
