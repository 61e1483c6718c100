"""A whole run becomes a set of an action: one from quarantine, or a take that was picked.

Its images first, its meta last, then the manifest. Which number it is to have is written down
beside the run before anything else, and the set's meta says which run it was. So whoever is killed
meanwhile may simply begin again, and two who begin at once make one set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from cache.index import register
from cache.library import BrokenSet, Library
from cache.model.documents import whole
from cache.model.formats import SetMeta, dump_meta
from cache.model.keys import MAX_SET_ID, Key, config_key, image_key, meta_key
from cache.model.manifest import ManifestAction, dump_config
from cache.stores.port import Conflict, NotFound, Store, Version
from cache.untrusted import Unfit, decode_answer
from generator.sets.numbers import claim_key, next_free, noted_in

_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole run that may become a set.

    Attributes:
        name: what people call it by.
        own: its own small store; in it, it is set 0 of `drawn_as`.
        drawn_as: the id of the action that it was drawn as.
        action_id: the action whose set it is to be.
        token: what the claim of its number says, where nobody has begun to adopt it yet; begins
            with a time, as `numbers.STAMP` has it.
        origin: which run it is, as the set's meta will say.
        noted_as: under which field of the meta.
        progress: key in `own` where its number is written down.
        meta: as a set's; its number is not yet its own.
        entry: what the manifest will say of its action.
    """

    name: str
    own: Store
    drawn_as: str
    action_id: str
    token: str
    origin: str
    noted_as: str
    progress: Key
    meta: SetMeta
    entry: ManifestAction


class NotAdopted(Exception):
    """A run cannot become a set, with the reason."""


class Reserved(NamedTuple):
    """What is written down beside a run that is being adopted, or was.

    Attributes:
        set_id: the number that it is to have.
        token: what the claim of that number says.
    """

    set_id: int
    token: str


async def adopt(store: Store, run: Candidate) -> int:
    """Make a set of its action of a run; the run itself stays where it is.

    Returns:
        The number of the set.

    Raises:
        NotAdopted: an image is missing or damaged, or somebody settled it meanwhile.
        StoreError: the store could not be read or written; another try goes on from here.
        FormatError: the store's manifest cannot be understood.
    """
    reserved = await reserved_for(run.own, run.progress, run.token)
    if reserved is None or not await _is_set(store, run, reserved.set_id):
        # All of them before anything is written: a damaged one leaves nothing behind.
        images = await _images(run)
        reserved = await _reserve(store, run)
        await _become_set(store, run, reserved.set_id, images)
    await register(store, run.action_id, run.entry, reserved.set_id)
    return reserved.set_id


async def release_claim(store: Store, action_id: str, reserved: Reserved) -> None:
    """Let go of a number that is a set's by now, or will be none's.

    Raises:
        StoreError: the store could not be read or written.
    """
    claim = claim_key(action_id, reserved.set_id)
    with suppress(NotFound):
        if await store.get(claim) == reserved.token.encode():
            await store.delete(claim)


async def reserved_for(own: Store, progress: Key, token: str = "") -> Reserved | None:
    """The number that a run is to have; None where nobody has begun to adopt it.

    Args:
        own: its store.
        progress: where that is written down.
        token: what the claim says where it is not written down, as once it was not.

    Raises:
        StoreError: its store could not be read.
    """
    reserved, _ = await _reserved(own, progress, token)
    return reserved


async def _reserved(
    own: Store, progress: Key, token: str
) -> tuple[Reserved | None, Version | None]:
    """The same, and the version of what says so."""
    try:
        data, version = await own.get_versioned(progress)
    except NotFound:
        return None, None
    try:
        document = decode_answer(data)
        number = whole(document["set_id"])
    except (Unfit, KeyError, TypeError):
        return None, version
    if number is None or not 0 <= number < MAX_SET_ID:
        return None, version
    said = document.get("token")
    return Reserved(number, said if isinstance(said, str) else token), version


async def _is_set(store: Store, run: Candidate, number: int) -> bool:
    """Whether the set of a number is this run."""
    return await noted_in(store, run.action_id, number, run.noted_as) == run.origin


async def _images(run: Candidate) -> dict[str, bytes]:
    """Its images by name, each known to be whole.

    Raises:
        NotAdopted: one is not, or the run has gone.
    """
    library = Library(run.own)
    try:
        found = await library.open_set(run.drawn_as, 0)
        return {step.name: await library.image(step) for step in found.steps}
    except BrokenSet as error:
        raise NotAdopted(f"{run.name}: {error.reason}") from error


async def _become_set(
    store: Store, run: Candidate, set_id: int, images: Mapping[str, bytes]
) -> None:
    if await _is_set(store, run, set_id):
        return
    for name, data in images.items():
        await store.put(image_key(run.action_id, set_id, name), data)
    await store.put(config_key(run.action_id), dump_config(run.entry))
    unknown = {**run.meta.unknown, run.noted_as: run.origin}
    of_the_set = {"cue_id": run.action_id, "set_id": set_id, "unknown": unknown}
    meta = run.meta.model_copy(update=of_the_set)
    try:
        await store.replace(meta_key(run.action_id, set_id), dump_meta(meta), expected=None)
    except Conflict:
        # Another who adopts the very same run may have been first.
        if not await _is_set(store, run, set_id):
            raise


async def _reserve(store: Store, run: Candidate) -> Reserved:
    """The number that `run` is to have, and nothing else will be given.

    It is written down beside the run, so that all who adopt it mean the same number, and the
    number is claimed for the run, so that it is not given to another.
    """
    passed_over = -1
    for _ in range(_ATTEMPTS):
        reserved, version = await _reserved(run.own, run.progress, run.token)
        if reserved is None or reserved.set_id <= passed_over:
            token = run.token if reserved is None else reserved.token
            reserved = Reserved(await next_free(store, run.action_id, passed_over), token)
            document = json.dumps(reserved._asdict()).encode()
            try:
                await run.own.replace(run.progress, document, expected=version)
            except Conflict:
                continue  # another adopts the same run
            if version is None:
                await _still_there(run)
        if await _claimed(store, run, reserved):
            return reserved
        passed_over = reserved.set_id
    raise Conflict(run.progress, f"others took every number, {_ATTEMPTS} times")


async def _still_there(run: Candidate) -> None:
    """Make sure that nobody has settled a run that had no number a moment ago.

    Whoever does takes away its meta, and only then its number.

    Raises:
        NotAdopted: somebody has.
    """
    try:
        await run.own.get(meta_key(run.drawn_as, 0))
    except NotFound:
        await run.own.delete(run.progress)
        raise NotAdopted(f"{run.name}: somebody else was first") from None


async def _claimed(store: Store, run: Candidate, reserved: Reserved) -> bool:
    """Claim a number for `run`; whether it is the run's now, and no set has it already."""
    number, token = reserved.set_id, reserved.token.encode()
    claim = claim_key(run.action_id, number)
    try:
        await store.replace(claim, token, expected=None)
    except Conflict:
        try:
            if await store.get(claim) != token:
                return False
        except NotFound:
            return False  # it has just become a set
    if await noted_in(store, run.action_id, number, run.noted_as) in {None, run.origin}:
        return True
    await store.delete(claim)  # whoever had it before has finished meanwhile
    return False
