"""What is wrong is told by those who know, and one that cannot say is told of too."""

from __future__ import annotations

from collections.abc import Iterable

from server.core.conditions import Condition, Conditions
from server.core.metrics import Metrics


def test_the_worst_comes_first_and_nothing_is_held() -> None:
    conditions = Conditions()
    now = [Condition("log_lines_dropped", "note", "3 lines")]
    conditions.add(lambda: now)
    conditions.add(lambda: [Condition("job_dead", "failing", "the playhead has ended")])
    assert [each.code for each in conditions.current()] == ["job_dead", "log_lines_dropped"]
    now.clear()
    assert [each.code for each in conditions.current()] == ["job_dead"]


def test_a_source_that_fails_silences_no_other() -> None:
    conditions = Conditions()

    def fails() -> Iterable[Condition]:
        raise RuntimeError("no")

    conditions.add(fails)
    conditions.add(lambda: [Condition("job_dead", "failing", "the playhead has ended")])
    found = conditions.current()
    assert [each.code for each in found] == ["job_dead", "condition_source_failed"]
    assert "no" in found[1].message


def test_they_are_counted_by_code_and_level() -> None:
    conditions, metrics = Conditions(), Metrics()
    metrics.ask(conditions.metrics)
    assert b"understudy_conditions{" not in metrics.expose()
    gone = Condition("screen_gone", "degraded", "left is gone")
    conditions.add(lambda: [gone, gone])
    text = metrics.expose().decode()
    assert 'understudy_conditions{code="screen_gone",level="degraded"} 2.0' in text
