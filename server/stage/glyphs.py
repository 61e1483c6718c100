"""The characters of a show that a wall must be able to draw, and what helps where it cannot (pure).

A browser without a font for a script draws boxes, and says nothing. So each screen is told which
characters there are beyond those that our own fonts have, measures them, and tells what it lacks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from server.core.formatting import count as counted

MOST: Final = 4096
"""Characters told to a screen at most: more than a show of Chinese has."""

_OURS: Final = 0x250
"""Below are the Latin letters that the fonts we bring along have."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zs", "Zl", "Zp"})
_VARIATION: Final = frozenset(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
_CJK: Final = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
_NAMED: Final = 12

_PICTOGRAPHS: Final = 0x1F000
_EMOJI: Final = "fonts-noto-color-emoji"


def characters(texts: Iterable[str]) -> str:
    """Each character of `texts` that a font may lack, once, in a stable order."""
    found = {character for text in texts for character in text if ord(character) >= _OURS}
    seen = (each for each in found if _is_seen(each))
    return "".join(sorted(seen)[:MOST])


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in _UNSEEN and character not in _VARIATION


def advice(missing: str) -> str:
    """What to install for those that cannot be drawn: ``fonts-noto-core (Thai)``."""
    scripts: dict[str, set[str]] = {}
    for character in missing:
        package, script = _package(character)
        scripts.setdefault(package, set()).add(script)
    return ", ".join(
        f"{package} ({', '.join(sorted(scripts[package]))})" for package in sorted(scripts)
    )


def _package(character: str) -> tuple[str, str]:
    """The Debian package with a font for a character, and its script in words."""
    name = unicodedata.name(character, "")
    first = name.split(" ")[0].split("-")[0]
    if first in _CJK:
        script = {"HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}
        return "fonts-noto-cjk", script.get(first, "Chinese, Japanese")
    if ord(character) >= _PICTOGRAPHS or unicodedata.category(character) == "So":
        return _EMOJI, "emoji and signs"
    return "fonts-noto-core", first.capitalize() or "others"


def in_words(missing: str, count: int) -> str:
    """``7 characters of this show: ก ข …``; the first few of them by themselves."""
    some = " ".join(missing[:_NAMED])
    more = " …" if count > min(len(missing), _NAMED) else ""
    return f"{counted(count, 'character')} of this show: {some}{more}"
