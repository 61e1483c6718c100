"""Sends what is due to webhooks, for as long as it runs.

Each delivery is sent by a task of its own: whoever is slow holds up nobody but itself. What comes
of a try is written down before the next thing is done with that delivery, and never before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

import anyio
import httpx
import structlog

from cache.outgoing import reason_of, redacted
from cache.tasks import first_of
from cache.untrusted import one_line
from generator.guarded_outgoing import BriefAnswer, tell
from generator.jobs.database import DatabaseError, DatabaseFull, DatabaseUnavailable
from generator.jobs.model import Item, Job
from generator.outgoing import Client
from server.studio.hooks.deliveries import DeliveryQueue, DueDelivery
from server.studio.hooks.messages import (
    SCHEDULE,
    HookImage,
    body_of,
    headers_of,
    rest_after,
    seconds_to_wait,
    told_items,
)

_log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
"""Deliveries that are sent beside each other."""

_COMPOSED_WITHIN: Final = 60.0
_NOT_COMPOSED_REST: Final = 60.0
_LONGEST_NOT_COMPOSED_REST: Final = 6 * 3600.0
_GIVEN_UP_AFTER: Final = 4 * 86400.0
"""Seconds after which a message that never could be composed is given up."""

_TOGETHER: Final = 0.2
"""Seconds for which more is waited for before it is looked: each step of each job is a change."""

_LOOK_AGAIN: Final = 1.0
"""Seconds after which a database is looked at again that others may write to."""

_LOOK_AGAIN_ANYHOW: Final = 10.0
_SWEEP_EVERY: Final = 3600.0
_MOST_SAID: Final = 200

_MAY_PASS: Final = (DatabaseUnavailable, DatabaseFull)
"""What is no fault of ours, and mends without us."""


@dataclass(eq=False)
class HookSender:
    """Works the deliveries off.

    Args:
        queue: the deliveries.
        client: see `guarded_client`.
        job_of: a job by its id; None where it is no more.
        pictures_of: the pictures of some items of a job, all ready. It may raise whatever
            it likes: the message is composed later then.
        wall: Unix time.
        sleep: how to wait.
        chance: from 0 to 1, for the jitter.
        schedule: see `SCHEDULE`.
    """

    queue: DeliveryQueue
    client: Client
    job_of: Callable[[str], Awaitable[Job | None]]
    pictures_of: Callable[[Job, Sequence[Item]], Awaitable[Sequence[HookImage]]]
    _: KW_ONLY
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep
    chance: Callable[[], float] = random.random
    schedule: Sequence[float] = SCHEDULE
    _sending: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _interrupted: bool = field(default=False, init=False)

    def nudge(self) -> None:
        """Something has happened, or is to be sent again: look now."""
        self._changed.set()

    async def run(self) -> None:
        """Send until cancelled; then what was being sent is left to whoever comes next.

        Where the database is away, or full, it looks again until it is not.

        Raises:
            DatabaseError: the deliveries cannot be read or written for another reason.
        """
        await self.queue.release()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_sweeping(), name="webhook sweep")
                while True:
                    self._changed.clear()  # before looking: what comes meanwhile is seen next
                    try:
                        rest = await self._look(group)
                    except _MAY_PASS as error:
                        rest = self._interrupted_by(error)
                    await first_of(self._changed.wait(), self.sleep(rest))
                    await self.sleep(_TOGETHER)
        finally:
            # Where the database is away, its leases run out by themselves.
            with anyio.CancelScope(shield=True), suppress(DatabaseError):
                await self.queue.release()

    async def _look(self, group: asyncio.TaskGroup) -> float:
        """Begin to send what is due; seconds until it is to be looked again."""
        now = self.wall()
        while await self.queue.take_note(now):
            pass
        for due in await self.queue.claim(now, AT_ONCE - len(self._sending)):
            task = group.create_task(self._send(due), name=f"webhook {due.id}")
            self._sending.add(task)
            task.add_done_callback(self._sent)
        rest = await self._rest_after(now)
        if self._interrupted:
            self._interrupted = False
            _log.info("webhooks_resumed")
        return rest

    def _interrupted_by(self, error: DatabaseError) -> float:
        """Seconds until the database is tried again."""
        if not self._interrupted:
            self._interrupted = True
            _log.warning("webhooks_interrupted", reason=str(error))
        return _LOOK_AGAIN

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self.nudge()

    async def _rest_after(self, now: float) -> float:
        """Seconds until something is due after `now`, or may have been made due by others.

        What was due already waits for its host, and what is being sent there wakes us.
        """
        longest = _LOOK_AGAIN if self.queue.database.is_shared else _LOOK_AGAIN_ANYHOW
        due = await self.queue.next_due(now)
        return longest if due is None else min(longest, max(0.0, due - self.wall()))

    async def _keep_sweeping(self) -> None:
        while True:
            with suppress(*_MAY_PASS):  # what is old can wait an hour more
                await self.queue.sweep(self.wall())
            await self.sleep(_SWEEP_EVERY)

    # ------------------------------------------------------------ one delivery

    async def _send(self, due: DueDelivery) -> None:
        try:
            await self._try(due)
        except _MAY_PASS as error:
            # It stays ours until its lease runs out, and is then sent again under the same id.
            _log.warning("webhook_not_noted", **_which(due), reason=str(error))

    async def _try(self, due: DueDelivery) -> None:
        body = due.body or await self._compose(due)
        if body is None:
            return
        headers = headers_of(due.id, body, self.wall(), due.keys)
        try:
            answer = await tell(self.client, due.url, body.encode(), headers)
        except httpx.HTTPError as error:
            await self._failed(due, None, reason_of(error, due.url), None)
            return
        said = _said(answer)
        now = self.wall()
        if httpx.codes.is_success(answer.status):
            await self.queue.delivered(due, now, answer.status, said)
            _log.info("webhook_delivered", **_which(due), status=answer.status)
        elif answer.status == httpx.codes.GONE:
            await self.queue.gone(due, now, answer.status, said)
        else:
            wait = seconds_to_wait(answer.status, answer.headers.get("retry-after"), now)
            await self._failed(due, answer.status, said, wait)

    async def _compose(self, due: DueDelivery) -> str | None:
        """What is sent from now on; None where it could not be said yet."""
        try:
            async with asyncio.timeout(_COMPOSED_WITHIN):
                body = await self._body(due)
        except Exception as error:  # noqa: BLE001 - one message never stops all the others
            await self._not_composed(due, error)
            return None
        await self.queue.keep_body(due, body)
        return body

    async def _body(self, due: DueDelivery) -> str:
        job = await self.job_of(due.happened.job)
        if job is None:
            raise LookupError("the job is no more")
        wanted = told_items(due.happened, job)
        return body_of(due.happened, job, await self.pictures_of(job, wanted))

    async def _not_composed(self, due: DueDelivery, error: Exception) -> None:
        now = self.wall()
        age = now - due.created_at
        _log.warning("webhook_not_composed", **_which(due), exc_info=error)
        if age > _GIVEN_UP_AFTER:
            text = "not sent: what it is about cannot be read"
            await self.queue.failed(due, now, None, text, next_at=None)
        else:  # that is no try, and each time it rests for as long as it has been waiting
            rest = min(max(age, _NOT_COMPOSED_REST), _LONGEST_NOT_COMPOSED_REST)
            await self.queue.put_back(due, now + rest)

    async def _failed(
        self, due: DueDelivery, status: int | None, said: str, wait: float | None
    ) -> None:
        now = self.wall()
        rest = rest_after(due.tries + 1, self.chance(), wait, self.schedule)
        await self.queue.failed(
            due,
            now,
            status,
            one_line(said, _MOST_SAID),
            next_at=None if rest is None else now + rest,
            quiet_until=None if wait is None else now + wait,
        )
        _log.info(
            "webhook_not_delivered",
            **_which(due),
            status=status,
            reason=one_line(said, _MOST_SAID),
            again_in=rest,
        )


def _said(answer: BriefAnswer) -> str:
    """What an answer says, in one line; what is packed is only named."""
    if answer.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        return "(an answer in compressed form)"
    return one_line(answer.beginning[: 4 * _MOST_SAID].decode(errors="replace"), _MOST_SAID)


def _which(due: DueDelivery) -> dict[str, object]:
    return {
        "delivery": due.id,
        "hook": due.hook,
        "url": redacted(due.url),
        "event_type": due.happened.type,
        "tries": due.tries + 1,
    }
