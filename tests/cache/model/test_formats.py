from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cache.model.documents import FormatError
from cache.model.formats import (
    MAX_DURATION,
    MAX_STEPS,
    FileFacts,
    SetMeta,
    dump_meta,
    image_set,
    parse_meta,
)
from tests.cache.model.test_documents import json_objects, json_values
from tests.cache.samples import (
    ORIGINAL_META,
    SPEC_META,
    WHEN,
    images_of,
    meta_of,
    original_meta,
)

PLACE = "actions/prompt_001/sets/0/meta.json"
KNOWN = [
    "cue_id",
    "set_id",
    "total_steps",
    "durations",
    "total_duration",
    "generated_at",
    "model_config",
    "seed",
    "fingerprint",
    "engine",
    "timing",
    "files",
]


@st.composite
def good_metas(draw: st.DrawFn) -> SetMeta:
    images = images_of(
        draw(st.integers(1, 5)), draw(st.sampled_from(["jpg", "png"])), final=draw(st.booleans())
    )
    seconds = st.floats(0.001, 60).map(lambda value: round(value, 3))
    durations: dict[str, float | None] = {}
    total = 0.0
    for name in images:
        durations[name.partition(".")[0]] = duration = draw(seconds)
        total += duration
    unknown = draw(json_objects)
    return meta_of(
        images,
        durations=durations,
        total_duration=round(total, 3),
        generated_at=draw(st.datetimes(timezones=st.just(WHEN.tzinfo))),
        config=draw(json_objects),
        seed=draw(st.none() | st.integers(0, 2**64 - 1)),
        timing=draw(st.sampled_from(["measured", "profiled", "simulated", None])),
        unknown={name: value for name, value in unknown.items() if name not in KNOWN},
    )


@settings(max_examples=50)
@given(good_metas())
def test_a_meta_that_is_written_is_read_again(meta: SetMeta) -> None:
    data = dump_meta(meta)
    again = parse_meta(data, PLACE)
    assert again == meta
    assert dump_meta(again) == data


def test_a_meta_is_written_in_the_order_of_the_contract() -> None:
    data = dump_meta(meta_of(images_of(11), unknown={"zebra": {"é": [1, None]}, "apple": 1}))
    fields = json.loads(data)
    assert list(fields) == [*KNOWN, "zebra", "apple"]
    assert list(fields["durations"]) == [*map(str, range(1, 12)), "final"]
    assert list(fields["files"])[-3:] == ["10.jpg", "11.jpg", "final.jpg"]
    assert list(fields["files"]["1.jpg"]) == ["bytes", "sha256"]
    assert fields["generated_at"] == "2026-11-20T10:30:00Z"
    assert data.startswith(b'{\n  "cue_id": "prompt_001",\n')
    assert data.endswith(b"}\n")
    assert "é".encode() in data


@pytest.mark.parametrize("text", [SPEC_META, ORIGINAL_META])
def test_the_example_and_its_original_part_are_read(text: str) -> None:
    meta = parse_meta(text.encode(), PLACE)
    assert meta.cue_id == "prompt_001"
    assert meta.total_steps == 3
    assert [meta.duration(step) for step in (1, 2, 3, "final", 4)] == [0.91, 0.62, 0.6, 0.35, None]
    assert meta.config["program"] == "P2"
    assert meta.generated_at == WHEN
    assert not meta.names_every_file


@given(json_values | json_objects)
def test_no_json_raises_anything_but_a_format_error(value: Any) -> None:
    try:
        meta = parse_meta(json.dumps(value).encode(), PLACE)
    except FormatError as error:
        assert error.place == PLACE  # noqa: PT017  # either outcome is fine
    else:
        assert 1 <= meta.total_steps <= MAX_STEPS


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from(KNOWN), json_values),
    st.integers(1, 6),
    st.dictionaries(st.text(max_size=3), json_values),
    st.dictionaries(st.sampled_from(["1", "2", "9", "final", "x"]), json_values),
)
def test_only_the_number_of_steps_can_make_a_meta_unreadable(
    fields: dict[str, Any], steps: int, files: dict[str, Any], durations: dict[str, Any]
) -> None:
    fields = {**fields, "total_steps": steps, "files": files, "durations": durations}
    meta = parse_meta(json.dumps(fields).encode(), PLACE)
    assert meta.total_steps == steps
    assert meta.durations.keys() - {"final"} == {str(step) for step in range(1, steps + 1)}
    for seconds in meta.durations.values():
        assert seconds is None or 0 < seconds <= MAX_DURATION


