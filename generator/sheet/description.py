"""What the manifest says of an action beside its recipe, for people who read it (pure)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from generator.sheet.cues import format_time
from generator.sheet.plan import Action


class Description(BaseModel):
    """What the manifest says of an action beside its recipe, for people who read it.

    Attributes:
        type: which kind of cue triggers it.
        program: name of the program that draws it.
        prompt: what is displayed.
        override_prompt: what is drawn in its place, where the cue says so.
        time: of the cue, ``HH:MM:SS`` from the start of the screening.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str | None = None
    program: str | None = None
    prompt: str | None = None
    override_prompt: str | None = None
    time: str | None = None


def describe(action: Action) -> Description:
    """What there is to say of a planned action."""
    return Description(
        type=action.type,
        program=action.program,
        prompt=action.prompt,
        override_prompt=action.override,
        time=format_time(action.at),
    )
