"""Jobs, kept: what was asked for, who works on what, and what became of it.

Each method is one transaction, and those that write never run beside each other
(`generator/jobs/database.py`). Whoever works on an item holds it on a lease, and what it made of
it counts only as long as the item is still its own: each claim has a number, and what was done
under an earlier one comes too late.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import sqlalchemy as sa

from generator.jobs.database import Database, Declined
from generator.jobs.model import (
    ENDED,
    MAX_CRASHES,
    MAX_ITEMS,
    PRIORITIES,
    USUAL_PRIORITY,
    Item,
    Job,
    JobKind,
    JobStatus,
    Lane,
    Problem,
    commonest,
    take_id,
)
from generator.jobs.schema import events, items, jobs, members, refusals, state
from generator.jobs.together import Write, execute_together

T = TypeVar("T")

A_DAY: Final = 24 * 3600.0
"""Seconds over which a member's pictures are counted."""

_BETWEEN: Final = 1e-3
"""Between the ranks of two jobs that were asked for in one moment, so that a third has room."""

_FORGOTTEN: Final = "events_forgotten"
"""The name in the table of states that the newest forgotten event's id is kept under."""

EventType = Literal[
    "job.queued",
    "job.started",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "item.running",
    "item.ready",
    "item.failed",
    "item.queued",
]


class NotCancellable(Declined):
    """A job that has come to its end already."""


class NothingToRetry(Declined):
    """A job of which nothing failed, or which has not come to its end."""


class KeyReused(Declined):
    """The same idempotency key, for something else."""


class NotMovable(Declined):
    """A job of which nothing waits, or not in the line that it is to be moved in."""


class QuotaExceeded(Declined):
    """A member has asked for as many pictures as a day allows."""


class EventsForgotten(Exception):
    """What happened since is not known any more: who asks must look at everything anew.

    Attributes:
        last: the id of the newest event, after which to go on.
    """

    def __init__(self, last: int) -> None:
        super().__init__(f"events are kept for a while only; go on after {last}")
        self.last = last


