"""Who has a worker's engine, and who is next: the show before everybody else.

An engine draws one picture at a time. What is asked for the show goes before all that is not,
whichever came first; among equals, who came first. A drawing that is not the show's and is under
way when the show asks is overtaken: it ends within a step, and whoever wanted it asks again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cache.tasks import cancel_and_wait
from generator.engines.port import EnginePreempted, Priority

WAITING: Final = 32
"""How many of each kind may wait; another would not begin in useful time."""

T = TypeVar("T")


class QueueIsFull(Exception):
    """As many wait already as may."""


@dataclass(eq=False)
class EngineTurn:
    """One who wants the engine, waits for it, or has it.

    Attributes:
        priority: ``show`` goes before None, which is everybody else.
        given: set once it need not wait any longer.
        overtaken: set once the show wants the engine that this turn has; it is over then.
    """

    priority: Priority | None = None
    given: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    overtaken: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def unless_overtaken(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work`; where the turn is overtaken before it is done, end it and wait for its end.

        Raises:
            EnginePreempted: the turn is over. `work` has ended, or was never begun.
        """
        if self.overtaken.is_set():
            work.close()
            raise EnginePreempted(_TAKEN)
        task = asyncio.ensure_future(work)
        overtaken = asyncio.ensure_future(self.overtaken.wait())
        try:
            await asyncio.wait({task, overtaken}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            await cancel_and_wait(task, overtaken)
        raise EnginePreempted(_TAKEN)


_TAKEN: Final = "the engine was taken for the show; ask again"


class Queue:
    """Hands the engine to one turn at a time.

    Args:
        limit: how many of each kind may wait: the show is never refused because of others.
    """

    def __init__(self, limit: int = WAITING) -> None:
        self._limit = limit
        self._waiting: dict[Priority | None, deque[EngineTurn]] = {"show": deque(), None: deque()}
        self._having: EngineTurn | None = None

    @property
    def waiting(self) -> int:
        """How many wait, of whichever kind."""
        return sum(map(len, self._waiting.values()))

    def ahead_of(self, turn: EngineTurn) -> int | None:
        """How many have the engine before `turn`, as far as is known; None if it does not wait."""
        equals = self._waiting[turn.priority]
        if turn not in equals:
            return None
        first = len(self._waiting["show"]) if turn.priority is None else 0
        return 1 + first + equals.index(turn)

    def check_room(self, priority: Priority | None) -> None:
        """Make sure that one more may wait.

        Raises:
            QueueIsFull: it may not.
        """
        if len(self._waiting[priority]) >= self._limit:
            raise QueueIsFull

    @asynccontextmanager
    async def given_to(self, turn: EngineTurn) -> AsyncIterator[None]:
        """Wait for the engine, and have it until the context is left.

        Whoever has it for something other than the show draws by `EngineTurn.unless_overtaken`, and
        leaves soon after that has raised. The engine itself must have been left before: the next
        one begins at once.

        Raises:
            QueueIsFull: too many wait already.
        """
        self.check_room(turn.priority)
        if self._having is None:  # then nobody waits
            self._having = turn
        else:
            await self._wait(turn, self._having)
        try:
            yield
        finally:
            self._hand_over()

    async def _wait(self, turn: EngineTurn, before: EngineTurn) -> None:
        self._waiting[turn.priority].append(turn)
        if turn.priority == "show" and before.priority is None:
            before.overtaken.set()
        try:
            await turn.given.wait()
        except asyncio.CancelledError:
            if turn is self._having:  # it was given in the moment in which it was given up
                self._hand_over()
            else:
                self._waiting[turn.priority].remove(turn)
            raise

    def _hand_over(self) -> None:
        queue = self._waiting["show"] or self._waiting[None]
        self._having = queue.popleft() if queue else None
        if self._having is not None:
            self._having.given.set()
