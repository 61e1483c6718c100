"""Which item is worked on next (pure): by priority, then in turns over the members.

The store chooses by the same rule in SQL, because two Studios may share one queue; this is what
it is held against. What comes of the rule for a whole queue is told without looking at each item
of it, as there may be ten thousand: they stand in lines, one of each member in each priority.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, repeat


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


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """All that waits of one member in one priority, in the order in which it is taken on.

    Attributes:
        owner: id of the member.
        priority: of all of it.
        rank: of its first job.
        jobs: their ids.
        pieces: how many items of each wait, one at the least.
    """

    owner: str
    priority: int
    rank: float
    jobs: Sequence[str]
    pieces: Sequence[int]


def jobs_in_order(lines: Iterable[WaitingLine], turns: Mapping[str, int]) -> list[str]:
    """All jobs of which something waits, as `in_order` comes to the first item of each.

    Args:
        lines: what waits.
        turns: when each member was served last, as a number that grows; none: never.
    """
    order: list[str] = []
    for together in _in_turns(lines, turns):
        if len(together) == 1:
            order += together[0].jobs
            continue
        begun = sorted(
            (before, turn, job)
            for turn, line in enumerate(together)
            for before, job in zip(accumulate(line.pieces, initial=0), line.jobs, strict=False)
        )
        order += (job for _, _, job in begun)
    return order


def items_in_order(lines: Iterable[WaitingLine], turns: Mapping[str, int]) -> Iterator[str]:
    """The job of each item that waits, in the order of `in_order`.

    Args:
        lines: what waits.
        turns: see `jobs_in_order`.
    """
    for together in _in_turns(lines, turns):
        left = [chain.from_iterable(map(repeat, line.jobs, line.pieces)) for line in together]
        while left:
            served = []
            for line in left:
                for job in line:
                    yield job
                    served.append(line)
                    break
            left = served


def _in_turns(
    lines: Iterable[WaitingLine], turns: Mapping[str, int]
) -> Iterator[Sequence[WaitingLine]]:
    """The lines of each priority, as they come to their first turn, and to each one after it."""
    served = dict(turns)
    last = max(served.values(), default=0)
    by_priority = sorted(lines, key=lambda line: -line.priority)
    for _, same in groupby(by_priority, key=lambda line: line.priority):
        together = sorted(same, key=lambda line: (served.get(line.owner, 0), line.rank, line.owner))
        yield together
        # Whose line is longer is served longer; of two that end in one round, as they took turns.
        for line in sorted(together, key=lambda line: sum(line.pieces)):
            last += 1
            served[line.owner] = last
