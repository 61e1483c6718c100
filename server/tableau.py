"""What the stage should look like at a position that was not played up to (pure).

A fold over the cues before it: for a screen of a server that was restarted, for a seek,
for a machine that slept.
"""

from __future__ import annotations

from dataclasses import dataclass

from generator.cues import (
    CueSheet,
    EndCue,
    FadeCue,
    NavigateCue,
    PromptCue,
    SliderCue,
    StartCue,
    TranscriptCue,
)
from generator.programs import Program


@dataclass(frozen=True, slots=True)
class Tableau:
    """The last cue of each kind that still has a say, by index; None for none.

    Attributes:
        navigate: the scene.
        fade: whether the stage is black.
        caption: the line being spoken.
        prompt: what stands typed in this scene.
        slider: the cue that moved the slider last in this scene.
        generating: the cue whose picture is on the wall.
        alone: whether nothing after `generating` has ended its regeneration.
    """

    navigate: int | None = None
    fade: int | None = None
    caption: int | None = None
    prompt: int | None = None
    slider: int | None = None
    generating: int | None = None
    alone: bool = True


def tableau_at(sheet: CueSheet, index: int, position: float) -> Tableau:
    """The stage at `position` seconds, cues before `index` having been."""
    navigate = fade = caption = prompt = slider = generating = None
    alone = True
    for number, cue in enumerate(sheet.cues[:index]):
        if cue.generates:
            generating, alone = number, True
        match cue:
            case StartCue():
                navigate = fade = caption = prompt = slider = generating = None
            case NavigateCue():
                navigate, prompt, slider, alone = number, None, None, False
            case EndCue():
                alone = False
            case FadeCue():
                fade = number
            case TranscriptCue():
                caption = number if cue.until > position else None
            case PromptCue():
                prompt = number
                slider = number if cue.guidance is not None else slider
            case SliderCue():
                slider = number
            case _:
                pass
    return Tableau(navigate, fade, caption, prompt, slider, generating, alone)


def slider_positions(sheet: CueSheet, programs: dict[str, Program]) -> dict[int, float]:
    """Where the slider stands (0 to 100) before each cue that moves it, by cue index.

    In each program it starts at the program's strength.
    """
    standing: dict[str, float] = {}
    before: dict[int, float] = {}
    current = "P0"
    for index, cue in enumerate(sheet.cues):
        if isinstance(cue, PromptCue):
            current = cue.program or "P0"
            value = cue.guidance
        elif isinstance(cue, SliderCue):
            current = cue.program or current
            value = cue.value
        else:
            continue
        if value is None:
            continue
        program = programs.get(current)
        before[index] = standing.get(current, 100 * program.strength if program else 0.0)
        standing[current] = value
    return before
