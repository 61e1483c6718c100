"""Loading a manifest of 100,000 sets, beside a bare ``json.loads`` of the same bytes.

Each figure comes from a process of its own, so that one's memory is not the other's.
"""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from benchmarks.lengths import length
from cache.model.manifest import Manifest, ManifestAction, dump_manifest, parse_manifest

ROUNDS = length(5, 1)
SHAPES = length(((20_000, 5), (1_000, 100)), ((200, 5), (10, 100)))
WAYS: dict[str, Callable[[bytes], object]] = {
    "json.loads": json.loads,
    "parse_manifest": parse_manifest,
}


def manifest_of(actions: int, sets: int) -> bytes:
    """A manifest as a generator would write it."""
    entries = {
        f"prompt_{number:05d}": ManifestAction(
            type="prompt",
            program="P2",
            prompt=f"painting like epic poem of malaya, number {number}",
            steps=20,
            time="00:44:22",
            fingerprint="sha256:" + hashlib.sha256(str(number).encode()).hexdigest(),
            set_ids=tuple(range(sets)),
        )
        for number in range(1, actions + 1)
    }
    return dump_manifest(Manifest(generated_at=datetime(2026, 11, 20, tzinfo=UTC), actions=entries))


def forget_peak() -> None:
    """Begin anew with the peak of memory, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int:
    """Most memory this process held since `forget_peak`, in bytes."""
    # On Linux, ru_maxrss also counts what the parent held before it started this process.
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return 1024 * next(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(way: str, data: bytes, answer: Connection) -> None:
    """Send the growth of peak memory in MB over the first load, and seconds per load."""
    load = WAYS[way]
    gc.collect()
    forget_peak()
    before = peak_rss()
    seconds = []
    growth = 0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        loaded = load(data)
        seconds.append(time.perf_counter() - start)
        growth = growth or peak_rss() - before
        del loaded
    answer.send((growth / 1e6, median(seconds), max(seconds)))


def main() -> None:
    context = multiprocessing.get_context("spawn")
    for actions, sets in SHAPES:
        data = manifest_of(actions, sets)
        print(f"{actions} actions x {sets} sets: {len(data) / 1e6:.1f} MB")
        for way in WAYS:
            ours, theirs = context.Pipe()
            process = context.Process(target=measure, args=(way, data, theirs))
            process.start()
            growth, typical, worst = ours.recv()
            process.join()
            print(
                f"  {way:15} {typical:6.3f} s median, {worst:6.3f} s worst of {ROUNDS},"
                f" peak memory +{growth:.0f} MB"
            )


if __name__ == "__main__":
    main()
