from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.sheet.cues import CueSheet, format_time, parse_cues
from generator.sheet.plan import Action, Plan, plan_actions
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from generator.sheet.recipe import PipelineKind

PROGRAMS = {name: Program(**fields) for name, fields in DEFAULT_PROGRAMS.items()}
BASE_IMAGES = {name: b"base" for name, program in PROGRAMS.items() if program.image_to_image}

Cue = dict[str, Any]


def sheet_of(*cues: Cue) -> CueSheet:
    timed = [{"time": format_time(10 * number), **cue} for number, cue in enumerate(cues)]
    return parse_cues(json.dumps(timed).encode(), "cues.json", PROGRAMS)


def planned(*cues: Cue, finished: dict[str, str | None] | None = None) -> Plan:
    known = {key: () if one is None else (one,) for key, one in (finished or {}).items()}
    return plan_actions(sheet_of(*cues), PROGRAMS, BASE_IMAGES, known)


def actions(*cues: Cue) -> tuple[Action, ...]:
    return planned(*cues).actions


def transcript(text: str = "This is a lecture", **fields: Any) -> Cue:
    return {"action": "transcript", "transcript": text, "generate": True, **fields}


def prompt(text: str = "a lake", **fields: Any) -> Cue:
    return {"action": "prompt", "prompt": text, **fields}


def slider(value: float, **fields: Any) -> Cue:
    return {"action": "move-slider", "value": value, **fields}


def finished_of(plan: Plan) -> dict[str, str | None]:
    return {action.action_id: action.fingerprint for action in plan.actions}


# ---------------------------------------------------------------- which cues draw, and what


@pytest.mark.parametrize(
    ("cue", "generates"),
    [
        (transcript(), True),
        (transcript(generate=False), False),
        ({"action": "transcript", "transcript": "not marked"}, False),
        (prompt(), True),
        (prompt(commit=True), True),
        (prompt(commit=False), False),
        (prompt(""), False),
        (prompt(" \t\n\u00a0\u2003"), False),
        (prompt("", override="person"), False),
        (prompt("a", override=""), True),
        (slider(0), True),
        ({"action": "navigate", "route": "/two"}, False),
        ({"action": "set-fade-status", "fade": True}, False),
        ({"action": "next"}, False),
        ({"action": "reconnect"}, False),
        ({"action": "start"}, False),
        ({"action": "end"}, False),
    ],
)
def test_which_cues_draw(cue: Cue, generates: bool) -> None:
    plan = planned(prompt("before", program="P2"), cue)
    assert len(plan.actions) == 1 + generates
    assert (plan.of_cue(1) is not None) == generates
    assert plan.of_cue(0) is plan.actions[0]
    assert plan.of_cue(7) is None


def test_an_action_tells_of_its_cue() -> None:
    plan = planned({"action": "start"}, prompt("big tech ceo", program="P4", enter={"regen": True}))
    (action,) = plan.actions
    assert (action.type, action.cue_index, action.at) == ("prompt", 1, 10.0)
    assert (action.program, action.prompt, action.override) == ("P4", "big tech ceo", None)
    assert action.regenerate
    assert action.recipe.prompt == "big tech ceo, photorealistic"
    assert action.recipe.model == PROGRAMS["P4"].model


def test_a_transcript_is_drawn_by_p0_unless_it_names_another() -> None:
    spoken, other = actions(transcript(), transcript(program="P4"))
    assert (spoken.program, other.program) == ("P0", "P4")
    assert spoken.recipe.prompt == "This is a lecture, photorealistic"
    assert spoken.recipe.kind is PipelineKind.TEXT_TO_IMAGE


def test_guidance_is_strength_and_never_guidance_scale() -> None:
    low, high = actions(
        prompt(program="P2", guidance=0), prompt("a sea", program="P2", guidance=85)
    )
    assert (low.recipe.strength, high.recipe.strength) == (0.0, 0.85)
    assert {low.recipe.guidance_scale, high.recipe.guidance_scale} == {7.5}


