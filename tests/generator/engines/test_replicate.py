from __future__ import annotations

import asyncio
import base64
import email.utils
import io
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr

from generator.engines.port import (
    DrawingFailed,
    Engine,
    EngineDenied,
    EngineError,
    EngineUnavailable,
    RecipeRefused,
)
from generator.engines.replicate import engine as replicate
from generator.engines.replicate.engine import ReplicateEngine, _retry_after
from generator.engines.replicate.settings import ReplicateSection
from generator.sheet.recipe import Lora
from tests.contracts.engine_contract import (
    AddressedEngineContract,
    drawn,
    from_base,
    recipe,
)
from tests.generator.engines.replicate_server import TOKEN, Replicate

MODEL = "somebody/paints"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicate, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(replicate, "_LONGEST_PAUSE", 0.1)


def settings_of(**settings: Any) -> ReplicateSection:
    return ReplicateSection(name="cloud", **{"model": MODEL, **settings})


@asynccontextmanager
async def engine_on(
    server: Replicate,
    *,
    token: str = TOKEN,
    wait: int = replicate.WAIT,
    deadline: float = replicate.DEADLINE,
    **settings: Any,
) -> AsyncIterator[ReplicateEngine]:
    async with server.listening() as url, httpx.AsyncClient() as client:
        section, secret = settings_of(url=url, **settings), SecretStr(token)
        yield ReplicateEngine(client, section, token=secret, wait=wait, deadline=deadline)
        assert "begun there" not in {task.get_name() for task in asyncio.all_tasks()}


class TestContract(AddressedEngineContract):
    tasks = frozenset({"begun there"})

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with engine_on(Replicate()) as engine:
            yield engine

    # There is one image only, so there is no stopping after the first: see `TestStopping`.
    async def test_cancelling_frees_everything_promptly(self, engine: Engine) -> None:
        task = asyncio.create_task(drawn(engine, recipe()))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.check_no_task_is_left()
        assert (await drawn(engine, recipe()))[-1].final


class TestAsking:
    async def test_a_model_or_a_version_has_its_own_address(self) -> None:
        for model, path, version in (
            (MODEL, f"/v1/models/{MODEL}/predictions", None),
            (f"{MODEL}:abc", "/v1/predictions", "abc"),
            ("abc", "/v1/predictions", "abc"),
        ):
            server = Replicate()
            async with engine_on(server, model=model, deadline=90) as engine:
                await drawn(engine, recipe())
                assert engine.name == f"replicate {model}"
            [(asked, body, headers)] = server.posted
            assert (asked, body.get("version")) == (path, version)
            assert headers["prefer"] == "wait=2"
            assert headers["cancel-after"] == "90s"

    async def test_inputs_go_by_the_models_names(self) -> None:
        server = Replicate()
        names = {"prompt": "text", "seed": "seed", "steps": "n", "base_image": "init"}
        extra = {"output_format": "png", "n": 1}
        async with engine_on(server, inputs=names, extra_inputs=extra) as engine:
            await drawn(engine, recipe(seed=5, steps=4))
        assert server.posted[0][1]["input"] == {
            "text": "boats on the sea",
            "seed": 5,
            "n": 4,
            "output_format": "png",
        }

    async def test_a_base_image_goes_along_in_the_recipes_size(self) -> None:
        server = Replicate()
        async with engine_on(server) as engine:
            await drawn(engine, from_base(0.5))
            with pytest.raises(RecipeRefused, match="base image"):
                await drawn(engine, from_base(0.5, base=b"not an image"))
        [(_, body, _)] = server.posted
        assert body["input"]["prompt_strength"] == 0.5
        head, _, data = body["input"]["image"].partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
            assert sent.size == (160, 96)

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"negative_prompt": "people"}, "negative_prompt"),
            ({"scheduler": "ddim"}, "scheduler"),
            ({"loras": (Lora(model="ink"),)}, "loras"),
        ],
    )
    async def test_nothing_of_a_recipe_is_lost_in_silence(
        self, change: dict[str, Any], name: str
    ) -> None:
        server = Replicate()
        async with engine_on(server, inputs={"prompt": "prompt", "seed": "seed"}) as engine:
            with pytest.raises(RecipeRefused, match=name):
                await drawn(engine, recipe().model_copy(update=change))
            with pytest.raises(RecipeRefused, match="base_image, strength"):
                await drawn(engine, from_base(0.5))
        assert server.posted == []


