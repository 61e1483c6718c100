"""The tables of webhooks: who is to be told of what, and what became of each telling."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from generator.jobs.schema import metadata

webhooks: Final = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, sa.ForeignKey("members.id", ondelete="CASCADE"), nullable=False),
    sa.Column("job", sa.Text),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("events", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("old_secret", sa.Text),
    sa.Column("old_until", sa.Double),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("after_event", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("ix_webhooks_owner", "owner", "job"),
)
"""``job`` is set where a hook was given with a job, and hears of that one alone; ``events`` is a
JSON list. What happened up to ``after_event`` it is not told of."""

deliveries: Final = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("webhook", sa.Text, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("event", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("body", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_at", sa.Double),
    sa.Column("holder", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("answer_status", sa.Integer),
    sa.Column("answer", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Index("ix_deliveries_webhook", "webhook", "event", unique=True),
)
"""``event``, ``type``, ``job``, ``at`` and ``data`` are the event's, which may be gone by then.
``body`` is what is sent, from the first try on the same."""

_waiting: Final = deliveries.c.status == sa.text("'waiting'")
sa.Index(
    "ix_deliveries_waiting",
    *(deliveries.c.next_at, deliveries.c.event),
    sqlite_where=_waiting,
    postgresql_where=_waiting,
)
