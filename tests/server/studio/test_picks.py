"""A take that is picked over HTTP is a set of the show, and on the wall while that plays."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.config.show import Show
from tests.helpers.screens import web
from tests.helpers.servers import Address, serving
from tests.helpers.shows import MANUAL
from tests.helpers.studios import Caller, Pencil, images, show_in, slot, studio

SETS = Path("actions/lake/sets")


@pytest.fixture
async def playing(tmp_path: Path) -> AsyncIterator[tuple[Show, Address]]:
    """A show that plays by hand, without any set so far."""
    show = show_in(tmp_path, toml=f"{MANUAL}\n[playback]\nfallback = false\n")
    async with serving(show) as address:
        yield show, address


@pytest.fixture
async def caller(playing: tuple[Show, Address]) -> AsyncIterator[Caller]:
    """An artist at a Studio beside it."""
    show, address = playing
    beside = show_in(show.folder, toml=MANUAL, studio={"show_url": address.http})
    engine = Pencil([*images(3)])
    async with studio(beside, slot(engine)) as running, running.caller() as found:
        yield found


async def drawn(caller: Caller, **asked: Any) -> str:
    """A take, drawn; its id."""
    job = await caller.over(await caller.ask(**{"cue": "lake", "prompt": None, **asked}))
    assert job["status"] == "completed"
    take: str = job["items"][0]["take"]
    return take


async def pick(caller: Caller, take: str, deed: str = "pick", **body: Any) -> httpx.Response:
    return await caller.post(f"/api/takes/{take}/{deed}", json=body)


def meta_of(show: Show, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (show.folder / SETS / str(number) / "meta.json").read_bytes()
    )
    return found


async def played(technician: httpx.AsyncClient) -> list[tuple[str, int, str]]:
    """What was played, once something was: action, set and outcome."""
    async with asyncio.timeout(20):
        while True:
            rows = (await technician.get("/api/asrun")).json()
            if any(row["outcome"] for row in rows):
                return [(row["action_id"], row["set_id"], row["outcome"]) for row in rows]
            await asyncio.sleep(0.05)


async def test_a_pick_is_played_with_the_next_cue(
    playing: tuple[Show, Address], caller: Caller
) -> None:
    show, address = playing
    take = await drawn(caller)
    answer = await pick(caller, take)
    assert answer.status_code == 200, answer.text
    told = {"told": True, "reason": None}
    assert answer.json() == {"action_id": "lake", "set_id": 0, "show": told}
    assert (await pick(caller, take)).json()["set_id"] == 0  # it is already
    own = show.folder / "studio/takes" / take / SETS / "0/meta.json"
    assert meta_of(show, 0)["durations"] == json.loads(own.read_bytes())["durations"]
    async with web(address) as technician:
        assert (await technician.post("/api/control/go", json={"cue": "lake"})).status_code == 200
        assert await played(technician) == [("lake", 0, "completed")]


async def test_a_pick_that_is_taken_back_is_shown_no_more(
    playing: tuple[Show, Address], caller: Caller
) -> None:
    _, address = playing
    take = await drawn(caller)
    refused = await pick(caller, take, "unpick")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    await pick(caller, take)
    async with web(address) as viewer:
        assert (await viewer.get("/api/state")).json()["coverage"]["without_sets"] == []
        assert (await pick(caller, take, "unpick")).json()["set_id"] == 0
        assert (await viewer.get("/api/state")).json()["coverage"]["without_sets"] == ["lake"]
        assert (await pick(caller, take)).json()["set_id"] == 0
        assert (await viewer.get("/api/state")).json()["coverage"]["without_sets"] == []


async def test_another_recipe_is_not_picked_and_it_is_said_in_what_it_differs(
    caller: Caller,
) -> None:
    take = await drawn(caller, prompt="a mountain")
    answer = await pick(caller, take)
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("conflict", "cue")
    assert any("prompt" in each["message"] for each in error["problems"])


async def test_a_take_of_no_cue_says_for_which_it_is_picked(caller: Caller) -> None:
    take = await drawn(caller, cue=None, prompt="a lake")
    answer = await pick(caller, take)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "cue")
    assert (await pick(caller, take, cue="lake")).json()["set_id"] == 0


async def test_what_is_wrong_is_refused_and_makes_no_set(
    playing: tuple[Show, Address], caller: Caller
) -> None:
    show, _ = playing
    take = await drawn(caller)
    for body, status, code in (
        ({"cue": "moon"}, 400, "unknown_cue"),
        ({"cue": 7}, 400, "bad_request"),
        ({"set": 3}, 400, "bad_request"),
    ):
        answer = await pick(caller, take, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await pick(caller, str(uuid.uuid4()))).status_code == 404
    (show.folder / "studio/takes" / take / SETS / "0/2.jpg").write_bytes(b"torn")
    answer = await pick(caller, take)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "refused")
    assert not (show.folder / SETS).exists()


async def test_a_client_picks_nothing(tmp_path: Path) -> None:
    async with (
        studio(show_in(tmp_path), members={"shop": "client"}) as running,
        running.caller("shop") as shop,
    ):
        take = await drawn(shop)
        for deed in ("pick", "unpick"):
            answer = await pick(shop, take, deed)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_where_no_server_plays_the_pick_is_made_all_the_same(tmp_path: Path) -> None:
    show = show_in(tmp_path, studio={"show_url": "http://127.0.0.1:9"})
    async with studio(show) as running, running.caller() as caller:
        answer = (await pick(caller, await drawn(caller))).json()
        assert (answer["set_id"], answer["show"]["told"]) == (0, False)
        assert answer["show"]["reason"]
    assert meta_of(show, 0)["set_id"] == 0
