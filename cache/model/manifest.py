"""The manifest: an index of every set in a store (pure).

It is only an index: it can be rebuilt from the sets. All that changes it here gives back
the very same manifest where there is nothing to change, so that callers can leave the file
alone, and a manifest under version control stays as it is when its sets are drawn again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cache.model.documents import (
    FINGERPRINT,
    FINGERPRINT_PATTERN,
    Fields,
    FormatError,
    WrongVersion,
    read_object,
    shown,
    utc_text,
    whole,
    write_index,
    write_object,
)
from cache.model.keys import MANIFEST, MAX_SET_ID, is_action_id

VERSION: Final = "1.0.0"
"""What we write. Any 1.x is read; a later minor version only adds fields."""

MAX_SETS: Final = 10_000
"""More sets of one action than this is a mistake in the file."""

_MAJOR: Final = 1
_VERSION: Final = re.compile(r"([0-9]{1,6})(\.[0-9A-Za-z.+-]{1,64})?", re.ASCII)
_MAX_STEPS: Final = 10_000


class ManifestAction(BaseModel):
    """What the manifest says of one action.

    Attributes:
        type: ``prompt``, ``transcript`` or ``slider``.
        program: the program it is drawn by.
        prompt: what is displayed.
        steps: how many steps were asked for.
        time: of the cue, from the start of the screening.
        override_prompt: what is drawn instead of `prompt`, None where it is drawn itself.
        fingerprint: of the recipe, ``sha256:`` and 64 hexadecimal digits.
        set_ids: the sets of that recipe, ascending; those of no known recipe are among them.
        other_sets: the sets of other recipes, by their fingerprints.
        rejected: numbers that are never drawn, or shown, again.
        rejected_because: why, in the words of whoever rejected it, where somebody said.
        unknown: other fields of the document, kept as they are.

    A number stands in one place at most: what is rejected is listed nowhere else, and what is
    in `set_ids` is not in `other_sets`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str | None = None
    program: str | None = None
    prompt: str | None = None
    steps: int | None = Field(default=None, ge=1, le=_MAX_STEPS)
    time: str | None = None
    override_prompt: str | None = None
    fingerprint: str | None = Field(default=None, pattern=FINGERPRINT_PATTERN)
    set_ids: tuple[int, ...] = ()
    other_sets: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    rejected: tuple[int, ...] = ()
    rejected_because: dict[int, str] = Field(default_factory=dict)
    unknown: dict[str, Any] = Field(default_factory=dict)

    @field_validator("set_ids", "rejected")
    @classmethod
    def _ascending(cls, set_ids: tuple[int, ...]) -> tuple[int, ...]:
        return _ascending(set_ids)

    @model_validator(mode="before")
    @classmethod
    def _in_one_place(cls, given: object) -> object:
        if not isinstance(given, dict) or not (given.get("other_sets") or given.get("rejected")):
            return given
        others = given.get("other_sets") or {}
        if not all(FINGERPRINT.fullmatch(fingerprint) for fingerprint in others):
            raise ValueError("other_sets: expected fingerprints")
        groups = {given.get("fingerprint"): given.get("set_ids") or ()}
        for fingerprint, numbers in others.items():
            groups[fingerprint] = (*groups.get(fingerprint, ()), *numbers)
        return {**given, **_arranged(groups, given.get("fingerprint"), given.get("rejected") or ())}

    @property
    def sets(self) -> int:
        """How many sets there are of the entry's own recipe."""
        return len(self.set_ids)

    @property
    def groups(self) -> dict[str | None, tuple[int, ...]]:
        """Every set that is listed, by the fingerprint it is listed under; the own first."""
        groups: dict[str | None, tuple[int, ...]] = {self.fingerprint: self.set_ids}
        groups.update(self.other_sets)
        return groups

    @property
    def listed(self) -> tuple[int, ...]:
        """Every set that is listed, of whatever recipe, ascending."""
        return tuple(sorted({number for numbers in self.groups.values() for number in numbers}))

    @property
    def taken(self) -> frozenset[int]:
        """The numbers that no new set may have."""
        return frozenset({*self.listed, *self.rejected})

    def sets_for(self, fingerprint: str | None) -> tuple[int, ...]:
        """The sets that may be of a recipe, ascending: what its fingerprint is listed with.

        Where it is listed nowhere, those of the entry's own recipe: their metas know better,
        and some may be of no known recipe, which fits any.
        """
        if fingerprint is None or fingerprint == self.fingerprint:
            return self.set_ids
        return self.other_sets.get(fingerprint, self.set_ids)

    def fingerprint_of(self, set_id: int) -> str | None:
        """What a set is listed under; None where that is not known."""
        return next((key for key, numbers in self.groups.items() if set_id in numbers), None)

    def rejecting(self, set_id: int, why: str = "") -> ManifestAction:
        """This entry with a set rejected, whether it is listed or not.

        Args:
            set_id: which.
            why: in a line; empty where nobody says.
        """
        because = {**self.rejected_because, set_id: why} if why else self.rejected_because
        arranged = _arranged(self.groups, self.fingerprint, (*self.rejected, set_id))
        return self.model_copy(update={**arranged, "rejected_because": because})

    def restoring(self, set_id: int, fingerprint: str | None) -> ManifestAction:
        """This entry with a set rejected no longer, and listed under its recipe.

        Args:
            set_id: which.
            fingerprint: of its recipe; None where that is not known.
        """
        groups = {key: [*numbers] for key, numbers in self.groups.items()}
        groups.setdefault(fingerprint, []).append(set_id)
        rejected = [number for number in self.rejected if number != set_id]
        because = {n: why for n, why in self.rejected_because.items() if n != set_id}
        arranged = _arranged(groups, self.fingerprint, rejected)
        return self.model_copy(update={**arranged, "rejected_because": because})

    def merged(self, other: ManifestAction) -> ManifestAction:
        """Both: the sets of either, each under its recipe; fields of this one, then the other's.

        Where they disagree of which recipe a set is, this one is believed.
        """
        update: dict[str, Any] = {
            name: getattr(other, name)
            for name in _DESCRIPTION
            if getattr(self, name) is None and getattr(other, name) is not None
        }
        if not self.rejected_because.keys() >= other.rejected_because.keys():
            update["rejected_because"] = {**other.rejected_because, **self.rejected_because}
        if not self.unknown.keys() >= other.unknown.keys():
            update["unknown"] = {**other.unknown, **self.unknown}
        fingerprint = update.get("fingerprint", self.fingerprint)
        known = {number for numbers in self.groups.values() for number in numbers}
        groups = dict(self.groups)
        for key, numbers in other.groups.items():
            groups[key] = (*groups.get(key, ()), *(n for n in numbers if n not in known))
        arranged = _arranged(groups, fingerprint, (*self.rejected, *other.rejected))
        update |= {name: value for name, value in arranged.items() if value != getattr(self, name)}
        return self.model_copy(update=update) if update else self

    def regrouped(self, groups: Mapping[str | None, Iterable[int]]) -> ManifestAction:
        """This entry with other sets in place of its own; what is rejected stays so."""
        return self.model_copy(update=_arranged(groups, self.fingerprint, self.rejected))


