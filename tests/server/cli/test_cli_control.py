"""`understudy control`, as a real process, against a real server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from server.cli.control import _screens, _show
from server.cli.main import main
from tests.helpers.servers import ROOT, ServerProcess, plain_environment, server_process
from tests.helpers.shows import MANUAL, Rhythm, cue, make_show, prompt

CUES = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), prompt(9, "a [b]", id="b"), cue(60, "end")]
TOKEN = "an operator's secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("show")
    make_show(folder, CUES, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL)
    tokens = {"UNDERSTUDY_OPERATOR_TOKEN": TOKEN, "UNDERSTUDY_VIEWER_TOKEN": "a viewer's"}
    with server_process(folder, environment=tokens) as server:
        yield server


@pytest.fixture
def ask(
    server: ServerProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run it in this process, which is quicker: status, output, errors."""
    monkeypatch.setenv("UNDERSTUDY_OPERATOR_TOKEN", TOKEN)

    def run(*arguments: str, url: str | None = None) -> tuple[object, str, str]:
        address = url or f"ws://127.0.0.1:{server.address.port}"
        with pytest.raises(SystemExit) as ended:
            main(["control", "--url", address, *arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


@contextmanager
def another_program(says: str) -> Iterator[str]:
    """A program that speaks first, and something else; its address."""

    def handle(line: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            line.send(says)
            line.recv()
            line.recv()

    with serve(handle, "127.0.0.1", 0) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{other.socket.getsockname()[1]}"


def process(
    server: ServerProcess, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "control", "--url",
         f"ws://127.0.0.1:{server.address.port}", *arguments],
        cwd=ROOT, env=plain_environment(**environment), capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip


def test_as_a_process(server: ServerProcess, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    done = process(
        server, "standby", "cue=b", environment={"UNDERSTUDY_OPERATOR_TOKEN_FILE": str(secret)}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "on schedule" in done.stdout
    done = process(server, "go", environment={"UNDERSTUDY_OPERATOR_TOKEN": "wrong"})
    assert done.returncode == 1
    assert done.stderr.startswith("unauthorized: ")
    assert "wrong" not in done.stderr
    done = process(server, "go", environment={"UNDERSTUDY_VIEWER_TOKEN": "a viewer's"})
    assert (done.returncode, done.stderr.split(":")[0]) == (1, "forbidden")


def test_the_state_can_be_read(ask: Any) -> None:
    status, out, _ = ask("state")
    assert status == 0
    for words in ("Tiny", "position", "mode", "static", "2 of 2 cues have sets", "no screen"):
        assert words in out
    status, out, _ = ask("state", "--json")
    assert (status, json.loads(out)["activation"]) == (0, "show")


def test_a_panic_cannot_be_overlooked(ask: Any) -> None:
    assert ask("panic", "--name", "the cellar")[0] == 0
    assert "PANIC by the cellar (operator)" in ask("state")[1]
    assert ask("go")[0] == 1
    assert "PANIC" not in ask("restore")[1]
    log = ask("log", "limit=3")[1]
    assert "panic" in log
    assert "at (UTC)" in log, "hours are the show's, and say so"


def test_moves_lists_and_their_arguments(ask: Any) -> None:
    status, out, _ = ask("go", "cue=b")
    assert (status, out) == (0, "00:00:09 · off schedule\n")
    assert "00:00:30" in ask("seek", "time=30")[1]
    assert "00:00:40" in ask("seek", "time=00:00:40")[1]
    assert "paused" in ask("pause")[1]
    assert "a [b]" in ask("cues")[1]
    status, out, _ = ask("asrun", "limit=5")
    assert status == 0
    assert "static set" in out
    assert json.loads(ask("asrun", "limit=5", "--json")[1])["rows"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["resume", "x=1"], 2, "bad_args: "),
        (["engage"], 2, "unknown_command: "),
        (["standby", "cue=nobody"], 1, "unknown_cue: "),
        (["seek", "time=99:00:00"], 1, "out_of_range: "),
        (["go", "lamp"], 2, "expected key=value, not 'lamp'"),
        (["identify", "screen=7"], 1, "unknown_screen: "),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    ask: Any, arguments: list[str], status: int, words: str
) -> None:
    told, out, err = ask(*arguments)
    assert (told, out) == (status, "")
    assert err.startswith(words)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("ftp://here", 2),
        ("ws://", 2),
        ("ws://here:port", 2),
        ("ws://[", 2),
        ("ws://127.0.0.1:{free}", 1),
    ],
)
def test_a_server_that_is_not_there_is_said_in_one_line(ask: Any, url: str, status: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        told, out, err = ask("state", url=url.format(free=free.getsockname()[1]))
    assert (told, out, err.count("\n")) == (status, "", 1)
    assert "Traceback" not in err


@pytest.mark.parametrize("says", ["pong", "[1]", '{"a": 1}', '{"type": 7}', "{"])
def test_another_program_that_answers_is_said_in_one_line(ask: Any, says: str) -> None:
    """Such as the piece's own GPU program, which greets in words of its own."""
    with another_program(says) as url:
        status, out, err = ask("state", url=url)
    assert (status, out) == (1, "")
    assert err.splitlines() == [f"no server of ours there: it says {says!r}"]


@pytest.mark.parametrize("url", ["ws://me:hunter2@127.0.0.1:1", "ftp://me:hunter2@host/"])
def test_an_address_is_told_without_its_password(ask: Any, url: str) -> None:
    _, out, err = ask("state", url=url)
    assert "127.0.0.1" in err or "host" in err
    assert "hunter2" not in out + err


def test_an_address_may_be_written_in_several_ways(ask: Any, server: ServerProcess) -> None:
    port = server.address.port
    for url in (
        f"http://127.0.0.1:{port}",
        f"127.0.0.1:{port}",
        f"ws://127.0.0.1:{port}/ws/control",
    ):
        assert ask("state", url=url)[0] == 0
    status, _, err = ask("state", url=f"ws://127.0.0.1:{port}/elsewhere")
    assert (status, err.count("\n")) == (1, 1)


def test_a_screen_that_is_missing_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"painted_age": None, "trouble": "left: gone since 14:03", "screen": "left"}
    Console(width=80).print(_screens([told]))
    assert "gone since 14:03" in capsys.readouterr().out


def test_the_state_of_an_older_server_can_be_read(
    ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not tell yet what was added since."""
    state = json.loads(ask("state", "--json")[1])
    for name in ("panic", "engines", "zone"):
        del state[name]
    del state["health"]["conditions"], state["screening"]["next_local"]
    state["standby"] = {"time": "00:00:09", "action": "prompt", "ready": True}
    state["mode"] = {"effective": "static", "forced": "static"}
    state["screens"] = [{"screen": "left"}]
    _show("state", state)
    _show("cues", {"cues": [{"index": 0, "time": "00:00:00", "action": "start"}]})
    told = capsys.readouterr().out
    assert "forced by" in told
    assert "nothing yet" in told
