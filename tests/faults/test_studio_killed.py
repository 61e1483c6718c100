"""The Studio as a process, when something is wrong: ended, without room, without its files."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.programs import Program, start
from tests.helpers.servers import ROOT, plain_environment
from tests.helpers.studios import PATIENCE, StudioProgram, picture_of, studio_program, write_studio

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

SLOW = '[[engines]]\nname = "card"\nkind = "testcard"\n'
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


async def test_it_and_its_children_give_way_to_a_show(show: Path) -> None:
    with studio_program(show) as studio:
        await studio.start()
        over(studio, (await ask(studio)).json()["id"])
        assert studio.program is not None
        (child,) = children_of(studio.program.pid)
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        its = os.getpriority(os.PRIO_PROCESS, studio.program.pid)
        assert ours < its < os.getpriority(os.PRIO_PROCESS, child)
