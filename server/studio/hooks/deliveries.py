"""Deliveries: one of each event for each hook that wants to be told, and what became of it.

They are made out of the events as those were written, behind a mark that says how far that is;
mark and deliveries are one transaction. So whenever a process dies, what had happened is told
by the next one. Whoever sends a delivery holds it on a lease, and several Studios on one database
share them. What is sent twice, because nobody could write down that it had arrived, has the same
id both times.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
import structlog
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql, sqlite

from cache.outgoing import redacted
from generator.guarded_outgoing import NOWHERE_ELSE, Reach
from generator.jobs.database import Database
from generator.jobs.hook_tables import deliveries, webhooks
from generator.jobs.model import ENDED
from generator.jobs.schema import events, jobs, members, state
from server.studio.hooks.messages import Happening, message_id
from server.studio.hooks.registration import BadHook, NewHook, checked_hook
from server.studio.hooks.webhooks import hook_row

_log = structlog.get_logger(__name__)

LEASE: Final = 120.0
"""Seconds after which what a Studio was sending is anybody's to send."""

AT_ONCE_PER_HOST: Final = 2
MAX_WAITING: Final = 10_000
"""Deliveries that may wait for one hook. One that is so far behind is disabled."""

MAX_KEPT: Final = 10_000
"""Deliveries of one hook that are remembered after they ended."""

KEPT_FOR: Final = 30 * 86400.0
"""Seconds for which a delivery that ended is remembered, and a job's hook after its job."""

_EVENTS_AT_ONCE: Final = 500
_MARK: Final = "webhooks_told_up_to"
_JOB_HOOKS: Final = uuid.UUID("9d0a0c0e-0c53-5b0f-8f0c-6d3c8d2f4a11")


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """Something that is to be sent now, by whoever claimed it.

    Attributes:
        id: of the message.
        hook: id of the hook.
        url: whom to tell.
        happened: what to tell of.
        body: what was sent at the first try, None where there was none yet.
        keys: secrets that sign.
        tries: how many there were.
        created_at: Unix time.
    """

    id: str
    hook: str
    url: str
    happened: Happening
    body: str | None
    keys: tuple[SecretStr, ...]
    tries: int
    created_at: float


