"""Real children: they draw, they are killed, stopped, orphaned, and nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import structlog

from generator.engines.port import (
    Engine,
    EnginePreempted,
    EngineUnavailable,
    RecipeRefused,
    render_proof,
)
from generator.engines.registry import AnyEngine
from generator.engines.remote.engine import RemoteEngine
from generator.engines.remote.settings import WorkerSection
from generator.engines.sketch.engine import SketchEngine
from generator.engines.sketch.settings import SketchSection
from server.cli import worker as worker_command
from server.core.child_process import ChildFailed
from server.core.clock import SystemClock
from server.core.output import BackgroundStream
from server.engines.child import (
    TOKEN_VARIABLE,
    Child,
    ChildAssignment,
    _Voice,
    worker_child,
    worker_environment,
)
from server.engines.live import local_child
from server.engines.local import LocalEngine
from server.engines.supervision import RestartPolicy, Supervision
from tests.contracts.engine_contract import DistantEngineContract, drawn, from_base, recipe
from tests.helpers.servers import ROOT, plain_environment

SKETCH = SketchSection(name="pencil", pace=0.05)
AT_ONCE = Supervision(restarts=RestartPolicy(first_pause=0.01))
PATIENCE = 60.0


@asynccontextmanager
async def supervised(
    section: AnyEngine = SKETCH, policy: Supervision = AT_ONCE, *, silence: float = 15
) -> AsyncIterator[LocalEngine]:
    clock = SystemClock()
    start = partial(worker_child, section, recipe(), clock, silence=silence)
    engine = LocalEngine("pencil", start, warm_up=[recipe(steps=1)], clock=clock, policy=policy)
    async with asyncio.timeout(PATIENCE), engine:
        yield engine


def alive(pid: int, *, reaped: bool = True) -> bool:
    """Whether there is such a process; a zombie is one, unless it need not be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return reaped or state != "Z"


