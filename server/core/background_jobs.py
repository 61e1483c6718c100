"""The server's long-lived jobs: each is supervised, so that none that dies stays dead unseen.

`CARE` declares in one place what becomes of whom. A critical job is one without which the show
cannot move: when it ends, for whatever reason, the whole process does, at once and with a
status that says so; whoever started it (systemd) starts it again, and meanwhile the kiosks keep
their picture. Every other job is started again, after pauses that grow while it keeps failing.
A job that returns by itself has failed like one that raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Self

import structlog

from cache.backoff import back_off
from cache.tasks import being_cancelled
from server.core.clock import Clock
from server.core.conditions import Condition
from server.core.metrics import ProcessMetrics

_log = structlog.get_logger(__name__)

JobName = Literal[
    "asrun",
    "engine_watch",
    "forces",
    "late_live",
    "loop_lag",
    "osc",
    "playback",
    "prefetch",
    "preflight",
    "readiness",
    "signs_of_life",
    "state_feed",
    "studio_feed",
    "studio_hooks",
    "studio_queue",
    "studio_tidying",
    "systemd",
    "time_of_day",
]

JobBody = Callable[[], Awaitable[None]]
"""Runs a job until it is cancelled; called for each of its starts."""


@dataclass(frozen=True, slots=True)
class Care:
    """What becomes of a job that ends.

    Attributes:
        without: what does not happen while it is down, in words, for a technician.
        critical: the process ends with it. Otherwise it is started again.
        needed: while it keeps failing, the server is not ready to play what is coming.
    """

    without: str
    critical: bool = False
    needed: bool = False


CARE: Final[Mapping[JobName, Care]] = {
    "playback": Care("the show does not move", critical=True),
    "asrun": Care("what is played is not written into the as-run log"),
    "engine_watch": Care("engines that failed are not tried again"),
    "forces": Care("a forced mode outlives its time"),
    "late_live": Care("a cue that was forced live does not begin when its engine has started"),
    "loop_lag": Care("the lag of the event loop is not measured"),
    "osc": Care("no OSC is heard"),
    "prefetch": Care("no copies of the coming sets are made", needed=True),
    "preflight": Care("nobody looks through what is coming"),
    "readiness": Care("sets that come or go are not noticed", needed=True),
    "signs_of_life": Care("after a restart a loop begins anew"),
    "state_feed": Care("technicians' pages stand still", needed=True),
    "studio_feed": Care("the Studio's pages and programs stand still", needed=True),
    "studio_hooks": Care("no webhooks are sent"),
    "studio_queue": Care("nothing that was asked for is drawn", needed=True),
    "studio_tidying": Care("what is old is not deleted"),
    "systemd": Care("systemd is not told that the show moves, and will restart it"),
    "time_of_day": Care("nobody notices that the clock was set"),
}
"""Every job of a server, and what becomes of it. Only what stands here can be started."""

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 15.0
"""Seconds between a job's end and its next start: twice as long each time it fails again."""

WELL_AFTER: Final = 60.0
"""Seconds after which a job that was started again counts as well, and its failures as past."""

_LOGGED_AT_FIRST: Final = 5

