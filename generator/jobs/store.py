"""Jobs, kept: what was asked for, who works on what, and what became of it.

Each method is one transaction. Whoever works on an item holds it on a lease; what it made of it
counts only as long as the item is still its own. A job's row is locked before its items are, so
that those who settle, cancel and retry at once do so one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from generator.jobs.database import Database
from generator.jobs.model import (
    ENDED,
    MAX_CRASHES,
    USUAL_PRIORITY,
    Item,
    ItemStatus,
    Job,
    JobKind,
    JobStatus,
    Lane,
    Problem,
    commonest,
    status_of,
    take_id,
)
from generator.jobs.schema import events, items, jobs, members, refusals, state

_EVENTS_LOCK: Final = 0x756E6465  # any number that nobody else uses in this database

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


class NotCancellable(Exception):
    """A job that has come to its end already."""


class NothingToRetry(Exception):
    """A job of which nothing failed, or which has not come to its end."""


class KeyReused(Exception):
    """The same idempotency key, for something else."""


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
        items: its pieces, at least one.
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


@dataclass(frozen=True, slots=True)
class Event:
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
            DatabaseError: it was not kept.
        """
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
        status: JobStatus | None = None,
        kind: JobKind | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Jobs, the newest first.

        Args:
            owner: whose, None for everybody's.
            status: in which state, None for any.
            kind: of which kind, None for any.
            before: the id of the last one that is known already.
            limit: at most so many.
        """
        where: sa.ColumnElement[bool] = sa.true()
        if owner is not None:
            where &= jobs.c.owner == owner
        if status is not None:
            where &= jobs.c.status == status
        if kind is not None:
            where &= jobs.c.kind == kind
        if before is not None:
            last = sa.select(jobs.c.number).where(jobs.c.id == before).scalar_subquery()
            where &= jobs.c.number < last
        return await self.database.read(lambda connection: _jobs(connection, where, limit))

    async def events_after(
        self, last: int, *, owner: str | None = None, job: str | None = None, limit: int = 1000
    ) -> list[Event]:
        """What happened after an event, in order; nothing is left out."""
        query = sa.select(events).where(events.c.id > last).order_by(events.c.id).limit(limit)
        if owner is not None:
            query = query.where(events.c.owner == owner)
        if job is not None:
            query = query.where(events.c.job == job)

        def look(connection: sa.Connection) -> list[Event]:
            return [
                Event(row.id, row.at, row.owner, row.job, row.type, json.loads(row.data))
                for row in connection.execute(query)
            ]

        return await self.database.read(look)

    # ------------------------------------------------------------ working

    async def claim(
        self, engine: str, now: float, *, lease: float, lane: Lane = "engine"
    ) -> Claimed | None:
        """Take on the next item that an engine can do; None where there is none.

        Args:
            engine: its name.
            now: Unix time.
            lease: seconds after which the item is anybody's again, unless `renew` was called.
            lane: which items.
        """
        return await self.database.write(
            lambda connection: _claim(connection, self.holder, engine, lane, now, now + lease)
        )

    async def renew(self, now: float, *, lease: float) -> None:
        """Go on holding all that is held."""
        mine = (items.c.status == "running") & (items.c.holder == self.holder)
        await self.database.write(
            lambda connection: connection.execute(
                sa.update(items).where(mine).values(lease_until=now + lease)
            )
        )

    async def ready(
        self, claimed: Claimed, now: float, *, seconds: float, cost: float | None
    ) -> bool:
        """An item is done, and its take is there; False where nobody wants it any more."""
        return await self.database.write(
            lambda connection: _settle(
                connection, self.holder, claimed, "ready", None, now, seconds=seconds, cost=cost
            )
        )

    async def failed(self, claimed: Claimed, problem: Problem, now: float) -> bool:
        """An item came to nothing; False where nobody wants it any more."""
        return await self.database.write(
            lambda connection: _settle(connection, self.holder, claimed, "failed", problem, now)
        )

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
                connection, self.holder, claimed, problem, now, refused_by=refused_by, counts=counts
            )
        )

    async def release(self, now: float) -> None:
        """Queue again all that we hold, as we are about to end."""
        mine = (items.c.status == "running") & (items.c.holder == self.holder)
        await self.database.write(lambda connection: _let_go(connection, mine, now, crashed=False))

    async def take_over(
        self, now: float, *, others: bool = False, holders: Collection[str] | None = None
    ) -> list[str]:
        """Queue again what is held by nobody any more.

        That is what others held whose lease has run out, and at a start what whoever had our
        name held when it died. A job that died so `MAX_CRASHES` times is not begun again.

        Args:
            now: Unix time.
            others: whether only what others held is meant: we have begun.
            holders: who is known to hold nothing any more; None to go by their leases.

        Returns:
            The jobs whose items those were.
        """
        lost = (items.c.status == "running") & (items.c.lease_until < now)
        if holders is not None:
            lost = (items.c.status == "running") & items.c.holder.in_(holders)
        elif others:
            lost &= items.c.holder != self.holder
        else:
            lost |= (items.c.status == "running") & (items.c.holder == self.holder)
        return await self.database.write(
            lambda connection: _let_go(connection, lost, now, crashed=True)
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

    async def remembered(self, name: str) -> Any:
        """What was kept under a name, None for nothing."""
        query = sa.select(state.c.value).where(state.c.name == name)
        text = await self.database.read(lambda connection: connection.scalar(query))
        return None if text is None else json.loads(text)


# ---------------------------------------------------------------- transactions


def _tell(
    connection: sa.Connection,
    now: float,
    owner: str,
    job: str,
    *told: tuple[EventType, Mapping[str, Any]],
) -> None:
    """Write events down, numbered in the order in which their transactions are done."""
    if connection.dialect.name == "postgresql":
        # A number that is drawn before another's and seen after it would be missed for ever.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_EVENTS_LOCK)))
    connection.execute(
        sa.insert(events),
        [
            {"at": now, "owner": owner, "job": job, "type": kind, "data": json.dumps(data)}
            for kind, data in told
        ],
    )


def _accept(connection: sa.Connection, new: NewJob, now: float) -> tuple[Job, bool]:
    request, metadata = _text(new.request), _text(new.metadata)
    row = {
        "id": new.id,
        "kind": new.kind,
        "owner": new.owner,
        "status": "queued",
        "priority": new.priority,
        "rank": now,
        "request": request,
        "metadata": metadata,
        "total": len(new.items),
        "key": new.key,
        "created_at": now,
    }
    insert: Any = (postgresql if _is_postgres(connection) else sqlite).insert(jobs)
    if new.key is not None:
        insert = insert.on_conflict_do_nothing(index_elements=["owner", "key"])
    number = connection.scalar(insert.values(row).returning(jobs.c.number))
    if number is None:
        known = _jobs(connection, (jobs.c.owner == new.owner) & (jobs.c.key == new.key), 1)[0]
        if _text(known.request) != request:
            raise KeyReused(f"the key {new.key!r:.80} was given to another request")
        return known, False
    connection.execute(
        sa.insert(items),
        [
            {
                "job": number,
                "n": n,
                "status": "queued",
                "lane": new.lane,
                "priority": new.priority,
                "owner": new.owner,
                "rank": now,
                "seed": item.seed,
                "take": take_id(new.id, n),
                "work": _text(item.work),
            }
            for n, item in enumerate(new.items)
        ],
    )
    _tell(connection, now, new.owner, new.id, ("job.queued", {"total": len(new.items)}))
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


def _claim(
    connection: sa.Connection, holder: str, engine: str, lane: Lane, now: float, until: float
) -> Claimed | None:
    waits = (items.c.lane == lane) & (items.c.status == sa.text("'queued'"))
    able = ~sa.exists().where(
        refusals.c.job == items.c.job, refusals.c.n == items.c.n, refusals.c.engine == engine
    )
    priority = connection.scalar(sa.select(sa.func.max(items.c.priority)).where(waits))
    while priority is not None:
        here = waits & (items.c.priority == priority)
        first = sa.select(sa.func.min(items.c.rank)).where(here, items.c.owner == members.c.id)
        turns = sa.select(members.c.id).where(
            sa.exists().where(here, items.c.owner == members.c.id)
        )
        for owner in connection.scalars(
            turns.order_by(members.c.turn, first.scalar_subquery(), members.c.id)
        ).all():
            next_item = (
                sa.select(items)
                .where(here, items.c.owner == owner, able)
                .order_by(items.c.rank, items.c.job, items.c.n)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            row = connection.execute(next_item).first()
            if row is not None:
                return _taken(connection, row, holder, engine, now, until)
        below = sa.select(sa.func.max(items.c.priority)).where(waits, items.c.priority < priority)
        priority = connection.scalar(below)
    return None


def _taken(
    connection: sa.Connection,
    row: sa.Row[Any],
    holder: str,
    engine: str,
    now: float,
    until: float,
) -> Claimed:
    connection.execute(
        sa.update(items)
        .where(items.c.job == row.job, items.c.n == row.n)
        .values(
            status="running",
            holder=holder,
            lease_until=until,
            engine=engine,
            started_at=now,
        )
    )
    last = sa.select(sa.func.max(members.c.turn)).scalar_subquery()
    connection.execute(sa.update(members).where(members.c.id == row.owner).values(turn=last + 1))
    started = connection.execute(
        sa.update(jobs)
        .where(jobs.c.number == row.job, jobs.c.status == "queued")
        .values(status="processing", started_at=sa.func.coalesce(jobs.c.started_at, now))
    )
    job = cast("str", connection.scalar(sa.select(jobs.c.id).where(jobs.c.number == row.job)))
    told: list[tuple[EventType, Mapping[str, Any]]] = []
    if started.rowcount:
        told.append(("job.started", {}))
    told.append(("item.running", {"n": row.n, "engine": engine}))
    _tell(connection, now, row.owner, job, *told)
    refused = connection.scalar(
        sa.select(sa.func.count()).where(refusals.c.job == row.job, refusals.c.n == row.n)
    )
    return Claimed(
        job=job,
        number=row.job,
        n=row.n,
        seed=row.seed,
        take=row.take,
        owner=row.owner,
        work=json.loads(row.work),
        tries=row.tries,
        refusals=refused or 0,
    )


def _lock(connection: sa.Connection, where: sa.ColumnElement[bool]) -> sa.Row[Any]:
    """A job's row, which nobody else changes before this is done.

    Raises:
        LookupError: there is none.
    """
    row = connection.execute(sa.select(jobs).where(where).with_for_update()).first()
    if row is None:
        raise LookupError("there is no such job")
    return row


def _settle(
    connection: sa.Connection,
    holder: str,
    claimed: Claimed,
    status: Literal["ready", "failed"],
    problem: Problem | None,
    now: float,
    *,
    seconds: float | None = None,
    cost: float | None = None,
) -> bool:
    job = _lock(connection, jobs.c.number == claimed.number)
    done = connection.execute(
        sa.update(items)
        .where(_held(holder, claimed))
        .values(
            status=status,
            holder=None,
            lease_until=None,
            seconds=seconds,
            error_code=problem.code if problem else None,
            error=problem.message if problem else None,
        )
    )
    if not done.rowcount:
        return False
    data: dict[str, Any] = {"n": claimed.n, "take": claimed.take}
    if problem is not None:
        data = {"n": claimed.n, "error": {"code": problem.code, "message": problem.message}}
    told: list[tuple[EventType, Mapping[str, Any]]] = [
        ("item.ready" if status == "ready" else "item.failed", data)
    ]
    told += _count(connection, job, now, seconds=seconds or 0.0, cost=cost)
    _tell(connection, now, claimed.owner, claimed.job, *told)
    return True


def _put_back(
    connection: sa.Connection,
    holder: str,
    claimed: Claimed,
    problem: Problem | None,
    now: float,
    *,
    refused_by: str | None,
    counts: bool,
) -> bool:
    _lock(connection, jobs.c.number == claimed.number)
    done = connection.execute(
        sa.update(items)
        .where(_held(holder, claimed))
        .values(
            status="queued",
            holder=None,
            lease_until=None,
            error_code=problem.code if problem else None,
            error=problem.message if problem else None,
            tries=items.c.tries + int(counts),
        )
    )
    if not done.rowcount:
        return False
    if refused_by is not None:
        connection.execute(
            sa.insert(refusals).values(job=claimed.number, n=claimed.n, engine=refused_by)
        )
    why = {"code": problem.code, "message": problem.message} if problem else None
    _tell(
        connection, now, claimed.owner, claimed.job, ("item.queued", {"n": claimed.n, "error": why})
    )
    return True


def _cancel(connection: sa.Connection, job: str, now: float) -> Job:
    row = _lock(connection, jobs.c.id == job)
    if row.status in ENDED:
        raise NotCancellable(f"it is {row.status}")
    connection.execute(
        sa.update(items)
        .where(items.c.job == row.number, items.c.status.in_(["queued", "running"]))
        .values(status="cancelled", holder=None, lease_until=None)
    )
    _tell(connection, now, row.owner, job, *_count(connection, row, now, cancelled=True))
    return _jobs(connection, jobs.c.id == job, 1)[0]


def _retry(connection: sa.Connection, job: str, numbers: frozenset[int] | None, now: float) -> Job:
    row = _lock(connection, jobs.c.id == job)
    if row.status not in ENDED:
        raise NothingToRetry(f"it is {row.status}")
    where = (items.c.job == row.number) & items.c.status.in_(["failed", "cancelled"])
    if numbers is not None:
        where &= items.c.n.in_(numbers)
    again = connection.execute(
        sa.update(items).where(where).values(status="queued", error_code=None, error=None)
    )
    if not again.rowcount:
        raise NothingToRetry("nothing of it failed")
    connection.execute(sa.delete(refusals).where(refusals.c.job == row.number))
    failed = sa.select(sa.func.count()).where(items.c.job == row.number, items.c.status == "failed")
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.number == row.number)
        .values(
            status="queued",
            attempt=jobs.c.attempt + 1,
            crashes=0,
            failed=failed.scalar_subquery(),
            error_code=None,
            error=None,
            completed_at=None,
        )
    )
    _tell(connection, now, row.owner, job, ("job.queued", {"attempt": row.attempt + 1}))
    return _jobs(connection, jobs.c.id == job, 1)[0]


def _let_go(
    connection: sa.Connection, lost: sa.ColumnElement[bool], now: float, *, crashed: bool
) -> list[str]:
    """Queue items again that nobody works on; a job that crashed too often fails."""
    numbers = connection.scalars(sa.select(items.c.job).where(lost).distinct()).all()
    let_go: list[str] = []
    for number in sorted(numbers):
        job = _lock(connection, jobs.c.number == number)
        hopeless = crashed and job.crashes + 1 >= MAX_CRASHES
        values: dict[str, Any] = {"status": "queued", "holder": None, "lease_until": None}
        which = lost
        if hopeless:
            which = items.c.status.in_(["queued", "running"])
            text = f"it died with the process {MAX_CRASHES} times"
            values |= {"status": "failed", "error_code": "crashed", "error": text}
        connection.execute(sa.update(items).where(items.c.job == number, which).values(values))
        if crashed:
            connection.execute(
                sa.update(jobs).where(jobs.c.number == number).values(crashes=jobs.c.crashes + 1)
            )
        if hopeless:
            _tell(connection, now, job.owner, job.id, *_count(connection, job, now))
        let_go.append(job.id)
    return let_go


def _count(
    connection: sa.Connection,
    job: sa.Row[Any],
    now: float,
    *,
    cancelled: bool = False,
    seconds: float = 0.0,
    cost: float | None = None,
) -> list[tuple[EventType, Mapping[str, Any]]]:
    """Have a job say what its items say; what is to be told of that."""
    found: list[ItemStatus] = list(
        connection.scalars(sa.select(items.c.status).where(items.c.job == job.number))
    )
    status = status_of(found, begun=job.status == "processing", cancelled=cancelled)
    values: dict[str, Any] = {
        "status": status,
        "done": found.count("ready"),
        "failed": found.count("failed"),
        "seconds": jobs.c.seconds + seconds,
    }
    if cost is not None:
        values["cost"] = sa.func.coalesce(jobs.c.cost, 0.0) + cost
    over = status in ENDED
    if over:
        values["completed_at"] = now
    if status == "failed":
        rows = connection.execute(
            sa.select(items.c.error_code, items.c.error).where(items.c.job == job.number)
        )
        problem = commonest(_problem(row) for row in rows)
        if problem is not None:
            values |= {"error_code": problem.code, "error": problem.message}
    connection.execute(sa.update(jobs).where(jobs.c.number == job.number).values(values))
    if not over:
        return []
    kind = cast("EventType", f"job.{status}")
    done, failed = found.count("ready"), found.count("failed")
    partial = status == "completed" and done < len(found)
    return [(kind, {"done": done, "failed": failed, "partial": partial})]


# ---------------------------------------------------------------- rows


def _held(holder: str, claimed: Claimed) -> sa.ColumnElement[bool]:
    return (
        (items.c.job == claimed.number)
        & (items.c.n == claimed.n)
        & (items.c.status == "running")
        & (items.c.holder == holder)
    )


def _jobs(connection: sa.Connection, where: sa.ColumnElement[bool], limit: int) -> list[Job]:
    rows = connection.execute(
        sa.select(jobs).where(where).order_by(jobs.c.number.desc()).limit(limit)
    ).all()
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
            Item(row.n, row.status, row.seed, row.take, _problem(row), row.engine, row.seconds)
        )
    return [_job(row, pieces[row.number]) for row in rows]


def _job(row: sa.Row[Any], pieces: Sequence[Item]) -> Job:
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
        problem=_problem(row),
        started_at=row.started_at,
        completed_at=row.completed_at,
        seconds=row.seconds,
        cost=row.cost,
    )


def _problem(row: sa.Row[Any]) -> Problem | None:
    return None if row.error_code is None else Problem(row.error_code, row.error or "")


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _is_postgres(connection: sa.Connection) -> bool:
    return connection.dialect.name == "postgresql"