def test_the_slider_stays_where_it_was_put_in_its_own_program() -> None:
    first, second, third, other = actions(
        prompt("one", program="P2"),
        slider(25, program="P2"),
        prompt("two", program="P2"),
        prompt("three", program="P2B"),
    )
    assert first.recipe.strength == PROGRAMS["P2"].strength
    assert second.recipe.strength == 0.25
    assert third.recipe.strength == 0.25
    assert other.recipe.strength == PROGRAMS["P2B"].strength


def test_an_action_tells_the_sliders_way_from_where_it_stood() -> None:
    drawn = actions(
        prompt(program="P2"),
        slider(20, program="P2"),
        prompt("b", program="P2", guidance=70),
        prompt("typed only", program="P2", guidance=5, commit=False),
        slider(0, program="P2"),
        prompt(program="P2B"),
        slider(90),
        transcript(),
    )
    assert [action.slider for action in drawn] == [
        None,
        (60.0, 20.0),
        (20.0, 70.0),
        (70.0, 0.0),
        None,
        (60.0, 90.0),
        None,
    ]


def test_a_slider_draws_with_its_programs_last_prompt() -> None:
    plan = planned(
        prompt("a lake", program="P2"),
        prompt("a crowd", program="P4"),
        slider(40, program="P2"),
        slider(60, program="P2"),
    )
    assert [action.recipe.prompt for action in plan.actions[2:]] == ["a lake", "a lake"]
    assert [action.prompt for action in plan.actions[2:]] == ["a lake", "a lake"]
    assert [action.recipe.strength for action in plan.actions[2:]] == [0.4, 0.6]
    assert plan.remarks == ()


def test_a_slider_without_a_program_moves_that_of_the_last_prompt() -> None:
    moved = actions(prompt("a lake", program="P2"), transcript(), slider(30))[-1]
    assert (moved.program, moved.recipe.prompt, moved.recipe.strength) == ("P2", "a lake", 0.3)


def test_what_was_typed_and_not_entered_is_not_the_last_prompt() -> None:
    moved = actions(
        prompt("a lake", program="P2"),
        prompt("never entered", program="P2", commit=False),
        prompt("", program="P2"),
        slider(30, program="P2"),
    )[-1]
    assert moved.recipe.prompt == "a lake"


def test_a_slider_draws_the_override_of_its_prompt() -> None:
    moved = actions(prompt("ceo", program="P2", override="person, ceo"), slider(10, program="P2"))[
        -1
    ]
    assert (moved.prompt, moved.override, moved.recipe.prompt) == (
        "ceo",
        "person, ceo",
        "person, ceo",
    )


def test_an_override_is_drawn_verbatim_and_the_prompt_displayed() -> None:
    text = "person, data researcher, photorealistic"
    (action,) = actions(prompt("data researcher", program="P4", override=text))
    assert action.recipe.prompt == text
    assert action.prompt == "data researcher"
    assert action.override == text


def test_an_empty_override_is_an_override() -> None:
    (action,) = actions(prompt("data researcher", program="P4", override=""))
    assert action.recipe.prompt == ""


def test_odd_but_harmless_things_are_told_with_their_place() -> None:
    plan = planned(slider(10, program="P2"), prompt("a", program="P4", guidance=5), slider(20))
    assert [(remark.index, remark.time) for remark in plan.remarks] == [
        (0, "00:00:00"),
        (1, "00:00:10"),
        (2, "00:00:20"),
    ]
    no_prompt, no_effect, no_slider = (remark.message for remark in plan.remarks)
    assert "no prompt of P2 before it" in no_prompt
    assert "guidance has no effect" in no_effect
    assert "slider has no effect" in no_slider
    assert plan.actions[0].recipe.prompt == ""


def test_a_cue_may_ask_for_steps_of_its_own() -> None:
    own, usual = actions(prompt("a", program="P4", steps=7), prompt("b", program="P4"))
    assert (own.recipe.steps, usual.recipe.steps) == (7, 30)


