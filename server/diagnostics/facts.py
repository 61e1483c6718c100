"""What a rehearsal has found out: the facts that its checks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from functools import cached_property
from typing import Final

from cache.manifest import Manifest
from generator.plan import Plan
from generator.verify import SetFinding
from server.config.show import Show
from server.diagnostics.findings import Selection
from server.diagnostics.report import LineReport, ProbedEngine, RehearsalOptions, RehearsedRun
from server.modes.proof import UncoveredCue
from server.providers.static import Fault
from server.supply.inventory import StoreInventory


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found out before anything is played.

    Attributes:
        engines: every engine that plays live, as it answered.
        inventory: what lies in the store.
        verified: what is wrong with any image of any set, where all of them were looked at.
        free: bytes free on the disk that copies are kept on; None where none are.
    """

    engines: tuple[ProbedEngine, ...]
    inventory: StoreInventory
    verified: tuple[SetFinding, ...] = ()
    free: int | None = None


@dataclass(frozen=True, slots=True)
class FlawedSet:
    """One thing wrong with one set.

    Attributes:
        action_id: whose.
        set_id: which.
        code: of which kind of finding.
        reason: what was expected and what was found, with the file's name.
    """

    action_id: str
    set_id: int
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SimulationFacts:
    """A show, what is around it, and what became of it when it was played.

    Attributes:
        show: the show.
        asked: what of it was played, and under which circumstances.
        wall: Unix time, as the machine has it.
        machine: the time zone that the machine is set to.
        around: what was found out before.
        plan: the show's actions, under their sets' ids.
        manifest: as it was read.
        faults: why a set, by action id and number, was not played.
        flawed: what was wrong with the images that went by.
        usable: how many sets of each action can be played.
        uncovered: cues that nothing sure stands beneath.
        crowded_out: coming runs that found no room in the cache, at the worst.
        runs: everything that was played, in order.
        line: the line to the store; None where there is none.
    """

    show: Show
    asked: RehearsalOptions
    wall: float
    machine: tzinfo
    around: Surroundings
    plan: Plan
    manifest: Manifest
    faults: Mapping[tuple[str, int], Fault]
    flawed: tuple[FlawedSet, ...]
    usable: Mapping[str, int]
    uncovered: tuple[UncoveredCue, ...]
    crowded_out: int
    runs: tuple[RehearsedRun, ...]
    line: LineReport | None

    @cached_property
    def cues(self) -> list[list[RehearsedRun]]:
        """The runs of each cue."""
        found: dict[int, list[RehearsedRun]] = {}
        for run in self.runs:
            found.setdefault(run.cue, []).append(run)
        return list(found.values())


SIMULATION: Final = Selection[SimulationFacts]()
"""What a rehearsal looks for."""
