"""What technicians force upon the modes: who, why, for which cue, until when (pure).

A force is compared by value, and survives a restart. A number of seconds is counted by the steady
clock, which nobody sets; only what is written down for the next start is in Unix time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cache.untrusted import UNIX_TIME_LIMIT
from generator.sheet.cues import Mode

Until = Literal["released", "next_cue", "end_of_screening", "time"]


Moment = Annotated[
    float, Field(ge=-2 * UNIX_TIME_LIMIT, le=2 * UNIX_TIME_LIMIT, allow_inf_nan=False)
]
"""Seconds that any clock can come to, and a written one should be within."""


class Force(BaseModel):
    """One decision of a technician's.

    Attributes:
        mode: what is forced.
        by: who forces it.
        reason: why, in their words; may be empty.
        cue: the action it is for, None for every one.
        until: ``released``, ``next_cue``: until the cue after the one it took effect on begins,
            ``end_of_screening``, or a ``time``.
        deadline: steady time at which it expires: always for ``time``; for ``end_of_screening``
            when the screening should be over, in case the server is down then. Unix time in
            what is written down.
        lasts: seconds for which it was forced, for ``time``; None in what older servers wrote.
        took_effect: for ``next_cue`` whether a cue has begun under it, for
            ``end_of_screening`` whether a screening has.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: Mode
    by: str
    reason: str = ""
    cue: str | None = None
    until: Until = "released"
    deadline: Moment | None = None
    lasts: Moment | None = None
    took_effect: bool = False

    def expired(self, now: float) -> bool:
        """Whether its time is over at `now` (steady)."""
        return self.until == "time" and self.deadline is not None and now >= self.deadline

    def concerns(self, action_id: str) -> bool:
        """Whether it is for this action."""
        return self.cue is None or self.cue == action_id

    @property
    def words(self) -> str:
        """``forced static by foh-tablet: GPU host noisy``."""
        reason = f": {self.reason}" if self.reason else ""
        return f"forced {self.mode} by {self.by}{reason}"


Forces = tuple[Force, ...]


def in_force(forces: Iterable[Force], action_id: str | None, now: float) -> Force | None:
    """The force that decides over an action: its own before the one for all.

    None for `action_id` asks for the one for all.
    """
    lasting = [force for force in forces if not force.expired(now)]
    own = next((f for f in lasting if action_id is not None and f.cue == action_id), None)
    return own or next((f for f in lasting if f.cue is None), None)


def with_force(forces: Iterable[Force], force: Force) -> Forces:
    """The forces with one more, which replaces what was forced upon the same before."""
    return (*(other for other in forces if other.cue != force.cue), force)


def without(forces: Iterable[Force], cue: str | None) -> Forces:
    """The forces without the one upon `cue`, or, for None, without the one upon all."""
    return tuple(force for force in forces if force.cue != cue)


def unexpired(forces: Iterable[Force], now: float) -> Forces:
    """Those whose time is not over."""
    return tuple(force for force in forces if not force.expired(now))


def after_absence(forces: Iterable[Force], now: float) -> Forces:
    """Those that a server that comes back at `now` still finds in force."""
    return tuple(f for f in forces if f.deadline is None or now < f.deadline)


def written_down(forces: Iterable[Force], offset: float) -> Forces:
    """As they are kept for the next start, which will have another steady clock.

    Args:
        forces: those in force.
        offset: seconds from the steady clock to the time of day now.
    """
    return tuple(_moved(force, offset) for force in forces)


def read_back(forces: Iterable[Force], offset: float, now: float) -> Forces:
    """As they are in force again after a start; those that ran out meanwhile are among them.

    What is left of a number of seconds follows from the time of day, the only clock that went on.
    Where that was set back in between, no more is left than there was.
    """
    back: list[Force] = []
    for force in forces:
        moved = _moved(force, -offset)
        if force.lasts is not None and moved.deadline is not None:
            latest = now + force.lasts
            moved = moved.model_copy(update={"deadline": min(moved.deadline, latest)})
        back.append(moved)
    return tuple(back)


def _moved(force: Force, by: float) -> Force:
    if force.deadline is None:
        return force
    return force.model_copy(update={"deadline": force.deadline + by})


def at_cue(forces: Iterable[Force], action_id: str) -> Forces:
    """As a cue begins: what was to last until then is over, what waited for it takes effect."""
    kept: list[Force] = []
    for force in forces:
        if force.until != "next_cue":
            kept.append(force)
        elif not force.took_effect:
            concerned = force.concerns(action_id)
            kept.append(force.model_copy(update={"took_effect": True}) if concerned else force)
    return tuple(kept)


def at_start(forces: Iterable[Force], ends: float) -> Forces:
    """As a screening begins that should be over at `ends` (steady)."""
    kept: list[Force] = []
    for force in forces:
        if force.until != "end_of_screening":
            kept.append(force)
        elif not force.took_effect:
            kept.append(force.model_copy(update={"took_effect": True, "deadline": ends}))
    return tuple(kept)


def at_end(forces: Iterable[Force]) -> Forces:
    """As a screening ends."""
    return tuple(f for f in forces if f.until != "end_of_screening" or not f.took_effect)
