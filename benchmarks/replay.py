"""Replaying sets to many screens: does every frame come before it is due?

Beside it runs the player that one would write first: load, show, sleep, and again.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import Running, Seen, quantile, say, screen, serving, spread, watch
from benchmarks.shows import jpeg_of, write_show

SCREENS = int(os.environ.get("SCREENS", length("50", "3")))
RUNS = int(os.environ.get("RUNS", length("4", "1")))
STEPS = 20
PACE = length(0.5, 0.05)
PERIOD = length(12.0, 2.0)
FRAME_BYTES = 150_000
BEGINS = length(3.0, 1.5)
"""Seconds into the show: the screens are there by then."""


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        _fifty_screens(Path(folder) / "fifty", images)
        _stalled_screen(Path(folder) / "stalled", images)
        _thousand_steps(Path(folder) / "thousand")


def _fifty_screens(folder: Path, images: Sequence[bytes]) -> None:
    times = [BEGINS + PERIOD * n for n in range(RUNS)]
    write_show(folder, times, [PACE] * STEPS, images, length=BEGINS + PERIOD * RUNS + length(5, 1))
    with serving(folder) as server:
        seconds = PERIOD * RUNS + 2
        seen, naive = asyncio.run(_watch_all(server, SCREENS, seconds, folder))
    size = sum(map(len, images)) / len(images)
    say(
        f"\n{SCREENS} screens, {RUNS} runs of {STEPS} frames of {size / 1000:.0f} kB, "
        "server and screens on this machine"
    )
    _report(seen, RUNS * STEPS)
    say(f"  a sleep-chain player, same files: its frames are late by {spread(naive)}")


async def _watch_all(
    server: Running, count: int, seconds: float, folder: Path
) -> tuple[list[Seen], list[float]]:
    until = time.monotonic() + seconds
    seen: list[Seen] = []

    async def one(number: int) -> None:
        async with screen(server, f"screen-{number}") as (socket, what):
            seen.append(what)
            await watch(socket, what, until)

    naive: list[float] = []
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
        group.create_task(_sleep_chain(folder, naive, until))
    return seen, naive


async def _sleep_chain(folder: Path, late: list[float], until: float) -> None:
    """Load, show, then wait: what the first player of the piece does."""
    run = 0
    while time.monotonic() + STEPS * PACE < until:
        run = run % RUNS + 1
        begun = time.monotonic()
        for step in range(1, STEPS + 1):
            path = folder / "actions" / f"prompt_{run:03d}" / "sets" / "0" / f"{step}.jpg"
            await asyncio.to_thread(path.read_bytes)
            await asyncio.sleep(PACE)
            late.append(time.monotonic() - begun - step * PACE)


def _report(seen: Sequence[Seen], expected: int) -> None:
    early = [due - arrived for what in seen for _, _, due, arrived in what.frames]
    missing = sum(max(0, expected - len(what.frames)) for what in seen)
    late = sum(1 for margin in early if margin < 0)
    say(
        f"  frames received {len(early)}, missing {missing}, late {late}; "
        f"the tightest came {min(early, default=float('nan')) * 1e3:.0f} ms before it was due, "
        f"1 % within {quantile(early, 0.01) * 1e3:.0f} ms"
    )


def _stalled_screen(folder: Path, images: Sequence[bytes]) -> None:
    steps, pace = length(100, 20), length(0.1, 0.05)
    write_show(folder, [BEGINS], [pace] * steps, images, length=3 + steps * pace + length(4, 1))
    with serving(folder) as server:
        before = server.memory()
        seen = asyncio.run(_with_stalled(server, steps * pace + length(5, 3)))
        grown = server.memory() - before
    say(f"\none of three screens stops reading for a run of {steps} frames of 150 kB")
    _report(seen, steps)
    say(f"  server's memory grew by {grown / 2**20:.0f} MiB (the run itself is 15)")


async def _with_stalled(server: Running, seconds: float) -> list[Seen]:
    until = time.monotonic() + seconds
    seen: list[Seen] = []

    async def reads(number: int) -> None:
        async with screen(server, f"reads-{number}") as (socket, what):
            seen.append(what)
            await watch(socket, what, until)

    async def stalls() -> None:
        async with screen(server, "stalls") as (socket, _):
            socket.transport.pause_reading()
            await asyncio.sleep(until - time.monotonic())
            socket.transport.abort()

    async with asyncio.TaskGroup() as group:
        group.create_task(reads(1))
        group.create_task(reads(2))
        group.create_task(stalls())
    return seen


def _thousand_steps(folder: Path) -> None:
    steps, pace = length(1000, 20), 0.02
    images = [jpeg_of(64, 64, 100, 1)]
    # Room enough behind it: a run that does not fit is played faster, and that is no drift.
    write_show(folder, [2.0], [pace] * steps, images, length=2 + steps * pace + 10)
    with serving(folder) as server:
        seconds = steps * pace + 8
        seen, naive = asyncio.run(_one_and_chain(server, seconds, steps, pace))
    due = [at for _, _, at, _ in seen.frames]
    drift = max((abs(at - due[0] - k * pace) for k, at in enumerate(due)), default=float("nan"))
    say(
        f"\n{steps} steps of {pace * 1e3:.0f} ms: drift of the due times "
        f"{drift * 1e6:.2f} µs (rounding of a float); a sleep chain beside it: {naive * 1e3:.0f} ms"
    )


async def _one_and_chain(
    server: Running, seconds: float, steps: int, pace: float
) -> tuple[Seen, float]:
    until = time.monotonic() + seconds

    async def chain() -> float:
        begun = time.monotonic()
        for _ in range(steps):
            await asyncio.sleep(pace)
        return time.monotonic() - begun - steps * pace

    async with screen(server, "one") as (socket, seen), asyncio.TaskGroup() as group:
        drift = group.create_task(chain())
        await watch(socket, seen, until)
    return seen, drift.result()


if __name__ == "__main__":
    main()
