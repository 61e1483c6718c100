"""Palettes: eight colours each, by role, so that every motif can be painted in every one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from generator.engines.sketch.painting.colour import Lab, lab


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by what they do in a picture.

    Attributes:
        name: for choosing and for tests.
        paper: the lightest: sky at the horizon, walls in light, bare ground.
        haze: what distance turns into.
        middle: local colour in even light.
        shade: local colour away from the light.
        dark: the darkest, never quite black.
        warm: the warm accent.
        cool: the cool accent.
        spark: light itself: sun, windows, lamps.
    """

    name: str
    paper: Lab
    haze: Lab
    middle: Lab
    shade: Lab
    dark: Lab
    warm: Lab
    cool: Lab
    spark: Lab

    def tone(self, value: float) -> Lab:
        """The colour at `value` on the way from dark (0) to paper (1)."""
        scale = (self.dark, self.shade, self.middle, self.haze, self.paper)
        place = min(max(value, 0.0), 1.0) * (len(scale) - 1)
        index = min(int(place), len(scale) - 2)
        return scale[index].mix(scale[index + 1], place - index)


_CODES = {
    # name: paper, haze, middle, shade, dark, warm, cool, spark
    "dusk": "f2e3c6 e3bd91 b57a52 6b4a45 2a2329 c8502f 4f6f78 ffe7ac",
    "monsoon": "e8e9e0 bac5be 7f9792 4a625f 1d2b2f b8703f 3f6c8a f6ecd0",
    "prussian": "efe9dc b9c8d1 6d8ea6 34587b 14223b d08f52 2f6e88 fbe7bc",
    "ochre": "f3ead7 dac59d b18f5a 6d5537 221e1b a4402b 5a6a62 fff2d0",
    "grey interior": "e5e1d7 bfbdb3 8f9088 5b5d5b 24272b a7835f 69808c f6f0de",
    "islands": "f4dfb6 e6ac74 c56b47 5e5a40 22292d d24a32 2f6d69 ffe08c",
    "nocturne": "c6cec8 83999f 4c6b7c 2a4158 101a2a d89e60 3f7d88 ffdf9f",
    "rose": "f6e8df e8c6b8 c2938f 7a6071 2d2939 d0705a 6b87a4 fff1d9",
    "jungle": "eaecd0 bac690 7b9458 3f5f41 14261f cf7d42 3c7f79 fbf0b4",
    "verdigris": "eef0e2 b9d1c1 74a495 3a6a68 14292e d07545 2f5f86 fdeec2",
    "ember": "f3d7b4 e2a066 b85a35 6c2f2a 1f1518 e36b34 3e5167 ffd890",
    "plum": "f0dcd2 d5a59c a0606a 5a3047 211525 d8703c 4c5b86 ffe3b4",
    "silver": "edebe6 c9c7c2 95938f 575657 1e1f22 b06a4a 5f7482 fbf6ea",
    "harvest": "f7eccb e9cf86 c79a48 77683c 2b2a22 bb5530 5a7f86 fff4c4",
}


@cache
def palettes() -> dict[str, Palette]:
    """Every palette by its name."""
    return {
        name: Palette(name, *(lab(code) for code in codes.split()))
        for name, codes in _CODES.items()
    }
