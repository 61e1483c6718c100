from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache.model.keys import image_key
from cache.stores.port import StoreUnavailable
from server.core.clock import VirtualClock
from server.performance.performer import pause_after
from server.performance.playback import LOOK_IN
from server.stage import stage
from server.timeline.playhead import PlayheadError
from tests.helpers.house import House, Told, house
from tests.helpers.shows import LOOP, MANUAL, Rhythm, cue, line, prompt

RHYTHM = Rhythm(previews=4, step=0.5)

DEMO = [
    cue(0, "start"),
    cue(0, "navigate", route="/wings"),
    cue(0, "set-fade-status", fade=False),
    line(
        2,
        "Somebody paints the sea.",
        when=[2.35, 5.0],
        words=[
            {"word": " Somebody", "start": 2.35, "end": 3.0},
            {"word": " paints", "start": 3.1, "end": 4.0},
        ],
    ),
    line(8, "Nobody is here yet.", generate=False, when=[8.0, 10.0]),
    cue(12, "next"),
    cue(14, "navigate", route="/studio"),
    cue(15, "prompt", program="P2", prompt="a garden", guidance=40),
    cue(20, "move-slider", program="P2", value=75),
    cue(25, "reconnect"),
    cue(26, "navigate", route="/desk"),
    cue(
        27,
        "prompt",
        program="P3B",
        prompt="erased",
        commit=False,
        delay={"base": 60, "variance": 25},
    ),
    prompt(32, "ghost light", override="a lamp on a stage", id="ghost"),
    cue(40, "set-fade-status", fade=True),
    cue(45, "end"),
]


def brief(told: Sequence[Told]) -> list[tuple[float, str]]:
    return [(round(item.at, 3), item.type) for item in told]


def only(told: Sequence[Told]) -> dict[str, Any]:
    (item,) = told
    return item.message


# ---------------------------------------------------------------- a show from start to end


async def test_every_kind_of_cue_is_told_at_its_time(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM, toml=LOOP + "gap = 30\n") as opened:
        start = opened.opened_at
        await opened.play_to(50)
        scenery = opened.of(
            "screening", "scene", "fade", "caption", "typing", "slider", "run", "hold"
        )
        assert [item for item in brief(scenery) if item[0] < 45] == [
            (0.0, "screening"),
            (0.0, "scene"),
            (0.0, "fade"),
            (2.0, "caption"),
            (2.0, "run"),
            (8.0, "caption"),
            (14.0, "scene"),
            (15.0, "typing"),
            (15.0, "slider"),
            (15.0, "run"),
            (20.0, "slider"),
            (20.0, "run"),
            (26.0, "scene"),
            (27.0, "typing"),
            (32.0, "typing"),
            (32.0, "run"),
            (40.0, "fade"),
        ]
        assert opened.of("screening")[0].message == {
            "type": "screening",
            "status": "active",
            "next": None,
            "next_local": None,
            "started_at": start,
        }
        assert [t.message["route"] for t in opened.of("scene")] == ["/wings", "/studio", "/desk"]

        spoken = opened.of("caption")[0].message
        assert spoken["text"] == "Somebody paints the sea."
        assert spoken["at"] == start + 2
        assert spoken["words"][1] == {"word": " paints", "start": start + 3.1, "end": start + 4.0}
        assert spoken["until"] >= start + 5.0

        garden, erased, ghost = (t.message for t in opened.of("typing"))
        assert (garden["text"], garden["erase"], garden["at"]) == ("a garden", False, start + 15)
        assert garden["delay"] == {"base": 0.1, "variance": 0.04}
        assert (erased["text"], erased["erase"]) == ("erased", True)
        assert erased["delay"] == {"base": 0.06, "variance": 0.025}
        assert ghost["text"] == "ghost light", "the override is drawn, not displayed"

        first, second = (t.message for t in opened.of("slider"))
        assert (first["from"], first["to"]) == (60.0, 40.0)
        assert (second["from"], second["to"], second["at"]) == (40.0, 75.0, start + 20)
        assert [t.message["black"] for t in opened.of("fade")][:2] == [False, True]
        assert opened.of("fade")[1].message["at"] == start + 40

        assert opened.runs() == [
            (2.0, "transcript_001"),
            (15.0, "prompt_001"),
            (20.0, "slider_001"),
            (32.0, "ghost"),
        ]
        ended = [t for t in opened.of("screening") if t.message["status"] == "waiting"]
        assert brief(ended) == [(45.0, "screening")]
        assert ended[0].message["next"] == pytest.approx(start + 75)
        assert ended[0].message["next_local"] == "2023-11-14T22:14:35+00:00"
        await opened.play_to(76)
        assert opened.of("screening")[-1].message["status"] == "active"


