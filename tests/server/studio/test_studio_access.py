"""Who is let in at the Studio's door: from which machine, by which name, from which page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake

from generator.jobs.members import Role
from server.studio.app import why_not_to_listen
from tests.helpers.feeds import Ear
from tests.helpers.nginx import documented, free_port, nginx
from tests.helpers.pictures import picture
from tests.helpers.studios import Caller, Pencil, routes, show_in, slot, studio

ADA: dict[str, Role] = {"ada": "artist"}
FOR_EVERYBODY = {"/", "/studio/", "/healthz", "/readyz", "/metrics", "/api/generate/webhook"}
"""Where nothing of any member's is, and what is signed instead."""

ELSEWHERE = "https://elsewhere.example"


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


async def test_whoever_sits_at_the_machine_is_the_artist_while_nobody_has_a_token(
    tmp_path: Path,
) -> None:
    async with studio(show_in(tmp_path)) as running, running.caller() as caller:
        assert (await caller.document("/api/me"))["role"] == "artist"
        job = await caller.over(await caller.ask())
        sealed = job["items"][0]["url"]
        assert await caller.picture(sealed) == picture("3")
        wrong = await caller.get("/api/me", headers={"x-api-key": "ust_" + "a" * 43})
        assert code(wrong) == (401, "unauthorized")
        await running.add("ada")
        await asyncio.sleep(2.1)  # for as long it is believed that nobody has a token
        for path in ("/api/me", "/api/jobs", f"/api/jobs/{job['id']}", sealed):
            answer = await caller.get(path)
            assert code(answer) == (401, "unauthorized"), path
        url = f"ws://127.0.0.1:{running.address.port}/ws/studio"
        async with Ear.line(url) as ear:
            await ear.send({"type": "hello"})
            await ear.until(lambda me: me.of("error"))
            assert ear.of("error")[0]["code"] == "unauthorized"
            assert await ear.closed() == 1008


async def test_a_token_is_brought_in_either_of_two_headers(tmp_path: Path) -> None:
    async with studio(show_in(tmp_path), members=ADA) as running, running.caller() as caller:
        token = running.tokens["ada"]
        for headers in (
            {"authorization": f"Bearer {token}"},
            {"authorization": f"bearer {token}"},
            {"x-api-key": token},
        ):
            answer = await caller.get("/api/me", headers=headers)
            assert answer.json()["name"] == "ada"
        for wrong in (
            {"authorization": f"Basic {token}"},
            {"authorization": f"Bearer {token}x"},
            {"authorization": "Bearer"},
            {"x-api-key": token.upper()},
            {"x-api-key": "ust_\xff"},
            {"x-api-key": "a" * 9000},
        ):
            raw = [(name.encode(), text.encode("latin-1")) for name, text in wrong.items()]
            assert code(await caller.get("/api/me", headers=raw)) == (401, "unauthorized")
        assert code(await caller.get(f"/api/me?token={token}")) == (401, "unauthorized")