def test_only_image_to_image_gets_a_base() -> None:
    with_base, without = actions(prompt("a", program="P2"), prompt("a", program="P4"))
    assert (with_base.recipe.base_image, without.recipe.base_image) == (b"base", None)
    assert without.recipe.strength is None


# ---------------------------------------------------------------- suffixes and white space


@pytest.mark.parametrize(
    ("suffix", "text", "drawn"),
    [
        (", photorealistic", "a lake", "a lake, photorealistic"),
        ("photorealistic", "a lake", "a lake photorealistic"),
        ("  photorealistic  ", "a lake", "a lake photorealistic"),
        ("; ink", "a lake", "a lake; ink"),
        (". Ink.", "a lake", "a lake. Ink."),
        ("", "a lake", "a lake"),
        (", photorealistic", "", "photorealistic"),
        (", photorealistic", " \u00a0 ", "photorealistic"),
        ("", "", ""),
        (",\u00a0photorealistic", " a\u00a0\n lake ", "a lake, photorealistic"),
    ],
)
def test_suffix_and_white_space(suffix: str, text: str, drawn: str) -> None:
    assert Program(suffix=suffix).drawn_prompt(text) == drawn


def test_a_programs_own_text_is_drawn_for_whatever_the_cue_says() -> None:
    program = Program(prompt="crowd of people", suffix=", ink")
    assert program.drawn_prompt("a lake") == "crowd of people, ink"
    assert program.drawn_prompt("a lake", "the override") == "the override"
    assert Program(prompt="", suffix=", ink").drawn_prompt("a lake") == "ink"


