"""The supervisor on a virtual clock, with children that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import pytest

from generator.engines.port import (
    DrawingFailed,
    Engine,
    EngineError,
    EngineOccupied,
    EnginePreempted,
    EngineUnavailable,
    RecipeRefused,
    ScriptedEngine,
    StepImage,
    Timing,
    draw_for_nobody,
)
from generator.sheet.recipe import Lora, PipelineKind, Recipe
from server.core.child_process import ChildFailed
from server.core.clock import VirtualClock, settle
from server.engines.child import Child, ScriptedChild
from server.engines.local import LocalEngine, State, warm_up_recipes
from server.engines.supervision import RestartPolicy, Supervision
from tests.contracts.engine_contract import base_image, drawn, from_base, recipe

IMAGES = [
    StepImage(number, 3, number == 3, None if number == 3 else 1000.0 - number, 0.5, b"picture")
    for number in (1, 2, 3)
]
POLICY = Supervision(
    start_within=100,
    hang_after=30,
    recycle_after=3,
    memory_growth=2**30,
    restarts=RestartPolicy(first_pause=1, longest_pause=60, cap=3, within=600, rest=900),
)


def good() -> ScriptedEngine:
    return ScriptedEngine(IMAGES)


class Stuck:
    """Draws one image, then waits until it is let go on; never by itself."""

    name = "stuck 1"
    timing: Timing = "measured"

    def __init__(self, after: int = 1) -> None:
        self.asked: list[Recipe] = []
        self.left = 0
        self.go_on = asyncio.Event()
        self._after = after

    @asynccontextmanager
    async def render(self, wanted: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        self.asked.append(wanted)

        async def images() -> AsyncGenerator[StepImage, None]:
            for image in IMAGES:
                if image.step > self._after:
                    await self.go_on.wait()
                yield image

        try:
            async with aclosing(images()) as iterator:
                yield iterator
        finally:
            self.left += 1


class Switch:
    """An engine that is another one from one moment to the next."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[Recipe] = []

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def timing(self) -> Timing:
        return self.engine.timing

    def render(self, wanted: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
        self.asked.append(wanted)
        return self.engine.render(wanted)


class Nursery:
    """Starts children, one after another; `make` says what each draws with."""

    def __init__(self, make: Callable[[int], Engine | ChildFailed] = lambda _: good()) -> None:
        self.children: list[ScriptedChild] = []
        self.starts = 0
        self._make = make

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Child]:
        self.starts += 1
        made = self._make(self.starts)
        if isinstance(made, ChildFailed):
            raise made
        child = ScriptedChild(made, pid=self.starts)
        self.children.append(child)
        async with child.start():
            yield child


@asynccontextmanager
async def supervised(
    nursery: Nursery, clock: VirtualClock, *, warm_up: Sequence[Recipe] | None = None
) -> AsyncIterator[LocalEngine]:
    before = asyncio.all_tasks()
    engine = LocalEngine(
        "gpu",
        nursery.start,
        warm_up=[recipe()] if warm_up is None else warm_up,
        clock=clock,
        policy=POLICY,
    )
    async with engine:
        await settle(200)
        yield engine
    assert engine.status().state == "stopped"
    assert all(child.left for child in nursery.children)
    await settle()
    assert asyncio.all_tasks() == before


async def passed(clock: VirtualClock, seconds: float) -> None:
    """Let time pass, a second at a time, and everybody do what they have to."""
    while seconds > 0:
        await clock.advance(min(1.0, seconds))
        await settle(100)
        seconds -= 1.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def state(engine: LocalEngine) -> State:
    return engine.status().state


# ---------------------------------------------------------------- opening


async def test_it_opens_once_it_has_drawn_everything_in_short(clock: VirtualClock) -> None:
    practice = Switch(good())
    both = [recipe(), from_base(1.0)]
    async with supervised(Nursery(lambda _: practice), clock, warm_up=both) as engine:
        assert practice.asked == both
        status = engine.status()
        assert (status.state, status.pid, status.runs) == ("ready", 1, 0)
        assert (engine.name, engine.timing) == ("scripted 1", "simulated")
        assert [image.step for image in await drawn(engine, recipe())] == [1, 2, 3]
        assert engine.status().runs == 1


