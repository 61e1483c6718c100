"""`understudy rehearse` itself, told of a fault in a sound show: what it says, and its status."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from cache.model.formats import FileFacts
from server.cli.main import main
from tests.helpers.servers import plain_environment
from tests.helpers.shows import Cue, Rhythm, TinyShow, cue, make_show, prompt

WALL = datetime(2026, 11, 23, 8, tzinfo=UTC).timestamp()
"""A Monday morning, after the sets were drawn; two screenings are to come."""

SCHEDULE = '[schedule]\nkind = "screenings"\nscreenings = ["09:00", "11:00"]\n'
RHYTHM = Rhythm(previews=4, step=0.25, size=40_000, sets=2)
CUES = [
    cue(0, "start"),
    prompt(2, "a harbour at night", id="harbour"),
    prompt(15, "a forest", id="forest"),
    prompt(30, "the sea, again and again", id="sea", enter={"regen": True}),
    prompt(80, "the last light", id="last"),
    cue(100, "end"),
]
HARBOUR, FOREST, SEA, LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Told:
    """What the command said, and with which status it ended."""

    status: object
    report: dict[str, Any]

    def findings(self, code: str) -> list[dict[str, Any]]:
        return [each for each in self.report["findings"] if each["code"] == code]

    def only(self, code: str) -> dict[str, Any]:
        """The finding of this code; nothing else but notes may have been found."""
        loud = [each for each in self.report["findings"] if each["level"] != "note"]
        assert {each["code"] for each in loud} == {code}, loud
        found: dict[str, Any] = loud[0]
        assert len(loud) == 1, loud
        return found

    def place(self, code: str) -> tuple[Any, ...]:
        found = self.only(code)
        return tuple(found[name] for name in ("level", "cue", "time", "action_id", "set_id"))


Rehearse = Callable[..., Told]


@pytest.fixture
def machine_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set this machine to a time zone."""

    def zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield zone
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def rehearse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    machine_in: Callable[[str], None],
) -> Rehearse:
    """Run `understudy rehearse --json` on the show, on that Monday morning."""
    for name in os.environ.keys() - plain_environment().keys():
        monkeypatch.delenv(name, raising=False)
    machine_in("UTC")
    monkeypatch.setattr("server.cli.rehearse.time", SimpleNamespace(time=lambda: WALL))

    def run(*arguments: object) -> Told:
        words = ["rehearse", "--json", "--show", tmp_path / "show", "--seed", 3, *arguments]
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return Told(ended.value.code or 0, json.loads(capsys.readouterr().out))

    return run


@pytest.fixture
def show(tmp_path: Path, rehearse: Rehearse) -> TinyShow:
    """The sound show: ready, and nothing to be mended."""
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=SCHEDULE)
    sound = rehearse()
    assert sound.status == 0
    assert sound.report["verdict"] == "ready"
    assert [each for each in sound.report["findings"] if each["level"] != "note"] == []
    return tiny


def change_cues(show: TinyShow, change: Callable[[list[Cue]], None]) -> None:
    """Edit the sheet, and leave the sets as they are."""
    path = show.folder / "cues.json"
    cues = json.loads(path.read_text())
    change(cues)
    path.write_text(json.dumps(cues))


def add_settings(show: TinyShow, toml: str) -> None:
    path = show.folder / "show.toml"
    text, heading = path.read_text(), "[playback]\n"
    if toml.startswith(heading):  # a section may stand there once
        keys, bracket, rest = toml.removeprefix(heading).partition("[")
        text, toml = text.replace(heading, heading + keys), bracket + rest
    path.write_text(text + toml)


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put_image(show: TinyShow, action_id: str, set_id: int, name: str, image: bytes) -> None:
    """Put an image into a set, and its facts into the meta: as if it had been drawn so."""
    folder = show.set_folder(action_id, set_id)
    (folder / name).write_bytes(image)
    facts = FileFacts.of(image)

    def tell(meta: dict[str, Any]) -> None:
        meta["files"][name] = {"bytes": facts.size, "sha256": facts.sha256}

    change_json(folder / "meta.json", tell)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


