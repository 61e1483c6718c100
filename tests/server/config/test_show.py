from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator.sheet.base_image import default_base_image
from generator.sheet.recipe import PipelineKind
from server.config.show import DEMO, Show, ShowError, load_show
from tests.cache.samples import picture

START = {"time": "00:00:00", "action": "start"}
END = {"time": "00:02:00", "action": "end"}
PROMPT = {"time": "00:00:10", "action": "prompt", "program": "P2", "prompt": "a lake"}


def make(folder: Path, toml: str | None = "", cues: Any = (START, PROMPT, END)) -> Path:
    folder.mkdir(exist_ok=True)
    if toml is not None:
        (folder / "show.toml").write_text(toml)
    if cues is not None:
        data = cues if isinstance(cues, bytes) else json.dumps(cues).encode()
        (folder / "cues.json").write_bytes(data)
    return folder


def loaded(folder: Path, **sources: Any) -> Show:
    return load_show(folder, environ={}, **sources)


def told(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ShowError) as caught:
        load_show(path, environ=environ or {})
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)


# ---------------------------------------------------------------- good shows


def test_the_demo_is_a_show_without_a_remark() -> None:
    show = load_show(environ={})
    assert show.folder == DEMO
    assert show.title == "Ghost Light"
    assert show.sheet.remarks == ()
    plan = show.plan({})
    assert plan.remarks == ()
    assert {action.type for action in plan.actions} == {"transcript", "prompt", "slider"}
    assert {action.recipe.kind for action in plan.actions} == set(PipelineKind)
    assert show.duration == show.sheet.duration > 60
    assert all(action.at < show.duration for action in plan.actions)


def test_a_folder_or_its_file_is_the_same_show(tmp_path: Path) -> None:
    folder = make(tmp_path / "piece", '[show]\ntitle = "A Piece"\ntimezone = "UTC"\n')
    assert loaded(folder) == loaded(folder / "show.toml")
    assert loaded(folder).title == "A Piece"
    assert loaded(folder).folder == folder.resolve()


def test_a_folder_with_cues_alone_is_a_show(tmp_path: Path) -> None:
    show = loaded(make(tmp_path / "piece", None))
    assert (show.title, show.duration, len(show.sheet.cues)) == ("Untitled", 120.0, 3)


def test_another_file_of_the_folder_may_be_the_show(tmp_path: Path) -> None:
    folder = make(tmp_path / "piece")
    (folder / "night.toml").write_text('[show]\ntitle = "Night"\n')
    assert loaded(folder / "night.toml").title == "Night"


def test_paths_are_relative_to_the_show_wherever_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(
        tmp_path / "piece",
        '[show]\ncues = "sheets/a.json"\nstill = "../still.png"\n'
        '[programs.P2]\nbase_image = "bases/b.webp"\n[cache]\ndir = "state"\n',
    )
    (folder / "sheets").mkdir()
    (folder / "cues.json").rename(folder / "sheets" / "a.json")
    (folder / "bases").mkdir()
    (folder / "bases" / "b.webp").write_bytes(picture("webp"))
    (tmp_path / "still.png").write_bytes(picture("png"))
    monkeypatch.chdir(tmp_path)
    for path in (folder, Path("piece"), Path("piece/show.toml"), Path("piece/../piece")):
        show = loaded(path)
        assert show.still is not None
        assert (show.still.data, show.still.media_type) == (picture("png"), "image/png")
        assert show.base_images["P2"] == picture("webp")
        assert show.state_folder == folder.resolve() / "state"
    monkeypatch.chdir(folder)
    assert loaded(Path("show.toml")).state_folder == folder.resolve() / "state"


def test_programs_that_bring_no_base_image_start_from_ours(tmp_path: Path) -> None:
    show = loaded(make(tmp_path / "piece"))
    assert show.base_images == {"P2": default_base_image(), "P2B": default_base_image()}
    (action,) = show.plan({}).actions
    assert action.recipe.base_image == default_base_image()


def test_the_base_image_is_part_of_what_is_drawn(tmp_path: Path) -> None:
    folder = make(tmp_path / "piece", '[programs.P2]\nbase_image = "b.jpg"\n')
    prints = []
    for seed in (1, 2):
        (folder / "b.jpg").write_bytes(picture("jpg", seed))
        prints.append(loaded(folder).plan({}).actions[0].fingerprint)
    assert prints[0] != prints[1]


def test_a_show_may_take_longer_than_its_sheet(tmp_path: Path) -> None:
    folder = make(tmp_path / "piece", "[show]\nduration = 300\n")
    assert loaded(folder).duration == 300.0


def test_what_is_finished_keeps_its_id(tmp_path: Path) -> None:
    show = loaded(make(tmp_path / "piece"))
    (action,) = show.plan({}).actions
    assert action.action_id == "prompt_001"
    (again,) = show.plan({"prompt_009": [action.fingerprint]}).actions
    assert again.action_id == "prompt_009"


