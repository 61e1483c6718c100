"""Has what is queued worked on, by every slot at once, for as long as it runs.

A slot takes on the next item, works on it, and says what became of it as it takes on the next.
What went wrong decides: what is the engine's or the store's fault is put back and the slot rests,
what is the picture's is tried a few times and given up, what is nobody's is simply put back.
Nothing that goes wrong ends a slot; what became of an item is written however long the database
is away, since the take is there already.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Protocol

import structlog

from cache.backoff import back_off
from cache.stores.port import StoreDenied, StoreError, StoreFull, StoreUnavailable
from cache.tasks import being_cancelled
from generator.engines.port import (
    EngineDenied,
    EngineError,
    EnginePoisoned,
    EnginePreempted,
    EngineStarting,
    EngineUnavailable,
    RecipeRefused,
)
from generator.jobs.database import DatabaseError, DatabaseFull, DatabaseUnavailable
from generator.jobs.held import (
    ENGINES,
    Attendance,
    LeaseWatch,
    attendance_of_others,
    held_by,
    leases_of_others,
    refusing_engines,
)
from generator.jobs.model import Problem
from generator.jobs.store import Claimed, JobStore

_log = structlog.get_logger(__name__)

LEASE: Final = 30.0
"""Seconds after which what a Studio held is anybody's, where it said nothing more."""

TRIES: Final = 3
"""How often an item is begun that fails by no fault of an engine's or the store's."""

_FIRST_REST, _LONGEST_REST = 0.5, 30.0
_WHILE_STARTING: Final = 1.0
_LOOK_AGAIN: Final = 1.0
"""Seconds after which a queue is looked at again that others may write to."""

_LOOK_SELDOM: Final = 10.0
"""The same where nobody else should."""

_WATCH_EVERY: Final = 0.5
"""Seconds between two looks at whether what we work on is still ours, where others may say no."""

_ROOM_KNOWN_FOR: Final = 1.0
_RELEASE_WITHIN: Final = 5.0

DISK_FULL: Final = Problem("disk_full", "there is no room to keep what is drawn")

OnStep = Callable[[int, int], None]
"""Is told how many steps of a drawing are made, and of how many."""


@dataclass(frozen=True, slots=True)
class Done:
    """What working on an item took.

    Attributes:
        seconds: from taking it on to having kept what came of it.
        cost: what that cost; None where nobody has said what it costs.
    """

    seconds: float
    cost: float | None = None


class Workplace(Protocol):
    """An engine's place in the queue."""

    @property
    def name(self) -> str:
        """The engine's name in the settings; no other place has it."""
        ...

    async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
        """Make what an item asks for, and keep it. Cancelled, it stops within a step.

        Raises:
            EngineError, StoreError: nothing came of it.
        """
        ...


