"""What is found out beside a show: by the preflight, and by rehearsals in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.clock import Clock
from server.config.show import Show
from server.diagnostics.live_checks import RunningShow, findings_now, looks
from server.diagnostics.preflight import Preflight
from server.engines.live import LiveEngines
from server.ensemble import Ensemble
from server.metrics import Metrics
from server.rehearsal.backstage import ChildBackstage
from server.rehearsal.jobs import RehearsalJobs
from server.reports.archive import REHEARSALS, ReportArchive
from server.supply.sources import Supply


@dataclass(frozen=True, slots=True)
class Checks:
    """Both of them.

    Attributes:
        preflight: looks through everything while nobody looks.
        jobs: rehearses when it is asked to.
        on: whether there is a show beside which they are; a rehearsal is not rehearsed.
    """

    preflight: Preflight
    jobs: RehearsalJobs
    on: bool

    def told(self) -> dict[str, Callable[[], Mapping[str, Any]] | None]:
        """What they tell of themselves, by its name in the state."""
        return {
            "preflight": self.preflight.state if self.on else None,
            "rehearsal": self.jobs.state if self.on else None,
        }

    def tell(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when they have something new to tell."""
        self.preflight.changed = self.jobs.changed = changed


@asynccontextmanager
async def open_checks(
    show: Show,
    ensemble: Ensemble,
    supply: Supply,
    *,
    live: LiveEngines,
    clock: Clock,
    metrics: Metrics,
    on: bool,
) -> AsyncIterator[Checks]:
    """Build both, and end what is under way on leaving.

    Args:
        show: what is played.
        ensemble: those who play it.
        supply: where their sets come from.
        live: the engines of this machine.
        clock: real time.
        metrics: where errors are counted.
        on: whether it is a show.
    """
    running = RunningShow(show=show, ensemble=ensemble, supply=supply, live=live, wall=clock.wall)
    preflight = Preflight(
        looks(running),
        ensemble.playhead,
        ensemble.playback.quiet_for,
        clock,
        now=lambda: findings_now(ensemble.readiness),
        begins=lambda: ensemble.readiness.looked,
        noted=lambda result: metrics.preflight_errors.set(result.count("error")),
    )
    archive = ReportArchive(show.state_folder / REHEARSALS)
    jobs = RehearsalJobs(ChildBackstage(show, running.engines), archive, clock)
    if not on:
        yield Checks(preflight, jobs, on)
        return
    async with jobs.open():
        yield Checks(preflight, jobs, on)
