"""Each test runs on SQLite and on Postgres, and begins with nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.helpers.postgres import postgres
from tests.server.studio.hooks.studios import empty


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def database_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.URL]:
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("studio")
        yield sa.URL.create("sqlite", database=str(folder / "studio.sqlite"))
    else:
        with postgres() as server:
            yield server.url


@pytest.fixture
def url(database_url: sa.URL) -> sa.URL:
    empty(database_url)
    return database_url
