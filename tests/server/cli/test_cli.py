"""The program as it is called, each time in a process of its own."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import server
from generator.sets.batch import BatchOutcome
from generator.sets.inventory import MissingSet
from generator.sets.job_queue import Failure
from generator.sheet.plan import Action
from server.cli.generate import failures_told
from server.cli.main import main
from tests.contracts.engine_contract import recipe
from tests.helpers.servers import ROOT, ServerProcess, plain_environment, server_process
from tests.helpers.shows import MANUAL, Rhythm, cue, line, make_show, prompt, write_show

CUES = [
    cue(0, "start"),
    line(0, "boats on the sea", id="boats"),
    prompt(20, "a portrait", override="an old man"),
    cue(40, "end"),
]
SMALL = MANUAL + "".join(
    f"[programs.{name}]\nsteps = 3\nwidth = 160\nheight = 96\n" for name in ("P0", "P4")
)


def understudy(
    *arguments: object, environment: Mapping[str, str] | None = None, where: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, arguments)],
        cwd=where,
        env=plain_environment(**(environment or {})),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the program in this process, which is quicker: status, output, errors."""
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)
    # It is for the whole process, and for good.
    monkeypatch.setattr("server.cli.generate.configure_logs", lambda _level: None)

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


# ---------------------------------------------------------------- calling it


def test_it_says_its_version_which_is_written_in_one_place() -> None:
    done = understudy("--version")
    assert (done.returncode, done.stdout) == (0, f"understudy {server.__version__}\n")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {server.__version__}" in changelog


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "understudy generate ver", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "understudy generate ver"}),
    ],
)
def test_a_shell_completes_its_commands(shell: str, asked: Mapping[str, str]) -> None:
    complete = "_UNDERSTUDY_COMPLETE"
    script = understudy(environment={complete: f"source_{shell}"})
    assert f"{complete}=complete_{shell}" in script.stdout
    done = understudy(environment={complete: f"complete_{shell}", **asked})
    assert "verify" in done.stdout
    assert "batch" not in done.stdout


def test_it_can_be_called_as_a_module_and_by_name() -> None:
    told = understudy("--help")
    assert told.returncode == 0
    for command in ("serve", "generate", "asrun"):
        assert command in told.stdout
    by_name = subprocess.run(
        [str(Path(sys.executable).with_name("understudy")), "--help"],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert "serve" in by_name.stdout


def test_wrong_use_has_status_2(inside: Any) -> None:
    for arguments in (["fly"], ["serve", "--port", "99999"], ["serve", "--colour"], ["asrun", "x"]):
        status, out, err = inside(*arguments)
        assert status == 2, arguments
        assert out == ""
        assert err


# ---------------------------------------------------------------- serve


def test_serve_says_where_and_stops_with_status_0(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=1, sets=1))
    for number in (signal.SIGTERM, signal.SIGINT):
        with server_process(tiny.folder) as server:
            assert server.state()["show"]["title"] == "Tiny"
            server.process.send_signal(number)
            assert server.process.wait(15) == 0
            log = server.log.read_text()
            assert "Traceback" not in log
            assert "Aborted" not in log


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_serve_refuses_the_world_without_a_token(inside: Any, tmp_path: Path, host: str) -> None:
    write_show(tmp_path / "show", CUES, MANUAL)
    status, out, err = inside("serve", "--show", tmp_path / "show", "--host", host, "--port", 0)
    assert status == 2
    assert "UNDERSTUDY_OPERATOR_TOKEN" in err
    assert out == ""


def test_serve_listens_to_the_world_with_one(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=1, sets=1))
    token = "s3same-open"
    with server_process(
        tiny.folder,
        arguments=["--host", "0.0.0.0"],
        environment={"UNDERSTUDY_OPERATOR_TOKEN": token},
    ) as server:
        assert server.state() == {"ok": False, "error": server.state()["error"]}
        assert server.state()["error"]["code"] == "unauthorized"
        assert token not in server.log.read_text()


def test_a_port_in_use_is_said_plainly(inside: Any, tmp_path: Path) -> None:
    write_show(tmp_path / "show", CUES, MANUAL)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = inside("serve", "--show", tmp_path / "show", "--port", port)
    assert status == 1
    assert str(port) in err
    assert "already" in err
    assert "Traceback" not in err
    assert out == ""


