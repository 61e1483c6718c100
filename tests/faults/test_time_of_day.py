"""What the wall and the technician are told of the time, whatever the clocks do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser

from server.config.lobby import (
    LANGUAGES,
    TEXTS,
    calendar_signs,
    direction_of,
    shipped_texts,
)
from server.config.settings import SettingsError, load_settings
from server.core.clock import VirtualClock
from server.core.time_of_day import TimeOfDay, local_text
from server.lifecycle import force_book, signs_of_life
from server.modes.forces import Force
from server.performance.state_file import PersistedState, StateFile
from server.timeline.playhead import Playhead
from server.timeline.schedule import DailySchedule, EndlessLoop
from tests.helpers import walls
from tests.helpers.house import House, house
from tests.helpers.servers import ServerProcess, server_process
from tests.helpers.shows import MANUAL, Rhythm, cue, make_show, prompt

ROOT = Path(__file__).resolve().parents[2]
CUES = [cue(0, "start"), prompt(5, "a", id="a"), cue(60, "end")]
RHYTHM = Rhythm(previews=2, step=0.1)
TEN = '[schedule]\nkind = "screenings"\nscreenings = ["10:00"]\n'
NINE_THIRTY = 1_796_031_000.0  # 2026-11-30 09:30 in UTC
YEAR = 365 * 86_400.0


def lobby(opened: House) -> dict[str, Any]:
    return opened.of("screening")[-1].message


# ---------------------------------------------------------------- what is told to the wall


async def test_a_wall_knows_of_a_screening_that_is_near_from_the_start(tmp_path: Path) -> None:
    clock = VirtualClock(NINE_THIRTY)
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TEN, clock=clock) as opened:
        assert lobby(opened)["status"] == "waiting"
        assert lobby(opened)["next"] == NINE_THIRTY + 1800
        assert lobby(opened)["next_local"] == "2026-11-30T10:00:00+00:00"
        told = len(opened.of("screening"))
        await opened.play_to(60, step=0.5)
        assert len(opened.of("screening")) == told, "and is not told again what it knows"


@pytest.mark.parametrize("step", [300.0, -300.0, -7200.0, 10 * YEAR, -10 * YEAR])
async def test_a_clock_that_is_set_in_the_lobby_is_told_to_the_wall(
    tmp_path: Path, step: float
) -> None:
    clock = VirtualClock(NINE_THIRTY)
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TEN, clock=clock) as opened:
        clock.step_wall(step)
        await opened.play_to(2, step=0.5)
        told, start = lobby(opened), opened.playback.playhead.next_start
        assert start is not None
        assert told["next_local"][11:] == "10:00:00+00:00"
        assert told["next"] - clock.now() == pytest.approx(start - clock.wall(), abs=1e-3)
        state = opened.view.state()["screening"]
        assert (state["next"], state["next_local"]) == (told["next"], told["next_local"])


async def test_a_clock_that_was_wrong_at_the_start_prints_no_wrong_hour(tmp_path: Path) -> None:
    clock = VirtualClock(NINE_THIRTY - 7200)
    clock.step_wall(7200 - 3e-6)  # the steady clock is two hours off for good
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TEN, clock=clock) as opened:
        assert lobby(opened)["next_local"] == "2026-11-30T10:00:00+00:00"
        assert opened.view.state()["zone"] == {
            "name": "UTC",
            "utc_offset": 0.0,
            "clock_offset": 7200.0,
        }


async def test_what_is_kept_for_the_next_start_keeps_up_with_the_clock() -> None:
    clock = VirtualClock(NINE_THIRTY - YEAR)
    async with StateFile.unwritten(PersistedState()) as state_file:
        times = TimeOfDay(clock)
        book = force_book(state_file, times, clock)
        head = Playhead([0.0], [], 60.0, EndlessLoop(clock.wall() - 5, 60.0))
        head.tick(clock.now(), clock.wall())
        job = asyncio.create_task(signs_of_life(state_file, clock, head))
        forced = Force(mode="static", by="foh", until="time", deadline=clock.now() + 90, lasts=90.0)
        book.write((forced,))
        clock.step_wall(YEAR)
        times.look()
        head.tick(clock.now(), clock.wall())
        await clock.advance(3)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        content = state_file.content
        assert book.forces == (forced,)
        assert content.forces[0].deadline == NINE_THIRTY + 90
        assert content.loop_anchor == NINE_THIRTY - 5
        assert content.alive_at == NINE_THIRTY + 3
        # The next start, twenty seconds later by a clock that is right.
        later = VirtualClock(NINE_THIRTY + 20)
        (back,) = force_book(state_file, TimeOfDay(later), later).forces
        assert back.deadline == later.now() + 70


async def test_a_panic_was_when_it_was_by_the_clock_as_it_is_now(tmp_path: Path) -> None:
    clock = VirtualClock(NINE_THIRTY - YEAR)
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TEN, clock=clock) as opened:
        opened.playback.panic("foh")
        clock.step_wall(YEAR)
        await opened.play_to(60, step=1.0)
        assert opened.view.state()["panic"] == {"by": "foh", "at": NINE_THIRTY}
        kept = opened.playback.panicked
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TEN, panic=kept) as again:
        assert again.view.state()["panic"] == {"by": "foh", "at": NINE_THIRTY - YEAR}


@pytest.mark.parametrize(
    ("wall", "expected"),
    [
        # Clocks go forward at 2026-03-29 02:00, back at 2026-10-25 03:00.
        (1_774_718_400.0, "2026-03-29T10:00:00+02:00"),
        (1_792_861_200.0, "2026-10-25T10:00:00+01:00"),
        (1_835_388_000.0, "2028-02-29T10:00:00+01:00"),
    ],
)
def test_the_opening_after_a_night_with_another_hour(wall: float, expected: str) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    schedule = DailySchedule(zone=berlin, duration=60.0, starts=("10:00",))
    head, ahead = Playhead([0.0], [], 60.0, schedule), 3600.0  # of the steady clock, for good
    head.tick(wall + ahead, wall)
    seen = [head.status]
    assert head.next_start is not None
    assert head.next_at is not None
    assert local_text(head.next_start, berlin) == expected
    for moment in (head.next_at - 1, head.next_at):
        head.tick(moment, moment - ahead)
        seen.append(head.status)
    assert seen == ["closed", "waiting", "active"]


# ---------------------------------------------------------------- what is to be read there

SAID = """async (manner) => {
  const { when } = await import("/static/kiosk/lobby.js");
  const at = "2026-11-21T10:05:00+01:00";
  const say = (status, next, next_local) =>
    when({ status, next, next_local, started_at: null }, 0, manner)
      .map((piece) => piece.text)
      .join("");
  return [
    say("active", 60, at), say("waiting", 0, at), say("waiting", 754, at), say("waiting", 7200, at),
    say("waiting", 39000, at), say("closed", 3600, at), say("closed", 36301, at),
    say("closed", 4 * 86400, at), say("closed", 9 * 86400, at), say("closed", null, null),
  ];
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("time") / "show"
    toml = MANUAL + '[display]\nlanguage = "de"\ntexts = { closed = "Heute zu" }\n'
    tiny = make_show(folder, CUES, rhythm=RHYTHM, toml=toml)
    path = tiny.folder / "show.toml"
    screenings = MANUAL.replace('"manual"', '"screenings"\nscreenings = ["12:34"]')
    text = path.read_text().replace('"UTC"', '"Pacific/Kiritimati"').replace(MANUAL, screenings)
    path.write_text(text)
    with server_process(tiny.folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@pytest.mark.browser
def test_a_wall_in_another_time_zone_says_the_hour_of_the_show(
    server: ServerProcess, browser: Browser
) -> None:
    context = browser.new_context(timezone_id="America/Los_Angeles")
    page = context.new_page()
    page.goto(f"{server.address.http}/?screen=far")
    page.wait_for_function("() => document.querySelector('#lobby .when').textContent")
    line = page.text_content("#lobby .when") or ""
    assert re.fullmatch(
        r"(Geschlossen\. Öffnet|Beginnt) (um|morgen um) 12:34 Uhr|Beginnt in \d+:\d\d", line
    ), line
    assert page.get_attribute("#lobby", "lang") == "de"
    assert page.evaluate("document.documentElement.lang") == "de"
    page.goto(f"{server.address.http}/control")
    page.wait_for_function("() => document.querySelector('#countdown').textContent")
    assert re.match(r"screening (tomorrow )?12:34, in ", page.inner_text("#countdown"))
    page.wait_for_function("() => document.querySelector('#log-title .zone').textContent")
    assert page.inner_text("#log-title .zone") == "Pacific/Kiritimati"
    manner = {"language": "de", "hours": "24", "texts": {"closed": "Heute zu"}, "timezone": ""}
    assert page.evaluate(SAID, manner)[-1] == "Heute zu"
    context.close()


@pytest.mark.browser
def test_every_language_says_everything(server: ServerProcess, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{server.address.http}/control")
    said: dict[str, list[str]] = {}
    for language in LANGUAGES:
        texts = shipped_texts(language)
        assert texts.keys() == TEXTS.keys()
        for hours in ("24", "12"):
            manner = {
                "language": language,
                "hours": hours,
                "texts": texts,
                "timezone": "Europe/Berlin",
            }
            lines = page.evaluate(SAID, manner)
            assert lines[0] == ""
            assert all(line and "{" not in line for line in lines[1:]), lines
            said[f"{language} {hours}"] = lines
    page.close()
    assert said["en 24"][1:] == [
        "In a moment",
        "Begins in 12:34",
        "Begins at 10:05",
        "Begins tomorrow at 10:05",
        "Closed. Opens at 10:05",
        "Closed. Opens tomorrow at 10:05",
        "Closed. Opens on Saturday at 10:05",
        "Closed. Opens on 21 November at 10:05",
        "Closed",
    ]
    assert said["en 12"][5] == "Closed. Opens at 10:05 am"
    assert said["de 24"][7] == "Geschlossen. Öffnet am Samstag um 10:05 Uhr"
    assert said["fr 24"][8] == "Fermé. Ouverture le 21 novembre à 10:05"
    assert said["ja 24"][8] == "閉館中。11月21日 10:05 開館"
    for language in ("ja", "zh", "ar"):
        day, known = said[f"{language} 24"][7], calendar_signs(language)
        unknown = set(day) - set("".join(shipped_texts(language).values())) - set(known)
        assert not {each for each in unknown if ord(each) > 0x250}, "a font may lack it unseen"
    assert said["ar 24"][7].startswith("مغلق. يفتح يوم السبت")
    assert [direction_of(each) for each in ("ar", "he-IL", "fa", "de", "zh-Hant")] == [
        *("rtl", "rtl", "rtl", "ltr", "ltr")
    ]


# ---------------------------------------------------------------- what may be set


@pytest.mark.parametrize(
    ("display", "problem"),
    [
        ('language = "pt-BR"', None),
        ('language = "zh-TW"', None),
        ('texts = { closed = "Shut. Come back on Monday" }', None),
        ('language = "sv"', "nothing is shipped in 'sv', but in en, de, "),
        ('language = "not a language"', "expected a language such as en"),
        ('texts = { shut = "x" }', "shut: unknown; expected one of in_a_moment"),
        ('texts = { closed = "till {time}" }', "closed: {time} stands for nothing here"),
        ('texts = { begins_in = "in {left" }', "begins_in: { stands for nothing here"),
        ('texts = { closed = "two\\nlines" }', "closed: expected one line"),
        ('hours = "13"', "hours"),
    ],
)
def test_the_lobbys_words_are_settings(tmp_path: Path, display: str, problem: str | None) -> None:
    toml = tmp_path / "show.toml"
    toml.write_text(f"[display]\n{display}\n")
    if problem is None:
        assert load_settings(toml, {}, {}).display.lobby_texts.keys() == TEXTS.keys()
        return
    with pytest.raises(SettingsError) as error:
        load_settings(toml, {}, {})
    assert problem in str(error.value)
    assert "show.toml: [display]" in str(error.value)


def test_a_language_that_nobody_ships_is_said_by_the_show_itself(tmp_path: Path) -> None:
    toml = tmp_path / "show.toml"
    texts = ", ".join(f'{name} = "{name}"' for name in TEXTS)
    toml.write_text(f'[display]\nlanguage = "sv"\ntexts = {{ {texts} }}\n')
    assert load_settings(toml, {}, {}).display.lobby_texts["closed"] == "closed"


# ---------------------------------------------------------------- the rule

READS = re.compile(
    r"\.wall\(\)|\btime\.time\b|\bdatetime\.now\b|\bDate\.now\b|\bnew Date\b|\bfromtimestamp\b"
    r"|\btime\.localtime\b|\bdate\.today\b|\bIntl\.DateTimeFormat\b|\btoLocale\w*String\b"
)

MAY = {
    "server/core/clock.py": "the clock itself",
    "server/core/time_of_day.py": "who knows it, for all others",
    "server/timeline/schedule.py": "hours of the day into Unix time",
    "server/core/formatting.py": "a Unix time in words, with the zone as an argument",
    "server/asrun/file.py": "Unix time of rows, in exports",
    "server/asrun/log.py": "when a run was, and when it is old: see its _prune",
    "server/lifecycle.py": "when the show was alive, for the next start",
    "server/setup.py": "whether a loop is taken up where it was",
    "server/rehearsal/live_rehearsal.py": "from when on is rehearsed",
    "server/control/dispatcher.py": "when a command was given, to be read",
    "server/performance/playback.py": "when somebody panicked, since when the show stands",
    "server/performance/progress.py": "since when nothing goes well, to be read",
    "server/stage/presence.py": "since when a screen is gone, to be read",
    "server/core/unhandled.py": "since when something goes wrong, to be read",
    "server/core/output.py": "since when lines are lost, to be read",
    "server/rehearsal/background.py": "when a rehearsal ended, to be read",
    "server/reports/archive.py": "the names of its reports, whose order survives a wrong clock",
    "server/diagnostics/preflight.py": "when it looked, to be read",
    "server/diagnostics/live_checks.py": "whether the clock and the schedule agree",
    "server/rehearsal/rehearsal.py": "the machine's zone, to be compared",
    "server/diagnostics/schedule.py": "whether there is a screening today",
    "server/rehearsal/report_builder.py": "hours of a report, in the show's zone",
    "server/cli/rehearse.py": "from when on is rehearsed",
    "server/cli/control.py": "hours in a terminal, in the show's zone",
    "server/cli/approve.py": "by when what was drawn live has aged",
    "cache/local/disk_cache.py": "the order of uses, which survives a wrong clock",
    "cache/local/cache.py": "since when a disk or a line is as it is, to be read",
    "cache/stores/folder.py": "whether what is unfinished is old; its writer's lock decides",
    "cache/index.py": "generated_at",
    "cache/pull.py": "generated_at",
    "generator/sets/harvest.py": "generated_at",
    "generator/sets/recorder.py": "generated_at",
    "generator/sets/importer.py": "generated_at, from the files",
    "generator/sets/numbers.py": "a name",
    "generator/engines/replicate/engine.py": "a date in a header, where its sender says no other",
    "generator/jobs/members.py": "when somebody became a member, or was one no more",
    "generator/jobs/outlook.py": "since when another Studio works on something: an estimate",
    "generator/jobs/scheduler.py": "times of rows; who is alive is judged by steady seconds",
    "server/studio/app.py": "when events are old",
    "server/studio/documents.py": "times of jobs, in UTC, to be read",
    "server/studio/generate_api.py": "whether a signature is of now, as its standard says",
    "server/studio/hooks/messages.py": "times of events, in UTC, to be read",
    "server/studio/hooks/sender.py": "when a delivery is due: it outlives restarts",
    "server/studio/hooks_api.py": "times of rows",
    "server/studio/jobs_api.py": "times of rows",
    "server/studio/links.py": "until when an address is good",
    "server/studio/picks_api.py": "since when a number is claimed: it outlives a kill",
    "server/studio/queue_api.py": "how far the statistics look back",
    "server/web/static/studio/words.js": "hours of jobs, and days",
    "server/web/static/studio/jobs/card.js": "hours of jobs",
    "server/web/static/studio/jobs/figures.js": "a number, in thousands",
    "server/web/static/studio/jobs/page.js": "a number, in thousands",
    "server/web/static/studio/jobs/waiting.js": "hours of jobs, and a number in thousands",
    "server/web/static/shared/hours.js": "days and hours of what the server told",
    "server/web/static/kiosk/lobby.js": "an older server's hour",
    "server/web/static/kiosk/main.js": "whether this machine slept",
    "server/web/static/control/words.js": "Unix times in the show's zone",
    "server/web/static/control/connection.js": "an older server's hour",
}
"""Who reads or writes out the time of day, and what for. A span of time is never among it."""


def test_the_time_of_day_is_read_where_it_is_meant_and_nowhere_else() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("server", "cache", "generator")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".js"} and READS.search(path.read_text())
    }
    assert found <= MAY.keys(), (
        f'{sorted(found - MAY.keys())}: see "Two clocks" in docs/architecture.md. A span is '
        "counted by Clock.now, an hour is printed through server/core/time_of_day.py"
    )
