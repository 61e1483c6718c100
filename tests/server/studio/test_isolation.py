"""What is somebody else's answers exactly like what never was, wherever it is asked for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from generator.jobs.members import Role
from tests.helpers.studios import (
    Caller,
    Document,
    Pencil,
    RunningStudio,
    routes,
    show_in,
    slot,
    studio,
)

NAMES = ("image", "final.jpg", "1.jpg", "2.jpg", "3.png", "thumb", "thumb?w=64")
NOBODYS = {
    ("GET", "/"),
    ("GET", "/studio/"),
    ("MOUNT", "/static"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}
"""Where nothing of any member's is to be had."""


@dataclass
class Things:
    """What somebody has, or nobody: what may be named in a request.

    Attributes:
        jobs: ids.
        takes: ids.
        hook, delivery: ids.
        events: ids of some that were told.
        marks: what nobody else may ever be told.
    """

    jobs: list[str]
    takes: list[str]
    hook: str
    delivery: str
    events: Sequence[int]
    marks: list[str] = field(default_factory=list)

    def add(self, job: Document) -> None:
        """A job of its own, and what is drawn for it."""
        takes = [item["take"] for item in job["items"]]
        self.jobs.append(job["id"])
        self.takes += takes
        self.marks += [job["id"], *takes]

    @classmethod
    def of_nobody(cls, like: Things) -> Things:
        """As many of them as somebody has, that never were."""
        return cls(
            [str(uuid.uuid4()) for _ in like.jobs],
            [str(uuid.uuid4()) for _ in like.takes],
            str(uuid.uuid4()),
            f"msg_{uuid.uuid4().hex}",
            like.events,
        )


@dataclass
class Probe:
    """A request."""

    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def probes(theirs: Things, own: Things) -> dict[tuple[str, str], list[Probe]]:
    """Every request that can name what is somebody else's, by method and route.

    Args:
        theirs: what is named.
        own: what whoever asks has, where it takes two.
    """
    jobs, hook = theirs.jobs, theirs.hook
    mine = own.jobs[0]
    seals = [f"?{urlencode({'member': own.marks[1], 'until': 2**33, 'seal': '0' * 32})}"]
    return {
        ("GET", "/api/jobs"): [Probe(f"/api/jobs?before={job}&limit=9") for job in jobs],
        ("POST", "/api/jobs"): [
            Probe("/api/jobs", {"prompt": "a lake", "base": f"take:{take}", "strength": 0.5})
            for take in theirs.takes
        ],
        ("POST", "/api/estimate"): [
            Probe("/api/estimate", {"prompt": "a lake", "base": f"take:{take}"})
            for take in theirs.takes
        ],
        ("GET", "/api/jobs/{id}"): [
            Probe(f"/api/jobs/{job}{query}") for job in jobs for query in ("", "?wait=2", "?wait=x")
        ]
        + [Probe(f"/api/jobs/{jobs[0].upper()}"), Probe(f"/api/jobs/%7B{jobs[0]}%7D")],
        ("DELETE", "/api/jobs/{id}"): [Probe(f"/api/jobs/{job}") for job in jobs],
        ("POST", "/api/jobs/{id}/retry"): [
            Probe(f"/api/jobs/{job}/retry", body)
            for job in jobs
            for body in ({}, {"items": [0]}, {"items": [99]}, {"items": "x"})
        ],
        ("POST", "/api/jobs/{id}/move"): [
            *(Probe(f"/api/jobs/{job}/move", {"to": "first"}) for job in jobs),
            *(Probe(f"/api/jobs/{job}/move", {"to": "nowhere"}) for job in jobs),
            *(Probe(f"/api/jobs/{mine}/move", {"before": job}) for job in jobs),
            *(Probe(f"/api/jobs/{job}/move", {"before": mine}) for job in jobs),
        ],
        ("GET", "/api/jobs/{id}/events"): [
            Probe(f"/api/jobs/{job}/events{query}", headers=headers)
            for job in jobs
            for query in ("", f"?after={theirs.events[0]}")
            for headers in ({}, {"last-event-id": str(theirs.events[-1])})
        ],
        ("DELETE", "/api/hooks/{id}"): [Probe(f"/api/hooks/{hook}")],
        ("GET", "/api/hooks/{id}/deliveries"): [
            Probe(f"/api/hooks/{hook}/deliveries"),
            Probe(f"/api/hooks/{hook}/deliveries?before={theirs.delivery}"),
            Probe(f"/api/hooks/{own.hook}/deliveries?before={theirs.delivery}"),
        ],
        ("POST", "/api/hooks/{id}/redeliver"): [
            Probe(f"/api/hooks/{hook}/redeliver", {"delivery": theirs.delivery}),
            Probe(f"/api/hooks/{hook}/redeliver", {"delivery": own.delivery}),
            Probe(f"/api/hooks/{own.hook}/redeliver", {"delivery": theirs.delivery}),
        ],
        ("POST", "/api/hooks/{id}/rotate"): [Probe(f"/api/hooks/{hook}/rotate")],
        ("GET", "/api/generate/status/{id}"): [
            Probe(f"/api/generate/status/{job}") for job in jobs
        ],
        **{
            ("POST", f"/api/takes/{{id}}/{deed}"): [
                Probe(f"/api/takes/{take}/{deed}", body)
                for take in theirs.takes
                for body in ({}, {"cue": "a"}, {"cue": "nowhere"}, {"cue": 7}, {"x": 1})
            ]
            for deed in ("pick", "unpick")
        },
        ("GET", "/takes/{id}/{name}"): [
            Probe(f"/takes/{take}/{name}{'' if '?' in name else seal}", headers=headers)
            for take in theirs.takes
            for name in NAMES
            for seal in ("", *seals)
            for headers in ({}, {"if-none-match": "*"}, {"range": "bytes=0-9"})
        ],
    }


