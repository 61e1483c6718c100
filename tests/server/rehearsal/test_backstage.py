"""A rehearsal in a process of its own, beside a server that plays: the real child."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.config.show import load_show
from server.diagnostics.report import ProbedEngine
from server.rehearsal.backstage import ChildBackstage, rehearsal_environment
from server.rehearsal.request import RehearsalRequest
from server.reports.archive import HTML, JSON
from tests.helpers.servers import ROOT, ServerProcess, server_process
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt

CUES = [
    cue(0, "start"),
    line(0, "the sea", id="sea"),
    prompt(30, "a lamp", id="lamp"),
    cue(60, "end"),
]
RHYTHM = Rhythm(previews=2, step=0.2)
TOKENS = {
    "UNDERSTUDY_OPERATOR_TOKEN": "operate",
    "UNDERSTUDY_VIEWER_TOKEN": "look",
    "UNDERSTUDY_SCREEN_TOKEN": "show",
}


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM)


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where somebody picks up and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def that_waits(folder: Path, deaf: str) -> TinyShow:
    """A show whose rehearsal waits for an engine that does not answer."""
    engine = f'[[engines]]\nname = "box"\nkind = "worker"\nurl = "{deaf}"\nlive = true\n'
    return make_show(folder, CUES, rhythm=RHYTHM, toml=MANUAL + engine)


def children(folder: Path) -> list[int]:
    """The processes that rehearse a show."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes().split(b"\0")
            alive = (each / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if b"--supervised" in command and str(folder).encode() in b" ".join(command) and alive:
            found.append(int(each.name))
    return found


def wait(there: Callable[[], object], within: float = 20.0) -> None:
    until = time.monotonic() + within
    while not there():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def status(server: ServerProcess) -> str:
    told: str = server.state()["rehearsal"]["status"]
    return told


# ---------------------------------------------------------------- the child by itself


async def test_the_child_leaves_its_report_and_says_how_it_ended(
    tiny: TinyShow, tmp_path: Path
) -> None:
    ended = await ChildBackstage(tiny.load()).rehearse(RehearsalRequest(screenings=2), tmp_path)
    assert (ended.status, ended.words) == (0, "")
    report = json.loads((tmp_path / JSON).read_text())
    assert (report["verdict"], len(report["screenings"])) == ("ready", 2)


async def test_what_it_cannot_do_it_says(tiny: TinyShow, tmp_path: Path) -> None:
    show = tiny.load()
    ended = await ChildBackstage(show).rehearse(RehearsalRequest(fail=("nobody",)), tmp_path)
    assert ended.status == 2
    assert "nothing is called 'nobody'" in ended.words


@pytest.mark.parametrize("stopped", [False, True])
async def test_cancelled_it_is_gone(tmp_path: Path, deaf: str, *, stopped: bool) -> None:
    tiny = that_waits(tmp_path / "show", deaf)
    task = asyncio.create_task(ChildBackstage(tiny.load()).rehearse(RehearsalRequest(), tmp_path))
    async with asyncio.timeout(20):
        while not children(tiny.folder):  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.02)
    if stopped:  # so that it does not notice who has gone
        os.kill(children(tiny.folder)[0], signal.SIGSTOP)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children(tiny.folder) == []


def test_who_may_come_in_is_none_of_its_business(tiny: TinyShow) -> None:
    show = tiny.load(store={"url": "file:elsewhere"}, playback={"mode": "hybrid"})
    given = {
        **TOKENS,
        "UNDERSTUDY_VIEWER_TOKEN_FILE": "/run/secrets/viewer",
        "UNDERSTUDY_WORKER_TOKEN": "ask",
        "AWS_SECRET_ACCESS_KEY": "fetch",
        "HOME": "/root",
    }
    environment = rehearsal_environment(given, show)
    assert not environment.keys() & {*TOKENS, "UNDERSTUDY_VIEWER_TOKEN_FILE"}
    assert environment["UNDERSTUDY_WORKER_TOKEN"] == "ask"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "fetch"
    # As this server plays it, whatever its command line said.
    again = load_show(tiny.folder, None, environment)
    assert again.settings.store.url == "file:elsewhere"
    assert again.settings.playback.mode == "hybrid"