@given(
    st.lists(st.text(alphabet="abcé,.", min_size=1, max_size=5), min_size=1, max_size=5),
    st.lists(st.text(alphabet=" \t\n\u00a0\u2003", min_size=1, max_size=3), min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=60)
def test_typography_makes_no_set_stale(words: list[str], spaces: list[str]) -> None:
    tidy = " ".join(words)
    loose = spaces[5] + "".join(f"{w}{s}" for w, s in zip(words, spaces, strict=False))
    program = PROGRAMS["P4"]
    assert program.recipe(loose).fingerprint == program.recipe(tidy).fingerprint
    assert (
        program.recipe("x", override=loose).fingerprint
        == program.recipe("x", override=tidy).fingerprint
    )


# ---------------------------------------------------------------- ids


def test_natural_ids_count_each_kind_over_generating_cues() -> None:
    plan = planned(
        transcript("one"),
        transcript("silent", generate=False),
        prompt("a", program="P2"),
        prompt("erased", commit=False),
        transcript("two"),
        slider(10, program="P2"),
        prompt("b", program="P2"),
        slider(20, program="P2"),
    )
    assert [action.action_id for action in plan.actions] == [
        "transcript_001",
        "prompt_001",
        "transcript_002",
        "slider_001",
        "prompt_002",
        "slider_002",
    ]


def test_numbers_go_on_beyond_three_digits() -> None:
    plan = planned(*(transcript(f"line {number}") for number in range(1001)))
    assert plan.actions[-1].action_id == "transcript_1001"


def test_an_explicit_id_is_kept_and_its_place_still_counts() -> None:
    plan = planned(prompt("a"), prompt("b", id="ceo"), prompt("c"))
    assert [a.action_id for a in plan.actions] == ["prompt_001", "ceo", "prompt_003"]


def test_an_explicit_id_that_looks_like_anothers_place_is_given_to_nobody_else() -> None:
    plan = planned(prompt("a"), prompt("b", id="prompt_001"), prompt("c"))
    ids = [action.action_id for action in plan.actions]
    assert ids[1:] == ["prompt_001", "prompt_003"]
    assert ids[0] not in ids[1:]


def test_an_explicit_id_takes_a_finished_one_from_its_cue() -> None:
    first = planned(prompt("a"), prompt("b"))
    again = planned(prompt("a"), prompt("new", id="prompt_001"), finished=finished_of(first))
    assert again.actions[1].action_id == "prompt_001"
    assert again.actions[0].action_id != "prompt_001"


def test_a_cue_inserted_before_finished_ones_gets_a_number_of_its_own() -> None:
    first = planned(prompt("a"), prompt("b"))
    again = planned(prompt("new"), prompt("a"), prompt("b"), finished=finished_of(first))
    new, *old = [action.action_id for action in again.actions]
    assert old == ["prompt_001", "prompt_002"]
    assert new not in {"prompt_001", "prompt_002"}


def test_removing_and_reordering_relabels_nothing() -> None:
    first = planned(prompt("a"), prompt("b"), prompt("c"))
    finished = finished_of(first)
    by_text = {action.prompt: action.action_id for action in first.actions}
    for order in ("bc", "ac", "ab", "cba", "bac", "c"):
        again = planned(*(prompt(text) for text in order), finished=finished)
        assert [a.action_id for a in again.actions] == [by_text[text] for text in order]


def test_an_edited_cue_keeps_its_places_id_and_is_the_only_stale_one() -> None:
    first = planned(prompt("a"), prompt("b"), prompt("c"))
    finished = finished_of(first)
    again = planned(prompt("a"), prompt("edited"), prompt("c"), finished=finished)
    assert [a.action_id for a in again.actions] == [a.action_id for a in first.actions]
    assert [a.action_id for a in again.actions if finished[a.action_id] != a.fingerprint] == [
        "prompt_002"
    ]


def test_a_new_cue_claims_no_sets_of_one_that_was_removed() -> None:
    first = planned(prompt("a"), prompt("b"), prompt("c"))
    again = planned(prompt("b"), prompt("c"), prompt("x"), prompt("y"), finished=finished_of(first))
    ids = [action.action_id for action in again.actions]
    assert ids[:2] == ["prompt_002", "prompt_003"]
    assert not {"prompt_001", "prompt_002", "prompt_003"} & set(ids[2:])
    assert len(set(ids)) == 4


def test_a_new_number_is_beyond_those_that_are_drawn_and_no_longer_in_the_sheet() -> None:
    (wanted,) = actions(prompt("b"))
    finished: dict[str, str | None] = {"prompt_001": wanted.fingerprint, "prompt_003": "another's"}
    plan = planned(prompt("new"), prompt("b"), finished=finished)
    assert [action.action_id for action in plan.actions] == ["prompt_004", "prompt_001"]


def test_cues_of_the_same_recipe_have_each_their_own_sets() -> None:
    first = planned(prompt("a"), prompt("a"), prompt("a"))
    assert [action.action_id for action in first.actions] == [
        "prompt_001",
        "prompt_002",
        "prompt_003",
    ]
    assert len({action.fingerprint for action in first.actions}) == 1
    two = planned(prompt("new"), prompt("a"), prompt("a"), finished=finished_of(first))
    assert [action.action_id for action in two.actions][1:] == ["prompt_002", "prompt_003"]


def test_the_same_recipe_keeps_its_id_where_the_kind_of_cue_changes() -> None:
    first = planned(transcript("a lake", program="P4"))
    again = planned(prompt("a lake", program="P4"), finished=finished_of(first))
    assert again.actions[0].action_id == "transcript_001"


def test_what_is_not_known_of_a_finished_action_gives_it_to_nobody_by_recipe() -> None:
    plan = planned(prompt("a"), prompt("b"), finished={"prompt_002": None, "other": None})
    assert [action.action_id for action in plan.actions] == ["prompt_001", "prompt_002"]


_PLAIN = st.builds(
    lambda text, program: prompt(text, program=program),
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["P2", "P4"]),
)
_CUES = st.one_of(
    _PLAIN,
    st.builds(transcript, st.sampled_from(["a", "one", "two"])),
    st.builds(lambda value: slider(value, program="P2"), st.sampled_from([0, 20, 60])),
    st.just({"action": "next"}),
    st.just(prompt("a", commit=False)),
)
_SHEETS = st.lists(_CUES, min_size=1, max_size=10)
_EDITS = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "edit", "move"]), st.integers(0, 99), _CUES),
    max_size=5,
)