def test_a_bad_show_is_refused_with_every_error(inside: Any, tmp_path: Path) -> None:
    cues = [
        {"time": "00:00:05", "action": "dance"},
        {"time": "soon", "action": "start"},
        {"time": "00:00:01", "action": "prompt", "prompt": "x", "program": "P99"},
    ]
    toml = '[playback]\nmode = "dead"\nspeed = 3\n[tokens]\noperator = "x"\n'
    write_show(tmp_path / "show", cues, toml)
    status, out, err = inside("serve", "--show", tmp_path / "show", "--port", 0)
    assert status == 1
    assert out == ""
    for word in ("cues.json", "cue 0", "dance", "cue 1", "soon", "show.toml", "mode", "speed"):
        assert word in err, word
    assert "tokens" in err
    assert "Traceback" not in err

    write_show(tmp_path / "show", cues, "")
    status, _, err = inside("serve", "--show", tmp_path / "show" / "show.toml", "--port", 0)
    assert status == 1
    assert "P99" in err


@pytest.mark.parametrize("place", ["nowhere", "nowhere/show.toml", "cues.json"])
def test_a_show_that_is_not_there(inside: Any, tmp_path: Path, place: str) -> None:
    status, out, err = inside("serve", "--show", tmp_path / place, "--port", 0)
    assert status == 1
    assert place.split("/", maxsplit=1)[0] in err
    assert out == ""


def test_a_store_of_an_unknown_kind(inside: Any, tmp_path: Path) -> None:
    write_show(tmp_path / "show", CUES, MANUAL)
    for command in (["generate", "plan"], ["generate", "batch"]):
        status, _, err = inside(*command, "--show", tmp_path / "show", "--store", "ftp://x/y")
        assert status == 1
        assert "ftp" in err
        assert "Traceback" not in err


# ---------------------------------------------------------------- generate


