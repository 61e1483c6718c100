"""Whether every coming cue has something to stand on, found out while the show plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from cache.documents import FormatError
from cache.library import Library
from cache.store import StoreError
from generator.plan import Action, Plan
from server.clock import Clock
from server.ladder import Sets
from server.metrics import Metrics
from server.proof import Unproven, in_words, unproven
from server.providers.static import StaticProvider

_log = structlog.get_logger(__name__)

LOOK_AGAIN = 60.0
"""Seconds between two looks at the store, for sets that were drawn or lost meanwhile."""

_NAMED = 5


class Readiness:
    """Looks through the sets of every action, again and again.

    Args:
        plan: the show's actions.
        library: the sets there are.
        static: who plays them, and knows which are faulty.
        clock: the time.
        metrics: where it is counted.
        still: whether the show has a still image, on which every cue can end.
        engines: the engines that may draw for a cue, by name.
    """

    def __init__(
        self,
        plan: Plan,
        library: Library,
        static: StaticProvider,
        clock: Clock,
        metrics: Metrics,
        *,
        still: bool = False,
        engines: Sequence[str] = (),
    ) -> None:
        self._plan = plan
        self._library = library
        self._static = static
        self._clock = clock
        self._metrics = metrics
        self._still = still
        self._engines = tuple(engines)
        self._looked = False
        self._store_problem: str | None = None
        self._unproven: tuple[Unproven, ...] = ()

    def sets(self, action_id: str) -> int:
        """How many sets of an action can be played, as far as is known."""
        return len(self._static.usable(action_id))

    def without_sets(self) -> list[str]:
        """The actions without a set that can be played."""
        return [each.action_id for each in self._plan.actions if not self.sets(each.action_id)]

    def coverage(self) -> Mapping[str, Any]:
        """How many actions can be played from sets, and what is wrong with the others."""
        without_sets = self.without_sets()
        return {
            "actions": len(self._plan.actions),
            "with_sets": len(self._plan.actions) - len(without_sets),
            "without_sets": without_sets,
            "unproven": [
                {"action_id": each.action_id, "cue_index": each.cue_index, "reason": each.reason}
                for each in self.unproven()
            ],
            "faulty_sets": [
                {"action_id": action_id, "set_id": number, "reason": reason}
                for (action_id, number), reason in sorted(self._static.faults.items())
            ],
        }

    def problems(self) -> list[str]:
        """Why the show is not ready, the worst first; empty when it is."""
        problems: list[str] = []
        if not self._looked:
            problems.append("the sets have not been looked through yet")
        if self._store_problem:
            problems.append(self._store_problem)
        lacking = in_words(self.unproven())
        if lacking and self._looked:
            problems.append(lacking)
        return problems

    def unproven(self) -> tuple[Unproven, ...]:
        """The cues whose ladder ends in nothing that cannot fail."""
        return unproven(
            self._plan.actions, sets=self.sets, still=self._still, engines=self._engines
        )

    def sets_in_time(self, action: Action) -> Sets:
        """Whether a set of `action` can be on screen in time, as far as is known."""
        if not self.sets(action.action_id):
            return "none"
        return "late" if self._store_problem else "ready"

    async def keep_looking(self) -> None:
        """Look now, and every minute, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep_until(self._clock.now() + LOOK_AGAIN)

    async def look(self) -> None:
        """Read the manifest anew and look through every set of the show."""
        try:
            await self._library.refresh()
        except (StoreError, FormatError) as error:
            if self._store_problem is None:
                _log.warning("store_unreachable", reason=str(error))
            self._store_problem = f"the store cannot be read: {error}"
        else:
            self._store_problem = None
            self._static.forget_faults()
        await self._static.survey(self._plan.actions)
        self._looked = True
        counts = [self.sets(action.action_id) for action in self._plan.actions]
        self._metrics.sets_usable.set(sum(counts))
        self._metrics.cues_without_sets.set(counts.count(0))
        found = self.unproven()
        if found != self._unproven:
            self._unproven = found
            if found:
                first = [each.action_id for each in found[:_NAMED]]
                _log.warning("ladder_unproven", count=len(found), first=first, why=in_words(found))