def test_the_command_line_and_the_environment_are_heard(tmp_path: Path) -> None:
    folder = make(tmp_path / "piece", '[playback]\nmode = "static"\n')
    environ = {"EXHIBITION_MODE": "auto"}
    assert load_show(folder, environ=environ).settings.playback.mode == "hybrid"
    show = load_show(folder, {"playback": {"mode": "live"}}, environ)
    assert show.settings.playback.mode == "live"


@pytest.mark.parametrize(
    ("name", "tz", "told_to_browsers"),
    [
        ("Europe/Berlin", "Asia/Tokyo", "Europe/Berlin"),
        ("local", "Asia/Tokyo", "Asia/Tokyo"),
        ("local", "CET-1", ""),
    ],
)
def test_a_time_zone_is_told_to_browsers_by_a_name_they_know(
    tmp_path: Path, name: str, tz: str, told_to_browsers: str
) -> None:
    folder = make(tmp_path / "piece", f'[show]\ntimezone = "{name}"\n')
    assert load_show(folder, {}, {"TZ": tz}).timezone_name == told_to_browsers


# ---------------------------------------------------------------- bad shows


@pytest.mark.parametrize("path", ["nowhere", "nowhere/show.toml", "piece/absent.toml"])
def test_a_show_that_is_not_there(tmp_path: Path, path: str) -> None:
    make(tmp_path / "piece")
    (line,) = told(tmp_path / path)
    assert line.startswith(f"{tmp_path / path}: ")
    assert "found neither" in line


def test_settings_sheet_and_pictures_are_all_told_at_once(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "piece",
        '[show]\nstill = "still.png"\n[programs.P2]\nbase_image = "cut.jpg"\n',
        [START, {"time": "00:00:05", "action": "prompt"}, {**PROMPT, "program": "P9"}, END],
    )
    (folder / "cut.jpg").write_bytes(picture("jpg")[:-100])
    (folder / "still.png").write_bytes(picture("jpg"))
    lines = told(folder)
    # a program's picture counts where a cue uses it, and which do is not known of a bad sheet
    expected = [
        ("show.toml: [show] still: ", "still.png", "bytes are image/jpeg"),
        ("cues.json: cue 1 at 00:00:05: ", "prompt is missing", ""),
        ("cues.json: cue 2 at 00:00:10: ", "unknown program 'P9'", ""),
    ]
    for start, *parts in expected:
        assert any(
            line.startswith(f"{folder}/{start}") and all(part in line for part in parts)
            for line in lines
        ), start


def test_a_base_image_that_is_used_must_be_one(tmp_path: Path) -> None:
    toml = '[programs.P2]\nbase_image = "cut.jpg"\n[programs.P2B]\nbase_image = "absent.jpg"\n'
    folder = make(tmp_path / "piece", toml)
    (folder / "cut.jpg").write_bytes(picture("jpg")[:-100])
    (line,) = told(folder)  # P2B's is missed by nobody
    assert line.startswith(f"{folder}/show.toml: [programs.P2] base_image: {folder}/cut.jpg")
    assert "cut short" in line
    (folder / "cues.json").write_text(json.dumps([START, {**PROMPT, "program": "P2B"}, END]))
    (line,) = told(folder)
    assert "[programs.P2B] base_image" in line
    assert "No such file" in line
    typed = {**PROMPT, "program": "P2B", "commit": False}  # it names the program, and draws nothing
    (folder / "cues.json").write_text(json.dumps([START, typed, END]))
    assert "P2B" not in loaded(folder).base_images


def test_bad_settings_do_not_hide_a_bad_sheet(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "piece",
        "[display]\nfade = -1\n[programs.Q]\nsteps = 0\n",
        [START, {"time": "soon", "action": "next"}, {**PROMPT, "program": "Q"}, END],
    )
    lines = told(folder, {"UNDERSTUDY_PLAYBACK_MODE": "x"})
    assert sorted(line.removeprefix(f"{folder}/").split(": ")[1] for line in lines) == [
        "[display] fade",
        "[playback] mode",
        "[programs] Q.steps",
        "cue 1 at soon",
    ]


def test_a_sheet_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (line,) = told(make(tmp_path / "none", cues=None))
    assert line.startswith(f"{tmp_path}/none/cues.json: the cue sheet cannot be read: No such file")
    (line,) = told(make(tmp_path / "bytes", cues=b"\xff"))
    assert "UTF-8" in line
    (line,) = told(make(tmp_path / "named", '[show]\ncues = "other.json"\n'))
    assert line.startswith(f"{tmp_path}/named/other.json: ")


@pytest.mark.parametrize("toml", ["", "[schedule]\nopens = '09:00'\ncloses = '18:00'\n"])
def test_a_screening_that_takes_no_time_is_none(tmp_path: Path, toml: str) -> None:
    # A loop of it would never get anywhere.
    folder = make(tmp_path / "piece", toml, [START, {**END, "time": "00:00:00"}])
    (line,) = told(folder)
    assert line.startswith(f"{folder}/cues.json: ")
    assert "ends as it begins" in line
    (folder / "show.toml").write_text(f"{toml}[show]\nduration = 5\n")
    assert loaded(folder).duration == 5.0
