"""«Ready» has been tried: what cannot be opened is nobody's to stand on, and everybody says so."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache.model.keys import MANIFEST, Key, meta_key
from cache.stores.folder import FolderStore
from cache.stores.port import StoreDenied
from generator.engines.port import ScriptedEngine
from server.config.show import load_show
from server.core.clock import VirtualClock
from server.diagnostics.live_checks import RunningShow, files
from server.diagnostics.report import RehearsalOptions
from server.engines.live import LiveEngines
from server.providers.live import LiveEngine
from server.rehearsal.rehearsal import rehearse
from tests.helpers.engines import drawing
from tests.helpers.house import house
from tests.helpers.pictures import picture
from tests.helpers.programs import start
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import LOOP, MANUAL, Rhythm, TinyShow, cue, make_show, prompt, write_show
from tests.server.web.test_http import until_ready

CUES = [
    cue(0, "start"),
    prompt(1, "a lamp", id="lamp"),
    prompt(9, "a tree", id="tree"),
    cue(20, "end"),
]
SHORT = Rhythm(previews=2, step=0.2, sets=2)


def with_still(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "still.jpg").write_bytes(picture("still"))
    return f'still = "still.jpg"\n{MANUAL}'


def a_folder_in_its_place(path: Path) -> None:
    """Root may read whatever it likes, but no folder as a file, and no circle."""
    path.unlink()
    path.mkdir()


def a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def elsewhere(show: TinyShow, disk: Path) -> None:
    """The sets on another disk, by a link."""
    disk.mkdir()
    (show.folder / "actions").rename(disk / "actions")
    (show.folder / "actions").symlink_to(disk / "actions")


def verdict(folder: Path) -> tuple[str, set[str]]:
    """What a rehearsal says, and the codes of its errors."""
    show = load_show(folder, {}, {})
    report = rehearse(show, RehearsalOptions(seed=1), wall=1_800_000_000.0)
    return report.verdict, {each.code for each in report.findings if each.level == "error"}


@pytest.mark.parametrize("name", ["meta.json", "final.jpg"])
@pytest.mark.parametrize("spoil", [a_folder_in_its_place, a_circle])
async def test_a_file_that_cannot_be_read_is_its_sets_trouble(
    tmp_path: Path, name: str, spoil: Any
) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=SHORT, toml=with_still(tmp_path / "show"))
    spoil(tiny.set_folder("lamp", 0) / name)
    async with serving(tiny.load()) as address, web(address) as client:
        told = (await until_ready(client)).json()
        async with asyncio.timeout(20):
            while not told["faulty_sets"]:  # ready with one set; the other is tried a moment later
                await asyncio.sleep(0.05)
                told = (await client.get("/readyz")).json()
        (fault,) = told["faulty_sets"]
        assert (fault["action_id"], fault["set_id"]) == ("lamp", 0)
        assert name in fault["reason"] or "meta.json" in fault["reason"]
        spoil(tiny.set_folder("lamp", 1) / name)
    async with serving(tiny.load()) as address, web(address) as client:
        told = (await until_ready(client, 503)).json()
        async with asyncio.timeout(20):
            while told["without_sets"] != ["lamp"]:
                await asyncio.sleep(0.05)
                told = (await client.get("/readyz")).json()
        assert "lamp set 0: " in told["reasons"][0]
        state = (await client.get("/api/state")).json()
        assert state["health"]["level"] == "degraded"
        (cue_told,) = [
            each
            for each in (await client.get("/api/cues")).json()["cues"]
            if each.get("cue") == "lamp"
        ]
        assert (cue_told["ready"], cue_told["provider"]) == (False, "hold")


async def test_what_is_mended_plays_again_and_what_breaks_later_is_found(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with house(tmp_path, CUES, rhythm=SHORT, toml=MANUAL, clock=clock, play=False) as opened:
        final = opened.store.contents.pop(Key("actions/lamp/sets/0/final.jpg"))
        await opened.readiness.look()
        assert opened.readiness.sets("lamp") == 1
        opened.store.contents[Key("actions/lamp/sets/0/final.jpg")] = final
        await opened.readiness.look()
        assert opened.readiness.sets("lamp") == 2
        # Long after it was proven, it is read once more.
        del opened.store.contents[Key("actions/lamp/sets/0/final.jpg")]
        await opened.readiness.look()
        assert opened.readiness.sets("lamp") == 2, "it was read a moment ago"
        clock.jump(700)
        await opened.readiness.look()
        assert opened.readiness.sets("lamp") == 1


@pytest.mark.parametrize("engines", [False, True])
async def test_a_still_alone_is_not_ready_and_everybody_says_the_same(
    tmp_path: Path, engines: bool
) -> None:
    folder = write_show(tmp_path / "show", CUES, with_still(tmp_path / "show"))
    live = [LiveEngine("here", ScriptedEngine(drawing("a lamp")), local=True)] if engines else []
    async with serving(load_show(folder, {}, {}), live) as address, web(address) as client:
        told = (await until_ready(client, 200 if engines else 503)).json()
        assert told["ready"] == engines
        if not engines:
            assert "nothing but the still image" in told["reasons"][0]
            assert "no manifest" in told["reasons"][0]


def test_a_rehearsal_of_a_still_alone_agrees(tmp_path: Path) -> None:
    toml = with_still(tmp_path / "show").replace(MANUAL, LOOP)
    said, codes = verdict(write_show(tmp_path / "show", CUES, toml))
    assert said == "not ready"
    assert codes <= {"no_sets", "nothing_to_show"}
    assert codes


@pytest.mark.parametrize("name", ["meta.json", "final.jpg"])
def test_a_rehearsal_of_what_cannot_be_read_ends_in_a_verdict(tmp_path: Path, name: str) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=SHORT, toml=LOOP)
    for number in (0, 1):
        a_circle(tiny.set_folder("lamp", number) / name)
    said, codes = verdict(tiny.folder)
    assert said == "not ready"
    assert "unreadable" in codes or "no_sets" in codes


def test_a_store_that_is_a_file_is_told_in_a_verdict(tmp_path: Path) -> None:
    toml = LOOP + '[store]\nurl = "file:store"\n'
    folder = write_show(tmp_path / "show", CUES, toml)
    (folder / "store").write_text("no folder")
    assert verdict(folder) == ("not ready", {"no_sets"})


async def test_a_show_that_draws_nothing_has_a_preflight(tmp_path: Path) -> None:
    folder = write_show(tmp_path / "show", [cue(0, "start"), cue(9, "end")], MANUAL)
    async with serving(load_show(folder, {}, {})) as address, web(address) as client:
        told = (await until_ready(client)).json()
        assert told["ready"]
        state = (await client.get("/api/state")).json()
        assert state["health"]["level"] == "ok"
    async with house(tmp_path / "bare", [cue(0, "start"), cue(9, "end")], toml=MANUAL) as opened:
        running = RunningShow(
            show=opened.show,
            runtime=opened.runtime,
            supply=opened.supply,
            live=LiveEngines(),
            wall=opened.clock.wall,
        )
        assert [found async for found in files(running)] == []


# ---------------------------------------------------------------- links to other disks


async def test_links_lead_below_named_folders_and_nowhere_else(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=SHORT)
    disk = tmp_path / "disk"
    elsewhere(tiny, disk)
    key = meta_key("lamp", 0)
    async with FolderStore(tiny.folder) as closed:
        with pytest.raises(StoreDenied, match=r"leads out of .* \[store\] follow"):
            await closed.get(key)
    async with FolderStore(tiny.folder, follow=[disk]) as store:
        data, version = await store.get_versioned(key)
        assert key in [entry.key async for entry in store.list("actions/lamp/sets/0/")]
        await store.replace(key, data + b"\n", expected=version)
        assert (disk / key).read_bytes() == data + b"\n"
        (disk / "actions" / "out").symlink_to("/etc")
        with pytest.raises(StoreDenied, match="leads out"):
            await store.get(Key("actions/out/hostname"))
    said, codes = await asyncio.to_thread(verdict, tiny.folder)
    assert said == "not ready"
    assert "unreadable" in codes
    path = tiny.folder / "show.toml"
    path.write_text(path.read_text() + f'[store]\nfollow = ["{disk}"]\n')
    said, _ = await asyncio.to_thread(verdict, tiny.folder)
    assert said == "ready"


# ---------------------------------------------------------------- file systems without locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_a_file_system_without_locks_can_be_written_to_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    async with FolderStore(tmp_path / "store") as store:
        with capture_logs() as told:
            version = await store.replace(MANIFEST, b"1", expected=None)
            await store.replace(MANIFEST, b"2", expected=version)
        assert await store.get(MANIFEST) == b"2"
        assert [each["event"] for each in told] == ["store_without_locks"], "once"
        assert store.without_locks is not None
        assert "only one program at a time" in store.without_locks


# ---------------------------------------------------------------- the commands


def missing(store: Path) -> None:
    (store / MANIFEST).unlink()
    (store / "actions").rename(store / "gone")


def manifest_folder(store: Path) -> None:
    a_folder_in_its_place(store / MANIFEST)


def circle(store: Path) -> None:
    (store / "actions").rename(store / "gone")
    (store / "actions").symlink_to("actions")


@pytest.mark.parametrize("spoil", [missing, manifest_folder, circle])
def test_verify_of_a_store_that_holds_nothing_is_a_problem(tmp_path: Path, spoil: Any) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=SHORT)
    spoil(tiny.folder)
    program = start(["generate", "verify", "--json", "--show", tiny.folder], tmp_path / "said")
    assert program.wait() == 1, program.said()
    findings = json.loads(program.said())["findings"]
    assert {each["action_id"] for each in findings} == {"lamp", "tree"}
    assert "Traceback" not in program.said()


def test_prune_of_a_store_that_holds_nothing_says_so(tmp_path: Path) -> None:
    """A disk that is not mounted is no store in which every set is wanted."""
    tiny = make_show(tmp_path / "show", CUES, rhythm=SHORT)
    for spoil, expected in (
        (None, "every set in {} is wanted"),
        (missing, "there is no set in {}"),
    ):
        if spoil is not None:
            spoil(tiny.folder)
        program = start(["generate", "prune", "--show", tiny.folder], tmp_path / "said")
        assert program.wait() == 0, program.said()
        assert expected.format(tiny.folder.as_uri()) in program.said()


def unprivileged(arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """The program as somebody who is not root."""
    root = Path(__file__).resolve().parents[2]
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
    return subprocess.run(
        [*words, "-m", "server", *map(str, arguments)],
        cwd=root,
        env={**os.environ, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.fixture
def shut() -> Iterator[TinyShow]:
    """A show of nobody's, whose final images nobody may read."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    with TemporaryDirectory(prefix="understudy-") as folder:  # pytest's own is for root alone
        Path(folder).chmod(0o755)
        tiny = make_show(Path(folder) / "show", CUES, rhythm=SHORT, toml=LOOP)
        tiny.state.mkdir()
        for path in (tiny.folder, *tiny.folder.rglob("*")):
            os.chown(path, 65534, 65534)
        for path in tiny.folder.rglob("final.jpg"):
            path.chmod(0)
        yield tiny


def test_who_may_not_read_is_told_so_by_every_command(shut: TinyShow) -> None:
    for words in (["rehearse"], ["generate", "verify"]):
        done = unprivileged([*words, "--show", shut.folder])
        said = done.stdout + done.stderr
        assert done.returncode == 1, said
        assert "final.jpg cannot be read: Permission denied" in " ".join(said.split())
        assert "Traceback" not in said
    shut.folder.parent.chmod(0o700)
    done = unprivileged(["generate", "plan", "--show", shut.folder])
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "the show cannot be read: Permission denied" in " ".join(done.stderr.split())
