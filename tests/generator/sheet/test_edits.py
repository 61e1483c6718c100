from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.untrusted import Unfit, decode_sheet
from generator.sheet.edits import NoSuchCue, cue_spans, edit_cue

REAL_SHEET = Path(__file__).parents[4] / "shared" / "data" / "cues.json"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.one_of(st.sampled_from(["time", "prompt", "steps", "words", "über"]), TEXTS)
VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXTS,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
CUES = st.dictionaries(NAMES, st.none() | VALUES, max_size=5)
CHANGES = st.dictionaries(NAMES, st.none() | VALUES, max_size=3)
SPACE = st.sampled_from(["", " ", "\n", "\r\n", "\t", " \n  ", "\r\n    "])


@st.composite
def sheets(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """A sheet's text, as oddly written as JSON allows, and its cues."""
    cues = draw(st.lists(CUES, min_size=1, max_size=4))
    escapes, odd = draw(st.booleans()), random.Random(draw(st.integers(0, 2**32)))
    spaces = draw(st.lists(SPACE, min_size=1, max_size=4))

    def space() -> str:
        return odd.choice(spaces)

    def text_of(value: object) -> str:
        match value:
            case dict():
                fields = [
                    f"{space()}{text_of(name)}{space()}:{space()}{text_of(each)}{space()}"
                    for name, each in value.items()
                ]
                return "{" + (",".join(fields) or space()) + "}"
            case list():
                items = [f"{space()}{text_of(each)}{space()}" for each in value]
                return "[" + (",".join(items) or space()) + "]"
            case _:
                return json.dumps(value, ensure_ascii=escapes)

    whole: object = cues
    if draw(st.booleans()):
        whole = {"title": "of [ and {", "cues": cues, "more": ["}", 1.50]}
    mark = "\ufeff" if draw(st.booleans()) else ""
    return mark + space() + text_of(whole) + space(), cues


def cues_of(text: str) -> list[Any]:
    """What a reader finds in a sheet."""
    found, _ = decode_sheet(text)
    return list(found["cues"] if isinstance(found, dict) else found)


def same(one: object, other: object) -> bool:
    """Equal in JSON, where 1 is not 1.0 and false is not 0, in the same order."""
    return json.dumps(one) == json.dumps(other)


@settings(max_examples=150, deadline=None)
@given(sheets(), CHANGES, st.integers(0, 3))
def test_an_edit_changes_what_it_names_and_no_other_character(
    sheet: tuple[str, list[dict[str, Any]]], changes: dict[str, Any], number: int
) -> None:
    text, cues = sheet
    index = number % len(cues)
    edited = edit_cue(text, index, changes)
    span = cue_spans(text)[index]
    assert edited.startswith(text[: span.start])
    assert edited[span.start :].endswith(text[span.stop :])
    wanted = {**cues[index], **changes}
    for name in [name for name, value in changes.items() if value is None]:
        del wanted[name]
    assert same(cues_of(edited), [*cues[:index], wanted, *cues[index + 1 :]])
    rest = len(text) - span.stop
    assert edited[span.start : len(edited) - rest].startswith("{")
    assert edit_cue(edited, index, changes) == edited, "again, there is nothing to change"


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (
            '[{"time": "00:00:01", "gain": 1.50, "steps": 8}]',
            {"steps": 12},
            '[{"time": "00:00:01", "gain": 1.50, "steps": 12}]',
        ),
        ('[{"a":1,"b":2}]', {"c": 3}, '[{"a":1,"b":2,"c":3}]'),
        ('[{"a": 1, "b": 2}]', {"b": None}, '[{"a": 1}]'),
        ('[{"a": 1, "b": 2}]', {"a": None}, '[{"b": 2}]'),
        ('[{"a": 1}]', {"a": None, "b": 2}, '[{"b": 2}]'),
        ('[{"a": 1}]', {"a": 1.0}, '[{"a": 1.0}]'),
        ('[{"a": 1.50}]', {"a": 1.5}, '[{"a": 1.50}]'),
        ('[\n  {\n    "a": 1,\n    "b": 2\n  }\n]\n', {"c": "ü"}, None),
        ('[{"a": 1, "a": 2}]', {"a": 3}, '[{"a": 1, "a": 3}]'),
        ('[{"a": 1, "a": 2}]', {"a": None}, "[{}]"),
        ('[{"a": "\\u00fc"}]', {"b": "ü"}, '[{"a": "\\u00fc", "b": "\\u00fc"}]'),
        ('[{"a": "ü"}]', {"b": "é"}, '[{"a": "ü", "b": "é"}]'),
        ('[{"a": 1}]', {"b": "\ud83d"}, '[{"a": 1, "b": "\\ud83d"}]'),
        (
            '[{\r\n  "a": [\r\n    1\r\n  ]\r\n}]',
            {"a": [1, 2]},
            '[{\r\n  "a": [\r\n    1,\r\n    2\r\n  ]\r\n}]',
        ),
        ('{"cues": [1], "cues": [{"a": 1}]}', {"a": 2}, '{"cues": [1], "cues": [{"a": 2}]}'),
    ],
)
def test_the_cue_keeps_its_style(before: str, changes: dict[str, Any], after: str | None) -> None:
    wanted = after or '[\n  {\n    "a": 1,\n    "b": 2,\n    "c": "ü"\n  }\n]\n'
    assert edit_cue(before, 0, changes) == wanted


@pytest.mark.parametrize("index", [-1, 1, 2, 10**9])
def test_a_cue_that_is_not_there_is_told(index: int) -> None:
    with pytest.raises(NoSuchCue, match="from 0 to 1"):
        edit_cue('[{"a": 1}, 7]', index, {"a": 2})


@pytest.mark.parametrize("text", ["", "[1,", "7", "{}", '{"cues": {}}', "[" * 200, '"[]"'])
def test_what_is_no_sheet_is_told(text: str) -> None:
    with pytest.raises(Unfit):
        edit_cue(text, 0, {"a": 2})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        edit_cue('[{"a": 1}]', 0, {"a": number})


@pytest.mark.skipif(not REAL_SHEET.exists(), reason="the piece's own sheet is not beside us")
def test_one_prompt_of_the_real_sheet_is_one_line_of_a_diff() -> None:
    text = REAL_SHEET.read_bytes().decode()
    cues = cues_of(text)
    spans = cue_spans(text)
    assert len(spans) == 401
    for index in [n for n, each in enumerate(cues) if each["action"] == "prompt"]:
        before = cues[index]["prompt"]
        edited = edit_cue(text, index, {"prompt": f"{before} at night"})
        spelt = f'"prompt": {json.dumps(before, ensure_ascii=False)}'
        at = text.index(spelt, spans[index].start, spans[index].stop)
        assert edited == text[:at] + spelt[:-1] + ' at night"' + text[at + len(spelt) :]
        assert edit_cue(edited, index, {"prompt": before}) == text
    for index, each in enumerate(cues[:40]):
        assert edit_cue(text, index, each) == text, "what is there already is not written again"
