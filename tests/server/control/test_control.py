from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.control import dispatcher as control
from server.control.command import Caller, CommandError
from server.control.command import command as declared
from server.control.dispatcher import Dispatcher, Envelope
from server.core.clock import settle
from server.network.access import Role
from server.performance.state_file import Panic
from tests.helpers.house import House, house
from tests.helpers.shows import LOOP, MANUAL, Rhythm, cue, line, prompt

CUES = [
    cue(0, "start"),
    line(2, "one", id="one"),
    line(5, "spoken", generate=False, id="spoken"),
    prompt(10, "two", id="two"),
    prompt(20, "three"),
    cue(60, "end"),
]
RHYTHM = Rhythm(previews=3, step=0.5)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, CUES, rhythm=RHYTHM) as one:
        await one.play_to(3)
        yield one


@pytest.fixture
async def waiting(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=MANUAL) as one:
        await one.play_to(1)
        yield one


async def ask(at: House, command: str, role: Role = "operator", **args: Any) -> dict[str, Any]:
    result = await at.dispatcher.dispatch(command, args, Caller(role, "a test"))
    json.dumps(result, allow_nan=False)
    return result


async def refused(at: House, command: str, role: Role = "operator", **args: Any) -> str:
    with pytest.raises(CommandError) as error:
        await ask(at, command, role, **args)
    assert str(error.value)
    assert len(str(error.value)) < 600
    return error.value.code


# ---------------------------------------------------------------- who may


async def test_a_viewer_reads_and_no_more(opened: House) -> None:
    for command, found in opened.dispatcher.commands.items():
        if found.viewers:
            assert await ask(opened, command, "viewer")
        else:
            assert await refused(opened, command, "viewer") == "forbidden"
    assert opened.playback.playhead.on_schedule
    assert all(opened.dispatcher.commands[name].viewers for name in ("state", "screens", "asrun"))


async def test_what_is_no_command(opened: House) -> None:
    for name in ("", "GO", "state ", "__init__", "_go", "x" * 5000, "é"):
        assert await refused(opened, name) == "unknown_command"
        assert await refused(opened, name, "viewer") == "unknown_command"


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("state", {"x": 1}),
        ("go", {"cues": "two"}),
        ("next", {"cue": "two"}),
        ("previous", {"x": 0}),
        ("pause", {"seconds": 3}),
        ("resume", {"x": 1}),
        ("rejoin", {"x": 1}),
        ("regenerate", {"x": 1}),
        ("screens", {"x": 1}),
        ("standby", {}),
        ("standby", {"cue": None}),
        ("seek", {}),
        ("seek", {"time": None}),
        ("seek", {"time": "soon"}),
        ("seek", {"time": True}),
        ("seek", {"time": [1]}),
        ("seek", {"time": "00:61:00"}),
        ("identify", {}),
        ("identify", {"screen": 7}),
        ("reload", {"screen": None}),
        ("asrun", {"limit": 0}),
        ("asrun", {"limit": -1}),
        ("asrun", {"limit": True}),
        ("asrun", {"limit": "9"}),
        ("asrun", {"limit": 10**9}),
    ],
)
async def test_bad_arguments(opened: House, command: str, args: dict[str, Any]) -> None:
    before = opened.playback.playhead.cursor
    assert await refused(opened, command, **args) == "bad_args"
    assert opened.playback.playhead.cursor == before
    assert opened.playback.playhead.on_schedule


# ---------------------------------------------------------------- the show


async def test_go_says_where_the_show_is_and_too_soon(opened: House) -> None:
    told = await ask(opened, "go")
    assert told == {
        "status": "active",
        "position": pytest.approx(10.0),
        "time": "00:00:10",
        "on_schedule": False,
        "paused": False,
        "standby": 4,
        "panic": False,
    }
    assert await refused(opened, "go") == "too_soon"
    assert await refused(opened, "go", cue="one") == "too_soon"
    await opened.play_to(3.4)
    assert await refused(opened, "go") == "too_soon"
    await opened.play_to(3.6)
    assert (await ask(opened, "go"))["position"] == pytest.approx(20.0)
    await opened.rest()
    assert [found for _, found in opened.runs()] == ["one", "two", "prompt_002"]


