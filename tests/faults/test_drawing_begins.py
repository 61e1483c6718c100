"""Two tells, the first: a picture begins when it would for somebody at the keys."""

from __future__ import annotations

import json
import mimetypes
import random
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, sync_playwright

from generator.sheet.cues import Draw, parse_cues
from generator.sheet.programs import DEFAULT_PROGRAMS
from server.core.random_streams import RandomStreams
from server.timeline.beginnings import SLIDER_TAKES, Beginnings
from server.timeline.keystrokes import FASTEST, REST, Keystrokes, mulberry32
from tests.helpers.house import house
from tests.helpers.shows import LOOP, MANUAL, Rhythm, cue, prompt
from tests.helpers.walls import find_browser

KIOSK = Path(__file__).parents[2] / "server" / "web" / "static" / "kiosk"
TYPED = f'{LOOP}[playback]\ndraw = "enter"\nlead = 0\n'
BY_HAND = f'{MANUAL}[playback]\ndraw = "enter"\nlead = 0\n'
STEADY = {"base": 100, "variance": 0}
RHYTHM = Rhythm(previews=4, step=0.5)

CUES = [
    cue(0, "start"),
    prompt(2, "a quiet lake", id="lake", delay=STEADY),  # 12 letters
    prompt(20, "a quiet sea", id="sea", delay=STEADY),  # 4 erased, 3 typed
    cue(30, "move-slider", program="P4", value=70, id="slider"),
    cue(40, "navigate", route="/two"),
    prompt(42, "a boat", id="boat", delay=STEADY, enter={"regen": True}),
    cue(110, "end"),
]


def keys(standing: str, text: str, *, erase: bool = False, seed: int = 7) -> Keystrokes:
    return Keystrokes(standing, text, erase, base=0.1, variance=0.04, seed=seed)


# ---------------------------------------------------------------- stroke by stroke


def test_what_stands_is_erased_down_to_the_common_beginning() -> None:
    typed = keys("a quiet lake", "a quiet sea")
    shown = [(typed.text if key.new else typed.standing)[: key.count] for key in typed.strokes()]
    erased = ["a quiet lak", "a quiet la", "a quiet l", "a quiet "]
    assert shown == [*erased, "a quiet s", "a quiet se", "a quiet sea"]
    assert typed.seconds == pytest.approx(0.7, abs=7 * 0.04)
    assert typed.shown_at(-1) == "a quiet lake"
    assert typed.shown_at(typed.seconds) == "a quiet sea"


def test_the_same_text_again_needs_no_key() -> None:
    assert keys("crowdworker", "crowdworker").seconds == 0
    assert keys("", "").seconds == 0
    assert keys("left", "", erase=True).shown_at(9) == ""


def test_a_text_that_is_not_to_stay_rests_and_goes() -> None:
    typed = keys("", "ab", erase=True)
    times = [key.at for key in typed.strokes()]
    assert len(times) == 4
    assert times[2] - times[1] > REST
    assert typed.shown_at(times[1] + REST / 2) == "ab"


def test_no_key_follows_another_faster_than_hands_can() -> None:
    fast = Keystrokes("", "x" * 50, False, base=0.0, variance=0.0, seed=1)
    assert fast.seconds == pytest.approx(50 * FASTEST)


def test_the_dice_are_those_of_the_page() -> None:
    draw = mulberry32(42)
    assert [draw() for _ in range(3)] == [
        0.6011037519201636,
        0.44829055899754167,
        0.8524657934904099,
    ]


@pytest.mark.browser
def test_the_page_types_as_the_server_says_to_the_last_bit() -> None:
    dice = random.Random(5)
    letters = [*"abc déñ\u00a0", "e\u0301", "ก็", "한", "👩\u200d🚀", "🇲🇾", "مر", "漢"]
    cases: list[tuple[Keystrokes, dict[str, Any]]] = []
    for seed in range(150):
        standing, text = ("".join(dice.choices(letters, k=dice.randrange(12))) for _ in "ab")
        if dice.random() < 0.5:
            text = standing[: dice.randrange(len(standing) + 1)] + text
        typed = Keystrokes(
            standing,
            text,
            dice.random() < 0.3,
            base=dice.uniform(0, 0.2),
            variance=dice.uniform(0, 0.2),
            seed=dice.randrange(2**31),
            hurry=dice.choice([1.0, 0.31]),
        )
        message = {
            "from": typed.standing,
            "text": typed.text,
            "erase": typed.erase,
            "delay": {"base": typed.base, "variance": typed.variance},
            "seed": typed.seed,
            "at": 0,
            "seconds": typed.seconds if typed.hurry != 1 or seed % 2 else None,
        }
        cases.append((typed, message))

    def serve(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if not name:
            route.fulfill(body="<!doctype html>", content_type="text/html")
            return
        kind = mimetypes.guess_type(name)[0] or "text/javascript"
        route.fulfill(body=(KIOSK / name).read_bytes(), content_type=kind)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser())
        page = browser.new_page()
        page.route("**/*", serve)
        page.goto("http://kiosk.test/")
        found = page.evaluate(
            """async (messages) => {
                const { strokes, visible } = await import("/typing.js");
                const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });
                return messages.map((message) => strokes(message).map(({ at, whole, count }) => {
                    const [typed, rest] = visible(whole, count);
                    const ends = Array.from(graphemes.segment(whole.join("")), (s) => s.index);
                    const cut = typed && rest && !ends.includes(typed.length);
                    return { at, standing: whole.slice(0, count).join(""), typed, cut: !!cut };
                }));
            }""",
            [message for _, message in cases],
        )
        browser.close()
    for (typed, _), seen in zip(cases, found, strict=True):
        expected = [
            (key.at, (typed.text if key.new else typed.standing)[: key.count])
            for key in typed.strokes()
        ]
        assert [stroke["standing"] for stroke in seen] == [shown for _, shown in expected]
        assert [stroke["at"] for stroke in seen] == pytest.approx([at for at, _ in expected])
        for stroke in seen:
            assert stroke["standing"].startswith(stroke["typed"])
            assert not stroke["cut"], "a letter is seen whole, or not at all"


