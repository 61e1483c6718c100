"""The requests of the project's brief, as its pages send them, and what its operators ask."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from generator.engines.port import RecipeRefused
from tests.generator.engines.callback_server import (
    SECRET,
    TOKEN,
    WEBHOOK,
    CallbackGenerator,
    Manner,
    as_sent,
    signed,
)
from tests.generator.jobs.test_migrations import BRIEF_STORAGE, BRIEF_SUCCESS
from tests.helpers.pictures import picture
from tests.helpers.postgres import postgres
from tests.helpers.servers import free_port
from tests.helpers.studios import (
    Caller,
    Document,
    Pencil,
    RunningStudio,
    database_on,
    on_postgres,
    show_in,
    slot,
    studio,
)

ASKED = {"prompt": "A phoenix rising", "style": "Anime", "width": 1024, "height": 1024}
POLL = 0.05
ENVIRONMENT = {"UNDERSTUDY_CALLBACK_SECRET": SECRET, "UNDERSTUDY_CALLBACK_TOKEN": TOKEN}
STATUSES = {"queued", "processing", "completed", "failed"}


async def polled(caller: httpx.AsyncClient, job: str) -> Document:
    """What a page finds out that asks again and again, as the brief's does."""
    seen: list[str] = []
    async with asyncio.timeout(30):
        while True:
            answer = await caller.get(f"/api/generate/status/{job}")
            assert answer.status_code == 200, answer.text
            status: Document = answer.json()
            assert status["jobId"] == job
            assert status["status"] in STATUSES
            seen.append(status["status"])
            order = [("queued", "processing").index(each) for each in seen[:-1]]
            assert order == sorted(order), seen
            if status["status"] in {"completed", "failed"}:
                return status
            assert status["result_url"] is None
            await asyncio.sleep(POLL)


@pytest.fixture
def pencil() -> Pencil:
    return Pencil()


@pytest.fixture
async def caller(tmp_path: Path, pencil: Pencil) -> AsyncIterator[Caller]:
    async with studio(show_in(tmp_path), slot(pencil)) as running, running.caller() as found:
        yield found
        pencil.let_go()


async def test_a_picture_is_asked_for_polled_for_and_opened(caller: Caller, pencil: Pencil) -> None:
    answer = await caller.post("/api/generate", json={**ASKED, "seed": 42, "franchise": "None"})
    assert answer.status_code == 202
    assert set(answer.json()) == {"jobId", "status"}
    job = answer.json()["jobId"]
    assert urljoin(str(answer.url), answer.headers["location"]).endswith(
        f"/api/generate/status/{job}"
    )
    found = await polled(caller, job)
    assert set(found) == {
        *("jobId", "status", "result_url", "error_message", "processing_time_ms"),
        *("created_at", "started_at", "completed_at", "metadata"),
    }
    assert (found["status"], found["error_message"]) == ("completed", None)
    assert found["metadata"] == {**ASKED, "seed": 42, "franchise": "None"}
    assert found["processing_time_ms"] >= 0
    assert found["created_at"] <= found["started_at"] <= found["completed_at"]
    recipe = pencil.asked[0]
    assert (recipe.width, recipe.height, recipe.seed) == (1024, 1024, 42)
    assert "anime" in recipe.prompt.lower()
    # A page of another server opens it, without a token and without knowing where we are.
    assert urlsplit(found["result_url"]).netloc == urlsplit(str(caller.base_url)).netloc
    async with httpx.AsyncClient(trust_env=False) as page:
        opened = await page.get(found["result_url"])
    assert (opened.status_code, opened.content) == (200, picture("3"))


async def test_what_fails_says_why(caller: Caller, pencil: Pencil) -> None:
    pencil.error = RecipeRefused("out of memory")
    job = (await caller.post("/api/generate", json=ASKED)).json()["jobId"]
    found = await polled(caller, job)
    assert (found["status"], found["result_url"]) == ("failed", None)
    assert "out of memory" in found["error_message"]


async def test_what_is_called_off_has_failed(caller: Caller, pencil: Pencil) -> None:
    pencil.hold()
    job = (await caller.post("/api/generate", json=ASKED)).json()["jobId"]
    waiting = asyncio.create_task(polled(caller, job))
    assert (await caller.delete(f"/api/jobs/{job}")).json()["status"] == "cancelled"
    found = await waiting
    assert (found["status"], found["error_message"]) == ("failed", "it was called off")
    again = await caller.get(f"/api/generate/status/{uuid.uuid4()}")
    assert again.status_code == 404


async def test_what_cannot_be_asked_for_is_refused_field_by_field(caller: Caller) -> None:
    answer = await caller.post(
        "/api/generate", json={"style": "Baroque", "width": 1023, "height": 10**6, "seed": -1}
    )
    assert answer.status_code == 400
    fields = {each["field"] for each in answer.json()["error"]["problems"]}
    assert fields == {"prompt", "style", "width", "height", "seed"}


