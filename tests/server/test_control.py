from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.access import Role
from server.control import Caller, CommandError
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
    for command in opened.dispatcher.commands:
        if command in opened.dispatcher.read_only:
            assert await ask(opened, command, "viewer")
        else:
            assert await refused(opened, command, "viewer") == "forbidden"
    assert opened.playback.playhead.on_schedule
    assert {"state", "screens", "asrun"} <= opened.dispatcher.read_only


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
        ("previous", {"x": None}),
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


@pytest.mark.parametrize(
    "reference", ["nobody", "", -1, 6, "6", "-1", 10**30, True, 1.0, [], {}, "two ", "²"]
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
        assert opened.readiness.problems()
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
