"""What was asked for and drawn in the last hours, and at what price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
        cost: what they cost, in the currency that the settings mean.
    """

    pictures: int
    seconds: float
    cost: float


@dataclass(frozen=True, slots=True)
class MemberWork:
    """What a member asked for, and what came of it.

    Attributes:
        jobs: that it asked for.
        pictures: that were drawn for it.
        cost: what those cost, in the currency that the settings mean.
    """

    jobs: int
    pictures: int
    cost: float


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
        cost: of the pictures, in the currency that the settings mean.
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
    cost: float
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
    asked = jobs.c.created_at > since
    ended = items.c.ended_at > since
    drawn = ended & (items.c.status == "ready")
    by_status: dict[JobStatus, int] = {
        row.status: row.number
        for row in connection.execute(
            sa.select(jobs.c.status, sa.func.count().label("number"))
            .where(asked)
            .group_by(jobs.c.status)
        )
    }
    completed, failed = by_status.get("completed", 0), by_status.get("failed", 0)
    engines = {
        row.engine: EngineWork(row.number, row.seconds or 0.0, row.cost or 0.0)
        for row in connection.execute(
            sa.select(items.c.engine, *_sums()).where(drawn).group_by(items.c.engine)
        )
        if row.engine is not None
    }
    pictures = sum(each.pictures for each in engines.values())
    return JobStatistics(
        since=since,
        jobs=by_status,
        pictures=pictures,
        failed={
            row.error_code or "failed": row.number
            for row in connection.execute(
                sa.select(items.c.error_code, sa.func.count().label("number"))
                .where(ended, items.c.status == "failed")
                .group_by(items.c.error_code)
            )
        },
        success_rate=completed / (completed + failed) if completed + failed else None,
        p50_seconds=_quantile(connection, drawn, pictures, 0.5),
        p95_seconds=_quantile(connection, drawn, pictures, 0.95),
        cost=sum(each.cost for each in engines.values()),
        engines=engines,
        members=_by_member(connection, asked, drawn),
        waiting=_in_state(connection, "queued"),
        running=_in_state(connection, "running"),
    )


def _sums() -> tuple[sa.ColumnElement[Any], ...]:
    return (
        sa.func.count().label("number"),
        sa.func.sum(items.c.seconds).label("seconds"),
        sa.func.sum(items.c.cost).label("cost"),
    )


def _by_member(
    connection: sa.Connection, asked: sa.ColumnElement[bool], drawn: sa.ColumnElement[bool]
) -> dict[str, MemberWork]:
    names = {
        row.id: row.name for row in connection.execute(sa.select(members.c.id, members.c.name))
    }
    found: dict[str, MemberWork] = {}

    def add(owner: str, more: MemberWork) -> None:
        name = names.get(owner, owner)
        known = found.get(name, MemberWork(0, 0, 0.0))
        found[name] = MemberWork(
            known.jobs + more.jobs, known.pictures + more.pictures, known.cost + more.cost
        )

    of_jobs = sa.select(jobs.c.owner, sa.func.count().label("number")).where(asked)
    for row in connection.execute(of_jobs.group_by(jobs.c.owner)):
        add(row.owner, MemberWork(row.number, 0, 0.0))
    of_items = sa.select(items.c.owner, *_sums()).where(drawn)
    for row in connection.execute(of_items.group_by(items.c.owner)):
        add(row.owner, MemberWork(0, row.number, row.cost or 0.0))
    return found


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
