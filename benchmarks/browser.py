"""The kiosk page in Chromium: does each frame reach the display when it is due?

Headless Chromium composes at 60 Hz in software, so these figures are those of a slow
machine. The peer is half a display frame: no player that shows whole frames can do better.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.lengths import SHORT, length
from benchmarks.machinery import say, serving, spread
from benchmarks.shows import jpeg_of, write_show

FRAMES = int(os.environ.get("FRAMES", length("3000", "20")))
"""Frames of the run that memory is watched over; the others take a tenth of them."""

STEPS = 20
REAL_PACE = length(0.4, 0.05)
"""Seconds a step, as an engine would take: for the timing."""

QUICK_PACE = length(0.12, 0.05)
"""Seconds a step where only the number of frames matters: for the memory."""

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--enable-precise-memory-info",
    "--js-flags=--expose-gc",
)


def main() -> None:
    """Print the figures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        say("no Chromium on this machine: nothing measured")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGS))
        root = Path(folder)
        _play(browser, root / "768", (1360, 768), FRAMES // 10, REAL_PACE)
        if not SHORT:
            _play(browser, root / "1080", (1920, 1080), FRAMES // 10, REAL_PACE)
            _play(browser, root / "memory", (1360, 768), FRAMES, QUICK_PACE)
        browser.close()


def _play(browser: Browser, folder: Path, size: tuple[int, int], frames: int, pace: float) -> None:
    runs = max(1, frames // STEPS)
    period = STEPS * pace + 1
    images = [jpeg_of(*size, 150_000, seed) for seed in range(3)]
    times = [3.0 + period * n for n in range(runs)]
    write_show(
        folder,
        times,
        [pace] * STEPS,
        images,
        length=times[-1] + period + 3,
        settings="[display]\ncrossfade = 0.5\n",
    )
    with serving(folder) as server:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(f"http://{server.address}/?screen=bench")
        until = time.monotonic() + times[-1] + period
        memory: list[float] = []
        clock: list[float] = []
        while time.monotonic() < until:
            time.sleep(length(4, 1))
            memory.append(_renderer_memory())
            clock.append(abs(page.evaluate(_CLOCK_ERROR)))
        stats: dict[str, Any] = page.evaluate("understudy.stats()")
        page.close()
    counts = stats["frames"]
    say(
        f"\n{size[0]} x {size[1]}, {1 / pace:.1f} frames a second: "
        f"{counts['presented']} of {runs * STEPS} frames presented, "
        f"{counts['dropped_late']} dropped late, {counts['failed']} failed; "
        f"half a display frame is {stats['display']['interval'] / 2 * 1e3:.1f} ms"
    )
    say(f"  |presented - present_at|: {spread([abs(error) for error in stats['errors']])}")
    say(f"  the page's clock against a fresh best of 100: {spread(clock)}")
    half = len(memory) // 2
    say(
        f"  renderer memory: first half up to {max(memory[:half] or [0]):.0f} MB, "
        f"second half up to {max(memory[half:] or [0]):.0f} MB"
    )


# The page's idea of the server's clock against one measured apart, over a socket of its own.
_CLOCK_ERROR = """async () => {
  const socket = new WebSocket(`ws://${location.host}/ws/screen`);
  const heard = [];
  let tell = () => {};
  socket.onmessage = (event) => {
    const at = performance.now() / 1000;
    if (typeof event.data !== "string") return;
    const message = JSON.parse(event.data);
    if (message.type === "sync") tell([message, at]);
  };
  await new Promise((go) => (socket.onopen = go));
  socket.send(JSON.stringify({ type: "hello", protocol: 1, screen: "apart", frames: "url" }));
  let best = Infinity, offset = 0;
  for (let n = 0; n < 100; n++) {
    const answer = new Promise((go) => (tell = go));
    const t0 = performance.now() / 1000;
    socket.send(JSON.stringify({ type: "sync", t0 }));
    const [{ t1, t2 }, t3] = await answer;
    const trip = t3 - t0 - (t2 - t1);
    if (trip < best) [best, offset] = [trip, (t1 - t0 + t2 - t3) / 2];
  }
  socket.close();
  return understudy.stats().clock.offset - offset;
}"""


def _renderer_memory() -> float:
    """Private memory in MB of the largest renderer process."""
    largest = 0.0
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            if b"--type=renderer" not in command:
                continue
            status = (process / "smaps_rollup").read_text()
        except OSError:
            continue
        private = sum(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("Private_")
        )
        largest = max(largest, private / 1024)
    return largest


if __name__ == "__main__":
    main()
