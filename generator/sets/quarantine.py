"""Runs that were played live, kept until somebody approves of them.

Each lies below ``quarantine/``, where nobody who looks for sets looks, in a small store of its
own: it is recorded there as any set is, and can be verified or played from there.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cache.model.documents import FormatError
from cache.model.formats import SetMeta, parse_meta
from cache.model.keys import (
    ACTION_ID_PATTERN,
    QUARANTINE_PREFIX,
    Key,
    config_key,
    meta_key,
    quarantine_place,
    quarantine_prefix,
)
from cache.model.manifest import ManifestAction, parse_config
from cache.parallel import in_order
from cache.stores.port import NotFound, Store
from cache.stores.prefix import PrefixStore
from generator.engines.port import DrawnSet, Engine, StepImage
from generator.sets.adoption import Candidate, Reserved, adopt, release_claim, reserved_for
from generator.sets.numbers import STAMP, claimed_for
from generator.sets.recorder import PlannedSet, Recorder
from generator.sheet.description import describe
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe

UNFINISHED_FOR: Final = timedelta(days=1)
"""After so long, what has no meta is nobody's work in progress any more."""

APPROVAL: Final = Key("approval.json")
"""In a run's own store, once somebody approved of it: the number that it is to have as a set."""

_NOTED_AS: Final = "harvested"
"""In a set's meta: which run it was."""

_CLAIM: Final = re.compile(rf"{QUARANTINE_PREFIX}({ACTION_ID_PATTERN})/numbers/[0-9]+", re.ASCII)
_PARALLEL: Final = 16
_OF_A_BATCH: Final = "sha256:"
"""A number that is kept for what a batch draws is kept for a fingerprint."""


@dataclass(frozen=True, slots=True)
class Harvested:
    """A whole run in quarantine.

    Attributes:
        action_id: whose set it would be.
        token: which run: when it was kept, and six digits of chance.
        meta: as a set's; its number is not yet its own.
        entry: what the manifest will say of its action.
    """

    action_id: str
    token: str
    meta: SetMeta
    entry: ManifestAction

    @property
    def name(self) -> str:
        """What people call it by: ``prompt_001/20261120T103000Z-0a1b2c``."""
        return f"{self.action_id}/{self.token}"


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What waits for approval, and in words what could not be read of it."""

    runs: tuple[Harvested, ...]
    remarks: tuple[str, ...] = ()


def new_token(now: datetime) -> str:
    """A token for a run that is kept now."""
    return f"{now.astimezone(UTC).strftime(STAMP)}-{secrets.token_hex(3)}"


def store_of(store: Store, action_id: str, token: str) -> PrefixStore:
    """A run's own small store; in it, the run is set 0 of its action."""
    return PrefixStore(store, quarantine_prefix(action_id, token))


async def keep(
    store: Store,
    action: Action,
    recipe: Recipe,
    images: Sequence[StepImage],
    *,
    engine: Engine,
    now: datetime,
) -> str:
    """Keep a run in quarantine.

    Args:
        store: where.
        action: which it was a run of.
        recipe: what was drawn, with its seed.
        images: the whole run.
        engine: what drew it.
        now: the time of day, for the meta.

    Returns:
        Its token.

    Raises:
        DrawingFailed: an image is unusable.
        StoreError: it could not be kept; what was begun is no run, and `sweep` removes it.
    """
    token = new_token(now)
    own = store_of(store, action.action_id, token)
    drawn = DrawnSet(recipe.seed, tuple(images), engine.timing)
    recorder = Recorder(engine, own, lambda: now, alone=True)
    await recorder.keep(PlannedSet(action.action_id, 0, recipe, describe(action)), drawn)
    return token


async def waiting(store: Store, action_id: str | None = None) -> Quarantine:
    """The whole runs in quarantine, of one action or all, oldest first in each action.

    Raises:
        StoreError: the store could not be read.
    """
    places = [place async for place in _whole(store, action_id)]
    reading = in_order(lambda place: _read(store, *place), places, at_once=_PARALLEL)
    async with aclosing(reading) as each:
        found = [read async for read in each]
    runs = tuple(read for read in found if isinstance(read, Harvested))
    return Quarantine(runs, tuple(read for read in found if isinstance(read, str)))


async def count(store: Store, action_id: str) -> int:
    """How many runs of an action wait.

    Raises:
        StoreError: the store could not be read.
    """
    return sum([1 async for _ in _whole(store, action_id)])


