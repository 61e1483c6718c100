"""Styles: words, and perhaps more, that are laid over a prompt (pure).

The nine that everybody knows come from the project's brief; `[styles.NAME]` in `show.toml` adds
others, or says some of one of these anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from cache.untrusted import one_line
from generator.sheet.recipe import Lora, Recipe

_LONGEST_NAME: Final = 64


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _name(name: str) -> str:
    if not _plain(name) or one_line(name, _LONGEST_NAME) != name:
        raise ValueError(
            f"expected a name of one line and {_LONGEST_NAME} characters at most, not {name!r:.80}"
        )
    return name


StyleName = Annotated[str, AfterValidator(_name)]
"""What a style is called; see `style_name` for how else it may be written."""

_Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Style(BaseModel):
    """What a picture is to look like, whatever it shows.

    Attributes:
        words: put behind the prompt.
        negative: put behind what is to be avoided.
        steps: denoising steps, in place of the program's; None leaves them.
        loras: adapters, laid on after the program's.
        match: words that choose this style where a prompt has one of them and no style is asked
            for, such as the name of a franchise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: str = ""
    negative: str = ""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    loras: tuple[Lora, ...] = ()
    match: tuple[_Word, ...] = ()

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

    def matches(self, text: str) -> bool:
        """Whether a text has one of its words, as a word of its own and in whatever case."""
        # \b would find no edge beside a word that begins or ends in a sign, such as «K-On!».
        return any(
            re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
            for word in self.match
        )


def _joined(before: str, after: str) -> str:
    return ", ".join(part for part in (before.strip().rstrip(","), after) if part)


DEFAULT_STYLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "Anime": {"words": "vibrant colors, detailed shading, anime art style"},
    "Line Art": {"words": "clean lines, minimalist, vector art"},
    "Flat Logo": {"words": "flat design, bold shapes, modern minimalist"},
    "Watercolor": {"words": "soft blending, artistic brush strokes"},
    "Abstract": {"words": "geometric shapes, modern composition"},
    "Minimalist": {"words": "simple clean composition, negative space"},
    "Vintage": {"words": "retro aesthetic, aged texture"},
    "Grunge": {"words": "distressed style, urban aesthetic, rough edges"},
    "Standard": {"words": "professional design, balanced composition"},
}
"""What each style is unless `show.toml` says otherwise, in the order in which they are offered."""


def with_default_styles(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of styles, laid over those that are there anyhow: ``line-art`` is ``Line Art``.

    Raises:
        ValueError: two names are one and the same style.
    """
    laid: dict[str, Any] = {name: dict(keys) for name, keys in DEFAULT_STYLES.items()}
    said: dict[str, str] = {}
    for name, keys in given.items():
        twin = said.setdefault(_plain(name), name)
        if twin != name:
            raise ValueError(f"{twin!r:.80} and {name!r:.80} are one and the same style")
        known = style_name(name, DEFAULT_STYLES) or name
        below = laid.get(known, {})
        laid[known] = {**below, **keys} if isinstance(keys, Mapping) else keys
    return laid


def style_name(name: str, known: Iterable[str]) -> str | None:
    """What a style is really called, however it is written; None where there is none of the name.

    Blanks, hyphens, underscores and case make no difference: ``line-art`` is ``Line Art``.
    """
    wanted = _plain(name)
    return next((each for each in known if _plain(each) == wanted), None)


def matching_style(text: str, styles: Mapping[str, Style]) -> str | None:
    """The name of the first style of which a text has one of the words; None where there is none.

    Args:
        text: a prompt, or the name of a franchise.
        styles: by name, in the order in which they are offered.
    """
    return next((name for name, style in styles.items() if style.matches(text)), None)
