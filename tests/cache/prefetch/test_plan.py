from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.model.keys import Key
from cache.prefetch.plan import (
    COARSEST,
    FINAL,
    META,
    FetchPlan,
    Wanted,
    plan_fetches,
    preview_ranks,
)

NOW = 1000.0


def file(
    name: str, size: int, deadline: float, rank: int = COARSEST, latest: float = 0.0
) -> Wanted:
    """A file that is due `deadline` seconds from now."""
    return Wanted(Key(name), size, (NOW + deadline, NOW + max(deadline, latest)), rank)


def names(files: Sequence[Wanted]) -> list[str]:
    return [each.key for each in files]


def lateness(plan: FetchPlan, rate: float) -> float:
    """Seconds by which the most belated of what is called timely would come."""
    arrives, worst = NOW, 0.0
    for each in plan.timely:
        arrives += each.size / rate
        worst = max(worst, arrives - each.deadline)
    return worst


def test_where_there_is_time_the_earliest_goes_first() -> None:
    wanted = [file("c", 10, 30), file("a", 10, 10), file("b", 10, 20, META)]
    plan = plan_fetches(wanted, now=NOW, rate=10)
    assert names(plan.timely) == ["a", "b", "c"]
    assert plan.late == ()
    assert plan.done_at == NOW + 3
    assert plan.missing_bytes == 30


def test_of_the_same_time_the_more_telling_goes_first() -> None:
    wanted = [file("fine", 1, 9, 5), file("coarse", 1, 9), file("final", 1, 9, FINAL)]
    wanted.append(file("meta", 1, 9, META))
    plan = plan_fetches(wanted, now=NOW, rate=10)
    assert names(plan.order) == ["meta", "final", "coarse", "fine"]


def test_a_slow_line_costs_previews_and_never_a_later_final_image() -> None:
    # Two runs, ten seconds apart; the line carries 5 files in the first ten seconds.
    first = [file(f"first-{n}", 10, 10, rank) for n, rank in enumerate([2, 3, 3, 4, 4, 4, 4])]
    second = [file(f"second-{n}", 10, 12, rank) for n, rank in enumerate([2, 3, 3, 4, 4, 4, 4])]
    finals = [file("first", 10, 10, FINAL), file("second", 10, 12, FINAL)]
    plan = plan_fetches([*first, *second, *finals], now=NOW, rate=5)
    assert {"first", "second"} <= set(names(plan.timely))
    assert lateness(plan, 5) <= 0
    # What is left of the line goes to the coarse previews of both, not to the fine ones of one.
    assert {"first-0", "second-0"} <= set(names(plan.timely))
    assert {each.rank for each in plan.late} >= {4}
    assert names(plan.late)[0] not in {"first-0", "second-0"}


def test_what_cannot_be_on_time_but_is_of_use_later_is_not_left_to_the_end() -> None:
    overdue = file("final", 50, 1, FINAL, latest=20)
    ages = [file(f"later-{n}", 50, 1000 + n, FINAL) for n in range(20)]
    plan = plan_fetches([*ages, overdue], now=NOW, rate=10)
    assert names(plan.timely)[0] == "final"
    assert plan.late == ()


def test_what_is_past_its_time_spoils_nothing() -> None:
    past = file("past", 10, -5)
    plan = plan_fetches([past, file("coming", 10, 5)], now=NOW, rate=10)
    assert names(plan.timely) == ["coming"]
    assert names(plan.late) == ["past"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 19, 20, 41])
def test_previews_are_ranked_from_coarse_to_fine(count: int) -> None:
    ranks = preview_ranks(count)
    assert len(ranks) == count
    for most in range(COARSEST, max(ranks, default=COARSEST) + 1):
        here = [place for place, rank in enumerate(ranks) if rank <= most]
        gaps = [b - a for a, b in zip([-1, *here], [*here, count], strict=True)]
        # Whatever came is spread evenly: no gap is more than twice another, to a step.
        assert max(gaps) <= 2 * min(gaps) + 1
    if count:
        assert ranks[count // 2] == COARSEST


FILES = st.lists(
    st.builds(
        lambda size, deadline, more, rank: (size, deadline, deadline + more, rank),
        st.integers(1, 1000),
        st.floats(-10, 100),
        st.floats(0, 50),
        st.integers(META, 6),
    ),
    max_size=40,
)


@given(FILES, st.floats(1, 1000))
def test_nothing_is_lost_and_what_is_called_timely_is(
    drawn: list[tuple[int, float, float, int]], rate: float
) -> None:
    wanted = [
        file(f"f{n}", size, deadline, rank, latest)
        for n, (size, deadline, latest, rank) in enumerate(drawn)
    ]
    plan = plan_fetches(wanted, now=NOW, rate=rate)
    assert sorted(names(plan.order)) == sorted(names(wanted))
    assert lateness(plan, rate) <= 1e-6
    assert [each.deadline for each in plan.timely] == sorted(e.deadline for e in plan.timely)


@given(FILES, st.floats(1, 1000))
def test_what_is_late_could_not_have_been_taken(
    drawn: list[tuple[int, float, float, int]], rate: float
) -> None:
    """Nothing is left out for which there was room beside all that is at least as telling."""
    wanted = [
        file(f"f{n}", size, deadline, rank, latest)
        for n, (size, deadline, latest, rank) in enumerate(drawn)
    ]
    plan = plan_fetches(wanted, now=NOW, rate=rate)
    for left in plan.late:
        others = [each for each in plan.timely if each.rank <= left.rank]
        with_it = sorted(
            [*others, Wanted(left.key, left.size, (left.latest,), left.rank)],
            key=lambda each: each.deadline,
        )
        assert lateness(FetchPlan(tuple(with_it), (), 0.0), rate) > -1e-6
