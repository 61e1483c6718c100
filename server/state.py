"""The state of the show in plain values: what technicians and their tools are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from generator.cues import format_time
from server.clock import Clock
from server.playback import Playback
from server.readiness import Readiness
from server.show import Show
from server.stage import Stage

_UPCOMING = 8


@dataclass(frozen=True, slots=True)
class StateView:
    """Reads the state from those who own it; holds nothing itself."""

    show: Show
    clock: Clock
    playback: Playback
    stage: Stage
    readiness: Readiness

    def state(self) -> dict[str, Any]:
        """The whole state, as JSON values. Times are steady seconds, positions seconds."""
        playhead, now = self.playback.playhead, self.clock.now()
        position = playhead.position(now)
        return {
            "show": {"title": self.show.title, "duration": self.show.duration},
            "activation": "show",
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
            "now": self._now(now),
            "standby": self._standby(),
            "next_cues": [self.cue(index) for index in self._coming()],
            "mode": self._mode(),
            "coverage": self.readiness.coverage(),
            "screens": self.screens(now),
            "health": self.health(),
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
            "due": self.playback.playhead.due_at(index)
            if self.playback.playhead.started_at
            else None,
        }
        if action is not None:
            described |= {
                "cue": action.action_id,
                "program": action.program,
                "prompt": action.prompt,
                "sets": self.readiness.sets(action.action_id),
                "copies": self.readiness.copies(action.action_id),
                "regenerates": action.regenerate,
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
        problems = self.readiness.problems()
        if problems:
            return {"level": "degraded", "reason": problems[0]}
        notes = self.readiness.notes()
        if notes:
            return {"level": "degraded", "reason": notes[0]}
        return {"level": "ok", "reason": "every cue has a set to play"}

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
        standby = self.cue(index)
        ready = bool(standby.get("sets")) and standby.get("copies") != "none"
        return {**standby, "ready": ready, "provider": "static" if ready else "hold"}

    def _coming(self) -> range:
        first = self.playback.playhead.cursor
        return range(first, min(first + _UPCOMING, len(self.show.sheet.cues)))
