"""The technician's page in a real browser, beside a real kiosk, on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.helpers import walls
from tests.helpers.pictures import Pixels, difference, pixels
from tests.helpers.servers import Address, ServerProcess, server_process
from tests.helpers.shows import MANUAL, Rhythm, TinyShow, cue, line, make_show, prompt
from tests.helpers.walls import Sight, wall

pytestmark = pytest.mark.browser

DISPLAY = "[display]\ncrossfade = 0.3\nfade = 0.2\n"
CUES = [
    cue(0, "start"),
    line(0, "somebody paints the sea", id="sea"),
    prompt(20, "a lamp", id="lamp"),
    cue(25, "navigate", route="/wings"),
    prompt(30, "a curtain", id="curtain"),
    cue(600, "end"),
]
RHYTHM = Rhythm(previews=3, step=0.15)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}
PATIENCE = 15_000
NAMELESS = """() => [...document.querySelectorAll("button, input, select")]
  .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))
  .map((e) => e.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@pytest.fixture
def tiny(tmp_path: Path) -> TinyShow:
    return make_show(tmp_path / "show", CUES, rhythm=RHYTHM, toml=MANUAL + DISPLAY)


@dataclass
class Desk:
    """One control page. `errors` is what its console complained of, `strangers` who it asked."""

    page: Page
    address: Address
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def has(self, selector: str, text: str) -> None:
        """Wait until an element says something."""
        expect(self.page.locator(selector)).to_contain_text(text, timeout=PATIENCE)

    def shows(self, selector: str, *, visible: bool = True) -> None:
        """Wait until an element can be seen, or cannot."""
        expect(self.page.locator(selector)).to_be_visible(visible=visible, timeout=PATIENCE)

    def can(self, selector: str, *, enabled: bool = True) -> None:
        """Wait until a button can be pressed, or cannot."""
        expect(self.page.locator(selector)).to_be_enabled(enabled=enabled, timeout=PATIENCE)

    def press(self, selector: str) -> None:
        """Press a button, as soon as it can be."""
        self.page.locator(selector).click(timeout=PATIENCE)


@contextmanager
def control(
    browser: Browser, address: Address, size: dict[str, int] | None = None
) -> Iterator[Desk]:
    """Open the page."""
    phone = size == PHONE
    options: dict[str, Any] = {"viewport": size or DESKTOP, "has_touch": phone, "is_mobile": phone}
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        desk = Desk(page, address)

        def heard(message: ConsoleMessage) -> None:
            if message.type == "error":
                desk.errors.append(message.text)

        page.on("console", heard)
        page.on("pageerror", lambda error: desk.errors.append(str(error)))
        ours = (address.http, address.http.replace("http", "ws"), "data:", "blob:")
        page.on(
            "request",
            lambda r: None if r.url.startswith(ours) else desk.strangers.append(r.url),
        )
        page.goto(f"{address.http}/control")
        yield desk
    finally:
        context.close()


def of(tiny: TinyShow, cue_id: str) -> Any:
    """Whether the final image of a cue stands, of whichever set."""

    def stands(sight: Sight) -> bool:
        return any(sight.is_of(tiny.final(cue_id, number)) for number in (0, 1))

    return stands


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_go_hold_panic_and_restore(tiny: TinyShow, browser: Browser, size: dict[str, int]) -> None:
    with (
        server_process(tiny.folder) as server,
        wall(browser, server.address) as kiosk,
        control(browser, server.address, size) as desk,
    ):
        # What matters most is there at once, without scrolling, and large enough for a thumb.
        for selector in ("#go", "#hold", "#panic", "#mode-effective", "#mode-why", "#clock"):
            box = desk.page.locator(selector).bounding_box()
            assert box is not None
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= size["height"], selector
        for selector in ("#go", "#hold", "#panic", "#pause", "#previous", "#skip"):
            box = desk.page.locator(selector).bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 44, selector
        assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert desk.page.evaluate(NAMELESS) == []

        desk.has("#screens", "wall")
        desk.has("#go-cue", "sea")
        desk.has("#mode-effective", "static")
        if size == PHONE:
            desk.page.locator("#go").tap(timeout=PATIENCE)
        else:
            desk.can("#go")
            desk.page.keyboard.press("Space")
        desk.shows("#alarm-schedule")
        kiosk.until(of(tiny, "sea"), why="the first picture")
        desk.has("#now", "finished")
        desk.has("#asrun", "completed")
        desk.has("#next-cue", "lamp")
        expect(desk.page.locator("#picture img[data-on]")).to_have_attribute(
            "src",
            f"{server.address.http}/frames/{server.state()['now']['run']}/4",
            timeout=PATIENCE,
        )

        desk.press("#hold")
        desk.has("#said", "Holding")
        assert of(tiny, "sea")(kiosk.look())

        # A slip does nothing.
        desk.page.locator("#panic").dblclick(timeout=PATIENCE)
        assert server.state()["panic"] is None
        desk.has("#panic", "press again")
        desk.page.wait_for_timeout(450)  # longer than a double click
        desk.press("#panic")
        desk.shows("#alarm-panic")
        desk.can("#go", enabled=False)
        desk.has("#over", "panic")
        photographed(kiosk, lambda seen: seen.mean() < 2)
        server.control("seek", time=21)
        kiosk.page.wait_for_timeout(300)
        assert kiosk.photograph().mean() < 2

        desk.press("#restore")
        desk.shows("#alarm-panic", visible=False)
        kiosk.until(of(tiny, "lamp"), why="the picture of where the show is now")
        finals = [pixels(tiny.final("lamp", number)) for number in (0, 1)]
        photographed(kiosk, lambda seen: min(difference(seen, final) for final in finals) < 25)
        desk.can("#go")
        desk.has("#log", "panic")
        assert desk.errors == []
        assert desk.strangers == []
        assert kiosk.errors == []


def photographed(kiosk: walls.Wall, right: Callable[[Pixels], object]) -> None:
    """Wait until what a visitor sees is as it should be."""
    for _ in range(300):
        if right(kiosk.photograph()):
            return
        kiosk.page.wait_for_timeout(50)
    raise AssertionError(f"the wall is not so: mean {kiosk.photograph().mean():.1f}")


def test_panic_by_holding_the_button_or_the_key(tiny: TinyShow, browser: Browser) -> None:
    with server_process(tiny.folder) as server, control(browser, server.address) as desk:
        desk.can("#panic")
        desk.page.locator("#panic").hover()
        desk.page.mouse.down()
        desk.shows("#alarm-panic")
        desk.page.mouse.up()
        desk.press("#restore")
        desk.shows("#alarm-panic", visible=False)
        desk.page.keyboard.press("Escape")  # too short
        desk.page.keyboard.down("Escape")
        desk.shows("#alarm-panic")
        desk.page.keyboard.up("Escape")
        names = [entry["command"] for entry in server.control("log")["commands"]]
        assert names == ["panic", "restore", "panic"]


def test_cues_are_put_on_standby_and_gone_to(tiny: TinyShow, browser: Browser) -> None:
    with server_process(tiny.folder) as server, control(browser, server.address) as desk:
        rows = desk.page.locator("#cue-list > li:visible")
        expect(rows).to_have_count(3, timeout=PATIENCE)
        desk.page.locator("#cues-all").check()
        expect(rows).to_have_count(len(CUES), timeout=PATIENCE)
        desk.press("#cue-list > li[data-index='4'] .cue")
        desk.press("#cue-list > li[data-index='4'] [data-command='standby']")
        desk.has("#next-cue", "curtain")
        desk.press("#cue-list > li[data-index='2'] .cue")
        desk.press("#cue-list > li[data-index='2'] [data-command='go']")
        desk.has("#now", "lamp")
        expect(desk.page.locator("#cue-list [aria-current]")).to_contain_text("a lamp")

        # Space goes on, though the list was pressed last; in a field it is a space.
        desk.page.locator("#mode-until").evaluate("(node) => node.blur()")
        desk.page.wait_for_timeout(600)
        desk.page.keyboard.press("Space")
        desk.has("#now", "curtain")
        desk.page.locator("#seek-time").fill("0:00:21")
        desk.page.locator("#seek-time").press("Enter")
        desk.has("#now", "lamp")
        desk.press("#pause")
        desk.has("#schedule", "paused")
        desk.press("#pause")
        desk.has("#schedule", "off schedule")
        server.control("rejoin")
        desk.shows("#alarm-schedule", visible=False)
        assert desk.errors == []


def test_what_is_not_true_any_more_does_not_look_true(tiny: TinyShow, browser: Browser) -> None:
    server = ServerProcess.start(tiny.folder)
    try:
        with control(browser, server.address) as desk:
            desk.can("#go")
            desk.shows("#alarm-line", visible=False)
            server.kill()
            desk.shows("#alarm-line")
            desk.can("#go", enabled=False)
            desk.can("#panic", enabled=False)
            server = ServerProcess.start(tiny.folder, port=server.address.port)
            desk.shows("#alarm-line", visible=False)
            desk.can("#go")
            # While nobody is there, the sockets and the question why are refused; else, nothing.
            refused = ("WebSocket", "ERR_CONNECTION_REFUSED")
            assert [text for text in desk.errors if not any(map(text.__contains__, refused))] == []
    finally:
        server.close()


def test_a_token_is_asked_for_and_kept_in_the_tab_alone(tiny: TinyShow, browser: Browser) -> None:
    tokens = {"UNDERSTUDY_OPERATOR_TOKEN": "op-secret", "UNDERSTUDY_VIEWER_TOKEN": "view-secret"}
    with (
        server_process(tiny.folder, environment=tokens) as server,
        control(browser, server.address) as desk,
    ):

        def come_in(token: str) -> None:
            desk.shows("#door")
            desk.page.locator("#door-token").fill(token)
            desk.page.locator("#door button").click()

        come_in("wrong")
        desk.has("#door-why", "not one of this server")
        come_in("view-secret")
        desk.has("#line", "viewing only")
        desk.can("#go", enabled=False)
        desk.page.evaluate("sessionStorage.clear()")
        desk.page.reload()
        come_in("op-secret")
        desk.can("#go")
        desk.page.reload()
        desk.can("#go")
        assert "secret" not in desk.page.url
        assert desk.page.evaluate("JSON.stringify(localStorage)").find("secret") == -1
        assert "secret" not in server.log.read_text()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_mode_is_forced_and_released(
    tiny: TinyShow, browser: Browser, size: dict[str, int]
) -> None:
    with (
        server_process(tiny.folder) as server,
        control(browser, server.address, size) as desk,
        control(browser, server.address) as another,
    ):
        desk.has("#mode-effective", "static")
        desk.page.locator("#mode-reason").fill("cold room")
        desk.press("#mode-buttons [data-mode=live]")
        for page in (desk, another):
            page.has("#mode-effective", "live")
            page.has("#mode-why", "forced live by")
            page.has("#mode-why", "cold room")
        assert server.state()["mode"]["effective"] == "live"
        another.press("#mode-release")
        desk.has("#mode-effective", "static")
        desk.has("#mode-why", "static as configured")
        assert desk.errors == another.errors == []


def test_a_rehearsal_and_a_force_cannot_be_mistaken(tiny: TinyShow, browser: Browser) -> None:
    """What this server does not say by itself is said by one that stands in for it."""
    with server_process(tiny.folder) as server:
        state = server.state()
        state |= {
            "activation": "rehearsal",
            "speed": 4.0,
            "mode": {
                "configured": "hybrid",
                "effective": "static",
                "forced": "static",
                "by": "foh-tablet (operator)",
                "reason": "GPU host noisy",
                "until": "next cue",
            },
            "engines": [
                {"name": "box", "local": False, "state": "resting", "reason": "hung", "since": None}
            ],
        }
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        try:
            page = context.new_page()
            asked: list[str] = []
            page.route_web_socket("**/ws/control", lambda socket: stand_in(socket, state, asked))
            page.goto(f"{server.address.http}/control")
            expect(page.locator("#activation")).to_have_text("Rehearsal ×4", timeout=PATIENCE)  # noqa: RUF001 - a sign
            assert "REHEARSAL" in page.title()
            frame = "getComputedStyle(document.body, '::after').borderTopWidth"
            assert page.evaluate(frame) == "7px"
            why = page.locator("#mode-why")
            expect(why).to_contain_text("forced by foh-tablet until the next cue is over")
            expect(why).to_contain_text("GPU host noisy")
            expect(page.locator("#engines")).to_contain_text("resting: hung")
            page.locator("#mode-reason").fill("cold room")
            page.locator("#mode-until").select_option("600")
            page.locator("#mode-buttons [data-mode=live]").click(timeout=PATIENCE)
            page.locator("#mode-release").click(timeout=PATIENCE)
            expect(page.locator("#said")).to_contain_text("Released", timeout=PATIENCE)
        finally:
            context.close()
    force = {"mode": "live", "until": 600, "reason": "cold room"}
    assert f"mode.force {force}" in asked
    assert "mode.release {}" in asked


def stand_in(socket: Any, state: dict[str, Any], asked: list[str]) -> None:
    def tell(message: dict[str, Any]) -> None:
        socket.send(json.dumps(message))

    def on_message(text: str) -> None:
        message = json.loads(text)
        match message["type"]:
            case "hello":
                commands = ["mode.force", "mode.release", "go", "panic", "cues", "asrun"]
                welcome = {"protocol": 1, "role": "operator", "epoch": "e", "commands": commands}
                tell({"type": "welcome", **welcome, "server_time": state["server_time"]})
                tell({"type": "state", "epoch": "e", "seq": 1, "state": state})
            case "sync":
                now = state["server_time"]
                tell({"type": "sync", "t0": message["t0"], "t1": now, "t2": now})
            case "command":
                asked.append(f"{message['command']} {message['args']}")
                result: dict[str, Any] = {"cues": [], "rows": []}
                tell({"type": "reply", "id": message["id"], "ok": True, "result": result})

    socket.on_message(on_message)
