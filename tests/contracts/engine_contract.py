"""What every engine keeps to. Subclass `EngineContract` and give it an `engine` fixture.

A subclass may set the class attributes: an engine that is deterministic only within a
tolerance raises `tolerance`; one that does not look at a base image clears `uses_base`.
"""

from __future__ import annotations

import asyncio
import io
import math
import socket
import threading
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from generator.engines.port import Engine, EngineUnavailable, StepImage
from generator.sheet.recipe import PipelineKind, Recipe

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def recipe(
    *,
    seed: int = 1,
    prompt: str = "boats on the sea",
    steps: int = 4,
    width: int = 160,
    height: int = 96,
    guidance_scale: float = 7.5,
) -> Recipe:
    """A small text-to-image recipe."""
    return Recipe(
        model="test",
        prompt=prompt,
        steps=steps,
        width=width,
        height=height,
        seed=seed,
        guidance_scale=guidance_scale,
    )


def base_image(width: int = 120, height: int = 90, *, image_format: str = "PNG") -> bytes:
    """A picture that is nobody's: a diagonal ramp with a dark square."""
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = (rows * 2 + columns).astype(np.float32) / (2 * height + width) * 220
    pixels = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], -1).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 3 : width // 2] = 20
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def from_base(strength: float, *, base: bytes | None = None, steps: int = 10) -> Recipe:
    """A small image-to-image recipe."""
    return Recipe(
        kind=PipelineKind.IMAGE_TO_IMAGE,
        model="test",
        prompt="boats on the sea",
        steps=steps,
        width=160,
        height=96,
        seed=1,
        strength=strength,
        base_image=base_image() if base is None else base,
    )


def pixels(image: bytes) -> npt.NDArray[np.float32]:
    """Decoded RGB, shape (height, width, 3)."""
    with Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.float32)


def difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two encoded pictures, in codes."""
    return float(np.abs(pixels(one) - pixels(other)).mean())


async def drawn(engine: Engine, wanted: Recipe) -> list[StepImage]:
    """All images of a recipe."""
    async with engine.render(wanted) as images:
        return [image async for image in images]


class EngineContract:
    """The contract; pytest collects its subclasses."""

    tolerance: ClassVar[float] = 0.0
    """Mean difference in codes allowed between two drawings of a recipe; 0 asks for equal bytes."""
    uses_base: ClassVar[bool] = True
    """Whether image-to-image at strength 0 gives the base image."""
    patience: ClassVar[float] = 5.0
    """Seconds by which leaving early must be over."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    async def test_says_what_it_is(self, engine: Engine) -> None:
        assert len(engine.name.split()) >= 2
        assert engine.timing in ("measured", "profiled", "simulated")

    async def test_numbers_without_gaps_and_ends_with_the_one_final(self, engine: Engine) -> None:
        images = await drawn(engine, recipe())
        assert [image.step for image in images] == list(range(1, len(images) + 1))
        assert [image.final for image in images] == [False] * (len(images) - 1) + [True]
        assert images[-1].steps == len(images)

    async def test_timesteps_descend_and_the_final_has_none(self, engine: Engine) -> None:
        *previews, final = await drawn(engine, recipe())
        timesteps = [image.timestep for image in previews if image.timestep is not None]
        assert len(timesteps) == len(previews)
        assert timesteps == sorted(timesteps, reverse=True)
        assert final.timestep is None

    async def test_durations_are_finite_and_positive(self, engine: Engine) -> None:
        for image in await drawn(engine, recipe()):
            assert math.isfinite(image.duration)
            assert image.duration > 0

    async def test_images_decode_to_the_size_asked_for_and_are_not_flat(
        self, engine: Engine
    ) -> None:
        for image in await drawn(engine, recipe()):
            with Image.open(io.BytesIO(image.image)) as opened:
                assert MEDIA_TYPES[str(opened.format)] == image.media_type
                assert opened.size == (160, 96)
            assert pixels(image.image).std() > 2

    async def test_the_same_recipe_is_the_same_picture(self, engine: Engine) -> None:
        first, second = await drawn(engine, recipe()), await drawn(engine, recipe())
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            if self.tolerance:
                assert difference(one.image, other.image) <= self.tolerance
            else:
                assert one.image == other.image

    async def test_another_seed_is_another_picture(self, engine: Engine) -> None:
        first, second = await drawn(engine, recipe(seed=1)), await drawn(engine, recipe(seed=2))
        assert difference(first[-1].image, second[-1].image) > self.tolerance

    async def test_leaving_early_stops_it_and_the_next_run_is_whole(self, engine: Engine) -> None:
        before = asyncio.all_tasks()
        async with engine.render(recipe()) as images:
            async for image in images:
                assert image.step == 1
                break
        assert asyncio.all_tasks() == before
        assert (await drawn(engine, recipe()))[-1].final

    async def test_cancelling_frees_everything_promptly(self, engine: Engine) -> None:
        started = asyncio.Event()

        async def watch() -> None:
            async with engine.render(recipe(steps=200)) as images:
                async for _ in images:
                    started.set()

        before = asyncio.all_tasks()
        task = asyncio.create_task(watch())
        await asyncio.wait_for(started.wait(), self.patience)
        task.cancel()
        await asyncio.wait({task}, timeout=self.patience)
        assert task.cancelled()
        assert asyncio.all_tasks() == before
        # A pool may still be growing by a thread or two; a drawing that leaves one shows eight.
        threads = threading.active_count()
        for _ in range(8):
            assert (await drawn(engine, recipe(steps=1)))[-1].final
        assert threading.active_count() <= threads + 4

    async def test_no_strength_is_the_base_image_itself(self, engine: Engine) -> None:
        if not self.uses_base:
            assert (await drawn(engine, from_base(0.0)))[-1].final
            return
        for strength in (0.0, 0.01):
            images = await drawn(engine, from_base(strength))
            assert [(image.step, image.steps, image.final) for image in images] == [(1, 1, True)]
            with Image.open(io.BytesIO(base_image())) as opened:
                expected = np.asarray(opened.resize((160, 96), Image.Resampling.LANCZOS))
            assert np.abs(pixels(images[0].image) - expected).mean() < 6


