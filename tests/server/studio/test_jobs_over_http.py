"""Jobs as whoever asks for them over HTTP finds them."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import sqlalchemy as sa
from PIL import Image

from generator.engines.port import RecipeRefused, StepImage
from server.studio import jobs_api
from tests.helpers.pictures import picture
from tests.helpers.postgres import postgres
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


@pytest.fixture
def pencil() -> Pencil:
    return Pencil()


@pytest.fixture
async def running(tmp_path: Path, pencil: Pencil) -> AsyncIterator[RunningStudio]:
    async with studio(show_in(tmp_path), slot(pencil)) as found:
        yield found
        pencil.let_go()


@pytest.fixture
async def caller(running: RunningStudio) -> AsyncIterator[Caller]:
    async with running.caller() as found:
        yield found


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


# ---------------------------------------------------------------- asking


async def test_what_is_asked_for_is_accepted_and_is_where_it_says(caller: Caller) -> None:
    answer = await caller.post("/api/jobs", json={"prompt": "a lighthouse", "n": 2, "seed": 7})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["status"], job["id"]) == ("queued", job["job_id"])
    there = urljoin(str(answer.url), answer.headers["location"])
    assert there == str(answer.url.join(f"/api/jobs/{job['id']}"))
    found = await caller.over(job)
    assert found["status"] == "completed"
    assert [item["seed"] for item in found["items"]] == [7, 8]
    assert (found["total"], found["done"], found["failed"], found["partial"]) == (2, 2, 0, False)
    assert (found["progress"], found["position"], found["eta_seconds"]) == (1.0, None, None)
    assert await caller.picture(found["result_url"]) == picture("3")


async def test_the_same_key_again_is_the_same_job(caller: Caller) -> None:
    headers = {"idempotency-key": "once"}
    first = await caller.post("/api/jobs", json={"prompt": "a lake"}, headers=headers)
    again = await caller.post("/api/jobs", json={"prompt": "a lake"}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    other = await caller.post("/api/jobs", json={"prompt": "a pond"}, headers=headers)
    assert refusal(other) == (409, "conflict")


async def test_a_hundred_posts_of_one_key_at_once_are_one_job(
    caller: Caller, pencil: Pencil
) -> None:
    asked = [
        caller.post("/api/jobs", json={"prompt": "a lake"}, headers={"idempotency-key": "once"})
        for _ in range(100)
    ]
    answers = await asyncio.gather(*asked)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 99}
    [job] = {answer.json()["id"] for answer in answers}
    await caller.over({"id": job})
    assert len(pencil.asked) == 1
    assert len((await caller.document("/api/jobs"))["jobs"]) == 1


async def test_everything_that_is_wrong_is_told_at_once(caller: Caller) -> None:
    asked = {"prompt": "", "n": 65, "style": "Baroqe", "colour": "red", "priority": "high"}
    answer = await caller.post("/api/jobs", json=asked)
    assert answer.status_code == 400
    problems = answer.json()["error"]["problems"]
    assert {each["field"] for each in problems} == set(asked)
    assert {"field": "style", "code": "unknown_style"}.items() <= next(
        each for each in problems if each["field"] == "style"
    ).items()
    assert (await caller.document("/api/jobs"))["jobs"] == []
    long = await caller.post("/api/jobs", json={"prompt": "a" * 10_001})
    assert refusal(long) == (413, "too_large")


async def test_templates_styles_and_speed_are_drawn_as_they_say(
    caller: Caller, pencil: Pencil
) -> None:
    job = await caller.ask(prompt="a {red|blue} door", template=True, n=2, seed=5, style="Line Art")
    job = await caller.over(job)
    assert job["total"] == 4
    assert [item["seed"] for item in job["items"]] == [5, 6, 5, 6]
    plain, said = pencil.asked[0], [recipe.prompt for recipe in pencil.asked]
    assert sum("a red door" in each for each in said) == 2
    assert all("clean lines" in each.lower() for each in said)
    await caller.over(await caller.ask(prompt="a door", speed="fast"))
    assert (pencil.asked[-1].steps, plain.steps) == (4, 30)
    many = await caller.post("/api/jobs", json={"prompt": "{a|b}" * 12, "template": True})
    assert many.status_code in {400, 413}


async def test_a_take_may_be_started_from(caller: Caller, pencil: Pencil) -> None:
    take = (await caller.over(await caller.ask()))["items"][0]["take"]
    again = await caller.over(await caller.ask(base=f"take:{take}", strength=0.4))
    assert again["status"] == "completed"
    assert (pencil.asked[-1].base_image, pencil.asked[-1].strength) == (picture("3"), 0.4)
    nobodys = await caller.post(
        "/api/jobs", json={"prompt": "a lake", "base": f"take:{uuid.uuid4()}"}
    )
    assert refusal(nobodys) == (400, "unknown_take")


async def test_an_estimate_knows_what_was_measured(caller: Caller) -> None:
    asked = {"prompt": "a lake", "n": 8}
    first = (await caller.post("/api/estimate", json=asked)).json()
    assert (first["pictures"], first["seconds"]) == (8, None)
    await caller.over(await caller.ask(n=2))
    then = (await caller.post("/api/estimate", json=asked)).json()
    assert (then["pictures"], then["seconds"] > 0) == (8, True)
    assert len((await caller.document("/api/jobs"))["jobs"]) == 1


async def test_no_more_pictures_a_day_than_were_granted(tmp_path: Path) -> None:
    async with studio(show_in(tmp_path)) as running:
        await running.add("ada", "client", pictures_a_day=3)
        async with running.caller("ada") as ada:
            await ada.ask(n=2)
            answer = await ada.post("/api/jobs", json={"prompt": "a lake", "n": 2})
            assert refusal(answer) == (429, "budget_exceeded")
            await ada.ask(n=1)


# ---------------------------------------------------------------- waiting


async def test_whoever_waits_is_answered_when_it_is_over(caller: Caller, pencil: Pencil) -> None:
    pencil.hold()
    job = await caller.ask()
    begun = await caller.document(f"/api/jobs/{job['id']}", wait=1)
    assert begun["status"] == "processing"
    waiting = asyncio.create_task(caller.document(f"/api/jobs/{job['id']}", wait=60))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    pencil.let_go()
    async with asyncio.timeout(20):
        assert (await waiting)["status"] == "completed"
    again = await caller.get(f"/api/jobs/{job['id']}", params={"wait": 60})  # at once
    assert (again.json()["status"], again.headers["cache-control"]) == ("completed", "no-store")
    assert "retry-after" not in again.headers


async def test_whoever_waits_for_what_was_retried_hears_of_its_new_end(
    caller: Caller, pencil: Pencil
) -> None:
    pencil.error = RecipeRefused("no such thing")
    job = await caller.over(await caller.ask())
    assert (job["status"], job["error"]["code"]) == ("failed", "refused")
    pencil.error = None
    pencil.hold()
    assert (await caller.post(f"/api/jobs/{job['id']}/retry")).status_code == 202
    waiting = asyncio.create_task(caller.document(f"/api/jobs/{job['id']}", wait=60))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    pencil.let_go()
    assert (await waiting)["status"] == "completed"


async def test_who_hangs_up_listens_no_more(
    running: RunningStudio, caller: Caller, pencil: Pencil
) -> None:
    pencil.hold()
    job = await caller.ask()
    feed = running.services.feed
    async with running.caller() as impatient:
        waiting = asyncio.create_task(impatient.document(f"/api/jobs/{job['id']}", wait=60))
        await settled(lambda: feed.listeners == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await settled(lambda: feed.listeners == 0)


async def settled(so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while True:
            if so():
                return
            await asyncio.sleep(0.02)


# ---------------------------------------------------------------- calling off, again, in order


async def test_what_is_called_off_is_over_once(caller: Caller, pencil: Pencil) -> None:
    pencil.hold()
    begun, waits = await caller.ask(), await caller.ask(n=3)
    for job in (begun, waits):
        answer = await caller.delete(f"/api/jobs/{job['id']}")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        again = await caller.delete(f"/api/jobs/{job['id']}")
        assert refusal(again) == (409, "not_cancellable")
    pencil.let_go()
    done = await caller.over(await caller.ask())
    assert refusal(await caller.delete(f"/api/jobs/{done['id']}")) == (409, "not_cancellable")
    assert (await caller.job(begun))["status"] == "cancelled"


class Moody(Pencil):
    """An engine that will not draw one seed."""

    async def draw(self) -> AsyncGenerator[StepImage, None]:
        """See `Pencil.draw`."""
        self.error = RecipeRefused("not this one") if self.asked[-1].seed == 8 else None
        async with aclosing(super().draw()) as drawn:
            async for image in drawn:
                yield image


async def test_only_what_failed_is_drawn_again_and_with_its_seed(
    tmp_path: Path,
) -> None:
    moody = Moody()
    async with studio(show_in(tmp_path), slot(moody)) as running, running.caller() as caller:
        job = await caller.over(await caller.ask(n=3, seed=7))
        assert (job["status"], job["partial"], job["done"], job["failed"]) == (
            *("completed", True, 2, 1),
        )
        assert [item["error"] and item["error"]["code"] for item in job["items"]] == [
            *(None, "refused", None),
        ]
        path = f"/api/jobs/{job['id']}/retry"
        assert refusal(await caller.post(path, json={"items": [0]})) == (409, "nothing_to_retry")
        assert refusal(await caller.post(path, json={"items": [3]})) == (400, "bad_request")
        drawn = len(moody.asked)
        again = await caller.post(path, json={"items": [1]})
        assert (again.status_code, again.json()["attempt"]) == (202, 2)
        job = await caller.over(job)
        assert [recipe.seed for recipe in moody.asked[drawn:]] == [8]
        assert job["attempt"] == 2


async def test_a_job_is_put_before_another(caller: Caller, pencil: Pencil) -> None:
    pencil.hold()
    begun, *line = [await caller.ask() for _ in range(4)]
    await caller.until(begun, lambda job: job["status"] == "processing")

    async def move(job: Document, **where: str) -> httpx.Response:
        return await caller.post(f"/api/jobs/{job['id']}/move", json=where)

    assert (await move(line[2], to="first")).status_code == 200
    assert (await move(line[0], to="last")).status_code == 200
    assert (await move(line[1], before=line[0]["id"].upper())).status_code == 200
    await asyncio.sleep(1.1)  # for as long a look at the queue is good
    places = [(await caller.job(job))["position"] for job in (begun, *line)]
    assert places == [0, 3, 2, 1]
    assert refusal(await move(begun, to="first")) == (409, "conflict")
    assert refusal(await move(line[0], to="first", before=line[1]["id"])) == (400, "bad_request")
    pencil.let_go()


async def test_a_pause_outlives_the_studio(tmp_path: Path) -> None:
    show = show_in(tmp_path)
    async with studio(show) as running, running.caller() as caller:
        answer = await caller.post("/api/queue/pause", json={"why": "lunch\nbreak"})
        assert answer.json()["paused"]["message"] == "lunch break"
        job = await caller.ask()
    async with studio(show) as running, running.caller() as caller:
        queue = await caller.document("/api/queue")
        assert (queue["paused"]["code"], queue["waiting"]) == ("by_hand", 1)
        assert (await caller.job(job))["status"] == "queued"
        answer = await caller.post("/api/queue/resume")
        assert answer.json()["paused"] is None
        assert (await caller.over(job))["status"] == "completed"


async def test_jobs_are_listed_page_by_page(caller: Caller) -> None:
    asked = [await caller.ask(prompt=f"lake {number}") for number in range(5)]
    for job in asked:
        await caller.over(job)
    found: list[str] = []
    before: dict[str, str] = {}
    while page := (await caller.document("/api/jobs", limit=2, **before))["jobs"]:
        assert len(page) <= 2
        found += [job["id"] for job in page]
        before = {"before": found[-1]}
    assert found == [job["id"] for job in reversed(asked)]
    done = await caller.document("/api/jobs", status="completed,failed", kind="draw")
    assert len(done["jobs"]) == 5
    assert (await caller.document("/api/jobs", status="queued"))["jobs"] == []
    assert refusal(await caller.get("/api/jobs?limit=201")) == (400, "bad_request")
    assert refusal(await caller.get("/api/jobs?status=sleeping")) == (400, "bad_request")


# ---------------------------------------------------------------- pictures


async def test_each_step_is_seen_while_it_is_drawn_and_afterwards(
    caller: Caller, pencil: Pencil
) -> None:
    pencil.hold()
    job = await caller.ask()
    await caller.until(job, lambda found: found["progress"] > 0.5)
    take = job["items"][0]["take"]
    assert await caller.picture(f"/takes/{take}/2.jpg") == picture("2")
    assert refusal(await caller.get(f"/takes/{take}/image")) == (404, "not_found")
    pencil.let_go()
    await caller.over(job)
    for name, label in (("1.jpg", "1"), ("2.jpg", "2"), ("final.jpg", "3"), ("image", "3")):
        assert await caller.picture(f"/takes/{take}/{name}") == picture(label)


async def test_pictures_are_kept_and_read_in_parts(caller: Caller) -> None:
    job = await caller.over(await caller.ask())
    there = f"/takes/{job['items'][0]['take']}/image"
    whole = await caller.get(there)
    etag, data = whole.headers["etag"], whole.content
    assert (whole.headers["accept-ranges"], len(data) > 100) == ("bytes", True)

    async def part(**headers: str) -> httpx.Response:
        return await caller.get(
            there, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    same = await part(if_none_match=etag)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    head = await caller.head(there)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(data))
    for asked, expected in (
        ("bytes=0-9", data[:10]),
        ("bytes=10-", data[10:]),
        ("bytes=-7", data[-7:]),
        (f"bytes=5-{10**15}", data[5:]),
    ):
        found = await part(range=asked)
        assert (found.status_code, found.content) == (206, expected)
        start = len(data) - len(expected) if asked != "bytes=0-9" else 0
        assert found.headers["content-range"] == (
            f"bytes {start}-{start + len(expected) - 1}/{len(data)}"
        )
        assert (found.headers["etag"], found.headers["content-type"]) == (etag, "image/jpeg")
    beyond = await part(range=f"bytes={len(data)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    for others in ({"range": "bytes=0-1,5-6"}, {"range": "lines=1-2"}, {"range": "bytes=9-2"}):
        assert (await part(**others)).content == data
    assert (await part(range="bytes=0-9", if_range='"older"')).content == data
    assert (await part(range="bytes=0-9", if_range=etag)).status_code == 206


async def test_a_thumb_is_as_wide_as_is_asked_for(caller: Caller) -> None:
    job = await caller.over(await caller.ask())
    item = job["items"][0]
    small = await caller.get(f"/takes/{item['take']}/thumb", params={"w": 64})
    assert small.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(small.content)).size == (64, 38)
    assert Image.open(io.BytesIO(await caller.picture(item["thumb"]))).width == 160


async def test_a_sealed_address_opens_for_anybody_and_stays(
    running: RunningStudio,
) -> None:
    await running.add("ada")
    await asyncio.sleep(2.1)  # for as long it is believed that nobody has a token
    async with running.caller("ada") as ada, running.caller() as anybody:
        assert refusal(await anybody.get("/api/me")) == (401, "unauthorized")
        job = await ada.over(await ada.ask())
        address = job["items"][0]["url"]
        assert (await ada.job(job))["items"][0]["url"] == address
        assert await anybody.picture(address) == picture("3")
        await running.services.access.members.renew_token("ada")
        assert refusal(await ada.get("/api/me")) == (401, "unauthorized")
        assert await anybody.picture(address) == picture("3")  # she is a member still


# ---------------------------------------------------------------- when something is away


async def test_a_locked_database_is_unavailable_and_comes_back(
    running: RunningStudio, caller: Caller
) -> None:
    other = sa.create_engine(running.services.database.writer.url)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        answer = await caller.post("/api/jobs", json={"prompt": "a lake"})
        assert refusal(answer) == (503, "unavailable")
        connection.exec_driver_sql("ROLLBACK")
    other.dispose()
    assert (await caller.over(await caller.ask()))["status"] == "completed"


async def test_a_full_disk_is_told_as_one(running: RunningStudio, caller: Caller) -> None:
    database = running.services.database

    await database.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1"))
    answer = await caller.post(
        "/api/jobs", json={"prompt": "a lake", "n": 64, "metadata": {"a": "b" * 8000}}
    )
    assert refusal(answer) == (507, "disk_full")
    await database.write(
        lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={2**31 - 2}")
    )
    assert (await caller.over(await caller.ask()))["status"] == "completed"


async def test_without_postgres_requests_are_unavailable_until_it_is_back(tmp_path: Path) -> None:
    with postgres() as server, database_on(server, "away") as url:
        show = show_in(tmp_path, studio=on_postgres(url))
        async with studio(show) as running, running.caller() as caller:
            job = await caller.over(await caller.ask())
            await asyncio.to_thread(server.stop)
            asked = (
                ("GET", "/api/jobs"),
                ("GET", f"/api/jobs/{job['id']}"),
                ("POST", "/api/jobs"),
                ("GET", "/api/hooks"),
                ("GET", "/api/stats"),
                ("POST", "/api/queue/pause"),
                ("GET", f"/api/generate/status/{job['id']}"),
                ("GET", f"/takes/{uuid.uuid4()}/1.jpg"),
                ("GET", f"/api/jobs/{job['id']}/events"),
            )
            told = {}
            try:
                for method, path in asked:
                    body = {"prompt": "a lake"} if method == "POST" else None
                    told[path] = refusal(await caller.request(method, path, json=body))
                assert (await caller.get("/healthz")).status_code == 200
            finally:
                await asyncio.to_thread(server.start)
            assert set(told.values()) == {(503, "unavailable")}, told
            metrics = (await caller.get("/metrics")).text.splitlines()
            failures = [
                each for each in metrics if each.startswith("understudy_job_failures_total{")
            ]
            assert failures
            assert [each for each in failures if not each.endswith(" 0.0")] == []
            assert (await caller.over(await caller.ask()))["status"] == "completed"


async def test_an_error_of_the_program_is_told_as_one(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret of the program's")

    monkeypatch.setattr(jobs_api, "own_job", broken)
    answer = await caller.get(f"/api/jobs/{uuid.uuid4()}")
    assert refusal(answer) == (500, "internal")
    assert "secret" not in answer.text
