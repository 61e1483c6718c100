"""Who holds what of the queue, and who of the others has fallen silent.

A lease is renewed by writing another time. Whether somebody has stopped doing so is judged by
watching, with steady seconds of one's own: clocks that are set, or differ from machine to
machine, then make nobody seem dead. What the leases say is compared and never reckoned with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from generator.jobs.schema import items, jobs, refusals, state
from generator.jobs.store import Claimed


def held_by(connection: sa.Connection, holder: str) -> list[Claimed]:
    """The items that a Studio holds; their work is left out, which may be large."""
    query = (
        sa.select(items.c.job, items.c.n, items.c.seed, items.c.take, items.c.owner)
        .add_columns(items.c.tries, items.c.claims, jobs.c.id)
        .join_from(items, jobs)
        .where(items.c.status == sa.text("'running'"), items.c.holder == holder)
    )
    return [
        Claimed(
            job=row.id,
            number=row.job,
            n=row.n,
            seed=row.seed,
            take=row.take,
            owner=row.owner,
            work={},
            tries=row.tries,
            claim=row.claims,
        )
        for row in connection.execute(query)
    ]


def leases_of_others(connection: sa.Connection, holder: str) -> Mapping[str, float]:
    """Until when, as they say, all others hold what they hold."""
    query = (
        sa.select(items.c.holder, sa.func.max(items.c.lease_until))
        .where(items.c.status == sa.text("'running'"), items.c.holder != holder)
        .group_by(items.c.holder)
    )
    return {name: until or 0.0 for name, until in connection.execute(query)}


def refusing_engines(connection: sa.Connection, claimed: Claimed) -> frozenset[str]:
    """Names of the engines that have refused an item."""
    query = sa.select(refusals.c.engine).where(
        refusals.c.job == claimed.number, refusals.c.n == claimed.n
    )
    return frozenset(connection.scalars(query))


ENGINES: Final = "engines/"
"""What the names begin with under which each Studio remembers what engines it has."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """What a Studio says of itself while it runs.

    Attributes:
        engines: names of those that it has.
        at: Unix time at which it said so, by its own clock.
    """

    engines: frozenset[str]
    at: float

    def document(self) -> Mapping[str, Any]:
        """As it is remembered."""
        return {"engines": sorted(self.engines), "at": self.at}


def attendance_of_others(connection: sa.Connection, holder: str) -> Mapping[str, Attendance]:
    """What the other Studios on this queue said last of themselves."""
    query = sa.select(state.c.name, state.c.value).where(state.c.name.startswith(ENGINES))
    found: dict[str, Attendance] = {}
    for name, value in connection.execute(query):
        document = json.loads(value)
        other = name.removeprefix(ENGINES)
        if other != holder and isinstance(document, dict):
            engines = frozenset(map(str, document.get("engines", ())))
            found[other] = Attendance(engines, float(document.get("at", 0.0)))
    return found


@dataclass(slots=True)
class LeaseWatch:
    """Watches whether the others go on renewing their leases (pure).

    Args:
        lease: seconds of silence after which somebody counts as gone.
        gap: seconds between two looks after which nothing is concluded from the first: nobody
            could renew a lease while the database was away.
    """

    lease: float
    gap: float
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    _last: float | None = None

    def silent(self, leases: Mapping[str, float], now: float) -> list[str]:
        """Who holds something and has said nothing for a whole lease.

        Args:
            leases: of the others, as they stand in the database.
            now: steady seconds.
        """
        if self._last is None or now - self._last > self.gap:
            self._seen = {}
        self._last = now
        self._seen = {
            name: seen
            if (seen := self._seen.get(name)) is not None and seen[0] == until
            else (until, now)
            for name, until in leases.items()
        }
        return [name for name, (_, since) in self._seen.items() if now - since >= self.lease]
