"""Two hundred technicians beside fifty screens: does any frame come later for them?

One server, one show. Every other run has technicians beside it, who are told every change, while
one of them makes one twice a second; so whatever else the machine does meets both alike. They
are a process of their own, so that what they take to read is not put down to the server.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.lengths import length
from benchmarks.machinery import (
    PATIENCE,
    Running,
    Seen,
    quantile,
    say,
    screen,
    serving,
    spread,
    watch,
)
from benchmarks.shows import jpeg_of, write_show

SCREENS = int(os.environ.get("SCREENS", length("50", "2")))
TECHNICIANS = int(os.environ.get("TECHNICIANS", length("200", "3")))
RUNS = int(os.environ.get("RUNS", length("3", "1")))
STEPS, PACE, PERIOD = 20, length(0.5, 0.1), length(12.0, 3.0)
FRAME_BYTES = 150_000


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(4)]
    times = [3.0 + PERIOD * n for n in range(2 * RUNS)]
    with tempfile.TemporaryDirectory() as folder:
        write_show(Path(folder), times, [PACE] * STEPS, images, length=times[-1] + PERIOD + 5)
        with serving(Path(folder)) as server:
            began = time.monotonic()
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            end = began + times[-1] + PERIOD
            crowd = multiprocessing.get_context("spawn").Process(
                target=_crowd, args=(server.address, times[1::2], theirs)
            )
            crowd.start()
            seen = asyncio.run(_watch_all(server, end))
            told = ours.recv() if ours.poll(30) else {}
            crowd.join(10)
            crowd.kill()
    say(
        f"\n{SCREENS} screens, {RUNS} runs of {STEPS} frames of {FRAME_BYTES / 1000:.0f} kB, "
        f"and as many, in turns, with {TECHNICIANS} technicians beside them"
    )
    alone, beside = _lateness(seen)
    say(f"  frames come before they are due, alone:  {_tightest(alone)}")
    say(f"  frames come before they are due, beside: {_tightest(beside)}")
    later = quantile(beside, 0.99) - quantile(alone, 0.99)
    late = sum(1 for value in (*alone, *beside) if value > 0)
    say(f"  p99 with technicians is {later * 1e3:+.1f} ms of without; late at all: {late}")
    if told:
        say(f"  {told['states']} states told, {told['bytes'] / 1000:.1f} kB each")
        say(f"  from a command to the state another one is told: {spread(told['seen_after'])}")


def _lateness(seen: Sequence[Seen]) -> tuple[list[float], list[float]]:
    """Seconds after its due time that each frame arrived, in even runs and in odd ones."""
    alone: list[float] = []
    beside: list[float] = []
    for one in seen:
        order: dict[str, int] = {}
        for run, _, due, arrived in one.frames:
            number = order.setdefault(run, len(order))
            (beside if number % 2 else alone).append(arrived - due)
    return alone, beside


def _tightest(lateness: Sequence[float]) -> str:
    early = -quantile(lateness, 0.99) * 1e3
    return (
        f"99 % by {early:.1f} ms or more, all by {-max(lateness) * 1e3:.1f} ms (n={len(lateness)})"
    )


async def _watch_all(server: Running, until: float) -> list[Seen]:
    seen: list[Seen] = []

    async def one(number: int) -> None:
        async with screen(server, f"screen-{number}") as (socket, what):
            seen.append(what)
            await watch(socket, what, until)

    async with asyncio.TaskGroup() as group:
        for number in range(SCREENS):
            group.create_task(one(number))
    return seen


# ---------------------------------------------------------------- the technicians


def _crowd(address: str, runs: Sequence[float], answer: Connection) -> None:
    answer.send(asyncio.run(_attend(address, runs)))


async def _attend(address: str, runs: Sequence[float]) -> dict[str, Any]:
    """Come a second before each of `runs` and leave when it is over."""
    began = time.monotonic()
    told: dict[str, Any] = {"states": 0, "bytes": 0, "seen_after": []}
    for at in runs:
        await asyncio.sleep(began + at - 1.5 - time.monotonic())
        lines = await asyncio.gather(*(_join(address, number) for number in range(TECHNICIANS)))
        asked: dict[int, float] = {}
        async with asyncio.TaskGroup() as group:
            for number, line in enumerate(lines):
                group.create_task(_listen(line, told, asked if number == 1 else None))
            group.create_task(_operate(lines, asked, until=began + at + STEPS * PACE))
    return told


async def _listen(
    line: ClientConnection, told: dict[str, Any], asked: dict[int, float] | None
) -> None:
    async for text in line:
        arrived = time.monotonic()
        if not isinstance(text, str) or '"type":"state"' not in text[:20]:
            continue
        told["states"] += 1
        told["bytes"] = len(text)
        if asked is None:
            continue
        commands = json.loads(text)["state"]["commands"]
        if commands and (sent := asked.pop(commands[0]["args"].get("cue"), None)):
            told["seen_after"].append(arrived - sent)


async def _operate(
    lines: Sequence[ClientConnection], asked: dict[int, float], *, until: float
) -> None:
    count = 0
    while time.monotonic() < until:
        count += 1
        cue = count % (2 * RUNS)
        command = {"type": "command", "command": "standby", "args": {"cue": cue}}
        asked[cue] = time.monotonic()
        await lines[0].send(json.dumps(command))
        await asyncio.sleep(0.5)
    for line in lines:
        await line.close()


async def _join(address: str, number: int) -> ClientConnection:
    line = await connect(
        f"ws://{address}/ws/control", compression=None, max_queue=None, open_timeout=PATIENCE
    )
    hello = {"type": "hello", "protocol": 1, "name": f"technician-{number}"}
    await line.send(json.dumps(hello))
    return line


if __name__ == "__main__":
    main()