async def test_a_go_that_failed_does_not_count_as_one(opened: House) -> None:
    assert await refused(opened, "go", cue="nobody") == "unknown_cue"
    await ask(opened, "go")


@pytest.mark.parametrize(
    ("reference", "index"),
    [("two", 3), (3, 3), ("3", 3), ("prompt_002", 4), ("spoken", 2), (0, 0), ("one", 1)],
)
async def test_a_cue_is_called_by_id_or_number(
    waiting: House, reference: object, index: int
) -> None:
    told = await ask(waiting, "standby", cue=reference)
    assert told["standby"] == index


@pytest.mark.parametrize("number", [10**30, -(10**30), math.nan, math.inf])
@pytest.mark.parametrize("command", ["go", "standby"])
async def test_a_number_beyond_measure_is_not_one_that_is_left_out(
    waiting: House, command: str, number: float
) -> None:
    assert await refused(waiting, command, cue=number) == "bad_args"


@pytest.mark.parametrize(
    "reference", ["nobody", "", -1, 6, "6", "-1", True, 1.0, [], {}, "two ", "²"]
)
async def test_a_cue_that_there_is_not(waiting: House, reference: object) -> None:
    assert await refused(waiting, "standby", cue=reference) == "unknown_cue"
    assert await refused(waiting, "go", cue=reference) == "unknown_cue"


async def test_standby_then_go(opened: House) -> None:
    await ask(opened, "standby", cue="prompt_002")
    assert (await ask(opened, "go"))["position"] == pytest.approx(20)
    await opened.play_to(4)
    assert await refused(opened, "go") == "no_standby"
    assert await refused(opened, "next") == "no_such_cue"


async def test_next_and_previous(opened: House) -> None:
    assert (await ask(opened, "next"))["position"] == pytest.approx(10)
    assert (await ask(opened, "previous"))["position"] == pytest.approx(2)
    assert (await ask(opened, "previous"))["position"] == pytest.approx(2)


async def test_pause_resume_rejoin(opened: House) -> None:
    assert (await ask(opened, "pause"))["paused"] is True
    await ask(opened, "pause")
    await opened.play_to(9)
    told = await ask(opened, "resume")
    assert (told["paused"], told["position"]) == (False, pytest.approx(3))
    assert await refused(opened, "resume") == "not_paused"
    told = await ask(opened, "rejoin")
    assert (told["on_schedule"], told["position"]) == (True, pytest.approx(9))


@pytest.mark.parametrize(
    ("time", "position"),
    [("00:00:12", 12.0), ("00:00:12.5", 12.5), (7, 7.0), (0, 0.0), (3.25, 3.25)],
)
async def test_seek(opened: House, time: object, position: float) -> None:
    assert (await ask(opened, "seek", time=time))["position"] == pytest.approx(position)


@pytest.mark.parametrize("time", [-1, 60, 1e300, "00:01:00", "99:00:00"])
async def test_seek_out_of_the_show(opened: House, time: object) -> None:
    assert await refused(opened, "seek", time=time) == "out_of_range"


@pytest.mark.parametrize(
    "time", [float("nan"), float("inf"), -float("inf"), 10**400], ids=["nan", "inf", "-inf", "huge"]
)
async def test_seek_to_no_number_at_all(opened: House, time: object) -> None:
    assert await refused(opened, "seek", time=time) in {"bad_args", "out_of_range"}
    assert opened.playback.playhead.on_schedule


async def test_with_no_screening_on(waiting: House) -> None:
    assert await refused(waiting, "pause") == "not_active"
    assert await refused(waiting, "resume") == "not_paused"
    assert await refused(waiting, "previous") == "no_such_cue"
    assert await refused(waiting, "regenerate") == "nothing_drawn"
    assert (await ask(waiting, "rejoin"))["status"] == "waiting"
    assert (await ask(waiting, "go"))["status"] == "active"
    await waiting.play_to(2)
    assert waiting.playback.playhead.position(waiting.clock.now()) == pytest.approx(1)