async def test_every_frame_is_sent_well_before_its_time(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        await opened.play_to(44)
        for run in opened.of("run"):
            frames = opened.frames_of(run.message["run"])
            assert [f.message["step"] for f in frames] == [1, 2, 3, 4, 5]
            for k, frame in enumerate(frames, start=1):
                assert opened.due(frame) == pytest.approx(run.at + 0.5 * k)
                assert frame.at < opened.due(frame)
            # The whole run goes out ahead: it can end without the server.
            assert frames[-1].at - run.at <= 1.0
        rows = await opened.rows()
        assert [(row["action_id"], row["outcome"], row["provider"]) for row in rows] == [
            ("transcript_001", "completed", "static"),
            ("prompt_001", "completed", "static"),
            ("slider_001", "completed", "static"),
            ("ghost", "completed", "static"),
        ]
        assert rows[3]["drawn_prompt"].startswith("a lamp on a stage")
        assert rows[3]["position"] == 32
        assert rows[3]["cue"]["prompt"] == "ghost light"
        assert rows[3]["planned"] == {
            str(k): pytest.approx(opened.opened_at + 32 + 0.5 * k) for k in range(1, 6)
        }
        ends = {t.message["run"]: t for t in opened.of("run_end")}
        assert {t.message["outcome"] for t in ends.values()} == {"completed"}


async def test_a_new_cue_cuts_the_run_before_it_at_once(tmp_path: Path) -> None:
    cues = [prompt(0, "slow", id="slow"), prompt(5, "next", id="next"), cue(60, "end")]
    toml = LOOP + '[playback]\nfit = "recorded"\n'
    async with house(tmp_path, cues, rhythm=Rhythm(previews=19, step=0.5), toml=toml) as opened:
        await opened.play_to(5.25)
        slow, new = (t.message["run"] for t in opened.of("run"))
        after = [t for t in opened.told if t.message.get("run") in {slow, new}]
        kinds = [(t.type, t.message["run"]) for t in after]
        assert kinds.index(("run_end", slow)) == kinds.index(("run", new)) - 1
        assert all(run == new for _, run in kinds[kinds.index(("run", new)) :])
        end = only([t for t in opened.of("run_end") if t.message["run"] == slow])
        assert end["outcome"] == "cut"
        assert opened.of("run_end")[0].at == 5.0
        rows = await opened.rows()
        assert rows[0]["outcome"] == "cut"
        assert rows[0]["ended_at"] == pytest.approx(opened.opened_at + 5)


async def test_squeezed_so_that_the_final_is_seen_before_the_next_cue(tmp_path: Path) -> None:
    cues = [prompt(0, "long", id="long"), prompt(8, "next", id="next"), cue(60, "end")]
    async with house(tmp_path, cues, rhythm=Rhythm(previews=19, step=0.5)) as opened:
        await opened.play_to(8.5)
        frames = opened.frames_of(opened.of("run")[0].message["run"])
        assert len(frames) == 20
        assert frames[-1].message["final"]
        assert opened.due(frames[-1]) == pytest.approx(6.0)  # a quarter is for the crossfade
        rows = await opened.rows()
        assert rows[0]["squeeze"] == pytest.approx(0.6)
        assert rows[0]["outcome"] == "completed"


# ---------------------------------------------------------------- regeneration

REGENERATING = [
    prompt(10, "portrait", id="portrait", enter={"regen": True}),
    cue(1200, "navigate", route="/away"),
    cue(2000, "end"),
]


def begun(opened: House, cue_id: str = "portrait") -> list[float]:
    return [at for at, found in opened.runs() if found == cue_id]


async def test_it_is_drawn_again_each_time_from_another_set_and_ever_more_rarely(
    tmp_path: Path,
) -> None:
    rhythm = Rhythm(previews=3, step=0.5, sets=3)
    async with house(tmp_path, REGENERATING, rhythm=rhythm) as opened:
        await opened.play_to(1190, step=2.0)
        pauses = [
            round(later - earlier - rhythm.seconds, 2)
            for earlier, later in itertools.pairwise(begun(opened))
        ]
        assert pauses[:6] == [30, 30, 30, 30, 30, 30]
        assert pauses[6:10] == [60, 90, 120, 150]
        rows = await opened.rows()
        sets = [row["set_id"] for row in rows]
        assert all(one != other for one, other in itertools.pairwise(sets))
        assert sorted(sets[:3]) == [0, 1, 2]
        assert [row["cycle"] for row in rows] == list(range(len(rows)))
        assert {row["outcome"] for row in rows[:-1]} == {"completed"}
        assert rows[1]["position"] == pytest.approx(10 + 30 + rhythm.seconds)


def test_the_pauses_of_the_contract() -> None:
    assert [pause_after(cycle) for cycle in range(1, 10)] == [30, 30, 30, 30, 30, 30, 60, 90, 120]


async def test_the_next_generating_cue_ends_it(tmp_path: Path) -> None:
    cues = [REGENERATING[0], line(50, "a line", generate=False), prompt(60, "other", id="other")]
    async with house(tmp_path, [*cues, cue(400, "end")], rhythm=RHYTHM) as opened:
        await opened.play_to(300, step=1.0)
        assert begun(opened) == [10.0, 42.5]
        assert begun(opened, "other") == [60.0]


async def test_navigation_ends_it_in_its_pause(tmp_path: Path) -> None:
    cues = [REGENERATING[0], cue(30, "navigate", route="/away"), cue(400, "end")]
    async with house(tmp_path, cues, rhythm=RHYTHM) as opened:
        await opened.play_to(300, step=1.0)
        assert begun(opened) == [10.0]
        assert [row["outcome"] for row in await opened.rows()] == ["completed"]


async def test_navigation_lets_the_picture_being_drawn_be_the_last(tmp_path: Path) -> None:
    cues = [REGENERATING[0], cue(43.5, "navigate", route="/away"), cue(400, "end")]
    async with house(tmp_path, cues, rhythm=RHYTHM) as opened:
        await opened.play_to(300, step=1.0)
        assert begun(opened) == [10.0, 42.5]
        assert [row["outcome"] for row in await opened.rows()] == ["completed", "completed"]


async def test_joined_in_a_regenerating_cue_only_what_is_on_now_is_shown(tmp_path: Path) -> None:
    async with house(tmp_path, REGENERATING, rhythm=RHYTHM, play=True) as opened:
        await opened.play_to(2)
        opened.playback.seek(100.0)
        await opened.rest()
        # 10, 42.5, 75: the third is on, with 22.5 s of its pause gone.
        frames = opened.of("frame")
        assert [frame.message["final"] for frame in frames] == [True]
        assert opened.due(frames[0]) == pytest.approx(opened.position - 100 + 77.5)
        await opened.play_to(opened.position + 8.5)
        assert begun(opened)[-1] == pytest.approx(2 + 7.5, abs=0.01)


# ---------------------------------------------------------------- when there is nothing to show


async def test_without_a_set_the_picture_is_held_and_written_down(tmp_path: Path) -> None:
    cues = [
        prompt(0, "one", id="one"),
        prompt(10, "two", id="two"),
        prompt(20, "three", id="three"),
    ]
    rhythms = {"two": Rhythm(sets=0)}
    async with house(tmp_path, [*cues, cue(60, "end")], rhythm=RHYTHM, rhythms=rhythms) as opened:
        await opened.play_to(15)
        assert brief(opened.of("hold")) == [(10.0, "hold")]
        assert opened.runs() == [(0.0, "one")]
        assert opened.of("run_end")[-1].message["outcome"] == "completed"
        row = (await opened.rows())[-1]
        assert (row["action_id"], row["provider"], row["outcome"]) == ("two", "hold", "held")
        assert row["set_id"] is None
        assert "no set of two" in row["why"]
        snapshot = opened.stage.snapshot()
        kept = snapshot.frame or snapshot.picture
        assert kept is not None
        assert (kept.cue, kept.final) == ("one", True)
        await opened.play_to(25)
        assert opened.runs()[-1] == (20.0, "three")


async def test_a_store_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    cues = [
        prompt(0, "one", id="one"),
        prompt(10, "two", id="two"),
        prompt(20, "three", id="three"),
    ]
    async with house(tmp_path, [*cues, cue(60, "end")], rhythm=RHYTHM) as opened:
        await opened.play_to(9)
        opened.store.answering.clear()
        await opened.play_to(11.75)
        assert opened.of("hold") == []
        await opened.play_to(12.5)
        assert brief(opened.of("hold")) == [(12.0, "hold")]
        row = (await opened.rows())[-1]
        assert (row["provider"], row["outcome"]) == ("hold", "held")
        assert "no frame in time" in row["why"]
        opened.store.answering.set()
        await opened.play_to(25)
        assert opened.runs() == [(0.0, "one"), (20.0, "three")]


async def test_a_store_that_fails_costs_one_cue_at_most(tmp_path: Path) -> None:
    cues = [prompt(0, "one", id="one"), prompt(10, "two", id="two"), cue(60, "end")]
    async with house(tmp_path, cues, rhythm=RHYTHM) as opened:
        await opened.play_to(9)
        opened.store.fail_next(*[StoreUnavailable("x", "away")] * 30)
        await opened.play_to(15)
        assert [row["outcome"] for row in await opened.rows()] == ["completed", "held"]
        assert brief(opened.of("hold")) == [(10.0, "hold")]


async def test_a_store_that_falls_silent_in_the_middle_of_a_run_costs_previews_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "AHEAD_BYTES", 0)  # one frame ahead, as with very large ones
    cues = [prompt(0, "one", id="one"), prompt(40, "two", id="two"), cue(120, "end")]
    async with house(tmp_path, cues, rhythm=Rhythm(previews=9, step=1.0)) as opened:
        await opened.play_to(3.5)
        assert 3 <= len(opened.of("frame")) <= 5
        opened.store.answering.clear()
        await opened.play_to(30)
        assert opened.of("hold") == []
        assert [t.message["outcome"] for t in opened.of("run_end")] == ["completed"]
        final = opened.of("frame")[-1]
        assert (final.message["step"], final.message["final"]) == (10, True)
        assert opened.due(final) == pytest.approx(10.0), "as it was recorded"
        opened.store.answering.set()
        await opened.play_to(52)
        assert [row["outcome"] for row in await opened.rows()] == ["completed", "completed"]


