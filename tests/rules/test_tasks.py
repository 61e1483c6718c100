"""Nothing is begun whose end nobody sees: where tasks and threads may be made, and who awaits them.

A task that dies unseen leaves a server that looks well and does only a part of its work. What
goes on for as long as the server does is a background job (`server/core/background_jobs.py`).
What goes on beside something is awaited there. Whoever makes a task elsewhere adds it here, with
the reason why its death is seen; without one, it belongs among those jobs.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

MAKERS = frozenset(
    {
        "Thread",
        "Timer",
        "create_task",
        "ensure_future",
        "run_coroutine_threadsafe",
        "start_soon",
    }
)
"""What is called to have something done beside: in asyncio, its groups, threading, anyio."""

AWAITED = {
    ("cache/stores/s3/multipart.py", "create_task"): (
        2,
        "awaited in the upload that begins them, or as it is given up",
    ),
    ("cache/stores/to_its_end.py", "create_task"): (
        1,
        "waited for however often its caller is cancelled",
    ),
    ("generator/jobs/database.py", "Thread"): (1, "each request hears what it ended with"),
    ("generator/jobs/paces.py", "create_task"): (1, "catches what the database may raise; ended"),
    ("generator/jobs/scheduler.py", "create_task"): (3, "`run` waits for slots; slots for work"),
    ("generator/sse.py", "ensure_future"): (4, "awaited in the answer that they serve"),
    ("server/studio/feed.py", "create_task"): (2, "a TaskGroup raises what they raise"),
    ("server/studio/hooks/sender.py", "create_task"): (2, "a TaskGroup raises what they raise"),
    ("server/core/background_jobs.py", "create_task"): (1, "this is where jobs are minded"),
    ("cache/tasks.py", "create_task"): (1, "`first_of` raises what the first of them raised"),
    # Loops that go on for long, and catch all that is not their own end.
    ("cache/local/cache.py", "create_task"): (
        2,
        "tidying catches all and tells it by `untidy`; requests are awaited where they are begun",
    ),
    ("cache/prefetch/prefetcher.py", "create_task"): (
        1,
        "fetchers catch all, and are told by `stumbled`",
    ),
    ("generator/sets/harvest.py", "create_task"): (1, "the writer catches all, run by run"),
    ("server/engines/child.py", "create_task"): (
        1,
        "catches all, line by line; awaited at the end",
    ),
    ("server/engines/local.py", "create_task"): (
        2,
        "supervision catches all and becomes the engine's state; the others are awaited",
    ),
    ("server/asrun/log.py", "Thread"): (1, "the job `asrun` sees it end and begins another"),
    ("cache/durable.py", "Thread"): (
        1,
        "catches all, and `trouble` tells what is not on the disk; one that ended is begun again",
    ),
    ("server/core/output.py", "Thread"): (1, "what it cannot write is counted and told"),
    ("server/performance/performer.py", "create_task"): (
        1,
        "catches all and tells `ShowProgress`, which notices one that hangs as well",
    ),
    ("server/performance/stream_reader.py", "create_task"): (
        1,
        "raises where the frames are awaited",
    ),
    ("server/rehearsal/background.py", "create_task"): (
        1,
        "catches all; how it ended is in the state",
    ),
    # Two or more things at once, awaited by whoever begins them.
    ("cache/local/single_flight.py", "create_task"): (
        1,
        "what it raises goes to all who wait; after the arrival, to the loop's handler",
    ),
    ("cache/local/cache.py", "ensure_future"): (1, "a timer, awaited beside the answer"),
    ("cache/parallel.py", "ensure_future"): (1, "awaited, all of them"),
    ("cache/pull.py", "create_task"): (1, "awaited, all of them"),
    ("cache/threads.py", "ensure_future"): (1, "awaited, even where its caller is cancelled"),
    ("generator/sets/batch.py", "create_task"): (1, "a TaskGroup raises what they raise"),
    ("generator/engines/comfyui/listening.py", "create_task"): (
        1,
        "whoever waits for a message has a time-out, and the drawing fails",
    ),
    ("generator/engines/sketch/engine.py", "ensure_future"): (1, "awaited under a shield"),
    ("generator/outgoing.py", "create_task"): (1, "awaited under a shield"),
    ("generator/sets/recorder.py", "create_task"): (1, "awaited before the set is whole"),
    ("generator/worker.py", "create_task"): (2, "awaited in the request that they serve"),
    ("generator/worker_queue.py", "ensure_future"): (2, "awaited, whichever is done first"),
    ("server/core/clock.py", "create_task"): (1, "`timeout_at` waits for its timer"),
    ("server/control/osc.py", "create_task"): (1, "answers whatever happens"),
    ("server/control/socket.py", "create_task"): (1, "a command answers whatever happens"),
    ("server/older_wire/socket.py", "create_task"): (2, "results asked for, or their ends awaited"),
    ("server/rehearsal/simulation.py", "create_task"): (
        1,
        "a TaskGroup raises what one of them raises",
    ),
    ("server/sockets/connection.py", "create_task"): (1, "`side_by_side` raises what one raises"),
    # Threads that do one thing that cannot fail.
    ("generator/engines/pooled.py", "Thread"): (1, "ends its process with its parent's"),
    ("server/core/child_process.py", "Thread"): (1, "ends its process with its parent's"),
    ("server/core/logs.py", "Timer"): (1, "tells how many lines were left out"),
    ("server/core/host_process.py", "Timer"): (1, "ends the process"),
}
"""Where, and by what call: how many there are, and why the death of each is seen."""


def made() -> Iterator[tuple[str, str]]:
    for package in ("cache", "generator", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = node.func
                    name = getattr(called, "attr", getattr(called, "id", ""))
                    if name in MAKERS:
                        yield path.relative_to(ROOT).as_posix(), name


def test_every_task_and_thread_is_awaited_by_somebody() -> None:
    allowed = Counter({place: count for place, (count, _why) in AWAITED.items()})
    found = Counter(made())
    assert found - allowed == Counter(), (
        "a task or thread is begun whose death nobody may see: make it a job "
        "(server/core/background_jobs.py), "
        "await it where it is begun (cache/tasks.py), or say in this list who awaits it"
    )
    assert allowed - found == Counter(), "what is begun no more belongs out of the list"
    assert all(why for _count, why in AWAITED.values())
