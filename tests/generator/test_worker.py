"""The worker over real HTTP, and the engine that speaks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from cache.index import load_manifest
from cache.library import Library
from cache.model.formats import parse_meta
from cache.model.keys import meta_key
from cache.stores.memory import MemoryStore
from cache.stores.port import StoreFull, StoreUnavailable
from generator.engines.port import (
    DrawingFailed,
    Engine,
    EngineDenied,
    EngineError,
    EnginePoisoned,
    EngineUnavailable,
    RecipeRefused,
    ScriptedEngine,
    StepImage,
)
from generator.engines.remote.engine import RemoteEngine, read_events
from generator.engines.sketch.engine import SketchEngine
from generator.sets.batch import BatchOutcome, Began, Event, Said, run_batch
from generator.sets.inventory import Holding, Job, take_inventory
from generator.sheet.plan import Action
from generator.sheet.recipe import seed_for
from generator.worker import Worker
from generator.worker_queue import EngineTurn
from tests.contracts.engine_contract import AddressedEngineContract, drawn, recipe
from tests.helpers.servers import listening

JSON = {"content-type": "application/json"}


def posting(
    client: httpx.AsyncClient, url: str, body: str
) -> AbstractAsyncContextManager[httpx.Response]:
    return client.stream("POST", f"{url}/generate", content=body, headers=JSON)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[str]:
    """Serve `worker` on loopback; where."""
    config = uvicorn.Config(worker.app(), log_config=None, timeout_graceful_shutdown=2)
    async with listening(config) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def remote(worker: Worker, **options: object) -> AsyncIterator[RemoteEngine]:
    """A remote engine that draws on `worker`."""
    async with working(worker) as url, httpx.AsyncClient() as client:
        yield RemoteEngine(client, url, **options)  # type: ignore[arg-type]


def sketching(**options: object) -> Worker:
    return Worker(SketchEngine(wait=False), probe=recipe(steps=1), **options)  # type: ignore[arg-type]


class TestRemoteEngine(AddressedEngineContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with remote(sketching()) as engine:
            # Before it has drawn, it can only say where it is.
            await drawn(engine, recipe(steps=1))
            yield engine


class TestWhatIsSent:
    async def test_events_come_in_the_order_of_the_protocol(self) -> None:
        async with working(sketching()) as url, httpx.AsyncClient() as client:
            body = recipe(steps=3).model_dump_json()
            async with client.stream(
                "POST", f"{url}/generate", content=body, headers=JSON
            ) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                events = [event async for event in read_events(response.aiter_lines())]
        names = [event.name for event in events]
        assert names == ["started", "step", "step", "step", "final", "done"]
        assert events[0].data["steps"] == 4
        assert set(events[0].data) == {"steps", "latency", "waited"}
        assert set(events[1].data) == {"step", "timestep", "duration", "media_type", "image"}
        assert set(events[4].data) == {"duration", "media_type", "image"}
        assert events[5].data["seed"] == 1
        assert events[5].data["engine"] == SketchEngine().name

    @pytest.mark.pace
    async def test_a_slow_step_is_bridged_by_heartbeats(self) -> None:
        image = StepImage(1, 1, True, None, 0.5, await _picture())
        slow = ScriptedEngine([image], pause=1.5)
        async with working(Worker(slow, probe=recipe(), heartbeat=0.1)) as url:
            async with httpx.AsyncClient() as client:
                body = recipe().model_dump_json()
                async with client.stream(
                    "POST", f"{url}/generate", content=body, headers=JSON
                ) as response:
                    lines = [line async for line in response.aiter_lines()]
            assert sum(line.startswith(":") for line in lines) >= 3
            async with httpx.AsyncClient() as client:
                patient = RemoteEngine(client, url, silence=1.0)
                assert (await drawn(patient, recipe()))[-1].final

    async def test_hanging_up_cancels_the_drawing_between_heartbeats(self) -> None:
        left = asyncio.Event()

        class Watched:
            name, timing = "watched 1", "simulated"

            @asynccontextmanager
            async def render(self, _recipe: object) -> AsyncIterator[AsyncIterator[StepImage]]:
                async def nothing() -> AsyncIterator[StepImage]:
                    await asyncio.sleep(60)
                    yield  # type: ignore[misc]

                try:
                    yield nothing()
                finally:
                    left.set()

        worker = Worker(Watched(), probe=recipe(), heartbeat=30)  # type: ignore[arg-type]
        async with working(worker) as url, httpx.AsyncClient() as client:
            body = recipe().model_dump_json()
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{url}/generate", content=body, headers=JSON, timeout=0.3)
            await asyncio.wait_for(left.wait(), 3)

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (RecipeRefused("no such model"), RecipeRefused),
            (EngineUnavailable("warming up"), EngineUnavailable),
            (DrawingFailed("out of memory"), DrawingFailed),
        ],
    )
    async def test_an_engines_error_arrives_as_what_it_was(
        self, error: EngineError, expected: type[EngineError]
    ) -> None:
        async with remote(Worker(ScriptedEngine([], error), probe=recipe())) as engine:
            with pytest.raises(expected, match=str(error)):
                await drawn(engine, recipe())

    async def test_a_worker_that_falls_silent_is_unavailable(self) -> None:
        silent = ScriptedEngine([], pause=0, error=None)
        worker = Worker(silent, probe=recipe(), heartbeat=60)
        before_us = worker._queue.given_to(EngineTurn())  # a drawing that never ends
        async with remote(worker, silence=0.3) as engine, before_us:
            with pytest.raises(EngineUnavailable, match="silent"):
                await drawn(engine, recipe())

    async def test_one_at_a_time(self) -> None:
        async with remote(sketching()) as engine:
            both = await asyncio.gather(drawn(engine, recipe()), drawn(engine, recipe(seed=2)))
        assert [images[-1].final for images in both] == [True, True]


class TestRefusals:
    async def test_a_token_is_needed_where_one_is_set(self) -> None:
        worker = sketching(token=SecretStr("geheim"))
        async with working(worker) as url, httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/health")).status_code == 401
            wrong = RemoteEngine(client, url, token=SecretStr("falsch"))
            with pytest.raises(EngineDenied, match="token"):
                await drawn(wrong, recipe())
            right = RemoteEngine(client, url, token=SecretStr("geheim"))
            assert (await drawn(right, recipe(steps=1)))[-1].final
            assert "geheim" not in repr(right.__dict__)

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"origin": "http://evil.example", **JSON}, 403),
            ({"origin": "null", **JSON}, 403),
            ({"sec-fetch-site": "cross-site", **JSON}, 403),
            ({"host": "evil.example:9000", **JSON}, 403),
            ({"host": "", **JSON}, 403),
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/x-www-form-urlencoded"}, 415),
            ({}, 415),
            ({"content-type": "Application/JSON; charset=utf-8", "host": "localhost:1"}, 200),
        ],
    )
    async def test_no_web_page_has_it_draw(self, headers: dict[str, str], status: int) -> None:
        async with working(sketching()) as url, httpx.AsyncClient() as client:
            for path in ("/generate", "/action-sets"):
                body = recipe(steps=1).model_dump_json()
                answer = await client.post(f"{url}{path}", content=body, headers=headers)
                if status == 200:
                    assert answer.status_code not in {403, 415}
                else:
                    assert answer.status_code == status
            if status == 403:
                assert (await client.get(f"{url}/health", headers=headers)).status_code == 403

    @pytest.mark.parametrize("body", ["", "[]", "{}", '{"model": 1}', "\xff"])
    async def test_what_is_no_recipe_is_refused_by_name(self, body: str) -> None:
        async with working(sketching()) as url, httpx.AsyncClient() as client:
            answer = await client.post(f"{url}/generate", content=body, headers=JSON)
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "invalid"


class TestHealth:
    async def test_draws_to_prove_itself(self) -> None:
        async with working(sketching()) as url, httpx.AsyncClient() as client:
            answer = await client.get(f"{url}/health")
        assert answer.status_code == 200
        assert answer.json()["engine"] == SketchEngine().name
        assert answer.json()["proof"] == "drawn"

    async def test_says_why_it_cannot(self) -> None:
        broken = Worker(ScriptedEngine([], DrawingFailed("no memory")), probe=recipe())
        async with working(broken) as url, httpx.AsyncClient() as client:
            answer = await client.get(f"{url}/health")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "no memory"


class TestActionSets:
    async def test_draws_a_set_into_the_store_and_only_once(self) -> None:
        store = MemoryStore()
        asked = {
            "recipe": recipe().model_dump(mode="json"),
            "action_id": "prompt_001",
            "set_id": 3,
            "description": {"type": "prompt", "program": "P4", "prompt": "boats"},
        }
        async with working(sketching(store=store)) as url, httpx.AsyncClient() as client:
            first = await client.post(f"{url}/action-sets", json=asked, timeout=30)
            puts = store.calls["put"]
            second = await client.post(f"{url}/action-sets", json=asked, timeout=30)
        assert first.status_code == second.status_code == 200
        assert first.content == second.content
        assert store.calls["put"] == puts
        meta = parse_meta(store.contents[meta_key("prompt_001", 3)], "meta.json")
        assert meta.seed == seed_for(recipe().fingerprint, 3)
        assert meta.fingerprint == recipe().fingerprint
        async with store:
            assert (await load_manifest(store)).set_ids("prompt_001") == (3,)
            library = Library(store)
            await library.refresh()
            found = await library.open_set("prompt_001", 3)
            for step in found.steps:
                assert await library.image(step)

    async def test_without_a_store_it_says_so(self) -> None:
        asked = {"recipe": recipe().model_dump(mode="json"), "action_id": "a", "set_id": 0}
        async with working(sketching()) as url, httpx.AsyncClient() as client:
            answer = await client.post(f"{url}/action-sets", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_store")

    async def test_a_store_that_is_full_leaves_no_set(self) -> None:
        store = MemoryStore()
        store.fail_next(*[StoreFull("k", "no space left")] * 50, on="put")
        asked = {"recipe": recipe().model_dump(mode="json"), "action_id": "a", "set_id": 0}
        async with working(sketching(store=store)) as url, httpx.AsyncClient() as client:
            answer = await client.post(f"{url}/action-sets", json=asked, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "store")
        assert meta_key("a", 0) not in store.contents


class Bucket(MemoryStore):
    """A store with an address that other machines know."""

    address = "https://s3.example/bucket/show"


def action(number: int = 1) -> Action:
    return Action(f"prompt_{number:03d}", "prompt", number, 0.0, "P4", "boats", None, recipe())


class TestSetsThatAWorkerKeepsItself:
    async def batch(
        self, worker: Worker, store: MemoryStore, jobs: list[Job], **options: Any
    ) -> tuple[BatchOutcome, list[str]]:
        said: list[str] = []

        def watch(event: Event) -> None:
            if isinstance(event, Said):
                said.append(event.text)

        async with remote(worker) as engine:
            return await run_batch(jobs, [engine], store, watch, **options), said

    async def test_it_draws_straight_into_a_store_that_is_ours(self) -> None:
        store = Bucket()
        jobs = [Job(action(1), 0), Job(action(2), 3)]
        outcome, said = await self.batch(sketching(store=store), store, jobs)
        assert (outcome.drawn, outcome.failed) == (jobs, [])
        assert said == [f"it keeps its sets itself, in {store.url}"]
        manifest = await load_manifest(store)
        assert (manifest.set_ids("prompt_001"), manifest.set_ids("prompt_002")) == ((0,), (3,))
        entry = manifest.actions["prompt_002"]
        assert (entry.program, entry.prompt, entry.type) == ("P4", "boats", "prompt")
        meta = parse_meta(store.contents[meta_key("prompt_002", 3)], "meta.json")
        assert (meta.seed, meta.timing) == (seed_for(recipe().fingerprint, 3), "simulated")
        assert meta.config["program"] == "P4"

        puts = store.calls["put"]
        await self.batch(sketching(store=store), store, jobs)
        assert store.calls["put"] == puts, "the same request again only looks"
        await self.batch(sketching(store=store), store, jobs, anew=True)
        assert store.calls["put"] > puts

    @pytest.mark.parametrize("theirs", [None, MemoryStore(), "elsewhere"])
    async def test_pictures_come_through_here_where_its_store_is_another(
        self, theirs: MemoryStore | str | None
    ) -> None:
        if theirs == "elsewhere":
            theirs = Bucket()
            theirs.address = "https://s3.example/bucket/other"
        store = Bucket()
        jobs = [Job(action(1), 0), Job(action(2), 0)]
        outcome, said = await self.batch(sketching(store=theirs), store, jobs)
        assert (outcome.drawn, outcome.failed) == (jobs, [])
        assert len(said) == 1
        assert said[0].startswith("its pictures come through here: ")
        assert [h.present for h in await holdings(store)] == [(0,), (0,)]
        assert not isinstance(theirs, MemoryStore) or not theirs.contents

    async def test_only_what_is_found_in_our_own_store_is_believed(self) -> None:
        ours, theirs = Bucket(), Bucket()  # two servers, each known as localhost at home
        jobs = [Job(action(1), 0), Job(action(2), 0)]
        outcome, said = await self.batch(sketching(store=theirs), ours, jobs)
        assert (outcome.drawn, outcome.failed) == (jobs, [])
        assert len(said) == 1
        assert "another store of the same address" in said[0]
        assert [h.present for h in await holdings(ours)] == [(0,), (0,)]
        assert list((await load_manifest(theirs)).actions) == ["prompt_001"]

    async def test_a_folder_is_nobody_elses(self) -> None:
        store = MemoryStore()
        outcome, said = await self.batch(sketching(store=store), store, [Job(action(), 0)])
        assert len(outcome.drawn) == 1
        assert said == ["its pictures come through here, into memory:"]

    async def test_what_the_worker_cannot_keep_is_tried_again(self) -> None:
        store = Bucket()
        store.fail_next(*[StoreUnavailable("k", "asleep")] * 2, on="delete")
        rests: list[float] = []

        async def sleep(seconds: float) -> None:
            rests.append(seconds)

        jobs = [Job(action(1), 0)]
        outcome, _ = await self.batch(sketching(store=store), store, jobs, sleep=sleep)
        assert outcome.drawn == jobs
        assert rests == [0.5, 1.0]

    async def test_an_engines_error_is_the_same_by_this_way(self) -> None:
        store = Bucket()
        broken = Worker(
            ScriptedEngine([], RecipeRefused("no such model")), probe=recipe(), store=store
        )
        outcome, _ = await self.batch(broken, store, [Job(action(), 0)])
        assert [failure.reason for failure in outcome.failed] == ["no such model"]

    async def test_hanging_up_leaves_no_set(self) -> None:
        store, begun = Bucket(), asyncio.Event()

        def watch(event: Event) -> None:
            if isinstance(event, Began):
                begun.set()

        async with remote(Worker(SketchEngine(pace=20), probe=recipe(), store=store)) as engine:
            task = asyncio.create_task(run_batch([Job(action(), 0)], [engine], store, watch))
            await asyncio.wait_for(begun.wait(), 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert meta_key("prompt_001", 0) not in store.contents

    async def test_health_tells_where_the_store_is(self) -> None:
        for store, told in ((Bucket(), Bucket.address), (MemoryStore(), None), (None, None)):
            async with working(sketching(store=store)) as url, httpx.AsyncClient() as client:
                assert (await client.get(f"{url}/health")).json()["store"] == told


async def holdings(store: MemoryStore) -> list[Holding]:
    library = Library(store)
    await library.refresh()
    return await take_inventory(library, [action(1), action(2)])


async def test_a_poisoned_engine_is_told_to_who_supervises_it() -> None:
    told: list[EngineError] = []
    poison = EnginePoisoned("the GPU is lost")
    for path in ("generate", "action-sets", "health"):
        worker = Worker(
            ScriptedEngine([], poison), probe=recipe(), store=Bucket(), poisoned=told.append
        )
        async with working(worker) as url, httpx.AsyncClient() as client:
            if path == "health":
                answer = await client.get(f"{url}/health")
            else:
                body = recipe().model_dump(mode="json")
                asked = {"recipe": body, "action_id": "a", "set_id": 0}
                answer = await client.post(
                    f"{url}/{path}", json=body if path == "generate" else asked
                )
        assert "the GPU is lost" in answer.text
    assert told == [poison] * 3


async def _picture() -> bytes:
    return (await drawn(SketchEngine(wait=False), recipe(steps=1)))[-1].image
