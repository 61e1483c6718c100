from __future__ import annotations

from pathlib import Path

import pytest

from server.performance.performer import pause_after
from server.providers.base import Slot
from server.supply.lookahead import (
    AT_ANY_MOMENT,
    MOST_CYCLES,
    TYPICAL_RUN,
    Coming,
    Lookahead,
    coming_runs,
)
from tests.helpers.house import House, house
from tests.helpers.shows import LOOP, MANUAL, Rhythm, cue, line, prompt

CUES = [
    cue(0, "start"),
    line(2, "one", id="one"),
    prompt(10, "two", id="two"),
    line(15, "spoken", generate=False),
    prompt(30, "three", id="three"),
    cue(60, "end"),
]
RHYTHM = Rhythm(previews=3, step=0.5, sets=3)


def runs(at: House) -> list[Coming]:
    return coming_runs(
        at.show, at.playback.plan, at.runtime.beginnings, at.playback.playhead, at.clock.now()
    )


def named(at: House, coming: list[Coming]) -> list[tuple[str, float]]:
    """Action and position in seconds since the house opened."""
    return [(run.action.action_id, round(run.start - at.opened_at, 3)) for run in coming]


async def test_the_rest_of_this_round_and_the_next_one_whole(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=f"{LOOP}gap = 5\n") as at:
        await at.play_to(12)
        assert named(at, runs(at)) == [("three", 30), ("one", 67), ("two", 75), ("three", 95)]


async def test_a_run_is_over_before_the_next_one_or_the_end(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM) as at:
        await at.play_to(1)
        ends = {
            run.action.action_id: round(run.end - at.opened_at, 3)
            for run in runs(at)
            if run.start < at.opened_at + 60
        }
        # The crossfade, 3 s, but no more than a quarter of the time there is.
        assert ends == {"one": 10 - 2, "two": 30 - 3, "three": 60 - 3}


async def test_before_a_screening_the_whole_of_it_is_coming(tmp_path: Path) -> None:
    toml = '[schedule]\nkind = "screenings"\nscreenings = ["23:00"]\n'
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=toml) as at:
        await at.play_to(5)
        following = at.playback.playhead.next_at
        assert following is not None
        assert [round(run.start - following) for run in runs(at)] == [2, 10, 30]


async def test_by_hand_it_may_begin_at_any_moment(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=MANUAL) as at:
        await at.play_to(3)
        # The standby cue at any moment, that is soon; the others as they would go from now.
        assert sorted(named(at, runs(at))) == [("one", 13), ("three", 33), ("two", 13)]
        at.playback.stand_by(4)
        assert ("three", 3 + AT_ANY_MOMENT) in named(at, runs(at))


async def test_off_the_schedule_the_standby_cue_is_due_now(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM) as at:
        await at.play_to(12)
        at.playback.pause()
        await at.play_to(20)
        assert named(at, runs(at))[:2] == [
            ("three", 20 + AT_ANY_MOMENT),
            ("one", 62),
        ]  # of the next round


async def test_cycles_of_a_regenerating_cue_are_foreseen(tmp_path: Path) -> None:
    cues = [
        cue(0, "start"),
        prompt(1, "again", id="again", enter={"regen": True}),
        cue(100, "navigate", route="/two"),
        line(500, "later", id="later"),
        cue(600, "end"),
    ]
    async with house(tmp_path, cues, rhythm=RHYTHM) as at:
        await at.play_to(0.5)
        cycles = [run for run in runs(at) if run.start < at.opened_at + 600][:-1]
        starts = [1.0, 1 + TYPICAL_RUN + 30, 1 + 2 * (TYPICAL_RUN + 30)]
        assert named(at, cycles) == [("again", start) for start in starts]
        assert [run.cycle for run in cycles] == [0, 1, 2]


async def test_no_more_cycles_are_foreseen_than_there_is_use_for(tmp_path: Path) -> None:
    cues = [
        cue(0, "start"),
        prompt(1, "again", id="again", enter={"regen": True}),
        cue(7200, "end"),
    ]
    async with house(tmp_path, cues, rhythm=RHYTHM) as at:
        await at.play_to(0.5)
        first_round = [run for run in runs(at) if run.start < at.opened_at + 7200]
        assert len(first_round) == 1 + MOST_CYCLES
        assert first_round[-1].start == pytest.approx(
            at.opened_at
            + 1
            + sum(TYPICAL_RUN + pause_after(cycle) for cycle in range(1, MOST_CYCLES + 1))
        )


async def test_the_sets_needed_are_those_that_are_played(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=f"{LOOP}gap = 5\n") as at:
        lookahead = Lookahead(
            at.show,
            at.playback.plan,
            at.runtime.beginnings,
            at.playback.playhead,
            static=at.static,
            clock=at.clock,
        )
        await at.play_to(1)
        foreseen = [(need.action_id, need.set_id) for need in lookahead.needs()]
        assert len(foreseen) == 6
        await at.play_to(120)
        played = [(row["action_id"], row["set_id"]) for row in await at.rows()]
        assert played[:6] == foreseen


async def test_a_set_that_is_being_played_is_still_needed(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, play=False) as at:
        lookahead = Lookahead(
            at.show,
            at.playback.plan,
            at.runtime.beginnings,
            at.playback.playhead,
            static=at.static,
            clock=at.clock,
        )
        begun = at.clock.now()
        async with at.static.open(at.actions[1], Slot(begun)) as take:
            need = lookahead.needs()[0]
            assert (need.action_id, need.start) == ("two", begun)
            assert need.set_id == take.source.set_id
        assert at.static.playing is None
