"""A Studio's drawing, to be killed: works a queue off with test cards until somebody ends it.

``python -m tests.helpers.drawing_studio DATABASE FOLDER HOLDER CALLS SLOTS``, where each call of
an engine adds a line to the file CALLS before it draws.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from cache.stores.folder import FolderStore
from generator.engines.observed import Look, ObservedEngine
from generator.engines.port import StepImage
from generator.engines.testcard.engine import TestCardEngine
from generator.jobs.database import open_database
from generator.jobs.drawing import DrawingPlace
from generator.jobs.scheduler import Scheduler
from generator.jobs.store import JobStore
from generator.sheet.recipe import Recipe
from tests.helpers.pictures import picture


def scripted_images(count: int, label: str = "") -> list[StepImage]:
    """A run of so many pictures, the last of them the final one."""
    return [
        StepImage(n, count, n == count, None if n == count else 9.0, 0.1, picture(f"{label}{n}"))
        for n in range(1, count + 1)
    ]


async def work_off(database: str, folder: str, holder: str, calls: str, slots: str) -> None:
    """Work until killed."""
    counted = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @contextmanager
    def count(recipe: Recipe) -> Iterator[Look]:
        os.write(counted, f"{recipe.seed}\n".encode())
        yield lambda _image: None

    engine = ObservedEngine(TestCardEngine(wait=False), count)
    async with open_database(sa.make_url(database)) as opened, FolderStore(Path(folder)) as store:
        places = [DrawingPlace(f"{holder}-{n}", engine, store) for n in range(int(slots))]
        await Scheduler(JobStore(opened, holder), places).run()


if __name__ == "__main__":
    asyncio.run(work_off(*sys.argv[1:]))
