"""The local cache: a store that is read instead of another, so that no line is depended on.

What was read once is read again from memory, then from disk, and only then from the origin.
Every copy is proven when it is read; a flawed one is fetched anew, and nobody hears of it.
Whatever happens to the disk, reading goes on from memory and the origin.

What changes under its name (`manifest.json`, `config.json`) is asked of the origin first, and
our copy answers only where the origin does not. All else is taken from the copy first: a set
that is drawn again has another meta, so call `refresh` for that once the manifest says so;
copies that do not agree with the meta are then fetched again as they are asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
)
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import anyio
import structlog

from cache.local.disk_cache import LISTING_NAME, DiskCache, NoRoom, Unkeepable, listing_name
from cache.local.health import DiskHealth, DiskState, OriginHealth, OriginState
from cache.local.known_metas import KnownMetas
from cache.local.memory_cache import CachedContent, MemoryCache
from cache.local.single_flight import Flight, SingleFlight
from cache.model.documents import FormatError, read_object
from cache.model.keys import (
    ACTION_ID_PATTERN,
    CONFIG_NAME,
    MANIFEST,
    META_NAME,
    Key,
    meta_key,
    parse_key,
    set_place,
)
from cache.stores.port import (
    Entry,
    NotFound,
    ReadableStore,
    StoreError,
    StoreUnavailable,
    pieces_of,
)
from cache.tasks import being_cancelled, cancel_and_wait
from cache.threads import offload_large, read_in_thread, write_in_thread

T = TypeVar("T")

_log = structlog.get_logger(__name__)

KEEP_FREE: Final = 2**30
"""Bytes of the disk that are left free unless it is said otherwise."""

_READERS: Final = 8
_WRITERS: Final = 4
_TIDY_EVERY: Final = 60.0
_ANSWER_WITHIN: Final = 5.0
"""Seconds after which a copy answers for an origin that is silent, where that is asked first."""

_LAST_WORD: Final = 5.0
"""Seconds to write down the order of use when leaving."""

_CONFIG: Final = re.compile(rf"actions/{ACTION_ID_PATTERN}/{re.escape(CONFIG_NAME)}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds and did. Sizes in bytes, times in seconds; counts since it began.

    Attributes:
        memory_bytes: contents in memory.
        memory_entries: how many.
        disk_bytes: copies on disk, of every origin, as far as known.
        disk_entries: how many.
        looked: whether the disk was looked through yet; before, the two above are less.
        memory_hits: contents that came from memory.
        disk_hits: contents that came from disk.
        misses: contents that the origin was asked for.
        healed: flawed copies that were found and dropped.
        evicted: copies that made room for others.
        rejected: contents that did not agree with their set's meta, and were not kept.
        unkept: contents that were not kept as all that is kept is needed.
        unkept_bytes: their bytes.
        fetched_bytes: what came from the origin.
        fetching_seconds: how long at least one request was under way.
        disk: whether copies can be kept.
        origin: whether it answers.
    """

    memory_bytes: int
    memory_entries: int
    disk_bytes: int
    disk_entries: int
    looked: bool
    memory_hits: int
    disk_hits: int
    misses: int
    healed: int
    evicted: int
    rejected: int
    unkept: int
    unkept_bytes: int
    fetched_bytes: int
    fetching_seconds: float
    disk: DiskState
    origin: OriginState


