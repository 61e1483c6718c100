"""A set: its `meta.json`, and which image is which step (pure).

`parse_meta` takes what any generator wrote, the original one included. `dump_meta` writes
the whole contract or nothing. `image_set` puts a meta and its files together.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from cache.model.documents import (
    FINGERPRINT_PATTERN,
    SHA256_PATTERN,
    Fields,
    FormatError,
    is_sha256,
    read_object,
    real,
    shown,
    utc_text,
    whole,
    write_object,
)
from cache.model.images import MediaType, media_type_for
from cache.model.keys import MAX_SET_ID, META_NAME, Key, image_key, is_key, set_prefix

MAX_STEPS: Final = 10_000
"""More steps than this is a mistake in the file, not a picture."""

MAX_DURATION: Final = 3600.0
"""Seconds. A step that took longer was not measured: its duration is unusable."""

MAX_LATENCY: Final = 5.0
"""Seconds. Whoever took longer to begin was loading or waiting for another: that is no set's."""

FINAL: Final = "final"
TIMINGS: Final = frozenset({"measured", "profiled", "simulated"})

_ROUNDING: Final = 0.005
_FIELD_NAMES: Final = frozenset(
    {
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
        "latency",
        "files",
    }
)
_MAX_SEED: Final = 2**64 - 1
_MAX_FILE_BYTES: Final = 2**53
_IMAGE_NAME: Final = re.compile(
    r"(0|[1-9][0-9]{0,8}|final)\.(?:jpe?g|png|webp)", re.ASCII | re.IGNORECASE
)


class FileFacts(BaseModel):
    """What a meta says of one image file.

    Attributes:
        size: bytes; ``bytes`` in the document. None if it does not say.
        sha256: of the file, in lower-case hexadecimal. None if it does not say.
        unknown: other fields, kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    unknown: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The facts of a file with these bytes."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


class SetMeta(BaseModel):
    """What is known of one set: the content of its `meta.json`.

    Only `total_steps` is always there; an original meta lacks most of the rest.

    Attributes:
        cue_id: the action's id, under its original name.
        set_id: number of the set within its action, from 0.
        total_steps: N: how many numbered images there are, a final one not counted.
        durations: seconds per step, by ``"1"`` … ``"N"`` and perhaps ``"final"``: from the
            image before, or the start, to this one. After `parse_meta` all N are there, and
            None stands for a missing or unusable duration.
        total_duration: seconds, the sum of the durations.
        generated_at: when it was drawn, with a zone.
        config: the document's ``model_config``: program, prompt, steps asked for, and so on.
        seed: of the random generator.
        fingerprint: of the recipe, ``sha256:`` and 64 hexadecimal digits.
        engine: what drew it, with its version.
        timing: ``measured``, ``profiled`` or ``simulated``: how the durations came about.
        latency: seconds from asking to the start of step 1; None if unknown.
        files: facts of the images, by file name.
        unknown: other fields of the document, kept as they are.
        remarks: what could not be understood in reading; not part of the document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cue_id: str | None = None
    set_id: int | None = Field(default=None, ge=0, lt=MAX_SET_ID)
    total_steps: int = Field(ge=1, le=MAX_STEPS)
    durations: dict[str, float | None] = Field(default_factory=dict)
    total_duration: float | None = None
    generated_at: datetime | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = Field(default=None, ge=0, le=_MAX_SEED)
    fingerprint: str | None = Field(default=None, pattern=FINGERPRINT_PATTERN)
    engine: str | None = None
    timing: str | None = None
    latency: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    files: dict[str, FileFacts] = Field(default_factory=dict)
    unknown: dict[str, Any] = Field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def duration(self, step: int | str) -> float | None:
        """Seconds of a numbered step, or of ``"final"``; None if unknown."""
        return self.durations.get(str(step))

    @property
    def names_every_file(self) -> bool:
        """Whether `files` alone tells every image, so that no listing is needed.

        Not so if there are durations of a final image but no such file: some generators
        name the numbered images only.
        """
        stems = _stems(self.files)
        expected = {str(step) for step in range(1, self.total_steps + 1)}
        return expected <= stems.keys() and (FINAL in stems or FINAL not in self.durations)


