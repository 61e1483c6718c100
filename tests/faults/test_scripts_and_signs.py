"""What is written from the right, and pictures with holes, as visitors and technicians see them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, WebSocketRoute, expect

from server.reports.html import render_page
from server.stage.glyphs import MOST, advice, characters, in_words
from tests.helpers import walls
from tests.helpers.reports import PROMPTS, full_report
from tests.helpers.servers import server_process
from tests.helpers.shows import MANUAL, Rhythm, cue, line, make_show, prompt
from tests.helpers.walls import wall

pytestmark = pytest.mark.browser

WEB = Path(__file__).resolve().parents[2] / "server/web/static"
TITLE = "הדלת הפתוחה."
SAID = "זאת הרצאה בשני חלקים."
WORDS = [
    {"word": f" {word}", "start": 0.1 + place / 10, "end": 0.2 + place / 10}
    for place, word in enumerate(SAID.split())
]
TYPED = "ציור של ים."
CUES = [
    cue(0, "start"),
    cue(0, "set-fade-status", fade=False),
    line(0.1, SAID, id="said", words=WORDS, when=[0.1, 60.0]),
    prompt(0.4, TYPED, id="typed", delay={"base": 20, "variance": 0}),
    cue(600, "end"),
]

# Every run of text that begins from the right, and which way the element around it is written.
ASTRAY = r"""
() => {
  const astray = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (parent.closest("script, style, title, desc, svg")) continue;
    const first = /\p{Script=Hebrew}|\p{Script=Latin}/u.exec(node.data);
    if (!first || !/\p{Script=Hebrew}/u.test(first[0])) continue;
    if (getComputedStyle(parent).direction !== "rtl") astray.push(parent.outerHTML.slice(0, 120));
  }
  return astray;
}
"""

# Where the last sign of a text stands, and its first: {first, last} in pixels from the left.
ENDS = r"""
(selector) => {
  const texts = [];
  const root = document.querySelector(selector);
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (let i = 0; i < node.length; i += 1) if (node.data[i].trim()) texts.push([node, i]);
  }
  const left = ([node, at]) => {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getBoundingClientRect().left;
  };
  const [node, at] = texts.at(-1);
  return { first: left(texts.at(0)), last: left(texts.at(-1)), sign: node.data[at] };
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


def assert_ends_at_the_left(page: Page, selector: str) -> None:
    ends = page.evaluate(ENDS, selector)
    assert ends["sign"] == "."
    assert ends["last"] < ends["first"], f"{selector}: the full stop is at the wrong end: {ends}"


def test_a_full_stop_stands_at_the_end_whichever_that_is(tmp_path: Path, browser: Browser) -> None:
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=2, step=0.1), toml=MANUAL)
    toml = tiny.folder / "show.toml"
    toml.write_text(toml.read_text().replace('title = "Tiny"', f'title = "{TITLE}"'))
    with (
        server_process(tiny.folder) as server,
        wall(browser, server.address, "screen=שמאל") as kiosk,
    ):
        page = kiosk.page
        page.get_by_role("heading", name=TITLE).wait_for()
        assert_ends_at_the_left(page, "#lobby .title")
        server.control("go")
        kiosk.until(lambda s: s.caption == SAID, why="the caption")
        expect(page.locator("#typing .typed")).to_have_text(TYPED, timeout=10_000)
        assert_ends_at_the_left(page, "#captions p")
        assert_ends_at_the_left(page, "#typing")
        # It begins at the right of the wall, and the caret stands after the last letter.
        typing = page.evaluate(
            """() => {
              const box = (s) => document.querySelector(s).getBoundingClientRect();
              return { typed: box("#typing .typed").right, caret: box("#typing .caret").left,
                       start: box("#typing .typed").left, wall: innerWidth };
            }"""
        )
        assert typing["typed"] > 0.8 * typing["wall"]
        assert abs(typing["caret"] - typing["start"]) < 3
        server.control("identify", screen="שמאל")
        expect(page.locator("#identify p")).to_have_text("שמאל", timeout=10_000)
        assert page.evaluate(ASTRAY) == []

        desk = browser.new_page()
        try:
            desk.goto(f"{server.address.http}/control")
            desk.wait_for_selector("#cue-list [data-draws] .cue")
            desk.wait_for_selector("#screens .name")
            assert SAID in desk.inner_text("#cue-list")
            assert desk.evaluate(ASTRAY) == []
        finally:
            desk.close()


def test_in_a_report_too(browser: Browser) -> None:
    html = render_page(full_report(1, title=TITLE, prompts=[TYPED] * len(PROMPTS)), {})
    page = browser.new_page()
    try:
        page.set_content(html)
        assert TYPED in page.inner_text("body")
        assert page.evaluate(ASTRAY) == []
    finally:
        page.close()


def test_the_technicians_page_says_everything_in_its_own_direction() -> None:
    """The rule that keeps it so: on that page `dom.js` alone puts words where they are read."""
    wild = [
        f"{path.name}: {found[0]}"
        for path in sorted((WEB / "control").glob("*.js"))
        if path.name != "dom.js"
        for found in re.finditer(r"\.(textContent|innerText|innerHTML)\s*=(?!=)", path.read_text())
    ]
    assert wild == []


