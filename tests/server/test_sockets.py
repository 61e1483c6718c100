from __future__ import annotations

import asyncio

import pytest

from server.clock import VirtualClock
from server.sockets import Abuse, Antechamber, InboundLimiter


async def test_the_antechamber_has_so_many_seats_and_the_newest_have_them() -> None:
    room, sent_away = Antechamber(3), []

    async def wait(name: int) -> None:
        try:
            async with asyncio.timeout(60) as patience:
                with room.wait(patience):
                    await asyncio.Event().wait()
        except TimeoutError:
            sent_away.append(name)

    waiting = []
    for name in range(10):
        waiting.append(asyncio.create_task(wait(name)))
        await asyncio.sleep(0)
        assert len(room) <= 3
    await asyncio.wait(waiting[:7])
    assert sent_away == [0, 1, 2, 3, 4, 5, 6]
    assert len(room) == 3
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(room) == 0


async def test_who_says_hello_leaves_a_seat_and_its_time_is_its_own_again() -> None:
    room = Antechamber(1)
    async with asyncio.timeout(60) as first:
        with room.wait(first):
            pass
        async with asyncio.timeout(60) as second:
            with room.wait(second):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not first.expired()


def test_patience_takes_a_burst_then_a_rate() -> None:
    clock = VirtualClock()
    patience = InboundLimiter(clock, rate=10, burst=5)
    assert [patience.message() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.jump(0.25)
    assert [patience.message() for _ in range(3)] == [True, True, False]
    clock.jump(100)
    assert [patience.message() for _ in range(6)] == [True] * 5 + [False]


def test_patience_ends_with_the_eleventh_strike_of_a_minute() -> None:
    clock = VirtualClock()
    patience = InboundLimiter(clock)
    for _ in range(10):
        patience.strike()
    clock.jump(61)
    for _ in range(10):
        patience.strike()
    with pytest.raises(Abuse):
        patience.strike()
