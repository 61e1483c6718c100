"""Rungs that fail in every way there is, and what the wall shows meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from generator.engines.port import DrawingFailed, EngineUnavailable, RecipeRefused, ScriptedEngine
from server.core.clock import VirtualClock
from tests.helpers.engines import PREVIEWS, drawing, flat, live, scripted, spoilt
from tests.helpers.house import House, Told, house
from tests.helpers.pictures import picture
from tests.helpers.shows import LOOP, Rhythm, cue, prompt

STEP = 0.5
"""Seconds a step of the engines here."""
GAP = 5.0
LEAD = 0.5
SETS = Rhythm(previews=PREVIEWS, step=0.4)
CUES = [prompt(0, "before", id="before"), prompt(20, "one", id="one", mode="live")]
SHOW = [*CUES, prompt(90, "after", id="after"), cue(120, "end")]
GONE = EngineUnavailable("connection reset")

Make = Callable[[VirtualClock], ScriptedEngine]


def toml(failover: str = "continue", **more: Any) -> str:
    lines = [f'failover = "{failover}"', *(f"{key} = {value}" for key, value in more.items())]
    return LOOP + "[playback]\n" + "\n".join(lines) + "\n"


@dataclass
class Seen:
    """What a screen was told of one run, and what it knows of the pictures."""

    run: dict[str, Any]
    frames: list[Told]
    row: dict[str, Any]
    holds: list[Told]
    end: str | None

    @property
    def steps(self) -> list[int]:
        return [frame.message["step"] for frame in self.frames]

    @property
    def shares(self) -> list[float]:
        return [frame.message["step"] / frame.message["steps"] for frame in self.frames]

    @property
    def dues(self) -> list[float]:
        return [frame.message["present_at"] for frame in self.frames]

    def sources(self) -> list[tuple[str, int]]:
        """Of each frame what it was drawn by, and which step of that drawing it is."""
        known = {
            picture(f"{name}/{step}"): (name, step)
            for name in ("gpu", "other", "one/0", "one/1")
            for step in range(1, PREVIEWS + 2)
        }
        return [known[frame.image or b""] for frame in self.frames]


async def seen(opened: House, action: str = "one") -> Seen:
    run = next(told.message for told in opened.of("run") if told.message["cue"] == action)
    rows = [row for row in await opened.rows() if row["action_id"] == action]
    ends = [t.message for t in opened.of("run_end") if t.message["run"] == run["run"]]
    return Seen(
        run=run,
        frames=opened.frames_of(run["run"]),
        row=rows[0],
        holds=opened.of("hold"),
        end=ends[0]["outcome"] if ends else None,
    )


def check_wire(run: Seen) -> None:
    """What every screen may rely on, whatever happened."""
    assert run.steps == sorted(set(run.steps)), "every number once, ascending"
    assert run.dues == sorted(run.dues), "no frame before the one before"
    assert [frame.message["final"] for frame in run.frames[:-1]] == [False] * len(run.frames[:-1])
    assert run.shares == sorted(run.shares), "the share that is done never falls"
    planned = run.row["planned"]
    told = {str(frame.message["step"]): frame.message["present_at"] for frame in run.frames}
    assert {step: planned[step] for step in told} == pytest.approx(told), "and is written down"
    assert all(0 < share <= 1 for share in run.shares)
    if run.frames and run.frames[-1].message["final"]:
        assert run.shares[-1] == 1.0


def check_whole(run: Seen, *, longest: float = GAP + STEP) -> None:
    """It came to its final image, and the wall never stood still for longer than it may."""
    check_wire(run)
    assert run.steps[0] == 1, "it begins at its beginning"
    assert run.frames[-1].message["final"]
    assert run.end == "completed"
    assert run.holds == []
    gaps = [later - earlier for earlier, later in itertools.pairwise(run.dues)]
    assert max(gaps, default=0.0) <= longest + 0.02


def check_forward(run: Seen) -> None:
    """The picture itself never goes back: each frame is further in its drawing than the last."""
    progress = [step / (PREVIEWS + 1) for _, step in run.sources()]
    assert progress == sorted(progress)


async def play(
    folder: Path,
    *makes: Make,
    failover: str = "continue",
    until: float = 60.0,
    rhythms: dict[str, Rhythm] | None = None,
    store: bool = True,
    names: tuple[str, ...] = ("gpu", "other"),
) -> Seen:
    clock = VirtualClock()
    engines = [
        live(make(clock), name, local=name == "other")
        for make, name in zip(makes, names, strict=False)
    ]
    async with house(
        folder,
        SHOW,
        rhythm=SETS,
        rhythms=rhythms,
        toml=toml(failover),
        clock=clock,
        engines=engines,
    ) as opened:
        await opened.play_to(19, step=1.0)
        if not store:
            opened.store.answering.clear()
        await opened.play_to(until, step=0.5)
        for engine in engines:
            script = engine.engine
            assert isinstance(script, ScriptedEngine)
            assert len(script.left) == len(script.asked), "every drawing was left again"
        told = await seen(opened) if opened.of("run")[1:] else None
        opened.store.answering.set()
        await opened.play_to(max(until, 91), step=0.5)
        assert opened.runs()[-1][1] == "after", "the show goes on"
        assert told is not None
        return told


def dies_after(step: int, name: str = "gpu") -> Make:
    return lambda clock: scripted(clock, drawing(name)[:step], GONE)


def sound(name: str = "gpu") -> Make:
    return lambda clock: scripted(clock, drawing(name))


FAULTS: dict[str, Make] = {
    "hung from the start": lambda clock: scripted(clock, [], hangs=True),
    "hung at 7": lambda clock: scripted(clock, drawing("gpu")[:7], hangs=True),
    "hung at 20": lambda clock: scripted(clock, drawing("gpu")[:20], hangs=True),
    "cold for 60 s": lambda clock: scripted(clock, drawing("gpu"), first=60.0),
    "black from the start": lambda clock: scripted(clock, spoilt(drawing("gpu"), flat())),
    "black from 9": lambda clock: scripted(clock, spoilt(drawing("gpu"), flat(), 9)),
    "black at the end": lambda clock: scripted(clock, spoilt(drawing("gpu"), flat(), 21)),
    "grey from 4": lambda clock: scripted(clock, spoilt(drawing("gpu"), flat((127, 127, 127)), 4)),
    "garbage": lambda clock: scripted(clock, spoilt(drawing("gpu"), b"\x00" * 5000)),
    "garbage from 12": lambda clock: scripted(clock, spoilt(drawing("gpu"), b"<html>", 12)),
    "cut short": lambda clock: scripted(clock, spoilt(drawing("gpu"), picture("x")[:800], 6)),
    "closing early": lambda clock: scripted(clock, drawing("gpu")[:3]),
    "nothing at all": lambda clock: scripted(clock, []),
    "failing at once": lambda clock: scripted(clock, [], DrawingFailed("out of memory"), pause=0),
    "refusing": lambda clock: scripted(clock, [], RecipeRefused("no such model"), pause=0),
}


# ---------------------------------------------------------------- killed at every step


@pytest.mark.parametrize("failover", ["continue", "restart"])
@pytest.mark.parametrize("step", range(PREVIEWS + 1))
async def test_killed_at_any_step_a_set_takes_over(
    tmp_path: Path, step: int, failover: str
) -> None:
    run = await play(tmp_path, dies_after(step), failover=failover)
    check_whole(run)
    if failover == "continue":
        check_forward(run)
    assert [name for name, _ in run.sources()][:step] == ["gpu"] * step
    assert {name for name, _ in run.sources()[step:]} < {"one/0", "one/1"}
    row = run.row
    assert (row["outcome"], row["mode"]) == ("failed over", "live")
    (setback,) = row["failovers"]
    told = (setback["from"], setback["to"], setback["step"], setback["reason"])
    assert told == ("live gpu", "static", step, "connection reset")
    assert setback["set_id"] in {0, 1}
    assert setback["set_hash"].startswith("sha256:")
    if step:
        assert (row["provider"], row["engine"]) == ("live", "gpu: scripted 1")
        assert row["seed"] is not None
        assert row["set_id"] is None
    else:
        assert (row["provider"], row["set_id"]) == ("static", setback["set_id"])


@pytest.mark.parametrize("step", range(1, PREVIEWS + 1))
async def test_killed_at_any_step_hold_keeps_the_picture(tmp_path: Path, step: int) -> None:
    run = await play(tmp_path, dies_after(step), failover="hold")
    check_wire(run)
    assert len(run.frames) == step
    assert run.end == "held"
    assert len(run.holds) == 1
    assert run.row["outcome"] == "held"
    assert [(f["to"], f["step"]) for f in run.row["failovers"]] == [("hold", step)]


async def test_a_cue_may_ask_for_another_failover_than_the_show(tmp_path: Path) -> None:
    clock = VirtualClock()
    engine = live(scripted(clock, drawing("gpu")[:7], GONE))
    cues = [prompt(5, "one", id="one", mode="live", failover="hold"), cue(60, "end")]
    async with house(
        tmp_path, cues, rhythm=SETS, toml=toml("continue"), clock=clock, engines=[engine]
    ) as opened:
        await opened.play_to(30)
        run = await seen(opened)
        assert (run.end, len(run.frames)) == ("held", 7)


async def test_before_the_first_frame_there_is_nothing_to_hold(tmp_path: Path) -> None:
    run = await play(tmp_path, dies_after(0), failover="hold")
    check_whole(run)


@pytest.mark.parametrize("step", range(PREVIEWS + 1))
async def test_killed_with_the_store_down_another_engine_takes_over(
    tmp_path: Path, step: int
) -> None:
    run = await play(tmp_path, dies_after(step), sound("other"), store=False)
    check_wire(run)
    check_forward(run)
    assert run.end == "completed"
    assert run.row["outcome"] == "failed over"
    assert run.sources()[-1] == ("other", PREVIEWS + 1)


@pytest.mark.parametrize("step", [0, 1, 10, 20])
async def test_killed_with_nothing_below_the_picture_is_held(tmp_path: Path, step: int) -> None:
    clock = VirtualClock()
    engine = live(scripted(clock, drawing("gpu")[:step], GONE))
    async with house(
        tmp_path, SHOW, rhythm=SETS, toml=toml(), clock=clock, engines=[engine]
    ) as opened:
        await opened.play_to(19)
        opened.store.answering.clear()
        await opened.play_to(60)
        row = next(r for r in await opened.rows() if r["action_id"] == "one")
        assert row["outcome"] == "held"
        assert [(f["from"], f["to"]) for f in row["failovers"]] == [
            ("live gpu", "static"),
            ("static", "hold"),
        ]
        assert len(opened.of("hold")) == 1
        snapshot = opened.stage.snapshot()
        kept = snapshot.frame or snapshot.picture
        assert kept is not None
        assert (kept.cue, kept.step) == (("one", step) if step else ("before", PREVIEWS + 1))
        opened.store.answering.set()
        await opened.play_to(105)
        assert opened.runs()[-1] == (90.0, "after")


# ---------------------------------------------------------------- every other way to fail


@pytest.mark.parametrize("failover", ["continue", "restart"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_an_engine_does_a_set_takes_over(
    tmp_path: Path, fault: str, failover: str
) -> None:
    run = await play(tmp_path, FAULTS[fault], failover=failover)
    check_whole(run)
    if failover == "continue":
        check_forward(run)
    assert run.row["outcome"] == "failed over"
    assert [f["from"] for f in run.row["failovers"]] == ["live gpu"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_an_engine_does_with_the_store_down_the_next_one_takes_over(
    tmp_path: Path, fault: str
) -> None:
    run = await play(tmp_path, FAULTS[fault], sound("other"), store=False)
    check_wire(run)
    check_forward(run)
    assert run.end == "completed"
    assert run.sources()[-1] == ("other", PREVIEWS + 1)


async def test_a_slow_engine_is_no_failing_one(tmp_path: Path) -> None:
    run = await play(tmp_path, lambda clock: scripted(clock, drawing("gpu", 5), pause=4.5))
    check_whole(run)
    assert run.row["outcome"] == "completed"
    assert run.row["failovers"] == []


async def test_an_engine_slower_than_the_gap_is_given_up(tmp_path: Path) -> None:
    run = await play(tmp_path, lambda clock: scripted(clock, drawing("gpu"), pause=5.5))
    check_whole(run)
    assert run.row["failovers"][0]["reason"] == "no further frame in time"


async def test_one_bad_preview_is_passed_over(tmp_path: Path) -> None:
    images = drawing("gpu")
    images[6:8] = spoilt(images[6:8], flat())
    run = await play(tmp_path, lambda clock: scripted(clock, images))
    check_whole(run)
    assert run.row["outcome"] == "completed"
    assert 7 not in run.steps


async def test_three_of_twenty_steps_and_then_the_final_image_is_a_picture(tmp_path: Path) -> None:
    images = drawing("gpu")
    run = await play(tmp_path, lambda clock: scripted(clock, [*images[:3], images[-1]]))
    check_whole(run)
    assert run.row["outcome"] == "completed"
    assert run.shares[-1] == 1.0


async def test_no_engine_is_waited_for_where_the_wall_has_waited_already(tmp_path: Path) -> None:
    """Hung in the middle: a second engine could only catch up unseen, and a set is at hand."""
    run = await play(tmp_path, FAULTS["hung at 7"], sound("other"))
    check_whole(run)
    check_forward(run)
    assert {name for name, _ in run.sources()} <= {"gpu", "one/0", "one/1"}
    one, other = run.row["failovers"]
    assert (one["from"], one["to"]) == ("live gpu", "live other")
    assert (other["from"], other["to"]) == ("live other", "static")
    assert "waited" in other["reason"]


async def test_an_engine_that_catches_up_in_time_takes_over_unseen(tmp_path: Path) -> None:
    fast = drawing("other")
    run = await play(
        tmp_path, dies_after(10), lambda clock: scripted(clock, fast, pause=0.2), until=70
    )
    check_whole(run)
    check_forward(run)
    assert run.sources()[9:12] == [("gpu", 10), ("other", 11), ("other", 12)]
    assert run.row["outcome"] == "failed over"


async def test_an_engine_that_does_not_catch_up_in_time_gives_way_to_a_set(tmp_path: Path) -> None:
    run = await play(tmp_path, dies_after(15), sound("other"))
    check_whole(run)
    check_forward(run)
    assert "other" not in {name for name, _ in run.sources()}
    assert run.row["failovers"][1]["reason"] == "it could not catch up in time"


# ---------------------------------------------------------------- what comes after still fits


async def test_what_takes_over_is_squeezed_in_before_the_next_cue(tmp_path: Path) -> None:
    clock = VirtualClock()
    cues = [prompt(0, "one", id="one", mode="live"), prompt(16, "two", id="two"), cue(60, "end")]
    engine = live(scripted(clock, drawing("gpu")[:6], hangs=True))
    async with house(
        tmp_path,
        cues,
        rhythm=Rhythm(previews=20, step=1.0),
        toml=toml(),
        clock=clock,
        engines=[engine],
    ) as opened:
        await opened.play_to(20)
        run = await seen(opened)
        check_whole(run)
        assert opened.due(run.frames[-1]) < 14
        assert opened.runs()[1] == (16.0, "two")


async def test_a_cold_engine_leaves_a_set_its_time(tmp_path: Path) -> None:
    clock = VirtualClock()
    cues = [prompt(0, "one", id="one", mode="live"), prompt(10, "two", id="two"), cue(60, "end")]
    engine = live(scripted(clock, [], hangs=True))
    async with house(
        tmp_path, cues, rhythm=SETS, toml=toml(), clock=clock, engines=[engine]
    ) as opened:
        await opened.play_to(9.9)
        run = await seen(opened)
        check_whole(run)
        assert opened.due(run.frames[0]) < 5
        assert opened.due(run.frames[-1]) < 8


async def test_a_new_cue_ends_a_live_run_at_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    cues = [prompt(0, "one", id="one", mode="live"), prompt(4, "two", id="two"), cue(60, "end")]
    script = scripted(clock, drawing("gpu"))
    async with house(
        tmp_path, cues, rhythm=SETS, toml=toml(), clock=clock, engines=[live(script)]
    ) as opened:
        await opened.play_to(4)
        await opened.rest()
        assert script.left == script.asked
        ends = [t.message["outcome"] for t in opened.of("run_end")]
        assert ends == ["cut"]
        assert opened.runs() == [(0.5, "one"), (4.0, "two")]
        rows = await opened.rows()
        assert (rows[0]["outcome"], rows[0]["provider"]) == ("cut", "live")


async def test_cut_before_its_first_frame_it_is_written_down(tmp_path: Path) -> None:
    clock = VirtualClock()
    cues = [prompt(0, "one", id="one", mode="live"), prompt(4, "two", id="two"), cue(60, "end")]
    engine = live(scripted(clock, [], hangs=True))
    async with house(
        tmp_path,
        cues,
        rhythm=SETS,
        rhythms={"one": Rhythm(sets=0)},
        toml=toml(),
        clock=clock,
        engines=[engine],
    ) as opened:
        await opened.play_to(6)
        row = (await opened.rows())[0]
        assert (row["action_id"], row["outcome"], row["provider"]) == ("one", "cut", "live")
        assert opened.runs() == [(4.0, "two")]


# ---------------------------------------------------------------- counts that differ


@pytest.mark.parametrize("previews", [1, 3, 5, 21, 39, 60])
@pytest.mark.parametrize("step", [1, 7, 19])
async def test_a_set_with_another_number_of_steps_takes_over(
    tmp_path: Path, previews: int, step: int
) -> None:
    rhythms = {"one": Rhythm(previews=previews, step=8.0 / previews)}
    run = await play(tmp_path, dies_after(step), rhythms=rhythms)
    check_wire(run)
    assert run.end == "completed"
    labels = {
        picture(f"one/{number}/{k}"): k / (previews + 1)
        for number in (0, 1)
        for k in range(1, previews + 2)
    }
    taken_over = [labels[frame.image or b""] for frame in run.frames[step:]]
    assert taken_over == sorted(taken_over)
    assert taken_over[0] > step / (PREVIEWS + 1)
    if previews > 2:
        assert len(taken_over) == sum(
            share > step / (PREVIEWS + 1)
            for share in {k / (previews + 1) for k in range(1, previews + 2)}
        )


async def test_an_engine_that_makes_more_than_it_said_is_believed(tmp_path: Path) -> None:
    said = [replace(one, steps=one.step if one.final else 10) for one in drawing("gpu")]
    run = await play(tmp_path, lambda clock: scripted(clock, said))
    check_whole(run)
    assert len(run.frames) == PREVIEWS + 1
