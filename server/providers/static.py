"""Mode B: replays sets that were drawn beforehand, with the durations recorded then."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar, Literal

import structlog
from cachetools import LRUCache

from cache.library import BrokenSet, Library, SetFlaw
from cache.model.formats import ImageSet
from cache.model.images import BadImage, decode_check
from cache.model.keys import meta_key
from cache.prefetch.availability import Availability, EverythingAvailable
from cache.prefetch.prefetcher import Need
from cache.stores.port import StoreError
from generator.sheet.plan import Action
from server.core.clock import Clock, timeout_at
from server.core.random_streams import RandomStreams
from server.providers.base import (
    Frame,
    FrameStream,
    Offload,
    ProviderError,
    ProviderName,
    Slot,
    Source,
    StoreSilent,
)
from server.providers.latency import Latencies
from server.providers.shuffle import ShuffleBag
from server.providers.timing import TO_THE_WALL, Fit, complete, due_times

_log = structlog.get_logger(__name__)

SENT_AHEAD = 0.3
"""Seconds before it is due that a preview must have come, or the run goes on without it."""

READ_WITHIN = 0.5
"""Seconds in which what is at hand must have been read: a disk may fall silent, too."""

_PROVEN = 8192
"""Final images that are remembered to be pictures, or none."""

_READ_AGAIN = 600.0
"""Seconds after which a final image that is proven is read once more."""

_READ_AGAIN_AT_ONCE = 8
"""How many of them at a look: a thousand sets of a show take some hours, and cost nothing."""

_JOINED_LATE = 1.0
"""Seconds: a run that began longer ago is not new, it is joined in its middle."""

_LONGEST_GAP = 5.0
"""Seconds without a preview, none being there in time, after which the final image comes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a set is not played.

    Attributes:
        reason: in words, with the file's name.
        flaw: which kind of fault it is.
        of_image: it is an image's, so that a sound meta proves nothing.
    """

    reason: str
    flaw: SetFlaw | Literal["stale", "flat"]
    of_image: bool = False


@dataclass(eq=False)
class StaticProvider:
    """Plays the sets of a library, each action's out of a shuffle bag.

    A set that turns out to be broken, or that was drawn from another recipe, is passed
    over, reported once, and not tried again until a look at it has found it sound. A set that
    is at hand goes before one that is not, and a preview that is not at hand in time is left out.

    Args:
        library: the sets.
        bag: which comes next.
        clock: what frames are due by.
        streams: makes up durations that were not recorded.
        fit: whether a run that is too long for its slot is played faster.
        lead: seconds that every run begins later than its engine did, as a live one must.
        latencies: how long engines take to begin.
        longest_gap: seconds without a preview, none being there in time, after which the final
            image comes.
        availability: what is at hand; by default everything.
        offload: how pictures are looked at without keeping the event loop.

    Attributes:
        faults: why a set, by action id and number, is not played.
        playing: the set that is being played, and when its run began.
    """

    library: Library
    bag: ShuffleBag
    clock: Clock
    streams: RandomStreams
    fit: Fit
    _: KW_ONLY
    lead: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    longest_gap: float = _LONGEST_GAP
    availability: Availability = field(default_factory=EverythingAvailable)
    offload: Offload = asyncio.to_thread
    name: ClassVar[ProviderName] = "static"

    def __post_init__(self) -> None:
        self._proven: LRUCache[tuple[str, str | None, int | None], bool] = LRUCache(_PROVEN)
        self.playing: Need | None = None
        self._silent = False
        self.faults: dict[tuple[str, int], Fault] = {}
        self._read_at: dict[tuple[str, int], float] = {}
        self._told: dict[tuple[str, int], str] = {}

    def coming(self, action_id: str, count: int) -> tuple[int, ...]:
        """The sets that the next `count` runs of an action will play, as far as they are drawn."""
        return self.bag.coming(action_id, self.usable(action_id), count)

    def usable(self, action_id: str) -> tuple[int, ...]:
        """The sets of an action that, as far as is known, can be played."""
        return tuple(
            number
            for number in self.library.set_ids(action_id)
            if (action_id, number) not in self.faults
        )

    async def survey(self, actions: Sequence[Action]) -> None:
        """Look at the meta of every set of `actions` that is at hand, so that `usable` is true.

        What was faulty is looked at as well: the store may have been mended.
        """
        places = {(a.action_id, n): a for a in actions for n in self.library.set_ids(a.action_id)}
        for gone in self.faults.keys() - places.keys():
            del self.faults[gone]
        for (action_id, number), action in places.items():
            if self.availability.holds(meta_key(action_id, number)):
                await self._open_set(action, number)
            else:
                self.faults.pop((action_id, number), None)

    async def prove(self, actions: Sequence[Action]) -> None:
        """Look at the final image of every set of `actions` that is at hand.

        What is proven beforehand is begun the sooner. Each is decoded once; what was faulty is
        tried again, and of the others a few each time, those that were read longest ago: a
        file may have become unreadable since.
        """
        proven: list[tuple[float, Action, int]] = []
        now = self.clock.now()
        for action in actions:
            for number in self.library.set_ids(action.action_id):
                place = (action.action_id, number)
                if not await self._at_hand(action, number):
                    continue
                found = await self._open_set(action, number)
                if found is None:
                    continue
                if place not in self.faults and self._proven.get(_final_of(found)):
                    proven.append((self._read_at.setdefault(place, now), action, number))
                else:
                    await self._prove(found)
        stretch = self.clock.stretch(_READ_AGAIN)
        due = sorted((each for each in proven if each[0] < now - stretch), key=lambda each: each[0])
        for _, action, number in due[:_READ_AGAIN_AT_ONCE]:
            found = await self._open_set(action, number)
            if found is not None:
                await self._prove(found)

    async def _prove(self, found: ImageSet) -> None:
        """Read a set's final image, and take back what was said of it where it is sound."""
        place = (found.action_id, found.set_id)
        self._read_at[place] = self.clock.now()
        final = await self._image(found, len(found.steps) - 1)
        if final is not None and await self._is_a_picture(found, final):
            self.faults.pop(place, None)
            self._told.pop(place, None)

    @asynccontextmanager
    async def open(self, action: Action, slot: Slot) -> AsyncIterator[FrameStream]:
        """Choose a set and replay it in `slot`.

        Raises:
            ProviderError: the action has no set that can be played.
            StoreSilent: it may have, but the store fails.
        """
        found, final = await self._choose(action, slot)
        # A set is played once in a round: so anew for each run, and yet foreseeable.
        made_up = self.streams.stream(
            "durations", found.action_id, found.set_id, self.bag.round(found.action_id)
        )
        durations = complete([step.duration for step in found.steps], made_up)
        first = _first_after(slot.share, len(durations))
        ahead = self._ahead(found) if slot.leads_in and not slot.share else 0.0
        if slot.share:
            # In the rhythm of what came before, or, where that is long ago, at once.
            earliest = self.clock.now() + self.clock.stretch(TO_THE_WALL) - durations[first]
            slot = replace(slot, start=max(slot.start, earliest))
        due, squeeze = due_times(durations[first:], slot, self.fit, ahead)
        source = Source(
            provider="static",
            engine=found.meta.engine,
            set_id=found.set_id,
            set_hash=_hash_of(found),
            seed=found.meta.seed,
            squeeze=squeeze,
        )
        planned = tuple((number, at) for number, at in enumerate(due, start=first + 1))
        keys = [meta_key(found.action_id, found.set_id), *(step.key for step in found.steps)]
        begins = due[0] - squeeze * durations[first]
        playing = self.playing = Need(found.action_id, found.set_id, begins, due[-1])
        try:
            with self.availability.holding(keys):
                async with aclosing(self._frames(found, planned, final)) as frames:
                    yield FrameStream(source, len(durations), planned, frames)
        finally:
            if self.playing is playing:  # else another run has begun already
                self.playing = None

    def _ahead(self, found: ImageSet) -> float:
        """Seconds from the asking to the start of the first step, as of a live run."""
        named = self.bag.round(found.action_id)
        random = self.streams.stream("latency", found.action_id, found.set_id, named)
        meta = found.meta
        return self.lead + self.latencies.of_set(meta.engine, meta.latency, random)

    async def _choose(self, action: Action, slot: Slot) -> tuple[ImageSet, bytes]:
        """A set whose meta and final image are sound; the rest can do no more harm than a gap."""
        action_id = action.action_id
        untried = set(self.usable(action_id))
        last = self.bag.last(action_id)
        joined = self.clock.now() - slot.start > self.clock.stretch(_JOINED_LATE)
        # What was on the wall before a restart stays on it.
        number = last if joined and last in untried else await self._draw(action, untried)
        held_back = False
        while number is not None:
            untried.discard(number)
            found = await self._open_set(action, number)
            if found is not None:
                final = await self._image(found, len(found.steps) - 1)
                if final is not None and await self._is_a_picture(found, final):
                    return found, final
            held_back = held_back or (action_id, number) not in self.faults
            number = await self._draw(action, untried)
        if held_back:
            raise StoreSilent(f"no set of {action_id} can be played: the store fails")
        raise ProviderError(f"no set of {action_id} can be played")

    async def _draw(self, action: Action, among: set[int]) -> int | None:
        """The next set out of the bag: of those that can be shown whole, or else begun at once.

        The set whose turn it is need not be whole yet, as long as the rest is on its way.
        """
        first = self.bag.peek(action.action_id, among)
        if first is None or await self._can_be_whole(action, first):
            return self.bag.draw(action.action_id, among)
        here = {number for number in among if await self._at_hand(action, number)}
        others = here - {first, self.bag.last(action.action_id)}  # never the same twice running
        whole = {number for number in others if await self._can_be_whole(action, number)}
        return self.bag.draw(action.action_id, whole or (among if first in here else here) or among)

    async def _can_be_whole(self, action: Action, number: int) -> bool:
        """Whether a set can be begun at once and shown with every preview, as far as is known."""
        if not await self._at_hand(action, number):
            return False
        found = await self._open_set(action, number)
        return found is not None and all(
            self.availability.holds(step.key) or self.availability.expects(step.key)
            for step in found.steps[:-1]
        )

    async def _at_hand(self, action: Action, number: int) -> bool:
        """Whether a set can be begun at once: its meta and its final image are here."""
        if not self.availability.holds(meta_key(action.action_id, number)):
            return False
        found = await self._open_set(action, number)
        return found is not None and self.availability.holds(found.steps[-1].key)

    async def _open_set(self, action: Action, number: int) -> ImageSet | None:
        try:
            found = await self.library.open_set(action.action_id, number)
        except BrokenSet as error:
            self._report(action.action_id, number, Fault(error.reason, error.flaw))
        except StoreError as error:
            # The store's fault, not the set's: it is not held against it.
            _log.warning("store_failed", action_id=action.action_id, reason=str(error))
        else:
            fingerprint = found.meta.fingerprint
            if fingerprint is None or fingerprint == action.fingerprint:
                place = (action.action_id, number)
                fault = self.faults.get(place)
                if fault is None or not fault.of_image:
                    self.faults.pop(place, None)
                    self._told.pop(place, None)
                meta = found.meta
                if meta.latency is not None:
                    self.latencies.learn_set(action.action_id, number, meta.engine, meta.latency)
                return found
            self._report(
                action.action_id, number, Fault("stale: drawn from another recipe", "stale")
            )
        return None

    async def _image(self, found: ImageSet, index: int) -> bytes | None:
        try:
            return await self.library.image(found.steps[index])
        except BrokenSet as error:
            fault = Fault(error.reason, error.flaw, of_image=True)
            self._report(found.action_id, found.set_id, fault)
        except StoreError as error:
            _log.warning("store_failed", action_id=found.action_id, reason=str(error))
        return None

    async def _is_a_picture(self, found: ImageSet, image: bytes) -> bool:
        """Whether a set's final image can be decoded, and is not all one colour."""
        known = self._proven.get(_final_of(found))
        if known is not None:
            return known
        final = found.steps[-1]
        try:
            seen = await self.offload(lambda: decode_check(image, final.name, coarse=True))
        except BadImage as error:
            return self._unfit(found, Fault(str(error), error.flaw, of_image=True))
        if seen.is_flat:
            flat = Fault(f"{final.name} is all one colour", "flat", of_image=True)
            return self._unfit(found, flat)
        self._proven[_final_of(found)] = True
        return True

    def _unfit(self, found: ImageSet, fault: Fault) -> Literal[False]:
        """Hold against a set that its final image is none; the same is not decoded again."""
        self._report(found.action_id, found.set_id, fault)
        if found.steps[-1].sha256 is not None:
            self._proven[_final_of(found)] = False
        return False

    async def _frames(
        self, found: ImageSet, planned: Sequence[tuple[int, float]], final: bytes
    ) -> AsyncGenerator[Frame, None]:
        steps = len(found.steps)
        given, absent = planned[0][1], False
        for (number, due), (_, following) in itertools.pairwise(planned):
            if following <= self.clock.now():
                given = due
                continue  # joined in the middle: it has been, and nobody will see it
            image = await self._preview(found, number - 1, due)
            if image is None:
                # A preview less; the picture goes on to its end, sooner if nothing more comes.
                absent = True
                if following > given + self.longest_gap and not self._more_of(found, number):
                    break
                continue
            yield Frame(number, steps, False, due, image, found.steps[number - 1].media_type)
            given, absent = due, False
        number, due = planned[-1]
        if absent:
            # No preview comes any more, and the final image is here: the wall need not wait.
            soonest = self.clock.now() + self.clock.stretch(TO_THE_WALL)
            due = min(due, max(soonest, given + self.longest_gap))
        yield Frame(number, steps, True, due, final, found.steps[-1].media_type)

    def _more_of(self, found: ImageSet, number: int) -> bool:
        """Whether a preview after step `number` is at hand, and can be relied on to be read."""
        return not self._silent and any(
            self.availability.holds(step.key) for step in found.steps[number:-1]
        )

    async def _preview(self, found: ImageSet, index: int, due: float) -> bytes | None:
        """A preview, if it is at hand in time; one that is on its way is waited for until then."""
        key, now = found.steps[index].key, self.clock.now()
        until = due - self.clock.stretch(SENT_AHEAD)
        at_hand = self.availability.holds(key)
        if at_hand:
            until = max(until, now + self.clock.stretch(READ_WITHIN))
        elif until <= now or not self.availability.expects(key):
            return None
        try:
            async with timeout_at(self.clock, until):
                await self.availability.arrival(key)
                image = await self._image(found, index)
        except TimeoutError:
            self._silent = at_hand
            if at_hand:
                _log.warning("preview_missed", action_id=found.action_id, step=index + 1)
            return None
        self._silent = False
        return image

    def _report(self, action_id: str, number: int, fault: Fault) -> None:
        key = (action_id, number)
        self.faults[key] = fault
        if self._told.get(key) != fault.reason:
            # Once, not at every look for months.
            self._told[key] = fault.reason
            _log.warning("set_skipped", action_id=action_id, set_id=number, reason=fault.reason)


def _final_of(found: ImageSet) -> tuple[str, str | None, int | None]:
    """What tells a set's final image from any other."""
    final = found.steps[-1]
    return final.key, final.sha256, final.size


def _first_after(share: float, steps: int) -> int:
    """Index of the first step that takes the picture beyond `share`; the last at the latest."""
    return next((i for i in range(steps) if (i + 1) / steps > share), steps - 1)


def _hash_of(found: ImageSet) -> str | None:
    """One hash over a set's image hashes, where its meta has them all."""
    digest = hashlib.sha256()
    for step in found.steps:
        if step.sha256 is None:
            return None
        digest.update(bytes.fromhex(step.sha256))
    return "sha256:" + digest.hexdigest()
