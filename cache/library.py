"""The reading side: which sets there are, and their images, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Literal

from cachetools import LRUCache

from cache.index import load_manifest
from cache.model.documents import FormatError
from cache.model.formats import ImageSet, SetMeta, Step, WrongFiles, image_set, parse_meta
from cache.model.images import BadImage, Flaw, check_image
from cache.model.keys import Key, meta_key, set_place, set_prefix
from cache.model.manifest import Manifest
from cache.stores.port import NotFound, ReadableStore, StoreDenied, StoreError, StoreUnavailable
from cache.threads import offload_large

SetFlaw = Flaw | Literal["no meta", "bad meta", "missing", "unreadable"]
"""In which way a set is broken: its meta, an image that is missing or cannot be read, or one
that is flawed."""


class BrokenSet(Exception):
    """A set that cannot be shown: something in it is missing, damaged or contradictory.

    It is the set that is at fault, not the store: another set of the action may do.

    Attributes:
        action_id: whose set it is.
        set_id: which one.
        reason: what is wrong, with the file's name.
        flaw: which kind of fault it is.
    """

    def __init__(self, action_id: str, set_id: int, reason: str, flaw: SetFlaw) -> None:
        super().__init__(f"set {set_id} of {action_id} is broken: {reason}")
        self.action_id = action_id
        self.set_id = set_id
        self.reason = reason
        self.flaw: SetFlaw = flaw


class Library:
    """The sets of a store, for those who show them.

    It reads when asked and does nothing in between.
    """

    def __init__(
        self,
        store: ReadableStore,
        *,
        sets_remembered: int = 256,
        reread: Callable[[Key], Awaitable[bytes]] | None = None,
    ) -> None:
        """Begin empty, until the first `refresh`.

        Args:
            store: where the sets lie; entered and left by its owner.
            sets_remembered: of how many sets, last used, the meta is kept in memory.
            reread: reads a key past whatever copies `store` keeps. A meta that does not agree
                with the manifest is read so, once after each `refresh`: the set may have been
                drawn again since it was copied.
        """
        self._store = store
        self._reread = reread
        self._read_again: set[Key] = set()
        self._manifest = Manifest()
        self._found_once = False
        self._sets: LRUCache[tuple[str, int], ImageSet] = LRUCache(sets_remembered)
        self._wanted: Mapping[str, str] = {}

    @property
    def found(self) -> bool:
        """Whether the store had a manifest when it was last read."""
        return self._found_once

    def want(self, wanted: Mapping[str, str]) -> None:
        """Say of which recipe the sets of each action are wanted; by default of its entry's.

        Args:
            wanted: fingerprint by action id.
        """
        self._wanted = wanted

    @property
    def manifest(self) -> Manifest:
        """The manifest as last read; empty before the first `refresh`."""
        return self._manifest

    def set_ids(self, action_id: str) -> tuple[int, ...]:
        """The sets of an action that may be of the recipe that is wanted of it, ascending."""
        return self._manifest.set_ids(action_id, self._wanted.get(action_id))

    async def refresh(self) -> Manifest:
        """Read the manifest again. A store without one is empty.

        Whatever goes wrong, the manifest read before stays.

        Raises:
            StoreUnavailable: the store does not answer, or its manifest has vanished since
                it was last read.
            StoreError: the store could not be read for another reason.
            FormatError: the manifest cannot be understood, or is of another major version.
        """
        try:
            manifest = await load_manifest(self._store)
        except NotFound as error:
            if self._found_once:
                raise StoreUnavailable(error.key, "was there before, and has vanished") from error
            manifest = Manifest()
        else:
            self._found_once = True
        self._manifest = manifest
        self._sets.clear()
        self._read_again.clear()
        return manifest

    async def open_set(self, action_id: str, set_id: int) -> ImageSet:
        """Read a set's meta and find its images, without reading these.

        Raises:
            BrokenSet: it has no meta, or a bad one, or an image is missing.
            StoreError: the store could not be read.
            BadKey: `action_id` or `set_id` cannot be in a key.
        """
        remembered = self._sets.get((action_id, set_id))
        if remembered is not None:
            return remembered
        key = meta_key(action_id, set_id)
        try:
            meta = await self._meta(action_id, set_id, key)
            names = None if meta.names_every_file else await self._names(action_id, set_id)
            opened = image_set(action_id, set_id, meta, names)
        except NotFound as error:
            raise BrokenSet(action_id, set_id, "it has no meta.json", "no meta") from error
        except FormatError as error:
            flaw: SetFlaw = "missing" if isinstance(error, WrongFiles) else "bad meta"
            raise BrokenSet(action_id, set_id, str(error), flaw) from error
        except StoreDenied as error:
            raise BrokenSet(action_id, set_id, _unreadable(error), "unreadable") from error
        self._sets[action_id, set_id] = opened
        return opened

    async def image(self, step: Step) -> bytes:
        """Read one image of a set, and make sure that it is whole.

        Raises:
            BrokenSet: it is missing, or not the image that the meta tells of, or not whole.
                The set is read anew when it is next opened, as it may have been drawn again.
            StoreError: the store could not be read.
        """
        try:
            data = await self._store.get(step.key)
            await offload_large(len(data), lambda: _check(step, data))
        except (NotFound, StoreDenied, BadImage) as error:
            place = set_place(step.key)
            if place is None:
                raise
            self._sets.pop((place.action_id, place.set_id), None)
            in_which_way: SetFlaw
            if isinstance(error, BadImage):
                reason, in_which_way = str(error), error.flaw
            elif isinstance(error, NotFound):
                reason, in_which_way = f"{step.name} is missing", "missing"
            else:
                reason, in_which_way = _unreadable(error), "unreadable"
            raise BrokenSet(place.action_id, place.set_id, reason, in_which_way) from error
        return data

    async def _meta(self, action_id: str, set_id: int, key: Key) -> SetMeta:
        meta = parse_meta(await self._store.get(key), key)
        entry = self._manifest.actions.get(action_id)
        agrees = entry is None or entry.fingerprint_of(set_id) in {None, meta.fingerprint}
        if agrees or self._reread is None or key in self._read_again:
            return meta
        self._read_again.add(key)
        with suppress(StoreError):  # then what is here is the best there is
            meta = parse_meta(await self._reread(key), key)
        return meta

    async def _names(self, action_id: str, set_id: int) -> list[str]:
        prefix = set_prefix(action_id, set_id)
        return [entry.key.removeprefix(prefix) async for entry in self._store.list(prefix)]


def _unreadable(error: StoreDenied) -> str:
    """What is said of a file that is there and cannot be read, however often it is tried."""
    return f"{error.key.rpartition('/')[2]} cannot be read: {error.reason}"


def _check(step: Step, data: bytes) -> None:
    """Check an image against its meta, the cheapest first.

    Raises:
        BadImage: it is another, or not whole.
    """
    if step.size is not None and len(data) != step.size:
        reason = f"expected {step.size} bytes (meta.json), found {len(data)}"
        raise BadImage(step.name, reason, "size")
    check_image(data, step.name)
    if step.sha256 is not None and hashlib.sha256(data).hexdigest() != step.sha256:
        raise BadImage(step.name, "its SHA-256 is not the one in meta.json", "hash")
