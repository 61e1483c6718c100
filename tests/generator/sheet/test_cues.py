from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.sheet.cues import (
    KINDS,
    CueSheet,
    CueSheetError,
    EndCue,
    PromptCue,
    SliderCue,
    TranscriptCue,
    format_time,
    parse_cues,
    parse_time,
)
from generator.sheet.plan import plan_actions
from generator.sheet.programs import DEFAULT_PROGRAMS, Program

PROGRAMS = {name: Program(**fields) for name, fields in DEFAULT_PROGRAMS.items()}
BASE_IMAGES = {name: b"base" for name, program in PROGRAMS.items() if program.image_to_image}
REAL_SHEET = Path(__file__).parents[4] / "shared" / "data" / "cues.json"

START = {"time": "00:00:00", "action": "start"}
END = {"time": "01:14:00", "action": "end"}
VALID: dict[str, dict[str, Any]] = {
    "start": {},
    "transcript": {"transcript": "This is a lecture in two parts."},
    "prompt": {"prompt": "painting like epic poem of malaya"},
    "move-slider": {"value": 40},
    "navigate": {"route": "/two"},
    "set-fade-status": {"fade": True},
    "next": {},
    "reconnect": {},
    "end": {},
}


def parsed(cues: Any) -> CueSheet:
    return parse_cues(json.dumps(cues).encode(), "cues.json", PROGRAMS)


def refused(data: Any) -> CueSheetError:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(CueSheetError) as caught:
        parse_cues(raw, "piece/cues.json", PROGRAMS)
    assert str(caught.value).splitlines() == caught.value.lines()
    assert all(line.startswith("piece/cues.json: ") for line in caught.value.lines())
    return caught.value


def only_problem(cue: dict[str, Any]) -> str:
    """What is wrong with one cue among good ones; its index and time must be told."""
    error = refused([START, cue, END])
    assert [problem.index for problem in error.problems] == [1]
    assert error.problems[0].time == cue.get("time")
    return error.problems[0].message


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0.0),
        ("00:44:22", 2662.0),
        ("00:44:22.5", 2662.5),
        ("1:02:03", 3723.0),
        ("01:14:00.000000001", 4440.000000001),
        ("167:59:59.999", 604799.999),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "00:44",
        "00:60:00",
        "00:00:60",
        "-00:00:01",
        "00:00:01.",
        "00:00:01 ",
        "00:00:1",
        "0:0:0",
        "00:00:01\n",
        "\u0660\u0660:\u0660\u0660:\u0660\u0660",
        "1000:00:00",
        None,
        12,
        12.5,
        True,
        ["00:00:00"],
    ],
)
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="HH:MM:SS"):
        parse_time(text)


@given(st.integers(0, 999 * 3600_000))
@settings(deadline=None)
def test_times_survive_a_round_trip_to_the_millisecond(millis: int) -> None:
    text = format_time(millis / 1000)
    assert round(parse_time(text) * 1000) == millis
    assert format_time(parse_time(text)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00"),
        (2662.5, "00:44:22.5"),
        (59.9996, "00:01:00"),
        (0.1 + 0.2, "00:00:00.3"),
        (36000, "10:00:00"),
        (360000, "100:00:00"),
    ],
)
def test_times_are_written_with_a_fraction_only_where_there_is_one(
    seconds: float, text: str
) -> None:
    assert format_time(seconds) == text


# ---------------------------------------------------------------- good sheets


@pytest.mark.skipif(not REAL_SHEET.exists(), reason="the piece's own sheet is not beside us")
def test_the_real_sheet_loads_and_plans_as_it_is() -> None:
    sheet = parse_cues(REAL_SHEET.read_bytes(), "cues.json", PROGRAMS)
    assert len(sheet.cues) == 401
    assert isinstance(sheet.cues[-1], EndCue)
    assert 74 * 60 <= sheet.duration < 75 * 60
    assert [cue.at for cue in sheet.cues] == sorted(cue.at for cue in sheet.cues)
    plan = plan_actions(sheet, PROGRAMS, BASE_IMAGES)
    assert Counter(action.type for action in plan.actions) == {
        "transcript": 115,
        "prompt": 6,
        "slider": 2,
    }
    assert len({action.action_id for action in plan.actions}) == 123
    assert all(action.recipe.prompt for action in plan.actions)


