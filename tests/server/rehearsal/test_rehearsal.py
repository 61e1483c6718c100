"""Rehearsal: the show in virtual time, and whether it comes true."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from server.diagnostics.report import RehearsalOptions, RehearsedRun, Report
from server.performance.state_file import PersistedState
from server.rehearsal.rehearsal import rehearse, seed_of
from server.rehearsal.request import fail_names
from tests.helpers.screens import ScreenClient, screen, web
from tests.helpers.servers import serving
from tests.helpers.shows import LOOP, Rhythm, TinyShow, cue, line, make_show, prompt, write_show

CUES = [
    cue(0, "start"),
    line(0.5, "plenty of time", id="plenty"),
    line(3, "too long for its slot", id="long"),
    prompt(4.5, "rhythm unknown", id="unknown"),
    cue(8, "end"),
]
RHYTHMS = {
    "plenty": Rhythm(previews=4, step=0.25, first=0.6, sets=3),
    "long": Rhythm(previews=6, step=0.4, sets=3),
    "unknown": Rhythm(previews=3, durations=False, sets=3),
}
SEED = "[playback]\nseed = 11\n"


def written(folder: Path, more: str = "", **arguments: Any) -> TinyShow:
    return make_show(folder, CUES, toml=LOOP + more, rhythms=RHYTHMS, **arguments)


def rehearsed(tiny: TinyShow, **asked: Any) -> Report:
    show = tiny.load()
    return rehearse(
        show, RehearsalOptions(seed=seed_of(show, asked.pop("seed", None)), **asked), wall=1.8e9
    )


def codes(report: Report) -> set[tuple[str, str]]:
    return {(finding.level, finding.code) for finding in report.findings}


# ---------------------------------------------------------------- it comes true


async def test_what_is_foretold_is_what_happens(tmp_path: Path) -> None:
    tiny = written(tmp_path, SEED)
    foretold = await asyncio.to_thread(rehearsed, tiny, screenings=3)

    async with serving(tiny.load()) as address, screen(address) as wall:
        await wall.until(lambda me: len(_ended(me)) >= 7, within=40, why="not seven runs")
        async with web(address) as client:
            rows = (await client.get("/api/asrun?format=json")).json()
    rows = sorted(rows, key=lambda row: row["started_at"])

    # The same cues, out of the same sets, in the same order.
    happened = [(row["action_id"], row["set_id"], row["squeeze"]) for row in rows]
    assert len(happened) >= 7
    assert happened == [
        (run.action_id, run.set_id, pytest.approx(run.squeeze, abs=1e-3))
        for run in foretold.cues[: len(happened)]
    ]
    # And each picture at the same moment, to the millisecond.
    compared = 0
    for row, run in zip(rows, foretold.cues, strict=False):
        frames = wall.frames_of(row["run"])
        if len(frames) == len(run.due):
            due = [frame.message["present_at"] - row["started_at"] for frame in frames]
            assert due == pytest.approx(run.due, abs=0.0015)
            compared += 1
    assert compared >= 5


def _ended(wall: ScreenClient) -> set[str]:
    return {heard.message["run"] for heard in wall.of("run_end")}


async def test_a_server_that_has_played_goes_on_as_foretold(tmp_path: Path) -> None:
    tiny = written(tmp_path)
    async with serving(tiny.load()) as address, screen(address) as wall:
        await wall.until(lambda me: len(_ended(me)) >= 2, within=30)
    remembered = PersistedState.model_validate_json((tiny.state / "state.json").read_bytes())

    foretold = await asyncio.to_thread(rehearsed, tiny, screenings=2)

    assert foretold.asked.seed == remembered.seed
    for action_id, bag in remembered.bags.items():
        played = [run.set_id for run in foretold.cues if run.action_id == action_id]
        # First what is left of the round, as it is remembered.
        coming = list(bag.coming)[: len(played)]
        assert played[: len(coming)] == coming


# ---------------------------------------------------------------- the same again


@pytest.mark.parametrize("asked", [{}, {"bandwidth": 2e6, "latency": 0.1}, {"fail": ("long",)}])
def test_the_same_seed_gives_the_same_report_byte_for_byte(
    tmp_path: Path, asked: Mapping[str, Any]
) -> None:
    tiny = written(tmp_path)
    one, other = (rehearsed(tiny, seed=5, screenings=4, **asked).to_json() for _ in range(2))
    assert one == other
    another = rehearsed(tiny, seed=6, screenings=4, **asked)
    assert sets(another.cues) != sets(rehearsed(tiny, seed=5, screenings=4, **asked).cues)


def sets(runs: tuple[RehearsedRun, ...]) -> list[tuple[str, int | None]]:
    return [(run.action_id, run.set_id) for run in runs]


def test_nothing_is_written(tmp_path: Path) -> None:
    tiny = written(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    rehearsed(tiny, screenings=2, bandwidth=1e6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# ---------------------------------------------------------------- what it tells


def test_a_run_is_told_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    report = rehearsed(written(tmp_path))
    assert report.verdict == "ready"
    plenty, long, unknown = report.cues
    assert (plenty.cue, plenty.time, plenty.at, plenty.slot) == (1, "00:00:00.5", 0.5, 2.5)
    assert (plenty.provider, plenty.outcome, plenty.mode) == ("static", "completed", "static")
    assert plenty.due == pytest.approx((0.6, 0.85, 1.1, 1.35, 1.6))
    assert plenty.squeeze == 1.0
    assert plenty.recorded == plenty.length == 1.6
    assert long.squeeze == pytest.approx(1.125 / 2.8, abs=1e-3)  # a quarter is for the crossfade
    assert long.recorded == pytest.approx(2.8, abs=0.002)
    assert len(unknown.due) == 4
    assert [(each.number, each.runs, each.to) for each in report.screenings] == [(1, 3, 8.0)]
    finding, note = report.findings
    assert (note.level, note.code, note.action_id) == ("note", "unknown_durations", "unknown")
    assert "set 0, 1, 2" in note.message
    assert (finding.code, finding.level, finding.cue) == ("overrun", "warning", 2)
    assert finding.action_id == "long"
    assert "2.8 s" in finding.message


def test_a_day_plays_every_set_before_any_again(tmp_path: Path) -> None:
    report = rehearsed(written(tmp_path), screenings=6)
    assert [each.runs for each in report.screenings] == [3] * 6
    for variety in report.variety:
        assert variety.sets == 3
        assert sorted(variety.played[:3]) == sorted(variety.played[3:]) == [0, 1, 2]


def test_a_part_of_the_show(tmp_path: Path) -> None:
    report = rehearsed(written(tmp_path), from_=2.4, to=5, screenings=2)
    # What is on at that moment is joined in its middle.
    assert [(run.screening, run.action_id) for run in report.cues] == [
        (1, "plenty"),
        (1, "long"),
        (1, "unknown"),
        (2, "plenty"),
        (2, "long"),
        (2, "unknown"),
    ]
    assert "the show was set here" in report.cues[0].why
    assert report.cues[2].outcome == "cut"
    assert [(each.from_, each.to) for each in report.screenings] == [(2.4, 5.0)] * 2


def test_a_schedule_of_the_day(tmp_path: Path) -> None:
    toml = '[schedule]\nkind = "screenings"\nscreenings = ["10:00", "11:00"]\n'
    tiny = make_show(tmp_path, CUES, toml=toml, rhythms=RHYTHMS)
    show = tiny.load()
    wall = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
    report = rehearse(show, RehearsalOptions(seed=1, screenings=3), wall=wall)
    assert [each.starts for each in report.screenings] == [
        "2023-11-15 10:00",
        "2023-11-15 11:00",
        "2023-11-16 10:00",
    ]
    assert [run.screening for run in report.cues] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


# ---------------------------------------------------------------- what fails


def test_without_the_store_everything_is_held(tmp_path: Path) -> None:
    report = rehearsed(written(tmp_path), fail=("store",))
    assert report.verdict == "not ready"
    assert {run.outcome for run in report.cues} == {"held"}
    assert ("error", "nothing_to_show") in codes(report)


def test_one_action_without_its_sets(tmp_path: Path) -> None:
    report = rehearsed(written(tmp_path), fail=("long",))
    assert [run.outcome for run in report.cues] == ["completed", "held", "completed"]
    assert {each.action_id for each in report.findings if each.level == "error"} == {"long"}


def test_an_action_is_made_to_fail_by_the_id_that_its_sets_have(tmp_path: Path) -> None:
    tiny = make_show(tmp_path, [cue(0, "start"), prompt(1, "a lamp"), cue(9, "end")], toml=LOOP)
    assert [action.action_id for action in tiny.actions()] == ["prompt_001"]
    # A cue is put before it: its sets keep their id, and the new one has another.
    write_show(tmp_path, [prompt(0, "a new one"), prompt(1, "a lamp"), cue(9, "end")], LOOP)
    show = tiny.load()
    finished = {"prompt_001": [tiny.actions()[1].fingerprint]}
    ids = [action.action_id for action in show.plan(finished).actions]
    assert ids[1] == "prompt_001"
    assert fail_names(show, ["store", *ids, "nobody"]) == ["nobody"]


ENGINE = '[[engines]]\nname = "gpu"\nkind = "worker"\nurl = "http://127.0.0.1:9"\n'


def test_a_dead_engine_is_asked_once_and_a_set_takes_over(tmp_path: Path) -> None:
    tiny = written(tmp_path, '[playback]\nmode = "live"\n' + ENGINE)
    report = rehearsed(tiny)
    (engine,) = report.engines
    assert (engine.name, engine.state) == ("gpu", "dead")
    assert "127.0.0.1:9" in engine.detail
    assert report.cues[0].outcome == "failed over"
    assert report.cues[0].provider == "static"
    assert ("warning", "failed_over") in codes(report)
    assert report.verdict == "ready"


def test_a_dead_engine_with_nothing_behind_it_is_an_error(tmp_path: Path) -> None:
    tiny = written(tmp_path, '[playback]\nmode = "live"\n' + ENGINE)
    report = rehearsed(tiny, fail=("engines", "long"))
    found = [each for each in report.findings if each.code == "engine_dead"]
    assert [(each.level, each.cue, each.action_id) for each in found] == [("error", 2, "long")]
    assert (
        "as it is set to" in report.engines[0].detail or "set to fail" in report.engines[0].detail
    )
    assert "gpu" in found[0].message


def test_an_engine_on_this_machine_is_not_started(tmp_path: Path) -> None:
    engine = '[[engines]]\nname = "here"\nkind = "sketch"\nlive = true\npace = 0.02\n'
    tiny = written(tmp_path, '[playback]\nmode = "live"\n' + engine)
    report = rehearsed(tiny)
    assert report.engines[0].state == "not asked"
    assert {run.provider for run in report.cues} == {"live"}


def test_a_line_too_slow_thins_previews_and_says_where(tmp_path: Path) -> None:
    rhythm = Rhythm(previews=8, step=0.1, size=40_000, sets=3)
    tiny = make_show(tmp_path, CUES, toml=LOOP, rhythm=rhythm)
    quick = rehearsed(tiny, bandwidth=100e6)
    assert not [each for each in quick.findings if each.code == "late"]
    slow = rehearsed(tiny, bandwidth=0.5e6, latency=0.1)
    assert any(run.left_out for run in slow.cues)
    late = [each for each in slow.findings if each.code in {"late", "nothing_to_show"}]
    assert late
    assert slow.line is not None
    assert slow.line.bits_per_second == 0.5e6
    assert slow.fetched


def test_json_has_the_promised_shape(tmp_path: Path) -> None:
    document = json.loads(rehearsed(written(tmp_path)).to_json())
    assert {"verdict", "findings", "cues"} <= document.keys()
    assert {"level", "code", "cue", "action_id", "message", "remedy"} <= document["findings"][
        0
    ].keys()
    assert document["asked"]["from"] == 0.0