def test_plan_is_told_in_json(inside: Any, tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=1, sets=2))
    write_show(tiny.folder, [*CUES[:-1], prompt(30, "new", id="new"), CUES[-1]], MANUAL)
    status, out, err = inside("generate", "plan", "--show", tiny.folder, "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert set(told) == {"actions", "totals"}
    wanted = tiny.load().settings.generate.sets_per_action
    rows = {row["action_id"]: row for row in told["actions"]}
    assert list(rows) == ["boats", "prompt_001", "new"]
    fields = {
        "action_id",
        "type",
        "program",
        "prompt",
        "fingerprint",
        "sets_present",
        "sets_wanted",
        "stale",
    }
    assert all(set(row) >= fields for row in rows.values())
    assert rows["boats"]["type"] == "transcript"
    assert (rows["prompt_001"]["program"], rows["prompt_001"]["prompt"]) == ("P4", "a portrait")
    assert [row["sets_present"] for row in rows.values()] == [2, 2, 0]
    assert {row["sets_wanted"] for row in rows.values()} == {wanted}
    assert {row["stale"] for row in rows.values()} == {False}
    assert all(row["fingerprint"].startswith("sha256:") for row in rows.values())
    assert told["totals"]["actions"] == 3

    changed = [CUES[0], line(0, "another sea", id="boats"), *CUES[2:]]
    write_show(tiny.folder, changed, MANUAL)
    _, out, _ = inside("generate", "plan", "--show", tiny.folder, "--json")
    assert [row["stale"] for row in json.loads(out)["actions"]] == [True, False]

    status, out, _ = inside("generate", "plan", "--show", tiny.folder)
    assert status == 0
    assert "a portrait" in out


def test_batch_draws_what_is_missing_and_goes_on_where_it_was(inside: Any, tmp_path: Path) -> None:
    folder = write_show(tmp_path / "show", CUES, SMALL)

    def batch(*more: object) -> dict[str, Any]:
        arguments = ["generate", "batch", "--show", folder, "--parallel", 1, "--json", *more]
        status, out, _ = inside(*arguments)
        assert status == 0
        told: dict[str, Any] = json.loads(out)
        return told

    assert batch("--sets", 1, "--only", "boats") == {"drawn": 1, "kept": 0, "failed": []}
    assert batch("--sets", 1) == {"drawn": 1, "kept": 1, "failed": []}
    assert batch("--sets", 2) == {"drawn": 2, "kept": 2, "failed": []}
    manifest = (folder / "manifest.json").read_bytes()
    assert batch("--sets", 2) == {"drawn": 0, "kept": 4, "failed": []}
    assert (folder / "manifest.json").read_bytes() == manifest

    lost = folder / "actions" / "boats" / "sets" / "1" / "meta.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    assert batch("--sets", 2) == {"drawn": 1, "kept": 3, "failed": []}
    after = json.loads(lost.read_text())
    assert after["files"] == before["files"], "drawn again it is the same picture"
    assert batch("--sets", 2, "--engine", "testcard")["drawn"] == 0

    status, _, err = inside("generate", "batch", "--show", folder, "--only", "nobody")
    assert status == 2
    assert "nobody" in err
    status, _, err = inside("generate", "batch", "--show", folder, "--engine", "brush")
    assert status == 2
    assert "brush" in err


def test_what_failed_is_listed_by_its_reason() -> None:
    def job(action_id: str, set_id: int) -> MissingSet:
        drawn = recipe()
        return MissingSet(Action(action_id, "prompt", 0, 0.0, "P4", "boats", None, drawn), set_id)

    gone = "no engine is left: gpu: the GPU is lost"
    outcome = BatchOutcome(
        failed=[
            Failure(job("one", 0), gone),
            Failure(job("other", 0), "too large"),
            Failure(job("one", 1), gone),
            Failure(job("third", 4), gone),
        ]
    )
    assert failures_told(outcome) == [
        f"not drawn: one set 0, 1; third set 4: {gone}",
        "not drawn: other set 0: too large",
    ]


def test_ctrl_c_stops_a_batch_and_the_same_command_goes_on(tmp_path: Path) -> None:
    cues = [cue(0, "start"), *(line(k, f"picture {k}") for k in range(20)), cue(40, "end")]
    toml = MANUAL + "[programs.P0]\nsteps = 12\nwidth = 480\nheight = 320\n"
    folder = write_show(tmp_path / "show", cues, toml)
    command = ["generate", "batch", "--show", str(folder), "--sets", "2", "--parallel", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *command],
        cwd=ROOT,
        env=plain_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not (metas := list(folder.glob("actions/*/sets/*/meta.json"))):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    metas = list(folder.glob("actions/*/sets/*/meta.json"))
    assert 1 <= len(metas) < 40
    told = understudy("generate", "plan", "--show", folder, "--json")
    # One may be whole and not in the manifest yet: the next batch finds it there.
    present = json.loads(told.stdout)["totals"]["sets_present"]
    assert present in {len(metas) - 1, len(metas)}


# ---------------------------------------------------------------- asrun


def test_asrun_tells_what_was_played(inside: Any, tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=1, step=0.1, sets=1))
    status, _, err = inside("asrun", "--show", tiny.folder)
    assert status == 1
    assert "Traceback" not in err

    server = ServerProcess.start(tiny.folder)
    try:
        server.control("go")
        time.sleep(0.8)
        assert server.terminate()[0] == 0
    finally:
        server.close()
    main_out = run_asrun(inside, tiny.folder, "--json")
    (row,) = json.loads(main_out)
    assert (row["action_id"], row["outcome"]) == ("boats", "completed")
    table = list(csv.DictReader(io.StringIO(run_asrun(inside, tiny.folder, "--csv"))))
    assert table
    assert {one["action_id"] for one in table} == {"boats"}
    assert json.loads(run_asrun(inside, tiny.folder, "--json", "--since", "2099-01-01")) == []
    # A time without a zone is the show's, wherever it is asked for.
    toml = tiny.folder / "show.toml"
    toml.write_text(toml.read_text().replace('"UTC"', '"Asia/Tokyo"'))
    assert tiny.load().timezone.key == "Asia/Tokyo"
    for seconds, runs in ((-5, 1), (5, 0)):
        since = datetime.fromtimestamp(row["started_wall"] + seconds, ZoneInfo("Asia/Tokyo"))
        told = run_asrun(inside, tiny.folder, "--json", "--since", f"{since:%Y-%m-%dT%H:%M:%S}")
        assert len(json.loads(told)) == runs
    status, _, err = inside("asrun", "--show", tiny.folder, "--since", "yesterday")
    assert status == 2
    assert "yesterday" in err


def run_asrun(inside: Any, folder: Path, *more: str) -> str:
    status, out, err = inside("asrun", "--show", folder, *more)
    assert (status, err) == (0, "")
    text: str = out
    return text
