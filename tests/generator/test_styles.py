from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from generator.sheet.recipe import Lora, Recipe
from generator.styles import (
    DEFAULT_STYLES,
    Style,
    StyleName,
    matching_style,
    style_name,
    with_default_styles,
)

RECIPE = Recipe(model="m", prompt="a dragon", steps=30, width=64, height=64)

BRIEF = {
    "Anime": ["vibrant colors", "detailed shading", "anime art style"],
    "Line Art": ["clean lines", "minimalist", "vector art"],
    "Flat Logo": ["flat design", "bold shapes", "modern minimalist"],
    "Watercolor": ["soft blending", "artistic brush strokes"],
    "Abstract": ["geometric shapes", "modern composition"],
    "Minimalist": ["simple clean composition", "negative space"],
    "Vintage": ["retro aesthetic", "aged texture"],
    "Grunge": ["distressed style", "urban aesthetic", "rough edges"],
    "Standard": ["professional design", "balanced composition"],
}
"""As the brief lists them, in its order."""


def styles(**more: object) -> dict[str, Style]:
    laid = with_default_styles(more)
    return {name: Style.model_validate(keys) for name, keys in laid.items()}


def test_the_nine_styles_have_the_words_of_the_brief_in_its_order() -> None:
    assert list(DEFAULT_STYLES) == list(BRIEF)
    for name, words in BRIEF.items():
        drawn = styles()[name].over(RECIPE)
        assert drawn.prompt == ", ".join(["a dragon", *words])
        assert drawn.negative_prompt == ""


def test_a_style_is_laid_over_a_recipe_and_leaves_the_rest_of_it() -> None:
    pencil = Style(
        words="pencil", negative="colour", steps=12, loras=(Lora(model="graphite", weight=0.5),)
    )
    own = RECIPE.model_copy(
        update={"negative_prompt": "blur,", "loras": (Lora(model="base"),), "seed": 7}
    )
    drawn = pencil.over(own)
    assert drawn.prompt == "a dragon, pencil"
    assert drawn.negative_prompt == "blur, colour"
    assert drawn.steps == 12
    assert [lora.model for lora in drawn.loras] == ["base", "graphite"]
    unchanged = {"model", "guidance_scale", "width", "height", "seed", "kind"}
    assert drawn.model_dump(include=unchanged) == own.model_dump(include=unchanged)


def test_a_style_that_says_nothing_changes_nothing() -> None:
    assert Style().over(RECIPE).fingerprint == RECIPE.fingerprint


@pytest.mark.parametrize("written", ["line-art", "LINE_ART", "Line Art", "lineart", " line  art "])
def test_a_style_is_found_however_it_is_written(written: str) -> None:
    assert style_name(written, DEFAULT_STYLES) == "Line Art"


@pytest.mark.parametrize("written", ["", "Line", "Line Arts", "-", "Oil"])
def test_a_style_that_there_is_not_is_not_found(written: str) -> None:
    assert style_name(written, DEFAULT_STYLES) is None


def test_a_show_adds_styles_and_says_some_of_one_anew() -> None:
    found = styles(pencil={"words": "pencil"}, **{"line-art": {"steps": 8}})
    assert list(found) == [*DEFAULT_STYLES, "pencil"]
    assert found["Line Art"] == Style(words=str(DEFAULT_STYLES["Line Art"]["words"]), steps=8)
    assert found["pencil"].words == "pencil"


def test_two_names_of_one_style_are_refused() -> None:
    with pytest.raises(ValueError, match="one and the same style"):
        with_default_styles({"ink wash": {}, "Ink-Wash": {}})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Luffy of One Piece, at sea", "pirates"),
        ("ONE PIECE", "pirates"),
        ("one pieces of cloth", None),
        ("everyone piece by piece", None),
        ("the band of K-On! plays", "band"),
        ("", None),
    ],
)
def test_words_of_a_prompt_choose_a_style(text: str, found: str | None) -> None:
    given_styles = styles(pirates={"match": ["One Piece"]}, band={"match": ["K-On!"]})
    assert matching_style(text, given_styles) == found


def test_the_first_style_that_matches_is_taken() -> None:
    both = styles(first={"match": ["sea", "ship"]}, second={"match": ["ship"]})
    assert matching_style("a ship", both) == "first"


@pytest.mark.parametrize("word", ["", "  "])
def test_a_word_that_would_match_everything_is_refused(word: str) -> None:
    with pytest.raises(ValidationError):
        Style.model_validate({"match": [word]})


@pytest.mark.parametrize("name", ["", " ", "--", "two\nlines", "x" * 65, " padded", "\x07"])
def test_a_name_that_nobody_could_write_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(StyleName).validate_python(name)


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_style_draws_what_was_asked_for_and_its_words(prompt: str, words: str) -> None:
    drawn = Style(words=words).over(RECIPE.model_copy(update={"prompt": prompt})).prompt
    assert drawn.startswith(prompt.strip().rstrip(","))
    assert drawn.endswith(words)
