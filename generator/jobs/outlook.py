"""When everything that is asked for will be done: read, reckoned and kept for a moment.

Hundreds may ask at once, so that all are answered out of one look at the queue, which is taken
at most once a second, in a thread, and less often where it takes long.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from generator.jobs.choice import WaitingLine, items_in_order, jobs_in_order
from generator.jobs.eta import Ahead, EngineSlot, KnownPaces, WorkSize, seconds_left, steps_made
from generator.jobs.scheduler import Scheduler
from generator.jobs.schema import items, jobs, members, refusals
from generator.jobs.store import JobStore

_GOOD_FOR: Final = 1.0
"""Seconds for which a look is good, whatever happens meanwhile."""

_SHARE: Final = 0.05
"""Of the time, so much may be spent on looking."""

FORETOLD: Final = 2000
"""Items whose time is reckoned, from the head of the queue. Of what is further back only the
place is told: what comes in between, and it will, is worth more than the reckoning."""

_AT_ONCE: Final = 500
_NOBODY: Final[frozenset[str]] = frozenset()
_FIELDS: Final = ("model", "width", "height", "steps", "strength")


class Prospect(NamedTuple):
    """What is to be said of a job that is not over.

    Attributes:
        position: 0 where some of it is being worked on, else its place in the line, from 1.
        eta_seconds: until it is done; None where that is not known.
    """

    position: int
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Working:
    """A slot, as the outlook finds it.

    Attributes:
        engine: its name.
        job: id of the job that it works on, None for nothing.
        elapsed: seconds that it has done so.
        progress: how far that is, from 0 to 1; 0 where that is not known.
        able: whether it takes on anything at present.
    """

    engine: str
    job: str | None = None
    elapsed: float = 0.0
    progress: float = 0.0
    able: bool = True


@dataclass(frozen=True, slots=True)
class _QueueState:
    """What the database says of the queue at one moment.

    Attributes:
        lines: what waits.
        turns: when each member was served last.
        elsewhere: the slots of other Studios that work on something.
        numbers: of all jobs that are not over, by their ids.
        pieces: how many items of each job wait.
        refused: of each waiting item of a job of which some engine has refused one, in order:
            which engines have.
    """

    lines: Sequence[WaitingLine]
    turns: Mapping[str, int]
    elsewhere: Sequence[_Working]
    numbers: Mapping[str, int]
    pieces: Mapping[str, int]
    refused: Mapping[str, Sequence[frozenset[str]]]


class Prospects(Mapping[str, Prospect]):
    """What is to be said of every job that is not over, by its id.

    Attributes:
        running: how many are being worked on.
        waiting: how many others there are.
    """

    def __init__(
        self, at_work: Collection[str], line: Iterable[str], left: Mapping[str, float | None]
    ) -> None:
        """Number them.

        Args:
            at_work: jobs that are being worked on.
            line: the others, as they will be.
            left: seconds until a job is done, for those of which that is known.
        """
        self._places = dict.fromkeys(at_work, 0)
        self.running = len(self._places)
        self._places.update(zip(line, itertools.count(1)))
        self.waiting = len(self._places) - self.running
        self._left = left

    def __getitem__(self, job: str) -> Prospect:
        return Prospect(self._places[job], self._left.get(job))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(eq=False)
class QueueOutlook:
    """Foretells when jobs will be done.

    Args:
        store: the jobs.
        scheduler: who works on them.
        paces: how long that takes.
        now: steady seconds, those of the scheduler.
        wall: Unix time.
    """

    store: JobStore
    scheduler: Scheduler
    paces: KnownPaces
    _: KW_ONLY
    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _known: Prospects = field(default_factory=lambda: Prospects((), (), {}), init=False)
    _sizes: dict[int, WorkSize | None] = field(default_factory=dict, init=False)
    _looked_at: float | None = field(default=None, init=False)
    _good_for: float = field(default=_GOOD_FOR, init=False)
    _changes: int = field(default=-1, init=False)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def look(self) -> Prospects:
        """What is to be said of every job that is not over, by its id.

        A job that was asked for within the last second may be missing.

        Raises:
            DatabaseError: the queue could not be read.
        """
        if not self._is_good():
            async with self._looking:
                if not self._is_good():  # whoever was first has looked for all
                    await self._look()
        return self._known

    def _is_good(self) -> bool:
        if self._looked_at is None:
            return False
        if self.now() - self._looked_at < self._good_for:
            return True
        idle = all(slot.working_on is None for slot in self.scheduler.slots)
        alone = not self.store.database.is_shared
        return alone and idle and self._changes == self.scheduler.changes

    async def _look(self) -> None:
        self._changes = self.scheduler.changes
        begun = self.now()
        slots = [
            _Working(
                slot.engine,
                None if slot.working_on is None else slot.working_on.job,
                begun - slot.since,
                slot.progress,
                slot.rests is None,
            )
            for slot in self.scheduler.slots
        ]
        paused = self.scheduler.paused is not None
        holder, wall = self.store.holder, self.wall()

        def reckon(connection: sa.Connection) -> Prospects:
            queue = queue_state(connection, holder, wall)
            return self._reckon(connection, queue, slots, paused=paused)

        self._known = await self.store.database.read(reckon)
        self._looked_at = self.now()
        self._good_for = max(_GOOD_FOR, (self._looked_at - begun) / _SHARE)

    # ------------------------------------------------------------ in a thread

    def _reckon(
        self,
        connection: sa.Connection,
        queue: _QueueState,
        slots: Sequence[_Working],
        *,
        paused: bool,
    ) -> Prospects:
        near = list(islice(items_in_order(queue.lines, queue.turns), FORETOLD))
        working = [*slots, *queue.elsewhere]
        at_work = {slot.job: None for slot in working if slot.job in queue.numbers}
        asked = {*near, *at_work}
        self._learn_sizes(connection, {queue.numbers[job] for job in asked if job is not None})

        def size_of(job: str) -> WorkSize | None:
            return self._sizes.get(queue.numbers[job])

        able = [slot for slot in working if slot.able or slot.job is not None]
        left = seconds_left(
            [self._slot(slot, size_of) for slot in able if slot.job is None or slot.job in at_work],
            _ahead(near, size_of, queue.refused),
            self.paces,
        )
        # Of what waits behind the last that was reckoned, or waits in vain, the time is not known.
        reckoned: Mapping[str, int] = {} if paused else Counter(near)
        known = {
            job: seconds
            for job, seconds in left.items()
            if reckoned.get(job, 0) == queue.pieces.get(job, 0)
        }
        order = jobs_in_order(queue.lines, queue.turns)
        here = [job for job in at_work if job is not None]
        return Prospects(here, (job for job in order if job not in at_work), known)

    def _slot(self, slot: _Working, size_of: Callable[[str], WorkSize | None]) -> EngineSlot:
        if slot.job is None:
            return EngineSlot(slot.engine)
        size = size_of(slot.job)
        whole = None if size is None else self.paces.seconds(slot.engine, size)
        if whole is None:
            return EngineSlot(slot.engine, slot.job, None)
        left = whole - slot.elapsed
        if left < 0:  # slower than ever before: what is left is judged by what is done
            done = slot.progress
            left = slot.elapsed * (1 - done) / done if done else 0.0
        return EngineSlot(slot.engine, slot.job, left)

    def _learn_sizes(self, connection: sa.Connection, numbers: set[int]) -> None:
        """Learn the sizes of jobs; those that nobody asks for any more are forgotten."""
        self._sizes = {each: size for each, size in self._sizes.items() if each in numbers}
        missing = sorted(numbers - self._sizes.keys())
        for start in range(0, len(missing), _AT_ONCE):
            self._sizes |= sizes_of(connection, missing[start : start + _AT_ONCE])


def _ahead(
    jobs: Iterable[str],
    size_of: Callable[[str], WorkSize | None],
    refused: Mapping[str, Sequence[frozenset[str]]],
) -> Iterator[Ahead]:
    """The items that wait, each by its job, as far as their duration is concerned."""
    sizes: dict[str, Ahead] = {}
    which = {job: iter(each) for job, each in refused.items()}
    for job in jobs:
        if job in which:
            yield Ahead(job, size_of(job), next(which[job], _NOBODY))
            continue
        known = sizes.get(job)
        if known is None:
            known = sizes[job] = Ahead(job, size_of(job))
        yield known


_WAITS: Final = (items.c.lane == "engine") & (items.c.status == sa.text("'queued'"))


def _lines(dialect: str) -> sa.Select[Any]:
    """Priority, owner and first rank of each line; number and id of the job of each of its items.

    All of a line comes as one row: a thread that fetches row by row lets go of the interpreter at
    each, and gets it back late where the loop is busy.
    """

    def of_each(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
        text = sa.cast(column, sa.Text)
        if dialect == "postgresql":
            order = (items.c.rank, items.c.job, items.c.n)
            return sa.func.string_agg(text, aggregate_order_by(sa.literal_column("','"), *order))
        return sa.func.group_concat(text, sa.literal_column("','"))

    return (
        sa.select(
            *(items.c.priority, items.c.owner, sa.func.min(items.c.rank)),
            *(of_each(items.c.job), of_each(jobs.c.id)),
        )
        .join_from(items, jobs)
        .where(_WAITS)
        .group_by(items.c.priority, items.c.owner)
        # It goes along this index, in which each line stands in order.
        .with_hint(items, "INDEXED BY ix_items_queued", "sqlite")
    )


_LINES: Final = {name: _lines(name) for name in ("sqlite", "postgresql")}
_RUNNING: Final = (
    sa.select(items.c.job, jobs.c.id, items.c.engine, items.c.started_at, items.c.holder)
    .join_from(items, jobs)
    .where(items.c.lane == "engine", items.c.status == sa.text("'running'"))
)
_SERVED: Final = sa.select(members.c.id, members.c.turn).where(members.c.turn > 0)
_REFUSED: Final = (
    sa.select(refusals, jobs.c.id)
    .join_from(refusals, items, (refusals.c.job == items.c.job) & (refusals.c.n == items.c.n))
    .join(jobs)
    .where(_WAITS)
)


def queue_state(connection: sa.Connection, holder: str, wall: float) -> _QueueState:
    """All that waits and is worked on, at one moment.

    Args:
        connection: to the database.
        holder: whose slots are not looked for.
        wall: Unix time.
    """
    numbers: dict[str, int] = {}
    pieces: Counter[str] = Counter()
    lines: list[WaitingLine] = []
    for priority, owner, rank, found, ids in connection.execute(
        _LINES[connection.dialect.name]
    ).all():
        of_each = ids.split(",")
        waiting = Counter(of_each)
        lines.append(WaitingLine(owner, priority, rank, list(waiting), list(waiting.values())))
        numbers.update(zip(of_each, map(int, found.split(",")), strict=True))
        pieces.update(waiting)
    elsewhere: list[_Working] = []
    for number, job, engine, started_at, whose in connection.execute(_RUNNING).all():
        numbers[job] = number
        if whose != holder:
            elapsed = max(0.0, wall - (started_at or wall))
            elsewhere.append(_Working(engine or "", job, elapsed))
    turns = {row.id: row.turn for row in connection.execute(_SERVED)}
    return _QueueState(lines, turns, elsewhere, numbers, pieces, _refused(connection))


def _refused(connection: sa.Connection) -> dict[str, list[frozenset[str]]]:
    """See `_QueueState.refused`."""
    engines: dict[tuple[int, int], set[str]] = {}
    concerned: dict[int, str] = {}
    for number, n, engine, job in connection.execute(_REFUSED).all():
        engines.setdefault((number, n), set()).add(engine)
        concerned[number] = job
    found: dict[str, list[frozenset[str]]] = {}
    if concerned:
        waiting = sa.select(items.c.job, items.c.n).where(_WAITS, items.c.job.in_(concerned))
        for number, n in connection.execute(waiting.order_by(items.c.job, items.c.n)).all():
            of_item = frozenset(engines.get((number, n), ()))
            found.setdefault(concerned[number], []).append(of_item)
    return found


def sizes_of(connection: sa.Connection, numbers: Iterable[int]) -> dict[int, WorkSize | None]:
    """How large the pictures of jobs are, by the first of each: they are all of one size.

    Only what decides that leaves the database: a recipe may hold an image.
    """
    is_postgres = connection.dialect.name == "postgresql"
    work = sa.cast(items.c.work, sa.JSON) if is_postgres else sa.type_coerce(items.c.work, sa.JSON)
    columns = [work["recipe", name].as_string().label(name) for name in _FIELDS]
    query = sa.select(items.c.job, *columns).where(items.c.job.in_(numbers), items.c.n == 0)
    return {
        number: _size(model, width, height, steps, strength)
        for number, model, width, height, steps, strength in connection.execute(query).all()
    }


def _size(
    model: str | None,
    width: str | None,
    height: str | None,
    steps: str | None,
    strength: str | None,
) -> WorkSize | None:
    if model is None or width is None or height is None or steps is None:
        return None  # it is no drawing
    made = steps_made(int(steps), None if strength is None else float(strength))
    return WorkSize(model, int(width), int(height), made)
