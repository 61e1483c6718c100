"""Findings that are neither about runs nor about sets: ladders, the line, the sheet (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from generator.cues import CueProblem
from generator.plan import Planned
from server.config.show import ShowError
from server.diagnostics.report import Finding, about
from server.modes.proof import Unproven
from server.supply.inventory import StoreInventory


def unproven_findings(plan: Planned, found: Iterable[Unproven]) -> list[Finding]:
    """Cues that nothing sure stands beneath."""
    actions = {action.action_id: action for action in plan.actions}
    return [
        about(
            actions[each.action_id],
            "error",
            "no_sets",
            message=f"there is no set to play, {each.reason}",
            remedy=f"understudy generate batch --only {each.action_id}",
        )
        for each in found
    ]


def line_findings(inventory: StoreInventory) -> list[Finding]:
    """What is wrong with the line to the store."""
    if inventory.silent is None:
        return []
    return [
        Finding(
            level="warning",
            code="store_silent",
            message=f"the store cannot be asked: {inventory.silent}",
            remedy="look after the line; all this is of the copies on this machine alone",
        )
    ]


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
    """Everything that keeps a show from being loaded, each with its cue where it has one."""
    sheet = PurePath(error.sheet).name
    remedies = {
        "bad_sheet": f"mend it in {sheet}: until then nothing plays",
        "unknown_program": f"name another program in {sheet}, or describe this one in show.toml "
        "as [programs.NAME]",
    }
    others = [
        Finding(
            level="error",
            code="bad_settings",
            message=problem,
            remedy="mend it there: until then nothing plays",
        )
        for problem in error.elsewhere
    ]
    of_cues = [
        Finding(
            level="error",
            code=each.kind,
            message=f"{sheet}: {each.message}",
            remedy=remedies[each.kind],
            cue=each.index,
            time=each.time,
        )
        for each in error.of_cues
    ]
    return [*others, *of_cues]