def test_the_specs_example_is_read_field_by_field() -> None:
    sheet = parsed(
        [
            START,
            {
                "time": "00:06:51",
                "action": "transcript",
                "generate": True,
                "transcript": "This is a lecture in two parts.",
                "when": [411.66, 413.74],
                "words": [{"word": " This", "start": 411.66, "end": 411.88}],
            },
            {
                "time": "00:46:02",
                "action": "prompt",
                "program": "P3B",
                "prompt": "",
                "commit": False,
                "delay": {"base": 30, "variance": 20},
            },
            {
                "time": "00:55:46",
                "action": "prompt",
                "program": "P4",
                "prompt": "big tech ceo",
                "override": "person, photorealistic",
                "guidance": 40,
                "enter": {"regen": True},
                "id": "ceo",
                "mode": "live",
                "steps": 12,
            },
            {"time": "00:56:00", "action": "move-slider", "program": "P2", "value": 0},
            END,
        ]
    )
    _, spoken, erased, prompt, slider, _ = sheet.cues
    assert isinstance(spoken, TranscriptCue)
    assert (spoken.at, spoken.until, spoken.generates) == (411.0, 413.74, True)
    assert [(word.word, word.end) for word in spoken.words] == [(" This", 411.88)]
    assert isinstance(erased, PromptCue)
    assert (erased.delay.base, erased.delay.variance) == (30, 20)
    assert not erased.generates
    assert isinstance(prompt, PromptCue)
    assert (prompt.delay.base, prompt.delay.variance) == (100, 40)
    assert (prompt.override, prompt.guidance, prompt.enter.regen) == (
        "person, photorealistic",
        40,
        True,
    )
    assert (prompt.id, prompt.mode, prompt.steps) == ("ceo", "live", 12)
    assert isinstance(slider, SliderCue)
    assert (slider.value, slider.generates) == (0, True)
    assert sheet.duration == 4440.0
    assert sheet.remarks == ()


def test_an_object_with_cues_and_a_byte_order_mark_are_fine() -> None:
    plain = parsed([START, END])
    assert parsed({"title": "Ghost Light", "cues": [START, END]}).cues == plain.cues
    data = b"\xef\xbb\xbf" + json.dumps([START, END]).encode()
    assert parse_cues(data, "cues.json", PROGRAMS).cues == plain.cues


def test_cues_that_share_a_second_keep_their_order() -> None:
    routes = ["/c", "/a", "/b"]
    sheet = parsed(
        [START, *({"time": "00:00:01", "action": "navigate", "route": r} for r in routes), END]
    )
    assert [cue.model_dump().get("route") for cue in sheet.cues[1:-1]] == routes


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        ({"when": [10.0, 14.5], "words": [{"word": "a", "start": 10, "end": 20}]}, 14.5),
        ({"when": [1.0, 4.0], "words": [{"word": "a", "start": 10, "end": 20}]}, 20),
        ({"words": [{"word": "a", "start": 1, "end": 2}]}, 12),
        ({"transcript": "x" * 150}, 20),
        ({"transcript": ""}, 12),
    ],
)
def test_a_line_is_spoken_until_its_words_end(fields: dict[str, Any], until: float) -> None:
    cue = parsed(
        [{"time": "00:00:10", "action": "transcript", "transcript": "a", **fields}, END]
    ).cues[0]
    assert isinstance(cue, TranscriptCue)
    assert cue.until == until


def test_the_first_end_ends_it_and_what_comes_after_is_told() -> None:
    late = {"time": "00:03:00", "action": "next"}
    sheet = parsed([START, {"time": "00:02:00", "action": "end"}, late, END])
    assert sheet.duration == 120
    assert [(remark.index, remark.time) for remark in sheet.remarks] == [
        (2, "00:03:00"),
        (3, "01:14:00"),
    ]
    assert all("cue 1 ends the screening" in remark.message for remark in sheet.remarks)


def test_a_sheet_without_an_end_gives_its_last_cue_ten_seconds_and_says_so() -> None:
    sheet = parsed([START, {"time": "00:02:00", "action": "next"}])
    assert sheet.duration == 130
    assert [(remark.index, "no end cue" in str(remark)) for remark in sheet.remarks] == [
        (None, True)
    ]


