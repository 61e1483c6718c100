"""A small database of our own: SQLite or Postgres, one writer, many readers.

What is written goes through one thread, which takes all that wait together, and whatever comes
while it writes them: one transaction, and one flush to the medium, for as many as there are. So a
crowd that asks at once waits for one flush and not for a hundred, and each is answered only after
it. Those who were answered together, and ask again at once, are together again.

Transactions that write never run beside each other, not even those of two Studios on one
Postgres: SQLite lets one begin at a time, and on Postgres each begins with a lock that all of
them take. So none waits for a row that another holds while that other waits for one of its own,
and what is numbered in a transaction is seen in the order of its numbers.

DatabaseError
  DatabaseFull          there is no room; what was asked for has not happened
  DatabaseUnavailable   it cannot be reached, or is not to be written; another try may help
  DatabaseNewer         a later release of Understudy has changed it
  AlreadyOpen           another Studio has it
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import queue
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError as SqlOperationalError

from cache.durable import PRIVATE, make_private_folder
from cache.threads import read_in_thread, write_in_thread
from generator.jobs.migrations import UnknownRevision, upgrade

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]
"""What is done in a transaction. It may be done a second time where the first came to nothing."""

_TOGETHER: Final = 256
"""Operations that are written in one transaction."""

_READERS: Final = 4
_CLOSED: Final = "the database is closed"
_ATTEMPTS: Final = 5
_BUSY_WITHIN: Final = 5.0
"""Seconds for which SQLite waits for another process, such as one that makes a copy."""

_WRITERS_LOCK: Final = 0x756E6465
"""Any number that nobody else locks in this database on Postgres."""

_BEGIN_ON_POSTGRES: Final = f"BEGIN; SELECT pg_advisory_xact_lock({_WRITERS_LOCK})"

_POSTGRES_FULL: Final = "53100"
_POSTGRES_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Somebody who wrote by hand was in the way: undone, or not let in; another try may go through."""

_POSTGRES_GONE: Final = frozenset({"57P01", "57P02", "57P03"})
"""It is shutting down, or not yet up."""

_POSTGRES_CONNECTION: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}
"""So that a network that swallows everything is noticed within seconds, not after two hours."""

_POSTGRES_SESSION: Final = (
    "SET lock_timeout = '10s'",
    "SET statement_timeout = '60s'",
    # A Studio that was stopped in mid-transaction must not keep the others from writing.
    "SET idle_in_transaction_session_timeout = '10s'",
)


_REMEDY: Final = (
    "put a copy back that understudy studio backup has made; or move it away, with what is beside "
    "it, to begin anew without its jobs and members (the pictures are in the store)"
)


class DatabaseError(Exception):
    """The database did not do what it was asked to."""


class DatabaseFull(DatabaseError):
    """There is no room."""


class DatabaseUnavailable(DatabaseError):
    """It cannot be reached, or may not be written."""


class DatabaseNewer(DatabaseError):
    """It was changed by a later release of Understudy, which alone can read it."""


class AlreadyOpen(DatabaseError):
    """Another Studio has it."""


class Declined(Exception):
    """An operation's own, raised before it wrote anything: there is nothing to undo."""


class _InDoubt(Exception):
    """The connection broke while the transaction was being ended: done, or not done."""


class _NotTogether(Exception):
    """An operation failed by itself: it is to be undone, and those that it is with are not."""


@dataclass(eq=False)
class _Request(Generic[T]):
    """An operation that waits, and who waits for it."""

    operation: Operation[T]
    future: asyncio.Future[T]
    results: list[T] = field(default_factory=list)
    error: BaseException | None = None
    begun: bool = False
    withdrawn: bool = False

    def begin(self) -> bool:
        """In the writer's thread: whether it is still wanted; from now on it is waited for."""
        # In this order, and in the other in `write`, so that one of both sees the other.
        self.begun = True
        return not self.withdrawn

    def fail(self, error: Exception) -> None:
        """It came to nothing, by the database's fault."""
        self.error = _translated(error) if isinstance(error, DBAPIError) else error

    def deliver(self) -> None:
        """On the loop: tell whoever waits."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.results[0])


@dataclass(eq=False)
class _Reads:
    """The reads under way, also those that nobody waits for any more: their threads go on."""

    _count: int = 0
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more while the context lasts."""
        with self._changed:
            if self._closed:
                raise DatabaseUnavailable(_CLOSED)
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Let none begin any more, and wait for those under way."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._count)


