"""What a rehearsal has found out: the facts that its checks read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import cached_property
from typing import Final

from cache.model.keys import Key, set_place
from cache.model.manifest import Manifest
from cache.prefetch.prefetcher import Coverage
from generator.sets.verify import SetFinding
from generator.sheet.plan import Plan
from server.asrun.file import Row
from server.config.show import Show
from server.diagnostics.findings import Selection
from server.diagnostics.report import LineReport, ProbedEngine, RehearsalOptions, RehearsedRun
from server.modes.coverage import UncoveredCue
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


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file that came over the line; steady times."""

    key: Key
    asked_at: float
    here_at: float
    size: int


@dataclass(slots=True)
class ObservedRun:
    """What a screen was sent of one run: when each step is due, by its number."""

    steps: int
    due: dict[int, float] = field(default_factory=dict)


@dataclass
class SimulationResult:
    """What came of playing it. Steady times.

    Attributes:
        plan: the show's actions, under their sets' ids.
        manifest: as it was read.
        rows: the as-run log, oldest first.
        observed: what a screen was sent, by run.
        begun: when each run began.
        readiness: how much of its action was at hand then.
        faults: why a set, by action id and number, is not played.
        flawed: what was wrong with the images that went by.
        usable: how many sets of each action can be played.
        uncovered: cues that nothing sure stands beneath.
        came: what came over the line.
        ready_at: when everything that was wanted was here first; None for never.
        crowded_out: coming runs that found no room in the cache, at the worst.
    """

    plan: Plan
    manifest: Manifest
    rows: list[Row] = field(default_factory=list)
    observed: dict[str, ObservedRun] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    readiness: dict[str, Coverage | None] = field(default_factory=dict)
    faults: dict[tuple[str, int], Fault] = field(default_factory=dict)
    flawed: list[FlawedSet] = field(default_factory=list)
    usable: dict[str, int] = field(default_factory=dict)
    uncovered: tuple[UncoveredCue, ...] = ()
    came: list[FetchedFile] = field(default_factory=list)
    ready_at: float | None = None
    crowded_out: int = 0


@dataclass(frozen=True)
class SimulationFacts:
    """A show, what is around it, and what became of it when it was played.

    Attributes:
        show: the show.
        asked: what of it was played, and under which circumstances.
        around: what was found out before.
        result: what came of playing it.
        runs: everything that was played, in order.
        line: the line to the store; None where there is none.
        wall: Unix time, as the machine has it.
        machine: the time zone that the machine is set to.
    """

    show: Show
    asked: RehearsalOptions
    around: Surroundings
    result: SimulationResult
    runs: tuple[RehearsedRun, ...]
    line: LineReport | None
    wall: float
    machine: tzinfo

    @cached_property
    def cues(self) -> list[list[RehearsedRun]]:
        """The runs of each cue."""
        found: dict[int, list[RehearsedRun]] = defaultdict(list)
        for run in self.runs:
            found[run.cue].append(run)
        return list(found.values())

    @cached_property
    def files(self) -> dict[tuple[str, int], dict[str, int]]:
        """The files of each set, by action id and number: how many bytes each has, by its name."""
        found: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
        for key, size in self.around.inventory.sizes.items():
            if (place := set_place(key)) is not None:
                found[place.action_id, place.set_id][place.name] = size
        return found


SIMULATION: Final = Selection[SimulationFacts]()
"""What a rehearsal looks for."""
