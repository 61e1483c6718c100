"""What a rehearsal found: one report, whoever reads it (pure).

`report.to_json()` is what `--json` prints, and a promise to other programs: fields are added,
never renamed. Nothing in it depends on when or where the rehearsal was made: the same show,
store and seed give the same report, byte for byte.

Times are seconds. A position counts from the start of its screening.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.diagnostics.findings import CuePlace, Finding, Verdict


class _ReportModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Setback(_ReportModel):
    """One rung of a run gave way to the next.

    Attributes:
        step: the last step shown before; 0 for none.
        from_: the rung that failed: ``static``, ``live gpu``.
        to: the rung tried next, or ``hold``.
    """

    at: float
    step: int
    from_: str = Field(alias="from")
    to: str
    reason: str


class RehearsedRun(_ReportModel):
    """One run, as it was played.

    Attributes:
        screening: which, from 1.
        cue: index in the sheet, from 0.
        time: the cue's time, as in the sheet.
        action_id: what was drawn.
        type: transcript, prompt or slider.
        program: how.
        prompt: what is displayed.
        cycle: 1, or which repetition of a regenerating cue.
        at: position at which it began.
        slot: seconds until the next generating cue, or the end.
        recorded: seconds it would take as recorded; None where that is not known.
        length: seconds it took, to its final image.
        squeeze: factor on the recorded durations; 1.0 is as recorded.
        mode: static, live or hybrid.
        why: the reason for the mode, in words.
        provider: what it was played from at last: static, live or hold.
        engine: what drew it.
        set_id: the set played; None for none.
        due: for each step from 1, seconds after the run's beginning at which it is shown; a
            step that is left out has None.
        setbacks: what gave way to what.
        readiness: how much of the action was on this machine when the run began: none, thin,
            one (whole set), all; None where the store is on this machine.
        outcome: completed, cut, failed over or held.
    """

    screening: int
    cue: int
    time: str
    action_id: str
    type: str
    program: str
    prompt: str
    cycle: int
    at: float
    slot: float | None
    recorded: float | None
    length: float
    squeeze: float
    mode: str
    why: str
    provider: str
    engine: str | None
    set_id: int | None
    due: tuple[float | None, ...]
    setbacks: tuple[Setback, ...] = ()
    readiness: str | None = None
    outcome: str

    @property
    def place(self) -> CuePlace:
        """Of which cue it is."""
        return CuePlace(self.cue, self.time, self.action_id)

    @property
    def left_out(self) -> int:
        """Steps that were not shown."""
        return sum(due is None for due in self.due)


class SheetCue(_ReportModel):
    """One cue of the sheet: for the timeline.

    `label` is what it says, short; `action_id` is None where it draws nothing.
    """

    cue: int
    at: float
    action: str
    label: str
    action_id: str | None = None


class RehearsedScreening(_ReportModel):
    """One screening; `starts` is local, where a schedule says when it is."""

    number: int
    starts: str | None
    from_: float = Field(alias="from")
    to: float
    runs: int


class ProbedEngine(_ReportModel):
    """One engine, and what it answered; it is not asked where starting it would be spending."""

    name: str
    kind: str
    local: bool
    state: Literal["ready", "dead", "not asked"]
    detail: str


class Fetched(_ReportModel):
    """One set that came over the line: for the timeline.

    Attributes:
        screening: during which, from 1; 0 before the first.
        at: position at which its first file was asked for; negative before the start.
        until: position at which its last file was here.
    """

    screening: int
    action_id: str
    set_id: int
    at: float
    until: float
    bytes: int
    files: int


class LineReport(_ReportModel):
    """The line to the store, where it was part of the rehearsal.

    Attributes:
        bits_per_second: what it carries; None for whatever it will.
        latency: seconds of each request.
        here_bytes: bytes of the show's sets that were on this machine at the beginning.
        fetched_bytes: bytes that came.
        room_bytes: bytes that the copies may take.
        ready_at: position of the first screening from which everything it needed was here.
    """

    bits_per_second: float | None
    latency: float
    here_bytes: int
    fetched_bytes: int
    room_bytes: int
    ready_at: float | None


class Variety(_ReportModel):
    """How many of an action's sets can be played, and which were, in the order of the runs."""

    action_id: str
    cue: int
    sets: int
    played: tuple[int, ...]


class RehearsalOptions(_ReportModel):
    """What was asked for.

    Attributes:
        seed: of what is left to chance.
        from_: position at which each screening begins.
        to: position at which it ends; None for its end.
        screenings: how many, one after another.
        bandwidth: bits a second of the line to the store; None for as it is.
        latency: seconds of each request over it.
        fail: what is made to fail: ``store``, ``engines``, an engine or an action.
        deep: whether every image is decoded wholly.
    """

    seed: int
    from_: float = Field(default=0.0, alias="from")
    to: float | None = None
    screenings: int = 1
    bandwidth: float | None = None
    latency: float = 0.0
    fail: tuple[str, ...] = ()
    deep: bool = False


class ReportedShow(_ReportModel):
    """Which show; `actions` are the cues that draw, `store` is where its sets lie."""

    title: str
    sheet: str
    duration: float
    timezone: str
    cues: int
    actions: int
    mode: str
    store: str


class Report(_ReportModel):
    """The whole of it.

    Attributes:
        findings: the worst first, then in the order of the show.
        show: which show; None where it could not be loaded.
        cues: every run, in order.
        sheet: every cue, for the timeline.
        line: the line to the store; None where sets are read on this machine.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    show: ReportedShow | None
    asked: RehearsalOptions
    screenings: tuple[RehearsedScreening, ...] = ()
    cues: tuple[RehearsedRun, ...] = ()
    sheet: tuple[SheetCue, ...] = ()
    engines: tuple[ProbedEngine, ...] = ()
    line: LineReport | None = None
    fetched: tuple[Fetched, ...] = ()
    variety: tuple[Variety, ...] = ()

    def to_json(self) -> str:
        """As `--json` prints it."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"
