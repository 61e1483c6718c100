"""What is wrong with a show's sets (pure); an inspector looks at each picture that goes by."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Final

from PIL import Image

from cache.model.documents import FormatError
from cache.model.formats import SetMeta, WrongFiles, image_set
from cache.model.images import BadImage, check_image, media_type_for
from cache.model.keys import META_NAME, Key, meta_key, set_place
from cache.model.manifest import ManifestAction
from generator.sets.verify import SetFinding
from generator.sheet.plan import Action, Plan
from generator.sheet.provenance import changes
from server.core.formatting import first_few
from server.diagnostics.facts import SIMULATION, FlawedSet, SimulationFacts
from server.diagnostics.findings import Finding, Level, kind
from server.diagnostics.show import DRAW
from server.providers.static import Fault

REPAIR: Final = "understudy generate verify --repair --only {action_id}"

_BAD_META: Final = "the manifest lists a set whose `meta.json` is gone, or cannot be read"
_BAD_FILE: Final = "a file of a set is not what it should be"
_UNREADABLE: Final = "a file of a set cannot be read: rights, a bad disk, a link out of the store"
_GIVE_RIGHTS: Final = "give the server's user the right to read it, or look after the disk"

_FLAWS: Final = (
    ("missing_set", _BAD_META, DRAW, "no meta"),
    ("bad_meta", _BAD_META, REPAIR, "bad meta"),
    ("missing_step", _BAD_FILE, REPAIR, "missing"),
    ("truncated_image", _BAD_FILE, REPAIR, "empty", "cut short", "size"),
    ("wrong_extension", _BAD_FILE, REPAIR, "wrong kind"),
    ("wrong_hash", _BAD_FILE, REPAIR, "hash"),
    ("undecodable", _BAD_FILE, REPAIR, "undecodable", "no image"),
    ("black_final", "a final image is all one colour", REPAIR, "flat"),
    ("unreadable", _UNREADABLE, _GIVE_RIGHTS, "unreadable"),
    ("stale_set", "a set was drawn from another recipe, and what changed since", DRAW, "stale"),
    ("mixed_sizes", "a set's images are not of one size", REPAIR),
)
"""Code, title, remedy; and what those call it who read the sets."""

FLAWS: Final = {
    code: kind(code, title, remedy, "error", "warning") for code, title, remedy, *_ in _FLAWS
}
CODES: Final = {flaw: code for code, _, _, *flaws in _FLAWS for flaw in flaws}
MANIFEST_MISMATCH = kind(
    "manifest_mismatch",
    "the manifest and the sets do not agree",
    "understudy generate reindex",
    "warning",
)
FEW_SETS = kind(
    "few_sets",
    "a single set for several screenings",
    "understudy generate batch --sets 5 --only {action_id}",
    "note",
)
UNKNOWN_DURATIONS = kind(
    "unknown_durations",
    "steps whose duration is made up",
    f"nothing, if that is meant; else delete the set, and draw it again: {DRAW}",
    "note",
)


@SIMULATION
def flawed_sets(facts: SimulationFacts) -> Iterator[Finding]:
    """What is wrong with sets by the listing, where they were played, and wherever they went by."""
    plan, manifest = facts.result.plan, facts.result.manifest
    flawed = [
        each
        for action in plan.actions
        for number in manifest.set_ids(action.action_id, action.fingerprint)
        for each in _listed(facts, action, number)
    ]
    flawed += [*_verified(facts.around.verified), *passed_over(facts.result.faults)]
    known = {(each.action_id, each.set_id) for each in flawed}
    flawed += [each for each in facts.result.flawed if (each.action_id, each.set_id) not in known]
    # What this rehearsal has made fail is told of where it was to be played.
    lost = {*facts.asked.fail} - {"store", "engines"}
    playback = facts.show.settings.playback
    alive = [engine.name for engine in facts.around.engines if engine.state != "dead"]

    def behind(action: Action) -> str | None:
        mode = facts.show.sheet.cues[action.cue_index].mode or playback.mode
        live = alive and (playback.fallback or mode != "static")
        return f", engine {alive[0]} draws it" if live else None

    yield from findings_of(
        (each for each in flawed if each.action_id not in lost),
        plan,
        lambda action_id: facts.result.usable.get(action_id, 0),
        behind,
    )


def passed_over(faults: Mapping[tuple[str, int], Fault]) -> Iterator[FlawedSet]:
    """What those who play the sets have found."""
    for (action_id, number), fault in faults.items():
        yield FlawedSet(action_id, number, CODES[fault.flaw], fault.reason)


def _verified(found: Iterable[SetFinding]) -> Iterator[FlawedSet]:
    """What looking through every image found."""
    for each in found:
        # Of a whole set it is the images that differ in size, not a file from its meta.
        mixed = each.flaw is None and each.code == "size"
        code = "mixed_sizes" if mixed else CODES[each.flaw or each.code]
        yield FlawedSet(each.action_id, each.set_id, code, each.message)


class Inspector:
    """Reads the headers of pictures. What else is wrong with them, those who play them find."""

    def __init__(self) -> None:
        self._seen: set[Key] = set()
        self._sizes: dict[tuple[str, int], dict[tuple[int, int], str]] = defaultdict(dict)
        self._flawed: list[FlawedSet] = []

    def look(self, key: Key, data: bytes) -> None:
        """Look at a file of a set that is about to be shown."""
        place = set_place(key)
        if place is None or key in self._seen or media_type_for(key) is None:
            return
        self._seen.add(key)
        try:
            check_image(data, place.name)
        except BadImage:
            return  # those who play it say so
        try:
            with Image.open(io.BytesIO(data)) as image:
                size = image.size
        except (OSError, ValueError, SyntaxError) as error:
            why = str(error).partition(" <")[0]  # whose address in memory it is says nothing
            reason = f"{place.name} cannot be decoded: {why}"
            self._flawed.append(FlawedSet(place.action_id, place.set_id, "undecodable", reason))
            return
        self._sizes[place.action_id, place.set_id].setdefault(size, place.name)

    def flawed(self) -> list[FlawedSet]:
        """What was wrong with what went by."""
        found = [*self._flawed]
        for (action_id, number), sizes in self._sizes.items():
            if len(sizes) > 1:
                shown = ", ".join(f"{name} {w} x {h}" for (w, h), name in sizes.items())
                reason = f"expected images of one size, found {shown}"
                found.append(FlawedSet(action_id, number, "mixed_sizes", reason))
        return found


def _listed(facts: SimulationFacts, action: Action, number: int) -> Iterator[FlawedSet]:
    """What the listing, a set's meta and the manifest say, without a look at any image."""
    flawed = partial(FlawedSet, action.action_id, number)
    inventory, key = facts.around.inventory, meta_key(action.action_id, number)
    meta, files = inventory.metas.get(key), facts.files.get((action.action_id, number), {})
    if key in inventory.unreadable:
        yield flawed("unreadable", f"{META_NAME} cannot be read: {inventory.unreadable[key]}")
        return
    if meta is None:
        if inventory.silent is None:
            yield flawed("missing_set", "the manifest lists it, and it has no meta.json")
        return
    try:
        if isinstance(meta, FormatError):
            raise meta
        found = image_set(action.action_id, number, meta, files)
    except WrongFiles as error:
        if inventory.silent is None:
            yield flawed("missing_step", "; ".join(error.problems))
        return
    except FormatError as error:
        yield flawed("bad_meta", "; ".join(error.problems))
        return
    if meta.fingerprint is not None and meta.fingerprint != action.fingerprint:
        changed = changes(meta.config, action.recipe)
        why = "; ".join(["drawn from another recipe than the cue's", *changed])
        yield flawed("stale_set", why)
    for step in found.steps:
        size = files.get(step.name)
        if size is not None and step.size is not None and size != step.size:
            reason = f"{step.name}: expected {step.size} bytes (meta.json), found {size}"
            yield flawed("truncated_image", reason)


