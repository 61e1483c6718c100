from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cache.model.images import Decoded
from generator.engines.port import (
    DrawingFailed,
    EngineError,
    RecipeRefused,
    ScriptedEngine,
    StepImage,
)
from generator.sheet.plan import Action
from generator.sheet.recipe import seed_for
from server.config.show import load_show
from server.core.clock import VirtualClock, settle
from server.providers.base import ActionRefused, Frame, FrameStream, ProviderError, Slot
from server.providers.budget import Budget
from server.providers.live import LiveProvider
from tests.helpers.engines import drawing, flat, live, scripted, spoilt
from tests.helpers.pictures import picture
from tests.helpers.shows import cue, prompt, write_show


async def at_once(function: Any) -> Decoded:
    decoded: Decoded = function()
    return decoded


@pytest.fixture
def action(tmp_path: Path) -> Action:
    write_show(tmp_path, [prompt(0, "a lamp", id="lamp"), cue(60, "end")])
    return load_show(tmp_path, {}, {}).plan({}).actions[0]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


def provider(clock: VirtualClock, engine: ScriptedEngine, **more: Any) -> LiveProvider:
    return LiveProvider(live(engine), clock, **{"rng": Random(1), "offload": at_once, **more})


async def play(
    one: LiveProvider, action: Action, clock: VirtualClock
) -> tuple[FrameStream, list[Frame], Exception | None]:
    frames: list[Frame] = []

    async def run() -> FrameStream:
        async with one.open(action, Slot(clock.now())) as stream:
            async for frame in stream.frames:
                frames.append(frame)  # noqa: PERF401 - those before an error are wanted too
        return stream

    task = asyncio.create_task(run())
    await clock.advance(60)
    await settle(50)
    error = task.exception()
    assert error is None or isinstance(error, Exception)
    return (FrameStream.__new__(FrameStream) if error else task.result()), frames, error


async def test_frames_are_due_a_little_after_they_came(action: Action, clock: VirtualClock) -> None:
    stream, frames, error = await play(
        provider(clock, scripted(clock, drawing("gpu", 4), pause=0.5)), action, clock
    )
    assert error is None
    assert [frame.due - 1000 for frame in frames] == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
    assert [(frame.step, frame.steps, frame.final) for frame in frames] == [
        (1, 5, False),
        (2, 5, False),
        (3, 5, False),
        (4, 5, False),
        (5, 5, True),
    ]
    assert [frame.image for frame in frames] == [picture(f"gpu/{step}") for step in range(1, 6)]
    assert stream.planned == ()
    assert stream.source.provider == "live"
    assert stream.source.engine == "gpu: scripted 1"


async def test_every_drawing_has_a_seed_of_its_own_and_none_of_a_sets(
    action: Action, clock: VirtualClock
) -> None:
    class Loaded(Random):
        drawn = iter([seed_for(action.fingerprint, 0), seed_for(action.fingerprint, 1), 7, 8])

        def randrange(self, *_: Any) -> int:
            return next(self.drawn)

    sets = {seed_for(action.fingerprint, number) for number in (0, 1)}
    engine = scripted(clock, drawing("gpu", 1))
    one = provider(clock, engine, rng=Loaded(), taken=lambda _action: sets)
    for _ in range(2):
        await play(one, action, clock)
    assert [recipe.seed for recipe in engine.asked] == [7, 8]
    assert {recipe.fingerprint for recipe in engine.asked} == {action.fingerprint}


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DrawingFailed("out of memory"), ProviderError, "out of memory"),
        (RecipeRefused("no such model"), ActionRefused, "no such model"),
    ],
)
async def test_an_engines_error_is_translated_and_kept(
    action: Action,
    clock: VirtualClock,
    error: EngineError,
    kind: type[Exception],
    words: str,
) -> None:
    engine = scripted(clock, drawing("gpu", 4)[:2], error)
    _, frames, raised = await play(provider(clock, engine), action, clock)
    assert len(frames) == 2
    assert type(raised) is kind
    assert words in str(raised)
    assert raised.__cause__ is error
    assert len(engine.left) == 1


def at(place: int, image: bytes) -> list[StepImage]:
    images = drawing("gpu", 6)
    images[place - 1] = replace(images[place - 1], image=image)
    return images


@pytest.mark.parametrize(
    ("images", "steps", "words"),
    [
        (at(3, flat()), [1, 2, 4, 5, 6, 7], None),
        (at(3, b"no picture"), [1, 2, 4, 5, 6, 7], None),
        (at(7, flat()), [1, 2, 3, 4, 5, 6], "its final image is unusable: it is all one colour"),
        (at(7, picture("x")[:900]), [1, 2, 3, 4, 5, 6], "its final image is unusable"),
        (spoilt(drawing("gpu", 6), flat((250, 250, 250)), 2), [1], "its preview 4 is unusable"),
        (drawing("gpu", 6)[:5], [1, 2, 3, 4, 5], "it ended without a final image"),
        ([], [], "it ended without a final image"),
    ],
)
async def test_what_is_fit_for_no_wall(
    action: Action,
    clock: VirtualClock,
    images: list[StepImage],
    steps: list[int],
    words: str | None,
) -> None:
    _, frames, error = await play(provider(clock, scripted(clock, images)), action, clock)
    assert [frame.step for frame in frames] == steps
    assert (error is None) if words is None else (words in str(error))


async def test_nothing_after_the_final_image_is_shown(action: Action, clock: VirtualClock) -> None:
    images = [*drawing("gpu", 2), *drawing("more", 2)]
    _, frames, error = await play(provider(clock, scripted(clock, images)), action, clock)
    assert error is None
    assert [frame.step for frame in frames] == [1, 2, 3]


async def test_counts_that_are_wrong_are_put_right(action: Action, clock: VirtualClock) -> None:
    images = [replace(image, step=1, steps=2) for image in drawing("gpu", 4)]
    _, frames, _ = await play(provider(clock, scripted(clock, images)), action, clock)
    assert [(frame.step, frame.steps) for frame in frames] == [
        (1, 2),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 5),
    ]


async def test_leaving_leaves_the_engine(action: Action, clock: VirtualClock) -> None:
    engine = scripted(clock, drawing("gpu", 4), pause=0)
    async with provider(clock, engine).open(action, Slot(clock.now())) as stream:
        await anext(stream.frames)
        assert engine.left == []
    assert engine.left == engine.asked


async def test_a_run_beyond_the_budget_is_not_begun(action: Action, clock: VirtualClock) -> None:
    engine = scripted(clock, drawing("gpu", 4), pause=0)
    one = provider(clock, engine, budget=Budget(at_once=1))
    async with one.open(action, Slot(clock.now())):
        with pytest.raises(ProviderError, match="at once"):
            async with one.open(action, Slot(clock.now())):
                pass
    async with one.open(action, Slot(clock.now())):
        pass


async def test_pictures_are_looked_at_beside_the_event_loop(action: Action) -> None:
    engine = ScriptedEngine(drawing("gpu", 4))
    clock = VirtualClock()
    one = LiveProvider(live(engine), clock)
    async with one.open(action, Slot(clock.now())) as stream:
        assert [frame.step async for frame in stream.frames] == [1, 2, 3, 4, 5]
