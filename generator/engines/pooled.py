"""An engine in processes of its own: for drawing many sets at once on a machine's cores.

An engine that draws in Python holds the interpreter's lock, so threads would take turns.
Here a whole picture is drawn in another process and handed over when it is done: right for
recording, useless for playing live.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from generator.engines.port import EnginePoisoned, StepImage, Timing
from generator.sheet.recipe import Recipe

Draw = Callable[[Recipe, float], list[StepImage]]
"""Draws a whole picture at a nominal pace; importable by name, so that a process finds it."""


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes to draw in; what is not begun when it is left is dropped."""
    # Spawned, because a fork of a process with threads inherits their locks.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In each process: Ctrl-C is the parent's to answer, and nobody outlives the parent.

    A pool's processes hold both ends of their queues, so that they would wait for ever for a
    parent that was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # from a thread; there is nothing to tidy up


@dataclass(frozen=True)
class PooledEngine:
    """Draws whole pictures in a pool of processes.

    Args:
        name: what draws, with its version.
        draw: the function that does.
        pace: nominal seconds a step.
        pool: where it is done; entered and left by its owner.
    """

    name: str
    draw: Draw
    pace: float
    pool: ProcessPoolExecutor
    timing: ClassVar[Timing] = "simulated"

    def render(self, recipe: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        """Draw `recipe`; its images come together, once it is finished.

        Raises:
            EnginePoisoned: a process of the pool died, and with it the pool.
            EngineError: as the engine in the process raised it.
        """
        return aclosing(self._images(recipe))

    async def _images(self, recipe: Recipe) -> AsyncGenerator[StepImage, None]:
        loop = asyncio.get_running_loop()
        try:
            images = await loop.run_in_executor(self.pool, self.draw, recipe, self.pace)
        except BrokenProcessPool as error:
            raise EnginePoisoned("a drawing process died: did memory run out?") from error
        for image in images:
            yield image