def edited(cues: list[Cue], edits: list[tuple[str, int, Cue]]) -> list[Cue]:
    cues = list(cues)
    for what, where, cue in edits:
        if what == "insert":
            cues.insert(where % (len(cues) + 1), cue)
        elif cues:
            gone = cues.pop(where % len(cues))
            if what != "delete":
                cues.insert(where * 7 % (len(cues) + 1), gone if what == "move" else cue)
    return cues or [{"action": "next"}]


@given(_SHEETS, _EDITS)
@settings(deadline=None, max_examples=200)
def test_whatever_is_edited_what_is_drawn_keeps_its_id(
    cues: list[Cue], edits: list[tuple[str, int, Cue]]
) -> None:
    first = planned(*cues)
    finished = finished_of(first)
    again = planned(*edited(cues, edits), finished=finished)
    ids = [action.action_id for action in again.actions]
    assert len(ids) == len(set(ids))

    before, after = defaultdict(set), defaultdict(list)
    for action in first.actions:
        before[action.fingerprint].add(action.action_id)
    for action in again.actions:
        after[action.fingerprint].append(action.action_id)
    for fingerprint, wanted in after.items():
        kept = before[fingerprint].intersection(wanted)
        assert len(kept) == min(len(before[fingerprint]), len(wanted))
    # and a plan is stable: planned again once everything is drawn, nothing moves
    once_more = planned(*edited(cues, edits), finished={**finished, **finished_of(again)})
    assert [action.action_id for action in once_more.actions] == ids


@given(_SHEETS, st.dictionaries(st.sampled_from(["prompt_001", "x", "slider_002"]), st.none()))
@settings(deadline=None, max_examples=60)
def test_an_unchanged_sheet_keeps_every_id(cues: list[Cue], others: dict[str, None]) -> None:
    first = planned(*cues)
    again = planned(*cues, finished={**others, **finished_of(first)})
    assert again.actions == first.actions


@given(st.lists(_PLAIN, min_size=1, max_size=10), st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_one_edited_prompt_is_the_only_stale_one(cues: list[Cue], where: int) -> None:
    first = planned(*cues)
    finished = finished_of(first)
    where %= len(cues)
    changed = [*cues[:where], {**cues[where], "prompt": "edited"}, *cues[where + 1 :]]
    again = planned(*changed, finished=finished)
    assert [a.action_id for a in again.actions] == [a.action_id for a in first.actions]
    stale = [
        index for index, a in enumerate(again.actions) if finished[a.action_id] != a.fingerprint
    ]
    assert stale == [where]


@given(
    st.lists(
        st.builds(
            lambda text, name: prompt(text, **({"id": name} if name else {})),
            st.sampled_from(["a", "b"]),
            st.sampled_from([None, None, "prompt_001", "prompt_002", "prompt_003", "x"]),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda cue: cue.get("id", id(cue)),
    ),
    st.dictionaries(
        st.sampled_from(["prompt_001", "prompt_002", "prompt_004", "x", "prompt_x", "a_007"]),
        st.sampled_from(
            [None, *(PROGRAMS["P0"].recipe(text).fingerprint for text in ("a", "b", "c"))]
        ),
    ),
)
@settings(deadline=None, max_examples=150)
def test_ids_are_unique_and_explicit_ones_kept_whatever_is_finished(
    cues: list[Cue], finished: dict[str, str | None]
) -> None:
    plan = planned(*cues, finished=finished)
    assert all(
        count == 1 for count in Counter(action.action_id for action in plan.actions).values()
    )
    for cue, action in zip(cues, plan.actions, strict=True):
        assert action.action_id == cue.get("id", action.action_id)
