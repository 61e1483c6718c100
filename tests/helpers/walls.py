"""A real kiosk page in a real browser, and what is really to be seen on it."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.helpers.pictures import HEIGHT, WIDTH, Pixels, difference, pixels
from tests.helpers.servers import Address

_SEEN = """
() => {
  const canvases = [...document.querySelectorAll("#picture canvas")].filter((c) => c.width > 0);
  const stats = window.understudy?.stats() ?? null;
  return {
    stats,
    opened: window.wallTimes?.opened ?? null,
    seen: window.wallTimes?.seen ?? null,
    caption: document.querySelector("#captions")?.textContent ?? "",
    layers: canvases.map((c) => {
      const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
      let text = "";
      for (let i = 0; i < data.length; i += 8192) {
        text += String.fromCharCode(...data.subarray(i, i + 8192));
      }
      return {
        width: c.width,
        height: c.height,
        opacity: Number(getComputedStyle(c).opacity),
        pixels: btoa(text),
      };
    }),
  };
}
"""

# When the first socket opened, and when a picture could first be made out.
_WATCH = """
window.wallTimes = { opened: null, seen: null };
const Real = window.WebSocket;
window.WebSocket = class extends Real {
  constructor(...all) {
    super(...all);
    this.addEventListener("open", () => { window.wallTimes.opened ??= performance.now() / 1000; });
  }
};
const look = () => {
  const canvases = [...document.querySelectorAll("#picture canvas")];
  if (canvases.some((c) => c.width > 0 && Number(getComputedStyle(c).opacity) >= 0.5)) {
    window.wallTimes.seen ??= performance.now() / 1000;
  } else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""

ALIKE = 6.0
"""Mean difference in codes between a picture and the same picture, decoded by another decoder."""


def find_browser() -> str:
    """The browser to test with. In CI a missing one is a failure, elsewhere a reason to skip."""
    usual = Path("/usr/bin/chromium")
    found = str(usual) if usual.exists() else shutil.which("chromium-browser")
    found = found or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium here: install it to see what visitors see"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = find_browser()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio"],
        )
        try:
            yield chromium
        finally:
            chromium.close()


@dataclass(frozen=True)
class Sight:
    """What is on a wall at one moment."""

    stats: dict[str, Any]
    picture: Pixels | None
    caption: str
    crossfading: bool
    """Whether a picture is on its way, be it out of another one or out of the dark."""
    seen_after: float | None
    """Seconds from the opening of the page's first socket to the first picture."""

    @property
    def shown(self) -> dict[str, Any] | None:
        """The frame that the page says is on the wall."""
        shown: dict[str, Any] | None = self.stats.get("shown")
        return shown

    def is_of(self, image: bytes) -> bool:
        """Whether the picture is this one."""
        return self.picture is not None and difference(self.picture, pixels(image)) < ALIKE


@dataclass
class Wall:
    """One kiosk page. `errors` is what its console complained of, `strangers` who else it asked."""

    page: Page
    address: Address
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def look(self) -> Sight:
        """What is to be seen now: all canvases laid over each other as the browser does."""
        told = self.page.evaluate(_SEEN)
        picture: Pixels | None = None
        for layer in told["layers"]:
            raw = np.frombuffer(base64.b64decode(layer["pixels"]), dtype=np.uint8)
            here = raw.reshape(layer["height"], layer["width"], 4)[..., :3].astype(np.float32)
            if picture is None or picture.shape != here.shape:
                picture = np.zeros_like(here)
            picture = picture + (here - picture) * layer["opacity"]
        opened, seen = told["opened"], told["seen"]
        return Sight(
            stats=told["stats"] or {},
            picture=picture,
            caption=told["caption"],
            crossfading=len(told["layers"]) > 1
            or any(layer["opacity"] < 1 for layer in told["layers"]),
            seen_after=None if opened is None or seen is None else seen - opened,
        )

    def until(
        self, enough: Callable[[Sight], object], *, within: float = 10.0, why: str = "it"
    ) -> Sight:
        """Look again and again until `enough` says so."""
        until = time.monotonic() + within
        while True:
            sight = self.look()
            if enough(sight):
                return sight
            if time.monotonic() > until:
                raise AssertionError(f"{why} is not there after {within} s: {sight.stats}")
            self.page.wait_for_timeout(30)

    def photograph(self) -> Pixels:
        """What a visitor sees, all layers of the page included, in the size of our pictures."""
        shot = self.page.screenshot(type="png")
        whole = pixels(shot)
        height, width = whole.shape[:2]
        tall, wide = height // HEIGHT, width // WIDTH
        cut = whole[: tall * HEIGHT, : wide * WIDTH]
        seen: Pixels = cut.reshape(HEIGHT, tall, WIDTH, wide, 3).mean(axis=(1, 3))
        return seen

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _asked(self, request: Request) -> None:
        ours = (self.address.http, self.address.http.replace("http", "ws"), "data:", "blob:")
        if not request.url.startswith(ours):
            self.strangers.append(request.url)


@contextmanager
def wall(browser: Browser, address: Address, query: str = "screen=wall") -> Iterator[Wall]:
    """Open the kiosk page, as large as five of our pictures."""
    context = browser.new_context(viewport={"width": 5 * WIDTH, "height": 5 * HEIGHT})
    try:
        context.add_init_script(_WATCH)
        page = context.new_page()
        opened = Wall(page, address)
        page.on("console", opened._heard)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on("request", opened._asked)
        page.on("websocket", lambda socket: _check_socket(opened, socket.url))
        page.goto(f"{address.http}/?{query}")
        yield opened
    finally:
        context.close()


def _check_socket(opened: Wall, url: str) -> None:
    if url != opened.address.screen:
        opened.strangers.append(url)
