"""Which files to fetch before they are needed, and in which order (pure).

Earliest deadline first brings everything in time wherever that can be done at all. Where
the line is too slow for it, what a run can best do without is left out first: previews,
the fine ones before the coarse; the final images and the metas last. So a slow line costs
a picture its steps, and never its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import attrgetter
from typing import Final

from cache.model.keys import Key

META: Final = 0
FINAL: Final = 1
COARSEST: Final = 2
"""Rank of the preview in the middle of a run; finer ones have higher ranks."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file that is not here yet.

    Attributes:
        key: which.
        size: bytes, perhaps estimated.
        by: steady times by which it is wanted, ascending: best by the first; of no use after
            the last.
        rank: what a run can do without: 0 for the meta, 1 for the final image, then the
            previews from coarse to fine (see `preview_ranks`).
    """

    key: Key
    size: int
    by: tuple[float, ...]
    rank: int

    @property
    def deadline(self) -> float:
        """Steady time by which it should be here."""
        return self.by[0]

    @property
    def latest(self) -> float:
        """Steady time after which it is of no use."""
        return self.by[-1]


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What to fetch, in order.

    Attributes:
        timely: what can be here in time at the rate planned for; earliest deadline first.
        late: what cannot; what is missed most first. To be fetched when nothing else is.
        done_at: steady time at which all that is timely is here.
    """

    timely: tuple[Wanted, ...]
    late: tuple[Wanted, ...]
    done_at: float

    @property
    def order(self) -> tuple[Wanted, ...]:
        """Everything, in the order in which to fetch it."""
        return self.timely + self.late

    @property
    def missing_bytes(self) -> int:
        """Bytes that are not here yet."""
        return sum(wanted.size for wanted in self.order)


def preview_ranks(count: int) -> tuple[int, ...]:
    """The rank of each of `count` previews: the middle one first, then the quarters, and so on.

    However many ranks there is time for, what arrives is spread over the whole run.
    """
    ranks = [0] * count
    spans, rank = [(0, count)], COARSEST
    while spans:
        halves: list[tuple[int, int]] = []
        for start, stop in spans:
            if start < stop:
                middle = (start + stop) // 2
                ranks[middle] = rank
                halves += [(start, middle), (middle + 1, stop)]
        spans, rank = halves, rank + 1
    return tuple(ranks)


def plan_fetches(wanted: Iterable[Wanted], *, now: float, rate: float) -> FetchPlan:
    """Put files in an order that brings as much as possible in time.

    Args:
        wanted: what is not here; each key once.
        now: steady seconds.
        rate: bytes a second that the line is expected to carry.
    """
    files = sorted(wanted, key=attrgetter("deadline", "rank", "key"))
    timely, late = (files, []) if _all_in_time(files, now, rate) else _thin(files, now, rate)
    done_at = now + sum(file.size for file in timely) / rate
    return FetchPlan(
        tuple(timely), tuple(sorted(late, key=attrgetter("rank", "deadline"))), done_at
    )


def _all_in_time(files: Sequence[Wanted], now: float, rate: float) -> bool:
    arrivals = accumulate(file.size for file in files)
    return all(
        bytes_before <= rate * (file.deadline - now)
        for file, bytes_before in zip(files, arrivals, strict=True)
    )


def _thin(files: Sequence[Wanted], now: float, rate: float) -> tuple[list[Wanted], list[Wanted]]:
    """Admit rank by rank, and in each by deadline, whatever makes nothing admitted late.

    What cannot be here by the first time it is wanted is tried for the second, and so on.
    """
    admitted: list[Wanted] = []
    late: list[Wanted] = []
    for rank in sorted({file.rank for file in files}):
        left = [file for file in files if file.rank == rank]
        while left:
            taken, refused = _admit(left, admitted, now, rate)
            admitted += taken
            late += [file for file in refused if len(file.by) == 1]
            put_off = [replace(file, by=file.by[1:]) for file in refused if len(file.by) > 1]
            left = sorted(put_off, key=attrgetter("deadline"))
    return sorted(admitted, key=attrgetter("deadline", "rank", "key")), late


def _admit(
    candidates: Sequence[Wanted], admitted: Sequence[Wanted], now: float, rate: float
) -> tuple[list[Wanted], list[Wanted]]:
    """Those candidates, by ascending deadline, that the line can carry beside what is admitted."""
    # At each moment something is due: bytes the line could still carry until then, on top of
    # what is due by then. A candidate needs that much room at its own moment and all later ones.
    moments = sorted({file.deadline for file in (*admitted, *candidates)})
    due: dict[float, int] = dict.fromkeys(moments, 0)
    for file in admitted:
        due[file.deadline] += file.size
    loads = accumulate(due[moment] for moment in moments)
    room = [rate * (moment - now) - load for moment, load in zip(moments, loads, strict=True)]
    for place in range(len(room) - 2, -1, -1):
        room[place] = min(room[place], room[place + 1])
    least = dict(zip(moments, room, strict=True))
    taken: list[Wanted] = []
    left: list[Wanted] = []
    used = 0
    for file in candidates:
        # All taken so far are due before this one, so they weigh on it, and on all after it.
        if file.size + used <= least[file.deadline]:
            used += file.size
            taken.append(file)
        else:
            left.append(file)
    return taken, left
