"""Each test runs on SQLite and on Postgres, and begins with nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.helpers.postgres import postgres
from tests.server.studio.hooks.studios import empty


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    # pytest's own folders are closed to the account that Postgres runs under where we are root.
    with tempfile.TemporaryDirectory() as folder:
        if request.param == "sqlite":
            yield sa.URL.create("sqlite", database=f"{folder}/studio.sqlite")
        else:
            with postgres(Path(folder)) as address:
                yield address


@pytest.fixture
def url(database_url: sa.URL) -> sa.URL:
    empty(database_url)
    return database_url
