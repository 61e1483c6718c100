from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook
from starlette.applications import Starlette

from cache.stores.memory import MemoryStore
from cache.untrusted import Unfit
from generator.engines.callback.answer import MAX_IMAGE, answer_of
from generator.engines.callback.engine import CallbackEngine, connect_engine
from generator.engines.callback.inbox import (
    MAX_CALLBACK,
    CallbackInbox,
    CallbackReceipt,
    callback_inbox,
)
from generator.engines.callback.settings import CallbackSection
from generator.engines.inbox import Inbox, LateAnswer
from generator.engines.port import (
    DrawingFailed,
    Engine,
    EngineDenied,
    EngineError,
    EngineUnavailable,
    RecipeRefused,
    StepImage,
)
from generator.engines.settings import BadEngine, EngineAccess, NotReady
from generator.outgoing import outgoing_client
from generator.sets.recorder import PlannedSet, Recorder
from generator.sheet.description import Description
from generator.sheet.recipe import Lora
from tests.contracts.engine_contract import AddressedEngineContract, drawn, from_base, recipe
from tests.generator.engines.callback_server import (
    OTHER_SECRET,
    SECRET,
    TOKEN,
    CallbackGenerator,
    Manner,
    WebhookRoute,
    as_sent,
    completed,
    picture,
    signed,
)
from tests.generator.engines.comfyui_server import serving

DOCS = Path(__file__).parents[3] / "docs" / "engines.md"
NOW = 1_900_000_000.0


def settings_of(**settings: Any) -> CallbackSection:
    given = {"url": "http://gpu.example/draw", "answers_to": "https://studio.example/hook"}
    return CallbackSection(name="modal", **{**given, **settings})


def code_of(receipt: CallbackReceipt) -> str | None:
    return None if receipt.refusal is None else receipt.refusal.code


@asynccontextmanager
async def engine_on(
    generator: CallbackGenerator,
    route: WebhookRoute | None = None,
    *,
    token: str = TOKEN,
    **settings: Any,
) -> AsyncIterator[CallbackEngine]:
    taking = WebhookRoute() if route is None else route
    async with (
        taking.listening() as webhook,
        generator.listening() as url,
        outgoing_client() as client,
    ):
        section = settings_of(**{"url": url, "answers_to": webhook, "within": 20, **settings})
        access = EngineAccess(client=client, token=SecretStr(token), inbox=taking.inbox)
        engine = connect_engine(section, access)
        yield engine
        assert taking.inbox._open == {}


class TestContract(AddressedEngineContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with engine_on(CallbackGenerator()) as engine:
            yield engine

    # There is one image only, so there is no stopping after the first: see `TestLate`.
    async def test_cancelling_frees_everything_promptly(self, engine: Engine) -> None:
        task = asyncio.create_task(drawn(engine, recipe()))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await drawn(engine, recipe()))[-1].final


class TestAsking:
    async def test_it_is_told_what_to_draw_and_where_to_answer(self) -> None:
        generator = CallbackGenerator()
        async with engine_on(generator, style="Watercolor") as engine:
            wanted = recipe(seed=5, steps=7).model_copy(update={"negative_prompt": "people"})
            await drawn(engine, wanted)
            answers_to = engine.settings.answers_to
            assert engine.name == f"callback {engine.settings.url}"
        [asked] = generator.asked
        assert re.fullmatch(r"[0-9a-f-]{36}", asked.pop("job_id"))
        assert asked == {
            "prompt": "boats on the sea",
            "negative_prompt": "people",
            "width": 160,
            "height": 96,
            "seed": 5,
            "steps": 7,
            "style": "Watercolor",
            "webhook_url": answers_to,
        }
        assert generator.authorization == [f"Bearer {TOKEN}"]

    async def test_no_drawing_has_the_id_of_another_and_no_style_is_none(self) -> None:
        generator = CallbackGenerator()
        async with engine_on(generator) as engine:
            await asyncio.gather(*(drawn(engine, recipe(seed=seed)) for seed in range(8)))
        assert len({asked["job_id"] for asked in generator.asked}) == 8
        assert not any("style" in asked for asked in generator.asked)

    async def test_drawings_at_once_each_get_their_own_picture(self) -> None:
        generator = CallbackGenerator()
        async with engine_on(generator) as engine:
            found = await asyncio.gather(*(drawn(engine, recipe(seed=n)) for n in range(8)))
        wanted = [picture({"width": 160, "height": 96, "seed": n}) for n in range(8)]
        assert [image.image for [image] in found] == wanted

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"scheduler": "ddim"}, "scheduler"),
            ({"loras": (Lora(model="ink"),)}, "loras"),
            ({"width": 8192, "height": 8192}, "40000000 pixels at most, not for 8192 x 8192"),
        ],
    )
    async def test_nothing_of_a_recipe_is_lost_in_silence(
        self, change: dict[str, Any], name: str
    ) -> None:
        generator = CallbackGenerator()
        async with engine_on(generator) as engine:
            with pytest.raises(RecipeRefused, match=name):
                await drawn(engine, recipe().model_copy(update=change))
            with pytest.raises(RecipeRefused, match="base_image, strength"):
                await drawn(engine, from_base(0.5))
        assert generator.asked == []

    def test_where_nobody_takes_answers_in_it_is_told_at_once(self) -> None:
        access = EngineAccess(client=outgoing_client())
        with pytest.raises(BadEngine, match=r"understudy studio.*UNDERSTUDY_CALLBACK_SECRET"):
            connect_engine(settings_of(), access)