@dataclass(frozen=True, slots=True)
class Step:
    """One image of a set, in the order shown.

    Attributes:
        number: 1 for the first; a final image in a file of its own has N + 1.
        name: its file's name in the set.
        key: where it lies in the store.
        duration: seconds from the image before, or the start; None if unknown.
        final: whether this is the finished picture; exactly the last step of a set is.
        size: bytes, None if the meta does not say.
        sha256: of the file in hexadecimal, None if the meta does not say.
    """

    number: int
    name: str
    key: Key
    duration: float | None
    final: bool
    size: int | None = None
    sha256: str | None = None

    @property
    def media_type(self) -> MediaType:
        """What the name says that the image is."""
        media_type = media_type_for(self.name)
        if media_type is None:
            raise ValueError(f"{self.name!r} is no image's name")
        return media_type


class WrongFiles(FormatError):
    """A set whose files are not the steps that its meta tells of."""


@dataclass(frozen=True)
class ImageSet:
    """One pre-generated variation of an action, ready to be read.

    Attributes:
        action_id: whose it is, by its place in the store.
        set_id: its number, by its place in the store.
        meta: what its `meta.json` says.
        steps: its images in order; only the last is final.
    """

    action_id: str
    set_id: int
    meta: SetMeta
    steps: tuple[Step, ...]

    @cached_property
    def images(self) -> tuple[Key, ...]:
        """Where its images lie, in their order."""
        return tuple(step.key for step in self.steps)


def parse_meta(data: bytes, place: str) -> SetMeta:
    """Read a `meta.json`, forgivingly.

    Args:
        data: the file.
        place: its key, for messages.

    Raises:
        FormatError: it is no JSON object, or `total_steps` is not from 1 to `MAX_STEPS`.
    """
    raw, remarks = read_object(data, place)
    fields = Fields(raw)
    steps_found = fields.take("total_steps")
    total_steps = whole(steps_found)
    if total_steps is None or not 1 <= total_steps <= MAX_STEPS:
        found = "nothing" if steps_found is None else shown(steps_found)
        raise FormatError(
            place, [f"total_steps: expected a whole number from 1 to {MAX_STEPS}, found {found}"]
        )
    meta = SetMeta(
        cue_id=fields.take_text("cue_id"),
        set_id=fields.take_whole("set_id", 0, MAX_SET_ID - 1),
        total_steps=total_steps,
        durations=_take_durations(fields, total_steps),
        total_duration=fields.take_seconds("total_duration"),
        generated_at=fields.take_time("generated_at"),
        config=fields.take_object("model_config"),
        seed=fields.take_whole("seed", 0, _MAX_SEED),
        fingerprint=fields.take_fingerprint("fingerprint"),
        engine=fields.take_text("engine"),
        timing=fields.take_text("timing"),
        latency=_usable_latency(fields.take("latency")),
        files=_take_files(fields),
        unknown=fields.rest,
    )
    return meta.model_copy(update={"remarks": (*remarks, *fields.remarks)})


def dump_meta(meta: SetMeta, *, untimed: bool = False) -> bytes:
    """Write a `meta.json`, strictly to the contract.

    Args:
        meta: what to write.
        untimed: it may have no durations at all: an imported set that nobody timed.

    Raises:
        FormatError: something is missing, or does not agree with the rest; all of it is told.
    """
    place = META_NAME
    if meta.cue_id is not None and meta.set_id is not None:
        place = f"{meta.cue_id}/{meta.set_id}/{META_NAME}"
    problems = list(_why_not_written(meta, untimed=untimed and not meta.durations))
    if problems:
        raise FormatError(place, problems)
    optional = {
        "seed": meta.seed,
        "fingerprint": meta.fingerprint,
        "engine": meta.engine,
        "timing": meta.timing,
        "latency": meta.latency,
    }
    names = sorted(meta.files, key=_rank_name)
    return write_object(
        {
            "cue_id": meta.cue_id,
            "set_id": meta.set_id,
            "total_steps": meta.total_steps,
            "durations": {stem: meta.durations[stem] for stem in sorted(meta.durations, key=_rank)},
            **({} if meta.total_duration is None else {"total_duration": meta.total_duration}),
            "generated_at": meta.generated_at and utc_text(meta.generated_at),
            "model_config": meta.config,
            **{name: value for name, value in optional.items() if value is not None},
            "files": {name: _facts_out(meta.files[name]) for name in names},
            **meta.unknown,
        },
        place,
    )


