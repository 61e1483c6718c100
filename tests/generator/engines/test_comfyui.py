from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from generator.engines.comfyui.engine import ComfyUIEngine
from generator.engines.comfyui.messages import Event, Preview, Progress, parse
from generator.engines.comfyui.workflow import RUN_INPUT, Workflow
from generator.engines.pictures import FLOOR
from generator.engines.port import (
    DrawingFailed,
    Engine,
    EngineDenied,
    EngineUnavailable,
    RecipeRefused,
)
from generator.sheet.recipe import Lora, Recipe
from tests.contracts.engine_contract import (
    AddressedEngineContract,
    drawn,
    from_base,
    recipe,
)
from tests.generator.engines.comfyui_server import Behaviour, ComfyUI, workflow, workflow_from_base


@asynccontextmanager
async def engine_on(
    comfy: ComfyUI, nodes: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[ComfyUIEngine]:
    async with comfy.listening() as url, httpx.AsyncClient() as client:
        yield ComfyUIEngine(client, url, nodes or workflow(), **options)
        # Whatever happened: nothing of ours is left there.
        for _ in range(100):
            if not comfy.open_sockets and not comfy.pending:
                break
            await asyncio.sleep(0.02)
        assert comfy.open_sockets == 0
        assert comfy.pending == []


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about within five seconds")


class TestContract(AddressedEngineContract):
    tasks = frozenset({"comfyui socket", "begun there"})

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        # A preview's noise is not seeded; the final image is.
        async with engine_on(ComfyUI()) as engine:
            yield engine

    async def test_the_same_recipe_is_the_same_picture(self, engine: Engine) -> None:
        first, second = await drawn(engine, recipe()), await drawn(engine, recipe())
        assert len(first) == len(second) == 5
        assert first[-1].image == second[-1].image


MODERN = Behaviour()
KINDS = {
    "modern": MODERN,
    "without metadata": replace(MODERN, metadata=False),
    "old": replace(MODERN, metadata=False, progress_state=False, own_ids=True),
}


class TestDrawing:
    @pytest.mark.pace
    @pytest.mark.parametrize("kind", KINDS)
    async def test_each_step_has_its_preview_and_the_time_it_took(self, kind: str) -> None:
        comfy = ComfyUI(replace(KINDS[kind], step_seconds=0.05, load_seconds=0.3))
        async with engine_on(comfy) as engine:
            images = await drawn(engine, recipe(steps=6))
            assert engine.name == "comfyui 0.9.1"
        assert [image.step for image in images] == [1, 2, 3, 4, 5, 6, 7]
        assert {image.steps for image in images} == {7}
        assert all(image.duration > 0.02 for image in images)
        # Reading the checkpoint is nobody's step.
        assert images[0].duration < 0.25
        assert [image.media_type for image in images] == ["image/jpeg"] * 7

    async def test_the_whole_recipe_reaches_the_workflow_in_its_types(self) -> None:
        comfy = ComfyUI()
        async with engine_on(comfy) as engine:
            await drawn(engine, recipe(seed=2**32 - 1, guidance_scale=5.5, steps=2))
        [body] = comfy.posted
        inputs = {node: body["prompt"][node]["inputs"] for node in body["prompt"]}
        assert inputs["3"]["seed"] == 2**32 - 1
        assert inputs["3"]["steps"] == 2
        assert inputs["3"]["cfg"] == 5.5
        assert inputs["3"]["model"] == ["4", 0]
        assert inputs["5"] == {"width": 160, "height": 96, "batch_size": 1}
        assert inputs["6"]["text"] == "boats on the sea, oil on canvas"
        assert inputs["4"]["ckpt_name"] == "test"
        assert body["extra_data"]["preview_method"] == "auto"

    async def test_a_base_image_is_uploaded_in_the_recipes_size(self) -> None:
        comfy = ComfyUI()
        async with engine_on(comfy, workflow_from_base()) as engine:
            images = await drawn(engine, from_base(0.5))
        assert len(images) == 11  # ComfyUI draws all steps, whatever the strength
        [(name, data)] = comfy.uploads.items()
        assert comfy.posted[0]["prompt"]["10"]["inputs"]["image"] == name
        assert comfy.posted[0]["prompt"]["3"]["inputs"]["denoise"] == 0.5
        with Image.open(io.BytesIO(data)) as uploaded:
            assert (uploaded.size, uploaded.format) == ((160, 96), "PNG")

    async def test_a_preview_larger_than_a_mebibyte_comes_through(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, preview_noise=2 * 2**20))) as engine:
            assert len(await drawn(engine, recipe())) == 5

    async def test_a_preview_that_is_no_picture_is_passed_over(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, bad_preview=2))) as engine:
            assert [image.step for image in await drawn(engine, recipe())] == [1, 2, 3, 4]

    @pytest.mark.pace
    async def test_times_are_of_arrival_however_slow_the_consumer(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, step_seconds=0.02))) as engine:
            durations = []
            async with engine.render(recipe()) as images:
                async for image in images:
                    durations.append(image.duration)
                    await asyncio.sleep(0.25)
        assert max(durations) < 0.2

    async def test_a_token_is_brought_to_both(self) -> None:
        comfy = ComfyUI(replace(MODERN, wants="open sesame"))
        async with engine_on(comfy, token=SecretStr("open sesame")) as engine:
            assert len(await drawn(engine, recipe())) == 5
            assert "sesame" not in repr(engine) + engine.name


