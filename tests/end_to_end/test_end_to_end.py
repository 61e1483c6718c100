"""The whole of it: a real server in its own process, and a real browser that shows the wall."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.helpers import walls
from tests.helpers.pictures import difference, pixels
from tests.helpers.servers import ServerProcess, server_process
from tests.helpers.shows import LOOP, MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt
from tests.helpers.walls import Sight, wall

pytestmark = pytest.mark.browser

TEXT = "Before the doors open, somebody paints the sea."
WORDS = [
    {"word": f" {word}", "start": 0.5 + place / 8, "end": 0.6 + place / 8}
    for place, word in enumerate(TEXT.split())
]
CUES = [
    cue(0, "start"),
    cue(0, "navigate", route="/wings"),
    cue(0, "set-fade-status", fade=False),
    line(0.5, TEXT, id="sea", words=WORDS, when=[0.5, 1.8]),
    prompt(20, "a lamp", id="lamp"),
    prompt(40, "nothing was drawn", id="lost"),
    prompt(60, "portrait", id="portrait", enter={"regen": True}),
    prompt(300, "slow to come", id="slow"),
    prompt(400, "another", id="another"),
    cue(600, "end"),
]
RHYTHM = Rhythm(previews=6, step=0.25)
RHYTHMS = {"lost": Rhythm(sets=0), "slow": Rhythm(previews=2, step=0.5, first=5.0)}
DISPLAY = "[display]\ncrossfade = 0.4\nfade = 0.2\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, rhythms=RHYTHMS, toml=MANUAL + DISPLAY)


def of_run(tiny: TinyShow, server: ServerProcess, sight: Sight) -> bool:
    """Whether the wall shows the very frame that the page says it shows."""
    now, shown = server.state()["now"], sight.shown
    if shown is None or now is None or shown["run"] != now["run"]:
        return False
    return sight.is_of(tiny.image(now["cue"], now["set_id"], shown["step"]))


def finished(cue_id: str, tiny: TinyShow) -> Callable[[Sight], bool]:
    """Whether the final image of a cue stands, of whichever set."""

    def stands(sight: Sight) -> bool:
        return any(sight.is_of(tiny.final(cue_id, number)) for number in (0, 1))

    return stands


def test_a_show_plays_previews_then_the_final_image(tiny: TinyShow, browser: Browser) -> None:
    with server_process(tiny.folder) as server, wall(browser, server.address) as page:
        page.until(lambda s: s.stats.get("link", {}).get("open"), why="the socket")
        assert page.look().picture is None
        server.control("go")

        page.until(lambda s: s.shown, why="the first preview")
        now = server.state()["now"]
        images = [tiny.image("sea", now["set_id"], step + 1) for step in range(RHYTHM.frames)]
        seen: list[int] = []
        captions: set[str] = set()
        while True:
            sight = page.look()
            assert sight.shown is not None
            captions.add(sight.caption)
            if sight.shown["final"]:
                break
            step = sight.shown["step"]
            assert sight.is_of(images[step - 1]), f"the page says step {step}, the wall does not"
            seen.append(step)
            page.page.wait_for_timeout(40)
        assert seen == sorted(seen)
        assert len(set(seen)) >= 4
        assert TEXT in captions

        page.until(lambda s: s.is_of(images[-1]) and not s.crossfading, why="the final image")
        stats = page.look().stats
        assert stats["frames"]["presented"] == RHYTHM.frames
        assert stats["frames"]["finals"] == 1
        assert stats["frames"]["failed"] == 0
        assert stats["screening"] == "active"
        assert stats["route"] == "/wings"

        # Nothing lies over it: a photograph of the page is the picture, but for a few words.
        page.until(lambda s: TEXT not in s.caption, why="the end of the caption")
        page.page.wait_for_timeout(300)
        assert difference(page.photograph(), pixels(images[-1])) < 25
        assert difference(page.photograph(), pixels(images[0])) > 40

        rows = server.control("asrun", limit=1)["rows"]
        painted = rows[0]["presented"]["wall"]
        assert set(painted) == {str(step + 1) for step in range(RHYTHM.frames)}
        late = {step: painted[step] - rows[0]["planned"][step] for step in painted}
        assert all(-0.1 < seconds < 0.5 for seconds in late.values()), late
        assert page.errors == []
        assert page.strangers == []


def test_frames_by_address_look_the_same(tiny: TinyShow, browser: Browser) -> None:
    with (
        server_process(tiny.folder) as server,
        wall(browser, server.address, "screen=wall&frames=url") as page,
    ):
        page.until(lambda s: s.stats.get("link", {}).get("open"), why="the socket")
        server.control("go")
        page.until(lambda s: s.shown and not s.shown["final"] and of_run(tiny, server, s))
        page.until(finished("sea", tiny))
        assert page.look().stats["frames"]["presented"] == RHYTHM.frames
        assert page.errors == []
        assert page.strangers == []


def test_a_page_opened_anew_shows_the_right_picture_at_once(
    tiny: TinyShow, browser: Browser
) -> None:
    def reopened(right: Callable[[Sight], bool], why: str) -> None:
        with wall(browser, server.address) as page:
            page.until(lambda s: s.seen_after is not None, why=f"a picture {why}", within=5)
            sight = page.until(lambda s: right(s) and not s.crossfading, why=why, within=5)
            assert sight.seen_after is not None
            assert sight.seen_after < 1.0, why
            assert page.errors == []

    with server_process(tiny.folder) as server:
        server.control("go")
        time.sleep(0.8)
        reopened(lambda s: of_run(tiny, server, s), "in the middle of a run")
        time.sleep(RHYTHM.seconds)
        reopened(finished("sea", tiny), "between two runs")

        server.control("go", cue="lost")
        time.sleep(0.3)
        reopened(finished("sea", tiny), "after a cue with nothing to show")

        server.control("go", cue="slow")
        time.sleep(0.3)
        reopened(finished("sea", tiny), "before the first frame of a run")

        server.control("go", cue="portrait")
        time.sleep(1.0)
        server.control("go", cue="lost")
        cut = server.control("asrun", limit=2)["rows"][1]
        assert (cut["action_id"], cut["outcome"]) == ("portrait", "cut")
        last = [tiny.image("portrait", cut["set_id"], step) for step in range(1, 6)]
        reopened(lambda s: any(s.is_of(image) for image in last), "after a run that was cut")

        server.control("go", cue="portrait")
        time.sleep(RHYTHM.seconds + 0.5)
        now = server.state()["now"]
        assert now["next_cycle_at"] is not None
        final = tiny.final("portrait", now["set_id"])
        reopened(lambda s: s.is_of(final), "in the pause before it is drawn again")


def test_a_server_that_is_killed_and_comes_back_is_not_noticed(
    tmp_path: Path, browser: Browser
) -> None:
    rhythm = Rhythm(previews=8, step=0.3)
    cues = [cue(0, "start"), *(prompt(1 + 5 * k, f"nr {k}", id=f"nr{k}") for k in range(20))]
    tiny = make_show(
        tmp_path / "show", [*cues, cue(300, "end")], rhythm=rhythm, toml=LOOP + DISPLAY
    )
    server = ServerProcess.start(tiny.folder)
    try:
        with wall(browser, server.address) as page:
            page.until(lambda s: s.shown and s.shown["step"] >= 3, why="the third preview")
            started = server.state()["screening"]["started_at"]
            set_id = server.state()["now"]["set_id"]
            server.kill()

            # What has begun ends without the server, and then it stays.
            page.until(
                lambda s: s.is_of(tiny.final("nr0", set_id)) and not s.crossfading,
                why="the end of the run that had begun",
            )
            time.sleep(0.5)
            assert page.look().is_of(tiny.final("nr0", set_id))

            server = ServerProcess.start(tiny.folder, port=server.address.port)
            state = server.state()
            assert state["screening"]["started_at"] == pytest.approx(started, abs=1.0)
            page.until(
                lambda s: s.stats["link"]["connects"] == 2 and s.stats["link"]["open"],
                why="the new line",
                within=15,
            )
            page.until(
                lambda s: s.shown and not s.shown["final"] and of_run(tiny, server, s),
                why="a preview of a later cue",
                within=20,
            )
            assert server.state()["now"]["cue"] != "nr0"
            position = server.state()["position"]
            assert position == pytest.approx(server.state()["server_time"] - started, abs=1.5)
            wanted = server.state()["now"]["cue"]
            page.until(finished(wanted, tiny), why="its final image")
            assert page.strangers == []
            assert [text for text in page.errors if "WebSocket connection" not in text] == []
    finally:
        server.close()


def test_a_killed_server_back_within_a_run_goes_on_with_the_same_picture(
    tmp_path: Path, browser: Browser
) -> None:
    rhythm = Rhythm(previews=20, step=0.8, sets=4)
    tiny = make_show(
        tmp_path / "show",
        [cue(0, "start"), prompt(0, "one", id="one"), cue(300, "end")],
        rhythm=rhythm,
        toml=LOOP + DISPLAY,
    )
    server = ServerProcess.start(tiny.folder)
    try:
        with wall(browser, server.address) as page:
            page.until(lambda s: s.shown and s.shown["step"] >= 2, why="a preview")
            set_id = server.state()["now"]["set_id"]
            server.kill()
            server = ServerProcess.start(tiny.folder, port=server.address.port)
            page.until(lambda s: s.stats["link"]["connects"] == 2, why="the new line")
            page.until(lambda s: of_run(tiny, server, s), why="the run it joined", within=15)
            assert server.state()["now"]["set_id"] == set_id
            steps: list[int] = []
            for _ in range(40):
                sight = page.look()
                assert sight.shown is not None
                assert sight.is_of(tiny.image("one", set_id, sight.shown["step"]))
                steps.append(sight.shown["step"])
                page.page.wait_for_timeout(40)
            assert steps == sorted(steps), "the picture went back"
    finally:
        server.close()


def test_what_happens_to_the_store_is_never_seen(tiny: TinyShow, browser: Browser) -> None:
    with server_process(tiny.folder) as server, wall(browser, server.address) as page:
        page.until(lambda s: s.stats.get("link", {}).get("open"), why="the socket")
        server.control("go")
        page.until(finished("sea", tiny), why="the first picture")
        before = page.look().picture

        # Every set of the next action is cut short, in one way or another.
        for number in (0, 1):
            final = tiny.set_folder("lamp", number) / "final.jpg"
            whole = final.read_bytes()
            half = whole[: len(whole) // 2]
            final.write_bytes(half if number else half.ljust(len(whole), b"\0"))
        server.control("go", cue="lamp")
        page.page.wait_for_timeout(1000)
        assert finished("sea", tiny)(page.look())

        # The store goes, in the middle of a run.
        server.control("go", cue="portrait")
        page.until(lambda s: s.shown and of_run(tiny, server, s), why="a preview")
        shutil.move(tiny.folder / "actions", tiny.folder / "elsewhere")
        (tiny.folder / "manifest.json").rename(tiny.folder / "elsewhere.json")
        page.until(finished("portrait", tiny), why="the end of a run that had begun")
        server.control("go", cue="another")
        page.page.wait_for_timeout(1000)
        assert finished("portrait", tiny)(page.look())
        assert server.state()["now"]["provider"] == "hold"

        # It comes back, and so do the pictures.
        shutil.move(tiny.folder / "elsewhere", tiny.folder / "actions")
        (tiny.folder / "elsewhere.json").rename(tiny.folder / "manifest.json")
        server.control("go", cue="sea")
        page.until(finished("sea", tiny), why="the picture after the store came back")
        assert before is not None
        assert page.errors == []
        assert page.strangers == []
        assert "Traceback" not in server.log.read_text()


def test_a_show_with_nothing_to_play_is_black_and_quiet(tmp_path: Path, browser: Browser) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(sets=0), toml=MANUAL + DISPLAY)
    with server_process(tiny.folder) as server, wall(browser, server.address) as page:
        page.until(lambda s: s.stats.get("link", {}).get("open"), why="the socket")
        server.control("go")
        page.until(lambda s: s.stats["screening"] == "active")
        page.page.wait_for_timeout(1200)
        assert page.look().picture is None
        text = page.page.inner_text("body").lower()
        for word in ("error", "fail", "exception", "not found", "undefined", "null"):
            assert word not in text
        assert page.errors == []
