"""Several things at once, a bounded number of them, with their results in order."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from cache.tasks import cancel_and_wait

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_order(
    work: Callable[[Item], Coroutine[Any, Any, Result]], items: Iterable[Item], *, at_once: int
) -> AsyncGenerator[Result, None]:
    """Do `work` on several items at once, and hand out the results in the items' order.

    A result that waits for its turn counts as under way: however long the first takes, no more
    than `at_once` are begun beyond what was handed out. To be left by `aclosing`; then what
    is under way is cancelled and waited for.

    Args:
        work: done on each item.
        items: taken as they are needed.
        at_once: how many are under way at most.

    Raises:
        Exception: what `work` raised, when its turn comes.
    """
    waiting = iter(items)
    under_way: deque[asyncio.Task[Result]] = deque()

    def begin(count: int) -> None:
        under_way.extend(
            asyncio.ensure_future(work(item)) for item in itertools.islice(waiting, count)
        )

    try:
        begin(at_once)
        while under_way:
            result = await under_way[0]
            under_way.popleft()
            begin(1)
            yield result
    finally:
        await cancel_and_wait(*under_way)
