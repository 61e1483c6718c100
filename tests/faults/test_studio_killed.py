"""The Studio as a process, when something is wrong: ended, without room, without its files."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.programs import start
from tests.helpers.servers import ROOT, plain_environment, server_process
from tests.helpers.studio_programs import (
    PATIENCE,
    StudioProgram,
    picture_of,
    studio_program,
    write_studio,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

LONG = {"recipe": {"model": "none", "prompt": "a lamp", "steps": 400, "width": 1024, "height": 768}}


async def ask(studio: StudioProgram, **body: Any) -> httpx.Response:
    """Ask for a job."""
    asked = {"kind": "draw", "prompt": "a lamp", "program": "P4", "seed": 7, **body}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.post(f"{studio.address.http}/api/jobs", json=asked)


def get(studio: StudioProgram, path: str) -> dict[str, Any]:
    """What is answered to a question."""
    answer = httpx.get(f"{studio.address.http}{path}", timeout=70, trust_env=False)
    document: dict[str, Any] = answer.json()
    return document


def over(studio: StudioProgram, job: str) -> dict[str, Any]:
    """A job, once it is over."""
    until = time.monotonic() + PATIENCE
    while (found := get(studio, f"/api/jobs/{job}?wait=20"))["status"] in {"queued", "processing"}:
        assert time.monotonic() < until, found
    return found


def eventually(holds: Callable[[], bool], what: object = "it never came") -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def said_by(arguments: list[object], log: Path) -> tuple[int, str]:
    """How a command ended, and what it said."""
    program = start(arguments, log)
    status = program.wait()
    return status, program.said()


def one_line(said: str) -> str:
    assert "Traceback" not in said
    (line,) = said.strip().splitlines()
    return line


@pytest.fixture
def show(tmp_path: Path) -> Path:
    return write_studio(tmp_path / "show")


# ---------------------------------------------------------------- ended


@pytest.mark.pace
async def test_told_to_end_it_puts_back_what_it_draws_and_leaves_nothing_behind(
    show: Path,
) -> None:
    with studio_program(show) as studio:
        await studio.start()
        (job,) = [(await ask(studio, program=None, prompt=None, **LONG)).json()["id"]]
        eventually(lambda: get(studio, f"/api/jobs/{job}")["progress"] > 0)
        assert studio.program is not None
        (child,) = children_of(studio.program.pid)
        began = time.monotonic()
        assert studio.terminate() == 0
        assert time.monotonic() - began < 5
        assert not Path(f"/proc/{child}").exists()
        assert studio.errors() == []
        assert not [name for name in files_below(show) if name.endswith((".tmp", "-wal", "-shm"))]
        with closing(sqlite3.connect(studio.database)) as database:
            found = database.execute("SELECT status, tries, claims, holder FROM items").fetchall()
            assert found == [("queued", 0, 1, None)]
            assert database.execute("SELECT crashes FROM jobs").fetchall() == [(0,)]
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_what_a_studio_of_another_name_held_is_drawn_all_the_same(show: Path) -> None:
    with studio_program(show) as studio:
        await studio.start()
        job = (await ask(studio, n=30)).json()["id"]
        eventually(lambda: get(studio, f"/api/jobs/{job}")["done"] > 0)
        studio.kill()
        # As in a copy that was made while it drew, or where the machine has another name now.
        (show / ".understudy" / "studio-id").unlink()
        await studio.start()
        found = over(studio, job)
        assert (found["status"], found["done"]) == ("completed", 30)


@pytest.mark.pace
async def test_told_to_end_whoever_listens_or_waits_hears_the_end_and_keeps_nobody(
    show: Path,
) -> None:
    with studio_program(show) as studio:
        await studio.start()
        where = studio.address.http
        job = (await ask(studio, program=None, prompt=None, **LONG)).json()["id"]
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            waiting = [
                asyncio.create_task(client.get(f"{where}{path}"))
                for path in ("/api/events", f"/api/jobs/{job}/events", f"/api/jobs/{job}?wait=50")
            ]
            began = time.monotonic()
            while get(studio, f"/api/jobs/{job}")["progress"] == 0:
                assert time.monotonic() - began < PATIENCE
                await asyncio.sleep(0.02)
            began = time.monotonic()
            assert await asyncio.to_thread(studio.terminate) == 0
            assert time.monotonic() - began < 5
            answers = await asyncio.gather(*waiting)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert "item.running" in answers[1].text
        assert answers[2].json()["status"] == "processing"
        assert studio.errors() == []


async def test_killed_its_children_end_with_it(show: Path) -> None:
    with studio_program(show) as studio:
        await studio.start()
        job = (await ask(studio, n=2)).json()["id"]
        over(studio, job)
        assert studio.program is not None
        (child,) = children_of(studio.program.pid)
        os.kill(child, signal.SIGSTOP)  # not even one that hangs outlives it
        studio.kill()
        eventually(lambda: not Path(f"/proc/{child}").exists())


async def test_a_drawing_that_kills_each_process_that_tries_it_is_given_up_and_keeps_nobody(
    show: Path,
) -> None:
    with studio_program(show) as studio:
        await studio.start()
        assert studio.program is not None
        deadly = (await ask(studio, program=None, prompt=None, **LONG)).json()["id"]
        behind = (await ask(studio)).json()["id"]
        for _ in range(3):
            eventually(lambda: get(studio, f"/api/jobs/{deadly}")["progress"] > 0)
            (child,) = children_of(studio.program.pid)
            os.kill(child, signal.SIGKILL)
            eventually(lambda: get(studio, f"/api/jobs/{deadly}")["progress"] in {0, 1})
        found = over(studio, deadly)
        assert (found["status"], found["error"]["code"]) == ("failed", "failed")
        assert "killed by signal 9" in found["error"]["message"]
        assert over(studio, behind)["status"] == "completed"


async def test_it_and_its_children_give_way_to_a_show(show: Path) -> None:
    with studio_program(show) as studio:
        await studio.start()
        over(studio, (await ask(studio)).json()["id"])
        assert studio.program is not None
        (child,) = children_of(studio.program.pid)
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        its = os.getpriority(os.PRIO_PROCESS, studio.program.pid)
        assert ours < its < os.getpriority(os.PRIO_PROCESS, child)


# ---------------------------------------------------------------- no room


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Path]:
    """A real file system of a few megabytes, where one may be mounted."""
    folder.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that a disk has left; the file that does."""
    full = disk / "filler"
    with full.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free < 4096
    return full


