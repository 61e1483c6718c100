from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cache.model.documents import FormatError, WrongVersion
from cache.model.manifest import (
    MAX_SETS,
    Manifest,
    ManifestAction,
    dump_config,
    dump_manifest,
    merge,
    parse_config,
    parse_manifest,
)
from tests.cache.model.test_documents import json_values
from tests.cache.samples import FINGERPRINT, WHEN

SPEC_MANIFEST = """{"version": "1.0.0", "generated_at": "2026-11-20T10:30:00Z",
 "total_actions": 1, "sets_per_action": 5,
 "actions": {"prompt_001": {"type": "prompt", "program": "P2", "prompt": "malaya", "sets": 5,
   "steps": 20, "time": "00:44:22", "override_prompt": null, "set_ids": [0, 1, 2, 3, 4]}}}"""
TOP = ["version", "generated_at", "total_actions", "sets_per_action", "actions"]
ENTRY = [
    *("type", "program", "prompt", "sets", "steps", "time"),
    *("override_prompt", "fingerprint", "set_ids"),
]

texts = st.sampled_from([None, "x", "é"])
simple = st.sampled_from([None, 0, "", [1], {"x": None}])
foreign = st.dictionaries(st.sampled_from(["x", "remarks", "aside"]), simple, max_size=2)
entries = st.builds(
    ManifestAction,
    type=texts,
    program=texts,
    prompt=texts,
    steps=st.none() | st.integers(1, 50),
    time=texts,
    fingerprint=st.none() | st.just(FINGERPRINT),
    set_ids=st.lists(st.integers(0, 6), max_size=4).map(tuple),
    unknown=foreign,
)
manifests = st.builds(
    Manifest,
    generated_at=st.datetimes(timezones=st.just(UTC)),
    actions=st.dictionaries(st.sampled_from(["a", "b", "prompt_1"]), entries),
    aside=st.dictionaries(st.sampled_from(["-", "b/c", ""]), simple, max_size=2),
    unknown=foreign,
)


def sets_of(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    return {action_id: entry.set_ids for action_id, entry in manifest.actions.items()}


@given(manifests)
def test_a_manifest_that_is_written_is_read_again(manifest: Manifest) -> None:
    data = dump_manifest(manifest)
    again = parse_manifest(data)
    assert again.model_copy(update={"remarks": ()}) == manifest
    assert dump_manifest(again) == data
    fields = json.loads(data)
    assert fields["total_actions"] == len(fields["actions"])
    assert [*fields][:4] == TOP[:4]


def test_the_example_is_read_and_written() -> None:
    manifest = parse_manifest(SPEC_MANIFEST.encode())
    assert manifest.set_ids("prompt_001") == (0, 1, 2, 3, 4)
    assert manifest.set_ids("nobody") == ()
    assert (manifest.total_actions, manifest.total_sets, manifest.sets_per_action) == (1, 5, 5)
    assert manifest.remarks == ()
    written = json.loads(dump_manifest(manifest))
    assert list(written["actions"]["prompt_001"]) == ENTRY
    written["actions"]["prompt_001"].pop("fingerprint")
    assert written == json.loads(SPEC_MANIFEST)


def test_each_action_has_its_line() -> None:
    manifest = Manifest(generated_at=WHEN)
    for name in "abc":
        manifest = manifest.with_set(name, ManifestAction(prompt="é"), 0)
    lines = dump_manifest(manifest).decode().splitlines()
    assert len([line for line in lines if '"é"' in line]) == 3
    assert dump_manifest(Manifest(generated_at=WHEN)).endswith(b'"actions": {}\n}\n')


@pytest.mark.parametrize(
    ("entry", "set_ids"),
    [
        ({"sets": 5}, (0, 1, 2, 3, 4)),
        ({"sets": "2"}, (0, 1)),
        ({"sets": 0}, ()),
        ({}, ()),
        ({"set_ids": [4, 2, 2, "7"]}, (2, 4, 7)),
        ({"sets": 9, "set_ids": [1]}, (1,)),
        ({"sets": "many", "set_ids": [1]}, (1,)),
        ({"sets": 3, "set_ids": None}, (0, 1, 2)),
    ],
)
def test_sets_are_those_listed_else_as_many_as_counted(
    entry: dict[str, Any], set_ids: tuple[int, ...]
) -> None:
    manifest = parse_manifest(json.dumps({"version": "1.0.0", "actions": {"a": entry}}).encode())
    assert manifest.set_ids("a") == set_ids
    assert manifest.aside == {}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "x",
        {"sets": -1},
        {"sets": "many"},
        {"sets": 10**12},
        {"set_ids": 5},
        {"set_ids": [-1]},
        {"set_ids": ["x"]},
        {"set_ids": [None]},
        {"set_ids": list(range(MAX_SETS + 1))},
    ],
)
def test_one_bad_entry_loses_neither_the_others_nor_itself(bad: object) -> None:
    fields = {"version": "1.0.0", "actions": {"a": {"sets": 1}, "bad": bad, "no id": {}}}
    manifest = parse_manifest(json.dumps(fields).encode())
    assert sets_of(manifest) == {"a": (0,)}
    assert manifest.aside == {"bad": bad, "no id": {}}
    assert len([remark for remark in manifest.remarks if "set aside" in remark]) == 2
    assert manifest.total_actions == 3
    manifest = manifest.with_set("b", ManifestAction(), 3).model_copy(update={"generated_at": WHEN})
    written = json.loads(dump_manifest(manifest))["actions"]
    assert written["bad"] == bad
    assert written.keys() == {"a", "b", "bad", "no id"}


