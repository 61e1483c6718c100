from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from cache.tasks import first_of


class Waits:
    """Something that is waited for in vain, and takes a moment to end once it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = False

    async def __call__(self) -> None:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = True


async def fails(after: Coroutine[Any, Any, Any]) -> None:
    await after
    raise ValueError("it went wrong")


async def test_who_was_not_first_has_ended_when_it_returns() -> None:
    slow = Waits()
    await first_of(slow(), slow.begun.wait())
    assert slow.ended


async def test_what_the_first_raises_is_raised_and_nobody_is_left() -> None:
    slow = Waits()
    with pytest.raises(ValueError, match="it went wrong"):
        await first_of(slow(), fails(slow.begun.wait()))
    assert slow.ended


async def test_cancelled_it_leaves_nobody() -> None:
    waits = Waits(), Waits()
    task = asyncio.create_task(first_of(*(each() for each in waits)))
    await asyncio.gather(*(each.begun.wait() for each in waits))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.ended for each in waits] == [True, True]