async def test_without_a_secret_no_generator_may_answer(caller: Caller) -> None:
    answer = await caller.post("/api/generate/webhook", json={"job_id": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_configured")


# ---------------------------------------------------------------- a generator that calls back


@pytest.fixture
async def generator() -> AsyncIterator[tuple[CallbackGenerator, str]]:
    found = CallbackGenerator()
    async with found.listening() as url:
        yield found, url


def calling_back(url: str, port: int) -> str:
    """A show's engine that answers to a Studio at a port."""
    return (
        f'[[engines]]\nname = "modal"\nkind = "callback"\nurl = "{url}"\n'
        f'answers_to = "http://127.0.0.1:{port}{WEBHOOK}"\nstyle = "Anime"\n'
    )


@pytest.fixture
async def called_back(
    tmp_path: Path, generator: tuple[CallbackGenerator, str]
) -> AsyncIterator[tuple[CallbackGenerator, RunningStudio]]:
    found, url = generator
    port = free_port()
    toml = calling_back(url, port)
    show = show_in(tmp_path, toml, environ=ENVIRONMENT)
    async with studio(show, own_engines=True, port=port) as running:
        yield found, running


async def test_a_generator_that_calls_back_draws_over_our_webhook(
    called_back: tuple[CallbackGenerator, RunningStudio],
) -> None:
    generator, running = called_back
    generator.sends = ("unsigned", "forged", "old", "by another secret", "signed", "signed")
    async with running.caller() as caller:
        asked = {**ASKED, "width": 64, "height": 64, "seed": 9}
        job = (await caller.post("/api/generate", json=asked)).json()["jobId"]
        found = await polled(caller, job)
        assert (found["status"], found["error_message"]) == ("completed", None)
        await generator.finished()
        assert generator.posted == [401, 401, 401, 401, 200, 200]
        [sent] = generator.asked
        assert (sent["width"], sent["height"], sent["seed"]) == (64, 64, 9)
        opened = await caller.get(found["result_url"])
        assert opened.headers["content-type"].startswith("image/")
        await asyncio.sleep(0.1)
        assert (await caller.job({"id": job}))["status"] == "completed"


async def test_a_generator_that_fails_is_told_of(
    called_back: tuple[CallbackGenerator, RunningStudio],
) -> None:
    generator, running = called_back
    generator.answer = lambda asked: {
        "job_id": asked["job_id"],
        "status": "failed",
        "error": "CUDA out of memory",
    }
    async with running.caller() as caller:
        asked = {**ASKED, "width": 64, "height": 64}
        job = (await caller.post("/api/generate", json=asked)).json()["jobId"]
        found = await polled(caller, job)
        assert found["status"] == "failed"
        assert "CUDA out of memory" in found["error_message"]


@pytest.mark.parametrize(
    ("manner", "status", "code"),
    [
        ("unsigned", 401, "bad_signature"),
        ("forged", 401, "bad_signature"),
        ("by another secret", 401, "bad_signature"),
        ("other body", 401, "bad_signature"),
        ("old", 401, "expired"),
        ("early", 401, "expired"),
        ("page", 400, "bad_request"),
        ("signed", 200, None),
    ],
)
async def test_whose_word_it_is_decides(
    called_back: tuple[CallbackGenerator, RunningStudio],
    manner: Manner,
    status: int,
    code: str | None,
) -> None:
    _, running = called_back
    body = json.dumps({"job_id": str(uuid.uuid4()), "status": "completed", "image_base64": "AA"})
    if manner in {"signed", "other body"}:
        body = json.dumps({"job_id": str(uuid.uuid4()), "status": "failed", "error": "completed"})
    async with running.caller() as caller:
        sent, headers = as_sent(body.encode(), f"msg_{manner}", manner)
        for _ in range(2):  # the same twice is answered the same
            answer = await caller.post(WEBHOOK, content=sent, headers=headers)
            assert answer.status_code == status, answer.text
            if code is not None:
                assert answer.json()["error"]["code"] == code


async def test_a_webhook_larger_than_any_picture_is_not_read(
    called_back: tuple[CallbackGenerator, RunningStudio],
) -> None:
    _, running = called_back
    async with running.caller() as caller:
        body = b"x" * (60 * 2**20)
        try:
            answer = await caller.post(WEBHOOK, content=body, headers=signed(b""))
        except httpx.TransportError:
            return  # it was hung up on before it had sent all of it
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


# ---------------------------------------------------------------- what operators ask


async def test_the_briefs_health_queries_tell_of_what_was_asked_over_http(
    tmp_path: Path,
) -> None:
    engine = Pencil()
    with postgres() as server, database_on(server, "health") as url:
        show = show_in(tmp_path, studio=on_postgres(url))
        async with studio(show, slot(engine)) as running, running.caller() as caller:
            for _ in range(3):
                await polled(
                    caller, (await caller.post("/api/generate", json=ASKED)).json()["jobId"]
                )
            engine.error = RecipeRefused("out of memory")
            await polled(caller, (await caller.post("/api/generate", json=ASKED)).json()["jobId"])
            stats = await caller.document("/api/stats", hours=24)
        database = sa.create_engine(url)
        with database.connect() as connection:
            rows = connection.exec_driver_sql(BRIEF_SUCCESS.replace("%", "%%")).all()
            [[storage]] = connection.exec_driver_sql(BRIEF_STORAGE).all()
        database.dispose()
    counts = {row[0]: row[1] for row in rows}
    assert counts == {"completed": 3, "failed": 1}
    assert all(row.avg_time is None or row.avg_time >= 0 for row in rows)
    assert [row.avg_time for row in rows if row.status == "completed"] != [None]
    assert storage is None or storage >= 0
    assert {status: stats["jobs"][status] for status in counts} == counts
    assert (stats["success_rate"], stats["pictures"]) == (0.75, 3)
    assert "success" not in stats
