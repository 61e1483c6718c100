"""Bringing a store's sets into another: checked, resumable, in an order that is safe to stop.

Of each set the images come first and its meta last, and of the store the manifest last, so
whatever stops it, the target holds whole sets only. The first set of every action comes before
the second of any, so that a pull that is cut short has something for every cue.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Final

from cache.index import load_manifest
from cache.model.documents import FormatError, WrongVersion
from cache.model.formats import ImageSet, Step, image_set, parse_meta
from cache.model.images import BadImage, check_image
from cache.model.keys import (
    ACTIONS_PREFIX,
    MANIFEST,
    META_NAME,
    Key,
    config_key,
    meta_key,
    set_place,
    set_prefix,
)
from cache.model.manifest import Manifest, dump_manifest
from cache.stores.port import NotFound, Store, StoreDenied
from cache.tasks import cancel_and_wait
from cache.threads import offload_large

PARALLEL: Final = 8


@dataclass(frozen=True, slots=True)
class SetLeft:
    """A set that was not brought, as it is broken at the source."""

    action_id: str
    set_id: int
    reason: str

    def __str__(self) -> str:
        """A line for people."""
        return f"{self.action_id} set {self.set_id}: {self.reason}"


@dataclass(slots=True)
class PullReport:
    """How far a pull is, and at its end what it did.

    Attributes:
        sets_wanted: how many sets there are to bring.
        sets_whole: how many of them the target holds, whole.
        files_fetched: files that came from the source.
        bytes_fetched: their bytes.
        files_present: files that were there already, and proved whole.
        broken: sets that are broken at the source.
        left_alone: sets in the target that the source's manifest does not list (any more).
    """

    sets_wanted: int = 0
    sets_whole: int = 0
    files_fetched: int = 0
    bytes_fetched: int = 0
    files_present: int = 0
    broken: list[SetLeft] = field(default_factory=list)
    left_alone: int = 0


Progress = Callable[[PullReport], None]
"""Told after each file and each set."""


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


async def pull(
    source: Store,
    target: Store,
    *,
    only: Mapping[str, str] | None = None,
    parallel: int = PARALLEL,
    progress: Progress = lambda _: None,
    now: Callable[[], datetime] = _now,
) -> PullReport:
    """Bring the sets that the source's manifest lists, as far as the target lacks them.

    Without `only` that is all of them, of whatever recipe: a venue may play an older sheet. The
    target becomes as the source is: a number that the source has a set of gets that set.

    It may be stopped at any moment; the same call goes on. What is in the target and not in the
    source's manifest is left alone, but not listed in the target's.

    Args:
        source: from where.
        target: to where.
        only: fingerprint by action id: of these actions, the sets that may be of that recipe;
            None for all.
        parallel: how many files are under way at once.
        progress: told how far it is.
        now: the time for a manifest that has none.

    Returns:
        What was done. Sets that are broken at the source are told, not raised.

    Raises:
        NotFound: the source has no manifest.
        FormatError: a manifest cannot be understood.
        StoreError: the source could not be read, or the target not written.
    """
    manifest = await load_manifest(source)
    known = await _known(target)
    work = _Pull(source, target, asyncio.Semaphore(parallel), PullReport(), progress)
    chosen = [each for each in manifest.actions if only is None or each in only]
    asked = {
        each: manifest.listed(each) if only is None else manifest.set_ids(each, only[each])
        for each in chosen
    }
    wanted = list(_breadth_first(asked))
    work.report.sets_wanted = len(wanted)
    work.report.left_alone = await _not_listed(target, manifest)
    progress(work.report)
    whole: set[tuple[str, int]] = set()

    async def bring(action_id: str, set_id: int) -> None:
        if await work.bring_set(action_id, set_id) or (
            # What an earlier pull brought is whole still, unless another set was to take its place.
            set_id in known.listed(action_id)
            and await _content(target, meta_key(action_id, set_id)) is not None
        ):
            whole.add((action_id, set_id))

    await _all((bring(*each) for each in wanted), parallel)
    await _all((work.bring_config(action_id) for action_id in chosen), parallel)
    await _write_manifest(target, known, _as_pulled(manifest, known, asked, whole), now)
    return work.report


class _SourceDenied(StoreDenied):
    """The source's refusal of one key, as against any of the target's."""


@dataclass(frozen=True)
class _Pull:
    """One pull: from where to where, at what pace, and how far it is."""

    source: Store
    target: Store
    gate: asyncio.Semaphore
    report: PullReport
    progress: Progress

    async def bring_set(self, action_id: str, set_id: int) -> bool:
        """Have a set whole in the target; False if it is broken at the source."""
        key = meta_key(action_id, set_id)
        try:
            document = await self._get(key)
            found, sizes = await self._opened(action_id, set_id, document)
            changed = await self._make_way(found, document)
            await _all(
                (self._bring_image(step, sizes.get(step.name)) for step in found.steps),
                len(found.steps),
            )
        except NotFound as error:
            return self._broken(action_id, set_id, f"{error.key.rpartition('/')[2]} is missing")
        except _SourceDenied as error:
            name = error.key.rpartition("/")[2]
            return self._broken(action_id, set_id, f"{name} cannot be read: {error.reason}")
        except (BadImage, FormatError) as error:
            return self._broken(action_id, set_id, str(error))
        if changed:
            await self.target.put(key, document)
        self.report.sets_whole += 1
        self.progress(self.report)
        return True

    async def bring_config(self, action_id: str) -> None:
        """Bring what is said of an action, if anything is."""
        key = config_key(action_id)
        with suppress(NotFound, _SourceDenied):
            data = await self._get(key)
            if await _content(self.target, key) != data:
                await self.target.put(key, data)

    def _broken(self, action_id: str, set_id: int, reason: str) -> bool:
        self.report.broken.append(SetLeft(action_id, set_id, reason))
        self.progress(self.report)
        return False

    async def _get(self, key: Key) -> bytes:
        async with self.gate:
            try:
                return await self.source.get(key)
            except StoreDenied as error:
                raise _SourceDenied(error.key, error.reason) from error

    async def _opened(
        self, action_id: str, set_id: int, document: bytes
    ) -> tuple[ImageSet, Mapping[str, int]]:
        """A set as its meta tells of it, and the sizes of its files where only a listing does."""
        meta = parse_meta(document, meta_key(action_id, set_id))
        if meta.names_every_file:
            return image_set(action_id, set_id, meta), {}
        prefix = set_prefix(action_id, set_id)
        async with self.gate:
            sizes = {
                entry.key.removeprefix(prefix): entry.size
                async for entry in self.source.list(prefix)
            }
        return image_set(action_id, set_id, meta, sizes), sizes

    async def _make_way(self, found: ImageSet, document: bytes) -> bool:
        """Where the target has another set of that number, it exists no longer from here on.

        Returns:
            Whether the meta has to be written.
        """
        key = meta_key(found.action_id, found.set_id)
        present = await _content(self.target, key)
        if present == document:
            return False
        if present is not None:
            await self.target.delete(key)
            prefix = set_prefix(found.action_id, found.set_id)
            keys = {step.key for step in found.steps}
            for entry in [entry async for entry in self.target.list(prefix)]:
                if entry.key not in keys:  # it would be taken for a step of the new one
                    await self.target.delete(entry.key)
        return True

    async def _bring_image(self, step: Step, listed: int | None) -> None:
        """Have one image whole in the target.

        Raises:
            BadImage: it is not whole at the source.
            NotFound: it is not there.
        """
        present = await _content(self.target, step.key)
        if present is not None and await _flaw(step, present, listed) is None:
            self.report.files_present += 1
        else:
            data = await self._get(step.key)
            flaw = await _flaw(step, data, listed)
            if flaw is not None:
                raise flaw
            await self.target.put(step.key, data)
            self.report.files_fetched += 1
            self.report.bytes_fetched += len(data)
        self.progress(self.report)


async def _known(target: Store) -> Manifest:
    """The target's manifest; one that is missing or damaged counts as empty."""
    try:
        return await load_manifest(target)
    except WrongVersion:
        raise
    except (NotFound, FormatError):
        return Manifest()


