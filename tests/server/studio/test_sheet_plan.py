from __future__ import annotations

import json
from typing import Any

from generator.sheet.cues import parse_cues
from generator.sheet.plan import Finished, Plan, plan_actions
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from server.studio.sheet_plan import plan_difference
from tests.helpers.shows import Cue, cue, line

PROGRAMS = {name: Program(**fields) for name, fields in DEFAULT_PROGRAMS.items()}
NOTHING: Finished = {}


def plan(*cues: Cue, finished: Finished = NOTHING) -> Plan:
    """The plan of a sheet with these cues."""
    data = json.dumps([*cues, cue(600, "end")]).encode()
    return plan_actions(parse_cues(data, "cues.json", PROGRAMS), PROGRAMS, {}, finished)


def lines(*texts: str) -> list[Cue]:
    """A line of transcript every ten seconds."""
    return [line(10 * number, text, program="P0") for number, text in enumerate(texts)]


def difference(before: list[Cue], after: list[Cue], finished: Finished = NOTHING) -> dict[str, Any]:
    """How the plan of one sheet differs from that of another."""
    return plan_difference(
        plan(*before, finished=finished), plan(*after, finished=finished), finished
    )


def test_one_text_edited_is_one_action_stale() -> None:
    drawn = plan(*lines("a", "b", "c"))
    finished = {key: [each] for key, each in drawn.wanted.items()}
    found = difference(lines("a", "b", "c"), lines("a", "bee", "c"), finished)
    assert found["kept"] == 2
    assert (found["new"], found["gone"]) == ([], [])
    (stale,) = found["stale"]
    assert (stale["cue"], stale["action_id"], stale["drawn"]) == (1, "transcript_002", True)
    (said,) = stale["changes"]
    assert said.startswith("prompt ")
    assert "b" in said
    assert "bee" in said
    undrawn = difference(lines("a", "b", "c"), lines("a", "bee", "c"))
    assert [each["drawn"] for each in undrawn["stale"]] == [False]


def test_a_line_put_before_all_others_makes_none_of_them_stale() -> None:
    for finished in ({}, {key: [each] for key, each in plan(*lines("a", "b")).wanted.items()}):
        found = difference(lines("a", "b"), lines("new", "a", "b"), finished)
        assert (found["stale"], found["gone"], found["kept"]) == ([], [], 2)
        assert [each["cue"] for each in found["new"]] == [0]


def test_a_line_taken_out_is_gone() -> None:
    found = difference(lines("a", "b", "c"), lines("a", "c"))
    assert (found["stale"], found["new"], found["kept"]) == ([], [], 2)
    assert [each["cue"] for each in found["gone"]] == [1]


def test_of_two_lines_that_say_the_same_only_the_edited_one_is_stale() -> None:
    found = difference(lines("a", "a", "a"), lines("a", "b", "a"))
    assert [each["cue"] for each in found["stale"]] == [1]
    assert found["kept"] == 2


def test_lines_that_change_places_are_kept() -> None:
    found = difference(lines("a", "b"), lines("b", "a"))
    assert found == {"stale": [], "new": [], "gone": [], "kept": 2}


def test_an_own_id_whose_text_is_anothers_now_is_stale() -> None:
    before = [line(0, "a", id="first"), line(10, "b", id="second")]
    after = [line(0, "a", id="first"), line(10, "c", id="second")]
    assert [each["action_id"] for each in difference(before, after)["stale"]] == ["second"]
