"""The test card engine: for technicians, who want to see geometry, levels and rhythm.

Every frame of a run is the same card but for its step numeral and its clock. Circles are
circles, the grid is square, the ramp has eleven even steps, the rims of the picture are marked,
and the hand of the clock turns once in ten nominal seconds: a step that is late or missing
shows at once. In the spirit of Philips' PM5544, and not a copy of it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import ClassVar

from PIL import Image, ImageDraw, ImageFont

from generator.engines.port import StepImage
from generator.engines.sketch.engine import DEFAULT_PACE, PaintingEngine, nominal_durations, timed
from generator.engines.testcard.settings import TestCardSection
from generator.sheet.recipe import Recipe

NAME = "testcard 1"

CLOCK_SECONDS = 10.0
"""Nominal seconds of one turn of the clock's hand."""

_QUALITY = 88
_GROUND, _GRID, _INK, _DIM = (92, 94, 97), (150, 152, 155), (244, 244, 240), (176, 178, 181)
_PANEL, _ACCENT = (24, 25, 27), (255, 176, 32)
# Colour bars at 75 %, as broadcast has them: white, yellow, cyan, green, magenta, red, blue.
_BARS = (
    (191, 191, 191),
    (191, 191, 0),
    (0, 191, 191),
    (0, 191, 0),
    (191, 0, 191),
    (191, 0, 0),
    (0, 0, 191),
)
_LEVELS = (0, 5, 10, 16, 235, 245, 255)
"""Codes near black and white: full-range and video-range screens part here."""
_CELLS_HIGH = 12
_RAMP_STEPS = 11
_TICKS = 20
_SAFE_AREAS = (0.90, 0.80)
"""Action and title safe: share of width and height inside."""
_LINE_LIMIT, _LINE_LENGTH = 3, 44

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Colour = tuple[int, int, int]


def open_engine(
    settings: TestCardSection, *, wait: bool, processes: int
) -> AbstractContextManager[TestCardEngine]:
    """See `LocalSection.open`."""
    del processes
    return nullcontext(TestCardEngine(pace=settings.pace, wait=wait))


@lru_cache(maxsize=64)
def _font(size: int) -> _Font:
    return ImageFont.load_default(max(6, size))


def _text(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    *,
    size: float,
    fill: _Colour = _INK,
    anchor: str = "mm",
) -> None:
    pen.text(at, text, font=_font(round(size)), fill=fill, anchor=anchor)


