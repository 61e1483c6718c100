"""The Studio's page in a real browser, beside a Studio that follows a script."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect

from tests.helpers import walls
from tests.helpers.studio_pages import STEPS, ScriptedStudio, paint, scripted_studio

pytestmark = pytest.mark.browser

DESK: Final[ViewportSize] = {"width": 1440, "height": 900}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
PATIENCE = 10_000

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a")]
  .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))
  .map((e) => e.outerHTML)"""

# Every text that can be seen: how large it is, and how well it stands out from what is behind it.
TEXTS = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      if (a > 0.9) return [r, g, b];
    }
    return [0, 0, 0];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility()) continue;
    if (e.closest("button:disabled, noscript, .unseen, script, style, option")) continue;
    const style = getComputedStyle(e);
    const [one, other] = [light(parse(style.color)), light(behind(e))].sort((a, b) => b - a);
    texts.push({
      text: walker.currentNode.textContent.trim(),
      size: parseFloat(style.fontSize),
      contrast: (one + 0.05) / (other + 0.05),
    });
  }
  return texts;
}"""

# What can be touched and is smaller than a thumb.
SMALL = """() => [...document.querySelectorAll("button, select, input, a")]
  .filter((e) => e.checkVisibility())
  .filter((e) => { const b = e.getBoundingClientRect(); return Math.min(b.width, b.height) < 44; })
  .map((e) => e.outerHTML)"""

# From when there is a picture in a place, there is one in every frame that is painted.
WATCH = """() => {
  window.empty = 0;
  const had = new WeakSet();
  const look = () => {
    for (const frame of document.querySelectorAll("#running .frame")) {
      const whole = [...frame.querySelectorAll("img")].some((i) => i.complete && i.naturalWidth);
      if (whole) had.add(frame);
      else if (had.has(frame)) window.empty += 1;
    }
    requestAnimationFrame(look);
  };
  look();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@dataclass
class Artist:
    """Whoever sits at the page. `errors` is what its console said, `strangers` who it asked."""

    page: Page
    studio: ScriptedStudio
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def sees(self, selector: str, text: str) -> None:
        """Wait until an element says something."""
        expect(self.page.locator(selector)).to_contain_text(text, timeout=PATIENCE)

    def counts(self, selector: str, number: int) -> None:
        """Wait until there are so many."""
        expect(self.page.locator(selector)).to_have_count(number, timeout=PATIENCE)

    def find(self, selector: str) -> Locator:
        """An element."""
        return self.page.locator(selector)

    def types(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            self.page.keyboard.press(key)

    def waiting(self) -> list[str]:
        """The prompts that wait, from the top."""
        return self.find("#waiting .prompt").all_text_contents()

    def sees_waiting(self, *prompts: str) -> None:
        """Wait until these wait, in this order."""
        expect(self.find("#waiting .prompt")).to_have_text(list(prompts), timeout=PATIENCE)

    def asked(self, method: str, path: str, number: int = 1) -> list[Any]:
        """Wait until so much was asked for; the bodies."""
        until = time.monotonic() + PATIENCE / 1000
        while len(bodies := self.studio.requests(method, path)) < number:
            assert time.monotonic() < until, f"{method} {path} was not asked for: {bodies}"
            self.page.wait_for_timeout(20)
        return bodies


@contextmanager
def at_the_page(
    browser: Browser, studio: ScriptedStudio, size: ViewportSize = DESK
) -> Iterator[Artist]:
    """Open the page of a Studio, and find nothing wrong with it at the end."""
    phone = size == PHONE
    with scripted_studio(studio) as address:
        context = browser.new_context(
            viewport=size,
            has_touch=phone,
            is_mobile=phone,
        )
        try:
            page = context.new_page()
            artist = Artist(page, studio)

            def heard(message: ConsoleMessage) -> None:
                if message.type == "error":
                    artist.errors.append(message.text)

            page.on("console", heard)
            page.on("pageerror", lambda error: artist.errors.append(str(error)))
            ours = (address.http, address.http.replace("http", "ws"), "data:", "blob:")
            page.on(
                "request",
                lambda r: None if r.url.startswith(ours) else artist.strangers.append(r.url),
            )
            page.goto(address.http)
            yield artist
            assert artist.errors == []
            assert artist.strangers == []
        finally:
            context.close()


def test_a_prompt_becomes_pictures_step_by_step(browser: Browser) -> None:
    studio = ScriptedStudio()
    with at_the_page(browser, studio) as artist:
        artist.sees("#line", "Connected")
        artist.sees("#who", "Maria")
        artist.sees("#running-none", "Write what you would like to see")
        artist.find("#ask-prompt").fill("a lighthouse in fog")
        artist.find("#ask-style").select_option("Watercolor")
        artist.find("#ask-n").select_option("2")
        artist.find("#ask-speed").select_option("fast")
        artist.find("#ask-seed").fill("77")
        artist.sees("#ask-estimate", "2 pictures, about 20 s, 0.03 EUR")
        artist.find("#draw").click()
        (body,) = artist.asked("POST", "/api/jobs")
        assert body == {
            "kind": "draw",
            "prompt": "a lighthouse in fog",
            "program": "P0",
            "style": "Watercolor",
            "n": 2,
            "speed": "fast",
            "seed": 77,
        }
        artist.sees_waiting("a lighthouse in fog")
        artist.sees("#waiting .state", "nobody knows yet when")

        (job,) = studio.jobs.values()
        job["eta_seconds"] = 40
        studio.start(job)
        artist.sees("#running .prompt", "a lighthouse in fog")
        artist.counts("#waiting > li", 0)
        artist.sees("#running .state", "left")
        artist.sees("#queue", "1 drawing")
        artist.page.evaluate(WATCH)
        for step in range(1, STEPS + 1):
            studio.step(job, 0, step)
            artist.sees("#running .tile >> nth=0", f"step {step} of {STEPS}")
        shown = artist.find("#running .tile img").first
        expect(shown).to_have_attribute(
            "src", f"{artist.page.url}takes/{job['items'][0]['take']}/5.jpg"
        )
        studio.ready(job, 0)
        artist.sees("#running .tile >> nth=0", "seed 77")
        studio.start(job, 1)
        studio.ready(job, 1)
        artist.sees("#done .state", "2 pictures")
        artist.counts("#done .tile img", 2)
        artist.counts("#running > li", 0)
        assert artist.page.evaluate("window.empty") == 0


def test_a_double_click_is_one_job(browser: Browser) -> None:
    studio = ScriptedStudio()
    with at_the_page(browser, studio) as artist:
        artist.find("#ask-prompt").fill("one lamp")
        artist.find("#draw").dblclick()
        artist.sees_waiting("one lamp")
        assert len(studio.jobs) == 1
        # Somebody who presses once more means another one.
        artist.find("#draw").click()
        artist.sees_waiting("one lamp", "one lamp")
        keys = [key for _, path, _, key in studio.asked if path == "/api/jobs"]
        assert len(set(keys)) == 2


def test_a_press_whose_answer_was_lost_is_sent_again_as_the_same_job(browser: Browser) -> None:
    studio = ScriptedStudio()
    with at_the_page(browser, studio) as artist:
        artist.find("#ask-prompt").fill("one lamp")

        def lose(route: Any) -> None:
            route.fetch()
            route.abort()

        artist.page.route("**/api/jobs", lose, times=1)
        artist.find("#draw").click()
        artist.sees("#said", "Press Draw again")
        artist.find("#draw").click()
        artist.sees("#said", "Asked for 4 pictures")
        first, second = (key for _, path, _, key in studio.asked if path == "/api/jobs")
        assert first == second
        assert len(studio.jobs) == 1
        artist.errors.clear()  # the browser's own, of the request that was lost


def test_what_is_refused_is_told_at_its_field(browser: Browser) -> None:
    studio = ScriptedStudio()
    with at_the_page(browser, studio) as artist:
        artist.find("#ask-prompt").fill("too much")
        problems = [
            {"code": "bad_request", "field": "seed", "message": "expected a number below 2³²"},
            {"code": "unknown_style", "field": "style", "message": "there is no such style"},
        ]
        studio.refuse = {"code": "bad_request", "message": "two things", "problems": problems}
        artist.find("#draw").click()
        artist.sees("#ask-seed-problem", "below 2³²")
        artist.sees("#ask-style-problem", "no such style")
        expect(artist.find("#ask-style")).to_be_focused()
        expect(artist.find("#ask-style")).to_have_attribute("aria-invalid", "true")
        artist.find("#ask-style").select_option("Line Art")
        expect(artist.find("#ask-style-problem")).to_be_hidden()

        studio.refuse = {"code": "budget_exceeded", "message": "100 pictures a day are used up"}
        artist.find("#draw").click()
        artist.sees("#said", "100 pictures a day are used up")
        assert studio.jobs == {}
        artist.errors.clear()  # the browser's own, of answers that are refusals


def test_a_failed_picture_says_why_and_moves_nothing(browser: Browser) -> None:
    studio = ScriptedStudio()
    job = studio.add("four chairs", quiet=True)
    with at_the_page(browser, studio) as artist:
        artist.sees_waiting("four chairs")
        studio.start(job)
        artist.counts("#running .tile", 4)

        def places() -> list[Any]:
            return [tile.bounding_box() for tile in artist.find("#running .tile").all()]

        before = places()
        assert before[0]["width"] / (before[0]["height"] - 25) == pytest.approx(160 / 96, rel=0.05)
        studio.step(job, 0, 2)
        studio.start(job, 1)
        studio.fail(job, 1, "out of memory on cuda:0, which has 8 GB, of which 7.9 are taken")
        artist.sees("#running .tile >> nth=1", "out of memory")
        studio.ready(job, 0)
        artist.sees("#running .tile >> nth=0", "seed 1000")
        assert places() == before

        for n in (2, 3):
            studio.start(job, n)
            studio.ready(job, n)
        artist.sees("#done .state", "3 of 4; 1 failed: out of memory")
        artist.find("#done .tile >> nth=1").get_by_role("button", name="Retry").click()
        assert artist.asked("POST", "/retry") == [{"items": [1]}]
        artist.sees_waiting("four chairs")


def test_all_that_failed_is_tried_again(browser: Browser) -> None:
    studio = ScriptedStudio()
    job = studio.add("two doors", n=2, quiet=True)
    for n in (0, 1):
        studio.start(job, n)
        studio.fail(job, n, "no engine draws this size", "refused")
    with at_the_page(browser, studio) as artist:
        artist.sees("#done .state", "Failed: every engine refuses it: no engine draws this size")
        artist.find("#done .retry").click()
        assert artist.asked("POST", "/retry") == [{}]
        artist.sees_waiting("two doors")


def test_of_steps_that_come_too_fast_only_the_newest_are_loaded(browser: Browser) -> None:
    def slow(take: str, step: int | None) -> bytes:
        time.sleep(0.15)
        return paint(take, step)

    studio = ScriptedStudio(painter=slow)
    job = studio.add("a rush", n=1, quiet=True)
    studio.start(job)
    with at_the_page(browser, studio) as artist:
        artist.counts("#running .tile", 1)
        for step in range(1, 41):
            studio.step(job, 0, step, steps=40)
        newest = artist.find('#running img[src$="/40.jpg"]')
        expect(newest).to_have_count(1, timeout=PATIENCE)
        assert studio.served.count("40.jpg") == 1
        assert len(studio.served) < 20


def test_what_waits_is_put_in_another_order(browser: Browser) -> None:
    studio = ScriptedStudio()
    for prompt in ("first", "second", "third", "fourth"):
        studio.add(prompt, n=1, quiet=True)
    with at_the_page(browser, studio) as artist:
        artist.sees_waiting("first", "second", "third", "fourth")
        third = artist.find(
            "#waiting > li",
        ).nth(2)
        third.focus()
        artist.types("Shift+ArrowUp")
        artist.sees_waiting("first", "third", "second", "fourth")
        expect(third.page.locator("#waiting > li").nth(1)).to_be_focused()
        artist.types("Shift+End")
        artist.sees_waiting("first", "second", "fourth", "third")
        artist.types("Shift+Home")
        artist.sees_waiting("third", "first", "second", "fourth")
        artist.types("Shift+ArrowDown")
        artist.sees_waiting("first", "third", "second", "fourth")

        last = artist.find("#waiting > li").nth(3)
        last.drag_to(artist.find("#waiting > li").nth(0), target_position={"x": 200, "y": 4})
        artist.sees_waiting("fourth", "first", "third", "second")
        artist.find("#waiting > li").nth(3).hover()
        artist.find("#waiting > li").nth(3).get_by_role("button", name="Move first").click()
        artist.sees_waiting("second", "fourth", "first", "third")


def test_what_waits_says_why(browser: Browser) -> None:
    studio = ScriptedStudio()
    job = studio.add("a garden", quiet=True)
    job["error"] = {"code": "engine_away", "message": "gpu-2 does not answer"}
    job["eta_seconds"] = 170
    studio.slots[0]["rests"] = {"code": "engine_away", "message": "connection refused"}
    with at_the_page(browser, studio) as artist:
        artist.sees("#waiting .why", "Waits: the engine is away: gpu-2 does not answer")
        artist.sees("#waiting .state", "done in about 3 min")
        artist.sees("#slots", "the engine is away: connection refused")


def test_the_queue_is_paused_with_its_reason_and_goes_on(browser: Browser) -> None:
    studio = ScriptedStudio()
    studio.add("a garden", quiet=True)
    with at_the_page(browser, studio) as artist:
        artist.sees("#queue", "1 waiting")
        artist.types("p")
        artist.sees("#paused-why", "Paused by Maria")
        artist.sees("#queue", "paused")
        artist.find("#resume").click()
        expect(artist.find("#paused")).to_be_hidden()
        studio.pause("disk_full", "less than 2 GB are free")
        artist.sees("#paused-why", "the disk is full: less than 2 GB are free")


def test_a_client_has_no_say_over_the_queue(browser: Browser) -> None:
    studio = ScriptedStudio(role="client")
    with at_the_page(browser, studio) as artist:
        artist.sees("#line", "Connected")
        artist.sees("#waiting-none", "Nothing waits")
        expect(artist.find("#pause")).to_be_hidden()
        expect(artist.find("#figures")).to_be_hidden()


def test_everything_goes_by_keys_alone(browser: Browser) -> None:
    studio = ScriptedStudio()
    with at_the_page(browser, studio) as artist:
        artist.sees("#line", "Connected")
        artist.types("n")
        artist.page.keyboard.type("a moon? yes")
        artist.types("Control+Enter")
        artist.sees_waiting("a moon? yes")
        expect(artist.find("#help")).to_be_hidden()  # a sign that is written is no key
        (job,) = studio.jobs.values()
        studio.finish(job)
        artist.counts("#done .tile img", 4)

        artist.types("Escape", "ArrowDown", "Enter")
        artist.sees("#viewer-terms", "picture 1 of 4")
        artist.types("ArrowRight")
        artist.sees("#viewer-terms", "picture 2 of 4")
        take = job["items"][1]["take"]
        large = artist.find(f'#viewer img[src*="{take}/final.jpg"]')
        expect(large).to_have_count(1, timeout=PATIENCE)
        artist.types("ArrowLeft")
        artist.sees("#viewer-terms", "picture 1 of 4")
        artist.types("Escape")
        expect(artist.find("#viewer")).to_be_hidden()

        artist.types("e")
        expect(artist.find("#ask-prompt")).to_be_focused()
        artist.page.keyboard.type(" again")
        artist.types("Control+Enter")
        artist.sees_waiting("a moon? yes again")
        artist.types("Escape", "ArrowDown", "x")
        artist.sees("#done .state >> nth=0", "Cancelled")
        artist.types("ArrowDown", "r")
        artist.sees_waiting("a moon? yes again")

        artist.types("?")
        artist.sees("#help", "Pause the queue")
        artist.types("Escape")
        expect(artist.find("#help")).to_be_hidden()
        artist.types("x")
        artist.sees("#said", "Choose a job first")


def test_a_line_that_was_lost_is_found_with_what_has_happened(browser: Browser) -> None:
    studio = ScriptedStudio()
    job = studio.add("through the dark", n=1, quiet=True)
    with at_the_page(browser, studio) as artist:
        artist.sees_waiting("through the dark")
        studio.away = True
        studio.cut()
        artist.sees("#line", "The Studio cannot be reached; trying again")
        studio.finish(job)
        studio.add("meanwhile", n=1)
        studio.away = False
        artist.sees("#line", "Connected")
        artist.sees("#done .prompt", "through the dark")
        artist.sees_waiting("meanwhile")
        artist.errors.clear()  # the browser's own, of sockets that were not let in


def test_a_token_is_asked_for_and_kept(browser: Browser) -> None:
    studio = ScriptedStudio(token="ust_right")
    job = studio.add("behind the door", quiet=True)
    with at_the_page(browser, studio) as artist:
        artist.sees("#door", "Who are you?")
        artist.sees("#line", "A token is needed")
        artist.find("#door-token").fill("ust_wrong")
        artist.types("Enter")
        artist.sees("#door-why", "This token is not one of")
        artist.find("#door-token").fill("ust_right")
        artist.types("Enter")
        artist.sees_waiting("behind the door")
        expect(artist.find("#door")).to_be_hidden()
        artist.page.reload()
        artist.sees_waiting("behind the door")
        studio.start(job)
        artist.counts("#running .tile", 4)
        studio.step(job, 0, 3)
        artist.counts("#running .tile img", 1)
        studio.ready(job, 0)
        final = f'#running img[src*="{job["items"][0]["take"]}/final.jpg"]'
        artist.counts(final, 1)
        artist.errors.clear()  # the browser's own, of answers that are refusals


def test_ten_thousand_jobs_leave_the_page_small(browser: Browser) -> None:
    studio = ScriptedStudio(painter=lambda _take, _step: paint("same", None))
    for number in range(6000):
        studio.add(f"waits {number}", n=1, quiet=True)
    done = [studio.add(f"done {number}", n=1, quiet=True) for number in range(4000)]
    for job in done:
        studio.finish(job)
    with at_the_page(browser, studio) as artist:
        artist.sees("#waiting-count", "6,000")
        artist.sees("#waiting-more", "5,960 more")
        artist.sees("#done .prompt >> nth=0", "done 3999")
        artist.counts("#done > li", 40)
        artist.types("o")
        artist.sees("#done .prompt >> nth=0", "done 3959")
        artist.sees("#done-page", "page 2")
        artist.find("#older").click()
        artist.sees("#done .prompt >> nth=0", "done 3919")
        artist.types("i")
        artist.sees("#done .prompt >> nth=0", "done 3959")
        for _ in range(200):
            studio.tell("job.queued", done[0])
        artist.find("#newer").click()
        artist.sees("#done .prompt >> nth=0", "done 3999")
        assert artist.find("#table li[data-job]").count() <= 200
        assert artist.page.evaluate("document.querySelectorAll('*').length") < 3000


def test_a_picture_that_is_not_there_breaks_nothing(browser: Browser) -> None:
    studio = ScriptedStudio()
    job = studio.add("two moons", n=2, quiet=True)
    studio.finish(job)
    studio.broken.add(job["items"][0]["take"])
    with at_the_page(browser, studio) as artist:
        artist.counts("#done .tile img", 1)
        artist.find("#done .tile >> nth=0").get_by_role("button").click()
        artist.sees("#viewer-terms", "picture 1 of 2")
        artist.types("ArrowRight")
        artist.counts("#viewer img", 1)
        artist.types("Escape")
        artist.errors.clear()  # the browser's own, of the picture that it did not get


def test_what_was_being_written_is_there_after_a_reload(browser: Browser) -> None:
    studio = ScriptedStudio()
    with at_the_page(browser, studio) as artist:
        artist.find("#ask-prompt").fill("half a thought")
        artist.find("#ask-n").select_option("3")
        artist.find("#ask-program").select_option("P2")
        expect(artist.find("#ask-speed")).to_be_hidden()  # it has no fast variant
        artist.page.reload()
        expect(artist.find("#ask-prompt")).to_have_value("half a thought")
        expect(artist.find("#ask-n")).to_have_value("3")
        expect(artist.find("#ask-program")).to_have_value("P2")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_everything_can_be_read_and_touched(browser: Browser, size: ViewportSize) -> None:
    studio = ScriptedStudio()
    for prompt in ("done", "done, too"):
        studio.finish(studio.add(prompt, quiet=True))
    partial = studio.add("a" * 300, quiet=True)
    for n, ends in enumerate(("failed", "ready", "ready", "ready")):
        studio.start(partial, n)
        if ends == "failed":
            studio.fail(partial, n, "no reason at all")
        else:
            studio.ready(partial, n)
    running = studio.add("running", quiet=True)
    studio.start(running)
    waits = studio.add("waits " * 60, quiet=True)
    waits["error"] = {"code": "engine_away", "message": "gone"}
    with at_the_page(browser, studio, size) as artist:
        artist.counts("#done > li", 3)
        artist.counts("#waiting > li", 1)
        artist.sees("#figures", "98 %")
        studio.pause("disk_full", "less than 2 GB are free")
        artist.sees("#paused-why", "the disk is full")
        assert artist.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert artist.page.evaluate(NAMELESS) == []
        texts = artist.page.evaluate(TEXTS)
        assert len(texts) > 40
        assert [text for text in texts if text["size"] < 13] == []
        assert [text for text in texts if text["contrast"] < 4.5] == []
        if size == PHONE:
            small = artist.page.evaluate(SMALL)
            assert small == []
            artist.find("#done [data-status=ready] .open").first.tap()
            artist.sees("#viewer-terms", "of 4")
            artist.types("ArrowLeft")
            artist.sees("#viewer-terms", "picture 1 of 4")
            artist.find("#viewer-next").tap()
            artist.sees("#viewer-terms", "picture 2 of 4")
            artist.find("#viewer-close").tap()


def test_the_page_is_asked_for_anew_and_found_below_studio_as_well() -> None:
    with scripted_studio(ScriptedStudio()) as address:
        page = httpx.get(f"{address.http}/studio/", follow_redirects=True, trust_env=False)
        assert str(page.url) == f"{address.http}/"
        assert page.headers["cache-control"] == "no-cache"
        assert "default-src 'self'" in page.headers["content-security-policy"]
