from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from generator.sheet.cues import parse_cues
from generator.sheet.edits import edit_cue
from generator.sheet.programs import DEFAULT_PROGRAMS
from server.studio.sheet import (
    ANY,
    MAX_SHEET,
    NothingToUndo,
    SheetConflict,
    SheetFile,
    SheetNotPlayable,
    SheetTooLarge,
    SheetUnusable,
    SheetVersion,
)
from server.studio.sheet_history import VERSIONS, etag_of_sheet

ROOT = Path(__file__).parents[3]


def sheet(text: str) -> bytes:
    """A sheet with one prompt."""
    return (
        '[\n  {"time": "00:00:01", "action": "prompt", "prompt": '
        f'{json.dumps(text)}, "note": 1.50}},\n  {{"time": "00:00:09", "action": "end"}}\n]\n'
    ).encode()


@dataclass
class Desk:
    """A sheet on the disk, and who owns it."""

    path: Path
    versions: Path

    def owner(self) -> SheetFile:
        """An owner of it, as each Studio has one."""
        return SheetFile(
            self.path, self.versions, lambda data: parse_cues(data, "cues.json", DEFAULT_PROGRAMS)
        )

    @property
    def prompt(self) -> str:
        """What the sheet's cue says."""
        return str(json.loads(self.path.read_bytes())[0]["prompt"])

    async def write(self, text: str, owner: SheetFile | None = None, base: str = ANY) -> None:
        """Have its cue say something else."""
        await (owner or self.owner()).change(lambda _: sheet(text), [base])

    def write_two(self) -> None:
        """Have its cue say "two", in a process that has no loop yet."""
        asyncio.run(self.write("two"))

    def undo(self) -> None:
        """Take its last change back, in a process that has no loop yet."""
        asyncio.run(self.owner().undo())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "show").mkdir()
    made = Desk(tmp_path / "show" / "cues.json", tmp_path / "state" / "sheet-versions")
    made.path.write_bytes(sheet("one"))
    return made


# ---------------------------------------------------------------- writing, and taking back


async def test_a_change_is_written_and_taken_back_step_by_step(desk: Desk) -> None:
    owner = desk.owner()
    for text in ("two", "three", "one", "four"):
        await desk.write(text, owner)
    for text in ("one", "three", "two", "one"):
        change = await desk.owner().undo()  # by whomever: it is all on the disk
        assert change.after.data == sheet(text) == desk.path.read_bytes()
    with pytest.raises(NothingToUndo):
        await owner.undo()
    assert desk.prompt == "one"


async def test_an_edit_after_an_undo_begins_a_new_line(desk: Desk) -> None:
    for text in ("two", "three"):
        await desk.write(text)
    await desk.owner().undo()
    await desk.write("four")
    await desk.owner().undo()
    assert desk.prompt == "two"
    await desk.owner().undo()
    assert desk.prompt == "one"
    kept = {each.etag for each in await desk.owner().versions()}
    assert etag_of_sheet(sheet("three")) in kept, "what was left behind is not lost"


async def test_what_is_written_already_is_no_version(desk: Desk) -> None:
    await desk.write("one")
    assert await desk.owner().versions() == []
    await desk.write("two")
    await desk.write("two")
    found = await desk.owner().versions()
    assert [each.etag for each in found] == [etag_of_sheet(sheet(text)) for text in ("two", "one")]
    assert [each.present for each in found] == [True, False]


async def test_a_dry_run_writes_nothing(desk: Desk) -> None:
    change = await desk.owner().change(lambda _: sheet("two"), [ANY], dry_run=True)
    assert (change.before.data, change.after.data) == (sheet("one"), sheet("two"))
    assert change.sheet.cues[0].text == "two"
    assert desk.prompt == "one"
    assert not desk.versions.exists()
    await desk.write("two")
    assert (await desk.owner().undo(dry_run=True)).after.data == sheet("one")
    assert desk.prompt == "two"


async def test_fifty_versions_are_kept(desk: Desk) -> None:
    owner = desk.owner()
    for number in range(VERSIONS + 5):
        await desk.write(str(number), owner)
    found = await owner.versions()
    assert len(found) == VERSIONS
    assert found[0].etag == etag_of_sheet(sheet(str(VERSIONS + 4)))
    for _ in range(VERSIONS - 1):
        await owner.undo()
    with pytest.raises(NothingToUndo):
        await owner.undo()
    assert desk.prompt == "5"
    # Of those that are kept it is the oldest; what is made of it can be taken back none the less.
    await desk.write("another line", owner)
    assert len(await owner.versions()) == VERSIONS
    await owner.undo()
    assert desk.prompt == "5"