@dataclass(frozen=True, slots=True)
class NewItem:
    """A piece of work: its seed, and all that whoever does it must know."""

    seed: int
    work: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is to be accepted.

    Attributes:
        id: a new UUID.
        kind, owner, priority, request, metadata, key: see `Job`.
        lane: which slots its items wait for.
        items: its pieces, 1 to `MAX_ITEMS`.
    """

    id: str
    kind: JobKind
    owner: str
    items: Sequence[NewItem]
    request: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    priority: int = USUAL_PRIORITY
    lane: Lane = "engine"
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that somebody works on now.

    Attributes:
        job: id of its job.
        number: of its job in the database.
        n: its place in the job.
        seed, work: as it was accepted.
        take: id of the take that it makes.
        owner: id of the member who asked.
        tries: how often it has failed already, by no fault of an engine's.
        refusals: how many engines have refused it.
        claim: which claim of the item this is; what was done under an earlier one does not count.
    """

    job: str
    number: int
    n: int
    seed: int
    take: str
    owner: str
    work: Mapping[str, Any]
    tries: int = 0
    refusals: int = 0
    claim: int = 0


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job.

    Attributes:
        id: grows in the order in which things happened; what is told once is never told before.
        at: Unix time.
        owner: whose job.
        job: its id.
        type: what happened.
        data: more of it.
    """

    id: int
    at: float
    owner: str
    job: str
    type: EventType
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobStore:
    """What one Studio does with the jobs.

    Args:
        database: where they are.
        holder: this Studio's own name, for its leases.
    """

    database: Database
    holder: str

    # ------------------------------------------------------------ asking

    async def accept(self, new: NewJob, now: float) -> tuple[Job, bool]:
        """Keep a job; the one that is there already where its key is known.

        Returns:
            The job, and whether it is new.

        Raises:
            KeyReused: the key was given to another request.
            QuotaExceeded: its owner has asked for enough today.
            LookupError: its owner is no member.
            DatabaseError: it was not kept.
        """
        if new.priority not in PRIORITIES or not 1 <= len(new.items) <= MAX_ITEMS:
            raise ValueError(f"expected a priority of 0 to 9 and 1 to {MAX_ITEMS} items")
        return await self.database.write(lambda connection: _accept(connection, new, now))

    async def cancel(self, job: str, now: float) -> Job:
        """Call off a job; what is ready stays.

        Raises:
            NotCancellable: it is over.
            LookupError: there is none.
            DatabaseError: it was not called off.
        """
        return await self.database.write(lambda connection: _cancel(connection, job, now))

    async def retry(self, job: str, now: float, numbers: Iterable[int] | None = None) -> Job:
        """Queue what failed once more, with the same seeds.

        Args:
            job: its id.
            now: Unix time.
            numbers: which of its items; None for all that failed or were called off.

        Raises:
            NothingToRetry: nothing of that failed, or it is not over.
            LookupError: there is none.
            DatabaseError: it was not queued.
        """
        wanted = None if numbers is None else frozenset(numbers)
        return await self.database.write(lambda connection: _retry(connection, job, wanted, now))

    async def move(
        self,
        job: str,
        now: float,
        *,
        to: Literal["first", "last"] | None = None,
        before: str | None = None,
    ) -> Job:
        """Give a job another place among its owner's of the same priority.

        Args:
            job: its id.
            now: Unix time.
            to: either end of the line, or
            before: the id of the one that it is to come before.

        Raises:
            NotMovable: nothing of it waits, or the other does not wait in the same line.
            LookupError: there is none.
            DatabaseError: it was not moved.
        """
        if (to is None) == (before is None):
            raise ValueError("expected one of `to` and `before`")
        return await self.database.write(
            lambda connection: _move(connection, job, now, to=to, before=before)
        )

    async def get(self, job: str, owner: str | None = None) -> Job | None:
        """A job by its id; None where there is none, or it is somebody else's.

        Args:
            job: its id.
            owner: whose it must be, None for anybody's.
        """
        where = jobs.c.id == job if owner is None else (jobs.c.id == job) & (jobs.c.owner == owner)
        found = await self.database.read(lambda connection: _jobs(connection, where, 1))
        return found[0] if found else None

    async def find(
        self,
        *,
        owner: str | None = None,
        statuses: Sequence[JobStatus] | None = None,
        kind: JobKind | None = None,
        before: str | None = None,
        limit: int = 50,
        in_line: bool = False,
    ) -> list[Job]:
        """Jobs, the newest first.

        Args:
            owner: whose, None for everybody's.
            statuses: in which states, None for any.
            kind: of which kind, None for any.
            before: the id of the last one that is known already.
            limit: at most so many.
            in_line: whether those come first instead that are first in their owner's line.
        """
        where: sa.ColumnElement[bool] = sa.true()
        if owner is not None:
            where &= jobs.c.owner == owner
        if statuses is not None:
            where &= jobs.c.status.in_(statuses)
        if kind is not None:
            where &= jobs.c.kind == kind
        if before is not None:
            last = sa.select(jobs.c.number).where(jobs.c.id == before)
            if owner is not None:  # else somebody else's job would tell when it was asked for
                last = last.where(jobs.c.owner == owner)
            where &= jobs.c.number < last.scalar_subquery()
        order = (jobs.c.priority.desc(), jobs.c.rank, jobs.c.number) if in_line else _NEWEST
        return await self.database.read(lambda connection: _jobs(connection, where, limit, order))

    async def owns_take(self, take: str, owner: str) -> bool:
        """Whether a take is one that a member asked for, drawn or not."""
        query = sa.select(items.c.take).where(items.c.take == take, items.c.owner == owner)
        found = await self.database.read(lambda connection: connection.scalar(query.limit(1)))
        return found is not None

    async def drawn_again(self, since: float) -> list[str]:
        """The takes of items that were begun more than once, and have ended after a time."""
        query = sa.select(items.c.take).where(items.c.ended_at > since, items.c.claims > 1)
        return await self.database.read(lambda connection: list(connection.scalars(query)))

    # ------------------------------------------------------------ what happened

    async def events_after(
        self, last: int, *, owner: str | None = None, job: str | None = None, limit: int = 1000
    ) -> list[JobEvent]:
        """What happened after an event, in order; nothing is left out.

        Raises:
            EventsForgotten: some of it is not known any more, or there was never such an event.
            DatabaseError: it could not be read.
        """
        query = sa.select(events).where(events.c.id > last).order_by(events.c.id).limit(limit)
        if owner is not None:
            query = query.where(events.c.owner == owner)
        if job is not None:
            query = query.where(events.c.job == job)

        def look(connection: sa.Connection) -> list[JobEvent]:
            forgotten = _forgotten(connection)
            newest = connection.scalar(sa.select(sa.func.max(events.c.id))) or forgotten
            if not forgotten <= last <= newest:
                raise EventsForgotten(newest)
            return [
                JobEvent(row.id, row.at, row.owner, row.job, row.type, json.loads(row.data))
                for row in connection.execute(query)
            ]

        return await self.database.read(look)

    async def last_event(self) -> int:
        """The id of the newest event; 0 where nothing has happened yet."""

        def look(connection: sa.Connection) -> int:
            newest = connection.scalar(sa.select(sa.func.max(events.c.id)))
            return newest or _forgotten(connection)

        return await self.database.read(look)

    async def forget_refusals(self, *, of_settled: bool = False) -> None:
        """Have every engine asked again for what it has refused.

        Args:
            of_settled: whether only those are forgotten that nobody looks at any more.
        """
        forget = sa.delete(refusals)
        if of_settled:
            waits = sa.exists().where(
                items.c.job == refusals.c.job, items.c.n == refusals.c.n, items.c.status == "queued"
            )
            forget = forget.where(~waits)
        await self.database.write(lambda connection: connection.execute(forget))

    async def forget_events(self, before: float) -> int:
        """Forget what happened before a time; how many events that were."""
        return await self.database.write(lambda connection: _forget_events(connection, before))

    # ------------------------------------------------------------ working

    async def claim(
        self, engine: str, now: float, *, lease: float, lane: Lane = "engine"
    ) -> Claimed | None:
        """Take on the next item that an engine can do; None where there is none.

        Cancelled, it has taken on nothing.

        Args:
            engine: its name.
            now: Unix time.
            lease: seconds after which the item is anybody's again, unless `renew` was called.
            lane: which items.
        """

        def take(connection: sa.Connection) -> Claimed | None:
            return _claim(connection, self.holder, engine, lane=lane, now=now, until=now + lease)

        return await self._taking(take, lambda taken: taken, now)

    async def _taking(
        self,
        take: Callable[[sa.Connection], T],
        taken_of: Callable[[T], Claimed | None],
        now: float,
    ) -> T:
        """Have an item taken on; whoever is cancelled meanwhile has taken on nothing."""
        results: list[T] = []

        def operation(connection: sa.Connection) -> T:
            results[:] = [take(connection)]
            return results[0]

        try:
            return await self.database.write(operation)
        except asyncio.CancelledError:
            taken = taken_of(results[0]) if results else None
            if taken is not None:
                await self.put_back(taken, None, now)
            raise

    async def renew(
        self, now: float, *, lease: float, held: Iterable[Claimed] | None = None
    ) -> None:
        """Go on holding what is worked on.

        Args:
            now: Unix time.
            lease: seconds from then on.
            held: what is worked on; None for all that is ours. An item that is ours and that
                nobody works on, as its claim was never heard of, is then anybody's in time.
        """
        mine = (items.c.status == "running") & (items.c.holder == self.holder)
        if held is not None:
            mine &= sa.tuple_(items.c.job, items.c.n).in_([(each.number, each.n) for each in held])
        await self.database.write(
            lambda connection: connection.execute(
                sa.update(items).where(mine).values(lease_until=now + lease)
            )
        )

    async def ready(
        self, claimed: Claimed, now: float, *, seconds: float, cost: float | None
    ) -> bool:
        """An item is done, and its take is there; False where nobody wants it any more."""

        def settle(connection: sa.Connection) -> bool:
            settled = _settle(connection, self.holder, claimed, now, seconds=seconds, cost=cost)
            return _finish(connection, now, settled)

        return await self.database.write(settle)

    async def ready_and_claim(
        self,
        claimed: Claimed,
        engine: str,
        now: float,
        *,
        seconds: float,
        cost: float | None,
        lease: float,
        lane: Lane = "engine",
    ) -> tuple[bool, Claimed | None]:
        """What `ready` and `claim` do, for who goes on at once: one transaction instead of two.

        Returns:
            Whether the item was still ours; and the next.
        """

        def settle_and_take(connection: sa.Connection) -> tuple[bool, Claimed | None]:
            settled = _settle(connection, self.holder, claimed, now, seconds=seconds, cost=cost)
            taken = _claim(
                *(connection, self.holder, engine),
                lane=lane,
                now=now,
                until=now + lease,
                settled=settled,
            )
            return settled is not None, taken

        return await self._taking(settle_and_take, lambda result: result[1], now)

    async def failed(self, claimed: Claimed, problem: Problem, now: float) -> bool:
        """An item came to nothing; False where nobody wants it any more."""

        def settle(connection: sa.Connection) -> bool:
            settled = _settle(connection, self.holder, claimed, now, problem=problem)
            return _finish(connection, now, settled)

        return await self.database.write(settle)

    async def put_back(
        self,
        claimed: Claimed,
        problem: Problem | None,
        now: float,
        *,
        refused_by: str | None = None,
        counts: bool = False,
    ) -> bool:
        """An item is to be done later, or by another engine; False where nobody wants it any more.

        Args:
            claimed: which.
            problem: why, None where that is nobody's business.
            now: Unix time.
            refused_by: name of an engine that can never do it.
            counts: whether it failed, and is tried a few times only.
        """
        return await self.database.write(
            lambda connection: _put_back(
                connection,
                *(self.holder, claimed, now),
                problem=problem,
                refused_by=refused_by,
                counts=counts,
            )
        )

    async def release(self, now: float) -> None:
        """Queue again all that we hold, as we are about to end."""
        mine = (items.c.status == "running") & (items.c.holder == self.holder)
        await self.database.write(lambda connection: _let_go(connection, mine, now, crashed=False))

    async def take_over(
        self,
        now: float,
        *,
        others: bool = False,
        holders: Collection[str] | None = None,
        alone: bool = False,
    ) -> list[str]:
        """Queue again what is held by nobody any more.

        That is what is held on a lease that has run out, and at a start what whoever had our
        name held when it died. A job that died so `MAX_CRASHES` times is not begun again.

        Args:
            now: Unix time.
            others: whether only leases are looked at: we have begun.
            holders: who is known to hold nothing any more; None to go by their leases.
            alone: whether nobody else works on this database, so that nobody holds anything,
                whatever the names that stand there: it may be a copy from another machine.

        Returns:
            The jobs whose items those were.
        """
        lost = items.c.lease_until < now
        if not others:
            lost |= items.c.holder == self.holder
        if holders is not None:
            lost = items.c.holder.in_(holders)
        if alone:
            lost = sa.true()
        return await self.database.write(
            lambda connection: _let_go(
                connection, (items.c.status == "running") & lost, now, crashed=True
            )
        )

    # ------------------------------------------------------------ the queue as a whole

    async def remember(self, name: str, value: object) -> None:
        """Keep something small under a name: that the queue is paused, and why."""
        text = json.dumps(value)

        def put(connection: sa.Connection) -> None:
            done = connection.execute(
                sa.update(state).where(state.c.name == name).values(value=text)
            )
            if not done.rowcount:
                connection.execute(sa.insert(state).values(name=name, value=text))

        await self.database.write(put)

    async def remembered(self, name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """What was kept under a name, None for nothing."""
        query = sa.select(state.c.value).where(state.c.name == name)
        text = await self.database.read(lambda connection: connection.scalar(query))
        return None if text is None else json.loads(text)


# ---------------------------------------------------------------- statements

# Made once, as making them takes longer than having them done. The subqueries are such that each
# is one look into `ix_items_queued`, whatever the database knows of how many there are.
_OF_LANE: Final[sa.BindParameter[str]] = sa.bindparam("lane")
_QUEUED: Final = sa.text("'queued'")


def _able(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Of a table of items, those that the engine has not refused."""
    refused = sa.exists().where(
        refusals.c.job == table.c.job,
        refusals.c.n == table.c.n,
        refusals.c.engine == sa.bindparam("able"),
    )
    # What is told of almost all of them without another look.
    return (table.c.refused == 0) | ~refused.correlate(table)


