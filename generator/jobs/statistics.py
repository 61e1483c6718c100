"""What was asked for and drawn in the last hours, and at what price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from generator.jobs.database import Database
from generator.jobs.model import JobStatus
from generator.jobs.schema import items, jobs, members

MAX_HOURS: Final = 24 * 366


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What an engine drew.

    Attributes:
        pictures: how many.
        seconds: of work on them.
        cost: what they cost, in the currency that the settings mean; None where nobody has said
            what the engine costs.
    """

    pictures: int
    seconds: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class MemberWork:
    """What a member asked for, and what came of it.

    Attributes:
        jobs: that it asked for.
        pictures: that were drawn for it.
        cost: what those cost, as far as known, in the currency that the settings mean; None where
            nobody has said of any of them.
    """

    jobs: int
    pictures: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class JobStatistics:
    """What happened between `since` and now.

    Attributes:
        since: Unix time.
        jobs: how many were asked for, by what became of them so far.
        pictures: that were drawn.
        failed: that came to nothing, by the code of the reason.
        success_rate: of the jobs that were asked for and came to their end by themselves, the share
            that did not fail; None where there are none.
        p50_seconds, p95_seconds: that half, and 95 of 100, of the pictures took at most; None
            where none was drawn.
        cost: of the pictures, as far as known, in the currency that the settings mean; None where
            nobody has said of any of them.
        engines: what each drew, by its name.
        members: what each asked for, by its name; two of the same name, of whom one was removed,
            are counted together.
        waiting: items that wait now, whenever they were asked for.
        running: items that are worked on now.
    """

    since: float
    jobs: Mapping[JobStatus, int]
    pictures: int
    failed: Mapping[str, int]
    success_rate: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    cost: float | None
    engines: Mapping[str, EngineWork]
    members: Mapping[str, MemberWork]
    waiting: int
    running: int


async def job_statistics(database: Database, now: float, hours: float = 24.0) -> JobStatistics:
    """What happened in the last hours.

    Args:
        database: where the jobs are.
        now: Unix time.
        hours: how far to look back, 0 to `MAX_HOURS`.

    Raises:
        DatabaseError: it could not be read.
    """
    if not 0 < hours <= MAX_HOURS:
        raise ValueError(f"hours: expected more than 0 and at most {MAX_HOURS}")
    since = now - hours * 3600
    return await database.read(lambda connection: _statistics(connection, since))


def _statistics(connection: sa.Connection, since: float) -> JobStatistics:
    names = {
        row.id: row.name for row in connection.execute(sa.select(members.c.id, members.c.name))
    }
    by_status: dict[JobStatus, int] = {}
    by_engine: dict[str, EngineWork] = {}
    by_member: dict[str, MemberWork] = {}
    failed: dict[str, int] = {}
    for row in connection.execute(_ASKED, {"since": since}):
        by_status[row.status] = by_status.get(row.status, 0) + row.number
        _add(by_member, names.get(row.owner, row.owner), MemberWork(row.number, 0, None))
    for row in connection.execute(_ENDED, {"since": since}):
        if row.status == "failed":
            code = row.error_code or "failed"
            failed[code] = failed.get(code, 0) + row.number
        elif row.status == "ready" and row.engine is not None:
            work = EngineWork(row.number, row.seconds or 0.0, row.cost)
            known = by_engine.get(row.engine, EngineWork(0, 0.0, None))
            by_engine[row.engine] = EngineWork(
                known.pictures + work.pictures,
                known.seconds + work.seconds,
                _sum(known.cost, work.cost),
            )
            name = names.get(row.owner, row.owner)
            _add(by_member, name, MemberWork(0, work.pictures, work.cost))
    completed, not_completed = by_status.get("completed", 0), by_status.get("failed", 0)
    over = completed + not_completed
    pictures = sum(each.pictures for each in by_engine.values())
    drawn = (items.c.ended_at > since) & (items.c.status == "ready")
    return JobStatistics(
        since=since,
        jobs=by_status,
        pictures=pictures,
        failed=failed,
        success_rate=completed / over if over else None,
        p50_seconds=_quantile(connection, drawn, pictures, 0.5),
        p95_seconds=_quantile(connection, drawn, pictures, 0.95),
        cost=_sum(*(each.cost for each in by_engine.values())),
        engines=by_engine,
        members=by_member,
        waiting=_in_state(connection, "queued"),
        running=_in_state(connection, "running"),
    )


_NUMBER: Final = sa.func.count().label("number")
_ASKED: Final = (
    sa.select(jobs.c.status, jobs.c.owner, _NUMBER)
    .where(jobs.c.created_at > sa.bindparam("since"))
    .group_by(jobs.c.status, jobs.c.owner)
)
_ENDED: Final = (
    sa.select(items.c.status, items.c.engine, items.c.owner, items.c.error_code, _NUMBER)
    .add_columns(sa.func.sum(items.c.seconds).label("seconds"))
    .add_columns(sa.func.sum(items.c.cost).label("cost"))
    .where(items.c.ended_at > sa.bindparam("since"))
    .group_by(items.c.status, items.c.engine, items.c.owner, items.c.error_code)
)
"""One pass each over an index that holds all that is asked."""


def _add(found: dict[str, MemberWork], name: str, more: MemberWork) -> None:
    known = found.get(name, MemberWork(0, 0, None))
    found[name] = MemberWork(
        known.jobs + more.jobs, known.pictures + more.pictures, _sum(known.cost, more.cost)
    )


def _sum(*costs: float | None) -> float | None:
    """What is known of some costs together; None where nothing is."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def _quantile(
    connection: sa.Connection, drawn: sa.ColumnElement[bool], count: int, share: float
) -> float | None:
    """The seconds that a share of the pictures took at most, by nearest rank."""
    if not count:
        return None
    place = min(count - 1, int(share * count))
    return connection.scalar(
        sa.select(items.c.seconds)
        .where(drawn, items.c.engine.is_not(None))
        .order_by(items.c.seconds)
        .offset(place)
        .limit(1)
    )


def _in_state(connection: sa.Connection, status: str) -> int:
    # Written out, so that the index over those alone is used.
    where = items.c.status == sa.text(f"'{status}'")
    return connection.scalar(sa.select(sa.func.count()).select_from(items).where(where)) or 0
