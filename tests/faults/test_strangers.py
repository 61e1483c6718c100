"""Strangers use nothing that the show lives on: the line, the memory, the art."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from cache.model.keys import Key, image_key
from server.asrun.record import _MAX_SCREENS, RunNotes
from server.config.show import load_show
from server.control.command import Caller, CommandError
from server.control.command import command as declared
from server.control.dispatcher import Dispatcher, Envelope
from server.core.clock import VirtualClock
from server.core.random_streams import RandomStreams
from server.providers.shuffle import Bag, ShuffleBag
from tests.cache.prefetch.test_prefetcher import bench, names
from tests.helpers.pictures import picture
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show

CUES = [cue(0, "start"), line(0, "a lamp is lit", id="lamp"), cue(60, "end")]
OPERATOR, VIEWER, SCREEN = "operate-s3cret", "view-s3cret", "screen-s3cret"


async def test_an_anonymous_loop_over_the_sets_does_not_stop_prefetching() -> None:
    async with bench(("a", "b"), line=20_000) as house:
        house.need("a", 0, 10.0)
        house.prefetcher.nudge()

        async def loop() -> None:
            while True:
                for name in names():
                    await house.cache.at_hand(image_key("b", 1, name))
                await asyncio.sleep(0)

        stranger = asyncio.create_task(loop())
        try:
            await house.pass_time(9.0)
            assert house.whole("a", 0)
            assert house.here("b", 1) == []  # nothing was fetched for it
        finally:
            stranger.cancel()
            await asyncio.gather(stranger, return_exceptions=True)


async def test_what_is_at_hand_is_told_without_the_origin() -> None:
    async with bench(("a",), run=False) as house:
        key = image_key("a", 0, "1.jpg")
        assert await house.cache.at_hand(key) is None
        reading = asyncio.create_task(house.cache.get(key))
        await house.pass_time(1.0)
        assert await house.cache.at_hand(key) == await reading
        assert await house.cache.at_hand(Key("actions/a/sets/9/1.jpg")) is None


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    folder = tmp_path / "show"
    folder.mkdir()
    (folder / "still.jpg").write_bytes(picture("still"))
    rhythm = Rhythm(previews=2, step=0.1)
    return make_show(folder, CUES, rhythm=rhythm, toml='still = "still.jpg"\n' + MANUAL)


FOREIGN: dict[str, str] = {"host": "evil.example"}


def bearing(token: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **more}


@pytest.mark.parametrize(
    ("tokens", "seen", "refused"),
    [
        ("", [{}], [FOREIGN, {"x-forwarded-for": "127.0.0.1"}]),
        ("operator viewer", [bearing(VIEWER), bearing(OPERATOR)], [{}, bearing("wrong")]),
        ("operator screen", [bearing(SCREEN)], [{}, bearing(SCREEN, origin="http://evil")]),
    ],
)
async def test_who_sees_the_sets(
    tiny: TinyShow, tokens: str, seen: list[dict[str, str]], refused: list[dict[str, str]]
) -> None:
    all_of = {"operator": OPERATOR, "viewer": VIEWER, "screen": SCREEN}
    environment = {f"UNDERSTUDY_{name.upper()}_TOKEN": all_of[name] for name in tokens.split()}
    show = load_show(tiny.folder, {}, environment)
    async with serving(show) as address, web(address) as client:
        for headers in seen:
            answer = await client.get("/assets/lamp/0/1.jpg", headers=headers)
            assert answer.status_code == 200
            assert (await client.get("/assets/lamp/9/1.jpg", headers=headers)).status_code == 404
        for headers in refused:
            answer = await client.get("/assets/lamp/0/1.jpg", headers=headers)
            assert answer.status_code in {401, 403}
        by_address = await client.get(f"/assets/lamp/0/1.jpg?token={SCREEN}")
        assert (by_address.status_code == 200) is (tokens != "operator viewer")
        still = await client.get("/still")
        assert still.status_code == (401 if "screen" in tokens else 200)


def test_only_what_has_sets_is_remembered() -> None:
    bag = ShuffleBag(RandomStreams(1))
    for number in range(1000):
        assert bag.draw(f"wire_{number}", ()) is None
        assert bag.coming(f"wire_{number}", (), 3) == ()
    assert bag.bags == {}
    first = bag.draw("lamp", (0, 1))
    assert bag.coming("lamp", (), 1) == ()  # they are away for a moment: what was played is kept
    assert bag.bags["lamp"].played == (first,)
    assert bag.bags["lamp"] != Bag()


class Anything(BaseModel):
    """Arguments of all kinds."""

    model_config = ConfigDict(extra="allow")


class Group:
    """Knows one command."""

    @declared("go")
    async def go(self, args: Anything) -> dict[str, Any]:
        del args
        return {}


async def test_a_refused_command_leaves_nothing_behind() -> None:
    dispatcher = Dispatcher([Group()], VirtualClock())
    for number in range(100):
        for caller, command in (("viewer", "go"), ("operator", "nothing")):
            with pytest.raises(CommandError):
                await dispatcher.dispatch(
                    command,
                    {"text": "x" * 60_000},
                    Caller("viewer" if caller == "viewer" else "operator", caller),
                    Envelope(id=str(number)),
                )
    assert len(dispatcher._once) == 0
    await dispatcher.dispatch("go", {"a": "x" * 60_000}, Caller("operator", "x"), Envelope("1"))
    ((_, once),) = dispatcher._once.items()
    assert len(once.args) == 64  # its hash


def test_names_of_screens_are_bounded() -> None:
    notes = RunNotes.__new__(RunNotes)
    notes.presented, notes.presentations, notes.untold = {}, 0, False
    for number in range(10 * _MAX_SCREENS):
        notes.present(f"screen {number}", 1, 0.0)
    assert len(notes.presented) == _MAX_SCREENS
    assert notes.present("screen 0", 2, 0.0)
