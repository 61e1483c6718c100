from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from generator.engines.port import StepImage
from server.core.clock import VirtualClock
from server.providers.live import LiveEngine
from tests.helpers.engines import drawing
from tests.helpers.house import house
from tests.helpers.shows import LOOP, Rhythm, cue, prompt

CUES = [prompt(2, "one", id="one"), prompt(30, "two", id="two"), cue(90, "end")]
TOML = LOOP + '[playback]\nmode = "live"\n'


class Clinging:
    """An engine that hangs, and does not let go either."""

    name = "clinging 1"
    timing = "simulated"

    def __init__(self, clock: VirtualClock, error: Exception | None = None) -> None:
        self._clock = clock
        self._error = error
        self.let_go = asyncio.Event()

    @asynccontextmanager
    async def render(self, recipe: Any) -> AsyncIterator[AsyncIterator[StepImage]]:
        del recipe
        try:
            yield self._images()
        finally:
            await asyncio.shield(asyncio.ensure_future(self.let_go.wait()))

    async def _images(self) -> AsyncIterator[StepImage]:
        for image in drawing("gpu")[:5]:
            await self._clock.sleep(0.5)
            yield image
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()


async def test_an_engine_that_does_not_let_go_keeps_nobody_waiting(tmp_path: Path) -> None:
    clock = VirtualClock()
    engine = Clinging(clock)
    async with house(
        tmp_path,
        CUES,
        rhythm=Rhythm(previews=20, step=0.4),
        toml=TOML,
        clock=clock,
        engines=[LiveEngine("gpu", engine, local=False)],  # type: ignore[arg-type]
    ) as opened:
        await opened.play_to(25)
        frames = opened.of("frame")
        assert frames[-1].message["final"]
        gaps = [
            later.message["present_at"] - earlier.message["present_at"]
            for earlier, later in itertools.pairwise(frames)
        ]
        assert max(gaps) <= 5.5
        engine.let_go.set()
        await opened.play_to(45)
        assert [row["outcome"] for row in await opened.rows()] == ["failed over", "completed"]


@pytest.mark.parametrize("error", [RuntimeError("a mistake of its own"), KeyError("image")])
async def test_an_engines_own_mistake_is_a_failure_like_any_other(
    tmp_path: Path, error: Exception
) -> None:
    clock = VirtualClock()
    engine = Clinging(clock, error)
    engine.let_go.set()
    with capture_logs() as logs:
        async with house(
            tmp_path,
            CUES,
            rhythm=Rhythm(previews=20, step=0.4),
            toml=TOML,
            clock=clock,
            engines=[LiveEngine("gpu", engine, local=False)],  # type: ignore[arg-type]
        ) as opened:
            await opened.play_to(25)
            (row,) = await opened.rows()
            assert row["outcome"] == "failed over"
            assert opened.of("frame")[-1].message["final"]
            assert opened.modes.health("gpu").failures == 1
    assert "run_failed" in {entry["event"] for entry in logs}
