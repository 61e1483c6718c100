"""A show whose store is far away, on a virtual clock: slow, silent, failing, changing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cache.stores.port import StoreUnavailable
from server.control.command import Caller
from tests.helpers.house import Far, House, Told, house
from tests.helpers.servers import ROOT
from tests.helpers.shows import LOOP, Rhythm, cue, line

SHEET = ROOT.parent / "shared" / "data" / "cues.json"
"""Beside the checkout, not in it: it is somebody's piece."""

CUES = [
    cue(0, "start"),
    *(line(5 + 15 * number, f"line {number}", id=f"line-{number}") for number in range(8)),
    cue(130, "end"),
]
RHYTHM = Rhythm(previews=9, step=0.8, size=20_000, sets=3)
RUN_BYTES = RHYTHM.frames * RHYTHM.size


def gone_missing(at: House, cue_ids: Sequence[str] | None = None) -> dict[str, list[int]]:
    """The steps that each run so far was shown without, by run; nothing where all were."""
    missing: dict[str, list[int]] = {}
    for run in at.of("run"):
        if cue_ids is not None and run.message["cue"] not in cue_ids:
            continue
        came = {told.message["step"] for told in at.frames_of(run.message["run"])}
        absent = [n for n in range(1, run.message["steps"] + 1) if n not in came]
        if absent:
            missing[run.message["run"]] = absent
    return missing


def late(at: House) -> list[Told]:
    """Frames that came after they were due."""
    return [told for told in at.of("frame") if told.at > at.due(told) + 1e-6]


async def look(at: House) -> None:
    """Look through the store, which takes time when it is far away."""
    looking = asyncio.create_task(at.readiness.look())
    await at.play_to(at.position + 6)
    await looking


async def outcomes(at: House) -> list[str]:
    return [row["outcome"] for row in await at.rows() if row["ended_at"] is not None]


async def test_everything_is_here_before_it_is_due(tmp_path: Path) -> None:
    far = Far(latency=0.1, bytes_per_second=100_000)
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=far, toml=f"{LOOP}gap = 5\n") as at:
        await at.play_to(300)
        assert len(at.of("run")) == 18
        # The first run begins five seconds after the cache was empty.
        assert gone_missing(at) == {}
        assert late(at) == []
        assert set(await outcomes(at)) == {"completed"}


async def test_a_store_that_is_silent_for_ten_minutes_is_not_noticed(tmp_path: Path) -> None:
    far = Far(latency=0.1, bytes_per_second=400_000)
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=far, toml=f"{LOOP}gap = 5\n") as at:
        await at.play_to(140)
        at.store.answering.clear()
        await look(at)
        await at.play_to(740)
        assert gone_missing(at) == {}
        assert late(at) == []
        assert set(await outcomes(at)) == {"completed"}
        # Without the store, the same sets again; never the same twice running.
        before = len(at.of("run"))
        assert before == pytest.approx(740 / 135 * 8, abs=2)
        assert at.wrong_now("error") == []
        at.store.answering.set()
        await at.play_to(1000)
        assert gone_missing(at) == {}
        # Caught up: all three sets of each are played again.
        rows = (await at.rows())[before:]
        assert len({(row["action_id"], row["set_id"]) for row in rows}) > 8


async def test_a_store_that_fails_says_so_and_the_show_goes_on(tmp_path: Path) -> None:
    far = Far(latency=0.1, bytes_per_second=400_000)
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=far, toml=f"{LOOP}gap = 5\n") as at:
        await at.play_to(130)
        at.store.fail_next(*[StoreUnavailable("", "the line is dead")] * 10_000)
        await at.play_to(200)
        await look(at)
        health = at.view.health()
        assert health["level"] == "degraded"
        assert "playing from the copies on this machine: the line is dead" in health["reason"]
        assert at.wrong_now("error") == []
        await at.play_to(500)
        assert gone_missing(at) == {}
        assert set(await outcomes(at)) == {"completed"}


