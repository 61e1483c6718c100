"""A day of a looping show through a cache a tenth of its store, on a virtual clock.

The house is the real one (playback, providers, prefetch, local cache with its copies on a real
disk), driven as fast as it goes. `DAY_HOURS` is how long it plays.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from benchmarks.lengths import length
from benchmarks.machinery import say
from server.core.clock import settle
from tests.helpers.house import Far, House, house
from tests.helpers.shows import LOOP, Rhythm, cue, line

HOURS = float(os.environ.get("DAY_HOURS", length("24", "0.1")))
ACTIONS = 20
SETS = 20
PERIOD = 30.0
RHYTHM = Rhythm(previews=4, step=1.0, size=20_000, sets=SETS)
LOOKS = length(12, 2)
_QUIET = 20
"""Looks at the fetching that may bring nothing before time passes for it."""


def main() -> None:
    """Print the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    asyncio.run(_day())


async def _day() -> None:
    cues = [cue(0, "start")]
    cues += [line(2 + PERIOD * n, f"line {n}", id=f"line-{n:02d}") for n in range(ACTIONS)]
    cues.append(cue(PERIOD * ACTIONS, "end"))
    one_set = RHYTHM.frames * RHYTHM.size
    store = one_set * SETS * ACTIONS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        far = Far(room=store // 10, disk=folder / "copies")
        async with house(folder / "show", cues, rhythm=RHYTHM, far=far, toml=LOOP) as at:
            say(
                f"\n{HOURS:g} simulated hours, a round of {PERIOD * ACTIONS / 60:.0f} minutes; "
                f"store {store / 1e6:.0f} MB, room for {far.room / 1e6:.0f} MB of copies"
            )
            begun, tally = time.monotonic(), _DayTotals()
            for look in range(1, LOOKS + 1):
                await _play_to(at, HOURS * 3600 * look / LOOKS)
                tally.take(at)
                _say_how_it_is(at, folder / "copies")
            say(
                f"  {tally.runs} runs, {tally.missing} frames missing, {tally.late} late; "
                f"took {time.monotonic() - begun:.0f} s"
            )


async def _play_to(at: House, position: float) -> None:
    """Let time pass in steps; what threads do is waited for, as time does not wait for it."""
    cache, prefetcher = at.supply.cache, at.supply.prefetcher
    assert cache is not None
    assert prefetcher is not None
    while at.position < position:
        await at.play_to(min(position, at.position + 1.0), step=1.0)
        quiet = 0
        while cache.demand or prefetcher.busy:
            carried = cache.stats.fetched_bytes
            await asyncio.sleep(0.0005)
            await settle(5)
            quiet = 0 if cache.stats.fetched_bytes != carried else quiet + 1
            if quiet > _QUIET:
                # Nothing comes because it waits for time to pass: for its next plan, say.
                await at.play_to(at.position + 0.05, step=0.05)
                quiet = 0


@dataclass
class _DayTotals:
    """What the wall was given."""

    runs: int = 0
    missing: int = 0
    late: int = 0

    def take(self, at: House) -> None:
        """Count what was told since, and forget it; a run that is on is counted the next time."""
        ended = {told.message["run"] for told in at.of("run_end")}
        for run in [told.message for told in at.of("run") if told.message["run"] in ended]:
            frames = at.frames_of(run["run"])
            self.runs += 1
            self.missing += run["steps"] - len(frames)
            self.late += sum(told.at > at.due(told) + 1e-6 for told in frames)
        at.told[:] = [told for told in at.told if told.message.get("run", "") not in {"", *ended}]


def _say_how_it_is(at: House, copies: Path) -> None:
    assert at.supply.cache is not None
    stats = at.supply.cache.stats
    gc.collect()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    on_disk = sum(path.stat().st_size for path in copies.rglob("*") if path.is_file())
    say(
        f"  {at.position / 3600:5.1f} h: {on_disk / 1e6:.1f} MB on disk, "
        f"{stats.memory_bytes / 1e6:.1f} MB in memory; {stats.evicted} evicted, {stats.unkept} not "
        f"kept; tasks {len(asyncio.all_tasks())}, descriptors {descriptors}"
    )


if __name__ == "__main__":
    main()
