"""Who decides what a cue is played from, and in which order it is tried (pure).

Strongest first: a technician's force for the cue, their force for all, the cue's own mode,
the configured one. The mode, and what is known of sets and engines, give the ladder: the
rungs that are tried one after the other. Below the last one the picture before is held.

| mode | the ladder |
| --- | --- |
| static | a set, then, where `fallback` allows, engines in order |
| live | engines in order, remote ones before local ones, then a set |
| hybrid | a set if one can be on screen in time, then engines; else engines, then a late set |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from generator.sheet.cues import Mode
from server.modes.forces import Force

Sets = Literal["ready", "late", "none"]
"""What is known of an action's sets: one can be on screen in time, only late, or there is none."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One thing to try: a set, or an engine by its name."""

    provider: Literal["static", "live"]
    engine: str | None = None

    def __str__(self) -> str:
        """``static``, or ``live gpu``."""
        return self.provider if self.engine is None else f"{self.provider} {self.engine}"


STATIC = Rung("static")


@dataclass(frozen=True, slots=True)
class EngineOutlook:
    """What is known of an engine before it is asked.

    Attributes:
        name: what it is called.
        local: whether it draws on this machine, so it comes after those elsewhere.
        unfit: in words, why it is not to be tried now; None if it is.
    """

    name: str
    local: bool = False
    unfit: str | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known when it is decided.

    Attributes:
        sets: of the action's sets.
        engines: in order of preference.
        fallback: whether a static cue may fall back on engines.
        no_live: in words, why nothing may be drawn live at all; None if it may.
        joined: the cue began a while ago, and the stage is set in the middle of it.
    """

    sets: Sets
    engines: Sequence[EngineOutlook] = ()
    fallback: bool = True
    no_live: str | None = None
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """How a cue is to be played.

    Attributes:
        mode: the mode that decided.
        rungs: what is tried, in this order; below them the picture before is held.
        why: in words.
        forced_by: who forced it, None for nobody.
    """

    mode: Mode
    rungs: tuple[Rung, ...]
    why: str
    forced_by: str | None = None


@dataclass(frozen=True, slots=True)
class WantedMode:
    """Which mode is to decide, why, and who forced it."""

    mode: Mode
    why: str
    forced_by: str | None = None


def asked(configured: Mode, cue: Mode | None = None, force: Force | None = None) -> WantedMode:
    """The strongest of those who have a say."""
    if force is not None:
        return WantedMode(force.mode, force.words, force.by)
    if cue is not None:
        return WantedMode(cue, f"the cue asks for {cue}")
    return WantedMode(configured, f"{configured} as configured")


def decide(ask: WantedMode, outlook: Outlook) -> Decision:
    """The ladder, and the reasons for it."""
    sets = () if outlook.sets == "none" else (STATIC,)
    engines, missing = _engines(outlook)
    if sets and not engines:
        missing = (*missing, "playing a set")
    match ask.mode:
        case "static":
            # Also where no set is known of: what is known may be old, and asking costs little.
            rungs = (STATIC, *engines) if outlook.fallback else (STATIC,)
            remarks = () if sets else ("no set is known", *(missing if outlook.fallback else ()))
        case _ if outlook.joined and sets:
            rungs = (*sets, *engines)
            remarks = ("joined in the middle of the cue, where only a set can be",)
        case "live":
            rungs, remarks = (*engines, *sets), missing
        case _ if outlook.sets == "ready":
            rungs, remarks = (*sets, *engines), ("a set is at hand",)
        case _:
            rungs = (*engines, *sets)
            remarks = ("no set can be here in time" if sets else "there is no set", *missing)
    if not rungs:
        remarks = (*remarks, "nothing to play, the picture before is held")
    return Decision(ask.mode, rungs, "; ".join((ask.why, *remarks)), ask.forced_by)


def _engines(outlook: Outlook) -> tuple[tuple[Rung, ...], tuple[str, ...]]:
    """The engines to try, in order, and in words why others are not."""
    if not outlook.engines:
        return (), ("no engine is set up",)
    if outlook.no_live is not None:
        return (), (outlook.no_live,)
    in_order = sorted(outlook.engines, key=lambda engine: engine.local)
    fit = tuple(Rung("live", engine.name) for engine in in_order if engine.unfit is None)
    return fit, tuple(engine.unfit for engine in in_order if engine.unfit is not None)
