"""The show goes first: what it asks of a worker overtakes what anybody else has it draw."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from cache.index import load_manifest
from cache.model.keys import meta_key
from generator.engines.port import (
    DrawingFailed,
    EngineError,
    EngineOccupied,
    EnginePreempted,
    EngineUnavailable,
    ScriptedEngine,
    StepImage,
    Timing,
    draw_for_nobody,
)
from generator.engines.remote.engine import RemoteEngine, ServerEvent, error_of, read_events
from generator.engines.remote.protocol import PRIORITY_HEADER
from generator.engines.sketch.engine import SketchEngine
from generator.observed_engine import PROVEN_FOR
from generator.sets.batch import MISSES, Event, Left, PutBack, run_batch
from generator.sets.inventory import Job
from generator.sheet.recipe import Recipe
from generator.worker import Worker
from generator.worker_queue import WAITING
from tests.contracts.engine_contract import drawn, recipe
from tests.generator.test_worker import JSON, Bucket, action, working
from tests.helpers.workers import remote, worker_process

SHOW = {PRIORITY_HEADER: "show"}
PATIENCE = 20.0


@dataclass
class Easel:
    """Draws a step when it is let, and tells in which order it was asked, drew and was left."""

    previews: int = 3
    name: str = "easel 1"
    timing: Timing = "simulated"
    told: list[str] = field(default_factory=list)
    drawing: int = 0
    failing: EngineError | None = None
    _steps: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _begins: asyncio.Condition = field(default_factory=asyncio.Condition)
    _images: Sequence[StepImage] = ()

    def let(self, steps: int) -> None:
        for _ in range(steps):
            self._steps.release()

    async def begun(self, prompt: str, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE), self._begins:
            await self._begins.wait_for(lambda: self.told.count(f"begins {prompt}") >= times)

    @asynccontextmanager
    async def render(self, wanted: Recipe) -> AsyncIterator[AsyncIterator[StepImage]]:
        self._images = self._images or await drawn(SketchEngine(wait=False), recipe(steps=1))
        self.drawing += 1
        assert self.drawing == 1, "one drawing at a time"
        self.told.append(f"begins {wanted.prompt}")
        try:
            async with self._begins:
                self._begins.notify_all()
            async with aclosing(self._play(wanted)) as images:
                yield images
        finally:
            await asyncio.sleep(0.01)
            self.drawing -= 1
            self.told.append(f"left {wanted.prompt}")

    async def _play(self, wanted: Recipe) -> AsyncGenerator[StepImage, None]:
        for number in range(1, self.previews + 2):
            await self._steps.acquire()
            if self.failing is not None:
                raise self.failing
            image = self._images[-1]
            yield replace(
                image, step=number, steps=self.previews + 1, final=number == self.previews + 1
            )
        self.told.append(f"finished {wanted.prompt}")


def asked(prompt: str) -> Recipe:
    return recipe(prompt=prompt)


@asynccontextmanager
async def both(worker: Worker) -> AsyncIterator[tuple[RemoteEngine, RemoteEngine, str]]:
    """The show and somebody else, who share a worker; and where that is."""
    async with asyncio.timeout(PATIENCE), working(worker) as url, httpx.AsyncClient() as client:
        yield RemoteEngine(client, url, priority="show"), RemoteEngine(client, url), url


async def waiting(worker: Worker, count: int) -> None:
    while worker._queue.waiting != count:  # noqa: ASYNC110 - a queue tells nobody that one waits
        await asyncio.sleep(0.005)


async def said(url: str, headers: dict[str, str], prompt: str) -> list[ServerEvent]:
    """Everything that a worker says to a request."""
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream(
            "POST",
            f"{url}/generate",
            content=asked(prompt).model_dump_json(),
            headers={**JSON, **headers},
        ) as response,
    ):
        return [event async for event in read_events(response.aiter_lines())]


class TestDrawings:
    async def test_what_the_show_asks_overtakes_what_is_being_drawn_for_others(self) -> None:
        easel = Easel()
        async with both(Worker(easel, probe=recipe())) as (show, _, url):
            overtaken = asyncio.create_task(said(url, {}, "other"))
            await easel.begun("other")
            easel.let(2)
            await asyncio.sleep(0.05)
            live = asyncio.create_task(drawn(show, asked("cue")))
            events = await overtaken
            easel.let(4)
            assert (await live)[-1].final
            assert [event.name for event in events] == ["started", "step", "step", "error"]
            error = events[-1].data
            assert (error["code"], error["retryable"]) == ("preempted", True)
            assert "show" in error["message"]
            # The engine is left before the show has it.
            assert easel.told == [
                "begins other",
                "left other",
                "begins cue",
                "finished cue",
                "left cue",
            ]
            # Asked again, the overtaken one is drawn to its end.
            easel.let(4)
            again = await said(url, {}, "other")
        assert [event.name for event in again][-2:] == ["final", "done"]

    async def test_it_arrives_as_what_it_is_and_asked_again_it_is_drawn(self) -> None:
        easel = Easel()
        async with both(Worker(easel, probe=recipe())) as (show, other, _):
            overtaken = asyncio.create_task(drawn(other, asked("other")))
            await easel.begun("other")
            live = asyncio.create_task(drawn(show, asked("cue")))
            with pytest.raises(EnginePreempted, match="taken for the show"):
                await overtaken
            easel.let(8)
            assert (await live)[-1].final
            assert (await drawn(other, asked("other")))[-1].final

    async def test_who_waits_goes_on_waiting_and_comes_after_the_show(self) -> None:
        easel = Easel()
        worker = Worker(easel, probe=recipe())
        async with both(worker) as (show, other, _):
            first = asyncio.create_task(drawn(other, asked("first")))
            await easel.begun("first")
            second = asyncio.create_task(drawn(other, asked("second")))
            await waiting(worker, 1)
            third = asyncio.create_task(drawn(other, asked("third")))
            await waiting(worker, 2)
            live = asyncio.create_task(drawn(show, asked("cue")))
            await easel.begun("cue")
            more = asyncio.create_task(drawn(show, asked("next cue")))
            await waiting(worker, 3)
            easel.let(16)
            await asyncio.gather(live, more, second, third)
            with pytest.raises(EnginePreempted):
                await first
        begun = [word for word in easel.told if word.startswith("begins")]
        assert begun == [
            "begins first",
            "begins cue",
            "begins next cue",
            "begins second",
            "begins third",
        ]

    async def test_the_show_is_taken_in_where_as_many_others_wait_as_may(self) -> None:
        easel = Easel()
        worker = Worker(easel, probe=recipe())
        async with both(worker) as (show, other, _):
            crowd = [
                asyncio.create_task(drawn(other, asked(f"no {n}"))) for n in range(WAITING + 1)
            ]
            await waiting(worker, WAITING)
            with pytest.raises(EngineUnavailable, match="too many"):
                await drawn(other, asked("one too many"))
            live = asyncio.create_task(drawn(show, asked("cue")))
            await easel.begun("cue")
            easel.let(4)
            assert (await live)[-1].final
            for task in crowd:
                task.cancel()
            outcomes = await asyncio.gather(*crowd, return_exceptions=True)
        assert sum(isinstance(outcome, EnginePreempted) for outcome in outcomes) == 1

    async def test_a_whole_picture_is_not_overtaken(self) -> None:
        class Lingering(Easel):
            """Takes long over its end, as one that tidies up."""

            async def _play(self, wanted: Recipe) -> AsyncGenerator[StepImage, None]:
                async with aclosing(super()._play(wanted)) as images:
                    async for image in images:
                        yield image
                await asyncio.sleep(0 if wanted.prompt == "cue" else 60)

        easel = Lingering()
        async with both(Worker(easel, probe=recipe())) as (show, _, url):
            other = asyncio.create_task(said(url, {}, "other"))
            await easel.begun("other")
            easel.let(4)
            while "finished other" not in easel.told:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            easel.let(4)
            assert (await drawn(show, asked("cue")))[-1].final
            assert [event.name for event in await other][-2:] == ["final", "done"]

    async def test_who_does_not_read_on_is_overtaken_all_the_same(self) -> None:
        picture = b"x" * 2**20
        endless = [StepImage(n, 200, n == 200, None, 0.1, picture) for n in range(1, 201)]
        engine = ScriptedEngine(endless)
        worker = Worker(engine, probe=recipe())
        async with both(worker) as (show, _, url):
            host, port = url.removeprefix("http://").split(":")
            body = asked("stalled").model_dump_json().encode()
            head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            with socket.create_connection((host, int(port))) as stalled:
                stalled.sendall(head.encode() + body)
                while not engine.asked:  # noqa: ASYNC110 - it has no event for it
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)  # till the line is full
                assert not engine.left, "it waits for a reader"
                async with show.render(asked("cue")) as images:
                    assert (await anext(images)).step == 1
                assert [each.prompt for each in engine.left][:1] == ["stalled"]

    async def test_hanging_up_in_the_queue_leaves_nobody_behind(self) -> None:
        easel = Easel()
        worker = Worker(easel, probe=recipe())
        async with both(worker) as (show, other, _):
            before = asyncio.create_task(drawn(other, asked("other")))
            await easel.begun("other")
            gone = asyncio.create_task(drawn(other, asked("gone")))
            await waiting(worker, 1)
            gone.cancel()
            await waiting(worker, 0)
            live = asyncio.create_task(drawn(show, asked("cue")))
            await easel.begun("cue")
            live.cancel()
            later = asyncio.create_task(drawn(other, asked("later")))
            await easel.begun("later")
            easel.let(4)
            assert (await later)[-1].final
            await asyncio.gather(before, gone, live, return_exceptions=True)
        assert (easel.drawing, "begins gone" in easel.told) == (0, False)


class TestSets:
    def body(self, set_id: int = 0) -> dict[str, Any]:
        return {
            "recipe": asked("a set").model_dump(mode="json"),
            "action_id": "prompt_001",
            "set_id": set_id,
        }

    async def test_a_set_gives_way_and_leaves_none_behind(self) -> None:
        easel, store = Easel(), Bucket()
        async with (
            both(Worker(easel, probe=recipe(), store=store)) as (show, _, url),
            httpx.AsyncClient(timeout=PATIENCE) as client,
        ):
            recording = asyncio.create_task(client.post(f"{url}/action-sets", json=self.body()))
            await easel.begun("a set")
            easel.let(2)
            await asyncio.sleep(0.05)
            live = asyncio.create_task(drawn(show, asked("cue")))
            answer = await recording
            assert answer.status_code == 503
            error = answer.json()["error"]
            assert (error["code"], error["retryable"]) == ("preempted", True)
            assert meta_key("prompt_001", 0) not in store.contents
            easel.let(8)
            assert (await live)[-1].final
            again = await client.post(f"{url}/action-sets", json=self.body())
            assert again.status_code == 200
        async with store:
            assert (await load_manifest(store)).set_ids("prompt_001") == (0,)

    async def test_a_set_for_the_show_goes_first_too(self) -> None:
        easel, store = Easel(), Bucket()
        async with (
            both(Worker(easel, probe=recipe(), store=store)) as (_, other, url),
            httpx.AsyncClient(timeout=PATIENCE, headers=SHOW) as client,
        ):
            overtaken = asyncio.create_task(drawn(other, asked("other")))
            await easel.begun("other")
            recording = asyncio.create_task(client.post(f"{url}/action-sets", json=self.body()))
            with pytest.raises(EnginePreempted):
                await overtaken
            easel.let(4)
            assert (await recording).status_code == 200

    @pytest.mark.parametrize("kept_there", [True, False])
    async def test_a_batch_puts_its_set_back_however_often(self, kept_there: bool) -> None:
        """More often than an engine may be missing; kept by the worker, and kept here."""
        easel, store = Easel(), Bucket()
        told: list[Event] = []
        rests: list[float] = []

        async def sleep(seconds: float) -> None:
            rests.append(seconds)
            await asyncio.sleep(0)

        worker = Worker(easel, probe=recipe(), store=store if kept_there else None)
        jobs = [Job(replace(action(n), recipe=asked(f"boats {n}")), 0) for n in (1, 2)]
        async with both(worker) as (show, other, _):
            batch = asyncio.create_task(run_batch(jobs, [other], store, told.append, sleep=sleep))
            for number in range(MISSES + 2):
                await easel.begun("boats 1", times=number + 1)
                live = asyncio.create_task(drawn(show, asked(f"cue {number}")))
                await easel.begun(f"cue {number}")
                easel.let(4)
                assert (await live)[-1].final
            easel.let(8)
            outcome = await batch
        assert (outcome.drawn, outcome.failed) == (jobs, [])
        assert [event.job for event in told if isinstance(event, PutBack)] == [jobs[0]] * (
            MISSES + 2
        )
        assert not [event for event in told if isinstance(event, Left)]
        assert len(set(rests)) == 1, "it never rests for longer"
        manifest = await load_manifest(store)
        assert [manifest.set_ids(f"prompt_00{n}") for n in (1, 2)] == [(0,), (0,)]


class TestProof:
    async def test_behind_a_long_drawing_a_step_just_drawn_is_proof_enough(self) -> None:
        easel = Easel(previews=200)
        worker = Worker(easel, probe=asked("probe"))
        async with both(worker) as (_, other, url), httpx.AsyncClient() as client:
            long = asyncio.create_task(drawn(other, asked("long")))
            await easel.begun("long")
            asking = asyncio.create_task(client.get(f"{url}/health", timeout=PATIENCE))
            await waiting(worker, 1)
            assert not asking.done(), "it has drawn nothing yet"
            easel.let(1)
            for answer in (await asking, await client.get(f"{url}/health")):
                assert answer.status_code == 200
                assert answer.json()["healthy"]
                assert answer.json()["proof"] == "drawing"
            await waiting(worker, 0)
            assert not long.done(), "a probe takes the engine from nobody"
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)
        assert "begins probe" not in easel.told

    async def test_an_older_step_and_one_before_a_failure_prove_nothing(self) -> None:
        easel, now = Easel(), 100.0
        worker = Worker(easel, probe=asked("probe"), now=lambda: now)
        async with both(worker) as (_, other, url), httpx.AsyncClient() as client:

            async def proof() -> object:
                answer = await client.get(f"{url}/health", timeout=PATIENCE)
                return answer.json().get("proof") or answer.json()["error"]["code"]

            easel.let(4)
            await drawn(other, asked("one"))
            assert await proof() == "drawing"
            now += PROVEN_FOR + 0.1
            easel.let(4)
            assert await proof() == "drawn"
            easel.let(4)
            await drawn(other, asked("another"))
            assert await proof() == "drawing"
            easel.failing = DrawingFailed("no memory")
            easel.let(2)
            with pytest.raises(DrawingFailed):
                await drawn(other, asked("a third"))
            assert await proof() == "failed"

    async def test_a_probe_that_is_overtaken_is_answered_by_what_overtook_it(self) -> None:
        easel = Easel()
        async with (
            both(Worker(easel, probe=asked("probe"))) as (show, _, url),
            httpx.AsyncClient() as client,
        ):
            asking = asyncio.create_task(client.get(f"{url}/health", timeout=PATIENCE))
            await easel.begun("probe")
            live = asyncio.create_task(drawn(show, asked("cue")))
            await easel.begun("cue")
            easel.let(1)
            assert (await asking).json()["proof"] == "drawing"
            easel.let(3)
            assert (await live)[-1].final
        assert "finished probe" not in easel.told

    async def test_asked_for_a_proof_an_engine_that_draws_for_others_is_occupied(self) -> None:
        easel = Easel()
        worker = Worker(easel, probe=recipe(), heartbeat=0.05)
        async with both(worker) as (show, other, _):
            before = asyncio.create_task(drawn(other, asked("other")))
            await easel.begun("other")
            easel.let(1)
            with pytest.raises(EngineOccupied):
                async with show.render_proof(asked("proof")) as images:
                    await anext(images)
            await draw_for_nobody(show, asked("proof"))  # it can draw: that is all it asks
            assert not before.done(), "whatever its owner's priority"
            # To one that wants the picture, the same words mean nothing.
            after = asyncio.create_task(drawn(other, asked("after")))
            await asyncio.sleep(0.2)
            easel.let(7)
            assert [(await task)[-1].final for task in (before, after)] == [True, True]

    async def test_a_proof_gives_way_to_the_show(self) -> None:
        easel = Easel()
        async with both(Worker(easel, probe=recipe())) as (show, _, _url):
            proving = asyncio.create_task(draw_for_nobody(show, asked("proof")))
            await easel.begun("proof")
            live = asyncio.create_task(drawn(show, asked("cue")))
            with pytest.raises(EnginePreempted):
                await proving
            easel.let(4)
            assert (await live)[-1].final


@dataclass
class Older:
    """What a worker was before: it passes no header on that it does not know, nor its own words."""

    app: Starlette

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [
                (name, value)
                for name, value in scope["headers"]
                if name.decode() != PRIORITY_HEADER.lower()
            ]
            scope = {**scope, "headers": kept}
        await self.app(scope, receive, send)


class TestThoseWhoDoNotKnowOfIt:
    async def test_to_a_worker_that_does_not_the_show_is_one_of_many(self) -> None:
        easel = Easel()
        worker = Worker(easel, probe=recipe())
        worker.app = lambda app=worker.app: Older(app())  # type: ignore[method-assign,misc,assignment]
        async with both(worker) as (show, other, _):
            before = asyncio.create_task(drawn(other, asked("other")))
            await easel.begun("other")
            live = asyncio.create_task(drawn(show, asked("cue")))
            await waiting(worker, 1)
            easel.let(8)
            assert [(await task)[-1].final for task in (before, live)] == [True, True]
        assert easel.told.index("finished other") < easel.told.index("begins cue")

    async def test_another_word_is_nobodys(self) -> None:
        easel = Easel()
        worker = Worker(easel, probe=recipe())
        async with both(worker) as (_, other, url):
            before = asyncio.create_task(drawn(other, asked("other")))
            await easel.begun("other")
            later = asyncio.create_task(said(url, {PRIORITY_HEADER: "urgent"}, "later"))
            await waiting(worker, 1)
            easel.let(8)
            assert (await before)[-1].final
            assert (await later)[-1].name == "done"

    def test_a_client_that_does_not_takes_it_for_an_engine_to_be_asked_later(self) -> None:
        """By what such a client goes: whether another try may help."""
        later_version = {"code": "moved_over", "message": "ask again", "retryable": True}
        assert type(error_of(later_version)) is EngineUnavailable
        assert type(error_of({"code": "preempted", "message": "ask again"})) is EnginePreempted


@pytest.mark.pace
async def test_a_real_worker_gives_the_show_its_engine_within_a_step(tmp_path: Path) -> None:
    toml = '[[engines]]\nname = "gpu"\nkind = "sketch"\npace = 0.3\n'
    (tmp_path / "cues.json").write_text(
        json.dumps([{"time": "00:00:01", "action": "prompt", "prompt": "boats"}])
    )
    (tmp_path / "show.toml").write_text(toml)
    with worker_process(tmp_path, "gpu") as worker:
        async with remote(worker) as other:
            show = RemoteEngine(other.client, worker.url, priority="show")
            drawing = other.render(recipe(steps=200))
            async with drawing as images:
                for _ in range(2):
                    await anext(images)
                begun = asyncio.get_running_loop().time()
                live = await asyncio.wait_for(drawn(show, recipe(steps=1)), PATIENCE)
                took = asyncio.get_running_loop().time() - begun
                with pytest.raises(EnginePreempted):
                    async for _ in images:
                        pass
            assert live[-1].final
            assert took < 200 * 0.3 / 2, "it waited for no drawing to end"
            assert (await drawn(other, recipe(steps=2)))[-1].final