def image_set(
    action_id: str, set_id: int, meta: SetMeta, names: Iterable[str] | None = None
) -> ImageSet:
    """Find which file is which step.

    What the meta names counts; a listing fills in what it does not name.

    Args:
        action_id: whose set it is.
        set_id: which one.
        meta: the set's meta.
        names: the files that are in the set, if known. Those that are no step are ignored.

    Raises:
        WrongFiles: an image is missing, could be one of several files, or is one too many.
        BadKey: `action_id` or `set_id` cannot be in a key.
    """
    problems: list[str] = []
    present = None if names is None else set(names)
    named = _stems(meta.files)
    listed = _stems(present or ())
    # Beside a meta that names its files, others are leftovers; without, they are a contradiction.
    stray = set(named or listed) - {str(k) for k in range(1, meta.total_steps + 1)} - {FINAL}
    for stem in sorted(stray, key=_rank):
        found = (named.get(stem) or listed[stem])[0]
        problems.append(f"found {found}, expected steps 1 to {meta.total_steps} (total_steps)")

    def choose(stem: str) -> str | None:
        options = named.get(stem) or listed.get(stem) or []
        if present is not None and stem in named:
            options = [name for name in options if name in present]
            if not options:
                problems.append(f"{named[stem][0]} is missing, {META_NAME} names it")
                return None
        if not options and stem != FINAL:
            problems.append(f"step {stem} is missing, expected {stem}.jpg, .png or .webp")
        if len(options) > 1:
            problems.append(f"step {stem} could be {' or '.join(options)}, expected one")
        return options[0] if options else None

    stems = [*map(str, range(1, meta.total_steps + 1)), FINAL]
    chosen = [(stem, name) for stem in stems if (name := choose(stem)) is not None]
    if problems:
        raise WrongFiles(set_prefix(action_id, set_id), problems)
    steps = []
    for number, (stem, name) in enumerate(chosen, start=1):
        facts = meta.files.get(name, _NO_FACTS)
        steps.append(
            Step(
                number=number,
                name=name,
                key=image_key(action_id, set_id, name),
                duration=meta.duration(stem),
                final=number == len(chosen),
                size=facts.size,
                sha256=facts.sha256,
            )
        )
    return ImageSet(action_id, set_id, meta, tuple(steps))


_NO_FACTS: Final = FileFacts()


def _take_durations(fields: Fields, total_steps: int) -> dict[str, float | None]:
    """The durations of steps 1 to N, None where unusable; that is no reason for a remark."""
    raw = fields.take_object("durations")
    durations = {str(step): _usable(raw.pop(str(step), None)) for step in range(1, total_steps + 1)}
    if FINAL in raw:
        durations[FINAL] = _usable(raw.pop(FINAL))
    if raw:
        fields.remark("durations", f'"1" to "{total_steps}" and "{FINAL}"', sorted(raw))
    return durations


def _usable(value: object) -> float | None:
    """A duration in seconds that a run can be timed by."""
    seconds = real(value)
    return seconds if seconds is not None and 0 < seconds <= MAX_DURATION else None


def _usable_latency(value: object) -> float | None:
    """What passed before a run's first step, in seconds that a visitor could have waited."""
    seconds = real(value)
    return seconds if seconds is not None and 0 <= seconds <= MAX_LATENCY else None


def _take_files(fields: Fields) -> dict[str, FileFacts]:
    files = {}
    for name, raw in fields.take_object("files").items():
        if not is_key(name) or "/" in name or not isinstance(raw, dict):
            fields.remark("files", "plain names such as 1.jpg, with an object each", name)
            continue
        facts = Fields(raw, f"files.{name}.")
        size = facts.take_whole("bytes", 0, _MAX_FILE_BYTES)
        sha256 = facts.take_text("sha256")
        if sha256 is not None and not is_sha256(sha256):
            facts.remark("sha256", "64 lower-case hexadecimal digits", sha256)
            sha256 = None
        files[name] = FileFacts(size=size, sha256=sha256).model_copy(update={"unknown": facts.rest})
        fields.remarks.extend(facts.remarks)
    return files