NAMES_NOTHING = {
    ("GET", "/api/me"),
    ("GET", "/api/queue"),
    ("POST", "/api/queue/pause"),
    ("POST", "/api/queue/resume"),
    ("GET", "/api/stats"),
    ("GET", "/api/programs"),
    ("GET", "/api/styles"),
    ("GET", "/api/engines"),
    ("GET", "/api/hooks"),
    ("POST", "/api/hooks"),
    ("POST", "/api/generate"),
    ("POST", "/api/generate/webhook"),
    ("GET", "/api/sheet"),
    ("PUT", "/api/sheet"),
    ("PATCH", "/api/sheet/cues/{n}"),
    ("POST", "/api/sheet/undo"),
    ("GET", "/api/sheet/versions"),
}
"""Requests that name nothing that is anybody's: their answers have nothing of others."""

TOLD = {("GET", "/api/events"), ("WS", "/ws/studio")}
"""Where it is told what happens, for as long as somebody listens."""


def test_every_route_is_looked_at() -> None:
    nobody = Things(["j"], ["t"], "h", "d", [1], ["m", "m"])
    known = set(probes(nobody, nobody)) | NAMES_NOTHING | TOLD | NOBODYS
    assert routes() == known


@asynccontextmanager
async def two_members(
    folder: Path, role: Role = "client"
) -> AsyncIterator[tuple[RunningStudio, Things, Things]]:
    """A Studio in which Ada has a job of each state, a hook and pictures, and Ben some as well."""
    engine = Pencil()
    show = show_in(folder, studio={"hooks_may_reach": ["127.0.0.1"]})
    members: dict[str, Role] = {"ada": "client", "ben": role}
    async with (
        studio(show, slot(engine), members=members) as running,
        running.caller("ada") as ada,
        running.caller("ben") as ben,
    ):
        things = {"ada": await things_of(ada, "adas"), "ben": await things_of(ben, "bens")}
        engine.hold()
        begun = await ada.ask(prompt="adas secret, begun")
        await ada.until(begun, lambda job: job["progress"] > 0.3)
        waits = await ada.ask(prompt="adas secret, waiting")
        for job in (begun, waits):
            things["ada"].add(job)
        yield running, things["ada"], things["ben"]
        engine.let_go()