async def test_until_then_it_says_at_once_that_it_is_not_ready(clock: VirtualClock) -> None:
    async with supervised(Nursery(lambda _: Stuck()), clock) as engine:
        assert state(engine) == "warming"
        with pytest.raises(EngineUnavailable, match="gpu is warming"):
            await drawn(engine, recipe())
    with pytest.raises(EngineUnavailable, match="gpu is stopped"):
        await drawn(engine, recipe())


async def test_one_that_does_not_get_warm_is_given_up(clock: VirtualClock) -> None:
    nursery = Nursery(lambda _: Stuck())
    async with supervised(nursery, clock) as engine:
        await passed(clock, 100)
        assert engine.status().reason == "it was not ready within 100 s"
        assert state(engine) == "restarting"
        assert nursery.children[0].left
        await passed(clock, 2)
        assert nursery.starts == 2


async def test_a_program_that_it_refuses_does_not_cost_the_others(clock: VirtualClock) -> None:
    refused, taken = recipe(prompt="refused"), recipe(prompt="taken")

    class Picky(Switch):
        def render(self, wanted: Recipe) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
            engine = self.engine if wanted == taken else ScriptedEngine([], RecipeRefused("no"))
            return engine.render(wanted)

    picky = Nursery(lambda _: Picky(good()))
    async with supervised(picky, clock, warm_up=[taken, refused]) as engine:
        assert state(engine) == "ready"
        with pytest.raises(RecipeRefused):
            await drawn(engine, refused)
        await settle(100)
        assert state(engine) == "ready"
    async with supervised(picky, clock, warm_up=[refused]) as engine:
        assert state(engine) == "restarting"
        assert engine.status().reason == "it refuses all that the show draws: no"


def test_it_warms_up_once_for_each_model_size_and_adapter_the_first_of_them_last() -> None:
    lora = recipe().model_copy(update={"loras": (Lora(model="style"),)})
    weak = from_base(0.1)
    found = warm_up_recipes([recipe(steps=30), recipe(prompt="other"), lora, weak, weak])
    assert [each.steps for each in found] == [2, 2, 2]
    assert [each.kind for each in found] == [
        PipelineKind.IMAGE_TO_IMAGE,
        PipelineKind.TEXT_TO_IMAGE,
        PipelineKind.TEXT_TO_IMAGE,
    ]
    assert (found[0].strength, found[0].base_image) == (1.0, base_image())
    assert (found[1].loras, found[2].loras) == (lora.loras, ())


# ---------------------------------------------------------------- death


async def test_one_that_dies_in_a_drawing_is_started_again(clock: VirtualClock) -> None:
    stuck = Switch(good())
    nursery = Nursery(lambda number: stuck if number == 1 else good())
    async with supervised(nursery, clock) as engine:
        stuck.engine = ScriptedEngine(IMAGES[:1], EngineUnavailable("the line broke"))
        with pytest.raises(EngineUnavailable, match="gpu was lost: the line broke"):
            await drawn(engine, recipe())
        with pytest.raises(EngineUnavailable, match="gpu is lost"):
            await drawn(engine, recipe())
        nursery.children[0].die("it was killed by signal 9")
        await settle(100)
        status = engine.status()
        assert (status.state, status.pid) == ("restarting", None)
        assert status.reason == "it was killed by signal 9"
        await passed(clock, 1)
        status = engine.status()
        assert (status.state, status.pid, status.restarts) == ("ready", 2, 1)
        assert len(await drawn(engine, recipe())) == 3


async def test_a_line_that_breaks_and_nobody_died_is_the_end_of_it(clock: VirtualClock) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda _: switch)
    async with supervised(nursery, clock) as engine:
        switch.engine = ScriptedEngine([], EngineUnavailable("it fell silent"))
        with pytest.raises(EngineUnavailable):
            await drawn(engine, recipe())
        await passed(clock, 1)
        assert nursery.children[0].killed
        assert engine.status().reason == "it fell silent"