@dataclass(frozen=True, slots=True)
class DeliveryQueue:
    """What is to be sent, as one Studio works it off.

    Args:
        database: where it is.
        holder: this Studio's own name, for its leases.
        reach: `[studio] hooks_may_reach`, for hooks that come with a job.
    """

    database: Database
    holder: str
    reach: Reach = NOWHERE_ELSE

    async def take_note(self, now: float) -> int:
        """Make deliveries of what has happened; how many events were looked at.

        It looks at a bounded number: zero says that there are no more.

        Raises:
            DatabaseError: none were made; they will be.
        """
        if not await self.database.read(_is_behind):
            return 0
        return await self.database.write(lambda connection: _take_note(connection, self.reach, now))

    async def claim(self, now: float, most: int) -> list[DueDelivery]:
        """Take on what is due: the longest due first, few at once of any one host."""
        due = sa.select(deliveries.c.id).where(_is_free(now), deliveries.c.next_at <= now).limit(1)
        if most <= 0 or await self.database.read(lambda connection: connection.scalar(due)) is None:
            return []
        return await self.database.write(
            lambda connection: _claim_due(connection, self.holder, now, most)
        )

    async def next_due(self, now: float) -> float | None:
        """When the next thing is due after `now`; None where nothing is."""
        later = _is_free(now) & (deliveries.c.next_at > now)
        query = sa.select(sa.func.min(deliveries.c.next_at)).where(later)
        return await self.database.read(lambda connection: connection.scalar(query))

    async def keep_body(self, due: DueDelivery, body: str) -> None:
        """Remember what is sent, so that each try sends the same."""
        keep = sa.update(deliveries).where(self._held(due)).values(body=body)
        await self.database.write(lambda connection: connection.execute(keep))

    async def delivered(self, due: DueDelivery, now: float, status: int, answer: str) -> None:
        """It has arrived."""

        def settle(connection: sa.Connection) -> None:
            self._settle(
                connection, due, status="delivered", ended_at=now, next_at=None,
                answer_status=status, answer=answer, tries=due.tries + 1,
            )  # fmt: skip
            well = sa.update(webhooks).where(
                webhooks.c.id == due.hook, webhooks.c.status == "failing"
            )
            connection.execute(well.values(status="active", problem=None))

        await self.database.write(settle)

    async def failed(
        self,
        due: DueDelivery,
        now: float,
        status: int | None,
        answer: str,
        *,
        next_at: float | None,
        quiet_until: float | None = None,
    ) -> None:
        """A try came to nothing.

        Args:
            due: what was sent.
            now: Unix time.
            status: of the answer, None where none came.
            answer: what it said, or why there was none.
            next_at: Unix time of the next try; None where this was the last, and the hook fails.
            quiet_until: Unix time before which the hook is to be told nothing at all.
        """

        def settle(connection: sa.Connection) -> None:
            told: dict[str, Any] = {"status": "waiting", "next_at": next_at}
            if next_at is None:
                told = {"status": "failed", "next_at": None, "ended_at": now}
            held = self._settle(
                connection, due, answer_status=status, answer=answer, tries=due.tries + 1, **told
            )
            if held and next_at is None:
                fails = sa.update(webhooks).where(
                    webhooks.c.id == due.hook, webhooks.c.status == "active"
                )
                problem = f"not told of {due.happened.type} in {due.tries + 1} tries: {answer}"
                connection.execute(fails.values(status="failing", problem=problem))
            if quiet_until is not None:
                early = (deliveries.c.webhook == due.hook) & (deliveries.c.next_at < quiet_until)
                connection.execute(
                    sa.update(deliveries).where(early, _waits()).values(next_at=quiet_until)
                )

        await self.database.write(settle)

    async def gone(self, due: DueDelivery, now: float, status: int, answer: str) -> None:
        """Whoever was told wants to be told no more: the hook is disabled."""

        def settle(connection: sa.Connection) -> None:
            self._settle(
                connection, due, status="failed", ended_at=now, next_at=None,
                answer_status=status, answer=answer, tries=due.tries + 1,
            )  # fmt: skip
            _disable(connection, due.hook, f"it answered {status}: it is gone", now)

        await self.database.write(settle)

    async def put_back(self, due: DueDelivery, next_at: float) -> None:
        """It could not be sent for a reason of our own: later, and this was no try."""
        await self.database.write(lambda connection: self._settle(connection, due, next_at=next_at))

    async def release(self) -> None:
        """Leave to others all that we hold: as we begin, what we held when we died."""
        mine = _waits() & (deliveries.c.holder == self.holder)
        free = sa.update(deliveries).where(mine).values(holder=None, lease_until=None)
        await self.database.write(lambda connection: connection.execute(free))

    async def sweep(self, now: float) -> None:
        """Forget what is old, and what is too much to be remembered."""
        await self.database.write(lambda connection: _sweep(connection, now))

    def _held(self, due: DueDelivery) -> sa.ColumnElement[bool]:
        return (deliveries.c.id == due.id) & _waits() & (deliveries.c.holder == self.holder)

    def _settle(self, connection: sa.Connection, due: DueDelivery, **values: object) -> bool:
        """Let go of a delivery; False where it is no longer ours."""
        update = sa.update(deliveries).where(self._held(due))
        done = connection.execute(update.values(holder=None, lease_until=None, **values))
        return bool(done.rowcount)


# ---------------------------------------------------------------- transactions


def _waits() -> sa.ColumnElement[bool]:
    return deliveries.c.status == sa.text("'waiting'")


def _is_free(now: float) -> sa.ColumnElement[bool]:
    """Whether a delivery waits, and nobody is sending it."""
    return _waits() & (deliveries.c.holder.is_(None) | (deliveries.c.lease_until < now))


