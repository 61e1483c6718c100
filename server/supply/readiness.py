"""Whether every coming cue has something to stand on, found out while the show plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import structlog

from cache.model.documents import FormatError
from cache.prefetch.prefetcher import Coverage
from cache.stores.port import StoreError
from generator.plan import Action, PlanInForce
from server.clock import Clock
from server.metrics import Metrics
from server.modes.ladder import Sets
from server.modes.proof import Unproven, in_words, unproven
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
        renamed: told the new ids of actions by their old ones, where the store has changed them.
    """

    def __init__(
        self,
        plan: PlanInForce,
        supply: Supply,
        static: StaticProvider,
        clock: Clock,
        metrics: Metrics,
        *,
        still: bool = False,
        engines: Sequence[str] = (),
        may_draw: Callable[[Action], bool] = lambda _action: True,
    ) -> None:
        self._plan = plan
        self._supply = supply
        self._static = static
        self._clock = clock
        self._metrics = metrics
        self._still = still
        self._engines = tuple(engines)
        self._may_draw = may_draw
        self.renamed: Callable[[Mapping[str, str]], None] = lambda _ids: None
        self._followed: Mapping[str, tuple[str, ...]] | None = None
        self._looked = False
        self._store_problem: str | None = None
        self._unproven: tuple[Unproven, ...] = ()

    @property
    def looked(self) -> bool:
        """Whether the sets have been looked through once."""
        return self._looked

    @property
    def store_problem(self) -> str | None:
        """Why the sets could not be looked through, where they could not."""
        return self._store_problem

    def sets(self, action_id: str) -> int:
        """How many sets of an action can be played, as far as is known."""
        return len(self._static.usable(action_id))

    def copies(self, action_id: str) -> Coverage | None:
        """How much of a coming action is on this machine; None where that is no question."""
        return self._supply.coverage(action_id)

    def without_sets(self) -> list[str]:
        """The actions without a set that can be played."""
        return [each.action_id for each in self._plan.actions if not self.sets(each.action_id)]

    def coverage(self) -> Mapping[str, Any]:
        """How many actions can be played from sets, and what is wrong with the others."""
        without_sets = self.without_sets()
        return {
            "actions": len(self._plan.actions),
            "with_sets": len(self._plan.actions) - len(without_sets),
            "supply": self._supply.status(),
            "copies": self._copies(),
            "without_sets": without_sets,
            "unproven": [
                {"action_id": each.action_id, "cue_index": each.cue_index, "reason": each.reason}
                for each in self.unproven()
            ],
            "faulty_sets": [
                {"action_id": action_id, "set_id": number, "reason": fault.reason}
                for (action_id, number), fault in sorted(
                    self._static.faults.items(), key=lambda item: item[0]
                )
            ],
        }

    def problems(self) -> list[str]:
        """Why the show is not ready, the worst first; empty when it is."""
        problems: list[str] = []
        if not self._looked:
            problems.append("the sets have not been looked through yet")
        if self._store_problem:
            problems.append(self._store_problem)
        found = self.unproven()
        lacking = in_words(found)
        if lacking and self._looked:
            why = self._first_fault(found)
            problems.append(f"{lacking} ({why})" if why else lacking)
        return problems + self._not_here()

    def notes(self) -> list[str]:
        """What is not as it should be, though every coming cue can be played."""
        status = self._supply.status()
        if status is None:
            return []
        notes: list[str] = []
        unreachable = self._supply.unreachable()
        if unreachable is not None:
            notes.append(f"playing from the copies on this machine: {unreachable}")
        copies, line = status["copies"], status["line"]
        disk = copies["disk"]
        if disk["condition"] not in {"ok", "off"}:
            notes.append(f"no more copies are kept on disk ({disk['condition']}): {disk['reason']}")
        if line["crowded_out"]:
            notes.append(f"the cache has no room for {line['crowded_out']} of the coming sets")
        if line["late_files"]:
            notes.append(
                f"the line carries {line['rate'] * 8e-6:.1f} Mbit/s: {line['late_files']} previews "
                "will not be here in time and are left out"
            )
        return notes

    def _copies(self) -> dict[str, int] | None:
        """How many coming actions are here, by how much of them is."""
        levels = [self._supply.coverage(action.action_id) for action in self._plan.actions]
        counts = {level: levels.count(level) for level in get_args(Coverage)}
        return counts if any(counts.values()) else None

    def _not_here(self) -> list[str]:
        """Which coming cues could not be shown if the store fell silent now."""
        missing = [
            action.action_id
            for action in self._plan.actions
            if self._supply.coverage(action.action_id) == "none" and self.sets(action.action_id)
        ]
        if not missing:
            return []
        cues = "1 cue has" if len(missing) == 1 else f"{len(missing)} cues have"
        named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        unreachable = self._supply.unreachable()
        why = "its copies are being made" if unreachable is None else unreachable
        return [f"{cues} nothing to show on this machine yet ({why}): {named}"]

    def unproven(self) -> tuple[Unproven, ...]:
        """The cues whose ladder ends in nothing that cannot fail."""
        return unproven(
            self._plan.actions,
            sets=self.sets,
            still=self._still,
            engines=self._engines,
            may_draw=self._may_draw,
        )

    def _first_fault(self, found: Sequence[Unproven]) -> str | None:
        """Why the sets that there are will not do, of the first cue that lacks one."""
        if not self._supply.library.found:
            return "there is no manifest in the store"
        lacking = {each.action_id for each in found}
        faults = sorted(self._static.faults.items(), key=lambda item: item[0])
        return next(
            (
                f"{action_id} set {number}: {fault.reason}"
                for (action_id, number), fault in faults
                if action_id in lacking
            ),
            None,
        )

    def sets_in_time(self, action: Action) -> Sets:
        """Whether a set of `action` can be on screen in time, as far as is known."""
        if not self.sets(action.action_id):
            return "none"
        here = self._supply.coverage(action.action_id)
        late = self._store_problem is not None if here is None else here == "none"
        return "late" if late else "ready"

    async def keep_looking(self) -> None:
        """Look now, and every minute, until cancelled; more often while the store is away."""
        while True:
            await self.look()
            away = (
                self._store_problem is not None
                or self._supply.unreachable() is not None
                or not self._supply.library.found  # a disk that comes later, or was never drawn on
            )
            soon, again = self._clock.stretch(LOOK_SOON), self._clock.stretch(LOOK_AGAIN)
            until = self._clock.now() + (soon if away else again)
            while self._clock.now() < until:
                came = self._supply.fetched
                await self._clock.sleep_until(min(until, self._clock.now() + soon))
                if self._supply.fetched != came:
                    await self._static.prove(self._plan.actions)  # what has come meanwhile

    def _follow(self) -> None:
        """Have the plan take over the ids of what the store holds now."""
        library = self._supply.library
        finished = library.manifest.fingerprints
        if finished == self._followed:
            return
        self._followed = finished
        renamed = self._plan.follow(finished)
        library.want(self._plan.wanted)
        if renamed:
            _log.info("plan_follows_store", actions=len(renamed), first=[*renamed.items()][:_NAMED])
            self.renamed(renamed)

    async def look(self) -> None:
        """Read the manifest anew and look through every set of the show."""
        try:
            await self._supply.library.refresh()
        except (StoreError, FormatError) as error:
            if self._store_problem is None:
                _log.warning("store_unreachable", reason=str(error))
            self._store_problem = f"the store cannot be read: {error}"
        else:
            self._store_problem = None
        self._follow()
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
        await self._static.prove(self._plan.actions)
