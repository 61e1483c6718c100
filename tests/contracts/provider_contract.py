"""What every provider keeps to. Subclass `ProviderContract` and give it a `bench` fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from generator.sheet.plan import Action
from server.core.clock import VirtualClock, settle
from server.providers.base import Frame, FrameStream, Provider, ProviderError, Slot


@dataclass
class Bench:
    """A provider, what it can and what it cannot perform, and its clock."""

    provider: Provider
    action: Action
    impossible: Action
    clock: VirtualClock
    left_behind: Callable[[], Awaitable[int]]
    """How many streams have not let go of what they held."""

    async def play(self, slot: Slot | None = None) -> tuple[FrameStream, list[Frame]]:
        """A whole take, as fast as time is let pass."""
        task = asyncio.create_task(self._play(slot or Slot(self.clock.now())))
        await settle(400)  # what needs no time is done before any passes
        await self.clock.advance(120)
        await settle(50)
        return await task

    async def _play(self, slot: Slot) -> tuple[FrameStream, list[Frame]]:
        async with self.provider.open(self.action, slot) as stream:
            return stream, [frame async for frame in stream.frames]


class ProviderContract:
    """The contract; pytest collects its subclasses."""

    @pytest.fixture
    async def bench(self) -> Bench:
        raise NotImplementedError

    async def test_steps_ascend_and_the_one_final_image_is_the_last(self, bench: Bench) -> None:
        _, frames = await bench.play()
        assert [frame.step for frame in frames] == list(range(1, len(frames) + 1))
        assert [frame.final for frame in frames] == [False] * (len(frames) - 1) + [True]
        assert {frame.steps for frame in frames} == {len(frames)}
        assert all(frame.image and frame.media_type == "image/jpeg" for frame in frames)

    async def test_no_frame_is_due_before_the_one_before_nor_before_the_run(
        self, bench: Bench
    ) -> None:
        start = bench.clock.now()
        _, frames = await bench.play(Slot(start))
        due = [frame.due for frame in frames]
        assert due == sorted(due)
        assert due[0] > start

    async def test_it_says_what_it_is_made_of(self, bench: Bench) -> None:
        stream, _ = await bench.play()
        assert stream.source.provider == bench.provider.name
        assert stream.source.engine
        assert stream.source.seed is not None
        assert stream.steps >= 1

    async def test_what_it_planned_is_what_it_gives(self, bench: Bench) -> None:
        stream, frames = await bench.play()
        planned = dict(stream.planned)
        assert all(planned.get(frame.step, frame.due) == frame.due for frame in frames)

    async def test_a_picture_taken_over_is_brought_to_its_end(self, bench: Bench) -> None:
        _, whole = await bench.play()
        now = bench.clock.now()
        _, frames = await bench.play(Slot(now, share=0.5))
        assert frames[-1].final
        assert {frame.steps for frame in frames} == {len(whole)}
        beyond = [frame.step for frame in whole if frame.step / frame.steps > 0.5]
        assert [frame.step for frame in frames][-len(beyond) :] == beyond

    async def test_what_it_cannot_perform_it_says(self, bench: Bench) -> None:
        with pytest.raises(ProviderError):
            async with bench.provider.open(bench.impossible, Slot(bench.clock.now())) as stream:
                await anext(stream.frames)

    async def test_leaving_in_the_middle_leaves_nothing_behind(self, bench: Bench) -> None:
        before = asyncio.all_tasks()

        async def look_in() -> None:
            async with bench.provider.open(bench.action, Slot(bench.clock.now())) as stream:
                await anext(stream.frames)

        task = asyncio.create_task(look_in())
        await bench.clock.advance(10)
        await task
        assert asyncio.all_tasks() == before
        assert await bench.left_behind() == 0

    async def test_cancelled_it_leaves_nothing_behind(self, bench: Bench) -> None:
        before = asyncio.all_tasks()

        async def perform() -> None:
            async with bench.provider.open(bench.action, Slot(bench.clock.now())) as stream:
                async for _ in stream.frames:
                    await bench.clock.sleep(1)

        task = asyncio.create_task(perform())
        await bench.clock.advance(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(20)
        assert asyncio.all_tasks() == before
        assert await bench.left_behind() == 0