def _is_member(owner: str | sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether whoever has a hook is a member still: others are told nothing any more."""
    return (members.c.id == owner) & members.c.removed_at.is_(None)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:  # noqa: ANN401 - one of two dialects'
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _is_behind(connection: sa.Connection) -> bool:
    mark = connection.scalar(sa.select(state.c.value).where(state.c.name == _MARK))
    return (connection.scalar(sa.select(sa.func.max(events.c.id))) or 0) > int(mark or 0)


def _take_note(connection: sa.Connection, reach: Reach, now: float) -> int:
    connection.execute(_insert(connection, state).values(name=_MARK, value="0"))
    # Locked: of two Studios, one takes note at a time, and the other goes on behind it.
    mark = sa.select(state.c.value).where(state.c.name == _MARK).with_for_update()
    told = int(connection.scalars(mark).one())
    happened = connection.execute(
        sa.select(events).where(events.c.id > told).order_by(events.c.id).limit(_EVENTS_AT_ONCE)
    ).all()
    if not happened:
        return 0
    _add_hooks_of_jobs(connection, happened, reach, now)
    made = _deliveries_of(connection, happened, now)
    if made:
        connection.execute(_insert(connection, deliveries), made)
    _disable_who_is_behind(connection, {row["webhook"] for row in made}, now)
    last = happened[-1].id
    connection.execute(sa.update(state).where(state.c.name == _MARK).values(value=str(last)))
    return len(happened)


def _deliveries_of(
    connection: sa.Connection, happened: Sequence[sa.Row[Any]], now: float
) -> list[dict[str, Any]]:
    by_owner: dict[str, list[sa.Row[Any]]] = {}
    for event in happened:
        by_owner.setdefault(event.owner, []).append(event)
    hooks = (
        sa.select(webhooks)
        .where(
            webhooks.c.owner.in_(by_owner),
            sa.exists().where(_is_member(webhooks.c.owner)),
            webhooks.c.status != "disabled",
            webhooks.c.job.is_(None) | webhooks.c.job.in_({row.job for row in happened}),
        )
        .with_for_update(read=True, key_share=True)  # none is deleted in between
    )
    made: list[dict[str, Any]] = []
    for hook in connection.execute(hooks).all():
        wanted = frozenset(json.loads(hook.events))
        made += [
            _new_delivery(hook, event, now)
            for event in by_owner[hook.owner]
            if event.type in wanted
            and event.id > hook.after_event
            and hook.job in {None, event.job}
        ]
    return made


def _new_delivery(hook: sa.Row[Any], event: sa.Row[Any], now: float) -> dict[str, Any]:
    return {
        "id": message_id(hook.id, event.id),
        "webhook": hook.id,
        "event": event.id,
        "type": event.type,
        "job": event.job,
        "at": event.at,
        "data": event.data,
        "host": hook.host,
        "status": "waiting",
        "next_at": now,
        "created_at": now,
    }


def _add_hooks_of_jobs(
    connection: sa.Connection, happened: Sequence[sa.Row[Any]], reach: Reach, now: float
) -> None:
    """Keep the hooks that came with jobs, which are part of what was asked for.

    So a job and its hook are accepted in one, and nothing is lost between the two.
    """
    accepted = {row.job: row.id for row in happened if row.type == "job.queued"}
    if not accepted:
        return
    query = sa.select(jobs.c.id, jobs.c.owner, jobs.c.request).where(
        jobs.c.id.in_(accepted), jobs.c.request.contains('"hook"')
    )
    for row in connection.execute(query).all():
        document = json.loads(row.request).get("hook")
        if document is None:
            continue
        new = _hook_of_job(row.id, document, reach)
        if new is not None:
            hook = str(uuid.uuid5(_JOB_HOOKS, row.id))
            values = hook_row(
                new, hook=hook, owner=row.owner, job=row.id, after=accepted[row.id] - 1, now=now
            )
            connection.execute(_insert(connection, webhooks).values(values))


def _hook_of_job(job: str, document: object, reach: Reach) -> NewHook | None:
    try:
        return checked_hook(document, reach)
    except BadHook as error:  # the settings were other ones when it was accepted
        _log.warning("job_hook_refused", job=job, field=error.field, reason=str(error))
        return None


def _disable_who_is_behind(connection: sa.Connection, made: Iterable[str], now: float) -> None:
    for hook in made:
        count = sa.select(sa.func.count()).where(deliveries.c.webhook == hook, _waits())
        waiting = connection.scalar(count) or 0
        if waiting > MAX_WAITING:
            _disable(connection, hook, f"{waiting} deliveries waited for it", now)


def _disable(connection: sa.Connection, hook: str, problem: str, now: float) -> None:
    url = connection.scalar(
        sa.update(webhooks)
        .where(webhooks.c.id == hook)
        .values(status="disabled", problem=problem)
        .returning(webhooks.c.url)
    )
    if url is None:
        return  # deleted meanwhile
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.webhook == hook, _waits())
        .values(status="failed", answer=problem, next_at=None, ended_at=now, holder=None)
    )
    _log.warning("webhook_disabled", hook=hook, url=redacted(url), reason=problem)


def _claim_due(connection: sa.Connection, holder: str, now: float, most: int) -> list[DueDelivery]:
    sending = Counter(
        connection.scalars(
            sa.select(deliveries.c.host).where(
                _waits(), deliveries.c.holder.is_not(None), deliveries.c.lease_until >= now
            )
        )
    )
    claimed: list[DueDelivery] = []
    while len(claimed) < most:
        busy = [host for host, count in sending.items() if count >= AT_ONCE_PER_HOST]
        row = connection.execute(
            sa.select(deliveries)
            .where(_is_free(now), deliveries.c.next_at <= now, deliveries.c.host.not_in(busy))
            .order_by(deliveries.c.next_at, deliveries.c.event)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).first()
        if row is None:
            break
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id == row.id)
            .values(holder=holder, lease_until=now + LEASE)
        )
        hook = connection.execute(sa.select(webhooks).where(webhooks.c.id == row.webhook)).one()
        if connection.scalar(sa.select(members.c.id).where(_is_member(hook.owner))) is None:
            connection.execute(sa.delete(webhooks).where(webhooks.c.owner == hook.owner))
            continue  # the delivery went with it
        sending[row.host] += 1
        claimed.append(_due(row, hook, now))
    return claimed


def _due(row: sa.Row[Any], hook: sa.Row[Any], now: float) -> DueDelivery:
    keys = [hook.secret]
    if hook.old_secret is not None and now < hook.old_until:
        keys.append(hook.old_secret)
    return DueDelivery(
        id=row.id,
        hook=hook.id,
        url=hook.url,
        happened=Happening(row.type, row.at, row.job, json.loads(row.data)),
        body=row.body,
        keys=tuple(map(SecretStr, keys)),
        tries=row.tries,
        created_at=row.created_at,
    )


def _sweep(connection: sa.Connection, now: float) -> None:
    old = now - KEPT_FOR
    ended = deliveries.c.status != "waiting"
    connection.execute(sa.delete(deliveries).where(ended, deliveries.c.ended_at < old))
    many = (
        sa.select(deliveries.c.webhook)
        .where(ended)
        .group_by(deliveries.c.webhook)
        .having(sa.func.count() > MAX_KEPT)
    )
    for hook in connection.scalars(many).all():
        of_it = deliveries.c.webhook == hook
        newest_out = connection.scalar(
            sa.select(deliveries.c.event)
            .where(of_it, ended)
            .order_by(deliveries.c.event.desc())
            .offset(MAX_KEPT)
            .limit(1)
        )
        connection.execute(
            sa.delete(deliveries).where(of_it, ended, deliveries.c.event <= newest_out)
        )
    connection.execute(
        sa.update(webhooks)
        .where(webhooks.c.old_until <= now)
        .values(old_secret=None, old_until=None)
    )
    connection.execute(sa.delete(webhooks).where(~sa.exists().where(_is_member(webhooks.c.owner))))
    going_on = sa.exists().where(jobs.c.id == webhooks.c.job, jobs.c.status.not_in(ENDED))
    told_of = sa.exists().where(deliveries.c.webhook == webhooks.c.id)
    connection.execute(
        sa.delete(webhooks).where(
            webhooks.c.job.is_not(None), webhooks.c.created_at < old, ~going_on, ~told_of
        )
    )