def _ascending(numbers: Iterable[int]) -> tuple[int, ...]:
    """Set numbers in order, each once.

    Raises:
        ValueError: one is none, or there are too many.
    """
    ascending = tuple(sorted(set(numbers)))
    if ascending and not 0 <= ascending[0] <= ascending[-1] < MAX_SET_ID:
        raise ValueError(f"expected set numbers from 0 to {MAX_SET_ID - 1}")
    if len(ascending) > MAX_SETS:
        raise ValueError(f"expected at most {MAX_SETS} sets")
    return ascending


def _arranged(
    groups: Mapping[str | None, Iterable[int]], fingerprint: str | None, rejected: Iterable[int]
) -> dict[str, Any]:
    """The three fields of an entry that hold numbers, each number in one place at most.

    Sets of no known recipe fit any, and so stand with the entry's own.
    """
    refused = _ascending(rejected)
    own = {*groups.get(fingerprint, ()), *groups.get(None, ())} - {*refused}
    placed = {*own, *refused}
    others: dict[str, tuple[int, ...]] = {}
    for key, numbers in groups.items():
        left = _ascending(set(numbers) - placed)
        if key is not None and key != fingerprint and left:
            others[key] = left
            placed.update(left)
    # In the order of the fingerprints: who merged with whom must not show in the document.
    return {
        "set_ids": _ascending(own),
        "other_sets": dict(sorted(others.items())),
        "rejected": refused,
    }


_DESCRIPTION: Final = (
    "type",
    "program",
    "prompt",
    "steps",
    "time",
    "override_prompt",
    "fingerprint",
)


