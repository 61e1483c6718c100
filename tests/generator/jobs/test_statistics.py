"""What was drawn in the last hours."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from generator.jobs.database import open_database
from generator.jobs.model import Problem
from generator.jobs.statistics import EngineWork, MemberWork, job_statistics
from generator.jobs.store import JobStore, NewItem, NewJob

HOUR = 3600.0
NOW = 1_000 * HOUR


async def test_nothing_is_told_of_nothing(url: sa.URL) -> None:
    async with open_database(url) as database:
        found = await job_statistics(database, NOW)
        assert found.since == NOW - 24 * HOUR
        assert (found.jobs, found.pictures, found.failed, found.cost) == ({}, 0, {}, None)
        assert (found.success_rate, found.p50_seconds, found.p95_seconds) == (None, None, None)
        assert (found.waiting, found.running) == (0, 0)
        for hours in (0, -1, 10**9, float("nan")):
            with pytest.raises(ValueError, match="hours"):
                await job_statistics(database, NOW, hours)


async def test_it_counts_what_happened_in_time(url: sa.URL) -> None:
    async with open_database(url) as database:
        store = JobStore(database, "here")

        async def ask(owner: str, count: int, at: float) -> str:
            pieces = [NewItem(seed, {}) for seed in range(count)]
            return (await store.accept(NewJob(str(uuid.uuid4()), "draw", owner, pieces), at))[0].id

        async def draw(at: float, seconds: float | None, engine: str = "gpu") -> None:
            claimed = await store.claim(engine, at, lease=30)
            assert claimed is not None
            if seconds is None:
                await store.failed(claimed, Problem("refused", "no such model"), at)
            else:
                await store.ready(claimed, at, seconds=seconds, cost=seconds / 2)

        await ask("ada", 1, NOW - 30 * HOUR)
        await draw(NOW - 29 * HOUR, 1000.0)  # long ago
        await ask("ada", 20, NOW - 3 * HOUR)
        for seconds in range(1, 21):
            await draw(NOW - 2 * HOUR, float(seconds), "gpu" if seconds % 2 else "cpu")
        await ask("ben", 1, NOW - HOUR)
        await draw(NOW - HOUR, None)
        await store.cancel(await ask("ben", 2, NOW - HOUR), NOW)
        await ask("ben", 3, NOW - HOUR)
        assert await store.claim("gpu", NOW, lease=30) is not None

        found = await job_statistics(database, NOW)
        assert found.jobs == {"completed": 1, "failed": 1, "cancelled": 1, "processing": 1}
        assert found.success_rate == 0.5
        assert (found.pictures, found.failed) == (20, {"refused": 1})
        assert (found.p50_seconds, found.p95_seconds) == (11.0, 20.0)
        assert found.cost == 105.0
        assert found.engines == {
            "gpu": EngineWork(10, 100.0, 50.0),
            "cpu": EngineWork(10, 110.0, 55.0),
        }
        assert found.members == {
            "ada": MemberWork(1, 20, 105.0),
            "ben": MemberWork(3, 0, None),
        }
        assert (found.waiting, found.running) == (2, 1)
        assert (await job_statistics(database, NOW, 48)).pictures == 21
