"""Where a Studio keeps what only it knows: its database, its name, and the secret of its links."""

from __future__ import annotations

import secrets
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from cache.durable import make_private_folder, write_durably
from generator.jobs.database import Database, held_alone
from generator.jobs.schema import state
from server.config.show import Show

DATABASE: Final = "studio.sqlite"
"""Its file's name in the show's state folder, where no other database is named."""

_HOLDER: Final = "studio-id"
_SECRET: Final = "links_secret"  # noqa: S105 - the name that it is kept under
_SECRET_BYTES: Final = 32


def database_url(show: Show) -> sa.URL:
    """The address of the Studio's database."""
    named = show.settings.studio.database
    if named is not None:
        return sa.make_url(named.get_secret_value())
    return sa.URL.create("sqlite", database=str(show.state_folder / DATABASE))


@contextmanager
def held_name(show: Show) -> Iterator[str]:
    """The name under which a Studio holds what it works on, the same after each restart.

    Two with one name would take each other's work for their own of before. So it is held while
    the context lasts; and as its folder may be copied to another machine, that is part of it.

    Raises:
        AlreadyOpen: another Studio runs in the same folder.
        DatabaseError, OSError: the state folder cannot be written.
    """
    make_private_folder(show.state_folder)
    with held_alone(show.state_folder / _HOLDER):
        yield f"{_id_of(show.state_folder / _HOLDER)}@{socket.gethostname()}"


def _id_of(file: Path) -> uuid.UUID:
    try:
        return uuid.UUID(file.read_text("utf-8").strip())
    except (OSError, ValueError):
        made = uuid.uuid4()
        write_durably(file, str(made).encode())
        return made


async def links_secret(database: Database) -> bytes:
    """What the seals of addresses are made with: one for all Studios of a database.

    Raises:
        DatabaseError: it cannot be had.
    """

    def find_or_make(connection: sa.Connection) -> str:
        known = connection.scalar(sa.select(state.c.value).where(state.c.name == _SECRET))
        if known is not None:
            return str(known)
        made = secrets.token_hex(_SECRET_BYTES)
        connection.execute(sa.insert(state).values(name=_SECRET, value=made))
        return made

    # Two Studios that begin at once do so one after the other: writers take turns.
    return bytes.fromhex(await database.write(find_or_make))