def test_unknown_fields_are_told_and_do_no_harm() -> None:
    sheet = parsed([{**START, "operator": "Ada", "at": "00:00:09"}, END])
    assert [str(remark) for remark in sheet.remarks] == [
        "cue 0 at 00:00:00: unknown fields are ignored: at, operator"
    ]
    assert sheet.cues[0].at == 0.0


# ---------------------------------------------------------------- bad sheets


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no JSON: line 1, column 1"),
        (b"\n\n  [{", "no JSON: line 3"),
        (b"[1,]", "no JSON"),
        (b"\xff\xfe[\x00]\x00", "UTF-8; byte 0"),
        (b'[{"time": "\xe9"}]', "UTF-8; byte 11"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"cues":' * 50_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "no JSON"),
        (b"[]", "no cues"),
        (b'{"cues": []}', "no cues"),
        (b"{}", "array of cues"),
        (b'{"cues": {}}', "array of cues"),
        (b'"cues"', "array of cues"),
        (b"null", "array of cues"),
        (b"3", "array of cues"),
    ],
)
def test_what_is_no_sheet_is_told_as_a_whole(data: bytes, expected: str) -> None:
    error = refused(data)
    assert len(error.problems) == 1
    assert error.problems[0].index is None
    assert expected in str(error)


@pytest.mark.parametrize("cue", [None, 3, "start", [], [START]])
def test_a_cue_must_be_an_object(cue: object) -> None:
    error = refused([START, cue, END])
    assert [(problem.index, problem.time) for problem in error.problems] == [(1, None)]
    assert "expected an object" in error.problems[0].message


@pytest.mark.parametrize("action", ["promt", "START", "", None, 3, ["start"], {}, "\ud800"])
def test_an_unknown_action_is_told_with_those_that_exist(action: object) -> None:
    error = refused([START, {"time": "00:01:00", "action": action}, END])
    assert {problem.index for problem in error.problems} == {1}
    assert all(name in error.problems[0].message for name in KINDS)
    if action is not None:
        assert repr(action) in error.problems[0].message


def test_a_cue_without_an_action_is_told() -> None:
    assert "no action: expected one of" in only_problem({"time": "00:01:00"})


@pytest.mark.parametrize("time", ["1:00", "00:61:00", "", "later", "00:00:00,5"])
def test_a_bad_time_is_told_with_the_form_expected(time: str) -> None:
    message = only_problem({"time": time, "action": "next"})
    assert "expected a time as HH:MM:SS" in message
    assert repr(time) in message


@pytest.mark.parametrize("time", [12, 12.5, None, True])
def test_a_time_that_is_no_text_is_told(time: object) -> None:
    error = refused([START, {"time": time, "action": "next"}, END])
    assert [(problem.index, problem.time) for problem in error.problems] == [(1, None)]
    assert "HH:MM:SS" in error.problems[0].message


def test_only_time_says_when() -> None:
    error = refused([{"at": "00:00:09", "action": "start"}, {"at": "00:00:03", "action": "end"}])
    assert [str(problem) for problem in error.problems] == [
        "cue 0: time is missing",
        "cue 1: time is missing",
    ]


@pytest.mark.parametrize(
    ("action", "field"),
    [
        ("transcript", "transcript"),
        ("prompt", "prompt"),
        ("move-slider", "value"),
        ("navigate", "route"),
        ("set-fade-status", "fade"),
    ],
)
def test_a_missing_field_is_named(action: str, field: str) -> None:
    assert only_problem({"time": "00:01:00", "action": action}) == f"{field} is missing"