class TestWaiting:
    async def test_past_the_held_request_it_is_asked_after(self) -> None:
        server = Replicate(seconds=1.3)
        async with engine_on(server, wait=1) as engine:
            [image] = await drawn(engine, recipe())
        assert image.duration == 1.25
        assert ("GET /v1/predictions/p0", f"Bearer {TOKEN}") in server.asked
        assert server.cancelled == []

    @pytest.mark.pace
    async def test_the_duration_is_measured_here_where_replicate_does_not_say(self) -> None:
        for silent in (None, -1.0):
            server = Replicate(seconds=0.2, predict_time=silent)
            async with engine_on(server) as engine:
                [image] = await drawn(engine, recipe())
            assert 0.2 <= image.duration < 1.0

    async def test_trouble_with_asking_passes(self) -> None:
        server = Replicate(seconds=1.1, refuse_get=[502, 429, 500], headers={"retry-after": "0"})
        async with engine_on(server, wait=1) as engine:
            assert len(await drawn(engine, recipe())) == 1

    async def test_trouble_that_does_not_pass_is_told(self) -> None:
        server = Replicate(seconds=5, refuse_get=[500] * 50)
        async with engine_on(server, wait=1) as engine:
            with pytest.raises(EngineUnavailable, match="500"):
                await drawn(engine, recipe())
        assert server.cancelled == ["p0"]

    async def test_the_deadline_cancels_it(self) -> None:
        server = Replicate(seconds=30)
        async with engine_on(server, wait=1, deadline=1.2) as engine:
            with pytest.raises(DrawingFailed, match=r"longer than 1\.2 s"):
                await drawn(engine, recipe())
        assert server.cancelled == ["p0"]


class TestOutput:
    @pytest.mark.parametrize("output", ["list", "text", "data", "redirect"])
    async def test_is_fetched_however_it_is_given(self, output: str) -> None:
        async with engine_on(Replicate(output=output)) as engine:
            [image] = await drawn(engine, recipe())
        assert image.media_type == "image/png"
        with Image.open(io.BytesIO(image.image)) as opened:
            assert opened.size == (160, 96)

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("gone", "answered 404"),
            ("nothing", "no file's address"),
            ("no image", "no jpg, png or webp"),
            ("bad data", "not base64"),
        ],
    )
    async def test_that_is_no_image(self, output: str, message: str) -> None:
        async with engine_on(Replicate(output=output)) as engine:
            with pytest.raises(DrawingFailed, match=message):
                await drawn(engine, recipe())


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "error", "message"),
        [
            (401, EngineDenied, "401"),
            (402, EngineUnavailable, "402"),
            (404, RecipeRefused, "404"),
            (422, RecipeRefused, "must be one of 512, 768"),
            (500, EngineUnavailable, "500"),
        ],
    )
    async def test_by_status(self, status: int, error: type[EngineError], message: str) -> None:
        async with engine_on(Replicate(refuse=[status])) as engine:
            with pytest.raises(error, match=message):
                await drawn(engine, recipe())

    async def test_a_failed_prediction_says_why(self) -> None:
        server = Replicate(fails=f"NSFW content detected ({TOKEN})")
        async with engine_on(server) as engine:
            with pytest.raises(DrawingFailed, match="failed: NSFW content") as caught:
                await drawn(engine, recipe())
        assert TOKEN not in str(caught.value)

    @pytest.mark.parametrize("date", [False, True])
    async def test_busy_waits_as_long_as_it_is_told(self, date: bool) -> None:
        when = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        server = Replicate(refuse=[429], headers={"retry-after": when if date else "1"})
        begun = time.monotonic()
        async with engine_on(server) as engine:
            assert len(await drawn(engine, recipe())) == 1
        assert 0.8 < time.monotonic() - begun < 10
        assert len(server.posted) == 2

    @pytest.mark.parametrize("years", [-1, 0, 1, 10])
    def test_a_date_to_wait_for_is_a_span_by_the_senders_clock(self, years: int) -> None:
        now = datetime.now(UTC) + timedelta(days=365 * years)
        date, until = (
            email.utils.format_datetime(each, usegmt=True)
            for each in (now, now + timedelta(seconds=7))
        )
        response = httpx.Response(429, headers={"retry-after": until, "date": date})
        assert _retry_after(response) == 7.0

    async def test_busy_for_too_long_is_unavailable_at_once(self) -> None:
        server = Replicate(refuse=[429], headers={"retry-after": "3600"})
        async with engine_on(server) as engine:
            with pytest.raises(EngineUnavailable, match="429"):
                await drawn(engine, recipe())
        assert len(server.posted) == 1

    async def test_busy_again_and_again_is_unavailable(self) -> None:
        server = Replicate(refuse=[429] * 20)
        async with engine_on(server) as engine:
            with pytest.raises(EngineUnavailable, match="429"):
                await drawn(engine, recipe())
        assert 2 < len(server.posted) < 10