def _highest() -> sa.ScalarSelect[int]:
    """The highest priority in which something waits for the engine."""
    waits = items.alias("most_urgent")
    return (
        sa.select(waits.c.priority)
        .where(waits.c.lane == _OF_LANE, waits.c.status == _QUEUED, _able(waits))
        .order_by(waits.c.priority.desc())
        .limit(1)
        .correlate(None)
        .scalar_subquery()
    )


def _first_rank() -> sa.ScalarSelect[float]:
    """Of a member's items that wait in it, the rank of the first."""
    waits = items.alias("first_in_line")
    return (
        sa.select(waits.c.rank)
        .where(waits.c.lane == _OF_LANE, waits.c.status == _QUEUED, _able(waits))
        .where(waits.c.priority == _highest(), waits.c.owner == members.c.id)
        .order_by(waits.c.rank)
        .limit(1)
        .correlate(members)
        .scalar_subquery()
    )


def _whose_turn() -> sa.ScalarSelect[str]:
    """The member, of those who have something there, who was served longest ago."""
    first = _first_rank()
    return (
        sa.select(members.c.id)
        .where(first.is_not(None))
        .order_by(members.c.turn, first, members.c.id)
        .limit(1)
        .correlate(None)
        .scalar_subquery()
    )


_NEXT: Final = (
    sa.select(
        *(items.c.job, items.c.n, items.c.seed, items.c.take, items.c.owner, items.c.work),
        *(items.c.tries, items.c.refused, items.c.claims),
        jobs.c.id.label("job_id"),
        jobs.c.status.label("job_status"),
    )
    .join_from(items, jobs)
    .where(items.c.lane == _OF_LANE, items.c.status == _QUEUED, _able(items))
    .where(items.c.priority == _highest(), items.c.owner == _whose_turn())
    .order_by(items.c.rank, items.c.job, items.c.n)
    .limit(1)
)
"""The item that `generator.jobs.choice.choose` would choose."""

