from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from generator.jobs.members import Role
from generator.sheet.edits import edit_cue
from server.config.show import Show, load_show
from server.studio.sheet_history import etag_of_sheet
from tests.helpers.shows import Rhythm, cue, line, make_show
from tests.helpers.studios import Caller, Document, Pencil, routes, show_in, slot, studio

REAL_SHEET = Path(__file__).parents[4] / "shared" / "data" / "cues.json"
TWO: dict[str, Role] = {"ada": "artist", "shop": "client"}
PROMPTS = [
    line(1, "the sea", id="sea", program="P0", mood=[1.50]),
    line(9, "a lamp", program="P0"),
    cue(20, "prompt", prompt="a boat", program="P0"),
    cue(30, "end"),
]


def drawn_show(folder: Path) -> Show:
    """A show of which everything is drawn."""
    make_show(folder, PROMPTS, rhythm=Rhythm(previews=1, sets=1))
    return load_show(folder, {"studio": {"port": 0, "keep_free": 0}}, {})


def file_of(show: Show) -> Path:
    """Its cue sheet."""
    return show.folder / "cues.json"


async def etag(caller: Caller) -> str:
    """The ETag of the sheet as somebody reads it."""
    answer = await caller.get("/api/sheet")
    assert answer.status_code == 200, answer.text
    return str(answer.headers["etag"])


async def edit(caller: Caller, n: int | str, tag: str | None = None, **fields: Any) -> Document:
    """Change a cue, having read the sheet before; what is answered."""
    answer = await caller.patch(
        f"/api/sheet/cues/{n}", json=fields, headers={"if-match": tag or await etag(caller)}
    )
    assert answer.status_code == 200, answer.text
    found: Document = answer.json()
    return found


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json()["error"]["code"]


