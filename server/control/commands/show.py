"""The commands of the show: its moves, its screens, what was played."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from generator.sheet.cues import format_time, parse_time
from generator.sheet.plan import Plan
from server.asrun.log import AsRun
from server.config.show import Show
from server.control.command import (
    Arguments,
    Caller,
    CommandError,
    Result,
    command,
    kept_or_not,
)
from server.control.state import StateView
from server.core.clock import Clock
from server.performance.playback import Playback
from server.performance.state_file import Panic
from server.stage.stage import Stage

_MOST_ROWS: Final = 500
"""More are to be had in pieces from `/api/asrun`: a reply is one message."""

_MOST_LOGGED: Final = 200

Remember = Callable[[Panic | None], Awaitable[str | None]]
"""Keeps a panic, or that there is none, across a restart; it never fails, and says why it could
not, or None."""

CueReference = Annotated[Any, Field(description="a cue: its id or its number")]
"""A cue by its action's id, its own id, or its number in the sheet; see `find_cue`."""


class CueArguments(Arguments):
    """A cue that must be named."""

    cue: CueReference


class MaybeCueArguments(Arguments):
    """A cue that may be named."""

    cue: CueReference = None


def _position(given: object) -> object:
    """A position as it is written, or in seconds."""
    try:
        return parse_time(given) if isinstance(given, str) else given
    except ValueError as error:
        raise ValueError(f"{error}, or a number of seconds") from None


class SeekArguments(Arguments):
    """A position."""

    time: Annotated[
        float,
        BeforeValidator(_position),
        Field(strict=True, description="a time as HH:MM:SS, or a number of seconds"),
    ]


class ScreenArguments(Arguments):
    """A screen."""

    screen: Annotated[str, Field(description="a screen's name")]


class RunsArguments(Arguments):
    """How many runs."""

    limit: Annotated[
        int, Field(strict=True, ge=1, le=_MOST_ROWS, description=f"1 to {_MOST_ROWS}")
    ] = 100


class LogArguments(Arguments):
    """How many commands."""

    limit: Annotated[
        int, Field(strict=True, ge=1, le=_MOST_LOGGED, description=f"1 to {_MOST_LOGGED}")
    ] = 50


