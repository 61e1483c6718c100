from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from cache.threads import read_in_thread, write_in_thread


async def test_what_is_done_is_returned_and_raised() -> None:
    limiter = anyio.CapacityLimiter(1)

    def fail() -> int:
        raise OSError("no")

    for run in (read_in_thread, write_in_thread):
        assert await run(lambda: 7, limiter) == 7
        with pytest.raises(OSError, match="no"):
            await run(fail, limiter)


async def test_a_write_that_began_is_waited_for_however_often_it_is_cancelled() -> None:
    began, go_on = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        began.set()
        go_on.wait(10)
        done.append("written")

    task = asyncio.create_task(write_in_thread(work, anyio.CapacityLimiter(1)))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["written"]


async def test_a_write_that_did_not_begin_never_does() -> None:
    limiter = anyio.CapacityLimiter(1)
    done = []
    async with limiter:
        task = asyncio.create_task(write_in_thread(lambda: done.append(1), limiter))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await write_in_thread(lambda: done.append(2), limiter)
    assert done == [2]


async def test_a_read_is_left_alone() -> None:
    go_on = threading.Event()
    task = asyncio.create_task(read_in_thread(lambda: go_on.wait(10), anyio.CapacityLimiter(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