async def test_regenerate_draws_another_set(opened: House) -> None:
    await ask(opened, "regenerate")
    await opened.rest()
    one, two = (await ask(opened, "asrun"))["rows"]
    assert one["action_id"] == two["action_id"] == "one"
    assert one["set_id"] != two["set_id"]
    assert "by hand" in one["why"]
    assert (await ask(opened, "asrun", limit=1))["rows"] == [one]


# ---------------------------------------------------------------- the screens, the state


async def test_screens_are_called_by_name(opened: House) -> None:
    (told,) = (await ask(opened, "screens"))["screens"]
    assert told["screen"] == "watcher"
    assert await ask(opened, "identify", screen="watcher") == {"screens": 1}
    assert await ask(opened, "reload", screen="watcher") == {"screens": 1}
    await opened.rest()
    assert [t.type for t in opened.told][-2:] == ["identify", "reload"]
    assert await refused(opened, "identify", screen="") == "unknown_screen"
    assert await refused(opened, "reload", screen="x" * 3000) == "unknown_screen"


async def test_the_state_tells_what_is_on_and_what_comes(opened: House) -> None:
    await opened.readiness.look()
    state = await ask(opened, "state")
    assert state["activation"] == "show"
    assert state["screening"]["status"] == "active"
    assert state["position"] == pytest.approx(3)
    assert state["position_text"] == "00:00:03"
    now = state["now"]
    assert (now["cue"], now["provider"], now["step"], now["steps"]) == ("one", "static", 2, 4)
    assert now["set_id"] in {0, 1}
    assert (state["standby"]["cue"], state["standby"]["ready"]) == ("two", True)
    assert [entry["index"] for entry in state["next_cues"]] == [2, 3, 4, 5]
    assert state["mode"]["effective"] == "static"
    assert state["coverage"]["with_sets"] == state["coverage"]["actions"] == 3
    assert state["health"]["level"] == "ok"
    assert state["screens"][0]["screen"] == "watcher"


async def test_a_show_without_sets_is_degraded_and_says_which(tmp_path: Path) -> None:
    rhythms = {"two": Rhythm(sets=0)}
    async with house(tmp_path, CUES, rhythm=RHYTHM, rhythms=rhythms, toml=LOOP) as opened:
        assert not opened.readiness.coverage()["faulty_sets"]
        assert opened.wrong_now("error")
        await opened.readiness.look()
        state = await ask(opened, "state")
        assert state["health"]["level"] == "degraded"
        assert "two" in state["health"]["reason"]
        assert state["coverage"]["without_sets"] == ["two"]


# ---------------------------------------------------------------- the log


async def test_every_command_is_logged_with_who_sent_it(opened: House) -> None:
    with capture_logs() as logs:
        await ask(opened, "pause")
        await refused(opened, "seek", time=-5)
        await ask(opened, "state")
    told = [entry for entry in logs if entry["event"] == "command"]
    assert [(t["command"], t["sender"], t["ok"]) for t in told] == [
        ("pause", "a test", True),
        ("seek", "a test", False),
    ]
    assert told[1]["code"] == "out_of_range"
    assert told[1]["args"] == {"time": -5}


# ---------------------------------------------------------------- once, and in time


def given(at: House, command: str, envelope: Envelope, *, name: str = "foh", **args: Any) -> Any:
    return at.dispatcher.dispatch(command, args, Caller("operator", name), envelope)


async def test_the_same_id_twice_takes_effect_once(opened: House) -> None:
    one = await given(opened, "next", Envelope(id="7"))
    two = await given(opened, "next", Envelope(id="7"))
    assert one == two
    assert opened.position_now() == pytest.approx(10)
    assert len(opened.log.entries) == 1