@dataclass(kw_only=True)
class ShowCommands:
    """The commands that move the show, look after its screens, and tell what was played."""

    playback: Playback
    stage: Stage
    view: StateView
    asrun: AsRun
    clock: Clock
    remember: Remember
    _last_go: float | None = field(default=None, init=False)

    # ------------------------------------------------------------ the show

    @command("state", viewers=True)
    async def state(self) -> Result:
        """Tell the whole state."""
        return {**self.view.state()}

    @command("go")
    async def go(self, args: MaybeCueArguments) -> Result:
        """Fire the cue on standby, or that one. With no screening on, the show begins."""
        self._refuse_in_the_dark()
        now = self.clock.now()
        min_go = self.view.show.settings.playback.min_go  # sooner, it is a slip of the finger
        if self._last_go is not None and now - self._last_go < self.clock.stretch(min_go):
            raise CommandError("too_soon", f"the last go was under {min_go:g} s ago")
        cue = None if args.cue is None else find_cue(self.view.show, self.playback.plan, args.cue)
        self.playback.go(cue)
        self._last_go = now
        return self._where()

    @command("standby")
    async def standby(self, args: CueArguments) -> Result:
        """Say what the next `go` fires."""
        self.playback.stand_by(find_cue(self.view.show, self.playback.plan, args.cue))
        return self._where()

    @command("next")
    async def next(self) -> Result:
        """Go to the next cue that draws."""
        self._refuse_in_the_dark()
        self.playback.next()
        return self._where()

    @command("previous")
    async def previous(self) -> Result:
        """Go back to the cue that is on, or before it."""
        self._refuse_in_the_dark()
        self.playback.previous()
        return self._where()

    @command("pause")
    async def pause(self) -> Result:
        """Let the position stand; what is being drawn is finished."""
        self.playback.pause()
        return self._where()

    @command("resume")
    async def resume(self) -> Result:
        """Go on after a pause."""
        self.playback.resume()
        return self._where()

    @command("rejoin")
    async def rejoin(self) -> Result:
        """Go back to where the schedule is by now."""
        self.playback.rejoin()
        return self._where()

    @command("seek")
    async def seek(self, args: SeekArguments) -> Result:
        """Go to a position: `"00:44:00"`, or seconds."""
        self.playback.seek(args.time)
        return self._where()

    @command("regenerate")
    async def regenerate(self) -> Result:
        """Draw the current cue again, from another set."""
        self._refuse_in_the_dark()
        if not self.playback.regenerate():
            raise CommandError("nothing_drawn", "no picture of this screening to draw again")
        return self._where()

    @command("hold")
    async def hold(self) -> Result:
        """Stop what is being drawn and keep the picture, until the next cue that draws."""
        self._refuse_in_the_dark()
        self.playback.hold()
        return self._where()

    @command("panic")
    async def panic(self, caller: Caller) -> Result:
        """Fade every screen to black (1 s), and stop every run."""
        why_not = await self.remember(self.playback.panic(caller.name))
        return {**self._where(), **kept_or_not(why_not)}

    @command("restore")
    async def restore(self) -> Result:
        """Undo a panic: the wall is as it should be where the show is now."""
        if not self.playback.restore():
            raise CommandError("not_panicked", "there is no panic to undo")
        return {**self._where(), **kept_or_not(await self.remember(None))}

    @command("cues", viewers=True)
    async def cues(self) -> Result:
        """Tell every cue, and how ready it is."""
        return {"cues": self.view.cues().cues}

    # ------------------------------------------------------------ the screens

    @command("screens", viewers=True)
    async def screens(self) -> Result:
        """Tell how every screen is."""
        return {"screens": self.view.screens(self.clock.now())}

    @command("identify")
    async def identify(self, args: ScreenArguments) -> Result:
        """Have a screen show its name."""
        return _reached(args.screen, self.stage.identify(args.screen))

    @command("reload")
    async def reload(self, args: ScreenArguments) -> Result:
        """Have a screen load its page anew."""
        return _reached(args.screen, self.stage.reload(args.screen))

    @command("screens.forget")
    async def forget_screen(self, args: ScreenArguments) -> Result:
        """Expect a remembered screen no more."""
        self.view.presence.forget(args.screen)
        return {"forgotten": args.screen}

    # ------------------------------------------------------------ what was played

    @command("asrun", viewers=True)
    async def runs(self, args: RunsArguments) -> Result:
        """Tell the newest runs, 500 at most, and their `zone`."""
        return {"rows": await self.asrun.rows(limit=args.limit), "zone": self.view.zone()}

    @command("log", viewers=True)
    async def commands(self, args: LogArguments) -> Result:
        """Tell the newest commands, 200 at most, and their `zone`."""
        return {"commands": self.view.commands.newest(args.limit), "zone": self.view.zone()}

    # ------------------------------------------------------------

    def _refuse_in_the_dark(self) -> None:
        """Refuse what would draw a picture that nobody sees; where the show is may be moved."""
        panic = self.playback.panicked
        if panic is not None:
            message = f"the wall is black since {panic.by} panicked: restore it first"
            raise CommandError("panicked", message)

    def _where(self) -> Result:
        playhead = self.playback.playhead
        position = playhead.position(self.clock.now())
        return {
            "status": playhead.status,
            "position": position,
            "time": None if position is None else format_time(int(position)),
            "on_schedule": playhead.on_schedule,
            "paused": playhead.paused,
            "standby": playhead.standby,
            "panic": self.playback.panicked is not None,
        }


def _reached(name: str, screens: int) -> Result:
    if not screens:
        raise CommandError("unknown_screen", f"no screen named {name!r:.70} is connected")
    return {"screens": screens}


def find_cue(show: Show, plan: Plan, reference: object, kind: str = "cue") -> int:
    """The index of a cue, by its action's id, its own id or its number.

    Args:
        show: whose cues they are.
        plan: what they draw.
        reference: what names one.
        kind: what is looked for, in words.

    Raises:
        CommandError: `unknown_cue`.
    """
    cues = show.sheet.cues
    if isinstance(reference, int) and not isinstance(reference, bool):
        if 0 <= reference < len(cues):
            return reference
    elif isinstance(reference, str):
        for action in plan.actions:
            if action.action_id == reference:
                return action.cue_index
        for index, cue in enumerate(cues):
            if cue.id == reference:
                return index
        if reference.isdecimal() and int(reference) < len(cues):
            return int(reference)
    raise CommandError("unknown_cue", f"no {kind} {reference!r:.70} in this show")