_TAKE: Final = (
    sa.update(items)
    .where(items.c.job == sa.bindparam("next_job"), items.c.n == sa.bindparam("next_n"))
    .values(
        status="running",
        holder=sa.bindparam("by"),
        lease_until=sa.bindparam("until"),
        engine=sa.bindparam("with"),
        started_at=sa.bindparam("at"),
        claims=items.c.claims + 1,
    )
)
_SERVE: Final = (
    sa.update(members)
    .where(members.c.id == sa.bindparam("member"))
    .values(turn=sa.select(sa.func.max(members.c.turn) + 1).scalar_subquery())
)
_START: Final = (
    sa.update(jobs)
    .where(jobs.c.number == sa.bindparam("next_job"))
    .values(status="processing", started_at=sa.func.coalesce(jobs.c.started_at, sa.bindparam("at")))
)
_HELD: Final = (
    (items.c.job == sa.bindparam("of_job"))
    & (items.c.n == sa.bindparam("of_n"))
    & (items.c.status == "running")
    & (items.c.holder == sa.bindparam("by"))
    & (items.c.claims == sa.bindparam("under"))
)
_SETTLE: Final = (
    sa.update(items)
    .where(_HELD)
    .values(
        status=sa.bindparam("becomes"),
        holder=None,
        lease_until=None,
        ended_at=sa.bindparam("at"),
        seconds=sa.bindparam("took"),
        cost=sa.bindparam("paid"),
        error_code=sa.bindparam("code"),
        error=sa.bindparam("message"),
    )
)
_COUNTS: Final = (
    *(jobs.c.number, jobs.c.id, jobs.c.owner, jobs.c.status),
    *(jobs.c.total, jobs.c.done, jobs.c.failed),
)
"""What is asked of a job that may have come to its end."""

_IS_LAST: Final = jobs.c.unsettled == 1
_DONE: Final = jobs.c.done + sa.bindparam("is_ready", type_=sa.Integer)
_COUNT: Final = (
    sa.update(jobs)
    .where(jobs.c.number == sa.bindparam("of_job"), sa.exists().where(_HELD))
    .values(
        unsettled=jobs.c.unsettled - 1,
        done=_DONE,
        failed=jobs.c.failed + 1 - sa.bindparam("is_ready", type_=sa.Integer),
        status=sa.case(
            (~_IS_LAST, jobs.c.status), (_DONE > 0, sa.literal("completed")), else_="failed"
        ),
        completed_at=sa.case((_IS_LAST, sa.bindparam("at")), else_=jobs.c.completed_at),
        seconds=jobs.c.seconds + sa.func.coalesce(sa.bindparam("took", type_=sa.Double), 0.0),
        cost=sa.func.coalesce(
            jobs.c.cost + sa.bindparam("paid", type_=sa.Double),
            sa.bindparam("paid", type_=sa.Double),
            jobs.c.cost,
        ),
        # Where something comes of it, it is not the job that the process dies of.
        crashes=sa.case((sa.bindparam("is_ready", type_=sa.Integer) == 1, 0), else_=jobs.c.crashes),
    )
    .returning(*_COUNTS)
)
"""Has a job say what `status_of` would say once an item that is held has come to its end."""

