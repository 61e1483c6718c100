"""Reports of rehearsals, written by hand: with everything in them that a report may have."""

from __future__ import annotations

from collections.abc import Sequence

from server.diagnostics.findings import Finding, ranked, verdict_of
from server.diagnostics.report import (
    Fetched,
    LineReport,
    ProbedEngine,
    RehearsalOptions,
    RehearsedRun,
    RehearsedScreening,
    Report,
    ReportedShow,
    Setback,
    SheetCue,
    Variety,
)

STEPS = 8
SLOT = 20.0
DURATION = 182.0
PROMPTS = (
    "Somebody paints the sea in the dark, before the doors open.",
    "A city leans over its own lights",
    "painting of a garden after rain",
    "40 %",
    "portrait of the one who is not on stage",
    "ghost light",
    "a crowd comes in out of the rain, each of them carrying a different silence",
)
KINDS = ("transcript", "transcript", "prompt", "move-slider", "prompt", "prompt", "transcript")
ACTION_IDS = tuple(f"action_{number}" for number in range(len(PROMPTS)))


def sheet(prompts: Sequence[str] = PROMPTS) -> tuple[SheetCue, ...]:
    """A start, a cue that draws every twenty seconds with one that does not between, an end."""
    cues = [SheetCue(cue=0, at=0.0, action="start", label="")]
    cues.append(SheetCue(cue=1, at=0.0, action="navigate", label="/wings"))
    for number, (text, kind) in enumerate(zip(prompts, KINDS, strict=True)):
        at = 2.0 + number * SLOT
        cues.append(
            SheetCue(cue=len(cues), at=at, action=kind, label=text, action_id=ACTION_IDS[number])
        )
        cues.append(SheetCue(cue=len(cues), at=at + 12, action="transcript", label="and so on"))
    cues.append(SheetCue(cue=len(cues), at=175.0, action="set-fade-status", label="to black"))
    cues.append(SheetCue(cue=len(cues), at=DURATION, action="end", label=""))
    return tuple(cues)


def run(number: int, screening: int = 1, prompts: Sequence[str] = PROMPTS) -> RehearsedRun:
    """What became of an action: another thing for each of the seven."""
    cue = next(each for each in sheet(prompts) if each.action_id == ACTION_IDS[number])
    due: tuple[float | None, ...] = tuple(1.2 * step for step in range(1, STEPS + 1))
    usual = RehearsedRun(
        screening=screening,
        cue=cue.cue,
        time=f"00:00:{int(cue.at):02d}" if cue.at < 60 else f"00:01:{int(cue.at) - 60:02d}",
        action_id=ACTION_IDS[number],
        type="slider" if cue.action == "move-slider" else cue.action,
        program="P4",
        prompt=prompts[number],
        cycle=1,
        at=cue.at,
        slot=SLOT,
        recorded=9.6,
        length=9.6,
        squeeze=1.0,
        mode="static",
        why="static as configured",
        provider="static",
        engine="sketch 1",
        set_id=screening % 2,
        due=due,
        readiness="all",
        outcome="completed",
    )
    fell = Setback(
        at=cue.at + 4.8, step=4, from_="static", to="live gpu", reason="5.jpg is missing"
    )
    held = Setback(at=cue.at + 2, step=0, from_="static", to="hold", reason="no set can be played")
    left_out = (*due[:2], None, None, *due[4:])
    changes: dict[int, dict[str, object]] = {
        1: {"recorded": 31.0, "length": 18.0, "squeeze": 0.58},
        2: {
            "setbacks": (fell,),
            "provider": "live",
            "engine": "gpu",
            "set_id": None,
            "outcome": "failed over",
        },
        3: {
            "setbacks": (held,),
            "provider": "hold",
            "engine": None,
            "set_id": None,
            "due": (),
            "length": 0.0,
            "recorded": None,
            "outcome": "held",
        },
        4: {"due": left_out, "readiness": "thin"},
        5: {"provider": "live", "engine": "gpu", "set_id": None, "slot": None},
        6: {"recorded": 26.0, "length": 20.0, "outcome": "cut", "readiness": "none"},
    }
    return usual.model_copy(update=changes.get(number, {}))


