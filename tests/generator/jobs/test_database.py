"""One writer, many readers: what is answered is kept, and what goes wrong is told as what it is."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator.jobs.database import (
    AlreadyOpen,
    Database,
    DatabaseError,
    DatabaseFull,
    DatabaseNewer,
    DatabaseUnavailable,
    Declined,
    open_database,
)
from generator.jobs.schema import state
from tests.helpers.postgres import PostgresServer, postgres


def put(name: str) -> sa.Insert:
    return sa.insert(state).values(name=name, value="1")


def putting(name: str) -> Callable[[sa.Connection], int]:
    def operation(connection: sa.Connection) -> int:
        return connection.execute(put(name)).rowcount

    return operation


async def names(database: Database) -> list[str]:
    query = sa.select(state.c.name).order_by(state.c.name)
    return await database.read(lambda connection: list(connection.scalars(query)))


async def test_one_that_fails_undoes_itself_alone(url: sa.URL) -> None:
    async with open_database(url) as database:

        def bad(connection: sa.Connection) -> None:
            connection.execute(put("bad"))
            raise LookupError("bad")

        def good(connection: sa.Connection) -> None:
            connection.execute(put("good"))

        results = await asyncio.gather(
            *(database.write(op) for op in (bad, good, bad)), return_exceptions=True
        )
        assert [type(each) for each in results] == [LookupError, type(None), LookupError]
        with pytest.raises(DatabaseError, match=r"(?i)unique"):
            await asyncio.gather(database.write(good), database.write(bad))
        with pytest.raises(LookupError):
            await database.write(bad)  # by itself, without others in its transaction
        assert await names(database) == ["good"]


async def test_one_that_declines_leaves_the_others_as_they_are(url: sa.URL) -> None:
    begun: list[str] = []

    def declining(_connection: sa.Connection) -> None:
        begun.append("declining")
        raise Declined("no")

    def good(connection: sa.Connection) -> None:
        begun.append("good")
        connection.execute(put("good"))

    async with open_database(url) as database:
        results = await asyncio.gather(
            *(database.write(op) for op in (good, declining)), return_exceptions=True
        )
        assert [type(each) for each in results] == [type(None), Declined]
        assert begun == ["good", "declining"]  # neither is done a second time
        assert await names(database) == ["good"]


async def test_one_that_the_database_refuses_takes_none_of_the_others_with_it(url: sa.URL) -> None:
    async with open_database(url) as database:
        results = await asyncio.gather(
            *(database.write(putting(name)) for name in ("a", "b", "b", "c")),
            return_exceptions=True,
        )
        assert [isinstance(each, DatabaseError) for each in results] == [False, False, True, False]
        assert await names(database) == ["a", "b", "c"]


async def test_a_crowd_is_written_in_few_transactions(url: sa.URL) -> None:
    async with open_database(url) as database:
        commits: list[object] = []
        sa.event.listen(database.writer, "commit", commits.append)
        await asyncio.gather(*(database.write(putting(f"{n:03}")) for n in range(200)))
        assert len(await names(database)) == 200
        assert len(commits) < 20


async def test_what_is_cancelled_before_it_is_begun_is_not_done(url: sa.URL) -> None:
    async with open_database(url) as database:
        begun, go_on = threading.Event(), threading.Event()

        def slow(connection: sa.Connection) -> None:
            connection.execute(put("slow"))
            begun.set()
            go_on.wait(20)

        first = asyncio.create_task(database.write(slow))
        await asyncio.to_thread(begun.wait, 20)
        second = asyncio.create_task(database.write(putting("never")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        first.cancel()
        await asyncio.sleep(0.05)
        assert not first.done()  # it is begun, and so it is waited for
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await names(database) == ["slow"]


async def test_closing_writes_what_waits_and_takes_nothing_more(url: sa.URL) -> None:
    async with open_database(url) as database:
        writing = [asyncio.create_task(database.write(putting(str(n)))) for n in range(30)]
        await asyncio.sleep(0)
    await asyncio.gather(*writing)
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await database.write(putting("late"))
    async with open_database(url) as database:
        assert len(await names(database)) == 30
    assert not any(thread.name == "studio database" for thread in threading.enumerate())


async def test_closing_waits_for_a_read_that_was_called_off(url: sa.URL) -> None:
    begun, go_on = threading.Event(), threading.Event()
    found: list[int] = []

    def slow(connection: sa.Connection) -> None:
        begun.set()
        go_on.wait(20)
        found.append(connection.scalar(sa.select(sa.func.count()).select_from(state)) or 0)

    async with open_database(url) as database:
        reading = asyncio.create_task(database.read(slow))
        await asyncio.to_thread(begun.wait, 20)
        reading.cancel()
        await asyncio.wait([reading])
        asyncio.get_running_loop().call_later(0.1, go_on.set)
    assert found == [0]
    with pytest.raises(DatabaseUnavailable):
        await names(database)


async def test_a_read_sees_one_moment(url: sa.URL) -> None:
    async with open_database(url) as database:
        between, go_on = threading.Event(), threading.Event()
        count = sa.select(sa.func.count()).select_from(state)

        def twice(connection: sa.Connection) -> tuple[int | None, int | None]:
            before = connection.scalar(count)
            between.set()
            go_on.wait(20)
            return before, connection.scalar(count)

        reading = asyncio.create_task(database.read(twice))
        await asyncio.to_thread(between.wait, 20)
        await database.write(putting("meanwhile"))
        go_on.set()
        assert await reading == (0, 0)


async def test_a_reader_on_postgres_cannot_write(own_server: PostgresServer) -> None:
    async with open_database(own_server.url) as database:
        with pytest.raises(DatabaseError):
            await database.read(putting("no"))


async def test_a_full_disk_is_told_as_one_and_spares_what_fits(tmp_path: Path) -> None:
    address = sa.URL.create("sqlite", database=str(tmp_path / "small.sqlite"))
    async with open_database(address) as database:

        def fill(connection: sa.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            connection.execute(sa.insert(state).values(name="much", value="x" * 1_000_000))

        with pytest.raises(DatabaseFull):
            await database.write(fill)
        results = await asyncio.gather(
            database.write(putting("small")),
            database.write(fill),
            database.write(putting("small too")),
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [int, DatabaseFull, int]
        assert await names(database) == ["small", "small too"]


def _hold(address: str, held: multiprocessing.synchronize.Event) -> None:
    async def hold() -> None:
        async with open_database(sa.make_url(address), alone=True):
            held.set()
            await asyncio.sleep(60)

    asyncio.run(hold())


async def test_a_file_has_one_studio_and_who_looks_something_up(tmp_path: Path) -> None:
    address = sa.URL.create("sqlite", database=str(tmp_path / "sub" / "studio.sqlite"))
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(str(address), held))
    other.start()
    try:
        assert await asyncio.to_thread(held.wait, 60)
        with pytest.raises(AlreadyOpen, match=f"process {other.pid} on {socket.gethostname()}"):
            async with open_database(address, alone=True):
                pass
        async with open_database(address) as database:
            assert await names(database) == []
    finally:
        other.kill()
        other.join()
    async with open_database(address, alone=True) as database:  # killed, it holds nothing
        assert await names(database) == []
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "sub").iterdir()} == {0}


@pytest.mark.parametrize("address", ["mysql://somewhere/studio", "sqlite://", "sqlite:///:memory:"])
async def test_what_is_no_database_of_ours_is_refused_by_its_setting(address: str) -> None:
    with pytest.raises(DatabaseError, match=r"\[studio\] database"):
        async with open_database(sa.make_url(address)):
            pass


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    file = tmp_path / "studio.sqlite"
    file.write_bytes(b"a picture, perhaps" * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        async with open_database(sa.URL.create("sqlite", database=str(file))):
            pass


async def test_one_of_a_later_release_is_left_alone(url: sa.URL) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseNewer, match="9999"):
        async with open_database(url):
            pass


# ---------------------------------------------------------------- Postgres that goes away


@pytest.fixture(scope="module")
def unreliable_server() -> Iterator[PostgresServer]:
    with postgres() as server:
        yield server


@pytest.fixture
def own_server(unreliable_server: PostgresServer) -> PostgresServer:
    """One that may be stopped, with nothing in it."""
    if not (unreliable_server.folder / "data" / "postmaster.pid").exists():
        unreliable_server.start()  # a test that failed has left it so
    engine = sa.create_engine(unreliable_server.url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return unreliable_server


async def test_a_server_that_goes_away_is_told_and_used_again_when_it_is_back(
    own_server: PostgresServer,
) -> None:
    async with open_database(own_server.url) as database:
        await database.write(putting("before"))
        assert await names(database) == ["before"]
        own_server.stop()
        results = await asyncio.gather(
            *(database.write(putting(f"lost {n}")) for n in range(3)),
            names(database),
            return_exceptions=True,
        )
        assert {type(each) for each in results} == {DatabaseUnavailable}
        own_server.start()
        await database.write(putting("after"))
        assert await names(database) == ["after", "before"]
        # Restarted while nobody looked: nobody notices.
        own_server.stop()
        own_server.start()
        await database.write(putting("later"))
        assert await names(database) == ["after", "before", "later"]


async def test_a_server_that_goes_away_in_a_transaction_has_done_none_of_it(
    own_server: PostgresServer,
) -> None:
    async with open_database(own_server.url) as database:

        def broken_off(connection: sa.Connection) -> None:
            connection.execute(put("half"))
            own_server.stop()
            connection.execute(put("other half"))

        with pytest.raises(DatabaseUnavailable):
            await database.write(broken_off)
        own_server.start()
        assert await names(database) == []


async def test_one_who_writes_by_hand_and_is_in_the_way_is_waited_for(
    own_server: PostgresServer,
) -> None:
    async with open_database(own_server.url) as database:
        await asyncio.gather(database.write(putting("a")), database.write(putting("b")))
        by_hand = sa.create_engine(own_server.url)
        hold, go_on = threading.Event(), threading.Event()

        def change(name: str) -> sa.Update:
            return sa.update(state).where(state.c.name == name).values(value="2")

        def other_way_round() -> None:
            with by_hand.begin() as connection:
                connection.execute(sa.text("SET deadlock_timeout = '10s'"))
                connection.execute(change("b"))
                hold.set()
                go_on.wait(20)
                connection.execute(change("a"))

        def ours(connection: sa.Connection) -> None:
            connection.execute(change("a"))
            go_on.set()
            connection.execute(change("b"))

        stranger = asyncio.create_task(asyncio.to_thread(other_way_round))
        await asyncio.to_thread(hold.wait, 20)
        await database.write(ours)  # undone as the one in the deadlock, and done once more
        await stranger
        values = sa.select(state.c.value)
        assert await database.read(lambda c: list(c.scalars(values))) == ["2", "2"]
        by_hand.dispose()
