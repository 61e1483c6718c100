"""Pictures of what is being drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from generator.engines.port import DrawingFailed, StepImage
from generator.jobs.scheduler import Done, OnStep
from generator.jobs.store import Claimed
from server.studio.previews import LivePreview, LivePreviews, ShownPlace


class Timers:
    """What is to be done later, done when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self.waiting.append((seconds, work))

    def pass_by(self) -> None:
        due, self.waiting = self.waiting, []
        for _, work in due:
            work()


def claimed(take: str = "take-1", owner: str = "ada") -> Claimed:
    return Claimed(job="job", number=1, n=0, seed=0, take=take, owner=owner, work={})


def step(number: int, size: int = 100, *, final: bool = False) -> StepImage:
    image = bytes([number]) * size
    return StepImage(number, 21, final, None if final else 0.0, 0.1, image)


@pytest.fixture
def timers() -> Timers:
    return Timers()


def test_every_step_so_far_is_there_with_its_owner(timers: Timers) -> None:
    previews, one = LivePreviews(later=timers.later), claimed()
    assert previews.get("take-1", 1) is None
    for number in (1, 2, 3):
        previews.show(one, step(number))
    previews.show(one, step(4, final=True))
    assert previews.get("take-1", 2) == LivePreview("ada", b"\x02" * 100, "image/jpeg")
    assert previews.get("take-1", "final") == ("ada", b"\x04" * 100, "image/jpeg")
    assert previews.get("take-1", 4) is None  # nor is it in the store
    assert previews.get("take-2", 1) is None


def test_a_drawing_that_has_settled_is_forgotten_a_little_later(timers: Timers) -> None:
    previews, one = LivePreviews(later=timers.later, keep=7.0), claimed()
    previews.show(one, step(1))
    previews.settled(one)
    assert previews.get("take-1", 1) is not None
    assert [seconds for seconds, _ in timers.waiting] == [7.0]
    timers.pass_by()
    assert previews.get("take-1", 1) is None
    assert previews.size == 0


def test_what_is_drawn_again_meanwhile_is_not_forgotten_with_what_it_was(timers: Timers) -> None:
    previews, first, second = LivePreviews(later=timers.later), claimed(), claimed()
    for number in (1, 2, 3):
        previews.show(first, step(number))
    previews.settled(first)
    previews.show(second, step(1))
    assert previews.get("take-1", 2) is None  # of the first try
    timers.pass_by()
    assert previews.get("take-1", 1) is not None
    previews.settled(first)  # that one is over already
    assert timers.waiting == []
    assert previews.size == 100


def test_the_bytes_are_bounded_and_what_is_over_goes_first(timers: Timers) -> None:
    previews = LivePreviews(later=timers.later, most_bytes=1000)
    over, going, other = claimed("over"), claimed("going"), claimed("other")
    previews.show(going, step(1, 300))
    previews.show(over, step(1, 300))
    previews.settled(over)
    previews.show(going, step(2, 300))
    previews.show(other, step(1, 200))
    assert previews.get("over", 1) is None
    assert previews.get("going", 1) is not None
    previews.show(other, step(2, 300))
    assert previews.get("going", 1) is None  # the earliest of the largest
    assert previews.get("going", 2) is not None
    assert previews.get("other", 1) is not None
    previews.show(other, step(3, 2000))
    assert previews.size <= 1000
    timers.pass_by()


def test_a_step_that_comes_twice_counts_once(timers: Timers) -> None:
    previews, one = LivePreviews(later=timers.later), claimed()
    previews.show(one, step(1, 100))
    previews.show(one, step(1, 250))
    assert previews.size == 250


async def test_a_place_says_when_its_drawing_is_over_however_it_ends(timers: Timers) -> None:
    class Place:
        name = "gpu"

        async def work(self, claimed: Claimed, on_step: OnStep) -> Done:
            del on_step
            previews.show(claimed, step(1))
            if claimed.take == "bad":
                raise DrawingFailed("it broke off")
            return Done(1.0)

    previews = LivePreviews(later=timers.later)
    place = ShownPlace(Place(), previews)
    assert place.name == "gpu"
    assert await place.work(claimed("good"), lambda _step, _steps: None) == Done(1.0)
    with pytest.raises(DrawingFailed):
        await place.work(claimed("bad"), lambda _step, _steps: None)
    assert len(timers.waiting) == 2
    timers.pass_by()
    assert previews.size == 0


async def test_by_itself_it_forgets_by_the_loops_own_time() -> None:
    previews, one = LivePreviews(keep=0.01), claimed()
    previews.show(one, step(1))
    previews.settled(one)
    assert previews.size == 100
    await asyncio.sleep(0.05)  # it is later in the same row of timers
    assert previews.size == 0