async def _whole(store: Store, action_id: str | None) -> AsyncIterator[tuple[str, str]]:
    """Action and token of every run that has a meta."""
    prefix = QUARANTINE_PREFIX + (f"{action_id}/" if action_id else "")
    async for entry in store.list(prefix):
        place = quarantine_place(entry.key)
        if place is not None and place.within == meta_key(place.action_id, 0):
            yield place.action_id, place.token


async def _read(store: Store, action_id: str, token: str) -> Harvested | str | None:
    """A run, or in words why it cannot be read; None if it has gone meanwhile."""
    own = store_of(store, action_id, token)
    meta, config = meta_key(action_id, 0), config_key(action_id)
    try:
        return Harvested(
            action_id,
            token,
            parse_meta(await own.get(meta), f"{action_id}/{token}"),
            parse_config(await own.get(config), f"{action_id}/{token}"),
        )
    except NotFound:
        return None
    except FormatError as error:
        return str(error)


async def approve(store: Store, run: Harvested) -> int:
    """Make a run in quarantine a set of its action, and take it out of there.

    Returns:
        The number of the set.

    Raises:
        NotAdopted: an image is missing or damaged, or somebody settled it meanwhile.
        StoreError: the store could not be read or written; another try goes on from here.
        FormatError: the store's manifest cannot be understood.
    """
    set_id = await adopt(
        store,
        Candidate(
            name=run.name,
            own=store_of(store, run.action_id, run.token),
            drawn_as=run.action_id,
            action_id=run.action_id,
            token=run.token,
            origin=run.token,
            noted_as=_NOTED_AS,
            progress=APPROVAL,
            meta=run.meta,
            entry=run.entry,
        ),
    )
    await remove(store, run, set_id)
    return set_id


async def reject(store: Store, run: Harvested) -> None:
    """Throw a run in quarantine away.

    Raises:
        StoreError: the store could not be written; another try goes on from here.
    """
    own = store_of(store, run.action_id, run.token)
    reserved = await reserved_for(own, APPROVAL, run.token)
    await own.delete(meta_key(run.action_id, 0))  # without a meta it does not exist
    await remove(store, run, None if reserved is None else reserved.set_id)


async def remove(store: Store, run: Harvested, set_id: int | None) -> None:
    """Take a run out of quarantine; what tells how far its approval went goes last.

    Args:
        store: the whole.
        run: which.
        set_id: the number that is kept for it, None for none.

    Raises:
        StoreError: the store could not be read or written.
    """
    own = store_of(store, run.action_id, run.token)
    last = [meta_key(run.action_id, 0), config_key(run.action_id), APPROVAL]
    for key in [entry.key async for entry in own.list()]:
        if key not in last:
            await own.delete(key)
    for key in last[:-1]:
        await own.delete(key)
    if set_id is not None:
        await release_claim(store, run.action_id, Reserved(set_id, run.token))
    await own.delete(APPROVAL)


async def sweep(store: Store, now: datetime) -> int:
    """Remove what whoever was killed left behind: files of runs that have no meta.

    Returns:
        How many files.

    Raises:
        StoreError: the store could not be read or written.
    """
    files: dict[tuple[str, str], list[Key]] = defaultdict(list)
    whole: set[tuple[str, str]] = set()
    left: list[Key] = []
    async for entry in store.list(QUARANTINE_PREFIX):
        place = quarantine_place(entry.key)
        claim = _CLAIM.fullmatch(entry.key)
        if place is not None:
            files[place.action_id, place.token].append(entry.key)
            if place.within == meta_key(place.action_id, 0):
                whole.add((place.action_id, place.token))
        elif claim is not None:
            with suppress(NotFound):
                content = await store.get(entry.key)
                token = claimed_for(content)
                if not token.startswith(_OF_A_BATCH):
                    files[claim[1], token].append(entry.key)
                elif _is_old(content.decode(errors="replace").rpartition(" ")[2], now):
                    left.append(entry.key)
    left += [
        key
        for run, keys in files.items()
        if run not in whole and _is_old(run[1], now)
        for key in keys
    ]
    for key in left:
        await store.delete(key)
    return len(left)


def _is_old(token: str, now: datetime) -> bool:
    """Whether nobody works any more on what was begun when a token says."""
    try:
        kept_at = datetime.strptime(token.partition("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return True
    return now - kept_at >= UNFINISHED_FOR