def children() -> set[str]:
    """The processes that we are the parent of."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


async def gone(pid: int, *, reaped: bool = True) -> None:
    """Wait until there is none; an orphan is reaped by whoever adopts it, some day."""
    async with asyncio.timeout(PATIENCE):
        while alive(pid, reaped=reaped):  # noqa: ASYNC110 - of a process that is not our child nobody tells
            await asyncio.sleep(0.02)


async def draw_and_signal(engine: Engine, pid: int, number: signal.Signals) -> None:
    """Draw, and in the middle of it send the child a signal."""
    async with engine.render(recipe(steps=100)) as images:
        async for image in images:
            if image.step == 3:
                os.kill(pid, number)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def shared() -> AsyncIterator[LocalEngine]:
    section = SketchSection(name="pencil", pace=0.005)
    async with local_child(section, [recipe()], SystemClock()) as engine:
        await asyncio.wait_for(engine.until("ready"), PATIENCE)
        yield engine


@pytest.mark.asyncio(loop_scope="class")
class TestLocalEngine(DistantEngineContract):
    """The contract, over a child that is shared."""

    patience = PATIENCE

    @pytest.fixture
    def engine(self, shared: LocalEngine) -> Engine:
        return shared

    async def test_it_is_what_its_child_is(self, engine: LocalEngine) -> None:
        assert (engine.name, engine.timing) == (SketchEngine().name, "simulated")
        status = engine.status()
        assert (status.state, status.restarts) == ("ready", 0)
        assert status.memory is None or status.memory > 2**20
        assert [image.step for image in await drawn(engine, recipe())] == [1, 2, 3, 4, 5]


async def test_in_a_child_too_the_show_goes_first() -> None:
    slow = SketchSection(name="pencil", pace=0.1)
    begun = asyncio.Event()

    async def practise(child: Child) -> None:
        async with render_proof(child.engine, recipe(steps=600)) as images:
            async for _ in images:
                begun.set()

    async with (
        asyncio.timeout(PATIENCE),
        worker_child(slow, recipe(steps=1), SystemClock()) as child,
    ):
        practising = asyncio.create_task(practise(child))
        await begun.wait()
        assert (await drawn(child.engine, recipe(steps=1)))[-1].final
        with pytest.raises(EnginePreempted):
            await practising


async def test_killed_in_a_drawing_it_is_started_again_and_the_next_is_whole() -> None:
    async with supervised() as engine:
        first = (await engine.until("ready")).pid
        assert first is not None
        with pytest.raises(EngineUnavailable, match="pencil was lost"):
            await draw_and_signal(engine, first, signal.SIGKILL)
        lost = await engine.until("restarting")
        assert lost.reason == "it was killed by signal 9"
        second = await engine.until("ready")
        assert second.pid not in {None, first}
        assert second.restarts == 1
        assert (await drawn(engine, recipe()))[-1].final
        await gone(first)
    await gone(second.pid or 0)


async def test_stopped_in_a_drawing_it_falls_silent_and_is_killed() -> None:
    async with supervised(silence=1.5) as engine:
        first = (await engine.until("ready")).pid
        assert first is not None
        with pytest.raises(EngineUnavailable, match="it fell silent"):
            await draw_and_signal(engine, first, signal.SIGSTOP)
        assert (await engine.until("restarting")).reason.endswith("it fell silent")
        await gone(first)
        second = (await engine.until("ready")).pid
        assert second is not None
        assert (await drawn(engine, recipe()))[-1].final
        os.kill(second, signal.SIGSTOP)
    assert not alive(second)  # though it could not answer when it was asked to end


async def test_leaving_ends_it_while_it_starts() -> None:
    before = children()
    async with supervised() as engine:
        async with asyncio.timeout(PATIENCE):
            while not children() - before:  # noqa: ASYNC110 - nobody tells of it so early
                await asyncio.sleep(0.01)
        assert engine.status().state == "starting"
    assert children() == before


async def test_one_that_cannot_be_what_it_is_told_says_why() -> None:
    section = WorkerSection(name="far", url="http://127.0.0.1:1")
    with pytest.raises(ChildFailed, match="ended with status 2: far draws elsewhere"):
        async with worker_child(section, recipe(), SystemClock()):
            pass


def test_a_child_is_told_no_secrets_and_finds_our_packages() -> None:
    given = {
        "UNDERSTUDY_OPERATOR_TOKEN": "a",
        "R2_SECRET_ACCESS_KEY": "b",
        "AWS_SECRET_ACCESS_KEY": "c",
        "REPLICATE_API_TOKEN": "d",
        "PYTHONPATH": "/elsewhere",
        "HF_HOME": "/models",
    }
    told = worker_environment(given, "t0k3n")
    assert set(told) == {TOKEN_VARIABLE, "PYTHONPATH", "PYTHONUNBUFFERED", "HF_HOME"}
    assert told[TOKEN_VARIABLE] == "t0k3n"
    assert told["PYTHONPATH"] == f"{ROOT}{os.pathsep}/elsewhere"


async def test_of_what_it_says_no_more_is_passed_on_than_anybody_reads() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"the token is s3cr3t\n" + b"x" * 100_000 + b"\n" + b"chatter\n" * 1000)
    stream.feed_eof()
    voice = _Voice("pencil", "s3cr3t")
    with structlog.testing.capture_logs() as logs:
        async with voice.heard(stream):
            await voice.heard_out()
    said = [entry["line"] for entry in logs if entry["event"] == "engine_says"]
    assert said[0] == "the token is …"
    assert len(said[1]) == 2000
    assert len(said) < 150
    assert logs[-1]["event"] == "engine_says_too_much"
    assert voice.last_words == "chatter"


@pytest.mark.parametrize("line", ["[" * 1999, '{"level": {}, "event": 1}', '{"a":' * 400])
async def test_whatever_it_says_it_is_heard_on(line: str) -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(f"{line}\nafterwards\n".encode())
    stream.feed_eof()
    voice = _Voice("pencil", "s3cr3t")
    with structlog.testing.capture_logs():
        async with voice.heard(stream):
            await voice.heard_out()
    assert voice.last_words == "afterwards"


async def test_it_ends_when_its_standard_input_closes() -> None:
    """What ends it where Linux does not: elsewhere, and where its parent was too quick to die."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "worker", "--supervised", "--port", "0"),
        cwd=ROOT,
        env=worker_environment(plain_environment(), "t0k3n"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assignment = ChildAssignment(engine=SKETCH, probe=recipe(steps=1))
    child.stdin.write(assignment.model_dump_json().encode() + b"\n")
    async with asyncio.timeout(PATIENCE):
        assert b"http://127.0.0.1:" in await child.stdout.readline()
        child.stdin.close()
        assert await child.wait() == 1


async def test_what_it_says_is_in_our_log_and_its_secret_is_ours_alone() -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            worker_child(SKETCH, recipe(), SystemClock()) as child,
            httpx.AsyncClient() as client,
        ):
            assert isinstance(child.engine, RemoteEngine)
            token = child.engine.headers["authorization"].split()[1]
            with pytest.raises(EngineUnavailable, match="token"):
                await drawn(RemoteEngine(client, child.engine.url), recipe())
            with pytest.raises(RecipeRefused, match="base image"):
                await drawn(child.engine, from_base(0.5, base=b"no picture"))
            command = Path(f"/proc/{child.pid}/cmdline").read_text()
            child.kill()
            assert (await child.ended()).startswith("it was killed by signal 9: drawing_failed")
    (said,) = [entry for entry in logs if entry["event"] == "engine_says"]
    assert (said["log_level"], said["engine"]) == ("warning", "pencil")
    assert said["line"].startswith("drawing_failed code=refused")
    assert token not in repr(logs)
    assert token not in command


def test_what_a_child_says_last_is_written_before_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A queue would lose, in a crash, just those lines that say why."""
    streams: list[object] = []
    monkeypatch.setattr(
        worker_command, "_be_supervised", lambda *_: streams.extend((sys.stdout, sys.stderr))
    )
    worker_command.worker(supervised=True)
    assert len(streams) == 2
    assert not any(isinstance(stream, BackgroundStream) for stream in streams)


PARENT = """
import asyncio
from server.engines.child import worker_child
from server.core.child_process import ChildFailed
from server.core.clock import SystemClock
from generator.engines.sketch.settings import SketchSection
from generator.sheet.recipe import Recipe

async def main():
    probe = Recipe(model="m", prompt="", steps=1, width=64, height=64)
    child = lambda: worker_child(SketchSection(name="pencil"), probe, SystemClock())
    async with child() as one, child() as other:
        print(one.pid, other.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_they_do_not_outlive_a_parent_that_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT), cwd=ROOT, env=plain_environment(), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    line = await asyncio.wait_for(parent.stdout.readline(), PATIENCE)
    one, other = map(int, line.split())
    try:
        if sys.platform == "linux":  # elsewhere a process that is stopped notices nothing
            os.kill(other, signal.SIGSTOP)
        parent.kill()
        await parent.wait()
        await gone(one, reaped=False)
        await gone(other, reaped=False)
    finally:
        for pid in (one, other):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
