"""Keeping a store's manifest right, with many writers at once.

The manifest is one file that every writer changes. Each reads it, changes it, and writes it
only if nobody else did meanwhile; else it begins again. Nothing is written where nothing
changes.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cache.backoff import back_off
from cache.model.documents import FormatError, WrongVersion, whole
from cache.model.formats import MAX_STEPS, SetMeta, image_set, parse_meta
from cache.model.keys import ACTIONS_PREFIX, MANIFEST, META_NAME, config_key, meta_key, set_place
from cache.model.manifest import (
    Manifest,
    ManifestAction,
    dump_manifest,
    parse_config,
    parse_manifest,
)
from cache.parallel import in_order
from cache.stores.port import Conflict, NotFound, ReadableStore, Store, StoreDenied, Version
from cache.threads import offload_large

_ATTEMPTS: Final = 40
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0
_LARGE: Final = 256 * 1024
"""Bytes. Reading more takes milliseconds, so it is done beside the event loop."""

_PARALLEL: Final = 32
_TYPE_OF_ID: Final = re.compile(r"(prompt|transcript|slider)_")
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


async def load_manifest(store: ReadableStore) -> Manifest:
    """Read a store's manifest.

    Raises:
        NotFound: there is none yet.
        FormatError: it cannot be understood, or is of another major version.
        StoreError: the store could not be read.
    """
    return await _parse(await store.get(MANIFEST))


async def update_manifest(
    store: Store,
    change: Callable[[Manifest], Manifest],
    *,
    attempts: int = _ATTEMPTS,
    now: Callable[[], datetime] = _now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Manifest:
    """Change a store's manifest, whoever else is changing it.

    Args:
        store: where it lies; if there is none, one begins empty.
        change: makes the new manifest from the present one. It may be called several times,
            so it should do nothing else. What it says of `generated_at` is overruled.
        attempts: how often to try before giving in to other writers.
        now: the time to write into it.
        sleep: how to wait between attempts.

    Returns:
        The manifest as it is in the store now. Where `change` changed nothing, nothing is
        written.

    Raises:
        Conflict: other writers were first, every time.
        FormatError: the present manifest cannot be understood; see `reindex`.
        StoreError: the store could not be read or written.
    """
    return await _swap(store, change, attempts=attempts, now=now, sleep=sleep)


async def reindex(store: Store, *, now: Callable[[], datetime] = _now) -> Manifest:
    """Put a store's manifest right from the sets that are there, and write it.

    Works also where the present one is missing or damaged. Sets that other writers register
    meanwhile stay registered.

    Args:
        store: where to look and write.
        now: the time to write into it.

    Returns:
        The manifest as it is in the store now; its `remarks` tell which sets were left out.

    Raises:
        WrongVersion: the present manifest is of another major version.
        Conflict: other writers were first, every time.
        StoreError: the store could not be read or written.
    """
    known = (await _read(store, forgiving=True)).manifest
    rebuilt = await rebuild(store, known)

    def catch_up(present: Manifest) -> Manifest:
        result = rebuilt
        for action_id, entry in present.actions.items():
            before = known.actions.get(action_id, ManifestAction())
            new = {
                key: tuple(number for number in numbers if number not in before.listed)
                for key, numbers in entry.groups.items()
            }
            if any(new.values()) or set(entry.rejected) - set(before.rejected):
                fresh = entry.regrouped(new)
                there = result.actions.get(action_id)
                merged = fresh if there is None else there.merged(fresh)
                result = result.with_entry(action_id, merged)
        return result

    return await _swap(store, catch_up, forgiving=True, now=now)


async def register(store: Store, action_id: str, entry: ManifestAction, set_id: int) -> Manifest:
    """List a set that is whole, beside those of other recipes.

    Where its recipe is not the one that the action had so far, the sets there are keep their
    numbers and are listed under theirs, as their metas tell it.

    Args:
        store: where the manifest lies.
        action_id: whose set it is.
        entry: what is known of the action, and of which recipe the set is.
        set_id: the set.

    Raises:
        Conflict, FormatError, StoreError: as `update_manifest`.
    """
    told: dict[int, SetMeta] = {}
    known: ManifestAction | None = None
    with suppress(NotFound):
        known = (await load_manifest(store)).actions.get(action_id)
    if known is not None and entry.fingerprint not in {None, known.fingerprint}:
        told = await _metas_of(store, action_id, known.set_ids)

    def listed(manifest: Manifest) -> Manifest:
        present = manifest.actions.get(action_id)
        if present is None or not told:
            return manifest.with_set(action_id, entry, set_id)
        groups: dict[str | None, list[int]] = {}
        for key, numbers in present.groups.items():
            for number in numbers:
                of = told[number].fingerprint if number in told else key
                groups.setdefault(of, []).append(number)
        # Those of no known recipe fit the new one as well as the old.
        loose = {None: groups.pop(None, [])}
        present = present.regrouped(groups)
        manifest = manifest.with_entry(action_id, present)
        own = entry.merged(ManifestAction(set_ids=tuple(loose[None])))
        return manifest.with_set(action_id, own, set_id)

    return await update_manifest(store, listed)


async def _metas_of(store: Store, action_id: str, set_ids: Iterable[int]) -> dict[int, SetMeta]:
    """The metas of some sets, as far as they can be read."""
    gate = asyncio.Semaphore(_PARALLEL)

    async def read(set_id: int) -> tuple[int, SetMeta] | None:
        key = meta_key(action_id, set_id)
        async with gate:
            with suppress(NotFound, StoreDenied, FormatError):
                return set_id, parse_meta(await store.get(key), key)
        return None

    return dict(filter(None, await asyncio.gather(*map(read, set_ids))))


async def rebuild(store: Store, known: Manifest | None = None) -> Manifest:
    """Make a manifest from the sets that are there. Nothing is written.

    A set counts if its meta can be read and all of its images are listed; others are told in
    `Manifest.remarks`. What the sets do not say of an action is taken from its
    ``config.json`` and from `known`.

    Args:
        store: where to look.
        known: the manifest so far. Its order, its unknown fields, the descriptions of actions
            and what is rejected are kept; its sets are not believed, but for those whose meta
            cannot be read here: who looks may have no right to.

    Raises:
        StoreError: the store could not be read.
    """
    known = known or Manifest()
    found: dict[str, _ActionSets] = {}
    remarks: list[str] = []
    async for batch in _batches(_listed_sets(store)):
        results = await asyncio.gather(*(_examine(store, *listed) for listed in batch))
        for (action_id, set_id, _), result in zip(batch, results, strict=True):
            entry = known.actions.get(action_id, ManifestAction())
            if isinstance(result, SetMeta):
                if set_id not in entry.rejected:
                    found.setdefault(action_id, _ActionSets()).add(set_id, result)
            elif result.unreadable and set_id in entry.listed:
                remarks.append(f"listed as it was: {result.reason}")
                found.setdefault(action_id, _ActionSets()).keep(
                    set_id, entry.fingerprint_of(set_id)
                )
            else:
                remarks.append(f"left out: {result.reason}")
    for action_id, entry in known.actions.items():
        if entry.rejected:
            found.setdefault(action_id, _ActionSets())
    order = {action_id: place for place, action_id in enumerate(known.actions)}
    action_ids = sorted(found, key=lambda each: (order.get(each, len(order)), _natural(each)))

    async def described(action_id: str) -> ManifestAction:
        return await _describe(store, action_id, found[action_id], known.actions.get(action_id))

    async with aclosing(in_order(described, action_ids, at_once=_PARALLEL)) as each:
        entries = [entry async for entry in each]
    return Manifest(
        version=known.version,
        generated_at=known.generated_at,
        actions=dict(zip(action_ids, entries, strict=True)),
        aside={key: raw for key, raw in known.aside.items() if key not in found},
        unknown=known.unknown,
        remarks=tuple(remarks),
    )


@dataclass(slots=True)
class _ActionSets:
    """What was found of one action: its sets by their fingerprints, and the newest's meta."""

    groups: dict[str | None, list[int]] = field(default_factory=dict)
    newest: SetMeta | None = None

    def keep(self, set_id: int, fingerprint: str | None) -> None:
        self.groups.setdefault(fingerprint, []).append(set_id)

    def add(self, set_id: int, meta: SetMeta) -> None:
        self.keep(set_id, meta.fingerprint)
        if self.newest is None or _age(meta) > _age(self.newest):
            self.newest = meta