class TestAnswers:
    @pytest.mark.parametrize("taken", ["later", "plainly", "at once", "lost"])
    async def test_come_by_the_webhook_or_at_once(self, taken: str) -> None:
        generator = CallbackGenerator(taken=taken)
        async with engine_on(generator) as engine:
            [image] = await drawn(engine, recipe(seed=3))
        assert image == StepImage(
            1, 1, True, None, image.duration, picture(generator.asked[0]), "image/png"
        )

    @pytest.mark.parametrize(
        ("told", "measured"),
        [
            (1, True),
            (12.5, True),
            (3_600_000, False),
            (0, False),
            (-5, False),
            ("12", False),
            (True, False),
            (None, False),
            (float("inf"), False),
        ],
    )
    async def test_say_how_long_it_took_if_that_is_possible(
        self, told: object, measured: bool
    ) -> None:
        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            return completed(asked, processing_time_ms=told)

        generator = CallbackGenerator(seconds=0.05, answer=answer)
        async with engine_on(generator) as engine:
            [image] = await drawn(engine, recipe())
        if measured:
            assert isinstance(told, int | float)
            assert image.duration == told / 1000
        else:
            assert 0.05 <= image.duration < 20.0

    async def test_may_wrap_base64_and_say_what_it_is(self) -> None:
        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            text = base64.encodebytes(picture(asked)).decode()
            return completed(asked, image_base64=f"data:image/png;base64,{text}", unknown={})

        async with engine_on(CallbackGenerator(answer=answer)) as engine:
            assert (await drawn(engine, recipe()))[-1].final

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image_base64": base64.b64encode(b"no picture").decode()}, "expected jpg, png"),
            ({"image_base64": "*"}, "image_base64: expected the picture in base64"),
            ({"image_base64": "\N{SNOWMAN}"}, "image_base64: expected the picture in base64"),
            ({"image_base64": ""}, "found none"),
            ({"image_base64": None}, "found none"),
            ({"image_base64": 5}, "found none"),
            ({"status": "failed", "error": "CUDA out of memory"}, "CUDA out of memory"),
            ({"status": "failed"}, "it does not say why"),
            ({"status": "failed", "error": {"a": 1}}, "it does not say why"),
            ({"status": "failed", "error": f"why {TOKEN}\n\x1b[31m" + "x" * 999}, "why …"),
        ],
    )
    @pytest.mark.parametrize("taken", ["later", "at once"])
    async def test_that_bring_no_picture_fail_the_drawing(
        self, change: dict[str, Any], message: str, taken: str
    ) -> None:
        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            return completed(asked) | change

        async with engine_on(CallbackGenerator(answer=answer, taken=taken)) as engine:
            with pytest.raises(DrawingFailed, match=message) as caught:
                await drawn(engine, recipe())
        assert TOKEN not in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600

    @pytest.mark.parametrize("size", [(96, 160), (159, 96), (1600, 960)])
    async def test_of_another_size_fail_the_drawing(self, size: tuple[int, int]) -> None:
        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            image = base64.b64encode(picture(asked, size)).decode()
            return completed(asked, image_base64=image)

        found = f"160 x 96 pixels, found {size[0]} x {size[1]}"
        async with engine_on(CallbackGenerator(answer=answer)) as engine:
            with pytest.raises(DrawingFailed, match=found):
                await drawn(engine, recipe())

    @pytest.mark.parametrize("kind", ["cut short", "bomb", "gif"])
    async def test_that_hold_no_whole_picture_fail_the_drawing(self, kind: str) -> None:
        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            buffer = io.BytesIO()
            match kind:
                case "cut short":
                    buffer.write(picture(asked)[:-500])
                case "bomb":
                    Image.new("1", (8000, 6000)).save(buffer, "PNG")
                case _:
                    Image.new("L", (160, 96)).save(buffer, "GIF")
            return completed(asked, image_base64=base64.b64encode(buffer.getvalue()).decode())

        async with engine_on(CallbackGenerator(answer=answer)) as engine:
            with pytest.raises(DrawingFailed):
                await drawn(engine, recipe())


