"""The as-run log: what was really played, per run, with its timing.

Playback tells an `AsRun` what happens; that never waits and never fails. `AsRunLog` keeps
the runs of the moment in memory and hands whole rows to one thread, which owns the database
and writes it about once a second. While the disk is full or away the newest runs wait in
memory; those that find no more room there are counted, and the show goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import structlog

from server.asrun.file import AsRunUnreadable, Row, RunFile, beyond_use, move_aside, read_rows
from server.asrun.record import FailedOver, Outcome, RunNotes, RunRecord
from server.core.clock import Clock
from server.core.conditions import Condition

KEEP_DAYS = 400.0
"""Days a run is kept: a year's exhibition and time to ask about it."""

COMMIT_EVERY = 1.0
"""Seconds between two looks of the writer for something to write."""

CAPACITY = 512
"""Runs kept in memory, most of them only while nothing can be written."""

_BATCH = 64
_RETRY = 5.0
_CLOSE_WITHIN = 5.0
_ASIDE_AT_MOST_EVERY = 3600.0
_DAY = 86_400.0
_BELIEVED_AFTER = 3600.0
"""Seconds for which the time of day must not have been set before anything is deleted by it."""

_SET_BY = 60.0
_DAYS_THAT_AGREE = 3
_AT_MOST_A_DAY = 10 * _DAY
"""Seconds of the log, from its oldest run on, that are deleted in one day."""


_log = structlog.get_logger(__name__)


class AsRun:
    """Where playback tells what was played; this one keeps it in memory, for rehearsals and tests.

    Telling never waits and never raises. Of a run that was never begun, or that ended too
    long ago, nothing is taken. All times are steady seconds; as this one has no clock, they are
    its time of day, too.
    """

    def __init__(self) -> None:
        # Nobody holds it over anything longer than the copy of one run, so that the event loop
        # does not wait for a disk.
        self._changed = threading.Condition(threading.Lock())
        self._runs: dict[str, RunNotes] = {}
        self.dropped = 0

    def begin(self, record: RunRecord) -> None:
        """A run begins. Begun again, with the same token, it is known better than before."""
        with self._changed:
            self._runs.setdefault(record.run, RunNotes(record, offset=0.0)).tell(record)

    def planned(self, run: str, step: int, due: float) -> None:
        """A step's due time became known, or another."""
        with self._changed:
            if (notes := self._runs.get(run)) is not None:
                notes.plan(step, due)

    def failover(self, run: str, failed_over: FailedOver) -> None:
        """The next rung took over."""
        with self._changed:
            if (notes := self._runs.get(run)) is not None:
                notes.fail_over(failed_over)

    def presented(self, run: str, screen: str, step: int, at: float) -> None:
        """A screen painted a step; of several reports the first counts."""
        with self._changed:
            if (notes := self._runs.get(run)) is not None:
                self.dropped += not notes.present(screen, step, at)

    def end(self, run: str, outcome: Outcome, at: float) -> None:
        """A run is over; of several ends the first counts."""
        with self._changed:
            if (notes := self._runs.get(run)) is not None:
                notes.finish(outcome, at)

    def conditions(self) -> Iterable[Condition]:
        """What is wrong with it at this moment."""
        return ()

    async def keep_writing(self) -> None:
        """Have what is told written, until cancelled."""
        await asyncio.Event().wait()

    async def rows(self, *, limit: int | None = 100, since: float | None = None) -> list[Row]:
        """The runs that were told of, newest first, those still going on among them.

        Args:
            limit: how many at most; None for all.
            since: Unix time; only runs that started at it or later.
        """
        return _newest(self._told(), limit, since)

    def _told(self) -> list[Row]:
        """The runs in memory, those that began last first."""
        with self._changed:
            runs = tuple(self._runs)
        copies: list[RunNotes] = []
        for run in reversed(runs):
            with self._changed:
                if (notes := self._runs.get(run)) is not None:
                    copies.append(notes.copy())
        return [notes.row() for notes in copies]


def _newest(rows: list[Row], limit: int | None, since: float | None) -> list[Row]:
    rows = [row for row in rows if since is None or row["started_wall"] >= since]
    rows.sort(key=lambda row: float(row["started_wall"]), reverse=True)
    return rows if limit is None else rows[: max(0, limit)]


class WriterEnded(Exception):
    """The thread that writes the log has ended, and the log is still open."""


