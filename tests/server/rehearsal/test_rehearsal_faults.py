"""Faults planted into a sound show, one at a time: each is found, and named with its cue."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cache.model.images import sniff
from server.cli.main import main
from server.diagnostics.findings import Finding
from server.diagnostics.report import RehearsalOptions, Report
from server.rehearsal.rehearsal import rehearse, seed_of
from tests.helpers.servers import plain_environment
from tests.helpers.shows import LOOP, Cue, Rhythm, TinyShow, cue, line, make_show, prompt

CUES: list[Cue] = [
    cue(0, "start"),
    line(1, "boats on the sea", id="boats"),
    prompt(8, "a lamp", id="lamp"),
    cue(20, "end"),
]
RHYTHM = Rhythm(previews=4, step=0.5, sets=3, size=4_000)
NOW = 1_800_000_000.0
"""2027-01-15, a Friday, 08:00:00 UTC."""


def show(folder: Path, cues: Sequence[Cue] = CUES, toml: str = LOOP, **more: Any) -> TinyShow:
    return make_show(folder, cues, toml=toml, **{"rhythm": RHYTHM, **more})


def rehearsed(tiny: TinyShow, machine: timezone = UTC, wall: float = NOW, **asked: Any) -> Report:
    loaded = tiny.load()
    asking = RehearsalOptions(seed=seed_of(loaded, 3), **asked)
    return rehearse(loaded, asking, wall=wall, machine=machine)


@pytest.fixture
def sound(tmp_path: Path) -> TinyShow:
    """A show of which a rehearsal has nothing to say."""
    tiny = show(tmp_path / "show")
    report = rehearsed(tiny, deep=True)
    assert (report.verdict, report.findings) == ("ready", ())
    return tiny


def only(report: Report, code: str) -> Finding:
    """The one finding there is, of `code`."""
    assert [each.code for each in report.findings] == [code], report.findings
    return report.findings[0]


def of_lamp(finding: Finding, level: str = "warning", set_id: int | None = 1) -> str:
    """Check whom a finding is about; its message."""
    assert (finding.level, finding.cue, finding.time) == (level, 2, "00:00:08")
    assert (finding.action_id, finding.set_id) == ("lamp", set_id)
    assert finding.remedy
    return finding.message


# ---------------------------------------------------------------- sets


def test_a_missing_set(sound: TinyShow) -> None:
    for path in sound.set_folder("lamp", 1).iterdir():
        path.unlink()
    finding = only(rehearsed(sound), "missing_set")
    assert "meta.json" in of_lamp(finding)
    assert finding.remedy == "understudy generate batch --only lamp"


def test_a_missing_step(sound: TinyShow) -> None:
    (sound.set_folder("lamp", 1) / "3.jpg").unlink()
    finding = only(rehearsed(sound), "missing_step")
    assert "3.jpg is missing" in of_lamp(finding)
    assert "verify --repair --only lamp" in finding.remedy


def test_a_truncated_image(sound: TinyShow) -> None:
    path = sound.set_folder("lamp", 1) / "2.jpg"
    path.write_bytes(path.read_bytes()[:2_000])
    message = of_lamp(only(rehearsed(sound), "truncated_image"))
    assert "2.jpg: expected 4" in message
    assert "found 2000" in message


def test_an_image_cut_short_and_filled_up(sound: TinyShow) -> None:
    """The right size, the wrong content: found where it is played, or with `--deep`."""
    path = sound.set_folder("lamp", 1) / "2.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:2_000].ljust(len(data), b"\0"))
    assert "2.jpg" in of_lamp(only(rehearsed(sound, deep=True), "truncated_image"))
    played = rehearsed(sound, screenings=3)
    assert "2.jpg" in of_lamp(only(played, "truncated_image"))


def test_a_wrong_extension(sound: TinyShow) -> None:
    def as_png(path: Path) -> None:
        with Image.open(path) as image:
            image.save(path, "PNG")
        assert sniff(path.read_bytes()) == "image/png"

    replant(sound, "final.jpg", as_png)
    message = of_lamp(only(rehearsed(sound), "wrong_extension"))
    assert "final.jpg: the name says image/jpeg, the bytes are image/png" in message


def test_a_black_final(sound: TinyShow) -> None:
    replant(sound, "final.jpg", lambda path: Image.new("RGB", (64, 64)).save(path, "JPEG"))
    assert "final.jpg is all one colour" in of_lamp(only(rehearsed(sound), "black_final"))


def test_the_last_set_of_a_cue_is_an_error(tmp_path: Path) -> None:
    tiny = show(tmp_path, rhythms={"lamp": Rhythm(previews=4, step=0.5, sets=1)})
    replant(tiny, "final.jpg", lambda path: Image.new("RGB", (64, 64)).save(path, "JPEG"), 0)
    report = rehearsed(tiny)
    assert report.verdict == "not ready"
    found = {each.code: each for each in report.findings}
    assert found.keys() == {"black_final", "no_sets"}
    assert {each.level for each in report.findings} == {"error"}
    of_lamp(found["black_final"], "error", 0)


def replant(tiny: TinyShow, name: str, change: Callable[[Path], object], set_id: int = 1) -> None:
    """Change an image, and let its meta believe it."""
    folder = tiny.set_folder("lamp", set_id)
    change(folder / name)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["files"][name]["sha256"]
    meta["files"][name]["bytes"] = (folder / name).stat().st_size
    (folder / "meta.json").write_text(json.dumps(meta))


def test_a_stale_fingerprint_after_a_prompt_edit(sound: TinyShow) -> None:
    sheet = json.loads((sound.folder / "cues.json").read_text())
    sheet[2]["prompt"] = "a lantern"
    (sound.folder / "cues.json").write_text(json.dumps(sheet))
    report = rehearsed(sound)
    assert report.verdict == "not ready"
    stale = [each for each in report.findings if each.code == "stale_set"]
    assert [(each.set_id, each.count) for each in stale] == [(None, 1)]
    message = of_lamp(stale[0], "error", None)
    assert message.startswith("sets 0, 1, 2: ")
    assert "a lantern" in message
    assert "a lamp" in message
    assert stale[0].remedy == "understudy generate batch --only lamp"


@pytest.mark.parametrize("side", ["manifest", "store"])
def test_manifest_and_sets_do_not_agree(sound: TinyShow, side: str) -> None:
    path = sound.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if side == "manifest":
        manifest["actions"]["lamp"]["set_ids"] = [0, 1]
        manifest["actions"]["lamp"]["sets"] = 2
        told = "does not list set 2"
    else:
        manifest["actions"]["lamp"]["fingerprint"] = "sha256:" + "0" * 64
        told = "another recipe"
    path.write_text(json.dumps(manifest))
    finding = only(rehearsed(sound), "manifest_mismatch")
    assert told in of_lamp(finding, set_id=None)
    assert finding.remedy == "understudy generate reindex"


# ---------------------------------------------------------------- the sheet and its slots


def test_a_run_longer_than_its_slot(tmp_path: Path) -> None:
    cues = [CUES[0], CUES[1], prompt(2, "a lamp", id="lamp"), CUES[3]]
    finding = only(rehearsed(show(tmp_path, cues)), "overrun")
    assert (finding.level, finding.cue, finding.action_id) == ("warning", 1, "boats")
    assert "takes 2.5 s and has 1.0 s" in finding.message
    assert "steps" in finding.remedy
    recorded = show(tmp_path / "b", cues, LOOP + '[playback]\nfit = "recorded"\n')
    report = rehearsed(recorded)
    cut = only(report, "overrun")
    assert (cut.level, cut.cue, report.verdict) == ("error", 1, "not ready")
    assert "never seen" in cut.message


def test_an_overlapping_regeneration(tmp_path: Path) -> None:
    again = prompt(1, "again and again", id="again", enter={"regen": True})
    # Thirty seconds after the first is over, the next cue is only two away.
    cues = [cue(0, "start"), again, prompt(35.5, "a lamp", id="lamp"), cue(50, "end")]
    finding = only(rehearsed(show(tmp_path, cues)), "regeneration_overlap")
    assert (finding.level, finding.cue, finding.action_id) == ("warning", 1, "again")
    assert "cycle 2" in finding.message


def test_an_unknown_program(sound: TinyShow, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = json.loads((sound.folder / "cues.json").read_text())
    sheet[2]["program"] = "P9"
    (sound.folder / "cues.json").write_text(json.dumps(sheet))
    status, report = told_by_the_program(capsys, "--show", str(sound.folder))
    assert (status, report["verdict"]) == (1, "not ready")
    (finding,) = report["findings"]
    assert (finding["code"], finding["cue"], finding["time"]) == ("unknown_program", 2, "00:00:08")
    assert "'P9'" in finding["message"]


# ---------------------------------------------------------------- engines


ENGINE = '[[engines]]\nname = "gpu"\nkind = "worker"\nurl = "http://127.0.0.1:9"\n'


def test_a_dead_engine_with_no_set_behind_it(tmp_path: Path) -> None:
    tiny = show(
        tmp_path,
        toml=LOOP + '[playback]\nmode = "hybrid"\n' + ENGINE,
        rhythms={"lamp": Rhythm(sets=0)},
    )
    report = rehearsed(tiny)
    assert report.verdict == "not ready"
    (finding,) = (each for each in report.findings if each.code == "engine_dead")
    message = of_lamp(finding, "error", None)
    assert "engine gpu is dead" in message
    assert "127.0.0.1:9" in message
    assert "no set" in message


# ---------------------------------------------------------------- times of the day


SCREENINGS = '[schedule]\nkind = "screenings"\nscreenings = ["09:00", "11:00"]\n'


def in_zone(folder: Path, zone: str) -> TinyShow:
    tiny = show(folder, toml=SCREENINGS)
    path = folder / "show.toml"
    path.write_text(path.read_text().replace('timezone = "UTC"', f'timezone = "{zone}"'))
    assert tiny.load().settings.show.timezone == zone
    return tiny


def test_the_wrong_time_zone_and_so_no_screening_today(tmp_path: Path) -> None:
    tiny = in_zone(tmp_path, "Asia/Singapore")  # where it is 16:00 already
    report = rehearsed(tiny, machine=timezone(timedelta(hours=1)))
    finding = only(report, "no_screening_today")
    assert (finding.level, report.verdict) == ("error", "not ready")
    assert "Asia/Singapore" in finding.message
    assert "2027-01-15 16:00" in finding.message
    assert "2027-01-15 09:00" in finding.message
    assert "next 2027-01-16 09:00" in finding.message
    assert "timezone" in finding.remedy


def test_after_the_last_screening_it_is_only_told(tmp_path: Path) -> None:
    tiny = in_zone(tmp_path, "Asia/Singapore")
    report = rehearsed(tiny, machine=timezone(timedelta(hours=8)))
    assert only(report, "no_screening_today").level == "warning"
    assert report.verdict == "ready"
    assert report.screenings[0].starts == "2027-01-16 09:00"


def test_another_time_zone_than_the_machines(tmp_path: Path) -> None:
    tiny = in_zone(tmp_path, "Europe/Berlin")
    assert not rehearsed(tiny, machine=timezone(timedelta(hours=1))).findings
    finding = only(rehearsed(tiny, machine=UTC), "time_zone")
    assert finding.level == "warning"
    assert "Europe/Berlin" in finding.message


def test_a_clock_before_the_sets_were_drawn(sound: TinyShow) -> None:
    finding = only(rehearsed(sound, wall=1_000_000.0), "clock_behind")
    assert finding.level == "error"
    assert "1970-01-12" in finding.message


# ---------------------------------------------------------------- the line and the room


def test_a_line_too_slow(tmp_path: Path) -> None:
    tiny = show(tmp_path, rhythm=Rhythm(previews=8, step=0.5, sets=3, size=60_000))
    assert not rehearsed(tiny, bandwidth=100e6).findings
    report = rehearsed(tiny, bandwidth=0.5e6)
    found = {(each.code, each.level, each.cue, each.action_id) for each in report.findings}
    assert ("late", "warning", 2, "lamp") in found
    late = next(each for each in report.findings if (each.code, each.cue) == ("late", 2))
    assert "of 9 pictures in time" in late.message
    assert "pull" in late.remedy


def test_a_cache_too_small(tmp_path: Path) -> None:
    rhythm = Rhythm(previews=8, step=0.5, sets=3, size=60_000)
    small = LOOP + "[cache]\ndisk_bytes = 700_000\n"
    assert not rehearsed(show(tmp_path / "a", rhythm=rhythm), bandwidth=100e6).findings
    report = rehearsed(show(tmp_path / "b", toml=small, rhythm=rhythm), bandwidth=100e6)
    finding = next(each for each in report.findings if each.code == "cache_too_small")
    # There is room for one set, and none for that of the next cue beside it.
    assert (finding.level, finding.cue, finding.action_id) == ("warning", 2, "lamp")
    assert "700 kB" in finding.message
    assert "disk_bytes" in finding.remedy


# ---------------------------------------------------------------- as the program tells it


def told_by_the_program(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, Mapping[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main(["rehearse", "--json", *arguments])
    report: Mapping[str, Any] = json.loads(capsys.readouterr().out)
    assert isinstance(ended.value.code, int)
    return ended.value.code, report


def test_the_exit_status_is_the_verdict(
    sound: TinyShow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)
    status, report = told_by_the_program(capsys, "--show", str(sound.folder))
    assert (status, report["verdict"], report["findings"]) == (0, "ready", [])
    status, report = told_by_the_program(capsys, "--show", str(sound.folder), "--fail", "lamp")
    assert (status, report["verdict"]) == (1, "not ready")
    assert report["findings"][0]["cue"] == 2
