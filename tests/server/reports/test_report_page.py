"""The report's page: whole in itself, true to the report, deaf to what the show commands."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from cache.thumbnails import thumbnail
from server.diagnostics.findings import Finding
from server.diagnostics.report import RehearsalOptions, Report
from server.reports.contact_sheets import Contact, ContactFrame, ContactPicture, ContactSheet
from server.reports.formatting import clock, short, some
from server.reports.html import render_page
from server.reports.timeline import GUTTER, WIDTH, Bar, Staff, compose_timeline
from tests.helpers import walls
from tests.helpers.pictures import picture
from tests.helpers.reports import ACTION_IDS, PROMPTS, findings, full_report, run

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
VOID = {"meta", "link", "img"}
UNCLOSED = {"th", "td"}
HOSTILE = (
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror="document.title = \'taken\'">',
    "</title></style></svg><h1>taken</h1>",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    "`<b>typed</b>` and `open",
    "Übung, 日本, Łódź",
)


def contacts() -> dict[str, ContactSheet]:
    """Every action's two sets, of which one of the fourth cannot be shown."""

    def seen(label: str) -> ContactPicture:
        return ContactPicture(thumbnail(picture(label), width=96))

    sheets = {
        action_id: ContactSheet(
            action_id,
            (
                Contact(0, seen(f"{action_id}0"), steps=8, seconds=9.6, seed=1234),
                Contact(1, seen(f"{action_id}1")),
            ),
            1,
            tuple(
                ContactFrame(step, step == 8, seen(f"{action_id}{step}")) for step in (1, 3, 5, 8)
            ),
        )
        for action_id in ACTION_IDS[:5]
    }
    sheets[ACTION_IDS[3]] = ContactSheet(
        ACTION_IDS[3], (Contact(0, ContactPicture(None, "final.jpg is missing")),)
    )
    return sheets


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Parsed(HTMLParser):
    """A page taken apart: every element with its attributes and its text."""

    page: str
    elements: list[Element] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID | UNCLOSED:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop().tag != tag:
            self.misplaced.append(tag)

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Every element of a kind with these attributes."""
        return [
            each
            for each in self.elements
            if each.tag == tag
            and all(
                each.attributes.get(name.strip("_")) == value for name, value in attributes.items()
            )
        ]

    def one(self, tag: str, **attributes: str) -> Element:
        """The only one."""
        (element,) = self.all(tag, **attributes)
        return element


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(full_report(), contacts())


@pytest.fixture(scope="module")
def parsed(page: str) -> Parsed:
    return Parsed(page)


# ------------------------------------------------------------------ whole in itself


def test_the_page_is_well_formed(parsed: Parsed) -> None:
    assert parsed.misplaced == []
    assert parsed.page.startswith("<!doctype html>")
    ids = [each.attributes["id"] for each in parsed.elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))


def test_every_way_leads_somewhere_on_the_page(parsed: Parsed) -> None:
    ids = {each.attributes.get("id") for each in parsed.elements}
    ways = [each.attributes["href"] for each in parsed.elements if each.tag in {"a", "use"}]

    assert ways
    assert [way for way in ways if not way.startswith("#") or way[1:] not in ids] == []


def test_nothing_is_asked_of_anybody(page: str, parsed: Parsed) -> None:
    for name in ("src", "srcset", "poster", "action", "formaction", "background", "data"):
        asked = [each.attributes[name] for each in parsed.elements if name in each.attributes]
        assert all(address.startswith("data:") for address in asked)
    assert [each.attributes["href"] for each in parsed.all("link")] == ["data:,"]
    assert not re.search(r"https?://|@import|url\((?!data:|#)", page)


def test_its_policy_allows_its_own_script_and_style_and_no_address(parsed: Parsed) -> None:
    policies = {each.attributes.get("http-equiv"): each for each in parsed.all("meta")}
    policy = policies["Content-Security-Policy"].attributes["content"]
    for name in ("style", "script"):
        text = parsed.one(name).text
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not any("style" in each.attributes for each in parsed.elements)
    handlers = [name for each in parsed.elements for name in each.attributes if name[:2] == "on"]
    assert handlers == []


def test_the_same_report_gives_the_same_page(page: str) -> None:
    assert render_page(full_report(), contacts()) == page


@pytest.mark.parametrize("text", HOSTILE)
def test_what_the_show_says_is_text_wherever_it_stands(text: str) -> None:
    prompts = [text] * len(PROMPTS)
    report = full_report(title=text, prompts=prompts, found=findings([text]))
    engine = report.engines[0].model_copy(update={"name": text, "detail": text})
    show = report.show
    assert show is not None
    report = report.model_copy(
        update={
            "engines": (engine,),
            "show": show.model_copy(update={"store": text, "sheet": text, "timezone": text}),
            "cues": tuple(each.model_copy(update={"why": text}) for each in report.cues),
        }
    )
    sheets = {"action_0": ContactSheet("action_0", (Contact(0, ContactPicture(None, text)),))}

    parsed = Parsed(render_page(report, sheets))

    calm = Parsed(render_page(full_report(found=findings(["calm"])), sheets))
    assert parsed.misplaced == []
    assert {each.tag for each in parsed.elements} == {each.tag for each in calm.elements}
    assert len(parsed.all("script")) == 1
    assert len(parsed.all("h1")) == 1
    assert parsed.one("h1").text == text
    # Backticks are taken for what they mean in a message, and nowhere else.
    messages = [each.text for each in parsed.all("p", class_="message")]
    assert text.replace("`", "") in [message.replace("`", "") for message in messages]
    assert text in [each.text for each in parsed.all("span", class_="says")]


def test_letters_beyond_latin_bring_their_typeface_with_them() -> None:
    plain = render_page(full_report(), {})
    polish = render_page(full_report(title="Łódź"), {})

    assert plain.count("@font-face") == 2
    assert polish.count("@font-face") == 4


# ------------------------------------------------------------------ true to the report


def test_the_verdict_is_told_in_words_and_by_a_shape(parsed: Parsed) -> None:
    assert parsed.one("p", class_="word").text == "Not ready"
    assert len(parsed.all("svg", class_="seal")) == 1
    assert parsed.one("p", class_="summary").text == (
        "3 screenings, 21 runs: 2 errors, 2 warnings and 9 notes."
    )
    assert parsed.all("title")[0].text == "Ghost Light: rehearsal, not ready"


def test_a_show_that_is_ready_looks_ready() -> None:
    parsed = Parsed(render_page(full_report(1, found=[]), {}))

    assert parsed.one("p", class_="word").text == "Ready"
    assert parsed.one("p", class_="summary").text == "1 screening, 7 runs: nothing was found."
    assert parsed.one("body").attributes["data-verdict"] == "ready"


def test_a_show_that_could_not_be_loaded_has_its_reasons_and_nothing_else() -> None:
    finding = Finding(level="error", code="bad_show", message="cues.json: bad", remedy="mend it")
    report = Report(
        verdict="not ready", findings=(finding,), show=None, asked=RehearsalOptions(seed=1)
    )

    parsed = Parsed(render_page(report, {}))

    assert parsed.one("h1").text == "The show could not be loaded"
    assert parsed.one("p", class_="message").text == "cues.json: bad"
    assert [each.attributes["id"] for each in parsed.all("section")] == ["findings"]


def test_every_finding_is_listed_with_its_place_and_its_ways(parsed: Parsed) -> None:
    found = [each for each in parsed.all("li") if "data-level" in each.attributes]

    assert [each.attributes["value"] for each in found] == [str(n) for n in range(1, 14)]
    assert [each.attributes["data-level"] for each in found[:4]] == [
        "error",
        "error",
        "warning",
        "warning",
    ]
    missing, no_sets, clock_, silent = (" ".join(each.text.split()) for each in found[:4])
    assert "00:00:42 cue 6" in missing.replace("42cue", "42 cue")
    assert "action_2, set 1" in missing
    assert "timeline" in missing
    assert "pictures" in missing
    # Whoever found it gave no time: then it is the sheet's.
    assert "00:01:02" in no_sets
    assert f"3 {TIMES}" in no_sets
    assert "the whole show" in clock_
    assert "timeline" not in clock_
    assert "timeline" in silent
    hrefs = [each.attributes["href"] for each in parsed.all("a")]
    assert "#r1-6-1" in hrefs
    assert "#c3" in hrefs


def test_a_finding_about_a_set_leads_to_the_run_that_played_it() -> None:
    finding = findings()[0].model_copy(
        update={"cue": run(4).cue, "action_id": ACTION_IDS[4], "set_id": 0}
    )
    parsed = Parsed(render_page(full_report(found=[finding]), {}))

    assert len(parsed.all("a", href="#r2-10-1")) == 1 + 1  # the table has one, too
    assert len(parsed.all("a", href="#r1-10-1")) == 1


def test_many_of_a_kind_are_folded_but_for_the_first(parsed: Parsed) -> None:
    assert "6 more like these" in parsed.one("details", class_="more").text


def test_what_was_asked_for_is_told_and_how_to_have_it_again(parsed: Parsed) -> None:
    facts = parsed.one("dl", class_="facts").text
    for told in (
        "seed 7",
        "a line of 10 Mbit/s",
        "0.05 s latency",
        "made to fail: engines and action_3",
        "every image decoded wholly",
        "s3://bucket/ghost-light",
        f"before the start, from {MINUS}00:00:09 on: 3 sets, 3 MB",
        "from 00:01:01 on, all that was needed was here",
        "attic, dead",
        "here, not asked",
    ):
        assert told in facts
    assert (
        parsed.one("footer")
        .text.strip()
        .endswith(
            "understudy rehearse --seed 7 --screenings 3 --bandwidth 10M --latency 0.05 "
            "--fail engines --fail action_3 --deep"
        )
    )


def test_every_run_is_in_its_screenings_table(parsed: Parsed) -> None:
    assert len(parsed.all("table")) == 3
    rows = [each for each in parsed.all("tr") if "data-outcome" in each.attributes]
    assert len(rows) == 21
    assert [each.attributes["data-outcome"] for each in rows[:7]] == [
        "completed",
        "completed",
        "failed over",
        "held",
        "completed",
        "completed",
        "cut",
    ]
    assert "static → live gpu: 5.jpg is missing" in rows[2].text
    assert f"{TIMES}0.58" in rows[1].text
    assert "6 of 8" in rows[4].text
    headings = [each for each in parsed.all("th") if "scope" not in each.attributes]
    assert headings == []


def test_contact_sheets_tell_what_was_played_and_when(parsed: Parsed) -> None:
    sheets = parsed.all("article", class_="sheet")

    assert [each.attributes["id"] for each in sheets] == [f"a-{each}" for each in ACTION_IDS]
    first = " ".join(sheets[0].text.split())
    assert "set 0" in first
    assert "screening 2" in first
    assert "screenings 1 and 3" in first
    assert "8 steps · 9.6\N{NO-BREAK SPACE}s" in sheets[0].text
    assert "seed 1234" in first
    assert "static, set 1" in first
    assert f"squeezed {TIMES}0.58" in sheets[1].text
    assert "live by gpu" in sheets[2].text
    assert "in a slot of 20.0\N{NO-BREAK SPACE}s · failed over" in sheets[2].text
    assert "final.jpg is missing" in sheets[3].text
    assert f"No sets; drawn live 3 {TIMES}." in sheets[5].text
    assert "No sets." in sheets[6].text
    assert all(each.attributes["alt"] for each in parsed.all("img"))


def test_a_long_day_stays_light() -> None:
    """Ten screenings, a hundred and twenty runs each: a page, not a film."""
    report = full_report(10)
    runs = tuple(
        each.model_copy(update={"at": each.at + 182 * round_, "due": tuple([0.4] * 30)})
        for round_ in range(18)
        for each in report.cues
    )
    screenings = tuple(each.model_copy(update={"to": 182.0 * 18}) for each in report.screenings)

    page = render_page(report.model_copy(update={"cues": runs, "screenings": screenings}), {})

    assert len(runs) == 1260
    assert len(page) < 2_000_000


# ------------------------------------------------------------------ the score


def score(*, compact: bool = False, report: Report | None = None) -> Sequence[Staff]:
    report = report or full_report()
    error = Finding(level="error", code="no_sets", message="no sets", remedy="draw them")
    note = Finding(level="note", code="overrun", message="more", remedy="nothing")
    numbered = {8: [(1, error), (4, note)]}
    return compose_timeline(report, report.screenings[0], numbered, compact=compact)


def bar(number: int, *, compact: bool = False) -> Bar:
    """The first bar of an action's first run."""
    anchor = f"r1-{run(number).cue}-1"
    return next(
        bar for staff in score(compact=compact) for bar in staff.bars if bar.anchor == anchor
    )


