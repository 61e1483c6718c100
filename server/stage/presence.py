"""Which screens should be there, which are, and whether they really show anything.

Expected are the screens that `[stage] screens` names. Where it names none, those are expected that
have been connected for a minute in one go, over restarts too, until somebody forgets them. One
that is gone, or connected and blind, is told wherever the health of the show is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final, Literal

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from server.core.clock import Clock
from server.core.conditions import Condition
from server.core.formatting import moment
from server.core.metrics import sampled
from server.core.refusal import Refused
from server.stage import glyphs
from server.stage.stage import Screen, Stage

_log = structlog.get_logger(__name__)

REMEMBERED_AFTER: Final = 60.0
"""Seconds connected in one go after which a screen is expected to come back: no passing look."""

GONE_AFTER: Final = 10.0
"""Seconds: a page that is loaded anew, or a server that was restarted, is not told."""

BOOT: Final = 120.0
"""Seconds after the server's start in which screens may still be on their way."""

NEAR: Final = 600.0
"""Seconds before a screening in which its screens must be there."""

GIVEN_UP_AFTER: Final = 86_400.0
"""Seconds after which a screen that is only remembered is no more than worth knowing."""

MOST_REMEMBERED: Final = 64

Trouble = Literal["", "gone", "silent", "paints_nothing"]

_CODES: Final = {
    "gone": "screen_gone",
    "silent": "screen_silent",
    "paints_nothing": "screen_paints_nothing",
}


class NotForgotten(Refused):
    """A screen that cannot be forgotten."""


@dataclass(frozen=True, slots=True)
class ScreenStatus:
    """How one screen is at this moment.

    Attributes:
        name: its name, unique among those connected.
        expected: whether it should be there.
        screen: its connection; None if there is none.
        trouble: what is wrong with it, empty for nothing.
        since: steady time since when; None if that is not known to this life of the server.
        message: the same in words, with the hour.
        lasting: whether it has lasted long enough to be told beyond the list of screens.
        gone_since: Unix time at which it went, over restarts too; None if that is not known.
    """

    name: str
    expected: bool
    screen: Screen | None
    trouble: Trouble = ""
    since: float | None = None
    message: str = ""
    lasting: bool = False
    gone_since: float | None = None


