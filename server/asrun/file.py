"""The as-run log as a file: its table, writing and reading it, and what it is exported as.

One row per run in a SQLite database that any SQLite opens; `.schema` explains every column.
Nothing here knows of a thread or a clock: `server.asrun.log` decides who writes and when.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from cache.durable import PRIVATE, make_private, make_private_folder
from cache.encoding import json_text
from cache.untrusted import Unfit, clean_text, decode_document

Row = dict[str, Any]
"""A run as it is read: column -> value, the JSON columns taken apart."""

# SQLite keeps the comments: whoever opens the file years later finds them in its schema.
_CREATE_RUNS: Final = """
CREATE TABLE runs (
  run TEXT PRIMARY KEY NOT NULL,  -- token of the run, never repeated
  activation TEXT NOT NULL,       -- show or rehearsal
  cue_index INTEGER NOT NULL,     -- place of the cue in the sheet, from 0
  cue TEXT NOT NULL,              -- JSON: the cue as the sheet had it
  action_id TEXT NOT NULL,
  prompt TEXT NOT NULL,           -- as displayed
  drawn_prompt TEXT NOT NULL,     -- as drawn
  program TEXT NOT NULL,
  fingerprint TEXT NOT NULL,      -- of everything that determines the pixels but the seed
  mode TEXT NOT NULL,             -- static, live or hybrid
  why TEXT NOT NULL,              -- the reason for the mode, in words
  forced_by TEXT,                 -- who forced it; null for nobody
  provider TEXT NOT NULL,         -- static, live or hold
  engine TEXT,                    -- what drew it, where it was drawn live
  set_id INTEGER,                 -- which set was played, where one was
  set_hash TEXT,
  seed INTEGER,                   -- one of 2^63 or more: its digits, as a blob
  started_at REAL NOT NULL,       -- steady clock, seconds; as all times here but started_wall
  started_wall REAL NOT NULL,     -- the same moment as Unix time, by the machine's time of day
  position REAL NOT NULL,         -- seconds from the start of the screening
  cycle INTEGER NOT NULL,         -- 0, or how many times it was drawn again
  squeeze REAL NOT NULL,          -- factor on the recorded durations; 1 is as recorded
  ended_at REAL,
  outcome TEXT,                   -- completed, cut, failed over, held; interrupted: the server
                                  -- ended before the run did; null: not over yet
  planned TEXT NOT NULL,          -- JSON: step -> due time
  presented TEXT NOT NULL,        -- JSON: screen -> step -> time it was first painted there
  failovers TEXT NOT NULL         -- JSON: list of {at, step, from, to, reason} and, of what took
                                  -- over, {engine, set_id, set_hash, seed} as far as known
)"""

_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (_CREATE_RUNS, "CREATE INDEX runs_by_time ON runs (started_wall)"),
)
"""The statements at place N take a file from version N to N + 1. Only ever append."""

COLUMNS: Final = tuple(re.findall(r"^  (\w+) ", _CREATE_RUNS, re.MULTILINE))
"""In their order; a test compares them with those that SQLite sees."""

_JSON: Final = frozenset({"cue", "planned", "presented", "failovers"})

_LIST: Final = ", ".join(COLUMNS)
_SELECT: Final = f"SELECT {_LIST} FROM runs"  # noqa: S608 - our own column names
_WRITE: Final = (
    f"INSERT INTO runs ({_LIST}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - as above
    f" ON CONFLICT (run) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in COLUMNS[1:])}"
)

_UNWRITABLE = (
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a single row can do to SQLite; everything else is the disk's or the file's trouble."""

_LEAST, _MOST = -(2**63), 2**63 - 1
"""What SQLite has for whole numbers."""

_MOST_DIGITS: Final = 400
_DAY: Final = 86_400.0
_FORTNIGHT: Final = 14 * _DAY
_EARLIEST: Final = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
"""Nothing was played before: a run that says so was begun by a clock that was not set yet."""