BOTH = ("--screenings", 2)
"""Every set is played."""


# ---------------------------------------------------------------- sets


def test_a_missing_set(show: TinyShow, rehearse: Rehearse) -> None:
    shutil.rmtree(show.set_folder("forest", 1))
    told = rehearse()
    assert told.place("missing_set") == ("warning", FOREST, "00:00:15", "forest", 1)
    found = told.only("missing_set")
    assert "meta.json" in found["message"]
    assert "generate batch --only forest" in found["remedy"]
    assert told.status == 0


def test_the_last_set_of_an_action_is_missing(show: TinyShow, rehearse: Rehearse) -> None:
    for number in (0, 1):
        shutil.rmtree(show.set_folder("forest", number))
    told = rehearse()
    assert told.status == 1
    assert told.report["verdict"] == "not ready"
    (found,) = told.findings("missing_set")
    assert (found["level"], found["cue"], found["action_id"]) == ("error", FOREST, "forest")
    assert found["message"].startswith("sets 0, 1: ")
    assert {each["cue"] for each in told.report["findings"] if each["level"] != "note"} == {FOREST}


def test_one_set_for_several_screenings_of_a_day(show: TinyShow, rehearse: Rehearse) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        manifest["actions"]["forest"] |= {"sets": 1, "set_ids": [0]}

    shutil.rmtree(show.set_folder("forest", 1))
    change_json(show.folder / "manifest.json", forget)
    told = rehearse()
    (found,) = told.report["findings"]
    assert (found["level"], found["code"], found["cue"]) == ("note", "few_sets", FOREST)
    assert "2 screenings" in found["message"]
    assert told.status == 0


def test_a_still_image_is_nothing_of_the_piece_to_stand_behind_the_last_set(
    show: TinyShow, rehearse: Rehearse
) -> None:
    (show.folder / "still.jpg").write_bytes(show.final("last", 0))
    path = show.folder / "show.toml"
    path.write_text(path.read_text().replace("[show]\n", '[show]\nstill = "still.jpg"\n'))
    black = encoded(Image.new("RGB", (160, 96)), "JPEG")
    for number in (0, 1):
        put_image(show, "forest", number, "final.jpg", black)
    found = rehearse().findings("black_final")
    assert [(each["level"], each["set_id"]) for each in found] == [("error", None)]
    assert found[0]["message"].endswith("no set of it can be played")


def test_an_engine_stands_behind_the_last_set(show: TinyShow, rehearse: Rehearse) -> None:
    add_settings(show, '[[engines]]\nname = "here"\nkind = "sketch"\nlive = true\n')
    black = encoded(Image.new("RGB", (160, 96)), "JPEG")
    for number in (0, 1):
        put_image(show, "forest", number, "final.jpg", black)
    found = rehearse().findings("black_final")
    assert {each["level"] for each in found} == {"warning"}
    assert "engine here draws it" in found[0]["message"]
    add_settings(show, "[playback]\nfallback = false\n")
    assert {each["level"] for each in rehearse().findings("black_final")} == {"error"}


def test_a_missing_step(show: TinyShow, rehearse: Rehearse) -> None:
    (show.set_folder("harbour", 1) / "3.jpg").unlink()
    told = rehearse(*BOTH)
    found = told.only("missing_step")
    assert (found["level"], found["cue"], found["time"]) == ("warning", HARBOUR, "00:00:02")
    assert (found["action_id"], found["set_id"]) == ("harbour", 1)
    assert "3.jpg" in found["message"]
    assert "missing" in found["message"]
    assert "verify --repair --only harbour" in found["remedy"]
    assert told.status == 0


def test_a_truncated_image(show: TinyShow, rehearse: Rehearse) -> None:
    path = show.set_folder("sea", 0) / "2.jpg"
    path.write_bytes(path.read_bytes()[:1234])
    told = rehearse()
    found = told.only("truncated_image")
    assert (found["level"], found["cue"], found["action_id"]) == ("warning", SEA, "sea")
    assert found["set_id"] == 0
    for told_of in ("2.jpg", "expected 40000 bytes", "found 1234"):
        assert told_of in found["message"]
    assert told.status == 0


