"""What is sent to a webhook, signed how, and tried again when (pure; the Standard Webhooks)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, get_args

from pydantic import SecretStr
from standardwebhooks import Webhook

from cache.encoding import json_text
from generator.jobs.model import Item, Job
from generator.jobs.store import EventType

EVENT_TYPES: Final[frozenset[EventType]] = frozenset(get_args(EventType))
USUAL_EVENTS: Final[tuple[EventType, ...]] = ("job.completed", "job.failed", "job.cancelled")
"""What a hook is told of that names no events: how a job ended."""

_HOUR: Final = 3600.0
SCHEDULE: Final = (
    *(0.0, 5.0, 300.0, 1800.0, 2 * _HOUR, 5 * _HOUR),
    *(10 * _HOUR, 14 * _HOUR, 20 * _HOUR, 24 * _HOUR),
)
"""Seconds before each try, counted from the one before: ten of them over three days."""

LONGEST_REST: Final = 24 * _HOUR
"""Seconds beyond which nobody may put off the next try."""

BOTH_SIGN_FOR: Final = 24 * _HOUR
"""Seconds for which, after a secret was changed, the old one signs as well."""

_JITTER: Final = 0.1
_MESSAGES: Final = uuid.UUID("2f1f6c1a-3c55-5e0e-9c53-0a3f5d0a1d57")
_TOLD_AT_THE_END: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})
_STATUS_OF: Final[Mapping[str, str]] = {"queued": "queued", "started": "processing"}


@dataclass(frozen=True, slots=True)
class HookImage:
    """A picture that a message tells of.

    Attributes:
        n: its place in the job.
        take: id of its take.
        seed: of it.
        url: where it can be had without a token, for a while.
        sha256: of its bytes, hexadecimal.
    """

    n: int
    take: str
    seed: int
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Happening:
    """An event, as a delivery keeps it.

    Attributes:
        type: what happened.
        at: Unix time.
        job: id of the job that it happened to.
        data: more of it.
    """

    type: EventType
    at: float
    job: str
    data: Mapping[str, Any]


def message_id(hook: str, event: int) -> str:
    """The id under which a hook is told of an event, however often that is tried."""
    return f"msg_{uuid.uuid5(_MESSAGES, f'{hook}/{event}').hex}"


def told_items(happened: Happening, job: Job) -> Sequence[Item]:
    """The items of a job whose pictures an event tells of: those that are ready by then (pure)."""
    ready = [item for item in job.items if item.status == "ready"]
    if happened.type.startswith("item."):
        return [item for item in ready if item.n == happened.data.get("n")]
    return ready if happened.type in _TOLD_AT_THE_END else []


def body_of(happened: Happening, job: Job, images: Sequence[HookImage]) -> str:
    """What is sent of an event.

    Args:
        happened: the event.
        job: whose event, as it is now: it may have gone on since.
        images: of those of its items that are ready.
    """
    ours, _, what = happened.type.partition(".")
    data: dict[str, Any] = {"job": job.id, "status": job.status, "partial": job.partial}
    pieces = job.items
    if ours == "job":
        data["status"] = _STATUS_OF.get(what, what)
        data["partial"] = bool(happened.data.get("partial", False))
    else:
        n = happened.data.get("n")
        data["item"] = n
        pieces = tuple(item for item in pieces if item.n == n)
        images = [image for image in images if image.n == n]
    data["images"] = [asdict(image) for image in images]
    data["errors"] = [
        {"n": item.n, "code": item.problem.code, "message": item.problem.message}
        for item in pieces
        if item.status == "failed" and item.problem is not None
    ]
    at = datetime.fromtimestamp(happened.at, UTC).isoformat(timespec="milliseconds")
    message = {"type": happened.type, "timestamp": at.replace("+00:00", "Z"), "data": data}
    return json_text(message, place="webhook")


def headers_of(message: str, body: str, now: float, keys: Sequence[SecretStr]) -> dict[str, str]:
    """The headers of one try.

    Args:
        message: see `message_id`.
        body: see `body_of`.
        now: Unix time; a receiver refuses what is older than five minutes.
        keys: secrets, each of which signs.
    """
    at = datetime.fromtimestamp(int(now), UTC)
    signatures = [Webhook(key.get_secret_value()).sign(message, at, body) for key in keys]
    return {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(signatures),
    }


def rest_after(
    tries: int, chance: float, retry_after: float | None, schedule: Sequence[float] = SCHEDULE
) -> float | None:
    """Seconds until the next try; None where there is to be none.

    Args:
        tries: how many there were, at least one.
        chance: from 0 to 1; so that what failed together is not tried again together.
        retry_after: seconds before which the receiver wants to hear nothing.
        schedule: see `SCHEDULE`.
    """
    if tries >= len(schedule):
        return None
    rest = schedule[tries] * (1.0 + _JITTER * (2.0 * chance - 1.0))
    return max(rest, min(retry_after or 0.0, LONGEST_REST))


def seconds_to_wait(status: int, header: str | None, now: float) -> float | None:
    """What a receiver who is too busy says of when it is not; None where it says nothing.

    Args:
        status: its answer's.
        header: ``Retry-After``: seconds, or a date.
        now: Unix time.
    """
    if status not in {429, 503} or header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_REST)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(0.0, until - now), LONGEST_REST)
