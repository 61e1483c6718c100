"""What technicians force upon the modes: who, why, for which cue, until when (pure).

A force is compared by value and written as it is, so it survives a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cache.untrusted import UnixTime
from generator.cues import Mode

Until = Literal["released", "next_cue", "end_of_screening", "time"]


class Force(BaseModel):
    """One decision of a technician's.

    Attributes:
        mode: what is forced.
        by: who forces it.
        reason: why, in their words; may be empty.
        cue: the action it is for, None for every one.
        until: ``released``, ``next_cue``: until the cue after the one it took effect on begins,
            ``end_of_screening``, or a ``time``.
        deadline: Unix time at which it expires: always for ``time``; for ``end_of_screening``
            when the screening should be over, in case the server is down then.
        took_effect: for ``next_cue`` whether a cue has begun under it, for
            ``end_of_screening`` whether a screening has.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: Mode
    by: str
    reason: str = ""
    cue: str | None = None
    until: Until = "released"
    deadline: UnixTime | None = None
    took_effect: bool = False

    def expired(self, wall: float) -> bool:
        """Whether its time is over at `wall` (Unix time)."""
        return self.until == "time" and self.deadline is not None and wall >= self.deadline

    def concerns(self, action_id: str) -> bool:
        """Whether it is for this action."""
        return self.cue is None or self.cue == action_id

    @property
    def words(self) -> str:
        """``forced static by foh-tablet: GPU host noisy``."""
        reason = f": {self.reason}" if self.reason else ""
        return f"forced {self.mode} by {self.by}{reason}"


Forces = tuple[Force, ...]


def in_force(forces: Iterable[Force], action_id: str | None, wall: float) -> Force | None:
    """The force that decides over an action: its own before the one for all.

    None for `action_id` asks for the one for all.
    """
    now = [force for force in forces if not force.expired(wall)]
    own = next((f for f in now if action_id is not None and f.cue == action_id), None)
    return own or next((f for f in now if f.cue is None), None)


def with_force(forces: Iterable[Force], force: Force) -> Forces:
    """The forces with one more, which replaces what was forced upon the same before."""
    return (*(other for other in forces if other.cue != force.cue), force)


def without(forces: Iterable[Force], cue: str | None) -> Forces:
    """The forces without the one upon `cue`, or, for None, without the one upon all."""
    return tuple(force for force in forces if force.cue != cue)


def unexpired(forces: Iterable[Force], wall: float) -> Forces:
    """Those whose time is not over."""
    return tuple(force for force in forces if not force.expired(wall))


def after_absence(forces: Iterable[Force], wall: float) -> Forces:
    """Those that a server that comes back at `wall` still finds in force."""
    return tuple(f for f in forces if f.deadline is None or wall < f.deadline)


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
    """As a screening begins that should be over at `ends` (Unix time)."""
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