_DAYS_PLAYED: Final = (
    "SELECT count(DISTINCT CAST(started_wall / 86400 AS INTEGER)) FROM runs"
    " WHERE started_wall > ? AND started_wall <= ?"
)
_FIRST_SINCE: Final = (
    "SELECT min(rowid) FROM runs WHERE started_wall > ? AND started_wall <= ? AND started_wall >= ?"
)
_OLDEST: Final = (
    "SELECT min(started_wall) FROM runs WHERE started_wall > ? AND started_wall <= ? AND rowid < ?"
)
_LAST_BEFORE: Final = (
    "SELECT max(rowid) FROM runs"
    " WHERE started_wall > ? AND started_wall <= ? AND rowid < ? AND started_wall < ?"
)
_DELETE: Final = "DELETE FROM runs WHERE rowid <= ? AND started_wall < ?"

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class AsRunUnreadable(Exception):
    """There is no as-run log at a path, or none that can be read."""


class UnfitFile(Exception):
    """A database that is sound but not one to write this log into."""


class RunFile:
    """A connection that writes runs; to be used by the thread that made it.

    Args:
        path: the database; it is made, with its folder, where it does not exist.

    Raises:
        UnfitFile: the file was made by a newer release, or its table is another.
        sqlite3.Error: it cannot be opened, or is corrupt.
        OSError: its folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        make_private_folder(path.parent)
        _make_private_file(path)
        self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        try:
            # In this order: once WAL has written the first page, auto_vacuum is settled.
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._migrate()
            stat = path.stat()
        except BaseException:
            self._db.close()
            raise
        self._identity = (stat.st_dev, stat.st_ino)

    def _migrate(self) -> None:
        latest = len(_MIGRATIONS)
        version = self._version()
        if version > latest:
            raise UnfitFile(f"expected a log of version {latest} at most, not {version}")
        if version < latest:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                # Asked again, for another server may have done the same in the meantime.
                if (version := self._version()) < latest:
                    for statement in itertools.chain.from_iterable(_MIGRATIONS[version:]):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {latest}")
                self._db.execute("COMMIT")
            except BaseException as error:
                self._roll_back()
                raise _unfit(error) from error
        try:
            self._db.execute(f"{_SELECT} LIMIT 0")
        except sqlite3.Error as error:
            raise _unfit(error) from error

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    def gone(self) -> bool:
        """Whether the path leads to another file by now, or to none.

        SQLite goes on writing into a file that was deleted, and nobody would ever know.
        """
        try:
            stat = self._path.stat()
        except OSError:
            return True
        return (stat.st_dev, stat.st_ino) != self._identity

    def write(self, rows: Iterable[Row]) -> dict[str, Exception]:
        """Write whole rows in one transaction; a run that is there already is written over.

        Returns:
            The runs that can never be written, each with the reason. The others are.

        Raises:
            sqlite3.Error: nothing was written.
        """
        refused: dict[str, Exception] = {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for row in rows:
                try:
                    self._db.execute(_WRITE, [_to_column(name, row[name]) for name in COLUMNS])
                except _UNWRITABLE as error:
                    refused[row["run"]] = error
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return refused

    def mark_interrupted(self) -> None:
        """Say of every run without an end that the server ended before it did."""
        self._db.execute("UPDATE runs SET outcome = 'interrupted' WHERE outcome IS NULL")

    def days_played(self, wall: float) -> int:
        """On how many of the last fourteen days before a Unix time something was played.

        What the runs themselves say of the date: one start with a wrong clock says one day.
        """
        bounds = (wall - _FORTNIGHT, wall + _DAY)
        (days,) = self._db.execute(_DAYS_PLAYED, bounds).fetchone()
        return int(days)

    def prune(self, before: float, wall: float, at_most: float) -> int:
        """Delete runs that are old by their own time and by their place, and free their space.

        Old is what started before `before` and was written before everything that did not: a run
        of last night does not go because the clock was in 1970 then. What has a time that cannot
        be is as old as the next run that was written after it.

        Args:
            before: Unix time; runs that started since are kept.
            wall: Unix time now; what started a day after it has a time that cannot be.
            at_most: seconds of the log, from its oldest run on, that go at once.

        Returns:
            How many.
        """
        believed = (_EARLIEST, wall + _DAY)
        (first_kept,) = self._db.execute(_FIRST_SINCE, (*believed, before)).fetchone()
        end = sys.maxsize if first_kept is None else first_kept
        (oldest,) = self._db.execute(_OLDEST, (*believed, end)).fetchone()
        if oldest is None:
            return 0
        before = min(before, oldest + at_most)
        (last,) = self._db.execute(_LAST_BEFORE, (*believed, end, before)).fetchone()
        if last is None:
            return 0
        deleted = self._db.execute(_DELETE, (last, before)).rowcount
        if deleted:
            # Not `execute`: it stops at the first step of a statement without columns, and this
            # one frees a page a step.
            self._db.executescript("PRAGMA incremental_vacuum")
        return deleted

    def close(self) -> None:
        """Close the connection; what is not committed is lost."""
        self._db.close()

    def _roll_back(self) -> None:
        # A full disk may have made SQLite roll back by itself.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _make_private_file(path: Path) -> None:
    """The file, and what SQLite lays beside it with the same permissions, for this user alone."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    for suffix in ("", "-wal", "-shm"):
        make_private(path.with_name(path.name + suffix))


