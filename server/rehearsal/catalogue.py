"""What lies in a store, as a rehearsal of the line to it must know it: documents, and sizes.

It is asked of the store where that answers, else of the copies on this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cache.local.cache import LocalCache
from cache.model.documents import FormatError
from cache.model.formats import SetMeta, parse_meta
from cache.model.keys import MANIFEST, Key, meta_key, parse_key, set_place
from cache.model.manifest import Manifest, parse_manifest
from cache.parallel import in_order
from cache.stores.port import NotFound, Store, StoreDenied, StoreError

_AT_ONCE: Final = 16
_LOOKED_WITHIN: Final = 30.0
"""Seconds in which the copies on this machine must have been looked through."""


@dataclass(frozen=True)
class Catalogue:
    """What lies in a store.

    Attributes:
        documents: the manifest and every meta, whole.
        sizes: bytes of every file of the sets.
        here: those that this machine has a copy of.
        silent: in words, why the store could not be asked; None if it was.
        unreadable: metas that are there and cannot be read, and why.
    """

    documents: Mapping[Key, bytes]
    sizes: Mapping[Key, int]
    here: frozenset[Key] = frozenset()
    silent: str | None = None
    unreadable: Mapping[Key, str] = field(default_factory=dict)

    @cached_property
    def metas(self) -> Mapping[Key, SetMeta | FormatError]:
        """Every meta, or what is wrong with it."""
        found: dict[Key, SetMeta | FormatError] = {}
        for key, data in self.documents.items():
            if set_place(key) is not None:
                try:
                    found[key] = parse_meta(data, key)
                except FormatError as error:
                    found[key] = error
        return found

    @property
    def here_bytes(self) -> int:
        """Bytes that this machine has."""
        return sum(self.sizes[key] for key in self.here)


async def looked_through(cache: LocalCache) -> None:
    """Wait until the copies on this machine are known; not for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOKED_WITHIN):
            while not cache.stats.looked:  # noqa: ASYNC110 - it tells nobody when it has
                await asyncio.sleep(0.02)


async def read_catalogue(
    store: Store,
    cache: LocalCache | None,
    wanted: Callable[[Manifest], Mapping[str, str]] = lambda _manifest: {},
    read: Callable[[], None] = lambda: None,
) -> Catalogue:
    """Read what lies in a store.

    Args:
        store: asked what there is; entered.
        cache: the copies of it on this machine, entered; None to read documents from the store.
        wanted: of which recipe each action's sets are wanted, by its id.
        read: called for each meta that was read.
    """
    if cache is not None:
        await looked_through(cache)
    documents, silent = await _manifest_of(store, cache)
    manifest = _read_manifest(documents.get(MANIFEST))
    sizes: dict[Key, int] = {}
    try:
        async for entry in store.list("actions/"):
            sizes[entry.key] = entry.size
    except StoreError as error:
        sizes, silent = {}, str(error)

    unreadable: dict[Key, str] = {}

    async def meta(key: Key) -> tuple[Key, bytes | None]:
        # Past the cache, where it has none: a rehearsal leaves this machine as it was.
        near = cache if cache is not None and cache.holds(key) else store
        try:
            return key, await near.get(key)
        except StoreDenied as error:
            unreadable[key] = error.reason
        except StoreError:
            pass
        return key, None

    recipes = wanted(manifest)
    metas = sorted(
        meta_key(action_id, number)
        for action_id in manifest.actions
        for number in manifest.set_ids(action_id, recipes.get(action_id))
    )
    async with aclosing(in_order(meta, metas, at_once=_AT_ONCE)) as reading:
        async for key, data in reading:
            read()
            if data is not None:
                documents[key] = data
    if silent is not None:
        sizes = _named_in(documents)
    here = frozenset(key for key in sizes if cache is not None and cache.holds(key))
    return Catalogue(documents, sizes, here, silent, unreadable)


async def _manifest_of(
    store: Store, cache: LocalCache | None
) -> tuple[dict[Key, bytes], str | None]:
    """The manifest, by its key, if there is one; and in words why the store could not be asked."""
    try:
        return {MANIFEST: await store.get(MANIFEST)}, None
    except NotFound:
        return {}, None
    except StoreError as error:
        if cache is not None:
            with suppress(StoreError):
                return {MANIFEST: await cache.get(MANIFEST)}, str(error)
        return {}, str(error)


def _read_manifest(data: bytes | None) -> Manifest:
    """An unreadable one is told of by those who play: here it names no sets."""
    with suppress(FormatError):
        return Manifest() if data is None else parse_manifest(data)
    return Manifest()


def _named_in(documents: Mapping[Key, bytes]) -> dict[Key, int]:
    """The files that metas name, where the store cannot be asked; and the metas."""
    sizes: dict[Key, int] = {}
    for key, data in documents.items():
        place = set_place(key)
        if place is None:
            continue
        sizes[key] = len(data)
        with suppress(FormatError):
            for name, facts in parse_meta(data, key).files.items():
                if facts.size is not None:
                    sizes[parse_key(key.rpartition("/")[0] + "/" + name)] = facts.size
    return sizes