async def test_a_set_is_recorded_with_it() -> None:
    generator, store = CallbackGenerator(), MemoryStore()
    async with engine_on(generator) as engine:
        meta = await Recorder(engine, store, alone=True).record_planned(
            PlannedSet("lamp", 0, recipe(seed=9), Description())
        )
    assert (meta.total_steps, meta.timing, meta.engine) == (1, "measured", engine.name)
    [image] = [data for key, data in store.contents.items() if key.endswith(".png")]
    assert image == picture({"width": 160, "height": 96, "seed": 9})


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, RecipeRefused),
            (422, RecipeRefused),
            (401, EngineDenied),
            (403, EngineDenied),
            (404, EngineUnavailable),
            (429, EngineUnavailable),
            (303, EngineUnavailable),
            (500, EngineUnavailable),
            (503, EngineUnavailable),
        ],
    )
    async def test_by_status(self, status: int, error: type[EngineError]) -> None:
        generator = CallbackGenerator(refuse=[status], headers={"retry-after": "120"})
        async with engine_on(generator) as engine:
            with pytest.raises(error, match=rf"{status}: no \(.* after 120\)") as caught:
                await drawn(engine, recipe())
        assert type(caught.value) is error

    async def test_a_wrong_token_is_told_without_it(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        wrong = "a-token-of-nobody"
        async with engine_on(CallbackGenerator(), token=wrong) as engine:
            with pytest.raises(EngineDenied, match="401: no such token: Bearer …") as caught:
                await drawn(engine, recipe())
            told = [str(caught.value), repr(caught.value), repr(engine), engine.name]
        told += [record.getMessage() for record in caplog.records]
        assert not [text for text in told if wrong in text]

    @pytest.mark.parametrize(
        ("taken", "error", "message"),
        [
            ("page", EngineUnavailable, "with a page, not with JSON"),
            ("reset", EngineUnavailable, "peer closed"),
            ("failed at once", DrawingFailed, "out of memory"),
            ("nonsense", DrawingFailed, "image_base64"),
        ],
    )
    async def test_a_bad_answer_to_the_request_is_not_waited_behind(
        self, taken: str, error: type[EngineError], message: str
    ) -> None:
        async with engine_on(CallbackGenerator(taken=taken), within=300) as engine:
            async with asyncio.timeout(20):
                with pytest.raises(error, match=message):
                    await drawn(engine, recipe())

    @pytest.mark.parametrize("taken", ["later", "at once"])
    async def test_what_never_comes_is_lost_after_its_time(self, taken: str) -> None:
        generator = CallbackGenerator(seconds=60, taken=taken)
        async with engine_on(generator, within=0.3) as engine:
            with pytest.raises(EngineUnavailable, match=r"no picture in 0\.3 s; can it reach http"):
                await drawn(engine, recipe())


class TestWebhooks:
    """Over real sockets, by the reference library."""

    @pytest.mark.parametrize(
        ("sends", "posted"),
        [
            (("signed", "signed", "signed"), [200, 200, 200]),
            (("unsigned", "forged", "by another secret", "signed"), [401, 401, 401, 200]),
            (("old", "early", "other body", "page", "signed"), [401, 401, 401, 400, 200]),
        ],
    )
    async def test_one_that_is_good_is_enough_and_counts_once(
        self, sends: tuple[Manner, ...], posted: list[int]
    ) -> None:
        generator, route = CallbackGenerator(sends=sends), WebhookRoute()
        async with engine_on(generator, route) as engine:
            assert len(await drawn(engine, recipe())) == 1
            await generator.finished()
        assert generator.posted == posted
        assert [receipt.effect for receipt in route.receipts].count(True) == 1

    @pytest.mark.parametrize("manner", ["unsigned", "forged", "old", "page", "by another secret"])
    async def test_one_that_is_bad_finishes_nothing(self, manner: Manner) -> None:
        generator, route = CallbackGenerator(sends=(manner,)), WebhookRoute()
        async with engine_on(generator, route, within=1.0) as engine:
            with pytest.raises(EngineUnavailable, match=r"no picture in 1 s"):
                await drawn(engine, recipe())
        assert [receipt.effect for receipt in route.receipts] == [False]

    async def test_a_word_on_the_way_is_refused_and_ends_nothing(self) -> None:
        words = iter(["processing", "completed"])

        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            return completed(asked, status=next(words))

        generator = CallbackGenerator(answer=answer, seconds=0)
        async with engine_on(generator) as engine:
            task = asyncio.create_task(drawn(engine, recipe()))
            while not generator.posted:  # noqa: ASYNC110 - a server of the test's own
                await asyncio.sleep(0.01)
            await generator._work(generator.asked[0])
            assert len(await task) == 1
        assert generator.posted == [400, 200]

    async def test_what_is_said_of_it_names_what_was_expected(self) -> None:
        with structlog.testing.capture_logs() as logs:
            inbox = CallbackInbox(SecretStr(SECRET))
            receipt = await inbox.deliver({}, b"{}", NOW)
        assert code_of(receipt) == "bad_signature"
        assert receipt.refusal is not None
        assert "webhook-id, webhook-timestamp" in receipt.refusal.message
        assert [(each["event"], each["code"]) for each in logs] == [
            ("callback_refused", "bad_signature")
        ]


class TestLate:
    async def test_an_answer_after_a_cancellation_has_no_effect(self) -> None:
        generator, route = CallbackGenerator(seconds=0.3), WebhookRoute()
        async with engine_on(generator, route) as engine:
            task = asyncio.create_task(drawn(engine, recipe()))
            while not generator.asked:  # noqa: ASYNC110 - a server of the test's own
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await generator.finished()
            assert (generator.posted, route.receipts) == ([200], [CallbackReceipt(False)])
            assert len(await drawn(engine, recipe())) == 1

    async def test_an_answer_after_the_time_has_no_effect(self) -> None:
        generator, route = CallbackGenerator(seconds=0.6), WebhookRoute()
        async with engine_on(generator, route, within=0.2) as engine:
            with pytest.raises(EngineUnavailable):
                await drawn(engine, recipe())
            await generator.finished()
        assert (generator.posted, route.receipts) == ([200], [CallbackReceipt(False)])

    async def test_an_answer_to_the_process_before_has_no_effect(self) -> None:
        before, after = (CallbackInbox(SecretStr(SECRET)) for _ in range(2))
        body = json.dumps(completed({"job_id": "a", "width": 8, "height": 8, "seed": 1})).encode()
        with before.expecting("a"):
            assert await after.deliver(signed(body), body, time.time()) == CallbackReceipt(False)

    async def test_nobody_finishes_another_drawing_than_the_one_that_is_named(self) -> None:
        inbox = Inbox()
        with inbox.expecting("a") as first, inbox.expecting("b") as second:
            assert not inbox.hand_in("c", LateAnswer(b"c"))
            assert inbox.hand_in("b", LateAnswer(b"b"))
            assert not inbox.hand_in("b", LateAnswer(b"again"))
            assert not first.done()
            assert second.result().image == b"b"
        assert first.cancelled()
        assert not inbox.hand_in("a", LateAnswer(b"a"))


class TestSignatures:
    """What stands in the headers, without a socket."""

    @staticmethod
    def body(drawing: str = "a") -> bytes:
        return json.dumps({"job_id": drawing, "status": "failed", "error": "no"}).encode()

    async def code(
        self, headers: dict[str, str], body: bytes | None = None, secret: str = SECRET
    ) -> str | None:
        """The refusal, or None where the drawing was finished by it."""
        inbox = CallbackInbox(SecretStr(secret))
        with inbox.expecting("a") as coming:
            receipt = await inbox.deliver(headers, self.body() if body is None else body, NOW)
            assert receipt.effect == coming.done()
            assert receipt.effect or receipt.refusal is not None
        return code_of(receipt)

    @pytest.mark.parametrize("apart", [-300, -1, 0, 1, 300])
    async def test_five_minutes_are_let_pass(self, apart: int) -> None:
        assert await self.code(signed(self.body(), at=NOW + apart)) is None

    @pytest.mark.parametrize("apart", [-(10**9), -86_400, -301, 301, 86_400, 10**9])
    async def test_more_is_expired(self, apart: int) -> None:
        assert await self.code(signed(self.body(), at=NOW + apart)) == "expired"

    async def test_what_is_forged_is_not_told_that_it_is_old(self) -> None:
        headers = signed(self.body(), at=NOW - 9999, secret=OTHER_SECRET)
        assert await self.code(headers) == "bad_signature"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("webhook-id", ""),
            ("webhook-id", "msg_2"),
            ("webhook-timestamp", ""),
            ("webhook-timestamp", "now"),
            ("webhook-timestamp", "nan"),
            ("webhook-timestamp", "-1"),
            ("webhook-timestamp", "9" * 40),
            ("webhook-timestamp", str(int(NOW) + 1)),
            ("webhook-timestamp", f"{NOW}"),
            ("webhook-signature", ""),
            ("webhook-signature", "v1"),
            ("webhook-signature", "v1,"),
            ("webhook-signature", ",,,"),
            ("webhook-signature", "v1,*** v1"),
            ("webhook-signature", "v1,\xe4\xf6"),
        ],
    )
    async def test_a_header_that_is_not_as_it_was_is_no_signature(
        self, name: str, value: str
    ) -> None:
        headers = signed(self.body(), at=NOW)
        assert await self.code({**headers, name: value}) == "bad_signature"
        del headers[name]
        assert await self.code(headers) == "bad_signature"

    async def test_a_signature_of_another_version_does_not_count(self) -> None:
        headers = signed(self.body(), at=NOW)
        good = headers["webhook-signature"]
        for signature in (good.replace("v1,", "v1a,"), good.removeprefix("v1,"), good.upper()):
            headers["webhook-signature"] = signature
            assert await self.code(headers) == "bad_signature"

    async def test_letters_of_headers_may_be_large(self) -> None:
        headers = {name.title(): value for name, value in signed(self.body(), at=NOW).items()}
        assert await self.code(headers) is None

    async def test_while_a_secret_is_replaced_either_does(self) -> None:
        both = f"{SECRET} {OTHER_SECRET}"
        for secret in (SECRET, OTHER_SECRET):
            headers = signed(self.body(), at=NOW, secret=secret)
            assert await self.code(headers, secret=both) is None
        one, other = (
            signed(self.body(), at=NOW, secret=secret) for secret in (SECRET, OTHER_SECRET)
        )
        many = f"v1a,abc {one['webhook-signature']} {other['webhook-signature']}"
        assert await self.code({**one, "webhook-signature": many}, secret=OTHER_SECRET) is None

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "bad_request"),
            (b"<html>", "bad_request"),
            (b"[]", "bad_request"),
            (b"{}", "bad_request"),
            (b'{"job_id": 5, "status": "failed"}', "bad_request"),
            (b'{"job_id": "a"}', "bad_request"),
            (b'{"job_id": "a", "status": "done"}', "bad_request"),
            (b'{"job_id": "a", "status": "processing", "image_base64": "AAAA"}', "bad_request"),
            (b'{"job_id": "a", "status": "completed"}', "bad_request"),
            (b'{"job_id": "a", "status": "failed"}', None),
            (b'{"job_id": "a", "status": ' + b"[" * 5000, "bad_request"),
        ],
    )
    async def test_what_is_signed_is_looked_at(self, body: bytes, code: str | None) -> None:
        assert await self.code(signed(body, at=NOW), body) == code

    async def test_what_is_no_text_cannot_be_signed(self) -> None:
        assert await self.code(signed(b"x", at=NOW), b"\xff\xfe") == "bad_signature"

    async def test_a_picture_as_large_as_may_be_is_taken_and_no_larger(self) -> None:
        for size in (MAX_IMAGE, MAX_IMAGE + 1):
            fields = {"job_id": "a" * 36, "status": "completed"}
            fields["image_base64"] = base64.b64encode(bytes(size)).decode()
            assert len(json.dumps(fields)) <= MAX_CALLBACK
            if size == MAX_IMAGE:
                answer = answer_of(fields)
                assert answer is not None
                assert answer.image == bytes(size)
            else:
                with pytest.raises(Unfit, match=f"at most {MAX_IMAGE} bytes, found {size}"):
                    answer_of(fields)
        inbox = CallbackInbox(SecretStr(SECRET))
        assert code_of(await inbox.deliver({}, bytes(MAX_CALLBACK + 1), NOW)) == "too_large"
        assert code_of(await inbox.deliver({}, bytes(MAX_CALLBACK), NOW)) == "bad_signature"

    @settings(max_examples=40, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()
        ),
        st.binary(max_size=200),
        st.booleans(),
    )
    async def test_whatever_comes_is_answered(
        self, headers: dict[str, str], body: bytes, sign: bool
    ) -> None:
        inbox = CallbackInbox(SecretStr(SECRET))
        if sign:
            body = body.decode("utf-8", "replace").encode()
            headers = signed(body, at=NOW)
        receipt = await inbox.deliver(headers, body, NOW)
        assert code_of(receipt) in ({"bad_request", None} if sign else {"bad_signature"})
        assert not receipt.effect

    @pytest.mark.parametrize("manner", ["signed", "forged", "unsigned"])
    def test_the_reference_library_judges_alike(self, manner: Manner) -> None:
        body, headers = as_sent(self.body(), "msg_1", manner)
        ours = asyncio.run(CallbackInbox(SecretStr(SECRET)).deliver(headers, body, time.time()))
        try:
            Webhook(SECRET).verify(body, headers)
        except Exception:  # noqa: BLE001 - a malformed header is any sort of error there
            assert code_of(ours) == "bad_signature"
        else:
            assert ours.refusal is None