async def test_on_a_line_too_slow_there_is_every_final_image_and_it_says_so(
    tmp_path: Path,
) -> None:
    # Every 15 s a run of 200 kB; the line carries 90 kB in that time.
    far = Far(latency=0.1, bytes_per_second=6_000)
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=far, toml=f"{LOOP}gap = 5\n") as at:
        await at.play_to(70)
        assert "left out" in " ".join(at.wrong_now("warning"))
        await at.play_to(130)
        assert late(at) == []
        runs = [told.message["run"] for told in at.of("run")]
        finals = [told.message["run"] for told in at.of("frame") if told.message["final"]]
        assert finals == runs
        assert len(runs) >= 7  # the first may be too soon for a line like this
        thinned = gone_missing(at)
        assert len(thinned) >= 4
        # What came of a picture is spread over its whole run.
        for absent in list(thinned.values())[2:]:
            shown = [n for n in range(1, RHYTHM.frames + 1) if n not in absent]
            gaps = [b - a for a, b in zip([0, *shown], shown, strict=False)]
            assert max(gaps) <= 6


async def test_nothing_here_and_no_line_is_told_with_names(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=Far(latency=0.1), play=False) as at:
        at.store.fail_next(*[StoreUnavailable("", "the line is dead")] * 1000)
        at.supply.nudge()
        await at.play_to(3)
        await look(at)
        (problem,) = at.wrong_now("error")
        assert "nothing of its sets is on this machine yet" in problem
        assert "the line is dead" in problem
        assert problem.startswith("line-0, line-1, ")
        assert problem.endswith("(and 7 more)")
        standby = at.view.state()["standby"]
        assert standby is not None
        assert (standby["copies"], standby["ready"]) == ("none", False)


async def test_a_jump_brings_what_is_needed_there(tmp_path: Path) -> None:
    far = Far(latency=0.05, bytes_per_second=60_000)
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=far) as at:
        await at.play_to(1)
        at.playback.seek(94.5)  # half a second before the seventh, of which nothing is here
        await at.play_to(40)
        run = next(told for told in at.of("run") if told.message["cue"] == "line-6")
        frames = at.frames_of(run.message["run"])
        assert frames[-1].message["final"]
        assert len(frames) >= 5
        # The line had two seconds for what it was not asked for before.
        assert {told.message["step"] for told in late(at) if told in frames} <= {1, 2, 3}


async def test_what_somebody_asks_for_is_fetched_first(tmp_path: Path) -> None:
    far = Far(latency=0.05, bytes_per_second=40_000)
    async with house(tmp_path, CUES, rhythm=RHYTHM, far=far, play=False) as at:
        await at.play_to(1)
        assert at.readiness.copies("line-7") == "none"
        assert at.readiness.copies("line-6") == "none"
        answer = await at.dispatcher.dispatch(
            "prefetch", {"cue": "line-7"}, Caller("operator", "a test")
        )
        assert answer["cue"] == "line-7"
        json.dumps(answer, allow_nan=False)
        await at.play_to(16)
        assert at.readiness.copies("line-7") in {"one", "all"}
        assert at.readiness.copies("line-6") == "none"


@pytest.mark.skipif(not SHEET.exists(), reason="the real sheet is not beside this checkout")
@pytest.mark.parametrize(("mbits", "whole"), [(10.0, True), (1.0, False)])
async def test_the_real_piece_over_a_real_line(tmp_path: Path, mbits: float, whole: bool) -> None:
    """Where its pictures are densest: 20 images of 150 kB each, over a line 100 ms long.

    To spare memory the images are a tenth of that, and so is the line.
    """
    cues = json.loads(SHEET.read_bytes())
    far = Far(latency=0.1, bytes_per_second=mbits * 1e6 / 8 / 10)
    rhythm = Rhythm(previews=19, step=0.45, size=15_000, sets=2)
    async with house(tmp_path, cues, rhythm=rhythm, far=far) as at:
        at.playback.seek(1320)
        await at.play_to(90, step=0.5)  # the metas are not a tenth of their size
        begun = len(at.of("run"))
        await at.play_to(300, step=0.5)
        runs = at.of("run")[begun:-1]
        assert len(runs) >= 14
        finals = {told.message["run"] for told in at.of("frame") if told.message["final"]}
        assert [told for told in runs if told.message["run"] not in finals] == []
        late_runs = {told.message["run"] for told in late(at)}
        assert [told for told in runs if told.message["run"] in late_runs] == []
        if whole:
            assert gone_missing(at, [told.message["cue"] for told in runs]) == {}