class _Card:
    """The card of one recipe: what stays is drawn once, what moves on a copy of it."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        width, height = recipe.width, recipe.height
        self._size = (width, height)
        self._unit = min(width, height) / 100
        self._centre = (width / 2, height / 2)
        self._static = self._draw_static()

    def frame(self, step: int, steps: int, elapsed: float, *, final: bool) -> Image.Image:
        """One frame, so many nominal seconds after the start of the run."""
        image = self._static.copy()
        pen = ImageDraw.Draw(image)
        unit, (x, y) = self._unit, self._centre
        self._clock(pen, step, steps, elapsed)
        numeral = "final" if final else str(step)
        size = unit * (13 if final else 19)
        _text(pen, (x, y - unit * 3), numeral, size=size, fill=_ACCENT if final else _INK)
        _text(pen, (x, y + unit * 9.5), f"of {steps}", size=unit * 4.2, fill=_DIM)
        _text(pen, (x, y + unit * 15.5), f"{elapsed:06.2f} s", size=unit * 4.6)
        return image

    def _clock(self, pen: ImageDraw.ImageDraw, step: int, steps: int, elapsed: float) -> None:
        """Progress as a ring, time as a sector that sweeps once in `CLOCK_SECONDS`."""
        unit = self._unit
        ring = self._around(unit * 30)
        pen.arc(ring, -90, 270, fill=_GRID, width=max(1, round(unit * 0.5)))
        pen.arc(ring, -90, -90 + 360 * step / steps, fill=_ACCENT, width=max(2, round(unit * 2)))
        turn = 360 * (elapsed % CLOCK_SECONDS) / CLOCK_SECONDS
        pen.pieslice(self._around(unit * 26.5), turn - 94, turn - 86, fill=_INK)
        pen.ellipse(self._around(unit * 21.5), fill=_PANEL)

    def _around(self, radius: float) -> tuple[float, float, float, float]:
        x, y = self._centre
        return (x - radius, y - radius, x + radius, y + radius)

    def _draw_static(self) -> Image.Image:
        image = Image.new("RGB", self._size, _GROUND)
        pen = ImageDraw.Draw(image)
        self._grid(pen)
        self._rims(pen)
        self._disc(pen)
        self._bars(pen)
        self._ramp(pen)
        self._words(pen)
        return image

    def _grid(self, pen: ImageDraw.ImageDraw) -> None:
        """Square cells around the centre; the outermost may be cut."""
        width, height = self._size
        x, y = self._centre
        cell = height / _CELLS_HIGH
        line = max(1, round(height / 768))
        for index in range(int(width / cell / 2) + 1):
            for side in (-1, 1):
                at = round(x + side * index * cell)
                pen.line((at, 0, at, height), fill=_GRID, width=line)
        for index in range(_CELLS_HIGH // 2 + 1):
            for side in (-1, 1):
                at = round(y + side * index * cell)
                pen.line((0, at, width, at), fill=_GRID, width=line)

    def _rims(self, pen: ImageDraw.ImageDraw) -> None:
        """Castellated edges, arrows to the very rim, and the two safe areas."""
        width, height = self._size
        cell, unit = height / _CELLS_HIGH, self._unit
        x, y = self._centre
        thick = max(2, round(unit * 1.6))
        for start in range(-int(x / cell) - 1, int(x / cell) + 1):
            fill = _INK if start % 2 == 0 else _PANEL
            left, right = x + start * cell, x + (start + 1) * cell
            pen.rectangle((left, 0, right, thick), fill=fill)
            pen.rectangle((left, height - thick, right, height), fill=fill)
        for start in range(-_CELLS_HIGH // 2, _CELLS_HIGH // 2):
            fill = _INK if start % 2 == 0 else _PANEL
            top, bottom = y + start * cell, y + (start + 1) * cell
            pen.rectangle((0, top, thick, bottom), fill=fill)
            pen.rectangle((width - thick, top, width, bottom), fill=fill)
        pen.rectangle((0, 0, width - 1, height - 1), outline=_ACCENT)
        tip = unit * 3
        for ax, ay, bx, by in (
            (x, 0, 0, 1),
            (x, height - 1, 0, -1),
            (0, y, 1, 0),
            (width - 1, y, -1, 0),
        ):
            corners = [
                (ax, ay),
                (ax + bx * tip - by * tip * 0.6, ay + by * tip - bx * tip * 0.6),
                (ax + bx * tip + by * tip * 0.6, ay + by * tip + bx * tip * 0.6),
            ]
            pen.polygon(corners, fill=_ACCENT)
        for share in _SAFE_AREAS:
            dx, dy = width * share / 2, height * share / 2
            pen.rectangle((x - dx, y - dy, x + dx, y + dy), outline=_INK)
            label = f"{share:.0%}"
            _text(pen, (x - dx + unit, y - dy + unit * 2), label, size=unit * 2.2, anchor="lm")

    def _bars(self, pen: ImageDraw.ImageDraw) -> None:
        """Colour patches left of the dial, the blackest and whitest levels right of it."""
        unit = self._unit
        x, y = self._centre
        high, wide = unit * 5, unit * 6.4
        for index, (colour, value) in enumerate(zip(_BARS, _LEVELS, strict=True)):
            top = y + (index - len(_BARS) / 2) * high
            left, right = x - unit * 35 - wide, x + unit * 35
            pen.rectangle((left, top, left + wide, top + high), fill=colour)
            pen.rectangle((right, top, right + wide, top + high), fill=(value,) * 3)
            ink = _DIM if value < _GROUND[0] else _PANEL
            at = (right + wide / 2, top + high / 2)
            _text(pen, at, str(value), size=unit * 2.2, fill=ink)

    def _ramp(self, pen: ImageDraw.ImageDraw) -> None:
        """Eleven even greys, 0 to 255, and a smooth ramp under them, across the disc's foot."""
        unit = self._unit
        x, y = self._centre
        wide, top = unit * 72, y + unit * 36.5
        step = wide / _RAMP_STEPS
        for index in range(_RAMP_STEPS):
            value = round(255 * index / (_RAMP_STEPS - 1))
            left = x - wide / 2 + index * step
            pen.rectangle((left, top, left + step, top + unit * 5), fill=(value,) * 3)
        left = round(x - wide / 2)
        for column in range(round(wide)):
            value = round(255 * column / wide)
            pen.line(
                (left + column, top + unit * 5, left + column, top + unit * 7), fill=(value,) * 3
            )

    def _disc(self, pen: ImageDraw.ImageDraw) -> None:
        """The great circle, the clock's dial with a tick each half second, centre marks."""
        unit = self._unit
        x, y = self._centre
        pen.ellipse(self._around(unit * 47), outline=_INK, width=max(1, round(unit * 0.4)))
        pen.ellipse(
            self._around(unit * 33), fill=_PANEL, outline=_INK, width=max(1, round(unit * 0.3))
        )
        for tick in range(_TICKS):
            turn = 360 * tick / _TICKS
            outer = unit * 28.5
            pen.arc(
                self._around(outer),
                turn - 90.5,
                turn - 89.5,
                fill=_INK,
                width=max(1, round(unit * (2 if tick % 2 == 0 else 1))),
            )
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            start, end = unit * 33, unit * 47
            pen.line((x + dx * start, y + dy * start, x + dx * end, y + dy * end), fill=_INK)

    def _words(self, pen: ImageDraw.ImageDraw) -> None:
        """What is drawn, by what, how large, with which seed."""
        recipe, unit = self._recipe, self._unit
        x, y = self._centre
        width = self._size[0]
        lines = _wrapped(recipe.prompt or "(no prompt)", _LINE_LENGTH)[:_LINE_LIMIT]
        _label(pen, (x, y - unit * 40.5), "\n".join(lines), unit * (4.4 - 0.6 * len(lines)))
        strength = "" if recipe.strength is None else f"  strength {recipe.strength:g}"
        facts = (
            f"{recipe.model}  {recipe.kind}{strength}",
            f"{recipe.width} x {recipe.height}  {recipe.steps} steps  seed {recipe.seed}",
        )
        for side, fact in zip((-1, 1), facts, strict=True):
            at = (x + side * min(width * 0.25, unit * 46), y + unit * 46.3)
            _label(pen, at, fact, unit * 2.5)


