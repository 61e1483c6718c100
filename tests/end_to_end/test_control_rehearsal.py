"""Rehearsing from the technician's page, and the preflight on it, in a real browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.end_to_end.test_control_page import DESKTOP, NAMELESS, PATIENCE, PHONE, Desk, control
from tests.helpers import walls
from tests.helpers.servers import server_process
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt

pytestmark = pytest.mark.browser

CUES = [
    cue(0, "start"),
    line(0, "the sea", id="sea"),
    prompt(30, "a lamp", id="lamp"),
    cue(600, "end"),
]
RHYTHM = Rhythm(previews=2, step=0.15)
MOST = """(id) => { const at = document.getElementById(id).getBoundingClientRect();
  return [at.left >= 0, at.right <= innerWidth, at.height] }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, rhythms={"lamp": Rhythm(sets=0)})


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where somebody picks up and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def is_the_show(desk: Desk) -> None:
    """Nothing on the page looks as if the show itself were a rehearsal."""
    expect(desk.page.locator("body")).to_have_attribute("data-activation", "show")
    desk.shows("#activation", visible=False)
    assert "REHEARSAL" not in desk.page.title()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_rehearse_now_and_what_would_go_wrong(
    tiny: TinyShow, browser: Browser, size: dict[str, int]
) -> None:
    with server_process(tiny.folder) as server, control(browser, server.address, size) as desk:
        desk.has("#preflight-said", "not ready: 1 error")
        desk.has("#preflight-findings", "there is no set to play")
        desk.has("#rehearsal-said", "not rehearsed from here yet")
        desk.shows("#rehearse-terms", visible=False)
        desk.press("#rehearse-more")
        desk.page.select_option("#rehearse-fail", "sea")
        desk.page.locator("#rehearse-screenings").fill("2")
        assert desk.page.evaluate(NAMELESS) == []
        for button in ("rehearse", "rehearse-more", "rehearse-fail"):
            left, right, height = desk.page.evaluate(MOST, button)
            assert left
            assert right
            assert height >= 44
        desk.press("#rehearse")
        desk.has("#rehearsal-said", "Not ready")
        is_the_show(desk)
        desk.has("#rehearsal-counts", "error")
        desk.has("#rehearsal-asked", "2 screenings · without sea")
        first = desk.page.locator("#rehearsal-findings > li").first
        expect(first).to_contain_text("error", timeout=PATIENCE)
        desk.has("#rehearsal-findings", "sea")
        desk.has("#rehearsal-findings", "understudy generate batch --only")
        assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        with desk.page.expect_popup() as opened:
            desk.press("#rehearsal-report")
        opened.value.wait_for_load_state()
        expect(opened.value.locator("body")).to_contain_text("lamp", timeout=PATIENCE)
        opened.value.close()
        desk.has("#log", "rehearse")
        assert server.state()["screening"]["status"] != "active"
        assert desk.errors == []
        assert desk.strangers == []


def test_with_the_keyboard_alone_and_go_is_not_touched(tiny: TinyShow, browser: Browser) -> None:
    with server_process(tiny.folder) as server, control(browser, server.address) as desk:
        desk.can("#rehearse")
        desk.shows("#rehearse")  # what is hidden takes no focus
        desk.page.locator("#rehearse").focus()
        expect(desk.page.locator("#rehearse")).to_be_focused()
        desk.page.keyboard.press("Tab")
        expect(desk.page.locator("#rehearse-more")).to_be_focused()
        desk.page.keyboard.press("Space")
        desk.shows("#rehearse-terms")
        expect(desk.page.locator("#rehearse-more")).to_have_attribute("aria-expanded", "true")
        desk.page.locator("#rehearse-bandwidth").focus()
        desk.page.keyboard.type("8M")
        desk.page.keyboard.press("Enter")
        desk.has("#rehearsal-when", "rehearsed at")
        desk.has("#rehearsal-asked", "a line of 8 Mbit/s")
        assert [each["command"] for each in server.control("log")["commands"]] == ["rehearse"]
        expect(desk.page.locator("#rehearsal-said")).to_have_attribute("role", "status")


def test_it_is_broken_off_and_what_is_running_is_told_to_everybody(
    tmp_path: Path, browser: Browser, deaf: str
) -> None:
    engine = f'[[engines]]\nname = "box"\nkind = "worker"\nurl = "{deaf}"\nlive = true\n'
    tiny = make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL + engine)
    with (
        server_process(tiny.folder) as server,
        control(browser, server.address) as desk,
        control(browser, server.address, PHONE) as another,
    ):
        desk.press("#rehearse")
        for page in (desk, another):
            page.has("#rehearsal-said", "Rehearsing")
            page.has("#rehearsal-seconds", " s")
            page.shows("#rehearse", visible=False)
            is_the_show(page)
        desk.press("#go")
        desk.has("#now", "sea")
        another.press("#rehearse-cancel")
        desk.has("#rehearsal-said", "Broken off")
        desk.has("#rehearsal-when", "cancelled by desk")
        desk.shows("#rehearse")
        desk.has("#now", "finished")
        assert desk.errors == another.errors == []


def test_a_viewer_reads_and_opens_the_report(tiny: TinyShow, browser: Browser) -> None:
    tokens = {"UNDERSTUDY_OPERATOR_TOKEN": "op-secret", "UNDERSTUDY_VIEWER_TOKEN": "view-secret"}
    with (
        server_process(tiny.folder, environment=tokens) as server,
        control(browser, server.address) as desk,
        control(browser, server.address) as guest,
    ):
        for page, token in ((desk, "op-secret"), (guest, "view-secret")):
            page.shows("#door")
            page.page.locator("#door-token").fill(token)
            page.page.locator("#door button").click()
        desk.press("#rehearse")
        guest.has("#rehearsal-said", "Not ready")
        guest.shows("#rehearse", visible=False)
        guest.shows("#rehearse-more", visible=False)
        with guest.page.expect_popup() as opened:
            guest.press("#rehearsal-report")
        opened.value.wait_for_load_state()
        expect(opened.value.locator("body")).to_contain_text("lamp", timeout=PATIENCE)
        assert "secret" not in opened.value.url
        # The report is a stranger: what this tab keeps is out of its reach.
        reach = "() => { try { return String(sessionStorage.length) } catch (e) { return e.name } }"
        if opened.value.url.partition("?")[0].endswith(".html"):
            assert opened.value.evaluate(reach) == "SecurityError"


def test_the_preflight_says_when_it_was_and_what_it_found(tiny: TinyShow, browser: Browser) -> None:
    (tiny.set_folder("sea", 0) / "1.jpg").unlink()
    with server_process(tiny.folder) as server, control(browser, server.address) as desk:
        desk.has("#preflight-findings", "missing")
        assert len(desk.page.locator("#preflight-at").inner_text()) == len("09:50")
        expect(desk.page.locator("#preflight")).to_have_attribute("data-verdict", "not ready")
        assert server.state()["health"]["level"] == "degraded"
