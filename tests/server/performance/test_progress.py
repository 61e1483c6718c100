"""The show moves where its cues fire and what they begin reaches the stage, and not else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from generator.sheet.cues import TranscriptCue
from server.core.clock import VirtualClock
from server.core.metrics import Metrics
from server.performance.progress import CUES_IN_VAIN, CUT_UNSEEN, RUNS_IN_VAIN, ShowProgress
from tests.helpers.house import House, house
from tests.helpers.shows import LOOP, Rhythm, cue, line

RHYTHM = Rhythm(previews=4, step=0.5)
CUES = [
    cue(0, "start"),
    line(2, "one"),
    line(6, "said", generate=False, when=[6, 7]),
    line(10, "two"),
    line(20, "three"),
    cue(28, "end"),
]


class Planted(Exception):
    pass


def raises(*_: Any, **__: Any) -> NoReturn:
    raise Planted("a mistake")


async def raises_awaited(*_: Any, **__: Any) -> NoReturn:
    raise Planted("a mistake")


async def cancelled(*_: Any, **__: Any) -> NoReturn:
    raise asyncio.CancelledError


async def hangs(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()


def told(opened: House) -> list[tuple[str, str]]:
    return [(each.code, each.level) for each in opened.playback.conditions()]


def counted(opened: House, name: str, **labels: str) -> float | None:
    return opened.metrics.registry.get_sample_value(name, labels)


FAILED = ("run_failed", "degraded")
STANDS_STILL = ("show_stands_still", "failing")


@pytest.mark.parametrize("where", ["performer", "runs", "stage", "cancelled elsewhere"])
async def test_a_picture_that_fails_is_told_and_after_two_the_show_moves_in_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with capture_logs():
        async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
            match where:
                case "performer":
                    monkeypatch.setattr(opened.performer, "perform", raises)
                case "runs":
                    monkeypatch.setattr(opened.performer._runs, "perform", raises_awaited)
                case "stage":
                    monkeypatch.setattr(opened.stage, "begin", raises)
                case _:
                    monkeypatch.setattr(opened.performer._runs, "perform", cancelled)
            await opened.play_to(1)
            assert told(opened) == []
            await opened.play_to(3)
            assert told(opened) == [FAILED]
            assert opened.playback.stands_still() is None
            health = opened.view.health()
            assert health["level"] == "degraded"
            said = "Stray" if where == "cancelled elsewhere" else "Planted: a mistake"
            assert said in health["conditions"][0]["message"]
            await opened.play_to(11)
            assert RUNS_IN_VAIN == 2
            assert told(opened) == [STANDS_STILL, FAILED]
            assert opened.view.health()["level"] == "failing"
            assert counted(opened, "understudy_run_failures_total") == 2
            monkeypatch.undo()
            await opened.play_to(26)
            assert told(opened) == [], "one that goes well takes it back"
            assert opened.playback.stands_still() is None


async def test_a_rung_that_breaks_is_told_though_the_next_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs():
        async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
            rightly, count = opened.static.open, 0

            def once(*args: Any) -> Any:
                nonlocal count
                count += 1
                return raises() if count in {1, 2} else rightly(*args)

            monkeypatch.setattr(opened.static, "open", once)
            await opened.play_to(11)
            assert told(opened) == [STANDS_STILL, FAILED]
            await opened.play_to(26)
            assert told(opened) == []


async def test_words_that_cannot_be_told_cost_no_picture_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
            monkeypatch.setattr(TranscriptCue, "until", property(raises))
            await opened.play_to(3)
            assert told(opened) == [("cue_failed", "degraded")]
            await opened.play_to(26)
            assert told(opened) == [("cue_failed", "degraded")]
            assert [at for at, _ in opened.runs()] == [2.0, 10.0, 20.0]
            assert counted(opened, "understudy_cue_failures_total", kind="transcript") == 4
            monkeypatch.undo()
            await opened.play_to(31)
            assert told(opened) == []
    assert "cue_failed" in {each["event"] for each in logs}


async def test_words_that_cannot_be_told_on_a_jump_cost_neither_light_nor_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cues = [
        cue(0, "start"),
        cue(1, "set-fade-status", fade=True),
        cue(3, "set-fade-status", fade=False),
        line(10, "one", when=[10, 15]),
        cue(28, "end"),
    ]
    with capture_logs():
        async with house(tmp_path, cues, rhythm=RHYTHM, toml=LOOP) as opened:
            await opened.play_to(2)
            assert [each.message["black"] for each in opened.of("fade")][-1:] == [True]
            monkeypatch.setattr(TranscriptCue, "until", property(raises))
            opened.playback.seek(12)
            assert told(opened) == [("cue_failed", "degraded")]
            assert not opened.stage.black
            await opened.rest()
            assert [action for _, action in opened.runs()] == ["transcript_001"]


async def test_a_show_whose_cues_all_raise_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs():
        async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
            monkeypatch.setattr(opened.playback, "_apply_one", raises)
            await opened.play_to(11)
            assert CUES_IN_VAIN == 3
            assert STANDS_STILL in told(opened)
            monkeypatch.undo()
            await opened.play_to(26)
            assert STANDS_STILL not in told(opened)


async def test_performing_that_hangs_is_noticed_whether_or_not_another_cue_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs():
        async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
            monkeypatch.setattr(opened.performer._runs, "perform", hangs)
            await opened.play_to(5)
            assert opened.playback.stuck_for() == 0
            await opened.play_to(9.5)
            assert opened.playback.stuck_for() > 0
            assert told(opened) == [STANDS_STILL]
            await opened.play_to(11)
            assert told(opened) == [FAILED], "the next cue gets its chance"
            await opened.play_to(21)
            assert told(opened) == [STANDS_STILL, FAILED]


async def test_a_machine_that_stood_still_hangs_nobody(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as opened:
        await opened.play_to(2.6)
        opened.clock.jump(600)
        await opened.rest()
        assert opened.performer.late_for(opened.clock.now()) == 0
        await opened.play_to(opened.clock.now() - opened.opened_at + 5)
        assert told(opened) == []


async def test_long_steps_pauses_and_panic_are_no_trouble(tmp_path: Path) -> None:
    slow = Rhythm(previews=2, step=9.0)
    cues = [cue(0, "start"), line(1, "one"), cue(60, "end")]
    async with house(tmp_path, cues, rhythm=slow, toml=LOOP) as opened:
        for until in range(1, 70):
            await opened.play_to(until)
            assert told(opened) == []
        opened.playback.panic("tests")
        await opened.play_to(90)
        assert told(opened) == []


async def test_pictures_that_are_cut_off_before_they_are_seen_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cues = [
        cue(0, "start"),
        *(line(number, str(number)) for number in range(1, 12)),
        cue(20, "end"),
    ]
    async with house(tmp_path, cues, rhythm=RHYTHM, toml=LOOP) as opened:

        async def never(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("server.performance.stream_reader.StreamReader.opened", never)
        await opened.play_to(CUT_UNSEEN + 1.5)
        assert told(opened) == [("pictures_cut_unseen", "degraded")]
        monkeypatch.undo()
        await opened.play_to(19)
        assert told(opened) == []


def test_what_failed_last_night_is_told_with_its_day() -> None:
    clock = VirtualClock(datetime(2026, 11, 29, 23, 14, tzinfo=UTC).timestamp())
    progress = ShowProgress(clock, Metrics(), UTC)
    progress.cue_failed("transcript", "the cue transcript of 00:12:00", Planted("a mistake"))
    (told,) = progress.conditions()
    assert " failed at 23:14: Planted: a mistake" in told.message
    clock.jump(8 * 3600)
    (told,) = progress.conditions()
    assert " failed at Sun 29 Nov 23:14: Planted: a mistake" in told.message
