"""The state, byte for byte, over several moments of a show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cache.encoding import json_text
from server.clock import VirtualClock
from server.control.command import Caller
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import Far, House, house
from tests.helpers.shows import MANUAL, Rhythm, cue, line, prompt

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
    state["coverage"] = {**state["coverage"], "supply": None}  # it counts how the cache works
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
