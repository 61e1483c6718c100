"""What a member does with webhooks: each sees and touches its own alone.

What is somebody else's is not there: it is looked up as what was never made is.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from pydantic import SecretStr

from generator.hook_secrets import new_secret
from generator.jobs.database import Database
from generator.jobs.hook_tables import deliveries, webhooks
from generator.jobs.schema import events, members
from generator.jobs.store import EventType
from server.studio.hooks.messages import BOTH_SIGN_FOR
from server.studio.hooks.registration import NewHook

MAX_HOOKS: Final = 20
"""Hooks that a member may have, beside those that came with a job."""

HookStatus = Literal["active", "failing", "disabled"]
DeliveryStatus = Literal["waiting", "delivered", "failed"]


class TooManyHooks(Exception):
    """A member has `MAX_HOOKS` already."""


@dataclass(frozen=True, slots=True)
class Hook:
    """An address that is told of events.

    Attributes:
        id: a UUID.
        owner: id of the member whose it is.
        job: the job that alone it is told of, None for all of its owner's.
        url: whom it tells.
        events: of what.
        status: ``failing`` once a delivery came to nothing for good, until one arrives;
            ``disabled`` where nothing is sent any more, until somebody asks for a redelivery.
        problem: why it is failing or disabled.
        created_at: Unix time.
        old_secret_until: Unix time until which the secret before this one signs as well.
    """

    id: str
    owner: str
    job: str | None
    url: str
    events: tuple[EventType, ...]
    status: HookStatus
    problem: str | None
    created_at: float
    old_secret_until: float | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """The telling of one event to one hook.

    Attributes:
        id: that of the message, the same at each try.
        event: number of the event; grows with time.
        type: what happened.
        job: to which job.
        status: what became of it so far.
        tries: how often it was sent.
        next_at: Unix time of the next try, None where there will be none.
        created_at, ended_at: Unix times; None for what is still to come.
        answer_status: of HTTP, of the last try; None where no answer came.
        answer: what was said, or why nothing was; in one line.
    """

    id: str
    event: int
    type: EventType
    job: str
    status: DeliveryStatus
    tries: int
    next_at: float | None
    created_at: float
    ended_at: float | None
    answer_status: int | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The hooks of all members.

    Args:
        database: where they are.
    """

    database: Database

    async def add(self, owner: str, new: NewHook, now: float) -> tuple[Hook, SecretStr]:
        """Keep a hook; it is told of what happens from now on.

        Returns:
            The hook, and its secret: whoever is to verify must be given it now.

        Raises:
            TooManyHooks: the member has as many as it may.
            LookupError: there is no such member.
            DatabaseError: it was not kept.
        """
        hook = await self.database.write(lambda connection: _add(connection, owner, new, now))
        return hook, new.secret

    async def of(self, owner: str, job: str | None = None) -> list[Hook]:
        """A member's hooks, the newest first.

        Args:
            owner: whose.
            job: those that came with that job; None for those that are told of every job.
        """
        mine = (webhooks.c.owner == owner) & webhooks.c.job.is_not_distinct_from(job)
        query = sa.select(webhooks).where(mine).order_by(webhooks.c.created_at.desc())
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [_hook(row) for row in rows]

    async def delete(self, owner: str, hook: str) -> None:
        """Forget a hook, and what it was told.

        Raises:
            LookupError: there is none.
            DatabaseError: it was not forgotten.
        """

        def forget(connection: sa.Connection) -> None:
            if not connection.execute(sa.delete(webhooks).where(_mine(owner, hook))).rowcount:
                raise LookupError("there is no such hook")

        await self.database.write(forget)

    async def rotate(self, owner: str, hook: str, now: float) -> SecretStr:
        """Give a hook another secret; for `BOTH_SIGN_FOR` the old one signs beside it.

        Raises:
            LookupError: there is none.
            DatabaseError: the secret is still the old one.
        """
        secret = new_secret()

        def change(connection: sa.Connection) -> None:
            changed = connection.execute(
                sa.update(webhooks)
                .where(_mine(owner, hook))
                .values(
                    old_secret=webhooks.c.secret,
                    old_until=now + BOTH_SIGN_FOR,
                    secret=secret.get_secret_value(),
                )
            )
            if not changed.rowcount:
                raise LookupError("there is no such hook")

        await self.database.write(change)
        return secret

    async def deliveries(
        self, owner: str, hook: str, *, before: str | None = None, limit: int = 50
    ) -> list[Delivery]:
        """What a hook was told, the newest first.

        Args:
            owner: whose hook.
            hook: its id.
            before: the id of the last delivery that is known already.
            limit: at most so many.

        Raises:
            LookupError: there is no such hook.
        """
        mine = deliveries.c.webhook == hook
        query = sa.select(deliveries).where(mine).order_by(deliveries.c.event.desc()).limit(limit)
        if before is not None:
            last = sa.select(deliveries.c.event).where(mine, deliveries.c.id == before)
            query = query.where(deliveries.c.event < last.scalar_subquery())

        def look(connection: sa.Connection) -> list[Delivery]:
            if connection.scalar(sa.select(webhooks.c.id).where(_mine(owner, hook))) is None:
                raise LookupError("there is no such hook")
            return [_delivery(row) for row in connection.execute(query)]

        return await self.database.read(look)

    async def redeliver(self, owner: str, hook: str, delivery: str, now: float) -> Delivery:
        """Send something once more, under the same id; the tries begin anew.

        A hook that was disabled is active again: somebody has said that it is there.

        Raises:
            LookupError: there is no such hook, or no such delivery of it.
            DatabaseError: it will not be sent.
        """

        def again(connection: sa.Connection) -> Delivery:
            wanted = (deliveries.c.id == delivery) & (deliveries.c.webhook == hook)
            row = connection.execute(
                sa.update(deliveries)
                .where(wanted, sa.exists().where(_mine(owner, hook)))
                .values(status="waiting", tries=0, next_at=now, ended_at=None, holder=None)
                .returning(*deliveries.c)
            ).first()
            if row is None:
                raise LookupError("there is no such delivery")
            connection.execute(
                sa.update(webhooks)
                .where(webhooks.c.id == hook, webhooks.c.status == "disabled")
                .values(status="active", problem=None)
            )
            return _delivery(row)

        return await self.database.write(again)


