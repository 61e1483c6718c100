"""The state of the show in plain values: what technicians and their tools are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from generator.cues import (
    Cue,
    FadeCue,
    NavigateCue,
    PromptCue,
    SliderCue,
    TranscriptCue,
    format_time,
)
from server.clock import Clock
from server.control import CommandLog
from server.playback import Playback
from server.readiness import Readiness
from server.show import Show
from server.stage import Stage

_UPCOMING = 8
_COMMANDS = 12


@dataclass(frozen=True, slots=True)
class StateView:
    """Reads the state from those who own it; holds nothing itself."""

    show: Show
    clock: Clock
    playback: Playback
    stage: Stage
    readiness: Readiness
    commands: CommandLog = field(default_factory=CommandLog)
    activation: Literal["show", "rehearsal"] = "show"

    def state(self) -> dict[str, Any]:
        """The whole state, as JSON values. Times are steady seconds, positions seconds."""
        playhead, now = self.playback.playhead, self.clock.now()
        position = playhead.position(now)
        return {
            "show": {"title": self.show.title, "duration": self.show.duration},
            "activation": self.activation,
            "server_time": now,
            "screening": {
                "status": playhead.status,
                "started_at": playhead.started_at,
                "next": playhead.next_at,
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
            "mode": self._mode(),
            "coverage": self.readiness.coverage(),
            "screens": self.screens(now),
            "health": self.health(),
            "commands": self.commands.newest(_COMMANDS),
        }

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
            "due": self.playback.playhead.due_at(index)
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
                "regenerates": action.regenerate,
                "ready": sets > 0,
                "provider": "static" if sets else "hold",
            }
        return described

    def screens(self, now: float) -> list[dict[str, Any]]:
        """Every screen, and how long ago it last painted a frame."""
        return [
            {
                "screen": screen.name,
                "frames": screen.frames,
                "joined_at": screen.joined_at,
                "painted": None
                if screen.painted is None
                else {"run": screen.painted[0], "step": screen.painted[1]},
                "painted_at": screen.painted_at,
                "painted_age": None
                if screen.painted_at is None
                else round(max(0.0, now - screen.painted_at), 3),
                "skipped": screen.mailbox.skipped,
            }
            for screen in self.stage.screens
        ]

    def health(self) -> Mapping[str, str]:
        """How it is, and why: `ok`, `degraded` or `failing`."""
        if self.playback.stuck_for() > 0:
            return {"level": "failing", "reason": "the show does not move"}
        if self.playback.panicked is not None:
            return {"level": "degraded", "reason": "panic: the wall is black"}
        problems = self.readiness.problems()
        if problems:
            return {"level": "degraded", "reason": problems[0]}
        return {"level": "ok", "reason": "every cue has a set to play"}

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
        panic = self.playback.panicked
        return None if panic is None else {"by": panic.by, "at": panic.at}

    def _mode(self) -> dict[str, Any]:
        configured = self.show.settings.playback.mode
        reason = "as configured" if configured == "static" else "no live engine to choose from"
        return {
            "configured": configured,
            "effective": "static",
            "forced": None,
            "by": None,
            "reason": reason,
            "until": None,
        }

    def _now(self, now: float) -> dict[str, Any] | None:
        on_stage, current = self.playback.performer.on_stage, self.stage.current
        if on_stage is None or current is None:
            return None
        newest = current.newest_due(now)
        return {
            "cue": on_stage.action.action_id,
            "prompt": on_stage.action.prompt,
            "run": on_stage.run,
            "step": 0 if newest is None else current.frame(newest).header.step,
            "steps": current.run.steps,
            "provider": on_stage.provider,
            "engine": on_stage.engine,
            "set_id": on_stage.set_id,
            "cycle": on_stage.cycle,
            "outcome": current.outcome,
            "next_cycle_at": self.playback.performer.pause_until,
        }

    def _standby(self) -> dict[str, Any] | None:
        index = self.playback.playhead.standby
        if index is None:
            return None
        # A cue that draws nothing stands on nothing that could fail.
        return {"ready": True, "provider": None, **self.cue(index)}

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
