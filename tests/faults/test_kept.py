"""What a reply says is kept is on the disk, and what is not is told: panic, restore, forces."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect
from structlog.testing import capture_logs

from cache import durable
from cache.durable import KeptFile, write_durably
from server.modes.forces import Force
from server.performance import state_file as memory_module
from server.performance.state_file import Panic, PersistedState, StateFile
from server.providers.shuffle import Bag
from tests.helpers import walls
from tests.helpers.servers import Address, server_process, serving
from tests.helpers.shows import Rhythm, TinyShow, line, make_show, prompt
from tests.helpers.technicians import technician

PANIC = Panic(by="foh (operator)", at=1_764_000_000.0)


class SlowDisk:
    """A disk that holds every fsync until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.held = threading.Event()
        self._fsync: Callable[[int], None] = os.fsync
        monkeypatch.setattr("os.fsync", self._hold)

    def _hold(self, descriptor: int) -> None:
        self.held.set()
        self.free.wait(20)
        self._fsync(descriptor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.json"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    cues = [line(0, "the sea", id="sea"), prompt(20, "a lamp", id="lamp")]
    return make_show(tmp_path / "show", cues, rhythm=Rhythm(previews=1, sets=1))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.free.set()


def full(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came")


# ---------------------------------------------------------------- one file, one writer


async def test_a_write_that_hangs_is_not_written_over_by_an_older_one(
    path: Path, slow: SlowDisk
) -> None:
    file = KeptFile(path)
    first = file.put(b"first")
    assert await file.kept(first, 0.05) == "the disk has not answered for 0.05 s"
    last = max(file.put(f"later {number}".encode()) for number in range(5))
    assert await file.kept(last, 0.05) is not None
    assert file.trouble(patience=0) is not None
    assert not path.exists(), "nothing is seen under its name before the disk has it"
    slow.free.set()
    assert await file.kept(last, 20) is None
    assert path.read_bytes() == b"later 4"
    assert file.trouble(patience=0) is None
    assert file.close(5) is None
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_what_failed_is_tried_again_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_RETRY", 0.02)
    file = KeptFile(path)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert await file.kept(file.put(b"content"), 20) == "No space left on device"
        assert not path.exists()
    await until(path.exists)
    assert path.read_bytes() == b"content"
    assert file.close(5) is None


def test_two_who_write_at_once_have_a_file_each(path: Path) -> None:
    contents = [bytes([65 + number]) * 200_000 for number in range(4)]
    threads = [threading.Thread(target=write_durably, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_and_its_folder_are_for_nobody_else(path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_durably(path, b"what technicians did")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------- a panic, kept first and apart


async def test_a_panic_does_not_wait_for_a_state_that_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()

    def hold(place: Path, data: bytes, **_how: object) -> None:
        if place.name == "state.json":
            hangs.wait(20)
        write_durably(place, data)

    monkeypatch.setattr(durable, "write_durably", hold)
    async with StateFile.open(path) as state_file:
        assert await state_file.keep(0.05) == "the disk has not answered for 0.05 s"
        assert await state_file.keep_panic(PANIC, 20) is None
        assert json.loads(path.with_name("panic.json").read_bytes())["by"] == PANIC.by
        hangs.set()


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, b"{", b'{"seed": "x"', None])
async def test_a_panic_is_found_whatever_became_of_the_rest(
    path: Path, damage: bytes | None
) -> None:
    async with StateFile.open(path) as state_file:
        await state_file.keep_panic(PANIC, 20)
    if damage is not None:
        path.write_bytes(damage)
    with capture_logs():
        async with StateFile.open(path) as state_file:
            assert state_file.content.panic == PANIC
            assert await state_file.keep_panic(None, 20) is None
    async with StateFile.open(path) as state_file:
        assert state_file.content.panic is None


@pytest.mark.parametrize("damage", [b"", b"\xff\0", b"[]", b'{"by": "x", "at": "noon"}'])
async def test_a_panic_that_cannot_be_read_is_one(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.with_name("panic.json").write_bytes(damage)
    with capture_logs() as logs:
        async with StateFile.open(path) as state_file:
            assert state_file.content.panic is not None
            assert "cannot be read" in state_file.content.panic.by
    assert "panic_unreadable" in [entry["event"] for entry in logs]


async def test_a_panic_that_was_not_on_the_disk_yet_is_one(path: Path) -> None:
    path.parent.mkdir()
    left = path.with_name(".panic.json.7.c0ffee.tmp")
    left.write_bytes(PANIC.model_dump_json().encode())
    async with StateFile.open(path) as state_file:
        assert state_file.content.panic == PANIC
        assert path.with_name("panic.json").exists()
        assert await state_file.keep_panic(None, 20) is None
    assert not left.exists()
    async with StateFile.open(path) as state_file:
        assert state_file.content.panic is None, "what was left did not bring it back"


async def test_a_panic_of_an_older_release_is_moved(path: Path) -> None:
    path.parent.mkdir()
    old = PersistedState(seed=7, panic=PANIC)
    path.write_text(old.model_dump_json())
    async with StateFile.open(path) as state_file:
        assert state_file.content.panic == PANIC
        assert "panic" not in json.loads(path.read_bytes())
        await state_file.keep_panic(None, 20)
    async with StateFile.open(path) as state_file:
        assert (state_file.content.panic, state_file.content.seed) == (None, 7)


# ---------------------------------------------------------------- a state that cannot be read


async def test_the_content_before_stands_in_for_one_that_is_gone(path: Path) -> None:
    force = Force(mode="static", by="foh", reason="GPU host noisy")
    async with StateFile.open(path) as state_file:
        state_file.content.forces = (force,)
        assert await state_file.keep(20) is None
    path.write_bytes(b"")
    with capture_logs():
        async with StateFile.open(path) as state_file:
            assert state_file.content.forces == (force,)
            [told] = state_file.conditions()
            assert (told.code, told.level) == ("state_unreadable", "note")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loop_anchor", "NaN"),
        ("loop_anchor", "-1e300"),
        ("loop_anchor", "1e999"),
        ("alive_at", '"yesterday"'),
        ("seed", "-1"),
        ("bags", '{"a": {"coming": [1]}, "b": {"coming": ["x"]}, "c": 7}'),
        ("forces", '[{"mode": "static", "by": "foh"}, {"mode": "no"}, 7, {"by": 1}]'),
    ],
)
async def test_what_is_bad_costs_nothing_else(path: Path, field: str, value: str) -> None:
    path.parent.mkdir()
    good = {"bags": '{"a": {"coming": [1]}}', "forces": '[{"mode": "static", "by": "foh"}]'}
    fields = {"alive_at": "5.0", **good, field: value}
    path.write_text("{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}")
    with capture_logs():
        async with StateFile.open(path) as state_file:
            content = state_file.content
            assert content.bags == {"a": Bag(coming=(1,))}
            assert content.forces == (Force(mode="static", by="foh"),)
            assert content.loop_anchor is None
            assert content.alive_at == (None if field == "alive_at" else 5.0)


async def test_files_of_an_older_release_are_taken_from_others(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.write_text("{}")
    path.chmod(0o644)
    async with StateFile.open(path):
        assert path.stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- what a technician hears


async def health(address: Address) -> list[str]:
    async with httpx.AsyncClient(base_url=address.http, trust_env=False) as client:
        state = (await client.get("/api/state")).json()
    return [each["code"] for each in state["health"]["conditions"]]


async def test_a_disk_that_is_full_is_told_by_every_reply(
    tiny: TinyShow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_RETRY", 0.05)
    async with serving(tiny.load()) as address, technician(address) as foh:
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            for command, args in (
                ("mode.force", {"mode": "static"}),
                ("mode.release", {}),
                ("panic", {}),
            ):
                result = (await foh.ask(command, **args))["result"]
                assert (result["kept"], result["not_kept"]) == (False, "No space left on device")
            assert {"panic_not_saved", "state_not_saved"} <= set(await health(address))
        await until((tiny.state / "panic.json").exists)
        result = (await foh.ask("mode.force", mode="static"))["result"]
        assert result["kept"] is True
        assert "not_kept" not in result
        assert (await foh.ask("restore"))["result"]["kept"] is True
        assert not {"panic_not_saved", "state_not_saved"} & set(await health(address))


async def test_a_disk_that_hangs_keeps_nobody_from_the_panic(
    tiny: TinyShow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.lifecycle.KEPT_WITHIN", 0.1)
    async with serving(tiny.load()) as address, technician(address) as foh:
        disk = SlowDisk(monkeypatch)
        begun = time.monotonic()
        result = (await foh.ask("panic"))["result"]
        assert (result["panic"], result["kept"]) == (True, False)
        assert time.monotonic() - begun < 10, "it does not wait for the disk"
        disk.free.set()
        await until((tiny.state / "panic.json").exists)
    assert (tiny.state / "state.json").stat().st_size > 0


async def test_a_force_that_is_kept_outlives_a_kill(tiny: TinyShow) -> None:
    async with serving(tiny.load()) as address, technician(address) as foh:
        assert (await foh.ask("mode.force", mode="static"))["result"]["kept"] is True
        # Not at the end: what is on the disk at this moment is all that a kill leaves.
        kept = json.loads((tiny.state / "state.json").read_bytes())
        assert kept["forces"][0]["mode"] == "static"


def test_who_only_looks_touches_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"")
    assert memory_module.read_state(path) is None
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


@pytest.mark.browser
def test_the_page_says_what_is_not_kept(tiny: TinyShow) -> None:
    with server_process(tiny.folder) as server, walls.browser() as chromium:
        # Nobody can put a file where a folder is, whoever he is: root may write to a full disk.
        (tiny.state / "panic.json").mkdir(parents=True, exist_ok=True)
        page = chromium.new_page()
        page.goto(f"{server.address.http}/control")
        expect(page.locator("#panic")).to_be_enabled(timeout=15_000)
        page.locator("#panic").click()
        expect(page.locator("#panic")).to_contain_text("press again", timeout=15_000)
        page.wait_for_timeout(700)  # a double click is a slip, and no second press
        page.locator("#panic").click()
        expect(page.locator("#said")).to_contain_text("NOT KEPT", timeout=15_000)
        expect(page.locator("#said")).to_contain_text("a restart forgets it")