@dataclass(eq=False)
class _Arriving:
    """What waits, as it is taken, until nothing does.

    Args:
        waiting: what comes; None at the end of all.
        taken: what was taken already, and is begun; grows.
    """

    waiting: queue.SimpleQueue[_Request[Any] | None]
    taken: list[_Request[Any]]
    ended: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[_Request[Any]]:
        """What was taken, and then what comes."""
        yield from tuple(self.taken)
        while not self.ended and len(self.taken) < _TOGETHER:
            try:
                request = self.waiting.get_nowait()
            except queue.Empty:
                return
            if request is None:
                self.ended = True
            elif request.begin():
                self.taken.append(request)
                yield request


@dataclass(eq=False)
class Database:
    """An open database; `open_database` gives one."""

    writer: sa.Engine
    reader: sa.Engine
    _waiting: queue.SimpleQueue[_Request[Any] | None] = field(
        default_factory=queue.SimpleQueue, init=False
    )
    _closed: bool = field(default=False, init=False)
    _reads: _Reads = field(default_factory=_Reads, init=False)
    _limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(_READERS), init=False
    )

    @property
    def is_shared(self) -> bool:
        """Whether other Studios may write to it meanwhile."""
        return self.writer.dialect.name != "sqlite"

    async def write(self, operation: Operation[T]) -> T:
        """Have `operation` done in a transaction; it is on the medium when this returns.

        An exception of the operation's own undoes it alone, and is raised here; one that is
        `Declined` costs those that are written with it nothing. Cancelled, it is not begun, or
        waited for.

        Raises:
            DatabaseError: it was not done.
        """
        if self._closed:
            raise DatabaseUnavailable(_CLOSED)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        request = _Request(operation, future)
        self._waiting.put(request)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
                request.withdrawn = True
                if not request.begun:
                    future.cancel()
        if cancelled is not None:
            if not future.cancelled():
                future.exception()  # nobody is there to hear of it
            raise cancelled
        return future.result()

    async def read(self, operation: Operation[T]) -> T:
        """Look something up, all of it at one moment.

        Raises:
            DatabaseError: it could not be read.
        """

        def look() -> T:
            try:
                with self._reads.one(), self.reader.begin() as connection:
                    return operation(connection)
            except DBAPIError as error:
                raise _translated(error) from error

        return await read_in_thread(look, self._limiter)

    def _end(self, writing: threading.Thread) -> None:
        """In a thread: wait for what was begun, and for reads that were called off, too."""
        if writing.is_alive():
            writing.join()
        self._reads.end()

    # ------------------------------------------------------------ in the writer's thread

    def _keep_writing(self, loop: asyncio.AbstractEventLoop) -> None:
        while (first := self._waiting.get()) is not None:
            if not first.begin():
                continue
            arriving = _Arriving(self._waiting, [first])
            self._write_all(arriving)
            try:
                loop.call_soon_threadsafe(_deliver, arriving.taken)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            if arriving.ended:
                return

    def _write_all(self, arriving: _Arriving) -> None:
        """Write them together; where that comes to nothing, one by one, to find whose fault it is.

        Each that was taken has its result, or its error, when this returns.
        """
        try:
            try:
                self._write_in_one(arriving)
            except DBAPIError as error:
                if not _is_lost(error):
                    raise
                # The server was restarted since: there is a new connection to be had.
                self._write_in_one(arriving)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
            requests = arriving.taken
            if len(requests) > 1 and not _is_hopeless(error):
                self._write_one_by_one(requests)
            elif _may_be_repeated(error):
                self._write_repeatedly(requests[0])
            else:
                _fail(requests, error)

    def _write_one_by_one(self, requests: Sequence[_Request[Any]]) -> None:
        for number, request in enumerate(requests):
            error = self._write_repeatedly(request)
            if error is not None and _is_hopeless(error):
                _fail(requests[number + 1 :], error)
                return

    def _write_repeatedly(self, request: _Request[Any]) -> Exception | None:
        """Write one of them; what was wrong at last, if something was."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._write_in_one([request])
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                if attempt == _ATTEMPTS or not _may_be_repeated(error):
                    _fail([request], error)
                    return error
            else:
                return None
        raise AssertionError("the last attempt returns")

    def _write_in_one(self, requests: _Arriving | Sequence[_Request[Any]]) -> None:
        """Write them in one transaction.

        An error of the database's is the whole transaction's and is raised: what was done in it
        is lost, and after some of them SQLite knows of no savepoint any more. One of an
        operation's own is kept for it.
        """
        try:
            self._write_together(requests, apart=False)
        except _NotTogether:
            taken = requests.taken if isinstance(requests, _Arriving) else requests
            self._write_together(taken, apart=True)

    def _write_together(self, requests: Iterable[_Request[Any]], *, apart: bool) -> None:
        """Write them, and raise `_NotTogether` where one fails, unless they are kept `apart`.

        Savepoints would keep them apart at once, but cost Postgres more than most of what is done
        between them, and operations seldom fail.
        """
        with self.writer.connect() as connection:
            transaction = connection.begin()
            try:
                for request in requests:
                    request.results, request.error = [], None
                    if apart:
                        _do_apart(connection, request)
                    else:
                        _do(connection, request)
            except BaseException:
                _roll_back(transaction)
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if _is_lost(error):
                    raise _InDoubt from error
                _roll_back(transaction)
                raise


def _do(connection: sa.Connection, request: _Request[Any]) -> None:
    try:
        request.results.append(request.operation(connection))
    except DBAPIError:
        raise
    except Declined as error:
        request.error = error
    except Exception as error:
        raise _NotTogether from error


def _do_apart(connection: sa.Connection, request: _Request[Any]) -> None:
    savepoint = connection.begin_nested()
    try:
        request.results.append(request.operation(connection))
    except DBAPIError:
        raise
    except Exception as error:  # noqa: BLE001 - the operation's own, undone alone
        savepoint.rollback()
        request.error = error
    else:
        savepoint.commit()


def _roll_back(transaction: sa.RootTransaction) -> None:
    try:
        transaction.rollback()
    except DBAPIError:
        # What made it come to this is what is told; the connection is not used again.
        transaction.connection.invalidate()


def _fail(requests: Sequence[_Request[Any]], error: Exception) -> None:
    if isinstance(error, _InDoubt):
        error = DatabaseUnavailable("the connection broke; whether this was written is not known")
    for request in requests:
        request.fail(error)


def _deliver(requests: Sequence[_Request[Any]]) -> None:
    for request in requests:
        request.deliver()


@asynccontextmanager
async def open_database(url: sa.URL, *, alone: bool = False) -> AsyncIterator[Database]:
    """Open a database until the context is left; what was begun then is written first.

    It is made where there is none, and brought up to date where it is of an earlier release.

    Args:
        url: ``sqlite:///…/studio.sqlite`` or ``postgresql://…``.
        alone: whether it is opened by a Studio, of which a SQLite file has one at a time. Who
            looks something up or adds a member opens it beside one.

    Raises:
        AlreadyOpen: another Studio has it.
        DatabaseNewer: a later release has changed it.
        DatabaseError: it cannot be opened.
    """
    file = sqlite_file(url)
    if file is not None:
        _make_private_file(file)
    with held_alone(file) if alone and file is not None else nullcontext():
        writer, reader = _engines(url)
        database = Database(writer, reader)
        thread = threading.Thread(
            target=database._keep_writing,  # noqa: SLF001 - its own module's
            args=(asyncio.get_running_loop(),),
            name="studio database",
            daemon=True,
        )
        one_at_a_time = anyio.CapacityLimiter(1)
        try:
            await write_in_thread(
                lambda: _bring_up_to_date(writer, file, whole=alone), one_at_a_time
            )
            thread.start()
            yield database
        finally:
            database._closed = True  # noqa: SLF001 - its own module's
            database._waiting.put(None)  # noqa: SLF001 - its own module's
            try:
                await write_in_thread(lambda: database._end(thread), one_at_a_time)  # noqa: SLF001 - its own module's
            finally:
                writer.dispose()
                reader.dispose()


def sqlite_file(url: sa.URL) -> Path | None:
    """The file of a database in SQLite; None for one on a server.

    Raises:
        DatabaseError: it is neither SQLite nor Postgres, or has no file.
    """
    backend = url.get_backend_name()
    if backend == "postgresql":
        return None
    if backend != "sqlite":
        raise DatabaseError(
            f"[studio] database: expected sqlite:///FILE or postgresql://…, not {backend}://"
        )
    if not url.database or url.database == ":memory:":
        raise DatabaseError("[studio] database: expected a file, as in sqlite:///studio.sqlite")
    return Path(url.database)


def _make_private_file(file: Path) -> None:
    """Have a file there that nobody else may read: what people asked for is their own.

    Raises:
        DatabaseError: it cannot be had, or is gone: who finds all jobs missing should know why.
    """
    if not file.exists() and (lock := _lock_of(file)).exists():
        raise DatabaseError(
            f"{file}: is gone, though a Studio has kept its jobs there. Put a copy back that "
            f"understudy studio backup has made; or remove {lock.name} beside it, to begin anew"
        )
    try:
        make_private_folder(file.parent)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
    except OSError as error:
        raise _of_the_file(file, error) from error


def _lock_of(file: Path) -> Path:
    """The file that says who has a database; it stays."""
    return file.with_name(f"{file.name}.lock")


def _of_the_file(file: Path, error: OSError) -> DatabaseError:
    kind = DatabaseFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else DatabaseUnavailable
    return kind(f"{file}: {error.strerror or error}")


@contextmanager
def held_alone(file: Path) -> Iterator[None]:
    """Hold a file for one Studio, as long as its process lives.

    The system lets go of the lock when the process ends, however it does; the file that carries
    it stays, and says who holds it, or did.
    """
    beside = _lock_of(file)
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise _of_the_file(beside, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 300, 0).decode("utf-8", "replace").strip()
            raise AlreadyOpen(
                f"{file}: a Studio has it already, {holder or 'which is just starting'}. End that "
                "one first, or give each a show folder of its own; several Studios share one queue "
                'with [studio] database = "postgresql://…"'
            ) from None
        except OSError as error:
            raise _of_the_file(beside, error) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _bring_up_to_date(writer: sa.Engine, file: Path | None, *, whole: bool) -> None:
    """Have the tables of this release there.

    Args:
        writer: the database.
        file: its own, where it has one: whoever reads what is wrong looks for it.
        whole: whether a file is looked through, too: of one that is damaged somewhere, some jobs
            would else be served and others not.

    Raises:
        DatabaseError: they are not there.
    """
    where = "" if file is None else f"{file}: "
    try:
        with writer.begin() as connection:
            upgrade(connection)
        if file is not None and whole:
            with writer.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if found != "ok":
                raise DatabaseError(f"{where}it is damaged ({found}): {_REMEDY}")
    except UnknownRevision as error:
        raise DatabaseNewer(f"{where}{error}") from error
    except DBAPIError as error:
        ours = _translated(error)
        name = getattr(error.orig, "sqlite_errorname", "")
        remedy = f": {_REMEDY}" if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) else ""
        raise type(ours)(f"{where}{ours}{remedy}") from error


def _engines(url: sa.URL) -> tuple[sa.Engine, sa.Engine]:
    """Who writes, and who reads."""
    if url.get_backend_name() == "postgresql":
        return _postgres_engines(url)
    arguments = {"timeout": _BUSY_WITHIN, "check_same_thread": False}
    writer = sa.create_engine(url, connect_args=arguments, poolclass=sa.StaticPool)
    reader = sa.create_engine(url, connect_args=arguments, pool_size=_READERS)
    # A read that turns into a write in mid-transaction is refused at once, however patient.
    for engine, begin in ((writer, "BEGIN IMMEDIATE"), (reader, "BEGIN")):
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(
            engine, "begin", lambda connection, begin=begin: connection.exec_driver_sql(begin)
        )
    return writer, reader


def _postgres_engines(url: sa.URL) -> tuple[sa.Engine, sa.Engine]:
    given = {name: value for name, value in _POSTGRES_CONNECTION.items() if name not in url.query}
    url = url.set(drivername="postgresql+psycopg")
    try:
        # Who writes tries once more by itself where its connection was lost.
        writer = sa.create_engine(
            url, connect_args={**given, "autocommit": True}, pool_size=1, max_overflow=0
        )
    except ModuleNotFoundError as error:
        raise DatabaseError(
            "[studio] database: Postgres wants psycopg: pip install 'understudy[postgres]'"
        ) from error
    # All at one moment, as SQLite reads: a job and its items belong together.
    reader = sa.create_engine(
        url,
        connect_args=given,
        pool_size=_READERS,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
    ).execution_options(postgresql_readonly=True)
    for engine in (writer, reader):
        event.listen(engine, "connect", _prepare_postgres)
    event.listen(writer, "begin", lambda connection: connection.exec_driver_sql(_BEGIN_ON_POSTGRES))
    return writer, reader


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's own
    connection.isolation_level = None  # transactions are begun by us
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _prepare_postgres(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's own
    with connection.cursor() as cursor:
        for each in _POSTGRES_SESSION:
            cursor.execute(each)
    connection.commit()


def _is_lost(error: DBAPIError) -> bool:
    """Whether there is no connection any more, or was none to be had."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, SqlOperationalError) or hasattr(error.orig, "sqlite_errorcode"):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith("08") or state in _POSTGRES_GONE


def _is_hopeless(error: Exception) -> bool:
    """Whether the others would fare no better one by one."""
    return isinstance(error, _InDoubt) or (isinstance(error, DBAPIError) and _is_lost(error))


def _may_be_repeated(error: Exception) -> bool:
    return (
        isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _POSTGRES_AGAIN
    )


def _translated(error: DBAPIError) -> DatabaseError:
    """The same, as one of ours."""
    reason = str(error.orig).strip().split("\n", 1)[0]
    full = (
        getattr(error.orig, "sqlite_errorname", "") == "SQLITE_FULL"
        or getattr(error.orig, "sqlstate", None) == _POSTGRES_FULL
        or (isinstance(error.orig, OSError) and error.orig.errno == errno.ENOSPC)
    )
    kind = DatabaseError
    if full:
        kind = DatabaseFull
    elif isinstance(error, SqlOperationalError) or error.connection_invalidated:
        kind = DatabaseUnavailable
    ours = kind(reason)
    ours.__cause__ = error
    return ours