async def test_one_that_fails_again_and_again_is_rested_for_long_and_says_so(
    clock: VirtualClock,
) -> None:
    nursery = Nursery(lambda number: ChildFailed("no CUDA") if number <= 3 else good())
    async with supervised(nursery, clock) as engine:
        assert (nursery.starts, state(engine)) == (1, "restarting")
        await passed(clock, 1)
        assert nursery.starts == 2
        await passed(clock, 1)
        assert nursery.starts == 2  # twice as long
        await passed(clock, 1)
        status = engine.status()
        assert (nursery.starts, status.state) == (3, "rested")
        assert status.reason == "it failed 3 times, at last: no CUDA"
        with pytest.raises(EngineUnavailable, match="gpu is rested: it failed 3 times"):
            await drawn(engine, recipe())
        await passed(clock, 898)
        assert nursery.starts == 3
        await passed(clock, 2)
        assert (nursery.starts, state(engine)) == (4, "ready")


async def test_a_technician_can_end_the_rest(clock: VirtualClock) -> None:
    nursery = Nursery(lambda number: ChildFailed("no CUDA") if number <= 3 else good())
    async with supervised(nursery, clock) as engine:
        await passed(clock, 3)
        assert state(engine) == "rested"
        engine.reset()
        await settle(200)
        assert state(engine) == "ready"


async def test_a_fault_of_ours_is_a_failure_like_others(clock: VirtualClock) -> None:
    def make(number: int) -> Engine:
        if number == 1:
            raise ZeroDivisionError("oh")
        return good()

    async with supervised(Nursery(make), clock) as engine:
        assert engine.status().reason == "ZeroDivisionError: oh"
        await passed(clock, 1)
        assert state(engine) == "ready"


# ---------------------------------------------------------------- hanging


async def test_a_drawing_that_makes_no_step_is_ended_with_the_process(clock: VirtualClock) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda number: switch if number == 1 else good())
    async with supervised(nursery, clock) as engine:
        switch.engine = Stuck()
        drawing = asyncio.create_task(drawn(engine, recipe()))
        await passed(clock, 29)
        assert (state(engine), nursery.starts) == ("drawing", 1)
        await passed(clock, 2)
        assert nursery.children[0].killed
        assert engine.status().reason == "it hangs: no step for 30 s"
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)


async def test_a_drawing_given_up_for_want_of_a_step_is_followed_by_a_proof(
    clock: VirtualClock,
) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda number: switch if number == 1 else good())
    async with supervised(nursery, clock) as engine:
        stuck = switch.engine = Stuck(after=0)
        drawing = asyncio.create_task(drawn(engine, recipe()))
        await passed(clock, 8)  # as long as the show waits for a first frame
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        await passed(clock, 2)
        assert len(stuck.asked) == 2
        assert state(engine) == "ready"
        await passed(clock, 21)  # no step since the drawing was asked for
        assert nursery.children[0].killed


async def test_the_show_goes_before_a_proof(clock: VirtualClock) -> None:
    switch = Switch(good())
    async with supervised(Nursery(lambda _: switch), clock) as engine:
        stuck = switch.engine = Stuck()
        await passed(clock, 301)
        assert len(stuck.asked) == 1
        switch.engine = good()
        assert len(await drawn(engine, recipe())) == 3
        assert stuck.left == 1
        await passed(clock, 1)
        assert state(engine) == "ready"
        assert engine.status().runs == 1


@pytest.mark.parametrize("overtaken", [EnginePreempted("the show"), EngineOccupied("others")])
async def test_a_drawing_that_is_overtaken_costs_the_child_nothing(
    clock: VirtualClock, overtaken: EngineError
) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda _: switch)
    async with supervised(nursery, clock) as engine:
        for images in (IMAGES[:1], []):
            switch.engine = ScriptedEngine(images, overtaken)
            with pytest.raises(type(overtaken)):
                await drawn(engine, recipe())
        before = len(switch.asked)
        await passed(clock, 100)  # more often than once it is asked for a proof, in vain
        assert len(switch.asked) > before + 3
        status = engine.status()
        assert (status.state, status.restarts, nursery.starts) == ("ready", 0, 1)
        switch.engine = good()
        await passed(clock, 2)
        before = len(switch.asked)
        await passed(clock, 100)
        assert len(switch.asked) == before, "it has proved itself"
    assert not nursery.children[0].killed


async def test_overtaken_in_its_practice_it_opens(clock: VirtualClock) -> None:
    nursery = Nursery(lambda _: ScriptedEngine(IMAGES[:1], EnginePreempted("the show")))
    async with supervised(nursery, clock) as engine:
        assert (state(engine), nursery.starts) == ("ready", 1)


