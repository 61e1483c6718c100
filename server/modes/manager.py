"""The mode manager: which provider plays a cue, and why.

Owns the technicians' forces and what is known of the engines. The decisions themselves are
made in pure rooms: forces (`server/modes/forces.py`), ladders (`server/modes/ladder.py`), circuit
breakers (`server/modes/breaker.py`), caps (`server/providers/budget.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from cache.tasks import first_of
from generator.sheet.cues import Mode
from generator.sheet.plan import Action
from server.config.sections import PlaybackSection
from server.core.clock import Clock
from server.core.formatting import count
from server.core.time_of_day import TimeOfDay
from server.modes.breaker import Breaker, Health
from server.modes.forces import (
    Force,
    Forces,
    after_absence,
    at_cue,
    at_end,
    at_start,
    in_force,
    unexpired,
    with_force,
    without,
)
from server.modes.ladder import Decision, EngineOutlook, Outlook, Rung, Sets, asked, decide
from server.providers.base import (
    ActionRefused,
    Capped,
    NotThere,
    Preempted,
    Provider,
    Starting,
    StoreSilent,
)
from server.providers.budget import Budget
from server.providers.live import LiveProvider

_log = structlog.get_logger(__name__)

STORE_IN_DOUBT = 30.0
"""Seconds for which, after the store let a set down, hybrid takes no set to be in time."""

_A_MOMENT = 0.001
"""Seconds after which a force that is over is surely over, whatever was rounded."""


@dataclass
class ForceBook:
    """The forces, kept somewhere that survives a restart.

    Attributes:
        forces: those in force.
        changed: called when they have changed.
    """

    forces: Forces = ()
    changed: Callable[[Forces], None] = lambda _forces: None

    def write(self, forces: Forces) -> bool:
        """Replace them; whether anything changed."""
        if forces == self.forces:
            return False
        self.forces = forces
        self.changed(forces)
        return True


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine, for whoever asks how it does."""

    name: str
    engine: str
    local: bool
    health: Health


