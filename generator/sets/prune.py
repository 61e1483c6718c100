"""Removes the sets that no sheet wants any more; which sheets there are, only people know.

What a named sheet wants is never touched, under whatever id it lies; nor is what does not say
of which recipe it is, as long as a sheet has the action. That a set was rejected is remembered
when its files are gone: the same number would bring the same picture back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from cache.index import load_manifest, rebuild, update_manifest
from cache.model.documents import FormatError
from cache.model.formats import parse_meta
from cache.model.keys import ACTIONS_PREFIX, Key, config_key, meta_key, set_place
from cache.model.manifest import Manifest, ManifestAction
from cache.stores.port import NotFound, Store, StoreDenied
from generator.sets.recorder import manifest_entry
from generator.sheet.plan import Action, Plan


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A set that no sheet wants.

    Attributes:
        action_id: whose.
        set_id: which.
        fingerprint: of which recipe; None where it does not say.
        why: no sheet has its recipe, or it was rejected.
        size: bytes of its files.
        keys: its files, the meta last.
    """

    action_id: str
    set_id: int
    fingerprint: str | None
    why: Literal["other recipe", "rejected"]
    size: int
    keys: tuple[Key, ...]


async def unwanted_sets(
    store: Store, plans: Callable[[Manifest], Sequence[Plan]]
) -> list[Unwanted]:
    """Find the whole sets that no plan wants. What is unfinished is left alone: somebody may draw.

    Args:
        store: where to look.
        plans: those of every sheet that is to be played again, for what is in the store.

    Raises:
        StoreError: the store could not be read.
        FormatError: its manifest cannot be understood; see `reindex`.
    """
    known = Manifest()
    with suppress(NotFound):
        known = await load_manifest(store)
    there = await rebuild(store, known)  # by their metas: the manifest may be wrong
    sheets = plans(known)
    recipes = {action.fingerprint for plan in sheets for action in plan.actions}
    ids = {action.action_id for plan in sheets for action in plan.actions}
    files: dict[tuple[str, int], list[tuple[Key, int]]] = defaultdict(list)
    async for entry in store.list(ACTIONS_PREFIX):
        place = set_place(entry.key)
        if place is not None:
            files[place.action_id, place.set_id].append((entry.key, entry.size))
    found: list[Unwanted] = []
    for (action_id, set_id), listed in sorted(files.items()):
        entry_of = there.actions.get(action_id, ManifestAction())
        meta = meta_key(action_id, set_id)
        if meta not in {key for key, _ in listed}:
            continue
        fingerprint = entry_of.fingerprint_of(set_id)
        if set_id in entry_of.rejected:
            why: Literal["other recipe", "rejected"] = "rejected"
        elif set_id in entry_of.listed:
            if fingerprint in recipes or await _fits_any(store, meta, action_id in ids):
                continue
            why = "other recipe"
        else:
            # It is damaged, or half removed. If a sheet wants it, verify says what is to become
            # of it; if none does, nobody else ever looks at it.
            fingerprint = await _told_by(store, meta)
            if fingerprint is None or fingerprint in recipes:
                continue
            why = "other recipe"
        keys = sorted((key for key, _ in listed), key=lambda key: key == meta)
        size = sum(size for _, size in listed)
        found.append(Unwanted(action_id, set_id, fingerprint, why, size, tuple(keys)))
    return found


async def _fits_any(store: Store, meta: Key, in_a_sheet: bool) -> bool:
    """Whether a set that does not say of which recipe it is belongs to an action of a sheet."""
    if not in_a_sheet:
        return False
    try:
        return parse_meta(await store.get(meta), meta).fingerprint is None
    except (NotFound, FormatError, StoreDenied):
        return True  # it is being changed, or who looks may not read it


async def _told_by(store: Store, meta: Key) -> str | None:
    """Of which recipe a set says that it is; None where it does not, or cannot be read."""
    try:
        return parse_meta(await store.get(meta), meta).fingerprint
    except (NotFound, FormatError, StoreDenied):
        return None


async def remove_sets(
    store: Store, sets: Sequence[Unwanted], plans: Callable[[Manifest], Sequence[Plan]]
) -> None:
    """Remove sets: from the manifest first, then their images, their metas last.

    Whatever stops it, no set that is listed is half gone, and the same call goes on: a meta
    tells what is left of a set, and keeps its number from whoever draws meanwhile.

    Args:
        store: where.
        sets: as `unwanted_sets` found them.
        plans: as there.

    Raises:
        StoreError, FormatError: as `unwanted_sets`.
    """

    def without(manifest: Manifest) -> Manifest:
        actions = {a.action_id: a for plan in reversed(plans(manifest)) for a in plan.actions}
        for each in sets:
            manifest = manifest.without_set(each.action_id, each.set_id)
        for action_id in {each.action_id for each in sets} & manifest.actions.keys():
            entry = manifest.actions[action_id]
            if entry.listed or entry.rejected or action_id in actions:
                action = actions.get(action_id)
                manifest = manifest.with_entry(action_id, _described(entry, action))
            else:
                manifest = manifest.without_action(action_id)
        return manifest

    manifest = await update_manifest(store, without)
    for each in sets:
        for key in each.keys:
            await store.delete(key)
    for action_id in {each.action_id for each in sets} - manifest.actions.keys():
        await store.delete(config_key(action_id))


def _described(entry: ManifestAction, action: Action | None) -> ManifestAction:
    """An entry whose own sets are gone speaks for the recipe that is wanted of it from now on."""
    if action is None or entry.set_ids or entry.fingerprint == action.fingerprint:
        return entry
    return manifest_entry(action).merged(entry)