@pytest.mark.parametrize(
    ("action", "fields", "place"),
    [
        ("transcript", {"transcript": 5}, "transcript"),
        ("transcript", {"transcript": "x" * 4001}, "transcript"),
        ("transcript", {"generate": "perhaps"}, "generate"),
        ("transcript", {"when": ["soon", 2]}, "when.0"),
        ("transcript", {"when": [1, 2, 3]}, "when"),
        ("transcript", {"when": "soon"}, "when"),
        ("transcript", {"words": [{"word": "a", "start": 1, "end": "z"}]}, "words.0.end"),
        ("transcript", {"words": {}}, "words"),
        ("prompt", {"prompt": None}, "prompt"),
        ("prompt", {"prompt": ["a"]}, "prompt"),
        ("prompt", {"commit": 7}, "commit"),
        ("prompt", {"override": 7}, "override"),
        ("prompt", {"guidance": -1}, "guidance"),
        ("prompt", {"guidance": 101}, "guidance"),
        ("prompt", {"guidance": "high"}, "guidance"),
        ("prompt", {"delay": 30}, "delay"),
        ("prompt", {"delay": {"base": -1}}, "delay.base"),
        ("prompt", {"enter": {"regen": 9}}, "enter.regen"),
        ("prompt", {"steps": 0}, "steps"),
        ("prompt", {"steps": 2.5}, "steps"),
        ("prompt", {"mode": "auto"}, "mode"),
        ("prompt", {"program": 2}, "program"),
        ("move-slider", {"value": 100.5}, "value"),
        ("move-slider", {"value": None}, "value"),
        ("move-slider", {"value": 10**400}, "value"),
        ("navigate", {"route": ""}, "route"),
        ("set-fade-status", {"fade": "dark"}, "fade"),
        ("start", {"id": "two words"}, "id"),
        ("start", {"id": ""}, "id"),
        ("start", {"id": "-a"}, "id"),
        ("start", {"id": "a/b"}, "id"),
        ("start", {"id": "../a"}, "id"),
        ("start", {"id": "a\n"}, "id"),
        ("start", {"id": "é"}, "id"),
        ("start", {"id": "x" * 129}, "id"),
        ("start", {"id": 3}, "id"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named_with_what_was_expected(
    action: str, fields: dict[str, Any], place: str
) -> None:
    message = only_problem({"time": "00:01:00", "action": action, **VALID[action], **fields})
    assert message.startswith(f"{place}: ")
    assert len(message) < 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "fields",
    [
        '"action": "move-slider", "value": %s',
        '"action": "prompt", "prompt": "a", "guidance": %s',
        '"action": "prompt", "prompt": "a", "delay": {"base": %s}',
        '"action": "transcript", "transcript": "a", "when": [1, %s]',
        '"action": "transcript", "transcript": "a", "words": [{"word": "", "start": %s, "end": 1}]',
    ],
)
def test_numbers_must_be_finite(fields: str, number: str) -> None:
    error = refused(f'[{{"time": "00:00:01", {fields % number}}}]'.encode())
    assert [problem.index for problem in error.problems] == [0]
    assert "finite" in str(error) or "than or equal" in str(error)


def test_times_out_of_order_are_told_with_the_time_that_was_passed() -> None:
    error = refused(
        [
            START,
            {"time": "00:10:00", "action": "next"},
            {"time": "00:09:59", "action": "next"},
            {"time": "00:10:00", "action": "next"},
            {"time": "00:09:00", "action": "prompt", "prompt": 3},
            END,
        ]
    )
    told = [(problem.index, problem.time) for problem in error.problems]
    assert sorted(told) == [(2, "00:09:59"), (4, "00:09:00"), (4, "00:09:00")]
    assert [str(p) for p in error.problems if "out of order" in p.message] == [
        "cue 2 at 00:09:59: out of order: expected no earlier than 00:10:00, the time of cue 1",
        "cue 4 at 00:09:00: out of order: expected no earlier than 00:10:00, the time of cue 3",
    ]


def test_a_program_that_does_not_exist_is_told_with_those_that_do() -> None:
    message = only_problem({"time": "00:01:00", "action": "prompt", "prompt": "a", "program": "P9"})
    assert "'P9'" in message
    assert all(name in message for name in PROGRAMS)


def test_an_id_belongs_to_one_cue() -> None:
    cue = {"time": "00:01:00", "action": "next", "id": "twice"}
    error = refused([START, cue, cue, cue, END])
    assert [problem.index for problem in error.problems] == [2, 3]
    assert all("'twice'" in p.message and "cue 1" in p.message for p in error.problems)


def test_everything_that_is_wrong_is_told_at_once_in_the_sheets_order() -> None:
    error = refused(
        [
            {"time": "00:00:00", "action": "strat"},
            {"time": "0:0:5", "action": "next"},
            {"time": "00:00:10", "action": "prompt", "prompt": "a", "id": "x", "program": "P9"},
            {"time": "00:00:09", "action": "prompt", "id": "x"},
            {"time": "00:00:20", "action": "move-slider", "value": 400},
            7,
            END,
        ]
    )
    assert [(problem.index, problem.time) for problem in error.problems] == [
        (0, "00:00:00"),
        (1, "0:0:5"),
        (2, "00:00:10"),
        (3, "00:00:09"),
        (3, "00:00:09"),
        (3, "00:00:09"),
        (4, "00:00:20"),
        (5, None),
    ]
    text = str(error)
    for expected in (
        "unknown action 'strat'",
        "expected a time",
        "unknown program 'P9'",
        "prompt is missing",
        "out of order",
        "duplicate id 'x'",
        "value: ",
        "expected an object",
    ):
        assert expected in text


def test_very_many_errors_are_counted_rather_than_all_shown() -> None:
    error = refused([{"time": "00:00:00", "action": "?"}] * 300)
    assert len(error.problems) == 300
    assert len(error.lines()) == 51
    assert "250 more" in error.lines()[-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"override": "half \ud800"},
        {"prompt": "\udc00"},
        {"program": "\ud800"},
        {"time": "\ud800"},
        {"id": "\ud800"},
        {"\ud800": 1},
        {"note": {"deep": ["\ud83d"]}},
    ],
)
def test_half_a_character_is_refused_because_nothing_can_draw_or_log_it(
    fields: dict[str, Any],
) -> None:
    cue = {"time": "00:01:00", "action": "prompt", "prompt": "a", **fields}
    error = refused([START, cue, END])
    assert {problem.index for problem in error.problems} == {1}
    assert "half of a character" in str(error)
    str(error).encode()  # can be printed


