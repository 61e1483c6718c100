"""What a job is follows from its items."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from generator.jobs.model import (
    ENDED,
    ITEM_MOVES,
    SETTLED,
    ItemStatus,
    Problem,
    commonest,
    progress_of,
    status_of,
    take_id,
)

STATUSES: tuple[ItemStatus, ...] = tuple(ITEM_MOVES)
items = st.lists(st.sampled_from(STATUSES), min_size=1, max_size=8)


@given(items, st.booleans(), st.booleans())
def test_it_is_over_exactly_when_all_of_it_is_settled(
    found: list[ItemStatus], begun: bool, cancelled: bool
) -> None:
    status = status_of(found, begun=begun, cancelled=cancelled)
    assert (status in ENDED) == all(each in SETTLED for each in found)
    if status == "completed":
        assert "ready" in found
    if status == "failed":
        assert "failed" in found
        assert "ready" not in found


@given(items, st.data())
def test_while_it_goes_on_it_never_goes_back(found: list[ItemStatus], data: st.DataObject) -> None:
    order = ("queued", "processing", "over")
    begun, last = False, 0
    for _ in range(20):
        status = status_of(found, begun=begun)
        begun = begun or status == "processing"
        now = 2 if status in ENDED else order.index(status)
        assert now >= last
        last = now
        open_items = [n for n, each in enumerate(found) if each not in SETTLED]
        if not open_items:
            return
        n = data.draw(st.sampled_from(open_items))
        moves = sorted(ITEM_MOVES[found[n]])
        found[n] = data.draw(st.sampled_from(moves))
        begun = begun or found[n] == "running"


@given(items)
def test_progress_is_a_share(found: list[ItemStatus]) -> None:
    running = found.count("running")
    assert 0 <= progress_of(found) <= progress_of(found, running / 2) <= 1
    if all(each in SETTLED for each in found):
        assert progress_of(found) == 1


def test_a_take_of_an_item_is_always_the_same() -> None:
    assert take_id("a", 1) == take_id("a", 1)
    assert len({take_id(job, n) for job in "ab" for n in range(3)}) == 6


def test_the_commonest_reason_is_told() -> None:
    many, one = Problem("refused", "no such model"), Problem("failed", "out of memory")
    assert commonest([one, many, None, many]) == many
    assert commonest([one, many]) == one
    assert commonest([None]) is None
