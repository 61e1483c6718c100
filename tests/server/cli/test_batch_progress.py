from __future__ import annotations

import io

from rich.console import Console

from generator.engines.port import ScriptedEngine
from generator.sets.batch import Began, Finished, Left, PutBack, Said
from generator.sets.inventory import MissingSet
from generator.sets.job_queue import Failure
from generator.sheet.plan import Action
from server.cli.batch_progress import Tally, batch_display, picture, remark
from tests.contracts.engine_contract import recipe

ONE, OTHER = ScriptedEngine([], name="one 1"), ScriptedEngine([], name="other 1")


def job(set_id: int) -> MissingSet:
    return MissingSet(Action("prompt_001", "prompt", 0, 0.0, "P4", "boats", None, recipe()), set_id)


def shown(tally: Tally, now: float, width: int = 120) -> list[str]:
    """What a terminal has, line by line."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    console.print(picture(tally, now))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_hands_of_one_engine_are_one_line() -> None:
    tally = Tally([ONE, ONE, OTHER], 4)
    assert [line.engine.name for line in tally.lines] == ["one 1", "other 1"]
    tally.take(Began(0, (job(0),)), 10.0)
    tally.take(Began(1, (job(1),)), 10.0)
    tally.take(Finished(0, job(0), drawn=True), 12.0)
    tally.take(Finished(1, job(1), drawn=True), 14.0)
    assert [line.pace.done for line in tally.lines] == [2, 0]
    assert tally.line(1) is tally.line(0)
    assert tally.line(0).pace.per_second(14.0) == 0.5
    assert tally.line(2).pace.per_second(14.0) is None


def test_the_rate_falls_while_nothing_comes_and_forgets_what_was_long_ago() -> None:
    tally = Tally([ONE], 200)
    tally.take(Began(0, (job(0),)), 0.0)
    assert tally.seconds_left(0.0) is None
    for number in range(100):
        tally.take(Finished(0, job(0), drawn=True), 100.0 * (number + 1))
    for number in range(60):
        tally.take(Finished(0, job(0), drawn=True), 10_000.0 + number + 1)
    assert tally.pace.per_second(10_060.0) == 1.0
    assert tally.seconds_left(10_060.0) == 40.0
    assert tally.seconds_left(10_099.0) == 80.0


def test_a_terminal_shows_a_line_for_each_engine_and_one_for_all() -> None:
    tally = Tally([ONE, OTHER], 10)
    tally.take(Began(0, (job(1), job(2), job(3))), 0.0)
    tally.take(Began(1, (job(4),)), 0.0)
    tally.take(Said(1, "its pictures come through here"), 0.0)
    tally.take(Finished(0, job(1), drawn=True), 30.0)
    first, second, total = shown(tally, 60.0)
    assert "one 1" in first
    assert "1 set " in first
    assert "1.0 a minute" in first
    assert "prompt_001 set 1 and 2 more" in first
    assert second.endswith("prompt_001 set 4")
    assert "1 of 10" in total
    assert "about 9 min left" in total
    tally.take(PutBack(0, job(2), "no ink"), 61.0)
    tally.take(Failure(job(3), "never"), 61.0)
    tally.take(Left(1, "gone"), 61.0)
    first, second, total = shown(tally, 61.0)
    assert "put back: no ink" in first
    assert second.rstrip().endswith("gone")
    assert "2 of 10" in total
    narrow = shown(tally, 60.0, width=70)
    assert all(len(line) <= 70 for line in narrow)
    assert all(text in narrow[0] for text in ("1 set ", "1.0 a minute"))


def test_it_is_quiet_where_nobody_looks_at_a_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=False)
    tally = Tally([ONE], 10)
    with batch_display(tally, console):
        tally.take(Began(0, (job(0),)), 0.0)
    assert file.getvalue() == ""
    remark(Began(0, (job(0),)), tally, console)
    assert file.getvalue() == ""
    remark(Left(0, "one 1: the GPU is lost [x]"), tally, console)
    assert file.getvalue() == ("one 1: no further set is tried with it: the GPU is lost [x]\n")
