"""What happens to jobs, told to those who listen: each event once, in order, and to its owner.

The `events` table is followed, and what is new in it is encoded once and put into a log that all
who listen read at their own pace, each from where it stands. Nobody is waited for, and nobody has
a queue of its own that could grow: who falls behind what the log still has reads on in the table,
and who falls behind what the table still has is told to begin anew (`reset`).

    event   a row of the table: never left out, never told twice
    step    a picture of a drawing that goes on: the newest of each item, left out for slow readers
    queue   the whole queue as its member may see it: the newest
    reset   events were missed that nobody has any more: the state is to be fetched anew

While nobody listens, nothing is followed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Final, Literal, TypeVar

import sqlalchemy as sa
import structlog

from cache.backoff import back_off
from cache.encoding import json_text
from generator.engines.port import StepImage
from generator.jobs.database import DatabaseError
from generator.jobs.model import ENDED
from generator.jobs.schema import events, jobs
from generator.jobs.store import Claimed, EventsForgotten, EventType, JobEvent, JobStore
from server.core.refusal import Refused

_log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_SHARED: Final = 0.5
"""Seconds between two looks at a table that other Studios write to as well."""

POLL_ALONE: Final = 5.0
"""The same where nobody does: a command of somebody at the machine may, all the same."""

QUEUE_EVERY: Final = 0.3
"""Seconds between two looks at the queue, however much happens in it."""

MOST_LISTENERS: Final = 512
"""Connections at once."""

MOST_OF_ONE_MEMBER: Final = 128
"""Connections at once of one member: it keeps out nobody but itself."""

CHECK_EVERY: Final = 2.0
"""Seconds after which it is looked whether somebody may still listen."""

_LOG: Final = 4096
"""Events that the log has at least, once so many have happened: about a megabyte."""

_PAGE: Final = 500
"""Events that are read at once."""

_STEPS: Final = 64
"""Drawings of which a listener that does not read is kept the newest step."""

_FIRST_REST, _LONGEST_REST = 0.1, 5.0

FINAL_EVENTS: Final[frozenset[EventType]] = frozenset(
    {"job.completed", "job.failed", "job.cancelled"}
)
_NOT_DRAWN_ANY_MORE: Final[frozenset[EventType]] = frozenset(
    {"item.ready", "item.failed", "item.queued"}
)

QueueDocument = Callable[[str], Awaitable[Mapping[str, Any]]]
"""The queue as a member may see it, by the member's id."""


class TooManyListeners(Refused):
    """So many listen already that there is no room for another."""

    def __init__(self, message: str) -> None:
        super().__init__("too_many", message)


@dataclass(frozen=True, slots=True)
class FeedMessage:
    """Something that is told.

    Attributes:
        type: what kind of message it is.
        text: all of it, as JSON on one line.
        id: of an event, and of a reset: after which event it goes on. None for others.
        owner: id of the member who may hear it.
        job: id of its job, None where it is of none.
        event: what happened, None where it is no event.
        n: which item of the job it is about, None for none.
    """

    type: Literal["event", "step", "queue", "reset"]
    text: str
    id: int | None = None
    owner: str = ""
    job: str | None = None
    event: EventType | None = None
    n: int | None = None


def event_message(event: JobEvent) -> FeedMessage:
    """An event as it is told (pure)."""
    document = {
        "type": "event",
        "id": event.id,
        "event": event.type,
        "job": event.job,
        "at": event.at,
        "data": event.data,
    }
    n = event.data.get("n")
    return FeedMessage("event", _text(document), event.id, event.owner, event.job, event.type, n=n)


def step_message(claimed: Claimed, image: StepImage) -> FeedMessage:
    """A picture of a drawing as it is told: where it is to be had (pure)."""
    name = "final" if image.final else str(image.step)
    document = {
        "type": "step",
        "job": claimed.job,
        "n": claimed.n,
        "take": claimed.take,
        "step": image.step,
        "steps": image.steps,
        "url": f"/takes/{claimed.take}/{name}.jpg",
    }
    return FeedMessage("step", _text(document), owner=claimed.owner, job=claimed.job, n=claimed.n)


def reset_message(last_event: int) -> FeedMessage:
    """Events were missed: whoever hears it fetches the state anew (pure).

    Args:
        last_event: what happens after this one is told again.
    """
    return FeedMessage("reset", _text({"type": "reset", "last_event": last_event}), last_event)