async def test_the_file_keeps_its_mode_and_a_link_is_followed(desk: Desk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(sheet("one"))
    elsewhere.chmod(0o666)
    desk.path.unlink()
    desk.path.symlink_to(elsewhere)
    before = os.umask(0o077)
    try:
        await desk.write("two")
    finally:
        os.umask(before)
    assert desk.path.is_symlink()
    assert elsewhere.read_bytes() == sheet("two")
    assert elsewhere.stat().st_mode & 0o777 == 0o666


# ---------------------------------------------------------------- somebody else


async def test_a_change_of_another_version_is_refused_with_all_three(desk: Desk) -> None:
    owner = desk.owner()
    await desk.write("two")
    base = await owner.read()
    await desk.write("theirs")

    def edit(present: SheetVersion) -> bytes:
        return edit_cue(present.data.decode(), 0, {"prompt": "mine"}).encode()

    with pytest.raises(SheetConflict) as refused:
        await owner.change(edit, [base.etag])
    assert refused.value.base == base
    assert refused.value.mine == SheetVersion.of(sheet("mine"))
    assert refused.value.theirs.data == sheet("theirs") == desk.path.read_bytes()


async def test_of_a_base_that_nobody_knows_only_theirs_is_told(desk: Desk) -> None:
    with pytest.raises(SheetConflict) as refused:
        await desk.owner().change(lambda _: sheet("mine"), ["0" * 64])
    assert (refused.value.base, refused.value.mine) == (None, None)
    assert refused.value.theirs.data == sheet("one")


async def test_what_somebody_else_has_written_is_not_undone(desk: Desk) -> None:
    await desk.write("two")
    desk.path.write_bytes(sheet("in an editor"))
    with pytest.raises(SheetConflict) as refused:
        await desk.owner().undo()
    assert refused.value.base == SheetVersion.of(sheet("two"))
    assert refused.value.mine == SheetVersion.of(sheet("one"))
    assert desk.prompt == "in an editor"
    # Changed here, it is a version like any other.
    await desk.write("three")
    for text in ("in an editor", "two", "one"):
        await desk.owner().undo()
        assert desk.prompt == text


async def test_of_two_who_have_read_the_same_one_is_refused(desk: Desk) -> None:
    owner = desk.owner()
    base = (await owner.read()).etag
    texts = [f"writer {number}" for number in range(8)]
    found = await asyncio.gather(
        *(desk.write(text, owner, base) for text in texts),
        return_exceptions=True,
    )
    refused = [each for each in found if isinstance(each, SheetConflict)]
    assert len(refused) == len(texts) - 1
    written = next(text for text, each in zip(texts, found, strict=True) if each not in refused)
    assert desk.prompt == written
    assert {each.theirs.data for each in refused} == {sheet(written)}


ADDING = """
import asyncio, json, sys
from pathlib import Path
from tests.server.studio.test_sheet import Desk, sheet
from server.studio.sheet import SheetConflict

async def add(desk, times):
    owner = desk.owner()
    while times:
        base = await owner.read()
        number = int(json.loads(base.data)[0]["prompt"]) + 1
        try:
            await owner.change(lambda _: sheet(str(number)), [base.etag])
        except SheetConflict:
            continue
        times -= 1

asyncio.run(add(Desk(Path(sys.argv[1]), Path(sys.argv[2])), int(sys.argv[3])))
"""


def test_two_processes_lose_nothing_of_each_other(desk: Desk) -> None:
    desk.path.write_bytes(sheet("0"))
    command = [sys.executable, "-c", ADDING, str(desk.path), str(desk.versions), "12"]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    assert desk.prompt == "24"
    for number in reversed(range(24)):
        desk.undo()
        assert desk.prompt == str(number)


async def test_a_writer_that_is_cancelled_has_written_all_or_nothing(desk: Desk) -> None:
    owner = desk.owner()
    for number in range(6):
        before = desk.path.read_bytes()
        task = asyncio.create_task(desk.write(str(number), owner))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = desk.path.read_bytes()
        assert found in {before, sheet(str(number))}
        await asyncio.sleep(0.05)
        assert desk.path.read_bytes() == found, "nothing goes on when nobody waits any more"


# ---------------------------------------------------------------- what is not written


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (b"[", ["no JSON"]),
        (b"\xff", ["UTF-8"]),
        (b'[{"time": "x", "action": "prompt"}, {"action": "fly"}]', ["time", "prompt", "fly"]),
    ],
)
async def test_what_cannot_be_played_is_told_whole_and_not_written(
    desk: Desk, made: bytes, expected: list[str]
) -> None:
    with pytest.raises(SheetNotPlayable) as refused:
        await desk.owner().change(lambda _: made, [ANY])
    told = [str(each) for each in refused.value.problems]
    assert len(told) == len(expected)
    assert all(any(word in each for each in told) for word in expected), told
    assert desk.prompt == "one"
    assert not desk.versions.exists()


