"""What is told of one run, and the row it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from server.asrun.file import COLUMNS, Row

LATE: Final = 10.0
"""Seconds after its end for which a run still takes what screens report."""

_MAX_PRESENTED: Final = 100_000
_MAX_SCREENS: Final = 256
"""Names under which screens report one run: more are somebody's joke."""

Activation = Literal["show", "rehearsal"]
"""A performance for visitors, or a dry run."""

Outcome = Literal["completed", "cut", "failed over", "held"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run when it begins.

    Its fields are columns of the table, which `server/asrun/file.py` explains. `engine` is what
    draws it, or drew its set; of `planned`, each is a step and its due time (steady seconds), as
    far as they are known.
    """

    run: str
    activation: Activation
    cue_index: int
    cue: Mapping[str, Any]
    action_id: str
    prompt: str
    drawn_prompt: str
    program: str
    fingerprint: str
    mode: str
    why: str
    forced_by: str | None
    provider: str
    engine: str | None
    set_id: int | None
    set_hash: str | None
    seed: int | None
    started_at: float
    position: float
    cycle: int = 0
    squeeze: float = 1.0
    planned: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class FailedOver:
    """One rung of a run gave way to the next.

    Attributes:
        at: steady seconds.
        step: the number that the last frame shown had; 0 before the first.
        from_: the rung that failed: ``static``, ``live gpu``.
        to: the one that was tried next, or ``hold``.
        reason: what was wrong with the first, in words.
        engine: what drew what took over, where it is known; so with the following.
        set_id: its set.
        set_hash: hash of that set.
        seed: its seed.
    """

    at: float
    step: int
    from_: str
    to: str
    reason: str
    engine: str | None = None
    set_id: int | None = None
    set_hash: str | None = None
    seed: int | None = None

    def row(self) -> dict[str, Any]:
        """As it is written, without what is not known."""
        told = {each.name.rstrip("_"): getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(slots=True)
class RunNotes:
    """What was told of a run so far.

    Attributes:
        record: as it began.
        offset: seconds from the steady clock to the time of day, when it began.
        unsaved: something happened that is to be written soon.
        untold: something smaller happened, to be written with the run's end or after it.
    """

    record: RunRecord
    offset: float
    planned: dict[int, float] = field(default_factory=dict)
    presented: dict[str, dict[int, float]] = field(default_factory=dict)
    presentations: int = 0
    failovers: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome | None = None
    ended_at: float | None = None
    unsaved: bool = True
    untold: bool = False

    def tell(self, record: RunRecord) -> None:
        """It begins; told again, it is known better."""
        self.record = record
        self.planned.update(record.planned)
        self.unsaved = True

    def plan(self, step: int, due: float) -> None:
        """A step is due at `due`."""
        self.planned[step] = due
        self.untold = True

    def fail_over(self, failed_over: FailedOver) -> None:
        """The next rung took over."""
        self.failovers.append(failed_over.row())
        self.unsaved = True

    def present(self, screen: str, step: int, at: float) -> bool:
        """A screen painted a step; False where there is no more room, which none should need."""
        steps = self.presented.get(screen)
        if steps is not None and step in steps:
            return True
        if self.presentations >= _MAX_PRESENTED:
            return False
        if steps is None and len(self.presented) >= _MAX_SCREENS:
            return False
        if steps is None:
            steps = self.presented[screen] = {}
        steps[step] = at
        self.presentations += 1
        self.untold = True
        return True

    def finish(self, outcome: Outcome, at: float) -> None:
        """It is over; only the first end counts."""
        if self.outcome is None:
            self.outcome, self.ended_at, self.unsaved = outcome, at, True

    def over(self, now: float) -> bool:
        """Whether nothing more is taken."""
        return self.ended_at is not None and now - self.ended_at > LATE

    def copy(self) -> RunNotes:
        """What may be read while the original goes on changing."""
        return RunNotes(
            record=self.record,
            offset=self.offset,
            planned=dict(self.planned),
            presented={screen: dict(steps) for screen, steps in self.presented.items()},
            failovers=list(self.failovers),
            outcome=self.outcome,
            ended_at=self.ended_at,
        )

    def row(self) -> Row:
        """What is written and read: every column, steps as the text that JSON has for keys."""
        told = {name: getattr(self.record, name) for name in _RECORD_FIELDS}
        told |= {
            "cue": dict(self.record.cue),
            "started_wall": self.record.started_at + self.offset,
            "ended_at": self.ended_at,
            "outcome": self.outcome,
            "planned": _steps(self.planned),
            "presented": {name: _steps(steps) for name, steps in self.presented.items()},
            "failovers": self.failovers,
        }
        return {name: told[name] for name in COLUMNS}


_RECORD_FIELDS = tuple(each.name for each in fields(RunRecord))


def _steps(times: Mapping[int, float]) -> dict[str, float]:
    """Times as JSON has them; a tenth of a millisecond is finer than any screen."""
    return {str(step): round(times[step], 4) for step in sorted(times)}