async def _not_listed(target: Store, manifest: Manifest) -> int:
    """How many sets the target has that a manifest does not list."""
    count = 0
    async for entry in target.list(ACTIONS_PREFIX):
        place = set_place(entry.key)
        if place is not None and place.name == META_NAME:
            count += place.set_id not in manifest.listed(place.action_id)
    return count


async def _content(store: Store, key: Key) -> bytes | None:
    try:
        return await store.get(key)
    except NotFound:
        return None


async def _flaw(step: Step, data: bytes, listed: int | None) -> BadImage | None:
    return await offload_large(len(data), lambda: _find_flaw(step, data, listed))


def _find_flaw(step: Step, data: bytes, listed: int | None) -> BadImage | None:
    """What is wrong with an image, by its meta, the source's listing and itself."""
    size = listed if step.size is None else step.size
    if size is not None and len(data) != size:
        return BadImage(step.name, f"expected {size} bytes, found {len(data)}", "size")
    if step.sha256 is not None and hashlib.sha256(data).hexdigest() != step.sha256:
        return BadImage(step.name, "its SHA-256 is not the one in meta.json", "hash")
    try:
        check_image(data, step.name)
    except BadImage as error:
        return error
    return None


def _breadth_first(sets: Mapping[str, Iterable[int]]) -> Iterator[tuple[str, int]]:
    """The first set of every action, then the second of every action, and so on."""
    columns = [[(action_id, set_id) for set_id in ids] for action_id, ids in sets.items()]
    for row in zip_longest(*columns):
        yield from (each for each in row if each is not None)


def _as_pulled(
    manifest: Manifest,
    known: Manifest,
    asked: Mapping[str, Collection[int]],
    whole: Collection[tuple[str, int]],
) -> Manifest:
    """The source's manifest with what the target holds of it.

    Of sets that were not asked for now, it holds what an earlier pull brought.
    """
    actions = {}
    for action_id, entry in manifest.actions.items():
        if action_id not in asked and action_id not in known.actions:
            continue
        held = {set_id for set_id in entry.listed if (action_id, set_id) in whole}
        held |= set(known.listed(action_id)).difference(asked.get(action_id, ()))
        actions[action_id] = entry.regrouped(
            {key: held.intersection(numbers) for key, numbers in entry.groups.items()}
        )
    return manifest.model_copy(update={"actions": actions})


async def _write_manifest(
    target: Store, known: Manifest, pulled: Manifest, now: Callable[[], datetime]
) -> None:
    """Write it if it says something new; nobody else writes the target meanwhile."""
    if pulled.same_content(known) and known.generated_at is not None:
        return
    if pulled.generated_at is None:
        pulled = pulled.model_copy(update={"generated_at": now()})
    await target.put(MANIFEST, dump_manifest(pulled))


async def _all(works: Iterable[Awaitable[object]], at_once: int) -> None:
    """Do everything, some at once; the first error ends the rest."""
    queue = iter(works)

    async def worker() -> None:
        for each in queue:
            await each

    tasks = [asyncio.create_task(worker()) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_and_wait(*tasks)