class AsRunLog(AsRun):
    """The as-run log in a SQLite database. Made with `open`.

    That its writer goes on is a job, `keep_writing`, which its owner runs and minds.

    Attributes:
        dropped: records (runs, or frames of a run beyond all measure) that are lost.
        trouble: why nothing can be written at the moment; None where all is well.
    """

    def __init__(self, path: Path, *, clock: Clock, keep_days: float, capacity: int) -> None:
        super().__init__()
        self._path = path
        self._clock = clock
        self._keep = keep_days * _DAY
        self._capacity = capacity
        # Requests have the lock of the runs.
        self._asked = 0
        self._answered = 0
        self._closing = False
        self.trouble: str | None = None
        self._refused = ""
        self._ended_with: str | None = None
        # From here on the writer's own.
        self._file: RunFile | None = None
        self._was_open = False
        self._prune_at = clock.now()
        self._offset = clock.wall() - clock.now()
        self._believed_at = clock.now() + _BELIEVED_AFTER
        self._retry_at = clock.now()
        self._aside_at: float | None = None
        self._writer = self._new_writer()
        # Readers wait for one another here, and never for a thread that loads a picture.
        self._reader = ThreadPoolExecutor(1, "as-run reader")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        keep_days: float = KEEP_DAYS,
        capacity: int = CAPACITY,
    ) -> AsyncIterator[Self]:
        """A log that is written until the end of the context.

        It is there at once: the file is opened by the writer, and where that fails, tried
        again and again. A file that is corrupt or no as-run log is moved aside.

        Args:
            path: the database; it is made, with its folder, where it does not exist.
            clock: where the time comes from.
            keep_days: runs that started longer ago are deleted, some days of them a day, once
                the time of day can be believed.
            capacity: runs kept in memory while nothing can be written.
        """
        log = cls(path, clock=clock, keep_days=keep_days, capacity=capacity)
        log._writer.start()
        try:
            yield log
        finally:
            await log.close()

    def _new_writer(self) -> threading.Thread:
        return threading.Thread(target=self._write_on, name="as-run log", daemon=True)

    async def keep_writing(self) -> None:
        """Watch over the writer until cancelled; one that has ended is followed by another.

        Raises:
            WriterEnded: it has, though the log is open. To be called again in a while.
        """
        if not self._writer.is_alive():
            self._writer = self._new_writer()
            self._writer.start()
        while self._writer.is_alive():  # noqa: ASYNC110 - a thread tells no loop that it has ended
            await asyncio.sleep(COMMIT_EVERY)
        raise WriterEnded(self._ended_with or "it ended without a word")

    # ------------------------------------------------------------ what playback tells

    def begin(self, record: RunRecord) -> None:
        """A run begins."""
        offset = self._clock.wall() - self._clock.now()
        with self._changed:
            if record.run not in self._runs:
                self._make_room()
                self._runs[record.run] = RunNotes(record, offset)
            self._runs[record.run].tell(record)

    def _make_room(self) -> None:
        """Let the oldest runs go, so that one more finds room; the newest matter most."""
        while len(self._runs) >= self._capacity:
            oldest = self._runs.pop(next(iter(self._runs)))
            self.dropped += oldest.unsaved or oldest.untold

    # ------------------------------------------------------------ what others ask

    def conditions(self) -> Iterable[Condition]:
        """That nothing can be written, where it is so, and that runs were lost."""
        if self.trouble is not None:
            waits = f"the newest runs wait in memory, {self._capacity} at most"
            text = f"the as-run log {self._path} cannot be written: {self.trouble}; {waits}"
            yield Condition("asrun_not_written", "degraded", text)
        if self.dropped:
            text = f"{self.dropped} records are missing in the as-run log since the server started"
            text += f"; the last because: {self._refused}" if self._refused else ""
            yield Condition("asrun_incomplete", "note", text)

    async def rows(self, *, limit: int | None = 100, since: float | None = None) -> list[Row]:
        """The runs, newest first: of the database, and what is not written yet.

        Where the database cannot be read, only the latter: the wall does not stop for it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._rows, limit, since)

    def _rows(self, limit: int | None, since: float | None) -> list[Row]:
        # Memory first: what leaves it afterwards is found in the file.
        rows = self._told()
        try:
            written = read_rows(self._path, limit=limit, since=since)
        except AsRunUnreadable as error:
            _log.debug("asrun_unreadable", error=str(error))
            written = []
        current = {row["run"] for row in rows}
        rows += [row for row in written if row["run"] not in current]
        return _newest(rows, limit, since)

    async def flush(self) -> bool:
        """Write now; return whether everything told before is written."""
        return await asyncio.to_thread(self._flush)

    def _flush(self) -> bool:
        with self._changed:
            if self._closing:
                return False
            self._asked += 1
            ticket = self._asked
            self._changed.notify_all()
            served = self._changed.wait_for(lambda: self._answered >= ticket, _CLOSE_WITHIN)
        return served and self.trouble is None

    async def close(self) -> None:
        """Write what is left and close the file; give up after five seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._reader.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._writer.join, _CLOSE_WITHIN)
        if self._writer.is_alive():
            _log.warning("asrun_still_writing", path=str(self._path))

    # ------------------------------------------------------------ the writer's thread

    def _write_on(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:  # noqa: BLE001 - told by whoever minds it, who begins another
            self._ended_with = f"{type(error).__name__}: {error}"
            _log.exception("asrun_writer_failed", path=str(self._path))
        finally:
            self._close_file()  # SQLite wants it closed by the thread that opened it

    def _write_until_closed(self) -> None:
        closing = False
        self._save_what_is_due(everything=False)
        while not closing:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._asked > self._answered, COMMIT_EVERY
                )
                closing, ticket = self._closing, self._asked
                urgent = closing or ticket > self._answered
            if urgent or self._clock.now() >= self._retry_at:
                self._save_what_is_due(everything=urgent)
            with self._changed:
                self._answered = ticket
                self._changed.notify_all()
        with self._changed:
            lost = sum(notes.unsaved or notes.untold for notes in self._runs.values())
            self.dropped += lost
        if lost:
            _log.error("asrun_incomplete", path=str(self._path), runs_lost=lost)

    def _save_what_is_due(self, *, everything: bool) -> None:
        while self._save_batch(everything=everything):
            pass

    def _save_batch(self, *, everything: bool) -> bool:
        """Write some runs; return whether there may be more of them."""
        now = self._clock.now()
        batch = self._take(now, everything=everything)
        try:
            refused = self._save([notes.row() for notes in batch], now)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log must outlive it
            self._give_back(batch)
            self._retry_at = now + _RETRY
            self._close_file()
            if self.trouble is None:
                _log.error("asrun_not_written", path=str(self._path), error=str(error))
            self.trouble = str(error) or type(error).__name__
            return False
        for run, reason in refused.items():
            _log.error("asrun_run_refused", run=run, error=str(reason))
            self._refused = f"{reason!s:.200}"
        with self._changed:
            self.dropped += len(refused)
            for run in refused:
                self._runs.pop(run, None)
        if self.trouble is not None:
            self.trouble = None
            _log.info("asrun_written_again", path=str(self._path), lost=self.dropped)
        return len(batch) == _BATCH

    def _take(self, now: float, *, everything: bool) -> list[RunNotes]:
        """Copies of the runs to be written; those that are over and written are forgotten."""
        with self._changed:
            runs = tuple(self._runs)
        batch: list[RunNotes] = []
        for run in runs:
            if len(batch) == _BATCH:
                break
            with self._changed:
                notes = self._runs.get(run)
                if notes is None:
                    continue
                over = notes.over(now)
                if notes.unsaved or (notes.untold and (over or everything)):
                    batch.append(notes.copy())
                    notes.unsaved = notes.untold = False
                elif over:
                    del self._runs[run]
        return batch

    def _give_back(self, batch: list[RunNotes]) -> None:
        with self._changed:
            for copy in batch:
                if (notes := self._runs.get(copy.record.run)) is not None:
                    notes.unsaved = True
                else:
                    self.dropped += 1

    def _save(self, rows: list[Row], now: float) -> dict[str, Exception]:
        try:
            return self._save_once(rows, now)
        except Exception as error:
            # Not again and again: on a dying disk every new file is corrupt as well.
            rested = self._aside_at is None or now - self._aside_at > _ASIDE_AT_MOST_EVERY
            why = beyond_use(error)
            if why is None or not rested:
                raise
            self._close_file()
            aside = move_aside(self._path, why, self._clock.wall())
            self._aside_at = now
            _log.error("asrun_moved_aside", error=str(error), moved_to=str(aside))
        return self._save_once(rows, now)

    def _save_once(self, rows: list[Row], now: float) -> dict[str, Exception]:
        if self._file is not None and self._file.gone():
            self._close_file()
        if self._file is None:
            self._file = RunFile(self._path)
        if not self._was_open:
            self._file.mark_interrupted()
            self._was_open = True
        refused = self._file.write(rows) if rows else {}
        self._prune(self._file, now)
        return refused

    def _prune(self, file: RunFile, now: float) -> None:
        """Delete what is older than it is to be kept, once the time of day can be believed.

        One reading of the clock is no reason to delete a year: a board without a battery starts in
        any year. It must have stood still against the steady clock for an hour, and the runs
        themselves must say that it is about this date: three days of them, of the last fortnight.
        And should all that be wrong, it is ten days of the log a day, and told.
        """
        wall = self._clock.wall()
        offset = wall - now
        if abs(offset - self._offset) > _SET_BY:
            self._offset, self._believed_at = offset, now + _BELIEVED_AFTER
        if now < max(self._prune_at, self._believed_at):
            return
        self._prune_at = now + _DAY
        days = file.days_played(wall)
        if days < _DAYS_THAT_AGREE:
            _log.info("asrun_not_pruned", reason="too few days of it near this date", days=days)
            return
        deleted = file.prune(wall - self._keep, wall, _AT_MOST_A_DAY)
        if deleted:
            _log.info("asrun_pruned", runs=deleted, older_than_days=self._keep / _DAY)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception as error:  # noqa: BLE001 - it is given up anyway
                _log.debug("asrun_closed_badly", error=str(error))