class Manifest(BaseModel):
    """The index of a store. Counts are not stored but derived, so they always agree.

    Attributes:
        version: of the format.
        generated_at: when its content last changed; None before it was ever written.
        actions: by action id, in the order of the document.
        aside: entries of ``actions`` that could not be understood, as they were; they are
            written back, so a newer or a foreign program's entry is not lost.
        unknown: other fields of the document, kept as they are.
        remarks: what could not be understood in reading; not part of the document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = VERSION
    generated_at: datetime | None = None
    actions: dict[str, ManifestAction] = Field(default_factory=dict)
    aside: dict[str, Any] = Field(default_factory=dict)
    unknown: dict[str, Any] = Field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def total_actions(self) -> int:
        """How many actions are listed, those set aside included."""
        return len(self.actions) + len(self.aside)

    @property
    def total_sets(self) -> int:
        """How many sets are listed, of whatever recipe."""
        return sum(len(action.listed) for action in self.actions.values())

    @property
    def sets_per_action(self) -> int:
        """The most sets that any action has."""
        return max((action.sets for action in self.actions.values()), default=0)

    @property
    def fingerprints(self) -> dict[str, tuple[str, ...]]:
        """Of which recipes each action has sets, or had: its entry's own first."""
        return {
            action_id: tuple(key for key in action.groups if key is not None)
            for action_id, action in self.actions.items()
        }

    def set_ids(self, action_id: str, fingerprint: str | None = None) -> tuple[int, ...]:
        """The sets of an action, ascending; empty if it is not listed.

        Args:
            action_id: whose.
            fingerprint: those that may be of this recipe; None for those of the entry's own.
        """
        action = self.actions.get(action_id)
        return action.sets_for(fingerprint) if action else ()

    def listed(self, action_id: str) -> tuple[int, ...]:
        """Every set of an action that is listed, of whatever recipe."""
        action = self.actions.get(action_id)
        return action.listed if action else ()

    def with_set(self, action_id: str, entry: ManifestAction, set_id: int) -> Manifest:
        """This manifest with one set registered; itself if it already was.

        Args:
            action_id: whose set it is.
            entry: what is known of the action, and of which recipe the set is. It prevails over
                what was known; sets registered before stay, each under its own recipe.
            set_id: the set. One that was rejected stays so.

        Raises:
            ValueError: `action_id` is no action id, or `set_id` no set number.
        """
        if not is_action_id(action_id):
            raise ValueError(f"expected an action id, found {shown(action_id)}")
        if not 0 <= set_id < MAX_SET_ID:
            raise ValueError(f"expected a set number from 0 to {MAX_SET_ID - 1}, found {set_id}")
        known = self.actions.get(action_id)
        entry = entry.merged(ManifestAction(set_ids=(set_id,)))
        if known is not None:
            entry = entry.merged(known)
        if entry == known:
            return self
        aside = {key: raw for key, raw in self.aside.items() if key != action_id}
        return self.model_copy(
            update={"actions": {**self.actions, action_id: entry}, "aside": aside}
        )

    def without_set(self, action_id: str, set_id: int) -> Manifest:
        """This manifest with one set struck off; itself if it was not there.

        The action stays, also with no set left: what is to be drawn again is not forgotten.
        """
        known = self.actions.get(action_id)
        if known is None or set_id not in known.listed:
            return self
        entry = known.regrouped(
            {key: [n for n in numbers if n != set_id] for key, numbers in known.groups.items()}
        )
        return self.with_entry(action_id, entry)

    def with_entry(self, action_id: str, entry: ManifestAction) -> Manifest:
        """This manifest with an action's entry in place of what was said of it."""
        return self.model_copy(update={"actions": {**self.actions, action_id: entry}})

    def without_action(self, action_id: str) -> Manifest:
        """This manifest without an action; itself if it is not listed."""
        if action_id not in self.actions:
            return self
        actions = {key: entry for key, entry in self.actions.items() if key != action_id}
        return self.model_copy(update={"actions": actions})

    def same_content(self, other: Manifest) -> bool:
        """Whether two manifests say the same, whenever they were generated."""
        return (
            self.actions == other.actions
            and self.aside == other.aside
            and self.unknown == other.unknown
            and self.version == other.version
        )


def merge(ours: Manifest, theirs: Manifest) -> Manifest:
    """Both manifests in one: every set of either.

    The sets of the result do not depend on order or grouping. Where two describe an action
    differently, ours prevails, and theirs fills the gaps. The later `generated_at` is taken.

    Returns:
        The union; `ours` itself if `theirs` adds nothing.
    """
    actions = dict(ours.actions)
    for action_id, entry in theirs.actions.items():
        known = actions.get(action_id)
        actions[action_id] = entry if known is None else known.merged(entry)
    aside = {**theirs.aside, **ours.aside}
    merged = ours.model_copy(
        update={
            "actions": actions,
            "aside": {key: raw for key, raw in aside.items() if key not in actions},
            "unknown": {**theirs.unknown, **ours.unknown},
        }
    )
    if merged.same_content(ours):
        return ours
    times = [time for time in (ours.generated_at, theirs.generated_at) if time is not None]
    return merged.model_copy(update={"generated_at": max(times, default=None)})