# ---------------------------------------------------------------- from the sheet


def beginnings(*cues: dict[str, Any], draw: Draw = "enter") -> Beginnings:
    sheet = parse_cues(json.dumps(cues).encode(), "cues.json", DEFAULT_PROGRAMS)
    return Beginnings(sheet, RandomStreams(3), draw, 60.0)


@pytest.mark.parametrize(
    ("between", "stands"),
    [
        (cue(10, "navigate", route="/two"), ""),
        (cue(10, "start"), ""),
        (cue(10, "end"), "a lake"),  # of a show whose duration goes beyond it
        (cue(10, "next"), "a lake"),
    ],
)
def test_what_was_typed_stands_until_another_scene(between: dict[str, Any], stands: str) -> None:
    typed = beginnings(
        prompt(0, "a lake", delay=STEADY), between, prompt(20, "a lamp", delay=STEADY)
    ).typing(2)
    assert typed is not None
    assert typed.standing == stands


def test_a_cue_may_begin_its_picture_itself() -> None:
    both = beginnings(
        prompt(0, "slowly typed", delay=STEADY),
        prompt(20, "at once", delay=STEADY, draw="cue"),
        cue(40, "move-slider", value=3, draw="cue"),
    )
    assert [both.after(index) for index in range(3)] == [pytest.approx(1.2), 0, 0]
    shown = beginnings(
        prompt(0, "at once", delay=STEADY),
        prompt(20, "typed", delay=STEADY, draw="enter"),
        cue(40, "move-slider", value=3),
        draw="cue",
    )
    assert [shown.after(index) for index in range(3)] == [0, pytest.approx(1.2), 0]


def test_a_text_too_long_for_its_time_is_typed_faster_and_its_picture_is_seen() -> None:
    long = beginnings(
        prompt(0, "x" * 400, delay=STEADY),
        prompt(10, "y" * 400, delay=STEADY),
        cue(14, "navigate", route="/next"),
        prompt(50, "z", delay=STEADY),
        prompt(50, "again", delay=STEADY),
    )
    assert long.after(0) == pytest.approx(5.0), "half of the time to the next picture"
    assert long.after(1) == pytest.approx(4.0), "before the scene ends"
    assert long.after(3) == 0, "at once, rather than never"
    typed = long.typing(1)
    assert typed is not None
    assert typed.standing == "x" * 400, "all of it stood by then"


def test_what_stands_is_what_had_been_typed_by_then() -> None:
    show = beginnings(
        prompt(0, "abcdefghij" * 4, delay=STEADY, draw="cue"),  # nobody waits for it
        prompt(2, "z", delay=STEADY),
        cue(20, "navigate", route="/next"),
        prompt(30, "z", delay=STEADY),
        cue(40, "prompt", prompt="", commit=False, delay={"base": 30, "variance": 20}),
        prompt(45, "z", delay=STEADY),
    )
    standing = [typed.standing for index in (1, 3, 4, 5) if (typed := show.typing(index))]
    assert standing == ["abcdefghij" * 2, "", "z", ""]


# ---------------------------------------------------------------- on stage


