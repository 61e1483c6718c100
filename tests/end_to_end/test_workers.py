"""Engines elsewhere, by the program as it is called; and that secrets are told nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import httpx
import pytest

from generator.engines.comfyui.settings import ComfyUISection
from generator.engines.port import EnginePoisoned, ScriptedEngine
from generator.engines.settings import BadEngine, EngineAccess
from generator.engines.sketch.settings import SketchSection
from server.cli.main import main
from server.config.show import load_show
from tests.cache.s3_servers import KEY_ID
from tests.cache.s3_servers import SECRET as S3_SECRET
from tests.generator.engines.comfyui_server import Behaviour, ComfyUI, workflow
from tests.generator.engines.replicate_server import TOKEN, Replicate
from tests.helpers.buckets import SMALL, Place, Servers, in_a_bucket, s3_servers, sheet, whole
from tests.helpers.programs import Program, start
from tests.helpers.servers import ROOT, plain_environment
from tests.helpers.shows import MANUAL, write_show

_PATIENCE = 60.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with s3_servers(tmp_path_factory) as both:
        yield both


# ---------------------------------------------------------------- workers


@contextmanager
def working(folder: Path, *arguments: object, **environment: str) -> Iterator[tuple[str, Path]]:
    """`understudy worker` as it is called; where it listens, and its log."""
    log = folder / f"worker-{len(list(folder.glob('worker-*')))}.log"
    command = [sys.executable, "-m", "server", "worker", "--port", "0", "--show", str(folder)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            env=plain_environment(**environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + _PATIENCE
        while not (found := _ADDRESS.search(log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        yield found[0], log
    finally:
        process.terminate()
        process.wait(_PATIENCE)


@contextmanager
def ended(program: Program) -> Iterator[Program]:
    """A program that is ended, however this ends."""
    try:
        yield program
    finally:
        program.kill()


def address_of(worker: Program) -> str:
    """Where a worker listens, once it does."""
    until = time.monotonic() + _PATIENCE
    while not (found := _ADDRESS.search(worker.said())):
        assert worker.running, worker.said()
        assert time.monotonic() < until, worker.said()
        time.sleep(0.02)
    return found[0]


@contextmanager
def drawing(
    folder: Path, *arguments: object, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """`understudy generate batch` as it is called."""
    command = [sys.executable, "-m", "server", "generate", "--log-level", "debug", "batch"]
    with subprocess.Popen(
        [*command, "--show", str(folder), *map(str, arguments)],
        cwd=ROOT,
        env=plain_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def command_lines() -> list[str]:
    """Of every process here that is not one of the S3 servers, which are told on theirs."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [text for text in lines if "rclone" not in text and "moto" not in text]


async def everything_in(place: Place) -> str:
    """Every document in a store, one behind the other."""
    async with place.store() as store:
        keys = [entry.key async for entry in store.list()]
        texts = [(await store.get(key)).decode() for key in keys if key.endswith(".json")]
    assert len(texts) >= 3
    return "\n".join(texts)


async def test_a_worker_keeps_its_sets_itself_and_secrets_are_told_nowhere(
    servers: Servers, tmp_path: Path
) -> None:
    token, wrong = "open-s3same-worker", "wr0ng-s3same-worker"
    others = {
        "REPLICATE_API_TOKEN": "r8_s3same-replicate",
        "UNDERSTUDY_COMFYUI_TOKEN": "s3same-comfyui",
        "UNDERSTUDY_OPERATOR_TOKEN": "s3same-operator",
        "R2_SECRET_ACCESS_KEY": "s3same-r2",
    }
    wrong_key = "wr0ng-s3cret-key"
    secrets = [token, wrong, S3_SECRET, KEY_ID, wrong_key, *others.values()]
    place = in_a_bucket(tmp_path / "show", servers.rclone, sheet(2), SMALL)
    environment = {**place.environment, **others, "UNDERSTUDY_WORKER_TOKEN": token}
    told: list[str] = []

    def batch(status: int, url: str, *, sets: int = 1, **changed: str) -> str:
        """Draw with the worker, at the most talkative."""
        words = ["generate", "--log-level", "debug", "batch", "--engine", url, "--sets", sets]
        environment_now = {**environment, **changed}
        output = tmp_path / f"batch-{len(told)}"
        program = start([*words, "--show", place.folder], output, environment_now)
        assert program.wait() == status, program.said()
        told.append(program.said())
        return told[-1]

    arguments = ("--engine", "sketch", "--log-level", "debug")
    with working(place.folder, *arguments, **environment) as (url, log):
        said = batch(1, url, UNDERSTUDY_WORKER_TOKEN=wrong)
        assert "no further set is tried with it: a bearer token is needed" in said
        assert "0 sets drawn" in said
        said = batch(1, url, AWS_SECRET_ACCESS_KEY=wrong_key)
        assert "does not accept our credentials" in said
        with drawing(place.folder, "--engine", url, "--sets", 1, **environment) as process:
            seen = command_lines()
            while process.poll() is None:
                seen = command_lines()
                await asyncio.sleep(0.05)
            assert any("server worker" in text for text in seen)
            assert process.stdout is not None
            said = process.stdout.read()
        assert process.returncode == 0, said
        assert f"it keeps its sets itself, in s3://{place.bucket}/show" in said
        assert "2 sets drawn" in said
        told += [said, *seen]
        async with httpx.AsyncClient(trust_env=False) as client:
            bearer = {"authorization": f"Bearer {token}"}
            health = await client.get(f"{url}/health", headers=bearer)
        assert health.json()["store"] == f"{servers.rclone.endpoint_url}/{place.bucket}/show"
        told += [health.text, log.read_text()]
    output = tmp_path / "another-worker"
    locked_out = {**environment, "AWS_SECRET_ACCESS_KEY": wrong_key}
    words = ["worker", "--port", 0, "--show", place.folder, *arguments]
    with ended(start(words, output, locked_out)) as worker:
        said = batch(1, address_of(worker), sets=2)
        assert "not drawn: line_1 set 1" in said
        assert "it does not accept our credentials" in said
        told.append(worker.said())
    told.append(await everything_in(place))
    await whole(place)
    for number, text in enumerate(told):
        for secret in secrets:
            assert secret not in text, (number, secret)