class TestTraps:
    async def test_the_same_recipe_again_is_no_cache_hit(self) -> None:
        comfy = ComfyUI()
        async with engine_on(comfy) as engine:
            for _ in range(2):
                assert len(await drawn(engine, recipe())) == 5
        one, other = (body["prompt"]["3"]["inputs"] for body in comfy.posted)
        assert one["seed"] == other["seed"] == 1
        assert one[RUN_INPUT] != other[RUN_INPUT]

    async def test_where_everything_is_cached_the_final_image_comes_alone(self) -> None:
        comfy = ComfyUI(replace(MODERN, cache_everything=True))
        async with engine_on(comfy) as engine:
            first = await drawn(engine, recipe())
            [only] = await drawn(engine, recipe())
        assert (only.step, only.steps, only.final) == (1, 1, True)
        assert only.duration >= FLOOR
        assert only.image == first[-1].image

    async def test_every_run_has_a_client_id_of_its_own(self) -> None:
        comfy = ComfyUI()
        async with engine_on(comfy) as engine:
            for _ in range(3):
                await drawn(engine, recipe(steps=1))
        assert len(set(comfy.client_ids)) == 3
        assert comfy.client_ids == [body["client_id"] for body in comfy.posted]

    async def test_without_a_preview_method_there_are_no_previews(self) -> None:
        async with engine_on(ComfyUI(), preview_method="none") as engine:
            [only] = await drawn(engine, recipe())
        assert only.final
        assert only.duration > 0.01

    async def test_a_socket_that_falls_silent_costs_previews_only(self) -> None:
        comfy = ComfyUI(replace(MODERN, mute_at=3))
        async with engine_on(comfy, silence=0.2) as engine:
            images = await drawn(engine, recipe())
            assert [image.final for image in images] == [False, False, True]
            assert images[-1].steps == 3
            comfy.behaviour.mute_at = None
            assert len(await drawn(engine, recipe())) == 5

    async def test_a_socket_that_closes_is_opened_again(self) -> None:
        comfy = ComfyUI(replace(MODERN, drop_at=2, step_seconds=0.2))
        async with engine_on(comfy, silence=2.0) as engine:
            images = await drawn(engine, recipe(steps=8))
        assert images[-1].final
        # Those between are lost; the numbers have no gap, and the time is in the next one.
        assert 4 <= len(images) < 9
        assert [image.step for image in images] == list(range(1, len(images) + 1))
        assert max(image.duration for image in images) > 0.35
        assert comfy.client_ids == [comfy.client_ids[0]] * 2

    @pytest.mark.pace
    async def test_the_end_is_told_before_the_history_is_written(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, history_seconds=0.4))) as engine:
            *_, final = await drawn(engine, recipe())
        assert final.final
        assert final.duration < 0.3

    @pytest.mark.pace
    async def test_a_prompt_that_waits_for_its_turn_is_not_given_up(self) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.1))
        async with engine_on(comfy, silence=0.3, give_up=0.8) as engine:
            ahead = asyncio.create_task(drawn(engine, recipe(steps=20)))
            await until(lambda: comfy.running is not None)
            images = await drawn(engine, recipe(seed=2))
            assert len(await ahead) == 21
        assert len(images) == 5
        assert images[0].duration < 0.5