def _text(document: Mapping[str, Any]) -> str:
    return json_text(document, place="feed")


class _EventLog:
    """The last events, in order: all of those after `floor`, up to `last` (pure)."""

    def __init__(self, last: int, most: int) -> None:
        self.floor = self.last = last
        self._most = most
        self._ids: list[int] = []
        self._messages: list[FeedMessage] = []

    def append(self, told: Iterable[JobEvent]) -> None:
        for event in told:
            self._ids.append(event.id)
            self._messages.append(event_message(event))
            self.last = event.id
        # Twice as many before half of them go: to cut off one at a time would move all each time.
        if len(self._ids) > 2 * self._most:
            over = len(self._ids) - self._most
            self.floor = self._ids[over - 1]
            del self._ids[:over]
            del self._messages[:over]

    def after(self, position: int) -> tuple[Sequence[FeedMessage], int]:
        """Some of what comes after an event, and up to which one that goes.

        Args:
            position: the event's id, not before `floor`.
        """
        first = bisect_right(self._ids, position)
        last = min(first + _PAGE, len(self._ids))
        return self._messages[first:last], self._ids[last - 1] if last > first else position


class Listener:
    """One who listens: where it stands, and what it is to be told next.

    It is an iterator of messages: it waits for the next one, and ends with the feed.

    Attributes:
        member: id of whose it is.
        job: id of the job that it is about, None for all of its member's.
        position: id of the event up to which all was told.
        read_to: id of the event up to which all is told once its mailbox is empty.
    """

    def __init__(
        self,
        member: str,
        job: str | None,
        refill: Callable[[Listener], Awaitable[bool]],
    ) -> None:
        self.member = member
        self.job = job
        self.position = self.read_to = 0
        self._refill = refill
        self._events: deque[FeedMessage] = deque()
        self._steps: dict[tuple[str | None, int | None], FeedMessage] = {}
        self._queue: FeedMessage | None = None
        self._queue_seen = ""
        self._ready = asyncio.Event()

    # ------------------------------------------------------------ the feed's side

    def begin(self, position: int) -> None:
        """Tell what comes after an event."""
        self.position = self.read_to = position

    def begin_anew(self, position: int) -> None:
        """Tell that events were missed, then what comes after this one."""
        self._events.append(reset_message(position))
        self._steps.clear()
        self.begin(position)

    def take(self, messages: Iterable[FeedMessage], read_to: int) -> bool:
        """Take on those of some events that are for it; whether there were any."""
        self._events.extend(message for message in messages if self.hears(message))
        self.read_to = read_to
        if not self._events:
            self.position = read_to
        return bool(self._events)

    def put_step(self, message: FeedMessage) -> None:
        """Leave a step in the place of an older one of the same item."""
        self._steps[message.job, message.n] = message
        if len(self._steps) > _STEPS:
            del self._steps[next(iter(self._steps))]
        self._ready.set()

    def put_queue(self, message: FeedMessage) -> None:
        """Leave the queue in the place of an older one, where it is another."""
        if message.text != self._queue_seen:
            self._queue, self._queue_seen = message, message.text
            self._ready.set()

    def wake(self) -> None:
        """There may be something to tell."""
        self._ready.set()

    def hears(self, message: FeedMessage) -> bool:
        """Whether an event or a step is for it."""
        return message.owner == self.member and self.job in {None, message.job}

    # ------------------------------------------------------------ the reader's side

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> FeedMessage:
        """The next message: events first, so that no step comes after what ended it."""
        while True:
            self._ready.clear()
            if not self._events and not await self._refill(self):
                raise StopAsyncIteration
            if self._events:
                return self._told(self._events.popleft())
            if self._queue is not None:
                message, self._queue = self._queue, None
                return message
            if self._steps:
                return self._steps.pop(next(iter(self._steps)))
            await self._ready.wait()

    def _told(self, message: FeedMessage) -> FeedMessage:
        # What follows the last one up to `read_to` is nobody's, or somebody else's.
        self.position = (message.id or 0) if self._events else self.read_to
        if message.event in _NOT_DRAWN_ANY_MORE:
            self._steps.pop((message.job, message.n), None)
        elif message.event in FINAL_EVENTS:
            for key in [key for key in self._steps if key[0] == message.job]:
                del self._steps[key]
        return message