async def test_a_final_image_that_is_here_does_not_wait_for_previews_that_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "AHEAD_BYTES", 0)
    cues = [prompt(0, "one", id="one"), cue(120, "end")]
    async with house(tmp_path, cues, rhythm=Rhythm(previews=19, step=1.0)) as opened:
        await opened.play_to(3.5)
        opened.store.answering.clear()
        await opened.play_to(30)
        *_, last, final = opened.of("frame")
        assert final.message["final"]
        gap = opened.due(final) - opened.due(last)
        assert gap == pytest.approx(opened.show.settings.playback.frame_gap_timeout, abs=1.0)
        assert [row["outcome"] for row in await opened.rows()] == ["completed"]


async def test_a_broken_preview_is_a_gap_and_no_more(tmp_path: Path) -> None:
    cues = [prompt(0, "one", id="one"), prompt(10, "two", id="two"), cue(60, "end")]
    async with house(tmp_path, cues, rhythm=RHYTHM) as opened:
        for number in (0, 1):
            opened.store.contents[image_key("two", number, "3.jpg")] = b"\0" * 900
        await opened.play_to(15)
        frames = opened.frames_of(opened.of("run")[-1].message["run"])
        assert [frame.message["step"] for frame in frames] == [1, 2, 4, 5]
        assert opened.of("run_end")[-1].message["outcome"] == "completed"


