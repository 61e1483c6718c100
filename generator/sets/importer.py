"""Brings sets of an older layout into a store.

::

    {version}/cues/{kind}_{index}_{HH_MM_SS}[_val{n}]/{variant}/0.png … {N-1}.png
                                                               final.png, timing.json

Variants count from 1, images from 0, `timing.json` is in milliseconds and often absent:
``{"stepDurations": {"0": 245, "final": 156}}``.

What is imported says no more than is known. The images are kept byte for byte. Of which recipe
they are nobody can prove, so there is no fingerprint, and readers take them for any recipe of
their action. Where a duration is missing, there are none at all, and every run draws them at
random (SPEC §2): half a rhythm would be nobody's. `generated_at` is when the newest image was
last written, the only trace of when it was drawn. ``imported_from`` says where it came from, and
lets the same import, begun again, go on where it was.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cache.index import register
from cache.model.documents import FormatError, read_object, real, shown
from cache.model.formats import FINAL, MAX_DURATION, FileFacts, SetMeta, dump_meta
from cache.model.images import BadImage, check_image, decode_check
from cache.model.keys import config_key, image_key, meta_key
from cache.model.manifest import ManifestAction, dump_config
from cache.stores.port import Conflict, NotFound, Store
from generator.sets.numbers import entry_of_action, noted_in
from generator.sets.recorder import uploads
from generator.sheet.cues import format_time
from generator.sheet.description import describe
from generator.sheet.plan import Action

ORIGIN: Final = "imported_from"
"""The field of an imported `meta.json` that says where it came from."""

_KINDS: Final[dict[str, str]] = {
    "transcript": "transcript",
    "prompt": "prompt",
    "slider": "slider",
    "move-slider": "slider",
    "move_slider": "slider",
    "moveslider": "slider",
}
_FOLDER: Final = re.compile(
    r"(?P<kind>[A-Za-z]+(?:[-_][A-Za-z]+)*)_(?P<index>[0-9]{1,6})"
    r"_(?P<hours>[0-9]{2})_(?P<minutes>[0-5][0-9])_(?P<seconds>[0-5][0-9])"
    r"(?:_val(?P<value>-?[0-9]+(?:\.[0-9]+)?))?",
    re.ASCII,
)
_VARIANT: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_IMAGE: Final = re.compile(r"([0-9]{1,5}|final)\.png", re.ASCII | re.IGNORECASE)
_CLOSE: Final = 0.5
"""Slider percentages that are no further apart are the same."""


class NothingToImport(ValueError):
    """There is no such layout here, or there are several versions of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A folder of the layout, by its name.

    Attributes:
        path: where it is.
        kind: which kind of cue.
        index: its number there, which counts what only its writer knew.
        at: seconds from the start of the screening.
        value: of the slider, in per cent.
    """

    path: Path
    kind: str
    index: int
    at: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Imported:
    """A set that is in the store."""

    action_id: str
    set_id: int
    place: str


@dataclass(frozen=True, slots=True)
class Remark:
    """What was not imported, or not whole, and why."""

    place: str
    reason: str


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        imported: sets that are new in the store.
        present: sets that an earlier import had brought.
        left: what was not imported, and why.
        remarks: what could not be understood of sets that were.
    """

    imported: list[Imported] = field(default_factory=list)
    present: list[Imported] = field(default_factory=list)
    left: list[Remark] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


Progress = Callable[[int, int, str], None]
"""Told of each variant that is done with: how many are, of how many, and which it was."""


async def import_sets(
    source: Path,
    store: Store,
    actions: Sequence[Action],
    progress: Progress = lambda _done, _total, _place: None,
) -> ImportReport:
    """Bring everything that belongs to one of `actions` into `store`.

    Variant v becomes set v-1. No set that is there is touched. It may be stopped at any moment;
    the same call goes on.

    Args:
        source: the ``cues`` folder, its version's folder, or that one's if it has no other.
        store: where the sets go.
        actions: of the plan.
        progress: told of each variant.

    Raises:
        NothingToImport: `source` is no such layout, or has several versions.
        StoreError: the store could not be read or written.
        FormatError: the store's manifest cannot be understood.
        OSError: a folder of the source cannot be read.
    """
    cues = await asyncio.to_thread(_cues_folder, source)
    report = ImportReport()
    folders = await asyncio.to_thread(_folders, cues, report)
    work: list[tuple[Action, Path]] = []
    for folder, action in map_folders(folders, actions, report.left):
        work += [(action, path) for path in await asyncio.to_thread(_variants, folder.path, report)]
    for done, (action, path) in enumerate(work, 1):
        place = _place(path)
        await _import_set(store, action, path, place, report)
        progress(done, len(work), place)
    return report


