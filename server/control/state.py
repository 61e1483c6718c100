"""The state of the show in plain values: what technicians and their tools are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from generator.cues import (
    Cue,
    FadeCue,
    Mode,
    NavigateCue,
    PromptCue,
    SliderCue,
    TranscriptCue,
    format_time,
)
from generator.plan import Action
from server.asrun.record import Activation
from server.clock import Clock
from server.conditions import Condition, Conditions
from server.config.show import Show
from server.control.dispatcher import CommandLog
from server.engines.live import LiveEngines
from server.formatting import count
from server.modes.forces import Force
from server.modes.manager import ModeManager
from server.performance.playback import Playback
from server.stage.presence import ScreenPresence, ScreenStatus
from server.stage.stage import Screen, Stage
from server.supply.readiness import Readiness
from server.timeofday import TimeOfDay, local_text
from server.timescale import REAL_TIME, TimeScale

_UPCOMING = 8
_COMMANDS = 12


Told = Callable[[], Mapping[str, Any]]
"""What somebody tells of himself, as JSON values."""


@dataclass(frozen=True, slots=True)
class StateView:
    """Reads the state from those who own it; holds nothing itself."""

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
    preflight: Told | None = None
    rehearsal: Told | None = None
    conditions: Conditions = field(default_factory=Conditions)
    presence: ScreenPresence | None = None
    time_of_day: TimeOfDay = field(kw_only=True)

    def state(self) -> dict[str, Any]:
        """The whole state, as JSON values.

        Times are steady seconds of those who read it, to count by and not to print; positions
        are seconds of the show, of which `speed` pass in one. What ends in `_local` is to print.
        """
        playhead, now = self.playback.playhead, self.clock.now()
        position = playhead.position(now)
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
                "next_local": self._local(playhead.next_start),
                "on_schedule": playhead.on_schedule,
                "paused": playhead.paused,
            },
            "position": None if position is None else round(position, 3),
            "position_text": None if position is None else format_time(int(position)),
            "panic": self._panic(),
            "wall": self._wall(),
            "now": self._now(now),
            "standby": self._standby(),
            "next_cues": [self.cue(index) for index in self._coming()],
            "mode": self.mode(),
            "engines": self.engines(),
            "coverage": self.readiness.coverage(),
            "screens": self.screens(now),
            "health": self.health(),
            "preflight": None if self.preflight is None else self.preflight(),
            "rehearsal": None if self.rehearsal is None else self.rehearsal(),
            "commands": self.commands.newest(_COMMANDS),
        }

    def zone(self) -> dict[str, Any]:
        """In which time zone hours are told: its name, if it has one, and seconds ahead of UTC.

        `clock_offset` is what has to be added to a server time to print it.
        """
        return {
            "name": self.show.timezone_name or None,
            "utc_offset": self.time_of_day.utc_offset(),
            "clock_offset": round(self.time_of_day.offset, 3),
        }

    def _local(self, unix: float | None) -> str | None:
        return None if unix is None else local_text(unix, self.show.timezone)

    def cue(self, index: int) -> dict[str, Any]:
        """One cue, with what it draws and how ready that is."""
        cue = self.show.sheet.cues[index]
        action = self.playback.plan.of_cue(index)
        described: dict[str, Any] = {
            "index": index,
            "time": format_time(cue.at),
            "at": cue.at,
            "action": cue.action,
            "text": _text_of(cue),
            "due": self.time_scale.to_real(self.playback.playhead.due_at(index))
            if self.playback.playhead.started_at
            else None,
        }
        if cue.id is not None:
            described["cue"] = cue.id
        if action is not None:
            sets = self.readiness.sets(action.action_id)
            described |= {
                "cue": action.action_id,
                "program": action.program,
                "prompt": action.prompt,
                "sets": sets,
                "copies": self.readiness.copies(action.action_id),
                "regenerates": action.regenerate,
                **self._standing(action, cue.mode),
            }
        return described

    def _standing(self, action: Action, mode: Mode | None) -> dict[str, Any]:
        """What would be tried first for an action, leaving out sets that are not there."""
        sets = self.readiness.sets(action.action_id)
        here = bool(sets) and self.readiness.copies(action.action_id) != "none"
        rungs = self.modes.decide(action, mode).rungs
        first = next((rung for rung in rungs if rung.provider == "live" or here), None)
        return {
            "ready": first is not None,
            "provider": "hold" if first is None else first.provider,
            "engine": None if first is None else first.engine,
        }

    def screens(self, now: float) -> list[dict[str, Any]]:
        """Every screen, how it is, and how long ago it last painted a frame.

        Those that are connected come first, in the order they came, then those that are missing.
        """
        if self.presence is None:
            statuses = [ScreenStatus(each.name, False, each) for each in self.stage.screens]
        else:
            statuses = self.presence.all()
        return [
            {
                "screen": each.name,
                "connected": each.screen is not None,
                "expected": each.expected,
                "trouble": each.message or None,
                "gone_since": each.gone_since,
                **self._painting(each.screen, now),
            }
            for each in statuses
        ]

    def _painting(self, screen: Screen | None, now: float) -> dict[str, Any]:
        """What a screen has reported; nothing, of one that is not there."""
        told = dict.fromkeys(("frames", "joined_at", "painted", "painted_at", "painted_age"))
        if screen is None:
            return {**told, "skipped": 0, "cannot_draw": None}
        if screen.painted is not None and screen.painted_at is not None:
            age = self.time_scale.real_seconds(max(0.0, now - screen.painted_at))
            run, step = screen.painted
            painted = {"run": run, "step": step}
            at = self.time_scale.to_real(screen.painted_at)
            told |= {"painted": painted, "painted_at": at, "painted_age": round(age, 3)}
        return {
            **told,
            "frames": screen.frames,
            "joined_at": self.time_scale.to_real(screen.joined_at),
            "skipped": screen.mailbox.skipped,
            "cannot_draw": screen.lacks or None,
        }

    def health(self) -> dict[str, Any]:
        """How it is, and why: `ok`, `degraded` or `failing`, and every condition there is."""
        current = self.conditions.current()
        level, reason = self._verdict(current)
        conditions = [
            {"code": each.code, "level": each.level, "message": each.message} for each in current
        ]
        return {"level": level, "reason": reason, "conditions": conditions}

    def _verdict(self, current: Sequence[Condition]) -> tuple[str, str]:
        failing = [each.message for each in current if each.level == "failing"]
        if failing:
            return "failing", failing[0]
        if self.playback.panicked is not None:
            return "degraded", "panic: the wall is black"
        problems = self.readiness.problems()
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
        problems += self._preflight_errors()
        problems += self.readiness.notes()
        if problems:
            return "degraded", problems[0]
        return "ok", "every cue has a set to play"

    def _preflight_errors(self) -> list[str]:
        """What the preflight found that visitors would see."""
        found = [] if self.preflight is None else self.preflight()["findings"]
        errors = [each for each in found if each["level"] == "error"]
        return [
            ": ".join(filter(None, ["preflight", each["action_id"], each["message"]]))
            for each in errors
        ]

    def _wall(self) -> dict[str, Any]:
        """What visitors should see: which picture, whether a curtain is before it, the words."""
        frame = self.stage.on_the_wall()
        return {
            "picture": None if frame is None else frame.url,
            "black": self.stage.dark or self.stage.black,
            "lobby": self.stage.screening.status != "active",
            "caption": self.stage.caption,
        }

    def _panic(self) -> dict[str, Any] | None:
        panic, at = self.playback.panicked, self.playback.panicked_at
        if panic is None:
            return None
        if at is None:  # it is from before a restart
            return {"by": panic.by, "at": self.time_scale.to_real(panic.at)}
        return {"by": panic.by, "at": round(self.time_of_day.unix(self.time_scale.to_real(at)), 3)}

    def _real(self, moment: float | None) -> float | None:
        """A moment of the show, as those have it who read this."""
        return None if moment is None else self.time_scale.to_real(moment)

    def mode(self) -> dict[str, Any]:
        """The mode, and who forced what until when. `until_at` is Unix time, as `at` is."""
        force = self.modes.force
        return {
            "configured": self.modes.configured,
            "effective": self.modes.effective,
            **self._force(force),
            "cues": [
                {"cue": each.cue, **self._force(each)} for each in self.modes.forces if each.cue
            ],
        }

    def _force(self, force: Force | None) -> dict[str, Any]:
        if force is None:
            empty = dict.fromkeys(("forced", "by", "until", "until_at"))
            return {**empty, "reason": f"{self.modes.configured} as configured"}
        return {
            "forced": force.mode,
            "by": force.by,
            "reason": force.words,
            "until": self._until(force),
            "until_at": self._ends(force),
        }

    def _until(self, force: Force) -> str:
        if force.until == "time" and force.deadline is not None:
            return self.time_of_day.hour(self.time_scale.to_real(force.deadline))
        return force.until.replace("_", " ")

    def _ends(self, force: Force) -> float | None:
        """Unix time at which a number of seconds is over, as the time of day is now."""
        if force.until != "time" or force.deadline is None:
            return None
        return round(self.time_of_day.unix(self.time_scale.to_real(force.deadline)), 3)

    def engines(self) -> list[dict[str, Any]]:
        """Every engine that may draw live, in order of preference. Times are steady seconds."""
        return [
            {
                "name": each.name,
                "draws": each.engine,
                "local": each.local,
                "state": each.health.state,
                "usable": each.health.usable,
                "failures": each.health.failures,
                "until": self._real(each.health.until),
                "reason": each.health.reason or self.modes.no_live,
                **self._process(each.name),
            }
            for each in self.modes.engines
        ]

    def _process(self, name: str) -> dict[str, Any]:
        """How the process of an engine on this machine does; it prevails where it cannot draw."""
        status, absent = self.live.process(name), self.live.absent(name)
        if status is None:
            return {"process": None}
        told = {"process": asdict(status)}
        if absent is None:
            return told
        return {**told, "state": status.state, "usable": False, "reason": status.reason or absent}

    def _now(self, now: float) -> dict[str, Any] | None:
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

    def _standby(self) -> dict[str, Any] | None:
        index = self.playback.playhead.standby
        if index is None:
            return None
        # A cue that draws nothing stands on nothing that could fail.
        standby = {"ready": True, "provider": None, **self.cue(index)}
        action = self.playback.plan.of_cue(index)
        if action is not None:
            decision = self.modes.decide(action, self.show.sheet.cues[index].mode)
            standby |= {"mode": decision.mode, "why": decision.why}
        return standby

    def _coming(self) -> range:
        first = self.playback.playhead.cursor
        return range(first, min(first + _UPCOMING, len(self.show.sheet.cues)))


def _text_of(cue: Cue) -> str:
    """What a cue says or shows, for people."""
    match cue:
        case TranscriptCue():
            return cue.transcript
        case PromptCue():
            return cue.prompt
        case SliderCue():
            return f"{cue.value:g} %"
        case NavigateCue():
            return cue.route
        case FadeCue():
            return "to black" if cue.fade else "from black"
        case _:
            return ""