def findings(texts: Sequence[str] = (), *, alike: int = 0) -> tuple[Finding, ...]:
    """One of each level and more: about a cue, a set, and nothing in particular.

    Args:
        texts: messages of further warnings.
        alike: how many notes of one kind.
    """
    found = [
        Finding(
            level="error",
            code="no_sets",
            message="there is no set to play, and no engine: the picture before stays",
            remedy="`understudy generate batch --only action_3`",
            cue=8,
            action_id=ACTION_IDS[3],
            count=3,
        ),
        Finding(
            level="error",
            code="missing_step",
            message="5.jpg is missing",
            remedy="understudy generate verify --repair",
            cue=6,
            time="00:00:42",
            action_id=ACTION_IDS[2],
            set_id=1,
        ),
        Finding(
            level="warning",
            code="clock",
            message="no screening today: the machine's clock is in UTC",
            remedy="set the time zone",
        ),
        Finding(
            level="warning",
            code="silent_cue",
            message="a cue that draws nothing",
            remedy="look at it",
            cue=3,
            time="00:00:14",
        ),
    ]
    found += [
        Finding(level="warning", code="told", message=text, remedy=text, cue=4) for text in texts
    ]
    found += [
        Finding(level="note", code="squeezed", message=f"squeezed, no. {number}", remedy="wait")
        for number in range(alike)
    ]
    return ranked(found)


def full_report(
    screenings: int = 3,
    *,
    title: str = "Ghost Light",
    prompts: Sequence[str] = PROMPTS,
    found: Sequence[Finding] | None = None,
) -> Report:
    """Everything that a report may have, several times over."""
    found = findings(alike=9) if found is None else found
    runs = [
        run(number, screening, prompts)
        for screening in range(1, screenings + 1)
        for number in range(len(prompts))
    ]
    return Report(
        verdict=verdict_of(found),
        findings=tuple(found),
        show=ReportedShow(
            title=title,
            sheet="cues.json",
            duration=DURATION,
            timezone="Europe/Berlin",
            cues=len(sheet()),
            actions=len(prompts),
            mode="static",
            store="s3://bucket/ghost-light",
        ),
        asked=RehearsalOptions(
            seed=7,
            screenings=screenings,
            bandwidth=10e6,
            latency=0.05,
            fail=("engines", "action_3"),
            deep=True,
        ),
        screenings=tuple(
            RehearsedScreening(
                number=number,
                starts=f"2026-11-25T{8 + number:02d}:00",
                from_=0.0,
                to=DURATION,
                runs=len(prompts),
            )
            for number in range(1, screenings + 1)
        ),
        cues=tuple(runs),
        sheet=sheet(prompts),
        engines=(
            ProbedEngine(
                name="gpu", kind="worker", local=False, state="ready", detail="answered in 0.2 s"
            ),
            ProbedEngine(name="attic", kind="comfyui", local=False, state="dead", detail="refused"),
            ProbedEngine(name="here", kind="diffusers", local=True, state="not asked", detail=""),
        ),
        line=LineReport(
            bits_per_second=10e6,
            latency=0.05,
            here_bytes=0,
            fetched_bytes=9_300_000,
            room_bytes=21_474_836_480,
            ready_at=61.0,
        ),
        fetched=tuple(
            Fetched(
                screening=0 if number < 3 else 1,
                action_id=ACTION_IDS[number % len(ACTION_IDS)],
                set_id=number % 2,
                at=-9.0 + 4 * number,
                until=-3.0 + 6 * number,
                bytes=930_000,
                files=STEPS + 1,
            )
            for number in range(10)
        ),
        variety=tuple(
            Variety(action_id=action_id, cue=2 + 2 * number, sets=2, played=(1, 0, 1))
            for number, action_id in enumerate(ACTION_IDS)
        ),
    )
