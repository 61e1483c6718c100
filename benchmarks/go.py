"""From a technician's `go` to the first frame on the wire, of a show whose store is a bucket."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.lengths import length
from benchmarks.line import in_bucket
from benchmarks.machinery import PATIENCE, Running, say, screen, serving, spread
from benchmarks.shows import fill_store, jpeg_of
from server.config.show import load_show
from tests.cache.s3_servers import rclone

CUES = length(12, 2)
GOES = length(36, 3)
FRAME_BYTES = 150_000


def main() -> None:
    """Print the figures."""
    images = [jpeg_of(1360, 768, FRAME_BYTES, seed) for seed in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show = folder / "show"
        show.mkdir()
        cues = [
            {"time": f"00:{n:02d}:00", "action": "prompt", "program": "P0", "prompt": f"no {n}"}
            for n in range(CUES)
        ]
        cues.append({"time": f"00:{CUES:02d}:00", "action": "end"})
        (show / "cues.json").write_text(json.dumps(cues))
        (show / "show.toml").write_text('[schedule]\nkind = "manual"\n[playback]\ndraw = "cue"\n')
        actions = load_show(show, {}, {}).plan({}).actions
        with rclone(folder) as server:
            bucket = server.new_bucket()
            place = folder / "buckets" / bucket
            fill_store(place, actions, images, sets=2, durations=[0.4] * 20)
            with serving(show, in_bucket(server, bucket, server.endpoint_url)) as running:
                took = asyncio.run(_go(running))
    say(f"\nfrom go (over HTTP) to the first frame at the screen: {spread(took)}")


async def _go(server: Running) -> list[float]:
    took: list[float] = []
    async with (
        httpx.AsyncClient(
            base_url=f"http://{server.address}", trust_env=False, timeout=PATIENCE
        ) as client,
        screen(server, "wall") as (socket, _),
    ):
        while (await client.get("/readyz")).status_code != httpx.codes.OK:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.2)
        await asyncio.sleep(length(6, 1))  # till the pictures that have come are proven
        for number in range(GOES):
            begun = time.monotonic()
            cue = number % CUES
            going = asyncio.create_task(client.post("/api/control/go", json={"cue": cue}))
            while not isinstance(await socket.recv(), bytes):
                pass
            took.append(time.monotonic() - begun)
            (await going).raise_for_status()
            # What is left of this run is taken, so that the next frame is the next run's.
            until = time.monotonic() + 0.8
            while (left := until - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await socket.recv()
                except TimeoutError:
                    break
    return took


if __name__ == "__main__":
    main()
