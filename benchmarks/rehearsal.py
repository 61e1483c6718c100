"""Rehearsal: how long it takes, and whether it comes true.

The demo is drawn, rehearsed, and then played for real at a screen socket with the same seed:
the runs, their sets and the due time of every frame are compared. `REHEARSAL_SHOW` names
another show, whose sets are drawn already, to be rehearsed alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx
import structlog

from benchmarks.lengths import length
from benchmarks.machinery import PATIENCE, Running, Seen, say, screen, serving, spread, watch
from server.config.show import DEMO, Show, load_show
from server.diagnostics.report import RehearsalOptions, Report
from server.rehearsal.rehearsal import rehearse

SEED = 7
DAY = length(10, 2)


def main() -> None:
    """Print the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    named = os.environ.get("REHEARSAL_SHOW")
    if named is not None:
        _how_long(load_show(Path(named)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns(".understudy", "actions"))
        environment = {**os.environ, "UNDERSTUDY_STORE_URL": f"file:{folder}"}
        subprocess.run(
            [
                *(sys.executable, "-m", "server", "generate", "batch", "--show", str(folder)),
                *length((), ("--sets", "1")),
            ],
            env=environment,
            check=True,
            capture_output=True,
        )
        show = load_show(folder, {"store": {"url": f"file:{folder}"}})
        _how_long(show)
        _comes_true(
            folder, rehearse(show, RehearsalOptions(seed=SEED, screenings=2), wall=time.time())
        )


def _how_long(show: Show) -> None:
    say(
        f"\n{show.title}: {len(show.sheet.cues)} cues, {show.duration / 60:.0f} minutes a screening"
    )
    for screenings in (1, DAY):
        began = time.perf_counter()
        report = rehearse(
            show, RehearsalOptions(seed=SEED, screenings=screenings), wall=time.time()
        )
        took = time.perf_counter() - began
        began = time.perf_counter()
        files = _read(show, report)
        bare = time.perf_counter() - began
        say(
            f"  {screenings} screenings, {len(report.cues)} runs: {took:.2f} s; reading and "
            f"hashing their {files} files alone: {bare:.2f} s ({took / bare:.1f} times as long)"
        )


def _read(show: Show, report: Report) -> int:
    """Read and hash, in a bare loop, what was played."""
    root, files = show.folder / show.settings.store.url.removeprefix("file:"), 0
    for run in report.cues:
        for path in (root / "actions" / run.action_id / "sets" / str(run.set_id)).glob("*.*"):
            hashlib.sha256(path.read_bytes()).digest()
            files += 1
    return files


def _comes_true(folder: Path, foretold: Report) -> None:
    environment = {
        "UNDERSTUDY_PLAYBACK_SEED": str(SEED),
        "UNDERSTUDY_STORE_URL": f"file:{folder}",
    }
    seconds = length(foretold.screenings[0].to + 20, 8)
    with serving(folder, environment) as server:
        seen = asyncio.run(_watched(server, seconds))
        answer = httpx.get(
            f"http://{server.address}/api/asrun?limit=1000", trust_env=False, timeout=PATIENCE
        )
        rows = sorted(answer.json(), key=lambda row: row["started_at"])
    frames: dict[str, dict[int, float]] = defaultdict(dict)
    for token, step, at, _ in seen.frames:
        frames[token][step] = at
    same, apart, missing = 0, [], 0
    for row, run in zip(rows, foretold.cues, strict=False):
        same += (row["action_id"], row["set_id"], row["cycle"] + 1) == (
            run.action_id,
            run.set_id,
            run.cycle,
        )
        for step, due in enumerate(run.due, start=1):
            told = frames[row["run"]].get(step)
            if due is None or told is None:
                missing += row["outcome"] is not None
            else:
                apart.append(abs(told - row["started_at"] - due))
    say(f"\nThe demo for {seconds:.0f} s at the screen socket, seed {SEED}")
    say(f"  {same} of {len(rows)} runs are those foretold: the same cue, cycle and set")
    say(f"  due times apart by {spread(apart)}; {missing} frames not seen")


async def _watched(server: Running, seconds: float) -> Seen:
    async with screen(server, "wall") as (socket, seen):
        await watch(socket, seen, time.monotonic() + seconds)
    return seen