@settings(max_examples=50)
@given(good_metas(), json_objects)
def test_unknown_fields_survive(meta: SetMeta, foreign: dict[str, Any]) -> None:
    foreign = {name: value for name, value in foreign.items() if name not in KNOWN}
    for name in ("config", "unknown", "remarks", "model_dump", "__class__"):
        foreign[name] = [name]
    fields = json.loads(dump_meta(meta)) | foreign
    fields["files"]["1.x"] = {"bytes": 1, "sha256": "0" * 64, "dpi": 300}
    again = json.loads(dump_meta(parse_meta(json.dumps(fields).encode(), PLACE)))
    assert again == fields


@pytest.mark.parametrize("steps", [None, 0, -1, MAX_STEPS + 1, "x", 2.5, True, [], {}, "NaN"])
def test_a_number_of_steps_that_cannot_be_is_refused_with_the_place(steps: object) -> None:
    with pytest.raises(FormatError, match=f"{PLACE}: total_steps: expected a whole number"):
        parse_meta(json.dumps({"total_steps": steps}).encode(), PLACE)


@pytest.mark.parametrize(
    "unusable", ["null", "-1", "0", "NaN", "Infinity", '"fast"', "3601", "[]", "true", "1e999"]
)
def test_an_unusable_duration_is_none_and_no_fault(unusable: str) -> None:
    text = f'{{"total_steps": 2, "durations": {{"1": {unusable}, "2": "0.25"}}}}'
    meta = parse_meta(text.encode(), PLACE)
    assert meta.durations == {"1": None, "2": 0.25}
    assert meta.remarks == ()


def test_what_is_unusable_is_remembered() -> None:
    fields = {
        "total_steps": "2",
        "set_id": "7",
        "cue_id": 5,
        "generated_at": "soon",
        "seed": -1,
        "fingerprint": "md5:1",
        "durations": {"1": 1, "9": 1},
        "files": {"1.jpg": {"bytes": "12", "sha256": "beef"}, "../2.jpg": {}, "3.jpg": None},
        "engine": None,
    }
    meta = parse_meta(json.dumps(fields).encode(), PLACE)
    assert (meta.total_steps, meta.set_id) == (2, 7)
    assert (meta.cue_id, meta.generated_at, meta.seed, meta.fingerprint) == (None,) * 4
    assert meta.files == {"1.jpg": FileFacts(size=12)}
    places = [remark.partition(":")[0] for remark in meta.remarks]
    assert sorted(places) == [
        *("cue_id", "durations", "files", "files", "files.1.jpg.sha256"),
        *("fingerprint", "generated_at", "seed"),
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"cue_id": None}, "cue_id: missing"),
        ({"set_id": None}, "set_id: missing"),
        ({"generated_at": None}, "generated_at: missing"),
        ({"total_duration": None}, "total_duration: missing"),
        ({"total_duration": 2.6}, "total_duration: expected the sum"),
        ({"total_duration": float("nan")}, "total_duration: expected the sum"),
        ({"durations": {"1": 1.0, "2": 1.0}}, "durations: expected steps 1 to 3"),
        ({"durations": {"1": 1.0, "2": 1.0, "3": 1.0, "4": 1.0}}, "durations: expected"),
        ({"durations": {"1": 1.0, "2": None, "3": 1.0}}, "durations.2: expected"),
        ({"durations": {"1": 1.0, "2": 0.0, "3": 1.0}}, "durations.2: expected"),
        ({"durations": {"1": 1.0, "2": float("inf"), "3": 1.0}}, "durations.2: expected"),
        ({"durations": {"1": 1.0, "2": float("nan"), "3": 1.0}}, "durations.2: expected"),
        ({"durations": {"1": 0.5, "2": 0.5, "3": 0.5}}, "files: expected one image for each"),
        ({"timing": "guessed"}, "timing: expected one of"),
        ({"files": {}}, "files: expected one image"),
        ({"files": {**meta_of(images_of(3)).files, "2.png": FileFacts.of(b"")}}, "one image"),
        ({"files": dict.fromkeys(images_of(3), FileFacts(size=1))}, "expected bytes and sha256"),
        ({"unknown": {"seed": 1}}, "seed has a field of its own"),
        ({"config": {"guidance": float("nan")}}, "cannot be written as JSON"),
        ({"generated_at": datetime(2026, 1, 1)}, "expected UTC"),  # noqa: DTZ001
        ({"generated_at": WHEN.astimezone(timezone(timedelta(hours=1)))}, "expected UTC"),
    ],
)
def test_what_is_not_to_the_contract_is_not_written(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as caught:
        dump_meta(meta_of(images_of(3), **changes))
    assert caught.value.place == "meta.json" or caught.value.place.endswith("/meta.json")


def test_all_problems_of_a_meta_are_told_at_once() -> None:
    meta = meta_of(images_of(3), cue_id=None, timing="x", files={})
    with pytest.raises(FormatError) as caught:
        dump_meta(meta)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    "bad", [{"total_steps": 0}, {"fingerprint": "x"}, {"seed": -1}, {"files": {"1.jpg": {"x": 1}}}]
)
def test_a_meta_cannot_be_made_of_nonsense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        meta_of(images_of(1), **bad)