@dataclass(slots=True)
class SlotState:
    """What a slot does.

    Attributes:
        engine: its name.
        working_on: what it works on, None for nothing.
        since: steady seconds at which it took that on.
        step, steps: how far that is; 0 of 0 before its first picture.
        rests: why it does not get on, None where it does, or would.
        next_one: what it has taken on to work on next, for a moment.
    """

    engine: str
    working_on: Claimed | None = None
    since: float = 0.0
    step: int = 0
    steps: int = 0
    rests: Problem | None = None
    next_one: Claimed | None = None

    @property
    def progress(self) -> float:
        """How far what it works on is, from 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def works_on(self, job: str, n: int) -> bool:
        """Whether it works on an item."""
        return self.working_on is not None and (self.working_on.job, self.working_on.n) == (job, n)


@dataclass(frozen=True, slots=True)
class QueuePause:
    """Why nothing is taken on.

    Attributes:
        code, message: as of a `Problem`.
        by: name of the member who wanted it, None where it came by itself.
        since: Unix time.
    """

    code: str
    message: str
    by: str | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class _Rest:
    """What a slot does before it takes on the next item.

    Attributes:
        problem: why it rests; None where that is nobody's business.
        seconds: for how long; None for longer each time in a row.
    """

    problem: Problem | None
    seconds: float | None = None


class _CalledOff(Exception):
    """Somebody wants an item no more."""


@dataclass(eq=False)
class Scheduler:
    """Works the queue off.

    Args:
        store: the jobs.
        places: who works, beside each other; no two have one name.
        wall: Unix time.
        now: steady seconds.
        sleep: how to wait.
        lease: see `LEASE`.
        has_room: whether what is made now could be kept; None where only trying tells.
        on_change: is called after each write of its own; it must not wait.
    """

    store: JobStore
    places: Sequence[Workplace]
    _: KW_ONLY
    wall: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    lease: float = LEASE
    has_room: Callable[[], Awaitable[bool]] | None = None
    on_change: Callable[[], None] = lambda: None
    changes: int = field(default=0, init=False)
    """Grows whenever something was queued, or a slot wrote something."""

    def __post_init__(self) -> None:
        names = [place.name for place in self.places]
        if len(set(names)) < len(names):
            raise ValueError(f"expected places of different names, found {', '.join(names)}")
        self.slots = [SlotState(name) for name in names]
        self._tasks: dict[str, asyncio.Task[Done]] = {}
        self._called_off: set[str] = set()
        self._changed = asyncio.Event()
        self._by_hand: QueuePause | None = None
        self._pauses = 0  # grows with each pause and resume of ours
        self._full_since: float | None = None
        self._fulls = 0
        self._try_room_at = 0.0
        self._room_until = float("-inf")
        self._claims = 0  # begun
        self._claiming = 0  # under way
        self._lease_watch = LeaseWatch(self.lease, self.lease / 2)
        self._attendance_watch = LeaseWatch(self.lease, self.lease / 2)
        self._absent: frozenset[str] = frozenset()  # other Studios that have fallen silent

    # ------------------------------------------------------------ what others ask of it

    @property
    def paused(self) -> QueuePause | None:
        """Why nothing is taken on; None where the queue is worked off."""
        if self._by_hand is not None or self._full_since is None:
            return self._by_hand
        return QueuePause(DISK_FULL.code, DISK_FULL.message, since=self._full_since)

    def wake(self) -> None:
        """Something was queued, or may go on: look again."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def pause(self, why: Problem, by: str | None = None) -> None:
        """Take on nothing more; what is being worked on is finished. It is remembered.

        Args:
            why: what to say of it.
            by: name of the member who wants it.

        Raises:
            DatabaseError: it would not be remembered, and is not done.
        """
        pause = QueuePause(why.code, why.message, by, self.wall())
        await self._remember_pause(pause)

    async def resume(self) -> None:
        """Go on after a pause that somebody made. One for a full disk ends by itself.

        Raises:
            DatabaseError: it would not be remembered, and is not done.
        """
        await self._remember_pause(None)
        self.wake()

    def stop_working_on(self, job: str, numbers: Iterable[int] | None = None) -> None:
        """Let go of items that were called off; their slots take on others."""
        wanted = None if numbers is None else set(numbers)
        for slot in self.slots:
            item = slot.working_on
            if item is not None and item.job == job and (wanted is None or item.n in wanted):
                self._call_off(slot)

    def progress_of(self, job: str, n: int) -> float:
        """How far an item is that is being worked on here, from 0 to 1; 0.0 where it is not."""
        return next((slot.progress for slot in self.slots if slot.works_on(job, n)), 0.0)

    # ------------------------------------------------------------ the work itself

    async def run(self) -> None:
        """Work until cancelled; then everything that is held is put back, uncounted."""
        await self._begin()
        tasks = [
            asyncio.create_task(self._serve(place, slot), name=f"slot {place.name}")
            for place, slot in zip(self.places, self.slots, strict=True)
        ]
        tasks.append(asyncio.create_task(self._watch(), name="leases"))
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # none of them ends but for an error in this very class
        finally:
            # Each once: a second time would break off what lets go of an engine.
            for task in tasks:
                task.cancel()
            # First, as an engine may take a whole step to let go, and we may be killed meanwhile.
            await self._release()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self) -> None:
        """Take up what whoever had our name left; the database is waited for."""
        for attempt in itertools.count(1):
            try:
                await self._recall_pause()
                await self.store.take_over(
                    self.wall(),
                    holders=[self.store.holder],
                    alone=not self.store.database.is_shared,
                )
                # Who refused may draw it today, or be here no more: then nobody would ever ask.
                await self.store.forget_refusals()
                break
            except DatabaseError as error:
                _log.warning("scheduler_waits", reason=str(error), attempt=attempt)
                await self.sleep(back_off(attempt, _FIRST_REST, _LONGEST_REST))
        self._tell_change()

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_WITHIN):
                await self.store.release(self.wall())
                if self.store.database.is_shared:
                    await self.store.remember(f"{ENGINES}{self.store.holder}", None)
        except (DatabaseError, TimeoutError) as error:
            _log.warning("items_not_released", reason=str(error) or type(error).__name__)
        self._tell_change()

    async def _serve(self, place: Workplace, slot: SlotState) -> None:
        """Take on one item after another, whatever happens."""
        in_a_row = 0
        while True:
            rest = await self._turn(place, slot)
            if rest is None:
                in_a_row, slot.rests = 0, None
                continue
            in_a_row += 1
            slot.rests = rest.problem
            seconds = rest.seconds
            if seconds is None:
                seconds = back_off(in_a_row, _FIRST_REST, _LONGEST_REST)
            await self.sleep(seconds)

    async def _turn(self, place: Workplace, slot: SlotState) -> _Rest | None:
        """Take on an item and see it through, or wait for one; how to rest afterwards."""
        try:
            changed = self._changed
            claimed, slot.next_one = slot.next_one, None
            if claimed is None:
                claimed = await self._next(place)
            if claimed is not None:
                return await self._attempt(place, slot, claimed)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN if self._must_look else _LOOK_SELDOM):
                    await changed.wait()
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            _log.exception("slot_broke", engine=place.name)
            return _Rest(Problem("internal", "it broke off"))
        except DatabaseError as error:
            if being_cancelled():  # it met that on its way out
                raise asyncio.CancelledError from error
            _log.warning("slot_waits", engine=place.name, reason=str(error))
            return _Rest(_no_database(error))
        except Exception as error:  # noqa: BLE001 - a slot that ended would be missing unseen
            _log.exception("slot_broke", engine=place.name)
            return _Rest(Problem("internal", f"it broke off: {type(error).__name__}"))
        return None

    @property
    def _must_look(self) -> bool:
        """Whether something may be there to do that nobody woke us for."""
        return self.store.database.is_shared or self._full_since is not None

    async def _next(self, place: Workplace) -> Claimed | None:
        if self._by_hand is not None or not await self._is_room():
            return None
        with self._taking_on():
            claimed = await self.store.claim(place.name, self.wall(), lease=self.lease)
        if claimed is not None:
            self._tell_change()
        return claimed

    @contextmanager
    def _taking_on(self) -> Iterator[None]:
        """While something that is ours in the database may be no slot's yet."""
        self._claims += 1
        self._claiming += 1
        try:
            yield
        finally:
            self._claiming -= 1

    async def _is_room(self) -> bool:
        """Whether what is made could be kept, as far as that can be known beforehand."""
        now = self.now()
        if now < self._room_until:
            return True
        if now < self._try_room_at:
            return False
        if self.has_room is not None and not await self.has_room():
            self._is_full(_ROOM_KNOWN_FOR)
            return False
        self._room_until = now + _ROOM_KNOWN_FOR
        if self._full_since is not None:
            self._full_since = None
            _log.info("queue_resumed", reason=DISK_FULL.code)
            self.wake()
            self.on_change()
        return True

    def _is_full(self, try_again_after: float) -> None:
        """Take on nothing until there is room again; it is looked for after so many seconds."""
        self._room_until = float("-inf")
        self._try_room_at = self.now() + try_again_after
        if self._full_since is None:
            self._full_since = self.wall()
            _log.warning("queue_paused", reason=DISK_FULL.code)
            self._tell_change()

    async def _attempt(self, place: Workplace, slot: SlotState, claimed: Claimed) -> _Rest | None:
        """Work on an item, and write down what became of it; how to rest afterwards."""
        slot.working_on, slot.since = claimed, self.now()
        slot.step = slot.steps = 0
        try:
            await self._take_from_others(slot, claimed)
            try:
                done = await self._work(place, slot, claimed)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told of the item
                return await self._settle(place, slot, claimed, error)
            self._fulls = 0
            await self._persist(slot, lambda: self._ready(slot, claimed, done))
            return None
        finally:
            slot.working_on = None
            self._called_off.discard(slot.engine)

    async def _ready(self, slot: SlotState, claimed: Claimed, done: Done) -> bool:
        """Say that an item is done, and take on the next where that may be done at once.

        Returns:
            Whether it was still ours to say.
        """
        now, seconds, cost = self.wall(), done.seconds, done.cost
        if self._by_hand is not None or self.now() >= self._room_until:
            return await self.store.ready(claimed, now, seconds=seconds, cost=cost)
        with self._taking_on():
            wanted, slot.next_one = await self.store.ready_and_claim(
                *(claimed, slot.engine, now), seconds=seconds, cost=cost, lease=self.lease
            )
        return wanted

    async def _work(self, place: Workplace, slot: SlotState, claimed: Claimed) -> Done:
        """Have a place work on an item, in a task of its own that others may cancel.

        Raises:
            _CalledOff: somebody did.
            Exception: whatever came of it instead.
        """

        def on_step(step: int, steps: int) -> None:
            slot.step, slot.steps, slot.rests = step, steps, None

        name = f"{claimed.job}/{claimed.n}"
        task = asyncio.create_task(place.work(claimed, on_step), name=name)
        self._tasks[slot.engine] = task
        try:
            await asyncio.wait([task])
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            del self._tasks[slot.engine]
            error = None if task.cancelled() else task.exception()
        if task.cancelled() and slot.engine in self._called_off:
            raise _CalledOff
        if task.cancelled():
            raise RuntimeError("it was cancelled, and nobody had asked for that")
        if error is not None:
            raise error
        return task.result()

    def _call_off(self, slot: SlotState) -> None:
        task = self._tasks.get(slot.engine)
        if task is not None and not task.done() and slot.engine not in self._called_off:
            self._called_off.add(slot.engine)
            task.cancel()

    async def _take_from_others(self, own: SlotState, claimed: Claimed) -> None:
        """Have no two slots work on one item.

        It was given to us because it was called off and asked for again, or because our lease
        had run out: whoever of us works on it still has lost it.
        """
        for slot in self.slots:
            if slot is not own and slot.works_on(claimed.job, claimed.n):
                task = self._tasks.get(slot.engine)
                self._call_off(slot)
                if task is not None:
                    await asyncio.wait([task])

    async def _settle(
        self, place: Workplace, slot: SlotState, claimed: Claimed, error: Exception
    ) -> _Rest | None:
        """Write down that nothing came of an item this time; how to rest for that."""
        text = str(error) or type(error).__name__
        match error:
            case _CalledOff():
                # It may have been for nothing, and then it is to be done all the same.
                await self._put_back(slot, claimed, None)
                return None
            case EnginePreempted():
                await self._put_back(slot, claimed, None)
                # One that never got to draw would ask again and again while the show goes on.
                rest = None if slot.step else _Rest(None, _FIRST_REST)
            case StoreFull():
                self._fulls += 1
                self._is_full(back_off(self._fulls, _ROOM_KNOWN_FOR, _LONGEST_REST))
                await self._put_back(slot, claimed, DISK_FULL)
                return None
            case RecipeRefused():
                await self._refused(place, slot, claimed, Problem("refused", text))
                rest = None
            case EngineUnavailable() | StoreUnavailable() | StoreDenied():
                problem = Problem("unavailable", text)
                await self._put_back(slot, claimed, problem)
                rest = _Rest(problem, _rest_after(error))
            case _:
                await self._failed(place, slot, claimed, error)
                return None
        _log.info("item_put_back", job=claimed.job, n=claimed.n, engine=place.name, reason=text)
        return rest

    async def _refused(
        self, place: Workplace, slot: SlotState, claimed: Claimed, problem: Problem
    ) -> None:
        """Leave it to the engines that have not refused it; where there are none, give it up."""
        holder, read = self.store.holder, self.store.database.read
        able = {each.name for each in self.places}
        if self.store.database.is_shared:
            others = await read(lambda connection: attendance_of_others(connection, holder))
            for name in others.keys() - self._absent:
                able |= others[name].engines
        if claimed.refusals:
            able -= await read(lambda connection: refusing_engines(connection, claimed))
        able -= {place.name}
        if able:
            await self._put_back(slot, claimed, problem, refused_by=place.name)
        else:
            await self._give_up(slot, claimed, problem)

    async def _failed(
        self, place: Workplace, slot: SlotState, claimed: Claimed, error: Exception
    ) -> None:
        """Try an item again that failed, a few times."""
        problem = Problem("failed", str(error) or type(error).__name__)
        where = {"job": claimed.job, "n": claimed.n, "engine": place.name}
        if _is_expected(error):
            _log.info("item_failed", reason=problem.message, tries=claimed.tries + 1, **where)
        else:
            _log.error("item_broke", tries=claimed.tries + 1, exc_info=error, **where)
            problem = Problem("internal", f"an error of the program: {type(error).__name__}")
        if claimed.tries + 1 >= TRIES:
            await self._give_up(slot, claimed, problem)
        else:
            await self._put_back(slot, claimed, problem, counts=True)

    # ------------------------------------------------------------ what is written

    async def _put_back(
        self,
        slot: SlotState,
        claimed: Claimed,
        problem: Problem | None,
        *,
        refused_by: str | None = None,
        counts: bool = False,
    ) -> None:
        await self._persist(
            slot,
            lambda: self.store.put_back(
                claimed, problem, self.wall(), refused_by=refused_by, counts=counts
            ),
        )
        # Another slot may be idle. Whatever the answer: that of the try that did it may be lost.
        self.wake()

    async def _give_up(self, slot: SlotState, claimed: Claimed, problem: Problem) -> None:
        await self._persist(slot, lambda: self.store.failed(claimed, problem, self.wall()))

    async def _persist(self, slot: SlotState, write: Callable[[], Awaitable[bool]]) -> bool:
        """Write down what became of an item, as soon as the database lets us.

        An answer that was lost does no harm: what is written already changes nothing more.

        Returns:
            Whether it was still ours to say.
        """
        for attempt in itertools.count(1):
            try:
                wanted = await write()
            except (DatabaseFull, DatabaseUnavailable) as error:
                slot.rests = _no_database(error)
                _log.warning("outcome_waits", engine=slot.engine, reason=str(error))
                await self.sleep(back_off(attempt, _FIRST_REST, _LONGEST_REST))
            except LookupError:
                return False  # the job was removed meanwhile
            else:
                self._tell_change()
                return wanted
        raise AssertionError("it counts without end")

    def _tell_change(self) -> None:
        self.changes += 1
        self.on_change()

    # ------------------------------------------------------------ pauses

    async def _remember_pause(self, pause: QueuePause | None) -> None:
        document = None
        if pause is not None:
            document = {
                "code": pause.code,
                "message": pause.message,
                "by": pause.by,
                "since": pause.since,
            }
        self._pauses += 1
        await self.store.remember("paused", document)
        self._pauses += 1
        self._by_hand = pause
        self._tell_change()

    async def _recall_pause(self) -> None:
        """Take up the pause that is remembered: ours of last time, or another Studio's of now."""
        before = self._pauses
        known = await self.store.remembered("paused")
        if before != self._pauses:
            return  # what was read is older than what somebody has asked of us
        pause = None
        if isinstance(known, Mapping):
            by = known.get("by")
            pause = QueuePause(
                str(known.get("code", "")),
                str(known.get("message", "")),
                None if by is None else str(by),
                float(known.get("since", 0.0)),
            )
        if pause != self._by_hand:
            self._by_hand = pause
            self.wake()
            self.on_change()

    # ------------------------------------------------------------ leases

    async def _watch(self) -> None:
        """Keep our leases, see which of them we lost, and what others have left behind."""
        shared = self.store.database.is_shared
        every = min(_WATCH_EVERY, self.lease / 3) if shared else self.lease / 3
        renewed_at = float("-inf")
        while True:
            try:
                if self.now() - renewed_at >= self.lease / 3:
                    await self._renew()
                    renewed_at = self.now()
                if shared:
                    await self._recall_pause()
                    await self._look_at_others()
                await self._compare_with_database()
            except DatabaseError as error:
                _log.warning("leases_wait", reason=str(error))
            except Exception:  # noqa: BLE001 - leases that ran out would be somebody else's
                _log.exception("lease_watch_broke")
            await self.sleep(every)

    async def _renew(self) -> None:
        if self.store.database.is_shared:
            here = Attendance(frozenset(place.name for place in self.places), self.wall())
            await self.store.remember(f"{ENGINES}{self.store.holder}", dict(here.document()))
        if any(slot.working_on is not None for slot in self.slots):
            await self.store.renew(self.wall(), lease=self.lease)

    async def _look_at_others(self) -> None:
        holder, read = self.store.holder, self.store.database.read
        attendance = await read(lambda connection: attendance_of_others(connection, holder))
        said_at = {name: each.at for name, each in attendance.items()}
        absent = frozenset(self._attendance_watch.silent(said_at, self.now()))
        if absent - self._absent:
            # What only their engines had not refused would wait for ever: ask the others again.
            await self.store.forget_refusals()
            self.wake()
        self._absent = absent
        leases = await read(lambda connection: leases_of_others(connection, holder))
        silent = self._lease_watch.silent(leases, self.now())
        if silent and await self.store.take_over(self.wall(), holders=silent):
            _log.warning("items_taken_over", holders=silent)
            self.wake()
            self.on_change()

    async def _compare_with_database(self) -> None:
        """Let go of what is ours no more, and put back what no slot of ours works on.

        The first was called off by another Studio, or taken over while our machine slept; the
        second was claimed, and the answer lost.
        """
        claims, quiet = self._claims, self._claiming == 0
        before = {slot.engine: slot.working_on for slot in self.slots}
        held = await self.store.database.read(
            lambda connection: held_by(connection, self.store.holder)
        )
        ours = {(each.number, each.n, each.claim) for each in held}
        for slot in self.slots:
            item = slot.working_on
            if item is None or item is not before[slot.engine]:
                continue  # taken on after the database was read
            if (item.number, item.n, item.claim) not in ours:
                self._call_off(slot)
        if not quiet or claims != self._claims:
            return  # an item may be on its way to a slot
        busy = {
            (item.number, item.n, item.claim)
            for slot in self.slots
            if (item := slot.working_on) is not None
        }
        for each in held:
            if (each.number, each.n, each.claim) in busy:
                continue
            try:
                if await self.store.put_back(each, None, self.wall()):
                    _log.warning("item_reclaimed", job=each.job, n=each.n)
                    self.on_change()
            finally:
                self.wake()  # it may be back though the answer is lost


def _no_database(error: DatabaseError) -> Problem:
    # What the database says names it, and who opens it: everybody sees this.
    return Problem("unavailable", f"the jobs cannot be read or written ({type(error).__name__})")


def _is_expected(error: Exception) -> bool:
    return isinstance(error, EngineError | StoreError)


def _rest_after(error: Exception) -> float | None:
    """Seconds for which to leave alone what is away; None for longer each time."""
    match error:
        case EngineStarting():
            return _WHILE_STARTING
        case EnginePoisoned() | EngineDenied() | StoreDenied():
            return _LONGEST_REST
        case _:
            return None