class TestStopping:
    async def test_leaving_while_it_is_asked_after_cancels_it(self) -> None:
        server = Replicate(seconds=30)
        async with engine_on(server, wait=1) as engine:
            task = asyncio.create_task(drawn(engine, recipe()))
            for _ in range(300):
                if any(asked.startswith("GET") for asked, _ in server.asked):
                    break
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert server.cancelled == ["p0"]

    async def test_leaving_while_the_request_is_held_waits_for_its_name(self) -> None:
        server = Replicate(seconds=30)
        async with engine_on(server, wait=1) as engine:
            task = asyncio.create_task(drawn(engine, recipe()))
            await asyncio.sleep(0.2)
            task.cancel()
            begun = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begun < 10
        assert server.cancelled == ["p0"]

    async def test_what_is_drawn_is_not_cancelled(self) -> None:
        server = Replicate()
        async with engine_on(server) as engine:
            await drawn(engine, recipe())
        assert server.cancelled == []


class TestTheToken:
    async def test_goes_nowhere_but_to_the_api(self) -> None:
        server = Replicate(seconds=1.2, output="list", foreign=True)
        async with engine_on(server, wait=1) as engine:
            await drawn(engine, recipe())
        # The prediction's own addresses led elsewhere: it was asked for by its name.
        assert ("GET /v1/predictions/p0", f"Bearer {TOKEN}") in server.asked

    async def test_does_not_go_with_files_of_another_host(self) -> None:
        seen: list[httpx.Request] = []
        elsewhere = "https://replicate.delivery/out.png"

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            if request.method == "POST":
                return httpx.Response(201, json={"status": "succeeded", "output": [elsewhere]})
            return httpx.Response(404)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            engine = ReplicateEngine(client, settings_of(), token=SecretStr(TOKEN))
            with pytest.raises(DrawingFailed, match="404"):
                await drawn(engine, recipe())
        assert "authorization" in seen[0].headers
        assert seen[0].url.host == "api.replicate.com"
        assert "authorization" not in seen[1].headers

    async def test_is_in_no_message(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        wrong = "r8_a_token_of_nobody"
        async with engine_on(Replicate(), token=wrong) as engine:
            with pytest.raises(EngineDenied, match="401") as caught:
                await drawn(engine, recipe())
            told = [str(caught.value), repr(caught.value), repr(engine), engine.name]
        told += [record.getMessage() for record in caplog.records]
        assert not [text for text in told if wrong in text]
