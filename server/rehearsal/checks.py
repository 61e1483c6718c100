"""What is found out beside a show: by the preflight, and by rehearsals in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.diagnostics.live_checks import RunningShow, findings_now, live_checks
from server.diagnostics.preflight import Preflight
from server.lifecycle import Playout
from server.rehearsal.background import BackgroundRehearsals
from server.rehearsal.backstage import ChildBackstage
from server.reports.archive import REHEARSALS, ReportArchive


@dataclass(frozen=True, slots=True)
class Checks:
    """Both of them.

    Attributes:
        preflight: looks through everything while nobody looks.
        rehearsals: rehearses when it is asked to.
        on: whether there is a show beside which they are; a rehearsal is not rehearsed.
    """

    preflight: Preflight
    rehearsals: BackgroundRehearsals
    on: bool

    def notify(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when one of them has something new to say."""
        self.preflight.changed = self.rehearsals.changed = changed


@asynccontextmanager
async def open_checks(playout: Playout) -> AsyncIterator[Checks]:
    """Build both, and end what is under way on leaving.

    Args:
        playout: beside what.
    """
    setup, runtime, clock = playout.setup, playout.runtime, playout.setup.outside
    running = RunningShow(
        show=setup.show,
        runtime=runtime,
        supply=playout.supply,
        live=playout.engines,
        wall=clock.wall,
    )
    preflight = Preflight(
        live_checks(running),
        runtime.playhead,
        runtime.playback.quiet_for,
        clock,
        now=lambda: findings_now(runtime.readiness),
        begins=lambda: runtime.readiness.looked,
        noted=playout.metrics.preflight_errors.set,
    )
    archive = ReportArchive(setup.show.state_folder / REHEARSALS)
    rehearsals = BackgroundRehearsals(ChildBackstage(setup.show, running.engines), archive, clock)
    if setup.activation != "show":
        yield Checks(preflight, rehearsals, on=False)
        return
    async with rehearsals.open():
        yield Checks(preflight, rehearsals, on=True)
