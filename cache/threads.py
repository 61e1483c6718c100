"""Blocking work in threads, and what becomes of it when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

LARGE: Final = 2**20
"""Bytes. Hashing more takes milliseconds."""


async def offload_large(size: int, work: Callable[[], T], *, large: int = LARGE) -> T:
    """Do work on so many bytes: at once, or in a thread where it would hold up the loop."""
    return work() if size < large else await asyncio.to_thread(work)


async def read_in_thread(work: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    """Do what changes nothing. Cancelled, it is left alone, however long it takes."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


async def write_in_thread(work: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    """Do what changes something. Cancelled, it is not begun, or waited for.

    A write that was left alone could come to its end later, over a newer content. anyio by
    itself waits only where one of its own scopes is cancelled, not where a task is.
    """
    begun = stopped = False
    results: list[T] = []

    def guarded() -> None:
        nonlocal begun
        begun = True
        # In this order, and in the other below, so that one of both sees the other.
        if not stopped:
            results.append(work())

    task = asyncio.ensure_future(anyio.to_thread.run_sync(guarded, limiter=limiter))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
            stopped = True
            if not begun:
                task.cancel()
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # nobody is there to hear of it
        raise cancelled
    task.result()  # raises what the work raised
    return results[0]
