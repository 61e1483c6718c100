"""Whatever is sent to the Studio: refused in words or taken, and never an error of the program."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.studio.refusals import STATUSES
from tests.helpers import programs
from tests.helpers.postgres import postgres
from tests.helpers.servers import ROOT
from tests.helpers.studios import (
    Caller,
    RunningStudio,
    database_on,
    on_postgres,
    routes,
    show_in,
    studio,
)

HALF = "x \ud83d"
TEXTS = st.one_of(
    st.sampled_from([HALF, "\x00", "\x1b[31m", "", "first", "take:", "9" * 400, "Ü", "P0"]),
    st.text(max_size=12),
    st.text(st.characters(categories=["Cs", "Cc"]), max_size=3),
)
NUMBERS = st.sampled_from(
    [0, -1, 1, 64, 65, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, math.nan, math.inf, -1e308, 0.5]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *("prompt", "recipe", "program", "cue", "style", "n", "seed", "speed", "template", "all"),
    *("base", "strength", "mask", "edit", "enlarge", "priority", "hook", "metadata", "kind"),
    *("items", "to", "before", "why", "delivery", "url", "secret", "events", "franchise"),
    *("width", "height", "model", "steps", "base_image", "job_id", "status", "image_base64"),
)
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4).map(json.dumps),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2).map(
        lambda more: json.dumps({"prompt": "a lake", **more})
    ),
    JSON.map(json.dumps),
    st.binary(max_size=40).map(lambda data: data.decode("latin-1")),
)
QUERIES = st.dictionaries(
    st.sampled_from(
        ["status", "kind", "before", "limit", "wait", "after", "hours", "w", "member", "until"]
    ),
    st.one_of(TEXTS, NUMBERS.map(str)),
    max_size=3,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["idempotency-key", "last-event-id", "range", "if-none-match", "if-range", "accept"]
    ),
    st.one_of(
        # What a client can send at all: no control characters, and no blanks around it.
        st.text(
            st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]),
            max_size=20,
        ).map(lambda text: text.strip(" \t\xa0\x85")),
        st.sampled_from(["bytes=0-", "bytes=5-2", "bytes=-0", "bytes=999999-", '"x"', "-1"]),
    ),
    max_size=2,
)
KINDS = st.sampled_from(["application/json", "application/json", "text/plain", "", "a/b; c=\xff"])
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
ADDRESSES = sorted({path for method, path in routes() if method not in {"WS", "MOUNT"}})


@dataclass(frozen=True)
class Known:
    """What there is to be named, so that what is behind a good id is reached as well."""

    ids: tuple[str, ...]
    caller: Caller = field(compare=False)


@dataclass(frozen=True)
class Sending:
    """A request: of what is known, so that it gets past the door now and then, and nonsense.

    Attributes:
        method, path: with ``{id}`` and ``{name}`` in it.
        known: which of `Known.ids` it names; None for `text`.
        text, name: what it names instead.
        query: after the address.
        headers: as text of Latin-1.
        body: its text.
    """

    method: str
    path: str
    known: int | None
    text: str
    name: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str


@st.composite
def sendings(draw: st.DrawFn) -> Sending:
    """Anything that might be sent."""
    path = draw(st.sampled_from(ADDRESSES))
    methods = sorted(method for method, each in routes() if each == path)
    kind = draw(KINDS)
    return Sending(
        draw(st.sampled_from([*methods * 4, *METHODS])),
        path,
        draw(st.sampled_from([0, 1, 2, None])),
        draw(TEXTS),
        draw(st.one_of(TEXTS, st.sampled_from(["image", "1.jpg", "thumb", "99999.jpg"]))),
        draw(QUERIES),
        {**draw(HEADERS), **({"content-type": kind} if kind else {})},
        draw(BODIES),
    )


async def tried(known: Known, method: str, path: str, **request: Any) -> None:
    """Send something, and look at what is answered."""
    content = request.pop("content", None)
    try:
        made = known.caller.build_request(method, path, content=content, **request)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return  # no client sends that
    answer = await known.caller.send(made, stream=True)
    try:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return  # it would go on
        body = await answer.aread()
    finally:
        await answer.aclose()
    judge(answer, body, f"{method} {path} {request} {content!r:.300}")


def judge(answer: httpx.Response, body: bytes, what: str) -> None:
    """Make sure that an answer is taken or refused, in words that programs understand."""
    status = answer.status_code
    assert status < 500 or status == 501, (what, status, body[:300])
    if status < 400 or answer.request.method == "HEAD" or status == 416:
        return
    told = json.loads(body)
    assert told["ok"] is False, what
    assert STATUSES[told["error"]["code"]] == status, what
    assert told["error"]["message"], what


@pytest.fixture(params=["sqlite", "postgres"])
async def known(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Known]:
    """A Studio with something in it; whoever sits at the machine asks."""
    section = {} if request.param == "sqlite" else request.getfixturevalue("in_postgres")
    section = {**section, "hooks_may_reach": ["127.0.0.1"]}
    async with studio(show_in(tmp_path, studio=section)) as running, running.caller() as caller:
        yield await prepared(running, caller)


@pytest.fixture(scope="module")
def in_postgres() -> Iterator[dict[str, Any]]:
    with postgres() as server, database_on(server, "hostile") as url:
        yield dict(on_postgres(url))


async def prepared(running: RunningStudio, caller: Caller) -> Known:
    """Have a job, its picture and a hook there."""
    del running
    await caller.post("/api/queue/resume")  # on a database that another test may have paused
    job = await caller.over(await caller.ask(prompt="a lake"))
    hook = await caller.post("/api/hooks", json={"url": "http://127.0.0.1:9/bell"})
    return Known((job["id"], job["items"][0]["take"], hook.json()["id"]), caller)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sendings())
async def test_nothing_that_is_sent_is_an_error_of_the_program(
    known: Known, sending: Sending
) -> None:
    text = sending.text if sending.known is None else known.ids[sending.known]
    path = sending.path.replace("{id}", escaped(text)).replace("{name}", escaped(sending.name))
    asked = "&".join(
        f"{key}={escaped(value)}" for key, value in sending.query.items() if key != "wait"
    )
    headers = {key: value.encode("latin-1", "replace") for key, value in sending.headers.items()}
    has_body = sending.method not in {"GET", "HEAD", "OPTIONS"}
    content = sending.body.encode(errors="replace") if has_body else None
    await tried(known, sending.method, f"{path}?{asked}", headers=headers, content=content)


def escaped(text: str) -> str:
    """As it stands in an address, whatever it is."""
    return quote(text.encode(errors="surrogatepass"), safe="")


DEEP = "[" * 60_000
NASTY_BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"5",
    b'"x"',
    b"\xff\xfe\x00",
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": NaN}',
    b'{"n": 1e400, "prompt": "a"}',
    b'{"seed": 1' + b"0" * 5000 + b', "prompt": "a"}',
    DEEP.encode(),
    (b'{"a":' * 12_000),
    b'{"prompt": "\\ud83d \\u0000"}',
    b'{"prompt": "a", "metadata": {"\\u0000": "\\udfff"}}',
    b'{"items": [9223372036854775808]}',
    json.dumps({"items": [*range(12_000)]}).encode(),
    b'{"items": [true, -1, 1.0]}',
    b'{"to": []}',
    b'{"to": {}, "before": []}',
    b'{"before": "\\u0000"}',
    b'{"delivery": "\\u0000"}',
    b'{"why": []}',
    b'{"why": "\\u0000\\ud800"}',
    b'{"prompt": "{a|' * 900 + b'"}',
    b'{"prompt": "' + b"{a|b|c|d|e|f}" * 400 + b'", "template": true}',
    b'{"prompt": "{{{{{{{{{{", "template": true}',
    b'{"url": "https://\\u0000/"}',
    b'{"url": "https://[::1/"}',
    b'{"url": "https://' + b"a." * 600 + b'example/"}',
    b'{"url": "https://xn--\\u00fc\\u00fc/", "events": [{}]}',
    b'{"prompt": "a", "hook": {"url": "https://\\ud800.example/", "secret": "whsec_"}}',
    b'{"prompt": "a", "recipe": {"model": "m", "base_image": "!!!!"}}',
    b'{"prompt": "a", "base": "take:\\u0000"}',
    b'{"prompt": "a", "style": "\\u0000", "program": "\\u0000", "cue": "\\u0000"}',
    '{"prompt": "a"}'.encode("utf-16"),
    '{"prompt": "a"}'.encode("utf-32-le"),
)
NASTY_PATHS = (
    "/api/jobs?limit=-1",
    "/api/jobs?limit=1e3",
    "/api/jobs?limit=%D9%A1",
    "/api/jobs?before=%00",
    "/api/jobs?before=%FF%FE",
    "/api/jobs?status=%00",
    "/api/jobs?status=,",
    "/api/jobs?kind=%00",
    "/api/jobs/{job}?wait=1e9",
    "/api/jobs/{job}?wait=-1",
    "/api/jobs/{job}?wait=61",
    "/api/jobs/{job}?wait=99999999999999999999",
    "/api/jobs/%00",
    "/api/jobs/%FF",
    "/api/jobs/%2e%2e%2fx",
    "/api/jobs/%252e",
    "/api/jobs/{job}%00",
    "/api/jobs/{job}/events?after=%00",
    "/api/jobs/{job}/events?after=-1",
    "/api/events?after=1e9",
    "/api/stats?hours=0",
    "/api/stats?hours=99999",
    "/api/hooks/{hook}/deliveries?before=%00&limit=0",
    "/api/hooks/{hook}/deliveries?before=%00",
    "/takes/{take}/%00",
    "/takes/{take}/..%2f..%2fmanifest.json",
    "/takes/{take}/0.jpg",
    "/takes/{take}/99999.jpg",
    "/takes/{take}/thumb?w=0",
    "/takes/{take}/thumb?w=999999",
    "/takes/{take}/thumb?w=%00",
    "/takes/{take}/image?until=%D9%A1&seal=%FF&member=%00",
    "/static/%00",
    "/static/..%2f..%2fapp.py",
    "/static/" + "a" * 5000,
    "/static/",
    "/nowhere",
    "/api/",
    "//api/jobs",
    "/%00",
)


async def test_nasty_bodies_are_refused_wherever_they_are_sent(known: Known) -> None:
    job, take, hook = known.ids
    of_route = {"jobs": job, "hooks": hook, "takes": take, "generate": job}
    for method, path in sorted(routes()):
        if method not in {"POST", "DELETE"} or path == "/api/hooks/{id}":
            continue
        there = path.replace("{id}", of_route.get(path.split("/")[2], ""))
        for body in NASTY_BODIES:
            headers = {"content-type": "application/json"}
            await tried(known, method, there, headers=headers, content=body)


async def test_nasty_addresses_are_refused_in_words(known: Known) -> None:
    job, take, hook = known.ids
    for path in NASTY_PATHS:
        there = path.replace("{job}", job).replace("{take}", take).replace("{hook}", hook)
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            await tried(known, method, there)


async def test_a_stream_has_a_head_and_no_end(known: Known) -> None:
    for path in ("/api/events", f"/api/jobs/{known.ids[0]}/events"):
        async with asyncio.timeout(10):
            answer = await known.caller.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_what_is_no_json_is_not_read(known: Known) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"):
        answer = await known.caller.post(
            "/api/jobs", content=b'{"prompt": "a"}', headers={"content-type": kind}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media")


async def test_a_key_of_ten_megabytes_is_no_key(known: Known) -> None:
    with suppress(httpx.TransportError):  # it may hang up before it has heard the end of it
        answer = await known.caller.post(
            "/api/jobs", json={"prompt": "a"}, headers={"idempotency-key": "k" * 10_000_000}
        )
        assert 400 <= answer.status_code < 500
    answer = await known.caller.post(
        "/api/jobs", json={"prompt": "a"}, headers={"idempotency-key": "k" * 256}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("declared", [True, False])
async def test_what_is_too_large_is_refused_before_it_is_there(
    known: Known, declared: bool
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 2**20

    for path in ("/api/jobs", "/api/generate", "/api/hooks"):
        content = b" " * (33 * 2**20) if declared else parts()
        try:
            answer = await known.caller.post(
                path, content=content, headers={"content-type": "application/json"}
            )
        except httpx.TransportError:
            continue  # it was answered, and hung up on, while we still sent
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_fifty_large_bodies_at_once_are_read_by_and_by(tmp_path: Path) -> None:
    show_in(tmp_path)
    program = programs.start(
        ["studio", "serve", "--show", tmp_path, "--port", "0"], tmp_path / "said"
    )
    try:
        async with asyncio.timeout(60):
            while True:
                found = re.search(r"http://\S+?:\d+", program.said())
                if found is not None:
                    break
                assert program.running, program.said()
                await asyncio.sleep(0.05)
        before = peak(program.pid)
        recipe = {"model": "m", "prompt": "a", "steps": 1, "width": 64, "height": 64}
        image = base64.b64encode(bytes(9 * 2**20)).decode()
        recipe |= {"kind": "image-to-image", "strength": 0.5, "base_image": image}
        body = json.dumps({"recipe": recipe, "metadata": {}}).encode()
        padded = body + b" " * (31 * 2**20 - len(body))
        async with httpx.AsyncClient(
            base_url=found[0], timeout=120, trust_env=False, limits=httpx.Limits()
        ) as client:
            headers = {"content-type": "application/json"}
            sent = [client.post("/api/jobs", content=padded, headers=headers) for _ in range(50)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
        statuses = [each.status_code for each in answers if isinstance(each, httpx.Response)]
        assert statuses, answers[:3]
        assert set(statuses) <= {400, 429}, statuses
        assert 400 in statuses  # no picture: it was read to the end
        # All at once they would be one and a half gigabytes before anything is made of them.
        assert peak(program.pid) - before < 700 * 2**20
    finally:
        program.kill()


def peak(pid: int) -> int:
    """Bytes of memory that a process had at the most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


