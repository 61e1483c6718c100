"""A real server that draws live with a real worker, which is then taken away from it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.providers.live import LiveEngine
from tests.helpers.screens import ScreenClient, command, screen, web
from tests.helpers.servers import Address, serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt
from tests.helpers.workers import remote, worker_process

STEPS = 12
TOML = f"""{MANUAL}
[playback]
mode = "live"
frame_gap_timeout = 1.5

[display]
crossfade = 0.1

[programs.P4]
steps = {STEPS}
width = 320
height = 192

[[engines]]
name = "pencil"
kind = "sketch"
pace = 0.11
"""
CUES = [
    prompt(1, "a lamp", id="lamp"),
    prompt(60, "a garden", id="garden"),
    prompt(120, "the sea", id="sea"),
    cue(300, "end"),
]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=STEPS, step=0.05), toml=TOML)


async def trusted(address: Address) -> None:
    """The engine has proved itself, while nothing was on."""
    async with web(address) as client:
        while True:
            (engine,) = (await client.get("/api/state")).json()["engines"]
            if engine["state"] == "trusted":
                return
            await asyncio.sleep(0.05)


def frames_of(wall: ScreenClient, place: int) -> list[dict[str, Any]]:
    return [heard.message for heard in wall.frames_of(wall.runs[place])]


async def row(address: Address) -> dict[str, Any]:
    rows: list[dict[str, Any]] = (await command(address, "asrun", limit=1))["rows"]
    return rows[0]


def drawn(tiny: TinyShow, wall: ScreenClient, place: int) -> list[bool]:
    """Of each frame of a run, whether it came from no set."""
    run = wall.runs[place]
    action = next(h.message["cue"] for h in wall.of("run") if h.message["run"] == run)
    sets = {tiny.image(action, number, step) for number in (0, 1) for step in range(1, STEPS + 2)}
    return [heard.image not in sets for heard in wall.frames_of(run)]


async def test_an_evening_with_a_worker_that_is_taken_away(tiny: TinyShow) -> None:
    with worker_process(tiny.folder, "pencil") as worker:
        async with (
            remote(worker) as engine,
            serving(tiny.load(), [LiveEngine("gpu", engine, local=False)]) as address,
            screen(address) as wall,
        ):
            await trusted(address)

            # A picture that is drawn from start to end.
            await command(address, "go", cue="lamp")
            await wall.until(lambda me: me.of("run_end"), why="a whole live run")
            assert all(drawn(tiny, wall, 0))
            whole = await row(address)
            assert (whole["outcome"], whole["engine"]) == ("completed", "gpu: sketch 1")
            assert whole["seed"] is not None

            # One that is cut off: the worker, which draws one at a time, is free at once.
            await command(address, "regenerate")
            await wall.until(lambda me: len(me.runs) == 2 and len(frames_of(me, 1)) >= 2)
            await command(address, "mode.force", mode="live", now=True)
            await wall.until(lambda me: len(me.of("run_end")) == 3)
            outcomes = [heard.message["outcome"] for heard in wall.of("run_end")]
            assert outcomes == ["completed", "cut", "completed"]
            assert all(drawn(tiny, wall, 2))

            # It hangs in the middle.
            await command(address, "go", cue="garden")
            await wall.until(lambda me: len(me.runs) == 4 and len(frames_of(me, 3)) >= 3)
            worker.freeze()
            await wall.until(lambda me: len(me.of("run_end")) == 4, why="the end of the run")
            check_taken_over(tiny, wall, 3)
            await check_row(address, "no further frame in time")

            # It rests: the next cue does not even ask it.
            await command(address, "regenerate")
            await wall.until(lambda me: len(me.of("run_end")) == 5)
            assert not any(drawn(tiny, wall, 4))
            assert "engine gpu rests until" in (await row(address))["why"]

            # Somebody has looked after it; then it dies in the middle.
            worker.thaw()
            await command(address, "engine.reset", engine="gpu")
            await command(address, "go", cue="sea")
            await wall.until(lambda me: len(me.runs) == 6 and len(frames_of(me, 5)) >= 3)
            worker.kill()
            await wall.until(lambda me: len(me.of("run_end")) == 6, why="the end of the run")
            check_taken_over(tiny, wall, 5)
            await check_row(address, "worker at")


def check_taken_over(tiny: TinyShow, wall: ScreenClient, place: int) -> None:
    """First the worker's frames, then a set's, as one run."""
    frames = frames_of(wall, place)
    assert frames[-1]["final"]
    assert wall.of("run_end")[place].message["outcome"] == "completed"
    steps = [frame["step"] for frame in frames]
    assert steps == sorted(set(steps))
    dues = [frame["present_at"] for frame in frames]
    assert dues == sorted(dues)
    origins = drawn(tiny, wall, place)
    taken_over = origins.index(False)
    assert taken_over >= 3
    assert all(origins[:taken_over])
    assert not any(origins[taken_over:])


async def check_row(address: Address, reason: str) -> None:
    told = await row(address)
    assert (told["outcome"], told["provider"]) == ("failed over", "live")
    (setback,) = told["failovers"]
    assert (setback["from"], setback["to"]) == ("live gpu", "static")
    assert reason in setback["reason"]
    assert setback["set_id"] in {0, 1}
