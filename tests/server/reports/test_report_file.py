"""From a rehearsal to the file that a technician opens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.config.show import load_show
from server.diagnostics.report import RehearsalOptions
from server.rehearsal.rehearsal import rehearse
from server.reports.contact_sheets import AWAY
from server.reports.report_file import build_page, write_page
from tests.helpers.shows import Rhythm, TinyShow, cue, line, make_show, prompt

CUES = [
    cue(0, "start"),
    line(0, "somebody paints the sea", id="sea"),
    prompt(20, "a lamp", id="lamp"),
    cue(40, "end"),
]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=3, sets=2))


def page(folder: Path, asked: RehearsalOptions) -> str:
    show = load_show(folder, environ={})
    report = rehearse(show, asked, wall=1.8e9)
    return asyncio.run(build_page(show, report))


def test_a_rehearsal_becomes_a_page_with_its_pictures(tiny: TinyShow) -> None:
    written = page(tiny.folder, RehearsalOptions(seed=1))

    assert '<p class="word">Ready</p>' in written
    assert written.count("<img ") == 2 * (2 + 4)
    assert "somebody paints the sea" in written
    assert page(tiny.folder, RehearsalOptions(seed=1)) == written


def test_a_line_that_is_only_rehearsed_takes_no_picture_away(tiny: TinyShow) -> None:
    assert page(tiny.folder, RehearsalOptions(seed=1, bandwidth=1e6)).count("<img ") == 2 * (2 + 4)


def test_what_this_machine_has_no_copy_of_is_not_fetched_to_be_shown(tiny: TinyShow) -> None:
    toml = tiny.folder / "show.toml"
    toml.write_text(f'{toml.read_text()}[cache]\ncopies = "always"\n')

    written = page(tiny.folder, RehearsalOptions(seed=1))

    assert "<img " not in written
    assert written.count(f"<span>{AWAY}</span>") == 4


def test_a_store_without_a_manifest_leaves_a_page_without_pictures(tiny: TinyShow) -> None:
    (tiny.folder / "manifest.json").write_text("no manifest")
    written = page(tiny.folder, RehearsalOptions(seed=1))

    assert '<p class="word">Not ready</p>' in written
    assert "<img " not in written


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("the last one")
    write_page(path, "half\ud800")
    assert path.read_text() == "half?", "a page that is mended is better than none"

    write_page(path, "Łódź")
    assert path.read_text(encoding="utf-8") == "Łódź"
    assert list(tmp_path.iterdir()) == [path]

    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "nowhere" / "report.html", "")
