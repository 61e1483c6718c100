"""Walls that show nothing: gone, hung, blind, twice of one name. Each is told, and since when."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from server.core.clock import VirtualClock
from server.core.metrics import Metrics
from server.performance.state_file import read_state
from server.stage import messages as wire
from server.stage.liveness import PAINTS_WITHIN, SPEAKS_WITHIN, STALE_AFTER, Liveness
from server.stage.presence import (
    BOOT,
    GONE_AFTER,
    REMEMBERED_AFTER,
    NotForgotten,
    ScreenPresence,
)
from server.stage.stage import Screen, Stage, StageFrame
from tests.helpers.screens import command, screen, web
from tests.helpers.servers import Address, serving
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt

MIDDAY = 1_700_006_400.0 - 1_700_006_400.0 % 86_400 + 43_200  # a noon, UTC


@dataclass
class Room:
    """A stage, its screens, and who minds them, on a clock that stands still."""

    named: tuple[str, ...] = ()
    known: dict[str, float | None] = field(default_factory=dict)
    near: bool = True

    def __post_init__(self) -> None:
        self.clock = VirtualClock(MIDDAY)
        info = wire.ShowInfo(title="T", timezone="UTC", duration=60.0)
        display = wire.Display(crossfade=1, fade=1, captions=True, progress=True, badge=False)
        self.stage = Stage(self.clock, info, display)
        self.changes = 0
        self.open()

    def open(self) -> None:
        """A life of the server begins."""
        self.presence = ScreenPresence(
            self.stage,
            self.clock,
            UTC,
            named=self.named,
            known=self.known,
            changed=self._changed,
            near=lambda _seconds: self.near,
        )

    def _changed(self) -> None:
        self.changes += 1

    @contextlib.contextmanager
    def screen(self, name: str) -> Iterator[Screen]:
        with self.stage.join(name, "binary") as joined:
            self.presence.look()
            yield joined
        self.presence.left(joined)

    def told(self) -> dict[str, tuple[str, str, bool]]:
        return {
            each.code: (each.level, each.message, each.blocks_ready)
            for each in self.presence.conditions()
        }

    def pass_time(self, seconds: float) -> None:
        self.clock.jump(seconds)


def beating(joined: Screen, clock: VirtualClock, seconds: float) -> None:
    """Let time pass while a screen keeps its clock."""
    for _ in range(int(seconds / 2)):
        clock.jump(2.0)
        joined.liveness.heard(clock.now())
        joined.liveness.synced(clock.now())


# ---------------------------------------------------------------- gone


def test_a_named_screen_that_is_gone_is_told_and_blocks() -> None:
    room = Room(named=("left", "right"))
    with room.screen("left"), contextlib.ExitStack() as right:
        right.enter_context(room.screen("right"))
        assert room.told() == {}
        room.pass_time(2 * 3600 + 180)
        right.close()
        assert room.told() == {}, "a page that is loaded anew is not told"
        room.pass_time(GONE_AFTER + 1)
        message = "right: gone since 14:03"
        assert room.told() == {"screen_gone": ("degraded", message, True)}
        room.near = False
        assert room.told() == {"screen_gone": ("note", message, False)}
        room.pass_time(86_400)
        assert "right: gone since Wed 15 Nov 14:03" in room.told()["screen_gone"][1]
        with room.screen("right"):
            assert room.told() == {}


def test_screens_that_start_after_the_server_have_their_time() -> None:
    room = Room(named=("left",))
    room.pass_time(BOOT - 1)
    assert room.told().keys() == {"no_screen"}
    assert room.presence.one("left").trouble == "gone"
    room.pass_time(2)
    message = "left: not seen since the server started, 12:00"
    assert room.told()["screen_gone"] == ("degraded", message, True)


def test_a_screen_is_remembered_once_it_was_there_for_a_minute() -> None:
    room = Room()
    with room.screen("passing"):
        room.pass_time(REMEMBERED_AFTER - 1)
    with room.screen("wall"):
        room.pass_time(REMEMBERED_AFTER + 1)
    assert room.known == {"wall": room.clock.now()}
    room.pass_time(GONE_AFTER + 1)
    level, message, blocks = room.told()["screen_gone"]
    assert (level, blocks) == ("degraded", True)
    assert message.startswith("wall: gone since 12:02 (")
    assert "screens.forget" in message

    room.open()  # another life of the server: it is remembered that it was gone
    room.pass_time(86_400)
    level, message, blocks = room.told()["screen_gone"]
    assert message.startswith("wall: gone since Wed 15 Nov 12:02")
    # After a day it was a passer-by's page, most likely: worth knowing, and no alarm.
    assert (level, blocks) == ("note", False)

    room.presence.forget("wall")
    assert room.known == {}
    assert "screen_gone" not in room.told()


def test_of_several_that_are_remembered_one_wall_is_enough_to_be_ready() -> None:
    room = Room(known={"wall": None, "laptop": None})
    with room.screen("wall"):
        room.pass_time(BOOT + 1)
        assert room.told()["screen_gone"][2] is False
    room.pass_time(GONE_AFTER + 1)
    assert room.told()["screen_gone"][2] is True


def test_what_cannot_be_forgotten_says_why() -> None:
    room = Room(known={"wall": None})
    with room.screen("wall"), pytest.raises(NotForgotten, match="connected") as refused:
        room.presence.forget("wall")
    assert refused.value.code == "screen_connected"
    with pytest.raises(NotForgotten, match="remembered"):
        room.presence.forget("hall")
    with pytest.raises(NotForgotten, match=r"show\.toml"):
        Room(named=("left",)).presence.forget("left")


def test_at_most_so_many_are_remembered() -> None:
    room = Room()
    with contextlib.ExitStack() as crowd:
        for number in range(100):
            crowd.enter_context(room.screen(f"s{number}"))
        room.pass_time(REMEMBERED_AFTER + 1)
        room.presence.look()
    assert len(room.known) == 64


def test_names_that_never_come_back_leave_room_for_a_wall() -> None:
    room = Room()
    for number in range(100):  # a private window has another name after each restart
        with room.screen(f"screen-{number}"):
            room.pass_time(REMEMBERED_AFTER + 1)
    with room.screen("wall"):
        room.pass_time(REMEMBERED_AFTER + 1)
        room.presence.look()
        assert "wall" in room.presence.expected
    assert [*room.known] == [*(f"screen-{number}" for number in range(37, 100)), "wall"]


def test_in_the_metrics() -> None:
    room = Room(named=("left", "right"))
    metrics = Metrics()
    metrics.ask(room.presence.metrics)
    with room.screen("left"):
        text = metrics.expose().decode()
    assert 'understudy_screen_up{screen="left"} 1.0' in text
    assert 'understudy_screen_up{screen="right"} 0.0' in text


# ---------------------------------------------------------------- there, and shows nothing


def play(room: Room, joined: Screen, run: str, due: float) -> StageFrame:
    """A run of one frame, sent at once."""
    performance = room.stage.begin(wire.RunStarted(run=run, cue="c", prompt="p", steps=1))
    header = wire.FrameHeader(
        run=run, cue="c", step=1, steps=1, final=True, present_at=due, media_type="image/png"
    )
    frame = StageFrame.of(header, b"picture")
    performance.add(frame, room.clock.now())
    room.stage.sent(joined, frame)
    return frame


def test_a_screen_that_paints_nothing_is_told() -> None:
    room = Room(named=("left",))
    with room.screen("left") as joined:
        beating(joined, room.clock, 3600)
        assert room.told() == {}, "nothing was sent: nothing is owed"
        play(room, joined, "one", room.clock.now() + 30)
        beating(joined, room.clock, 30 + PAINTS_WITHIN - 2)
        assert room.told() == {}
        beating(joined, room.clock, 6)
        message = "left: connected, but has painted nothing since 13:00"
        assert room.told() == {"screen_paints_nothing": ("degraded", message, True)}
        room.stage.presented(joined, wire.Presented(run="one", step=1, at=0.0))
        assert room.told() == {}


def test_what_was_cut_before_its_time_is_not_owed() -> None:
    room = Room(named=("left",))
    with room.screen("left") as joined:
        beating(joined, room.clock, 20)
        frame = play(room, joined, "one", room.clock.now() + 30)
        room.stage.cut()  # a panic, a new cue, the end of the screening
        room.stage.sent(joined, frame)  # it was on its way
        beating(joined, room.clock, 300)
        assert room.told() == {}
        play(room, joined, "two", room.clock.now() + 30)
        room.stage.hold()
        beating(joined, room.clock, 300)
        assert room.told() == {}


@pytest.mark.parametrize("how", ["cut", "hold"])
def test_a_frame_that_was_due_in_the_moment_of_a_cut_is_not_owed_all_night(how: str) -> None:
    room = Room(named=("left",))
    with room.screen("left") as joined:
        beating(joined, room.clock, 20)
        play(room, joined, "one", room.clock.now() + 0.5)
        room.clock.jump(0.51)  # due, and no display frame has come since: the screen leaves it out
        if how == "cut":
            room.stage.cut()
        else:
            room.stage.hold()
        beating(joined, room.clock, 300)
        assert room.told() == {}
        play(room, joined, "two", room.clock.now() + 0.5)
        room.clock.jump(5.0)  # what a screen had all the time for, it owes
        room.stage.cut()
        beating(joined, room.clock, 300)
        assert room.told().keys() == {"screen_paints_nothing"}


def test_a_frame_from_before_it_rejoined_is_not_owed() -> None:
    alive = Liveness(100.0)
    for now in (100.0, 103.0, 106.0):
        alive.synced(now)
    alive.sent("one", 7, 99.0, 100.1)
    assert alive.unpainted_since(1000.0) is None
    alive.sent("one", 8, 101.0, 100.1)
    assert alive.unpainted_since(1000.0) == 101.0
    alive.presented("zero", 8)
    assert alive.unpainted_since(1000.0) == 101.0
    alive.presented("one", 8)
    assert alive.unpainted_since(1000.0) is None


def test_another_program_that_reports_nothing_is_not_judged() -> None:
    alive = Liveness(0.0)
    for step in range(2000):
        alive.sent("one", step, 1.0 + step, 1.0)
    assert alive.unpainted_since(1e6) is None
    assert alive.silent_since(1e6) is None
    assert not alive.is_stale(1e6)


def test_a_page_that_hangs_is_told_between_runs_too() -> None:
    room = Room(named=("left",))
    with room.screen("left") as joined:
        beating(joined, room.clock, 10)
        room.pass_time(SPEAKS_WITHIN + 1)
        message = "left: connected, but has said nothing since 12:00"
        assert room.told() == {"screen_silent": ("degraded", message, True)}


# ---------------------------------------------------------------- two of one name


def test_a_second_screen_of_a_name_gets_its_own_and_is_told() -> None:
    room = Room(named=("left",))
    with room.screen("left") as first:
        with room.screen("left") as second, room.screen("left") as third:
            assert [first.name, second.name, third.name] == ["left", "left-2", "left-3"]
            beating(first, room.clock, GONE_AFTER + 2)
            level, message, blocks = room.told()["screen_name_twice"]
            assert (level, blocks) == ("degraded", False)
            assert "left" in message
        assert room.told() == {}


def test_a_kiosk_that_comes_back_has_its_name_while_its_old_socket_is_half_open() -> None:
    room = Room(named=("left",))
    with room.screen("left") as old:
        beating(old, room.clock, 10)
        room.pass_time(STALE_AFTER + 1)
        with room.screen("left") as new:
            assert (new.name, old.dismissed.is_set()) == ("left", True)
            assert [each.name for each in room.stage.screens] == ["left"]
            assert room.told() == {}


def test_a_name_is_passed_on_when_its_holder_goes() -> None:
    room = Room(named=("left",))
    with contextlib.ExitStack() as old:
        old.enter_context(room.screen("left"))
        with room.screen("left") as new:  # a page loaded anew, before the old one's goodbye
            assert new.name == "left-2"
            old.close()
            assert new.name == "left"
            room.pass_time(GONE_AFTER + 1)
            assert room.told() == {}


# ---------------------------------------------------------------- on real sockets


@pytest.fixture
def show(tmp_path: Path) -> TinyShow:
    cues = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]
    stage = '[stage]\nscreens = ["left", "right"]\n'
    return make_show(
        tmp_path / "show", cues, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL + stage
    )


async def test_told_by_state_probe_and_readyz(
    show: TinyShow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.stage.presence.BOOT", 0.0)
    monkeypatch.setattr("server.stage.presence.GONE_AFTER", 0.0)
    async with serving(show.load()) as address, web(address) as client:
        async with screen(address, "left") as left:
            answer = await client.get("/api/screen", params={"name": "left"})
            assert (answer.status_code, answer.json()["well"]) == (200, True)
            answer = await client.get("/api/screen", params={"name": "right"})
            assert answer.status_code == 503
            assert "not seen since" in answer.json()["reason"]
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert [text[:6] for text in ready.json()["reasons"]] == ["right:"]
            async with screen(address, "right"):
                assert (await client.get("/readyz")).status_code == 200
                twin = await asyncio.wait_for(_welcome(address, "right"), 10)
                assert twin == "right-2"
                await command(address, "identify", screen="left")
                await left.until(lambda me: me.of("identify"))
                assert left.of("identify")[0].message["screen"] == "left"
        state = (await client.get("/api/state")).json()
        assert [(each["screen"], each["connected"]) for each in state["screens"]] == [
            ("left", False),
            ("right", False),
        ]
        assert all(abs(each["gone_since"] - time.time()) < 60 for each in state["screens"])
        assert state["health"]["level"] == "degraded"
        assert "left: gone since" in state["health"]["reason"]
        refused = await client.post("/api/control/screens.forget", json={"screen": "left"})
        assert refused.json()["error"]["code"] == "screen_named"
        assert (await client.get("/api/screen")).status_code == 400
    kept = read_state(show.state / "state.json")
    assert kept is not None
    assert set(kept.screens) == {"left", "right"}


async def test_a_name_is_the_same_wherever_it_is_said(tmp_path: Path) -> None:
    """In the kiosk's address, the watcher's question and `show.toml`: spaces slip in everywhere."""
    cues = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]
    stage = '[stage]\nscreens = ["left  wall ", "left wall"]\n'
    tiny = make_show(tmp_path / "show", cues, rhythm=Rhythm(previews=1), toml=MANUAL + stage)
    async with serving(tiny.load()) as address, web(address) as client:
        async with screen(address, " left   wall"):
            state = (await client.get("/api/state")).json()
            assert [each["screen"] for each in state["screens"]] == ["left wall"]
            for name in ("left wall", "left  wall", " left wall\t", "left wall" + " " * 90):
                answer = await client.get("/api/screen", params={"name": name})
                assert (answer.status_code, answer.json()["screen"]) == (200, "left wall")
        assert (await client.get("/api/screen", params={"name": " "})).status_code == 400


async def _welcome(address: Address, name: str) -> str:
    async with screen(address, name) as client:
        given: str = client.welcome["screen"]
        return given


async def test_the_probe_wants_the_screens_token(show: TinyShow) -> None:
    loaded = show.load(tokens={"screen": "sesame", "operator": "open"})
    async with serving(loaded) as address, web(address) as client:
        asked = {"name": "left"}
        assert (await client.get("/api/screen", params=asked)).status_code == 401
        for token in ("sesame", "open"):
            headers = {"authorization": f"Bearer {token}"}
            answer = await client.get("/api/screen", params=asked, headers=headers)
            assert answer.status_code == 503
            assert set(answer.json()) == {"screen", "well", "reason"}


async def test_what_a_screen_cannot_draw_is_told(show: TinyShow) -> None:
    async with serving(show.load()) as address, screen(address, "left") as left:
        await left.send({"type": "glyphs", "missing": "กข世👩", "count": 90})
        health: dict[str, Any] = {}
        async with web(address) as client:
            for _ in range(200):
                health = (await client.get("/api/state")).json()["health"]
                if health["conditions"]:
                    break
                await asyncio.sleep(0.01)
    told = {each["code"]: each["message"] for each in health["conditions"]}
    message = told["screen_lacks_characters"]
    assert message.startswith("left cannot draw 90 characters of this show: ก ข 世 👩 …")
    assert "fonts-noto-core (Thai)" in message
    assert "fonts-noto-cjk (Chinese, Japanese)" in message
    assert "fonts-noto-color-emoji" in message
