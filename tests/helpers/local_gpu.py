"""A show's process with a diffusers child: draws, kills it in the middle, draws again, and tells.

Run as a program, so that what is in memory here is what is in memory in a server. Says in JSON
what came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import server.network.serving  # all that a server has in memory
from generator.engines.port import Engine, EngineUnavailable
from generator.sheet.recipe import Recipe
from server.config.show import load_show
from server.core.clock import SystemClock
from server.engines.live import live_engines

_PATIENCE = 240.0


async def _draw(engine: Engine, recipe: Recipe, kill: int | None = None) -> int:
    """Draw; how many images came. With a process to kill, that is killed after the third."""
    count = 0
    async with engine.render(recipe) as images:
        async for image in images:
            count = image.step
            if kill is not None and count == 3:
                os.kill(kill, signal.SIGKILL)
    return count


async def told(folder: Path) -> dict[str, Any]:
    """What comes of it."""
    show = load_show(folder)
    plan = show.plan({})
    recipe = plan.actions[0].recipe
    async with (
        asyncio.timeout(_PATIENCE),
        live_engines(show, plan, SystemClock()) as engines,
    ):
        (rung,) = engines.ranked
        local = engines.local[rung.name]
        first = await local.until("ready")
        outcome: dict[str, Any] = {
            "engine": rung.engine.name,
            "timing": rung.engine.timing,
            "before": await _draw(rung.engine, recipe),
        }
        try:
            await _draw(rung.engine, recipe, kill=first.pid)
        except EngineUnavailable as error:
            outcome["error"] = str(error)
        outcome["reason"] = (await local.until("restarting")).reason
        second = await local.until("ready")
        outcome["another"] = second.pid != first.pid
        outcome["after"] = await _draw(rung.engine, recipe)
    heavy = {"torch", "diffusers", "transformers", "accelerate"}
    outcome["heavy"] = sorted(heavy & sys.modules.keys())
    return outcome


if __name__ == "__main__":
    assert server.network.serving.__name__ in sys.modules
    print(json.dumps(asyncio.run(told(Path(sys.argv[1])))))
