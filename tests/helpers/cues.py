"""Cues of every kind as a sheet has them, ten seconds apart."""

from __future__ import annotations

import json
from typing import Any

from generator.sheet.cues import CueSheet, format_time, parse_cues
from generator.sheet.programs import DEFAULT_PROGRAMS, Program

PROGRAMS = {name: Program(**fields) for name, fields in DEFAULT_PROGRAMS.items()}

Cue = dict[str, Any]
START: Cue = {"action": "start"}
END: Cue = {"action": "end"}
MARK: Cue = {"action": "next"}


def sheet_of(*cues: Cue) -> CueSheet:
    timed = [{"time": format_time(10 * number), **cue} for number, cue in enumerate(cues)]
    return parse_cues(json.dumps(timed).encode(), "cues.json", PROGRAMS)


def prompt(text: str = "a lake", **fields: Any) -> Cue:
    return {"action": "prompt", "prompt": text, **fields}


def line(until: float, **fields: Any) -> Cue:
    return {"action": "transcript", "transcript": "a line", "when": [0.0, until], **fields}


def slider(value: float, **fields: Any) -> Cue:
    return {"action": "move-slider", "value": value, **fields}


def scene(route: str) -> Cue:
    return {"action": "navigate", "route": route}


def fade(black: bool) -> Cue:
    return {"action": "set-fade-status", "fade": black}


EVERY_KIND: tuple[Cue, ...] = (
    START,
    MARK,
    scene("/one"),
    fade(True),
    fade(False),
    prompt("a"),
    prompt("b", guidance=10),
    prompt("", commit=False),
    line(15.0),
    line(45.0, generate=True),
    slider(50),
)
