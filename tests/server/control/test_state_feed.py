from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.control import messages as control_messages
from server.control import state_feed
from server.control.state_feed import StateFeed, TechnicianMailbox, lasting
from server.core.background_jobs import LONGEST_PAUSE, BackgroundJobs
from server.core.clock import VirtualClock, settle
from server.core.metrics import Metrics
from tests.helpers.house import house
from tests.helpers.shows import Rhythm, cue, line, prompt


class Desk:
    """A state that tests change, and how often it was read."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"mode": "static", "screens": []}
        self.reads = 0
        self.clock = VirtualClock()

    def read(self) -> dict[str, Any]:
        self.reads += 1
        return {**self.state, "server_time": self.clock.now(), "position": self.clock.now() / 7}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def feed(desk: Desk) -> AsyncIterator[StateFeed]:
    feed = StateFeed(desk.read, desk.clock, epoch="e")
    async with BackgroundJobs(desk.clock, Metrics()) as jobs:
        jobs.start("state_feed", feed.run)
        await settle()
        yield feed


async def taken(mailbox: TechnicianMailbox) -> list[Any]:
    """Everything that could be sent now."""
    found: list[Any] = []
    while True:
        task = asyncio.ensure_future(mailbox.take())
        await settle(3)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return found
        text = task.result()
        found.append(json.loads(text) if text.startswith("{") else text)


async def test_begins_with_the_welcome_and_a_whole_state(feed: StateFeed) -> None:
    with feed.join("welcome") as mailbox:
        welcome, state = await taken(mailbox)
    assert welcome == "welcome"
    assert (state["type"], state["epoch"], state["state"]["mode"]) == ("state", "e", "static")
    assert feed.listeners == 0


async def test_time_that_passes_is_no_change(desk: Desk, feed: StateFeed) -> None:
    with feed.join("welcome") as mailbox:
        await taken(mailbox)
        await desk.clock.advance(state_feed.REFRESH - 0.5)
        assert await taken(mailbox) == []
        assert desk.reads > 20


async def test_a_state_that_stands_still_is_told_again_and_again(
    desk: Desk, feed: StateFeed
) -> None:
    with feed.join("") as mailbox:
        told = (await taken(mailbox))[-1]["seq"]
        for _ in range(4):
            await desk.clock.advance(state_feed.REFRESH + 0.2)
            (state,) = await taken(mailbox)
            assert state["seq"] == told + 1
            told = state["seq"]


async def test_a_change_is_told_once_with_the_next_number(desk: Desk, feed: StateFeed) -> None:
    with feed.join("") as one, feed.join("") as two:
        first = (await taken(one))[-1]["seq"]
        await taken(two)
        desk.state["mode"] = "live"
        await desk.clock.advance(1)
        (told,), (same,) = await taken(one), await taken(two)
        assert told == same
        assert (told["seq"], told["state"]["mode"]) == (first + 1, "live")
        desk.state["mode"] = "static"
        await desk.clock.advance(1)
        (told,) = await taken(one)
        assert told["seq"] == first + 2


async def test_it_is_encoded_once_however_many_listen(
    desk: Desk, feed: StateFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    real = control_messages.state

    def counted(*args: Any) -> str:
        encoded.append(real(*args))
        return encoded[-1]

    with feed.join("") as one, feed.join("") as two:
        await taken(one)
        await taken(two)
        monkeypatch.setattr(control_messages, "state", counted)
        desk.state["mode"] = "live"
        await desk.clock.advance(1)
        assert len(encoded) == 1
        assert await one.take() is await two.take() is encoded[0]


async def test_a_nudge_is_heeded_at_once_and_many_are_one(desk: Desk, feed: StateFeed) -> None:
    with feed.join("") as mailbox:
        await taken(mailbox)
        for value in range(50):
            desk.state["mode"] = value
            feed.nudge()
            await settle(2)
        await settle()
        (told,) = await taken(mailbox)  # no time has passed
        await desk.clock.advance(state_feed.NOT_OFTENER_THAN * 2)
        later = await taken(mailbox)
        assert (later[-1] if later else told)["state"]["mode"] == 49
        assert len(later) <= 1


async def test_who_does_not_fetch_has_the_newest_state_and_every_reply(
    desk: Desk, feed: StateFeed
) -> None:
    with feed.join("welcome") as mailbox:
        for value in range(5):
            desk.state["mode"] = value
            mailbox.reply(f"reply {value}")
            await desk.clock.advance(1)
        *replies, state = await taken(mailbox)
        assert replies == ["welcome", *(f"reply {value}" for value in range(5))]
        assert state["state"]["mode"] == 4


async def test_what_screens_report_is_told_now_and_then(desk: Desk, feed: StateFeed) -> None:
    def painted(step: int) -> None:
        at = desk.clock.now()
        report = {"painted": {"run": "r", "step": step}, "painted_at": at, "painted_age": 0.1}
        desk.state["screens"] = [{"screen": "a", "skipped": 0, **report}]

    painted(0)
    await desk.clock.advance(1)
    with feed.join("") as mailbox:
        first = (await taken(mailbox))[-1]["seq"]
        for step in range(1, 41):
            painted(step)
            await desk.clock.advance(0.5)
        (told,) = await taken(mailbox)
        assert 2 <= told["seq"] - first <= 20 / state_feed.REFRESH
        desk.state["screens"] = []
        await desk.clock.advance(0.2)
        assert (await taken(mailbox))[0]["state"]["screens"] == []


async def test_nobody_listening_costs_nothing(desk: Desk, feed: StateFeed) -> None:
    assert feed.listeners == 0
    await desk.clock.advance(60)
    assert desk.reads == 0


async def test_a_state_that_cannot_be_read_does_not_end_the_telling(
    desk: Desk, feed: StateFeed
) -> None:
    with feed.join("") as mailbox:
        await taken(mailbox)
        whole, desk.state = desk.state, {"screens": 7}
        await desk.clock.advance(1)
        desk.state = {**whole, "mode": "live"}
        await desk.clock.advance(LONGEST_PAUSE)
        assert (await taken(mailbox))[0]["state"]["mode"] == "live"


async def test_a_show_that_plays_changes_only_when_something_happens(tmp_path: Path) -> None:
    cues = [cue(0, "start"), line(1, "one", id="one"), prompt(30, "two"), cue(60, "end")]
    async with house(tmp_path, cues, rhythm=Rhythm(previews=3, step=0.5)) as one:
        await one.readiness.look()
        await one.play_to(10)
        before = lasting(one.view.state())
        await one.play_to(20)
        assert lasting(one.view.state()) == before
        assert one.view.state()["position"] == pytest.approx(20)