async def test_an_id_is_its_callers_own(opened: House) -> None:
    await given(opened, "next", Envelope(id="7"), name="left")
    await given(opened, "next", Envelope(id="7"), name="right")
    assert opened.position_now() == pytest.approx(20)


async def test_a_refusal_is_remembered_as_well(opened: House) -> None:
    for _ in range(2):
        with pytest.raises(CommandError) as error:
            await given(opened, "resume", Envelope(id="9"))
        assert error.value.code == "not_paused"
    await ask(opened, "pause")
    with pytest.raises(CommandError):  # it was answered before: what it is now does not matter
        await given(opened, "resume", Envelope(id="9"))


async def test_an_id_for_another_command_is_refused_and_does_nothing(opened: House) -> None:
    await given(opened, "seek", Envelope(id="1"), time=12)
    others: list[tuple[str, dict[str, Any]]] = [("pause", {}), ("seek", {"time": 13})]
    for command, args in others:
        with pytest.raises(CommandError) as error:
            await given(opened, command, Envelope(id="1"), **args)
        assert error.value.code == "id_reused"
    assert opened.position_now() == pytest.approx(12)


async def test_ids_are_forgotten_after_a_while_and_their_number_is_bounded(opened: House) -> None:
    await given(opened, "next", Envelope(id="7"))
    await opened.clock.advance(control.REMEMBERED + 1)
    await given(opened, "seek", Envelope(id="7"), time=1)  # as new
    for number in range(control._MOST_REMEMBERED + 100):
        with suppress(CommandError):
            await given(opened, "resume", Envelope(id=f"many {number}"))
    assert len(opened.dispatcher._once) <= control._MOST_REMEMBERED


async def test_twice_at_the_same_time_is_once(opened: House) -> None:
    group = Slow()
    dispatcher = Dispatcher([group], opened.clock)
    caller, envelope = Caller("operator", "foh"), Envelope(id="1")
    first = asyncio.create_task(dispatcher.dispatch("slow", {}, caller, envelope))
    second = asyncio.create_task(dispatcher.dispatch("slow", {}, caller, envelope))
    await settle()
    group.go_on.set()
    assert await first == await second == {"times": 1}


async def test_who_waits_for_a_caller_that_goes_away_is_told(opened: House) -> None:
    group = Slow()
    dispatcher = Dispatcher([group], opened.clock)
    caller, envelope = Caller("operator", "foh"), Envelope(id="1")
    first = asyncio.create_task(dispatcher.dispatch("slow", {}, caller, envelope))
    second = asyncio.create_task(dispatcher.dispatch("slow", {}, caller, envelope))
    await settle()
    first.cancel()
    with pytest.raises(CommandError) as error:
        await second
    assert error.value.code == "interrupted"


@pytest.mark.parametrize(
    ("ttl", "sent_before", "expired"),
    [
        (3.0, 0.0, False),
        (3.0, 2.9, False),
        (3.0, 3.0, True),
        (3.0, 60.0, True),
        (3.0, None, False),
        (0.0, None, True),
        (-1.0, None, True),
        (3.0, -50.0, False),  # a clock that is ahead
        (None, 900.0, False),
    ],
)
async def test_a_command_that_comes_after_its_time(
    opened: House, ttl: float | None, sent_before: float | None, expired: bool
) -> None:
    sent_at = None if sent_before is None else opened.clock.now() - sent_before
    envelope = Envelope(ttl=ttl, sent_at=sent_at)
    if expired:
        with pytest.raises(CommandError) as error:
            await given(opened, "pause", envelope)
        assert error.value.code == "expired"
    else:
        await given(opened, "pause", envelope)
    assert opened.playback.playhead.paused is not expired


async def test_a_command_that_breaks_is_told_and_logged(opened: House) -> None:
    dispatcher = Dispatcher([Slow(broken=True)], opened.clock)
    with capture_logs() as logs, pytest.raises(CommandError) as error:
        await dispatcher.dispatch("slow", {}, Caller("operator", "foh"))
    assert error.value.code == "internal"
    assert "secret" not in str(error.value)
    assert [entry["event"] for entry in logs] == ["command_failed", "command"]


