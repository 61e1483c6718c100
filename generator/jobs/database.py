"""A small database of our own: SQLite or Postgres, one writer, many readers.

What is written goes through one thread, which takes all that wait together: one transaction,
and one flush to the medium, for as many as there are. So a crowd that asks at once waits for one
flush and not for a hundred, and each is answered only after it.

DatabaseError
  DatabaseFull          there is no room; what was asked for has not happened
  DatabaseUnavailable   it cannot be reached, or is not to be written; another try may help
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import anyio
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError as SqlOperationalError

from cache.threads import read_in_thread

T = TypeVar("T")
Operation = Callable[[sa.Connection], T]
"""What is done in a transaction. It may be done a second time where the first came to nothing."""

_TOGETHER: Final = 256
"""Operations that are written in one transaction."""

_READERS: Final = 4
_ATTEMPTS: Final = 5
_BUSY_WITHIN: Final = 5.0
"""Seconds for which SQLite waits for another process, such as one that makes a copy."""


class DatabaseError(Exception):
    """The database did not do what it was asked to."""


class DatabaseFull(DatabaseError):
    """There is no room."""


class DatabaseUnavailable(DatabaseError):
    """It cannot be reached, or may not be written."""


@dataclass(eq=False)
class _Request(Generic[T]):
    """An operation that waits, and who waits for it."""

    operation: Operation[T]
    future: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None

    def deliver(self) -> None:
        """On the loop: tell whoever still waits."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type] - of the same operation


@dataclass(eq=False)
class Database:
    """An open database; `open_database` gives one."""

    writer: sa.Engine
    reader: sa.Engine
    _waiting: queue.SimpleQueue[_Request[Any] | None] = field(
        default_factory=queue.SimpleQueue, init=False
    )
    _limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(_READERS), init=False
    )

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write to it meanwhile."""
        return self.writer.dialect.name != "sqlite"

    async def write(self, operation: Operation[T]) -> T:
        """Have `operation` done in a transaction; it is on the medium when this returns.

        An exception of the operation's own undoes it alone, and is raised here.

        Raises:
            DatabaseError: it was not done.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Request(operation, future))
        return await future

    async def read(self, operation: Operation[T]) -> T:
        """Look something up, all of it at one moment.

        Raises:
            DatabaseError: it could not be read.
        """

        def look() -> T:
            try:
                with self.reader.begin() as connection:
                    return operation(connection)
            except DBAPIError as error:
                raise _translated(error) from error

        return await read_in_thread(look, self._limiter)

    # ------------------------------------------------------------ in the writer's thread

    def _keep_writing(self, loop: asyncio.AbstractEventLoop) -> None:
        ended = False
        while not ended:
            together = [self._waiting.get()]
            while len(together) < _TOGETHER:
                try:
                    together.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            requests = [each for each in together if each is not None]
            ended = len(requests) < len(together)
            if requests:
                self._write_all(requests)
                loop.call_soon_threadsafe(_deliver, requests)

    def _write_all(self, requests: Sequence[_Request[Any]]) -> None:
        try:
            self._write_together(requests)
        except Exception:  # noqa: BLE001 - whatever it is, each hears of its own below
            for request in requests:
                self._write_alone(request)

    def _write_together(self, requests: Sequence[_Request[Any]]) -> None:
        with self.writer.begin() as connection:
            for request in requests:
                request.result = request.error = None
                try:
                    with connection.begin_nested():
                        request.result = request.operation(connection)
                except DBAPIError:
                    raise
                except Exception as error:  # noqa: BLE001 - the operation's own, undone alone
                    request.error = error

    def _write_alone(self, request: _Request[Any]) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._write_together([request])
            except DBAPIError as error:
                request.error = _translated(error)
                request.error.__cause__ = error
                if not _may_be_repeated(error) or attempt == _ATTEMPTS - 1:
                    return
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                request.error = error
                return
            else:
                return


def _deliver(requests: Sequence[_Request[Any]]) -> None:
    for request in requests:
        request.deliver()


@asynccontextmanager
async def open_database(url: sa.URL) -> AsyncIterator[Database]:
    """Open a database until the context is left; what was begun then is written first.

    Args:
        url: ``sqlite:///…/studio.sqlite`` or ``postgresql+psycopg://…``.

    Raises:
        DatabaseError: it cannot be opened.
    """
    writer, reader = _engines(url)
    database = Database(writer, reader)
    loop = asyncio.get_running_loop()
    thread = threading.Thread(
        target=database._keep_writing,  # noqa: SLF001 - its own module's
        args=(loop,),
        name="studio database",
        daemon=True,
    )
    try:
        await database.read(lambda connection: connection.execute(sa.text("SELECT 1")))
        thread.start()
        yield database
    finally:
        if thread.is_alive():
            database._waiting.put(None)  # noqa: SLF001 - its own module's
            await asyncio.to_thread(thread.join)
        writer.dispose()
        reader.dispose()


def _engines(url: sa.URL) -> tuple[sa.Engine, sa.Engine]:
    if url.get_backend_name() != "sqlite":
        engine = sa.create_engine(url, pool_pre_ping=True, pool_size=_READERS + 2)
        return engine, engine
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


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by us
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


_POSTGRES_FULL: Final = "53100"
_POSTGRES_AGAIN: Final = frozenset({"40001", "40P01"})
"""Two transactions that were in each other's way; one of them is to try again."""


def _may_be_repeated(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _POSTGRES_AGAIN


def _translated(error: DBAPIError) -> DatabaseError:
    reason = str(error.orig).strip().split("\n", 1)[0]
    full = (
        getattr(error.orig, "sqlite_errorname", "") == "SQLITE_FULL"
        or getattr(error.orig, "sqlstate", None) == _POSTGRES_FULL
        or (isinstance(error.orig, OSError) and error.orig.errno == errno.ENOSPC)
    )
    if full:
        return DatabaseFull(reason)
    if isinstance(error, SqlOperationalError) or error.connection_invalidated:
        return DatabaseUnavailable(reason)
    return DatabaseError(reason)
