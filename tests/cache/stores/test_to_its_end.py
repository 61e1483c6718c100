from __future__ import annotations

import asyncio

import anyio
import pytest

from cache.stores.to_its_end import to_its_end


async def test_it_is_done_however_often_somebody_cancels() -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        done.set()

    task = asyncio.create_task(to_its_end(work()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_it_is_done_within_a_scope_that_was_cancelled_before() -> None:
    done = False

    async def work() -> None:
        nonlocal done
        await asyncio.sleep(0.01)
        done = True

    with anyio.CancelScope() as scope:
        scope.cancel()
        await to_its_end(work())
    assert done


async def test_what_it_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await to_its_end(work())