async def test_the_log_of_commands_is_bounded_and_for_viewers_too(opened: House) -> None:
    await ask(opened, "pause")
    await refused(opened, "go", "viewer")
    await refused(opened, "nonsense", text="x" * 9000, nan=float("nan"), big=10**300)
    await ask(opened, "state")
    newest, viewers, first = (await ask(opened, "log", "viewer"))["commands"]
    assert (first["command"], first["ok"], first["sender"]) == ("pause", True, "a test")
    assert (viewers["command"], viewers["code"], viewers["role"]) == ("go", "forbidden", "viewer")
    assert newest["code"] == "unknown_command"
    assert len(json.dumps(newest, allow_nan=False)) < 2500
    assert (await ask(opened, "state"))["commands"][0] == newest
    for _ in range(300):
        await ask(opened, "pause")
    assert len((await ask(opened, "log", limit=200))["commands"]) == 200
    assert await refused(opened, "log", limit=201) == "bad_args"


class Slow:
    """A group with one command, which takes its time."""

    def __init__(self, *, broken: bool = False) -> None:
        self.go_on = asyncio.Event()
        self.times = 0
        self.broken = broken

    @declared("slow")
    async def slow(self) -> dict[str, Any]:
        if self.broken:
            raise ZeroDivisionError("a secret")
        self.times += 1
        await self.go_on.wait()
        return {"times": self.times}


# ---------------------------------------------------------------- hold, panic, restore


async def test_hold_stops_the_run_and_keeps_the_picture_until_the_next_cue(opened: House) -> None:
    before = opened.stage.on_the_wall()
    await ask(opened, "hold")
    await opened.play_to(9.5)
    (row,) = await opened.rows()
    assert row["outcome"] == "cut"
    assert before is not None
    assert opened.stage.on_the_wall() is before
    assert len(opened.of("hold")) == 1
    await opened.play_to(10.2)
    assert [name for _, name in opened.runs()] == ["one", "two"]
    await ask(opened, "hold")
    await ask(opened, "hold")  # nothing is drawn any more: the picture is kept


async def test_hold_ends_a_regeneration(tmp_path: Path) -> None:
    cues = [cue(0, "start"), prompt(0, "p", id="p", enter={"regen": True}), cue(300, "end")]
    async with house(tmp_path, cues, rhythm=RHYTHM) as one:
        await one.play_to(5)
        await ask(one, "hold")
        await one.play_to(120, step=5)
        assert [name for _, name in one.runs()] == ["p"]


async def test_panic_darkens_every_screen_and_no_cue_lights_it_again(opened: House) -> None:
    told = await ask(opened, "panic")
    assert told["panic"] is True
    await opened.rest()
    assert fades(opened)[-1] == (True, 1.0)
    (row,) = await opened.rows()
    assert row["outcome"] == "cut"
    count = len(opened.told)
    await opened.play_to(70)  # over two cues, the end, and the start of the next round
    later = [t for t in opened.told[count:] if t.type != "screening"]
    assert not later, "something was told in the dark"
    assert opened.stage.snapshot().fade is not None
    assert opened.stage.snapshot().fade.black  # type: ignore[union-attr]
    assert len(await opened.rows()) == 1
    state = await ask(opened, "state", "viewer")
    assert state["panic"]["by"] == "a test"
    assert state["wall"]["black"] is True
    assert state["health"]["level"] == "degraded"


async def test_in_the_dark_the_show_may_be_moved_but_not_fired(opened: House) -> None:
    await ask(opened, "panic")
    for command in ("go", "next", "previous", "regenerate", "hold"):
        assert await refused(opened, command) == "panicked"
    assert (await ask(opened, "seek", time=21))["position"] == pytest.approx(21)
    await ask(opened, "standby", cue="two")
    await ask(opened, "pause")
    await ask(opened, "resume")
    await opened.rest()
    assert opened.runs() == [(2.0, "one")]