async def test_a_sheet_has_a_largest_size(desk: Desk) -> None:
    with pytest.raises(SheetTooLarge, match=str(MAX_SHEET)):
        await desk.owner().change(lambda _: sheet("one") + b" " * MAX_SHEET, [ANY])
    assert desk.prompt == "one"


async def test_a_version_that_cannot_be_kept_is_not_replaced(desk: Desk) -> None:
    desk.versions.parent.mkdir()
    desk.versions.write_text("a file where the folder should be")
    with pytest.raises(SheetUnusable, match=r"cues\.json: the cue sheet cannot be used: .*sheet-v"):
        await desk.write("two")
    assert desk.prompt == "one"


async def test_a_file_that_nobody_may_write_is_not_replaced(desk: Desk) -> None:
    desk.path.chmod(0o444)
    with pytest.raises(SheetUnusable, match="read-only"):
        await desk.write("two")
    assert desk.prompt == "one"


async def test_a_sheet_that_is_gone_is_told(desk: Desk) -> None:
    desk.path.unlink()
    for work in (desk.owner().read, desk.owner().stamp, desk.owner().undo):
        with pytest.raises(SheetUnusable, match="No such file"):
            await work()


@pytest.fixture
def of_nobody() -> Iterator[Desk]:
    """A sheet in a folder that nobody but root may write, its file everybody."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with TemporaryDirectory(prefix="understudy-") as folder:  # pytest's own is for root alone
        Path(folder).chmod(0o755)
        state = Path(folder) / "state"
        state.mkdir()
        os.chown(state, 65534, 65534)
        made = Desk(Path(folder) / "cues.json", state / "sheet-versions")
        made.path.write_bytes(sheet("one"))
        made.path.chmod(0o666)
        yield made


def test_a_folder_that_cannot_be_written_is_told(of_nobody: Desk) -> None:
    def write() -> None:
        os.setuid(65534)
        with pytest.raises(SheetUnusable, match="Permission denied"):
            asyncio.run(of_nobody.write("two"))

    assert forked(write) == 0
    assert of_nobody.prompt == "one"


# ---------------------------------------------------------------- killed


def forked(work: Callable[[], Any]) -> int:
    """Do something in a process of its own; how it ended: 0, 1 for an error, or by a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - no second pytest may go on in the child
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int, work: Callable[[], Any]) -> bool:
    """Do something in a process that is killed before its `step`-th touch of the disk."""

    def dying() -> None:
        left = step

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **named)

            return call

        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "chmod"), (Path, "unlink")):
            setattr(owner, name, counted(getattr(owner, name)))
        work()

    ended = forked(dying)
    assert ended in {0, -signal.SIGKILL}, "an error of its own"
    return ended != 0


def test_killed_at_any_moment_it_leaves_the_old_sheet_or_the_new_one(tmp_path: Path) -> None:
    found: list[str] = []
    for step in range(1, 40):
        folder = tmp_path / str(step)
        (folder / "show").mkdir(parents=True)
        desk = Desk(folder / "show" / "cues.json", folder / "state" / "sheet-versions")
        desk.path.write_bytes(sheet("zero"))
        asyncio.run(desk.write("one"))
        if not killed_at(step, desk.write_two):
            break
        found.append(desk.prompt)
        assert desk.path.read_bytes() == sheet(desk.prompt)
        for text in ("one", "zero") if desk.prompt == "two" else ("zero",):
            desk.undo()
            assert desk.prompt == text
        asyncio.run(desk.write("three"))
        assert [each.name for each in desk.path.parent.iterdir()] == ["cues.json"]
        assert not list(desk.versions.glob(".*")), "nothing that was half written lies about"
    assert found == sorted(found)
    assert set(found) == {"one", "two"}
    assert len(found) >= 6


def test_killed_in_an_undo_it_is_known_where_the_sheet_is(tmp_path: Path) -> None:
    found: list[str] = []
    for step in range(1, 40):
        folder = tmp_path / str(step)
        (folder / "show").mkdir(parents=True)
        desk = Desk(folder / "show" / "cues.json", folder / "state" / "sheet-versions")
        desk.path.write_bytes(sheet("zero"))
        for text in ("one", "two"):
            asyncio.run(desk.write(text))
        if not killed_at(step, desk.undo):
            break
        found.append(desk.prompt)
        for text in ("one", "zero") if desk.prompt == "two" else ("zero",):
            desk.undo()
            assert desk.prompt == text
    assert found == sorted(found, reverse=True)
    assert set(found) == {"one", "two"}
