"""`understudy studio try`, `retry`, `jobs`, `cancel` and `stats`, against Studios that serve."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from PIL import Image
from structlog.testing import capture_logs

from generator.engines.port import EngineError, StepImage
from generator.sheet.recipe import Recipe
from server.cli.main import main
from tests.helpers.servers import ROOT, free_port, plain_environment, server_process
from tests.helpers.shows import write_show
from tests.helpers.studios import CUES, Pencil, RunningStudio, images, show_in, slot, studio

_PATIENCE = 20.0


@dataclass
class Moody(Pencil):
    """A pencil that does not draw some seeds.

    Attributes:
        not_now: the seeds.
    """

    not_now: set[int] = field(default_factory=set)

    @asynccontextmanager
    async def render(self, recipe: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        """See `Engine.render`."""
        if recipe.seed in self.not_now:
            raise EngineError("it [does] not feel like it")
        async with super().render(recipe) as drawn:
            yield drawn


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """A thread with a loop of its own: the commands have theirs here."""
    with start_blocking_portal() as found:
        yield found


@pytest.fixture
def pencil() -> Moody:
    return Moody()


@pytest.fixture
def served(portal: BlockingPortal, pencil: Moody, tmp_path: Path) -> Iterator[RunningStudio]:
    running = studio(show_in(tmp_path / "show"), slot(pencil))
    # It is in this process, and what it logs is not what the commands say.
    with capture_logs(), portal.wrap_async_context_manager(running) as found:
        yield found


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the program in this process, which is quicker: status, output, errors."""
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, url: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["studio", *map(str, arguments), "--url", url])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


@pytest.fixture
def ask(inside: Any, served: RunningStudio) -> Any:
    """Ask the Studio that serves."""

    def run(*arguments: object) -> tuple[object, str, str]:
        found: tuple[object, str, str] = inside(*arguments, url=served.address.http)
        return found

    return run


@contextmanager
def process(*arguments: str, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """The program in a process of its own, ended at the end."""
    running = subprocess.Popen(
        [sys.executable, "-m", "server", "studio", *arguments],
        cwd=ROOT,
        env=plain_environment(TERM="xterm", COLUMNS="120"),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def until(enough: Callable[[], Any]) -> Any:
    """What `enough` says once it says something."""
    end = time.monotonic() + _PATIENCE
    while not (found := enough()):
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)
    return found


def jobs_of(served: RunningStudio) -> list[dict[str, Any]]:
    found = httpx.get(f"{served.address.http}/api/jobs", trust_env=False).json()["jobs"]
    assert isinstance(found, list)
    return found


def format_of(data: bytes) -> str | None:
    with Image.open(io.BytesIO(data)) as image:
        return image.format


def retried(remedy: str) -> str:
    """The job that is to be retried, as it is said."""
    found = re.search(r"understudy studio retry ([0-9a-f]{8}) ", remedy)
    assert found is not None, remedy
    return found[1]


# ---------------------------------------------------------------- asking


def test_pictures_are_drawn_and_it_is_said_where_they_are(ask: Any) -> None:
    status, out, err = ask("try", "a lake", "-n", 2, "--seed", 1000, "--style", "watercolor")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines] == [["seed", "1000"], ["seed", "1001"]]
    for _, _, url in lines:  # it opens for whoever has it
        answer = httpx.get(url, trust_env=False)
        assert format_of(answer.content) == "JPEG"


def test_pictures_come_into_a_folder(ask: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    status, out, err = ask("try", "a lake", "-n", 2, "--to", folder)
    assert (status, err) == (0, "")
    files = [Path(line.split()[2]) for line in out.splitlines()]
    assert sorted(folder.iterdir()) == sorted(files)
    assert all(format_of(file.read_bytes()) == "JPEG" for file in files)

    status, out, err = ask("try", "a lake", "-n", 1, "--to", folder, "--json")
    assert (status, err) == (0, "")
    job = json.loads(out)
    assert (job["status"], job["total"]) == ("completed", 1)
    assert Path(job["items"][0]["file"]).read_bytes()


def test_a_folder_that_cannot_be_is_said_before_anything_is_drawn(
    ask: Any, tmp_path: Path, pencil: Moody
) -> None:
    (tmp_path / "file").write_text("")
    status, out, err = ask("try", "a lake", "--to", tmp_path / "file" / "below")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("--to: ")
    assert not pencil.asked


def test_a_cue_says_what_is_drawn(ask: Any, pencil: Moody) -> None:
    assert ask("try", "--cue", "lake", "-n", 1)[0] == 0
    assert "a lake" in pencil.asked[0].prompt
    assert ask("try", "a pond", "--program", "P0", "--fast", "-n", 1)[0] == 0
    assert (pencil.asked[1].prompt[:6], pencil.asked[1].steps) == ("a pond", 4)


def test_what_is_wrong_is_said_all_at_once(ask: Any) -> None:
    status, out, err = ask("try", "a", "--style", "nope", "--cue", "zz", "--program", "P9")
    assert (status, out) == (1, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["cue", "style", "program"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["try"], 2, "prompt: "),
        (["try", "x" * 20_000], 2, "prompt: "),
        (["try", "a", "-n", "65"], 2, "-n"),
        (["jobs", "--status", "lost"], 2, "status: expected some of queued"),
        (["cancel", "nope!"], 2, "understudy studio jobs"),
        (["cancel", "abcd"], 1, "understudy studio jobs"),
        (["cancel", str(uuid.uuid4())], 1, "there is no such job"),
        (["retry", str(uuid.uuid4())], 1, "there is no such job"),
        (["stats", "--hours", "99999"], 2, "hours: "),
    ],
)
def test_what_is_refused_is_said_in_a_line(
    ask: Any, arguments: list[str], status: int, words: str
) -> None:
    told, out, err = ask(*arguments)
    assert (told, out) == (status, "")
    assert words in err


