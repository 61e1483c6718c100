"""Fetches what the coming runs need before they need it, whatever the line is like.

Told which sets will be played and when, it keeps a plan (`cache/prefetch/plan.py`) and works it
off, a few files at once, within a budget of bandwidth. It yields to the show's own reading,
rests while the store fails, and catches up when it is back. What the coming runs need is
pinned, and one whole set of every coming action before any second one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Final, Literal, Protocol

import structlog

from cache.backoff import back_off
from cache.library import BrokenSet, Library
from cache.local.cache import LocalCache
from cache.model.formats import ImageSet
from cache.model.keys import Key, meta_key, set_place
from cache.prefetch.plan import FINAL, META, FetchPlan, Wanted, plan_fetches, preview_ranks
from cache.stores.port import NotFound, StoreCorrupt, StoreDenied, StoreError
from cache.tasks import being_cancelled, first_of

_log = structlog.get_logger(__name__)

Coverage = Literal["none", "thin", "one", "all"]
"""How much of an action is here: nothing that can be shown; a final image but not all previews;
one whole set; every set that the coming runs have chosen, whole."""

PLAN_AGAIN: Final = 5.0
"""Seconds after which the plan is made anew at the latest: time passes, and rates change."""

SOON: Final = 60.0
"""Seconds. A run that begins sooner goes before everybody's last resort."""

MARGIN: Final = 1.0
"""Seconds before its time that a file should be here: to be read, sent ahead and decoded."""

FIRST_GUESS: Final = 1_000_000.0
"""Bytes a second a line is believed to carry until it has been measured."""

_META_AHEAD: Final = 300.0
_META_SOON: Final = 5.0
"""Seconds: a meta is best here so long before its run, but no sooner than this after it was
first wanted."""

_UNKNOWN_META: Final = 4_000
_UNKNOWN_IMAGE: Final = 150_000
_UNKNOWN_DURATION: Final = 0.65
_UNKNOWN_RUN: Final = 13.0
_FINAL_AHEAD: Final = 10.0
"""Seconds before its run that a final image is best here: all depends on it."""

_FILL: Final = 0.9
"""How much of the room is pinned at most: what is read in between needs some, too."""

_AT_A_STRETCH: Final = 16
"""Sets looked at before others get their turn."""

_BREATH: Final = 0.05
"""Seconds between a nudge and the plan."""

_PRUDENCE: Final = 0.9
"""The part of the measured rate that is counted on."""

_ANOTHER_RATE: Final = 1.3
"""A rate so many times another than the plan's asks for another plan."""

_ASKING: Final = "choosing what to fetch"
_PLANNING: Final = "planning what to fetch"
"""What else than a file a mistake can be about."""

_FIRST_REST: Final = 1.0
_LONGEST_REST: Final = 30.0
_DENIED_IN_A_ROW: Final = 4
"""Files in a row that may not be read, after which it is the store that lets nobody in."""

_BAD_FOR: Final = 60.0
"""Seconds for which a file that the store does not have, or has broken, is not asked for."""

_UNDER_WAY: Final = 1.5
"""Seconds of the line's time that are under way at most: enough to keep it busy, and so little
that a file the show wants at once is not long in coming."""

_YIELD: Final = 0.1
_MEMORY_SPAN: Final = 20.0
"""Seconds of fetching over which the measured rate forgets half of what it knew."""


class Ticker(Protocol):
    """A steady clock, as far as this room needs one."""

    def now(self) -> float:
        """Steady seconds."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return once `now()` is at least `when`."""
        ...


@dataclass(frozen=True, slots=True)
class Need:
    """A run to come: the set it will play, and when.

    Attributes:
        action_id: whose set.
        set_id: which.
        start: steady time at which the run begins.
        end: steady time by which its final image is to be on the wall; None where it may take
            as long as it was recorded.
    """

    action_id: str
    set_id: int
    start: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class FetchOutlook:
    """How the fetching stands.

    Attributes:
        rate: bytes a second that the line is believed to carry.
        measured: whether that was measured, or is a guess.
        missing_bytes: bytes that the coming runs still want.
        missing_files: how many files.
        late_files: how many of them cannot be here in time at that rate.
        crowded_out: coming runs whose sets find no room in the cache beside the earlier ones.
        ready_in: seconds until everything timely is here.
        resting: why nothing is fetched at the moment; None when something is, or need not be.
    """

    rate: float
    measured: bool
    missing_bytes: int = 0
    missing_files: int = 0
    late_files: int = 0
    crowded_out: int = 0
    ready_in: float = 0.0
    resting: str | None = None


