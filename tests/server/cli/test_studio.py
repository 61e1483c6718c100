"""`understudy studio`: serving it, who may ask, and copies of what it keeps."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.cli.main import main
from tests.helpers.servers import ROOT, ServerProcess, plain_environment, server_process
from tests.helpers.shows import write_show
from tests.helpers.studios import CUES

TESTCARD = '[studio]\nkeep_free = 0\n[[engines]]\nname = "card"\nkind = "testcard"\n'
EXTRA = ("alembic", "dynamicprompts", "sqlalchemy", "standardwebhooks")


@pytest.fixture
def show(tmp_path: Path) -> Path:
    """A show's folder."""
    folder = tmp_path / "show"
    write_show(folder, CUES, TESTCARD)
    return folder


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the program in this process, which is quicker: status, output, errors."""
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["studio", *map(str, arguments)])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


@contextmanager
def studio_process(folder: Path, *command: str, **options: Any) -> Iterator[ServerProcess]:
    with server_process(folder, command=("studio", *command), **options) as served:
        yield served


def understudy(
    *arguments: object, environment: Mapping[str, str] | None = None, lacking: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, in an environment that lacks some packages."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in lacking)
    called = f"import sys\n{hidden}from server.cli.main import main\nmain(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", called, *map(str, arguments)],
        cwd=ROOT,
        env=plain_environment(**(environment or {})),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


# ---------------------------------------------------------------- serving


@pytest.mark.parametrize("command", [["serve"], []])
def test_it_serves_says_where_and_stops_with_status_0(show: Path, command: list[str]) -> None:
    # Whoever asks Studios from this terminal has its variable set; the server wants nothing of it.
    token = {"UNDERSTUDY_STUDIO_TOKEN": "ust_of_somebody"}
    with studio_process(show, *command, environment=token) as served:
        answer = httpx.get(f"{served.address.http}/api/me", trust_env=False)
        assert answer.json()["role"] == "artist"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(15) == 0
        log = served.log.read_text()
        assert "Traceback" not in log
        assert "UNDERSTUDY_STUDIO_TOKEN" not in log


def test_a_second_studio_says_in_one_line_where_the_first_is(show: Path) -> None:
    with studio_process(show) as served:
        done = understudy("studio", "serve", "--show", show, "--port", 0)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"process {served.process.pid} on " in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["serve", "--host", "0.0.0.0"], 2, "understudy studio member add NAME"),
        (["serve", "--store", "toys:here"], 1, "[store] url: "),
        (["serve", "--show", "/nowhere"], 1, "/nowhere: expected a show folder"),
        (["--port", "9", "jobs"], 2, "options stand behind the command: understudy studio jobs"),
        (["fly"], 2, "fly"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(
    inside: Any, show: Path, arguments: list[str], status: int, words: str
) -> None:
    if arguments[0] == "serve" and "--show" not in arguments:
        arguments = [*arguments, "--show", str(show)]
    told, out, err = inside(*arguments)
    assert (told, out) == (status, "")
    assert words in err
    assert "Traceback" not in err


def test_a_database_that_is_away_is_said_in_a_line(
    inside: Any, show: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_STUDIO_DATABASE", "postgresql://me:hunter2@127.0.0.1:1/studio")
    for command in (["serve"], ["member", "list"], ["member", "add", "ada"]):
        told, out, err = inside(*command, "--show", show)
        assert (told, out) == (1, ""), command
        assert "127.0.0.1" in err
        assert "hunter2" not in err
        assert "Traceback" not in err


def test_without_the_extra_all_else_is_there_and_it_says_what_to_do() -> None:
    told = understudy("--help", lacking=EXTRA)
    assert told.returncode == 0
    assert "Play a show" in told.stdout
    assert "Not installed: make studio" in " ".join(told.stdout.split())
    for arguments in (["studio"], ["studio", "try", "a boat", "--to", "here"]):
        done = understudy(*arguments, lacking=EXTRA)
        assert (done.returncode, done.stdout) == (2, "")
        assert "pip install 'understudy[studio]'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_shell_completes_its_commands() -> None:
    asked = {"COMP_WORDS": "understudy studio me", "COMP_CWORD": "2"}
    complete = "_UNDERSTUDY_COMPLETE"
    done = subprocess.run(
        [sys.executable, "-m", "server"],
        cwd=ROOT,
        env=plain_environment(**{complete: "complete_bash", **asked}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout.split() == ["member"]


# ---------------------------------------------------------------- who may ask


def asked_with(served: ServerProcess, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.get(f"{served.address.http}/api/me", headers=headers, trust_env=False).status_code


def test_members_are_added_listed_and_removed_beside_a_studio(inside: Any, show: Path) -> None:
    here = ("--show", show)
    with studio_process(show) as served:
        assert inside("member", "list", *here)[1:] == (
            "",
            "nobody has a token: whoever sits at the machine is the one artist\n",
        )
        status, token, remark = inside("member", "add", "ada", *here)
        assert (status, remark.count("\n")) == (0, 1)
        assert "everybody needs a token" in remark
        assert asked_with(served, token.strip()) == 200

        limits = ("--role", "client", "--pictures-a-day", 200)
        status, out, remark = inside("member", "add", "[b]shop", *limits, *here, "--json")
        assert (status, remark) == (0, "")
        shop = json.loads(out)
        assert asked_with(served, shop.pop("token")) == 200
        assert shop == {"name": "[b]shop", "role": "client", "pictures_a_day": 200}

        told = inside("member", "list", *here)[1]
        assert [line.split() for line in told.splitlines()] == [
            ["name", "role", "pictures", "a", "day"],
            ["[b]shop", "client", "200"],
            ["ada", "artist", "any", "number"],
        ]
        assert json.loads(inside("member", "list", *here, "--json")[1])[0] == shop

        again = inside("member", "token", "ada", *here)[1]
        assert asked_with(served, again.strip()) == 200
        assert inside("member", "remove", "ada", *here) == (0, "", "")
        assert "nobody has a token now" in inside("member", "remove", "[b]shop", *here)[2]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["add", "ada"], 1, "understudy studio member token NAME"),
        (["add", " "], 2, "expected 1 to 64 characters"),
        (["add", "bob", "--role", "king"], 2, "king"),
        (["add", "bob", "--pictures-a-day", "0"], 2, "--pictures-a-day"),
        (["token", "bob"], 1, "there is no member 'bob': understudy studio member list"),
        (["remove", "bob"], 1, "there is no member 'bob': understudy studio member list"),
    ],
)
def test_a_member_that_cannot_be_is_said_in_a_line(
    inside: Any, show: Path, arguments: list[str], status: int, words: str
) -> None:
    assert inside("member", "add", "ada", "--show", show)[0] == 0
    told, out, err = inside("member", *arguments, "--show", show)
    assert (told, out) == (status, "")
    assert words in err


def test_who_is_added_may_ask_for_as_much_as_the_show_says(inside: Any, show: Path) -> None:
    write_show(show, CUES, "[studio]\npictures_a_day = 40\n")
    inside("member", "add", "ada", "--show", show)
    found = json.loads(inside("member", "list", "--show", show, "--json")[1])
    assert found == [{"name": "ada", "role": "artist", "pictures_a_day": 40}]


# ---------------------------------------------------------------- copies


def test_a_copy_is_made_while_it_runs_and_a_studio_starts_from_it(
    inside: Any, show: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copies" / "monday.sqlite"
    copy.parent.mkdir()
    with studio_process(show) as served:
        asked = {"prompt": "a lake", "n": 1}
        job = httpx.post(f"{served.address.http}/api/jobs", json=asked, trust_env=False).json()
        status, out, err = inside("backup", copy, "--show", show)
        assert (status, err) == (0, "")
        assert out.startswith(f"{copy}: ")
        status, out, err = inside("backup", copy, "--show", show)
        assert (status, out, err) == (
            1, "", f"{copy}: is there already; name another file, or move it away\n",
        )  # fmt: skip
        other = copy.with_name("tuesday.sqlite")
        told = json.loads(inside("backup", other, "--show", show, "--json")[1])
        assert told == {"file": str(other), "bytes": other.stat().st_size}
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute("SELECT id FROM jobs").fetchall() == [(job["id"],)]

    # Restored as the documents say.
    kept = show / ".understudy" / "studio.sqlite"
    for name in (kept.name, f"{kept.name}-wal", f"{kept.name}-shm"):
        kept.with_name(name).unlink(missing_ok=True)
    copy.rename(kept)
    with studio_process(show) as served:
        found = httpx.get(f"{served.address.http}/api/jobs?limit=5", trust_env=False).json()
        assert [each["id"] for each in found["jobs"]] == [job["id"]]


def test_a_copy_that_cannot_be_made_is_said_in_a_line(
    inside: Any, show: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = inside("backup", tmp_path / "copy", "--show", show)
    assert (status, out) == (1, "")
    assert err.endswith("studio.sqlite: there is no database\n")
    inside("member", "add", "ada", "--show", show)
    status, out, err = inside("backup", tmp_path / "no" / "copy", "--show", show)
    assert (status, out, err.count("\n")) == (1, "", 1)

    monkeypatch.setenv("UNDERSTUDY_STUDIO_DATABASE", "postgresql://me:hunter2@db.lan/studio")
    status, out, err = inside("backup", tmp_path / "copy", "--show", show)
    assert (status, out) == (1, "")
    assert "pg_dump --format=custom" in err
    assert "me@db.lan/studio" in err
    assert "hunter2" not in err
