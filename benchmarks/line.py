"""A show from a bucket behind a slow line: does every frame come before it is due?

The bucket is rclone's S3 server; the line, a proxy that carries so many bits a second and
takes its time. `SHEET` names a cue sheet; without one, runs every twelve seconds.
`LINE_SECONDS` is how long each line is watched, `LINE_MBITS` which ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import Running, Seen, quantile, say, screen, serving, watch
from benchmarks.shows import fill_store, jpeg_of
from generator.sheet.cues import format_time
from server.config.show import load_show
from tests.cache.s3_servers import S3Server, rclone
from tests.helpers.line import Line, line_to

SECONDS = float(os.environ.get("LINE_SECONDS", length("240", "4")))
SHEET = os.environ.get("SHEET")
SEEK = os.environ.get("LINE_SEEK", "00:22:00" if SHEET else "00:00:00")
"""Where it begins: of the real sheet, where pictures follow one another."""

LINES = [
    float(mbits) * 1e6 for mbits in os.environ.get("LINE_MBITS", length("10,1", "10")).split(",")
]
STEPS = length(20, 4)
PACE = length(0.45, 0.1)
FRAME_BYTES = 150_000
SETS = 2
SETTLES = length(60.0, 0.0)
"""Seconds at the beginning, of which nothing is asked."""


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(8)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cues = Path(SHEET).read_text() if SHEET else _sheet()
        _write(folder / "show", cues)
        actions = load_show(folder / "show", {}, {}).plan({}).actions
        with rclone(folder) as server:
            bucket = server.new_bucket()
            place = folder / "buckets" / bucket
            fill_store(place, actions, images, sets=SETS, durations=[PACE] * STEPS)
            for bits in LINES:
                asyncio.run(_over(folder, server, bucket, bits))


def _sheet() -> str:
    cues = [
        {"time": format_time(3 + 12 * n), "action": "prompt", "program": "P0", "prompt": f"no {n}"}
        for n in range(int(SECONDS / 12) + 30)
    ]
    return json.dumps([*cues, {"time": format_time(SECONDS + 600), "action": "end"}])


def _write(folder: Path, cues: str) -> None:
    folder.mkdir()
    (folder / "cues.json").write_text(cues)
    (folder / "show.toml").write_text('[schedule]\nkind = "manual"\n[playback]\ndraw = "cue"\n')


def in_bucket(server: S3Server, bucket: str, endpoint_url: str) -> dict[str, str]:
    """The environment of a show whose store is that bucket."""
    return {
        "AWS_ACCESS_KEY_ID": server.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.credentials.secret_access_key,
        "UNDERSTUDY_STORE_URL": f"s3://{bucket}",
        "UNDERSTUDY_STORE_ENDPOINT_URL": endpoint_url,
    }


async def _over(folder: Path, server: S3Server, bucket: str, bits: float) -> None:
    latency = 0.05  # each way
    async with line_to(server.port, bytes_per_second=bits / 8, latency=latency) as line:
        environment = {
            **in_bucket(server, bucket, line.url),
            "UNDERSTUDY_CACHE_DIR": f"cache-{bits:.0f}",
        }

        def serve_and_watch() -> Seen:
            with serving(folder / "show", environment) as running:
                return asyncio.run(_watch(running))

        begun = time.monotonic()
        seen = await asyncio.to_thread(serve_and_watch)
        seconds = time.monotonic() - begun
    _report(seen, bits, line, seconds)


async def _watch(server: Running) -> Seen:
    async with screen(server, "wall") as (socket, seen):
        await asyncio.to_thread(server.control, "seek", {"time": SEEK})
        await watch(socket, seen, time.monotonic() + SECONDS)
    seen.state = await asyncio.to_thread(server.state)
    return seen


def _report(seen: Seen, bits: float, line: Line, seconds: float) -> None:
    began = min((due for _, _, due, _ in seen.frames), default=0.0) + SETTLES
    settled = [frame for frame in seen.frames if frame[2] > began]
    margins = [due - arrived for _, _, due, arrived in settled]
    runs: dict[str, list[int]] = {}
    for run, step, due, _ in seen.frames:
        if due > began:
            runs.setdefault(run, []).append(step)
    whole = list(runs.values())[:-1]  # the last was still on
    finals = sum(STEPS in steps for steps in whole)
    share = sum(map(len, whole)) / max(1, STEPS * len(whole))
    say(
        f"\na line of {bits / 1e6:g} Mbit/s and 100 ms there and back, {seconds:.0f} s of the "
        f"show; sets of {STEPS} x {FRAME_BYTES / 1000:.0f} kB"
    )
    say(
        f"  after the first {SETTLES:.0f} s: {len(whole)} runs, {finals} with their final image, "
        f"{share:.0%} of all frames; late {sum(margin < 0 for margin in margins)}, the tightest "
        f"{min(margins, default=float('nan')) * 1e3:.0f} ms before it was due, 1 % within "
        f"{quantile(margins, 0.01) * 1e3:.0f} ms"
    )
    carried = line.carried * 8e-6
    say(f"  the line carried {carried / 8:.0f} MB, {carried / seconds:.2f} Mbit/s")
    say(f"  the server says: {seen.state['health']['level']}: {seen.state['health']['reason']}")


if __name__ == "__main__":
    main()