class TestSettings:
    def test_it_does_not_play_live_by_itself(self) -> None:
        assert not settings_of().plays_live
        assert settings_of(live=True).plays_live
        assert settings_of(at_once=3).beside_each_other(1) == 3

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"answers_to": "ws://studio.example"}, "https://… without user or password"),
            ({"answers_to": "https://me:secret@studio.example"}, "without user or password"),
            ({"answers_to": "studio.example/hook"}, "answers_to"),
            ({"within": 0}, "within"),
            ({"at_once": 0}, "at_once"),
        ],
    )
    def test_what_cannot_work_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            settings_of(**change)

    @pytest.mark.parametrize("key", ["url", "answers_to"])
    def test_it_needs_to_know_both_ways(self, key: str) -> None:
        given = settings_of().model_dump(exclude={key})
        with pytest.raises(ValidationError, match=f"the engine 'modal': a callback needs a {key}"):
            CallbackSection(**given)

    def test_without_a_secret_there_is_no_inbox(self) -> None:
        assert callback_inbox({}) is None
        assert callback_inbox({"replicate": SecretStr(SECRET)}) is None
        assert callback_inbox({"callback": SecretStr(SECRET)}) is not None

    @pytest.mark.parametrize(("status", "ready"), [(200, True), (405, True), (404, False)])
    async def test_it_is_asked_whether_it_is_there(self, status: int, ready: bool) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            assert request.method == "GET"
            return httpx.Response(status)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            access = EngineAccess(client=client, inbox=Inbox())
            if ready:
                assert await settings_of().probe(access) == "it answers"
            else:
                with pytest.raises(NotReady, match="answers 404"):
                    await settings_of().probe(access)
            with pytest.raises(NotReady, match="understudy studio"):
                await settings_of().probe(EngineAccess(client=client))


async def test_the_generator_in_the_docs_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCS.read_text("utf-8")
    program = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.setenv("UNDERSTUDY_CALLBACK_SECRET", SECRET)
    monkeypatch.setenv("UNDERSTUDY_CALLBACK_TOKEN", TOKEN)
    names: dict[str, Any] = {}
    exec(compile(program, str(DOCS), "exec"), names)
    assert isinstance(names["app"], Starlette)
    route = WebhookRoute()
    async with (
        serving(names["app"]) as url,
        route.listening() as webhook,
        outgoing_client() as client,
    ):
        section = settings_of(url=url, answers_to=webhook, within=20)
        for token, error in ((TOKEN, None), ("wrong", EngineDenied)):
            access = EngineAccess(client=client, token=SecretStr(token), inbox=route.inbox)
            engine = connect_engine(section, access)
            if error is None:
                [image] = await drawn(engine, recipe())
                assert image.media_type == "image/png"
            else:
                with pytest.raises(error):
                    await drawn(engine, recipe())
    assert route.receipts == [CallbackReceipt(True)]
