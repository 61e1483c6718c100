"""What is wrong with a show's sets, as findings (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cache.library import SetFlaw
from cache.model.documents import FormatError
from cache.model.formats import SetMeta, WrongFiles, image_set
from cache.model.keys import META_NAME, meta_key, set_place
from cache.model.manifest import Manifest, ManifestAction
from generator.plan import Action, Plan, Planned
from generator.provenance import changes
from generator.verify import SetFinding
from server.config.show import Show
from server.providers.static import Fault
from server.rehearsal.catalogue import Catalogue
from server.rehearsal.report import Finding, Level, ProbedEngine, about

Code = Literal[
    "missing_set",
    "bad_meta",
    "missing_step",
    "truncated_image",
    "wrong_extension",
    "wrong_hash",
    "undecodable",
    "black_final",
    "stale_set",
    "mixed_sizes",
    "unreadable",
]

_CODES: Final[Mapping[SetFlaw | Literal["stale", "flat"], Code]] = {
    "no meta": "missing_set",
    "bad meta": "bad_meta",
    "missing": "missing_step",
    "unreadable": "unreadable",
    "empty": "truncated_image",
    "cut short": "truncated_image",
    "size": "truncated_image",
    "no image": "undecodable",
    "wrong kind": "wrong_extension",
    "hash": "wrong_hash",
    "undecodable": "undecodable",
    "stale": "stale_set",
    "flat": "black_final",
}
_VERIFIED: Final[Mapping[str, Code]] = {
    "stale": "stale_set",
    "flat": "black_final",
    "undecodable": "undecodable",
    "size": "mixed_sizes",
}
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Flawed:
    """One thing wrong with one set.

    Attributes:
        action_id: whose.
        set_id: which.
        code: what.
        reason: what was expected and what was found, with the file's name.
    """

    action_id: str
    set_id: int
    code: Code
    reason: str


# ---------------------------------------------------------------- what is flawed


def played_flaws(faults: Mapping[tuple[str, int], Fault]) -> Iterator[Flawed]:
    """What those who played the sets found."""
    for (action_id, number), fault in faults.items():
        yield Flawed(action_id, number, _CODES[fault.flaw], fault.reason)


def verified_flaws(found: Iterable[SetFinding]) -> Iterator[Flawed]:
    """What looking through every image found."""
    for each in found:
        code = _CODES[each.flaw] if each.flaw is not None else _VERIFIED[each.code]
        yield Flawed(each.action_id, each.set_id, code, each.message)


def listed_flaws(catalogue: Catalogue, plan: Plan, manifest: Manifest) -> Iterator[Flawed]:
    """What the listing, the metas and the manifest say, without a look at any image."""
    files = _files(catalogue)
    for action in plan.actions:
        for number in manifest.set_ids(action.action_id, action.fingerprint):
            yield from _of_set(catalogue, action, number, files[action.action_id, number])


def _files(catalogue: Catalogue) -> Mapping[tuple[str, int], dict[str, int]]:
    """The files of each set, and their sizes."""
    files: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for key, size in catalogue.sizes.items():
        place = set_place(key)
        if place is not None:
            files[place.action_id, place.set_id][key.rpartition("/")[2]] = size
    return files


def _of_set(
    catalogue: Catalogue, action: Action, number: int, files: Mapping[str, int]
) -> Iterator[Flawed]:
    def flawed(code: Code, reason: str) -> Flawed:
        return Flawed(action.action_id, number, code, reason)

    key = meta_key(action.action_id, number)
    meta = catalogue.metas.get(key)
    if key in catalogue.unreadable:
        yield flawed("unreadable", f"{META_NAME} cannot be read: {catalogue.unreadable[key]}")
        return
    if meta is None:
        if catalogue.silent is None:
            yield flawed("missing_set", "the manifest lists it, and it has no meta.json")
        return
    try:
        if isinstance(meta, FormatError):
            raise meta
        found = image_set(action.action_id, number, meta, files)
    except WrongFiles as error:
        if catalogue.silent is None:
            yield flawed("missing_step", "; ".join(error.problems))
        return
    except FormatError as error:
        yield flawed("bad_meta", "; ".join(error.problems))
        return
    if meta.fingerprint is not None and meta.fingerprint != action.fingerprint:
        changed = changes(meta.config, action.recipe)
        yield flawed("stale_set", "; ".join(["drawn from another recipe than the cue's", *changed]))
    for step in found.steps:
        size = files.get(step.name)
        if size is not None and step.size is not None and size != step.size:
            reason = f"{step.name}: expected {step.size} bytes (meta.json), found {size}"
            yield flawed("truncated_image", reason)


# ---------------------------------------------------------------- as findings


def set_findings(
    flawed: Iterable[Flawed],
    plan: Planned,
    usable: Callable[[str], int],
    behind: Callable[[Action], str | None] = lambda _action: None,
) -> list[Finding]:
    """The flaws of sets, each told once; the same of several sets of an action in one.

    Args:
        flawed: in whatever order; of several that are alike the first is told.
        plan: the show's actions.
        usable: how many sets of an action can be played all the same.
        behind: in words, what is seen of an action without any; None for nothing sure.
    """
    actions = {action.action_id: action for action in plan.actions}
    told: dict[tuple[str, int, str], Flawed] = {}
    for each in flawed:
        told.setdefault((each.action_id, each.set_id, each.code), each)
    alike: dict[tuple[str, str, str], list[Flawed]] = defaultdict(list)
    for each in told.values():
        alike[each.action_id, each.code, each.reason].append(each)
    return [
        _finding(group, action, usable(action.action_id), behind(action))
        for (action_id, _, _), group in alike.items()
        if (action := actions.get(action_id)) is not None
    ]


def _finding(group: Sequence[Flawed], action: Action, left: int, behind: str | None) -> Finding:
    first = group[0]
    level: Level = "warning" if left or behind is not None else "error"
    others = f"{left} of its other sets can be played" if left else "no set of it can be played"
    if not left and behind is not None:
        others += f", {behind}"
    only = f"--only {action.action_id}"
    stale = first.code in {"stale_set", "missing_set"}
    remedy = f"understudy generate batch {only}" if stale else _repair(only)
    if first.code == "unreadable":
        remedy = "give the server's user the right to read it, or look after the disk"
    whose = "" if len(group) == 1 else f"sets {_named([each.set_id for each in group])}: "
    return about(
        action,
        level,
        first.code,
        message=f"{whose}{first.reason}; {others}",
        remedy=remedy,
        set_id=first.set_id if len(group) == 1 else None,
    )


def _named(numbers: Sequence[int]) -> str:
    """The first few of them."""
    return ", ".join(map(str, sorted(numbers)[:_NAMED])) + (", …" if len(numbers) > _NAMED else "")


def _repair(only: str) -> str:
    return f"understudy generate verify --repair {only}"


def standing_behind(show: Show, engines: Iterable[ProbedEngine]) -> Callable[[Action], str | None]:
    """What is seen of an action without sets: an engine's picture. The still image is none."""
    settings = show.settings.playback
    alive = [engine.name for engine in engines if engine.state != "dead"]

    def behind(action: Action) -> str | None:
        mode = show.sheet.cues[action.cue_index].mode or settings.mode
        if alive and (settings.fallback or mode != "static"):
            return f"engine {alive[0]} draws it"
        return None

    return behind


