from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.model.keys import (
    MANIFEST,
    MAX_KEY_BYTES,
    MAX_SET_ID,
    BadKey,
    config_key,
    image_key,
    is_action_id,
    is_key,
    meta_key,
    parse_key,
    parse_prefix,
    quarantine_place,
    quarantine_prefix,
    set_place,
    set_prefix,
)

action_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    "text",
    [
        "manifest.json",
        "actions/prompt_001/sets/0/1.jpg",
        "a" * 255,
        "with space/and é/漢字.jpg",
        "a..b/...c"[:4],
        "/".join(["a" * 127] * 8),
    ],
)
def test_a_key_is_let_through_as_it_is(text: str) -> None:
    assert parse_key(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "without empty names"),
        ("/etc/passwd", "relative"),
        ("a//b", "without empty names"),
        ("a/", "without empty names"),
        ("..", "not allowed"),
        ("a/../b", "not allowed"),
        ("./a", "not allowed"),
        (".DS_Store", "hidden"),
        ("a/.understudy/x", "hidden"),
        ("a\\b", "backslash"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x85b", "control"),
        ("a" * 256, "255"),
        ("é" * 128, "255"),
        ("a/" * 512 + "a", "1025"),
        ("\ud800", "Unicode"),
        (unicodedata.normalize("NFD", "é"), "NFC"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadKey, match=reason) as caught:
        parse_key(text)
    assert caught.value.text == text
    assert not is_key(text)


@given(st.text())
def test_a_key_has_only_plain_names(text: str) -> None:
    try:
        key = parse_key(text)
    except BadKey:
        return
    assert len(key.encode()) <= MAX_KEY_BYTES
    for name in key.split("/"):
        assert name
        assert not name.startswith(".")


@given(action_ids, st.integers(0, MAX_SET_ID - 1), st.sampled_from(["1.jpg", "meta.json"]))
def test_places_are_found_again_in_keys(action_id: str, set_id: int, name: str) -> None:
    key = image_key(action_id, set_id, name)
    assert parse_key(key) == key
    assert key.startswith(set_prefix(action_id, set_id))
    assert set_place(key) == (action_id, set_id, name)


def test_the_layout_is_that_of_the_contract() -> None:
    assert MANIFEST == "manifest.json"
    assert config_key("prompt_001") == "actions/prompt_001/config.json"
    assert meta_key("prompt_001", 4) == "actions/prompt_001/sets/4/meta.json"
    assert image_key("prompt_001", 0, "final.png") == "actions/prompt_001/sets/0/final.png"


@pytest.mark.parametrize("text", ["", ".", "..", "-a", "a/b", "a b", "é", "a" * 129, "a\n", ".a"])
def test_an_action_id_is_one_safe_name(text: str) -> None:
    assert not is_action_id(text)
    with pytest.raises(BadKey):
        config_key(text)
    with pytest.raises(BadKey):
        set_prefix(text, 0)


@pytest.mark.parametrize("set_id", [-1, MAX_SET_ID])
def test_a_set_number_has_bounds(set_id: int) -> None:
    with pytest.raises(BadKey):
        meta_key("a", set_id)


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden", ""])
def test_a_file_of_a_set_is_one_name(name: str) -> None:
    with pytest.raises(BadKey):
        image_key("a", 0, name)


@pytest.mark.parametrize(
    "key",
    [
        "manifest.json",
        "actions/a/config.json",
        "actions/a/sets/007/1.jpg",
        "actions/a/sets/0/deep/1.jpg",
        "actions/a/sets/x/1.jpg",
        "actions/a/sets/٣/1.jpg",
    ],
)
def test_keys_outside_of_sets_have_no_place(key: str) -> None:
    assert set_place(key) is None


@pytest.mark.parametrize("prefix", ["", "a", "a/", "actions/prompt_00"])
def test_a_prefix_is_the_beginning_of_a_key(prefix: str) -> None:
    assert parse_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "../", "a//", ".a"])
def test_a_prefix_that_no_key_has_is_refused(prefix: str) -> None:
    with pytest.raises(BadKey):
        parse_prefix(prefix)


def test_a_run_in_quarantine_lies_in_no_set() -> None:
    token = "20261120T103000Z-0a1b2c"
    prefix = quarantine_prefix("prompt_001", token)
    assert prefix == f"quarantine/prompt_001/{token}/"
    key = f"{prefix}{meta_key('prompt_001', 0)}"
    assert parse_key(key) == key
    assert set_place(key) is None
    assert quarantine_place(key) == ("prompt_001", token, "actions/prompt_001/sets/0/meta.json")


@pytest.mark.parametrize(
    ("action_id", "token"),
    [("../x", "20261120T103000Z-0a1b2c"), ("a", "numbers"), ("a", "20261120T103000Z-0a1b2c/x")],
)
def test_what_names_no_run_is_refused(action_id: str, token: str) -> None:
    with pytest.raises(BadKey):
        quarantine_prefix(action_id, token)


@pytest.mark.parametrize("key", ["actions/a/sets/0/1.jpg", "quarantine/a/numbers/5", "quarantine/"])
def test_keys_outside_of_quarantine_have_no_place_in_it(key: str) -> None:
    assert quarantine_place(key) is None