_WHY: Final = sa.select(items.c.error_code, items.c.error).where(
    items.c.job == sa.bindparam("of_job")
)
_LAST_RANK: Final = (
    sa.select(items.c.rank)
    .where(items.c.lane == _OF_LANE, items.c.status == _QUEUED)
    .where(items.c.priority == sa.bindparam("of"), items.c.owner == sa.bindparam("member"))
    .order_by(items.c.rank.desc())
    .limit(1)
)
_ASKING: Final = sa.select(
    *(members.c.pictures_a_day, members.c.removed_at, _LAST_RANK.scalar_subquery().label("last")),
    sa.select(jobs.c.number)
    .where(jobs.c.owner == members.c.id, jobs.c.key == sa.bindparam("by_key"))
    .scalar_subquery()
    .label("known"),
).where(members.c.id == sa.bindparam("member"))
"""All that decides whether a member's job is let in, and where: at one look."""

_NEW_JOB: Final = sa.insert(jobs).returning(jobs.c.number)
_NEW_ITEMS: Final = sa.insert(items)
_NEW_EVENTS: Final = sa.insert(events)
_FEW: Final = 8
"""Events that one statement of their own inserts."""


@cache
def _new_events(count: int) -> sa.Insert:
    """Inserts a few, numbered in their order, beside whatever else is written."""
    texts = ("owner", "job", "type", "data")
    # Not as VALUES, which SQLAlchemy would put into words anew each time.
    rows = [
        sa.select(
            sa.bindparam("at", type_=sa.Double),
            *(sa.bindparam(f"event_{each}_{number}", type_=sa.Text) for each in texts),
        )
        for number in range(count)
    ]
    return sa.insert(events).from_select(["at", *texts], sa.union_all(*rows))


# ---------------------------------------------------------------- transactions


def _insert(
    connection: sa.Connection, statement: sa.Insert, rows: Sequence[Mapping[str, Any]]
) -> None:
    # One by itself costs less than one of many.
    connection.execute(statement, rows[0] if len(rows) == 1 else rows)


class _News(NamedTuple):
    """What is to be told of a job: an event that has no number yet."""

    owner: str
    job: str
    type: EventType
    data: Mapping[str, Any]


def _tell(connection: sa.Connection, now: float, news: Sequence[_News]) -> None:
    """Write events down, numbered in the order in which their transactions are done."""
    if len(news) > _FEW:
        rows = [{**each._asdict(), "at": now, "data": json.dumps(each.data)} for each in news]
        connection.execute(_NEW_EVENTS, rows)
    elif news:
        connection.execute(*_telling(now, news))


def _telling(now: float, news: Sequence[_News]) -> Write:
    """What writes a few of them down."""
    parameters: dict[str, Any] = {"at": now}
    for number, each in enumerate(news):
        parameters |= {
            f"event_owner_{number}": each.owner,
            f"event_job_{number}": each.job,
            f"event_type_{number}": each.type,
            f"event_data_{number}": json.dumps(each.data),
        }
    return _new_events(len(news)), parameters


def _forgotten(connection: sa.Connection) -> int:
    """The id of the newest event that is not known any more; 0 for none."""
    text = connection.scalar(sa.select(state.c.value).where(state.c.name == _FORGOTTEN))
    return 0 if text is None else int(text)


def _forget_events(connection: sa.Connection, before: float) -> int:
    # By number, so that a clock that was set back leaves no hole among those that are kept.
    kept = connection.scalar(sa.select(sa.func.min(events.c.id)).where(events.c.at >= before))
    upto = connection.scalar(
        sa.select(sa.func.max(events.c.id)).where(sa.true() if kept is None else events.c.id < kept)
    )
    if upto is None:
        return 0
    gone = connection.execute(sa.delete(events).where(events.c.id <= upto)).rowcount
    connection.execute(sa.delete(state).where(state.c.name == _FORGOTTEN))
    connection.execute(sa.insert(state).values(name=_FORGOTTEN, value=str(upto)))
    return gone


def _accept(connection: sa.Connection, new: NewJob, now: float) -> tuple[Job, bool]:
    asks = {"lane": new.lane, "of": new.priority, "member": new.owner, "by_key": new.key}
    owner = connection.execute(_ASKING, asks).first()
    if owner is not None and owner.known is not None:
        known = _jobs(connection, jobs.c.number == owner.known, 1)[0]
        if not _is_same(known, new):
            raise KeyReused(f"the key {new.key!r:.80} was given to another request")
        return known, False
    if owner is None or owner.removed_at is not None:
        raise LookupError("there is no such member")
    _check_quota(connection, new, now, owner.pictures_a_day)
    # A clock that was set back must not put it before those who are there.
    rank = now if owner.last is None else max(now, owner.last + _BETWEEN)
    number = connection.scalar(
        _NEW_JOB,
        {
            "id": new.id,
            "kind": new.kind,
            "owner": new.owner,
            "status": "queued",
            "priority": new.priority,
            "rank": rank,
            "request": _text(new.request),
            "metadata": _text(new.metadata),
            "total": len(new.items),
            "unsettled": len(new.items),
            "key": new.key,
            "created_at": now,
        },
    )
    _insert(
        connection,
        _NEW_ITEMS,
        [
            {
                "job": number,
                "n": n,
                "status": "queued",
                "lane": new.lane,
                "priority": new.priority,
                "owner": new.owner,
                "rank": rank,
                "seed": item.seed,
                "take": take_id(new.id, n),
                "work": _text(item.work),
            }
            for n, item in enumerate(new.items)
        ],
    )
    _tell(connection, now, [_News(new.owner, new.id, "job.queued", {"total": len(new.items)})])
    made = tuple(
        Item(n, "queued", item.seed, take_id(new.id, n)) for n, item in enumerate(new.items)
    )
    job = Job(
        id=new.id,
        kind=new.kind,
        owner=new.owner,
        status="queued",
        priority=new.priority,
        request=new.request,
        items=made,
        created_at=now,
        metadata=new.metadata,
        key=new.key,
    )
    return job, True


