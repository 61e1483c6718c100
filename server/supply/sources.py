"""Where the show's sets come from on this machine: its store, or copies made ahead of time.

A store in a folder is read as it is. One across a network is read through a cache that a
prefetcher keeps warm, so that nothing the wall shows waits for a line.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cache.library import Library
from cache.local.cache import LocalCache
from cache.model.keys import Key
from cache.prefetch.availability import Availability, EverythingAvailable
from cache.prefetch.prefetcher import Coverage, Need, Prefetcher
from cache.stores.folder import FolderStore
from cache.stores.port import NotFound, ReadableStore, SharedStore, Store
from server.config.show import Show
from server.config.stores import store_of
from server.core.clock import Clock
from server.core.conditions import Condition
from server.core.metrics import sampled

COPIES = "copies"
"""Folder of the copies, within that which `[cache] dir` names."""

_SETS_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Supply:
    """What to read sets from.

    Attributes:
        store: read by key.
        library: the sets in it, checked.
        availability: what can be had at once.
        cache: the copies on this machine; None where the store is on this machine itself.
        prefetcher: who makes them; None likewise.
        origin: what is copied, or `store` itself where nothing is; written to. None in a rehearsal.
    """

    store: ReadableStore
    library: Library
    availability: Availability
    cache: LocalCache | None = None
    prefetcher: Prefetcher | None = None
    origin: Store | None = None

    @property
    def is_here(self) -> bool:
        """Whether the store itself is a folder that this machine reads as it is."""
        return isinstance(self.store, FolderStore)

    async def at_hand(self, key: Key) -> bytes | None:
        """A file for somebody who is not the show: what is on this machine, None for all else.

        Nothing is fetched for it, and the prefetcher does not give way to it.

        Raises:
            StoreError: a folder could not be read.
        """
        if self.cache is not None:
            return await self.cache.at_hand(key)
        if not self.is_here:
            return None
        try:
            return await self.store.get(key)
        except NotFound:
            return None

    async def run(self) -> None:
        """Keep the copies warm until cancelled; returns at once where none are made."""
        if self.prefetcher is not None:
            await self.prefetcher.run()

    def nudge(self) -> None:
        """The show moved: what is needed, and when, is no longer what it was."""
        if self.prefetcher is not None:
            self.prefetcher.nudge()

    def coverage(self, action_id: str) -> Coverage | None:
        """How much of a coming action is on this machine.

        None where everything is, or the action is not coming.
        """
        return None if self.prefetcher is None else self.prefetcher.coverage(action_id)

    @property
    def fetched(self) -> int:
        """Bytes that came over the line so far."""
        return 0 if self.cache is None else self.cache.stats.fetched_bytes

    def unreachable(self) -> str | None:
        """Why the store cannot be read at the moment, as far as is known."""
        if self.cache is None:
            return None
        origin = self.cache.stats.origin
        return origin.reason if origin.reachable is False else None

    def conditions(self) -> Iterable[Condition]:
        """What of the store or the copies somebody should know of."""
        if isinstance(self.origin, FolderStore) and self.origin.without_locks is not None:
            yield Condition("store_without_locks", "note", self.origin.without_locks)
        if self.prefetcher is not None and (stumbled := self.prefetcher.stumbled) is not None:
            text = f"a copy could not be fetched, and is asked for again: {stumbled}"
            yield Condition("prefetch_failed", "degraded", text)
        if self.cache is not None and (untidy := self.cache.untidy) is not None:
            text = f"the copies on this machine are not looked through: {untidy}"
            yield Condition("copies_not_tidied", "degraded", text)

    def status(self) -> dict[str, Any] | None:
        """The copies and the line, as plain values; None where there is none."""
        if self.cache is None or self.prefetcher is None:
            return None
        return {"copies": asdict(self.cache.stats), "line": asdict(self.prefetcher.outlook())}

    def metrics(self) -> Iterable[Metric]:
        """The copies and the line, counted now; nothing where there are none."""
        if self.cache is None or self.prefetcher is None:
            return
        stats, outlook = self.cache.stats, self.prefetcher.outlook()
        held = GaugeMetricFamily(
            "understudy_copies_bytes", "Bytes of copies on this machine.", labels=["layer"]
        )
        yield sampled(held, {"memory": stats.memory_bytes, "disk": stats.disk_bytes})
        reads = CounterMetricFamily(
            "understudy_reads", "Files read, by where they were found.", labels=["found"]
        )
        found = {"memory": stats.memory_hits, "disk": stats.disk_hits, "store": stats.misses}
        yield sampled(reads, found)
        for name, meaning, value in (
            (
                "line_bytes_per_second",
                "Bytes a second the line is believed to carry.",
                outlook.rate,
            ),
            ("missing_bytes", "Bytes the coming runs still want.", outlook.missing_bytes),
            ("late_files", "Files that cannot be here in time.", outlook.late_files),
            ("ready_in_seconds", "Seconds until all that is timely is here.", outlook.ready_in),
            (
                "store_reachable",
                "Whether the store answered when it was last asked.",
                float(self.unreachable() is None),
            ),
        ):
            yield GaugeMetricFamily(f"understudy_{name}", meaning, value=value)
        yield CounterMetricFamily(
            "understudy_prefetch_failures",
            "Files that could not be fetched ahead for a mistake of ours.",
            value=self.prefetcher.stumbles,
        )
        yield CounterMetricFamily(
            "understudy_fetched_bytes", "Bytes that came over the line.", value=stats.fetched_bytes
        )


def read_in_place(store: Store, show: Show) -> TypeGuard[FolderStore]:
    """Whether a store is a folder that this machine reads as it is, and makes no copies of."""
    return isinstance(store, FolderStore) and show.settings.cache.copies != "always"


def copies_of(show: Show, origin: Store) -> LocalCache:
    """The copies of a store that this machine keeps for a show; to be entered.

    Args:
        show: whose `[cache]` it is.
        origin: what is copied; entered and left with it.
    """
    settings = show.settings.cache
    return LocalCache(
        origin,
        show.state_folder / COPIES,
        disk_bytes=settings.disk_bytes,
        memory_bytes=settings.memory_bytes,
        keep_free=settings.keep_free,
        # The address of a bucket does not name its server, and two may have one name.
        identity=origin.address if isinstance(origin, SharedStore) else None,
    )


def free_on_disk(folder: Path) -> int:
    """Bytes free on the disk of a folder, or of where it will be.

    Raises:
        OSError: the disk does not say.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


@asynccontextmanager
async def open_supply(
    show: Show, clock: Clock, needs: Callable[[], Sequence[Need]]
) -> AsyncIterator[Supply]:
    """Open what the show's sets are read from.

    Args:
        show: whose store it is.
        clock: the time.
        needs: the runs to come, for the prefetcher.

    Raises:
        BadStoreAddress: `[store]` names no store.
    """
    settings = show.settings.cache
    async with store_of(show) as origin:
        if read_in_place(origin, show) or settings.copies == "never":
            library = Library(origin, sets_remembered=_SETS_REMEMBERED)
            yield Supply(origin, library, EverythingAvailable(), origin=origin)
            return
        cache = copies_of(show, origin)
        async with cache:
            library = Library(cache, sets_remembered=_SETS_REMEMBERED, reread=cache.refresh)
            prefetcher = Prefetcher(
                cache,
                library,
                needs,
                clock,
                parallel=settings.parallel,
                bits_per_second=settings.bandwidth,
            )
            yield Supply(cache, library, prefetcher, cache, prefetcher, origin)
