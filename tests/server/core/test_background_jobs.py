"""Jobs that die: some are started again, some end the process, and all of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import get_args

import pytest
from structlog.testing import capture_logs

from server.core.background_jobs import (
    CARE,
    FIRST_PAUSE,
    KEEPS_FAILING,
    LONGEST_PAUSE,
    WELL_AFTER,
    BackgroundJobs,
    JobName,
    pause_after,
    worth_a_line,
)
from server.core.clock import VirtualClock, settle
from server.core.conditions import Condition
from server.core.metrics import Metrics


@dataclass
class Minded:
    jobs: BackgroundJobs
    clock: VirtualClock
    metrics: Metrics
    ended: list[str] = field(default_factory=list)

    def count(self, metric: str, job: JobName) -> float | None:
        return self.metrics.registry.get_sample_value(metric, {"job": job})

    def told(self) -> list[Condition]:
        return list(self.jobs.conditions())


@asynccontextmanager
async def minded() -> AsyncIterator[Minded]:
    clock, metrics, ended = VirtualClock(), Metrics(), list[str]()
    async with BackgroundJobs(clock, metrics, ended.append) as jobs:
        yield Minded(jobs, clock, metrics, ended)


class Fails:
    """A job that fails so many times, each in its way, and then goes on."""

    def __init__(self, times: int, way: Callable[[], Awaitable[None]]) -> None:
        self.starts = 0
        self._times = times
        self._way = way

    async def __call__(self) -> None:
        self.starts += 1
        if self.starts <= self._times:
            await self._way()
            return
        await asyncio.Event().wait()


async def raising() -> None:
    raise ValueError("a mistake")


async def returning() -> None:
    await asyncio.sleep(0)


async def cancelled_by_somebody_else() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


WAYS = pytest.mark.parametrize("way", [raising, returning, cancelled_by_somebody_else])


@WAYS
async def test_a_job_that_ends_in_any_way_is_started_again_and_it_is_told(
    way: Callable[[], Awaitable[None]],
) -> None:
    with capture_logs() as logs:
        async with minded() as here:
            job = Fails(1, way)
            here.jobs.start("state_feed", job)
            await settle()
            (told,) = here.told()
            assert (told.code, told.level, told.blocks_ready) == ("job_failed", "degraded", False)
            assert CARE["state_feed"].without in told.message
            assert job.starts == 1
            await here.clock.advance(FIRST_PAUSE)
            assert job.starts == 2
            assert here.count("understudy_job_failures_total", "state_feed") == 1
            assert here.count("understudy_job_restarts_total", "state_feed") == 1
            assert "started again" in here.told()[0].message
            await here.clock.advance(WELL_AFTER)
            assert here.told() == []
            assert here.ended == []
    assert [(each["event"], each["job"]) for each in logs] == [
        ("job_failed", "state_feed"),
        ("job_restarted", "state_feed"),
    ]


@WAYS
async def test_a_critical_job_ends_the_process_at_once(
    way: Callable[[], Awaitable[None]],
) -> None:
    with capture_logs() as logs:
        async with minded() as here:
            job = Fails(1, way)
            here.jobs.start("playback", job)
            await settle()
            assert job.starts == 1
            (reason,) = here.ended
            assert CARE["playback"].without in reason
            (told,) = here.told()
            assert (told.code, told.level, told.blocks_ready) == ("job_dead", "failing", True)
            await here.clock.advance(3600)
            assert (job.starts, len(here.ended)) == (1, 1)
    assert [each["event"] for each in logs] == ["job_failed"]
    assert logs[0]["log_level"] == "critical"


async def test_one_that_keeps_failing_is_tried_ever_more_seldom_and_is_no_longer_ready() -> None:
    async with minded() as here:
        job = Fails(10_000, raising)
        here.jobs.start("prefetch", job)
        await settle()
        for failures in range(1, 12):
            assert job.starts == failures
            assert here.told()[0].blocks_ready is (failures >= KEEPS_FAILING)
            await here.clock.advance(pause_after(failures))
        assert pause_after(11) == LONGEST_PAUSE


async def test_after_a_while_of_health_the_pauses_begin_anew() -> None:
    async with minded() as here:
        fail = asyncio.Event()

        async def fails_when_told() -> None:
            await fail.wait()
            fail.clear()
            raise ValueError("a mistake")

        here.jobs.start("readiness", fails_when_told)
        for _ in range(3):
            fail.set()
            await settle()
            await here.clock.advance(LONGEST_PAUSE)
        assert "3 times" in here.told()[0].message
        await here.clock.advance(WELL_AFTER)
        fail.set()
        await settle()
        assert "once" in here.told()[0].message


async def test_leaving_cancels_all_and_waits_the_first_of_them_last() -> None:
    ended: list[str] = []

    def job(name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(name)

        return run

    before = asyncio.all_tasks()
    async with minded() as here:
        here.jobs.start("playback", job("playback"))
        here.jobs.start("readiness", job("readiness"))
        here.jobs.start("prefetch", Fails(1, raising))
        await settle()
        assert here.told()  # one of them waits to be started again
    assert ended == ["readiness", "playback"]
    assert asyncio.all_tasks() == before
    assert here.ended == []


def test_the_log_is_told_ever_more_seldom() -> None:
    told = [failures for failures in range(1, 1000) if worth_a_line(failures)]
    assert told == [1, 2, 3, 4, 5, 8, 16, 32, 64, 128, 256, 512]


def test_what_becomes_of_a_job_is_declared_in_one_place_and_only_playback_is_critical() -> None:
    assert [name for name, care in CARE.items() if care.critical] == ["playback"]
    assert all(care.without for care in CARE.values())
    assert set(CARE) == set(get_args(JobName))
