"""Which item is worked on next (pure): by priority, then in turns over the members.

The store chooses by the same rule in SQL, because two Studios may share one queue; this is what
it is held against, and what the rest of the queue is foretold by.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item that waits.

    Attributes:
        job: whose.
        n: its place in the job.
        owner: id of the member who asked for the job.
        priority: the job's; the highest first.
        rank: the job's place in the line of its owner and priority; the lowest first.
        refused_by: names of the engines that cannot draw it.
    """

    job: str
    n: int
    owner: str
    priority: int
    rank: float
    refused_by: frozenset[str] = frozenset()


def in_order(waiting: Iterable[Waiting], turns: Mapping[str, int]) -> Iterator[Waiting]:
    """All that wait, as they will be taken on, if nothing more comes.

    Among the highest priority, the member is next who was served longest ago; of a member's
    items, the first of the job that is first in line. So somebody with one job never waits for
    more than one item of somebody else's hundred.

    Args:
        waiting: what waits.
        turns: when each member was served last, as a number that grows; none: never.
    """
    by_priority: dict[int, dict[str, deque[Waiting]]] = defaultdict(dict)
    for item in sorted(waiting, key=lambda each: (each.rank, each.job, each.n)):
        by_priority[item.priority].setdefault(item.owner, deque()).append(item)
    served = dict(turns)
    last = max(served.values(), default=0)
    for priority in sorted(by_priority, reverse=True):
        lines = by_priority[priority]
        heap = [(served.get(owner, 0), line[0].rank, owner) for owner, line in lines.items()]
        heapq.heapify(heap)
        while heap:
            _, _, owner = heapq.heappop(heap)
            yield lines[owner].popleft()
            last += 1
            served[owner] = last
            if lines[owner]:
                heapq.heappush(heap, (last, lines[owner][0].rank, owner))


def choose(waiting: Iterable[Waiting], turns: Mapping[str, int], engine: str) -> Waiting | None:
    """The next item for an engine; None where nothing waits that it has not refused."""
    able = (item for item in waiting if engine not in item.refused_by)
    return next(in_order(able, turns), None)
