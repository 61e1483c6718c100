"""The tables, the same on SQLite and on Postgres.

Texts that hold a document are JSON. Times are Unix times, in seconds. What an item needs so that
it can be chosen is written beside it, so that one index finds the next one among ten thousand.
A job counts its items, by what became of them, and an item those who refused it: `unsettled`,
`done`, `failed` and `refused` are changed in the transactions that change what they count.

Whoever changes a table here adds a revision to `generator/jobs/migrations/revisions/` that makes
the same change to a database that is there already.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Number: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""Counts upwards by itself in both; SQLite does so for INTEGER alone."""

members: Final = sa.Table(
    "members",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("token_hash", sa.Text, unique=True),
    sa.Column("pictures_a_day", sa.Integer),
    sa.Column("turn", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("removed_at", sa.Double),
)
_is_member: Final = members.c.removed_at.is_(None)
# Who was removed keeps jobs and name; the name may be given to somebody else.
sa.Index(
    "uq_members_name",
    members.c.name,
    unique=True,
    sqlite_where=_is_member,
    postgresql_where=_is_member,
)

jobs: Final = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", _Number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, sa.ForeignKey("members.id"), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("rank", sa.Double, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("unsettled", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error_code", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("seconds", sa.Double, nullable=False, server_default="0"),
    sa.Column("cost", sa.Double),
    sa.Column("key", sa.Text),
    sa.Column("parent", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    sa.UniqueConstraint("owner", "key"),
    sa.Index("ix_jobs_owner", "owner", "number"),
    sa.Index("ix_jobs_owner_status", "owner", "status", "number"),
    sa.Index("ix_jobs_status", "status", "number"),
    sa.Index("ix_jobs_created", "created_at"),
    sa.Index("ix_jobs_owner_created", "owner", "created_at"),
)

items: Final = sa.Table(
    "items",
    metadata,
    sa.Column("job", _Number, sa.ForeignKey("jobs.number"), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("rank", sa.Double, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("take", sa.Text, nullable=False),
    sa.Column("work", sa.Text, nullable=False),
    sa.Column("engine", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("refused", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claims", sa.Integer, nullable=False, server_default="0"),
    sa.Column("holder", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("cost", sa.Double),
    sa.Index("ix_items_ended", "ended_at"),
    sa.Index("ix_items_take", "take"),
    sqlite_with_rowid=False,
)
_queued: Final = items.c.status == sa.text("'queued'")
_running: Final = items.c.status == sa.text("'running'")
sa.Index(
    "ix_items_queued",
    *(items.c.lane, items.c.priority, items.c.owner, items.c.rank, items.c.job, items.c.n),
    sqlite_where=_queued,
    postgresql_where=_queued,
)
sa.Index(
    "ix_items_running",
    *(items.c.holder, items.c.lease_until),
    sqlite_where=_running,
    postgresql_where=_running,
)

refusals: Final = sa.Table(
    "refusals",
    metadata,
    sa.Column("job", _Number, primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("engine", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)

events: Final = sa.Table(
    "events",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("ix_events_job", "job", "id"),
    sqlite_autoincrement=True,  # a number is never given a second time
)

state: Final = sa.Table(
    "state",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