def test_it_gives_way() -> None:
    code = (
        "import os; from server.core.child_process import give_way; give_way(19); print(os.nice(0))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(said.stdout) == min(19, os.nice(0) + 19)


# ---------------------------------------------------------------- beside a real server


def test_a_show_is_rehearsed_beside_itself_and_the_report_is_for_readers(
    tiny: TinyShow,
) -> None:
    with (
        server_process(tiny.folder, environment=TOKENS) as server,
        technician(server, "operate") as foh,
        technician(server, "look") as guest,
    ):
        assert foh.post("/api/control/rehearse", json={}).status_code == 200
        assert guest.post("/api/control/rehearse", json={}).status_code == 403

        def told() -> dict[str, object]:
            state: dict[str, object] = guest.get("/api/state").json()["rehearsal"]
            return state

        wait(lambda: told()["status"] != "running")
        done = told()
        assert (done["status"], done["verdict"], done["errors"]) == ("done", "ready", 0)
        address = str(done["report"])
        with technician(server) as stranger:
            for path in ("/rehearsal/report.html", "/rehearsal/report.json"):
                assert stranger.get(path).status_code == 401
                assert stranger.get(f"{path}?key=wrong").status_code == 401
            opened = stranger.get(address)  # a link carries no token
            assert opened.status_code == 200
            assert opened.headers["cache-control"] == "no-store"
            page = stranger.get(address.replace(".json", ".html"))
            assert stranger.get(address, headers={"origin": "http://evil"}).status_code == 403
        assert guest.get("/rehearsal/report.json").json()["verdict"] == "ready"
        assert_strict(page)
        assert foh.post("/api/control/rehearsal", json={}).json()["result"]["rehearsal"] == {
            **done,
            "findings": [],
        }
    kept = tiny.state / "rehearsals"
    assert [each.name.startswith(".") for each in kept.iterdir()] == [False]
    with server_process(tiny.folder) as server:
        assert (status(server), server.state()["rehearsal"]["verdict"]) == ("done", "ready")
        assert "activation" in server.state()
        assert server.state()["activation"] == "show"
    log = (tiny.folder / "server.log").read_text()
    assert "Traceback" not in log


def assert_strict(page: httpx.Response) -> None:
    """One policy, and nothing from elsewhere in it; nothing of ours can be reached."""
    if page.status_code == 200:
        policies = page.headers.get_list("content-security-policy")
        assert len(policies) == 1
        assert policies[0].startswith("default-src 'none'")
        assert "sandbox allow-scripts" in policies[0]
        assert "allow-same-origin" not in policies[0]
        assert "http" not in policies[0]


@contextmanager
def technician(server: ServerProcess, token: str | None = None) -> Iterator[httpx.Client]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    with httpx.Client(
        base_url=server.address.http, headers=headers, timeout=10, trust_env=False
    ) as client:
        yield client


def test_a_rehearsal_that_dies_is_told_and_the_show_goes_on(tmp_path: Path, deaf: str) -> None:
    tiny = that_waits(tmp_path / "show", deaf)
    with server_process(tiny.folder) as server:
        server.control("rehearse")
        wait(lambda: children(tiny.folder))
        os.kill(children(tiny.folder)[0], signal.SIGKILL)
        wait(lambda: status(server) == "failed")
        told = server.state()["rehearsal"]
        assert told["reason"] == "the rehearsal failed: it was killed by signal 9"
        assert server.control("go")["status"] == "active"
        assert httpx.get(f"{server.address.http}/healthz", trust_env=False).status_code == 200
        # and again, this time broken off by hand
        server.control("rehearse")
        wait(lambda: children(tiny.folder))
        assert server.control("rehearse.cancel")["rehearsal"]["status"] == "cancelled"
        assert children(tiny.folder) == []


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_rehearsal_does_not_outlive_its_server(tmp_path: Path, deaf: str, how: str) -> None:
    tiny = that_waits(tmp_path / "show", deaf)
    with server_process(tiny.folder) as server:
        server.control("rehearse")
        wait(lambda: children(tiny.folder))
        getattr(server, how)()
        wait(lambda: not children(tiny.folder))


def test_readyz_has_the_preflight_of_a_real_server(tmp_path: Path) -> None:
    toml = f'{MANUAL}[playback]\nfit = "recorded"\n'
    tiny = make_show(
        tmp_path / "show", CUES, rhythms={"sea": Rhythm(previews=3, step=9.0)}, toml=toml
    )
    with server_process(tiny.folder) as server:
        wait(lambda: server.state()["preflight"]["verdict"])
        state = server.state()["preflight"]
        assert (state["verdict"], state["errors"]) == ("not ready", 1)
        assert state["findings"][0]["code"] == "overrun"
        ready = httpx.get(f"{server.address.http}/readyz", trust_env=False)
        assert ready.status_code == 503
        assert ready.json()["reasons"][0].startswith("sea: set 0 takes 36.0 s and has 30.0 s")
        assert server.state()["health"]["reason"].startswith("preflight: sea: set 0 takes 36.0 s")
        metrics = httpx.get(f"{server.address.http}/metrics", trust_env=False).text
        assert "understudy_preflight_errors 1.0" in metrics
        # A rehearsal, which plays it, says the same of the same cue.
        server.control("rehearse")
        wait(lambda: status(server) == "done")
        found = server.control("rehearsal")["rehearsal"]["findings"]
        said = [(each["level"], each["code"], each["cue"]) for each in found]
        assert said == [("error", "overrun", state["findings"][0]["cue"])]


@pytest.fixture(autouse=True)
async def nothing_is_left(tmp_path: Path) -> AsyncIterator[None]:
    yield
    assert children(tmp_path) == []


def test_the_names_of_its_files_are_what_the_routes_say() -> None:
    assert (HTML, JSON) == ("report.html", "report.json")


async def test_engines_that_the_show_knows_are_not_asked_again(tmp_path: Path) -> None:
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    engine = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = engine.sockets[0].getsockname()[1]
    toml = f'[[engines]]\nname = "gpu"\nkind = "worker"\nurl = "http://127.0.0.1:{port}"\n'
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL + toml)
    known = ProbedEngine(name="gpu", kind="worker", local=False, state="ready", detail="draws")
    async with engine:
        backstage = ChildBackstage(tiny.load(), lambda: [known])
        ended = await backstage.rehearse(RehearsalRequest(), tmp_path)
        assert ended.status == 0, ended.words
        assert not asked
        await ChildBackstage(tiny.load()).rehearse(RehearsalRequest(), tmp_path)
        assert asked
    report = json.loads((tmp_path / JSON).read_text())
    assert report["engines"][0]["state"] == "dead"
