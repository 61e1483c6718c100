"""Whose turn it is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from generator.jobs.choice import (
    Waiting,
    WaitingLine,
    choose,
    in_order,
    items_in_order,
    jobs_in_order,
)


def waits(job: str, count: int, owner: str, priority: int = 5, rank: float = 0.0) -> list[Waiting]:
    return [Waiting(job, n, owner, priority, rank) for n in range(count)]


waiting = st.lists(
    st.builds(
        Waiting,
        job=st.sampled_from("abcdef"),
        n=st.integers(0, 20),
        owner=st.sampled_from(["ada", "ben", "cem"]),
        priority=st.integers(0, 9),
        rank=st.integers(0, 5).map(float),
    ),
    unique_by=lambda each: (each.job, each.n),
    max_size=30,
)


def test_one_job_never_waits_for_more_than_one_of_a_hundred() -> None:
    order = list(
        in_order([*waits("many", 100, "ada"), *waits("one", 1, "ben", rank=9)], {"ada": 7})
    )
    assert [each.owner for each in order[:2]] == ["ben", "ada"]
    order = list(
        in_order([*waits("many", 100, "ada"), *waits("one", 1, "ben", rank=9)], {"ben": 7})
    )
    assert [each.owner for each in order[:2]] == ["ada", "ben"]


def test_who_asked_first_is_first_among_those_never_served() -> None:
    order = in_order([*waits("late", 1, "ada", rank=2), *waits("early", 1, "ben", rank=1)], {})
    assert [each.job for each in order] == ["early", "late"]


@given(waiting)
def test_all_are_taken_once_by_priority(given: list[Waiting]) -> None:
    order = list(in_order(given, {}))
    assert sorted(order, key=repr) == sorted(given, key=repr)
    assert [each.priority for each in order] == sorted((e.priority for e in given), reverse=True)


@given(waiting)
def test_within_a_priority_nobody_is_served_twice_while_another_waits(
    given: list[Waiting],
) -> None:
    order = list(in_order(given, {}))
    for number, (first, second) in enumerate(itertools.pairwise(order)):
        if first.priority == second.priority and first.owner == second.owner:
            rest = order[number + 1 :]
            assert all(e.owner == first.owner for e in rest if e.priority == first.priority)


def test_an_engine_passes_over_what_it_refused() -> None:
    refused = Waiting("a", 0, "ada", 9, 0.0, frozenset({"small"}))
    able = Waiting("b", 0, "ben", 1, 0.0)
    assert choose([refused, able], {}, "small") == able
    assert choose([refused, able], {}, "large") == refused
    assert choose([refused], {}, "small") is None


def in_lines(given: list[Waiting]) -> list[WaitingLine]:
    lines: dict[tuple[str, int], list[Waiting]] = {}
    for each in sorted(given, key=lambda each: (each.rank, each.job, each.n)):
        lines.setdefault((each.owner, each.priority), []).append(each)
    found = []
    for (owner, priority), line in lines.items():
        pieces: dict[str, int] = {}
        for each in line:
            pieces[each.job] = pieces.get(each.job, 0) + 1
        found.append(
            WaitingLine(owner, priority, line[0].rank, list(pieces), list(pieces.values()))
        )
    return found


@st.composite
def jobs_of_members(draw: st.DrawFn) -> list[Waiting]:
    """Items of jobs that have one owner, priority and rank each, as they have in the store."""
    given: list[Waiting] = []
    for job in range(draw(st.integers(0, 12))):
        owner, priority = draw(st.sampled_from("abc")), draw(st.integers(0, 2))
        count, rank = draw(st.integers(1, 5)), float(draw(st.integers(0, 9)))
        given += waits(f"job {job:02d}", count, owner, priority, rank)
    return given


@given(jobs_of_members(), st.dictionaries(st.sampled_from("abc"), st.integers(1, 9)))
def test_in_lines_all_are_taken_as_one_by_one(given: list[Waiting], turns: dict[str, int]) -> None:
    order = [each.job for each in in_order(given, turns)]
    assert list(items_in_order(in_lines(given), turns)) == order
    assert jobs_in_order(in_lines(given), turns) == list(dict.fromkeys(order))