class DistantEngineContract(EngineContract):
    """The same for an engine that draws in another process: a connection outlives a drawing."""

    tasks: ClassVar[frozenset[str]] = frozenset()
    """Names of the engine's own tasks, of which none may be left. A server that is played in the
    same loop has tasks, too."""

    def check_no_task_is_left(self) -> None:
        assert not [task for task in asyncio.all_tasks() if task.get_name() in self.tasks]

    async def test_cancelling_frees_everything_promptly(self, engine: Engine) -> None:
        started = asyncio.Event()

        async def watch() -> None:
            async with engine.render(recipe(steps=200)) as images:
                async for _ in images:
                    started.set()

        task = asyncio.create_task(watch())
        await asyncio.wait_for(started.wait(), self.patience)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, self.patience)
        self.check_no_task_is_left()
        # One drawing at a time: the next begins only once the cancelled one is over there too.
        images = await asyncio.wait_for(drawn(engine, recipe()), self.patience)
        assert images[-1].final

    async def test_leaving_early_stops_it_and_the_next_run_is_whole(self, engine: Engine) -> None:
        async with engine.render(recipe(steps=200)) as images:
            async for image in images:
                assert image.step == 1
                break
        self.check_no_task_is_left()
        assert (await asyncio.wait_for(drawn(engine, recipe()), self.patience))[-1].final


class AddressedEngineContract(DistantEngineContract):
    """The same for an engine that has an address, its `url`."""

    async def test_who_is_not_there_is_unavailable_and_told_without_its_secrets(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            scheme = str(vars(engine)["url"]).partition("://")[0]
            nowhere = f"{scheme}://me:secret@127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setattr(engine, "url", nowhere)
        with pytest.raises(EngineUnavailable) as caught:
            await drawn(engine, recipe())
        assert "secret" not in str(caught.value)