@contextmanager
def modules(browser: Browser) -> Iterator[Page]:
    """A page that can import the pages' own modules, from http://wall.test/, without a server."""
    page = browser.new_page()

    def serve(route: Route) -> None:
        path = WEB / urlsplit(route.request.url).path.lstrip("/")
        route.fulfill(path=path) if path.is_file() else route.fulfill(body="<body>")

    page.route("http://wall.test/**", serve)
    try:
        page.goto("http://wall.test/")
        yield page
    finally:
        page.close()


def test_no_letter_is_cut_in_two(browser: Browser) -> None:
    with modules(browser) as page:
        wrong = page.evaluate(
            """async () => {
              const { visible } = await import("http://wall.test/kiosk/typing.js");
              const letters = ["👩‍🚀", " ", "שָׁ", "ל", "ก็", "é", "🇩🇪", "👍🏽"];
              const whole = Array.from(letters.join(""));
              const shown = new Set(letters.map((_, n) => letters.slice(0, n).join("")));
              shown.add(letters.join(""));
              const cut = [];
              for (let count = 0; count <= whole.length; count += 1) {
                const [typed, rest] = visible(whole, count);
                if (!shown.has(typed) || typed + rest !== whole.join("")) cut.push(typed);
              }
              return cut;
            }"""
        )
    assert wrong == []


def test_a_picture_with_holes_stands_on_black(browser: Browser) -> None:
    with modules(browser) as page:
        seen = page.evaluate(
            """async () => {
              const { Picture } = await import("http://wall.test/kiosk/picture.js");
              const root = document.createElement("div");
              document.body.append(root);
              const picture = new Picture(root);
              const bitmap = (colour, width) => {
                const canvas = new OffscreenCanvas(64, 36);
                const context = canvas.getContext("2d");
                context.fillStyle = colour;
                context.fillRect(0, 0, width, 36);
                return createImageBitmap(canvas);
              };
              const middle = () => [...[...root.querySelectorAll("canvas")].at(-1)
                .getContext("2d").getImageData(32, 18, 1, 1).data];
              const red = await bitmap("#f00", 64);
              const hole = await bitmap("#0f0", 8);
              const veil = await bitmap("#ffffff80", 64);
              picture.swap(red, null);
              const seen = { before: middle() };
              picture.swap(hole, null);
              seen.preview = middle();
              picture.swap(red, null);
              picture.swap(veil, null);
              seen.veil = middle();
              picture.crossfade = 0.05;
              picture.fade(hole, null);
              await new Promise((go) => setTimeout(go, 300));
              seen.final = middle();
              return seen;
            }"""
        )
    assert seen["before"] == [255, 0, 0, 255]
    assert seen["preview"] == [0, 0, 0, 255]
    assert seen["veil"][1:3] == [seen["veil"][0]] * 2, "the picture before shines through"
    assert seen["final"] == [0, 0, 0, 255]


def test_what_a_wall_has_no_font_for_is_measured_and_told(tmp_path: Path, browser: Browser) -> None:
    """With signs that no font has, wherever this runs: of a private use that nobody makes."""
    nobodys = "\U000f1234\U00101234"
    lobby = '[display]\ntexts = { closed = "سلام" }\n'
    tiny = make_show(tmp_path / "show", CUES, toml=MANUAL + lobby)
    lines: list[tuple[WebSocketRoute, dict[str, Any]]] = []

    def between(line: WebSocketRoute) -> None:
        def pass_on(message: str | bytes) -> None:
            if isinstance(message, str) and '"welcome"' in message:
                welcome = json.loads(message)
                assert set("הרצאהسلام") <= set(welcome["show"]["characters"])
                welcome["show"]["characters"] = f"Žé“—{nobodys}"
                message = json.dumps(welcome)
                lines.append((line, welcome))
            line.send(message)

        line.connect_to_server().on_message(pass_on)

    with server_process(tiny.folder) as server:
        page = browser.new_page()
        page.route_web_socket("**/ws/screen", between)

        def told(expected: str) -> None:
            until, text = time.monotonic() + 15, ""
            while expected not in text and time.monotonic() < until:
                page.wait_for_timeout(50)
                health = server.state()["health"]
                codes = {each["code"]: each["message"] for each in health["conditions"]}
                text = codes.get("screen_lacks_characters", "")
            assert expected in text

        try:
            page.goto(f"{server.address.http}/?screen=left")
            told(f"left cannot draw 2 characters of this show: {' '.join(nobodys)};")
            # The page stays for months; the server that comes next may play another show.
            line, welcome = lines[-1]
            welcome["show"]["characters"] = f"Ž{nobodys[0]}"
            line.send(json.dumps(welcome))
            told(f"left cannot draw 1 character of this show: {nobodys[0]};")
        finally:
            page.close()


def test_which_characters_are_told_to_screens() -> None:
    texts = ["Łódź, “quoted” — naïve", "世界 世", "👩\u200d🚀\ufe0f", "\u202eשל\u200b", "\ue000"]
    assert list(characters(texts)) == sorted("—“”של世界👩🚀")
    assert advice("กข한あ") == "fonts-noto-cjk (Japanese, Korean), fonts-noto-core (Thai)"
    assert advice("🚀") == "fonts-noto-color-emoji (emoji and signs)"
    assert in_words("ก", 1) == "1 character of this show: ก"
    assert in_words("กขค", 3) == "3 characters of this show: ก ข ค"
    assert in_words("ก" * 48, 90).endswith("ก …")
    assert len(characters(["".join(map(chr, range(0x4E00, 0x9F00)))])) == MOST