def _is_same(known: Job, new: NewJob) -> bool:
    """Whether a job is what is asked for once more, whatever its seeds, which chance may give."""
    return (
        (known.kind, known.priority, len(known.items)) == (new.kind, new.priority, len(new.items))
        and _text(known.request) == _text(new.request)
        and _text(known.metadata) == _text(new.metadata)
    )


def _check_quota(connection: sa.Connection, new: NewJob, now: float, most: int | None) -> None:
    """Let a job in, if its owner has pictures left of so many a day; None for any number.

    Raises:
        QuotaExceeded: there are not so many left.
    """
    if most is None:
        return
    asked = _asked_since(connection, new.owner, now - A_DAY)
    if asked + len(new.items) > most:
        raise QuotaExceeded(
            f"{most} pictures a day: {asked} were asked for in the last 24 hours, "
            f"{max(0, most - asked)} are left"
        )


def _asked_since(connection: sa.Connection, owner: str, since: float) -> int:
    asked = sa.select(sa.func.sum(jobs.c.total)).where(
        jobs.c.owner == owner, jobs.c.created_at > since
    )
    return int(connection.scalar(asked) or 0)


def _line(owner: str, priority: int, lane: Lane) -> sa.ColumnElement[bool]:
    """What waits of one member's, in one priority: the line that each of its jobs has a rank in."""
    return (
        (items.c.lane == lane)
        & (items.c.priority == priority)
        & (items.c.owner == owner)
        & (items.c.status == sa.text("'queued'"))
    )


def _move(
    connection: sa.Connection,
    job: str,
    now: float,
    *,
    to: Literal["first", "last"] | None,
    before: str | None,
) -> Job:
    row = _row(connection, jobs.c.id == job)
    lane = connection.scalar(
        sa.select(items.c.lane).where(items.c.job == row.number, items.c.status == "queued")
    )
    if lane is None:
        raise NotMovable("nothing of it waits")
    line = [
        (each.job, each.rank)
        for each in connection.execute(
            sa.select(items.c.job, items.c.rank)
            .distinct()
            .where(_line(row.owner, row.priority, lane), items.c.job != row.number)
            .order_by(items.c.rank, items.c.job)
        )
    ]
    place = 0 if to == "first" else len(line)
    if before is not None:
        other = connection.scalar(
            sa.select(jobs.c.number).where(jobs.c.id == before, jobs.c.owner == row.owner)
        )
        places = [place for place, (number, _) in enumerate(line) if number == other]
        if not places:
            raise NotMovable("the other does not wait in the same line")
        place = places[0]
    for number, rank in _ranks(line, place, row.number, now):
        connection.execute(sa.update(jobs).where(jobs.c.number == number).values(rank=rank))
        connection.execute(sa.update(items).where(items.c.job == number).values(rank=rank))
    return _jobs(connection, jobs.c.id == job, 1)[0]


def _ranks(
    line: Sequence[tuple[int, float]], place: int, number: int, now: float
) -> list[tuple[int, float]]:
    """The ranks that are to be given, so that a job comes to a place in a line without it."""
    if not line:
        return []
    if place == len(line):
        return [(number, max(now, line[-1][1] + _BETWEEN))]
    if place == 0:
        return [(number, line[0][1] - _BETWEEN)]
    low, high = line[place - 1][1], line[place][1]
    between = (low + high) / 2
    if low < between < high:
        return [(number, between)]
    # There is no number between: space them all out, downwards, so that who comes is the last.
    order = [each for each, _ in line]
    order.insert(place, number)
    last = math.nextafter(line[-1][1], -math.inf)
    return [(each, last - (len(order) - 1 - at) * _BETWEEN) for at, each in enumerate(order)]


def _claim(
    connection: sa.Connection,
    holder: str,
    engine: str,
    *,
    lane: Lane,
    now: float,
    until: float,
    settled: _Settled | None = None,
) -> Claimed | None:
    """Take on the next item, and write what is left to do of the one before."""
    row = connection.execute(_NEXT, {"lane": lane, "able": engine}).first()
    if row is None:
        _finish(connection, now, settled)
        return None
    claimed = Claimed(
        job=row.job_id,
        number=row.job,
        n=row.n,
        seed=row.seed,
        take=row.take,
        owner=row.owner,
        work=json.loads(row.work),
        tries=row.tries,
        refusals=row.refused,
        claim=row.claims + 1,
    )
    taking = {"next_job": row.job, "next_n": row.n, "by": holder, "until": until, "with": engine}
    writes: list[Write] = [] if settled is None else [*settled.writes]
    writes += [(_TAKE, {**taking, "at": now}), (_SERVE, {"member": row.owner})]
    news = [] if settled is None else [*settled.news]
    if row.job_status == "queued":
        writes.append((_START, {"next_job": row.job, "at": now}))
        news.append(_News(row.owner, row.job_id, "job.started", {}))
    running = {"n": row.n, "engine": engine}
    news.append(_News(row.owner, row.job_id, "item.running", running))
    execute_together(connection, *writes, _telling(now, news))
    return claimed


