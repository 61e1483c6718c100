"""When the picture of a cue begins, and how its text is typed until then (pure).

A picture begins when it would for somebody at the keys: a prompt's when its last letter is
typed, a slider's when it has come to rest. All of it follows from the sheet and one seed, so
that the screens, the performance and whoever fetches ahead agree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from generator.sheet.cues import CueSheet, Draw
from server.core.random_streams import RandomStreams
from server.timeline.keystrokes import Keystrokes

SLIDER_TAKES: Final = 1.0
"""Seconds in which a slider moves."""

_SEED_LIMIT: Final = 2**31

_MOST_OF_ITS_TIME: Final = 0.5
"""Of the time to the next generating cue, what typing may take; the rest is the picture's."""


class Beginnings:
    """What comes between each cue of a sheet and its picture.

    Where a text is so long that its picture would hardly be seen before the next generating
    cue, or that the next text or another scene would break it off, it is typed faster.

    Args:
        sheet: the cues.
        streams: what the rhythm of typing follows from.
        draw: when pictures begin, where their cues do not say.
        duration: seconds of a screening.
    """

    def __init__(
        self, sheet: CueSheet, streams: RandomStreams, draw: Draw, duration: float
    ) -> None:
        self._typing: dict[int, Keystrokes] = {}
        self._after: dict[int, float] = {}
        room = _room(sheet, duration)
        typed_at, before = 0.0, None
        for index, cue in enumerate(sheet.cues):
            waits = cue.generates and cue.begins(draw) == "enter"
            if cue.begins_anew or cue.begins_scene:
                before = None
            if (typed := cue.typed) is not None:
                keys = Keystrokes(
                    standing="" if before is None else before.shown_at(cue.at - typed_at),
                    text=typed.text,
                    erase=typed.erase,
                    base=typed.delay.base / 1000,
                    variance=typed.delay.variance / 1000,
                    seed=streams.stream("typing", index).randrange(_SEED_LIMIT),
                )
                if waits and keys.seconds > room[index]:
                    keys = replace(keys, hurry=room[index] / keys.seconds)
                self._typing[index] = before = keys
                typed_at = cue.at
                if waits:
                    self._after[index] = keys.seconds
            elif waits:
                self._after[index] = min(SLIDER_TAKES, room[index])

    def typing(self, index: int) -> Keystrokes | None:
        """How the text of cue `index` is typed; None where it has none."""
        return self._typing.get(index)

    def after(self, index: int) -> float:
        """Seconds from cue `index` to the moment at which its picture is asked for."""
        return self._after.get(index, 0.0)


def _room(sheet: CueSheet, duration: float) -> list[float]:
    """Seconds that each cue's typing may take at most."""
    room = [0.0] * len(sheet.cues)
    generating = change = duration
    for index in range(len(sheet.cues) - 1, -1, -1):
        cue = sheet.cues[index]
        until = min((generating - cue.at) * _MOST_OF_ITS_TIME, change - cue.at)
        room[index] = max(0.0, until)
        if cue.generates:
            generating = min(generating, cue.at)
        if cue.begins_anew or cue.ends_part or cue.typed is not None:
            change = min(change, cue.at)
    return room