def findings_of(
    flawed: Iterable[FlawedSet],
    plan: Plan,
    usable: Callable[[str], int],
    behind: Callable[[Action], str | None],
) -> Iterator[Finding]:
    """The flaws of sets, each told once; the same of several sets of an action in one.

    Args:
        flawed: in whatever order; of several that are alike the first is told.
        plan: the show's actions.
        usable: how many sets of an action can be played all the same.
        behind: in words, what is seen of an action without any; None for nothing sure. The still
            image is no picture of the piece.
    """
    actions = {action.action_id: action for action in plan.actions}
    once: dict[tuple[str, int, str], FlawedSet] = {}
    for each in flawed:
        once.setdefault((each.action_id, each.set_id, each.code), each)
    alike: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for each in once.values():
        alike[each.action_id, each.code, each.reason].append(each.set_id)
    for (action_id, code, reason), numbers in alike.items():
        action = actions.get(action_id)
        if action is None:
            continue
        left, instead = usable(action_id), behind(action)
        level: Level = "warning" if left or instead is not None else "error"
        others = f"{left} of its other sets" if left else "no set of it"
        whose = f"sets {first_few(sorted(numbers))}: " if len(numbers) > 1 else ""
        text = f"{whose}{reason}; {others} can be played{'' if left else instead or ''}"
        only = numbers[0] if len(numbers) == 1 else None
        yield FLAWS[code](text, action, level=level, set_id=only)