def test_sums_may_be_off_by_rounding() -> None:
    durations: dict[str, float | None] = {str(step): 0.33 for step in range(1, 21)}
    meta = meta_of(images_of(20, final=False), durations=durations, total_duration=6.67)
    assert json.loads(dump_meta(meta))["total_duration"] == 6.67


# Which file is which step.


def names_and_finals(found: Any) -> list[tuple[int, str, float | None, bool]]:
    return [(step.number, step.name, step.duration, step.final) for step in found.steps]


def test_a_final_image_is_the_last_step() -> None:
    images = images_of(2)
    found = image_set("prompt_001", 4, meta_of(images))
    assert names_and_finals(found) == [
        (1, "1.jpg", 0.5, False),
        (2, "2.jpg", 0.5, False),
        (3, "final.jpg", 0.5, True),
    ]
    assert found.steps[0].key == "actions/prompt_001/sets/4/1.jpg"
    assert found.steps[0].size == len(images["1.jpg"])
    assert found.steps[0].sha256 == meta_of(images).files["1.jpg"].sha256
    assert found.steps[0].media_type == "image/jpeg"


def test_without_a_final_image_the_last_step_is_final() -> None:
    meta = parse_meta(original_meta(2, durations={"1": 0.5, "final": 0.25}), PLACE)
    found = image_set("a", 0, meta, ["1.png", "2.webp", "meta.json", "thumbs.db"])
    assert names_and_finals(found) == [(1, "1.png", 0.5, False), (2, "2.webp", None, True)]


def test_steps_are_in_numerical_order() -> None:
    meta = parse_meta(original_meta(12), PLACE)
    names = sorted(f"{step}.jpg" for step in range(1, 13))
    found = image_set("a", 0, meta, [*names, "final.jpeg"])
    assert [step.number for step in found.steps] == list(range(1, 14))
    assert [step.name for step in found.steps[8:]] == [
        *("9.jpg", "10.jpg", "11.jpg", "12.jpg", "final.jpeg")
    ]
    assert found.steps[-1].duration is None


def test_a_listing_finds_the_final_image_that_a_meta_does_not_name() -> None:
    meta = parse_meta(SPEC_META.encode(), PLACE)
    assert not meta.names_every_file
    names = ["1.jpg", "2.jpg", "3.jpg", "final.jpg"]
    assert image_set("a", 0, meta, names).steps[-1].name == "final.jpg"
    assert image_set("a", 0, meta, names[:3]).steps[-1].name == "3.jpg"
    assert image_set("a", 0, meta).steps[-1].name == "3.jpg"


def test_leftovers_of_a_longer_run_do_not_count_where_the_meta_names_its_files() -> None:
    meta = meta_of(images_of(2))
    names = ["1.jpg", "1.png", "2.jpg", "3.jpg", "final.jpg"]
    assert [step.name for step in image_set("a", 0, meta, names).steps] == [
        *("1.jpg", "2.jpg", "final.jpg")
    ]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["1.jpg"], "step 2 is missing"),
        (["1.jpg", "1.png", "2.jpg"], "step 1 could be 1.jpg or 1.png"),
        (["1.jpg", "2.jpg", "3.jpg"], r"found 3.jpg, expected steps 1 to 2 \(total_steps\)"),
        (["0.jpg", "1.jpg", "2.jpg"], "found 0.jpg"),
        (["1.jpg", "2.jpg", "final.jpg", "final.png"], "step final could be"),
        (["1.jpg", "02.jpg"], "step 2 is missing"),
        ([], "step 1 is missing"),
    ],
)
def test_a_listing_that_contradicts_the_meta_is_refused(names: list[str], problem: str) -> None:
    meta = parse_meta(original_meta(2), PLACE)
    with pytest.raises(FormatError, match=problem) as caught:
        image_set("prompt_001", 3, meta, names)
    assert caught.value.place == "actions/prompt_001/sets/3/"


def test_files_that_the_meta_names_must_be_listed() -> None:
    with pytest.raises(FormatError, match=r"2.jpg is missing, meta.json names it"):
        image_set("a", 0, meta_of(images_of(2)), ["1.jpg", "2.png", "final.jpg"])
    with pytest.raises(FormatError, match=r"final.jpg is missing"):
        image_set("a", 0, meta_of(images_of(2)), ["1.jpg", "2.jpg"])


def test_a_meta_that_contradicts_itself_is_refused() -> None:
    meta = meta_of(images_of(3), total_steps=2)
    with pytest.raises(FormatError, match=r"found 3.jpg, expected steps 1 to 2"):
        image_set("a", 0, meta)
