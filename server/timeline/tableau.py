"""Which picture is on the wall at a position that was not played up to (pure).

A fold over the cues before it: for a screen of a server that was restarted, for a seek,
for a machine that slept.
"""

from __future__ import annotations

from dataclasses import dataclass

from generator.sheet.cues import CueSheet


@dataclass(frozen=True, slots=True)
class Tableau:
    """Cues by index; None for none.

    Attributes:
        generating: the cue whose picture is on the wall, or is to be as soon as it has begun.
        before: the cue whose picture is on the wall until then.
        alone: whether nothing after `generating` has ended its regeneration.
    """

    generating: int | None = None
    before: int | None = None
    alone: bool = True


def tableau_at(sheet: CueSheet, index: int) -> Tableau:
    """The picture once the cues before `index` have been."""
    generating = before = None
    alone = True
    for number, cue in enumerate(sheet.cues[:index]):
        if cue.begins_anew:
            generating = before = None
        if cue.ends_part:
            alone = False
        if cue.generates:
            before, generating, alone = generating, number, True
    return Tableau(generating, before, alone)