def _label(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: float) -> None:
    """Text on a plate of its own, so that it reads over grid and circle."""
    font = _font(round(size))
    left, top, right, bottom = pen.textbbox(at, text, font=font, anchor="mm", align="center")
    pad = size * 0.35
    pen.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=_PANEL)
    pen.text(at, text, font=font, fill=_INK, anchor="mm", align="center")


def _wrapped(text: str, limit: int) -> list[str]:
    """Lines of at most `limit` characters, broken between words."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > limit:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()[:limit]
    return lines


def draw(recipe: Recipe, pace: float = DEFAULT_PACE) -> Iterator[StepImage]:
    """Draw a recipe's cards in the calling thread.

    Args:
        recipe: its prompt, model, size and seed are written on the card; a base image is
            not looked at.
        pace: nominal seconds a step.

    Yields:
        As many previews as the schedule has, and the final card; JPEG, of the recipe's size.
    """
    return timed(_frames(recipe, nominal_durations(recipe, pace)), recipe, pace)


def _frames(recipe: Recipe, durations: Sequence[float]) -> Iterator[bytes]:
    card, steps = _Card(recipe), len(durations)
    for step, elapsed in enumerate(itertools.accumulate(durations), 1):
        buffer = io.BytesIO()
        frame = card.frame(step, steps, elapsed, final=step == steps)
        frame.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        yield buffer.getvalue()


class TestCardEngine(PaintingEngine):
    """Draws test cards, in the rhythm of `SketchEngine`."""

    __test__ = False  # a test card is no test: pytest would collect it by its name

    name: ClassVar[str] = NAME

    def _draw(self, recipe: Recipe) -> Iterator[StepImage]:
        return draw(recipe, self.pace)