@dataclass(eq=False)
class Feed:
    """Follows what happens to jobs and tells it; `run` is to be running meanwhile.

    Args:
        store: the jobs.
        queue: the queue's document, None where it is not told.
        poll: seconds between two looks at the table while nobody nudges; None for what suits it.
        log: events that are kept in memory, and up to twice as many.
        sleep: how to wait.
    """

    store: JobStore
    _: KW_ONLY
    queue: QueueDocument | None = None
    poll: float | None = None
    log: int = _LOG
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        if self.poll is None:
            self.poll = POLL_SHARED if self.store.database.is_shared else POLL_ALONE
        self._listeners: dict[str, list[Listener]] = {}
        self._going_on: dict[str, FeedMessage] = {}  # the newest step of each drawing, by take
        self._log: _EventLog | None = None
        self._changed = asyncio.Event()
        self._queue_changed = asyncio.Event()
        self._ended = False
        self._interrupted = False

    # ------------------------------------------------------------ what others ask of it

    @property
    def listeners(self) -> int:
        """How many listen."""
        return sum(map(len, self._listeners.values()))

    def nudge(self) -> None:
        """Something was written, or the queue has changed: look at once."""
        self._changed.set()
        self._queue_changed.set()

    def show_preview(self, claimed: Claimed, image: StepImage) -> None:
        """Tell of a picture of a drawing; it waits for nobody."""
        message = self._going_on[claimed.take] = step_message(claimed, image)
        for listener in self._listeners.get(claimed.owner, ()):
            if listener.hears(message):
                listener.put_step(message)

    def drawing_over(self, claimed: Claimed) -> None:
        """A drawing goes on no more, however it ended."""
        self._going_on.pop(claimed.take, None)

    def check_room(self, member: str) -> None:
        """Make sure that a member may listen once more.

        Raises:
            TooManyListeners: it may not.
        """
        if self.listeners >= MOST_LISTENERS:
            raise TooManyListeners(f"{MOST_LISTENERS} connections listen already")
        if len(self._listeners.get(member, ())) >= MOST_OF_ONE_MEMBER:
            raise TooManyListeners(f"{MOST_OF_ONE_MEMBER} connections of yours listen already")

    @asynccontextmanager
    async def listen(
        self, member: str, *, job: str | None = None, after: int | None = None
    ) -> AsyncIterator[Listener]:
        """Listen to what happens to a member's jobs.

        Args:
            member: its id.
            job: id of the one job that is meant, None for all.
            after: id of the event that was heard last. None for what happens from now on; of a
                job, for all that has happened to it.

        Raises:
            TooManyListeners: there is no room.
            DatabaseError: the events cannot be read.
        """
        self.check_room(member)
        listener = Listener(member, job, self._refill)
        # From here on the log has all that happens, so that nothing lies between what is read
        # below and what is followed.
        self._listeners.setdefault(member, []).append(listener)
        try:
            last = await self.store.last_event()
            if after is None:
                listener.begin(last if job is None else await self._before(job, last))
            elif after > last:  # of another database, or of one that was set back
                listener.begin_anew(last)
            else:
                listener.begin(after)
            for message in self._going_on.values():
                if listener.hears(message):
                    listener.put_step(message)
            self.nudge()
            yield listener
        finally:
            self._listeners[member].remove(listener)
            if not self._listeners[member]:
                del self._listeners[member]

    async def is_over(self, job: str, after: int) -> bool:
        """Whether a job has come to its end, and nothing happened to it after an event."""
        status = sa.select(jobs.c.status).where(jobs.c.id == job)
        later = sa.exists().where(events.c.job == job, events.c.id > after)

        def look(connection: sa.Connection) -> bool:
            # In this order: what is asked for once more between the two is seen by the second.
            return connection.scalar(status) in {None, *ENDED} and not connection.scalar(
                sa.select(later)
            )

        return await self.store.database.read(look)

    # ------------------------------------------------------------ the work itself

    async def run(self) -> None:
        """Follow what happens until cancelled; then everybody has heard enough."""
        self._ended = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="feed")
                if self.queue is not None:
                    group.create_task(self._tell_queue(self.queue), name="feed of the queue")
        finally:
            self.end()

    def end(self) -> None:
        """Have everybody's messages end: the server stops, and waits for those who listen."""
        self._ended = True
        self._wake(self._listeners)

    async def _follow(self) -> None:
        while True:
            if not self._listeners:
                self._log = None
            elif self._log is None:
                last = await self._patiently(self.store.last_event)
                self._log = _EventLog(last, self.log)
                self._wake(self._listeners)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._log is None else self.poll):
                    await self._changed.wait()
            self._changed.clear()
            while self._log is not None and await self._read_on(self._log):
                pass

    async def _read_on(self, log: _EventLog) -> bool:
        """Put the next events into the log; whether there may be more of them."""
        try:
            look = partial(self.store.events_after, log.last, limit=_PAGE)
            found = await self._patiently(look)
        except EventsForgotten as gone:  # so it is for everybody whom that log would have told
            self._log = _EventLog(gone.last, self.log)
            self._wake(self._listeners)
            return True
        if not found:
            return False
        log.append(found)
        self._wake({event.owner for event in found})
        self._queue_changed.set()
        return len(found) == _PAGE

    def _wake(self, members: Iterable[str]) -> None:
        for member in members:
            for listener in self._listeners.get(member, ()):
                listener.wake()

    async def _refill(self, listener: Listener) -> bool:
        """Hand a listener what comes after what it has read; False where nothing ever will."""
        if self._ended:
            return False
        log = self._log
        if log is None:
            return True  # it is woken once the table is followed
        while log.floor <= listener.read_to < log.last:
            if listener.take(*log.after(listener.read_to)):
                return True
        while listener.read_to < log.floor and not await self._reread(listener, log.last):
            pass
        return True

    async def _reread(self, listener: Listener, known: int) -> bool:
        """Hand a listener events out of the table; whether there were any for it.

        Args:
            listener: whose log has gone on without it.
            known: id of the last event that is known to have happened.
        """
        look = partial(
            self.store.events_after,
            listener.read_to,
            owner=listener.member,
            job=listener.job,
            limit=_PAGE,
        )
        try:
            found = await self._patiently(look)
        except EventsForgotten as gone:
            listener.begin_anew(gone.last)
            return True
        # A page that is not full goes up to what was known before it was read, and further.
        read_to = found[-1].id if found else listener.read_to
        if len(found) < _PAGE:
            read_to = max(read_to, known)
        return listener.take(map(event_message, found), read_to)

    async def _tell_queue(self, queue: QueueDocument) -> None:
        while True:
            await self._queue_changed.wait()
            self._queue_changed.clear()
            for member, listening in list(self._listeners.items()):
                if all(listener.job is not None for listener in listening):
                    continue
                document = await self._patiently(partial(queue, member))
                message = FeedMessage("queue", _text({"type": "queue", **document}), owner=member)
                for listener in listening:
                    if listener.job is None:
                        listener.put_queue(message)
            await self.sleep(QUEUE_EVERY)

    async def _patiently(self, look: Callable[[], Awaitable[T]]) -> T:
        """Look something up, again and again where the database cannot be read."""
        failures = 0
        while True:
            try:
                found = await look()
            except DatabaseError as error:
                failures += 1
                if not self._interrupted:
                    self._interrupted = True
                    _log.warning("feed_interrupted", reason=str(error))
                await self.sleep(back_off(failures, _FIRST_REST, _LONGEST_REST))
            else:
                if self._interrupted:
                    self._interrupted = False
                    _log.info("feed_resumed")
                return found

    async def _before(self, job: str, last: int) -> int:
        """Id of an event before all that is still known of a job; `last` where nothing is."""
        first = sa.select(sa.func.min(events.c.id)).where(events.c.job == job)
        found = await self.store.database.read(lambda connection: connection.scalar(first))
        return last if found is None else found - 1


async def until_refused(check: Callable[[], Awaitable[object]]) -> None:
    """Return once `check` refuses: somebody who listens may do so no longer.

    Args:
        check: raises `Refused`. Where it cannot tell, for want of a database, all stays as it is.
    """
    while True:
        await asyncio.sleep(CHECK_EVERY)
        try:
            await check()
        except Refused:
            return
        except DatabaseError:
            continue