def _row(connection: sa.Connection, where: sa.ColumnElement[bool]) -> sa.Row[*tuple[Any, ...]]:
    """A job's row.

    Raises:
        LookupError: there is none.
    """
    row = connection.execute(sa.select(jobs).where(where)).first()
    if row is None:
        raise LookupError("there is no such job")
    return row


class _Settled(NamedTuple):
    """What is to be written of an item that came to its end, its job being counted already.

    Attributes:
        news: to be told.
        writes: to be done together with that.
    """

    news: Sequence[_News]
    writes: Sequence[Write] = ()


def _finish(connection: sa.Connection, now: float, settled: _Settled | None) -> bool:
    """Write what is left of an item's end; whether there is such an item."""
    if settled is not None:
        execute_together(connection, *settled.writes, _telling(now, settled.news))
    return settled is not None


def _settle(
    connection: sa.Connection,
    holder: str,
    claimed: Claimed,
    now: float,
    *,
    problem: Problem | None = None,
    seconds: float | None = None,
    cost: float | None = None,
) -> _Settled | None:
    """An item is ready, or failed where there is a problem.

    Returns:
        What is left to do of that; None where the item is not ours any more.
    """
    held = _claim_of(holder, claimed)
    counted = {"is_ready": int(problem is None), "took": seconds, "paid": cost, "at": now}
    job = connection.execute(_COUNT, {**held, **counted}).first()
    if job is None:
        return None
    settle: Write = (
        _SETTLE,
        {
            **held,
            "becomes": "ready" if problem is None else "failed",
            "at": now,
            "took": seconds,
            "paid": cost,
            "code": problem.code if problem else None,
            "message": problem.message if problem else None,
        },
    )
    told: tuple[EventType, Mapping[str, Any]] = (
        ("item.ready", {"n": claimed.n, "take": claimed.take})
        if problem is None
        else ("item.failed", {"n": claimed.n, "error": _said(problem)})
    )
    news = [_News(claimed.owner, claimed.job, *told)]
    if job.status == "failed":  # why it did is found among its items
        execute_together(connection, settle)
        news.append(_ended(connection, job))
        return _Settled(news)
    if job.status in ENDED:
        news.append(_ended(connection, job))
    return _Settled(news, [settle])


def _put_back(
    connection: sa.Connection,
    holder: str,
    claimed: Claimed,
    now: float,
    *,
    problem: Problem | None,
    refused_by: str | None,
    counts: bool,
) -> bool:
    done = connection.execute(
        sa.update(items)
        .where(_HELD)
        .values(
            status="queued",
            holder=None,
            lease_until=None,
            error_code=problem.code if problem else None,
            error=problem.message if problem else None,
            tries=items.c.tries + int(counts),
            refused=items.c.refused + int(refused_by is not None),
        ),
        _claim_of(holder, claimed),
    )
    if not done.rowcount:
        return False
    if refused_by is not None:
        connection.execute(
            sa.insert(refusals).values(job=claimed.number, n=claimed.n, engine=refused_by)
        )
    told: Mapping[str, Any] = {"n": claimed.n, "error": _said(problem)}
    _tell(connection, now, [_News(claimed.owner, claimed.job, "item.queued", told)])
    return True


def _cancel(connection: sa.Connection, job: str, now: float) -> Job:
    row = _row(connection, jobs.c.id == job)
    if row.status in ENDED:
        raise NotCancellable(f"it is {row.status}")
    connection.execute(
        sa.update(items)
        .where(items.c.job == row.number, items.c.status.in_(["queued", "running"]))
        .values(status="cancelled", holder=None, lease_until=None, ended_at=now)
    )
    row = connection.execute(
        sa.update(jobs)
        .where(jobs.c.number == row.number)
        .values(status="cancelled", unsettled=0, completed_at=now)
        .returning(*_COUNTS)
    ).one()
    _tell(connection, now, [_ended(connection, row)])
    return _jobs(connection, jobs.c.id == job, 1)[0]


def _retry(connection: sa.Connection, job: str, numbers: frozenset[int] | None, now: float) -> Job:
    row = _row(connection, jobs.c.id == job)
    if row.status not in ENDED:
        raise NothingToRetry(f"it is {row.status}")
    where = (items.c.job == row.number) & items.c.status.in_(["failed", "cancelled"])
    if numbers is not None:
        where &= items.c.n.in_(numbers)
    again = connection.execute(
        sa.update(items)
        .where(where)
        .values(status="queued", tries=0, ended_at=None, error_code=None, error=None)
    )
    if not again.rowcount:
        raise NothingToRetry("nothing of it failed")
    connection.execute(sa.delete(refusals).where(refusals.c.job == row.number))
    connection.execute(
        sa.update(items).where(items.c.job == row.number, items.c.refused > 0).values(refused=0)
    )
    failed = sa.select(sa.func.count()).where(items.c.job == row.number, items.c.status == "failed")
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.number == row.number)
        .values(
            status="queued",
            attempt=jobs.c.attempt + 1,
            unsettled=again.rowcount,
            crashes=0,
            failed=failed.scalar_subquery(),
            error_code=None,
            error=None,
            completed_at=None,
        )
    )
    _tell(connection, now, [_News(row.owner, job, "job.queued", {"attempt": row.attempt + 1})])
    return _jobs(connection, jobs.c.id == job, 1)[0]


