"""What a job is, and what may become of it and of its items (pure).

A job is one thing that somebody asked for, an item one piece of it: one picture of four. Items
are worked on; what a job is follows from its items alone, so that the two never disagree.

    item     queued ⇄ running → ready | failed | cancelled
    job      queued → processing → completed | failed | cancelled

An item that is put back is queued again; its job stays in processing. A job moves forwards only,
unless somebody asks for what failed once more: that is its next attempt.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

JobKind = Literal["draw"]
JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
ItemStatus = Literal["queued", "running", "ready", "failed", "cancelled"]
Lane = Literal["engine"]
"""Which slots an item waits for: those that draw."""

PRIORITIES: Final = range(10)
"""From 0, which can wait, to 9, which cannot."""

USUAL_PRIORITY: Final = 5
MAX_ITEMS: Final = 10_000
"""How many items a job may have: as many as a template may make pictures."""

MAX_CRASHES: Final = 3
"""A job that so many times died together with the process is not begun again."""

_TAKES: Final = uuid.UUID("6f0e7a2c-6f6a-5f0b-9d0c-2f5f6f1f7b11")

ENDED: Final[frozenset[JobStatus]] = frozenset({"completed", "failed", "cancelled"})
SETTLED: Final[frozenset[ItemStatus]] = frozenset({"ready", "failed", "cancelled"})

ITEM_MOVES: Final[Mapping[ItemStatus, frozenset[ItemStatus]]] = {
    "queued": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"queued", "ready", "failed", "cancelled"}),
    "ready": frozenset(),
    "failed": frozenset({"queued"}),  # by a retry alone
    "cancelled": frozenset({"queued"}),  # likewise
}
JOB_MOVES: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    "queued": frozenset({"processing", "failed", "cancelled"}),
    "processing": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset({"queued"}),  # the next attempt, where some of it had failed
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something failed: a stable code, and what to say."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of a job.

    Attributes:
        n: its place in the job, from 0.
        status: what became of it so far.
        seed: of its picture.
        take: id of the take that it makes; it exists once the item is ready.
        problem: why it failed, or why it was put back last.
        engine: what works on it, or did.
        seconds: that the last work on it took; None where there was none.
    """

    n: int
    status: ItemStatus
    seed: int
    take: str
    problem: Problem | None = None
    engine: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What somebody asked for, and how far it is.

    Attributes:
        id: a UUID.
        kind: what kind of work it is.
        owner: id of the member who asked.
        status: see `status_of`.
        priority: one of `PRIORITIES`; the highest first.
        request: as it was asked for, checked.
        items: its pieces, by their number.
        attempt: 1, and one more each time what failed is asked for again.
        metadata: whatever whoever asked wants to find again.
        key: the idempotency key that it was asked for by, None for none.
        problem: why it failed.
        created_at, started_at, completed_at: Unix times; None for what is still to come.
        seconds: of work on it so far.
        cost: what that cost, in the currency that the settings mean; None where nobody said.
    """

    id: str
    kind: JobKind
    owner: str
    status: JobStatus
    priority: int
    request: Mapping[str, Any]
    items: tuple[Item, ...]
    created_at: float
    attempt: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    problem: Problem | None = None
    started_at: float | None = None
    completed_at: float | None = None
    seconds: float = 0.0
    cost: float | None = None

    @property
    def done(self) -> int:
        """How many items are ready."""
        return sum(item.status == "ready" for item in self.items)

    @property
    def failed(self) -> int:
        """How many items failed."""
        return sum(item.status == "failed" for item in self.items)

    @property
    def partial(self) -> bool:
        """Whether it came to its end with some of its items missing."""
        return self.status == "completed" and self.done < len(self.items)


def take_id(job: str, n: int) -> str:
    """The id of the take that an item makes.

    It follows from the job, so that an item that is drawn again writes the same keys.
    """
    return str(uuid.uuid5(_TAKES, f"{job}/{n}"))


def status_of(items: Iterable[ItemStatus], *, begun: bool, cancelled: bool = False) -> JobStatus:
    """What a job is, by its items.

    Args:
        items: what each of them is.
        begun: whether any of them was ever taken on in this attempt.
        cancelled: whether somebody called the whole off.
    """
    found = list(items)
    if any(status not in SETTLED for status in found):
        return "processing" if begun else "queued"
    if cancelled:
        return "cancelled"
    if "ready" in found:
        return "completed"
    return "failed" if "failed" in found else "cancelled"


def commonest(problems: Iterable[Problem | None]) -> Problem | None:
    """The reason that most of what failed has in common; the first of those that tie."""
    counted: dict[Problem, int] = {}
    for problem in problems:
        if problem is not None:
            counted[problem] = counted.get(problem, 0) + 1
    return max(counted, key=lambda each: counted[each]) if counted else None


def progress_of(items: Iterable[ItemStatus], drawn: float = 0.0) -> float:
    """How far a job is, from 0 to 1.

    Args:
        items: what each of them is.
        drawn: of those that are being worked on, how far they are together, in items.
    """
    found = list(items)
    settled = sum(status in SETTLED for status in found)
    return min(1.0, (settled + drawn) / len(found)) if found else 1.0