def test_what_failed_says_why_and_is_drawn_once_more(ask: Any, pencil: Moody) -> None:
    pencil.not_now = {1001}
    status, out, err = ask("try", "a lake", "-n", 3, "--seed", 1000)
    assert status == 1
    assert [line.split()[1] for line in out.splitlines()] == ["1000", "1002"]
    why, remedy = err.splitlines()
    assert why == "seed 1001  failed: it [does] not feel like it"
    assert remedy.startswith("1 of 3 pictures failed: understudy studio retry ")
    job = retried(remedy)

    told = ask("jobs")[1]
    assert "it [does] not feel like it" in told

    pencil.not_now = set()
    asked = len(pencil.asked)
    status, out, err = ask("retry", job)
    assert (status, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()] == ["1000", "1001", "1002"]
    assert [recipe.seed for recipe in pencil.asked[asked:]] == [1001]
    status, out, err = ask("retry", job)
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_where_all_fails_the_reason_is_said(ask: Any, pencil: Moody) -> None:
    pencil.not_now = {7}
    status, out, err = ask("try", "a lake", "-n", 1, "--seed", 7)
    assert (status, out) == (1, "")
    assert err.splitlines()[1:] == [
        "failed: it [does] not feel like it",
        f"understudy studio retry {retried(err)} has what failed drawn once more",
    ]
    status, out, err = ask("try", "a lake", "-n", 1, "--seed", 7, "--json")
    assert (status, json.loads(out)["status"]) == (1, "failed")


# ---------------------------------------------------------------- looking, calling off


def test_jobs_are_listed_and_called_off_by_the_beginning_of_their_id(
    ask: Any, served: RunningStudio, portal: BlockingPortal, pencil: Moody
) -> None:
    ask("try", "a [red]boat[/red]", "-n", 1)
    portal.call(pencil.hold)
    url = f"{served.address.http}/api/jobs"
    asked = {"prompt": "a lake at night", "n": 4}
    job = httpx.post(url, json=asked, trust_env=False).json()
    head, second, first = ask("jobs")[1].splitlines()
    assert head.split() == ["id", "status", "drawn", "left", "what", "why", "not"]
    assert second.startswith(job["id"][:8])
    assert "a lake at night" in second
    assert "1/1" in first
    assert "a [red]boat[/red]" in first, "what people write is no markup"
    assert len(ask("jobs", "--limit", 1)[1].splitlines()) == 2
    only = json.loads(ask("jobs", "--status", "queued,processing", "--json")[1])
    assert [each["id"] for each in only["jobs"]] == [job["id"]]

    assert ask("cancel", job["id"][:6].upper()) == (0, "cancelled: 0 of 4 pictures drawn\n", "")
    portal.call(pencil.let_go)
    status, out, err = ask("cancel", job["id"])
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_called_off_meanwhile_it_says_so(
    served: RunningStudio, portal: BlockingPortal, pencil: Moody
) -> None:
    portal.call(pencil.hold)
    with process("try", "a lake", "-n", "2", "--url", served.address.http) as running:
        (job,) = until(lambda: jobs_of(served))
        httpx.delete(f"{served.address.http}/api/jobs/{job['id']}", trust_env=False)
        out, err = running.communicate(timeout=_PATIENCE)
        assert (running.returncode, out) == (1, "")
        assert err.splitlines()[-1] == "called off: 0 of 2 pictures drawn"


def test_the_last_hours_can_be_read(ask: Any, pencil: Moody) -> None:
    pencil.not_now = {2}
    ask("try", "a lake", "-n", 2, "--seed", 1)
    status, out, err = ask("stats")
    assert (status, err) == (0, "")
    for words in (
        "last 24 h",
        "1 completed, 100% ",
        "half of them within",
        "artist on this machine",
    ):
        assert words in out
    assert re.search(r"^failed +1 \w+ *$", out, re.MULTILINE)
    status, out, _ = ask("stats", "--hours", 1, "--json")
    assert (status, json.loads(out)["pictures"]) == (0, 1)