async def test_restore_comes_back_where_the_show_is_now(opened: House) -> None:
    await ask(opened, "panic")
    await opened.play_to(11)
    assert (await ask(opened, "restore"))["panic"] is False
    await opened.play_to(11.1)
    assert [name for _, name in opened.runs()] == ["one", "two"]
    assert fades(opened)[-1] == (False, 1.0)
    wall, due = opened.stage.on_the_wall(), opened.opened_at + 10.5
    assert wall is not None
    assert (wall.header.cue, wall.header.present_at >= due) == ("two", True)
    # Behind the curtain first: what is new is hung before there is light.
    assert opened.of("fade")[-1].message["at"] > opened.opened_at + opened.of("run")[-1].at
    assert opened.playback.playhead.on_schedule
    assert await refused(opened, "restore") == "not_panicked"


async def test_restore_while_paused_and_between_screenings(waiting: House) -> None:
    await ask(waiting, "panic")
    await ask(waiting, "restore")
    await waiting.rest()
    assert fades(waiting) == [(True, 1.0), (False, 1.0)]
    assert waiting.runs() == []
    await ask(waiting, "go")
    await waiting.play_to(4)
    await ask(waiting, "pause")
    await ask(waiting, "panic")
    await waiting.play_to(30, step=1)
    told = await ask(waiting, "restore")
    assert (told["paused"], told["position"]) == (True, pytest.approx(3))
    await waiting.play_to(31)
    wall = waiting.stage.on_the_wall()
    assert wall is not None
    assert (wall.header.cue, wall.header.final) == ("one", True)


async def test_a_show_that_faded_to_black_itself_stays_so_after_restore(tmp_path: Path) -> None:
    cues = [cue(0, "start"), line(0, "one", id="one"), cue(5, "set-fade-status", fade=True)]
    async with house(tmp_path, [*cues, cue(60, "end")], rhythm=RHYTHM) as one:
        await one.play_to(3)
        await ask(one, "panic")
        await one.play_to(8)
        await ask(one, "restore")
        await one.rest()
        assert [black for black, _ in fades(one)][-1] is True


async def test_no_next_screening_lights_a_stage_that_is_panicked(tmp_path: Path) -> None:
    cues = [cue(0, "start"), line(0, "one", id="one"), cue(5, "set-fade-status", fade=True)]
    async with house(tmp_path, [*cues, cue(20, "end")], rhythm=RHYTHM) as one:
        await one.play_to(12)
        await ask(one, "panic")
        await one.play_to(22)  # the next round, which begins with light
        assert [black for black, _ in fades(one)] == [True, True]
        await ask(one, "restore")
        await one.rest()
        assert fades(one)[-1][0] is False


async def test_panic_twice_is_one(opened: House) -> None:
    await ask(opened, "panic")
    first = opened.playback.panicked
    await opened.play_to(4)
    await given(opened, "panic", Envelope(), name="another")
    assert opened.playback.panicked == first
    assert len(fades(opened)) == 1


async def test_a_panic_outlives_the_server(tmp_path: Path) -> None:
    kept: list[Panic | None] = []

    async def remember(panic: Panic | None) -> None:
        kept.append(panic)

    async with house(tmp_path, CUES, rhythm=RHYTHM, remember=remember) as one:
        await one.play_to(3)
        await ask(one, "panic")
    (panic,) = kept
    assert panic is not None
    async with house(tmp_path, CUES, rhythm=RHYTHM, remember=remember, panic=panic) as two:
        await two.play_to(25)
        assert two.of("run", "frame") == []
        welcome = two.of("welcome")[0].message
        assert welcome["snapshot"]["fade"]["black"] is True
        await ask(two, "restore")
        await two.play_to(25.2)
        assert [name for _, name in two.runs()] == ["prompt_002"]
    assert kept == [panic, None]


def fades(at: House) -> list[tuple[bool, float]]:
    return [(t.message["black"], t.message["seconds"]) for t in at.of("fade")]
