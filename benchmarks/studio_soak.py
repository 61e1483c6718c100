"""Two thousand small jobs through one Studio: do memory, descriptors, threads and log stay flat?

They are asked for over HTTP, a few at a time, while somebody listens and somebody looks; the
engine is a child of the Studio's that draws test cards. The figures of the second half stand
beside those of the first: what leaks, grows.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks.lengths import length
from benchmarks.machinery import say
from benchmarks.soak import Sample, report_samples, sample_process
from cache.tasks import cancel_and_wait
from tests.helpers.studio_programs import (
    SeenOutside,
    StudioProgram,
    listen_to,
    studio_program,
    write_studio,
)

JOBS = int(os.environ.get("SOAK_JOBS", length("2000", "12")))
WAITING = 20
"""Jobs that wait at a time."""

SAMPLE = length(2.0, 0.2)
WARM = length(0.1, 0.1)
"""The share of the jobs that counts for nothing: caches fill."""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_studio(Path(name) / "show")
        with studio_program(folder) as studio:
            samples, seen, took = asyncio.run(_soak(studio))
            errors = studio.errors()
        files = sum(1 for path in (folder / "store").rglob("*") if path.is_file())
        kept = studio.database.stat().st_size
    say(f"{JOBS} jobs, {WAITING} waiting at a time: {took:.0f} s, {JOBS / took:.1f} a second")
    report_samples(samples, SAMPLE)
    say(f"  the database has {kept / 1e6:.1f} MB, {kept / JOBS / 1e3:.1f} kB a job; {files} files")
    say(f"  told {len(seen.heard)} events; wrong: {seen.wrong or 'nothing'}; errors: {len(errors)}")


async def _soak(studio: StudioProgram) -> tuple[list[Sample], SeenOutside, float]:
    await studio.start()
    assert studio.program is not None
    pid = studio.program.pid
    seen = SeenOutside(studio.folder / "store")
    samples: list[Sample] = []
    listening = asyncio.create_task(listen_to(studio, seen))
    looking = asyncio.create_task(_come_and_go(studio))
    done = 0
    began = time.monotonic()
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            asyncio.TaskGroup() as group,
        ):

            async def ask() -> None:
                nonlocal done
                while (number := next(numbers)) < JOBS:
                    body = {
                        "kind": "draw",
                        "prompt": f"lamp {number}",
                        "program": "P4",
                        "seed": number,
                    }
                    answer = await client.post(f"{studio.address.http}/api/jobs", json=body)
                    url = f"{studio.address.http}/api/jobs/{answer.json()['id']}?wait=50"
                    while (await client.get(url)).json()["status"] != "completed":
                        pass
                    done += 1

            async def look() -> None:
                while done < JOBS:
                    if done >= WARM * JOBS:
                        samples.append(sample_process(pid, studio.log))
                    await asyncio.sleep(SAMPLE)

            numbers = itertools.count()
            for _ in range(WAITING):
                group.create_task(ask())
            group.create_task(look())
    finally:
        await cancel_and_wait(listening, looking)
    return samples, seen, time.monotonic() - began


async def _come_and_go(studio: StudioProgram) -> None:
    """Listen and look for a moment, again and again, and hang up in the middle."""
    chance = random.Random(1)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        while True:
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(chance.uniform(0.1, 2)),
                    client.stream("GET", f"{studio.address.http}/api/events") as answer,
                ):
                    async for _ in answer.aiter_lines():
                        pass
            await client.get(f"{studio.address.http}/api/queue")
            await client.get(f"{studio.address.http}/api/jobs", params={"limit": 50})


if __name__ == "__main__":
    main()