def _facts_out(facts: FileFacts) -> dict[str, Any]:
    return {"bytes": facts.size, "sha256": facts.sha256, **facts.unknown}


def _stems(names: Iterable[str]) -> dict[str, list[str]]:
    """Image names by the step that they are: ``{"1": ["1.jpg"], "final": ["final.jpg"]}``."""
    stems: dict[str, list[str]] = {}
    for name in sorted(names):
        match = _IMAGE_NAME.fullmatch(name)
        if match is not None:
            stems.setdefault(match[1].lower(), []).append(name)
    return stems


def _rank(stem: str) -> tuple[int, str]:
    """Sorts steps by number, whatever is no number behind them."""
    return (int(stem), "") if stem.isdecimal() else (MAX_SET_ID, stem)


def _rank_name(name: str) -> tuple[int, str]:
    """Sorts file names by their step."""
    number, _ = _rank(name.partition(".")[0])
    return number, name


def _why_not_written(meta: SetMeta, *, untimed: bool) -> Iterator[str]:
    """Everything in a meta that is not to the contract."""
    for name in ("cue_id", "set_id", "total_duration", "generated_at"):
        if getattr(meta, name) is None and not (untimed and name == "total_duration"):
            yield f"{name}: missing"
    if meta.generated_at is not None and meta.generated_at.utcoffset() != timedelta(0):
        yield f"generated_at: expected UTC, found {meta.generated_at.isoformat()}"
    if meta.timing is not None and meta.timing not in TIMINGS:
        yield f"timing: expected one of {', '.join(sorted(TIMINGS))}, found {shown(meta.timing)}"
    if meta.latency is not None and meta.latency > MAX_LATENCY:
        yield f"latency: expected at most {MAX_LATENCY:g} s, found {shown(meta.latency)}"
    if clash := meta.unknown.keys() & _FIELD_NAMES:
        yield f"unknown: {', '.join(sorted(clash))} has a field of its own"
    if not untimed:
        yield from _why_durations_not_written(meta)
    elif meta.total_duration is not None or meta.timing is not None:
        yield "durations: missing, though total_duration or timing is not"
    yield from _why_files_not_written(meta)


def _why_durations_not_written(meta: SetMeta) -> Iterator[str]:
    expected = {str(step) for step in range(1, meta.total_steps + 1)}
    if meta.durations.keys() - {FINAL} != expected:
        found = shown(sorted(meta.durations, key=_rank))
        yield f"durations: expected steps 1 to {meta.total_steps}, found {found}"
        return
    total = 0.0
    for step, seconds in meta.durations.items():
        if seconds is None or not 0 < seconds <= MAX_DURATION:
            yield f"durations.{step}: expected seconds above 0, found {shown(seconds)}"
            return
        total += seconds
    # Each figure may have been rounded to hundredths by itself, the total as well.
    slack = _ROUNDING * (len(meta.durations) + 1)
    if meta.total_duration is not None and not math.isclose(
        meta.total_duration, total, rel_tol=0, abs_tol=slack
    ):
        yield (
            f"total_duration: expected the sum of the durations, {total:.6g},"
            f" found {shown(meta.total_duration)}"
        )


def _why_files_not_written(meta: SetMeta) -> Iterator[str]:
    stems = _stems(meta.files)
    expected = [str(step) for step in range(1, meta.total_steps + 1)]
    if FINAL in (meta.durations or stems):
        expected.append(FINAL)
    if stems.keys() != set(expected) or any(len(names) != 1 for names in stems.values()):
        found = shown(sorted(meta.files, key=_rank_name))
        yield f"files: expected one image for each of {shown(expected)}, found {found}"
    for name, facts in meta.files.items():
        if facts.size is None or facts.sha256 is None:
            yield f"files.{name}: expected bytes and sha256"
        if clash := facts.unknown.keys() & {"bytes", "sha256"}:
            yield f"files.{name}.unknown: {', '.join(sorted(clash))} has a field of its own"
