"""The queue of a worker, on its own: who has the engine, and who is next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.tasks import cancel_and_wait
from generator.engines.port import EnginePreempted, Priority
from generator.worker_queue import EngineTurn, Queue, QueueIsFull

Happens = Literal["asked", "asked for the show", "done"] | int
"""A number: whoever waits there, counted round, goes away."""


class Studio:
    """Those who ask a queue for the engine, and draw until they are told that it is done."""

    def __init__(self, limit: int = 1000) -> None:
        self.queue = Queue(limit)
        self.having: list[str] = []
        self.order: list[str] = []
        self.overtaken: list[str] = []
        self.asking: dict[str, asyncio.Task[None]] = {}
        self._done: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, priority: Priority | None = None) -> None:
        self._done[name] = asyncio.Event()
        self.asking[name] = asyncio.create_task(self._draw(name, EngineTurn(priority)))
        await rest()

    async def _draw(self, name: str, turn: EngineTurn) -> None:
        try:
            async with self.queue.given_to(turn):
                self.having.append(name)
                assert len(self.having) == 1, "one drawing at a time"
                self.order.append(name)
                try:
                    await turn.unless_overtaken(self._until_done(name))
                finally:
                    self.having.remove(name)
        except EnginePreempted:
            self.overtaken.append(name)

    async def _until_done(self, name: str) -> None:
        try:
            await self._done[name].wait()
        finally:
            await asyncio.sleep(0)  # an engine takes a moment to be left

    async def finish(self) -> None:
        for name in self.having:
            self._done[name].set()
        await rest()

    async def go_away(self, name: str) -> None:
        self.asking[name].cancel()
        await rest()


async def rest() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


@given(st.lists(st.sampled_from(["asked", "asked for the show", "done"]) | st.integers(0, 9)))
@settings(max_examples=150, deadline=None)
def test_the_show_is_always_next_and_equals_go_as_they_came(happens: Sequence[Happens]) -> None:
    asyncio.run(_as_expected(happens))


async def _as_expected(happens: Sequence[Happens]) -> None:
    studio = Studio()
    having: str | None = None
    waiting: list[str] = []
    order: list[str] = []
    overtaken: list[str] = []

    def give() -> None:
        nonlocal having
        # The show's come first by name, and of each kind in the order in which they came.
        having = min(waiting, key=lambda name: name[0] != "s", default=None)
        if having is not None:
            waiting.remove(having)
            order.append(having)

    for number, what in enumerate(happens):
        if isinstance(what, int):
            if not waiting:
                continue
            name = waiting.pop(what % len(waiting))
            await studio.go_away(name)
        elif what == "done":
            await studio.finish()
            give()
        else:
            name = f"{'s' if 'show' in what else 'o'}{number}"
            await studio.ask(name, "show" if "show" in what else None)
            waiting.append(name)
            if having is None:
                give()
            elif name[0] == "s" and having[0] == "o":
                overtaken.append(having)
                give()
        assert studio.having == ([] if having is None else [having])
        assert studio.queue.waiting == len(waiting)
        assert (studio.order, studio.overtaken) == (order, overtaken)
    while having is not None:  # nobody is forgotten
        await studio.finish()
        give()
    assert (studio.having, studio.queue.waiting, studio.order) == ([], 0, order)
    await asyncio.gather(*studio.asking.values(), return_exceptions=True)


async def test_the_engine_is_handed_over_once_the_overtaken_one_has_left_it() -> None:
    queue, told = Queue(), list[str]()

    async def slow_to_leave() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            told.append("left")

    async def draw(turn: EngineTurn) -> None:
        async with queue.given_to(turn):
            await turn.unless_overtaken(slow_to_leave())

    other = asyncio.create_task(draw(EngineTurn()))
    await rest()
    async with queue.given_to(EngineTurn("show")):
        told.append("the show draws")
    assert told == ["left", "the show draws"]
    with pytest.raises(EnginePreempted):
        await other


async def test_what_is_over_at_the_same_moment_is_whole() -> None:
    turn = EngineTurn()

    async def last_step() -> str:
        turn.overtaken.set()
        return "whole"

    assert await turn.unless_overtaken(last_step()) == "whole"
    with pytest.raises(EnginePreempted):
        await turn.unless_overtaken(last_step())


async def test_one_that_is_given_the_engine_as_it_goes_away_hands_it_on() -> None:
    studio = Studio()
    for name in ("first", "second", "third"):
        await studio.ask(name)
    studio._done["first"].set()
    # Till it has handed the engine to the second, which has yet to hear of it.
    while studio.having:  # noqa: ASYNC110 - no event tells of that moment
        await asyncio.sleep(0)
    studio.asking["second"].cancel()
    await rest()
    assert studio.having == ["third"]
    await studio.finish()
    assert (studio.having, studio.queue.waiting) == ([], 0)


async def test_who_waits_can_be_told_how_many_come_first() -> None:
    queue = Queue()
    having, other, later, show = EngineTurn(), EngineTurn(), EngineTurn(), EngineTurn("show")

    async def draw(turn: EngineTurn) -> None:
        async with queue.given_to(turn):
            await asyncio.sleep(60)

    drawing = [asyncio.create_task(draw(turn)) for turn in (having, other, later, show)]
    await rest()
    assert [queue.ahead_of(turn) for turn in (having, show, other, later)] == [None, 1, 2, 3]
    drawing[0].cancel()  # the others do not know yet that it has gone
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [queue.ahead_of(turn) for turn in (show, other, later)] == [None, 1, 2]
    await cancel_and_wait(*drawing)


async def test_the_show_is_not_refused_because_others_wait() -> None:
    studio = Studio(limit=3)
    for number in range(4):
        await studio.ask(f"o{number}")
    with pytest.raises(QueueIsFull):
        studio.queue.check_room(None)
    await studio.ask("one too many")
    with pytest.raises(QueueIsFull):
        studio.asking["one too many"].result()
    await studio.ask("s", "show")
    assert (studio.having, studio.overtaken) == (["s"], ["o0"])
    for number in range(3):
        await studio.ask(f"s{number}", "show")
    with pytest.raises(QueueIsFull):
        studio.queue.check_room("show")
    for _ in range(7):
        await studio.finish()
    assert studio.order == ["o0", "s", "s0", "s1", "s2", "o1", "o2", "o3"]
