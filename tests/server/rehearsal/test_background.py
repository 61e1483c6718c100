"""Rehearsing in the background, with a backstage that ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.config.show import Show, load_show
from server.control.command import Caller, CommandError
from server.control.commands.rehearsal import RehearsalCommands
from server.control.dispatcher import Dispatcher
from server.core.clock import VirtualClock
from server.diagnostics.findings import Finding, verdict_of
from server.diagnostics.report import RehearsalOptions, Report
from server.network.access import Role
from server.rehearsal.background import LIMIT, BackgroundRehearsals
from server.rehearsal.backstage import BackstageError, ScriptedBackstage
from server.reports.archive import HTML, JSON, KEPT, ReportArchive
from tests.helpers.shows import MANUAL, cue, line, write_show

CUES = [cue(0, "start"), line(1, "sea", id="sea"), cue(60, "end")]


def finding(level: Any, cue_index: int = 1) -> Finding:
    return Finding(
        level=level,
        code="no_sets",
        message="there is no set to play",
        remedy="draw some",
        cue=cue_index,
        time="00:00:01",
        action_id="sea",
    )


def report(*findings: Finding) -> str:
    return Report(
        verdict=verdict_of(findings), findings=findings, show=None, asked=RehearsalOptions(seed=1)
    ).to_json()


@dataclass
class JobsHouse:
    show: Show
    clock: VirtualClock
    backstage: ScriptedBackstage
    kept: ReportArchive
    jobs: BackgroundRehearsals
    dispatcher: Dispatcher
    told: list[str] = field(default_factory=list)

    async def ask(self, command: str, role: Role = "operator", **args: Any) -> dict[str, Any]:
        result = await self.dispatcher.dispatch(command, args, Caller(role, "foh"))
        told: dict[str, Any] = result["rehearsal"]
        return told

    async def refused(self, command: str, role: Role = "operator", **args: Any) -> str:
        with pytest.raises(CommandError) as error:
            await self.dispatcher.dispatch(command, args, Caller(role, "foh"))
        return error.value.code

    async def begun(self) -> None:
        await self.until(lambda: self.backstage.busy)

    async def over(self) -> dict[str, Any]:
        await self.until(lambda: self.jobs.state()["status"] != "running")
        return self.jobs.state()

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not there():  # noqa: ASYNC110 - threads tell nobody when they are done
                await asyncio.sleep(0.002)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[JobsHouse]:
    show = load_show(write_show(tmp_path / "show", CUES, MANUAL), {}, {})
    clock, backstage = VirtualClock(), ScriptedBackstage()
    kept = ReportArchive(tmp_path / "rehearsals")
    async with BackgroundRehearsals(backstage, kept, clock).open() as jobs:
        dispatcher = Dispatcher([RehearsalCommands(show, jobs)], clock)
        opened = JobsHouse(show, clock, backstage, kept, jobs, dispatcher)
        jobs.changed = lambda: opened.told.append(jobs.state()["status"])
        yield opened


async def test_a_rehearsal_is_told_from_its_beginning_to_its_report(house: JobsHouse) -> None:
    assert house.jobs.state()["status"] == "none"
    running = await house.ask("rehearse", screenings=2, fail="sea")
    assert (running["status"], running["by"], running["since"]) == (
        "running",
        "foh",
        house.clock.now(),
    )
    assert running["asked"] == {"screenings": 2, "fail": ["sea"]}
    await house.begun()
    assert house.backstage.requests[0].arguments() == ["--screenings", "2", "--fail", "sea"]
    await house.clock.advance(7)
    house.backstage.end(1, report(finding("error"), finding("warning"), finding("note")))
    done = await house.over()
    assert (done["status"], done["verdict"]) == ("done", "not ready")
    assert (done["errors"], done["warnings"], done["notes"]) == (1, 1, 1)
    assert (done["seconds"], done["finished_at"]) == (7.0, house.clock.wall())
    assert done["worst"][0]["action_id"] == "sea"
    assert done["report"].startswith("/rehearsal/report.html?key=")
    assert house.told == ["done"]
    assert await house.jobs.read(HTML) == b"<!doctype html><title>Rehearsal</title>"
    assert (await house.jobs.read(JSON) or b"").startswith(b"{")
    listed = await house.ask("rehearsal", "viewer")
    assert len(listed["findings"]) == 3


async def test_only_the_worst_findings_are_in_the_state(house: JobsHouse) -> None:
    await house.ask("rehearse")
    await house.begun()
    house.backstage.end(1, report(*(finding("error", number) for number in range(300))))
    done = await house.over()
    assert (done["errors"], len(done["worst"])) == (300, 5)
    assert len((await house.ask("rehearsal"))["findings"]) == 100


async def test_there_is_one_at_a_time(house: JobsHouse) -> None:
    await house.ask("rehearse")
    assert await house.refused("rehearse") == "rehearsing"
    await house.begun()
    house.backstage.end(0, report())
    assert (await house.over())["verdict"] == "ready"
    assert (await house.ask("rehearse"))["status"] == "running"


async def test_a_viewer_may_look_and_not_touch(house: JobsHouse) -> None:
    assert await house.refused("rehearse", "viewer") == "forbidden"
    assert await house.refused("rehearse.cancel", "viewer") == "forbidden"
    assert (await house.ask("rehearsal", "viewer"))["status"] == "none"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"screenings": 0}, "bad_args"),
        ({"html": "x"}, "bad_args"),
        ({"fail": ["nobody"]}, "unknown_failure"),
        ({"from": "00:01:00"}, "out_of_range"),
        ({"from": "00:00:20", "to": "00:00:10"}, "out_of_range"),
    ],
)
async def test_what_cannot_be_rehearsed_is_refused(
    house: JobsHouse, args: dict[str, Any], code: str
) -> None:
    assert await house.refused("rehearse", **args) == code
    assert house.jobs.state()["status"] == "none"


async def test_one_that_is_cancelled_leaves_nothing(house: JobsHouse) -> None:
    assert await house.refused("rehearse.cancel") == "not_rehearsing"
    await house.ask("rehearse")
    await house.begun()
    cancelled = await house.ask("rehearse.cancel")
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "cancelled by foh")
    assert house.backstage.cancelled == 1
    assert cancelled["report"] is None
    assert list(house.kept.folder.iterdir()) == []
    assert (await house.ask("rehearse"))["status"] == "running"


async def test_one_that_dies_says_so_in_its_last_words(house: JobsHouse) -> None:
    await house.ask("rehearse")
    await house.begun()
    with capture_logs() as logs:
        house.backstage.end(1, words="Traceback …\nMemoryError: no more")
        failed = await house.over()
    assert failed["status"] == "failed"
    assert failed["reason"] == "the rehearsal failed: MemoryError: no more"
    assert (failed["verdict"], failed["report"]) == (None, None)
    assert [each["event"] for each in logs] == ["rehearsal_failed"]
    assert list(house.kept.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (-9, None, "it was killed by signal 9"),
        (2, None, "it ended with status 2 and no report"),
        (0, '{"verdict": "ready", "findi', "it ended with status 0 and no report"),
        (2, report(), "it ended with status 2 and no report"),
    ],
)
async def test_without_a_whole_report_it_failed(
    house: JobsHouse, status: int, text: str | None, why: str
) -> None:
    await house.ask("rehearse")
    await house.begun()
    house.backstage.end(status, text)
    failed = await house.over()
    assert (failed["status"], failed["reason"]) == ("failed", f"the rehearsal failed: {why}")


async def test_one_that_hangs_is_ended(house: JobsHouse) -> None:
    await house.ask("rehearse")
    await house.begun()
    await house.clock.advance(LIMIT - 1)
    assert house.jobs.state()["status"] == "running"
    await house.clock.advance(2)
    failed = await house.over()
    assert failed["reason"].endswith("it had not come to its end after 30 min")
    assert house.backstage.cancelled == 1


async def test_one_that_cannot_be_started_says_why(house: JobsHouse) -> None:
    await house.ask("rehearse")
    await house.begun()
    house.backstage.refuse(BackstageError("it cannot be started: Cannot allocate memory"))
    assert (await house.over())["reason"].endswith("Cannot allocate memory")


async def test_a_report_that_cannot_be_kept_costs_nothing_else(house: JobsHouse) -> None:
    house.kept.folder.write_text("not a folder")
    await house.ask("rehearse")
    failed = await house.over()
    assert failed["reason"].startswith("the rehearsal failed: its report cannot be kept: ")


async def test_the_report_before_is_kept_in_sight(house: JobsHouse) -> None:
    await house.ask("rehearse")
    await house.begun()
    house.backstage.end(0, report())
    before = await house.over()
    await house.ask("rehearse")
    assert house.jobs.state()["previous"]["report"] == before["report"]
    assert house.jobs.opens(before["report"].partition("key=")[2])
    await house.begun()
    await house.ask("rehearse.cancel")
    assert house.jobs.state()["previous"]["verdict"] == "ready"


async def test_a_key_opens_one_report_and_no_other(house: JobsHouse) -> None:
    assert not house.jobs.opens(None)
    assert not house.jobs.opens("")
    keys = []
    for _ in range(2):
        await house.ask("rehearse")
        await house.begun()
        house.backstage.end(0, report())
        keys.append((await house.over())["report"].partition("key=")[2])
    assert [house.jobs.opens(key) for key in keys] == [False, True]
    assert not house.jobs.opens("\udc80")


async def test_the_last_few_are_kept_also_over_a_restart(house: JobsHouse) -> None:
    for _ in range(KEPT + 2):
        await house.ask("rehearse", seed=3)
        await house.begun()
        house.backstage.end(1, report(finding("error")))
        await house.over()
        await house.clock.advance(60)
    folders = sorted(each.name for each in house.kept.folder.iterdir())
    assert len(folders) == KEPT
    (house.kept.folder / ".20200101T000000-01").mkdir()  # what a crash left
    (house.kept.folder / folders[-1] / "about.json").write_text("{")  # and a bad disk
    async with BackgroundRehearsals(ScriptedBackstage(), house.kept, house.clock).open() as again:
        state = again.state()
        assert (state["status"], state["verdict"], state["by"]) == ("done", "not ready", "foh")
        assert state["asked"] == {"seed": 3}
        assert await again.read(JSON) is not None
    assert sorted(each.name for each in house.kept.folder.iterdir()) == folders


async def test_one_that_was_kept_by_a_clock_a_year_ahead_does_not_cost_the_next_ones(
    house: JobsHouse,
) -> None:
    year = 365 * 86_400.0
    house.clock.step_wall(year)
    for number in range(KEPT + 2):
        if number == KEPT:
            house.clock.step_wall(-year)
        await house.ask("rehearse", seed=number)
        await house.begun()
        house.backstage.end(1, report(finding("error")))
        await house.over()
        assert await house.jobs.read(JSON) is not None, "the newest is there to be opened"
    async with BackgroundRehearsals(ScriptedBackstage(), house.kept, house.clock).open() as again:
        assert again.state()["asked"] == {"seed": KEPT + 1}
    assert len(list(house.kept.folder.iterdir())) == KEPT


async def test_the_end_of_the_server_is_the_end_of_it(tmp_path: Path) -> None:
    backstage = ScriptedBackstage()
    kept = ReportArchive(tmp_path / "rehearsals")
    async with BackgroundRehearsals(backstage, kept, VirtualClock()).open() as jobs:
        dispatcher = Dispatcher(
            [RehearsalCommands(load_show(write_show(tmp_path, CUES, MANUAL), {}, {}), jobs)],
            VirtualClock(),
        )
        await dispatcher.dispatch("rehearse", {}, Caller("operator", "foh"))
        while not backstage.busy:  # noqa: ASYNC110 - a thread makes the folder
            await asyncio.sleep(0.002)
    assert backstage.cancelled == 1
    assert list(kept.folder.iterdir()) == []