# ---------------------------------------------------------------- anything at all

_TEXT = st.text(max_size=12) | st.sampled_from(
    ["00:00:00", "00:00:01.5", "00:59:59", *KINDS, *PROGRAMS, "static", "\ud800", "a\x00b"]
)
_FIELDS = [
    "id",
    "program",
    "mode",
    "steps",
    "prompt",
    "transcript",
    "generate",
    "when",
    "words",
    "commit",
    "override",
    "guidance",
    "delay",
    "enter",
    "value",
    "route",
    "fade",
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["time", "action", "cues", *_FIELDS]) | _TEXT, inner, max_size=6
        )
    ),
    max_leaves=25,
)
_ALMOST = st.lists(
    st.fixed_dictionaries(
        {"time": _JSON | st.just("00:00:01"), "action": st.sampled_from(sorted(KINDS))},
        optional=dict.fromkeys(_FIELDS, _JSON),
    ),
    max_size=4,
)
_LIKELY = st.lists(
    st.builds(
        lambda action, time, extra: {"time": time, "action": action, **VALID[action], **extra},
        st.sampled_from(sorted(KINDS)),
        st.sampled_from(["00:00:00", "00:00:01", "00:00:02.25"]),
        st.dictionaries(st.sampled_from(["id", "override", "program", "note", "prompt"]), _TEXT),
    ),
    min_size=1,
    max_size=5,
).map(lambda cues: sorted(cues, key=lambda cue: str(cue["time"])))


def check_any(data: bytes) -> None:
    """Either it is refused in words that can be printed, or it can be planned."""
    try:
        sheet = parse_cues(data, "cues.json", PROGRAMS)
    except CueSheetError as error:
        refusal = error
    else:
        check_playable(sheet)
        return
    assert refusal.problems
    str(refusal).encode()


def check_playable(sheet: CueSheet) -> None:
    times = [cue.at for cue in sheet.cues]
    assert times == sorted(times)
    ids = [cue.id for cue in sheet.cues if cue.id is not None]
    assert len(ids) == len(set(ids))
    "".join(str(remark) for remark in sheet.remarks).encode()
    plan = plan_actions(sheet, PROGRAMS, BASE_IMAGES)
    assert len({action.action_id for action in plan.actions}) == len(plan.actions)
    assert all(action.fingerprint.startswith("sha256:") for action in plan.actions)


@given(_JSON | _ALMOST | _LIKELY)
@settings(deadline=None, max_examples=300)
def test_any_json_is_read_or_refused(value: Any) -> None:
    check_any(json.dumps(value).encode())


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:0123456789.eE-ntrufalsm \\', max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    check_any(data.encode() if isinstance(data, str) else data)
