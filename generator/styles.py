"""Styles: words, and perhaps more, that are laid over a prompt (pure).

The nine that everybody knows come from the project's brief; `[styles.NAME]` in `show.toml` adds
others, or says one of these anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from generator.sheet.recipe import Lora, Recipe


class Style(BaseModel):
    """What a picture is to look like, whatever it shows.

    Attributes:
        words: put behind the prompt.
        negative: put behind what is to be avoided.
        steps: denoising steps, in place of the program's; None leaves them.
        loras: adapters, laid on after the program's.
        match: words that choose this style where a prompt has one of them, such as the name of
            a franchise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: str = ""
    negative: str = ""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    loras: tuple[Lora, ...] = ()
    match: tuple[str, ...] = ()

    def over(self, recipe: Recipe) -> Recipe:
        """The recipe in this style."""
        return recipe.model_copy(
            update={
                "prompt": _joined(recipe.prompt, self.words),
                "negative_prompt": _joined(recipe.negative_prompt, self.negative),
                "steps": self.steps or recipe.steps,
                "loras": (*recipe.loras, *self.loras),
            }
        )


def _joined(before: str, after: str) -> str:
    return ", ".join(part for part in (before.strip().rstrip(","), after) if part)


BUNDLED_STYLES: Final[Mapping[str, Style]] = {
    name: Style(words=words)
    for name, words in {
        "Anime": "vibrant colors, detailed shading, anime art style",
        "Line Art": "clean lines, minimalist, vector art",
        "Flat Logo": "flat design, bold shapes, modern minimalist",
        "Watercolor": "soft blending, artistic brush strokes",
        "Abstract": "geometric shapes, modern composition",
        "Minimalist": "simple clean composition, negative space",
        "Vintage": "retro aesthetic, aged texture",
        "Grunge": "distressed style, urban aesthetic, rough edges",
        "Standard": "professional design, balanced composition",
    }.items()
}


def find_style(name: str, styles: Mapping[str, Style]) -> Style | None:
    """A style by its name, however it is written: ``line-art`` is ``Line Art``."""
    wanted = _plain(name)
    return next((style for known, style in styles.items() if _plain(known) == wanted), None)


def matching_style(prompt: str, styles: Mapping[str, Style]) -> Style | None:
    """The first style of which the prompt has one of the words; None where there is none."""
    for style in styles.values():
        for word in style.match:
            if re.search(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE):
                return style
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