def paused(studio: StudioProgram) -> str | None:
    """The code of why the queue is paused."""
    found = get(studio, "/api/queue")["paused"]
    return None if found is None else found["code"]


async def test_a_full_store_pauses_the_queue_which_goes_on_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        show = write_studio(tmp_path / "show", store=f"file://{disk}/store")
        with studio_program(show) as studio:
            await studio.start()
            over(studio, (await ask(studio)).json()["id"])
            full = fill(disk)
            asked = await ask(studio, n=3)
            assert asked.status_code == 202
            eventually(lambda: paused(studio) == "disk_full")
            job = asked.json()["id"]
            found = get(studio, f"/api/jobs/{job}")
            assert found["done"] == found["failed"] == 0
            assert get(studio, "/readyz")["ready"] is False
            full.unlink()
            found = over(studio, job)
            assert (found["status"], found["done"], found["attempt"]) == ("completed", 3, 1)
            assert paused(studio) is None
            assert all(picture_of(disk / "store", each["take"]) for each in found["items"])
            assert not [name for name in files_below(disk) if name.endswith(".tmp")]
            assert studio.errors() == []


async def test_below_what_is_kept_free_nothing_new_is_begun(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        show = write_studio(
            tmp_path / "show", store=f"file://{disk}/store", studio="keep_free = 4_000_000"
        )
        full = disk / "filler"
        full.write_bytes(bytes(5_000_000))
        with studio_program(show) as studio:
            await studio.start()
            job = (await ask(studio)).json()["id"]
            eventually(lambda: paused(studio) == "disk_full")
            found = get(studio, f"/api/jobs/{job}")
            assert (found["status"], found["started_at"]) == ("queued", None)
            full.unlink()
            assert over(studio, job)["status"] == "completed"


async def test_where_the_database_has_no_room_nothing_is_promised_and_it_lives(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        show = write_studio(
            tmp_path / "show", studio=f'keep_free = 0\ndatabase = "sqlite:///{disk}/studio.sqlite"'
        )
        with studio_program(show) as studio:
            await studio.start()
            before = (await ask(studio, n=2)).json()["id"]
            over(studio, before)
            full = fill(disk)
            promised = []
            # The log of what is written may have some room left in its file.
            while (answer := await ask(studio, prompt="x" * 5000)).status_code == 202:
                promised.append(answer.json()["id"])
                assert len(promised) < 400
            assert answer.status_code in {503, 507}, answer.text
            assert answer.json()["error"]["code"] in {"disk_full", "unavailable"}
            assert get(studio, f"/api/jobs/{before}")["status"] == "completed"
            full.unlink()
            async with asyncio.timeout(PATIENCE):
                while (await ask(studio)).status_code != 202:  # noqa: ASYNC110 - another process's
                    await asyncio.sleep(0.1)
            found = [over(studio, job) for job in promised]
            assert {each["status"] for each in found} <= {"completed"}
            # What sends webhooks cannot without the database; it is started again, and says so.
            assert {each.get("job") for each in studio.errors()} <= {"studio_hooks"}


# ---------------------------------------------------------------- what keeps it from starting


def serve(show: Path, *more: object) -> tuple[int, str]:
    """How a Studio ends that cannot serve, and the one line that it says."""
    log = show / "said.log"
    status, said = said_by(["studio", "serve", "--show", show, "--port", 0, *more], log)
    log.unlink()
    return status, one_line(said)


@pytest.fixture
def database(show: Path) -> Path:
    """The database of a Studio that has been."""
    status, _ = said_by(["studio", "member", "add", "ada", "--show", show], show / "log")
    assert status == 0
    return show / ".understudy" / "studio.sqlite"


def damaged(database: Path, at: int) -> None:
    content = bytearray(database.read_bytes())
    content[at:] = random.Random(at).randbytes(len(content) - at)
    database.write_bytes(content)


@pytest.mark.parametrize("at", [0, 100, 4096, 40_000])
def test_a_database_that_is_damaged_is_named_with_what_helps(
    show: Path, database: Path, at: int
) -> None:
    damaged(database, at)
    status, said = serve(show)
    assert status == 1
    assert said.startswith(f"{database}: ")
    assert "understudy studio backup" in said


def test_a_database_that_is_gone_is_not_made_anew_unasked(show: Path) -> None:
    with studio_program(show) as studio:
        studio.begin()
        eventually(lambda: "http://" in studio.log.read_text())
        studio.terminate()
        studio.database.unlink()
        status, said = serve(show)
        assert status == 1
        assert said.startswith(f"{studio.database}: is gone")
        assert "understudy studio backup" in said
        studio.database.with_name("studio.sqlite.lock").unlink()
        studio.begin()
        eventually(lambda: "http://" in studio.log.read_text())


def test_a_database_of_a_later_release_is_named_and_left_alone(show: Path, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = database.read_bytes()
    status, said = serve(show)
    assert status == 1
    assert said.startswith(f"{database}: ")
    assert "9999" in said
    assert database.read_bytes() == before


async def test_a_second_one_is_told_where_the_first_is_and_the_first_goes_on(show: Path) -> None:
    with studio_program(show) as studio:
        await studio.start()
        assert studio.program is not None
        status, said = serve(show)
        assert status == 1
        assert f"process {studio.program.pid} on {socket.gethostname()}" in said
        assert over(studio, (await ask(studio)).json()["id"])["status"] == "completed"
        studio.kill()
        await studio.start()  # and what was killed keeps nobody out


def test_a_port_that_is_taken_is_told(show: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        status, said = serve(show, "--port", port)
    assert (status, said) == (
        1,
        f"cannot listen on 127.0.0.1 port {port}: something listens there already",
    )


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        show = write_studio(disk / "show")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
        log = tmp_path / "said.log"
        status, said = said_by(["studio", "serve", "--show", show, "--port", 0], log)
    assert status == 1
    assert one_line(said) == f"{show}/.understudy/studio.sqlite: Read-only file system"


def test_a_store_that_is_nowhere_is_told(show: Path) -> None:
    status, said = serve(show, "--store", "gopher://somewhere")
    assert status == 1
    assert said.startswith("[store] url: ")


def test_without_its_packages_it_says_what_to_install_and_all_else_works(
    show: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('sqlalchemy', 'alembic', 'standardwebhooks', 'dynamicprompts'):\n"
        "    sys.modules[name] = None\n"
    )
    environment = plain_environment(PYTHONPATH=f"{blocked}:{ROOT}")

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "server", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    for words in (["studio"], ["studio", "--show", str(show)], ["studio", "member", "list"]):
        status, _, said = run(*words)
        assert status == 2
        assert "pip install 'understudy[studio]'" in one_line(said)
    status, listed, _ = run("--help")
    assert status == 0
    assert "studio" in listed
    status, _, _ = run("worker", "--help")
    assert status == 0
    with server_process(show, environment={"PYTHONPATH": environment["PYTHONPATH"]}) as server:
        assert server.state()["health"]["level"] in {"ok", "degraded", "note"}
