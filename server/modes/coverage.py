"""The proof of the ladder: whether every generating cue ends in something that cannot fail (pure).

That is a set that can be played; or an engine with the show's own still image beneath it, which
stands wherever nothing good was ever shown. Engines alone prove nothing: any of them may fail.
The still alone is no picture of the piece: a cue that has nothing else is not ready, as a
rehearsal of it says, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from generator.sheet.plan import Action


@dataclass(frozen=True, slots=True)
class UncoveredCue:
    """A cue that nothing sure stands beneath.

    Attributes:
        action_id: what it draws.
        cue_index: which cue of the sheet, from 0.
        reason: what it has instead, in words.
    """

    action_id: str
    cue_index: int
    reason: str


def uncovered(
    actions: Iterable[Action],
    *,
    sets: Callable[[str], int],
    still: bool,
    engines: Sequence[str] = (),
    may_draw: Callable[[Action], bool] = lambda _action: True,
) -> tuple[UncoveredCue, ...]:
    """The cues whose ladder ends in nothing sure, in the order of the show.

    Args:
        actions: what the show draws.
        sets: how many sets of an action, by its id, can be played.
        still: whether the show has a still image.
        engines: the engines that may be in a ladder, by name.
        may_draw: whether they may be in that of an action.
    """
    named = ", ".join(engines)
    found: list[UncoveredCue] = []
    for action in actions:
        if sets(action.action_id):
            continue
        drawn = bool(engines) and may_draw(action)
        if drawn and still:
            continue
        if drawn:
            instead = f"only engines, which may fail ({named})"
        elif still:
            instead = "and no engine: nothing but the still image, or the picture before, is seen"
        else:
            instead = "and will hold the picture before"
        found.append(UncoveredCue(action.action_id, action.cue_index, instead))
    return tuple(found)
