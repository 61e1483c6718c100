"""To a screen a replayed run and a live one are the same but for pictures and rhythm."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from server.core.clock import VirtualClock
from tests.helpers.engines import drawing, live, scripted
from tests.helpers.house import Told, house
from tests.helpers.shows import LOOP, Rhythm, cue, line, prompt

CUES = [
    cue(0, "start"),
    cue(0, "navigate", route="/desk"),
    line(2, "Somebody paints the sea.", id="sea"),
    cue(20, "navigate", route="/studio"),
    cue(21, "prompt", program="P2", prompt="a garden", guidance=40, id="garden"),
    cue(40, "move-slider", program="P2", value=75, id="slider"),
    prompt(60, "cut off by the next one", id="cut"),
    prompt(66, "ghost light", id="ghost", enter={"regen": True}),
    cue(130, "set-fade-status", fade=True),
    cue(140, "end"),
]
WORDS = ("static", "live", "gpu", "engine", "scripted", "seed", "set", "provider", "mode", "fail")
STEP = 0.7
PREVIEWS = 9
_RHYTHM = {"present_at", "at", "until", "server_time", "started_at", "next", "seed"}
"""Fields that say when; the seed is that of the rhythm in which is typed."""


async def told_in(folder: Path, mode: str) -> list[Told]:
    clock = VirtualClock()
    engine = live(scripted(clock, drawing("gpu", PREVIEWS), pause=STEP))
    async with house(
        folder,
        CUES,
        rhythm=Rhythm(previews=PREVIEWS, step=STEP),
        toml=LOOP + f'[playback]\nmode = "{mode}"\nfit = "recorded"\n',
        clock=clock,
        engines=[engine],
    ) as opened:
        await opened.play_to(139)
        rows = await opened.rows()
        assert {row["provider"] for row in rows} == {mode}
        assert [row["outcome"] for row in rows][3] == "cut"
        return opened.told


def shape(value: Any) -> Any:
    """A message without its times: every name, every kind of value, every word."""
    if isinstance(value, dict):
        return {
            name: type(inner).__name__ if name in _RHYTHM else shape(inner)
            for name, inner in value.items()
        }
    return [shape(inner) for inner in value] if isinstance(value, list) else value


def whole_runs(told: list[Told]) -> list[Any]:
    """Every message in order, apart from what of the run that was cut came in time."""
    runs = {t.message["run"] for t in told if t.type == "run" and t.message["cue"] == "cut"}
    return [
        shape(item.message)
        for item in told
        if not (item.type == "frame" and item.message["run"] in runs)
    ]


def by_run(told: list[Told]) -> dict[str, list[Any]]:
    """For each run its own messages in order; the scenery apart, in order too."""
    sorted_out: dict[str, list[Any]] = {"": []}
    for message in whole_runs(told):
        sorted_out.setdefault(message.get("run") or "", []).append(message)
    return sorted_out


async def test_messages_differ_in_nothing_but_pictures_and_rhythm(tmp_path: Path) -> None:
    static = await told_in(tmp_path / "static", "static")
    drawn = await told_in(tmp_path / "live", "live")
    assert by_run(static) == by_run(drawn)
    # And of the run that was cut off, as far as it went:
    for told in (static, drawn):
        run = next(t.message for t in told if t.type == "run" and t.message["cue"] == "cut")
        frames = [t.message for t in told if t.type == "frame" and t.message["run"] == run["run"]]
        assert run["steps"] == PREVIEWS + 1
        assert [frame["step"] for frame in frames] == list(range(1, len(frames) + 1))
        assert {frame["steps"] for frame in frames} == {PREVIEWS + 1}


async def test_nothing_on_the_wire_names_where_a_picture_comes_from(tmp_path: Path) -> None:
    for mode in ("static", "live"):
        for item in await told_in(tmp_path / mode, mode):
            if item.type in {"run", "frame", "run_end"}:
                text = str(item.message).lower()
                assert not [word for word in WORDS if word in text], item


async def test_present_times_of_a_replay_follow_what_was_recorded(tmp_path: Path) -> None:
    told = await told_in(tmp_path, "static")
    run = next(t.message for t in told if t.type == "run")["run"]
    due = [t.message["present_at"] for t in told if t.type == "frame" and t.message["run"] == run]
    steps = [round(after - before, 6) for before, after in itertools.pairwise(due)]
    assert steps == [STEP] * PREVIEWS
