"""A copy of the database, made while it is used."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator.jobs.backup import BackupRefused, backup
from generator.jobs.database import DatabaseError, open_database
from generator.jobs.members import Members
from generator.jobs.store import JobStore, NewItem, NewJob


def address(file: Path) -> sa.URL:
    return sa.URL.create("sqlite", database=str(file))


async def test_a_copy_made_while_jobs_come_is_of_one_moment(tmp_path: Path) -> None:
    ours = address(tmp_path / "studio.sqlite")
    copy = tmp_path / "copy.sqlite"
    async with open_database(ours, alone=True) as database:
        store = JobStore(database, "here")
        artist = await Members(database).ensure_implicit(0.0)
        accepted = 0

        async def ask() -> None:
            nonlocal accepted
            while True:
                pieces = [NewItem(1, {}), NewItem(2, {})]
                await store.accept(NewJob(str(uuid.uuid4()), "draw", artist.id, pieces), 0.0)
                accepted += 1

        asking = asyncio.create_task(ask())
        while accepted < 5:  # noqa: ASYNC110 - so many, however long that takes
            await asyncio.sleep(0.01)
        before = accepted
        assert await backup(ours, copy) == copy.stat().st_size
        asking.cancel()
        await asyncio.wait([asking])
    assert {path.name for path in tmp_path.iterdir() if "copy" in path.name} == {"copy.sqlite"}
    assert copy.stat().st_mode & 0o077 == 0
    async with open_database(address(copy)) as database:
        found = await JobStore(database, "there").find(limit=10_000)
        assert len(found) >= before
        assert {len(job.items) for job in found} == {2}


async def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    ours, there = address(tmp_path / "studio.sqlite"), tmp_path / "there"
    async with open_database(ours):
        pass
    there.write_text("letters")
    with pytest.raises(BackupRefused, match="is there already"):
        await backup(ours, there)
    assert there.read_text() == "letters"
    with pytest.raises(DatabaseError, match="no-such-folder"):
        await backup(ours, tmp_path / "no-such-folder" / "copy")
    with pytest.raises(DatabaseError, match="there is no database"):
        await backup(address(tmp_path / "none.sqlite"), tmp_path / "copy")
    assert not list(tmp_path.glob("*copy*"))


async def test_of_postgres_it_says_how_without_the_password(tmp_path: Path) -> None:
    url = sa.make_url("postgresql+psycopg://ada:secret@db.example:5432/studio?password=secret")
    with pytest.raises(BackupRefused) as refused:
        await backup(url, tmp_path / "copy")
    assert "pg_dump --format=custom --file=" in str(refused.value)
    assert "'postgresql://ada@db.example:5432/studio'" in str(refused.value)
    assert "secret" not in str(refused.value)
