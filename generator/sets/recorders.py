"""How sets are recorded in a batch: by which way each comes into the store.

An engine's pictures come through here and are kept as they come; an engine that draws several
at once is asked for several; a worker that writes to the same bucket is left to keep its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar

from cache.model.documents import FormatError
from cache.model.formats import parse_meta
from cache.model.keys import meta_key
from cache.stores.port import NotFound, SharedStore, Store
from generator.engines.port import BatchEngine, Engine
from generator.engines.remote.engine import RemoteEngine
from generator.engines.remote.protocol import NotKeptThere, SetRequest
from generator.sets.numbers import Numbers, release
from generator.sets.recorder import PlannedSet, Recorder, found_set
from generator.sheet.description import describe
from generator.sheet.plan import Action


@dataclass(frozen=True, slots=True)
class RecordedSet:
    """A set that is whole now, and whether it was drawn for that or was there already.

    `set_id` is what was asked for; where another recipe's set has that number, it got the next.
    """

    set_id: int
    drawn: bool


def recorder_for(
    engine: Engine, store: Store, *, anew: bool, numbers: Numbers, say: Callable[[str], None]
) -> SetRecorder:
    """The best way by which an engine's sets come into a store.

    Args:
        engine: what draws.
        store: where sets go.
        anew: draw also what is there already.
        numbers: those of the batch.
        say: is told where the pictures go, once that is known.
    """
    here = LocalRecorder(engine, store, anew=anew, numbers=numbers)
    if isinstance(engine, RemoteEngine):
        if isinstance(store, SharedStore):
            return RemoteRecorder(engine, store, here, say)
        say(f"its pictures come through here, into {store.url}")
    return here


@dataclass(frozen=True)
class LocalRecorder:
    """Keeps here what an engine draws."""

    engine: Engine
    store: Store
    anew: bool
    numbers: Numbers

    @property
    def at_once(self) -> int:
        """How many sets of one action it is worth asking for together now."""
        return self.engine.batch_size if isinstance(self.engine, BatchEngine) else 1

    async def record(
        self, action: Action, set_ids: Sequence[int]
    ) -> AsyncGenerator[RecordedSet, None]:
        """Record sets; each is whole and registered when it is told of. Left by `aclosing`.

        What another batch has drawn meanwhile is looked for first.

        Raises:
            EngineError, StoreError, FormatError: as `Recorder.record`; what was told of stays.
        """
        # What was asked for, by the number that it gets: another sheet's batch may have been first.
        wanted: dict[int, int] = {}
        for set_id in set_ids:
            planned = PlannedSet.of(action, set_id)
            if not self.anew and await found_set(self.store, planned) is not None:
                yield RecordedSet(set_id, drawn=False)
            else:
                number = await self.numbers.grant(action.action_id, set_id, action.fingerprint)
                wanted[number] = set_id
        recorder = Recorder(self.engine, self.store)
        if len(wanted) > 1 and isinstance(self.engine, BatchEngine):
            async with aclosing(recorder.record_batch(self.engine, action, [*wanted])) as metas:
                for set_id in wanted.values():
                    await anext(metas)
                    yield RecordedSet(set_id, drawn=True)
            return
        for number, set_id in wanted.items():
            await recorder.record(action, number)
            yield RecordedSet(set_id, drawn=True)


@dataclass
class RemoteRecorder:
    """Leaves it to a worker to keep what it draws, where its store is ours.

    Two machines may know different servers by one address, so that only what is found in our
    own store is believed. Where the worker keeps its sets elsewhere, pictures come through here.

    Args:
        engine: the worker.
        store: ours.
        here: the other way.
        say: is told which way it is, once that is known, and when it changes.
    """

    engine: RemoteEngine
    store: SharedStore
    here: LocalRecorder
    say: Callable[[str], None]
    at_once: ClassVar[int] = 1  # a worker has a queue of its own
    _kept_there: bool | None = field(default=None, init=False)

    async def record(
        self, action: Action, set_ids: Sequence[int]
    ) -> AsyncGenerator[RecordedSet, None]:
        """See `LocalRecorder.record`."""
        for set_id in set_ids:
            if self._kept_there is not False and await self._drawn_there(action, set_id):
                yield RecordedSet(set_id, drawn=True)
                continue
            async with aclosing(self.here.record(action, [set_id])) as made:
                async for each in made:
                    yield each

    async def _drawn_there(self, action: Action, set_id: int) -> bool:
        numbers = self.here.numbers
        number = await numbers.grant(action.action_id, set_id, action.fingerprint)
        asked = SetRequest(
            recipe=action.recipe,
            action_id=action.action_id,
            set_id=number,
            description=describe(action),
            store=self.store.address,
        )
        if self.here.anew:  # the worker would find the one that is there
            await self.store.delete(meta_key(action.action_id, number))
        try:
            meta = await self.engine.draw_set(asked)
        except NotKeptThere as error:
            self._turn(False, f"its pictures come through here: {error}")
            return False
        await release(self.store, action.action_id, number, action.fingerprint)
        if not await self._is_ours(action, number, meta.seed):
            self._turn(
                False,
                "it kept a set in another store of the same address; its pictures"
                " come through here",
            )
            return False
        self._turn(True, f"it keeps its sets itself, in {self.store.url}")
        return True

    async def _is_ours(self, action: Action, set_id: int, seed: int | None) -> bool:
        key = meta_key(action.action_id, set_id)
        try:
            found = parse_meta(await self.store.get(key), key)
        except (NotFound, FormatError):
            return False
        return (found.fingerprint, found.seed) == (action.fingerprint, seed)

    def _turn(self, kept_there: bool, text: str) -> None:
        if self._kept_there is not kept_there:
            self._kept_there = kept_there
            self.say(text)


SetRecorder = LocalRecorder | RemoteRecorder
"""Records sets of an action, one way or another."""