class ScreenPresence:
    """Keeps the list of those expected, and answers how each screen is.

    Args:
        stage: where screens join.
        clock: real time.
        zone: in which hours are told.
        named: the screens that the show names.
        known: the screens remembered, and since when each is gone (Unix time; None while it is
            there, or for one of which that is not known). It is changed in place.
        changed: called after it was.
        near: whether a screening is on, or will be within some seconds.
    """

    def __init__(
        self,
        stage: Stage,
        clock: Clock,
        zone: tzinfo,
        *,
        named: Sequence[str] = (),
        known: MutableMapping[str, float | None] | None = None,
        changed: Callable[[], None] = lambda: None,
        near: Callable[[float], bool] = lambda _seconds: True,
    ) -> None:
        self._stage = stage
        self._clock = clock
        self._zone = zone
        self._named = tuple(dict.fromkeys(named))
        self._known = {} if known is None else known
        self._changed = changed
        self._near = near
        self._started = clock.now()
        self._gone: dict[str, float] = {}
        self._here: set[str] = set()

    @property
    def expected(self) -> tuple[str, ...]:
        """The names of the screens that should be there."""
        return self._named or tuple(self._known)

    def look(self) -> None:
        """Note who came and who went; called whenever a screen has, and before each answer."""
        now = self._clock.now()
        connected = {screen.name: screen for screen in self._stage.screens}
        if not self._named:
            for name, screen in connected.items():
                self._remember(name, now - screen.liveness.joined_at)
        for name in self._here - connected.keys():
            self._gone[name] = now
            if name in self._named or name in self._known:
                self._keep(name, self._unix(now))
        for name in connected.keys() - self._here:
            self._gone.pop(name, None)
            if self._known.get(name) is not None:
                self._keep(name, None)
        self._here = set(connected)
        if len(self._gone) > MOST_REMEMBERED:
            self._gone = {name: at for name, at in self._gone.items() if name in self.expected}

    def left(self, screen: Screen) -> None:
        """A screen has gone; if it was there for long, it is expected back."""
        if not self._named:
            self._remember(screen.name, self._clock.now() - screen.liveness.joined_at)
        self.look()

    def forget(self, name: str) -> None:
        """Expect a screen no more.

        Raises:
            NotForgotten: `unknown_screen`, `screen_named` or `screen_connected`.
        """
        if name in self._named:
            raise NotForgotten(
                "screen_named", f"{name} stands in [stage] screens of show.toml: take it out there"
            )
        if name not in self._known:
            raise NotForgotten("unknown_screen", f"no screen named {name!r:.70} is remembered")
        if any(screen.name == name for screen in self._stage.screens):
            raise NotForgotten("screen_connected", f"{name} is connected: close it first")
        del self._known[name]
        self._gone.pop(name, None)
        self._changed()
        _log.info("screen_forgotten", screen=name)

    # ------------------------------------------------------------ how they are

    def all(self) -> list[ScreenStatus]:
        """Every screen that is connected, in the order they came, then those that are missing."""
        self.look()
        now, expected = self._clock.now(), self.expected
        there = [self._connected(screen, now) for screen in self._stage.screens]
        names = {each.name for each in there}
        return [*there, *(self._missing(name, now) for name in expected if name not in names)]

    def one(self, name: str) -> ScreenStatus:
        """How the screen of that name is, expected or not."""
        found = next((each for each in self.all() if each.name == name), None)
        return found or self._missing(name, self._clock.now())

    def conditions(self) -> Iterator[Condition]:
        """What is to be told: see `server/core/conditions.py`."""
        screens = self.all()
        near = self._near(NEAR)
        # Where none is named, one wall that shows the piece is enough to play it.
        nobody = not any(each.expected and not each.trouble for each in screens)
        for each in screens:
            if each.trouble and each.lasting and (each.expected or each.screen is not None):
                alarming = near and not self._given_up(each)
                blocks = alarming and each.expected and (bool(self._named) or nobody)
                level: Literal["degraded", "note"] = "degraded" if alarming else "note"
                told = each.message
                if each.screen is None and not self._named:
                    told += " (if it is not to come back: Forget, or screens.forget)"
                yield Condition(_CODES[each.trouble], level, told, blocks)
            if each.screen is not None:
                yield from self._of_screen(each.screen)
        empty = not any(each.screen is not None or each.lasting for each in screens)
        if empty and self._near(0.0):
            yield Condition("no_screen", "note", "a screening is on, and no screen is connected")

    def _given_up(self, status: ScreenStatus) -> bool:
        """Whether it is a passer-by's page, most likely, that will not come back."""
        if self._named or status.gone_since is None:
            return False
        return self._unix(self._clock.now()) - status.gone_since > GIVEN_UP_AFTER

    def _of_screen(self, screen: Screen) -> Iterator[Condition]:
        twice = self._clock.now() - screen.liveness.joined_at > GONE_AFTER
        if screen.name != screen.asked and twice:
            yield Condition(
                "screen_name_twice",
                "degraded",
                f"two screens call themselves {screen.asked}: one of them plays as {screen.name} "
                "until it gets a name of its own (?screen=… in its address)",
            )
        if screen.lacks:
            what = glyphs.in_words(screen.lacks, screen.lacks_count)
            help_ = glyphs.advice(screen.lacks)
            yield Condition(
                "screen_lacks_characters",
                "degraded",
                f"{screen.name} cannot draw {what}; install there: {help_}",
            )

    def _connected(self, screen: Screen, now: float) -> ScreenStatus:
        expected = screen.name in self.expected
        silent = screen.liveness.silent_since(now)
        if silent is not None:
            message = f"{screen.name}: connected, but has said nothing since {self._hour(silent)}"
            return ScreenStatus(screen.name, expected, screen, "silent", silent, message, True)
        blind = screen.liveness.unpainted_since(now)
        if blind is not None:
            message = f"{screen.name}: connected, but has painted nothing since {self._hour(blind)}"
            return ScreenStatus(
                screen.name, expected, screen, "paints_nothing", blind, message, True
            )
        return ScreenStatus(screen.name, expected, screen)

    def _missing(self, name: str, now: float) -> ScreenStatus:
        expected, gone, kept = name in self.expected, self._gone.get(name), self._known.get(name)
        lasting = now - self._started > BOOT if gone is None else now - gone > GONE_AFTER
        if gone is not None:
            message = f"{name}: gone since {self._hour(gone)}"
        elif kept is not None:
            message = f"{name}: gone since {moment(kept, self._unix(now), self._zone)}"
        else:
            message = f"{name}: not seen since the server started, {self._hour(self._started)}"
        return ScreenStatus(name, expected, None, "gone", gone, message, lasting, kept)

    def metrics(self) -> Iterable[Metric]:
        """Of each expected screen, whether it is there and shows the piece."""
        family = GaugeMetricFamily(
            "understudy_screen_up",
            "Whether an expected screen is connected and paints.",
            labels=["screen"],
        )
        expected = [each for each in self.all() if each.expected]
        yield sampled(family, {each.name: 0.0 if each.trouble else 1.0 for each in expected})

    # ------------------------------------------------------------ what is kept

    def _remember(self, name: str, seconds: float) -> None:
        if seconds < REMEMBERED_AFTER or name in self._known:
            return
        if len(self._known) >= MOST_REMEMBERED and not self._make_room():
            return
        self._keep(name, None)
        _log.info("screen_remembered", screen=name)

    def _make_room(self) -> bool:
        """Forget the one that has been gone longest; whether there was one.

        A browser that keeps nothing (a private window) comes by another name each time, and in
        some months those would leave no room for a wall that is really there.
        """
        connected = {screen.name for screen in self._stage.screens}
        gone = {name: at or 0.0 for name, at in self._known.items() if name not in connected}
        if not gone:
            return False
        longest = min(gone, key=gone.__getitem__)
        del self._known[longest]
        self._gone.pop(longest, None)
        _log.info("screen_forgotten", screen=longest)
        return True

    def _keep(self, name: str, gone: float | None) -> None:
        self._known[name] = gone
        self._changed()

    def _unix(self, steady: float) -> float:
        """The time of day of a steady moment, by what the machine takes for the time now."""
        return self._clock.wall() - (self._clock.now() - steady)

    def _hour(self, steady: float) -> str:
        return moment(self._unix(steady), self._clock.wall(), self._zone)