def test_a_score_is_broken_into_staves_and_a_crumb_is_left_at_none() -> None:
    starts = [staff.start for staff in score()]

    # Ten seconds are fetched before the start; 182 s are three minutes, not four.
    assert starts == [-10.0, 0.0, 60.0, 120.0]
    assert all(staff.right <= WIDTH for staff in score())
    assert [staff.start for staff in score(compact=True)] == [0.0, 120.0]


def test_a_long_show_has_long_staves() -> None:
    report = full_report(1)
    screening = report.screenings[0].model_copy(update={"to": 74 * 60.0})
    staves = compose_timeline(report, screening, {}, compact=False)

    assert [staff.start for staff in staves[:3]] == [0.0, 300.0, 600.0]
    assert len(staves) == 15


def test_a_part_of_a_screening_begins_where_it_begins() -> None:
    report = full_report(1)
    screening = report.screenings[0].model_copy(update={"from_": 65.0, "to": 100.0})
    report = report.model_copy(update={"fetched": ()})
    staves = compose_timeline(report, screening, {}, compact=False)

    assert [staff.start for staff in staves] == [60.0]


def test_a_bar_stands_in_its_slot_with_a_tick_for_each_step_and_its_final_image() -> None:
    usual = bar(0)

    assert usual.steps == tuple(sorted(usual.steps))
    assert len(usual.steps) == 8
    assert usual.end == usual.steps[-1]
    assert usual.x < usual.end < usual.x + usual.slot
    assert usual.late is None
    assert usual.x > GUTTER
    assert (usual.note, usual.squeezed) == ("1", "")


