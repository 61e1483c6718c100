"""The commands of modes and engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cache.untrusted import one_line
from generator.sheet.cues import Mode
from server.control.command import (
    Arguments,
    Caller,
    CommandError,
    Result,
    command,
    kept_or_not,
)
from server.control.commands.show import CueReference, find_cue
from server.control.state import StateView
from server.core.clock import Clock
from server.engines.live import LiveEngines
from server.modes.forces import Force, Until
from server.modes.ladder import Decision
from server.modes.manager import ModeManager
from server.performance.playback import Playback

_LOOK_IN: Final = 0.5
_LONGEST: Final = 366 * 86_400.0
_LONGEST_REASON: Final = 200

Keep = Callable[[], Awaitable[str | None]]
"""Has the forces put where they survive a restart; it never fails, and says why it could not, or
None."""


def _until(given: object) -> object:
    """Seconds or a word, as JSON has them or as they are typed in a terminal."""
    if not isinstance(given, str):
        return given
    with suppress(ValueError):
        return float(given)
    return given.strip().lower().replace(" ", "_").replace("-", "_")


class ReleaseArguments(Arguments):
    """Which force ends, and when."""

    cue: CueReference = None
    now: Annotated[bool, Field(description="true or false")] = False


class ForceArguments(Arguments):
    """Which mode, upon what, until when, and why."""

    mode: Annotated[
        Mode,
        BeforeValidator(lambda given: "hybrid" if given == "auto" else given),
        Field(description="static, live or hybrid"),
    ]
    until: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=_LONGEST)]
        | Literal["released", "next_cue", "end_of_screening"],
        BeforeValidator(_until),
        Field(description="released, next_cue, end_of_screening or a number of seconds"),
    ] = "released"
    reason: Annotated[
        str,
        Field(max_length=_LONGEST_REASON, description=f"up to {_LONGEST_REASON} characters"),
        AfterValidator(lambda reason: one_line(reason, _LONGEST_REASON)),
    ] = ""
    cue: CueReference = None
    now: Annotated[bool, Field(description="true or false")] = False


class EngineArguments(Arguments):
    """An engine."""

    engine: Annotated[str, Field(description="an engine's name")]


@dataclass(kw_only=True)
class ModeCommands:
    """The commands that force modes and look after engines."""

    modes: ModeManager
    playback: Playback
    view: StateView
    clock: Clock
    engines: LiveEngines
    keep: Keep
    _wish: tuple[str, float | None] | None = field(default=None, init=False)
    """The cue, and its screening, that is played live as soon as its engine is there."""
    _wished: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    # ------------------------------------------------------------ the commands

    @command("mode.force")
    async def force(self, args: ForceArguments, caller: Caller) -> Result:
        """Force a mode until `released`, `next_cue`, `end_of_screening`, or for seconds."""
        cue = self._action_id(args.cue)
        until, lasts = self._lasts(args.until)
        at_once = args.now and self._begun(cue)
        screening = self.playback.playhead.status == "active"
        # What it lasts until has begun to be waited for.
        waits = at_once if until == "next_cue" else until == "end_of_screening" and screening
        self.modes.impose(
            Force(
                mode=args.mode,
                by=caller.name,
                reason=args.reason,
                cue=cue,
                until=until,
                deadline=None if lasts is None else self.clock.now() + lasts,
                lasts=lasts if until == "time" else None,
                took_effect=waits,
            )
        )
        outcome = self._outcome(at_once=at_once)
        return {**outcome, **kept_or_not(await self.keep())}

    @command("mode.release")
    async def release(self, args: ReleaseArguments) -> Result:
        """End a force."""
        cue = self._action_id(args.cue)
        begun = self._begun(cue)
        released = self.modes.release(cue)
        outcome = self._outcome(at_once=args.now and begun and released)
        return {"released": released, **outcome, **kept_or_not(await self.keep())}

    @command("engines", viewers=True)
    async def report(self) -> Result:
        """Tell how engines do."""
        return {"engines": self.view.engines()}

    @command("engine.reset")
    async def reset(self, args: EngineArguments) -> Result:
        """Trust an engine again at once."""
        try:
            self.modes.reset(args.engine)
        except KeyError:
            known = ", ".join(each.name for each in self.modes.engines) or "there are none"
            text = f"no engine {args.engine!r:.70} may draw live: {known}"
            raise CommandError("unknown_engine", text) from None
        self.engines.reset(args.engine)
        return {"engines": self.view.engines()}

    # ------------------------------------------------------------ playing again

    async def run(self) -> None:
        """Play live what was to be played so at once, when its engine is there; until cancelled."""
        while True:
            await self._wished.wait()
            await self.clock.sleep_until(self.clock.now() + self.clock.stretch(_LOOK_IN))
            if self._wish is None or self._wish != self._moment():
                self._no_wish()  # the cue is over, and the next asked for itself
            elif self._forced_live() == "there":
                self._no_wish()
                self.playback.regenerate("played live, as the engine is there now")

    def _moment(self) -> tuple[str, float | None] | None:
        """Which cue is on, of which screening."""
        current = self.playback.current
        if current is None:
            return None
        return current.action_id, self.playback.playhead.started_at

    def _no_wish(self) -> None:
        self._wish = None
        self._wished.clear()

    def _decision(self) -> Decision | None:
        """How the cue that is on, or else the one that comes next, would be played now."""
        index = self.playback.playhead.standby
        upcoming = None if index is None else self.playback.plan.of_cue(index)
        action = self.playback.current or upcoming
        if action is None:
            return None
        return self.modes.decide(action, self.view.show.sheet.cues[action.cue_index].mode)

    def _forced_live(self) -> Literal["there", "absent"] | None:
        """Whether an engine is there, where live is forced; None where it is not."""
        decision = self._decision()
        if decision is None or decision.forced_by is None or decision.mode != "live":
            return None
        return "there" if any(rung.engine for rung in decision.rungs) else "absent"

    def _outcome(self, *, at_once: bool) -> Result:
        """The mode as it is now, and what comes of it.

        The current cue is played again if it is to be at once; where it is to be live and its
        engine is still on its way, as soon as that is there.
        """
        decision = self._decision()
        self._no_wish()
        if at_once and self._forced_live() == "absent" and self.modes.on_their_way:
            self._wish = self._moment()
            self._wished.set()
        played = (
            at_once
            and self._wish is None
            and self.playback.regenerate("played again, the mode was switched")
        )
        why = None if decision is None else decision.why
        waits = list(self.modes.on_their_way) if self._wish is not None else []
        return {"mode": self.view.mode(), "played_again": played, "why": why, "waits_for": waits}

    def _begun(self, cue: str | None) -> bool:
        """Whether that action, or any, is on."""
        current = self.playback.current
        return current is not None and cue in {None, current.action_id}

    def _lasts(self, until: str | float) -> tuple[Until, float | None]:
        """Until when, and in how many seconds that is over, where it is known."""
        match until:
            case "released" | "next_cue":
                return until, None
            case "end_of_screening":
                position = self.playback.playhead.position(self.clock.now())
                left = None if position is None else self.view.show.duration - position
                return until, None if left is None else max(0.0, left)
            case _:
                return "time", float(until)

    def _action_id(self, reference: object) -> str | None:
        """What a cue draws that is named."""
        if reference is None:
            return None
        show, plan = self.view.show, self.playback.plan
        action = plan.of_cue(find_cue(show, plan, reference, kind="generating cue"))
        if action is None:
            text = f"no generating cue {reference!r:.70} in this show"
            raise CommandError("unknown_cue", text)
        return action.action_id