async def test_only_what_proves_it_gives_way(clock: VirtualClock) -> None:
    """Of a child that knows the difference: warm-ups, proofs and the prober's, and nothing else."""

    class Told(Switch):
        proofs = 0

        def render_proof(
            self, wanted: Recipe
        ) -> AbstractAsyncContextManager[AsyncIterator[StepImage]]:
            self.proofs += 1
            return self.engine.render(wanted)

    told = Told(good())
    async with supervised(Nursery(lambda _: told), clock) as engine:
        assert (told.proofs, told.asked) == (1, [])
        await drawn(engine, recipe())
        assert (told.proofs, len(told.asked)) == (1, 1)
        await passed(clock, 301)
        assert (told.proofs, len(told.asked)) == (2, 1)
        await draw_for_nobody(engine, recipe())
        assert (told.proofs, len(told.asked)) == (3, 1)
        assert engine.status().runs == 1


async def test_now_and_then_it_has_to_prove_itself(clock: VirtualClock) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda number: switch if number == 1 else good())
    async with supervised(nursery, clock) as engine:
        await passed(clock, 301)
        assert (len(switch.asked), engine.status().runs) == (2, 0)
        switch.engine = ScriptedEngine([], DrawingFailed("out of memory"))
        await passed(clock, 302)
        assert nursery.children[0].killed
        assert nursery.starts == 2


async def test_a_proof_without_a_picture_is_none(clock: VirtualClock) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda number: switch if number == 1 else good())
    async with supervised(nursery, clock) as engine:
        switch.engine = ScriptedEngine([])
        await passed(clock, 301)
        assert nursery.children[0].killed
        assert engine.status().reason.endswith("it ended without a final image")


async def test_a_drawing_that_fails_is_followed_by_a_proof(clock: VirtualClock) -> None:
    switch = Switch(good())
    async with supervised(Nursery(lambda _: switch), clock) as engine:
        switch.engine = ScriptedEngine(IMAGES[:2], DrawingFailed("out of memory"))
        with pytest.raises(EngineError):
            await drawn(engine, recipe())
        switch.engine = good()
        await passed(clock, 2)
        assert len(switch.asked) == 3
        assert (state(engine), engine.status().restarts) == ("ready", 0)


# ---------------------------------------------------------------- growing old


async def test_it_is_replaced_between_drawings_when_it_has_drawn_enough(
    clock: VirtualClock,
) -> None:
    nursery = Nursery()
    async with supervised(nursery, clock) as engine:
        for _ in range(3):
            await drawn(engine, recipe())
        await passed(clock, 4)
        assert nursery.starts == 1
        await passed(clock, 2)
        status = engine.status()
        assert (nursery.starts, status.state, status.restarts) == (2, "ready", 0)
        assert not nursery.children[0].killed


async def test_it_is_replaced_when_it_has_grown_but_not_in_a_drawing(clock: VirtualClock) -> None:
    switch = Switch(good())
    nursery = Nursery(lambda number: switch if number == 1 else good())
    async with supervised(nursery, clock) as engine:
        stuck = switch.engine = Stuck()
        drawing = asyncio.create_task(drawn(engine, recipe()))
        await settle(50)
        nursery.children[0].bytes = 2 * 2**30
        await passed(clock, 20)
        assert nursery.starts == 1
        stuck.go_on.set()
        assert len(await drawing) == 3
        await settle(200)
        assert nursery.starts == 2
        assert engine.status().restarts == 0


async def test_a_show_that_draws_nothing_asks_for_nothing(clock: VirtualClock) -> None:
    switch = Switch(good())
    async with supervised(Nursery(lambda _: switch), clock, warm_up=()) as engine:
        await passed(clock, 400)
        assert state(engine) == "ready"
        assert switch.asked == []


@pytest.mark.parametrize("mistake", [ValueError("a mistake"), asyncio.CancelledError()])
async def test_a_mistake_of_the_supervision_costs_no_more_than_a_pause(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, mistake: BaseException
) -> None:
    calls = 0

    async def fails(_: LocalEngine) -> str:
        nonlocal calls
        calls += 1
        raise mistake

    monkeypatch.setattr(LocalEngine, "_live", fails)
    async with supervised(Nursery(), clock) as engine:
        assert state(engine) == "restarting"
        await passed(clock, 10)
        assert calls > 1
        monkeypatch.undo()
        await passed(clock, 1000)
        assert state(engine) == "ready"