def test_every_mark_says_in_words_what_it_is() -> None:
    nbsp = "\N{NO-BREAK SPACE}"
    assert bar(1).title == (
        f"00:00:22 action_1 · static, set 1 · 18.0{nbsp}s of 20.0{nbsp}s {TIMES}0.58 · completed"
    )
    assert bar(2).title.endswith(f"live, gpu · 9.6{nbsp}s of 20.0{nbsp}s · failed over")
    assert "2 of 8 steps left out" in bar(4).title
    assert all(cue.title for staff in score() for cue in staff.cues)


def test_a_kind_of_cue_that_nobody_gave_a_mark_has_a_plain_one() -> None:
    report = full_report()
    sheet = [
        cue.model_copy(update={"action": "ring"}) if cue.action == "prompt" else cue
        for cue in report.sheet
    ]
    page = Parsed(render_page(report.model_copy(update={"sheet": tuple(sheet)}), {}))
    assert f"00:00:42 cue {sheet[6].cue}, ring: {PROMPTS[2]}" in {
        each.text for each in page.all("title")
    }


def test_what_is_squeezed_shows_how_far_it_would_have_gone() -> None:
    squeezed = bar(1)

    assert squeezed.squeezed == f"{TIMES}.58"
    assert squeezed.recorded is not None
    assert squeezed.late is not None
    assert squeezed.late == pytest.approx(squeezed.x + squeezed.slot, abs=0.2)
    assert squeezed.recorded > squeezed.late


