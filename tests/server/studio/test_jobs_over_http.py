"""Jobs as whoever asks for them over HTTP finds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from generator.engines.port import ScriptedEngine
from tests.helpers.studios import Caller, Pencil, RunningStudio, show_in, slot, studio


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningStudio]:
    async with studio(show_in(tmp_path)) as found:
        yield found


@pytest.fixture
async def caller(running: RunningStudio) -> AsyncIterator[Caller]:
    async with running.caller() as found:
        yield found


async def test_what_is_asked_for_is_accepted_and_is_where_it_says(caller: Caller) -> None:
    answer = await caller.post("/api/jobs", json={"prompt": "a lighthouse", "n": 2, "seed": 7})
    assert answer.status_code == 202
    job = answer.json()
    there = urljoin(str(answer.url), answer.headers["location"])
    assert there == f"{caller.base_url}/api/jobs/{job['id']}".replace("//api", "/api")
    found = await caller.over(job)
    assert found["status"] == "completed"
    assert [item["seed"] for item in found["items"]] == [7, 8]
    assert (found["total"], found["done"], found["failed"], found["partial"]) == (2, 2, 0, False)
    assert (found["progress"], found["position"], found["eta_seconds"]) == (1.0, None, None)