def test_an_image_that_is_another_than_was_drawn(show: TinyShow, rehearse: Rehearse) -> None:
    one, other = (show.set_folder("last", number) / "2.jpg" for number in (0, 1))
    one.write_bytes(other.read_bytes())
    told = rehearse(*BOTH)
    found = told.only("wrong_hash")
    assert (found["level"], found["cue"], found["set_id"]) == ("warning", LAST, 0)
    assert "2.jpg" in found["message"]


def test_a_wrong_extension(show: TinyShow, rehearse: Rehearse) -> None:
    png = encoded(Image.radial_gradient("L").convert("RGB"), "PNG")
    put_image(show, "forest", 0, "4.jpg", png)
    told = rehearse(*BOTH)
    found = told.only("wrong_extension")
    assert (found["level"], found["cue"], found["set_id"]) == ("warning", FOREST, 0)
    for told_of in ("4.jpg", "image/jpeg", "image/png"):
        assert told_of in found["message"]
    assert told.status == 0


def test_a_black_final_image(show: TinyShow, rehearse: Rehearse) -> None:
    black = encoded(Image.new("RGB", (160, 96)), "JPEG")
    put_image(show, "last", 1, "final.jpg", black)
    told = rehearse(*BOTH)
    assert told.place("black_final") == ("warning", LAST, "00:01:20", "last", 1)
    assert "final.jpg is all one colour" in told.only("black_final")["message"]
    assert told.status == 0


def test_images_of_several_sizes(show: TinyShow, rehearse: Rehearse) -> None:
    small = encoded(Image.radial_gradient("L").convert("RGB").resize((80, 48)), "JPEG")
    put_image(show, "harbour", 0, "1.jpg", small)
    told = rehearse(*BOTH)
    assert told.place("mixed_sizes") == ("warning", HARBOUR, "00:00:02", "harbour", 0)
    for told_of in ("80 x 48", "160 x 96"):
        assert told_of in told.only("mixed_sizes")["message"]


def test_a_header_that_is_none(show: TinyShow, rehearse: Rehearse) -> None:
    # Whole by its own marks, as a cheap look has it; no decoder opens it.
    put_image(show, "harbour", 0, "1.jpg", b"\xff\xd8\xff\xda\x00\x04\x00\x00\x01\xff\xd9")
    told = rehearse(*BOTH)
    assert told.place("undecodable") == ("warning", HARBOUR, "00:00:02", "harbour", 0)
    assert "1.jpg" in told.only("undecodable")["message"]


def test_a_meta_that_cannot_be_read(show: TinyShow, rehearse: Rehearse) -> None:
    (show.set_folder("harbour", 0) / "meta.json").write_text('{"total_steps": "many"}')
    told = rehearse()
    assert told.place("bad_meta") == ("warning", HARBOUR, "00:00:02", "harbour", 0)
    assert "total_steps" in told.only("bad_meta")["message"]


def test_what_only_decoding_wholly_finds(show: TinyShow, rehearse: Rehearse) -> None:
    picture = Image.radial_gradient("L").convert("RGB").resize((160, 96))
    png = bytearray(encoded(picture, "PNG"))
    data = png.index(b"IDAT") + 4
    png[data : data + 60] = bytes(60)  # its chunks are all there; what is in them is no picture
    (show.set_folder("forest", 0) / "2.jpg").unlink()
    put_image(show, "forest", 0, "2.png", bytes(png))
    change_json(show.set_folder("forest", 0) / "meta.json", lambda meta: meta["files"].pop("2.jpg"))
    assert rehearse(*BOTH).findings("undecodable") == []
    told = rehearse("--deep")
    assert told.place("undecodable") == ("warning", FOREST, "00:00:15", "forest", 0)
    assert "2.png" in told.only("undecodable")["message"]


