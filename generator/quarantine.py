"""Runs that were played live, kept until somebody approves of them.

They lie in the store as sets do, but below ``quarantine/``, where nobody who looks for sets
looks. Approving makes a set of one: its images first, its meta last, then the manifest, and
only then is it taken out of quarantine. Whoever is killed meanwhile may simply begin again,
and two who approve at once do it once.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cache.documents import FormatError
from cache.formats import FileFacts, SetMeta, dump_meta, parse_meta
from cache.index import load_manifest, update_manifest
from cache.keys import (
    ACTION_ID_PATTERN,
    CONFIG_NAME,
    MAX_SET_ID,
    META_NAME,
    QUARANTINE_PREFIX,
    Key,
    action_prefix,
    config_key,
    image_key,
    meta_key,
    quarantine_key,
    quarantine_place,
    set_place,
)
from cache.manifest import ManifestAction, dump_config, parse_config
from cache.store import Conflict, NotFound, Store, Version
from generator.engine import Engine, StepImage
from generator.plan import Action
from generator.recipe import Recipe
from generator.recorder import keep_images, manifest_entry

UNFINISHED_FOR: Final = timedelta(days=1)
"""After so long, what has no meta is nobody's work in progress any more."""

_APPROVAL: Final = "approval.json"
"""In a run's folder, once somebody approved of it: the number that it is to have as a set."""

_TAKEN_FROM: Final = "harvested"
"""In the meta: which run it was. Who approves it again finds by it that it is done."""

_STAMP: Final = "%Y%m%dT%H%M%SZ"
_CLAIM: Final = re.compile(rf"{QUARANTINE_PREFIX}({ACTION_ID_PATTERN})/numbers/[0-9]+", re.ASCII)
_ATTEMPTS: Final = 100
_PARALLEL: Final = 16


class NotApproved(Exception):
    """A run in quarantine cannot become a set, with the reason."""


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
    return f"{now.astimezone(UTC).strftime(_STAMP)}-{secrets.token_hex(3)}"


async def keep(
    store: Store,
    action: Action,
    recipe: Recipe,
    images: Sequence[StepImage],
    *,
    engine: Engine,
    now: datetime,
) -> Harvested:
    """Keep a run in quarantine.

    Args:
        store: where.
        action: which it was a run of.
        recipe: what was drawn, with its seed.
        images: the whole run.
        engine: what drew it.
        now: the time of day, for the meta.

    Raises:
        DrawingFailed: an image is unusable.
        StoreError: it could not be kept; what was begun is no run, and `sweep` removes it.
    """
    token = new_token(now)

    def key_of(name: str) -> Key:
        return quarantine_key(action.action_id, token, name)

    drawn = await keep_images(store, key_of, _again(images))
    meta = drawn.meta(
        action.action_id, 0, recipe, program=action.program, engine=engine, generated_at=now
    ).model_copy(update={"unknown": {_TAKEN_FROM: token}})
    entry = manifest_entry(action)
    await store.put(key_of(CONFIG_NAME), dump_config(entry))
    await store.put(key_of(META_NAME), dump_meta(meta))
    return Harvested(action.action_id, token, meta, entry)


@asynccontextmanager
async def _again(images: Sequence[StepImage]) -> AsyncIterator[AsyncIterator[StepImage]]:
    async def each() -> AsyncGenerator[StepImage, None]:
        for image in images:
            yield image

    async with aclosing(each()) as iterator:
        yield iterator


async def waiting(store: Store, action_id: str | None = None) -> Quarantine:
    """The whole runs in quarantine, of one action or all, oldest first in each action.

    Raises:
        StoreError: the store could not be read.
    """
    prefix = QUARANTINE_PREFIX + (f"{action_id}/" if action_id else "")
    places = [quarantine_place(entry.key) async for entry in store.list(prefix)]
    found = [(p.action_id, p.token) for p in places if p is not None and p.name == META_NAME]
    runs: list[Harvested] = []
    remarks: list[str] = []
    for start in range(0, len(found), _PARALLEL):
        batch = found[start : start + _PARALLEL]
        for read in await asyncio.gather(*(_read(store, *place) for place in batch)):
            if isinstance(read, str):
                remarks.append(read)
            elif read is not None:
                runs.append(read)
    return Quarantine(tuple(runs), tuple(remarks))


