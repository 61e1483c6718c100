"""A log that nobody reads, a full disk behind standard output: the wall plays on."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.helpers.screens import screen
from tests.helpers.servers import ROOT, Address, ServerProcess, free_port, plain_environment
from tests.helpers.shows import TinyShow, cue, make_show, prompt

CUES = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, the size of a pipe")


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES)


@contextmanager
def started(
    tiny: TinyShow, *, stdout: IO[bytes] | int, stderr: IO[bytes] | int, closed: Sequence[int] = ()
) -> Iterator[ServerProcess]:
    """A server whose output goes there, at a port that it need not tell."""
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--show", str(tiny.folder)]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        env=plain_environment(),
        stdout=stdout,
        stderr=stderr,
        text=True,
        preexec_fn=partial(_close, closed),  # noqa: PLW1509 - no thread holds a lock of ours
    )
    server = ServerProcess(process, Address(port), tiny.folder / "server.log")
    try:
        server.wait_until_it_answers()
        yield server
    finally:
        server.close()


def told(server: ServerProcess) -> list[dict[str, Any]]:
    """What the state says of its output."""
    conditions = server.state()["health"]["conditions"]
    return [each for each in conditions if each["code"] == "output_not_written"]


def until_told(server: ServerProcess, *, so: bool, within: float = 10.0) -> list[dict[str, Any]]:
    ends = time.monotonic() + within
    while bool(found := told(server)) is not so:
        assert time.monotonic() < ends, found
        time.sleep(0.1)
    return found


async def test_a_log_that_nobody_reads_does_not_stop_the_wall(tiny: TinyShow) -> None:
    heard: list[bytes] = []
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with started(tiny, stdout=subprocess.DEVNULL, stderr=writer) as server:
        os.close(writer)
        async with screen(server.address, "loud") as loud, screen(server.address) as wall:
            for _ in range(40):
                await loud.send({"type": "log", "level": "info", "message": "x" * 1900})
            (condition,) = await asyncio.to_thread(until_told, server, so=True)
            assert condition["level"] == "degraded"
            assert "nobody reads it" in condition["message"]
            await asyncio.to_thread(server.control, "go")  # a line of the log, too
            await wall.until(lambda me: me.of("run_end"), why="no picture")
        drain = threading.Thread(target=_read, args=(reader, heard))
        drain.start()
        await asyncio.to_thread(until_told, server, so=False)
        status, _ = await asyncio.to_thread(server.terminate)
        drain.join()
        os.close(reader)
    assert status == 0
    lines = b"".join(heard).splitlines()
    assert sum(b"screen_says" in line for line in lines) == 20


def test_a_full_disk_is_told_the_show_plays_and_its_end_waits_for_nobody(tiny: TinyShow) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    with Path("/dev/full").open("wb") as full, started(tiny, stdout=full, stderr=writer) as server:
        (condition,) = until_told(server, so=True)
        assert "standard output has not been written since" in condition["message"]
        assert "no space left" in condition["message"]
        assert server.control("go")["status"] == "active"  # and nobody reads of it
        metrics = httpx.get(f"{server.address.http}/metrics", trust_env=False).text
        assert 'understudy_conditions{code="output_not_written",level="degraded"}' in metrics
        status, took = server.terminate()
    os.close(writer)
    os.close(reader)
    assert status == 0
    assert took < 10


def test_without_any_output_there_is_nothing_to_tell(tiny: TinyShow) -> None:
    null = subprocess.DEVNULL
    with started(tiny, stdout=null, stderr=null, closed=(1, 2)) as server:
        assert told(server) == []
        folder = Path(f"/proc/{server.process.pid}/fd")
        assert {str((folder / str(each)).readlink()) for each in (1, 2)} == {"/dev/null"}
        status, _ = server.terminate()
    assert status == 0


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_a_command_whose_answer_cannot_be_written_says_so(redirection: str) -> None:
    command = f"exec {sys.executable} -m server generate plan --json {redirection}"
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=plain_environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("output cannot be written: ")


def _close(descriptors: Sequence[int]) -> None:
    for each in descriptors:
        os.close(each)


def _read(descriptor: int, into: list[bytes]) -> None:
    while data := os.read(descriptor, 65536):
        into.append(data)
