"""What a cue draws, and the keys and sliders that it finds as the cues before left them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from generator.sheet.programs import DEFAULT_PROGRAM, Program


@dataclass(frozen=True, slots=True)
class CueDrawing:
    """What a cue draws.

    Attributes:
        type: what its id begins with, and what it is counted by.
        program: name of the program that draws it.
        prompt: what is displayed.
        override: what is drawn in its place, where the cue says so.
        regenerate: drawn again and again until the next generating cue or navigation.
        slider: where the slider stands before and after the cue, in percent; None where the
            cue does not move it.
        remark: what is odd about it, and does no harm.
    """

    type: str
    program: str
    prompt: str
    override: str | None = None
    regenerate: bool = False
    slider: tuple[float, float] | None = None
    remark: str | None = None


class InputState:
    """What was entered, and where the sliders stand: each program has its own."""

    def __init__(self, programs: Mapping[str, Program]) -> None:
        self._programs = programs
        self._entered: dict[str, tuple[str, str | None]] = {}
        self._sliders: dict[str, float] = {}
        self.program = DEFAULT_PROGRAM
        """That of the prompt entered last."""

    def enter(self, program: str, prompt: str, override: str | None) -> None:
        """Enter a prompt, and what is drawn in its place."""
        self._entered[program] = prompt, override
        self.program = program

    def entered(self, program: str) -> tuple[str, str | None] | None:
        """The prompt entered last, and what is drawn in its place; None before the first."""
        return self._entered.get(program)

    def move_slider(self, program: str, percent: float) -> tuple[float, float]:
        """Move a slider: where it stood, and where it stands. It starts at the strength."""
        before = self._sliders.get(program, self._programs[program].strength)
        self._sliders[program] = percent / 100
        return round(100 * before, 6), percent

    def strength(self, program: str) -> float | None:
        """What the slider says, from 0 to 1; None where it was never moved."""
        return self._sliders.get(program)

    def no_effect(self, program: str, what: str) -> str | None:
        """A remark that moving the slider changes nothing, None where it does.

        `what` is how the sheet calls the slider.
        """
        if self._programs[program].image_to_image:
            return None
        return f"{what} has no effect: {program} is no image-to-image program"
