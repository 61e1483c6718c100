from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.sheet.cues import CueSheet, format_time, parse_cues
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from server.timeline.tableau import Tableau, tableau_at

PROGRAMS = {name: Program(**fields) for name, fields in DEFAULT_PROGRAMS.items()}

Cue = dict[str, Any]
START: Cue = {"action": "start"}
END: Cue = {"action": "end"}
MARK: Cue = {"action": "next"}


def sheet_of(*cues: Cue) -> CueSheet:
    timed = [{"time": format_time(10 * number), **cue} for number, cue in enumerate(cues)]
    return parse_cues(json.dumps(timed).encode(), "cues.json", PROGRAMS)


def tableau(*cues: Cue, at: float | None = None) -> Tableau:
    """The stage once all of these have been, just after the last of them."""
    position = 10.0 * (len(cues) - 1) + 0.5 if at is None else at
    return tableau_at(sheet_of(*cues, END), len(cues), position)


def prompt(text: str = "a lake", **fields: Any) -> Cue:
    return {"action": "prompt", "prompt": text, **fields}


def line(until: float, **fields: Any) -> Cue:
    return {"action": "transcript", "transcript": "a line", "when": [0.0, until], **fields}


def slider(value: float, **fields: Any) -> Cue:
    return {"action": "move-slider", "value": value, **fields}


def scene(route: str) -> Cue:
    return {"action": "navigate", "route": route}


def fade(black: bool) -> Cue:
    return {"action": "set-fade-status", "fade": black}


def test_before_the_first_cue_there_is_nothing() -> None:
    assert tableau_at(sheet_of(START, prompt()), 0, 0.0) == Tableau()


def test_the_last_of_each_kind_has_a_say() -> None:
    found = tableau(
        START,
        scene("/one"),
        scene("/two"),
        fade(True),
        fade(False),
        prompt("first"),
        prompt("second", guidance=30),
        line(999.0),
    )
    assert found == Tableau(
        navigate=2, fade=4, caption=7, prompt=6, slider=6, generating=6, before=5
    )


def test_only_cues_before_the_index_have_been() -> None:
    sheet = sheet_of(START, prompt("first"), prompt("second"), END)
    assert tableau_at(sheet, 2, 10.0).generating == 1
    assert tableau_at(sheet, 3, 20.0).generating == 2


def test_a_line_is_there_until_it_has_been_spoken() -> None:
    assert tableau(START, line(14.0), at=13.9).caption == 1
    assert tableau(START, line(14.0), at=14.0).caption is None


def test_a_line_takes_the_place_of_the_one_before_it() -> None:
    found = tableau(START, line(999.0), line(21.0), at=30.0)
    assert found.caption is None


def test_a_line_that_draws_is_also_the_picture() -> None:
    found = tableau(START, line(999.0, generate=True))
    assert (found.caption, found.generating) == (1, 1)
    assert tableau(START, line(999.0)).generating is None


def test_an_erased_prompt_stands_typed_but_draws_nothing() -> None:
    found = tableau(START, prompt("drawn"), prompt("", commit=False))
    assert (found.prompt, found.generating) == (2, 1)


def test_another_scene_takes_the_words_and_the_slider_with_it_and_leaves_the_picture() -> None:
    found = tableau(START, prompt("a lake", guidance=30), scene("/two"))
    assert (found.prompt, found.slider, found.navigate) == (None, None, 2)
    assert (found.generating, found.alone) == (1, False)


@pytest.mark.parametrize(
    ("after", "alone"),
    [
        (MARK, True),
        (fade(True), True),
        (line(999.0), True),
        (prompt("", commit=False), True),
        (scene("/two"), False),
        (END, False),
    ],
)
def test_regeneration_goes_on_until_a_navigation_or_the_end(after: Cue, alone: bool) -> None:
    found = tableau(START, prompt(enter={"regen": True}), after)
    assert (found.generating, found.alone) == (1, alone)


def test_the_next_generating_cue_regenerates_by_itself_again() -> None:
    found = tableau(START, prompt(), scene("/two"), prompt("b"))
    assert (found.generating, found.alone) == (3, True)


def test_a_slider_cue_moves_the_slider_and_draws() -> None:
    found = tableau(START, prompt(program="P2"), slider(20, program="P2"))
    assert (found.slider, found.generating, found.prompt) == (2, 2, 1)


def test_a_prompt_that_moves_no_slider_leaves_it() -> None:
    assert tableau(START, prompt(guidance=20), prompt("b")).slider == 1


def test_a_start_clears_the_stage() -> None:
    everything = (scene("/one"), fade(True), prompt(guidance=3), line(999.0))
    assert tableau(*everything, START) == Tableau()


def test_marks_are_nothing_to_see() -> None:
    cues = (START, prompt(), MARK, {"action": "reconnect"})
    assert tableau(*cues) == tableau(*cues[:2])


_CUES = st.sampled_from(
    [
        START,
        MARK,
        scene("/one"),
        fade(True),
        fade(False),
        prompt("a"),
        prompt("b", guidance=10),
        prompt("", commit=False),
        line(15.0),
        line(45.0, generate=True),
        slider(50),
    ]
)


@given(st.lists(_CUES, min_size=1, max_size=12), st.data())
@settings(deadline=None, max_examples=150)
def test_every_index_is_of_a_cue_of_its_kind_that_has_been(
    cues: list[Cue], data: st.DataObject
) -> None:
    sheet = sheet_of(*cues)
    index = data.draw(st.integers(0, len(cues)))
    found = tableau_at(sheet, index, 10.0 * index)
    kinds = {
        "navigate": {"navigate"},
        "fade": {"set-fade-status"},
        "caption": {"transcript"},
        "prompt": {"prompt"},
        "slider": {"move-slider", "prompt"},
        "generating": {"transcript", "prompt", "move-slider"},
    }
    for field, actions in kinds.items():
        number = getattr(found, field)
        if number is not None:
            assert number < index
            assert sheet.cues[number].action in actions
            assert not any(cue.action == "start" for cue in sheet.cues[number + 1 : index])
    # nothing that draws has been after the picture on the wall
    later = sheet.cues[0 if found.generating is None else found.generating + 1 : index]
    since_start = [number for number, cue in enumerate(later) if cue.action == "start"]
    visible = later[since_start[-1] :] if since_start else later
    assert not any(cue.generates for cue in visible)
