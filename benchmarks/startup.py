"""How soon the server is ready, and how long a sheet takes to load; torch stays out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.lengths import length
from benchmarks.machinery import say, serving
from generator.cues import format_time, parse_cues
from generator.plan import plan_actions
from generator.programs import DEFAULT_PROGRAMS, Program
from server.config.show import DEMO

_ROUNDS = length(5, 1)


def main() -> None:
    """Print the figures."""
    _ready()
    _no_torch()
    _sheet()


def _ready() -> None:
    bare, ready = [], []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import starlette, uvicorn"], check=True)
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
        f"   (importing starlette and uvicorn alone: {min(bare):.2f} to {max(bare):.2f} s)"
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