class ModeManager:
    """Decides what each cue is played from.

    Args:
        settings: the configured mode, and whether static falls back on engines.
        clock: the time.
        static: plays sets.
        live: plays engines, in order of preference.
        sets: what is known of an action's sets.
        budget: what caps live runs; shared with the live providers.
        book: where forces are kept.
        time_of_day: in which hours are told in words; None for those of the machine.
        absent: in words, why an engine cannot draw at the moment, though nothing is wrong with
            it (it warms up); None if it can. Others may ask it, too.
    """

    def __init__(
        self,
        *,
        settings: PlaybackSection,
        clock: Clock,
        static: Provider,
        live: Sequence[LiveProvider],
        sets: Callable[[Action], Sets],
        budget: Budget | None = None,
        book: ForceBook | None = None,
        time_of_day: TimeOfDay | None = None,
        absent: Callable[[str], str | None] = lambda _name: None,
    ) -> None:
        self.absent = absent
        self._settings = settings
        self._clock = clock
        self._static = static
        self._live = {provider.live.name: provider for provider in live}
        self._sets = sets
        self._budget = budget or Budget()
        self._book = book or ForceBook()
        self._time_of_day = time_of_day or TimeOfDay(clock)
        self._breakers = {name: Breaker() for name in self._live}
        self._refused: dict[str, set[str]] = defaultdict(set)
        self._store_in_doubt_until: float | None = None
        self._forced = asyncio.Event()
        self._write(after_absence(self._book.forces, clock.now()))

    # ------------------------------------------------------------ what is decided

    def decide(self, action: Action, cue: Mode | None = None, *, joined: bool = False) -> Decision:
        """How `action` is to be played now.

        Args:
            action: what is drawn.
            cue: the mode that its cue asks for.
            joined: whether the cue began a while ago.
        """
        force = in_force(self._book.forces, action.action_id, self._clock.now())
        outlook = Outlook(
            sets=self.sets(action),
            engines=[self._outlook(live, action) for live in self._live.values()],
            fallback=self._settings.fallback,
            no_live=self._budget.refusal(self._clock.now()),
            joined=joined,
        )
        return decide(asked(self._settings.mode, cue, force), outlook)

    @property
    def outlook(self) -> tuple[object, ...]:
        """What decisions depend on beside the action and its sets: equal while they stay."""
        now, doubt = self._clock.now(), self._store_in_doubt_until
        engines = tuple(
            (self.absent(name) or self._in_words(name, self.health(name)), frozenset(refused))
            for name, refused in ((name, self._refused[name]) for name in self._live)
        )
        refusal = self._budget.refusal(now)
        return self.forces, refusal, doubt is not None and now < doubt, engines

    def provider(self, rung: Rung) -> Provider:
        """Who plays a rung."""
        return self._static if rung.engine is None else self._live[rung.engine]

    def sets(self, action: Action) -> Sets:
        """Whether a set of `action` can be on screen in time, as far as is known."""
        known = self._sets(action)
        doubt = self._store_in_doubt_until
        if known == "ready" and doubt is not None and self._clock.now() < doubt:
            return "late"
        return known

    def _outlook(self, provider: LiveProvider, action: Action) -> EngineOutlook:
        live = provider.live
        unfit = self.absent(live.name) or self._in_words(live.name, self.health(live.name))
        if action.fingerprint in self._refused[live.name]:
            unfit = f"engine {live.name} cannot draw this"
        return EngineOutlook(live.name, live.local, unfit)

    def _in_words(self, name: str, health: Health) -> str | None:
        """Why an engine is not to be tried; None if it is."""
        times = count(health.failures, "failure")
        match health.state:
            case "resting" if health.until is not None:
                until = self._time_of_day.hour(health.until)
                return f"engine {name} rests until {until} after {times}"
            case "starting":
                return f"engine {name} has not answered yet: {health.reason}"
            case "due":
                return f"engine {name} is to be tried out first, after {times}"
            case "grace" if health.until is not None:
                until = self._time_of_day.hour(health.until)
                return f"engine {name} is back, and not relied on before {until}"
            case _:
                return None

    # ------------------------------------------------------------ what came of it

    def succeeded(self, rung: Rung) -> None:
        """A rung gave a whole picture."""
        if rung.engine is None:
            self._store_in_doubt_until = None
            return
        self._breakers[rung.engine].succeeded()

    def failed(self, rung: Rung, action: Action, error: Exception) -> None:
        """A rung gave nothing, or broke off."""
        now = self._clock.now()
        if rung.engine is None:
            if isinstance(error, (StoreSilent, TimeoutError)):
                self._store_in_doubt_until = now + STORE_IN_DOUBT
        elif isinstance(error, ActionRefused):
            self._refused[rung.engine].add(action.fingerprint)
        elif isinstance(error, NotThere):
            self.not_there(rung.engine, error)
        elif not isinstance(error, Capped | Preempted):
            self._rest(rung.engine, str(error) or type(error).__name__)

    # ------------------------------------------------------------ engines

    @property
    def engines(self) -> tuple[EngineReport, ...]:
        """Every engine and how it does, in order of preference."""
        return tuple(
            EngineReport(name, live.live.engine.name, live.live.local, self.health(name))
            for name, live in self._live.items()
        )

    @property
    def no_live(self) -> str:
        """In words, why nothing is drawn live whatever is asked for; empty where it may be."""
        return self._budget.closed

    def health(self, name: str) -> Health:
        """How an engine does."""
        return self._breakers[name].health(self._clock.now())

    def reset(self, name: str) -> None:
        """Trust an engine again at once: somebody has looked after it.

        Raises:
            KeyError: there is none of that name.
        """
        self._breakers[name].reset()
        self._refused[name].clear()
        _log.info("engine_reset", engine=name)

    def probe_ok(self, name: str) -> None:
        """A probe of an engine went well."""
        self._breakers[name].probe_ok(self._clock.now())
        _log.info("engine_proved", engine=name, state=self.health(name).state)

    @property
    def on_their_way(self) -> tuple[str, ...]:
        """In words, the engines that cannot draw yet, and have not failed."""
        names = [name for name in self._live if self.health(name).failures == 0]
        told = (self.absent(name) or self._in_words(name, self.health(name)) for name in names)
        return tuple(filter(None, told))

    def not_there(self, name: str, error: NotThere) -> None:
        """An engine is not where it should be: it rests, or has not started yet."""
        if isinstance(error, Starting):
            return  # it says itself when it is there
        before = self.health(name).state
        self._breakers[name].not_there(self._clock.now(), str(error))
        health = self.health(name)
        if health.state != before:
            event = "engine_rests" if health.state == "resting" else "engine_not_there"
            _log.warning(event, engine=name, reason=health.reason, failures=health.failures)

    def probe_failed(self, name: str, reason: str) -> None:
        """A probe of an engine failed."""
        self._rest(name, reason)

    def _rest(self, name: str, reason: str) -> None:
        self._breakers[name].failed(self._clock.now(), reason)
        health = self.health(name)
        _log.warning(
            "engine_rests",
            engine=name,
            reason=reason,
            failures=health.failures,
            until=None if health.until is None else self._time_of_day.hour(health.until),
        )

    # ------------------------------------------------------------ forces

    @property
    def forces(self) -> Forces:
        """The forces whose time is not over, in the order they were made."""
        return unexpired(self._book.forces, self._clock.now())

    @property
    def force(self) -> Force | None:
        """The force upon all cues, if there is one."""
        return in_force(self._book.forces, None, self._clock.now())

    @property
    def effective(self) -> Mode:
        """The mode of every cue that neither asks for another nor is forced."""
        return asked(self._settings.mode, None, self.force).mode

    @property
    def configured(self) -> Mode:
        """The mode of the settings."""
        return self._settings.mode

    def impose(self, force: Force) -> None:
        """Force a mode; what was forced upon the same before is replaced."""
        self._write(with_force(self._book.forces, force))
        _log.info("mode_forced", **force.model_dump(exclude_none=True))

    def release(self, cue: str | None = None) -> bool:
        """End the force upon an action, or the one upon all; whether there was one."""
        return self._write(without(self._book.forces, cue))

    def renamed(self, ids: Mapping[str, str]) -> None:
        """Actions have other ids now, as their sets have: what was forced upon them stays so."""
        self._write(
            tuple(
                force.model_copy(update={"cue": ids.get(force.cue, force.cue)})
                if force.cue is not None
                else force
                for force in self._book.forces
            )
        )

    def cue_begins(self, action_id: str) -> None:
        """A generating cue begins, for the first time in its screening."""
        self._write(at_cue(self._book.forces, action_id))

    def screening_begins(self, ends: float) -> None:
        """A screening begins that should end at `ends`, in steady seconds."""
        self._write(at_start(self._book.forces, ends))

    def screening_over(self) -> None:
        """A screening has ended."""
        self._write(at_end(self._book.forces))

    async def keep_time(self) -> None:
        """Let forces go as their time is over, until cancelled."""
        while True:
            self._write(unexpired(self._book.forces, self._clock.now()))
            timed = [f.deadline for f in self._book.forces if f.until == "time" and f.deadline]
            self._forced.clear()
            if not timed:
                await self._forced.wait()
                continue
            due = min(timed) + _A_MOMENT
            await first_of(self._clock.sleep_until(due), self._forced.wait())

    def _write(self, forces: Forces) -> bool:
        gone = [force for force in self._book.forces if force not in forces]
        changed = self._book.write(forces)
        if changed:
            self._forced.set()
        for force in gone:
            if not any(f.cue == force.cue and f.by == force.by for f in forces):
                _log.info("mode_no_longer_forced", mode=force.mode, by=force.by, cue=force.cue)
        return changed