async def count(store: Store, action_id: str) -> int:
    """How many runs of an action wait.

    Raises:
        StoreError: the store could not be read.
    """
    number = 0
    async for entry in store.list(f"{QUARANTINE_PREFIX}{action_id}/"):
        place = quarantine_place(entry.key)
        number += place is not None and place.name == META_NAME
    return number


async def _read(store: Store, action_id: str, token: str) -> Harvested | str | None:
    """A run, or in words why it cannot be read; None if it has gone meanwhile."""
    meta, config = (quarantine_key(action_id, token, name) for name in (META_NAME, CONFIG_NAME))
    try:
        return Harvested(
            action_id,
            token,
            parse_meta(await store.get(meta), meta),
            parse_config(await store.get(config), config),
        )
    except NotFound:
        return None
    except FormatError as error:
        return str(error)


async def approve(store: Store, run: Harvested) -> int:
    """Make a run in quarantine a set of its action.

    Returns:
        The number of the set.

    Raises:
        NotApproved: an image is missing or damaged, or somebody rejected it meanwhile.
        StoreError: the store could not be read or written; another try goes on from here.
        FormatError: the store's manifest cannot be understood.
    """
    approval = quarantine_key(run.action_id, run.token, _APPROVAL)
    set_id, _ = await _approved_as(store, approval)
    if set_id is None or await _holder(store, run.action_id, set_id) != run.token:
        # All of them before anything is written: a damaged one leaves nothing behind.
        images = {
            name: await _image(store, run, name, facts) for name, facts in run.meta.files.items()
        }
        set_id = await _number(store, run)
        await _become_set(store, run, set_id, images)
    await update_manifest(
        store, lambda manifest: manifest.with_set(run.action_id, run.entry, set_id)
    )
    # What tells how far this went goes last.
    await _remove(store, run, [*run.meta.files, META_NAME, CONFIG_NAME])
    await store.delete(_claim_key(run.action_id, set_id))
    await _remove(store, run, [_APPROVAL])
    return set_id


async def _become_set(
    store: Store, run: Harvested, set_id: int, images: Mapping[str, bytes]
) -> None:
    if await _holder(store, run.action_id, set_id) == run.token:
        return
    for name, data in images.items():
        await store.put(image_key(run.action_id, set_id, name), data)
    await store.put(config_key(run.action_id), dump_config(run.entry))
    meta = run.meta.model_copy(update={"set_id": set_id})
    try:
        await store.replace(meta_key(run.action_id, set_id), dump_meta(meta), expected=None)
    except Conflict:
        # Another who approves of the very same run may have been first.
        if await _holder(store, run.action_id, set_id) != run.token:
            raise


async def reject(store: Store, run: Harvested) -> None:
    """Throw a run in quarantine away.

    Raises:
        StoreError: the store could not be written; another try goes on from here.
    """
    number, _ = await _approved_as(store, quarantine_key(run.action_id, run.token, _APPROVAL))
    if number is not None and await _claimed(store, run, number):
        await store.delete(_claim_key(run.action_id, number))
    # Without a meta it does not exist.
    await _remove(store, run, [META_NAME, *run.meta.files, CONFIG_NAME, _APPROVAL])


async def sweep(store: Store, now: datetime, older: timedelta = UNFINISHED_FOR) -> int:
    """Remove what whoever was killed left behind: files of runs that have no meta.

    Returns:
        How many files.

    Raises:
        StoreError: the store could not be read or written.
    """
    files: dict[tuple[str, str], list[Key]] = defaultdict(list)
    whole: set[tuple[str, str]] = set()
    async for entry in store.list(QUARANTINE_PREFIX):
        place = quarantine_place(entry.key)
        claim = _CLAIM.fullmatch(entry.key)
        if place is not None:
            files[place.action_id, place.token].append(entry.key)
            if place.name == META_NAME:
                whole.add((place.action_id, place.token))
        elif claim is not None:
            with suppress(NotFound):
                token = (await store.get(entry.key)).decode(errors="replace")
                files[claim[1], token].append(entry.key)
    left = [
        key
        for run, keys in files.items()
        if run not in whole and now - _kept_at(run[1]) >= older
        for key in keys
    ]
    for key in left:
        await store.delete(key)
    return len(left)