async def test_our_own_mistake_costs_one_cue_and_not_the_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cues = [prompt(0, "one", id="one"), prompt(5, "two", id="two"), prompt(10, "three", id="three")]
    async with house(tmp_path, [*cues, cue(60, "end")], rhythm=RHYTHM) as opened:
        real = opened.static.open

        def falls(action: Any, slot: Any) -> Any:
            if action.action_id == "two":
                raise RuntimeError("a mistake")
            return real(action, slot)

        monkeypatch.setattr(opened.static, "open", falls)
        with capture_logs() as logs:
            await opened.play_to(15)
        assert "run_failed" in {entry["event"] for entry in logs}
        assert opened.runs() == [(0.0, "one"), (10.0, "three")]
        assert brief(opened.of("hold")) == [(5.0, "hold")]


# ---------------------------------------------------------------- moved by hand


async def test_paused_nothing_fires_and_what_is_drawn_is_finished(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        await opened.play_to(3)
        opened.playback.pause()
        await opened.play_to(30)
        assert opened.runs() == [(2.0, "transcript_001")]
        assert opened.of("run_end")[0].message["outcome"] == "completed"
        assert opened.playback.playhead.position(opened.clock.now()) == pytest.approx(3)
        assert opened.playback.stuck_for() == 0
        opened.playback.resume()
        await opened.play_to(30 + 12.5)
        assert opened.runs()[-1] == (42.0, "prompt_001")
        with pytest.raises(PlayheadError):
            opened.playback.resume()


async def test_seek_sets_the_stage_as_if_it_had_been_played_there(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        await opened.play_to(1)
        before = len(opened.told)
        opened.playback.seek(21.2)
        await opened.rest()
        told = opened.told[before:]
        origin = opened.clock.now() - 21.2
        assert only([t for t in told if t.type == "scene"])["route"] == "/studio"
        assert only([t for t in told if t.type == "fade"])["black"] is False
        assert only([t for t in told if t.type == "typing"])["text"] == "a garden"
        assert only([t for t in told if t.type == "caption"])["text"] == ""
        slider = only([t for t in told if t.type == "slider"])
        assert (slider["to"], slider["at"]) == (75.0, pytest.approx(origin + 20))
        run = only([t for t in told if t.type == "run"])
        assert run["cue"] == "slider_001"
        frames = [t for t in told if t.type == "frame"]
        assert [f.message["step"] for f in frames] == [2, 3, 4, 5]
        assert frames[0].message["present_at"] == pytest.approx(origin + 21.0)
        assert not opened.playback.playhead.on_schedule
        await opened.play_to(opened.position + 12)
        assert opened.runs()[-1][1] == "ghost"


async def test_rejoin_goes_back_to_where_the_schedule_is(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        await opened.play_to(3)
        opened.playback.seek(30)
        await opened.play_to(16)
        assert opened.playback.playhead.position(opened.clock.now()) == pytest.approx(43)
        opened.playback.rejoin()
        await opened.rest()
        assert opened.playback.playhead.on_schedule
        assert opened.playback.playhead.position(opened.clock.now()) == pytest.approx(16)
        assert opened.runs()[-1] == (16.0, "prompt_001")
        await opened.play_to(20.5)
        assert opened.runs()[-1] == (20.0, "slider_001")


async def test_go_fires_the_next_picture_and_goes_on_from_there(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM, toml=MANUAL) as opened:
        await opened.play_to(5)
        assert opened.of("screening", "run") == []
        opened.playback.go()
        await opened.play_to(6)
        assert opened.of("screening")[-1].message["status"] == "active"
        opened.playback.go()
        await opened.rest()
        assert opened.runs() == [(6.0, "transcript_001")]
        opened.playback.next()
        await opened.play_to(7)
        assert opened.runs()[-1] == (6.0, "prompt_001")
        opened.playback.previous()
        await opened.play_to(8)
        assert opened.runs()[-1][1] == "transcript_001"
        assert opened.playback.regenerate()
        await opened.rest()
        assert opened.runs()[-1] == (8.0, "transcript_001")
        sets = [row["set_id"] for row in await opened.rows()]
        assert sets[-1] != sets[-2]


# ---------------------------------------------------------------- lost time


async def test_after_a_stall_it_is_where_it_should_be_and_nothing_comes_in_a_burst(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        await opened.play_to(5)
        before = len(opened.told)
        opened.clock.jump(28.2)
        await opened.clock.advance(0.01)
        await opened.rest()
        told = opened.told[before:]
        assert [t.message["cue"] for t in told if t.type == "run"] == ["ghost"]
        assert [t.message["route"] for t in told if t.type == "scene"] == ["/desk"]
        assert only([t for t in told if t.type == "typing"])["text"] == "ghost light"
        frames = [t for t in told if t.type == "frame"]
        assert [f.message["step"] for f in frames] == [2, 3, 4, 5]
        assert opened.metrics.jumps._value.get() == 1
        await opened.play_to(44)
        assert opened.of("fade")[-1].message["black"] is True


async def test_a_short_stall_fires_late_and_loses_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        await opened.play_to(1)
        opened.clock.jump(1.5)
        await opened.play_to(4)
        run = opened.of("run")[0]
        assert run.at == pytest.approx(2.5)
        frames = opened.frames_of(run.message["run"])
        assert opened.due(frames[-1]) == pytest.approx(4.5), "deadlines are from the cue's time"
        assert opened.metrics.jumps._value.get() == 0


@pytest.mark.parametrize("step", [12.0, -12.0, 3600.0])
async def test_a_clock_that_was_set_moves_the_show_with_it(tmp_path: Path, step: float) -> None:
    clock = VirtualClock(1_700_006_400.0)  # at midnight, in UTC
    toml = '[schedule]\nkind = "loop"\nopens = "00:00"\ncloses = "24:00"\n'
    async with house(tmp_path, DEMO, rhythm=RHYTHM, toml=toml, clock=clock) as opened:
        await opened.play_to(14.5)
        opened.clock.step_wall(step)
        await opened.play_to(14.5 + 2 * LOOK_IN)
        expected = (opened.clock.wall() - opened.opened_at) % 45
        position = opened.playback.playhead.position(opened.clock.now())
        assert position == pytest.approx(expected, abs=0.1)
        runs = [t for t in opened.since(14.6) if t.type == "run"]
        assert len(runs) <= 1


async def test_a_clock_that_creeps_moves_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, DEMO, rhythm=RHYTHM) as opened:
        for second in range(1, 44):
            opened.clock.step_wall(0.01)
            await opened.play_to(second)
        assert opened.metrics.jumps._value.get() == 0
        assert len(opened.of("run")) == 4


# ---------------------------------------------------------------- the end


async def test_nothing_is_left_behind_whenever_it_ends(tmp_path: Path) -> None:
    for position in (0.0, 2.1, 3.0, 15.0, 33.3, 46.0):
        before = asyncio.all_tasks()
        async with house(tmp_path / str(position), DEMO, rhythm=RHYTHM) as opened:
            await opened.play_to(position)
        assert asyncio.all_tasks() == before
        last = (await opened.rows())[-1:]
        assert all(row["outcome"] in {"completed", "cut"} for row in last)


async def test_months_leave_nothing_behind_either(tmp_path: Path) -> None:
    cues = [prompt(at, f"nr {at}", id=f"p{at}") for at in range(0, 40, 4)]
    toml = LOOP + '[playback]\nfit = "recorded"\n'
    rhythm = Rhythm(previews=9, step=0.5)
    async with house(tmp_path, [*cues, cue(40, "end")], rhythm=rhythm, toml=toml) as opened:
        await opened.play_to(40)
        tasks, sleepers = len(asyncio.all_tasks()), len(opened.clock._sleepers)
        await opened.play_to(400)
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert len(opened.clock._sleepers) <= sleepers + 60
        assert len(opened.of("run")) >= 100