KEEPS_FAILING: Final = 3
"""Failures in a row after which a job is no longer believed to mend by itself."""


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row, from 1 (pure)."""
    return back_off(failures, FIRST_PAUSE, LONGEST_PAUSE)


def worth_a_line(failures: int) -> bool:
    """Whether that failure in a row is logged: each at first, then ever more seldom (pure).

    What fails for months would fill it; the metrics count them all.
    """
    return failures <= _LOGGED_AT_FIRST or failures.bit_count() == 1


class EndedByItself(Exception):
    """A job that is to go on until it is cancelled has returned."""


class _SupervisedJob:
    """One job, and how it has fared."""

    def __init__(self, name: JobName, run: JobBody, began: float) -> None:
        self.name: Final = name
        self.care: Final = CARE[name]
        self.run = run
        self.began = began
        self.failures = 0
        self.failed_at: float | None = None
        self.error: BaseException | None = None
        self.down = False

    def failed(self, error: BaseException, now: float) -> None:
        if self.well(now):
            self.failures = 0
        self.failures += 1
        self.failed_at, self.error, self.down = now, error, True

    def well(self, now: float) -> bool:
        """Whether it has run for long enough since it failed last, if it ever did."""
        return not self.down and (self.failed_at is None or now - self.began >= WELL_AFTER)


class BackgroundJobs:
    """Runs jobs while its context lasts, and minds them.

    Args:
        clock: real time.
        metrics: where failures and restarts are counted.
        fail: called, with a reason in words, when the process is to end because a critical job
            has. It must not wait. By default nothing more happens than that it is told.
    """

    def __init__(
        self,
        clock: Clock,
        metrics: ProcessMetrics,
        fail: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._fail = fail
        self._jobs: list[_SupervisedJob] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in reversed(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def start_all(self, wanted: Mapping[JobName, JobBody | None]) -> None:
        """Start every job that is wanted here, in their order."""
        for name, run in wanted.items():
            if run is not None:
                self.start(name, run)

    def start(self, name: JobName, run: JobBody) -> None:
        """Run a job from now on, until the context ends. Those started first end last.

        Args:
            name: what `CARE` says of it is what becomes of it.
            run: called for each start; what it returns goes on until it is cancelled.
        """
        job = _SupervisedJob(name, run, self._clock.now())
        self._jobs.append(job)
        self._metrics.job_failures.labels(job=name)  # 0 is there to be compared with
        self._metrics.job_restarts.labels(job=name)
        self._tasks.append(asyncio.create_task(self._mind(job), name=f"job {name}"))

    def conditions(self) -> Iterable[Condition]:
        """The jobs that are down, or were a moment ago."""
        now = self._clock.now()
        return [self._condition(job) for job in self._jobs if not job.well(now)]

    @staticmethod
    def _condition(job: _SupervisedJob) -> Condition:
        times = "once" if job.failures == 1 else f"{job.failures} times"
        what = f"the job {job.name!r} has failed {times}, at last with {_in_words(job.error)}"
        if job.care.critical:
            text = f"{what}: {job.care.without}; the server must be started again"
            return Condition("job_dead", "failing", text, blocks_ready=True)
        keeps_failing = job.failures >= KEEPS_FAILING
        if job.down:
            text = f"{what}: {job.care.without} until it is started again in a moment"
        else:
            text = f"{what}; it was started again, and counts as well after {WELL_AFTER:.0f} s"
        return Condition(
            "job_failed", "degraded", text, blocks_ready=keeps_failing and job.care.needed
        )

    async def _mind(self, job: _SupervisedJob) -> None:
        """One life of a job after another."""
        while True:
            job.began, job.down = self._clock.now(), False
            error = await _outcome(job.run)
            job.failed(error, self._clock.now())
            self._metrics.job_failures.labels(job=job.name).inc()
            if job.care.critical:
                _log.critical("job_failed", job=job.name, critical=True, exc_info=error)
                self._fail(f"{job.care.without}: {job.name} has failed with {_in_words(error)}")
                return
            pause, failures = pause_after(job.failures), job.failures
            if worth_a_line(failures):
                _log.error(
                    "job_failed", job=job.name, failures=failures, pause=pause, exc_info=error
                )
            await self._clock.sleep_until(self._clock.now() + pause)
            self._metrics.job_restarts.labels(job=job.name).inc()
            if worth_a_line(failures):
                _log.warning("job_restarted", job=job.name, failures=failures)


async def _outcome(run: JobBody) -> BaseException:
    """Why a job is over that should not be."""
    try:
        await run()
    except asyncio.CancelledError as error:
        if being_cancelled():
            raise
        return error
    except Exception as error:
        if being_cancelled():  # it met that on its way out, and is not to be started again
            raise asyncio.CancelledError from error
        return error
    return EndedByItself("it has ended by itself")


def _in_words(error: BaseException | None) -> str:
    if error is None:
        return "nothing known"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
