"""A run as screens know it, whatever its streams do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from generator.sheet.cues import Failover
from server.asrun.log import AsRun
from server.config.show import load_show
from server.core.clock import VirtualClock
from server.core.metrics import Metrics
from server.modes.ladder import STATIC, Decision, Rung
from server.performance.run import Assignment, Reports, Run
from server.providers.base import Frame, FrameStream, Source
from server.stage import messages as wire
from server.stage.stage import Stage
from tests.helpers.shows import cue, prompt, write_show

GPU = Rung("live", "gpu")
LIVE = Source("live", "gpu: scripted 1", seed=7)


async def nothing() -> AsyncIterator[Frame]:
    return
    yield


def stream(source: Source = LIVE, steps: int = 10) -> FrameStream:
    return FrameStream(source, steps, (), nothing())


def frame(step: int, due: float, steps: int = 10) -> Frame:
    return Frame(step, steps, step == steps, due, b"picture", "image/jpeg")


class Bench:
    def __init__(self, folder: Path, failover: Failover = "continue") -> None:
        self.clock = VirtualClock(1000.0)
        info = wire.ShowInfo(title="x", timezone="UTC", duration=60)
        display = wire.Display(crossfade=1, fade=1, captions=True, progress=True, badge=True)
        self.stage = Stage(self.clock, info, display)
        self.log = AsRun()
        show = load_show(write_show(folder, [prompt(0, "a", id="a"), cue(60, "end")]), {}, {})
        (action,) = show.plan({}).actions
        self.run = Run(
            "token",
            Assignment(action, {}, 1000.0, 0.0, None),
            Decision("live", (GPU, STATIC), "live as configured"),
            cycle=1,
            failover=failover,
            end=None,
            reports=Reports(self.stage, self.log, Metrics()),
        )

    def told(self) -> list[tuple[int, int, float]]:
        performance = self.stage.current
        assert performance is not None
        headers = [performance.frame(index).header for index in range(len(performance))]
        return [(each.step, each.steps, each.present_at) for each in headers]

    async def row(self) -> dict[str, Any]:
        (row,) = await self.log.rows()
        return row


def fail_over(bench: Bench) -> FrameStream:
    """The engine gives three frames, well ahead of their time, and fails; a set takes over."""
    first, second = stream(), stream(Source("static", "sketch 1", 3, "sha256:00", 9))
    bench.run.ask(GPU)
    bench.run.opened(first)
    for step in (1, 2, 3):
        assert bench.run.show(first, frame(step, 1002.0 + step))
    bench.run.set_back(GPU, STATIC, TimeoutError("no further frame in time"), 1004.0)
    bench.run.ask(STATIC)
    bench.run.opened(second)
    return second


def test_no_frame_is_due_before_those_of_a_take_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    second = fail_over(bench)
    assert bench.run.slot.start == 1005.0
    assert bench.run.show(second, frame(4, 1004.2))
    assert bench.run.show(second, frame(5, 1006.0))
    assert [due for _, _, due in bench.told()] == [1003.0, 1004.0, 1005.0, 1005.0, 1006.0]


def test_what_would_take_the_picture_back_is_passed_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    second = fail_over(bench)
    assert [bench.run.show(second, frame(step, 1006.0)) for step in (1, 2, 3, 4)] == [
        False,
        False,
        False,
        True,
    ]
    assert [step for step, _, _ in bench.told()] == [1, 2, 3, 4]


def test_restarted_nothing_is_passed_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "restart")
    second = fail_over(bench)
    assert bench.run.slot.share == 0.0
    assert bench.run.show(second, frame(1, 1006.0))
    steps = [step for step, _, _ in bench.told()]
    assert steps == sorted(set(steps))


async def test_the_row_tells_what_it_began_with_and_what_took_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    second = fail_over(bench)
    bench.run.show(second, frame(10, 1006.0))
    bench.run.over("completed", 1006.0)
    row = await bench.row()
    assert (row["provider"], row["engine"], row["seed"]) == ("live", "gpu: scripted 1", 7)
    assert (row["set_id"], row["outcome"], row["ended_at"]) == (None, "failed over", 1006.0)
    assert row["failovers"] == [
        {
            "at": 1004.0,
            "step": 3,
            "from": "live gpu",
            "to": "static",
            "reason": "no further frame in time",
            "engine": "sketch 1",
            "set_id": 3,
            "set_hash": "sha256:00",
            "seed": 9,
        }
    ]
    on_stage = bench.run.on_stage
    assert on_stage is not None
    assert (on_stage.provider, on_stage.set_id) == ("static", 3)


async def test_of_a_run_that_nothing_came_of_nobody_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run.ask(GPU)
    bench.run.over("cut", 1001.0)
    assert await bench.log.rows() == []
    assert bench.run.on_stage is None
    assert bench.stage.current is None


@pytest.mark.parametrize("failover", ["continue", "restart", "hold"])
def test_only_hold_breaks_off_for_good_and_only_what_has_begun(
    tmp_path: Path, failover: Failover
) -> None:
    bench = Bench(tmp_path, failover)
    assert not bench.run.broken_off_for_good
    fail_over(bench)
    assert bench.run.broken_off_for_good == (failover == "hold")
