"""Findings that are neither about runs nor about sets: ladders, the line, the sheet (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from generator.cues import CueProblem, format_time
from generator.plan import Plan
from server.config.show import ShowError
from server.modes.proof import Unproven
from server.rehearsal.catalogue import Catalogue
from server.rehearsal.play import Played
from server.rehearsal.report import Finding, RehearsedRun
from server.words import size


def unproven_findings(plan: Plan, found: Iterable[Unproven]) -> list[Finding]:
    """Cues that nothing sure stands beneath."""
    at = {action.cue_index: format_time(action.at) for action in plan.actions}
    return [
        Finding(
            level="error",
            code="no_sets",
            message=f"there is no set to play, {each.reason}",
            remedy=f"understudy generate batch --only {each.action_id}",
            cue=each.cue_index,
            time=at.get(each.cue_index),
            action_id=each.action_id,
        )
        for each in found
    ]


def line_findings(
    catalogue: Catalogue, played: Played, runs: Sequence[RehearsedRun], room: int
) -> list[Finding]:
    """What is wrong with the line, and with the room for what comes over it."""
    findings = []
    if catalogue.silent is not None:
        findings.append(
            Finding(
                level="warning",
                code="store_silent",
                message=f"the store cannot be asked: {catalogue.silent}",
                remedy="look after the line; all this is of the copies on this machine alone",
            )
        )
    if played.crowded_out:
        hit = next((run for run in runs if run.left_out or run.readiness in {"none", "thin"}), None)
        first = hit or next(iter(runs), None)
        findings.append(
            Finding(
                level="warning",
                code="cache_too_small",
                message=f"[cache] disk_bytes is {size(room)}: up to {played.crowded_out} of the "
                "coming sets find no room beside those before them",
                remedy="give [cache] disk_bytes more room",
                cue=None if first is None else first.cue,
                time=None if first is None else first.time,
                action_id=None if first is None else first.action_id,
            )
        )
    return findings


def remark_findings(remarks: Iterable[CueProblem]) -> list[Finding]:
    """What was odd in the sheet, but does no harm."""
    return [
        Finding(
            level="note",
            code="sheet_remark",
            message=each.message,
            remedy="nothing, if that is meant; else see the cue sheet",
            cue=each.index,
            time=each.time,
        )
        for each in remarks
    ]


def unloadable_findings(error: ShowError) -> list[Finding]:
    """Everything that keeps a show from being loaded."""
    of_cues = [
        Finding(
            level="error",
            code=each.kind,
            message=each.message,
            remedy="mend this cue in the sheet: until then nothing plays",
            cue=each.index,
            time=each.time,
        )
        for each in error.of_cues
    ]
    told = {str(each) for each in error.of_cues}
    others = [
        Finding(
            level="error",
            code="bad_settings",
            message=problem,
            remedy="mend it: until then nothing plays",
        )
        for problem in error.problems
        if not any(problem.endswith(each) for each in told)
    ]
    return [*others, *of_cues]