def test_a_set_drawn_for_an_entry_set_aside_takes_its_place() -> None:
    manifest = Manifest(aside={"a": 5}).with_set("a", ManifestAction(), 0)
    assert manifest.aside == {}
    assert sets_of(manifest) == {"a": (0,)}


@pytest.mark.parametrize("version", ["2.0.0", "0.9", "10.0.0", 2, 2.5])
def test_another_major_version_is_refused_by_name(version: object) -> None:
    data = json.dumps({"version": version, "actions": {}}).encode()
    with pytest.raises(WrongVersion, match=rf"^my/manifest.json: .*expected 1.x, found {version}"):
        parse_manifest(data, "my/manifest.json")


@pytest.mark.parametrize("version", ["1.0.0", "1.7.2", "1", 1, 1.0, None])
def test_every_version_of_ours_is_read(version: object) -> None:
    parse_manifest(json.dumps({"version": version, "actions": {}}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"actions": []},
        {"actions": None},
        {"version": "one", "actions": {}},
        {"version": [], "actions": {}},
        {"version": True, "actions": {}},
    ],
)
def test_what_is_no_manifest_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^manifest.json: (actions|version): expected"):
        parse_manifest(json.dumps(fields).encode())


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from(TOP[1:4]), json_values),
    st.dictionaries(
        st.sampled_from(["a", "b", "-"]),
        json_values | st.dictionaries(st.sampled_from(ENTRY), json_values),
    ),
)
def test_no_entries_make_a_manifest_unreadable(top: dict[str, Any], rows: dict[str, Any]) -> None:
    manifest = parse_manifest(json.dumps({**top, "version": "1.0.0", "actions": rows}).encode())
    assert manifest.actions.keys() | manifest.aside.keys() == rows.keys()
    dump_manifest(manifest.model_copy(update={"generated_at": WHEN}))


@given(json_values)
def test_no_json_raises_anything_but_a_format_error(value: Any) -> None:
    try:
        parse_manifest(json.dumps(value).encode(), "place")
    except FormatError as error:
        assert error.place == "place"  # noqa: PT017  # either outcome is fine


@given(manifests, manifests)
def test_merging_loses_no_set(ours: Manifest, theirs: Manifest) -> None:
    merged = merge(ours, theirs)
    for one in (ours, theirs):
        for action_id, entry in one.actions.items():
            assert set(entry.set_ids) <= set(merged.set_ids(action_id))
        assert one.aside.keys() <= merged.aside.keys() | merged.actions.keys()
        assert one.unknown.keys() <= merged.unknown.keys()
    assert sets_of(merged) == sets_of(merge(theirs, ours))
    assert merged.aside.keys() == merge(theirs, ours).aside.keys()


@given(manifests, manifests, manifests)
def test_merging_does_not_depend_on_grouping(a: Manifest, b: Manifest, c: Manifest) -> None:
    assert merge(merge(a, b), c).same_content(merge(a, merge(b, c)))


