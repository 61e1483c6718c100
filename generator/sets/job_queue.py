"""The jobs of a batch: who may take which, and when a set is given up."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cache.stores.port import StoreUnavailable
from generator.engines.port import EngineError, EnginePreempted, EngineUnavailable, RecipeRefused
from generator.sets.inventory import Job

TRIES = 3
"""How often a drawing may fail before its set is listed as failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A set that will not be drawn in this batch, and why."""

    job: Job
    reason: str


class JobQueue:
    """The jobs of a batch: who may take which, and how often each was tried.

    Engines are known by their place in the list: a remote one's name changes once it has
    said what it is.
    """

    def __init__(self, jobs: Sequence[Job], engines: int) -> None:
        self._waiting = deque(jobs)
        self._here = set(range(engines))
        self._tries: Counter[Job] = Counter()
        self._alone: set[Job] = set()
        self._failed_at: dict[Job, set[int]] = defaultdict(set)
        self._refused_by: dict[Job, set[int]] = defaultdict(set)
        self._reasons: dict[Job, str] = {}
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def take(self, engine: int, most: int) -> tuple[Job, ...]:
        """The next jobs for `engine`, all of one action; none once there will be none.

        Args:
            engine: who asks.
            most: how many it would take.
        """
        async with self._changed:
            while True:
                allowed = (job for job in self._waiting if self._may_take(job, engine))
                if (job := next(allowed, None)) is not None:
                    taken = (job, *self._company(job, allowed, most - 1))
                    for each in taken:
                        self._waiting.remove(each)
                    self._in_flight += len(taken)
                    return taken
                if not self._in_flight:
                    return ()
                # What another is drawing may yet come back.
                await self._changed.wait()

    async def done(self) -> None:
        """One of what was taken is whole."""
        async with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    async def settle(self, job: Job, engine: int, error: Exception, *, alone: bool) -> bool:
        """What was taken was not drawn; whether that is the last word on it.

        Args:
            job: what was tried.
            engine: by whom.
            error: what went wrong.
            alone: whether it was tried by itself. Else nobody knows which of them was at
                fault: each is tried by itself next, and nothing counts.
        """
        async with self._changed:
            self._in_flight -= 1
            self._reasons[job] = str(error)
            if isinstance(error, EnginePreempted):
                # Nobody's fault: it is the next again, for whichever engine is free first.
                self._waiting.appendleft(job)
                self._changed.notify_all()
                return False
            over = True
            if isinstance(error, EngineUnavailable | StoreUnavailable):
                # Not the picture's fault: how often is for the engine to count.
                self._failed_at[job].add(engine)
                over = False
            elif not alone:
                self._alone.add(job)
                over = False
            elif isinstance(error, RecipeRefused):
                self._refused_by[job].add(engine)
                over = self._here <= self._refused_by[job]
            elif isinstance(error, EngineError):
                self._tries[job] += 1
                self._failed_at[job].add(engine)
                over = self._tries[job] >= TRIES
            if not over:
                self._waiting.append(job)
            self._changed.notify_all()
            return over

    async def leave(self, engine: int) -> None:
        """An engine takes no more."""
        async with self._changed:
            self._here.discard(engine)
            self._changed.notify_all()

    def left(self, last_words: Sequence[str]) -> list[Failure]:
        """What nobody took, and why.

        Args:
            last_words: of the engines that left.
        """
        gone = f"no engine is left: {'; '.join(last_words)}" if last_words else ""
        failures = []
        for job in self._waiting:
            own = self._reasons.get(job, "")
            reasons = [text for text in (own if own not in gone else "", gone) if text]
            failures.append(Failure(job, "; ".join(reasons) or "no engine would draw it"))
        return failures

    def _may_take(self, job: Job, engine: int) -> bool:
        """Not what it refused; and what failed with it is rather tried by another."""
        if engine in self._refused_by[job]:
            return False
        others = self._here - self._failed_at[job] - self._refused_by[job]
        return engine not in self._failed_at[job] or not others

    def _company(self, lead: Job, others: Iterable[Job], most: int) -> Iterable[Job]:
        """What may be drawn together with `lead`.

        An action's first set goes alone, so that there is soon one for every cue.
        """
        if lead.set_id == 0 or lead in self._alone:
            return ()
        same = (job for job in others if job.action.action_id == lead.action.action_id)
        return tuple(itertools.islice((job for job in same if job not in self._alone), most))
