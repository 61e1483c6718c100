"""Whether every coming cue has something to stand on, found out while the show plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from operator import is_not
from typing import Any, get_args

import structlog

from cache.model.documents import FormatError
from cache.prefetch.prefetcher import Coverage
from cache.stores.port import StoreError
from generator.sheet.plan import Action, Plan
from server.core.clock import Clock
from server.core.metrics import Metrics
from server.modes.coverage import UncoveredCue, uncovered
from server.modes.ladder import Sets
from server.providers.static import StaticProvider
from server.supply.sources import Supply

_log = structlog.get_logger(__name__)

LOOK_AGAIN = 60.0
"""Seconds between two looks at the store, for sets that were drawn or lost meanwhile."""

LOOK_SOON = 5.0
"""Seconds between two looks while the store does not answer, or copies come."""

_NAMED = 5


class Readiness:
    """Looks through the sets of every action, again and again.

    Args:
        plan: the show's actions; it follows the store, as it is looked at.
        supply: the sets there are, and how much of them is on this machine.
        static: who plays them, and knows which are faulty.
        clock: the time.
        metrics: where it is counted.
        still: whether the show has a still image, on which every cue can end.
        engines: the engines that may draw for a cue, by name.
        may_draw: whether they may for an action.

    Attributes:
        plan, supply, static: as given.
        looked: whether the sets have been looked through once.
        store_problem: why the sets could not be looked through, where they could not.
        renamed: told the new ids of actions by their old ones, where the store has changed them.
    """

    def __init__(
        self,
        plan: Plan,
        supply: Supply,
        static: StaticProvider,
        clock: Clock,
        metrics: Metrics,
        *,
        still: bool = False,
        engines: Sequence[str] = (),
        may_draw: Callable[[Action], bool] = lambda _action: True,
    ) -> None:
        self.plan = plan
        self.supply = supply
        self.static = static
        self._clock = clock
        self._metrics = metrics
        self._still = still
        self._engines = tuple(engines)
        self._may_draw = may_draw
        self.renamed: Callable[[Mapping[str, str]], None] = lambda _ids: None
        self._followed: Mapping[str, tuple[str, ...]] | None = None
        self.looked = False
        self.store_problem: str | None = None
        self._seen: tuple[object, ...] = ()
        self._revision = 0
        self._counted: dict[str, int] = {}
        self._lacking: tuple[Action, ...] = ()
        self._uncovered: tuple[UncoveredCue, ...] = ()
        self._looking = asyncio.Lock()

    @property
    def revision(self) -> int:
        """Counts up when it has changed which sets can be played, as far as is known."""
        self._counts()
        return self._revision

    def sets(self, action_id: str) -> int:
        """How many sets of an action can be played, as far as is known."""
        return self._counts().get(action_id, 0)

    def _counts(self) -> Mapping[str, int]:
        """The same of every action: looked through once, until there is a new manifest or fault."""
        manifest = self.supply.library.manifest
        seen = manifest, self.plan.actions, self.store_problem, *self.static.faults
        if len(seen) != len(self._seen) or any(map(is_not, seen, self._seen)):
            self._seen = seen
            self._revision += 1
            ids = (action.action_id for action in self.plan.actions)
            self._counted = {each: len(self.static.usable(each)) for each in ids}
            self._lacking = tuple(a for a in self.plan.actions if not self._counted[a.action_id])
        return self._counted

    def copies(self, action_id: str) -> Coverage | None:
        """How much of a coming action is on this machine; None where that is no question."""
        return self.supply.coverage(action_id)

    def without_sets(self) -> list[str]:
        """The actions without a set that can be played."""
        self._counts()
        return [each.action_id for each in self._lacking]

    def coverage(self) -> Mapping[str, Any]:
        """How many actions can be played from sets, and what is wrong with the others."""
        without_sets = self.without_sets()
        return {
            "actions": len(self.plan.actions),
            "with_sets": len(self.plan.actions) - len(without_sets),
            "supply": self.supply.status(),
            "copies": self._copies(),
            "without_sets": without_sets,
            "unproven": [
                {"action_id": each.action_id, "cue_index": each.cue_index, "reason": each.reason}
                for each in self.uncovered()
            ],
            "faulty_sets": [
                {"action_id": action_id, "set_id": number, "reason": fault.reason}
                for (action_id, number), fault in sorted(
                    self.static.faults.items(), key=lambda item: item[0]
                )
            ],
        }

    def _copies(self) -> dict[str, int] | None:
        """How many coming actions are here, by how much of them is."""
        levels = [self.supply.coverage(action.action_id) for action in self.plan.actions]
        counts = {level: levels.count(level) for level in get_args(Coverage)}
        return counts if any(counts.values()) else None

    def uncovered(self) -> tuple[UncoveredCue, ...]:
        """The cues whose ladder ends in nothing that cannot fail."""
        counts = self._counts()
        return uncovered(
            self._lacking,
            sets=counts.__getitem__,
            still=self._still,
            engines=self._engines,
            may_draw=self._may_draw,
        )

    def sets_in_time(self, action: Action) -> Sets:
        """Whether a set of `action` can be on screen in time, as far as is known."""
        if not self.sets(action.action_id):
            return "none"
        here = self.supply.coverage(action.action_id)
        late = self.store_problem is not None if here is None else here == "none"
        return "late" if late else "ready"

    async def keep_looking(self) -> None:
        """Look now, and every minute, until cancelled; more often while the store is away."""
        while True:
            await self.look()
            away = (
                self.store_problem is not None
                or self.supply.unreachable() is not None
                or not self.supply.library.found  # a disk that comes later, or was never drawn on
            )
            soon, again = self._clock.stretch(LOOK_SOON), self._clock.stretch(LOOK_AGAIN)
            until = self._clock.now() + (soon if away else again)
            while self._clock.now() < until:
                came = self.supply.fetched
                await self._clock.sleep_until(min(until, self._clock.now() + soon))
                if self.supply.fetched != came:
                    await self.static.prove(self.plan.actions)  # what has come meanwhile

    def _follow(self) -> None:
        """Have the plan take over the ids of what the store holds now."""
        library = self.supply.library
        finished = library.manifest.fingerprints
        if finished == self._followed:
            return
        self._followed = finished
        renamed = self.plan.follow(finished)
        library.want(self.plan.wanted)
        if renamed:
            _log.info("plan_follows_store", actions=len(renamed), first=[*renamed.items()][:_NAMED])
            self.renamed(renamed)

    async def look(self) -> None:
        """Read the manifest anew and look through every set of the show."""
        await self.refresh()
        await self.static.prove(self.plan.actions)

    async def refresh(self) -> None:
        """Read the manifest anew and look which sets there are, but not into their images."""
        async with self._looking:
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            await self.supply.library.refresh()
        except (StoreError, FormatError) as error:
            if self.store_problem is None:
                _log.warning("store_unreachable", reason=str(error))
            self.store_problem = f"the store cannot be read: {error}"
        else:
            self.store_problem = None
        self._follow()
        await self.static.survey(self.plan.actions)
        self.looked = True
        counts = [self.sets(action.action_id) for action in self.plan.actions]
        self._metrics.sets_usable.set(sum(counts))
        self._metrics.cues_without_sets.set(counts.count(0))
        found = self.uncovered()
        if found != self._uncovered:
            self._uncovered = found
            if found:
                first = [each.action_id for each in found[:_NAMED]]
                _log.warning(
                    "ladder_unproven",
                    count=len(found),
                    first=first,
                    why=f"there is no set to play, {found[0].reason}",
                )