async def test_pictures_begin_with_the_last_letter_and_when_the_slider_rests(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(60)
        assert opened.runs() == [
            (3.2, "lake"),
            (20.7, "sea"),
            (30 + SLIDER_TAKES, "slider"),
            (42.6, "boat"),
        ]
        first, second, third = (told.message for told in opened.of("typing"))
        start = opened.opened_at
        assert (first["from"], first["text"]) == ("", "a quiet lake")
        assert first["seconds"] == pytest.approx(1.2)
        assert (second["from"], second["at"]) == ("a quiet lake", start + 20)
        assert third["from"] == "", "another scene"
        rows = await opened.rows()
        for row, at in zip(rows, (3.2, 20.7, 31.0, 42.6), strict=True):
            assert row["started_at"] == pytest.approx(start + at)
            assert row["position"] == pytest.approx(at)
        ends = [told for told in opened.of("run_end") if told.at < 40]
        assert [told.message["outcome"] for told in ends] == ["completed"] * 3
        assert all(opened.due(frame) > 3.2 for frame in opened.of("frame"))


async def test_cycles_keep_their_rhythm(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(109)
        boats = [at for at, name in opened.runs() if name == "boat"]
        takes = RHYTHM.seconds + 30
        assert boats == pytest.approx([42.6, 42.6 + takes, 42.6 + 2 * takes], abs=0.01)


async def test_a_new_cue_cuts_the_run_before_it_at_once(tmp_path: Path) -> None:
    slow = Rhythm(previews=60, step=0.5)
    toml = TYPED + 'fit = "recorded"\n'
    async with house(tmp_path, CUES, rhythm=slow, toml=toml) as opened:
        await opened.play_to(20.4)
        cut = opened.of("run_end")[-1]
        assert (round(cut.at, 2), cut.message["outcome"]) == (20.0, "cut")
        assert not opened.playback.quiet_for(1.0)
        assert opened.playback.quiet_for(0.1), "nothing is drawn while it is typed"


async def test_whoever_fetches_ahead_knows_when_it_begins(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(1)
        needs = opened.runtime.lookahead.needs()
        starts = [round(need.start - opened.opened_at, 3) for need in needs[:4]]
        assert starts == [3.2, 20.7, 31.0, 42.6]
        await opened.play_to(20.4)  # its cue has fired, its set has not been drawn
        need = opened.runtime.lookahead.needs()[0]
        assert (need.action_id, round(need.start - opened.opened_at, 3)) == ("sea", 20.7)
        await opened.play_to(21)
        assert (await opened.rows())[-1]["set_id"] == need.set_id


async def test_set_in_the_middle_of_typing_the_picture_before_is_there(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=BY_HAND) as opened:
        opened.playback.seek(20.3)
        await opened.rest()
        assert [name for _, name in opened.runs()] == ["lake"]
        assert opened.of("frame")[-1].message["final"], "as it would stand there"
        assert opened.of("typing")[-1].message["text"] == "a quiet sea"
        await opened.play_to(0.5)
        assert opened.runs()[-1] == (0.4, "sea")
        await opened.play_to(5)
        assert [row["outcome"] for row in await opened.rows()] == ["completed", "completed"]


async def test_a_hand_that_goes_to_a_cue_sees_it_typed(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=BY_HAND) as opened:
        opened.playback.go(2)
        await opened.play_to(5)
        assert opened.runs() == [(0.7, "sea")]
        assert opened.of("typing")[-1].message["from"] == "a quiet lake"
        assert opened.playback.regenerate(), "and nobody types for this"
        await opened.rest()
        assert opened.runs()[-1] == (5.0, "sea")
        opened.playback.previous()
        await opened.play_to(9)
        assert opened.runs()[-1] == (5.7, "sea")


async def test_drawn_again_in_the_middle_of_typing_it_begins_with_the_last_letter(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(20.3)
        assert opened.playback.regenerate()
        await opened.play_to(29)
        assert opened.runs()[-1] == (20.7, "sea")
        row = (await opened.rows())[-1]
        assert row["position"] == pytest.approx(20.7), "where in the screening it began"
        assert opened.playback.regenerate()
        await opened.play_to(29.5)
        assert (await opened.rows())[-1]["position"] == pytest.approx(29.0)


async def test_drawn_again_by_hand_after_a_navigation_it_stays_at_one_cycle(
    tmp_path: Path,
) -> None:
    cues = [*CUES[:1], prompt(2, "a boat", id="boat", delay=STEADY, enter={"regen": True})]
    cues += [cue(10, "navigate", route="/two"), cue(110, "end")]
    async with house(tmp_path, cues, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(20)
        assert opened.playback.regenerate()
        await opened.play_to(100)
        assert [at for at, _ in opened.runs()] == [pytest.approx(2.6), 20.0]


async def test_paused_in_the_middle_of_typing_it_is_drawn_all_the_same(tmp_path: Path) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(20.3)
        opened.playback.pause()
        await opened.play_to(25)
        assert opened.runs()[-1] == (20.7, "sea")


@pytest.mark.parametrize("what", ["panic", "hold"])
async def test_stopped_in_the_middle_of_typing_nothing_is_drawn(tmp_path: Path, what: str) -> None:
    async with house(tmp_path, CUES, rhythm=RHYTHM, toml=TYPED) as opened:
        await opened.play_to(20.3)
        if what == "panic":
            opened.playback.panic("test")
        else:
            opened.playback.hold()
        await opened.play_to(29)
        assert [name for _, name in opened.runs()] == ["lake"]
        if what == "panic":
            opened.playback.restore()
            await opened.rest()
            assert opened.runs()[-1][1] == "sea"