NAMING = {"StudioRefused": 0, "FieldRefusal": 0, "FieldProblem": 0, "AccessDenied": 0, "Refused": 0}
NAMING_LATER = {"_wrong": 2, "_NotTaken": 0}
PLACES = (
    *sorted((ROOT / "server" / "studio").rglob("*.py")),
    ROOT / "generator" / "jobs" / "request.py",
    ROOT / "generator" / "jobs" / "fields.py",
    ROOT / "generator" / "jobs" / "brief_request.py",
    ROOT / "generator" / "engines" / "callback" / "inbox.py",
)


def codes_in(file: Path) -> Iterator[tuple[str, int]]:
    """The codes that a module refuses with, and in which lines."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        place = {**NAMING, **NAMING_LATER}.get(called)
        if place is None or len(node.args) <= place:
            continue
        code = node.args[place]
        if isinstance(code, ast.Constant):
            yield str(code.value), node.lineno
        elif isinstance(code, ast.JoinedStr):
            start = code.values[0]
            assert isinstance(start, ast.Constant)
            assert any(known.startswith(str(start.value)) for known in STATUSES), (
                file,
                node.lineno,
            )


def test_every_code_has_its_status() -> None:
    found = [(code, f"{file}:{line}") for file in PLACES for code, line in codes_in(file)]
    assert len(found) > 50
    assert [where for code, where in found if code not in STATUSES] == []
