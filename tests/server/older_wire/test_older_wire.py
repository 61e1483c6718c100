"""The older wire, as the piece's first browser program speaks it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from cache.model.keys import image_key, meta_key
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from server.config.show import load_show
from server.older_wire import socket as older_wire_socket
from server.older_wire.messages import Ask, Ping, Unknown, parse, step_line
from server.older_wire.socket import Repertoire
from tests.helpers.house import house
from tests.helpers.screens import screen
from tests.helpers.servers import Address, serving
from tests.helpers.shows import LOOP, MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt

PROGRAMS = {name: Program(**fields) for name, fields in DEFAULT_PROGRAMS.items()}
CUES = [
    cue(0, "start"),
    line(0, "This is a lecture", id="lecture"),
    prompt(5, "an epic poem", program="P2", guidance=40, id="poem"),
    cue(10, "move-slider", program="P2", value=60, id="more"),
    prompt(15, "a crowd", program="P2B", guidance=60, id="crowd"),
    prompt(20, "data researcher", override="person, data researcher", id="researcher"),
    prompt(25, "typed", program="P3", id="empty"),
    prompt(30, "a hand", program="P3B", id="hand"),
    prompt(35, "another poem", program="P2", guidance=10, id="another"),
    cue(60, "end"),
]
RHYTHM = Rhythm(previews=3, step=0.2, first=0.4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P0:a cat", Ask("P0", prompt="a cat")),
        ("P0: a cat: and a dog ", Ask("P0", prompt="a cat: and a dog")),
        ("a cat", Ask("P0", prompt="a cat")),
        ("Note: a cat", Ask("P0", prompt="Note: a cat")),
        ("P2:0.40", Ask("P2", strength=0.4)),
        ("P2B:0.60", Ask("P2B", strength=0.6)),
        ("P2:0", Ask("P2", strength=0.0)),
        ("P2:1", Ask("P2", strength=1.0)),
        ("P3", Ask("P3", prompt="")),
        ("P3:", Ask("P3", prompt="")),
        ("P3B:a hand", Ask("P3B", prompt="a hand")),
        ("P4:big tech ceo", Ask("P4", prompt="big tech ceo")),
        ("ping", Ping()),
        (" ping\n", Ping()),
        ("P2", Unknown("P2")),
        ("P2:", Unknown("P2:")),
        ("P2:a lot", Unknown("P2:a lot")),
        ("P2:1.5", Unknown("P2:1.5")),
        ("P2:nan", Unknown("P2:nan")),
        ("P0", Unknown("P0")),
        ("P0:", Unknown("P0:")),
        ("P4:  ", Unknown("P4:")),
        ("P9:x", Unknown("P9:x")),
        ("P7", Unknown("P7")),
        ("", Unknown("")),
    ],
)
def test_what_is_asked_for(text: str, expected: object) -> None:
    assert parse(text, PROGRAMS) == expected


def test_what_is_far_too_long_is_unknown_and_the_answer_is_short() -> None:
    asked = parse("x" * 100_000, PROGRAMS)
    assert isinstance(asked, Unknown)
    assert asked.answer.startswith("unknown command: xxx")
    assert len(asked.answer) < 200


@pytest.mark.parametrize("steps", [1, 2, 20, 31, 1000])
def test_steps_count_from_0_and_timesteps_descend(steps: int) -> None:
    told = [step_line(step, steps) for step in range(1, steps + 1)]
    pairs = [row.removeprefix("p:s=").split(":t=") for row in told]
    assert [int(s) for s, _ in pairs] == list(range(steps))
    timesteps = [float(t) for _, t in pairs]
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 999


@pytest.mark.parametrize(
    ("text", "at", "action_id"),
    [
        ("P0:This is a lecture", 1, "lecture"),
        ("This is  a lecture", 1, "lecture"),
        ("P2:0.40", 1, "poem"),
        ("P2:0.60", 1, "more"),
        ("P2B:0.60", 1, "crowd"),
        ("P4:data researcher", 1, "researcher"),
        ("P3", 1, "empty"),
        ("P3B:a hand", 1, "hand"),
        ("P2:0.10", 1, "another"),
    ],
)
async def test_the_action_is_found_by_its_recipe(
    tmp_path: Path, text: str, at: float, action_id: str
) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as one:
        await one.play_to(at)
        asked = parse(text, one.show.programs)
        assert isinstance(asked, Ask)
        assert repertoire(one).find(asked).action_id == action_id


async def test_what_the_show_does_not_have_is_an_action_of_its_own(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=LOOP) as one:
        await one.play_to(6)
        found = repertoire(one).find(Ask("P2", strength=0.25))
        poem = next(action for action in one.actions if action.action_id == "poem")
        assert found.action_id not in {action.action_id for action in one.actions}
        assert (found.recipe.prompt, found.recipe.strength) == (poem.recipe.prompt, 0.25)
        unknown = repertoire(one).find(Ask("P0", prompt="nothing of ours"))
        assert unknown.recipe.prompt == "nothing of ours, photorealistic"
        assert repertoire(one).find(Ask("P0", prompt="nothing of ours")) == unknown


def repertoire(one: Any) -> Repertoire:
    return Repertoire(
        one.playback.plan, one.show.programs, one.show.base_images, one.playback.playhead
    )


# ---------------------------------------------------------------- over the wire


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL)


@pytest.fixture
async def address(tiny: TinyShow) -> AsyncIterator[Address]:
    async with serving(tiny.load()) as address:
        yield address


@asynccontextmanager
async def browser(address: Address, query: str = "") -> AsyncIterator[ClientConnection]:
    async with connect(
        address.older + query, compression=None, proxy=None, max_queue=None
    ) as socket:
        assert await told(socket) == "ready"
        yield socket


async def told(socket: ClientConnection) -> str | bytes:
    async with asyncio.timeout(15):
        return await socket.recv()


async def until_done(socket: ClientConnection) -> list[str | bytes]:
    heard: list[str | bytes] = []
    while not heard or heard[-1] != "done":
        heard.append(await told(socket))
    return heard


async def test_ping_and_what_it_does_not_know(address: Address) -> None:
    async with browser(address) as socket:
        await socket.send("ping")
        assert await told(socket) == "pong"
        for text in ("P9:x", "P2:much", b"\x01"):
            await socket.send(text)
            answer = await told(socket)
            assert isinstance(answer, str)
            assert answer.startswith("unknown command: ")
        await socket.send("ping")
        assert await told(socket) == "pong"


@pytest.mark.pace
async def test_a_picture_with_its_previews(address: Address, tiny: TinyShow) -> None:
    async with browser(address) as socket:
        await socket.send("P4:data researcher")
        heard = await until_done(socket)
        assert heard[0:6:2] == ["p:s=0:t=999.0", "p:s=1:t=749.25", "p:s=2:t=499.5"]
        images = [*heard[1:6:2], heard[6]]
        sets = [[tiny.image("researcher", n, k) for k in (1, 2, 3, 4)] for n in (0, 1)]
        assert images in sets
        await socket.send("P4:data researcher")  # the other one, out of a bag of its own
        again = await until_done(socket)
        assert [*again[1:6:2], again[6]] in sets
        assert again[6] != heard[6]


async def test_p0_is_told_its_steps_without_previews(address: Address, tiny: TinyShow) -> None:
    async with browser(address) as socket:
        await socket.send("This is a lecture")
        *steps, final, done = await until_done(socket)
        assert steps == ["p:s=0:t=999.0", "p:s=1:t=749.25", "p:s=2:t=499.5"]
        assert final in {tiny.final("lecture", number) for number in (0, 1)}
        assert done == "done"


async def test_what_nobody_can_draw_is_done_without_a_picture(address: Address) -> None:
    async with browser(address) as socket:
        await socket.send("P4:nothing of ours")
        assert await until_done(socket) == ["done"]


async def test_a_new_one_cancels_the_one_before(tmp_path: Path) -> None:
    rhythms = {"hand": Rhythm(previews=60, step=0.05)}
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, rhythms=rhythms, toml=MANUAL)
    async with serving(tiny.load()) as address, browser(address) as socket:
        await socket.send("P3B:a hand")
        first = await told(socket)
        assert isinstance(first, str)
        assert first.startswith("p:s=")
        await socket.send("P4:data researcher")
        heard = await until_done(socket)
        new = ["p:s=0:t=999.0", "p:s=1:t=749.25", "p:s=2:t=499.5", "done"]
        begun = next(place for place, part in enumerate(heard) if part in new)
        assert {part for part in heard[begun:] if isinstance(part, str)} <= set(new)
        assert heard[-2] in {tiny.final("researcher", number) for number in (0, 1)}
        await socket.send("ping")
        assert await told(socket) == "pong", "something of the first was left"


async def test_pictures_of_another_kind_are_sent_as_jpeg(tiny: TinyShow) -> None:
    for number in (0, 1):
        folder = tiny.folder / meta_key("researcher", number)
        meta = json.loads(folder.read_text())
        for name in [*meta["files"]]:
            path = tiny.folder / image_key("researcher", number, name)
            with Image.open(path) as opened:
                opened.save(path.with_suffix(".png"))
            path.unlink()
        del meta["files"]
        folder.write_text(json.dumps(meta))
    async with serving(tiny.load()) as address, browser(address) as socket:
        await socket.send("P4:data researcher")
        pictures = [part for part in await until_done(socket) if isinstance(part, bytes)]
        assert len(pictures) == 4
        for picture in pictures:
            with Image.open(io.BytesIO(picture)) as opened:
                assert opened.format == "JPEG"


async def test_the_stage_knows_nothing_of_it(address: Address) -> None:
    async with screen(address) as kiosk, browser(address) as socket:
        await socket.send("P4:data researcher")
        await until_done(socket)
        await kiosk.send({"type": "sync", "t0": 0.5})
        await kiosk.until(lambda me: me.of("sync")[-1].message["t0"] == 0.5)
        assert not kiosk.of("run")


async def test_who_may(
    tiny: TinyShow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret, right = "a-screens-secret", "?token=a-screens-secret"
    evil = {"Origin": "https://evil.example"}
    async with serving(load_show(tiny.folder, {}, {"UNDERSTUDY_SCREEN_TOKEN": secret})) as address:
        for query, headers in (("", {}), ("?token=wrong", {}), (right, evil)):
            with pytest.raises(InvalidStatus) as error:
                async with connect(address.older + query, additional_headers=headers, proxy=None):
                    pass
            assert error.value.response.status_code == 403
        monkeypatch.setattr(older_wire_socket, "MOST_CLIENTS", 1)
        async with browser(address, right) as first:
            await first.send("P4:a lamp")
            assert await told(first) == "done"
            async with connect(address.older + right, proxy=None) as second:
                await second.send("P4:a lamp")
                await second.wait_closed()
                assert second.close_code == 1013
            assert first.close_code is None
    assert "ERROR" not in {record.levelname for record in caplog.records}