class TestStopping:
    async def test_leaving_interrupts_that_prompt(self) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.05))
        async with engine_on(comfy) as engine:
            async with engine.render(recipe(steps=200)) as images:
                async for _ in images:
                    break
            prompt_id = comfy.posted[0]["prompt_id"]
            assert comfy.interrupts == comfy.deleted == [prompt_id]
            await until(lambda: comfy.running is None)
            assert comfy.interrupted == [prompt_id]

    @pytest.mark.parametrize("own_ids", [False, True])
    async def test_a_prompt_still_waiting_is_taken_out_of_the_queue(self, own_ids: bool) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.05, own_ids=own_ids))
        async with engine_on(comfy) as engine:
            ahead = asyncio.create_task(drawn(engine, recipe(steps=12)))
            await until(lambda: comfy.running is not None)
            behind = asyncio.create_task(drawn(engine, recipe(seed=2)))
            await until(lambda: comfy.pending)
            behind.cancel()
            await asyncio.wait({behind})
            assert comfy.pending == []
            assert len(await ahead) == 13
            assert comfy.interrupted == []

    async def test_cancelled_while_it_is_being_posted_it_is_stopped_all_the_same(self) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.1, busy_seconds=0.3, own_ids=True))
        async with engine_on(comfy) as engine:
            async with anyio.create_task_group() as group:
                group.start_soon(drawn, engine, recipe(steps=200))
                await until(lambda: comfy.posted)
                group.cancel_scope.cancel()
            await until(lambda: comfy.running is None)
            assert len(comfy.interrupted) == 1
            TestContract().check_no_task_is_left()

    @pytest.mark.parametrize("queue", [[], {"queue_running": 5}, {"queue_running": [{}, None, 7]}])
    async def test_a_queue_that_makes_no_sense_stops_nobody_from_leaving(
        self, queue: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.05))

        async def odd(_request: Request) -> Response:
            return JSONResponse(queue)

        monkeypatch.setattr(comfy, "_get_queue", odd)
        async with engine_on(comfy) as engine, engine.render(recipe(steps=200)) as images:
            await anext(images)
        assert "GET /queue" in comfy.asked

    async def test_what_has_ended_is_not_stopped(self) -> None:
        comfy = ComfyUI()
        async with engine_on(comfy) as engine:
            await drawn(engine, recipe())
        assert comfy.interrupts == comfy.deleted == []


