"""`python -m benchmarks [NAME …]`: every figure, or those named.

`BENCHMARKS_SHORT=1` runs a little of each, to see that it works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import (
    browser,
    cache,
    control,
    cues,
    day,
    go,
    illusion,
    job_queue,
    line,
    manifest,
    push,
    recording,
    rehearsal,
    replay,
    show_first,
    soak,
    startup,
    studio,
    studio_beside,
    studio_kill,
    studio_queue,
    studio_soak,
    workers,
)
from benchmarks.machinery import say

BENCHMARKS: dict[str, Callable[[], None]] = {
    "startup": startup.main,
    "manifest": manifest.main,
    "cache": cache.main,
    "cues": cues.main,
    "replay": replay.main,
    "control": control.main,
    "push": push.main,
    "studio": studio.main,
    "studio_queue": studio_queue.main,
    "browser": browser.main,
    "recording": recording.main,
    "workers": workers.main,
    "show_first": show_first.main,
    "go": go.main,
    "job_queue": job_queue.main,
    "line": line.main,
    "day": day.main,
    "rehearsal": rehearsal.main,
    "illusion": illusion.main,
    "soak": soak.main,
    "studio_kill": studio_kill.main,
    "studio_beside": studio_beside.main,
    "studio_soak": studio_soak.main,
}


def main() -> None:
    """Run what is named, or everything."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}: expected {', '.join(BENCHMARKS)}")
    for name in names:
        say(f"\n== {name}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
