"""The tables of the job room, and the view that generation jobs are looked up in.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None

_NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# What is of the first item stands for the job: its takes differ by their seed alone.
_VIEW_ON_POSTGRES: Final = """
CREATE VIEW generation_jobs AS
SELECT jobs.id AS id,
       jobs.id AS job_id,
       jobs.owner AS user_id,
       jobs.kind AS kind,
       jobs.status AS status,
       COALESCE(jobs.request::json ->> 'prompt', first.work::json -> 'recipe' ->> 'prompt')
           AS prompt,
       jobs.request::json ->> 'style' AS style,
       (first.work::json -> 'recipe' ->> 'width')::integer AS width,
       (first.work::json -> 'recipe' ->> 'height')::integer AS height,
       first.seed AS seed,
       (SELECT '/takes/' || items.take || '/image' FROM items
         WHERE items.job = jobs.number AND items.status = 'ready' ORDER BY items.n LIMIT 1)
           AS result_url,
       jobs.error AS error_message,
       CASE WHEN jobs.seconds > 0 THEN round(jobs.seconds * 1000)::bigint END
           AS processing_time_ms,
       NULL::bytea AS image_data,
       jobs.metadata::json AS metadata,
       to_timestamp(jobs.created_at) AS created_at,
       to_timestamp(jobs.started_at) AS started_at,
       to_timestamp(jobs.completed_at) AS completed_at
  FROM jobs LEFT JOIN items AS first ON first.job = jobs.number AND first.n = 0
"""

# SQLite knows no times; in this form they compare with what its own datetime() says, in UTC.
_VIEW_ON_SQLITE: Final = """
CREATE VIEW generation_jobs AS
SELECT jobs.id AS id,
       jobs.id AS job_id,
       jobs.owner AS user_id,
       jobs.kind AS kind,
       jobs.status AS status,
       COALESCE(json_extract(jobs.request, '$.prompt'), json_extract(first.work, '$.recipe.prompt'))
           AS prompt,
       json_extract(jobs.request, '$.style') AS style,
       json_extract(first.work, '$.recipe.width') AS width,
       json_extract(first.work, '$.recipe.height') AS height,
       first.seed AS seed,
       (SELECT '/takes/' || items.take || '/image' FROM items
         WHERE items.job = jobs.number AND items.status = 'ready' ORDER BY items.n LIMIT 1)
           AS result_url,
       jobs.error AS error_message,
       CASE WHEN jobs.seconds > 0 THEN CAST(round(jobs.seconds * 1000) AS INTEGER) END
           AS processing_time_ms,
       CAST(NULL AS BLOB) AS image_data,
       jobs.metadata AS metadata,
       strftime('%Y-%m-%d %H:%M:%f', jobs.created_at, 'unixepoch') AS created_at,
       strftime('%Y-%m-%d %H:%M:%f', jobs.started_at, 'unixepoch') AS started_at,
       strftime('%Y-%m-%d %H:%M:%f', jobs.completed_at, 'unixepoch') AS completed_at
  FROM jobs LEFT JOIN items AS first ON first.job = jobs.number AND first.n = 0
"""


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "events",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_job", "events", ["job", "id"], unique=False)
    op.create_table(
        "members",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=True),
        sa.Column("pictures_a_day", sa.Integer(), nullable=True),
        sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_members_token_hash")),
    )
    op.create_index(
        "uq_members_name",
        "members",
        ["name"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "refusals",
        sa.Column("job", _NUMBER, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job", "n", "engine", name=op.f("pk_refusals")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_state")),
    )
    op.create_table(
        "jobs",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("completed_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["owner"], ["members.id"], name=op.f("fk_jobs_owner")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sa.UniqueConstraint("owner", "key", name=op.f("uq_jobs_owner_key")),
    )
    op.create_index("ix_jobs_created", "jobs", ["created_at"], unique=False)
    op.create_index("ix_jobs_owner", "jobs", ["owner", "number"], unique=False)
    op.create_index("ix_jobs_owner_status", "jobs", ["owner", "status", "number"], unique=False)
    op.create_index("ix_jobs_owner_created", "jobs", ["owner", "created_at"], unique=False)
    op.create_index("ix_jobs_status", "jobs", ["status", "number"], unique=False)
    op.create_table(
        "items",
        sa.Column("job", _NUMBER, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("take", sa.Text(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claims", sa.Integer(), server_default="0", nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.number"], name=op.f("fk_items_job")),
        sa.PrimaryKeyConstraint("job", "n", name=op.f("pk_items")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_items_ended", "items", ["ended_at"], unique=False)
    op.create_index(
        "ix_items_queued",
        "items",
        ["lane", "priority", "owner", "rank", "job", "n"],
        unique=False,
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "ix_items_running",
        "items",
        ["holder", "lease_until"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    postgres = op.get_bind().dialect.name == "postgresql"
    op.execute(_VIEW_ON_POSTGRES if postgres else _VIEW_ON_SQLITE)
