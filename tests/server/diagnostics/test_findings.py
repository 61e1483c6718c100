"""A finding is added at one place, and is told wherever findings are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from cache.library import SetFlaw
from cache.model.images import Flaw
from server.diagnostics.facts import SIMULATION
from server.diagnostics.findings import (
    CATALOGUE,
    Finding,
    Selection,
    kind,
    ranked,
    sentences,
    table,
)
from server.diagnostics.live_checks import NOW, PREFLIGHT, RunningShow, Steps
from server.diagnostics.report import RehearsalOptions
from server.diagnostics.sets import CODES, FLAWS
from server.rehearsal.rehearsal import rehearse
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import LOOP, Rhythm, TinyShow, cue, line, make_show

CUES = [cue(0, "start"), line(1, "boats on the sea", id="boats"), cue(12, "end")]


def plant() -> None:
    """All that a new finding takes, whoever tells it."""
    toy = kind("toy_found", "something to play with lies about", "tidy it away", "warning")

    def toys(_facts: object) -> Iterator[Finding]:
        yield toy("a ball")

    SIMULATION(toys)
    NOW(toys)

    @PREFLIGHT
    async def toys_below(_running: RunningShow) -> Steps:
        yield [toy("a car")]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for selection in (SIMULATION, NOW, PREFLIGHT):
        monkeypatch.setattr(selection, "checks", [*selection.checks])
    with patch.dict(CATALOGUE):
        plant()
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path, CUES, toml=LOOP, rhythm=Rhythm(previews=2, step=0.5, sets=2))


def of_toys(findings: list[dict[str, object]]) -> list[tuple[object, object, object]]:
    return [
        (each["level"], each["message"], each["remedy"])
        for each in findings
        if each["code"] == "toy_found"
    ]


@pytest.mark.usefixtures("planted")
def test_a_rehearsal_and_the_docs_tell_it(tiny: TinyShow) -> None:
    report = rehearse(tiny.load(), RehearsalOptions(seed=1), wall=1_800_000_000.0)
    told = [each.model_dump() for each in report.findings]
    assert of_toys(told) == [("warning", "a ball", "tidy it away")]
    assert report.verdict == "ready"
    assert "| `toy_found` | warning | something to play with lies about |\n" in table()


@pytest.mark.usefixtures("planted")
async def test_the_running_server_tells_it_in_all_its_selections(tiny: TinyShow) -> None:
    async with serving(tiny.load()) as address, web(address) as client, asyncio.timeout(20):
        while True:
            state = (await client.get("/api/state")).json()
            if state["preflight"]["verdict"] is not None:
                break
            await asyncio.sleep(0.05)
        ready = await client.get("/readyz")
    found = of_toys(state["preflight"]["findings"])
    assert found == [("warning", text, "tidy it away") for text in ("a ball", "a car")]
    assert state["health"]["reason"] == "a ball"
    assert ready.status_code == 200
    # What is known as of now is told once, as it is now.
    assert [note for note in ready.json()["notes"] if note in {"a ball", "a car"}] == [
        "a ball",
        "a car",
    ]


async def test_a_check_that_fails_is_told_and_costs_nobody_the_others(
    tiny: TinyShow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_facts: object) -> list[Finding]:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(NOW, "checks", [broken, *NOW.checks])
    with capture_logs() as logs:
        async with serving(tiny.load()) as address, web(address) as client, asyncio.timeout(20):
            while True:
                state = (await client.get("/api/state")).json()
                if state["preflight"]["verdict"] is not None:
                    break
                await asyncio.sleep(0.05)
            ready = await client.get("/readyz")
    told = [each["code"] for each in state["preflight"]["findings"]]
    assert told == ["not_looked_at"]
    assert "a mistake of ours" in state["health"]["reason"]
    assert ready.status_code == 200
    assert any("looking at the broken failed" in note for note in ready.json()["notes"])
    assert [each["look"] for each in logs if each["event"] == "preflight_broke"] == ["broken"]


def test_a_rehearsal_does_not_hide_that_a_check_fails() -> None:
    selection = Selection[dict[str, Finding]]()
    selection(lambda facts: [facts["absent"]])
    with pytest.raises(KeyError):
        selection.findings({})


def test_a_kind_is_told_at_its_own_levels_and_what_is_better_said_goes_before() -> None:
    with patch.dict(CATALOGUE):
        known = kind("known", "a cause", "mend {action_id}", "warning", "note")
        vague = kind("vague", "its effect", "see", "warning", better=["known"])
        assert known("one").level == "warning"
        assert known("one", level="note").level == "note"
        with pytest.raises(ValueError, match="known is told as"):
            known("one", level="error")
        selection = Selection[None]()
        selection(lambda _: [vague("so"), known("thus")])
        assert [each.code for each in selection.findings(None)] == ["known"]


def test_the_worst_comes_first_and_what_is_the_same_is_counted() -> None:
    note, error = (
        Finding(level=level, code="overrun", message="long", remedy="cut", cue=3)
        for level in ("note", "error")
    )
    assert ranked([note, error, note]) == (error, note.model_copy(update={"count": 2}))
    assert sentences([note, error, error], "error") == ["long (and 1 more)"]


def test_whatever_those_who_read_sets_find_has_a_code() -> None:
    flaws = {flaw for part in get_args(SetFlaw) for flaw in get_args(part) or [part]}
    assert flaws >= set(get_args(Flaw))
    assert flaws | {"stale", "flat"} <= CODES.keys()
    assert {*CODES.values()} <= FLAWS.keys() <= CATALOGUE.keys()
