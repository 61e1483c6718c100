"""A database becomes what the schema says, and the view answers what operators ask."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from generator.jobs.database import open_database
from generator.jobs.migrations import UnknownRevision, upgrade
from generator.jobs.model import take_id
from generator.jobs.schema import metadata
from generator.jobs.store import JobStore, NewItem, NewJob

BRIEF_SUCCESS = """
SELECT 
  status,
  COUNT(*) as count,
  AVG(processing_time_ms) as avg_time
FROM generation_jobs
WHERE created_at > NOW() - INTERVAL '24 hours'
GROUP BY status;
"""  # noqa: W291 - word for word, as operators have it

BRIEF_STORAGE = """
SELECT 
  SUM(pg_column_size(image_data)) / 1024 / 1024 as mb_used
FROM generation_jobs
WHERE image_data IS NOT NULL;
"""  # noqa: W291 - likewise

SUCCESS_ON_SQLITE = BRIEF_SUCCESS.replace(
    "NOW() - INTERVAL '24 hours'", "datetime('now', '-24 hours')"
)
STORAGE_ON_SQLITE = BRIEF_STORAGE.replace("pg_column_size", "length")


def before(moment: float, seconds: float) -> float:
    """A time that is set down, not measured."""
    return moment - seconds


def test_from_nothing_it_becomes_what_the_schema_says(bare: sa.URL) -> None:
    engine = sa.create_engine(bare)
    with engine.begin() as connection:
        upgrade(connection)
        upgrade(connection)  # what is up to date stays as it is
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_what_is_there_already_is_counted(bare: sa.URL) -> None:
    engine = sa.create_engine(bare)
    with engine.begin() as connection:
        upgrade(connection, to="0002")
        connection.execute(
            sa.text(
                "INSERT INTO members (id, name, role, created_at) VALUES ('a', 'a', 'client', 0)"
            )
        )
        for number in (1, 2):
            connection.execute(
                sa.text(
                    "INSERT INTO jobs (number, id, kind, owner, status, priority, rank, request,"
                    " metadata, total, created_at)"
                    " VALUES (:number, :id, 'draw', 'a', 'processing', 5, 0, '{}', '{}', 4, 0)"
                ),
                {"number": number, "id": str(number)},
            )
        for n, status in enumerate(["ready", "running", "queued", "failed"]):
            connection.execute(
                sa.text(
                    "INSERT INTO items (job, n, status, lane, priority, owner, rank, seed, take,"
                    " work) VALUES (1, :n, :status, 'engine', 5, 'a', 0, 0, '', '{}')"
                ),
                {"n": n, "status": status},
            )
        connection.execute(
            sa.text(
                "INSERT INTO refusals (job, n, engine)"
                " VALUES (1, 2, 'gpu'), (1, 2, 'other'), (1, 1, 'gpu')"
            )
        )
        upgrade(connection)
        jobs = sa.text("SELECT number, unsettled FROM jobs ORDER BY number")
        assert [*connection.execute(jobs)] == [(1, 2), (2, 0)]
        items = sa.text("SELECT n, refused FROM items ORDER BY n")
        assert [*connection.execute(items)] == [(0, 0), (1, 1), (2, 2), (3, 0)]
    engine.dispose()


def test_a_revision_that_nobody_knows_is_refused_with_what_to_do(bare: sa.URL) -> None:
    engine = sa.create_engine(bare)
    with engine.begin() as connection:
        upgrade(connection)
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(UnknownRevision, match=r"9999.*later Understudy"):
            upgrade(connection)
    engine.dispose()


def test_an_upgrade_that_is_rolled_back_leaves_nothing(bare: sa.URL) -> None:
    engine = sa.create_engine(bare)
    if bare.get_backend_name() == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: object) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.connect() as connection:
        upgrade(connection)
        connection.rollback()
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


async def test_what_operators_ask_of_the_view_is_answered(url: sa.URL) -> None:
    on_postgres = url.get_backend_name() == "postgresql"
    async with open_database(url) as database:
        store = JobStore(database, "here")
        now = time.time()
        begun = before(now, 50)
        recipe = {"prompt": "a lamp, watercolor", "width": 1024, "height": 768}
        new = NewJob(
            id=str(uuid.uuid4()),
            kind="draw",
            owner="ada",
            items=[NewItem(7, {"recipe": recipe}), NewItem(8, {"recipe": recipe})],
            request={"prompt": "a lamp", "style": "watercolor"},
            metadata={"for": "me"},
        )
        await store.accept(new, now - 60)
        for seconds in (1.5, 2.5):
            claimed = await store.claim("gpu", begun, lease=60)
            assert claimed is not None
            await store.ready(claimed, now - 40, seconds=seconds, cost=0.0)
        other = NewJob(str(uuid.uuid4()), "draw", "ben", [NewItem(1, {})])
        await store.accept(other, now - 30)
        old = NewJob(str(uuid.uuid4()), "draw", "ben", [NewItem(1, {})])
        await store.accept(old, now - 100_000)

        def ask(query: str) -> Any:
            return lambda connection: connection.exec_driver_sql(query).mappings().all()

        found = await database.read(ask(BRIEF_SUCCESS if on_postgres else SUCCESS_ON_SQLITE))
        counted = {row["status"]: (row["count"], row["avg_time"]) for row in found}
        assert counted == {"completed": (1, 4000), "queued": (1, None)}
        used = await database.read(ask(BRIEF_STORAGE if on_postgres else STORAGE_ON_SQLITE))
        assert [row["mb_used"] for row in used] == [None]  # pictures are kept in the store

        rows = await database.read(ask("SELECT * FROM generation_jobs ORDER BY created_at DESC"))
        assert [row["id"] for row in rows] == [other.id, new.id, old.id]
        row = dict(rows[1])
        assert row["result_url"] == f"/takes/{take_id(new.id, 0)}/image"
        assert {key: row[key] for key in ("job_id", "user_id", "status", "prompt", "style")} == {
            "job_id": new.id,
            "user_id": "ada",
            "status": "completed",
            "prompt": "a lamp",
            "style": "watercolor",
        }
        assert (row["width"], row["height"], row["seed"]) == (1024, 768, 7)
        assert (row["error_message"], row["image_data"]) == (None, None)
        assert row["processing_time_ms"] == 4000
        started = row["started_at"].timestamp() if on_postgres else row["started_at"]
        if on_postgres:
            assert started == pytest.approx(begun, abs=0.001)
            assert row["metadata"] == {"for": "me"}
        else:
            assert started[:19] == time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(begun))
            assert row["metadata"] == '{"for":"me"}'
