"""When the preflight looks, and what it says; then what it finds, in a house."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache.model.keys import MANIFEST, image_key
from generator.engines.port import ScriptedEngine
from server.core.clock import VirtualClock
from server.diagnostics.findings import Finding, Level
from server.diagnostics.live_checks import (
    LITTLE_ROOM,
    LiveCheck,
    RunningShow,
    findings_now,
    live_checks,
)
from server.diagnostics.preflight import (
    BEFORE,
    EVERY,
    EVERY_IN_NEED,
    PATIENT_FOR,
    STEP_WITHIN,
    Preflight,
    Result,
    due_at,
)
from server.engines.live import LiveEngines
from server.providers.live import LiveEngine
from server.timeline.playhead import Playhead
from server.timeline.schedule import EndlessLoop, Schedule
from tests.helpers.house import Far, House, house
from tests.helpers.pictures import picture
from tests.helpers.shows import LOOP, MANUAL, WHEN, Rhythm, cue, line, prompt

Findings = AsyncGenerator[Sequence[Finding], None]


def finding(level: Level, code: str = "overrun", cue_index: int | None = 1) -> Finding:
    return Finding(
        level=level,
        code=code,
        message=f"a {level}",
        remedy="mend it",
        cue=cue_index,
        action_id=None if cue_index is None else f"prompt_{cue_index:03d}",
    )


class Room:
    """A preflight with nothing around it: what is found, and whether it is quiet, is said here."""

    def __init__(self, schedule: Schedule | None = None, checks: Sequence[LiveCheck] = ()) -> None:
        self.clock = VirtualClock()
        self.found: list[Finding] = []
        self.now: list[Finding] = []
        self.looked: list[float] = []
        self.quiet: Callable[[float], bool] = lambda _seconds: True
        self.begins = True
        self.noted: list[int] = []
        self.started = self.clock.now()
        self.playhead = Playhead([0.0, 5.0, 10.0], [1, 2], 60.0, schedule or Schedule())
        self.preflight = Preflight(
            (self._look, *checks),
            self.playhead,
            self._quiet_for,
            self.clock,
            now=lambda: self.now,
            begins=lambda: self.begins,
            noted=self.noted.append,
        )

    def _quiet_for(self, seconds: float) -> bool:
        return self.quiet(seconds)

    async def _look(self) -> Findings:
        self.looked.append(round(self.clock.now() - self.started, 3))
        yield list(self.found)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.preflight.run())
        try:
            await self.clock.advance(0)
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


# ---------------------------------------------------------------- when


async def test_it_looks_at_once_and_then_every_few_minutes() -> None:
    room = Room()
    async with room.open():
        assert room.preflight.state()["verdict"] == "ready"
        await room.clock.advance(2 * EVERY + 5)
    assert room.looked == [0.0, EVERY, 2 * EVERY]


async def test_it_waits_until_there_is_something_to_look_at() -> None:
    room = Room()
    room.begins = False
    async with room.open():
        await room.clock.advance(30)
        assert room.preflight.state()["verdict"] is None
        assert room.preflight.problems() == []
        room.begins = True
        await room.clock.advance(2)
        assert room.preflight.state()["verdict"] == "ready"


async def test_it_looks_sooner_again_where_something_is_wrong() -> None:
    room = Room()
    room.found = [finding("error")]
    async with room.open():
        assert room.preflight.state()["verdict"] == "not ready"
        assert room.preflight.state()["next_at"] == room.started + EVERY_IN_NEED
        room.found = []
        await room.clock.advance(EVERY_IN_NEED + 1)
        assert room.preflight.state()["verdict"] == "ready"
    assert room.looked == [0.0, EVERY_IN_NEED]


def test_once_more_within_ten_minutes_before_a_screening() -> None:
    def at(when: float) -> Result:
        return Result(when, when, ())

    assert due_at(None, 1000.0) == float("-inf")
    assert due_at(at(0.0), None) == EVERY
    assert due_at(at(0.0), BEFORE + 100.0) == 100.0
    assert due_at(at(100.0), BEFORE + 100.0) == 100.0 + EVERY
    assert due_at(at(0.0), 10_000.0) == EVERY


async def test_nothing_is_looked_at_while_a_picture_is_drawn_or_due() -> None:
    room = Room()
    room.quiet = lambda _seconds: False
    async with room.open():
        await room.clock.advance(3600)
        assert room.looked == []
        room.quiet = lambda seconds: seconds == 0
        await room.clock.advance(2)
        assert len(room.looked) == 1


async def test_in_a_show_without_pauses_it_is_patient_for_a_while() -> None:
    room = Room()
    room.quiet = lambda seconds: seconds == 0
    async with room.open():
        await room.clock.advance(PATIENT_FOR - 1)
        assert room.looked == []
        await room.clock.advance(2)
        assert len(room.looked) == 1


async def test_it_waits_between_two_steps_of_one_look() -> None:
    steps: list[int] = []

    async def slowly() -> Findings:
        for step in range(3):
            steps.append(step)
            room.quiet = lambda _seconds: False  # a run has begun meanwhile
            yield []

    room = Room(checks=[slowly])
    async with room.open():
        for expected in range(1, 4):
            await room.clock.advance(30)
            assert len(steps) == expected
            room.quiet = lambda _seconds: True
            await room.clock.advance(1)
            assert len(steps) == min(expected + 1, 3)


# ---------------------------------------------------------------- what becomes of it


async def test_a_look_that_breaks_or_hangs_ends_neither_the_others_nor_the_looking() -> None:
    left: list[str] = []

    async def breaks() -> Findings:
        yield [finding("note")]
        raise RuntimeError("a bad look")

    async def hangs() -> Findings:
        try:
            await asyncio.Event().wait()
        finally:
            left.append("hung")
        yield []

    async def well() -> Findings:
        yield [finding("warning", "last")]

    room = Room(checks=[breaks, hangs, well])
    async with room.open():
        with capture_logs() as logs:
            await room.clock.advance(STEP_WITHIN + 1)
        codes = [each["code"] for each in room.preflight.state()["findings"]]
        assert codes == ["no_answer", "not_looked_at", "last", "overrun"]
        assert left == ["hung"]
    assert "preflight" in [each["event"] for each in logs]


async def test_the_verdict_is_logged_when_it_changes_and_not_each_time() -> None:
    room = Room()
    with capture_logs() as logs:
        async with room.open():
            await room.clock.advance(3 * EVERY)
            room.found = [finding("error")]
            await room.clock.advance(EVERY + 3 * EVERY_IN_NEED)
            room.found = []
            await room.clock.advance(EVERY_IN_NEED)
    verdicts = [each["verdict"] for each in logs if each["event"] == "preflight"]
    assert verdicts == ["ready", "not ready", "ready"]
    assert len(room.noted) == len(room.looked) > len(verdicts)


async def test_only_errors_about_coming_cues_make_a_show_not_ready() -> None:
    room = Room()
    room.found = [
        finding("error", "overrun", 1),
        finding("error", "overrun", 2),
        finding("error", "clock_behind", None),
        finding("warning", "missing_step", 2),
        finding("note", "overrun", 2),
    ]
    room.now = [finding("error", "no_sets", 2)]
    async with room.open():
        assert room.preflight.problems() == ["prompt_001, prompt_002: a error (and 1 more)"]
        assert room.preflight.notes() == ["a error", "prompt_002: a warning"]
        assert room.preflight.state()["errors"] == 4, "what is known of now counts, too"
        room.playhead.go(room.clock.now(), 2)  # by hand, and the first has been
        room.playhead.tick(room.clock.now() + 6, room.clock.wall() + 6)
        assert room.playhead.cursor > 1
        assert room.preflight.problems() == []


async def test_where_another_round_follows_every_cue_is_coming() -> None:
    room = Room(EndlessLoop(VirtualClock().now(), 60.0))
    room.found = [finding("error", "overrun", 1)]
    async with room.open():
        now = room.clock.now()
        for second in range(20):
            room.playhead.tick(now + second, now + second)
        assert room.playhead.cursor == 3
        assert room.preflight.problems() != []


async def test_the_state_tells_the_worst_and_counts_all() -> None:
    room = Room()
    room.found = [finding("warning", "overrun", number) for number in range(50)]
    async with room.open():
        state = room.preflight.state()
    assert (len(state["findings"]), state["warnings"], state["errors"]) == (20, 50, 0)
    assert state["at"] == room.started


# ---------------------------------------------------------------- what is found

CUES = [
    cue(0, "start"),
    line(1, "the sea", id="sea"),
    prompt(20, "a lamp", id="lamp"),
    prompt(40, "a curtain", id="curtain"),
    cue(60, "end"),
]


LATER = WHEN.timestamp() + 86400
"""Unix time, a day after the sets were drawn: noon and a bit, on a Saturday."""


async def plenty(_folder: Path) -> int:
    return 2 * LITTLE_ROOM


async def found(
    opened: House,
    free: Callable[[Path], Any] = plenty,
    *,
    look: bool = True,
    wall: float = LATER,
    machine: tzinfo = UTC,
) -> list[Finding]:
    """Everything that is found, whatever the clock says."""
    if look:
        await opened.readiness.look()
    running = RunningShow(
        show=opened.show,
        runtime=opened.runtime,
        supply=opened.supply,
        live=LiveEngines(),
        wall=lambda: wall,
        machine=machine,
        free=free,
    )
    closer = [
        each for look in live_checks(running) async for findings in look() for each in findings
    ]
    return [*findings_now(opened.readiness), *closer]


def told(findings: Sequence[Finding]) -> list[tuple[str, str, str | None, int | None]]:
    return [(each.level, each.code, each.action_id, each.set_id) for each in findings]


async def test_a_show_that_is_well_has_nothing_to_say(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, toml=MANUAL) as opened:
        assert await found(opened) == []


async def test_a_cue_without_sets_is_named_with_its_time_and_a_remedy(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, toml=MANUAL, rhythms={"lamp": Rhythm(sets=0)}) as opened:
        (alone,) = await found(opened)
    assert told([alone]) == [("error", "no_sets", "lamp", None)]
    assert (alone.cue, alone.time) == (2, "00:00:20")
    assert alone.remedy == "understudy generate batch --only lamp"


async def test_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, toml=MANUAL) as opened:
        opened.store.contents[MANIFEST] = b"{"
        findings = await found(opened)
    assert told(findings)[0] == ("error", "store_silent", None, None)
    assert findings[0].message.startswith("the store cannot be read: manifest.json")


async def test_a_missing_preview_and_a_missing_final_image(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, toml=MANUAL) as opened:
        await opened.store.delete(image_key("sea", 0, "2.jpg"))
        await opened.store.delete(image_key("lamp", 1, "final.jpg"))
        findings = await found(opened)
    assert sorted(told(findings)) == [
        ("warning", "missing_step", "lamp", 1),
        ("warning", "missing_step", "sea", 0),
    ]
    assert any("2.jpg of set 0 is missing" in each.message for each in findings)


@pytest.mark.parametrize(
    ("step", "fit", "level"),
    [
        (3.0, "squeeze", None),
        (5.0, "squeeze", "note"),
        (8.0, "squeeze", "warning"),
        (3.9, "recorded", None),
        (4.1, "recorded", "error"),
    ],
)
async def test_a_set_that_is_longer_than_its_slot(
    tmp_path: Path, step: float, fit: str, level: str | None
) -> None:
    toml = f'{MANUAL}[playback]\nfit = "{fit}"\n'
    long = {"lamp": Rhythm(previews=4, step=step)}  # five images in a slot of 20 s
    async with house(tmp_path, CUES, toml=toml, rhythms=long) as opened:
        findings = await found(opened)
    expected = [] if level is None else [(level, "overrun", "lamp", 0)]
    assert told(findings) == expected


async def test_an_engine_that_would_not_draw(tmp_path: Path) -> None:
    engines = [LiveEngine(name, ScriptedEngine([]), local=False) for name in ("gpu", "box")]
    async with house(
        tmp_path, CUES, toml=MANUAL, engines=engines, rhythms={"lamp": Rhythm(sets=0)}
    ) as opened:
        opened.modes.probe_failed("gpu", "no picture")
        first = await found(opened)
        opened.modes.probe_failed("box", "no picture")
        both = await found(opened)
    dead = [each for each in first if each.code == "engine_dead"]
    assert [(each.level, each.cue) for each in dead] == [("note", None)]
    assert "box takes its place" in dead[0].message
    dead = [each for each in both if each.code == "engine_dead"]
    assert [(each.level, each.action_id) for each in dead] == [("error", "lamp")] * 2
    assert "no picture" in dead[0].message


async def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    async def little(_folder: Path) -> int:
        return LITTLE_ROOM - 1

    async def silent(_folder: Path) -> int:
        raise OSError("no such device")

    async with house(tmp_path, CUES, toml=MANUAL) as opened:
        assert told(await found(opened, little)) == [("warning", "disk_full", None, None)]
        assert await found(opened, silent) == []


async def test_a_clock_that_is_behind_and_a_zone_that_is_not_the_gallerys(tmp_path: Path) -> None:
    toml = '[schedule]\nkind = "screenings"\nscreenings = ["09:00"]\n'
    singapore = timezone(timedelta(hours=8))
    async with house(tmp_path, CUES, toml=toml) as opened:
        behind = await found(opened, wall=WHEN.timestamp() - 7200)
        zone = await found(opened, machine=timezone(timedelta(hours=-3)))
        evening = await found(opened)
        morning = await found(opened, wall=LATER - 5 * 3600)
        elsewhere = await found(opened, wall=LATER - 5 * 3600, machine=singapore)
    assert ("error", "clock_behind", None, None) in told(behind)
    assert told(zone) == [("error", "no_screening_today", None, None)]
    assert told(evening) == [("note", "no_screening_today", None, None)]
    assert morning == []
    assert told(elsewhere) == [("warning", "time_zone", None, None)]


async def test_a_flaw_is_no_error_where_something_else_is_sure_to_be_seen(tmp_path: Path) -> None:
    (tmp_path / "still.jpg").write_bytes(picture("still"))
    still, engine = (
        f'still = "still.jpg"\n{MANUAL}',
        LiveEngine("gpu", ScriptedEngine([]), local=True),
    )
    # The still alone is no picture of the piece; beneath an engine it is what cannot fail.
    for toml, engines, level in (
        (MANUAL, [], "error"),
        (still, [], "error"),
        (MANUAL, [engine], "error"),
        (still, [engine], "warning"),
    ):
        async with house(tmp_path, CUES, toml=toml, engines=engines) as opened:
            for number in (0, 1):
                await opened.store.delete(image_key("lamp", number, "final.jpg"))
            findings = [each for each in await found(opened) if each.code == "missing_step"]
        assert [(each.level, each.action_id) for each in findings] == [(level, "lamp")]


async def test_what_is_not_on_this_machine_yet_is_told_until_it_is(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, toml=MANUAL, far=Far(latency=1.0), play=False) as opened:
        before = await found(opened, look=False)
        await opened.play_to(120, step=1.0)
        after = await found(opened, look=False)
    not_looked = ("error", "not_looked_at", None, None)
    not_here = [("error", "not_here", name, None) for name in ("sea", "lamp", "curtain")]
    assert told(before) == [not_looked, *not_here]
    assert told(after) == [not_looked]


async def test_in_a_house_it_looks_between_two_runs_and_the_frames_stay_what_they_were(
    tmp_path: Path,
) -> None:
    async def play(folder: Path, *, look: bool) -> tuple[list[tuple[float, int]], float | None]:
        async with house(folder, CUES, toml=LOOP) as opened:
            await opened.readiness.look()
            running = RunningShow(
                show=opened.show,
                runtime=opened.runtime,
                supply=opened.supply,
                live=LiveEngines(),
                wall=lambda: LATER,
                free=plenty,
            )
            preflight = Preflight(
                live_checks(running),
                opened.playback.playhead,
                opened.playback.quiet_for,
                opened.clock,
            )
            task = asyncio.create_task(preflight.run()) if look else None
            await opened.play_to(30)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            frames = [(round(told.at, 3), told.message["step"]) for told in opened.of("frame")]
            return frames, preflight.state()["at"]

    without, _ = await play(tmp_path / "without", look=False)
    beside, at = await play(tmp_path / "with", look=True)
    assert at is not None
    assert beside == without
