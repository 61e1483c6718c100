from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.asrun import file as asrun_file
from server.asrun import record as asrun_record
from server.asrun.file import AsRunUnreadable, lateness, read_rows, to_csv, to_json
from server.asrun.log import (
    AsRun,
    AsRunLog,
)
from server.asrun.record import FailedOver, RunNotes, RunRecord
from server.core.clock import VirtualClock

START = 1_764_000_000.0
ROOT = Path(__file__).parents[3]

Connect = Callable[..., sqlite3.Connection]

RECORD = RunRecord(
    run="r-1",
    activation="show",
    cue_index=12,
    cue={"time": "00:44:22", "action": "prompt", "prompt": 'é "quoted", 詩\n', "guidance": 40},
    action_id="prompt_001",
    prompt='é "quoted", 詩\n',
    drawn_prompt="person, photorealistic",
    program="P2",
    fingerprint="sha256:" + "ab" * 32,
    mode="static",
    why="forced: GPU host noisy",
    forced_by="foh-tablet",
    provider="static",
    engine=None,
    set_id=3,
    set_hash="cd" * 32,
    seed=2**32 - 1,
    started_at=START,
    position=2662.0,
    cycle=0,
    squeeze=0.875,
    planned=((1, START + 0.9), (2, START + 1.5)),
)


def record(number: int, at: float = START) -> RunRecord:
    return replace(RECORD, run=f"r-{number}", started_at=at)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "venue" / "asrun.sqlite"


