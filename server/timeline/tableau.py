"""What the stage should look like at a position that was not played up to (pure).

A fold over the cues before it: for a screen of a server that was restarted, for a seek,
for a machine that slept.
"""

from __future__ import annotations

from dataclasses import dataclass

from generator.sheet.cues import (
    CueSheet,
    EndCue,
    FadeCue,
    NavigateCue,
    PromptCue,
    SliderCue,
    StartCue,
    TranscriptCue,
)


@dataclass(frozen=True, slots=True)
class Tableau:
    """The last cue of each kind that still has a say, by index; None for none.

    Attributes:
        navigate: the scene.
        fade: whether the stage is black.
        caption: the line being spoken.
        prompt: what stands typed in this scene.
        slider: the cue that moved the slider last in this scene.
        generating: the cue whose picture is on the wall, or is to be as soon as it has begun.
        before: the cue whose picture is on the wall until then.
        alone: whether nothing after `generating` has ended its regeneration.
    """

    navigate: int | None = None
    fade: int | None = None
    caption: int | None = None
    prompt: int | None = None
    slider: int | None = None
    generating: int | None = None
    before: int | None = None
    alone: bool = True


def tableau_at(sheet: CueSheet, index: int, position: float) -> Tableau:
    """The stage at `position` seconds, cues before `index` having been."""
    navigate = fade = caption = prompt = slider = generating = before = None
    alone = True
    for number, cue in enumerate(sheet.cues[:index]):
        if cue.generates:
            before, generating, alone = generating, number, True
        match cue:
            case StartCue():
                navigate = fade = caption = prompt = slider = generating = before = None
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
                slider = number if cue.generates and cue.guidance is not None else slider
            case SliderCue():
                slider = number
            case _:
                pass
    return Tableau(navigate, fade, caption, prompt, slider, generating, before, alone)
