"""Mode B: replays sets that were drawn beforehand, with the durations recorded then."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from random import Random

import structlog

from cache.formats import ImageSet
from cache.library import BrokenSet, Library
from cache.store import StoreError
from generator.plan import Action
from server.clock import Clock
from server.providers.base import Frame, ProviderError, ProviderName, Slot, Source, Take
from server.providers.shuffle import ShuffleBag
from server.providers.timing import Fit, complete, due_times

_log = structlog.get_logger(__name__)

_JOINED_LATE = 1.0
"""Seconds: a run that began longer ago is not new, it is joined in its middle."""


class StaticProvider:
    """Plays the sets of a library, each action's out of a shuffle bag.

    A set that turns out to be broken, or that was drawn from another recipe, is passed
    over, reported once, and not tried again until `forget_faults`.
    """

    def __init__(
        self, library: Library, bag: ShuffleBag, clock: Clock, rng: Random, fit: Fit
    ) -> None:
        self._library = library
        self._bag = bag
        self._clock = clock
        self._rng = rng
        self._fit: Fit = fit
        self._faults: dict[tuple[str, int], str] = {}
        self._told: dict[tuple[str, int], str] = {}

    @property
    def name(self) -> ProviderName:
        """Which rung of the ladder it is."""
        return "static"

    @property
    def faults(self) -> Mapping[tuple[str, int], str]:
        """Why a set, by action id and number, is not played."""
        return self._faults

    def usable(self, action_id: str) -> tuple[int, ...]:
        """The sets of an action that, as far as is known, can be played."""
        return tuple(
            number
            for number in self._library.set_ids(action_id)
            if (action_id, number) not in self._faults
        )

    def forget_faults(self) -> None:
        """Try every set again: the store may have been mended."""
        self._faults.clear()

    async def survey(self, actions: Iterable[Action]) -> None:
        """Look at the meta of every set of `actions`, so that `usable` is true."""
        for action in actions:
            for number in self.usable(action.action_id):
                await self._open_set(action, number)

    @asynccontextmanager
    async def open(self, action: Action, slot: Slot) -> AsyncIterator[Take]:
        """Choose a set and replay it in `slot`.

        Raises:
            ProviderError: the action has no set that can be played.
        """
        found, final = await self._choose(action, slot)
        durations = complete([step.duration for step in found.steps], self._rng)
        due, squeeze = due_times(durations, slot, self._fit)
        source = Source(
            provider="static",
            engine=found.meta.engine,
            set_id=found.set_id,
            set_hash=_hash_of(found),
            seed=found.meta.seed,
            squeeze=squeeze,
        )
        planned = tuple((number, at) for number, at in enumerate(due, start=1))
        async with aclosing(self._frames(found, due, final)) as frames:
            yield Take(source, len(due), planned, frames)

    async def _choose(self, action: Action, slot: Slot) -> tuple[ImageSet, bytes]:
        """A set whose meta and final image are sound; the rest can do no more harm than a gap."""
        action_id = action.action_id
        untried = set(self.usable(action_id))
        last = self._bag.last(action_id)
        joined = self._clock.now() - slot.start > _JOINED_LATE
        # What was on the wall before a restart stays on it.
        number = last if joined and last in untried else self._bag.draw(action_id, untried)
        while number is not None:
            untried.discard(number)
            found = await self._open_set(action, number)
            if found is not None:
                final = await self._image(found, len(found.steps) - 1)
                if final is not None:
                    return found, final
            number = self._bag.draw(action_id, untried)
        raise ProviderError(f"no set of {action_id} can be played")

    async def _open_set(self, action: Action, number: int) -> ImageSet | None:
        try:
            found = await self._library.open_set(action.action_id, number)
        except BrokenSet as error:
            self._report(action.action_id, number, error.reason)
        except StoreError as error:
            # The store's fault, not the set's: it is not held against it.
            _log.warning("store_failed", action_id=action.action_id, reason=str(error))
        else:
            fingerprint = found.meta.fingerprint
            if fingerprint is None or fingerprint == action.fingerprint:
                self._told.pop((action.action_id, number), None)
                return found
            self._report(action.action_id, number, "stale: drawn from another recipe")
        return None

    async def _image(self, found: ImageSet, index: int) -> bytes | None:
        try:
            return await self._library.image(found.steps[index])
        except BrokenSet as error:
            self._report(found.action_id, found.set_id, error.reason)
        except StoreError as error:
            _log.warning("store_failed", action_id=found.action_id, reason=str(error))
        return None

    async def _frames(
        self, found: ImageSet, due: Sequence[float], final: bytes
    ) -> AsyncGenerator[Frame, None]:
        steps = len(due)
        for index, step in enumerate(found.steps):
            last = index == steps - 1
            if not last and due[index + 1] <= self._clock.now():
                continue  # joined in the middle: it has been, and nobody will see it
            image = final if last else await self._image(found, index)
            if image is None:
                continue  # a preview less; the picture goes on to its end
            yield Frame(index + 1, steps, last, due[index], image, step.media_type)

    def _report(self, action_id: str, number: int, reason: str) -> None:
        key = (action_id, number)
        self._faults[key] = reason
        if self._told.get(key) != reason:
            # Once, not at every look for months.
            self._told[key] = reason
            _log.warning("set_skipped", action_id=action_id, set_id=number, reason=reason)


def _hash_of(found: ImageSet) -> str | None:
    """One hash over a set's image hashes, where its meta has them all."""
    digest = hashlib.sha256()
    for step in found.steps:
        if step.sha256 is None:
            return None
        digest.update(bytes.fromhex(step.sha256))
    return "sha256:" + digest.hexdigest()