class TestFailures:
    async def test_a_node_that_raises_is_named(self) -> None:
        comfy = ComfyUI(replace(MODERN, fail_at=2))
        async with engine_on(comfy) as engine:
            with pytest.raises(DrawingFailed, match=r"node 3 \(KSampler\).*Allocation on device"):
                await drawn(engine, recipe())
        assert comfy.interrupts == []

    async def test_also_where_only_the_history_tells(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, mute_at=1, fail_at=3)), silence=0.2) as engine:
            with pytest.raises(DrawingFailed, match=r"node 3 \(KSampler\).*Allocation on device"):
                await drawn(engine, recipe())

    async def test_a_refused_prompt_names_the_node_and_the_input(self) -> None:
        nodes = workflow(sampler_name="eulr")
        async with engine_on(ComfyUI(), nodes) as engine:
            with pytest.raises(RecipeRefused, match=r"node 3 \(KSampler\).*'eulr' not in"):
                await drawn(engine, recipe())

    async def test_interrupted_by_somebody_else(self) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.05))
        async with engine_on(comfy) as engine:
            drawing = asyncio.create_task(drawn(engine, recipe(steps=100)))
            await until(lambda: comfy.running is not None)
            comfy._interrupt = True
            with pytest.raises(DrawingFailed, match="interrupted by somebody else"):
                await drawing

    async def test_a_server_that_forgot_is_found_out(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, forget_at=2)), silence=0.2) as engine:
            with pytest.raises(DrawingFailed, match="lost the prompt"):
                await drawn(engine, recipe())

    async def test_a_server_that_stands_still_is_given_up(self) -> None:
        comfy = ComfyUI(replace(MODERN, hang_at=3))
        async with engine_on(comfy, silence=0.1, give_up=0.4) as engine:
            with pytest.raises(DrawingFailed, match="no progress"):
                await drawn(engine, recipe())
        assert len(comfy.interrupts) == 1

    async def test_no_image_at_the_end(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, save=False))) as engine:
            with pytest.raises(DrawingFailed, match="without an image of any node"):
                await drawn(engine, recipe())
        async with engine_on(ComfyUI(), output="12") as engine:
            with pytest.raises(DrawingFailed, match="without an image of node 12"):
                await drawn(engine, recipe())

    async def test_nobody_there(self) -> None:
        async with httpx.AsyncClient() as client:
            engine = ComfyUIEngine(client, "http://127.0.0.1:9", workflow())
            with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9"):
                await drawn(engine, recipe())

    async def test_not_let_in(self) -> None:
        async with engine_on(ComfyUI(replace(MODERN, wants="a token"))) as engine:
            with pytest.raises(EngineDenied, match="401"):
                await drawn(engine, recipe())

    async def test_it_goes_away_in_the_middle(self) -> None:
        comfy = ComfyUI(replace(MODERN, step_seconds=0.1))
        async with httpx.AsyncClient() as client:
            async with comfy.listening() as url:
                engine = ComfyUIEngine(client, url, workflow(), silence=0.1)
                drawing = asyncio.create_task(drawn(engine, recipe(steps=50)))
                await until(lambda: comfy.running is not None)
            async with asyncio.timeout(10):
                with pytest.raises(EngineUnavailable):
                    await drawing

    async def test_a_base_that_is_none(self) -> None:
        async with engine_on(ComfyUI(), workflow_from_base()) as engine:
            for strength in (0.0, 0.5):
                with pytest.raises(RecipeRefused, match="base image"):
                    await drawn(engine, from_base(strength, base=b"not an image"))