def test_sets_of_another_prompt(show: TinyShow, rehearse: Rehearse) -> None:
    def edit(cues: list[Cue]) -> None:
        cues[FOREST]["prompt"] = "a forest on fire"

    change_cues(show, edit)
    told = rehearse()
    assert told.status == 1
    (found,) = told.findings("stale_set")
    assert (found["level"], found["cue"], found["action_id"]) == ("error", FOREST, "forest")
    for told_of in (
        "sets 0, 1: ",
        "another recipe",
        '"a forest, photo',
        '→ "a forest on fire, photo',
    ):
        assert told_of in found["message"]
    assert "generate batch --only forest" in found["remedy"]


# ---------------------------------------------------------------- manifest


def test_a_set_that_the_manifest_does_not_list(show: TinyShow, rehearse: Rehearse) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        manifest["actions"]["forest"] |= {"sets": 1, "set_ids": [0]}

    change_json(show.folder / "manifest.json", forget)
    told = rehearse()
    assert told.place("manifest_mismatch") == ("warning", FOREST, "00:00:15", "forest", None)
    found = told.only("manifest_mismatch")
    assert "set 1" in found["message"]
    assert "generate reindex" in found["remedy"]
    assert told.status == 0


def test_a_manifest_that_tells_of_another_recipe(show: TinyShow, rehearse: Rehearse) -> None:
    def mistake(manifest: dict[str, Any]) -> None:
        manifest["actions"]["sea"]["fingerprint"] = "sha256:" + "0" * 64

    change_json(show.folder / "manifest.json", mistake)
    told = rehearse()
    assert told.place("manifest_mismatch") == ("warning", SEA, "00:00:30", "sea", None)
    assert "recipe" in told.only("manifest_mismatch")["message"]


# ---------------------------------------------------------------- the sheet


def test_an_unknown_program(show: TinyShow, rehearse: Rehearse) -> None:
    def edit(cues: list[Cue]) -> None:
        cues[SEA]["program"] = "P9"

    change_cues(show, edit)
    told = rehearse()
    assert told.place("unknown_program") == ("error", SEA, "00:00:30", None, None)
    found = told.only("unknown_program")
    for told_of in ("cues.json", "P9", "expected one of", "P4"):
        assert told_of in found["message"]
    assert told.status == 1
    assert told.report["show"] is None


def test_everything_that_is_wrong_with_a_sheet_in_one_go(
    show: TinyShow, rehearse: Rehearse
) -> None:
    def edit(cues: list[Cue]) -> None:
        cues[HARBOUR]["time"] = "quarter past"
        cues[SEA]["program"] = "P9"

    change_cues(show, edit)
    add_settings(show, '[playback]\nmode = "sometimes"\n')
    told = rehearse()
    assert told.status == 1
    assert [(each["code"], each["cue"]) for each in told.report["findings"]] == [
        ("bad_settings", None),
        ("bad_sheet", HARBOUR),
    ]  # a program may be one of the settings that cannot be read
    assert "[playback] mode" in told.report["findings"][0]["message"]


def test_what_is_odd_about_a_sheet(show: TinyShow, rehearse: Rehearse) -> None:
    def edit(cues: list[Cue]) -> None:
        cues[LAST]["colour"] = "blue"

    change_cues(show, edit)
    told = rehearse()
    (found,) = told.findings("sheet_remark")
    assert (found["level"], found["cue"], found["time"]) == ("note", LAST, "00:01:20")
    assert "colour" in found["message"]
    assert told.status == 0


# ---------------------------------------------------------------- time


def test_a_duration_longer_than_its_slot(show: TinyShow, rehearse: Rehearse) -> None:
    def slow(meta: dict[str, Any]) -> None:
        meta["durations"] = dict.fromkeys(meta["durations"], 6.0)

    for number in (0, 1):
        change_json(show.set_folder("harbour", number) / "meta.json", slow)
    told = rehearse()
    found = told.only("overrun")
    assert (found["level"], found["cue"], found["time"]) == ("warning", HARBOUR, "00:00:02")
    assert found["action_id"] == "harbour"
    for told_of in ("30.0 s", "13.0 s"):
        assert told_of in found["message"]
    assert told.status == 0


