"""Numbers of sets: each belongs to one recipe, also while it is being drawn.

A set is never overwritten by one of another recipe. Whoever is about to draw claims the
number first, by a small file that only one can make; two who draw for different sheets get
different numbers, and two who draw the same share one. Once the set is listed, the claim goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from cache.index import load_manifest
from cache.model.documents import FormatError
from cache.model.formats import parse_meta
from cache.model.keys import QUARANTINE_PREFIX, Key, action_prefix, meta_key, set_place
from cache.model.manifest import ManifestAction
from cache.stores.port import Conflict, NotFound, Store, StoreDenied, StoreError

STAMP: Final = "%Y%m%dT%H%M%SZ"
_ATTEMPTS: Final = 100


class NumberTaken(StoreError):
    """A set of that number is another recipe's, or will be."""

    def __init__(self, action_id: str, set_id: int) -> None:
        super().__init__(
            meta_key(action_id, set_id), "a set of that number is there, drawn from another recipe"
        )
        self.set_id = set_id


def claim_key(action_id: str, number: int) -> Key:
    """Where it is written down for what a set's number is kept."""
    return Key(f"{QUARANTINE_PREFIX}{action_id}/numbers/{number}")


async def noted_in(store: Store, action_id: str, number: int, field: str) -> str | None:
    """What the meta of a set says in a field of ours; empty for nothing, None for no such set.

    Raises:
        StoreError: the store could not be read.
    """
    key = meta_key(action_id, number)
    try:
        return str(parse_meta(await store.get(key), key).unknown.get(field, ""))
    except NotFound:
        return None
    except FormatError:
        return ""


async def entry_of_action(store: Store, action_id: str) -> ManifestAction:
    """What the manifest says of an action; an empty entry where it says nothing.

    Raises:
        StoreError, FormatError: the manifest could not be read, or not be understood.
    """
    with suppress(NotFound):
        return (await load_manifest(store)).actions.get(action_id, ManifestAction())
    return ManifestAction()


async def claim(store: Store, action_id: str, number: int, fingerprint: str) -> bool:
    """Keep a number for a set that is about to be drawn; False if it is another recipe's.

    Raises:
        StoreError: the store could not be read or written.
    """
    key = claim_key(action_id, number)
    text = f"{fingerprint} {datetime.now(UTC).strftime(STAMP)}"
    try:
        await store.replace(key, text.encode(), expected=None)
    except Conflict:
        with suppress(NotFound):  # it has just become a set
            if claimed_for(await store.get(key)) != fingerprint:
                return False
    except StoreDenied:
        pass  # who may write sets and nothing else: then what is there already counts alone
    if await _is_free(store, action_id, number, fingerprint):
        return True
    await release(store, action_id, number, fingerprint)
    return False


def claimed_for(content: bytes) -> str:
    """What a claim says: a fingerprint, or the token of a run in quarantine."""
    return content.decode(errors="replace").partition(" ")[0]


async def release(store: Store, action_id: str, number: int, fingerprint: str) -> None:
    """Give a number back, or let go of it as the set is there.

    A claim that stays does no harm: the number is left out by others until it is swept.
    """
    key = claim_key(action_id, number)
    with suppress(StoreError):
        if claimed_for(await store.get(key)) == fingerprint:
            await store.delete(key)


class Numbers:
    """The numbers of one batch: whichever it was to draw, each of its sets gets one of its own.

    Args:
        store: where the sets go.
        asked: action and number of all that it is to draw.
    """

    def __init__(self, store: Store, asked: Iterable[tuple[str, int]] = ()) -> None:
        self._store = store
        self._asked = set(asked)

    async def grant(self, action_id: str, number: int, fingerprint: str) -> int:
        """Keep a number for a set: the one asked for, or where that is another recipe's the next.

        Raises:
            StoreError: the store could not be read or written.
        """
        if await claim(self._store, action_id, number, fingerprint):
            return number
        above = -1
        for _ in range(_ATTEMPTS):
            above = await next_free(self._store, action_id, above)
            if (action_id, above) in self._asked:
                continue  # it is another set's of this batch, and so claimed for the same recipe
            self._asked.add((action_id, above))
            if await claim(self._store, action_id, above, fingerprint):
                return above
        raise Conflict(action_prefix(action_id), f"others took every number, {_ATTEMPTS} times")


async def next_free(store: Store, action_id: str, above: int) -> int:
    """The number after the highest that is used, or was: a batch may be drawing into it."""
    highest = max([above, *(await entry_of_action(store, action_id)).taken])
    async for found in store.list(action_prefix(action_id)):
        place = set_place(found.key)
        if place is not None:
            highest = max(highest, place.set_id)
    return highest + 1


async def _is_free(store: Store, action_id: str, number: int, fingerprint: str) -> bool:
    """Whether no set of another recipe has a number.

    One that does not say of which recipe it is may be drawn again by whoever asks for it.
    """
    key = meta_key(action_id, number)
    try:
        found = parse_meta(await store.get(key), key).fingerprint
    except NotFound:
        return True
    except (FormatError, StoreDenied):
        found = None
        with suppress(FormatError):
            found = (await entry_of_action(store, action_id)).fingerprint_of(number)
    return found in {None, fingerprint}