class LocalCache:
    """Copies of a store's contents in memory and on disk, read as the store itself is.

    Whoever writes writes to the origin. Entering and leaving it enters and leaves the origin.

    Attributes:
        demand: how many `get` are under way: prefetching gives way to them.
        untidy: why the copies on disk are not looked through and put in order; None if they are.
    """

    def __init__(
        self,
        origin: ReadableStore,
        folder: Path | None,
        *,
        disk_bytes: int,
        memory_bytes: int,
        keep_free: int = KEEP_FREE,
        identity: str | None = None,
        threads: int = _READERS,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Choose; nothing is touched yet.

        Args:
            origin: whose contents are copied.
            folder: where copies go; copies of other origins may lie there, too. While another
                process keeps copies in it, they are read, and none are made. None for memory only.
            disk_bytes: that the copies in the folder may take; 0 for memory only.
            memory_bytes: that contents in memory may take.
            keep_free: bytes of the disk that are left free.
            identity: what tells this origin from others that share the folder; by default its
                address, which for buckets does not name the server.
            threads: how many pieces of slow work are done beside the event loop at once; with 0
                whoever asks waits for them, and nobody else goes on meanwhile.
            now: steady seconds.
            wall: the time of day in seconds.
            sleep: how to wait.
        """
        self._origin = origin
        self._sleep = sleep
        self._pins: frozenset[str] = frozenset({MANIFEST})
        self._held: Counter[str] = Counter()
        self._disk: DiskCache | None = None
        if folder is not None and disk_bytes > 0:
            self._disk = DiskCache(
                folder, identity or origin.url, limit=disk_bytes, keep_free=keep_free, wall=wall
            )
            self._disk.pinned, self._disk.held = self._pins, self._held
        # With a disk, what is needed stays there, and memory is for what is used most.
        self._memory = MemoryCache(
            memory_bytes, lambda name: self._disk is None and self._is_needed(name)
        )
        self._disk_health = DiskHealth(off=self._disk is None, now=now, wall=wall)
        self._line = OriginHealth(now=now, wall=wall)
        self._metas = KnownMetas()
        self._flights: SingleFlight[Key, CachedContent] = SingleFlight(self._fly)
        self.demand = 0
        self._memory_hits = self._disk_hits = self._misses = 0
        self._rejected = self._unkept = self._unkept_bytes = 0
        self._readers = anyio.CapacityLimiter(threads) if threads else None
        self._writers = anyio.CapacityLimiter(_WRITERS)
        self._tidying: asyncio.Task[None] | None = None
        self.untidy: str | None = None

    def __repr__(self) -> str:
        return f"LocalCache({self._origin!r})"

    @property
    def url(self) -> str:
        """The origin's address."""
        return self._origin.url

    @property
    def capacity(self) -> int:
        """Bytes that copies may take: on disk, or in memory while the disk takes none."""
        if self._disk is not None and self._disk_health.state.condition == "ok":
            return self._disk.limit
        return int(self._memory.maxsize)

    @property
    def stats(self) -> CacheStats:
        """How it is now."""
        disk = self._disk
        return CacheStats(
            memory_bytes=int(self._memory.currsize),
            memory_entries=len(self._memory),
            disk_bytes=disk.total_bytes if disk else 0,
            disk_entries=disk.count if disk else 0,
            looked=disk.looked if disk else True,
            memory_hits=self._memory_hits,
            disk_hits=self._disk_hits,
            misses=self._misses,
            healed=disk.healed if disk else 0,
            evicted=disk.evicted if disk else 0,
            rejected=self._rejected,
            unkept=self._unkept,
            unkept_bytes=self._unkept_bytes,
            fetched_bytes=self._line.bytes,
            fetching_seconds=self._line.busy_seconds,
            disk=self._disk_health.state,
            origin=self._line.state,
        )

    async def __aenter__(self) -> Self:
        await self._origin.__aenter__()
        if self._disk is not None:
            self._tidying = asyncio.create_task(self._tidy(self._disk))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._tidying is not None:
                await cancel_and_wait(self._tidying)
            await self._flights.close(StoreUnavailable("", "the cache was closed"))
            if self._disk is not None:
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_LAST_WORD):
                        await self._in_thread(self._disk.flush)
        finally:
            if self._disk is not None:
                self._disk.close()
            await self._origin.__aexit__(*exc_info)

    # What is here.

    def holds(self, key: Key) -> bool:
        """Whether there is a copy, as far as known. Waits for nothing."""
        return key in self._memory or self._is_on_disk(key)

    def pin(self, keys: Collection[Key]) -> None:
        """Say which copies must stay, in place of those said before."""
        self._pins = frozenset({MANIFEST, *_with_listings(keys)})
        if self._disk is not None:
            self._disk.pinned = self._pins

    @contextmanager
    def holding(self, keys: Collection[Key]) -> Iterator[None]:
        """While entered, these copies stay as they are, pinned or not: they are being played."""
        names = _with_listings(keys)
        self._held.update(names)
        try:
            yield
        finally:
            for name in names:
                self._held[name] -= 1
                if self._held[name] <= 0:
                    del self._held[name]

    # Reading.

    async def get(self, key: Key) -> bytes:
        """See `ReadableStore.get`."""
        recalled = self._recall(key)
        if recalled is not None:
            return recalled
        parse_key(key)
        self.demand += 1
        try:
            if _is_current(key):
                self._misses += 1
                return await self._current(key)
            if self._flights.get(key) is None:
                copy = await self._copy(key)
                if copy is not None:
                    self._disk_hits += 1
                    self._memory.offer(key, copy)
                    return copy.data
                recalled = self._recall(key)  # it may have come while we looked on the disk
                if recalled is not None:
                    return recalled
            self._misses += 1
            joined = self._flights.get(key) is not None
            content = await self._flights.ask(key)
            if joined and not self._agrees(key, content):
                # What was under way had been asked for before its set was drawn again.
                content = await self._flights.ask(key, anew=True)
            if content.sound:
                self._memory.offer(key, content)
            return content.data
        finally:
            self.demand -= 1

    async def at_hand(self, key: Key) -> bytes | None:
        """Our copy of a key, proven; None where there is none. The origin is not asked.

        It counts as no use, and as no demand: nothing goes, comes or waits because of it.
        """
        parse_key(key)
        content = self._peek(key) or await self._copy(key)
        return None if content is None else content.data

    async def refresh(self, key: Key) -> bytes:
        """The content as the origin has it now, in place of our copy.

        Raises:
            StoreError: the origin could not be read; then the copy stays.
        """
        content = await self._flights.ask(parse_key(key), anew=True, to_the_end=True)
        return content.data

    async def fetch(self, key: Key) -> int:
        """Bring a copy onto the disk, proven; without a disk, into memory.

        Returns:
            Bytes that came over the line: 0 if it was here.

        Raises:
            StoreError: the origin could not be read.
        """
        parse_key(key)
        if not _is_current(key) and self._flights.get(key) is None and await self._is_here(key):
            return 0
        content = await self._flights.ask(key, to_the_end=True)
        if content.sound and not self._is_on_disk(key):
            self._memory.offer(key, content)
        return len(content.data)

    async def size(self, key: Key) -> int:
        """See `ReadableStore.size`."""
        copy = await self._near(key)
        return await self._origin.size(key) if copy is None else len(copy)

    async def stream(
        self, key: Key, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `ReadableStore.stream`. Without a copy it comes from the origin, and none is kept."""
        copy = await self._near(key)
        if copy is None:
            async with aclosing(self._origin.stream(key, start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        for piece in pieces_of(copy, start, stop):
            yield piece

    async def link(self, key: Key, good_for: float) -> str | None:
        """See `ReadableStore.link`: the origin's."""
        return await self._origin.link(key, good_for)

    async def list(self, prefix: str = "") -> AsyncIterator[Entry]:
        """See `ReadableStore.list`; that of one set is remembered for when the origin is away."""
        place = set_place(f"{prefix}x") if prefix.endswith("/") else None
        if place is None:
            try:
                async for entry in self._origin.list(prefix):
                    yield entry
            except StoreError as error:
                self._line.failed(str(error))
                raise
            self._line.answered()
            return
        with suppress(NotFound):
            listing = await self._current(Key(listing_name(place.action_id, place.set_id)))
            for name, size in json.loads(listing):
                yield Entry(Key(f"{prefix}{name}"), size)

    async def _near(self, key: Key) -> bytes | None:
        """Our copy, unless the origin is to be asked first."""
        parse_key(key)
        return None if _is_current(key) else await self.at_hand(key)

    # Memory.

    def _recall(self, key: Key) -> bytes | None:
        content = self._memory.get(key)
        if content is None or _is_current(key):
            return None
        if not self._agrees(key, content):
            del self._memory[key]
            return None
        self._memory_hits += 1
        if self._disk is not None:
            self._disk.used(key)
        return content.data

    def _peek(self, key: Key) -> CachedContent | None:
        content = self._memory.peek(key)
        return content if content is not None and self._agrees(key, content) else None

    def _is_needed(self, name: str) -> bool:
        return name in self._pins or self._held[name] > 0

    # The disk.

    def _is_on_disk(self, key: Key) -> bool:
        return self._disk is not None and self._disk.holds(key)

    async def _copy(self, name: str) -> CachedContent | None:
        """The copy on disk, if it is sound and agrees with its set's meta."""
        disk = self._disk
        if disk is None or disk.surely_lacks(name):
            return None
        try:
            copy = await self._in_thread(lambda: disk.read(name))
        except OSError as error:
            self._disk_health.failed(error)
            return None
        return copy if copy is not None and self._fits(name, copy) else None

    async def _is_here(self, key: Key) -> bool:
        """Whether there is a copy that can be relied on: each is read once to be sure."""
        disk = self._disk
        if disk is not None and not disk.surely_lacks(key):
            found: CachedContent | bool = False
            try:
                found = await self._in_thread(lambda: disk.check(key))
            except OSError as error:
                self._disk_health.failed(error)
            if found is True:
                disk.used(key)
                return True
            if found and self._fits(key, found):
                return True
        return self._peek(key) is not None

    async def _keep(self, name: str, content: CachedContent) -> None:
        """Keep a copy on disk, if that can be done; it is never an error if not."""
        disk = self._disk
        if disk is None:
            return
        if self._disk_health.may_write():
            try:
                await self._in_thread(lambda: disk.write(name, content), writing=True)
            except NoRoom as error:
                if error.floor:
                    self._disk_health.ill("full", str(error))
                else:
                    self._unkept += 1
                    self._unkept_bytes += len(content.data)
            except Unkeepable as error:
                _log.info("copy_not_kept", key=name, reason=str(error))
            except OSError as error:
                self._disk_health.failed(error)
            else:
                self._disk_health.well()
                return
        if not _is_current(name):
            await self._drop(name)  # what is there is not what the origin has

    async def _drop(self, name: str) -> None:
        disk = self._disk
        if disk is not None:
            with suppress(OSError):
                await self._in_thread(lambda: disk.remove(name), writing=True)

    async def _in_thread(self, work: Callable[[], T], *, writing: bool = False) -> T:
        """Do blocking work. Prefetching writes; reading for the show does not wait behind it."""
        if self._readers is None:
            return work()
        if writing:
            return await write_in_thread(work, self._writers)
        return await read_in_thread(work, self._readers)

    async def _tidy(self, disk: DiskCache) -> None:
        """Own the folder, see what is there, keep the order of use; a mistake costs a round."""
        while True:
            failure: BaseException | None = None
            for work in (disk.open, disk.look, disk.flush):
                try:
                    # A look that nobody waits for any more does no harm, however long it takes.
                    await self._in_thread(work, writing=work != disk.look)
                except OSError as error:
                    self._disk_health.failed(error)
                except asyncio.CancelledError as error:
                    if being_cancelled():
                        raise
                    failure = error
                except Exception as error:  # noqa: BLE001 - the next round may do
                    failure = error
            if failure is not None and self.untidy is None:
                _log.error("copies_not_tidied", exc_info=failure)
            self.untidy = None if failure is None else f"{type(failure).__name__}: {failure}"
            await self._sleep(_TIDY_EVERY)

    # The origin.

    async def _fly(self, key: Key, flight: Flight[CachedContent]) -> None:
        content = await self._inspected(key, await self._from_origin(key))
        if not content.sound:
            self._rejected += 1
        if flight.arrived.done():  # closed meanwhile
            return
        flight.arrived.set_result(content)
        if flight.before is not None and flight.before.task is not None:
            await asyncio.wait([flight.before.task])
        if content.sound:
            stale = self._memory.peek(key)
            if stale is not None and stale.sha256 != content.sha256:
                del self._memory[key]
            if self._disk is None and stale is not None:
                self._memory.offer(key, content)
            await self._keep(key, content)

    async def _told(self, key: str, answer: Awaitable[T]) -> T:
        """Await the origin's answer, and note what it says of the origin."""
        try:
            return await answer
        except NotFound:
            self._line.answered()
            raise
        except StoreError as error:
            self._line.failed(str(error).removeprefix(f"{key}: "))
            raise

    async def _from_origin(self, key: Key) -> bytes:
        """What the origin has: a content, or the listing of a set in the form it is kept in."""
        if not key.endswith(LISTING_NAME):
            with self._line.request():
                data = await self._told(key, self._origin.get(key))
            self._line.answered(len(data))
            return data
        prefix = key.removesuffix(LISTING_NAME)

        async def listed() -> list[tuple[str, int]]:
            return [
                (entry.key.removeprefix(prefix), entry.size)
                async for entry in self._origin.list(prefix)
            ]

        entries = await self._told(prefix, listed())
        self._line.answered()
        if not entries:
            await self._drop(key)
            raise NotFound(key)
        return json.dumps(entries).encode()

    async def _current(self, key: Key) -> bytes:
        """The content as the origin has it; where it fails or is silent, our copy, if any.

        Raises:
            NotFound: the origin says so: that is an answer.
            StoreError: the origin could not be read, and nothing was kept.
        """
        asked = asyncio.create_task(self._flights.ask(key, anew=True))
        timer = asyncio.ensure_future(self._sleep(_ANSWER_WITHIN))
        try:
            await asyncio.wait({asked, timer}, return_when=asyncio.FIRST_COMPLETED)
            copy = None if asked.done() else await self._latest(key)
            if copy is not None and not asked.done():
                self._line.failed(f"does not answer within {_ANSWER_WITHIN:g} s")
                flight = self._flights.get(key)
                if flight is not None:
                    # On a slow line it may arrive yet, and then it is there for the next who asks.
                    flight.staying = True
                return copy.data
            try:
                content = await asked
            except NotFound:
                raise
            except StoreError as error:
                copy = copy or await self._latest(key)
                if copy is None:
                    raise
                _log.info("copy_used_instead", key=error.key, reason=str(error))
                return copy.data
            if content.sound and not self._is_on_disk(key):
                self._memory.offer(key, content)
            return content.data
        finally:
            await cancel_and_wait(timer, asked)

    async def _latest(self, key: Key) -> CachedContent | None:
        """What the origin had last: it may be on its way to the disk, over an older copy."""
        arrived = self._flights.latest(key)
        if arrived is not None and arrived.sound:
            return arrived
        return await self._copy(key) or self._memory.get(key)

    # What a set's meta says of its files.

    async def _inspected(self, key: Key, data: bytes) -> CachedContent:
        """A content as it came, and whether it is fit to be kept."""
        digest = await offload_large(len(data), lambda: hashlib.sha256(data))
        content = CachedContent(data, digest.hexdigest())
        place = set_place(key)
        if place is None or place.name == META_NAME:
            # A document that cannot be understood must not replace ours.
            sound = self._metas.learn(key, data)
            if key == MANIFEST:
                try:
                    raw, _ = await self._in_thread(lambda: read_object(data, key))
                    sound = "actions" in raw
                except FormatError:
                    sound = False
            return content._replace(sound=sound)
        if not self._metas.know(place.action_id, place.set_id):
            await self._copy(meta_key(place.action_id, place.set_id))
        if self._agrees(key, content):
            return content
        # The set may have been drawn again since we took its meta.
        with suppress(StoreError):
            await self.refresh(meta_key(place.action_id, place.set_id))
            if self._agrees(key, content):
                return content
        _log.warning("file_unlike_meta", key=key, bytes=len(data))
        return content._replace(sound=False)

    def _fits(self, name: str, copy: CachedContent) -> bool:
        """Whether a copy that was read is what its set's meta tells of; a meta is learnt."""
        self._metas.learn(name, copy.data)
        return self._agrees(name, copy)

    def _agrees(self, name: str, content: CachedContent) -> bool:
        """Whether a content is what its set's meta tells of, as far as known.

        What is being played is left as it is: it was opened with the meta of its time.
        """
        return self._held[name] > 0 or self._metas.allow(name, len(content.data), content.sha256)


def _is_current(name: str) -> bool:
    """Whether a key's content changes under its name in the ordinary course of things."""
    return name == MANIFEST or (name.endswith(CONFIG_NAME) and _CONFIG.fullmatch(name) is not None)


def _with_listings(keys: Collection[Key]) -> list[str]:
    """Keys, and the listings of the sets whose metas are among them."""
    metas = (key for key in keys if key.endswith(f"/{META_NAME}"))
    return [*keys, *(f"{meta.removesuffix(META_NAME)}{LISTING_NAME}" for meta in metas)]