# ---------------------------------------------------------------- engines elsewhere


_ELSEWHERE = """
[[engines]]
name = "comfy"
kind = "comfyui"
url = "{comfy}"
workflow = "workflows/plain.json"
[[engines]]
name = "cloud"
kind = "replicate"
model = "artists/oil"
url = "{cloud}"
inputs = {{ prompt = "prompt", seed = "seed", width = "width", height = "height" }}
extra_inputs = {{ quality = 3 }}
at_once = 2
"""


async def test_comfyui_and_replicate_are_engines_like_others(tmp_path: Path) -> None:
    comfy = ComfyUI(Behaviour(wants="s3same-comfyui"))
    cloud = Replicate()
    async with comfy.listening() as comfy_url, cloud.listening() as cloud_url:
        toml = MANUAL + SMALL + _ELSEWHERE.format(comfy=comfy_url, cloud=cloud_url)
        folder = write_show(tmp_path / "show", sheet(3), toml)
        (folder / "workflows").mkdir()
        (folder / "workflows" / "plain.json").write_text(json.dumps(workflow()))
        tokens = {"UNDERSTUDY_COMFYUI_TOKEN": "s3same-comfyui", "REPLICATE_API_TOKEN": TOKEN}

        async def batch(status: int, *arguments: object, **environment: str) -> str:
            words = ["generate", "batch", "--show", folder, "--sets", 1, *arguments]
            program = start(words, tmp_path / "output", environment)
            assert await asyncio.to_thread(program.wait) == status, program.said()
            said = program.said()
            program.output.unlink()
            return said

        said = await batch(1, "--engine", "cloud")
        assert said == "the engine 'cloud' needs a token of Replicate: set REPLICATE_API_TOKEN\n"
        said = await batch(1, "--engine", "comfy", UNDERSTUDY_COMFYUI_TOKEN="s3same-wrong")
        assert "no further set is tried with it: ComfyUI at" in said
        assert "s3same" not in said
        await batch(0, "--engine", "comfy", "--only", "line_1", **tokens)
        await batch(0, "--engine", "cloud", "--only", "line_2", **tokens)
        said = await batch(0, "--engine", "cloud", "--engine", "comfy", **tokens)
        assert "1 set drawn, 2 were there already, 0 failed" in said
    engines = []
    for number in (1, 2):
        path = folder / "actions" / f"line_{number}" / "sets" / "0" / "meta.json"
        meta = json.loads(path.read_text())
        assert meta["timing"] == "measured"
        engines.append((meta["engine"].partition(" ")[0], meta["total_steps"]))
    assert engines == [("comfyui", 2), ("replicate", 1)]
    _, body, _ = cloud.posted[0]
    assert body["input"]["quality"] == 3
    assert set(body["input"]) == {"prompt", "seed", "width", "height", "quality"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "no JSON: "),
        ("[]", "expected a workflow in API format"),
        ('{"nodes": []}', "expected a workflow in API format, nodes with class_type"),
    ],
)
def test_a_workflow_that_is_none_is_told_with_its_place(
    tmp_path: Path, content: str | None, expected: str
) -> None:
    toml = MANUAL + _ELSEWHERE.format(comfy="http://127.0.0.1:9", cloud="http://127.0.0.1:9")
    folder = write_show(tmp_path / "show", sheet(1), toml)
    path = folder / "workflows" / "plain.json"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
    section = load_show(folder, {}, {}).settings.engines[0]
    assert isinstance(section, ComfyUISection)
    with pytest.raises(BadEngine) as caught:
        section.connect(EngineAccess(client=httpx.AsyncClient(), folder=folder))
    assert str(caught.value).startswith(f"the engine 'comfy': workflow: {path}: {expected}")


def test_a_worker_whose_engine_is_lost_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_show(tmp_path / "show", sheet(1), MANUAL + SMALL)
    lost = ScriptedEngine([], EnginePoisoned("the GPU is lost to this process"))
    said, answers = queue.Queue[str](), list[httpx.Response]()
    monkeypatch.setattr(SketchSection, "open", lambda *_, **__: nullcontext(lost))
    monkeypatch.setattr(
        "server.network.serving.print", lambda text, **_: said.put(text), raising=False
    )
    monkeypatch.setattr("server.cli.worker.configure_logs", lambda _level: None)
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name)

    def ask() -> None:
        found = _ADDRESS.search(said.get(timeout=_PATIENCE))
        assert found is not None
        answers.append(httpx.get(f"{found[0]}/health", timeout=_PATIENCE, trust_env=False))

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(SystemExit) as ended:
        main(["worker", "--engine", "sketch", "--port", "0", "--show", str(folder)])
    asking.join(_PATIENCE)
    assert ended.value.code == 1
    assert answers[0].status_code == 503
    assert "can draw no more in this process: the GPU is lost" in capsys.readouterr().err
