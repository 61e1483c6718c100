"""A show that plays while the Studio draws on all cores beside it: does any frame come later?

A loop of pictures of 150 kB plays to three screens. Beside it runs a Studio with the sketch, which
draws as many pictures at a time as there are cores, at the show's own size, by turns with doing
nothing: whatever else the machine does meets both alike. A frame is sent ahead of its time; told
is how long before or after that time it had arrived, and how late a cue of the sheet is heard of.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.lengths import length
from benchmarks.machinery import Running, Seen, quantile, say, screen, serving, spread, watch
from benchmarks.shows import jpeg_of, write_show
from tests.helpers.servers import free_port
from tests.helpers.studio_programs import StudioProgram, studio_program

SCREENS = 3
STEPS, PACE = 20, length(0.25, 0.1)
LOOP = length(12.0, 3.0)
TURNS = length(5, 1)
"""Turns of each kind."""

TURN = length(24.0, 3.0)
SETTLE = length(2.0, 0.5)
"""Seconds at the beginning of a turn that belong to neither."""

FRAME_BYTES = 150_000
_PICTURE = {"model": "none", "prompt": "a lamp", "steps": 20, "width": 1360, "height": 768}
_ENGINE = '[schedule]\nkind = "loop"\n[[engines]]\nname = "pencil"\nkind = "sketch"\n'

Spans = dict[bool, list[tuple[float, float]]]
"""The turns, from and until, in monotonic seconds: those in which the Studio draws, and others."""


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "show"
        write_show(folder, [0.5, LOOP / 2], [PACE] * STEPS, images, length=LOOP, settings=_ENGINE)
        studio = Path(name) / "studio"
        write_show(studio, [0.5], [PACE], images, length=LOOP, settings=_ENGINE)
        with serving(folder) as server, studio_program(studio, port=free_port()) as program:
            seen, spans, drawn = asyncio.run(_measure(server, program))
    _report(seen, spans, drawn)


async def _measure(
    server: Running, program: StudioProgram
) -> tuple[list[Seen], Spans, list[tuple[float, int]]]:
    await program.start()
    until = time.monotonic() + 2 * TURNS * TURN
    seen: list[Seen] = []
    spans: Spans = {False: [], True: []}
    drawn: list[tuple[float, int]] = []

    async def look(number: int) -> None:
        async with screen(server, f"screen-{number}") as (socket, what):
            seen.append(what)
            await watch(socket, what, until)

    async def take_turns() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            for turn in range(2 * TURNS):
                draws = turn % 2 == 1
                begun = time.monotonic()
                job = await _ask(client, program) if draws else None
                await asyncio.sleep(TURN - (time.monotonic() - begun))
                spans[draws].append((begun + SETTLE, time.monotonic()))
                if job is not None:
                    url = f"{program.address.http}/api/jobs/{job}"
                    done = (await client.delete(url)).json()["done"]
                    drawn.append((time.monotonic() - begun, done))

    async with asyncio.TaskGroup() as group:
        for number in range(SCREENS):
            group.create_task(look(number))
        group.create_task(take_turns())
    return seen, spans, drawn


async def _ask(client: httpx.AsyncClient, program: StudioProgram) -> str:
    body = {"kind": "draw", "recipe": _PICTURE, "n": 64, "seed": time.monotonic_ns() % 2**31}
    answer = await client.post(f"{program.address.http}/api/jobs", json=body)
    answer.raise_for_status()
    job: str = answer.json()["id"]
    return job


def _report(seen: Sequence[Seen], spans: Spans, drawn: Sequence[tuple[float, int]]) -> None:
    pictures = sum(count for _, count in drawn)
    seconds = sum(took for took, _ in drawn)
    say(
        f"{SCREENS} screens, {2 * TURNS} turns of {TURN:g} s; in every second one the Studio draws "
        f"on {os.cpu_count()} cores: {pictures} pictures, {pictures / seconds * 60:.0f} a minute"
    )
    worst = {}
    for draws, turns in spans.items():
        late = [
            arrived - due
            for what in seen
            for _, _, due, arrived in what.frames
            if _is_within(arrived - what.offset, turns)
        ]
        worst[draws] = quantile(late, 0.99)
        name = "the Studio draws " if draws else "it does nothing  "
        say(f"  {name} frames after their time: {spread(late)}")
        say(f"  {name} frames that came late: {sum(each > 0 for each in late)}")
    more = (worst[True] - worst[False]) * 1e3
    say(f"  p99 is later by {more:.2f} ms; bound: 1 ms: {'kept' if more <= 1 else 'NOT KEPT'}")


def _is_within(moment: float, turns: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= moment <= end for begin, end in turns)


if __name__ == "__main__":
    main()
