"""A job counts what is not settled of it, an item who refused it; statistics have their indexes.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Add the counts, and count what is there."""
    op.add_column("jobs", _count("unsettled"))
    op.add_column("items", _count("refused"))
    op.execute(
        "UPDATE jobs SET unsettled = (SELECT count(*) FROM items"
        " WHERE items.job = jobs.number AND items.status IN ('queued', 'running'))"
    )
    op.execute(
        "UPDATE items SET refused = (SELECT count(*) FROM refusals"
        " WHERE refusals.job = items.job AND refusals.n = items.n)"
        " WHERE EXISTS (SELECT 1 FROM refusals WHERE refusals.job = items.job)"
    )
    op.drop_index("ix_items_ended", "items")
    op.create_index(
        "ix_items_ended",
        "items",
        ["ended_at", "status", "engine", "owner", "error_code", "seconds", "cost"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.drop_index("ix_jobs_created", "jobs")
    op.create_index("ix_jobs_created", "jobs", ["created_at", "status", "owner"], unique=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default="0", nullable=False)
