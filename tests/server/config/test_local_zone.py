from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest

from server.config.local_zone import NAMELESS, BadZone, local_zone
from server.config.show import ShowError, load_show
from tests.helpers.shows import cue, prompt, write_show

WINTER = datetime(2026, 1, 15, 12, tzinfo=UTC)
SUMMER = datetime(2026, 7, 15, 12, tzinfo=UTC)
NOWHERE = Path("/nonexistent")


def hours(zone: ZoneInfo) -> tuple[float, float]:
    """Hours ahead of UTC, in winter and in summer."""
    ahead = [moment.astimezone(zone).utcoffset() or timedelta() for moment in (WINTER, SUMMER)]
    return ahead[0] / timedelta(hours=1), ahead[1] / timedelta(hours=1)


def data_of(name: str) -> Path:
    found = [Path(folder) / name for folder in TZPATH if (Path(folder) / name).is_file()]
    if not found:
        pytest.skip("this machine has no time zones of its own")
    return found[0]


@pytest.mark.parametrize(
    ("text", "key", "ahead"),
    [
        ("Europe/Berlin", "Europe/Berlin", (1, 2)),
        (":Europe/Berlin", "Europe/Berlin", (1, 2)),
        ("Asia/Kolkata", "Asia/Kolkata", (5.5, 5.5)),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NAMELESS, (1, 2)),
        ("<+0545>-5:45", NAMELESS, (5.75, 5.75)),
        ("NZST-12NZDT,M9.5.0,M4.1.0/3", NAMELESS, (13, 12)),
        ("UTC0", NAMELESS, (0, 0)),
        ("UTC", "UTC", (0, 0)),
        ("", "UTC", (0, 0)),
        (":", "UTC", (0, 0)),
    ],
)
def test_what_tz_says_is_local(text: str, key: str, ahead: tuple[float, float]) -> None:
    zone = local_zone({"TZ": text}, NOWHERE)
    assert (zone.key, hours(zone)) == (key, ahead)


def test_a_path_in_tz_is_the_zone_of_that_file(tmp_path: Path) -> None:
    assert local_zone({"TZ": str(data_of("Europe/Berlin"))}, NOWHERE).key == "Europe/Berlin"
    copy = tmp_path / "somewhere"
    copy.write_bytes(data_of("Asia/Tokyo").read_bytes())
    assert hours(local_zone({"TZ": str(copy)}, NOWHERE)) == (9, 9)


@pytest.mark.parametrize(
    "text",
    ["Berlin", "Europe/Atlantis", "/nonexistent/zone", "../../etc/passwd", "CET-99X,M13", "é"],
)
def test_nonsense_in_tz_is_refused_and_not_taken_for_utc(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadZone, match="Europe/Berlin"):
        local_zone({"TZ": text}, NOWHERE)
    folder = write_show(tmp_path / "show", [cue(0, "start"), prompt(1, "a"), cue(9, "end")])
    toml = folder / "show.toml"
    toml.write_text(toml.read_text().replace('"UTC"', '"local"'))
    with pytest.raises(ShowError) as error:
        load_show(folder, {}, {"TZ": text})
    (problem,) = error.value.problems
    assert problem.startswith(f"{toml}: [show] timezone: local means what TZ says, and TZ is ")
    # A show that names its zone does not care.
    toml.write_text(toml.read_text().replace('"local"', '"Asia/Tokyo"'))
    assert load_show(folder, {}, {"TZ": text}).timezone.key == "Asia/Tokyo"


def test_without_tz_it_is_what_the_machine_is_set_to_by_its_name(tmp_path: Path) -> None:
    berlin = data_of("Europe/Berlin")
    (tmp_path / "localtime").symlink_to(berlin)
    assert local_zone({}, tmp_path).key == "Europe/Berlin"
    # Where the file was copied, what Debian notes beside it says the name, if it is the same zone.
    (tmp_path / "localtime").unlink()
    (tmp_path / "localtime").write_bytes(berlin.read_bytes())
    assert local_zone({}, tmp_path).key == NAMELESS
    (tmp_path / "timezone").write_text("Europe/Berlin\n")
    assert local_zone({}, tmp_path).key == "Europe/Berlin"
    (tmp_path / "timezone").write_text("Asia/Tokyo\n")
    zone = local_zone({}, tmp_path)
    assert (zone.key, hours(zone)) == (NAMELESS, (1, 2)), "the clock goes by the file"


def test_where_nothing_says_anything_it_is_utc(tmp_path: Path) -> None:
    assert local_zone({}, tmp_path).key == "UTC"
    (tmp_path / "localtime").symlink_to("localtime")
    (tmp_path / "timezone").write_text("../../etc/passwd\n")
    assert local_zone({}, tmp_path).key == "UTC"
    (tmp_path / "timezone").write_text("Europe/Berlin\n")
    assert local_zone({}, tmp_path).key == "Europe/Berlin"
