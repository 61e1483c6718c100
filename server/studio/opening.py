"""Where a Studio keeps what only it knows: its database, its name, and the secret of its links."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from cache.durable import make_private_folder, write_durably
from generator.jobs.database import Database
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


def holder_of(show: Show) -> str:
    """The name under which this Studio holds what it works on, the same after each restart.

    Raises:
        OSError: the state folder cannot be written.
    """
    make_private_folder(show.state_folder)
    file: Path = show.state_folder / _HOLDER
    try:
        known = file.read_text("utf-8").strip()
        return str(uuid.UUID(known))
    except (OSError, ValueError):
        made = str(uuid.uuid4())
        write_durably(file, made.encode())
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

    try:
        found = await database.write(find_or_make)
    except sa.exc.IntegrityError:  # another Studio was first
        found = await database.write(find_or_make)
    return bytes.fromhex(found)
