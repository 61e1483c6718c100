"""`understudy generate reject` and `restore`, as they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli.main import main
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show

CUES = [cue(0, "start"), line(0, "a lamp", id="lamp"), cue(20, "end")]

Generate = Callable[..., tuple[object, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=1, sets=3), toml=MANUAL)


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str], tiny: TinyShow) -> Generate:
    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["generate", *arguments, "--show", str(tiny.folder)])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


def test_a_set_is_rejected_and_restored(generate: Generate, tiny: TinyShow) -> None:
    status, out, _ = generate("reject", "lamp", "1", "--why", "it\nflickers")
    assert status == 0
    assert "set 1 of lamp is rejected; understudy generate restore lamp 1" in out
    entry = json.loads((tiny.folder / "manifest.json").read_text("utf-8"))["actions"]["lamp"]
    assert (entry["set_ids"], entry["rejected"]) == ([0, 2], [1])
    assert entry["rejected_because"] == {"1": "it flickers"}
    assert "was rejected already" in generate("reject", "lamp", "1")[1]
    assert "set 1 of lamp is back" in generate("restore", "lamp", "1")[1]
    entry = json.loads((tiny.folder / "manifest.json").read_text("utf-8"))["actions"]["lamp"]
    assert (entry["set_ids"], "rejected" in entry) == ([0, 1, 2], False)


def test_what_there_is_not_ends_with_2_and_changes_nothing(
    generate: Generate, tiny: TinyShow
) -> None:
    before = (tiny.folder / "manifest.json").read_bytes()
    for arguments in (("reject", "lamp", "9"), ("restore", "lamp", "0"), ("reject", "moon", "0")):
        generate(*arguments)
    status, _, err = generate("reject", "lamp", "9")
    assert (status, "lamp has no set 9; it has 0, 1, 2" in err) == (2, True)
    assert (tiny.folder / "manifest.json").read_bytes() == before
