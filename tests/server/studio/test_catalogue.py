from __future__ import annotations

import json
from pathlib import Path

from generator.jobs.request import accept_request
from generator.styles import DEFAULT_STYLES
from server.config.show import DEMO, Show, load_show
from server.studio.catalogue import (
    catalogue_of,
    engines_document,
    programs_document,
    styles_document,
)

TOML = """
[programs.P0.fast]
steps = 4
[[engines]]
name = "gpu"
kind = "worker"
url = "http://gpu.example:9000"
an_hour = 1.1
[[engines]]
name = "pencil"
"""


def show(folder: Path) -> Show:
    cues = [
        {"time": "00:00:01", "action": "prompt", "prompt": "a lake", "id": "lake"},
        {"time": "00:00:09", "action": "end"},
    ]
    (folder / "cues.json").write_text(json.dumps(cues))
    (folder / "show.toml").write_text(TOML)
    return load_show(folder, None, {})


def test_what_the_demo_offers_can_be_asked_for() -> None:
    demo = load_show(DEMO, None, {})
    offered = catalogue_of(demo)
    assert list(offered.actions) == [each.action_id for each in demo.plan({}).actions]
    for cue, action in offered.actions.items():
        new = accept_request({"cue": cue}, offered, owner="ada", new_seed=lambda: 1)
        assert new.items[0].work["action_id"] == action.action_id
    for name in [*offered.programs, *offered.styles]:
        kind = "program" if name in offered.programs else "style"
        body = {"prompt": "a lake", kind: name}
        assert len(accept_request(body, offered, owner="ada", new_seed=lambda: 1).items) == 1


def test_actions_are_offered_under_the_ids_that_what_is_drawn_gives_them() -> None:
    demo = load_show(DEMO, None, {})
    plan = demo.plan({})
    first = plan.actions[0]
    plan.follow({"kept_001": [first.fingerprint]})
    assert catalogue_of(demo, plan).actions["kept_001"].recipe == first.recipe


def test_programs_say_whether_they_can_be_fast(tmp_path: Path) -> None:
    programs = {
        each["name"]: each for each in programs_document(catalogue_of(show(tmp_path)))["programs"]
    }
    assert list(programs) == ["P0", "P2", "P2B", "P3", "P3B", "P4"]
    assert (programs["P0"]["fast"], programs["P0"]["fast_steps"]) == (True, 4)
    assert (programs["P2"]["fast"], programs["P2"]["fast_steps"]) == (False, None)
    assert (programs["P2"]["image_to_image"], programs["P2"]["strength"]) == (True, 0.6)
    assert (programs["P0"]["width"], programs["P0"]["strength"]) == (1360, None)


def test_styles_are_told_in_their_order(tmp_path: Path) -> None:
    styles = styles_document(catalogue_of(show(tmp_path)))["styles"]
    assert [each["name"] for each in styles] == list(DEFAULT_STYLES)
    assert styles[3]["words"] == "soft blending, artistic brush strokes"


def test_engines_are_told_with_what_they_cost_and_without_their_address(tmp_path: Path) -> None:
    told = engines_document(catalogue_of(show(tmp_path)))
    assert told["currency"] == "EUR"
    gpu, pencil = told["engines"]
    assert gpu == {
        "name": "gpu",
        "kind": "worker",
        "local": False,
        "live": True,
        "an_hour": 1.1,
        "a_picture": None,
    }
    assert (pencil["kind"], pencil["local"], pencil["live"], pencil["an_hour"]) == (
        "sketch",
        True,
        False,
        None,
    )
    assert "gpu.example" not in json.dumps(told)


def test_what_is_told_is_json(tmp_path: Path) -> None:
    offered = catalogue_of(show(tmp_path))
    for document in (programs_document, styles_document, engines_document):
        assert json.loads(json.dumps(document(offered), allow_nan=False)) == document(offered)