def _unfit(error: BaseException) -> BaseException:
    """An error about the table is the file's fault; any other one stays what it is."""
    if isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_ERROR:
        return UnfitFile(f"its table is another than ours: {error}")
    return error


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary error code; None where the error is Python's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def beyond_use(error: Exception) -> Literal["corrupt", "foreign"] | None:
    """What is wrong with a file that must be moved away for the log to go on; None: nothing."""
    if isinstance(error, UnfitFile):
        return "foreign"
    if isinstance(error, sqlite3.Error) and _code(error) in _CORRUPT:
        return "corrupt"
    return None


def move_aside(path: Path, why: str, wall: float) -> Path:
    """Rename a database and what belongs to it to ``….<why>-<time>``, for a later rescue.

    Args:
        path: the database.
        why: a word for the name.
        wall: Unix time, for the name.

    Raises:
        OSError: it cannot be renamed.
    """
    stamp = datetime.fromtimestamp(wall, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.{why}-{stamp}")
    for suffix in ("-shm", "-wal", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def read_rows(path: Path, *, limit: int | None = 100, since: float | None = None) -> list[Row]:
    """Read runs, the newest first; a server may be writing them meanwhile.

    Args:
        path: the database.
        limit: how many at most; None for all.
        since: Unix time; only runs that started at it or later.

    Raises:
        AsRunUnreadable: there is no log at `path`, or it cannot be read.
    """
    if not path.is_file():
        raise AsRunUnreadable(f"{path}: there is no as-run log")
    where = "" if since is None else " WHERE started_wall >= :since"
    query = f"{_SELECT}{where} ORDER BY started_wall DESC, rowid DESC LIMIT :limit"
    values = {"since": since, "limit": -1 if limit is None else max(0, limit)}
    address = path.absolute().as_uri()
    try:
        try:
            found = _fetch(f"{address}?mode=ro", query, values)
        except sqlite3.OperationalError as error:
            # On a read-only medium WAL cannot have its files: then nobody else writes, either.
            alone = not path.with_name(f"{path.name}-wal").exists()
            if _code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY} or not alone:
                raise
            found = _fetch(f"{address}?immutable=1", query, values)
        return [dict(zip(COLUMNS, map(_from_column, COLUMNS, line), strict=True)) for line in found]
    except (sqlite3.Error, ValueError) as error:
        raise AsRunUnreadable(f"{path}: cannot be read as an as-run log: {error}") from error


def _fetch(address: str, query: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(address, uri=True, timeout=5.0)) as db:
        return db.execute(query, values).fetchall()


def _to_column(name: str, value: object) -> Any:  # noqa: ANN401 - whatever SQLite takes
    if name in _JSON:
        return json_text(value, place="as-run log")
    if isinstance(value, str):
        # Half a surrogate pair, legal in JSON, has no UTF-8: lose the character, not the run.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        # A text would be taken for a number, and rounded; a blob stays as it is.
        return str(value).encode()
    return value


def _from_column(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever SQLite gives
    if isinstance(value, bytes) and name not in _JSON:
        text = value.decode(errors="replace")
        return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else text
    if name not in _JSON:
        return value
    try:
        return decode_document(value)
    except (Unfit, TypeError, AttributeError):
        # A file that others changed, or a bit that flipped: one column, and not all rows.
        return [] if name == "failovers" else {}


# ---------------------------------------------------------------- export

_BEGINS_A_FORMULA: Final = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")
_CSV_AS_IT_IS: Final = (
    "cue_index",
    "action_id",
    "program",
    "prompt",
    "drawn_prompt",
    "mode",
    "why",
    "forced_by",
    "provider",
    "engine",
    "set_id",
    "set_hash",
    "seed",
    "position",
    "cycle",
    "squeeze",
    "outcome",
    "fingerprint",
)


def to_json(rows: Sequence[Row], *, first: bool = True, last: bool = True) -> str:
    """Everything there is to know of the runs, as a JSON array, or a piece of it: a run a line.

    The first and the last piece bring the brackets. Encoded run by run, so that whoever does it
    in a thread keeps no other waiting.
    """
    lines = ",\n".join(json_text(row, place="as-run export") for row in rows)
    return f"{'[' if first else ''}{lines}{']' if last else (',' if rows else '')}\n"


def to_csv(rows: Sequence[Row], *, first: bool = True, last: bool = True) -> str:
    """One line per run, for a spreadsheet (RFC 4180); a first piece of it brings the header.

    Times are ISO 8601 in UTC by the machine's time of day. ``late_…_ms`` say how long after
    its due time a frame was painted, in milliseconds over all steps and screens.
    """
    del last
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _csv_line(dict.fromkeys(COLUMNS)), lineterminator="\r\n")
    if first:
        writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in _csv_line(row).items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A value that a spreadsheet takes for what it is, and not for a formula.

    A prompt or a reason may begin as a formula does, and be somebody else's who means harm: an
    apostrophe before it, which a spreadsheet does not show, makes it text.
    """
    if not isinstance(value, str):
        return value
    text = clean_text(value)
    formula = text.lstrip()[:1] in _BEGINS_A_FORMULA or text.startswith(("\t", "\r"))
    return f"'{text}" if formula else text


def _csv_line(row: Row) -> dict[str, object]:
    start, wall, end = row["started_at"], row["started_wall"], row["ended_at"]
    cue, failovers = row["cue"] or {}, row["failovers"] or []
    late = lateness(row)
    return {
        "started": _iso(wall),
        "ended": None if end is None else _iso(end - start + wall),
        "activation": row["activation"],
        "run": row["run"],
        "cue_time": cue.get("time"),
        "cue_action": cue.get("action"),
        **{name: row[name] for name in _CSV_AS_IT_IS},
        "failovers": "; ".join(f"{f['from']} -> {f['to']}: {f['reason']}" for f in failovers),
        "steps": len(row["planned"] or ()),
        "screens": len(row["presented"] or ()),
        "late_p50_ms": _ms(late, 0.5),
        "late_p99_ms": _ms(late, 0.99),
        "late_max_ms": _ms(late, 1.0),
    }


def lateness(row: Row) -> list[float]:
    """Seconds from due to painted, ascending, of every frame on every screen that has both."""
    planned: Mapping[str, float] = row["planned"] or {}
    screens: Mapping[str, Mapping[str, float]] = row["presented"] or {}
    return sorted(
        at - planned[step]
        for steps in screens.values()
        for step, at in steps.items()
        if step in planned
    )


def _ms(ascending: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile, in milliseconds; None of nothing."""
    if not ascending:
        return None
    return round(ascending[max(0, math.ceil(share * len(ascending)) - 1)] * 1000, 1)


def _iso(wall: float | None) -> str | None:
    if wall is None:
        return None
    try:
        moment = datetime.fromtimestamp(wall, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # a clock that far off names no date
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
