"""What a glance at the facts says would go wrong, without playing anything (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from generator.plan import Action
from server.diagnostics.report import LEVELS, Finding, Level, about
from server.diagnostics.runs import HURRIED, TOLD_FROM
from server.formatting import size
from server.providers.timing import Fit, final_by

LITTLE_ROOM: Final = 256 * 2**20
"""Bytes free on a disk below which logs and copies are about to stop."""

_UNKNOWN_DURATION: Final = 0.65
"""Seconds that a step whose duration was not recorded takes, in the mean."""

_CUT_SHORT: Final = 0.05
_NAMED: Final = 5


def not_here(action: Action, why: str) -> Finding:
    """A cue that could not be shown if the store fell silent now."""
    return about(
        action,
        "error",
        "not_here",
        message=f"nothing of its sets is on this machine yet ({why})",
        remedy="wait until it has come, or take the sets along with `understudy pull`",
    )


def survived(finding: Finding) -> Finding:
    """The same, where visitors will not see it: no error."""
    return finding.model_copy(update={"level": "warning"}) if finding.level == "error" else finding


def noted(finding: Finding) -> Finding:
    """The same, as good to know."""
    return finding.model_copy(update={"level": "note"})


def missing(action: Action, set_id: int, names: Sequence[str]) -> Finding:
    """A set whose previews are not all there; its final image is."""
    named = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    are = "is" if len(names) == 1 else "are"
    return about(
        action,
        "warning",
        "missing_step",
        set_id=set_id,
        message=f"{named} of set {set_id} {are} missing: the run goes on without",
        remedy=f"understudy generate verify --repair --only {action.action_id}",
    )


def overrun(
    action: Action,
    durations: Sequence[float | None],
    set_id: int,
    *,
    begins: float,
    ahead: float = 0.0,
    until: float,
    crossfade: float,
    fit: Fit,
) -> Finding | None:
    """What becomes of a set that is longer than its slot; None where it is seen as it was drawn.

    Args:
        action: what is drawn.
        durations: seconds of each step, as recorded.
        set_id: whose.
        begins: position at which it is asked for.
        ahead: seconds from then to the start of its first step.
        until: position of the next cue that draws, or the end of the show.
        crossfade: seconds in which the final image comes up.
        fit: whether runs that are too long are played faster.
    """
    total = ahead + sum(_UNKNOWN_DURATION if each is None else each for each in durations)
    slot = until - begins
    fewer = "draw it with fewer steps (`steps` in the cue), or move the cue after it"
    text = f"set {set_id} takes {total:.1f} s and has {slot:.1f} s until the next cue that draws"
    if fit == "recorded":
        if total <= slot + _CUT_SHORT:
            return None
        text += ": its final image is never seen"
        remedy = f'{fewer}, or set [playback] fit = "squeeze"'
        return about(action, "error", "overrun", message=text, remedy=remedy, set_id=set_id)
    room = final_by(0.0, slot, crossfade)
    squeeze = min(1.0, room / total) if total > 0 else 1.0
    if squeeze >= TOLD_FROM:
        return None
    if squeeze <= 0:
        text += ": it is not seen"
        return about(action, "error", "overrun", message=text, remedy=fewer, set_id=set_id)
    level: Level = "warning" if squeeze < HURRIED else "note"
    text += f": it is played {1 / squeeze:.1f} times as fast"
    return about(action, level, "overrun", message=text, remedy=fewer, set_id=set_id)


def engine_dead(
    name: str, reason: str, *, alone: Sequence[Action], wanted: bool, other: str | None = None
) -> list[Finding]:
    """An engine that would not draw now.

    Args:
        name: the engine.
        reason: why not, in words.
        alone: the actions without a set that can be played, for which it might have drawn.
        wanted: whether anything is played live before a set is.
        other: another engine that would draw, if there is one.
    """
    dead = f"engine {name} would not draw now ({reason})"
    if alone and other is None:
        return [
            about(
                action,
                "error",
                "engine_dead",
                message=f"{dead} and no set stands behind it",
                remedy=f"get {name} going, or draw sets: "
                f"understudy generate batch --only {action.action_id}",
            )
            for action in alone
        ]
    level: Level = "warning" if wanted else "note"
    return [
        Finding(
            level=level,
            code="engine_dead",
            message=f"{dead}; {other or 'a set'} takes its place",
            remedy=f"get {name} going",
        )
    ]


def little_room(free: int, where: str) -> Finding | None:
    """A disk that is about to be full."""
    if free >= LITTLE_ROOM:
        return None
    return Finding(
        level="warning",
        code="disk_full",
        message=f"{size(free)} are free on the disk of {where}: logs and copies soon stop",
        remedy="make room there, or name another place in [cache] dir",
    )


def absent(steps: Sequence[str], listed: Collection[str]) -> list[str]:
    """The images of a set, in order, that are not among the files that there are."""
    there = set(listed)
    return [name for name in steps if name not in there]


def worse(one: Finding | None, other: Finding | None) -> Finding | None:
    """The worse of two, the first where they are alike."""
    if one is None or other is None:
        return one or other
    return other if LEVELS.index(other.level) < LEVELS.index(one.level) else one