def test_a_run_is_drawn_from_rung_to_rung() -> None:
    pieces = bar(2).pieces

    assert [piece.provider for piece in pieces] == ["static", "live"]
    assert pieces[0].x + pieces[0].width == pytest.approx(pieces[1].x, abs=0.2)


def test_what_is_held_lasts_until_the_next_picture() -> None:
    # It begins on one staff and ends on the next; nothing was shown before it gave way.
    held = bar(3)

    assert [piece.provider for piece in held.pieces] == ["hold"]
    assert held.pieces[0].width == held.slot
    assert held.end is None or held.end == held.x
    (fall,) = [fall for staff in score() for fall in staff.falls if "hold" in fall.title]
    assert "before the first step: no set can be played" in fall.title


def test_steps_that_are_left_out_are_marked_about_where_they_were() -> None:
    thin = bar(4)

    assert len(thin.steps) == 6
    assert len(thin.left_out) == 2
    assert thin.steps[1] < thin.left_out[0] < thin.left_out[1] < thin.steps[2]


def test_a_run_over_the_end_of_a_staff_goes_on_on_the_next() -> None:
    cue = run(2).cue
    report = full_report(1)
    long = report.cues[2].model_copy(
        update={"length": 30.0, "slot": 40.0, "setbacks": (), "due": (5.0, 25.0)}
    )
    report = report.model_copy(update={"cues": (long,)})
    parts = [each for staff in score(report=report) for each in staff.bars]

    assert [part.anchor for part in parts] == [f"r1-{cue}-1", ""]
    assert [part.end is None for part in parts] == [True, False]
    assert [len(part.steps) for part in parts] == [1, 1]
    assert parts[1].x == GUTTER


