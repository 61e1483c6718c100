"""The state of the show in plain values: what technicians and their tools are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from cache.encoding import json_text
from generator.sheet.cues import format_time
from server.asrun.record import Activation
from server.config.show import Show
from server.control import contract
from server.control.dispatcher import CommandLog
from server.core.clock import Clock
from server.core.conditions import Condition, Conditions
from server.core.formatting import count
from server.core.time_of_day import TimeOfDay, local_text
from server.core.timescale import REAL_TIME, TimeScale
from server.diagnostics.findings import sentences
from server.diagnostics.live_checks import findings_now
from server.engines.live import LiveEngines
from server.modes.forces import Force
from server.modes.manager import EngineReport, ModeManager
from server.performance.playback import Playback
from server.stage.presence import ScreenPresence, ScreenStatus
from server.stage.stage import Stage
from server.supply.readiness import Readiness

_UPCOMING = 8
_COMMANDS = 12


StatePart = Callable[[], Mapping[str, Any]]
"""A part of the state that its owner makes, as JSON values: `server/control/contract.py` has it."""


@dataclass(frozen=True, slots=True)
class CueList:
    """Every cue, and the same as JSON, as long as nothing has changed that they tell of: `key`."""

    key: object
    cues: list[contract.CueState]
    encoded: bytes


@dataclass(slots=True)
class StateView:
    """Reads the state from those who own it."""

    show: Show
    clock: Clock
    playback: Playback
    stage: Stage
    readiness: Readiness
    modes: ModeManager
    live: LiveEngines = field(default_factory=LiveEngines)
    commands: CommandLog = field(default_factory=CommandLog)
    activation: Activation = "show"
    time_scale: TimeScale = REAL_TIME
    preflight: StatePart | None = None
    rehearsal: StatePart | None = None
    conditions: Conditions = field(default_factory=Conditions)
    presence: ScreenPresence = field(kw_only=True)
    time_of_day: TimeOfDay = field(kw_only=True)
    _cues: CueList | None = field(default=None, init=False)

    def state(self) -> contract.State:
        """The whole state, as JSON values."""
        playhead, now = self.playback.playhead, self.clock.now()
        position, first = playhead.position(now), playhead.cursor
        coming = range(first, min(first + _UPCOMING, len(self.show.sheet.cues)))
        preflight = self._preflight()
        return {
            "show": {"title": self.show.title, "duration": self.show.duration},
            "zone": self.zone(),
            "activation": self.activation,
            "speed": self.time_scale.speed,
            "server_time": self.time_scale.to_real(now),
            "screening": {
                "status": playhead.status,
                "started_at": self._real(playhead.started_at),
                "next": self._real(playhead.next_at),
                "next_local": None
                if playhead.next_start is None
                else local_text(playhead.next_start, self.show.timezone),
                "on_schedule": playhead.on_schedule,
                "paused": playhead.paused,
            },
            "position": None if position is None else round(position, 3),
            "position_text": None if position is None else format_time(int(position)),
            "panic": self._panic(),
            "wall": self._wall(),
            "now": self._now(now),
            "standby": self._standby(),
            "next_cues": [self.cue(index) for index in coming],
            "mode": self.mode(),
            "engines": self.engines(),
            "coverage": cast("contract.CoverageState", self.readiness.coverage()),
            "screens": self.screens(now),
            "health": self._health(preflight),
            "preflight": preflight,
            "rehearsal": None
            if self.rehearsal is None
            else cast("contract.RehearsalState", self.rehearsal()),
            "commands": self.commands.newest(_COMMANDS),
        }

    def zone(self) -> contract.ZoneState:
        """In which time zone hours are told."""
        return {
            "name": self.show.timezone_name or None,
            "utc_offset": self.time_of_day.utc_offset(),
            "clock_offset": round(self.time_of_day.offset, 3),
        }

    def cues(self) -> CueList:
        """Every cue, described and encoded anew when something has changed."""
        playhead, actions = self.playback.playhead, self.playback.plan.actions
        due = self.time_scale.to_real(playhead.due_at(0)) if playhead.started_at else None
        copies = tuple(self.readiness.copies(action.action_id) for action in actions)
        key = due, copies, self.readiness.revision, self.modes.outlook
        if self._cues is None or self._cues.key != key:
            cues = [self.cue(index) for index in range(len(self.show.sheet.cues))]
            encoded = json_text({"cues": cues}, place="control").encode()
            self._cues = CueList(key, cues, encoded)
        return self._cues

    def cue(self, index: int) -> contract.CueState:
        """One cue, with what it draws and how ready that is."""
        cue = self.show.sheet.cues[index]
        action = self.playback.plan.of_cue(index)
        described: contract.CueState = {
            "index": index,
            "time": format_time(cue.at),
            "at": cue.at,
            "action": cue.action,
            "text": cue.text,
            "due": self.time_scale.to_real(self.playback.playhead.due_at(index))
            if self.playback.playhead.started_at
            else None,
        }
        if cue.id is not None:
            described["cue"] = cue.id
        if action is not None:
            sets = self.readiness.sets(action.action_id)
            copies = self.readiness.copies(action.action_id)
            # What would be tried first, leaving out sets that are not there.
            here = bool(sets) and copies != "none"
            rungs = self.modes.decide(action, cue.mode).rungs
            first = next((rung for rung in rungs if rung.provider == "live" or here), None)
            described |= {
                "cue": action.action_id,
                "program": action.program,
                "prompt": action.prompt,
                "sets": sets,
                "copies": copies,
                "regenerates": action.regenerate,
                "ready": first is not None,
                "provider": "hold" if first is None else first.provider,
                "engine": None if first is None else first.engine,
            }
        return described

    def screens(self, now: float) -> list[contract.ScreenState]:
        """Every screen, how it is, and how long ago it last painted a frame.

        Those that are connected come first, in the order they came, then those that are missing.
        """
        return [self._screen(each, now) for each in self.presence.all()]

    def _screen(self, status: ScreenStatus, now: float) -> contract.ScreenState:
        screen = status.screen
        state: contract.ScreenState = {
            "screen": status.name,
            "connected": screen is not None,
            "expected": status.expected,
            "trouble": status.message or None,
            "gone_since": status.gone_since,
            "frames": None if screen is None else screen.frames,
            "joined_at": None if screen is None else self.time_scale.to_real(screen.joined_at),
            "painted": None,
            "painted_at": None,
            "painted_age": None,
            "skipped": 0 if screen is None else screen.mailbox.skipped,
            "cannot_draw": None if screen is None else screen.lacks or None,
        }
        if screen is not None and screen.painted is not None and screen.painted_at is not None:
            age = self.time_scale.real_seconds(max(0.0, now - screen.painted_at))
            state["painted"] = dict(zip(("run", "step"), screen.painted, strict=True))
            state["painted_at"] = self.time_scale.to_real(screen.painted_at)
            state["painted_age"] = round(age, 3)
        return state

    def health(self) -> contract.HealthState:
        """How it is, and why: `ok`, `degraded` or `failing`, and every condition there is."""
        return self._health(self._preflight())

    def _health(self, preflight: contract.PreflightState | None) -> contract.HealthState:
        current = self.conditions.current()
        level, reason = self._verdict(current, preflight)
        conditions: list[contract.ConditionState] = [
            {"code": each.code, "level": each.level, "message": each.message} for each in current
        ]
        return {"level": level, "reason": reason, "conditions": conditions}

    def _verdict(
        self, current: Sequence[Condition], preflight: contract.PreflightState | None
    ) -> tuple[Literal["ok", "degraded", "failing"], str]:
        failing = [each.message for each in current if each.level == "failing"]
        if failing:
            return "failing", failing[0]
        if self.playback.panicked is not None:
            return "degraded", "panic: the wall is black"
        now = findings_now(self.readiness)
        problems = sentences(now, "error")
        problems += [each.message for each in current if each.level == "degraded"]
        problems += [
            f"engine {each.name} is {each.health.state}: {each.health.reason}"
            for each in self.modes.engines
            if not each.health.usable
        ]
        problems += [
            absent for each in self.modes.engines if (absent := self.live.absent(each.name))
        ]
        lacking = len(self.readiness.without_sets())
        if lacking:
            problems.append(f"{count(lacking, 'cue has', 'cues have')} no set to play")
        problems += [
            ": ".join(filter(None, ["preflight", each["action_id"], each["message"]]))
            for each in (preflight["findings"] if preflight else ())
            if each["level"] == "error"  # visitors would see it
        ]
        problems += sentences(now, "warning")
        if problems:
            return "degraded", problems[0]
        return "ok", "every cue has a set to play"

    def _preflight(self) -> contract.PreflightState | None:
        return None if self.preflight is None else cast("contract.PreflightState", self.preflight())

    def _wall(self) -> contract.WallState:
        """What visitors should see: which picture, whether a curtain is before it, the words."""
        frame = self.stage.on_the_wall()
        return {
            "picture": None if frame is None else frame.url,
            "black": self.stage.dark or self.stage.black,
            "lobby": self.stage.screening.status != "active",
            "caption": self.stage.caption,
        }

    def _panic(self) -> contract.PanicState | None:
        panic, at = self.playback.panicked, self.playback.panicked_at
        if panic is None:
            return None
        if at is None:  # it is from before a restart
            return {"by": panic.by, "at": self.time_scale.to_real(panic.at)}
        return {"by": panic.by, "at": round(self.time_of_day.unix(self.time_scale.to_real(at)), 3)}

    def _real(self, moment: float | None) -> float | None:
        """A moment of the show, as those have it who read this."""
        return None if moment is None else self.time_scale.to_real(moment)

    def mode(self) -> contract.ModeState:
        """The mode, and who forced what until when."""
        cues: list[contract.CueForceState] = [
            {"cue": each.cue, **self._force(each)} for each in self.modes.forces if each.cue
        ]
        return {
            "configured": self.modes.configured,
            "effective": self.modes.effective,
            **self._force(self.modes.force),
            "cues": cues,
        }

    def _force(self, force: Force | None) -> contract.ForceState:
        if force is None:
            reason = f"{self.modes.configured} as configured"
            return {"forced": None, "by": None, "until": None, "until_at": None, "reason": reason}
        until, until_at = force.until.replace("_", " "), None
        if force.until == "time" and force.deadline is not None:  # as the time of day is now
            ends = self.time_scale.to_real(force.deadline)
            until, until_at = self.time_of_day.hour(ends), round(self.time_of_day.unix(ends), 3)
        return {
            "forced": force.mode,
            "by": force.by,
            "reason": force.words,
            "until": until,
            "until_at": until_at,
        }

    def engines(self) -> list[contract.EngineState]:
        """Every engine that may draw live, in order of preference."""
        return [self._engine(each) for each in self.modes.engines]

    def _engine(self, engine: EngineReport) -> contract.EngineState:
        process, absent = self.live.process(engine.name), self.live.absent(engine.name)
        state: contract.EngineState = {
            "name": engine.name,
            "draws": engine.engine,
            "local": engine.local,
            "state": engine.health.state,
            "usable": engine.health.usable,
            "failures": engine.health.failures,
            "until": self._real(engine.health.until),
            "reason": engine.health.reason or self.modes.no_live,
            "process": None if process is None else asdict(process),
        }
        if process is not None and absent is not None:  # it prevails where it cannot draw
            state |= {"state": process.state, "usable": False, "reason": process.reason or absent}
        return state

    def _now(self, now: float) -> contract.NowState | None:
        on_stage, current = self.playback.performer.on_stage, self.stage.current
        if on_stage is None or current is None:
            return None
        newest = current.newest_due(now)
        header = None if newest is None else current.frame(newest).header
        return {
            "cue": on_stage.action.action_id,
            "prompt": on_stage.action.prompt,
            "run": on_stage.run,
            "step": 0 if header is None else header.step,
            "steps": current.run.steps if header is None else header.steps,
            "provider": on_stage.provider,
            "engine": on_stage.engine,
            "set_id": on_stage.set_id,
            "cycle": on_stage.cycle,
            "outcome": current.outcome,
            "next_cycle_at": self._real(self.playback.performer.pause_until),
        }

    def _standby(self) -> contract.StandbyState | None:
        index = self.playback.playhead.standby
        if index is None:
            return None
        # A cue that draws nothing stands on nothing that could fail.
        cue = {"ready": True, "provider": None, **self.cue(index)}
        standby = cast("contract.StandbyState", cue)
        action = self.playback.plan.of_cue(index)
        if action is not None:
            decision = self.modes.decide(action, self.show.sheet.cues[index].mode)
            standby |= {"mode": decision.mode, "why": decision.why}
        return standby