def _kept_at(token: str) -> datetime:
    try:
        return datetime.strptime(token.partition("-")[0], _STAMP).replace(tzinfo=UTC)
    except ValueError:  # nobody's
        return datetime.min.replace(tzinfo=UTC)


# ---------------------------------------------------------------- the number of a set


async def _number(store: Store, run: Harvested) -> int:
    """The number that `run` is to have, and nothing else will be given.

    It is written down in the run, so that all who approve of it mean the same number, and
    the number is claimed for the run, so that it is not given to another.
    """
    approval = quarantine_key(run.action_id, run.token, _APPROVAL)
    passed_over = -1
    for _ in range(_ATTEMPTS):
        number, version = await _approved_as(store, approval)
        if number is None or number <= passed_over:
            number = await _next_free(store, run.action_id, passed_over)
            document = json.dumps({"set_id": number}).encode()
            try:
                await store.replace(approval, document, expected=version)
            except Conflict:
                continue  # another approves of the same run
        if await _claimed(store, run, number):
            return number
        passed_over = number
    raise Conflict(approval, f"others took every number, {_ATTEMPTS} times")


async def _approved_as(store: Store, approval: Key) -> tuple[int | None, Version | None]:
    try:
        data, version = await store.get_versioned(approval)
    except NotFound:
        return None, None
    try:
        number = json.loads(data)["set_id"]
    except (ValueError, KeyError, TypeError):
        number = None
    return (number if isinstance(number, int) and 0 <= number < MAX_SET_ID else None), version


async def _claimed(store: Store, run: Harvested, number: int) -> bool:
    """Claim a number for `run`; whether it is the run's now, and no set has it already."""
    claim = _claim_key(run.action_id, number)
    try:
        await store.replace(claim, run.token.encode(), expected=None)
    except Conflict:
        try:
            if await store.get(claim) != run.token.encode():
                return False
        except NotFound:
            return False  # it has just become a set
    # Whoever had the claim before may have finished meanwhile.
    return await _holder(store, run.action_id, number) in {None, run.token}


async def _holder(store: Store, action_id: str, number: int) -> str | None:
    """Which run the set of that number was; empty for none, None if there is no such set."""
    key = meta_key(action_id, number)
    try:
        meta = parse_meta(await store.get(key), key)
    except NotFound:
        return None
    except FormatError:
        return ""
    return str(meta.unknown.get(_TAKEN_FROM, ""))


async def _next_free(store: Store, action_id: str, above: int) -> int:
    """The number after the highest that is used, or was: a batch may be drawing into it."""
    try:
        used = (await load_manifest(store)).set_ids(action_id)
    except NotFound:
        used = ()
    highest = max([above, *used])
    async for entry in store.list(action_prefix(action_id)):
        place = set_place(entry.key)
        if place is not None:
            highest = max(highest, place.set_id)
    return highest + 1


def _claim_key(action_id: str, number: int) -> Key:
    return Key(f"{QUARANTINE_PREFIX}{action_id}/numbers/{number}")


async def _image(store: Store, run: Harvested, name: str, facts: FileFacts) -> bytes:
    try:
        data = await store.get(quarantine_key(run.action_id, run.token, name))
    except NotFound as error:
        raise NotApproved(f"{run.name}: {name} is missing") from error
    found = await asyncio.to_thread(FileFacts.of, data)
    if (found.size, found.sha256) != (facts.size, facts.sha256):
        raise NotApproved(f"{run.name}: {name} is not the image that its meta tells of")
    return data


async def _remove(store: Store, run: Harvested, names: Sequence[str]) -> None:
    for name in names:
        await store.delete(quarantine_key(run.action_id, run.token, name))
