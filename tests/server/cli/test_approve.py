"""`understudy generate approve`, as it is called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cache.model.keys import image_key
from cache.stores.folder import FolderStore
from generator.engines.port import ScriptedEngine
from generator.sets import quarantine
from generator.sheet.plan import Action
from generator.sheet.recipe import Recipe
from server.cli.main import main
from tests.cache.samples import picture
from tests.generator.sets.test_recorder import run_of
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt

CUES = [cue(0, "start"), line(0, "a lamp", id="lamp"), prompt(9, "sea", id="sea"), cue(20, "end")]
IMAGES = run_of(*(picture("jpg", seed) for seed in range(3)))

Approve = Callable[..., tuple[object, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=1, sets=1), toml=MANUAL)


@pytest.fixture
def approve(capsys: pytest.CaptureFixture[str], tiny: TinyShow) -> Approve:
    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["generate", "approve", "--show", str(tiny.folder), *arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


def harvested(tiny: TinyShow, actions: Sequence[Action]) -> list[str]:
    """Keep a run of each action; what they are called."""

    async def work() -> list[str]:
        async with FolderStore(tiny.folder) as store:
            return [
                f"{action.action_id}/"
                + await quarantine.keep(
                    store,
                    action,
                    action.recipe.with_seed(5),
                    IMAGES,
                    engine=ScriptedEngine([]),
                    now=datetime(2026, 11, 20, 10, 30, tzinfo=UTC),
                )
                for action in actions
            ]

    return asyncio.run(work())


def told(answer: tuple[object, str, str]) -> dict[str, Any]:
    status, out, _ = answer
    assert status == 0
    document: dict[str, Any] = json.loads(out)
    return document


def test_it_lists_what_waits_and_changes_nothing(tiny: TinyShow, approve: Approve) -> None:
    assert approve()[1].startswith("0 runs waiting")
    lamp, sea = harvested(tiny, tiny.actions())
    status, out, _ = approve()
    assert status == 0
    assert lamp in out
    assert "2 runs waiting for approval" in out
    (row,) = told(approve("--list", "--json", "sea"))["waiting"]
    assert row == {
        "run": sea,
        "action_id": "sea",
        "prompt": "sea",
        "steps": 2,
        "seconds": 1.5,
        "engine": "scripted 1",
        "seed": 5,
        "stale": False,
    }
    assert not tiny.set_folder("sea", 1).exists()


def test_approved_they_are_sets_of_the_show(tiny: TinyShow, approve: Approve) -> None:
    lamp, sea = harvested(tiny, tiny.actions())
    status, out, _ = approve(lamp)
    assert status == 0
    assert f"{lamp} is set 1" in out
    assert told(approve("--all", "--json")) == {
        "approved": [{"run": sea, "set_id": 1}],
        "left": [],
    }
    for action_id in ("lamp", "sea"):
        assert (tiny.set_folder(action_id, 1) / "final.jpg").read_bytes() == IMAGES[-1].image
    manifest = json.loads((tiny.folder / "manifest.json").read_text())
    assert manifest["actions"]["lamp"]["set_ids"] == [0, 1]
    assert approve()[1].startswith("0 runs waiting")


def test_rejected_they_are_gone(tiny: TinyShow, approve: Approve) -> None:
    lamp, *_ = harvested(tiny, tiny.actions())
    assert told(approve("--reject", "lamp", "--json")) == {"rejected": [{"run": lamp}], "left": []}
    assert approve("--reject", "--all")[1].startswith("1 run rejected")
    assert told(approve("--list", "--json")) == {"waiting": []}


def test_what_cannot_be_a_set_is_left_and_said(tiny: TinyShow, approve: Approve) -> None:
    lamp, sea = tiny.actions()
    older = replace(sea, recipe=Recipe.model_validate(sea.recipe.model_dump() | {"steps": 3}))
    damaged, stale = harvested(tiny, [lamp, older])
    place = tiny.folder / "quarantine" / damaged / image_key("lamp", 0, "2.jpg")
    place.write_bytes(picture("jpg", 9))
    status, out, err = approve("--all")
    assert status == 1
    assert out.startswith("0 runs approved, 2 left")
    assert f"{damaged}: 2.jpg" in err
    assert f"{stale}: it was drawn from another recipe" in err
    assert "(stale)" in approve()[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lamp"], "nothing waits for approval under lamp"),
        (["lamp", "--all"], "name runs, or say --all"),
        (["--reject"], "name runs, or say --all"),
        (["--list", "--all"], "--list changes nothing"),
    ],
)
def test_wrong_use_has_status_2(approve: Approve, arguments: list[str], expected: str) -> None:
    status, _, err = approve(*arguments)
    assert status == 2
    assert expected in err
