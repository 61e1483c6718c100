"""What a rehearsal looks like: nobody who sees a wall or a desk may take it for the show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers import walls
from tests.helpers.pictures import Pixels, pixels
from tests.helpers.rehearsals import rehearsal_process
from tests.helpers.servers import Address, server_process
from tests.helpers.shows import LOOP, MANUAL, Rhythm, cue, line, make_show

pytestmark = pytest.mark.browser

CUES = [
    cue(0, "start"),
    line(1, "somebody paints the sea", id="sea"),
    cue(3000, "end"),
]
SIZES = {
    "landscape": (1920, 1080),
    "portrait": (1080, 1920),
}
PATIENCE = 15_000
COLOURS = np.array([(0xC3, 0xB0, 0xFF), (0x24, 0x1A, 0x4D)], dtype=np.float32)
"""Violet, light and deep: nothing else on a wall has them."""

WORDS = "Rehearsal ×4 — nobody is watching"  # noqa: RUF001 - it is what is meant


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with walls.browser() as chromium:
        yield chromium


@contextmanager
def opened(browser: Browser, address: Address, path: str, size: tuple[int, int]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    try:
        page = context.new_page()
        page.goto(address.http + path)
        yield page
    finally:
        context.close()


def framed(page: Page) -> list[float]:
    """Of each edge of what is seen, how much has the colours of a rehearsal."""
    seen = pixels(page.screenshot(type="png"))
    return [_share(edge) for edge in (seen[:8], seen[-8:], seen[:, :8], seen[:, -8:])]


def _share(edge: Pixels) -> float:
    far = np.abs(edge[..., None, :] - COLOURS).max(axis=-1).min(axis=-1)
    return float((far < 40).mean())


@pytest.mark.parametrize("shape", SIZES)
def test_a_wall_that_rehearses_says_so_until_the_show_is_back(
    tmp_path: Path, browser: Browser, shape: str
) -> None:
    size = SIZES[shape]
    tiny = make_show(tmp_path / "show", CUES, rhythm=Rhythm(previews=2, step=0.4), toml=LOOP)
    with (
        rehearsal_process(tiny.folder, speed=4.0) as rehearsal,
        opened(browser, rehearsal.address, "/?screen=wall", size) as kiosk,
    ):
        words = kiosk.locator("#rehearsal p")
        expect(words).to_have_text(WORDS, timeout=PATIENCE)
        expect(words).to_be_in_viewport(ratio=1)
        box = words.bounding_box()
        assert box is not None
        assert box["height"] >= min(size) / 25
        kiosk.wait_for_selector("#picture[data-any]", timeout=PATIENCE)
        assert min(framed(kiosk)) > 0.9

        # A black wall is one that rehearses, too.
        kiosk.request.post(f"{rehearsal.address.http}/api/control/panic", data={})
        expect(kiosk.locator("#curtain")).to_have_css("opacity", "1", timeout=PATIENCE)
        assert min(framed(kiosk)) > 0.9

        assert rehearsal.interrupt() == 0
        expect(words).to_be_visible()
        (tiny.folder / "show.toml").write_text(
            (tiny.folder / "show.toml").read_text().replace(LOOP, MANUAL)
        )
        with server_process(tiny.folder, port=rehearsal.address.port):
            expect(kiosk.locator("#rehearsal")).to_have_count(0, timeout=PATIENCE)
            assert max(framed(kiosk)) < 0.1


def test_the_technicians_page_says_so_and_how_fast(tmp_path: Path, browser: Browser) -> None:
    tiny = make_show(tmp_path / "show", CUES, toml=LOOP)
    with (
        rehearsal_process(tiny.folder, speed=4.0) as rehearsal,
        opened(browser, rehearsal.address, "/control", (1440, 900)) as desk,
    ):
        activation = desk.locator("#activation")
        expect(activation).to_have_text("Rehearsal ×4", timeout=PATIENCE)  # noqa: RUF001 - a sign
        expect(activation).to_be_in_viewport(ratio=1)
        assert desk.title().startswith("REHEARSAL")
        expect(desk.locator("#clock")).not_to_have_text("--:--:--", timeout=PATIENCE)
        # The position runs on between two states as fast as the show does.
        ran = desk.evaluate(
            """async () => {
              const { ServerConnection } = await import("/static/control/connection.js");
              const nothing = () => {};
              const desk = new ServerConnection({ hello: nothing, changed: nothing });
              desk.now = () => 102;
              desk.state = { position: 10, server_time: 100, speed: 4, screening: {} };
              return desk.position();
            }"""
        )
        assert ran == 18
        assert rehearsal.interrupt() == 0