def parse_manifest(data: bytes, place: str = MANIFEST) -> Manifest:
    """Read a manifest, forgivingly: an entry that cannot be understood is set aside.

    Args:
        data: the file.
        place: its key or path, for messages.

    Raises:
        WrongVersion: it is of another major version.
        FormatError: it is no JSON object with ``actions``.
    """
    raw, remarks = read_object(data, place)
    fields = Fields(raw)
    version = _take_version(fields, place)
    entries = fields.take("actions")
    if not isinstance(entries, dict):
        raise FormatError(place, [f"actions: expected an object, found {shown(entries)}"])
    for derived in ("total_actions", "sets_per_action"):
        fields.take(derived)
    actions: dict[str, ManifestAction] = {}
    aside: dict[str, Any] = {}
    for action_id, entry in entries.items():
        try:
            actions[action_id] = _parse_entry(action_id, entry, fields.remarks.append)
        except ValueError as error:
            aside[action_id] = entry
            fields.remarks.append(f"actions.{shown(action_id)} is set aside: {error}")
    generated_at = fields.take_time("generated_at")
    return Manifest(
        version=version,
        generated_at=generated_at,
        actions=actions,
        aside=aside,
        unknown=fields.rest,
        remarks=(*remarks, *fields.remarks),
    )


def dump_manifest(manifest: Manifest) -> bytes:
    """Write a manifest, strictly to the contract; entries set aside go back as they were.

    Raises:
        FormatError: it has no `generated_at`, an id is no action id, or a field has no JSON form.
    """
    if manifest.generated_at is None or manifest.generated_at.tzinfo is None:
        raise FormatError(MANIFEST, ["generated_at: expected a time with a zone"])
    bad = [action_id for action_id in manifest.actions if not is_action_id(action_id)]
    if bad:
        raise FormatError(MANIFEST, [f"actions: expected action ids, found {shown(bad)}"])
    head = {
        "version": manifest.version,
        "generated_at": utc_text(manifest.generated_at),
        "total_actions": manifest.total_actions,
        "sets_per_action": manifest.sets_per_action,
        **{name: value for name, value in manifest.unknown.items() if name not in _FIELDS},
    }
    entries = {
        **{action_id: _entry_out(entry) for action_id, entry in manifest.actions.items()},
        **{key: raw for key, raw in manifest.aside.items() if key not in manifest.actions},
    }
    return write_index(head, "actions", entries, MANIFEST)


_FIELDS: Final = frozenset(
    {"version", "generated_at", "total_actions", "sets_per_action", "actions"}
)


def parse_config(data: bytes, place: str) -> ManifestAction:
    """Read an action's `config.json`: its entry in the manifest, the sets left out.

    Raises:
        FormatError: it is no JSON object.
    """
    raw, _ = read_object(data, place)
    fields = Fields(raw)
    for of_the_manifest in _OF_THE_MANIFEST:
        fields.take(of_the_manifest)
    return _take_entry(fields, (), {}, (), {})


def dump_config(entry: ManifestAction) -> bytes:
    """Write an action's `config.json`.

    Raises:
        FormatError: a field has no JSON form.
    """
    fields = _entry_out(entry)
    for of_the_manifest in _OF_THE_MANIFEST:
        fields.pop(of_the_manifest, None)
    return write_object(fields, "config.json")


_OF_THE_MANIFEST: Final = ("sets", "set_ids", "other_sets", "rejected", "rejected_because")
"""What is said of an action in the manifest alone."""


def _take_version(fields: Fields, place: str) -> str:
    found = fields.take("version")
    if found is None:
        fields.remark("version", VERSION, None)
        return VERSION
    text = str(found) if isinstance(found, int | float) else found
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise FormatError(place, [f"version: expected {VERSION}, found {shown(found)}"])
    if int(match[1]) != _MAJOR:
        problem = (
            f"version: expected {_MAJOR}.x, found {text}: another version of Understudy wrote"
            " this manifest; use that version, or point to another store"
        )
        raise WrongVersion(place, [problem])
    return match[0]


def _parse_entry(action_id: str, raw: object, remark: Callable[[str], None]) -> ManifestAction:
    """One action of a manifest.

    Raises:
        ValueError: it cannot be understood.
    """
    if not is_action_id(action_id):
        raise ValueError("expected an action id")
    if not isinstance(raw, dict):
        raise ValueError(f"expected an object, found {shown(raw)}")  # noqa: TRY004  # one kind
    fields = Fields(raw, f"actions.{action_id}.")
    set_ids, others, rejected = (
        _take_set_ids(fields),
        _take_other_sets(fields),
        _take_rejected(fields),
    )
    because = _take_rejected_because(fields, rejected)
    entry = _take_entry(fields, set_ids, others, rejected, because)
    for text in fields.remarks:
        remark(text)
    return entry


