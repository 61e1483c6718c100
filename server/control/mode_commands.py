"""What the commands of modes and engines mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

from cache.untrusted import one_line
from generator.cues import Mode
from server.clock import Clock
from server.control.dispatcher import (
    Args,
    Caller,
    CommandError,
    Handler,
    expect,
    kept_or_not,
)
from server.control.state import StateView
from server.engines.live import LiveEngines
from server.modes.forces import Force, Until
from server.modes.ladder import Decision
from server.modes.manager import ModeManager
from server.performance.playback import Playback

_LOOK_IN = 0.5
_LONGEST = 366 * 86_400.0
_LONGEST_REASON = 200
_YES, _NO = {"true", "yes", "1", "on"}, {"false", "no", "0", "off"}


Keep = Callable[[], Awaitable[str | None]]
"""Has the forces put where they survive a restart; it never fails, and says why it could not, or
None."""


async def no_disk() -> str | None:
    """Keep nothing: for a house without a disk."""
    return None


class ModeCommands:
    """The commands that force modes and look after engines.

    Args:
        modes: who decides.
        playback: what is played again, where it is to be at once.
        view: the state.
        clock: the time.
        engines: the engines of this show: those on this machine are started anew on a reset.
        keep: has the forces kept across a restart.
    """

    def __init__(
        self,
        *,
        modes: ModeManager,
        playback: Playback,
        view: StateView,
        clock: Clock,
        engines: LiveEngines,
        keep: Keep = no_disk,
    ) -> None:
        self._keep = keep
        self._engines_open = engines
        self._modes = modes
        self._playback = playback
        self._view = view
        self._clock = clock
        self._wish: tuple[str, float | None] | None = None
        self._wished = asyncio.Event()

    async def run(self) -> None:
        """Play live what was to be played so at once, when its engine is there; until cancelled."""
        while True:
            await self._wished.wait()
            await self._clock.sleep_until(self._clock.now() + self._clock.stretch(_LOOK_IN))
            if self._wish is None or self._wish != self._moment():
                self._no_wish()  # the cue is over, and the next asked for itself
            elif self._asks_live() and self._live_now():
                self._no_wish()
                self._playback.regenerate("played live, as the engine is there now")

    def _moment(self) -> tuple[str, float | None] | None:
        """Which cue is on, of which screening."""
        current = self._playback.current
        if current is None:
            return None
        return current.action_id, self._playback.playhead.started_at

    def _no_wish(self) -> None:
        self._wish = None
        self._wished.clear()

    def _decision(self) -> Decision | None:
        """How the cue that is on, or else the one that comes next, would be played now."""
        index = self._playback.playhead.standby
        upcoming = None if index is None else self._playback.plan.of_cue(index)
        action = self._playback.current or upcoming
        if action is None:
            return None
        return self._modes.decide(action, self._view.show.sheet.cues[action.cue_index].mode)

    def _asks_live(self) -> bool:
        decision = self._decision()
        return decision is not None and decision.forced_by is not None and decision.mode == "live"

    def _live_now(self) -> bool:
        decision = self._decision()
        return decision is not None and any(rung.engine is not None for rung in decision.rungs)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """See `Commands.handlers`."""
        return {
            "mode.force": self._force,
            "mode.release": self._release,
            "engines": self._engines,
            "engine.reset": self._reset,
        }

    @property
    def read_only(self) -> frozenset[str]:
        """See `Commands.read_only`."""
        return frozenset({"engines"})

    async def _force(self, args: Args, caller: Caller) -> dict[str, Any]:
        """`mode.force {mode, cue?, until?, reason?, now?}`."""
        expect(args, "mode", "cue", "until", "reason", "now")
        cue = self._cue(args.get("cue"))
        until, lasts = self._until(args.get("until"))
        at_once = _yes(args.get("now"), "now")
        current = self._playback.current
        begun = current is not None and cue in {None, current.action_id}
        self._modes.impose(
            Force(
                mode=_mode(args.get("mode")),
                by=caller.name,
                reason=_reason(args.get("reason")),
                cue=cue,
                until=until,
                deadline=None if lasts is None else self._clock.now() + lasts,
                lasts=lasts if until == "time" else None,
                took_effect=self._in_effect(until, at_once=at_once and begun),
            )
        )
        outcome = self._outcome(at_once=at_once and begun)
        return {**outcome, **kept_or_not(await self._keep())}

    async def _release(self, args: Args, _caller: Caller) -> dict[str, Any]:
        """`mode.release {cue?, now?}`: where nothing is forced, there is nothing to do."""
        expect(args, "cue", "now")
        cue = self._cue(args.get("cue"))
        at_once = _yes(args.get("now"), "now")
        current = self._playback.current
        begun = current is not None and cue in {None, current.action_id}
        released = self._modes.release(cue)
        outcome = self._outcome(at_once=at_once and begun and released)
        return {"released": released, **outcome, **kept_or_not(await self._keep())}

    async def _engines(self, args: Args, _caller: Caller) -> dict[str, Any]:
        """`engines`: how each one does."""
        expect(args)
        return {"engines": self._view.engines()}

    async def _reset(self, args: Args, _caller: Caller) -> dict[str, Any]:
        """`engine.reset {engine}`: trust it again at once."""
        expect(args, "engine")
        name = args.get("engine")
        if not isinstance(name, str):
            raise CommandError("bad_args", "which engine? expected its name")
        try:
            self._modes.reset(name)
        except KeyError:
            known = ", ".join(self._modes.live_engines) or "there are none"
            text = f"no engine {name!r:.70} may draw live: {known}"
            raise CommandError("unknown_engine", text) from None
        self._engines_open.reset(name)
        return {"engines": self._view.engines()}

    def _outcome(self, *, at_once: bool) -> dict[str, Any]:
        """The mode as it is now, and what comes of it.

        The current cue is played again if it is to be at once; where it is to be live and its
        engine is still on its way, as soon as that is there.
        """
        decision = self._decision()
        self._no_wish()
        if at_once and self._asks_live() and not self._live_now() and self._modes.on_their_way:
            self._wish = self._moment()
            self._wished.set()
        played = (
            at_once
            and self._wish is None
            and self._playback.regenerate("played again, the mode was switched")
        )
        why = None if decision is None else decision.why
        waits = list(self._modes.on_their_way) if self._wish is not None else []
        return {"mode": self._view.mode(), "played_again": played, "why": why, "waits_for": waits}

    def _in_effect(self, until: Until, *, at_once: bool) -> bool:
        """Whether what a force lasts until has begun to be waited for."""
        if until == "next_cue":
            return at_once
        return until == "end_of_screening" and self._playback.playhead.status == "active"

    def _until(self, given: object) -> tuple[Until, float | None]:
        """Until when, and in how many seconds that is over, where it is known."""
        if given is None:
            return "released", None
        seconds = _number(given)
        if seconds is not None:
            if not 0 < seconds <= _LONGEST:
                raise CommandError("bad_args", f"until: expected seconds, not {given!r:.40}")
            return "time", seconds
        word = str(given).strip().lower().replace(" ", "_").replace("-", "_")
        until = next((known for known in get_args(Until) if known == word), None)
        if until is None or until == "time":
            raise CommandError(
                "bad_args",
                "until: expected released, next_cue, end_of_screening or a number of seconds, "
                f"not {given!r:.40}",
            )
        if until == "end_of_screening":
            return until, self._screening_ends()
        return until, None

    def _screening_ends(self) -> float | None:
        """Seconds in which the screening that is on should be over."""
        position = self._playback.playhead.position(self._clock.now())
        if position is None:
            return None
        return max(0.0, self._view.show.duration - position)

    def _cue(self, given: object) -> str | None:
        """The action of a cue: by its id, its cue's id, or its cue's number."""
        if given is None:
            return None
        cues = self._view.show.sheet.cues
        for action in self._playback.plan.actions:
            cue = cues[action.cue_index]
            if given in (action.action_id, cue.id) or str(given) == str(action.cue_index):
                return action.action_id
        raise CommandError("unknown_cue", f"no generating cue {given!r:.70} in this show")


def _mode(given: object) -> Mode:
    if given == "auto":
        return "hybrid"
    for known in get_args(Mode):
        if given == known:
            mode: Mode = known
            return mode
    raise CommandError("bad_args", f"mode: expected static, live or hybrid, not {given!r:.40}")


def _reason(given: object) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or len(given) > _LONGEST_REASON:
        raise CommandError("bad_args", f"reason: expected up to {_LONGEST_REASON} characters")
    return one_line(given, _LONGEST_REASON)


def _yes(given: object, name: str) -> bool:
    """A switch, as JSON has it or as it is typed in a terminal."""
    if given is None:
        return False
    word = str(given).lower()
    if word not in _YES | _NO:
        raise CommandError("bad_args", f"{name}: expected true or false, not {given!r:.40}")
    return word in _YES


def _number(given: object) -> float | None:
    """Seconds, as JSON has them or as they are typed in a terminal."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    try:
        return float(given)
    except (ValueError, OverflowError):
        return None
