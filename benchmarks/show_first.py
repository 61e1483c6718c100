"""A live cue whose only worker draws for somebody else: how much later its first picture comes.

The worker is a process of `understudy worker` with the sketch engine, which here only waits in its
rhythm, as one waits for a GPU; but a GPU ends the step that it is in, and the sketch is left at
once. It is asked for the show while it is idle, and while it is in the middle of a step of a long
drawing that is not the show's; at the end that drawing, asked for again, comes to its end.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.lengths import length
from benchmarks.machinery import PATIENCE, say, spread, working
from generator.engines.port import EnginePreempted
from generator.engines.remote.engine import RemoteEngine
from generator.sheet.recipe import Recipe

_PACE = 0.25
"""Seconds a step."""

_STEPS = length(200, 12)
_RUNS = length(20, 2)
_LEEWAY = 0.15
"""Seconds that a change-over may take beyond the step that is being drawn."""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        show = Path(name)
        (show / "cues.json").write_text(
            json.dumps([{"time": "00:00:01", "action": "prompt", "prompt": "a lamp"}])
        )
        (show / "show.toml").write_text(
            f'[[engines]]\nname = "gpu"\nkind = "sketch"\npace = {_PACE}\n'
        )
        with working(show, "gpu") as url:
            asyncio.run(_measured(url))


async def _measured(url: str) -> None:
    long = _recipe(1, _STEPS)
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        show, other = RemoteEngine(client, url, priority="show"), RemoteEngine(client, url)
        await _draw(show, _recipe(0, 2))
        idle = [await _first_picture(show, _recipe(run)) for run in range(_RUNS)]
        busy = [
            await _overtaking(show, other, long, _recipe(run), _PACE * run / _RUNS)
            for run in range(_RUNS)
        ]
        later = [second - first for first, second in zip(idle, busy, strict=True)]
        say(f"from asking a worker at {_PACE * 1e3:.0f} ms a step to the first picture")
        say(f"  it is idle                     {spread(idle)}")
        say(f"  it draws {_STEPS:3d} steps for others  {spread(busy)}")
        say(f"  the same cue, later by         {spread(later)}")
        most = _PACE + _LEEWAY
        kept = "kept" if max(later) <= most else "NOT KEPT"
        say(f"  bound: a step and {_LEEWAY * 1e3:.0f} ms, {most * 1e3:.0f} ms in all: {kept}")
        began = time.monotonic()
        again = asyncio.create_task(_draw(other, long))
        await asyncio.sleep(4 * _PACE)
        asked = time.monotonic()
        health = (await client.get(f"{url}/health", timeout=60)).json()
        answered = time.monotonic() - asked
        say(f"  /health meanwhile: {health['proof']}, in {answered * 1e3:.1f} ms")
        await again
        say(f"  the overtaken one, asked again, is whole after {time.monotonic() - began:.1f} s")


def _recipe(seed: int, steps: int = 4) -> Recipe:
    return Recipe(model="none", prompt="a lamp", steps=steps, width=96, height=64, seed=seed)


async def _draw(engine: RemoteEngine, recipe: Recipe) -> None:
    async with engine.render(recipe) as images:
        async for _ in images:
            pass


async def _first_picture(show: RemoteEngine, recipe: Recipe) -> float:
    """Seconds from asking to the first picture of a drawing, which is left then."""
    asked = time.monotonic()
    async with show.render(recipe) as images:
        await anext(images)
        return time.monotonic() - asked


async def _overtaking(
    show: RemoteEngine, other: RemoteEngine, long: Recipe, recipe: Recipe, after: float
) -> float:
    """The same, of a worker that has been drawing a step for somebody else for some seconds."""
    async with other.render(long) as images:
        for _ in range(2):
            await anext(images)
        await asyncio.sleep(after)
        took = await _first_picture(show, recipe)
        try:
            async for _ in images:
                pass
        except EnginePreempted:
            return took
    raise RuntimeError("the show overtook nobody")


if __name__ == "__main__":
    main()