def test_labels_never_run_into_each_other() -> None:
    for staff in score():
        for row in (0, 1):
            mine = [label for label in staff.labels if label.row == row]
            ends = [label.x + 4.7 * len(label.text) for label in mine]
            assert all(end < after.x for end, after in zip(ends, mine[1:], strict=False))


def test_findings_of_one_cue_share_a_flag() -> None:
    (flag,) = [flag for staff in score() for flag in staff.flags]

    assert (flag.text, flag.level, flag.number) == ("1+1", "error", 1)
    assert flag.title == "1. error: no sets\n4. note: more"


def test_what_is_fetched_at_once_lies_in_rows() -> None:
    staves = score()
    upbeat = staves[0]

    assert [fetch.row for fetch in upbeat.fetches] == [0, 1, 0]
    assert all(fetch.x + fetch.width <= WIDTH for staff in staves for fetch in staff.fetches)
    assert "action_0, set 0: 9 files, 930 kB in 6.0\N{NO-BREAK SPACE}s" in upbeat.fetches[0].title


def test_a_compact_score_has_the_runs_alone() -> None:
    staves = score(compact=True)

    assert not any(staff.cues or staff.labels or staff.fetches or staff.flags for staff in staves)
    assert bar(0, compact=True).steps == ()
    assert any(staff.falls for staff in staves)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (clock(411.4), "00:06:51"),
        (clock(-9), f"{MINUS}00:00:09"),
        (clock(-0.2), "00:00:00"),
        (short("a few words", 40), "a few words"),
        (short("a few words", 8), "a few…"),
        (short("a few words", 1), ""),
        (some([1, 4, 9]), "1, 4 and 9"),
        (some(range(1, 11)), "1, 2, 3, 4, 5, 6 …"),
    ],
)
def test_figures_are_told_as_people_do(said: str, expected: str) -> None:
    assert said == expected


# ------------------------------------------------------------------ in a browser


@dataclass
class Opened:
    """The written file in a browser; what it complained of, and whom it asked."""

    page: Page
    errors: list[str]
    asked: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@pytest.fixture
def written(tmp_path: Path, page: str) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page)
    return path