def spoil_connections(monkeypatch: pytest.MonkeyPatch, pragma: str) -> None:
    """Make every new connection run `pragma` first, as a disk in trouble would behave."""
    connect: Connect = sqlite3.connect

    def spoilt(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        db = connect(*args, **kwargs)
        db.execute(pragma)
        return db

    monkeypatch.setattr(sqlite3, "connect", spoilt)


async def flush(log: AsRunLog) -> None:
    assert await log.flush(), log.trouble


def trouble(log: AsRunLog) -> str | None:
    return log.trouble


# ---------------------------------------------------------------- one contract, both logs


@asynccontextmanager
async def memory(_path: Path, _clock: VirtualClock) -> AsyncIterator[AsRun]:
    yield AsRun()


@asynccontextmanager
async def database(path: Path, clock: VirtualClock) -> AsyncIterator[AsRun]:
    async with AsRunLog.open(path, clock=clock) as log:
        yield log


@asynccontextmanager
async def written_database(path: Path, clock: VirtualClock) -> AsyncIterator[AsRun]:
    """Rows that come from the file and not from memory."""

    class Written(AsRunLog):
        async def rows(self, **which: Any) -> list[dict[str, Any]]:
            assert await self.flush()
            return read_rows(path, **which)

    async with Written.open(path, clock=clock) as log:
        yield log


@pytest.fixture(params=[memory, database, written_database], ids=lambda make: str(make.__name__))
def make_log(
    request: pytest.FixtureRequest, path: Path, clock: VirtualClock
) -> Callable[[], AbstractAsyncContextManager[AsRun]]:
    return lambda: request.param(path, clock)


MakeLog = Callable[[], AbstractAsyncContextManager[AsRun]]


async def test_a_run_is_kept_with_everything_that_was_told(make_log: MakeLog) -> None:
    async with make_log() as log:
        log.begin(RECORD)
        log.planned("r-1", 3, START + 2.1)
        log.failover("r-1", FailedOver(START + 1.2, 1, "static", "remote", "no frame for 5 s"))
        log.presented("r-1", "lobby", 1, START + 0.904)
        log.presented("r-1", "lobby", 2, START + 1.5)
        log.presented("r-1", "wall/left", 1, START + 0.91)
        log.end("r-1", "failed over", START + 2.5)
        [row] = await log.rows()
    assert row == {
        "run": "r-1",
        "activation": "show",
        "cue_index": 12,
        "cue": RECORD.cue,
        "action_id": "prompt_001",
        "prompt": RECORD.prompt,
        "drawn_prompt": "person, photorealistic",
        "program": "P2",
        "fingerprint": RECORD.fingerprint,
        "mode": "static",
        "why": "forced: GPU host noisy",
        "forced_by": "foh-tablet",
        "provider": "static",
        "engine": None,
        "set_id": 3,
        "set_hash": RECORD.set_hash,
        "seed": 2**32 - 1,
        "started_at": START,
        "started_wall": START,
        "position": 2662.0,
        "cycle": 0,
        "squeeze": 0.875,
        "ended_at": START + 2.5,
        "outcome": "failed over",
        "planned": {"1": START + 0.9, "2": START + 1.5, "3": START + 2.1},
        "presented": {
            "lobby": {"1": START + 0.904, "2": START + 1.5},
            "wall/left": {"1": START + 0.91},
        },
        "failovers": [
            {
                "at": START + 1.2,
                "step": 1,
                "from": "static",
                "to": "remote",
                "reason": "no frame for 5 s",
            }
        ],
    }
    assert tuple(row) == asrun_file.COLUMNS


async def test_rows_are_newest_first_limited_and_since_a_time(make_log: MakeLog) -> None:
    async with make_log() as log:
        for number in range(5):
            log.begin(record(number, at=START + number))
        tokens = [row["run"] for row in await log.rows(limit=3)]
        assert tokens == ["r-4", "r-3", "r-2"]
        assert len(await log.rows(limit=None)) == 5
        assert await log.rows(limit=0) == []
        late = await log.rows(since=START + 3)
        assert [row["run"] for row in late] == ["r-4", "r-3"]


async def test_runs_that_started_at_the_same_time_are_told_apart(make_log: MakeLog) -> None:
    async with make_log() as log:
        for number in range(3):
            log.begin(record(number))
        assert [row["run"] for row in await log.rows()] == ["r-2", "r-1", "r-0"]


async def test_the_first_report_of_a_step_and_the_first_end_count(make_log: MakeLog) -> None:
    async with make_log() as log:
        log.begin(RECORD)
        log.presented("r-1", "lobby", 1, START + 1)
        log.presented("r-1", "lobby", 1, START + 7)  # the page was loaded anew
        log.end("r-1", "cut", START + 2)
        log.end("r-1", "completed", START + 3)
        [row] = await log.rows()
    assert row["presented"] == {"lobby": {"1": START + 1}}
    assert (row["outcome"], row["ended_at"]) == ("cut", START + 2)


async def test_a_run_begun_again_is_known_better(make_log: MakeLog) -> None:
    async with make_log() as log:
        log.begin(RECORD)
        log.presented("r-1", "lobby", 1, START + 1)
        log.begin(replace(RECORD, provider="live", engine="remote", planned=((2, START + 1.8),)))
        [row] = await log.rows()
    assert (row["provider"], row["engine"]) == ("live", "remote")
    assert row["planned"] == {"1": START + 0.9, "2": START + 1.8}
    assert row["presented"] == {"lobby": {"1": START + 1}}


async def test_what_is_told_of_an_unknown_run_is_not_taken(make_log: MakeLog) -> None:
    async with make_log() as log:
        log.planned("r-9", 1, START)
        log.presented("r-9", "lobby", 1, START)
        log.failover("r-9", FailedOver(START, 1, "static", "live", "why"))
        log.end("r-9", "cut", START)
        assert await log.rows() == []


# ---------------------------------------------------------------- the file


async def test_what_screens_report_late_is_taken_for_some_seconds(
    path: Path, clock: VirtualClock
) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
        log.end("r-1", "completed", START + 2)
        await flush(log)
        clock.jump(4)
        log.presented("r-1", "lobby", 2, START + 1.51)
        clock.jump(20)
        await flush(log)
        [row] = read_rows(path)
        assert row["presented"] == {"lobby": {"2": START + 1.51}}
        await flush(log)
        log.presented("r-1", "lobby", 1, START + 24)
        await flush(log)
    [row] = read_rows(path)
    assert row["presented"] == {"lobby": {"2": START + 1.51}}


async def test_presentations_alone_do_not_make_the_disk_work(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[list[str]] = []
    write = asrun_file.RunFile.write

    def watched(self: asrun_file.RunFile, rows: list[dict[str, Any]]) -> dict[str, Exception]:
        written.append([row["run"] for row in rows])
        return write(self, rows)

    monkeypatch.setattr(asrun_file.RunFile, "write", watched)
    monkeypatch.setattr("server.asrun.log.COMMIT_EVERY", 0.005)
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
        await flush(log)
        for step in range(20):
            log.presented("r-1", "lobby", step, START + step)
            await asyncio.sleep(0.002)
        assert written == [["r-1"]]
        log.end("r-1", "completed", START + 20)
    assert written == [["r-1"], ["r-1"]]
    assert len(read_rows(path)[0]["presented"]["lobby"]) == 20


async def test_runs_are_written_without_being_asked(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.asrun.log.COMMIT_EVERY", 0.005)
    async with AsRunLog.open(path, clock=clock) as log, asyncio.timeout(5):
        log.begin(RECORD)
        while not read_or_nothing(path):  # noqa: ASYNC110 - another thread's work sends no event
            await asyncio.sleep(0.005)


def read_or_nothing(path: Path) -> list[dict[str, Any]]:
    try:
        return read_rows(path)
    except AsRunUnreadable:  # not made yet
        return []


async def test_the_file_is_left_whole_and_its_schema_explains_itself(
    path: Path, clock: VirtualClock
) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
    assert [file.name for file in path.parent.iterdir()] == ["asrun.sqlite"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        columns = [line[1] for line in db.execute("PRAGMA table_info(runs)")]
        (schema,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'runs'").fetchone()
    assert tuple(columns) == asrun_file.COLUMNS
    assert "-- factor on the recorded durations" in schema


async def test_a_run_without_end_is_marked_at_the_next_opening(
    path: Path, clock: VirtualClock
) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(record(1))
        await flush(log)
        assert read_rows(path)[0]["outcome"] is None
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(record(2, at=START + 1))
        rows = await log.rows()
        await flush(log)
        rows = await log.rows()
        assert [row["outcome"] for row in rows] == [None, "interrupted"]


async def test_the_time_of_day_is_kept_beside_the_steady_one(
    path: Path, clock: VirtualClock
) -> None:
    clock.step_wall(3600)
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
        log.end("r-1", "completed", START + 2)
        [row] = await log.rows()
    assert (row["started_at"], row["started_wall"]) == (START, START + 3600)
    [line] = csv.DictReader(io.StringIO(to_csv([row])))
    assert (line["started"], line["ended"]) == (
        "2025-11-24T17:00:00.000Z",
        "2025-11-24T17:00:02.000Z",
    )


_CHILD = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from server.asrun.log import AsRunLog
from server.core.clock import SystemClock
from tests.server.asrun.test_asrun import RECORD

async def main():
    clock = SystemClock()
    async with AsRunLog.open(Path(sys.argv[1]), clock=clock) as log:
        for number in range(10**9):
            log.begin(replace(RECORD, run=f"r-{number}", started_at=clock.now()))
            log.presented(f"r-{number}", "lobby", 1, clock.now())
            if number:
                log.end(f"r-{number - 1}", "cut", clock.now())
            await log.flush()
            if number == 20:
                print("go", flush=True)

asyncio.run(main())
"""


async def test_a_killed_server_leaves_a_readable_log(path: Path, clock: VirtualClock) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CHILD, str(path)), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"go\n"
    assert len(read_rows(path, limit=10)) == 10  # while it is being written
    child.kill()
    assert await child.wait() == -signal.SIGKILL

    rows = read_rows(path, limit=None)
    assert len(rows) >= 21
    assert [row["outcome"] for row in rows[:3]] == [None, "cut", "cut"]
    assert rows[1]["presented"].keys() == {"lobby"}
    async with AsRunLog.open(path, clock=clock) as log:
        await flush(log)
    assert read_rows(path, limit=1)[0]["outcome"] == "interrupted"
    assert len(read_rows(path, limit=None)) == len(rows)


# ---------------------------------------------------------------- trouble


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + b"\xff" * 9000, b"not one\n" * 999])
async def test_a_corrupt_file_is_moved_aside(
    path: Path, clock: VirtualClock, content: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with capture_logs() as logs:
        async with AsRunLog.open(path, clock=clock) as log:
            log.begin(RECORD)
            await flush(log)
            assert len(read_rows(path)) == 1
    assert [entry["event"] for entry in logs] == ["asrun_moved_aside"]
    aside = path.with_name("asrun.sqlite.corrupt-20251124T160000Z")
    assert aside.read_bytes() == content


async def test_a_file_that_becomes_corrupt_is_moved_aside(path: Path, clock: VirtualClock) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(record(1))
        await flush(log)
    garbage = bytearray(path.read_bytes())
    garbage[4096:] = b"\xaa" * (len(garbage) - 4096)  # the first page with its schema stays
    path.write_bytes(garbage)
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(record(2))
        await flush(log)
        assert [row["run"] for row in await log.rows()] == ["r-2"]
    assert len(list(path.parent.glob("asrun.sqlite.corrupt-*"))) == 1


async def test_a_disk_that_corrupts_every_file_is_not_filled_with_them(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(*_: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(asrun_file.RunFile, "write", corrupt)
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
        for _ in range(5):
            assert not await log.flush()
        assert log.trouble == "database disk image is malformed"
        monkeypatch.undo()
        await flush(log)
        assert len(read_rows(path)) == 1
    assert len(list(path.parent.glob("asrun.sqlite.corrupt-????????T??????Z"))) == 1


@pytest.mark.parametrize(
    "statement", ["PRAGMA user_version = 99", "CREATE TABLE runs (lap INTEGER)"]
)
async def test_a_log_of_another_kind_is_kept_and_not_written_into(
    path: Path, clock: VirtualClock, statement: str
) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE treasure (x)")
        db.execute(statement)
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
        await flush(log)
        assert len(read_rows(path)) == 1
    [aside] = path.parent.glob("asrun.sqlite.foreign-????????T??????Z")
    with closing(sqlite3.connect(aside)) as db:
        assert db.execute("SELECT count(*) FROM treasure").fetchone() == (0,)


async def test_a_full_disk_stops_nothing_and_loses_nothing_that_fits_memory(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with AsRunLog.open(path, clock=clock) as log:
            log.begin(record(0))
        with monkeypatch.context() as disk:
            spoil_connections(disk, "PRAGMA max_page_count = 1")  # not one page more than it has
            async with AsRunLog.open(path, clock=clock) as log:
                for number in range(1, 30):
                    log.begin(replace(record(number, at=START + number), why="x" * 9000))
                    assert not await log.flush()
                assert trouble(log) == "database or disk is full"
                assert len(await log.rows()) == 30
                assert len(read_rows(path)) == 1
                assert log.dropped == 0
                disk.undo()
                await flush(log)
                assert trouble(log) is None
                assert len(read_rows(path)) == 30
    events = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert events == ["asrun_not_written", "asrun_written_again"]


async def test_a_disk_that_comes_back_is_noticed_without_being_asked(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.asrun.log.COMMIT_EVERY", 0.005)
    path.parent.write_text("a file where the folder should be")
    async with AsRunLog.open(path, clock=clock) as log, asyncio.timeout(5):
        log.begin(RECORD)
        assert not await log.flush()
        path.parent.unlink()
        await asyncio.sleep(0.02)
        assert trouble(log) is not None  # it rests for some seconds
        clock.jump(6)
        while trouble(log):  # noqa: ASYNC110 - another thread's work sends no event
            await asyncio.sleep(0.005)
    assert len(read_rows(path)) == 1


async def test_what_finds_no_room_in_memory_is_counted(path: Path, clock: VirtualClock) -> None:
    path.parent.write_text("a file where the folder should be")
    async with AsRunLog.open(path, clock=clock, capacity=4) as log:
        for number in range(10):
            log.begin(record(number))
            log.end(f"r-{number}", "completed", START)
        assert not await log.flush()
        assert log.dropped == 6
        assert [row["run"] for row in await log.rows()] == ["r-9", "r-8", "r-7", "r-6"]
    assert log.dropped == 10  # the disk did not come back before the end


async def test_runs_that_are_written_leave_memory_without_being_counted(
    path: Path, clock: VirtualClock
) -> None:
    async with AsRunLog.open(path, clock=clock, capacity=2) as log:
        for number in range(10):
            log.begin(record(number))
            await flush(log)
        assert log.dropped == 0
        assert len(await log.rows()) == 10


async def test_many_runs_are_written_in_batches(path: Path, clock: VirtualClock) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        for number in range(300):
            log.begin(record(number))
        await flush(log)
        assert len(read_rows(path, limit=None)) == 300
        assert log.dropped == 0


async def test_a_screen_cannot_fill_the_memory(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asrun_record, "_MAX_PRESENTED", 10)
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
        for step in range(25):
            log.presented("r-1", "lobby", step, START)
        log.presented("r-1", "lobby", 3, START)
        log.presented("r-1", "another", 3, START)
        assert log.dropped == 16
        [row] = await log.rows()
    assert list(row["presented"]) == ["lobby"]
    assert len(row["presented"]["lobby"]) == 10


@pytest.mark.parametrize("change", [{"position": None}, {"squeeze": math.nan}, {"mode": object()}])
async def test_a_run_that_cannot_be_written_takes_no_other_with_it(
    path: Path, clock: VirtualClock, change: dict[str, Any]
) -> None:
    with capture_logs() as logs:
        async with AsRunLog.open(path, clock=clock) as log:
            log.begin(record(1))
            log.begin(replace(record(2), **change))
            log.begin(record(3))
            await flush(log)
            await flush(log)
            assert {row["run"] for row in read_rows(path)} == {"r-1", "r-3"}
            assert (log.dropped, log.trouble) == (1, None)
    assert [entry["run"] for entry in logs] == ["r-2"]


@pytest.mark.parametrize("seed", [2**63 - 1, 2**63, 2**64 - 1, 2**80])
async def test_a_seed_that_is_larger_than_the_column_is_kept_exactly(
    path: Path, clock: VirtualClock, seed: int
) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(replace(record(1), seed=seed, cue={"foreign": seed, "none": math.nan}))
        await flush(log)
        assert (log.dropped, list(log.conditions())) == (0, [])
    [row] = read_rows(path)
    assert row["seed"] == seed
    assert row["cue"]["none"] is None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT CAST(seed AS TEXT) FROM runs").fetchone() == (str(seed),)


async def test_what_cannot_be_written_is_told(path: Path, clock: VirtualClock) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(replace(record(1), squeeze=math.nan))
        await flush(log)
        [told] = log.conditions()
        assert (told.code, told.level) == ("asrun_incomplete", "note")
        assert "NOT NULL" in told.message


@pytest.mark.parametrize(
    "prompt", ["=1+1", "+49 30", "-2", "@SUM(A1)", "\t=1", " =cmd|' /C calc'!A0", "\uff1d1"]
)
def test_a_cell_is_no_formula(prompt: str) -> None:
    row = RunNotes(replace(RECORD, prompt=prompt, why="plain", position=-1.5), offset=0.0).row()
    [line] = csv.DictReader(io.StringIO(to_csv([row])))
    assert line["prompt"] == f"'{prompt}"
    assert (line["why"], line["position"]) == ("plain", "-1.5"), "numbers stay numbers"


async def test_text_that_is_no_unicode_loses_a_character_only(
    path: Path, clock: VirtualClock
) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(replace(RECORD, prompt="half \ud83d", cue={"prompt": "half \ud83d"}))
    [row] = read_rows(path)
    assert row["prompt"] == "half \\ud83d"
    assert row["cue"]["prompt"].startswith("half ")


async def test_a_file_that_was_deleted_is_begun_anew(path: Path, clock: VirtualClock) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(record(1))
        await flush(log)
        path.unlink()
        log.begin(record(2))
        await flush(log)
        assert [row["run"] for row in read_rows(path)] == ["r-2"]


async def test_somebody_who_holds_the_file_does_not_hold_the_show(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_connections(monkeypatch, "PRAGMA busy_timeout = 20")
    async with AsRunLog.open(path, clock=clock) as log:
        await flush(log)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            log.begin(RECORD)
            assert not await log.flush()
            assert log.trouble == "database is locked"
            assert len(await log.rows()) == 1
        await flush(log)
    assert len(read_rows(path)) == 1


async def test_telling_touches_no_disk(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever SQLite does and however long, the thread that tells only fills a dictionary."""
    used_by: set[str] = set()
    hang = threading.Event()
    connect: Connect = sqlite3.connect

    def slow(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        used_by.add(threading.current_thread().name)
        hang.wait(30)
        return connect(*args, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", slow)
    async with AsRunLog.open(path, clock=clock) as log:
        for number in range(50):
            log.begin(record(number))
            for step in range(20):
                log.planned(f"r-{number}", step, START)
                log.presented(f"r-{number}", "lobby", step, START)
            log.failover(f"r-{number}", FailedOver(START, 1, "static", "live", "why"))
            log.end(f"r-{number}", "completed", START)
        hang.set()
        await flush(log)
    assert used_by == {"as-run log"}
    assert len(read_rows(path)) == 50


async def test_after_closing_nothing_waits(path: Path, clock: VirtualClock) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
    log.begin(record(2))
    log.end("r-2", "cut", START)
    async with asyncio.timeout(1):
        assert not await log.flush()
        await log.close()


# ---------------------------------------------------------------- rotation


DAY = 86_400.0


def filled(path: Path, *days: float, runs: int = 1) -> None:
    """A log with runs on some days from `START` on, in the order in which they were written."""
    file = asrun_file.RunFile(path)
    rows = []
    for place, day in enumerate(days):
        for number in range(runs):
            told = replace(RECORD, run=f"{day}-{place}-{number}", started_at=START + day * DAY)
            notes = asrun_record.RunNotes(told, offset=0.0)
            notes.finish("completed", told.started_at + 1)
            rows.append(notes.row())
    assert not file.write(rows)
    file.close()


def days_left(path: Path) -> list[float]:
    """The days of the runs that are there, in the order in which they were written."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT started_wall FROM runs ORDER BY rowid").fetchall()
    return [round((wall - START) / DAY, 3) for (wall,) in found]


@asynccontextmanager
async def opened_on(path: Path, day: float, keep_days: float) -> AsyncIterator[AsRunLog]:
    """The log is open on a day; nothing of it was deleted before the clock could be believed."""
    before = days_left(path)
    clock = VirtualClock(START + day * DAY)
    async with AsRunLog.open(path, clock=clock, keep_days=keep_days) as log:
        await flush(log)
        assert days_left(path) == before, "one reading of the clock deletes nothing"
        clock.jump(3601)
        await flush(log)
        yield log


async def test_what_ages_is_deleted_day_by_day(path: Path) -> None:
    filled(path, *range(30))
    async with opened_on(path, 29.5, keep_days=28) as log:
        assert days_left(path) == list(range(2, 30))
        for day in range(3, 6):
            log._clock.jump(DAY)  # type: ignore[attr-defined]
            await flush(log)
            assert days_left(path) == list(range(day, 30))


async def test_its_space_is_given_back(path: Path) -> None:
    filled(path, *range(9), *range(400, 410), runs=200)
    full = path.stat().st_size
    async with opened_on(path, 410, keep_days=400):
        pass
    assert days_left(path)[0] == 400
    assert path.stat().st_size < 0.7 * full


@pytest.mark.parametrize("ahead", [365.0, 3650.0, 30.0])
async def test_a_start_with_a_clock_far_ahead_deletes_nothing(path: Path, ahead: float) -> None:
    filled(path, *range(40))
    async with opened_on(path, 40 + ahead, keep_days=28) as log:
        # Played for a day and a night under that clock, it is still two days against forty.
        for number in range(20):
            log.begin(record(number, at=log._clock.now()))
            log.end(f"r-{number}", "completed", log._clock.now())
            log._clock.jump(3600)  # type: ignore[attr-defined]
            await flush(log)
    assert days_left(path)[:40] == list(range(40))
    # Back in its time it goes on as it should, and keeps those runs, whenever they were.
    async with opened_on(path, 40.5, keep_days=28):
        left = days_left(path)
    assert (left[:30], len(left)) == (list(range(10, 40)), 30 + 20), "ten days of it a day"


async def test_should_the_clock_be_wrong_for_days_it_is_a_few_days_of_the_log_a_day(
    path: Path,
) -> None:
    filled(path, *range(100), *range(500, 504))
    async with opened_on(path, 504, keep_days=28):
        assert days_left(path) == [*range(10, 100), *range(500, 504)]


async def test_a_run_is_not_old_because_the_clock_was_not_set_when_it_began(path: Path) -> None:
    in_1970 = -START / DAY
    filled(path, 0, 1, in_1970, *range(25, 30), in_1970, 30)
    async with opened_on(path, 30.5, keep_days=28):
        kept = [round(in_1970, 3), *range(25, 30), round(in_1970, 3), 30]
        assert days_left(path) == kept
    # It goes with the next run that was written after it.
    filled(path, *range(50, 55))
    async with opened_on(path, 54.5, keep_days=28):
        assert days_left(path) == [*range(27, 30), round(in_1970, 3), 30, *range(50, 55)]


async def test_a_clock_that_was_just_set_is_not_believed_for_an_hour(path: Path) -> None:
    filled(path, *range(30))
    clock = VirtualClock(START + 29.5 * DAY)
    async with AsRunLog.open(path, clock=clock, keep_days=28) as log:
        for _ in range(6):
            clock.jump(3000)
            clock.step_wall(61)  # a clock that nobody holds still
            await flush(log)
        assert days_left(path) == list(range(30))
        clock.jump(3601)
        with capture_logs() as logs:
            await flush(log)
        assert days_left(path) == list(range(2, 30))
        assert [entry["runs"] for entry in logs if entry["event"] == "asrun_pruned"] == [2]


# ---------------------------------------------------------------- reading and export


def test_reading_no_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(AsRunUnreadable, match="there is no as-run log"):
        read_rows(tmp_path / "asrun.sqlite")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text").write_text("nothing of the kind\n" * 500)
    with pytest.raises(AsRunUnreadable, match="cannot be read as an as-run log"):
        read_rows(tmp_path / "text")


async def test_an_archived_log_is_read_from_a_read_only_medium(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsRunLog.open(path, clock=clock) as log:
        log.begin(RECORD)
    connect: Connect = sqlite3.connect

    def read_only(address: str, **kwargs: Any) -> sqlite3.Connection:
        if "immutable" not in address:  # root may write anywhere, so the refusal is played
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        return connect(address, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    assert [row["run"] for row in read_rows(path)] == ["r-1"]


async def told(log: AsRun) -> list[dict[str, Any]]:
    log.begin(replace(RECORD, planned=tuple((step, START + step) for step in range(1, 101))))
    log.failover("r-1", FailedOver(START + 1, 3, "static", "remote", "broken image, step 3"))
    for step in range(1, 101):
        log.presented("r-1", "lobby", step, START + step + step / 1000)
    log.presented("r-1", "lobby", 500, START)  # a step that nobody planned
    log.end("r-1", "completed", START + 101)
    log.begin(record(2, at=START + 200))
    return await log.rows()


async def test_csv_reads_back() -> None:
    rows = await told(AsRun())
    text = to_csv(rows)
    assert text.count("\r\n") == 3
    running, finished = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    assert (running["run"], running["outcome"], running["ended"]) == ("r-2", "", "")
    assert running["late_p50_ms"] == ""
    assert finished["started"] == "2025-11-24T16:00:00.000Z"
    assert finished["ended"] == "2025-11-24T16:01:41.000Z"
    assert finished["prompt"] == RECORD.prompt
    assert (finished["cue_time"], finished["cue_action"]) == ("00:44:22", "prompt")
    assert finished["failovers"] == "static -> remote: broken image, step 3"
    assert (finished["steps"], finished["screens"]) == ("100", "1")
    assert float(finished["late_p50_ms"]) == 50
    assert float(finished["late_p99_ms"]) == 99
    assert float(finished["late_max_ms"]) == 100


def test_csv_of_nothing_is_a_header() -> None:
    assert re.fullmatch(r"started,ended,[a-z0-9_,]+\r\n", to_csv([]))


async def test_pieces_are_the_whole() -> None:
    rows = await told(AsRun())
    for size in (1, 2, 5):
        starts = range(0, len(rows), size)
        for encode, whole in ((to_json, to_json(rows)), (to_csv, to_csv(rows))):
            pieces = [
                encode(rows[at : at + size], first=at == 0, last=at == starts[-1]) for at in starts
            ]
            joined = "".join(pieces)
            assert joined.replace(",\n", ",") == whole.replace(",\n", ",")
    assert json.loads(to_json([], first=True, last=True)) == []


async def test_json_reads_back() -> None:
    rows = await told(AsRun())
    assert json.loads(to_json(rows)) == rows
    assert "詩" in to_json(rows)
    assert len(lateness(rows[1])) == 100
