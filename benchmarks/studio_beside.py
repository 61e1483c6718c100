"""A show that plays while the Studio draws on all cores beside it: does anything come later?

A screening with a picture every few seconds and a cue every second plays to three screens. Beside
it runs a Studio with the sketch, which draws as many pictures at a time as there are cores, at
the show's own size, by turns with doing nothing: whatever else the machine does meets both alike.
Frames are sent ahead, to be shown at their time: one is late by what it comes after that. A cue is
sent at its time, so that of it every millisecond shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import httpx

from benchmarks.lengths import length
from benchmarks.machinery import Running, quantile, say, screen, serving, spread
from benchmarks.shows import jpeg_of, write_show
from generator.sheet.cues import format_time
from tests.helpers.screens import decode_frame
from tests.helpers.studio_programs import StudioProgram, studio_program

SCREENS = 3
STEPS, PACE = 20, length(0.25, 0.05)
PERIOD = length(6.0, 1.5)
"""Seconds from one picture to the next."""

TURNS = length(6, 1)
"""Turns of each kind."""

TURN = length(20.0, 3.0)
SETTLE = length(2.0, 0.5)
"""Seconds at the beginning of a turn that belong to neither."""

BEGINS = length(4.0, 3.0)
"""Seconds into the screening: the screens are there by then."""

STARTS = length(20.0, 8.0)
"""Seconds that a Studio may take to serve, on a busy machine."""

CUES_A_SECOND = 4
_BOUND = 1e-3
FRAME_BYTES = 150_000
_PICTURE = {"model": "none", "prompt": "a lamp", "steps": 20, "width": 1360, "height": 768}
_ENGINE = '[[engines]]\nname = "pencil"\nkind = "sketch"\n'

Spans = dict[bool, list[tuple[float, float]]]
"""The turns, from and until, in monotonic seconds: those in which the Studio draws, and others."""


@dataclass
class Arrivals:
    """What a screen was sent.

    Attributes:
        frames: of each frame, when it had arrived (monotonic seconds), and how long after its time.
        cues: the same of each cue.
    """

    frames: list[tuple[float, float]] = field(default_factory=list)
    cues: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(4)]
    seconds = BEGINS + 2 * TURNS * TURN + STARTS
    with tempfile.TemporaryDirectory() as name:
        folder, studio = Path(name) / "show", Path(name) / "studio"
        pictures = [BEGINS + PERIOD * n for n in range(int((seconds - BEGINS) / PERIOD))]
        write_show(folder, pictures, [PACE] * STEPS, images, length=seconds + PERIOD)
        times = _add_cues(folder / "cues.json", seconds)
        write_show(studio, [0.5], [PACE], images, length=PERIOD, settings=_ENGINE)
        with studio_program(studio) as program, serving(folder) as server:
            seen, spans, drawn = asyncio.run(_measure(server, program, times))
    _report(seen, spans, drawn)


def _add_cues(sheet: Path, seconds: float) -> Mapping[str, float]:
    """Have a sheet send its screens to another page, again and again; when, by the page."""
    count = int((seconds - BEGINS) * CUES_A_SECOND)
    times = {f"/{n}": BEGINS + n / CUES_A_SECOND for n in range(count)}
    pages = [
        {"time": format_time(at), "action": "navigate", "route": page} for page, at in times.items()
    ]
    cues = json.loads(sheet.read_text())
    sheet.write_text(json.dumps(sorted([*cues[:-1], *pages], key=itemgetter("time")) + cues[-1:]))
    return times


async def _measure(
    server: Running, program: StudioProgram, times: Mapping[str, float]
) -> tuple[list[Arrivals], Spans, list[tuple[float, int]]]:
    seen = [Arrivals() for _ in range(SCREENS)]
    spans: Spans = {False: [], True: []}
    drawn: list[tuple[float, int]] = []
    over = asyncio.Event()

    async def take_turns() -> None:
        await program.start()
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
        over.set()

    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(seen):
            group.create_task(_look(server, f"screen-{number}", each, times, over))
        group.create_task(take_turns())
    return seen, spans, drawn


async def _look(
    server: Running, name: str, seen: Arrivals, times: Mapping[str, float], over: asyncio.Event
) -> None:
    """Be a screen until it is over."""
    async with screen(server, name) as (socket, clock):
        messages = [each for each in clock.messages if each["type"] == "welcome"]
        started = messages[0]["snapshot"]["screening"]["started_at"]
        while not over.is_set():
            try:
                async with asyncio.timeout(1):
                    message = await socket.recv()
            except TimeoutError:
                continue
            at = time.monotonic()
            now = at + clock.offset
            if isinstance(message, bytes):
                header, _ = decode_frame(message)
                seen.frames.append((at, now - header["present_at"]))
            elif (told := json.loads(message))["type"] == "scene" and told["route"] in times:
                seen.cues.append((at, now - started - times[told["route"]]))


async def _ask(client: httpx.AsyncClient, program: StudioProgram) -> str:
    body = {"kind": "draw", "recipe": _PICTURE, "n": 64, "seed": time.monotonic_ns() % 2**31}
    answer = await client.post(f"{program.address.http}/api/jobs", json=body)
    answer.raise_for_status()
    job: str = answer.json()["id"]
    return job


def _report(seen: Sequence[Arrivals], spans: Spans, drawn: Sequence[tuple[float, int]]) -> None:
    pictures = sum(count for _, count in drawn)
    seconds = sum(took for took, _ in drawn)
    say(
        f"{SCREENS} screens, {2 * TURNS} turns of {TURN:g} s; in every second one the Studio draws "
        f"on {os.cpu_count()} cores: {pictures} pictures, {pictures / seconds * 60:.0f} a minute"
    )
    worst: dict[str, list[float]] = {"frames": [], "cues": []}
    for draws, turns in spans.items():
        say("the Studio draws" if draws else "the Studio does nothing")
        ahead = [-late for late in _within(turns, (each.frames for each in seen))]
        frames = [max(0.0, -each) for each in ahead]
        cues = _within(turns, (each.cues for each in seen))
        say(f"  frames after their time: {spread(frames)}")
        tightest = min(ahead, default=float("nan"))
        say(f"  the tightest of them came {tightest * 1e3:.0f} ms before it")
        say(f"  cues after their time:   {spread(cues)}")
        worst["frames"].append(quantile(frames, 0.99))
        worst["cues"].append(quantile(cues, 0.99))
    for what, (still, drawing) in worst.items():
        say(f"p99 of the {what} is later by {(drawing - still) * 1e3:.2f} ms")
    kept = worst["frames"][1] - worst["frames"][0] <= _BOUND
    say(f"bound: frames no later than by {_BOUND * 1e3:g} ms: {'kept' if kept else 'NOT KEPT'}")


def _within(
    turns: Sequence[tuple[float, float]], arrivals: Iterable[Sequence[tuple[float, float]]]
) -> list[float]:
    """How late what came in some turns was."""
    return [
        late
        for each in arrivals
        for at, late in each
        if any(begin <= at <= end for begin, end in turns)
    ]


if __name__ == "__main__":
    main()
