from __future__ import annotations

import asyncio
import io
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image

from generator.engines.port import Engine, RecipeRefused
from generator.engines.sketch import engine as sketch
from generator.engines.sketch.diffusion import alphas_cumprod, timesteps
from generator.engines.sketch.engine import SketchEngine, draw, draw_set, nominal_durations
from generator.engines.sketch.painting.motifs import MOTIFS
from generator.engines.sketch.painting.painter import plan
from generator.sheet.base_image import default_base_image
from generator.sheet.recipe import Lora, Recipe
from tests.contracts.engine_contract import (
    EngineContract,
    base_image,
    difference,
    drawn,
    from_base,
    pixels,
    recipe,
)


class TestContract(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return SketchEngine(wait=False)


class TestPreviews:
    def test_converge_on_the_final(self) -> None:
        *previews, final = draw_set(recipe(steps=12))
        errors = [difference(preview.image, final.image) for preview in previews]
        assert errors[0] > 2.5 * errors[-1]
        assert all(later < earlier + 1.0 for earlier, later in pairwise(errors))

    def test_begin_as_fog(self) -> None:
        first, *_, final = draw_set(recipe(steps=12, width=320, height=192))
        detail = [np.abs(np.diff(pixels(image.image), axis=1)).mean() for image in (first, final)]
        assert detail[0] < 0.4 * detail[1]

    def test_are_as_many_as_steps_asked_for(self) -> None:
        for steps in (1, 2, 7, 20):
            assert len(draw_set(recipe(steps=steps, width=64, height=64))) == steps + 1

    def test_schedule_is_stable_diffusions(self) -> None:
        assert alphas_cumprod()[0] == pytest.approx(0.99915)
        assert alphas_cumprod()[999] == pytest.approx(0.00466, abs=1e-5)
        assert timesteps(20)[:2] == (951, 901)
        assert timesteps(20)[-1] == 1
        assert timesteps(1) == (999,)
        assert timesteps(4) == (999, 749, 499, 249)
        for steps in (9, 30, 333, 1000):
            schedule = timesteps(steps)
            assert len(schedule) == steps
            assert all(0 <= timestep < 1000 for timestep in schedule)


class TestPixels:
    @pytest.mark.parametrize(
        "changed",
        [
            {"prompt": "boats on the sea."},
            {"negative_prompt": "people"},
            {"model": "other"},
            {"steps": 5},
            {"guidance_scale": 7.6},
            {"scheduler": "euler"},
            {"loras": (Lora(model="ink"),)},
            {"seed": 2},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_depend_on_every_field(self, changed: dict[str, Any]) -> None:
        plain = draw_set(recipe())[-1].image
        other = Recipe.model_validate({**recipe().model_dump(), **changed})
        assert draw_set(other)[-1].image != plain

    def test_follow_the_prompt(self) -> None:
        wanted = {
            "crowd of people in a public space": "crowd",
            "person, data researcher, photorealistic": "portrait",
            "painting like epic poem of malaya": "crowd",
            "a harbour at night": "sea",
            "the city": "city",
            "stable diffusion": "currents",
        }
        for prompt, motif in wanted.items():
            assert plan(recipe(prompt=prompt)).motif == motif

    def test_prompts_without_a_hint_spread_over_the_motifs(self) -> None:
        found = {plan(recipe(prompt=f"untitled {number}")).motif for number in range(120)}
        assert found == set(MOTIFS)

    @pytest.mark.parametrize("motif", sorted(MOTIFS))
    def test_every_motif_paints_something(self, motif: str) -> None:
        prompt = next(
            f"untitled {number}"
            for number in range(200)
            if plan(recipe(prompt=f"untitled {number}")).motif == motif
        )
        final = draw_set(recipe(prompt=prompt, steps=1))[-1]
        assert pixels(final.image).std() > 8

    @pytest.mark.parametrize("size", [(8, 8), (8, 400), (400, 8), (63, 65)])
    def test_any_size_can_be_drawn(self, size: tuple[int, int]) -> None:
        for image in draw_set(recipe(width=size[0], height=size[1], steps=2)):
            assert pixels(image.image).shape == (size[1], size[0], 3)


class TestImageToImage:
    @pytest.mark.parametrize(("strength", "count"), [(0.05, 1), (0.1, 2), (0.55, 6), (1.0, 11)])
    def test_takes_steps_times_strength(self, strength: float, count: int) -> None:
        assert len(draw_set(from_base(strength))) == count

    def test_departs_from_the_base_as_strength_grows(self) -> None:
        with Image.open(io.BytesIO(base_image())) as opened:
            buffer = io.BytesIO()
            opened.resize((160, 96)).save(buffer, "PNG")
        away = [
            difference(draw_set(from_base(strength))[-1].image, buffer.getvalue())
            for strength in (0.0, 0.2, 0.6, 1.0)
        ]
        assert away == sorted(away)

    @pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
    def test_reads_every_kind_of_base(self, image_format: str) -> None:
        base = base_image(image_format=image_format)
        assert draw_set(from_base(0.3, base=base))[-1].final

    async def test_refuses_a_base_that_is_none(self) -> None:
        with pytest.raises(RecipeRefused, match="base image"):
            await drawn(SketchEngine(wait=False), from_base(0.5, base=b"not an image"))
        cut = base_image()[:200]
        with pytest.raises(RecipeRefused, match="base image"):
            draw_set(from_base(0.0, base=cut))

    def test_has_a_base_of_its_own(self) -> None:
        with Image.open(io.BytesIO(default_base_image())) as image:
            assert image.size == (960, 800)
        assert len(default_base_image()) <= 120_000


class TestRhythm:
    async def test_durations_are_the_recipes(self) -> None:
        wanted = recipe(steps=20, width=16, height=16)
        fast = [image.duration for image in draw(wanted)]
        assert fast == nominal_durations(wanted)
        assert fast != nominal_durations(wanted.with_seed(9))
        assert fast[0] > max(fast[1:5])
        assert np.mean(fast[1:-1]) == pytest.approx(0.45, rel=0.1)
        assert nominal_durations(wanted, 0.9)[1] == pytest.approx(2 * fast[1], abs=1e-3)

    @pytest.mark.pace
    async def test_is_kept_against_absolute_deadlines(self) -> None:
        engine = SketchEngine(pace=0.03)
        wanted = recipe(steps=6, width=32, height=32)
        durations = nominal_durations(wanted, 0.03)[:-1]
        start = time.monotonic()
        async with engine.render(wanted) as images:
            at = 0.0
            async for image in images:
                if image.final:
                    break
                at += durations[image.step - 1]
                assert time.monotonic() - start >= at - 0.002
                # Time lost by whoever looks is made up for, not added.
                await asyncio.sleep(0.02)
        assert time.monotonic() - start < at + 2.0

    async def test_the_loop_runs_on_while_it_draws(self) -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.005)
                beats += 1

        pulse = asyncio.create_task(beat())
        await drawn(SketchEngine(wait=False), recipe(width=480, height=270))
        pulse.cancel()
        assert beats > 3

    async def test_a_cancelled_scope_waits_for_the_step_being_drawn(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, ended = threading.Event(), threading.Event()

        def slow(*_: object) -> Image.Image:
            begun.set()
            time.sleep(0.2)
            ended.set()
            return Image.new("RGB", (160, 96))

        monkeypatch.setattr(sketch, "paint", slow)

        async def watch() -> None:
            await drawn(SketchEngine(wait=False), recipe())

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await asyncio.to_thread(begun.wait)
            group.cancel_scope.cancel()
        assert ended.is_set()


def test_a_process_pool_draws_the_same() -> None:
    recipes = [recipe(seed=seed, width=64, height=48, steps=2) for seed in (1, 2)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        sets = list(pool.map(draw_set, recipes))
    assert sets == [draw_set(each) for each in recipes]