def map_folders(
    folders: Iterable[Found], actions: Sequence[Action], left: list[Remark]
) -> list[tuple[Found, Action]]:
    """Find whose each folder is: by kind, time and slider value; by number among equals (pure).

    Several folders of one kind and time go to as many actions in the order of their numbers,
    whatever these count from. One folder for several actions has to have the number of a cue,
    or of an action among its kind, counted from 0 or 1, and of no other.

    Args:
        folders: what was found.
        actions: of the plan.
        left: gets what could not be mapped, and why.
    """
    groups: dict[tuple[str, int, float | None], list[Found]] = {}
    for folder in sorted(folders, key=lambda each: (each.at, each.index, each.path.name)):
        groups.setdefault((folder.kind, folder.at, folder.value), []).append(folder)
    mapped: list[tuple[Found, Action]] = []
    for (kind, at, value), group in groups.items():
        there = _at(at, [action for action in actions if action.type == kind])
        fitting = [action for action in there if _has_value(action, value)]
        if len(fitting) == len(group):
            mapped += zip(group, fitting, strict=True)
            continue
        for folder in group:
            named = [action for action in fitting if folder.index in _numbers(action, actions)]
            if len(group) == 1 and len(named) == 1:
                mapped.append((folder, named[0]))
            else:
                reason = _why_not_mapped(folder, len(group), there, fitting)
                left.append(Remark(_place(folder.path), reason))
    return mapped


def _at(at: int, actions: Sequence[Action]) -> list[Action]:
    """The actions within that second; else those to which it may have been rounded up."""
    within = [action for action in actions if int(action.at) == at]
    return within or [action for action in actions if 0 < at - action.at < 1]


def _has_value(action: Action, value: float | None) -> bool:
    strength = action.recipe.strength
    if action.type != "slider" or value is None or strength is None:
        return True
    return abs(strength * 100 - value) <= _CLOSE


def _numbers(action: Action, actions: Sequence[Action]) -> set[int]:
    """What a folder's number may be for this action."""
    of_kind = [other.cue_index for other in actions if other.type == action.type]
    place = sorted(of_kind).index(action.cue_index)
    return {action.cue_index, action.cue_index + 1, place, place + 1}


def _why_not_mapped(folder: Found, beside: int, there: list[Action], fitting: list[Action]) -> str:
    what = f"{folder.kind} cue at {format_time(folder.at)}"
    if not there:
        return f"there is no {what}"
    if not fitting:
        values = ", ".join(f"{100 * (action.recipe.strength or 0):g}" for action in there)
        return f"the {what} has the value {values}, expected {folder.value:g}"
    ids = ", ".join(action.action_id for action in fitting)
    return f"it cannot be told whose it is: {beside} such folders, and {ids} at that time"


def _cues_folder(source: Path) -> Path:
    """The ``cues`` folder, wherever `source` points at.

    Raises:
        NothingToImport: there is none, or several.
    """
    source = source.resolve()
    for path in (source, source / "cues"):
        if path.name == "cues" and path.is_dir():
            return path
    versions = sorted(path for path in source.glob("*/cues") if path.is_dir())
    if not versions:
        raise NothingToImport(f"{source}: expected {{version}}/cues, found no such folder")
    if len(versions) > 1:
        names = ", ".join(path.parent.name for path in versions)
        raise NothingToImport(f"{source}: there are several versions ({names}): point to one")
    return versions[0]


def _place(path: Path) -> str:
    """A folder as reports name it, wherever the tree lies: from its version on."""
    below_version = path.parts[::-1].index("cues") + 2
    return "/".join(path.parts[-below_version:])


def _folders(cues: Path, report: ImportReport) -> list[Found]:
    found = []
    for path in _entries(cues):
        match = _FOLDER.fullmatch(path.name)
        kind = _KINDS.get(match["kind"].lower()) if match else None
        if match is None or kind is None or not path.is_dir():
            reason = "expected a folder {transcript|prompt|slider}_{index}_{HH_MM_SS}[_val{n}]"
            report.left.append(Remark(_place(path), reason))
            continue
        hours, minutes, seconds = (int(match[name]) for name in ("hours", "minutes", "seconds"))
        value = match["value"]
        at = hours * 3600 + minutes * 60 + seconds
        percent = None if value is None else float(value)
        found.append(Found(path, kind, int(match["index"]), at, percent))
    return found


def _variants(folder: Path, report: ImportReport) -> list[Path]:
    found = []
    for path in _entries(folder):
        if path.is_dir() and _VARIANT.fullmatch(path.name):
            found.append(path)
        else:
            report.left.append(Remark(_place(path), "expected variants, numbered from 1"))
    return sorted(found, key=lambda path: int(path.name))


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; hidden files belong to file managers."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


@dataclass(frozen=True, slots=True)
class _Variant:
    """A variant as it will be kept: files by their new names, durations by their steps."""

    files: dict[str, bytes]
    durations: dict[str, float | None]
    written_at: datetime
    remarks: tuple[str, ...]


