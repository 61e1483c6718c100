"""A database of the Studio's with two members, on SQLite and on Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator.jobs.migrations import upgrade
from generator.jobs.schema import metadata
from tests.helpers.postgres import PostgresServer, postgres

MEMBERS = ("ada", "ben")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.URL]:
    """The address of a database with nothing in it."""
    if request.param == "sqlite":
        yield sa.URL.create("sqlite", database=str(tmp_path / "studio.sqlite"))
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with ExitStack() as stack:
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        stack.callback(engine.dispose)
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE DATABASE studio"))
        yield server.url.set(database="studio")
        with engine.connect() as connection:
            connection.execute(sa.text("DROP DATABASE studio WITH (FORCE)"))


@pytest.fixture
def url(bare: sa.URL) -> sa.URL:
    """The address of one with the tables and `MEMBERS`."""
    engine = sa.create_engine(bare)
    with engine.begin() as connection:
        upgrade(connection)
        connection.execute(
            sa.insert(metadata.tables["members"]),
            [{"id": name, "name": name, "role": "client", "created_at": 0.0} for name in MEMBERS],
        )
    engine.dispose()
    return bare
