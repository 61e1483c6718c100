"""Two hundred jobs, asked for over HTTP while their Studio is killed at ten random moments.

Once with one Studio on SQLite, once with two Studios on one queue in a Postgres of Debian's, of
which one or the other is killed. The engines are workers that outlive the Studios and count how
often they are asked. The same seeds are drawn by a Studio that nobody kills, on this machine, and
the pictures compared byte for byte.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import say
from tests.helpers.postgres import postgres
from tests.helpers.studio_programs import (
    CountedEngine,
    StudioProgram,
    counted_workers,
    disturbed,
    picture_of,
    studio_program,
    takes_by_seed,
    write_studio,
)

JOBS = length(200, 6)
KILLS = length(10, 1)
STEP = 0.02
SLOTS = 2
SEEDS = range(1000, 1000 + JOBS)


def main() -> None:
    """Print the figures."""
    logging.getLogger("uvicorn.error").setLevel("WARNING")  # the workers are in this process
    asyncio.run(_measure())


async def _measure() -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        expected = await _undisturbed(folder / "peace")
        async with counted_workers(2 * SLOTS, STEP) as (engines, sections):
            each = [f"[[engines]]\n{text}" for text in sections.split("[[engines]]\n")[1:]]

            def studio(number: int, engines: Sequence[str], **how: str) -> StudioProgram:
                at = folder / f"show-{number}"
                write_studio(at, "".join(engines), **how)
                return stack.enter_context(studio_program(at))

            one = [studio(0, each[:SLOTS])]
            await _killed("one Studio, SQLite", one, folder / "show-0/store", expected, engines)
            server = stack.enter_context(postgres())
            url = server.url.set(drivername="postgresql").render_as_string(hide_password=False)
            how = {
                "store": f"file://{folder}/store",
                "studio": f'keep_free = 0\ndatabase = "{url}"',
            }
            two = [studio(1, each[:SLOTS], **how), studio(2, each[SLOTS:], **how)]
            await _killed("two Studios, Postgres", two, folder / "store", expected, engines)


async def _undisturbed(folder: Path) -> dict[int, bytes]:
    """The pictures of a Studio that nobody kills."""
    write_studio(folder, '[[engines]]\nname = "card"\nkind = "testcard"\n')
    with studio_program(folder) as studio:
        began = time.monotonic()
        seen = await disturbed([studio], folder / "store", SEEDS, 0, random.Random(0))
        say(f"{JOBS} jobs that nobody disturbs: {time.monotonic() - began:.1f} s, {seen.wrong}")
        takes = await takes_by_seed(studio)
    return {seed: picture_of(folder / "store", take) for seed, take in takes.items()}


async def _killed(
    name: str,
    studios: Sequence[StudioProgram],
    store: Path,
    expected: dict[int, bytes],
    engines: Sequence[CountedEngine],
) -> None:
    before = sum(len(engine.asked) for engine in engines)
    began = time.monotonic()
    seen = await disturbed(studios, store, SEEDS, KILLS, random.Random(JOBS))
    took = time.monotonic() - began
    calls = sum(len(engine.asked) for engine in engines) - before
    takes = await takes_by_seed(studios[0])
    same = sum(picture_of(store, takes[seed]) == expected[seed] for seed in SEEDS)
    bound = JOBS + SLOTS * KILLS
    say(f"{name}: killed {seen.kills} times, all over after {took:.1f} s")
    say(f"  promised {len(set(seen.promised.values()))}, refused or lost {seen.refused}, kept all")
    say(f"  completed {sum(each == 'completed' for each in seen.statuses.values())} of {JOBS}")
    say(f"  engine calls {calls} (claims {seen.claims}), at most {bound}: {calls <= bound}")
    say(f"  pictures as undisturbed: {same} of {JOBS}")
    say(
        f"  told {len(seen.heard)} events, each once and in order; wrong: {seen.wrong or 'nothing'}"
    )
    for studio in studios:
        errors = studio.errors()
        say(f"  errors in its log: {len(errors)} {[each['event'] for each in errors[:5]]}")


if __name__ == "__main__":
    main()
