"""What a second worker brings: a batch over one real worker, and over two.

The workers are processes of `understudy worker` with the sketch engine, which here only waits in
its rhythm, as one waits for a GPU: pictures are small, so that the processors have little to do,
and what is measured is whether the batch keeps both busy. Sets come through the batch into a
folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import say, working

_ACTIONS = length(6, 2)
_SETS = length(3, 1)
_STEPS = length(10, 2)
_PACE = 0.08
"""Seconds a step."""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        show = _show(Path(folder) / "show")
        workers = [stack.enter_context(working(show, "gpu")) for _ in range(2)]
        took: dict[int, list[float]] = {1: [], 2: []}
        nominal = 0.0
        for number, count in enumerate(length((1, 2, 1, 2), (1, 2))):
            store = Path(folder) / f"sets-{number}"
            took[count].append(_batch(show, store, workers[:count]))
            nominal = _nominal(store)
    one, two = (min(took[count]) for count in (1, 2))
    sets = _ACTIONS * _SETS
    say(
        f"{sets} sets of {_STEPS} steps at {_PACE * 1e3:.0f} ms, {nominal:.1f} s of waiting in "
        "all; best of 2 by turns, starting the program included"
    )
    say(f"  one worker   {one:.2f} s: {sets / one * 60:.0f} sets a minute")
    say(f"  two workers  {two:.2f} s: {sets / two * 60:.0f} sets a minute, {one / two:.2f} x one")


def _show(folder: Path) -> Path:
    folder.mkdir()
    cues = [{"time": "00:00:00", "action": "start"}]
    cues += [
        {"time": f"00:00:{number:02d}", "action": "prompt", "prompt": f"boats {number}"}
        for number in range(1, _ACTIONS + 1)
    ]
    cues.append({"time": "00:01:00", "action": "end"})
    (folder / "cues.json").write_text(json.dumps(cues))
    (folder / "show.toml").write_text(
        f"[programs.P0]\nsteps = {_STEPS}\nwidth = 96\nheight = 64\n"
        f'[[engines]]\nname = "gpu"\nkind = "sketch"\npace = {_PACE}\n'
    )
    return folder


def _batch(show: Path, store: Path, workers: list[str]) -> float:
    """Seconds that a batch takes, from its call to its end."""
    words = [sys.executable, "-m", "server", "generate", "batch", "--show", str(show)]
    words += ["--store", str(store), "--sets", str(_SETS)]
    words += [word for url in workers for word in ("--engine", url)]
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    return took


def _nominal(store: Path) -> float:
    """Seconds that the sets say they took, all together."""
    metas = store.glob("actions/*/sets/*/meta.json")
    return sum(float(json.loads(path.read_text())["total_duration"]) for path in metas)


if __name__ == "__main__":
    main()
