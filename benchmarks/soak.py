"""A quarter of an hour of comings and goings: do memory, descriptors, threads and log stay flat?

A loop of ten seconds plays to five screens that come and go, some by hanging up in the middle of
a frame, with one technician who uses everything there is. `SOAK_MINUTES` is how long. The figures
of the second half stand beside those of the first: what leaks, grows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.lengths import length
from benchmarks.machinery import PATIENCE, Running, quantile, say, screen, serving, watch
from benchmarks.shows import jpeg_of, write_show

MINUTES = float(os.environ.get("SOAK_MINUTES", length("15", "0.1")))
SCREENS = 5
LOOP = 10.0
STEPS, PACE = 20, 0.15
FRAME_BYTES = 150_000
SAMPLE = length(10.0, 1.0)
"""Seconds between two looks at the process."""

WARM = length(60.0, 2.0)
"""Seconds at the beginning that count for nothing: caches fill."""


@dataclass(frozen=True)
class Sample:
    """What the server's process holds at one moment."""

    memory: int
    descriptors: int
    threads: int
    log: int


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name) / "show", Path(name) / "log"
        write_show(
            folder,
            [0.5, 5.5],
            [PACE] * STEPS,
            images,
            length=LOOP,
            settings='[schedule]\nkind = "loop"\n',
        )
        with serving(folder, log=log) as server:
            samples, wall = asyncio.run(_soak(server, log))
            health = server.state()["health"]
    _report(samples, wall)
    say(f"  the server says: {health['level']}: {health['reason']}")


@dataclass
class WallTotals:
    """What the screens were given, all together."""

    joined: int = 0
    frames: int = 0
    late: int = 0
    commands: int = 0
    refused: int = 0


async def _soak(server: Running, log: Path) -> tuple[list[Sample], WallTotals]:
    until = time.monotonic() + MINUTES * 60
    wall = WallTotals()
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        for number in range(SCREENS):
            group.create_task(_come_and_go(server, f"screen-{number}", until, wall))
        group.create_task(_technician(server, until, wall))
        await asyncio.sleep(min(WARM, MINUTES * 6))
        while time.monotonic() < until:
            samples.append(sample_process(server.pid, log))
            await asyncio.sleep(SAMPLE)
    return samples, wall


async def _come_and_go(server: Running, name: str, until: float, wall: WallTotals) -> None:
    rng = random.Random(name)
    while (now := time.monotonic()) < until:
        stays = min(until, now + rng.uniform(3, length(40, 4)))
        async with screen(server, name) as (socket, seen):
            wall.joined += 1
            await watch(socket, seen, stays)
            if rng.random() < 0.5:
                socket.transport.abort()  # the plug was pulled
        wall.frames += len(seen.frames)
        begun: set[str] = set()
        for run, _, due, at in seen.frames:
            # The first of a run may be of a show that was set there, and is sent at once.
            wall.late += run in begun and at > due
            begun.add(run)
        await asyncio.sleep(min(rng.uniform(0, 3), max(0.0, until - time.monotonic())))


async def _technician(server: Running, until: float, wall: WallTotals) -> None:
    """Uses everything, and leaves the show on its schedule."""
    acts: list[tuple[str, dict[str, Any]]] = [
        ("state", {}),
        ("standby", {"cue": "prompt_002"}),
        ("screens", {}),
        ("mode.force", {"mode": "static", "until": "released", "reason": "a look"}),
        ("mode.release", {}),
        ("identify", {"screen": "screen-1"}),
        ("regenerate", {}),
        ("hold", {}),
        ("go", {}),
        ("rejoin", {}),
        ("pause", {}),
        ("resume", {}),
        ("rejoin", {}),
        ("panic", {}),
        ("restore", {}),
        ("asrun", {"limit": 50}),
        ("no.such.command", {}),
    ]
    address = f"ws://{server.address}/ws/control"
    async with connect(address, compression=None, max_size=None, open_timeout=PATIENCE) as socket:
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "name": "soak"}))
        for number, (command, args) in enumerate(itertools.cycle(acts)):
            if time.monotonic() >= until:
                return
            message = {"type": "command", "id": str(number), "command": command, "args": args}
            await socket.send(json.dumps(message))
            wall.commands += 1
            pause_until = time.monotonic() + length(2.0, 0.3)
            while (left := pause_until - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        answer = json.loads(await socket.recv())
                except TimeoutError:
                    break
                except ConnectionClosed:
                    return
                wall.refused += answer["type"] == "reply" and not answer["ok"]


def sample_process(pid: int, log: Path) -> Sample:
    """What a process holds now, and how long its log is."""
    process = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    return Sample(
        memory=int(status["VmRSS"].split()[0]) * 1024,
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        log=log.stat().st_size,
    )


def _report(samples: list[Sample], wall: WallTotals) -> None:
    say(
        f"\n{MINUTES:g} minutes of a loop of {LOOP:g} s, {SCREENS} screens that come and go "
        f"({wall.joined} times, {wall.frames} frames, {wall.late} late), {wall.commands} commands, "
        f"{wall.refused} of them refused"
    )
    report_samples(samples, SAMPLE)


def report_samples(samples: list[Sample], every: float) -> None:
    """The second half of them beside the first.

    Args:
        samples: of one process, in order.
        every: seconds between two of them.
    """
    half = max(1, len(samples) // 2)
    first, second = samples[:half], samples[half:] or samples[-1:]
    for what, unit, values in (
        ("memory", 1e6, [[each.memory for each in part] for part in (first, second)]),
        ("descriptors", 1, [[each.descriptors for each in part] for part in (first, second)]),
        ("threads", 1, [[each.threads for each in part] for part in (first, second)]),
    ):
        name = "MB" if unit > 1 else ""
        before, after = (
            f"{median(part) / unit:.1f} (up to {max(part) / unit:.1f}) {name}".strip()
            for part in values
        )
        say(f"  {what:12} first half {before}, second half {after}")
    grown = [after.log - before.log for before, after in itertools.pairwise(samples)] or [0]
    say(
        f"  log          {samples[-1].log / 1e3:.0f} kB in all; every {every:g} s "
        f"{quantile(grown, 0.5) / 1e3:.1f} kB in the median, {max(grown) / 1e3:.1f} kB at most"
    )


if __name__ == "__main__":
    main()
