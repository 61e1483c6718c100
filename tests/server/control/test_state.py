"""The state, byte for byte, over several moments of a show."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from cache.encoding import json_text
from server.control.command import Caller
from server.control.contract import CueState, State
from server.core.clock import VirtualClock
from server.providers.base import NotThere
from server.providers.static import Fault
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import Far, House, house
from tests.helpers.jsdoc import TYPES_JS, types_js
from tests.helpers.screens import web
from tests.helpers.servers import serving
from tests.helpers.shows import LOOP, MANUAL, Rhythm, cue, line, make_show, prompt
from tests.helpers.technicians import technician

GOLDEN = Path(__file__).with_name("golden_states.jsonl")
CUES = [
    cue(0, "start"),
    line(2, "one", id="one"),
    line(5, "spoken", generate=False, id="spoken"),
    prompt(10, "two", id="two", mode="live"),
    cue(15, "navigate", route="/sea"),
    cue(17, "move-slider", program="P2", value=40),
    cue(18, "set-fade-status", fade=True),
    prompt(30, "three", enter={"regen": True}),
    cue(60, "end"),
]
RHYTHM = Rhythm(previews=3, step=0.5)


async def told(at: House) -> str:
    if at.supply.cache is None:  # else the line takes its time, which nobody moves on
        await at.readiness.look()
    state = at.view.state()
    state["coverage"]["supply"] = None  # it counts how the cache works
    return json_text({**state, "all": (await ask(at, "cues"))["cues"]}, place="a golden state")


async def ask(at: House, command: str, **args: Any) -> dict[str, Any]:
    return await at.dispatcher.dispatch(command, args, Caller("operator", "foh"))


async def moments(folder: Path) -> list[str]:
    """The state before, in and after a show that much happens to."""
    found = []
    clock = VirtualClock()
    engine = live(scripted(clock, drawing("gpu", 8), pause=0.4), "gpu")
    async with house(
        folder / "near", CUES, rhythm=RHYTHM, toml=MANUAL, clock=clock, engines=[engine]
    ) as one:
        found.append(await told(one))
        await ask(one, "go")
        await one.play_to(4)
        found.append(await told(one))
        await ask(one, "mode.force", mode="static", until=600, reason="noisy")
        await ask(one, "mode.force", mode="live", cue="two", until="next_cue")
        await one.play_to(12)
        found.append(await told(one))
        await ask(one, "pause")
        await ask(one, "panic")
        await one.play_to(20)
        found.append(await told(one))
        await ask(one, "restore")
        await ask(one, "seek", time=29.5)
        await one.play_to(80, step=1)
        found.append(await told(one))
    far = Far(latency=0.05, bytes_per_second=20_000)
    rhythms = {"two": Rhythm(sets=0)}
    async with house(folder / "far", CUES, rhythm=RHYTHM, rhythms=rhythms, far=far) as two:
        await two.play_to(3)
        found.append(await told(two))
    return found


async def test_the_state_is_what_it_was_byte_for_byte(tmp_path: Path) -> None:
    golden = GOLDEN.read_text("utf-8").splitlines()
    found = await moments(tmp_path)
    for moment, (text, before) in enumerate(zip(found, golden, strict=True)):
        assert json.loads(text) == json.loads(before), moment
        assert text == before, moment


async def test_what_a_server_tells_is_what_its_types_promise(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=LOOP)
    async with serving(tiny.load()) as address, technician(address) as foh, web(address) as client:
        await foh.until(lambda me: me.state["preflight"]["verdict"] is not None)
        await foh.ask("rehearse", screenings=1)
        await foh.until(lambda me: me.state["rehearsal"]["status"] == "done", within=60)
        assert_promised(foh.state, State, "state")
        assert_promised((await client.get("/api/cues")).json()["cues"], list[CueState], "cues")


def assert_promised(value: Any, hint: Any, place: str) -> None:
    """It has every field of its type, and none that its type has not."""
    inner = get_args(hint)
    if is_typeddict(hint):
        assert hint.__required_keys__ <= value.keys(), place
        hints = get_type_hints(hint)
        for name, field in value.items():
            assert_promised(field, hints[name], f"{place}.{name}")
    elif get_origin(hint) is list:
        for index, each in enumerate(value):
            assert_promised(each, inner[0], f"{place}[{index}]")
    elif get_origin(hint) is Literal:
        assert value in inner, place
    elif get_origin(hint) in {Union, UnionType}:
        if value is not None or type(None) not in inner:
            (kind,) = (each for each in inner if each is not type(None))
            assert_promised(value, kind, place)
    elif hint is float:
        assert type(value) in {int, float}, place
    else:
        assert isinstance(value, get_origin(hint) or hint), place


def test_the_technicians_page_has_the_types_of_the_state() -> None:
    text = TYPES_JS.read_text("utf-8")
    assert text == types_js(), "python -m tests.helpers.jsdoc writes them anew"


async def test_cues_are_described_anew_when_something_has_changed(tmp_path: Path) -> None:
    engine = live(scripted(clock := VirtualClock(), drawing("gpu", 8), pause=0.4), "gpu")
    async with house(
        tmp_path, CUES, rhythm=RHYTHM, toml=MANUAL, clock=clock, engines=[engine]
    ) as one:
        before = one.view.cues()
        await one.play_to(1)
        assert one.view.cues() is before
        for change in ("go", "mode.force", "mode.release", "pause"):
            await ask(one, change, **({"mode": "live"} if change == "mode.force" else {}))
            await one.play_to(one.position + 1)
            before = one.view.cues()
            assert before.cues == [one.view.cue(index) for index in range(len(CUES))]
        one.modes.not_there("gpu", NotThere("it is gone"))
        assert one.view.cues() is not before


async def test_cues_that_somebody_has_are_not_sent_again(tmp_path: Path) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL)
    async with serving(tiny.load()) as address, web(address) as client:
        while not (await client.get("/readyz")).json()["ready"]:  # noqa: ASYNC110 - it looks
            await asyncio.sleep(0.05)
        first = await client.get("/api/cues")
        known = {"if-none-match": first.headers["etag"]}
        assert (await client.get("/api/cues", headers=known)).status_code == 304
        await client.post("/api/control/go")
        assert (await client.get("/api/cues", headers=known)).status_code == 200


async def test_the_sets_are_looked_through_once_until_something_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=MANUAL) as one:
        looked: list[str] = []
        usable = one.static.usable

        def counted(action_id: str) -> tuple[int, ...]:
            looked.append(action_id)
            return usable(action_id)

        monkeypatch.setattr(one.static, "usable", counted)
        one.view.state()
        looked.clear()
        assert one.view.state()["coverage"]["with_sets"] == len(one.actions)
        assert looked == []
        for number in usable("one"):
            one.static._report("one", number, Fault("a test broke it", "flat"))
        assert one.view.state()["coverage"]["without_sets"] == ["one"]
        assert looked == [action.action_id for action in one.actions]