def manifest_findings(catalogue: Catalogue, plan: Plan, manifest: Manifest) -> list[Finding]:
    """Where the manifest and the sets do not agree."""
    whole: dict[str, set[int]] = defaultdict(set)
    for key in catalogue.sizes:
        place = set_place(key)
        if place is not None and key.endswith(f"/{META_NAME}"):
            whole[place.action_id].add(place.set_id)
    findings = []
    for action in plan.actions:
        entry = manifest.actions.get(action.action_id, ManifestAction())
        unlisted = sorted(whole[action.action_id].difference(entry.listed, entry.rejected))
        if unlisted:
            text = (
                f"the manifest does not list set {_named(unlisted)}, which the store has: "
                "it is not played"
            )
            findings.append(_mismatch(action, text))
        if entry.fingerprint is None or action.fingerprint in entry.groups:
            continue
        metas = _metas(catalogue, action, manifest)
        if metas and all(meta.fingerprint == action.fingerprint for meta in metas):
            text = "the manifest says that its sets were drawn from another recipe; they were not"
            findings.append(_mismatch(action, text))
    return findings


def _mismatch(action: Action, text: str) -> Finding:
    return about(
        action,
        "warning",
        "manifest_mismatch",
        message=text,
        remedy="understudy generate reindex",
    )


def _metas(catalogue: Catalogue, action: Action, manifest: Manifest) -> list[SetMeta]:
    numbers = manifest.set_ids(action.action_id, action.fingerprint)
    keys = (meta_key(action.action_id, number) for number in numbers)
    found = (catalogue.metas.get(key) for key in keys)
    return [meta for meta in found if isinstance(meta, SetMeta)]


def few_sets(plan: Plan, usable: Mapping[str, int], screenings: int) -> list[Finding]:
    """Actions with a single set, where the show is seen more than once."""
    return [
        about(
            action,
            "note",
            "few_sets",
            message=f"it has a single set: the same picture in each of {screenings} screenings",
            remedy=f"understudy generate batch --sets 5 --only {action.action_id}",
        )
        for action in plan.actions
        if screenings > 1 and usable.get(action.action_id) == 1
    ]
