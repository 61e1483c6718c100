from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from server.core.random_streams import RandomStreams
from server.providers.shuffle import Bag, ShuffleBag

ACTION = "prompt_001"
BAGS = TypeAdapter(dict[str, Bag])
SEEDS = st.integers(0, 2**32)


def drawn(bag: ShuffleBag, usable: set[int], count: int) -> list[int]:
    found = [bag.draw(ACTION, usable) for _ in range(count)]
    assert None not in found
    return [number for number in found if number is not None]


def restarted(bag: ShuffleBag, seed: int) -> ShuffleBag:
    """What a restart makes of it: its bags through JSON, and other dice."""
    return ShuffleBag(RandomStreams(seed), BAGS.validate_json(BAGS.dump_json(bag.bags)))


@given(SEEDS, st.sets(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_all_sets_are_played_before_any_is_repeated(
    seed: int, usable: set[int], rounds: int
) -> None:
    bag = ShuffleBag(RandomStreams(seed))
    numbers = drawn(bag, usable, rounds * len(usable))
    for start in range(0, len(numbers), len(usable)):
        assert sorted(numbers[start : start + len(usable)]) == sorted(usable)


@given(SEEDS, st.integers(2, 6), st.lists(st.booleans(), min_size=20, max_size=40))
@settings(deadline=None, max_examples=100)
def test_never_the_same_twice_running_also_over_restarts(
    seed: int, sets: int, restarts: list[bool]
) -> None:
    bag = ShuffleBag(RandomStreams(seed))
    numbers = []
    for number, again in enumerate(restarts):
        if again:
            bag = restarted(bag, seed + number)
        numbers += drawn(bag, set(range(sets)), 1)
    assert all(one != other for one, other in pairwise(numbers))
    for start in range(0, len(numbers) - sets + 1, sets):
        assert len(set(numbers[start : start + sets])) == sets


@given(SEEDS, st.integers(1, 6), st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_the_order_of_a_round_survives_a_restart(seed: int, sets: int, played: int) -> None:
    usable = set(range(sets))
    bag = ShuffleBag(RandomStreams(seed))
    drawn(bag, usable, played)
    bag.peek(ACTION, usable)
    again = restarted(bag, seed + 1)
    left = len(bag.bags[ACTION].coming)
    assert left > 0
    assert drawn(again, usable, left) == drawn(bag, usable, left)


@given(
    SEEDS,
    st.lists(st.sets(st.integers(0, 6)) | st.just("restart"), min_size=1, max_size=40),
)
@settings(deadline=None, max_examples=200)
def test_sets_may_come_and_go_at_any_time(seed: int, moments: list[set[int] | str]) -> None:
    bag = ShuffleBag(RandomStreams(seed))
    last: int | None = None
    for number, usable in enumerate(moments):
        if isinstance(usable, str):
            bag = restarted(bag, seed + number)
            continue
        foretold = bag.peek(ACTION, usable)
        assert foretold == bag.peek(ACTION, usable)
        chosen = bag.draw(ACTION, usable)
        assert chosen == foretold
        assert (chosen is None) == (not usable)
        if chosen is None:
            continue
        assert chosen in usable
        assert bag.last(ACTION) == chosen
        assert chosen != last or usable == {chosen}
        last = chosen


@given(
    SEEDS,
    st.integers(1, 4),
    st.lists(st.sets(st.integers(4, 8)) | st.just("restart"), min_size=1, max_size=60),
)
@settings(deadline=None, max_examples=150)
def test_those_that_stay_have_their_turns_evenly_whoever_comes_and_goes(
    seed: int, staying: int, moments: list[set[int] | str]
) -> None:
    bag = ShuffleBag(RandomStreams(seed))
    turns = Counter(dict.fromkeys(range(staying), 0))
    for number, passing in enumerate(moments):
        if isinstance(passing, str):
            bag = restarted(bag, seed + number)
            continue
        (chosen,) = drawn(bag, {*range(staying), *passing}, 1)
        if chosen < staying:
            turns[chosen] += 1
        assert max(turns.values()) - min(turns.values()) <= 1


@given(SEEDS, st.integers(1, 5), st.integers(1, 5), st.data())
@settings(deadline=None, max_examples=60)
def test_a_set_that_appears_is_played_in_the_running_round(
    seed: int, sets: int, more: int, data: st.DataObject
) -> None:
    played = data.draw(st.integers(0, sets - 1))
    bag = ShuffleBag(RandomStreams(seed))
    first = drawn(bag, set(range(sets)), played)
    rest = drawn(bag, set(range(sets + more)), sets + more - played)
    assert sorted(first + rest) == list(range(sets + more))


@given(SEEDS, st.integers(2, 6), st.data())
@settings(deadline=None, max_examples=60)
def test_a_set_that_vanishes_is_passed_over(seed: int, sets: int, data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, sets - 1))
    bag = ShuffleBag(RandomStreams(seed))
    first = drawn(bag, set(range(sets)), 1)
    here = set(range(sets)) - {gone}
    rest = drawn(bag, here, len(here - set(first)))
    assert sorted({*first, *rest}) == sorted(here | set(first))
    assert gone not in rest


def test_the_only_set_is_played_again_and_again() -> None:
    bag = ShuffleBag(RandomStreams(1))
    assert drawn(bag, {7}, 5) == [7] * 5


def test_with_no_sets_there_is_nothing_and_nothing_is_forgotten() -> None:
    bag = ShuffleBag(RandomStreams(1))
    assert bag.draw(ACTION, []) is None
    assert bag.peek(ACTION, []) is None
    assert bag.last(ACTION) is None
    (first,) = drawn(bag, {0, 1}, 1)
    assert bag.draw(ACTION, []) is None
    assert bag.last(ACTION) == first
    assert drawn(bag, {0, 1}, 1) != [first]


def test_actions_have_bags_of_their_own() -> None:
    bag = ShuffleBag(RandomStreams(1))
    for _ in range(3):
        bag.draw("a", range(3))
    assert bag.last("b") is None
    assert sorted(number for _ in range(3) if (number := bag.draw("b", range(3))) is not None) == [
        0,
        1,
        2,
    ]


def test_it_says_when_it_has_changed_and_peeking_is_no_draw() -> None:
    told: list[int] = []
    bag = ShuffleBag(RandomStreams(1))
    bag.changed = lambda: told.append(1)
    coming = bag.peek(ACTION, range(5))
    assert [bag.peek(ACTION, range(5)) for _ in range(10)] == [coming] * 10
    assert told == []
    assert bag.draw(ACTION, range(5)) == coming
    assert told == [1]
    bag.draw(ACTION, [])
    assert told == [1]


def test_every_order_occurs() -> None:
    orders = Counter(
        tuple(drawn(ShuffleBag(RandomStreams(seed)), {0, 1, 2}, 3)) for seed in range(600)
    )
    assert len(orders) == 6
    assert min(orders.values()) > 60


def test_a_bag_of_a_later_version_is_read() -> None:
    bags = BAGS.validate_json(b'{"prompt_001": {"coming": [2], "played": [0, 1], "mood": "new"}}')
    assert drawn(ShuffleBag(RandomStreams(1), bags), {0, 1, 2}, 1) == [2]


@given(SEEDS, st.lists(st.sampled_from("abc"), max_size=40))
@settings(deadline=None, max_examples=60)
def test_what_comes_does_not_depend_on_who_looks_ahead(seed: int, looks: list[str]) -> None:
    usable = set(range(5))
    plain, watched = ShuffleBag(RandomStreams(seed)), ShuffleBag(RandomStreams(seed))
    for look in looks:
        watched.peek(look, usable)
    for action in ("c", "a", "b", "a", "c"):
        assert plain.draw(action, usable) == watched.draw(action, usable)


def test_two_seeds_are_two_evenings() -> None:
    orders = {tuple(drawn(ShuffleBag(RandomStreams(seed)), set(range(5)), 5)) for seed in range(20)}
    assert len(orders) > 10