def _let_go(
    connection: sa.Connection, lost: sa.ColumnElement[bool], now: float, *, crashed: bool
) -> list[str]:
    """Queue items again that nobody works on; a job that crashed too often fails."""
    numbers = connection.scalars(sa.select(items.c.job).where(lost).distinct()).all()
    let_go: list[str] = []
    for number in sorted(numbers):
        job = _row(connection, jobs.c.number == number)
        hopeless = crashed and job.crashes + 1 >= MAX_CRASHES
        problem = Problem("crashed", f"it died with the process {MAX_CRASHES} times")
        values: dict[str, Any] = {"status": "queued", "holder": None, "lease_until": None}
        which = (items.c.job == number) & lost
        if hopeless:
            which = (items.c.job == number) & items.c.status.in_(["queued", "running"])
            values |= {"status": "failed", "ended_at": now}
            values |= {"error_code": problem.code, "error": problem.message}
        pieces = connection.scalars(sa.select(items.c.n).where(which).order_by(items.c.n)).all()
        connection.execute(sa.update(items).where(which).values(values))
        if crashed:
            connection.execute(
                sa.update(jobs).where(jobs.c.number == number).values(crashes=job.crashes + 1)
            )
        said = _said(problem if hopeless else None)
        kind: EventType = "item.failed" if hopeless else "item.queued"
        news = [_News(job.owner, job.id, kind, {"n": n, "error": said}) for n in pieces]
        if hopeless:
            row = connection.execute(
                sa.update(jobs)
                .where(jobs.c.number == number)
                .values(
                    status=sa.case((jobs.c.done > 0, sa.literal("completed")), else_="failed"),
                    unsettled=0,
                    failed=jobs.c.failed + len(pieces),
                    completed_at=now,
                )
                .returning(*_COUNTS)
            ).one()
            news.append(_ended(connection, row))
        _tell(connection, now, news)
        let_go.append(job.id)
    return let_go


def _ended(connection: sa.Connection, job: sa.Row[*tuple[Any, ...]]) -> _News:
    """What is to be told of a job that has come to its end; one that failed now says why.

    Args:
        connection: whose transaction it came to its end in.
        job: `_COUNTS` of it.
    """
    if job.status == "failed":
        reasons = connection.execute(_WHY, {"of_job": job.number}).all()
        problem = commonest(_problem(*each) for each in reasons)
        if problem is not None:
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.number == job.number)
                .values(error_code=problem.code, error=problem.message)
            )
    partial = job.status == "completed" and job.done < job.total
    told = {"done": job.done, "failed": job.failed, "partial": partial}
    return _News(job.owner, job.id, cast("EventType", f"job.{job.status}"), told)


# ---------------------------------------------------------------- rows


def _claim_of(holder: str, claimed: Claimed) -> dict[str, Any]:
    """What `_HELD` is to be true of."""
    return {"of_job": claimed.number, "of_n": claimed.n, "by": holder, "under": claimed.claim}


_NEWEST: Final = (jobs.c.number.desc(),)
_MOST_ITEMS: Final = 20_000
"""Items that a page of jobs may have together; it is the shorter for them."""


def _jobs(
    connection: sa.Connection,
    where: sa.ColumnElement[bool],
    limit: int,
    order: Sequence[sa.ColumnElement[Any]] = _NEWEST,
) -> list[Job]:
    found = connection.execute(sa.select(jobs).where(where).order_by(*order).limit(limit)).all()
    so_far = itertools.accumulate(row.total for row in found)
    # One by itself may have as many as there are; a page of such would fill the memory.
    rows = [row for row, total in zip(found, so_far, strict=True) if total <= _MOST_ITEMS]
    rows = rows or list(found[:1])
    numbers = [row.number for row in rows]
    pieces: dict[int, list[Item]] = {number: [] for number in numbers}
    columns = (
        *(items.c.job, items.c.n, items.c.status, items.c.seed, items.c.take),
        *(items.c.error_code, items.c.error, items.c.engine, items.c.seconds),
    )
    for row in connection.execute(
        sa.select(*columns).where(items.c.job.in_(numbers)).order_by(items.c.job, items.c.n)
    ):
        pieces[row.job].append(
            Item(
                row.n,
                row.status,
                row.seed,
                row.take,
                _problem(row.error_code, row.error),
                row.engine,
                row.seconds,
            )
        )
    return [_job(row, pieces[row.number]) for row in rows]


def _job(row: sa.Row[*tuple[Any, ...]], pieces: Sequence[Item]) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        owner=row.owner,
        status=row.status,
        priority=row.priority,
        request=json.loads(row.request),
        items=tuple(pieces),
        created_at=row.created_at,
        attempt=row.attempt,
        metadata=json.loads(row.metadata),
        key=row.key,
        problem=_problem(row.error_code, row.error),
        started_at=row.started_at,
        completed_at=row.completed_at,
        seconds=row.seconds,
        cost=row.cost,
    )


def _problem(code: str | None, message: str | None) -> Problem | None:
    return None if code is None else Problem(code, message or "")


def _said(problem: Problem | None) -> Mapping[str, str] | None:
    return None if problem is None else {"code": problem.code, "message": problem.message}


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(
        document, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