def test_a_duration_that_nothing_makes_fit(show: TinyShow, rehearse: Rehearse) -> None:
    def slow(meta: dict[str, Any]) -> None:
        meta["durations"] = dict.fromkeys(meta["durations"], 6.0)

    for number in (0, 1):
        change_json(show.set_folder("harbour", number) / "meta.json", slow)
    add_settings(show, '[playback]\nfit = "recorded"\n')
    told = rehearse()
    found = told.only("overrun")
    assert (found["level"], found["cue"]) == ("error", HARBOUR)
    assert "final image is never seen" in found["message"]
    assert 'fit = "squeeze"' in found["remedy"]
    assert told.status == 1


def test_a_regeneration_that_the_next_cue_runs_into(show: TinyShow, rehearse: Rehearse) -> None:
    def edit(cues: list[Cue]) -> None:
        # 1.25 s after it began, and 30 s after that, it is drawn again.
        cues[LAST]["time"] = "00:01:02"

    change_cues(show, edit)
    told = rehearse()
    found = told.only("regeneration_overlap")
    assert (found["level"], found["cue"], found["time"]) == ("warning", SEA, "00:00:30")
    assert found["action_id"] == "sea"
    assert "cycle 2" in found["message"]
    assert "0.8 s before" in found["message"]
    assert told.status == 0


def test_no_screening_today_as_the_zone_is_wrong(show: TinyShow, rehearse: Rehearse) -> None:
    path = show.folder / "show.toml"
    # 08:00 on this machine is 21:00 in Auckland, where both screenings of the day are over.
    path.write_text(path.read_text().replace('"UTC"', '"Pacific/Auckland"'))
    told = rehearse()
    found = told.only("no_screening_today")
    assert found["level"] == "error"
    for told_of in ("Pacific/Auckland", "21:00", "08:00", "2026-11-24 09:00"):
        assert told_of in found["message"]
    assert "[show] timezone" in found["remedy"]
    assert told.status == 1


@pytest.mark.usefixtures("show")
def test_a_machine_in_another_zone_on_a_day_with_screenings(
    rehearse: Rehearse, machine_in: Callable[[str], None]
) -> None:
    machine_in("Europe/Berlin")
    told = rehearse()
    found = told.only("time_zone")
    assert found["level"] == "warning"
    for told_of in ("08:00", "09:00"):
        assert told_of in found["message"]
    assert told.status == 0


@pytest.mark.usefixtures("show")
def test_a_day_whose_screenings_are_over(
    rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch
) -> None:
    evening = WALL + 12 * 3600
    monkeypatch.setattr("server.cli.rehearse.time", SimpleNamespace(time=lambda: evening))
    told = rehearse()
    found = told.only("no_screening_today")
    assert found["level"] == "warning"
    assert "2026-11-24 09:00" in found["message"]
    assert told.status == 0


def test_a_weekday_without_a_screening(show: TinyShow, rehearse: Rehearse) -> None:
    path = show.folder / "show.toml"
    path.write_text(path.read_text() + 'days = ["tue", "wed"]\n')
    told = rehearse()
    found = told.only("no_screening_today")
    assert found["level"] == "warning"
    assert "next 2026-11-24 09:00" in found["message"]
    assert told.status == 0


@pytest.mark.usefixtures("show")
def test_a_clock_that_is_behind(rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch) -> None:
    long_ago = datetime(2026, 1, 5, 8, tzinfo=UTC).timestamp()
    monkeypatch.setattr("server.cli.rehearse.time", SimpleNamespace(time=lambda: long_ago))
    told = rehearse()
    found = told.only("clock_behind")
    assert found["level"] == "error"
    for told_of in ("2026-01-05 08:00", "2026-11-20 10:30"):
        assert told_of in found["message"]
    assert told.status == 1


# ---------------------------------------------------------------- engines and the line


