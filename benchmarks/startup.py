"""How soon the server is ready, and how long a sheet takes to load; torch stays out of it.

The peer of the first figure is an interpreter that only imports the frameworks: every module of
other people's that the server has loaded by the time it is ready, and nothing of ours.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import say, serving
from generator.sheet.cues import format_time, parse_cues
from generator.sheet.plan import plan_actions
from generator.sheet.programs import DEFAULT_PROGRAMS, Program
from server.config.show import DEMO

_ROUNDS = length(5, 1)

_OTHERS = """
import sys
before = set(sys.modules)
import server.cli.main, server.cli.serve, uvloop
ours = {"server", "generator", "cache", *sys.stdlib_module_names}
new = [name for name in sys.modules if name not in before]
print(*(name for name in new if name.partition(".")[0].lstrip("_") not in ours))
"""
_IMPORT = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):  # a name that is no module of its own
        importlib.import_module(name)
"""


def main() -> None:
    """Print the figures."""
    _ready()
    _no_torch()
    _sheet()


def _ready() -> None:
    bare: list[float] = []
    ready: list[float] = []
    asked = [sys.executable, "-c", _OTHERS]
    found = subprocess.run(asked, check=True, capture_output=True, text=True)
    frameworks = [sys.executable, "-c", _IMPORT, *found.stdout.split()]
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        subprocess.run(frameworks, check=True)
        bare.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with serving(DEMO) as server:
            while True:
                try:
                    with urllib.request.urlopen(f"http://{server.address}/healthz") as answer:
                        answer.read()
                    break
                except OSError:
                    time.sleep(0.01)
            ready.append(time.perf_counter() - begun)
    say(
        f"server ready            {min(ready):.2f} to {max(ready):.2f} s"
        f"   (importing its frameworks alone: {min(bare):.2f} to {max(bare):.2f} s;"
        f" {statistics.median(ready) / statistics.median(bare):.2f} times as long; goal 1.4)"
    )


def _no_torch() -> None:
    code = "import sys, server.cli; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    say(f"torch imported          {found.stdout.strip()}   (expected [])")


def _sheet() -> None:
    given = os.environ.get("CUES")
    data = Path(given).read_bytes() if given else _made_up(401)
    programs = {name: Program.model_validate(values) for name, values in DEFAULT_PROGRAMS.items()}
    bases = dict.fromkeys(programs, b"base")
    taken, plain = [], []
    count = actions = 0
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        json.loads(data)
        plain.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        sheet = parse_cues(data, "cues.json", programs)
        plan = plan_actions(sheet, programs, bases)
        taken.append(time.perf_counter() - begun)
        count, actions = len(sheet.cues), len(plan.actions)
    say(
        f"sheet of {count} cues       {min(taken):.3f} to {max(taken):.3f} s, {actions} actions"
        f"   (bare json.loads: {min(plain):.3f} to {max(plain):.3f} s)"
        + ("" if given else "   CUES=file measures another")
    )


def _made_up(count: int) -> bytes:
    text = "a line of about the length that is spoken in a lecture of an hour and a quarter"
    cues = []
    for number in range(count):
        at = number * 11.0
        words = [
            {"word": f" {word}", "start": at + k * 0.3, "end": at + k * 0.3 + 0.25, "confidence": 1}
            for k, word in enumerate(text.split())
        ]
        cues.append(
            {
                "time": format_time(at),
                "action": "transcript",
                "generate": number % 3 == 0,
                "transcript": f"{text} {number}",
                "when": [at, at + 5],
                "words": words,
            }
        )
    return json.dumps(cues).encode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory():
        main()