def _read_variant(folder: Path) -> _Variant:
    """Read a variant and check every image.

    Raises:
        BadImage: an image is not whole, or the last is all one colour.
        FormatError: images are missing, or there are none.
    """
    images: dict[int | str, Path] = {}
    remarks = []
    for path in _entries(folder):
        match = _IMAGE.fullmatch(path.name)
        if match is None:
            if path.name != "timing.json":
                remarks.append(f"{path.name} is left out: it is no image of the layout")
            continue
        step = int(match[1]) if match[1].isdecimal() else FINAL
        if step in images:
            raise FormatError(path.name, [f"{images[step].name} is the same step"])
        images[step] = path
    final = images.pop(FINAL, None)
    steps = sorted(int(step) for step in images)
    if steps != list(range(len(steps))) or (not steps and final is None):
        found = ", ".join(map(str, steps)) or "none"
        raise FormatError(folder.name, [f"expected images numbered from 0 on, found {found}"])
    ordered = {str(step + 1): images[step] for step in steps}
    if final is not None:
        # A picture without previews is numbered, as the recorder does it.
        ordered[FINAL if steps else "1"] = final
    files: dict[str, bytes] = {}
    for stem, path in ordered.items():
        data = files[f"{stem}.png"] = path.read_bytes()
        check_image(data, path.name)
    last, last_path = list(files.values())[-1], list(ordered.values())[-1]
    if decode_check(last, last_path.name).is_flat:
        raise BadImage(last_path.name, "it is all one colour", "undecodable")
    written = max(path.stat().st_mtime for path in ordered.values())
    durations = _read_timing(folder / "timing.json", ordered, final, remarks)
    return _Variant(files, durations, datetime.fromtimestamp(int(written), UTC), tuple(remarks))


def _read_timing(
    path: Path, ordered: dict[str, Path], final: Path | None, remarks: list[str]
) -> dict[str, float | None]:
    """Seconds per step; empty unless there is a duration for every image."""
    try:
        raw, _ = read_object(path.read_bytes(), path.name)
    except FileNotFoundError:
        return {}
    except FormatError as error:
        remarks.append(f"the durations are left out: {error}")
        return {}
    told = raw.get("stepDurations")
    durations: dict[str, float | None] = {}
    for stem, image in ordered.items():
        name = FINAL if image == final else str(int(stem) - 1)
        found = told.get(name) if isinstance(told, dict) else None
        milliseconds = real(found)
        if milliseconds is None or not 0 < milliseconds <= 1000 * MAX_DURATION:
            remarks.append(
                f"the durations are left out: expected milliseconds for {name!r} in timing.json,"
                f" found {shown(found)}"
            )
            return {}
        durations[stem] = round(milliseconds / 1000, 6)
    return durations


async def _import_set(
    store: Store, action: Action, path: Path, place: str, report: ImportReport
) -> None:
    set_id = int(path.name) - 1
    result = Imported(action.action_id, set_id, place)
    taken = await noted_in(store, action.action_id, set_id, ORIGIN)
    if taken == place:
        await _register(store, action, set_id)
        report.present.append(result)
        return
    if taken is None and set_id in (await entry_of_action(store, action.action_id)).rejected:
        report.left.append(Remark(place, f"set {set_id} of {action.action_id} was rejected"))
        return
    if taken is None:
        try:
            variant = await asyncio.to_thread(_read_variant, path)
        except (BadImage, FormatError, OSError) as error:
            report.left.append(Remark(place, str(error)))
            return
        report.remarks += [Remark(place, text) for text in variant.remarks]
        if await _keep(store, action, set_id, variant, place):
            await _register(store, action, set_id)
            report.imported.append(result)
            return
    who = f"set {set_id} of {action.action_id}"
    report.left.append(Remark(place, f"{who} is there already, and not from here"))


async def _keep(store: Store, action: Action, set_id: int, variant: _Variant, place: str) -> bool:
    """Write a set, its meta last; False if another writer made that set meanwhile."""
    action_id = action.action_id
    timed = bool(variant.durations)
    total = sum(seconds for seconds in variant.durations.values() if seconds is not None)
    meta = SetMeta(
        cue_id=action_id,
        set_id=set_id,
        total_steps=len(variant.files) - (f"{FINAL}.png" in variant.files),
        durations=variant.durations,
        total_duration=round(total, 6) if timed else None,
        generated_at=variant.written_at,
        config={"program": action.program, "prompt": action.prompt},
        files={name: FileFacts.of(data) for name, data in variant.files.items()},
        unknown={ORIGIN: place},
    )
    document = dump_meta(meta, untimed=not timed)
    async with uploads(store) as upload:
        for name, data in variant.files.items():
            await upload(image_key(action_id, set_id, name), data)
    try:
        # Compare-and-swap, for once: a set that was drawn meanwhile is not ours to replace.
        await store.replace(meta_key(action_id, set_id), document, expected=None)
    except Conflict:
        return False
    return True


async def _register(store: Store, action: Action, set_id: int) -> None:
    """Enter a set in the manifest, and describe its action where nobody has."""
    entry = ManifestAction(**describe(action).model_dump(), steps=action.recipe.steps)
    try:
        await store.get(config_key(action.action_id))
    except NotFound:
        await store.put(config_key(action.action_id), dump_config(entry))
    await register(store, action.action_id, entry, set_id)