@given(manifests, manifests)
def test_merging_what_is_contained_changes_nothing(ours: Manifest, theirs: Manifest) -> None:
    merged = merge(ours, theirs)
    assert merge(merged, theirs) is merged
    assert merge(merged, ours) is merged
    assert merge(ours, ours) is ours
    assert merge(ours, Manifest()) is ours


@given(manifests, manifests)
def test_manifests_that_describe_alike_merge_in_any_order(a: Manifest, b: Manifest) -> None:
    b = b.model_copy(
        update={
            "unknown": a.unknown,
            "aside": a.aside,
            "actions": {
                key: a.actions[key].model_copy(update={"set_ids": entry.set_ids})
                if key in a.actions
                else entry
                for key, entry in b.actions.items()
            },
        }
    )
    assert merge(a, b).same_content(merge(b, a))


def test_the_later_time_counts_where_content_changes() -> None:
    early = Manifest(generated_at=WHEN, actions={"a": ManifestAction(set_ids=(0,))})
    late = Manifest(
        generated_at=WHEN.replace(year=2027), actions={"a": ManifestAction(set_ids=(1,))}
    )
    assert merge(early, late).generated_at == late.generated_at
    assert merge(late, early).generated_at == late.generated_at
    again = early.model_copy(update={"generated_at": late.generated_at})
    assert merge(early, again) is early


@given(manifests, entries, st.integers(0, 9))
def test_registering_a_set_twice_changes_nothing(
    manifest: Manifest, entry: ManifestAction, set_id: int
) -> None:
    once = manifest.with_set("a", entry, set_id)
    assert set_id in once.set_ids("a")
    assert set(manifest.set_ids("a")) <= set(once.set_ids("a"))
    assert once.with_set("a", entry, set_id) is once
    assert once.generated_at == manifest.generated_at


def test_new_knowledge_of_an_action_prevails_and_gaps_stay_filled() -> None:
    known = ManifestAction(prompt="old", time="00:01:00", set_ids=(0,), unknown={"x": 1})
    manifest = Manifest(actions={"a": known})
    changed = manifest.with_set("a", ManifestAction(prompt="new", fingerprint=FINGERPRINT), 1)
    assert changed.actions["a"] == ManifestAction(
        prompt="new", time="00:01:00", fingerprint=FINGERPRINT, set_ids=(0, 1), unknown={"x": 1}
    )


@pytest.mark.parametrize(("action_id", "set_id"), [("../a", 0), ("", 0), ("a", -1), ("a", 10**9)])
def test_a_set_without_a_place_cannot_be_registered(action_id: str, set_id: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Manifest().with_set(action_id, ManifestAction(), set_id)


def test_a_set_can_be_struck_off() -> None:
    manifest = Manifest(actions={"a": ManifestAction(prompt="p", set_ids=(0, 1))})
    assert manifest.without_set("a", 7) is manifest
    assert manifest.without_set("b", 0) is manifest
    left = manifest.without_set("a", 0)
    assert left.set_ids("a") == (1,)
    assert left.without_set("a", 1).actions["a"].prompt == "p"


@pytest.mark.parametrize(
    "bad",
    [{"set_ids": (-1,)}, {"steps": 0}, {"fingerprint": "x"}, {"set_ids": range(MAX_SETS + 1)}],
)
def test_an_entry_cannot_be_made_of_nonsense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ManifestAction(**bad)


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest(),
        Manifest(generated_at=datetime(2026, 1, 1)),  # noqa: DTZ001  # the case at hand
        Manifest(generated_at=WHEN, actions={"../a": ManifestAction()}),
        Manifest(generated_at=WHEN, unknown={"x": float("nan")}),
    ],
)
def test_what_is_not_to_the_contract_is_not_written(manifest: Manifest) -> None:
    with pytest.raises(FormatError, match=r"^manifest.json: "):
        dump_manifest(manifest)


@given(entries)
def test_a_config_is_an_entry_without_its_sets(entry: ManifestAction) -> None:
    data = dump_config(entry)
    assert parse_config(data, "x") == entry.model_copy(update={"set_ids": ()})
    assert not {"sets", "set_ids"} & json.loads(data).keys()
