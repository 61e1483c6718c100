"""Brings a database of an earlier release up to date; makes all of it where there is nothing.

Each change of the tables is a module in `revisions/`, by Alembic's rules: it names the one before
it and says how the tables become those of `generator/jobs/schema.py`. A revision that was released
is never changed, because databases stand on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

_FOLDER: Final = Path(__file__).parent


class UnknownRevision(Exception):
    """The database is of a revision that this release does not know."""


def upgrade(connection: sa.Connection, to: str = "head") -> None:
    """Bring a database up to date, within the transaction that its connection is in.

    Args:
        connection: whose transaction nobody else's runs beside.
        to: the revision to stop at.

    Raises:
        UnknownRevision: it is of a later release.
    """
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("version_locations", str(_FOLDER / "revisions").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    known = {each.revision for each in script.walk_revisions()}
    at = MigrationContext.configure(connection).get_current_revision()
    if at == script.get_current_head():
        return
    if at is not None and at not in known:
        raise UnknownRevision(
            f"the database is of revision {at}, this release knows none after "
            f"{script.get_current_head()}: a later Understudy has changed it. Install that one "
            "again, or go back to a copy of before"
        )
    command.upgrade(config, to)