def test_a_dead_engine_with_no_set_behind_it(show: TinyShow, rehearse: Rehearse) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        del manifest["actions"]["forest"]

    shutil.rmtree(show.folder / "actions" / "forest")
    change_json(show.folder / "manifest.json", forget)
    add_settings(
        show,
        '[playback]\nmode = "live"\n'
        '[[engines]]\nname = "gpu"\nkind = "worker"\nurl = "http://127.0.0.1:9"\n',
    )
    told = rehearse()
    (found,) = told.findings("engine_dead")
    assert (found["level"], found["cue"], found["time"]) == ("error", FOREST, "00:00:15")
    assert found["action_id"] == "forest"
    for told_of in ("gpu", "127.0.0.1:9", "no set"):
        assert told_of in found["message"]
    assert "generate batch --only forest" in found["remedy"]
    assert {each["cue"] for each in told.report["findings"] if each["level"] == "error"} == {FOREST}
    assert told.status == 1


@pytest.mark.usefixtures("show")
def test_a_line_too_slow(rehearse: Rehearse) -> None:
    quick = rehearse("--bandwidth", "100M")
    assert quick.status == 0
    assert quick.findings("late") == []
    told = rehearse("--bandwidth", "250k")
    found = told.findings("late")
    assert found
    assert (found[0]["level"], found[0]["cue"], found[0]["time"]) == (
        "warning",
        HARBOUR,
        "00:00:02",
    )
    assert found[0]["action_id"] == "harbour"
    assert "of 5" in found[0]["message"]
    assert "understudy pull" in found[0]["remedy"]


def test_a_cache_too_small(show: TinyShow, rehearse: Rehearse) -> None:
    assert rehearse("--bandwidth", "100M").findings("cache_too_small") == []
    add_settings(show, "[cache]\ndisk_bytes = 300000\n")  # a set has 200 000
    told = rehearse("--bandwidth", "100M")
    (found,) = told.findings("cache_too_small")
    assert (found["level"], found["cue"], found["action_id"]) == ("warning", FOREST, "forest")
    assert found["time"] == "00:00:15"
    for told_of in ("takes 201 kB beside the 201 kB", "[cache] disk_bytes is 300 kB", "are left"):
        assert told_of in found["message"]
    assert "[cache] disk_bytes = 40" in found["remedy"]
    # What comes too late is not the line's fault.
    late = told.findings("late")
    assert late
    assert all("copies have no room" in each["message"] for each in late)
    assert told.status == 0


def test_a_cache_without_room_for_every_set(show: TinyShow, rehearse: Rehearse) -> None:
    add_settings(show, "[cache]\ndisk_bytes = 700000\n")  # eight sets have 1 600 000
    (found,) = rehearse("--bandwidth", "100M").findings("cache_too_small")
    assert (found["level"], found["cue"]) == ("note", None)
    assert "the sets take 2 MB" in found["message"]
    assert "in time all the same" in found["message"]


def test_a_disk_too_full(show: TinyShow, rehearse: Rehearse) -> None:
    add_settings(show, '[cache]\ncopies = "always"\n')
    assert rehearse().findings("disk_space") == []
    add_settings(show, "keep_free = 1000000000000000\n")  # more than any disk has
    found = rehearse().only("disk_space")
    assert found["level"] == "warning"
    for told_of in ("1000.0 TB", "2 MB of copies", "[cache] keep_free", "found"):
        assert told_of in found["message"]
    assert "[cache] dir" in found["remedy"]


def test_durations_that_were_not_recorded(show: TinyShow, rehearse: Rehearse) -> None:
    def forget(meta: dict[str, Any]) -> None:
        del meta["durations"]["2"]

    change_json(show.set_folder("sea", 1) / "meta.json", forget)
    told = rehearse()
    (found,) = told.findings("unknown_durations")
    assert (found["level"], found["cue"], found["time"]) == ("note", SEA, "00:00:30")
    assert "meta.json of set 1" in found["message"]
    assert told.status == 0
