from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from generator.engines.older_wire.engine import OlderWireEngine, commands_of
from generator.engines.port import EngineUnavailable
from generator.engines.remote.engine import RemoteEngine
from generator.engines.remote.protocol import PRIORITY_HEADER
from server.config.show import Show, load_show
from server.core.clock import VirtualClock, settle
from server.engines.live import live_engines
from server.engines.local import LocalEngine
from tests.contracts.engine_contract import drawn, recipe
from tests.generator.engines.older_wire_server import OlderProgram, older_program
from tests.generator.engines.test_diffusers import needs_diffusers
from tests.helpers.servers import ROOT, plain_environment
from tests.helpers.shows import MANUAL, cue, line, prompt, write_show

CUES = [
    cue(0, "start"),
    line(0, "a lamp"),
    prompt(10, "a stage", override="an empty stage"),
    prompt(20, "a crowd", program="P2", guidance=40),
    cue(40, "end"),
]
ENGINES = """
[[engines]]
name = "gpu"
kind = "sketch"
live = true
[[engines]]
name = "pencil"
kind = "sketch"
[[engines]]
name = "upstairs"
kind = "worker"
url = "http://127.0.0.1:9"
[[engines]]
name = "spare"
kind = "worker"
url = "http://127.0.0.1:9"
live = false
[[engines]]
name = "first"
kind = "older-wire"
url = "ws://127.0.0.1:9/ws"
"""


def show_with(folder: Path, engines: str) -> Show:
    return load_show(write_show(folder, CUES, MANUAL + engines), {}, {})


async def test_they_are_ranked_those_elsewhere_first(tmp_path: Path) -> None:
    show = show_with(tmp_path, ENGINES)
    async with live_engines(show, show.plan({}), VirtualClock()) as engines:
        assert [(each.name, each.local) for each in engines.ranked] == [
            ("upstairs", False),
            ("first", False),
            ("gpu", True),
        ]
        worker, older, local = (each.engine for each in engines.ranked)
        assert isinstance(worker, RemoteEngine)
        assert isinstance(older, OlderWireEngine)
        assert isinstance(local, LocalEngine)
        assert engines.local == {"gpu": local}
        assert worker.headers[PRIORITY_HEADER] == "show"
        # Nothing was waited for, and what is not there says so.
        for engine in (worker, older, local):
            with pytest.raises(EngineUnavailable):
                await drawn(engine, recipe())
    assert local.status().state == "stopped"


async def test_one_that_cannot_start_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    show = show_with(tmp_path, ENGINES)
    async with live_engines(show, show.plan({}), VirtualClock()) as engines:
        status = await asyncio.wait_for(engines.local["gpu"].until("restarting"), 10)
        assert status.reason == "it cannot be started: No such file or directory"


async def test_without_engines_there_is_nothing_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("server.engines.live.client_for_engines")  # it takes a while to make
    before = asyncio.all_tasks()
    show = show_with(tmp_path, "")
    async with live_engines(show, show.plan({}), VirtualClock()) as engines:
        assert (engines.ranked, engines.local) == ((), {})
    await settle()
    assert asyncio.all_tasks() == before


async def test_the_older_wire_is_told_the_cues_own_words(tmp_path: Path) -> None:
    show = show_with(tmp_path, "")
    actions = show.plan({}).actions
    says = commands_of(actions)
    # and not the program's suffix, which the other program adds as well
    assert [says(action.recipe) for action in actions] == [
        "P0:a lamp",
        "P4:an empty stage",
        "P2:0.40",
    ]
    assert says(actions[1].recipe.with_seed(5)) == "P4:an empty stage"
    assert says(recipe()) == "P4:boats on the sea"
    program = OlderProgram()
    async with older_program(program) as url:
        engines = f'[[engines]]\nname = "first"\nkind = "older-wire"\nurl = "{url}"\n'
        show = show_with(tmp_path, engines)
        async with live_engines(show, show.plan({}), VirtualClock()) as opened:
            assert (await drawn(opened.ranked[0].engine, actions[0].recipe))[-1].final
    assert program.asked == ["P0:a lamp"]


@needs_diffusers
def test_a_diffusers_child_is_killed_and_the_next_run_is_whole(tmp_path: Path) -> None:
    from tests.generator.engines import tiny_pipelines  # noqa: PLC0415 - where torch is installed

    model = tiny_pipelines.save_sd(tmp_path / "model")
    toml = f"""
[programs.P0]
model = {json.dumps(str(model))}
steps = 20
width = 128
height = 128
[[engines]]
name = "gpu"
kind = "diffusers"
device = "cpu"
"""
    show = write_show(tmp_path / "show", CUES[:2] + CUES[-1:], MANUAL + toml)
    run = subprocess.run(
        [sys.executable, "-m", "tests.helpers.local_gpu", str(show)],
        cwd=ROOT,
        env=plain_environment(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout.splitlines()[-1])
    assert outcome["engine"].startswith("diffusers ")
    assert outcome["timing"] == "measured"
    assert (outcome["before"], outcome["after"]) == (21, 21)
    assert outcome["error"].startswith("gpu was lost")
    assert outcome["reason"].startswith("it was killed by signal 9")
    assert outcome["another"]
    # and the show's own process never so much as looked at them
    assert outcome["heavy"] == []
