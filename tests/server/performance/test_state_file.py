from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cache import durable
from server.performance import state_file as memory_module
from server.performance.state_file import StateFile
from server.providers.shuffle import Bag


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.json"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_DELAY", 0.02)


async def saved(path: Path, old: bytes = b"") -> bytes:
    for _ in range(500):
        if path.exists() and (data := path.read_bytes()) != old:
            return data
        await asyncio.sleep(0.01)
    pytest.fail("nothing was saved")


async def test_what_was_touched_is_there_after_a_restart(path: Path) -> None:
    async with StateFile.open(path) as state_file:
        assert state_file.content.loop_anchor is None
        assert not path.exists()
        state_file.content.loop_anchor = 12.5
        state_file.content.bags["lamp"] = Bag(coming=(2, 0), played=(1,))
        state_file.touch()
    async with StateFile.open(path) as state_file:
        assert state_file.content.loop_anchor == 12.5
        assert state_file.content.bags == {"lamp": Bag(coming=(2, 0), played=(1,))}
        assert {entry.name for entry in path.parent.iterdir()} <= {
            "state.json",
            "state.json.previous",
        }


async def test_it_is_saved_soon_and_not_only_at_the_end(path: Path) -> None:
    async with StateFile.open(path) as state_file:
        state_file.content.alive_at = 1.0
        state_file.touch()
        first = await saved(path)
        assert json.loads(first)["alive_at"] == 1.0
        state_file.content.alive_at = 2.0
        state_file.touch()
        assert json.loads(await saved(path, first))["alive_at"] == 2.0


async def test_many_touches_are_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    monkeypatch.setattr(durable, "write_durably", lambda _path, data, **_: writes.append(data))
    async with StateFile.open(path) as state_file:
        for number in range(100):
            state_file.content.alive_at = float(number)
            state_file.touch()
        await asyncio.sleep(0.1)
        assert len(writes) == 1
    assert len(writes) == 1, "nothing was touched since"


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"bags": 7}', b'{"bags": {"a": {"coming": ["x"]}}}', b"\xff\0" * 9],
)
async def test_what_cannot_be_read_is_set_aside(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    with capture_logs() as logs:
        async with StateFile.open(path) as state_file:
            assert state_file.content.bags == {}
            state_file.touch()
    assert [entry["event"] for entry in logs] == ["memory_unreadable"]
    assert path.with_suffix(".unreadable").read_bytes() == damage
    assert json.loads(path.read_bytes())["bags"] == {}


async def test_fields_of_a_newer_release_do_no_harm(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"loop_anchor": 3.0, "weather": "rain"}')
    async with StateFile.open(path) as state_file:
        assert state_file.content.loop_anchor == 3.0


async def test_a_place_that_cannot_be_written_is_told_once_and_tried_again(
    path: Path, tmp_path: Path
) -> None:
    path.parent.write_bytes(b"a file where the folder should be")
    with capture_logs() as logs:
        async with StateFile.open(path) as state_file:
            for number in range(3):
                state_file.content.alive_at = float(number)
                state_file.touch()
                await asyncio.sleep(0.08)
            told = [entry for entry in logs if entry["event"] == "memory_not_saved"]
            assert len(told) == 1
            assert [each.code for each in state_file.conditions()] == ["state_not_saved"]
            path.parent.rename(tmp_path / "away")
            state_file.touch()
            assert json.loads(await saved(path))["alive_at"] == 2.0
            assert await state_file.keep(5) is None
            assert list(state_file.conditions()) == []


async def test_a_write_that_is_interrupted_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with StateFile.open(path) as state_file:
        state_file.content.alive_at = 1.0
        state_file.touch()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with capture_logs():
        async with StateFile.open(path) as state_file:
            state_file.content.alive_at = 2.0
            state_file.touch()
    monkeypatch.undo()
    assert json.loads(path.read_bytes())["alive_at"] == 1.0
