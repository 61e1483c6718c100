from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from cache.parallel import in_order


class Work:
    """Things that end when they are told to, and who is at it."""

    def __init__(self, count: int) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.gates = [asyncio.Event() for _ in range(count)]

    async def __call__(self, item: int) -> int:
        self.begun.append(item)
        try:
            await self.gates[item].wait()
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        if item == 13:
            raise ValueError(item)
        return item * item


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_results_come_in_order_whoever_is_ready_first() -> None:
    work = Work(6)
    for gate in work.gates:
        gate.set()
    async with aclosing(in_order(work, range(6), at_once=3)) as results:
        assert [result async for result in results] == [0, 1, 4, 9, 16, 25]
    async with aclosing(in_order(work, [], at_once=3)) as results:
        assert [result async for result in results] == []


async def test_no_more_are_begun_than_wanted_while_the_first_takes_long() -> None:
    work = Work(6)
    async with aclosing(in_order(work, range(6), at_once=3)) as results:
        first = asyncio.ensure_future(anext(results))
        await settled()
        work.gates[1].set()
        work.gates[2].set()
        await settled()
        assert work.begun == [0, 1, 2]
        work.gates[0].set()
        assert await first == 0
        await settled()
        assert work.begun == [0, 1, 2, 3]
        assert await anext(results) == 1


async def test_leaving_ends_what_is_under_way() -> None:
    work = Work(6)
    work.gates[0].set()
    async with aclosing(in_order(work, range(6), at_once=3)) as results:
        assert await anext(results) == 0
        await settled()
    assert work.cancelled == [1, 2, 3]
    assert work.begun == [0, 1, 2, 3]


async def test_an_error_comes_in_its_turn_and_ends_the_others() -> None:
    work = Work(20)
    for gate in work.gates[:14]:
        gate.set()
    async with aclosing(in_order(work, range(12, 20), at_once=4)) as results:
        assert await anext(results) == 144
        await settled()
        with pytest.raises(ValueError, match="13"):
            await anext(results)
        assert work.cancelled == [14, 15, 16]
        assert [each async for each in results] == []