def _add(connection: sa.Connection, owner: str, new: NewHook, now: float) -> Hook:
    # Locked, so that two who ask at once do not both find room for one.
    member = sa.select(members.c.id).where(members.c.id == owner, members.c.removed_at.is_(None))
    if connection.scalar(member.with_for_update()) is None:
        raise LookupError("there is no such member")
    count = sa.select(sa.func.count()).where(webhooks.c.owner == owner, webhooks.c.job.is_(None))
    if (connection.scalar(count) or 0) >= MAX_HOOKS:
        raise TooManyHooks(f"expected {MAX_HOOKS} hooks at most; delete one first")
    last = connection.scalar(sa.select(sa.func.max(events.c.id))) or 0
    values = hook_row(new, hook=str(uuid.uuid4()), owner=owner, job=None, after=last, now=now)
    return _hook(
        connection.execute(sa.insert(webhooks).values(values).returning(*webhooks.c)).one()
    )


def hook_row(
    new: NewHook, *, hook: str, owner: str, job: str | None, after: int, now: float
) -> dict[str, Any]:
    """A row for a new hook, that is told of what happens after an event."""
    return {
        "id": hook,
        "owner": owner,
        "job": job,
        "url": new.url,
        "host": new.host,
        "events": json.dumps(new.events),
        "secret": new.secret.get_secret_value(),
        "status": "active",
        "after_event": after,
        "created_at": now,
    }


def _mine(owner: str, hook: str) -> sa.ColumnElement[bool]:
    return (webhooks.c.id == hook) & (webhooks.c.owner == owner)


def _hook(row: sa.Row[Any]) -> Hook:
    return Hook(
        id=row.id,
        owner=row.owner,
        job=row.job,
        url=row.url,
        events=tuple(json.loads(row.events)),
        status=row.status,
        problem=row.problem,
        created_at=row.created_at,
        old_secret_until=row.old_until,
    )


def _delivery(row: sa.Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        event=row.event,
        type=row.type,
        job=row.job,
        status=row.status,
        tries=row.tries,
        next_at=row.next_at,
        created_at=row.created_at,
        ended_at=row.ended_at,
        answer_status=row.answer_status,
        answer=row.answer,
    )
