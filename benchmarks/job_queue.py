"""The Studio's queue: beside procrastinate's on one Postgres, and with 10,000 jobs waiting.

Both take 2,000 jobs that do nothing off a Postgres of Debian's, two at a time; by turns, the best
of each. Claims are timed while nothing else waits and while 10,000 do, on SQLite as on Postgres.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
import uuid
from pathlib import Path

import procrastinate
import psycopg
import sqlalchemy as sa

from benchmarks.lengths import length
from benchmarks.machinery import quantile, say, spread
from generator.jobs.database import open_database
from generator.jobs.members import Members
from generator.jobs.store import JobStore, NewItem, NewJob
from tests.helpers.postgres import postgres

_JOBS = length(2_000, 20)
_WAITING = length(10_000, 50)
_CLAIMS = length(500, 10)
_LISTS = length(100, 5)
_ROUNDS = length(3, 1)
_SLOTS = 2
_LEASE = 60.0


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        ours, theirs = [], []
        for number in range(_ROUNDS):
            _new_databases(server.url, number)
            ours.append(asyncio.run(_by_ours(server.url.set(database=f"ours_{number}"))))
            theirs.append(asyncio.run(_by_theirs(server.url.set(database=f"theirs_{number}"))))
        best, peer = min(ours), min(theirs)
        say(f"{_JOBS} jobs that do nothing, {_SLOTS} at a time, on one Postgres; best of {_ROUNDS}")
        say(f"  procrastinate  {peer:.2f} s, {_JOBS / peer:.0f} a second")
        say(f"  ours           {best:.2f} s, {_JOBS / best:.0f} a second, {peer / best:.2f} x")
        file = Path(folder) / "studio.sqlite"
        _new_databases(server.url, "long")
        for name, url in (
            ("SQLite", sa.URL.create("sqlite", database=str(file))),
            ("Postgres", server.url.set(database="ours_long")),
        ):
            asyncio.run(_with_many_waiting(name, url))


def _new_databases(url: sa.URL, number: object) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for whose in ("ours", "theirs"):
            connection.execute(sa.text(f"CREATE DATABASE {whose}_{number}"))
    engine.dispose()


def _new(owner: str) -> NewJob:
    return NewJob(str(uuid.uuid4()), "draw", owner, [NewItem(1, {})], {"prompt": "nothing"})


async def _accept(store: JobStore, owner: str, count: int) -> None:
    await asyncio.gather(*(store.accept(_new(owner), time.time()) for _ in range(count)))


async def _by_ours(url: sa.URL) -> float:
    """Seconds that all of them take."""
    async with open_database(url) as database:
        store = JobStore(database, "here")
        artist = await Members(database).ensure_implicit(time.time())
        await _accept(store, artist.id, _JOBS)

        async def work() -> int:
            """As a slot of the scheduler's works: what it did is told as it takes on the next."""
            done = 0
            claimed = await store.claim("none", time.time(), lease=_LEASE)
            while claimed is not None:
                _, claimed = await store.ready_and_claim(
                    claimed, "none", time.time(), seconds=0.0, cost=0.0, lease=_LEASE
                )
                done += 1
            return done

        began = time.perf_counter()
        done = await asyncio.gather(*(work() for _ in range(_SLOTS)))
        took = time.perf_counter() - began
    if sum(done) != _JOBS:
        raise RuntimeError(f"{sum(done)} of {_JOBS} jobs were done")
    return took


async def _by_theirs(url: sa.URL) -> float:
    """Seconds that all of them take."""
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    done = 0
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=plain))

    @app.task(name="nothing")
    async def nothing() -> None:
        nonlocal done
        done += 1

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await nothing.batch_defer_async(*({} for _ in range(_JOBS)))
        began = time.perf_counter()
        await app.run_worker_async(concurrency=_SLOTS, wait=False, install_signal_handlers=False)
        took = time.perf_counter() - began
    with psycopg.connect(plain) as connection:
        left = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"
        ).fetchone()
    if done != _JOBS or left != (0,):
        raise RuntimeError(f"{done} of {_JOBS} jobs were done, {left} left")
    return took


async def _with_many_waiting(name: str, url: sa.URL) -> None:
    async with open_database(url) as database:
        store = JobStore(database, "here")
        members = Members(database)
        (many, _), (one, _) = [await members.add(who, "client") for who in ("many", "one")]

        async def claims() -> list[float]:
            took = []
            for _ in range(_CLAIMS):
                await store.accept(_new(one.id), time.time())
                began = time.perf_counter()
                claimed = await store.claim("none", time.time(), lease=_LEASE)
                took.append(time.perf_counter() - began)
                if claimed is None:
                    raise RuntimeError("nothing to claim")
                await store.ready(claimed, time.time(), seconds=0.0, cost=0.0)
            return took

        async def lists() -> list[float]:
            took = []
            for _ in range(_LISTS):
                began = time.perf_counter()
                await store.find(owner=many.id, limit=50)
                took.append(time.perf_counter() - began)
            return took

        await claims()  # so that statements are made and connections open
        empty = await claims()
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(0, _WAITING, 500):
            await _accept(store, many.id, min(500, _WAITING))
        full = await claims()
        listed = await lists()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    ratio = quantile(full, 0.99) / quantile(empty, 0.99)
    say(f"{name}, {_WAITING} jobs waiting: memory + {grown:.1f} MB")
    say(f"  a claim, nothing else waits  {spread(empty)}")
    say(f"  a claim, all of them wait    {spread(full)}: p99 {ratio:.2f} x")
    say(f"  a list of 50                 {spread(listed)}")


if __name__ == "__main__":
    main()