def _take_entry(
    fields: Fields,
    set_ids: tuple[int, ...],
    other_sets: dict[str, tuple[int, ...]],
    rejected: tuple[int, ...],
    rejected_because: dict[int, str],
) -> ManifestAction:
    """Take all but the sets; what is left then is unknown."""
    return ManifestAction(
        type=fields.take_text("type"),
        program=fields.take_text("program"),
        prompt=fields.take_text("prompt"),
        steps=fields.take_whole("steps", 1, _MAX_STEPS),
        time=fields.take_text("time"),
        override_prompt=fields.take_text("override_prompt"),
        fingerprint=fields.take_fingerprint("fingerprint"),
        set_ids=set_ids,
        other_sets=other_sets,
        rejected=rejected,
        rejected_because=rejected_because,
        unknown=fields.rest,
    )


def _take_set_ids(fields: Fields) -> tuple[int, ...]:
    """The sets of an entry: what it lists, else as many as it counts, else none.

    Raises:
        ValueError: it says neither in a way that can be understood.
    """
    counted = fields.take("sets")
    listed = fields.take("set_ids")
    if listed is None:
        count = 0 if counted is None else whole(counted)
        if count is None or not 0 <= count <= MAX_SETS:
            raise ValueError(f"sets: expected 0 to {MAX_SETS}, found {shown(counted)}")
        return tuple(range(count))
    set_ids = _numbers("set_ids", listed)
    if counted is not None and whole(counted) != len(set_ids):
        fields.remark("sets", f"{len(set_ids)}, the length of set_ids", counted)
    return set_ids


def _take_other_sets(fields: Fields) -> dict[str, tuple[int, ...]]:
    """The sets of other recipes.

    Raises:
        ValueError: it is no object of fingerprints with set numbers.
    """
    found = fields.take("other_sets")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(map(FINGERPRINT.fullmatch, found)):
        raise ValueError(f"other_sets: expected fingerprints, found {shown(found)}")
    return {key: _numbers("other_sets", listed) for key, listed in found.items()}


def _take_rejected(fields: Fields) -> tuple[int, ...]:
    """The numbers that are rejected.

    Raises:
        ValueError: it is no list of set numbers.
    """
    found = fields.take("rejected")
    return () if found is None else _numbers("rejected", found)


def _take_rejected_because(fields: Fields, rejected: tuple[int, ...]) -> dict[int, str]:
    """Why some of those were, as far as that can be read."""
    found = fields.take("rejected_because")
    if found is None:
        return {}
    if not isinstance(found, dict):
        fields.remark("rejected_because", "an object of set numbers", found)
        return {}
    names = {str(number): number for number in rejected}
    return {
        names[name]: why
        for name, why in cast("dict[str, object]", found).items()
        if name in names and isinstance(why, str)
    }


def _numbers(field: str, listed: object) -> tuple[int, ...]:
    """A list of set numbers, ascending.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(listed, list) or len(listed) > MAX_SETS:
        raise ValueError(f"{field}: expected a list of set numbers, found {shown(listed)}")
    numbers = {whole(item) for item in cast("list[object]", listed)}
    if any(number is None or not 0 <= number < MAX_SET_ID for number in numbers):
        raise ValueError(f"{field}: expected set numbers from 0, found {shown(listed)}")
    return tuple(sorted(cast("set[int]", numbers)))


def _entry_out(entry: ManifestAction) -> dict[str, Any]:
    because = {str(n): entry.rejected_because[n] for n in sorted(entry.rejected_because)}
    fields = {
        "type": entry.type,
        "program": entry.program,
        "prompt": entry.prompt,
        "sets": entry.sets,
        "steps": entry.steps,
        "time": entry.time,
        "override_prompt": entry.override_prompt,
        "fingerprint": entry.fingerprint,
        "set_ids": [*entry.set_ids],
        # Only where there are any: who reads the older format sees what it knows.
        **({"other_sets": entry.other_sets} if entry.other_sets else {}),
        **({"rejected": [*entry.rejected]} if entry.rejected else {}),
        **({"rejected_because": because} if because else {}),
    }
    # A pre-made field wins over an unknown one of its name, which cannot come from reading.
    return {**fields, **{key: value for key, value in entry.unknown.items() if key not in fields}}
