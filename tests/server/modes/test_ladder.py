"""Who decides, and what is tried in which order: tables."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from server.modes.forces import Force
from server.modes.ladder import Decision, EngineOutlook, Outlook, Sets, WantedMode, asked, decide

GPU = EngineOutlook("gpu", local=True)
CLOUD = EngineOutlook("cloud")
RESTING = EngineOutlook("gpu", local=True, unfit="engine gpu rests until 14:03 after 3 failures")
BOTH = (GPU, CLOUD)


def rungs(decision: Decision) -> list[str]:
    return [str(rung) for rung in decision.rungs]


LADDERS: list[tuple[str, Sets, dict[str, Any], list[str]]] = [
    ("static", "ready", {}, ["static"]),
    ("static", "ready", {"engines": BOTH}, ["static", "live cloud", "live gpu"]),
    ("static", "ready", {"engines": BOTH, "fallback": False}, ["static"]),
    ("static", "late", {"engines": BOTH}, ["static", "live cloud", "live gpu"]),
    ("static", "none", {"engines": BOTH}, ["static", "live cloud", "live gpu"]),
    ("static", "none", {"engines": (RESTING, CLOUD)}, ["static", "live cloud"]),
    ("static", "none", {}, ["static"]),
    ("live", "ready", {"engines": BOTH}, ["live cloud", "live gpu", "static"]),
    ("live", "late", {"engines": BOTH}, ["live cloud", "live gpu", "static"]),
    ("live", "none", {"engines": BOTH}, ["live cloud", "live gpu"]),
    ("live", "ready", {"engines": (RESTING, CLOUD)}, ["live cloud", "static"]),
    ("live", "ready", {"engines": (RESTING,)}, ["static"]),
    ("live", "ready", {"engines": BOTH, "fallback": False}, ["live cloud", "live gpu", "static"]),
    ("live", "ready", {"engines": BOTH, "no_live": "spent"}, ["static"]),
    ("live", "ready", {"engines": BOTH, "joined": True}, ["static", "live cloud", "live gpu"]),
    ("live", "none", {"engines": BOTH, "joined": True}, ["live cloud", "live gpu"]),
    ("live", "none", {}, []),
    ("hybrid", "ready", {"engines": BOTH}, ["static", "live cloud", "live gpu"]),
    ("hybrid", "late", {"engines": BOTH}, ["live cloud", "live gpu", "static"]),
    ("hybrid", "none", {"engines": BOTH}, ["live cloud", "live gpu"]),
    ("hybrid", "late", {"engines": BOTH, "joined": True}, ["static", "live cloud", "live gpu"]),
    ("hybrid", "late", {"engines": (RESTING,)}, ["static"]),
    ("hybrid", "none", {"engines": (RESTING,)}, []),
    ("hybrid", "ready", {"engines": BOTH, "no_live": "spent"}, ["static"]),
]


@pytest.mark.parametrize(("mode", "sets", "known", "expected"), LADDERS)
def test_the_ladder_of_a_mode(
    mode: Any, sets: Sets, known: dict[str, Any], expected: list[str]
) -> None:
    assert rungs(decide(WantedMode(mode, "because"), Outlook(sets, **known))) == expected


def test_engines_of_a_kind_keep_their_order() -> None:
    engines = [EngineOutlook("b"), EngineOutlook("here", local=True), EngineOutlook("a")]
    decision = decide(WantedMode("live", "because"), Outlook("none", engines))
    assert rungs(decision) == ["live b", "live a", "live here"]


REASONS: list[tuple[str, Sets, dict[str, Any], str]] = [
    ("static", "ready", {}, "static as configured"),
    ("static", "none", {}, "static as configured; no set is known; no engine is set up"),
    ("live", "ready", {"engines": BOTH}, "live as configured"),
    (
        "live",
        "ready",
        {"engines": (RESTING,)},
        "live as configured; engine gpu rests until 14:03 after 3 failures; playing a set",
    ),
    (
        "live",
        "ready",
        {"engines": BOTH, "no_live": "the 10 live runs of this hour are spent"},
        "live as configured; the 10 live runs of this hour are spent; playing a set",
    ),
    (
        "live",
        "none",
        {},
        "live as configured; no engine is set up; nothing to play, the picture before is held",
    ),
    ("hybrid", "ready", {"engines": BOTH}, "hybrid as configured; a set is at hand"),
    ("hybrid", "none", {"engines": BOTH}, "hybrid as configured; there is no set"),
    ("hybrid", "late", {"engines": BOTH}, "hybrid as configured; no set can be here in time"),
]


@pytest.mark.parametrize(("mode", "sets", "known", "expected"), REASONS)
def test_the_reason_in_words(mode: Any, sets: Sets, known: dict[str, Any], expected: str) -> None:
    assert decide(asked(mode), Outlook(sets, **known)).why == expected


def test_the_strongest_decides() -> None:
    force = Force(mode="static", by="foh-tablet", reason="GPU host noisy")
    assert asked("live") == WantedMode("live", "live as configured")
    assert asked("live", "hybrid") == WantedMode("hybrid", "the cue asks for hybrid")
    forced = WantedMode("static", "forced static by foh-tablet: GPU host noisy", "foh-tablet")
    assert asked("live", "hybrid", force) == forced
    decision = decide(forced, Outlook("ready", BOTH))
    assert (decision.mode, decision.forced_by) == ("static", "foh-tablet")


def test_every_reason_begins_with_who_decided_and_no_ladder_repeats_a_rung() -> None:
    for mode, sets, engines, fallback, joined, no_live in itertools.product(
        ("static", "live", "hybrid"),
        ("ready", "late", "none"),
        ((), (GPU,), BOTH, (RESTING, CLOUD)),
        (True, False),
        (True, False),
        (None, "spent"),
    ):
        outlook = Outlook(sets, engines, fallback, no_live, joined)  # type: ignore[arg-type]
        decision = decide(asked(mode), outlook)  # type: ignore[arg-type]
        assert decision.why.startswith(f"{mode} as configured")
        assert len(set(decision.rungs)) == len(decision.rungs)
        if sets != "none":
            assert "static" in rungs(decision), "a set that is there is never left out"