async def things_of(caller: Caller, mark: str) -> Things:
    """A job that is done, and a hook that was to be told of it; what is told bears a mark."""
    answer = await caller.post("/api/hooks", json={"url": f"http://127.0.0.1:9/{mark}-bell"})
    assert answer.status_code == 201, answer.text
    hook = answer.json()["id"]
    done = await caller.over(await caller.ask(prompt=f"{mark} secret", n=2, key=f"{mark}-key"))
    while True:
        told = (await caller.document(f"/api/hooks/{hook}/deliveries"))["deliveries"]
        if told:
            break
        await asyncio.sleep(0.02)
    member = (await caller.document("/api/me"))["id"]
    found = Things([], [], hook, told[0]["id"], [1, 5], [mark, member, hook, told[0]["id"]])
    found.add(done)
    return found


async def states(caller: Caller, things: Things) -> list[Document]:
    """Somebody's jobs, as they are."""
    found = [await caller.document(f"/api/jobs/{job}") for job in things.jobs]
    return [{**job, "eta_seconds": None, "position": None} for job in found]


async def answered(caller: Caller, method: str, probe: Probe) -> tuple[int, list[Any], bytes]:
    """An answer, as far as anybody can tell two apart; of a stream, its beginning."""
    body = {} if probe.body is None else {"json": probe.body}
    answer = await caller.request(method, probe.path, headers=dict(probe.headers), **body)
    headers = [(name, each) for name, each in answer.headers.raw if name.lower() != b"date"]
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize("role", ["client", "artist"])
async def test_what_is_anothers_answers_like_what_never_was(tmp_path: Path, role: Role) -> None:
    async with two_members(tmp_path, role) as (running, theirs, own):
        nobodys = Things.of_nobody(theirs)
        async with running.caller("ada") as ada, running.caller("ben") as ben:
            before = await states(ada, theirs)
            asked, random = probes(theirs, own), probes(nobodys, own)
            for (method, path), those in asked.items():
                for one, other in zip(those, random[method, path], strict=True):
                    found = await answered(ben, method, one)
                    assert found == await answered(ben, method, other), (method, one)
                    told = found[2].decode(errors="replace") + repr(found[1])
                    assert not [mark for mark in theirs.marks if mark in told], (method, one)
                    assert found[0] < 500, (method, one)
                    if method == "GET":
                        head = await answered(ben, "HEAD", one)
                        assert head == await answered(ben, "HEAD", other), one
            assert await states(ada, theirs) == before
            hooks = await ada.document("/api/hooks")
            assert [(hook["id"], hook["status"]) for hook in hooks["hooks"]] == [
                (theirs.hook, "active")
            ]


@pytest.mark.parametrize("role", ["client", "artist"])
async def test_no_answer_has_anything_of_anothers(tmp_path: Path, role: Role) -> None:
    async with (
        two_members(tmp_path, role) as (running, theirs, _),
        running.caller("ben") as ben,
        running.caller("ada") as ada,
    ):
        for method, path in sorted(NAMES_NOTHING | {("GET", "/api/jobs")}):
            body: dict[str, Any] = {} if method == "GET" else {"json": {"prompt": "a lake"}}
            answer = await ben.request(method, path, **body)
            assert answer.status_code < 500 or answer.status_code == 501, (path, answer.text)
            said = answer.text + repr(answer.headers.raw)
            if path != "/api/stats":  # how much each has asked for, an artist may know
                assert not [mark for mark in theirs.marks if mark in said], path
        queue = await ben.document("/api/queue")
        working = queue["slots"][0]["working_on"]
        assert (working["job"], working["n"]) == (None, None)
        queue = await ada.document("/api/queue")
        assert queue["slots"][0]["working_on"]["job"] == theirs.jobs[1]


async def test_a_key_is_its_owners_own(tmp_path: Path) -> None:
    async with two_members(tmp_path) as (running, theirs, _), running.caller("ben") as ben:
        job = await ben.ask(prompt="another thing altogether", key="adas-key")
        assert job["id"] not in theirs.jobs
        again = await ben.ask(prompt="another thing altogether", key="adas-key")
        assert again["id"] == job["id"]