async def test_the_sheet_is_read_as_it_is_and_asked_for_again_for_nothing(tmp_path: Path) -> None:
    show = show_in(tmp_path)
    async with studio(show) as running, running.caller() as caller:
        answer = await caller.get("/api/sheet")
        data = file_of(show).read_bytes()
        assert answer.content == data
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["etag"] == f'"{etag_of_sheet(data)}"'
        again = await caller.get("/api/sheet", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_one_prompt_edited_is_one_cue_changed_and_one_action_stale(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    before = file_of(show).read_text()
    async with studio(show) as running, running.caller() as caller:
        tag = await etag(caller)
        headers = {"if-match": tag}
        body = {"transcript": "the grey sea"}
        tried = await caller.patch("/api/sheet/cues/0?dry=1", json=body, headers=headers)
        assert file_of(show).read_text() == before
        answer = await caller.patch("/api/sheet/cues/0", json=body, headers=headers)
        assert tried.json() == answer.json(), "a dry run says the same"
        assert file_of(show).read_text() == before.replace("the sea", "the grey sea")
        found = answer.json()
        assert found["etag"] == etag_of_sheet(file_of(show).read_bytes())
        assert await etag(caller) == answer.headers["etag"] == f'"{found["etag"]}"'
        (stale,) = found["plan"].pop("stale")
        assert (stale["cue"], stale["action_id"], stale["drawn"]) == (0, "sea", True)
        assert stale["changes"] == [
            'prompt "the sea, photorealistic" → "the grey sea, photorealistic"'
        ]
        assert found["plan"] == {"new": [], "gone": [], "kept": 2}
        assert found["problems"] == []


async def test_a_field_is_taken_away_by_null(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    async with studio(show) as running, running.caller() as caller:
        await edit(caller, 1, steps=12, program=None)
        assert json.loads(file_of(show).read_bytes())[1] == {
            "time": "00:00:09",
            "action": "transcript",
            "transcript": "a lamp",
            "generate": True,
            "steps": 12,
        }
        assert (await edit(caller, 1, steps=None))["plan"]["stale"][0]["action_id"]
        assert "steps" not in json.loads(file_of(show).read_bytes())[1]


async def test_a_change_names_what_it_was_made_of(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    before = file_of(show).read_bytes()
    async with studio(show) as running, running.caller() as caller:
        for headers in ({}, {"if-match": ""}, {"if-match": '""'}):
            for method, path in (("PUT", "/api/sheet"), ("PATCH", "/api/sheet/cues/0")):
                answer = await caller.request(method, path, json={"steps": 9}, headers=headers)
                assert refusal(answer) == (412, "precondition")
                assert "GET /api/sheet" in answer.json()["error"]["message"]
        assert file_of(show).read_bytes() == before
        # As a proxy writes it that compresses, and as one of several.
        weak = f'"{"0" * 64}", W/{await etag(caller)}'
        assert (await edit(caller, 0, weak, steps=9))["plan"]["stale"]


async def test_of_two_editors_the_second_is_told_of_base_mine_and_theirs(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    async with (
        studio(show, members=TWO) as running,
        running.caller("ada") as ada,
        running.caller("ada") as other,
    ):
        await edit(ada, 2, prompt="a ship")  # so that it is known what both have read
        base, tag = file_of(show).read_text(), await etag(ada)
        await edit(other, 0, tag, transcript="theirs")
        theirs = file_of(show).read_text()
        answer = await ada.patch(
            "/api/sheet/cues/1", json={"transcript": "mine"}, headers={"if-match": tag}
        )
        assert refusal(answer) == (412, "precondition")
        found = answer.json()
        assert found["base"] == {"etag": tag.strip('"'), "text": base}
        assert found["theirs"] == {"etag": etag_of_sheet(theirs.encode()), "text": theirs}
        assert found["mine"]["text"] == edit_cue(base, 1, {"transcript": "mine"})
        whole = await ada.put(
            "/api/sheet",
            content=base,
            headers={"if-match": tag, "content-type": "application/json"},
        )
        assert whole.status_code == 412
        assert whole.json()["mine"]["text"] == base
        assert file_of(show).read_text() == theirs
        # What is theirs was read now, so mine may be laid over it.
        merged = edit_cue(theirs, 1, {"transcript": "mine"})
        answer = await ada.put(
            "/api/sheet", content=merged, headers={"if-match": found["theirs"]["etag"]}
        )
        assert answer.status_code == 200, answer.text
        assert file_of(show).read_text() == merged


async def test_an_edit_outside_is_not_overwritten(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    async with studio(show) as running, running.caller() as caller:
        tag = await etag(caller)
        outside = file_of(show).read_text().replace("a lamp", "two lamps")
        file_of(show).write_text(outside)
        answer = await caller.put(
            "/api/sheet", content=json.dumps(PROMPTS), headers={"if-match": tag}
        )
        assert answer.status_code == 412
        assert answer.json()["theirs"]["text"] == outside
        assert answer.json()["mine"]["text"] == json.dumps(PROMPTS)
        assert answer.json()["base"] is None, "nobody has kept what only the editor had"
        assert file_of(show).read_text() == outside


async def test_a_bad_sheet_is_told_whole_and_not_written(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    before = file_of(show).read_bytes()
    bad = (
        '[\n{"time": "00:00:09", "action": "prompt", "prompt": 7},\n'
        '{"time": "00:00:01", "action": "fly"},\n'
        '{"time": "00:00:10", "action": "transcript", "transcript": "x", "program": "P77"}]'
    )
    async with studio(show) as running, running.caller() as caller:
        headers = {"if-match": await etag(caller)}
        for query in ("", "?dry=1"):
            answer = await caller.put(f"/api/sheet{query}", content=bad, headers=headers)
            assert refusal(answer) == (400, "bad_request")
            found = answer.json()
            assert [
                (each["cue"], each["line"], each["time"], each["kind"])
                for each in found["problems"]
            ] == [
                (0, 2, "00:00:09", "bad_sheet"),
                (1, 3, "00:00:01", "bad_sheet"),
                (1, 3, "00:00:01", "bad_sheet"),
                (2, 4, "00:00:10", "unknown_program"),
            ]
            fields = [each["field"] for each in found["error"]["problems"]]
            assert fields == ["cues.0", "cues.1", "cues.1", "cues.2"]
        answer = await caller.patch(
            "/api/sheet/cues/0", json={"time": "1 h", "steps": -1}, headers=headers
        )
        told = [each["message"] for each in answer.json()["problems"]]
        assert len(told) == 2
        assert "HH:MM:SS" in told[0]
        assert told[1].startswith("steps: ")
        for content, why in ((b"\xff", "UTF-8"), (b"[", "line 1"), (b"{}", "array")):
            answer = await caller.put("/api/sheet", content=content, headers=headers)
            assert why in answer.json()["problems"][0]["message"]
        assert file_of(show).read_bytes() == before
        assert (await caller.document("/api/sheet/versions"))["versions"] == []


async def test_a_screening_that_ends_as_it_begins_is_refused_as_at_the_start(
    tmp_path: Path,
) -> None:
    async with studio(show_in(tmp_path)) as running, running.caller() as caller:
        answer = await caller.patch(
            "/api/sheet/cues/0",
            json={"time": "00:00:00", "action": "end"},
            headers={"if-match": await etag(caller)},
        )
        assert refusal(answer) == (400, "bad_request")
        assert "ends as it begins" in answer.json()["error"]["message"]


@pytest.mark.parametrize("n", ["4", "-1", "x", "9" * 30, "1e0"])
async def test_a_cue_that_is_not_there_is_not_found(tmp_path: Path, n: str) -> None:
    async with studio(drawn_show(tmp_path)) as running, running.caller() as caller:
        headers = {"if-match": await etag(caller)}
        answer = await caller.patch(f"/api/sheet/cues/{n}", json={"steps": 9}, headers=headers)
        assert refusal(answer) == (404, "not_found")


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        ("[1]", "application/json", (400, "bad_request")),
        ('{"steps": NaN}', "application/json", (400, "bad_request")),
        ('{"steps": 1, "steps": 2}', "application/json", (400, "bad_request")),
        ("{", "application/json", (400, "bad_request")),
        ("{}", "text/plain", (415, "unsupported_media")),
        ('{"a": "' + "x" * 70_000 + '"}', "application/json", (413, "too_large")),
    ],
)
async def test_a_body_that_is_no_edit_is_refused(
    tmp_path: Path, content: str, kind: str, expected: tuple[int, str]
) -> None:
    show = drawn_show(tmp_path)
    before = file_of(show).read_bytes()
    async with studio(show) as running, running.caller() as caller:
        headers = {"if-match": await etag(caller), "content-type": kind}
        answer = await caller.patch("/api/sheet/cues/0", content=content, headers=headers)
        assert refusal(answer) == expected
    assert file_of(show).read_bytes() == before


async def test_a_sheet_of_more_than_four_megabytes_is_refused(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    before = file_of(show).read_bytes()
    async with studio(show) as running, running.caller() as caller:
        headers = {"if-match": await etag(caller)}
        large = before + b" " * 2**22
        answer = await caller.put("/api/sheet", content=large, headers=headers)
        assert refusal(answer) == (413, "too_large")
    assert file_of(show).read_bytes() == before


async def test_changes_are_taken_back_and_kept(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    async with studio(show) as running, running.caller() as caller:
        texts = [file_of(show).read_text()]
        for words in ("one", "two"):
            await edit(caller, 0, transcript=words)
            texts.append(file_of(show).read_text())
        tried = await caller.post("/api/sheet/undo?dry=1")
        assert file_of(show).read_text() == texts[2]
        answer = await caller.post("/api/sheet/undo", headers={"if-match": await etag(caller)})
        assert answer.json() == tried.json()
        assert [each["cue"] for each in answer.json()["plan"]["stale"]] == [0]
        assert file_of(show).read_text() == texts[1]
        versions = (await caller.document("/api/sheet/versions"))["versions"]
        assert [each["present"] for each in versions] == [False, True, False]
        assert [each["etag"] for each in versions] == [
            etag_of_sheet(each.encode()) for each in reversed(texts)
        ]
        stale = await caller.post("/api/sheet/undo", headers={"if-match": "0"})
        assert refusal(stale) == (412, "precondition")
        assert (await caller.post("/api/sheet/undo")).status_code == 200
        assert file_of(show).read_text() == texts[0]
        assert refusal(await caller.post("/api/sheet/undo")) == (409, "conflict")
        elsewhere = texts[1].replace("a boat", "a ship")
        file_of(show).write_text(elsewhere)
        outside = await caller.post("/api/sheet/undo")
        assert refusal(outside) == (412, "precondition")
        assert outside.json()["theirs"]["text"] == elsewhere


async def test_only_artists_see_the_sheet(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    before = file_of(show).read_bytes()
    async with studio(show, members=TWO) as running, running.caller("shop") as shop:
        asked = [(method, path) for method, path in routes() if path.startswith("/api/sheet")]
        assert len(asked) == 5
        for method, path in asked:
            answer = await shop.request(method, path.replace("{n}", "0"), headers={"if-match": "*"})
            assert refusal(answer) == (403, "forbidden")
        async with running.caller() as nobody:
            assert (await nobody.get("/api/sheet")).status_code == 401
    assert file_of(show).read_bytes() == before


async def test_a_sheet_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    async with studio(show) as running, running.caller() as caller:
        headers = {"if-match": await etag(caller)}
        file_of(show).chmod(0o444)
        answer = await caller.patch("/api/sheet/cues/0", json={"steps": 9}, headers=headers)
        assert refusal(answer) == (503, "unavailable")
        assert "cues.json: it is read-only; chmod u+w" in answer.json()["error"]["message"]
        file_of(show).unlink()
        for path in ("/api/sheet", "/api/sheet/versions"):
            answer = await caller.get(path)
            assert refusal(answer) == (503, "unavailable")
            assert "No such file" in answer.json()["error"]["message"]


# ---------------------------------------------------------------- what follows the sheet


async def test_a_job_for_a_cue_draws_the_cue_as_it_is_now(tmp_path: Path) -> None:
    show, pencil = show_in(tmp_path), Pencil()
    async with studio(show, slot(pencil)) as running, running.caller() as caller:

        async def draws() -> str:
            answer = await caller.post("/api/jobs", json={"cue": "lake"})
            assert answer.status_code == 202, answer.text
            await caller.over(answer.json())
            return pencil.asked[-1].prompt.partition(",")[0]

        assert await draws() == "a lake"
        await edit(caller, 0, prompt="a pond")
        assert await draws() == "a pond"
        file_of(show).write_text(file_of(show).read_text().replace("a pond", "an ocean"))
        assert await draws() == "an ocean"
        with capture_logs() as logs:
            for spoilt in ("[", "[", "[1]"):
                file_of(show).write_text(spoilt)
                assert await draws() == "an ocean", "the last that could be played"
        told = [each["reason"] for each in logs if each["event"] == "sheet_not_taken_up"]
        assert len(told) == 2, "each once"
        file_of(show).unlink()
        assert await draws() == "an ocean"
        file_of(show).write_text(
            json.dumps([cue(0, "prompt", prompt="a sky", id="sky"), cue(8, "end")])
        )
        answer = await caller.post("/api/jobs", json={"cue": "lake"})
        assert refusal(answer) == (400, "unknown_cue")
        assert (await caller.post("/api/jobs", json={"cue": "sky"})).status_code == 202


async def test_what_was_asked_for_before_is_drawn_as_it_was(tmp_path: Path) -> None:
    show, pencil = show_in(tmp_path), Pencil()
    pencil.hold()
    async with studio(show, slot(pencil)) as running, running.caller() as caller:
        jobs = [(await caller.post("/api/jobs", json={"cue": "lake"})).json() for _ in range(2)]
        await edit(caller, 0, prompt="a pond")
        pencil.let_go()
        for job in jobs:
            await caller.over(job)
        assert {each.prompt.partition(",")[0] for each in pencil.asked} == {"a lake"}


async def test_a_spoilt_sheet_is_mended_and_compared_with_the_last_good_one(
    tmp_path: Path,
) -> None:
    show = drawn_show(tmp_path)
    good = file_of(show).read_text()
    async with studio(show) as running, running.caller() as caller:
        file_of(show).write_text("[")
        tag = await etag(caller)
        answer = await caller.patch(
            "/api/sheet/cues/0", json={"steps": 9}, headers={"if-match": tag}
        )
        assert refusal(answer) == (409, "conflict")
        assert "PUT replaces it" in answer.json()["error"]["message"]
        mended = good.replace("a boat", "a ship")
        answer = await caller.put("/api/sheet", content=mended, headers={"if-match": tag})
        plan = answer.json()["plan"]
        assert [each["cue"] for each in plan["stale"]] == [2]
        assert plan["kept"] == 2


async def test_actions_keep_their_ids_while_the_store_cannot_be_read(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    manifest = tmp_path / "manifest.json"
    # As if the lamp was drawn under another number, once.
    manifest.write_text(manifest.read_text().replace("transcript_002", "transcript_007"))
    async with studio(show) as running, running.caller() as caller:
        assert "transcript_007" in running.services.catalogue.actions
        manifest.write_text("{")
        found = await edit(caller, 0, transcript="the grey sea")
        assert found["plan"]["kept"] == 2
        assert set(running.services.catalogue.actions) == {"sea", "transcript_007", "prompt_001"}


async def test_many_editors_lose_nothing_of_each_other(tmp_path: Path) -> None:
    show = drawn_show(tmp_path)
    async with studio(show) as running, running.caller() as caller:

        async def add(name: str) -> None:
            while True:
                tag = await etag(caller)
                answer = await caller.patch(
                    "/api/sheet/cues/0", json={name: 1}, headers={"if-match": tag}
                )
                if answer.status_code == 200:
                    return
                assert answer.status_code == 412, answer.text

        names = [f"note_{number}" for number in range(6)]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(add(name))
        assert set(names) <= json.loads(file_of(show).read_bytes())[0].keys()


@pytest.mark.skipif(not REAL_SHEET.exists(), reason="the piece's own sheet is not beside us")
async def test_one_prompt_of_the_real_sheet_edited(tmp_path: Path) -> None:
    show = show_in(tmp_path)
    before = REAL_SHEET.read_text()
    file_of(show).write_text(before)
    cues = json.loads(before)
    n = next(n for n, each in enumerate(cues) if each["action"] == "prompt")
    old = cues[n]["prompt"]
    show = load_show(tmp_path, {"studio": {"port": 0, "keep_free": 0}}, {})
    async with studio(show) as running, running.caller() as caller:
        found = await edit(caller, n, prompt=f"{old}, at night")
    spelt = json.dumps(old, ensure_ascii=False)
    night = f'{spelt[:-1]}, at night"'
    assert file_of(show).read_text() == before.replace(
        f'"prompt": {spelt}', f'"prompt": {night}', 1
    )
    after = load_show(tmp_path, None, {}).plan({})
    file_of(show).write_text(before)
    wanted = load_show(tmp_path, None, {}).plan({}).wanted
    stale = {key for key, each in after.wanted.items() if wanted[key] != each}
    assert {each["action_id"] for each in found["plan"]["stale"]} == stale
    assert found["plan"]["kept"] == len(wanted) - len(stale)
    assert n in {each["cue"] for each in found["plan"]["stale"]}
    assert (found["plan"]["new"], found["plan"]["gone"]) == ([], [])