_ListedSet = tuple[str, int, tuple[str, ...]]


class _Present(NamedTuple):
    """The manifest in a store. One that is missing or damaged counts as empty."""

    manifest: Manifest
    version: Version | None
    damaged: bool


async def _swap(
    store: Store,
    change: Callable[[Manifest], Manifest],
    *,
    forgiving: bool = False,
    attempts: int = _ATTEMPTS,
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Manifest:
    conflict: Conflict | None = None
    for attempt in range(attempts):
        present = await _read(store, forgiving=forgiving)
        changed = change(present.manifest)
        if changed.same_content(present.manifest) and not present.damaged:
            return changed
        changed = changed.model_copy(update={"generated_at": now()})
        try:
            data = dump_manifest(changed)
            await store.replace(MANIFEST, data, expected=present.version)
        except Conflict as error:
            conflict = error
            await sleep(random.uniform(0, back_off(attempt + 1, _FIRST_PAUSE, _LONGEST_PAUSE)))
        else:
            return changed
    raise Conflict(MANIFEST, f"other writers were first, {attempts} times") from conflict


async def _read(store: Store, *, forgiving: bool) -> _Present:
    try:
        data, version = await store.get_versioned(MANIFEST)
    except NotFound:
        return _Present(Manifest(), None, damaged=False)
    try:
        return _Present(await _parse(data), version, damaged=False)
    except WrongVersion:
        raise
    except FormatError:
        if not forgiving:
            raise
        return _Present(Manifest(), version, damaged=True)


async def _parse(data: bytes) -> Manifest:
    return await offload_large(len(data), lambda: parse_manifest(data), large=_LARGE)


async def _listed_sets(store: Store) -> AsyncIterator[_ListedSet]:
    """Every set that has a meta, with the names of its files, as they come in the listing."""
    current: tuple[str, int] | None = None
    names: list[str] = []
    async for entry in store.list(ACTIONS_PREFIX):
        place = set_place(entry.key)
        if place is None:
            continue
        if current != (place.action_id, place.set_id):
            if current is not None and META_NAME in names:
                yield (*current, tuple(names))
            current, names = (place.action_id, place.set_id), []
        names.append(place.name)
    if current is not None and META_NAME in names:
        yield (*current, tuple(names))


async def _batches(listed: AsyncIterator[_ListedSet]) -> AsyncIterator[Sequence[_ListedSet]]:
    batch: list[_ListedSet] = []
    async for each in listed:
        batch.append(each)
        if len(batch) == _PARALLEL:
            yield batch
            batch = []
    if batch:
        yield batch


class _NoSet(NamedTuple):
    """Why a set does not count, in words, and whether it may be one for somebody else."""

    reason: str
    unreadable: bool = False


async def _examine(
    store: Store, action_id: str, set_id: int, names: tuple[str, ...]
) -> SetMeta | _NoSet:
    """A set's meta, or why the set does not count."""
    key = meta_key(action_id, set_id)
    try:
        meta = parse_meta(await store.get(key), key)
        image_set(action_id, set_id, meta, names)
    except (NotFound, FormatError) as error:
        return _NoSet(str(error))
    except StoreDenied as error:
        return _NoSet(str(error), unreadable=True)
    return meta


async def _describe(
    store: Store, action_id: str, found: _ActionSets, known: ManifestAction | None
) -> ManifestAction:
    entry = ManifestAction()
    key = config_key(action_id)
    with suppress(NotFound, StoreDenied, FormatError):  # it is only a help: the sets count
        entry = entry.merged(parse_config(await store.get(key), key))
    if known is not None:
        entry = entry.merged(known.regrouped({}))
    return entry.merged(_told_by(action_id, found.newest)).regrouped(found.groups)


def _told_by(action_id: str, meta: SetMeta | None) -> ManifestAction:
    """What the newest set tells of its action."""
    if meta is None:
        return ManifestAction()
    kind = _TYPE_OF_ID.match(action_id)
    program, prompt = meta.config.get("program"), meta.config.get("prompt")
    steps = whole(meta.config.get("num_inference_steps"))
    return ManifestAction(
        type=kind[1] if kind else None,
        program=program if isinstance(program, str) else None,
        prompt=prompt if isinstance(prompt, str) else None,
        steps=steps if steps is not None and 1 <= steps <= MAX_STEPS else None,
        fingerprint=meta.fingerprint,
    )


def _age(meta: SetMeta) -> datetime:
    return meta.generated_at or _EARLIEST


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts prompt_2 before prompt_10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    ]
