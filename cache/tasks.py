"""What is the same wherever tasks of ours wait, and are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def being_cancelled() -> bool:
    """Whether somebody has cancelled the current task.

    A `CancelledError` alone does not say so: it also comes out of a future of somebody else's
    that was cancelled, and then it is a failure like any other. A loop that is meant to go on
    for months and takes it for its own end would end without a word.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of `waits` is done, and end the others: none outlives this.

    Raises:
        BaseException: what the first one raised.
    """
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*tasks)
    for task in done:
        task.result()


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks`, and wait until each has ended, however it does."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
