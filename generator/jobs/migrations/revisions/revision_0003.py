"""A job counts what is not settled of it, and an item who refused it.

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


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default="0", nullable=False)
