"""The older wire, `/ws`: what the piece's first browser program says and hears (pure).

Text goes in: ``P0:<prompt>``, ``P2:0.40``, ``P3``, bare text, ``ping``. Out come ``ready``, for
each step a line of text and (but for P0) a JPEG, then the final image and ``done``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cache.untrusted import clean_text
from generator.sheet.programs import Program

READY = "ready"
PONG = "pong"
DONE = "done"
WITHOUT_PREVIEWS = frozenset({"P0"})
"""Programs whose previews are told of, but not sent."""

MAX_CHARACTERS = 4000
"""Longest prompt."""

_TIMESTEPS = 1000
_BARE_TEXT_IS_OF = "P0"
_LOOKS_LIKE_A_COMMAND = re.compile(r"P\d\w{0,8}\s*(:|$)")


@dataclass(frozen=True, slots=True)
class Ping:
    """A question whether anybody is there."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A picture is wanted: of `prompt`, or the program's last prompt at `strength` (0 to 1)."""

    program: str
    prompt: str | None = None
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing that can be done."""

    text: str

    @property
    def answer(self) -> str:
        """What is said to it."""
        return f"unknown command: {self.text:.120}"


def parse(text: str, programs: Mapping[str, Program]) -> Ask | Ping | Unknown:
    """What one message asks for, given the show's programs."""
    text = clean_text(text.strip())
    if text == "ping":
        return Ping()
    if not text or len(text) > MAX_CHARACTERS:
        return Unknown(text)
    name, colon, rest = (part.strip() for part in text.partition(":"))
    program = programs.get(name)
    if program is None:
        bare = not _LOOKS_LIKE_A_COMMAND.match(text) and _BARE_TEXT_IS_OF in programs
        return Ask(_BARE_TEXT_IS_OF, prompt=text) if bare else Unknown(text)
    if program.image_to_image:
        strength = _share(rest)
        return Unknown(text) if strength is None else Ask(name, strength=strength)
    # One with a text of its own draws that, whatever is said.
    has_text = program.prompt is not None or (colon and rest)
    return Ask(name, prompt=rest) if has_text else Unknown(text)


def step_line(step: int, steps: int) -> str:
    """The text before a preview: its number from 0 and a timestep, which descends to 0.

    Args:
        step: from 1, as everywhere else.
        steps: how many images the run has, its final one among them.
    """
    timestep = (_TIMESTEPS - 1) * (1 - (step - 1) / max(1, steps))
    # The piece's own servers print what a scheduler has: a float32, in full precision.
    (timestep,) = struct.unpack("f", struct.pack("f", timestep))
    return f"p:s={step - 1}:t={timestep}"


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None
