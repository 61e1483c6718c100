"""A page that is told nothing says so, and does not go on showing what it was told last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.helpers import walls
from tests.helpers.servers import server_process
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, make_show, prompt
from tests.helpers.walls import wall

pytestmark = pytest.mark.browser

# Timers of the page are so many times as fast: what it waits for is not waited for here.
HASTE = """
for (const name of ["setTimeout", "setInterval"]) {
  const real = window[name];
  window[name] = (fn, wait, ...rest) => real(fn, (wait ?? 0) / 4, ...rest);
}
"""
# So is its steady clock, where it does not play by it.
WITH_ITS_CLOCK = (
    HASTE
    + """
const now = performance.now.bind(performance);
performance.now = () => now() * 4;
"""
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    cues = [cue(0, "start"), prompt(0, "a lamp", id="lamp"), cue(600, "end")]
    return make_show(tmp_path / "show", cues, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL)


def test_a_state_that_stands_still_is_not_believed(tiny: TinyShow, browser: Browser) -> None:
    """The line is open and the server answers, but nobody tells the state any more."""
    dumb = False
    lines = 0

    def between(line: WebSocketRoute) -> None:
        nonlocal lines
        lines += 1
        server_side = line.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            if not (dumb and json.loads(message)["type"] == "state"):
                line.send(message)

        server_side.on_message(pass_on)

    with server_process(tiny.folder) as server:
        page = browser.new_page()
        page.add_init_script(WITH_ITS_CLOCK)
        page.route_web_socket("**/ws/control", between)
        try:
            page.goto(f"{server.address.http}/control")
            expect(page.locator("#health")).to_have_attribute("data-level", "ok", timeout=15_000)
            expect(page.locator("#alarm-line")).to_be_hidden()
            dumb = True
            expect(page.locator("#alarm-line")).to_be_visible(timeout=15_000)
            expect(page.locator("#alarm-line p")).to_contain_text(
                "What you see is old: since", timeout=1000
            )
            expect(page.locator("#health")).to_have_attribute("data-level", "unknown")
            expect(page.locator("#health .words")).to_contain_text("unknown since")
            expect(page.locator("#go")).to_be_disabled()
            before = lines
            page.wait_for_timeout(3500)
            assert lines > before, "it does not take a new line"
            dumb = False
            expect(page.locator("#alarm-line")).to_be_hidden(timeout=15_000)
            expect(page.locator("#health")).to_have_attribute("data-level", "ok")
            expect(page.locator("#go")).to_be_enabled()
        finally:
            page.close()


def test_the_wall_takes_a_new_line_where_the_old_one_is_dumb(
    tiny: TinyShow, browser: Browser
) -> None:
    dumb = False
    lines = 0

    def between(line: WebSocketRoute) -> None:
        nonlocal lines
        lines += 1
        line.connect_to_server().on_message(lambda message: None if dumb else line.send(message))

    with server_process(tiny.folder) as server, wall(browser, server.address, "screen=w") as kiosk:
        page = kiosk.page
        page.add_init_script(HASTE)
        page.route_web_socket("**/ws/screen", between)
        page.reload()
        server.control("go")
        # A busy machine may skip the previews: the final image is told, then painted.
        seen = kiosk.until(
            lambda s: s.shown and s.shown["final"] and s.picture is not None and not s.crossfading
        )
        assert seen.picture is not None
        dumb, before = True, lines
        page.wait_for_timeout(2500)
        assert lines > before
        still = kiosk.look().picture
        assert still is not None
        assert (still == seen.picture).all(), "the picture did not stay"
        dumb = False
        kiosk.until(lambda s: s.stats["link"]["open"] and s.stats["clock"]["samples"] > 0)


def test_everything_that_is_wrong_is_on_the_page(tiny: TinyShow, browser: Browser) -> None:
    gone = {"screen": "right", "connected": False, "expected": True}
    told = [
        {"code": "screen_gone", "level": "degraded", "message": "right: gone since 14:03"},
        {"code": "odd", "level": "note", "message": "something is odd"},
    ]

    def between(line: WebSocketRoute) -> None:
        def pass_on(message: str | bytes) -> None:
            told_now = json.loads(message)
            if told_now["type"] == "state":
                state = told_now["state"]
                state["screens"].append({**gone, "trouble": told[0]["message"]})
                state["health"] |= {"level": "degraded", "conditions": told}
            line.send(json.dumps(told_now))

        line.connect_to_server().on_message(pass_on)

    with server_process(tiny.folder) as server, wall(browser, server.address, "screen=left"):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.route_web_socket("**/ws/control", between)
        try:
            page.goto(f"{server.address.http}/control")
            row = page.locator("#screens li", has_text="right")
            expect(row.locator(".age")).to_have_text("gone since 14:03", timeout=15_000)
            expect(page.locator("#screens-title")).to_contain_text("1 of 2")
            expect(page.locator("#conditions summary")).to_have_text("1 to look at")
            # It is read out when it changes, and is still what opens the list, for everybody.
            assert page.locator("#conditions summary").get_attribute("role") is None
            expect(page.locator("#conditions summary [role=status]")).to_be_visible()
            expect(page.locator("#conditions-list .message")).to_have_text(
                ["right: gone since 14:03", "something is odd"]
            )
            row.get_by_role("button", name="Expect right no more").click()
            expect(page.locator("#said")).to_contain_text("remembered", timeout=10_000)
        finally:
            page.close()
