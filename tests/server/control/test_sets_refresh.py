"""`sets.refresh`: what has become of the store's sets is on the wall with the next cue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cache.index import register
from cache.model.keys import MANIFEST, meta_key, parse_key
from cache.stores.port import StoreUnavailable
from generator.sets.recorder import entry_of
from generator.sets.rejection import reject_set
from generator.sheet.description import describe
from server.control.command import Caller, CommandError
from tests.helpers.house import House, house
from tests.helpers.shows import Rhythm, cue, line, prompt, set_files

CUES = [cue(0, "start"), line(2, "one", id="one"), prompt(20, "two", id="two"), cue(60, "end")]
RHYTHM = Rhythm(previews=3, step=0.5, sets=1)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, CUES, rhythm=RHYTHM) as one:
        await one.play_to(5)
        yield one


async def refresh(at: House) -> dict[str, Any]:
    return await at.dispatcher.dispatch("sets.refresh", {}, Caller("operator", "a test"))


async def test_a_set_that_was_made_meanwhile_plays_with_the_next_cue(opened: House) -> None:
    action = next(each for each in opened.actions if each.action_id == "two")
    assert (await refresh(opened)) == {"sets": 2, "without_sets": []}
    for key, data in set_files(action, 1, RHYTHM).items():
        await opened.store.put(parse_key(key), data)
    await register(opened.store, "two", entry_of(describe(action), action.recipe), 1)
    await reject_set(opened.store, "two", 0)
    assert opened.readiness.sets("two") == 1  # nobody has looked yet
    assert await refresh(opened) == {"sets": 2, "without_sets": []}
    await opened.play_to(40)
    played = [(row["action_id"], row["set_id"]) for row in await opened.rows()]
    assert played == [("one", 0), ("two", 1)]


async def test_a_set_that_was_rejected_is_not_played_and_it_is_told(opened: House) -> None:
    await reject_set(opened.store, "two", 0)
    assert (await refresh(opened))["without_sets"] == ["two"]
    await opened.play_to(40)
    assert [(row["action_id"], row["outcome"]) for row in await opened.rows()] == [
        ("one", "completed"),
        ("two", "held"),
    ]


async def test_a_store_that_is_away_is_told_and_nothing_is_forgotten(opened: House) -> None:
    opened.store.fail_next(StoreUnavailable(MANIFEST, "no route"), on="get")
    with pytest.raises(CommandError, match="no route") as caught:
        await refresh(opened)
    assert caught.value.code == "store_unavailable"
    assert opened.readiness.sets("two") == 1
    assert (await refresh(opened))["sets"] == 2
    del opened.store.contents[meta_key("two", 0)]
    assert (await refresh(opened))["without_sets"] == ["two"]