@SIMULATION
def manifest_mismatch(facts: SimulationFacts) -> Iterator[Finding]:
    """Where the manifest and the sets do not agree."""
    metas = facts.around.inventory.metas
    whole: dict[str, set[int]] = defaultdict(set)
    for (action_id, number), files in facts.files.items():
        if META_NAME in files:
            whole[action_id].add(number)
    for action in facts.result.plan.actions:
        entry = facts.result.manifest.actions.get(action.action_id, ManifestAction())
        unlisted = whole[action.action_id].difference(entry.listed, entry.rejected)
        if unlisted:
            text = (
                f"the manifest does not list set {first_few(sorted(unlisted))}, which the store "
                "has: it is not played"
            )
            yield MANIFEST_MISMATCH(text, action)
        if entry.fingerprint is None or action.fingerprint in entry.groups:
            continue
        numbers = facts.result.manifest.set_ids(action.action_id, action.fingerprint)
        found = [metas.get(meta_key(action.action_id, number)) for number in numbers]
        drawn = {meta.fingerprint for meta in found if isinstance(meta, SetMeta)}
        if drawn == {action.fingerprint}:
            text = "the manifest says that its sets were drawn from another recipe; they were not"
            yield MANIFEST_MISMATCH(text, action)


@SIMULATION
def few_sets(facts: SimulationFacts) -> Iterator[Finding]:
    """Actions with a single set, where the show is seen more than once."""
    screenings = max(facts.asked.screenings, len(facts.show.settings.schedule.screenings))
    for action in facts.result.plan.actions:
        if screenings > 1 and facts.result.usable.get(action.action_id) == 1:
            text = f"it has a single set: the same picture in each of {screenings} screenings"
            yield FEW_SETS(text, action)


@SIMULATION
def unknown_durations(facts: SimulationFacts) -> Iterator[Finding]:
    """Sets that do not tell how long their steps took: these are made up, anew for each run."""
    lacking: dict[str, list[int]] = defaultdict(list)
    for key, meta in sorted(facts.around.inventory.metas.items(), key=itemgetter(0)):
        place = set_place(key)
        if place is None or not isinstance(meta, SetMeta):
            continue
        if any(meta.duration(step) is None for step in range(1, meta.total_steps + 1)):
            lacking[place.action_id].append(place.set_id)
    for action in facts.result.plan.actions:
        if action.action_id in lacking:
            yield UNKNOWN_DURATIONS(
                f"meta.json of set {first_few(lacking[action.action_id])} does not tell every "
                "step's duration: 0.3 to 1.0 s each are made up",
                action,
            )