async def everywhere(caller: Caller, **headers: str) -> dict[str, int]:
    """The status of each route that is a member's own, asked with some headers."""
    found: dict[str, int] = {}
    for method, path in sorted(routes()):
        if method in {"WS", "MOUNT"} or path in FOR_EVERYBODY:
            continue
        there = path.replace("{id}", "0" * 32).replace("{name}", "image")
        answer = await caller.request(method, there, headers=headers)
        found[f"{method} {path}"] = answer.status_code
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": ELSEWHERE},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"host": "rebound.example"},
        {"host": "rebound.example:8100"},
        {"host": ""},
    ],
)
async def test_a_page_from_elsewhere_is_refused_on_every_route(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with studio(show_in(tmp_path), members=ADA) as running, running.caller("ada") as ada:
        sealed = (await ada.over(await ada.ask()))["items"][0]["url"]
        found = await everywhere(ada, **headers)
        assert len(found) > 20
        assert set(found.values()) == {403}, found
        assert (await ada.get(sealed, headers=headers)).status_code == 403
        url = f"ws://127.0.0.1:{running.address.port}/ws/studio"
        # Its answer to the handshake is a refusal: nothing is ever said on it.
        with pytest.raises(InvalidHandshake):
            await connect(url, additional_headers=headers, proxy=None)


async def test_our_own_page_and_those_that_are_named_are_let_in(tmp_path: Path) -> None:
    show = show_in(tmp_path, studio={"origins": ["https://desk.example"]})
    async with studio(show) as running, running.caller() as caller:
        own = running.address.http
        for origin in (own, "https://desk.example"):
            answer = await caller.get("/api/me", headers={"origin": origin})
            assert answer.status_code == 200
        async with running.ear(origin=own) as ear:
            assert ear.of("welcome")


@pytest.mark.parametrize(
    ("section", "members", "why"),
    [
        ({}, False, None),
        ({"host": "::1"}, False, None),
        ({"host": "0.0.0.0"}, False, "refusing to listen on 0.0.0.0"),
        ({"public_url": "https://studio.example/"}, False, "reverse proxy"),
        ({"trusted_proxies": ["127.0.0.1"]}, False, "reverse proxy"),
        ({"host": "0.0.0.0"}, True, None),
        ({"public_url": "https://studio.example/"}, True, None),
    ],
)
async def test_it_listens_to_others_only_once_somebody_has_a_token(
    tmp_path: Path, section: dict[str, Any], members: bool, why: str | None
) -> None:
    if members:
        async with studio(show_in(tmp_path), members=ADA):
            pass
    found = await why_not_to_listen(show_in(tmp_path, studio=section))
    if why is None:
        assert found is None
    else:
        assert found is not None
        assert why in found
        assert "understudy studio member add NAME" in found


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
async def test_who_comes_through_a_proxy_does_not_sit_at_the_machine(
    tmp_path: Path, header: str
) -> None:
    async with studio(show_in(tmp_path)) as running, running.caller() as caller:
        answer = await caller.get("/api/me", headers={header: "for=127.0.0.1"})
        assert code(answer) == (401, "unauthorized")
        assert (await caller.get("/api/me")).status_code == 200


async def test_below_a_path_of_a_proxy_everything_is_found(tmp_path: Path) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}/show"
    show = show_in(tmp_path, studio={"public_url": f"{public}/", "trusted_proxies": ["127.0.0.1"]})
    engine = Pencil()
    async with studio(show, slot(engine), members=ADA) as running:
        configuration = documented()
        with nginx(tmp_path / "nginx", configuration, running.address.port, port=port):
            headers = {"authorization": f"Bearer {running.tokens['ada']}"}
            async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=30) as ada:
                page = await ada.get(f"{public}/")
                assert page.headers["content-type"].startswith("text/html")
                assert (await ada.get(f"{public}/static/studio/main.js")).status_code == 200
                engine.hold()
                asked = await ada.post(f"{public}/api/jobs", json={"prompt": "a lake"})
                assert asked.status_code == 202
                there = asked.url.join(asked.headers["location"])
                assert str(there) == f"{public}/api/jobs/{asked.json()['id']}"
                socket = f"ws://127.0.0.1:{port}/show/ws/studio"
                async with Ear.line(socket, additional_headers={"origin": public[:-5]}) as ear:
                    await ear.send({"type": "hello", "token": running.tokens["ada"]})
                    await ear.until(lambda me: me.of("welcome"))
                    engine.let_go()
                    await ear.until(lambda me: "job.completed" in me.told)
                job = (await ada.get(there, params={"wait": 20})).json()
                picked = await ada.get(f"{public}{job['result_url']}")
                assert picked.content == picture("3")
                status = await ada.get(f"{public}/api/generate/status/{job['id']}")
            async with httpx.AsyncClient(trust_env=False) as anybody:
                opened = await anybody.get(status.json()["result_url"])
                assert opened.content == picture("3")
                refused = await anybody.get(f"{public}/api/me")
                assert code(refused) == (401, "unauthorized")
