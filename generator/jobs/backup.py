"""Copies the database while it is used."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import anyio
import sqlalchemy as sa

from cache.durable import PRIVATE, sync_folder
from cache.threads import write_in_thread
from generator.jobs.database import DatabaseError, DatabaseFull, DatabaseUnavailable, sqlite_file

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class BackupRefused(DatabaseError):
    """No copy is made, and nothing was touched; the message says what to do."""


async def backup(url: sa.URL, file: Path) -> int:
    """Copy the database to a file, all of it as of one moment; a Studio may go on meanwhile.

    Args:
        url: the database's.
        file: where to; it must not be there yet.

    Returns:
        The size of the copy in bytes.

    Raises:
        BackupRefused: the file is there, or it is no business of ours: Postgres has its own way.
        DatabaseError: there is no copy; nothing is left of one.
    """
    source = sqlite_file(url)
    if source is None:
        # `set` would leave a password as it is.
        plain = url._replace(drivername="postgresql", password=None)
        plain = plain.difference_update_query(["password", "sslpassword"])
        raise BackupRefused(
            "Postgres makes its own copies: "
            f"pg_dump --format=custom --file={file} "
            f"'{plain.render_as_string(hide_password=False)}'"
        )
    return await write_in_thread(lambda: _copy(source, file), anyio.CapacityLimiter(1))


def _copy(source: Path, file: Path) -> int:
    if not source.is_file():
        raise DatabaseUnavailable(f"{source}: there is no database")
    if file.exists():
        raise BackupRefused(f"{file}: is there already; name another file, or move it away")
    beside = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(6)}.part")
    try:
        os.close(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as ours,
            closing(sqlite3.connect(beside)) as copy,
        ):
            ours.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE").close()  # one file, with nothing beside it
        sync_folder(beside)
        _give_name(beside, file)
        sync_folder(file.parent)
        return file.stat().st_size
    except OSError as error:
        kind = DatabaseFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else DatabaseUnavailable
        raise kind(f"{file}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        full = error.sqlite_errorname == "SQLITE_FULL"
        raise (DatabaseFull if full else DatabaseUnavailable)(f"{file}: {error}") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _give_name(beside: Path, file: Path) -> None:
    """Give a file its name, and never take it from another that has it.

    Raises:
        BackupRefused: another has it.
        OSError: it has none.
    """
    try:
        os.link(beside, file)
    except FileExistsError as error:
        raise BackupRefused(f"{file}: is there already; name another file") from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links, as on a memory stick.
        if file.exists():
            raise BackupRefused(f"{file}: is there already; name another file") from error
        beside.rename(file)
