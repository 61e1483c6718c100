"""Rejecting a set of the show, and taking that back.

A set that is rejected is not shown again, and its number never drawn again: the same number would
bring the same picture back. Its files stay until somebody prunes, and so long it can be restored.
"""

from __future__ import annotations

from cache.index import load_manifest, update_manifest
from cache.model.documents import FormatError
from cache.model.formats import SetMeta, parse_meta
from cache.model.keys import meta_key
from cache.model.manifest import Manifest, ManifestAction
from cache.stores.port import NotFound, Store


class NoSuchSet(Exception):
    """There is no such set to be rejected or restored; the message says what there is."""


async def reject_set(store: Store, action_id: str, set_id: int, why: str = "") -> bool:
    """Have a set never shown, nor drawn, again.

    Args:
        store: the show's.
        action_id: whose set.
        set_id: which.
        why: in a line; empty where nobody says.

    Returns:
        Whether it was not rejected already.

    Raises:
        NoSuchSet: the action has no set of that number.
        StoreError, FormatError: the manifest could not be read or written.
    """
    known = _entry(await _manifest(store), action_id)
    if set_id in known.rejected:
        return False
    if set_id not in known.listed and await _meta(store, action_id, set_id) is None:
        raise NoSuchSet(f"{action_id} has no set {set_id}{_there(known.listed, 'it has')}")

    def rejected(manifest: Manifest) -> Manifest:
        entry = manifest.actions.get(action_id, known)
        return manifest.with_entry(action_id, entry.rejecting(set_id, why))

    await update_manifest(store, rejected)
    return True


async def restore_set(store: Store, action_id: str, set_id: int) -> bool:
    """Have a set that was rejected shown again.

    Returns:
        Whether it was rejected.

    Raises:
        NoSuchSet: the action has no such set, or its files are gone.
        StoreError, FormatError: the manifest could not be read or written.
    """
    known = _entry(await _manifest(store), action_id)
    if set_id in known.listed:
        return False
    if set_id not in known.rejected:
        there = _there(known.rejected, "rejected are")
        raise NoSuchSet(f"{action_id} has no set {set_id} that was rejected{there}")
    meta = await _meta(store, action_id, set_id)
    if meta is None:
        raise NoSuchSet(f"set {set_id} of {action_id} cannot be restored: its files are gone")

    def restored(manifest: Manifest) -> Manifest:
        entry = manifest.actions.get(action_id, known)
        return manifest.with_entry(action_id, entry.restoring(set_id, meta.fingerprint))

    await update_manifest(store, restored)
    return True


async def _manifest(store: Store) -> Manifest:
    try:
        return await load_manifest(store)
    except NotFound:
        return Manifest()


def _entry(manifest: Manifest, action_id: str) -> ManifestAction:
    if action_id not in manifest.actions:
        raise NoSuchSet(f"there is no set of {action_id} in this store")
    return manifest.actions[action_id]


async def _meta(store: Store, action_id: str, set_id: int) -> SetMeta | None:
    """The meta of a set; None where there is none that can be read."""
    key = meta_key(action_id, set_id)
    try:
        return parse_meta(await store.get(key), key)
    except (NotFound, FormatError):
        return None


def _there(numbers: tuple[int, ...], words: str) -> str:
    return f"; {words} {', '.join(map(str, numbers))}" if numbers else ""