# ---------------------------------------------------------------- tokens


def test_a_token_is_wanted_and_brought(
    ask: Any,
    served: RunningStudio,
    portal: BlockingPortal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = portal.call(served.add, "ada")
    portal.call(served.add, "shop", "client")
    until(lambda: ask("jobs")[0] == 1)
    status, out, err = ask("jobs")
    assert (status, out) == (1, "")
    assert err == (
        "unauthorized: this Studio wants a token: set UNDERSTUDY_STUDIO_TOKEN; "
        "understudy studio member add NAME makes one\n"
    )
    monkeypatch.setenv("UNDERSTUDY_STUDIO_TOKEN", "ust_wrong")
    status, out, err = ask("jobs")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "understudy studio member token NAME" in err
    assert "ust_wrong" not in err

    monkeypatch.delenv("UNDERSTUDY_STUDIO_TOKEN")
    secret = tmp_path / "token"
    secret.write_text(f"{token}\n")
    monkeypatch.setenv("UNDERSTUDY_STUDIO_TOKEN_FILE", str(secret))
    assert ask("try", "a lake", "-n", 1, "--to", tmp_path / "pictures")[0] == 0

    monkeypatch.setenv("UNDERSTUDY_STUDIO_TOKEN", served.tokens["shop"])
    status, out, err = ask("stats")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "an artist's token" in err
    assert ask("jobs")[1].splitlines()[1:] == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("UNDERSTUDY_STUDIO_TOKEN", "schlüssel", "expected visible signs of ASCII"),
        ("UNDERSTUDY_STUDIO_TOKEN_FILE", "/nowhere", "/nowhere: No such file"),
    ],
)
def test_a_token_that_cannot_be_is_wrong_use(
    ask: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    status, out, err = ask("jobs")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{name}: ")
    assert words in err
    assert "schlüssel" not in err


# ---------------------------------------------------------------- while it waits


def test_somebody_who_stops_is_told_that_it_is_drawn_all_the_same(
    served: RunningStudio, portal: BlockingPortal, pencil: Moody
) -> None:
    portal.call(pencil.hold)
    with process("try", "a lake", "-n", "1", "--url", served.address.http) as running:
        (job,) = until(lambda: [each for each in jobs_of(served) if each["progress"]])
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=_PATIENCE)
    assert (running.returncode, out) == (130, "")
    assert err == (
        "stopped; what was asked for is drawn all the same: "
        f"understudy studio cancel {job['id'][:8]} calls it off\n"
    )
    portal.call(pencil.let_go)
    until(lambda: jobs_of(served)[0]["status"] == "completed")


def test_in_a_terminal_the_steps_are_seen(
    served: RunningStudio, portal: BlockingPortal, pencil: Moody
) -> None:
    pencil.images = images(5)
    portal.call(pencil.hold)
    master, slave = pty.openpty()
    said = b""
    try:
        with process(
            "try", "a lake", "-n", "1", "--url", served.address.http, stderr=slave
        ) as running:
            os.close(slave)
            watchdog = threading.Timer(_PATIENCE, running.kill)
            watchdog.start()
            with suppress(OSError):  # the other end is closed: it was killed
                while b"step 4 of 5" not in said:
                    said += os.read(master, 4096)
            watchdog.cancel()
            assert b"step 4 of 5" in said
            portal.call(pencil.let_go)
            with suppress(OSError):  # the other end is closed
                while more := os.read(master, 4096):
                    said += more
            assert running.wait(_PATIENCE) == 0
            assert running.stdout is not None
            assert running.stdout.read().startswith("seed ")
    finally:
        os.close(master)
    assert b"0 of 1 drawn" in said


def test_a_studio_that_is_started_again_meanwhile_goes_on(tmp_path: Path) -> None:
    folder, port = tmp_path / "show", free_port()
    slow = '[studio]\nkeep_free = 0\n[[engines]]\nname = "pencil"\nkind = "sketch"\npace = 0.1\n'
    write_show(folder, CUES, slow)
    serve = {"command": ("studio", "serve"), "port": port}
    url = f"http://127.0.0.1:{port}"
    with (
        server_process(folder, **serve) as first,
        process("try", "a lake", "-n", "2", "--url", url) as running,
    ):
        until(lambda: httpx.get(f"{url}/api/jobs", trust_env=False).json()["jobs"])
        first.kill()
        with server_process(folder, **serve):
            out, err = running.communicate(timeout=180)
    assert (running.returncode, err) == (0, "")
    assert out.count("seed ") == 2
