"""How long after its time a cue is heard of at a screen, several of them sharing a second."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import Running, Seen, say, screen, serving, spread, watch
from generator.sheet.cues import format_time

_SECONDS = length(30, 3)
_EACH_SECOND = (1, 3, 1, 10)


def main() -> None:
    """Print the figures."""
    cues = []
    times: dict[str, float] = {}
    for second in range(3, 3 + _SECONDS):
        for place in range(_EACH_SECOND[second % len(_EACH_SECOND)]):
            route = f"/{second}/{place}"
            times[route] = float(second)
            cues.append({"time": format_time(second), "action": "navigate", "route": route})
    cues.append({"time": format_time(3 + _SECONDS + 3), "action": "end"})
    with tempfile.TemporaryDirectory() as folder:
        show = Path(folder)
        (show / "cues.json").write_text(json.dumps(cues))
        (show / "show.toml").write_text('[show]\ntitle = "Cues"\n')
        with serving(show) as server:
            seen, arrived = asyncio.run(_listen(server))
    started = next(
        (m["snapshot"]["screening"]["started_at"] for m in seen.messages if m["type"] == "welcome"),
        None,
    )
    if started is None:
        started = next(m["started_at"] for m in seen.messages if m["type"] == "screening")
    late = [at - started - times[route] for route, at in arrived if route in times]
    order = [route for route, _ in arrived] == list(times)
    say(
        f"{len(times)} cues, up to {max(_EACH_SECOND)} in a second: each once and in order: {order}"
    )
    say(f"  at the screen after its time: {spread(late)}")


async def _listen(server: Running) -> tuple[Seen, list[tuple[str, float]]]:
    arrived: list[tuple[str, float]] = []
    async with screen(server, "cues") as (socket, seen):
        until = time.monotonic() + _SECONDS + 4
        heard = len(seen.messages)
        while time.monotonic() < until:
            await watch(socket, seen, min(until, time.monotonic() + 0.002))
            fresh = [m["route"] for m in seen.messages[heard:] if m["type"] == "scene"]
            arrived += [(route, seen.now()) for route in fresh]
            heard = len(seen.messages)
    return seen, arrived


if __name__ == "__main__":
    main()
