from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from posixpath import normpath
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.config.show import load_show
from server.web.api import MAX_BODY
from tests.helpers.pictures import picture
from tests.helpers.screens import ScreenClient, screen, web
from tests.helpers.servers import Address, server_process, serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt

CUES = [
    cue(0, "start"),
    line(0, "a lamp is lit", id="lamp"),
    prompt(30, "a stage", id="stage"),
    cue(60, "end"),
]
RHYTHM = Rhythm(previews=3, step=0.15, first=0.4)
OPERATOR, VIEWER = "operate-é", "s33-and-d0-not-touch"


def with_still(folder: Path) -> TinyShow:
    folder.mkdir()
    (folder / "still.jpg").write_bytes(picture("still"))
    return make_show(folder, CUES, rhythm=RHYTHM, toml='still = "still.jpg"\n' + MANUAL)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return with_still(tmp_path / "show")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """One server for all questions that change nothing."""
    with server_process(with_still(tmp_path_factory.mktemp("shared") / "show").folder) as server:
        yield server.address
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
async def address(tiny: TinyShow) -> AsyncIterator[Address]:
    async with serving(tiny.load()) as address:
        yield address


@pytest.fixture
async def client(address: Address) -> AsyncIterator[httpx.AsyncClient]:
    async with web(address) as client:
        yield client


async def until_ready(client: httpx.AsyncClient, status: int = 200) -> httpx.Response:
    said = ""
    for _ in range(800):
        answer = await client.get("/readyz")
        said = answer.text
        if answer.status_code == status and "looked through" not in said:
            return answer
        await asyncio.sleep(0.05)
    pytest.fail(f"never {status}: {said}")


async def played(client: httpx.AsyncClient, address: Address) -> ScreenClient:
    """Play the first run, with a screen that reports what it painted."""
    async with screen(address, "wall") as wall:
        assert (await client.post("/api/control/go")).status_code == 200
        await wall.until(lambda me: me.of("run_end"))
        final = wall.frames[-1].message
        report = {"type": "presented", "run": final["run"], "step": final["step"]}
        await wall.send({**report, "at": final["present_at"] + 0.003})
        await wall.sync(1)
        return wall


# ---------------------------------------------------------------- pages


async def test_the_kiosk_page_and_all_it_needs_are_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-cache"
    wanted = [f"/{path}" for path in re.findall(r'(?:href|src)="(static/[^"]+)"', page.text)]
    assert len(wanted) >= 3
    seen: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = await client.get(path)
        assert answer.status_code == 200, path
        kind = answer.headers["content-type"]
        if path.endswith(".js"):
            assert "javascript" in kind
            modules = re.findall(r'from "(\.[\w./-]+)"', answer.text)
            wanted += [normpath(f"{path.rpartition('/')[0]}/{name}") for name in modules]
            newest = {"if-none-match": answer.headers["etag"]}
            again = await client.get(path, headers=newest)
            assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
        if path.endswith(".css"):
            assert "css" in kind
            for name in re.findall(r'url\(["\']?([^"\')]+)', answer.text):
                assert "//" not in name, "nothing is loaded from elsewhere"
    assert any(path.endswith("/presenter.js") for path in seen)


async def test_every_answer_forbids_to_load_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/", "/healthz", "/api/state", "/nowhere", "/assets/a/0/1.jpg", "/metrics"):
        answer = await client.get(path)
        assert "default-src 'self'" in answer.headers["content-security-policy"], path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/../api.py",
        "/static/..%2fapi.py",
        "/static/%2e%2e/api.py",
        "/static/kiosk/../../../../pyproject.toml",
        "/static//etc/passwd",
        "/static/..\\api.py",
        "/static/kiosk%00.html",
        "/static/kiosk",
        "/static/",
        "/static/nothing.js",
    ],
)
async def test_nothing_outside_is_given_away(shared: Address, path: str) -> None:
    status, body = await raw_get(shared, path)
    assert status in {400, 404, 405}, body[:200]
    assert b"import" not in body
    assert b"root:" not in body


