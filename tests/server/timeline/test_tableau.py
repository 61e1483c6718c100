from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.timeline.tableau import Tableau, tableau_at
from tests.helpers.cues import (
    END,
    EVERY_KIND,
    MARK,
    START,
    Cue,
    fade,
    line,
    prompt,
    scene,
    sheet_of,
    slider,
)


def tableau(*cues: Cue) -> Tableau:
    """The picture once all of these have been."""
    return tableau_at(sheet_of(*cues, END), len(cues))


def test_before_the_first_cue_there_is_nothing() -> None:
    assert tableau_at(sheet_of(START, prompt()), 0) == Tableau()


def test_the_last_that_draws_has_the_wall() -> None:
    found = tableau(START, prompt("first"), prompt("second", guidance=30), line(999.0))
    assert found == Tableau(generating=2, before=1)


def test_only_cues_before_the_index_have_been() -> None:
    sheet = sheet_of(START, prompt("first"), prompt("second"), END)
    assert tableau_at(sheet, 2).generating == 1
    assert tableau_at(sheet, 3).generating == 2


def test_a_line_is_the_picture_where_it_draws() -> None:
    assert tableau(START, line(999.0, generate=True)).generating == 1
    assert tableau(START, line(999.0)).generating is None


def test_an_erased_prompt_draws_nothing() -> None:
    assert tableau(START, prompt("drawn"), prompt("", commit=False)).generating == 1


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


def test_a_slider_cue_draws() -> None:
    assert tableau(START, prompt(program="P2"), slider(20, program="P2")).generating == 2


def test_a_start_clears_the_stage() -> None:
    assert tableau(prompt("a"), prompt("b"), START) == Tableau()


def test_marks_are_nothing_to_see() -> None:
    cues = (START, prompt(), MARK, {"action": "reconnect"})
    assert tableau(*cues) == tableau(*cues[:2])


_CUES = st.sampled_from(EVERY_KIND)


@given(st.lists(_CUES, min_size=1, max_size=12), st.data())
@settings(deadline=None, max_examples=150)
def test_nothing_that_draws_has_been_after_the_picture_on_the_wall(
    cues: list[Cue], data: st.DataObject
) -> None:
    sheet = sheet_of(*cues)
    index = data.draw(st.integers(0, len(cues)))
    found = tableau_at(sheet, index)
    for number in (found.generating, found.before):
        if number is not None:
            assert number < index
            assert sheet.cues[number].generates
            assert not any(cue.action == "start" for cue in sheet.cues[number + 1 : index])
    later = sheet.cues[0 if found.generating is None else found.generating + 1 : index]
    since_start = [number for number, cue in enumerate(later) if cue.action == "start"]
    visible = later[since_start[-1] :] if since_start else later
    assert not any(cue.generates for cue in visible)