async def test_a_seal_is_for_one_member_and_one_picture(tmp_path: Path) -> None:
    async with two_members(tmp_path) as (running, theirs, own):
        async with running.caller("ada") as ada, running.caller("ben") as ben:
            sealed = (await ada.document(f"/api/jobs/{theirs.jobs[0]}"))["items"][0]["url"]
            mine = (await ben.document(f"/api/jobs/{own.jobs[0]}"))["items"][0]["url"]
        path, seal = urlsplit(sealed).path, parse_qs(urlsplit(sealed).query)
        forged: list[dict[str, Any]] = [
            {**seal, "member": own.marks[1]},
            {**seal, "until": [str(int(seal["until"][0]) + 1)]},
            {**seal, "seal": ["0" * 32]},
            {**seal, "seal": ["\N{SNOWMAN}"]},
            {**seal, "until": ["9" * 40]},
            {**seal, "until": ["-1"]},
            {name: each for name, each in seal.items() if name != "member"},
            parse_qs(urlsplit(mine).query),
        ]
        async with httpx.AsyncClient(base_url=running.address.http, trust_env=False) as anybody:
            good = await anybody.get(sealed)
            assert (good.status_code, good.headers["content-type"]) == (200, "image/jpeg")
            refused = set()
            for query in forged:
                answer = await anybody.get(f"{path}?{urlencode(query, doseq=True)}")
                refused.add((answer.status_code, answer.content))
            random = f"/takes/{uuid.uuid4()}/final.jpg?{urlencode(seal, doseq=True)}"
            answer = await anybody.get(random)
            refused.add((answer.status_code, answer.content))
            assert {status for status, _ in refused} == {401}
            assert len(refused) == 1


async def test_listeners_hear_of_their_own_alone(tmp_path: Path) -> None:
    async with two_members(tmp_path) as (running, theirs, _), AsyncExitStack() as stack:
        ben = await stack.enter_async_context(running.caller("ben"))
        ada = await stack.enter_async_context(running.caller("ada"))
        ears = [
            await stack.enter_async_context(running.ear("ben")),
            await stack.enter_async_context(running.ear("ben", after=theirs.events[0])),
        ]
        streams = [
            await stack.enter_async_context(ben.stream("GET", "/api/events", headers=headers))
            for headers in ({}, {"last-event-id": "1"})
        ]
        waits = await ada.ask(prompt="adas secret, told to nobody")
        for job in (theirs.jobs[1], waits["id"]):
            await ada.delete(f"/api/jobs/{job}")
        job = await ben.ask(prompt="bens own")
        await ben.delete(f"/api/jobs/{job['id']}")
        marks = [*theirs.marks, waits["id"]]
        for ear in ears:
            await ear.until(lambda me: "job.cancelled" in me.told)
            assert not [mark for mark in marks if mark in repr(ear.heard)]
        for stream in streams:
            told = ""
            async with asyncio.timeout(20):
                async for part in stream.aiter_text():
                    told += part
                    if "job.cancelled" in told:
                        break
            assert job["id"] in told
            assert not [mark for mark in marks if mark in told]


async def test_who_is_removed_is_out_at_once(tmp_path: Path) -> None:
    async with two_members(tmp_path) as (running, _, own), AsyncExitStack() as stack:
        ben = await stack.enter_async_context(running.caller("ben"))
        ear = await stack.enter_async_context(running.ear("ben"))
        stream = await stack.enter_async_context(ben.stream("GET", "/api/events"))
        job = await ben.document(f"/api/jobs/{own.jobs[0]}")
        sealed = job["items"][0]["url"]
        await running.remove("ben")
        for method, path, body in (
            ("GET", "/api/me", None),
            ("POST", "/api/jobs", {"prompt": "one more"}),
            ("GET", f"/takes/{own.takes[0]}/image", None),
        ):
            answer = await ben.request(method, path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert await ear.closed() == 1008
        async with asyncio.timeout(20):
            async for _ in stream.aiter_bytes():  # it ends
                pass
        async with asyncio.timeout(20):
            while True:
                if (await ben.get(sealed)).status_code == 401:
                    break
                await asyncio.sleep(0.1)


async def test_who_is_removed_by_a_command_asks_for_nothing_more(tmp_path: Path) -> None:
    async with two_members(tmp_path) as (running, _, _own), running.caller("ben") as ben:
        await running.end_elsewhere("ben")
        # For a few seconds its token is still believed: not by what accepts a job.
        for path in ("/api/jobs", "/api/generate"):
            answer = await ben.post(path, json={"prompt": "one more"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