async def raw_get(
    address: Address, path: str, *headers: str, method: str = "GET"
) -> tuple[int, bytes]:
    """A request whose path and headers nobody tidies up."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        lines = [f"{method} {path} HTTP/1.1", *headers, "Connection: close"]
        if not any(text.lower().startswith("host:") for text in headers):
            lines.insert(1, f"Host: {address.host}:{address.port}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


async def test_the_still_is_the_shows_own(client: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await client.get("/still")
    assert answer.content == picture("still")
    assert answer.headers["content-type"] == "image/jpeg"
    again = await client.get("/still", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    bare = make_show(tmp_path / "bare", CUES, rhythm=RHYTHM)
    async with serving(bare.load()) as other, web(other) as there:
        assert (await there.get("/still")).status_code == 404


# ---------------------------------------------------------------- probes


async def test_it_is_well_and_ready(client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"healthy": True})
    ready = (await until_ready(client)).json()
    assert ready == {
        "ready": True,
        "reasons": [],
        "actions": 2,
        "with_sets": 2,
        "without_sets": [],
        "unproven": [],
        "faulty_sets": [],
        "notes": [],
        "supply": None,  # the store is on this machine
        "copies": None,
    }


async def test_what_lacks_is_named(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM)
    for number in (0, 1):
        (tiny.set_folder("stage", number) / "meta.json").write_text("{")
    async with serving(tiny.load()) as address, web(address) as client:
        told = (await until_ready(client, 503)).json()
        assert told["ready"] is False
        assert any("stage" in reason for reason in told["reasons"])
        assert not any("lamp" in reason for reason in told["reasons"])
        assert told["without_sets"] == ["stage"]
        faulty = {(one["action_id"], one["set_id"]) for one in told["faulty_sets"]}
        assert faulty == {("stage", 0), ("stage", 1)}
        assert all(one["reason"] for one in told["faulty_sets"])
        assert [each["action_id"] for each in told["unproven"]] == ["stage"]
        assert (await client.get("/healthz")).status_code == 200


async def test_a_still_image_alone_is_nothing_to_stand_on(tiny: TinyShow) -> None:
    for number in (0, 1):
        (tiny.set_folder("stage", number) / "meta.json").write_text("{")
    async with serving(tiny.load()) as address, web(address) as client:
        told = (await until_ready(client, 503)).json()
        assert told["without_sets"] == [each["action_id"] for each in told["unproven"]] == ["stage"]
        (reason, *_) = told["reasons"]
        assert "nothing but the still image" in reason
        assert "stage set 0: " in reason, "and why"
        health = (await client.get("/api/state")).json()["health"]
        assert (health["level"], "no set" in health["reason"]) == ("degraded", True)


async def test_a_store_that_is_not_there_is_told(tiny: TinyShow) -> None:
    (tiny.folder / "manifest.json").write_text('{"version": "2.0.0", "actions": {}}')
    async with serving(tiny.load()) as address, web(address) as client:
        told = (await until_ready(client, 503)).json()
        assert "version" in " ".join(told["reasons"])
        assert told["with_sets"] == 0
        assert (await client.get("/")).status_code == 200


async def test_metrics_can_be_parsed(client: httpx.AsyncClient, address: Address) -> None:
    await played(client, address)
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert len(families) >= 10
    assert all(name.startswith("understudy_") for name in families)

    def value(name: str, **labels: str) -> float:
        samples = families[name.removesuffix("_total").removesuffix("_count")].samples
        return next(s.value for s in samples if s.name == name and s.labels == labels)

    assert value("understudy_cues_fired_total", action="transcript") == 1
    assert value("understudy_runs_total", provider="static", outcome="completed") == 1
    assert value("understudy_frames_sent_total") == RHYTHM.frames
    assert value("understudy_presented_lateness_seconds_count") == 1
    assert value("understudy_sets_usable") == 4


# ---------------------------------------------------------------- pictures


async def test_assets_are_for_ever(client: httpx.AsyncClient, tiny: TinyShow) -> None:
    answer = await client.get("/assets/lamp/1/2.jpg")
    data = tiny.image("lamp", 1, 2)
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert "max-age=31536000" in answer.headers["cache-control"]
    etag = answer.headers["etag"]
    assert etag.strip('"') == hashlib.sha256(data).hexdigest()[:32]
    for asked in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        same = await client.get("/assets/lamp/1/2.jpg", headers={"if-none-match": asked})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == etag
    other = await client.get("/assets/lamp/1/2.jpg", headers={"if-none-match": '"x"'})
    assert other.status_code == 200
    assert (await client.get("/assets/lamp/0/2.jpg")).headers["etag"] != etag


@pytest.mark.parametrize(
    "path",
    [
        "/assets/lamp/0/meta.json",
        "/assets/lamp/0/9.jpg",
        "/assets/lamp/9/1.jpg",
        "/assets/nobody/0/1.jpg",
        "/assets/lamp/0/1.png",
        "/assets/lamp/-1/1.jpg",
        "/assets/lamp/x/1.jpg",
        "/assets/lamp/99999999999999999999/1.jpg",
        "/assets/lamp/0/..%2f1%2f1.jpg",
        "/assets/..%2flamp/0/1.jpg",
        "/assets/../assets/lamp/0/../1/1.jpg",
        "/assets/lamp/0/../../../../still.jpg",
        "/assets/lamp/0/%2e%2e%2f%2e%2e%2fstill.jpg",
        "/assets/lamp/0/..\\1.jpg",
        "/assets/lamp/0/.1.jpg",
        "/assets/lamp/0/1.jpg%00.jpg",
        "/assets/lamp/0/%ff%fe.jpg",
        "/assets/l%C3%A4mp/0/1.jpg",
        "/assets/lamp/0/" + "x" * 5000 + ".jpg",
        "/assets//0/1.jpg",
        "/assets/lamp/0/",
        "/assets/",
    ],
)
async def test_what_is_no_asset_is_not_found(shared: Address, path: str) -> None:
    status, body = await raw_get(shared, path)
    assert status in {400, 404}, body[:200]
    assert b"Traceback" not in body
    status, _ = await raw_get(shared, "/assets/lamp/0/1.jpg")
    assert status == 200


async def test_a_link_out_of_the_store_is_not_followed(
    client: httpx.AsyncClient, tiny: TinyShow, tmp_path: Path
) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture("secret"))
    (tiny.set_folder("lamp", 0) / "1.jpg").unlink()
    (tiny.set_folder("lamp", 0) / "1.jpg").symlink_to(tmp_path / "secret.jpg")
    answer = await client.get("/assets/lamp/0/1.jpg")
    assert answer.status_code in {404, 503}
    assert answer.content != picture("secret")


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "text", "another kind"])
async def test_a_damaged_picture_is_not_given_out(
    client: httpx.AsyncClient, tiny: TinyShow, damage: str
) -> None:
    place = tiny.set_folder("lamp", 0) / "1.jpg"
    whole = place.read_bytes()
    half = whole[: len(whole) // 2]
    place.write_bytes(
        {
            "cut": half,
            "zeros": half.ljust(len(whole), b"\0"),
            "empty": b"",
            "text": b"<html>not found</html>",
            "another kind": b"\x89PNG\r\n\x1a\n" + whole,
        }[damage]
    )
    assert (await client.get("/assets/lamp/0/1.jpg")).status_code == 404
    place.write_bytes(whole)
    assert (await client.get("/assets/lamp/0/1.jpg")).content == whole


async def test_frames_are_given_while_on_stage(
    client: httpx.AsyncClient, address: Address, tiny: TinyShow
) -> None:
    wall = await played(client, address)
    run = wall.runs[0]
    answer = await client.get(f"/frames/{run}/{RHYTHM.frames}")
    assert answer.content == wall.frames[-1].image
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    for path in (f"/frames/{run}/0", f"/frames/{run}/-1", f"/frames/{run}/x", "/frames/x/1"):
        assert (await client.get(path)).status_code == 404
    assert answer.content in {tiny.final("lamp", 0), tiny.final("lamp", 1)}


# ---------------------------------------------------------------- the state, the log


async def test_the_state_and_the_cues(client: httpx.AsyncClient, address: Address) -> None:
    await until_ready(client)
    state = (await client.get("/api/state")).json()
    assert {
        "show",
        "activation",
        "screening",
        "position",
        "now",
        "standby",
        "next_cues",
        "mode",
        "coverage",
        "screens",
        "health",
    } <= set(state)
    assert state["activation"] == "show"
    assert state["screening"]["status"] == "waiting"
    assert state["now"] is None
    cues = (await client.get("/api/cues")).json()["cues"]
    assert [one["action"] for one in cues] == ["start", "transcript", "prompt", "end"]
    assert cues[1]["cue"] == "lamp"
    assert (cues[2]["cue"], cues[2]["sets"], cues[2]["time"]) == ("stage", 2, "00:00:30")
    await played(client, address)
    state = (await client.get("/api/state")).json()
    assert state["now"]["cue"] == "lamp"
    assert state["now"]["outcome"] == "completed"
    assert state["position"] > 0


async def test_what_was_played_as_json_and_as_a_table(
    client: httpx.AsyncClient, address: Address
) -> None:
    empty = await client.get("/api/asrun")
    assert (empty.status_code, empty.json()) == (200, [])
    await played(client, address)
    (row,) = (await client.get("/api/asrun?format=json")).json()
    assert (row["action_id"], row["outcome"], row["provider"]) == ("lamp", "completed", "static")
    assert set(row["presented"]) == {"wall"}
    table = await client.get("/api/asrun?format=csv")
    assert table.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(table.text)))
    assert lines
    assert {one["action_id"] for one in lines} == {"lamp"}
    assert (await client.get("/api/asrun", params={"since": row["started_wall"] + 1})).json() == []
    assert (await client.get("/api/asrun?limit=0")).json() == []


@pytest.mark.parametrize("query", ["format=xml", "limit=x", "limit=1.5", "since=yesterday"])
async def test_a_question_that_makes_no_sense(shared: Address, query: str) -> None:
    async with web(shared) as client:
        answer = await client.get(f"/api/asrun?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_args"


@pytest.mark.parametrize("query", ["since=nan", "since=inf", "since=-1e400", "limit=-5"])
async def test_a_question_at_the_edge_is_answered(shared: Address, query: str) -> None:
    async with web(shared) as client:
        answer = await client.get(f"/api/asrun?{query}")
    assert answer.status_code in {200, 400}
    json.loads(answer.text)


# ---------------------------------------------------------------- commands


async def test_commands_are_taken_and_answered(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/control/go", json={"cue": "stage"})
    assert answer.status_code == 200
    assert answer.json()["ok"] is True
    assert answer.json()["result"]["position"] == pytest.approx(30, abs=1)
    state = await client.post("/api/control/state")
    assert state.json()["result"]["now"] is None or state.json()["result"]["position"] >= 30


@pytest.mark.parametrize(
    ("command", "body", "status", "code"),
    [
        ("fly", b"{}", 404, "unknown_command"),
        ("go", b'{"cue": "nobody"}', 404, "unknown_cue"),
        ("identify", b'{"screen": "nobody"}', 404, "unknown_screen"),
        ("go", b'{"cues": 1}', 400, "bad_args"),
        ("go", b"[]", 400, "bad_args"),
        ("go", b"null", 400, "bad_args"),
        ("go", b"{", 400, "bad_args"),
        ("go", b"\xff\xfe", 400, "bad_args"),
        ("go", b"[" * 20000, 400, "bad_args"),
        ("go", b" " * (MAX_BODY + 1), 400, "bad_args"),
        ("seek", b'{"time": NaN}', 400, "bad_args"),
        ("seek", b'{"time": 1' + b"0" * 400 + b"}", 400, "bad_args"),
        ("seek", b'{"time": -1}', 409, "out_of_range"),
        ("pause", b"", 409, "not_active"),
    ],
)
async def test_a_command_that_cannot_be_carried_out(
    shared: Address, command: str, body: bytes, status: int, code: str
) -> None:
    async with web(shared) as client:
        answer = await client.post(f"/api/control/{command}", content=body)
    assert answer.json()["ok"] is False
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]


async def test_too_soon(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/api/control/go") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json()["error"]["code"] == "too_soon"


async def test_commands_are_posted_and_nothing_else(client: httpx.AsyncClient) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD"):
        answer = await client.request(method, "/api/control/go")
        assert answer.status_code == 405
    for path in ("/api/state", "/healthz", "/"):
        assert (await client.post(path)).status_code == 405


# ---------------------------------------------------------------- who may


async def test_a_command_over_http_takes_effect_once_and_in_time(
    client: httpx.AsyncClient,
) -> None:
    async def post(command: str, **body: Any) -> tuple[int, Any]:
        answer = await client.post(f"/api/control/{command}", json=body)
        return answer.status_code, answer.json()

    first = await post("next", id=7, ttl=3)
    assert first == await post("next", id="7", ttl=3)
    assert first[1]["result"]["standby"] == 2
    assert (await post("pause", id="7"))[0] == 422
    assert (await post("go", ttl=3, sent_at=0.0))[0] == 410
    assert (await post("go", ttl=0))[1]["error"]["code"] == "expired"
    for body in ({"ttl": "soon"}, {"sent_at": True}, {"id": [1]}, {"id": True}):
        status, told = await post("go", **body)
        assert (status, told["error"]["code"]) == (400, "bad_args")


async def test_the_technicians_page_and_all_it_asks_for(shared: Address) -> None:
    async with web(shared) as client:
        page = await client.get("/control")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for address in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
            assert (await client.get(f"/{address}")).status_code == 200, address
        # Relative, all of them: a reverse proxy may show the page below a path of its own.
        assert not re.findall(r'(?:src|href)="(?!static/|data:)', page.text)


ASKED = ["/api/state", "/api/cues", "/api/asrun"]


async def test_with_tokens_everybody_brings_one(tiny: TinyShow) -> None:
    environment = {"UNDERSTUDY_OPERATOR_TOKEN": OPERATOR, "UNDERSTUDY_VIEWER_TOKEN": VIEWER}
    show = load_show(tiny.folder, {}, environment)

    def bearing(token: str) -> dict[bytes, bytes]:
        return {b"authorization": f"Bearer {token}".encode("latin-1")}

    async with serving(show) as address, web(address) as client:
        for path in ASKED:
            for headers in (
                {},
                bearing("wrong"),
                {b"authorization": b"Bearer"},
                bearing("\xff\xfe"),
            ):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 401, (path, headers)
                assert answer.json()["error"]["code"] == "unauthorized"
            assert (await client.get(path, headers=bearing(VIEWER))).status_code == 200
        refused = await client.post("/api/control/go", headers=bearing(VIEWER))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        read = await client.post("/api/control/state", headers=bearing(VIEWER))
        assert read.status_code == 200
        assert (await client.post("/api/control/go", headers=bearing(OPERATOR))).status_code == 200
        assert (await client.post("/api/control/go")).status_code == 401
        for path in ("/", "/healthz", "/readyz", "/metrics", "/still"):
            assert (await client.get(path)).status_code in {200, 503}
        said = (await client.get("/api/state", headers=bearing(VIEWER))).text
        assert VIEWER not in said
        assert OPERATOR not in said


@pytest.mark.parametrize(
    "headers",
    [
        ["Origin: https://evil.example"],
        ["Origin: null"],
        ["Origin: http://["],
        ["Origin: http://127.0.0.1:1"],
        ["Host: evil.example"],
        ["Host: evil.example:80", "Origin: http://evil.example:80"],
        ["Host: ["],
        ["Host: [::1"],
        ["Host: "],
    ],
)
async def test_a_page_from_elsewhere_is_refused(shared: Address, headers: list[str]) -> None:
    for path in (*ASKED, "/api/control/go"):
        method = "POST" if "control" in path else "GET"
        extra = [*headers, "Content-Length: 0"] if method == "POST" else headers
        status, body = await raw_get(shared, path, *extra, method=method)
        assert status in {400, 403}, (path, body[:200])
    async with web(shared) as client:
        state = (await client.get("/api/state")).json()
        assert state["screening"]["status"] == "waiting", "it was not carried out"


async def test_our_own_page_may_ask(client: httpx.AsyncClient, address: Address) -> None:
    headers: dict[str, Any] = {"origin": address.http}
    assert (await client.get("/api/state", headers=headers)).status_code == 200
    assert (await client.post("/api/control/go", headers=headers)).status_code == 200
