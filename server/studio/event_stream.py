"""What happens to jobs, as server-sent events: for programs that speak HTTP alone.

    GET /api/jobs/{id}/events   one job's, until it has come to its end
    GET /api/events             all of a member's, and the queue

Each event has its id, so that whoever comes again says with `Last-Event-ID` (or `?after=…`)
which one it heard last.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

from cache.encoding import json_text
from cache.untrusted import whole_number
from generator.sse import EventStream, sse_event, with_heartbeat
from server.core.refusal import Refused
from server.studio.feed import FINAL_EVENTS, Feed, FeedMessage, reset_message, until_refused

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent."""

_LAST: Final = 10**18 - 1

Check = Callable[[], Awaitable[object]]
"""Raises `Refused` where a member is none any more; asked every few seconds."""


def last_event_of(connection: HTTPConnection) -> int | None:
    """Which event a caller heard last, as it says; None where it says nothing.

    Raises:
        Refused: `bad_request`: what it says is no event's id.
    """
    # The header first: a browser that comes again asks the same address, with a newer header.
    text = connection.headers.get("last-event-id") or connection.query_params.get("after")
    if text is None:
        return None
    number = whole_number(text, 0, _LAST)
    if number is None:
        raise Refused("bad_request", "Last-Event-ID, after: expected the id of an event")
    return number


async def job_events(
    feed: Feed,
    member: str,
    job: str,
    after: int | None,
    check: Check,
    *,
    heartbeat: float = HEARTBEAT,
) -> Response:
    """What happens to a job, until it has come to its end.

    Args:
        feed: what is told.
        member: id of the member who asks, and whose job it is.
        job: its id.
        after: id of the event that was heard last; None for all that has happened to it.
        check: see `Check`.
        heartbeat: seconds of silence after which a comment is sent.

    Raises:
        TooManyListeners: there is no room.
        DatabaseError: it cannot be told.
    """
    if after is not None and await feed.is_over(job, after):
        return Response(status_code=204)  # a browser would else come again and again
    return _stream(feed, member, _until_over(feed, member, job, after), check, heartbeat)


async def member_events(
    feed: Feed,
    member: str,
    after: int | None,
    check: Check,
    *,
    heartbeat: float = HEARTBEAT,
) -> Response:
    """What happens to all of a member's jobs, from now on or after an event.

    The first message is `welcome`: all that happens after its `last_event` follows.

    Args:
        feed: what is told.
        member: the member's id.
        after: id of the event that was heard last; None for what happens from now on.
        check: see `Check`.
        heartbeat: seconds of silence after which a comment is sent.

    Raises:
        TooManyListeners: there is no room.
    """
    return _stream(feed, member, _for_ever(feed, member, after), check, heartbeat)


def _stream(
    feed: Feed,
    member: str,
    messages: AsyncGenerator[bytes, None],
    check: Check,
    heartbeat: float,
) -> Response:
    feed.check_room(member)  # while it can still be answered
    return EventStream(with_heartbeat(messages, heartbeat, partial(until_refused, check)))


async def _for_ever(feed: Feed, member: str, after: int | None) -> AsyncGenerator[bytes, None]:
    async with feed.listen(member, after=after) as listener:
        begun = {"type": "welcome", "last_event": listener.position}
        yield sse_event("welcome", json_text(begun, place="studio"), listener.position)
        async for message in listener:
            yield _encoded(message)


async def _until_over(
    feed: Feed, member: str, job: str, after: int | None
) -> AsyncGenerator[bytes, None]:
    async with feed.listen(member, job=job, after=after) as listener:
        if await feed.is_over(job, listener.position):  # and nobody knows any more how
            yield _encoded(reset_message(listener.position))
            return
        async for message in listener:
            yield _encoded(message)
            may_be_over = message.event in FINAL_EVENTS or message.type == "reset"
            # Of an earlier attempt, it is not the end.
            if may_be_over and await feed.is_over(job, message.id or 0):
                return


def _encoded(message: FeedMessage) -> bytes:
    return sse_event(message.type, message.text, message.id)
