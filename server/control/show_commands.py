"""What the commands of the show mean: its moves, its screens, what was played."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from generator.cues import format_time, parse_time
from generator.plan import Planned
from server.asrun.log import AsRun
from server.clock import Clock
from server.config.show import Show
from server.control.dispatcher import (
    Args,
    Caller,
    CommandError,
    CommandLog,
    Handler,
    expect,
    kept_or_not,
)
from server.control.state import StateView
from server.performance.playback import Playback
from server.stage.presence import NotForgotten
from server.stage.stage import Stage
from server.state_file import Panic

_MOST_ROWS = 500
"""More are to be had in pieces from `/api/asrun`: a reply is one message."""

_MOST_LOGGED = 200

Remember = Callable[[Panic | None], Awaitable[str | None]]
"""Keeps a panic, or that there is none, across a restart; it never fails, and says why it could
not, or None."""


async def forget(panic: Panic | None) -> str | None:
    """Remember nothing: for a house without a disk."""
    del panic
    return None


class ShowCommands:
    """The commands that move the show, look after its screens, and tell what was played.

    Args:
        playback: the show.
        stage: the screens.
        view: the state.
        asrun: what was played.
        clock: the time.
        min_go: seconds within which a second `go` is taken for a slip of the finger.
        log: the commands of late.
        remember: keeps a panic across a restart.
    """

    def __init__(
        self,
        *,
        playback: Playback,
        stage: Stage,
        view: StateView,
        asrun: AsRun,
        clock: Clock,
        min_go: float,
        log: CommandLog | None = None,
        remember: Remember = forget,
    ) -> None:
        self._playback = playback
        self._stage = stage
        self._view = view
        self._asrun = asrun
        self._clock = clock
        self._min_go = min_go
        self._log = log if log is not None else CommandLog()
        self._remember = remember
        self._last_go: float | None = None

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """See `Commands.handlers`."""
        return {
            "state": self._state,
            "go": self._go,
            "standby": self._standby,
            "next": self._next,
            "previous": self._previous,
            "pause": self._pause,
            "resume": self._resume,
            "rejoin": self._rejoin,
            "seek": self._seek,
            "regenerate": self._regenerate,
            "hold": self._hold,
            "panic": self._panic,
            "restore": self._restore,
            "cues": self._cues,
            "screens": self._screens,
            "identify": self._identify,
            "reload": self._reload,
            "screens.forget": self._forget_screen,
            "asrun": self._rows,
            "log": self._commands,
        }

    @property
    def read_only(self) -> frozenset[str]:
        """See `Commands.read_only`."""
        return frozenset({"state", "cues", "screens", "asrun", "log"})

    # ------------------------------------------------------------ the show

    async def _state(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        return self._view.state()

    async def _go(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "cue")
        self._refuse_in_the_dark()
        now = self._clock.now()
        if self._last_go is not None and now - self._last_go < self._clock.stretch(self._min_go):
            raise CommandError("too_soon", f"the last go was under {self._min_go:g} s ago")
        self._playback.go(self._cue_of(args["cue"]) if args.get("cue") is not None else None)
        self._last_go = now
        return self._where()

    async def _standby(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "cue")
        if args.get("cue") is None:
            raise CommandError("bad_args", "standby needs a cue: its id or its number")
        self._playback.stand_by(self._cue_of(args["cue"]))
        return self._where()

    async def _next(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._refuse_in_the_dark()
        self._playback.next()
        return self._where()

    async def _previous(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._refuse_in_the_dark()
        self._playback.previous()
        return self._where()

    async def _pause(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._playback.pause()
        return self._where()

    async def _resume(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._playback.resume()
        return self._where()

    async def _rejoin(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._playback.rejoin()
        return self._where()

    async def _seek(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "time")
        self._playback.seek(_position(args.get("time")))
        return self._where()

    async def _regenerate(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._refuse_in_the_dark()
        if not self._playback.regenerate():
            raise CommandError("nothing_drawn", "no picture of this screening to draw again")
        return self._where()

    async def _hold(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        self._refuse_in_the_dark()
        self._playback.hold()
        return self._where()

    async def _panic(self, args: Args, caller: Caller) -> dict[str, Any]:
        expect(args)
        why_not = await self._remember(self._playback.panic(caller.name))
        return {**self._where(), **kept_or_not(why_not)}

    async def _restore(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        if not self._playback.restore():
            raise CommandError("not_panicked", "there is no panic to undo")
        why_not = await self._remember(None)
        return {**self._where(), **kept_or_not(why_not)}

    def _refuse_in_the_dark(self) -> None:
        """Refuse what would draw a picture that nobody sees; where the show is may be moved."""
        panic = self._playback.panicked
        if panic is not None:
            message = f"the wall is black since {panic.by} panicked: restore it first"
            raise CommandError("panicked", message)

    async def _cues(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        count = len(self._view.show.sheet.cues)
        return {"cues": [self._view.cue(index) for index in range(count)]}

    # ------------------------------------------------------------ the screens

    async def _screens(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args)
        return {"screens": self._view.screens(self._clock.now())}

    async def _identify(self, args: Args, _caller: Caller) -> dict[str, Any]:
        return self._address(args, self._stage.identify)

    async def _reload(self, args: Args, _caller: Caller) -> dict[str, Any]:
        return self._address(args, self._stage.reload)

    async def _forget_screen(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "screen")
        name = args.get("screen")
        if not isinstance(name, str) or self._view.presence is None:
            raise CommandError("bad_args", "which screen? expected its name")
        try:
            self._view.presence.forget(name)
        except NotForgotten as error:
            raise CommandError(error.code, str(error)) from None
        return {"forgotten": name}

    def _address(self, args: Args, ask: Callable[[str], int]) -> dict[str, Any]:
        expect(args, "screen")
        name = args.get("screen")
        if not isinstance(name, str):
            raise CommandError("bad_args", "which screen? expected its name")
        reached = ask(name)
        if not reached:
            raise CommandError("unknown_screen", f"no screen named {name!r:.70} is connected")
        return {"screens": reached}

    # ------------------------------------------------------------ what was played

    async def _rows(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "limit")
        limit = args.get("limit", 100)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= _MOST_ROWS:
            raise CommandError("bad_args", f"limit: expected 1 to {_MOST_ROWS}, not {limit!r:.40}")
        return {"rows": await self._asrun.rows(limit=limit), "zone": self._view.zone()}

    async def _commands(self, args: Args, _caller: Caller) -> dict[str, Any]:
        expect(args, "limit")
        limit = args.get("limit", 50)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= _MOST_LOGGED:
            raise CommandError(
                "bad_args", f"limit: expected 1 to {_MOST_LOGGED}, not {limit!r:.40}"
            )
        return {"commands": self._log.newest(limit), "zone": self._view.zone()}

    # ------------------------------------------------------------

    def _cue_of(self, reference: object) -> int:
        return find_cue(self._view.show, self._playback.plan, reference)

    def _where(self) -> dict[str, Any]:
        playhead = self._playback.playhead
        position = playhead.position(self._clock.now())
        return {
            "status": playhead.status,
            "position": position,
            "time": None if position is None else format_time(int(position)),
            "on_schedule": playhead.on_schedule,
            "paused": playhead.paused,
            "standby": playhead.standby,
            "panic": self._playback.panicked is not None,
        }


def find_cue(show: Show, plan: Planned, reference: object) -> int:
    """The index of a cue, by its action's id, its own id or its number.

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
    raise CommandError("unknown_cue", f"no cue {reference!r:.70} in this show")


def _position(time: object) -> float:
    if isinstance(time, (int, float)) and not isinstance(time, bool):
        try:
            return float(time)
        except OverflowError:
            raise CommandError("out_of_range", "time: beyond any show") from None
    try:
        return parse_time(time)
    except ValueError as error:
        raise CommandError("bad_args", f"time: {error}, or a number of seconds") from None