def open_page(
    browser: Browser, path: Path, viewport: Mapping[str, int], *, script: bool = True
) -> Opened:
    context = browser.new_context(
        viewport={"width": viewport["width"], "height": viewport["height"]},
        java_script_enabled=script,
    )
    opened = Opened(context.new_page(), [], [])
    opened.page.on("console", lambda message: opened.errors.append(message.text))
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on(
        "request",
        lambda request: (
            None if request.url.startswith("data:") else opened.asked.append(request.url)
        ),
    )
    opened.page.goto(path.as_uri())
    return opened


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_written_page_opens_by_itself(browser: Browser, written: Path, width: int) -> None:
    opened = open_page(browser, written, {"width": width, "height": 900})

    expect(opened.page.get_by_role("heading", level=1)).to_be_visible()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert opened.page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth)")
    assert opened.page.evaluate("[...document.fonts].filter((f) => f.status === 'loaded').length")
    assert opened.asked == [written.as_uri()]
    assert opened.errors == []
    opened.page.context.close()


@pytest.mark.browser
def test_a_finding_leads_to_its_run_and_to_its_pictures(browser: Browser, written: Path) -> None:
    opened = open_page(browser, written, {"width": 1440, "height": 900}).page

    opened.locator("#f1").get_by_role("link", name="pictures").click()
    expect(opened.locator("#a-action_2")).to_be_in_viewport()
    opened.locator("#f1").get_by_role("link", name="timeline").click()
    expect(opened.locator("#r1-6-1")).to_be_in_viewport()
    opened.context.close()


@pytest.mark.browser
def test_what_is_folded_opens_by_hand_by_button_and_by_the_way_to_it(
    browser: Browser, written: Path
) -> None:
    opened = open_page(browser, written, {"width": 1440, "height": 900}).page
    folded = "[...document.querySelectorAll('details')].filter((each) => !each.open).length"

    assert opened.evaluate(folded) == 5
    opened.evaluate("location.hash = '#r2-6-1'")
    expect(opened.locator("#r2-6-1")).to_be_in_viewport()
    assert opened.evaluate(folded) == 4
    opened.get_by_role("button", name="Unfold all").click()
    assert opened.evaluate(folded) == 0
    opened.get_by_role("button", name="Fold all").click()
    assert opened.evaluate(folded) == 5
    opened.context.close()


@pytest.mark.browser
def test_without_script_nothing_is_missing_but_the_button(browser: Browser, written: Path) -> None:
    opened = open_page(browser, written, {"width": 1440, "height": 900}, script=False).page

    expect(opened.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    expect(opened.get_by_role("button")).to_have_count(0)
    opened.locator("summary", has_text="more like these").click()
    expect(opened.locator("#f13")).to_be_visible()
    opened.context.close()


@pytest.mark.browser
def test_it_prints_with_every_finding_and_nothing_cut_off(browser: Browser, written: Path) -> None:
    opened = open_page(browser, written, {"width": 1440, "height": 900}).page

    printed = opened.pdf(prefer_css_page_size=True, print_background=True)
    assert printed.startswith(b"%PDF")
    # A4, lying, in points.
    assert re.search(rb"/MediaBox \[0 0 84[12][.\d]* 59[45][.\d]*\]", printed)

    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 1047, "height": 710})
    expect(opened.locator("#f13")).to_be_visible()
    expect(opened.locator("nav")).to_be_hidden()
    assert opened.evaluate("document.documentElement.scrollWidth") == 1047
    opened.context.close()


@pytest.mark.browser
def test_a_hostile_show_does_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    prompts = list(HOSTILE)
    report = full_report(title=HOSTILE[0], prompts=prompts, found=findings(HOSTILE))
    path.write_text(render_page(report, contacts()))

    opened = open_page(browser, path, {"width": 1440, "height": 900})

    assert opened.page.title().startswith("<script>")
    assert opened.errors == []
    assert opened.asked == [path.as_uri()]
    opened.page.context.close()
