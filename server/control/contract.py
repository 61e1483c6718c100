"""The state that technicians and their tools are told, as it is promised to them (pure).

JSON objects and their fields, in their order. `tests/helpers/jsdoc.py` writes the same for the
technician's page. Times are steady seconds of those who read them, to count by; what is named
`at`, or ends in `_at` where it says so, is Unix time; what ends in `_local` is to print.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from cache.prefetch.prefetcher import Coverage
from generator.sheet.cues import Mode
from server.asrun.record import Activation
from server.core.conditions import Level
from server.network.access import Role
from server.timeline.playhead import Status


class ShowState(TypedDict):
    """The piece."""

    title: str
    duration: float


class ZoneState(TypedDict):
    """In which time zone hours are told; `clock_offset` makes a server time Unix time."""

    name: str | None
    utc_offset: float
    clock_offset: float


class ScreeningState(TypedDict):
    """The screening that is on, or the next."""

    status: Status
    started_at: float | None
    next: float | None
    next_local: str | None
    on_schedule: bool
    paused: bool


class PanicState(TypedDict):
    """Who made the wall black, and when, in Unix time."""

    by: str
    at: float


class WallState(TypedDict):
    """What visitors should see: an address under `/frames/`, or what is before it."""

    picture: str | None
    black: bool
    lobby: bool
    caption: str


class NowState(TypedDict):
    """The run that is on stage."""

    cue: str
    prompt: str
    run: str
    step: int
    steps: int
    provider: str
    engine: str | None
    set_id: int | None
    cycle: int
    outcome: str | None
    next_cycle_at: float | None


class CueState(TypedDict):
    """A cue; from `program` on, what it draws and what would be tried first for it."""

    index: int
    time: str
    at: float
    action: str
    text: str
    due: float | None
    cue: NotRequired[str]
    program: NotRequired[str]
    prompt: NotRequired[str]
    sets: NotRequired[int]
    copies: NotRequired[Coverage | None]
    regenerates: NotRequired[bool]
    ready: NotRequired[bool]
    provider: NotRequired[str | None]
    engine: NotRequired[str | None]


class StandbyState(CueState):
    """The cue that `go` fires, and how it would be played."""

    mode: NotRequired[Mode]
    why: NotRequired[str]


class ForceState(TypedDict):
    """Who forced what until when: `until` in words, `until_at` in Unix time."""

    forced: Mode | None
    by: str | None
    reason: str
    until: str | None
    until_at: float | None


class CueForceState(ForceState):
    """What is forced upon one cue."""

    cue: str


class ModeState(ForceState):
    """The mode, and what is forced upon all cues, and upon single ones."""

    configured: Mode
    effective: Mode
    cues: list[CueForceState]


class EngineState(TypedDict):
    """An engine that may draw live; `process` is that of one on this machine."""

    name: str
    draws: str
    local: bool
    state: str
    usable: bool
    failures: int
    until: float | None
    reason: str
    process: Mapping[str, Any] | None


class CoverageState(TypedDict):
    """How many actions can be played from sets, and what is wrong with the others."""

    actions: int
    with_sets: int
    supply: Mapping[str, Any] | None
    copies: Mapping[Coverage, int] | None
    without_sets: list[str]
    unproven: list[Mapping[str, Any]]
    faulty_sets: list[Mapping[str, Any]]


class ScreenState(TypedDict):
    """A screen, and what it has painted, in server time.

    `trouble` is what is wrong, in words; `gone_since` Unix time; `cannot_draw` some characters of
    the show for which it has no font.
    """

    screen: str
    connected: bool
    expected: bool
    trouble: str | None
    gone_since: float | None
    frames: str | None
    joined_at: float | None
    painted: Mapping[str, Any] | None
    painted_at: float | None
    painted_age: float | None
    skipped: int
    cannot_draw: str | None


class ConditionState(TypedDict):
    """Something that is so now."""

    code: str
    level: Level
    message: str


class HealthState(TypedDict):
    """How it is, and why."""

    level: Literal["ok", "degraded", "failing"]
    reason: str
    conditions: list[ConditionState]


class FindingState(TypedDict):
    """Something that would go wrong, or is worth knowing."""

    level: Literal["error", "warning", "note"]
    code: str
    message: str
    remedy: str
    cue: int | None
    time: str | None
    action_id: str | None
    set_id: int | None
    count: int


class PreflightState(TypedDict):
    """What the last look through everything found; `verdict` is `ready` or `not ready`."""

    verdict: str | None
    at: float | None
    findings: list[FindingState]
    errors: int
    warnings: int
    notes: int
    next_at: float | None


class ReportState(TypedDict):
    """The last report of a rehearsal; `finished_at` is Unix time, `report` an address."""

    by: str | None
    asked: Mapping[str, Any]
    finished_at: float | None
    seconds: float | None
    verdict: str | None
    errors: int
    warnings: int
    notes: int
    worst: list[FindingState]
    report: str | None


class RehearsalState(ReportState):
    """The rehearsal in the background; `previous` is the last report, while there is no newer.

    `reason` is why it failed, or who broke it off; `since` null where that was before a restart.
    """

    status: Literal["none", "running", "done", "failed", "cancelled"]
    since: float | None
    reason: str
    previous: ReportState | None


class CommandState(TypedDict):
    """A command that was given; `at` is Unix time."""

    number: int
    at: float
    sender: str
    role: Role
    command: str
    args: Mapping[str, Any]
    ok: bool
    code: str | None
    message: str | None


class State(TypedDict):
    """The whole state. Positions are seconds of the show, of which `speed` pass in one."""

    show: ShowState
    zone: ZoneState
    activation: Activation
    speed: float
    server_time: float
    screening: ScreeningState
    position: float | None
    position_text: str | None
    panic: PanicState | None
    wall: WallState
    now: NowState | None
    standby: StandbyState | None
    next_cues: list[CueState]
    mode: ModeState
    engines: list[EngineState]
    coverage: CoverageState
    screens: list[ScreenState]
    health: HealthState
    preflight: PreflightState | None
    rehearsal: RehearsalState | None
    commands: list[CommandState]
