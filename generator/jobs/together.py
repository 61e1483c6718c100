"""Statements that need nothing of each other's results: on Postgres, one way to it and back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa

Write = tuple[sa.Update | sa.Insert, Mapping[str, Any]]
"""A statement that was made once and for all, and its parameters."""


def execute_together(connection: sa.Connection, *writes: Write) -> None:
    """Have them all done, in whatever order.

    They change different tables, look at nothing that another of them changes, and mean the same
    thing by a parameter's name.
    """
    if connection.dialect.name == "sqlite":  # which is no way off
        for statement, parameters in writes:
            connection.execute(statement, parameters)
        return
    merged: dict[str, Any] = {}
    for _, parameters in writes:
        merged |= parameters
    connection.execute(_as_one(*(statement for statement, _ in writes)), merged)


@cache
def _as_one(*statements: sa.Update | sa.Insert) -> sa.Update | sa.Insert:
    *others, last = statements
    for number, each in enumerate(others):
        last = last.add_cte(each.cte(f"write_{number}"))
    return last