@dataclass
class _RateMeter:
    """Bytes a second while anything is on its way; old knowledge fades."""

    active: int = 0
    since: float = 0.0
    busy: float = 0.0
    carried: float = 0.0

    def begin(self, now: float) -> None:
        self._pass(now)
        self.active += 1

    def end(self, now: float, size: int) -> None:
        self._pass(now)
        self.active -= 1
        self.carried += size

    def rate(self) -> float | None:
        return self.carried / self.busy if self.carried and self.busy else None

    def _pass(self, now: float) -> None:
        if self.active:
            passed = max(0.0, now - self.since)
            kept = 0.5 ** (passed / _MEMORY_SPAN)
            self.busy, self.carried = self.busy * kept + passed, self.carried * kept
        self.since = now


@dataclass(eq=False, slots=True)
class _Chosen:
    """One set that is to be here, with the earliest run that wants it, and what it lacks."""

    need: Need
    found: ImageSet | None
    missing: dict[Key, Wanted] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.found is not None and not self.missing

    @property
    def shown(self) -> bool:
        """Whether a run can be begun, and ended, with what is here."""
        lacking = {wanted.rank for wanted in self.missing.values()}
        return self.found is not None and not lacking & {META, FINAL}


class Prefetcher:
    """Warms a cache for the runs to come; also the `Availability` that tells what is at hand.

    Args:
        cache: where copies are kept.
        library: reads the metas, through `cache`.
        needs: asked for the coming runs, the earliest first, whenever a plan is made.
        clock: what runs are due by.
        parallel: files on their way at once.
        bits_per_second: what the line may be used for at most; 0 for all it carries.
        uniform: draws the jitter of rests.

    Attributes:
        stumbles: mistakes of ours so far, each of which cost a file a pause.
    """

    def __init__(
        self,
        cache: LocalCache,
        library: Library,
        needs: Callable[[], Sequence[Need]],
        clock: Ticker,
        *,
        parallel: int = 4,
        bits_per_second: float = 0.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._cache = cache
        self._library = library
        self._needs = needs
        self._clock = clock
        self._parallel = parallel
        self._budget = bits_per_second / 8
        self._uniform = uniform
        self._queue: deque[Wanted] = deque()
        self._under_way: dict[Key, Wanted] = {}
        self._bad: dict[Key, float] = {}
        self._asked: dict[Key, float] = {}
        self._waiting: dict[Key, list[asyncio.Future[None]]] = {}
        self._more = asyncio.Event()
        self._landed = asyncio.Event()
        self._nudged = asyncio.Event()
        self._meter = _RateMeter()
        self._free_at = 0.0
        self.stumbles = 0
        self._in_a_row: dict[str, int] = {}
        self._stumbled: str | None = None
        self._denied = 0
        self._failures = 0
        self._rest_until = 0.0
        self._reason: str | None = None
        self._chosen: dict[str, list[_Chosen]] = {}
        self._lasts: dict[str, _Chosen] = {}
        self._plan = FetchPlan((), (), 0.0)
        self._pinned: frozenset[Key] = frozenset()
        self._timely: set[Key] = set()
        self._planning = True
        self._planned_rate = FIRST_GUESS
        self._crowded_out = 0

    # ------------------------------------------------------------ what is at hand

    def holds(self, key: Key) -> bool:
        """See `Availability.holds`."""
        return self._cache.holds(key)

    def expects(self, key: Key) -> bool:
        """See `Availability.expects`."""
        # While a plan is being made, anything may be in it.
        return self._planning or key in self._under_way or key in self._timely

    async def arrival(self, key: Key) -> None:
        """See `Availability.arrival`. Nothing is fetched for it that the plan does not fetch."""
        if self._cache.holds(key):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, [])
        waiting.append(future)
        try:
            await future
        finally:
            waiting.remove(future)
            if not waiting:
                self._waiting.pop(key, None)

    def holding(self, keys: Collection[Key]) -> AbstractContextManager[None]:
        """See `Availability.holding`. What is being played has changed, so there is a new plan."""
        self.nudge()
        return self._cache.holding(keys)

    def coverage(self, action_id: str) -> Coverage | None:
        """How much of a coming action is here; None for one that is not coming."""
        if action_id not in self._lasts:
            return None
        chosen, last = self._chosen[action_id], self._lasts[action_id]
        if all(each.whole for each in chosen):
            return "all"
        if last.whole:
            return "one"
        return "thin" if any(each.shown for each in (*chosen, last)) else "none"

    def outlook(self) -> FetchOutlook:
        """How the fetching stands."""
        planned = {**self._under_way, **{wanted.key: wanted for wanted in self._plan.order}}
        left = [wanted for wanted in planned.values() if not self._cache.holds(wanted.key)]
        late = {wanted.key for wanted in self._plan.late}
        rate, missing = self.rate, sum(wanted.size for wanted in left)
        late_files = sum(1 for wanted in left if wanted.key in late)
        return FetchOutlook(
            rate=rate,
            measured=self._meter.rate() is not None,
            missing_bytes=missing,
            missing_files=len(left),
            late_files=late_files,
            crowded_out=self._crowded_out,
            ready_in=sum(w.size for w in left if w.key not in late) / rate,
            resting=self._reason if self._clock.now() < self._rest_until else None,
        )

    @property
    def stumbled(self) -> str | None:
        """The last mistake of ours, while what it was about has not come since."""
        return self._stumbled if self._in_a_row else None

    @property
    def busy(self) -> bool:
        """Whether anything is on its way, or may be in a moment."""
        return self._planning or bool(self._under_way)

    @property
    def rate(self) -> float:
        """Bytes a second that may be counted on."""
        rate = self._meter.rate() or FIRST_GUESS
        return min(rate, self._budget) if self._budget else rate

    # ------------------------------------------------------------ the work

    def nudge(self) -> None:
        """The show moved, or its sets changed: plan anew, now."""
        self._planning = True
        self._nudged.set()

    async def run(self) -> None:
        """Plan and fetch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._parallel):
                group.create_task(self._fetch_on(), name=f"prefetch {number}")
            while True:
                try:
                    await self.plan()
                except StoreError as error:
                    self._rest(error)
                except Exception as error:  # noqa: BLE001 - months unattended: the next plan may do
                    self._note_mistake(_PLANNING, error)
                    self._rest(error)
                else:
                    self._in_a_row.pop(_PLANNING, None)
                self._planning = self._nudged.is_set()
                await self._until_nudged(self._clock.now() + PLAN_AGAIN)

    async def _until_nudged(self, when: float) -> None:
        await first_of(self._clock.sleep_until(when), self._nudged.wait())
        if self._nudged.is_set():
            # Whatever nudged us is busy bringing a picture to the wall; there may be more of it.
            await self._clock.sleep_until(self._clock.now() + _BREATH)
        self._nudged.clear()

    async def plan(self) -> None:
        """Look at what is coming and what is here, pin the coming sets, and queue what is missing.

        Raises:
            StoreError: the cache could not be read.
        """
        now = self._clock.now()
        self._bad = {key: until for key, until in self._bad.items() if until > now}
        needs = self._needs()
        chosen: list[_Chosen] = []
        for number, need in enumerate(_first_of_each(needs)):
            chosen.append(await self._look_at(need))
            if number % _AT_A_STRETCH == 0:
                await asyncio.sleep(0)  # the show's frames go first
        unknown = {key for each in chosen if each.found is None for key in each.missing}
        self._asked = {key: at for key, at in self._asked.items() if key in unknown}
        lasts = await self._last_resorts(chosen)
        kept = self._make_room(_by_importance(chosen, lasts, now))
        # Before anything is fetched: room for it is made of what is neither pinned nor played.
        keys = frozenset(chain.from_iterable(_keys(each) for each in kept))
        if keys != self._pinned:
            self._cache.pin(keys)
            self._pinned = keys
        missing = {key: wanted for each in kept for key, wanted in each.missing.items()}
        lasting = {_ASKING, _PLANNING, *missing}
        self._in_a_row = {what: n for what, n in self._in_a_row.items() if what in lasting}
        rate = self._planned_rate = self.rate
        # What is on its way keeps the line busy for a while; the rest begins after it.
        on_its_way = sum(wanted.size for wanted in self._under_way.values())
        useful = [
            wanted
            for key, wanted in missing.items()
            if wanted.latest > now and key not in self._bad and key not in self._under_way
        ]
        self._plan = plan_fetches(useful, now=now + on_its_way / rate, rate=rate * _PRUDENCE)
        self._lasts, self._chosen = lasts, {action_id: [] for action_id in lasts}
        for each in chosen:
            self._chosen[each.need.action_id].append(each)
        self._timely = {wanted.key for wanted in self._plan.timely}
        self._queue = deque(self._plan.order)
        if self._queue:
            self._more.set()

    async def _look_at(self, need: Need) -> _Chosen:
        """What of a set is here, and what of it is missing."""
        key = meta_key(need.action_id, need.set_id)
        if key in self._bad or not self._cache.holds(key):
            # Long before its images: only from the meta it is known what they weigh.
            asked = self._asked.setdefault(key, self._clock.now())
            soon = max(asked + _META_SOON, need.start - _META_AHEAD)
            end = need.end if need.end is not None else need.start + _UNKNOWN_RUN
            wanted = Wanted(key, _UNKNOWN_META, _ascending(soon, need.start - MARGIN, end), META)
            return _Chosen(need, None, {key: wanted})
        try:
            found = await self._library.open_set(need.action_id, need.set_id)
        except BrokenSet:
            self._bad[key] = self._clock.now() + _BAD_FOR
            return _Chosen(need, None)
        holds = self._cache.holds
        if all(map(holds, found.images)):  # as nearly always
            return _Chosen(need, found)
        return _Chosen(need, found, {w.key: w for w in _files(found, need) if not holds(w.key)})

    async def _last_resorts(self, chosen: Sequence[_Chosen]) -> dict[str, _Chosen]:
        """One whole set of each coming action: one that is here, else the first to be played."""
        lasts: dict[str, _Chosen] = {}
        for each in chosen:
            action_id = each.need.action_id
            if each.whole and not (action_id in lasts and lasts[action_id].whole):
                lasts[action_id] = each
            lasts.setdefault(action_id, each)
        for action_id, last in lasts.items():
            if last.whole:
                continue
            for set_id in self._library.set_ids(action_id):
                if not self._cache.holds(meta_key(action_id, set_id)):
                    continue
                other = await self._look_at(Need(action_id, set_id, last.need.start, last.need.end))
                if other.whole:
                    lasts[action_id] = other
                    break
        return lasts

    def _make_room(self, sets: Iterable[_Chosen]) -> list[_Chosen]:
        """As many of the sets, in their order, as there is room for."""
        room = self._cache.capacity * _FILL
        kept: list[_Chosen] = []
        crowded_out = 0
        for each in sets:
            size = _size(each)
            if size <= room:
                room -= size
                kept.append(each)
            else:
                crowded_out += 1
        self._crowded_out = crowded_out
        return kept

    async def _fetch_on(self) -> None:
        """Fetch file after file. A mistake costs its file a pause, and nobody else anything."""
        while True:
            wanted: Wanted | None = None
            try:
                wanted = await self._next()
                self._under_way[wanted.key] = wanted
                await self._fetch(wanted)
            except asyncio.CancelledError as error:
                if being_cancelled():
                    raise
                await self._stumble(wanted, error)
            except Exception as error:  # noqa: BLE001 - a dead fetcher would cost every file
                await self._stumble(wanted, error)
            finally:
                if wanted is not None:
                    self._under_way.pop(wanted.key, None)
                self._landed.set()

    async def _stumble(self, wanted: Wanted | None, error: BaseException) -> None:
        """Have what was wanted asked for again after a pause."""
        pause = self._note_mistake(_ASKING if wanted is None else wanted.key, error)
        if wanted is None:
            # It did not even come to asking: this fetcher rests, and the others go on.
            await self._clock.sleep_until(self._clock.now() + pause)
        else:
            self._bad[wanted.key] = self._clock.now() + pause
            self._rest(error)  # it may be so with every file

    def _note_mistake(self, what: str, error: BaseException) -> float:
        """Tell of a mistake of ours; seconds to wait before what went wrong is tried again."""
        self.stumbles += 1
        self._in_a_row[what] = failures = self._in_a_row.get(what, 0) + 1
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._stumbled = f"{what}: {reason}"
        pause = back_off(failures, _FIRST_REST, _LONGEST_REST)
        if failures == 1:
            _log.error("prefetch_failed", what=what, pause=pause, exc_info=error)
        return pause

    async def _next(self) -> Wanted:
        """The next file, once it may be asked for."""
        while True:
            now = self._clock.now()
            wait_until = max(self._rest_until, self._free_at if self._budget else 0.0)
            if now < wait_until:
                await self._clock.sleep_until(wait_until)
            elif self._under_way and (self._failures or self._enough_under_way()):
                # Whether the store is back, one file finds out.
                self._landed.clear()
                await self._landed.wait()
            elif self._cache.demand:
                await self._clock.sleep_until(now + _YIELD)
            elif self._queue:
                wanted = self._queue.popleft()
                if not self._cache.holds(wanted.key) and wanted.latest > now:
                    if self._budget:
                        self._free_at = max(self._free_at, now) + wanted.size / self._budget
                    return wanted
            else:
                self._more.clear()
                await self._more.wait()

    def _enough_under_way(self) -> bool:
        """Whether another file would only lengthen the wait for one that is wanted at once."""
        on_its_way = sum(wanted.size for wanted in self._under_way.values())
        return on_its_way > self.rate * _UNDER_WAY

    async def _fetch(self, wanted: Wanted) -> None:
        carried = 0
        self._meter.begin(self._clock.now())
        try:
            carried = await self._cache.fetch(wanted.key)
        except (NotFound, StoreCorrupt):
            self._bad[wanted.key] = self._clock.now() + _BAD_FOR
        except StoreDenied as error:
            # One file that may not be read must not keep all others waiting; but where none may,
            # asking on and on helps nobody.
            self._bad[wanted.key] = self._clock.now() + _BAD_FOR
            self._denied += 1
            if self._denied >= _DENIED_IN_A_ROW:
                self._rest(error)
        except StoreError as error:
            self._rest(error)
            self._queue.appendleft(wanted)
        else:
            self._denied = 0
            if self._failures:
                self._failures, self._reason = 0, None
                self.nudge()  # the rates, and what is late, may have changed
            self._arrived(wanted)
            self._in_a_row.pop(wanted.key, None)
            self._in_a_row.pop(_ASKING, None)
        finally:
            self._meter.end(self._clock.now(), carried)
        if not 1 / _ANOTHER_RATE < self.rate / self._planned_rate < _ANOTHER_RATE:
            self.nudge()

    def _arrived(self, wanted: Wanted) -> None:
        if not self._cache.holds(wanted.key):
            # No room, or no disk: asked for again only with a plan that knows.
            self._bad[wanted.key] = self._clock.now() + _BAD_FOR
            return
        place = set_place(wanted.key)
        if place is not None and place.action_id in self._lasts:
            for each in (*self._chosen[place.action_id], self._lasts[place.action_id]):
                each.missing.pop(wanted.key, None)
        for future in self._waiting.get(wanted.key, ()):
            if not future.done():
                future.set_result(None)
        if wanted.rank == META:
            self.nudge()  # now its images are known

    def _rest(self, error: BaseException) -> None:
        self._failures += 1
        longest = back_off(self._failures, _FIRST_REST, _LONGEST_REST)
        self._rest_until = self._clock.now() + self._uniform(longest / 2, longest)
        if self._reason is None:
            _log.warning("prefetch_rests", reason=str(error))
        self._reason = str(error)


def _first_of_each(needs: Iterable[Need]) -> list[Need]:
    """Each set once, for the earliest run that wants it."""
    firsts: dict[tuple[str, int], Need] = {}
    for need in sorted(needs, key=lambda need: need.start):
        firsts.setdefault((need.action_id, need.set_id), need)
    return list(firsts.values())


def _by_importance(
    chosen: Sequence[_Chosen], lasts: dict[str, _Chosen], now: float
) -> list[_Chosen]:
    """What is soon; one set for every coming action; then the rest, each by its time."""
    soon = [each for each in chosen if each.need.start < now + SOON]
    ordered = [*soon, *sorted(lasts.values(), key=lambda each: each.need.start), *chosen]
    once: dict[tuple[str, int], _Chosen] = {}
    for each in ordered:
        once.setdefault((each.need.action_id, each.need.set_id), each)
    return list(once.values())


def _keys(chosen: _Chosen) -> tuple[Key, ...]:
    key = meta_key(chosen.need.action_id, chosen.need.set_id)
    return (key,) if chosen.found is None else (key, *chosen.found.images)


def _size(chosen: _Chosen) -> int:
    if chosen.found is None:
        return _UNKNOWN_META  # then there is a new plan, that knows
    return sum(_UNKNOWN_IMAGE if step.size is None else step.size for step in chosen.found.steps)


def _files(found: ImageSet, need: Need) -> list[Wanted]:
    """Every image of a set, with the time at which the run wants it."""
    seconds = [
        _UNKNOWN_DURATION if step.duration is None else step.duration for step in found.steps
    ]
    total, factor = sum(seconds), 1.0
    if need.end is not None and total > 0:
        factor = min(1.0, max(need.end - need.start, 0.0) / total)
    due = [need.start + factor * passed for passed in accumulate(seconds)]
    ranks = [*preview_ranks(len(found.steps) - 1), FINAL]
    files: list[Wanted] = []
    for step, at, rank in zip(found.steps, due, ranks, strict=True):
        # A run is begun with its final image in hand: then nothing can keep it from its end.
        early = (need.start - _FINAL_AHEAD, need.start - MARGIN) if step.final else (at - MARGIN,)
        size = _UNKNOWN_IMAGE if step.size is None else step.size
        files.append(Wanted(step.key, size, _ascending(*early, at), rank))
    return files


def _ascending(*times: float) -> tuple[float, ...]:
    return tuple(accumulate(times, max))
