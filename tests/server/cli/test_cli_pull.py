"""`understudy pull` as it is called, and playing what was pulled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.model.keys import MANIFEST
from cache.pull import pull
from cache.stores.folder import FolderStore
from cache.stores.s3.store import S3Store
from server.cli.main import main
from tests.cache.s3_servers import S3Server, rclone
from tests.helpers.servers import ROOT, plain_environment, server_process
from tests.helpers.shows import Rhythm, TinyShow, cue, line, make_show, prompt

CUES = [
    cue(0, "start"),
    line(0, "boats on the sea", id="boats"),
    prompt(20, "a portrait"),
    cue(40, "end"),
]
Run = Callable[..., tuple[object, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=2, sets=2))


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the program in this process, which is quicker: status, output, errors."""
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("server.cli.pull.configure_logs", lambda _: None)  # it is for a process

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["pull", *map(str, arguments)])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".understudy" not in str(path.relative_to(root))
    }


def sets_of(show: TinyShow) -> dict[str, bytes]:
    return {
        name: data
        for name, data in files(show.folder).items()
        if name.startswith(("actions/", "manifest"))
    }


def test_a_folder_is_pulled_and_nothing_twice(inside: Run, tiny: TinyShow, tmp_path: Path) -> None:
    to = tmp_path / "venue"
    status, out, err = inside("--show", tiny.folder, "--to", to)
    assert (status, err) == (0, "")
    assert "4 sets" in out
    assert "12 files fetched" in out
    assert files(to) == sets_of(tiny)
    status, out, _ = inside("--show", tiny.folder, "--to", to, "--json")
    assert status == 0
    told = json.loads(out)
    assert told == {
        "to": str(to),
        "sets": 4,
        "files_fetched": 0,
        "bytes_fetched": 0,
        "files_present": 12,
        "broken": [],
        "left_alone": 0,
        "without_sets": [],
    }


def test_only_what_the_show_needs(inside: Run, tiny: TinyShow, tmp_path: Path) -> None:
    sheet = [CUES[0], CUES[1], prompt(30, "nobody drew this", id="new"), CUES[3]]
    (tiny.folder / "cues.json").write_text(json.dumps(sheet))
    status, out, err = inside("--show", tiny.folder, "--to", tmp_path / "venue", "--needed")
    assert status == 0
    assert "2 sets" in out
    assert "the store has no set of it" in err
    assert {name.split("/")[1] for name in files(tmp_path / "venue") if "/" in name} == {"boats"}


def test_what_is_broken_is_listed_and_the_status_is_1(
    inside: Run, tiny: TinyShow, tmp_path: Path
) -> None:
    place = tiny.set_folder("boats", 1) / "1.jpg"
    place.write_bytes(place.read_bytes()[:-9])
    status, out, err = inside("--show", tiny.folder, "--to", tmp_path / "venue")
    assert status == 1
    assert "boats set 1" in err
    assert "3 sets" in out
    status, out, _ = inside("--show", tiny.folder, "--to", tmp_path / "venue", "--json")
    assert status == 1
    assert json.loads(out)["broken"][0]["action_id"] == "boats"


def test_wrong_use_has_status_2(inside: Run, tiny: TinyShow, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tiny.folder / "show.toml").write_text('[cache]\ndir = "../venue/cache"\n')
    for arguments, reason in (
        ([], "--to"),
        (["--to", tiny.folder], "the store itself"),
        (["--to", tiny.folder / "pulled"], "keep them apart"),
        (["--to", tmp_path], "keep them apart"),
        (["--to", tmp_path / "file"], "found a file"),
        (["--to", tmp_path / "venue" / "cache" / "pulled"], "copies come and go"),
        (["--to", tmp_path / "venue"], "taken for sets"),
        (["--to", tmp_path / "other", "--parallel", 0], "parallel"),
    ):
        status, out, err = inside("--show", tiny.folder, *arguments)
        assert status == 2, arguments
        assert out == ""
        assert reason in " ".join(err.split()), err
    assert not (tmp_path / "other").exists()


def test_a_store_that_has_nothing_is_told(inside: Run, tiny: TinyShow, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    status, _, err = inside("--show", tiny.folder, "--store", empty, "--to", tmp_path / "venue")
    assert status == 1
    assert "has no manifest.json" in err
    assert empty.as_uri() in err
    assert not (tmp_path / "venue").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


def upload(server: S3Server, folder: Path) -> str:
    """Put a store into a new bucket; says its address."""
    bucket = server.new_bucket()

    async def work() -> None:
        async with (
            FolderStore(folder) as source,
            S3Store(
                bucket, endpoint_url=server.endpoint_url, credentials=server.credentials
            ) as target,
        ):
            await pull(source, target)

    asyncio.run(work())
    return f"s3://{bucket}"


def keys_of(server: S3Server) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": server.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.credentials.secret_access_key,
        "UNDERSTUDY_STORE_ENDPOINT_URL": server.endpoint_url,
    }


def puller(show: Path, store: str, to: Path, environment: dict[str, str]) -> Any:
    command = [sys.executable, "-m", "server", "pull", "--show", str(show), "--store", store]
    return subprocess.Popen(
        [*command, "--to", str(to), "--parallel", "1"],
        cwd=ROOT,
        env=plain_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_store_that_cannot_be_reached_is_told_to_people_alone(
    tiny: TinyShow, tmp_path: Path
) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "UNDERSTUDY_STORE_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    with puller(tiny.folder, "s3://bucket", tmp_path / "venue", keys) as process:
        out, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert out == ""
    assert "127.0.0.1:1 cannot be reached" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_from_there_and_plays_without_a_network(
    server: S3Server, tmp_path: Path, number: signal.Signals
) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=40, sets=2, size=60_000))
    store, to = upload(server, tiny.folder), tmp_path / "venue"
    with puller(tiny.folder, store, to, keys_of(server)) as process:
        while process.poll() is None and not list(to.rglob("*.jpg")):
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=180)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "goes on from here" in err
        assert "Traceback" not in err
    assert not (to / MANIFEST).exists()
    began = len(list(to.rglob("*.jpg")))
    with puller(tiny.folder, store, to, keys_of(server)) as process:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
    assert f"{began} were there already" in out
    pulled = {name: data for name, data in files(to).items() if not name.startswith(".")}
    assert pulled == sets_of(tiny)
    with server_process(tiny.folder, arguments=["--store", str(to)]) as venue:
        state = venue.state()
        assert state["show"]["title"] == "Tiny"
