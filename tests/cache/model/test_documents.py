from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.model.documents import (
    Fields,
    FormatError,
    read_object,
    real,
    shown,
    utc_text,
    whole,
    write_index,
    write_object,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
json_objects = st.dictionaries(st.text(), json_values, max_size=6)


@settings(max_examples=50)
@given(json_objects)
def test_what_is_written_is_read_again(fields: dict[str, Any]) -> None:
    assert read_object(write_object(fields, "x"), "x") == (fields, [])


@settings(max_examples=50)
@given(json_objects, json_objects)
def test_an_index_is_the_same_json_in_lines(head: dict[str, Any], rows: dict[str, Any]) -> None:
    data = write_index(head, "rows", rows, "x")
    assert json.loads(data) == {**head, "rows": rows}
    assert len(data.splitlines()) >= len(rows) + len(head) + 2


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_format_error(data: bytes) -> None:
    try:
        value, _ = read_object(data, "meta.json")
    except FormatError as error:
        assert error.place == "meta.json"  # noqa: PT017  # either outcome is fine
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_unicode_is_read(encoding: str) -> None:
    assert read_object('{"prompt": "é漢"}'.encode(encoding), "x") == ({"prompt": "é漢"}, [])


def test_western_bytes_are_read_with_a_remark() -> None:
    fields, remarks = read_object('{"prompt": "café"}'.encode("latin-1"), "x")
    assert fields == {"prompt": "café"}
    assert "UTF-8" in remarks[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"a": 1} x',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a": ' + b"1" * 5000 + b"}",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^here/meta.json: .*(object)"):
        read_object(data, "here/meta.json")


def test_numbers_that_json_does_not_have_become_null() -> None:
    fields, _ = read_object(b'{"a": NaN, "b": [-Infinity, 1e999], "c": 1.5}', "x")
    assert fields == {"a": None, "b": [None, None], "c": 1.5}


def test_half_a_surrogate_pair_survives() -> None:
    fields, _ = read_object(b'{"foreign": "\\ud800 \xc3\xa9"}', "x")
    assert read_object(write_object(fields, "x"), "x")[0] == fields


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, b"x"])
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises(FormatError, match="cannot be written"):
        write_object({"a": value}, "x")
    with pytest.raises(FormatError, match="cannot be written"):
        write_index({}, "rows", {"a": value}, "x")


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), ("20", 20), (" 7 ", 7), ("2.0", 2), (2**63, 2**63), (str(2**63), 2**63)],
)
def test_whole_numbers(value: object, number: int) -> None:
    assert whole(value) == number


@pytest.mark.parametrize(
    "value", [True, None, "x", "", 1.5, "1.5", math.nan, "inf", [], "9" * 5000]
)
def test_what_is_no_whole_number(value: object) -> None:
    assert whole(value) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), ("0.5", 0.5), (-2.5, -2.5), (10**400, None), ("1e999", None), (False, None)],
)
def test_real_numbers(value: object, number: float | None) -> None:
    assert real(value) == number


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-20T10:30:00Z", datetime(2026, 11, 20, 10, 30, tzinfo=UTC)),
        ("2026-11-20T11:30:00+01:00", datetime(2026, 11, 20, 10, 30, tzinfo=UTC)),
        ("2026-11-20T10:30:00.25", datetime(2026, 11, 20, 10, 30, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_times_are_taken_as_utc(text: str, time: datetime) -> None:
    fields = Fields({"at": text})
    assert fields.take_time("at") == time
    assert fields.rest == {}
    assert fields.remarks == []


@pytest.mark.parametrize("value", ["yesterday", 12, [], "0001-01-01T00:00:00+14:00"])
def test_an_unusable_time_leaves_a_remark(value: object) -> None:
    fields = Fields({"at": value}, "somewhere.")
    assert fields.take_time("at") is None
    assert fields.remarks[0].startswith("somewhere.at: expected a time")


def test_what_is_not_taken_stays() -> None:
    fields = Fields({"a": "x", "b": 5, "c": None})
    assert fields.take_text("a") == "x"
    assert fields.take_text("b") is None
    assert fields.take_whole("c", 0, 9) is None
    assert fields.take_whole("d", 0, 9) is None
    assert fields.remarks == ["b: expected a text, found 5"]


def test_times_are_written_in_utc() -> None:
    east = timezone(timedelta(hours=2))
    assert utc_text(datetime(2026, 11, 20, 12, 30, tzinfo=east)) == "2026-11-20T10:30:00Z"
    with pytest.raises(ValueError, match="zone"):
        utc_text(datetime(2026, 11, 20))  # noqa: DTZ001  # the case at hand


def test_values_are_shown_short() -> None:
    assert shown("x" * 500) == "'" + "x" * 59 + "…"
    assert shown(10**5000) == "int"
