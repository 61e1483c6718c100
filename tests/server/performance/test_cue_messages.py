"""What stands on the stage at a position that was not played up to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from generator.sheet.base_image import default_base_image
from generator.sheet.cues import CueSheet
from generator.sheet.plan import plan_actions
from server.core.random_streams import RandomStreams
from server.performance.cue_messages import CueMessages
from server.stage import messages as wire
from server.timeline.beginnings import Beginnings
from tests.helpers.cues import (
    END,
    EVERY_KIND,
    MARK,
    PROGRAMS,
    START,
    Cue,
    fade,
    line,
    prompt,
    scene,
    sheet_of,
    slider,
)

ORIGIN = 1000.0


def standing(*cues: Cue, at: float | None = None) -> dict[str, wire.StageMessage]:
    """What stands once all of these have been, just after the last of them."""
    position = 10.0 * (len(cues) - 1) + 0.5 if at is None else at
    sheet, now = sheet_of(*cues, END), ORIGIN + position
    messages = messages_of(sheet)
    scenery = messages.bare_stage(now)
    messages.fill(scenery, len(cues), ORIGIN, now)
    return {each.type: each for each in scenery}


def messages_of(sheet: CueSheet) -> CueMessages:
    plan = plan_actions(sheet, PROGRAMS, dict.fromkeys(PROGRAMS, default_base_image()))
    beginnings = Beginnings(sheet, RandomStreams(1), "enter", sheet.duration)
    return CueMessages(sheet, plan, beginnings, fade=5.0)


def bare(at: float) -> dict[str, wire.StageMessage]:
    now = ORIGIN + at
    return {
        "scene": wire.Scene(route=""),
        "fade": wire.Fade(black=False, seconds=5.0, at=now),
        "caption": wire.Caption(text="", at=now, until=now),
    }


def test_before_the_first_cue_the_stage_is_bare() -> None:
    assert standing(at=0.0) == bare(0.0)


def test_the_last_of_each_type_stands_as_of_its_own_cue() -> None:
    found = standing(
        START,
        scene("/one"),
        scene("/two"),
        fade(True),
        fade(False),
        prompt("first"),
        prompt("second", guidance=30),
        line(999.0),
    )
    typing, moved = found.pop("typing"), found.pop("slider")
    assert found == {
        "scene": wire.Scene(route="/two"),
        "fade": wire.Fade(black=False, seconds=5.0, at=ORIGIN + 40),
        "caption": wire.Caption(text="a line", at=ORIGIN + 70, until=ORIGIN + 999 + 1.5),
    }
    assert isinstance(typing, wire.Typing)
    assert (typing.from_, typing.text, typing.at) == ("first", "second", ORIGIN + 60)
    assert isinstance(moved, wire.Slider)
    assert (moved.to, moved.at) == (30, ORIGIN + 60)


def test_a_line_stands_until_it_has_been_spoken() -> None:
    said = standing(START, line(14.0), at=13.9)["caption"]
    assert isinstance(said, wire.Caption)
    assert said.text == "a line"
    assert standing(START, line(14.0), at=14.0) == bare(14.0)


def test_a_line_takes_the_place_of_the_one_before_it() -> None:
    assert standing(START, line(999.0), line(21.0), at=30.0) == bare(30.0)


def test_an_erased_prompt_stands_typed() -> None:
    typing = standing(START, prompt("drawn"), prompt("", commit=False))["typing"]
    assert isinstance(typing, wire.Typing)
    assert (typing.at, typing.erase) == (ORIGIN + 20, True)


def test_another_scene_takes_the_words_and_the_slider_with_it() -> None:
    found = standing(START, prompt("a lake", guidance=30), scene("/two"))
    assert found == {**bare(20.5), "scene": wire.Scene(route="/two")}


def test_the_slider_stands_where_it_was_moved_last() -> None:
    for cues, at in (
        ((prompt(program="P2"), slider(20, program="P2")), 20),
        ((prompt(guidance=20), prompt("b")), 10),
    ):
        moved = standing(START, *cues)["slider"]
        assert isinstance(moved, wire.Slider)
        assert (moved.to, moved.at) == (20, ORIGIN + at)


def test_a_start_clears_the_stage() -> None:
    everything = (scene("/one"), fade(True), prompt(guidance=3), line(999.0))
    assert standing(*everything, START) == bare(40.5)


def test_marks_are_nothing_to_see() -> None:
    cues = (START, prompt(), MARK, {"action": "reconnect"})
    assert standing(*cues, at=35.0) == standing(*cues[:2], at=35.0)


_CUES = st.sampled_from(EVERY_KIND)
_TOLD_BY = {
    "fade": {"set-fade-status"},
    "caption": {"transcript"},
    "typing": {"prompt"},
    "slider": {"move-slider", "prompt"},
}


@given(st.lists(_CUES, min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_whatever_stands_is_of_a_cue_since_the_last_start(cues: list[Cue]) -> None:
    position = 10.0 * len(cues)
    found = standing(*cues, at=position)
    empty = bare(position)
    for type_, actions in _TOLD_BY.items():
        message = found.get(type_)
        if message is None or message == empty.get(type_):
            continue
        assert isinstance(message, wire.Fade | wire.Caption | wire.Typing | wire.Slider)
        number = round((message.at - ORIGIN) / 10)
        assert cues[number]["action"] in actions
        assert START not in cues[number:]


@given(st.lists(_CUES, min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_what_stands_is_the_same_as_when_every_cue_is_told(cues: list[Cue]) -> None:
    sheet, now = sheet_of(*cues, END), ORIGIN + 10.0 * len(cues)
    messages = messages_of(sheet)
    played = messages.bare_stage(now)
    for number, cue in enumerate(sheet.cues[: len(cues)]):
        if cue.begins_anew:
            played = messages.bare_stage(now)
        for message in messages.of(number, ORIGIN + cue.at, now):
            played.take(message)
    found = standing(*cues, at=10.0 * len(cues))
    assert found == {each.type: each for each in played}