class TestWorkflow:
    def refusal(self, nodes: dict[str, Any], wanted: Recipe | None = None) -> str:
        with pytest.raises(RecipeRefused) as caught:
            Workflow(nodes).check(wanted or recipe())
        return str(caught.value)

    def test_placeholders_that_are_missing_or_unknown_are_named(self) -> None:
        nodes = workflow(seed=1, denoise="{strenght}")
        nodes["6"]["inputs"]["text"] = "a {cat}"
        text = self.refusal(nodes)
        assert "unknown placeholders {cat}, {strenght}" in text
        assert "no place for {prompt}, {seed}" in text

    def test_image_to_image_needs_its_places_and_text_to_image_has_none(self) -> None:
        assert "no place for {base_image}, {strength}" in self.refusal(workflow(), from_base(0.5))
        text = self.refusal(workflow_from_base())
        assert "the recipe has no value for {base_image}, {strength}" in text

    def test_nothing_of_a_recipe_is_lost_in_silence(self) -> None:
        nodes = workflow()
        nodes["7"]["inputs"]["text"] = ""
        wanted = recipe().model_copy(
            update={
                "negative_prompt": "people",
                "scheduler": "ddim",
                "loras": (Lora(model="ink.safetensors", weight=0.5),),
            }
        )
        assert "no place for {lora_1}, {negative_prompt}, {scheduler}" in self.refusal(
            nodes, wanted
        )
        nodes["7"]["inputs"]["text"] = "{negative_prompt}"
        nodes["3"]["inputs"]["sampler_name"] = "{scheduler}"
        nodes["20"] = {
            "class_type": "LoraLoader",
            "inputs": {"lora_name": "{lora_1}", "strength_model": "{lora_1_weight}"},
        }
        filled = Workflow(nodes)
        filled.check(wanted)
        inputs = filled.filled(wanted, "", "run")["20"]["inputs"]
        assert inputs == {"lora_name": "ink.safetensors", "strength_model": 0.5}

    def test_braces_of_a_prompt_are_its_own(self) -> None:
        nodes = workflow()
        nodes["6"]["inputs"]["text"] = "{prompt} {{seed}} {a|b} {seed}"
        prompt = recipe(prompt="{steps}", seed=7)
        filled = Workflow(nodes)
        filled.check(prompt)
        assert filled.filled(prompt, "", "run")["6"]["inputs"]["text"] == "{steps} {seed} {a|b} 7"
        assert nodes["6"]["inputs"]["text"] == "{prompt} {{seed}} {a|b} {seed}"

    @pytest.mark.parametrize("nodes", [{}, {"nodes": [], "links": []}, {"3": {"class_type": "K"}}])
    def test_only_the_api_format_is_taken(self, nodes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="API format"):
            Workflow(nodes)


class TestMessages:
    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\0\0\0\1",
            struct.pack(">II", 4, 10_000) + b"{}",
            struct.pack(">I", 3) + b"text",
            "[1]",
            "not JSON",
            '{"type": 3, "data": {}}',
            '{"type": "progress"}',
        ],
    )
    def test_what_is_no_message_of_ours_is_none(self, message: str | bytes) -> None:
        assert parse(message) is None

    def test_previews_with_and_without_metadata(self) -> None:
        assert parse(struct.pack(">II", 1, 2) + b"png") == Preview(b"png")
        text = json.dumps({"node_id": "3", "prompt_id": "p"}).encode()
        message = struct.pack(">II", 4, len(text)) + text + b"jpg"
        assert parse(message) == Preview(b"jpg", "3", "p")

    def test_a_second_pass_goes_on_where_the_first_ended(self) -> None:
        progress = Progress(0.0)
        placed = []
        at = 0.0
        for node in ("3", "12"):
            for value in (1, 2):
                at += 0.5
                state = {"value": value, "max": 2, "node": node, "prompt_id": "p"}
                progress.heard(Event("progress", state), at)
                placed.append(progress.place(Preview(b"", node), at + 0.1))
        assert [p.duration for p in placed] == [0.5] * 4
        assert [p.left for p in placed] == [1, 0, 1, 0]
        assert [p.timestep for p in placed] == [1000.0, 500.0, 500.0, 500.0]

    @pytest.mark.parametrize("state", [{}, {"value": "1"}, {"value": 3, "max": 0}, {"value": True}])
    def test_progress_that_is_none_is_not_believed(self, state: dict[str, Any]) -> None:
        progress = Progress(0.0)
        progress.heard(Event("progress", {**state, "node": "3"}), 1.0)
        progress.heard(Event("progress_state", {"nodes": [state]}), 1.0)
        assert progress.place(Preview(b""), 2.0).duration == 2.0

    def test_what_comes_at_once_still_takes_time(self) -> None:
        progress = Progress(5.0)
        assert progress.place(Preview(b""), 5.0).duration == FLOOR
