"""What is wrong with the show as it is written, and with what its cues stand on (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from server.config.show import ShowError
from server.diagnostics.facts import SIMULATION, SimulationFacts
from server.diagnostics.findings import CuePlace, Finding, kind

DRAW: Final = "understudy generate batch --only {action_id}"

NO_SETS = kind("no_sets", "a cue has no set to play, and nothing sure instead", DRAW, "error")
STORE_SILENT = kind(
    "store_silent",
    "the store cannot be asked, and copies on this machine are played; the sets cannot be looked "
    "through at all",
    "look after the line, or the store",
    *("warning", "error"),
)
BAD_SETTINGS = kind(
    "bad_settings",
    "the show cannot be loaded: every reason, with its cue",
    "mend it there: until then nothing plays",
    "error",
)
BAD_SHEET = kind("bad_sheet", BAD_SETTINGS.title, BAD_SETTINGS.remedy, "error")
UNKNOWN_PROGRAM = kind("unknown_program", BAD_SETTINGS.title, BAD_SETTINGS.remedy, "error")
SHEET_REMARK = kind(
    "sheet_remark",
    "something in the sheet is odd, and does no harm",
    "nothing, if that is meant; else see the cue sheet",
    "note",
)


@SIMULATION
def no_sets(facts: SimulationFacts) -> Iterator[Finding]:
    """Cues that nothing sure stands beneath."""
    for each in facts.result.uncovered:
        yield NO_SETS(
            f"there is no set to play, {each.reason}", facts.result.plan.of_cue(each.cue_index)
        )


@SIMULATION
def store_silent(facts: SimulationFacts) -> Iterator[Finding]:
    """Whether the store could be asked what lies in it."""
    silent = facts.around.inventory.silent
    if silent is not None:
        remedy = "look after the line; all this is of the copies on this machine alone"
        yield STORE_SILENT(f"the store cannot be asked: {silent}", remedy=remedy)


@SIMULATION
def sheet_remarks(facts: SimulationFacts) -> Iterator[Finding]:
    """What was odd in the sheet."""
    for each in (*facts.show.sheet.remarks, *facts.result.plan.remarks):
        yield SHEET_REMARK(each.message, CuePlace(each.index, each.time))


def unloadable(error: ShowError) -> Iterator[Finding]:
    """Everything that keeps a show from being loaded, each with its cue where it has one."""
    for problem in error.elsewhere:
        yield BAD_SETTINGS(problem)
    sheet = PurePath(error.sheet).name
    for each in error.of_cues:
        text, where = f"{sheet}: {each.message}", CuePlace(each.index, each.time)
        if each.kind == "unknown_program":
            remedy = (
                f"name another program in {sheet}, or describe this one in show.toml as "
                "[programs.NAME]"
            )
            yield UNKNOWN_PROGRAM(text, where, remedy=remedy)
        else:
            remedy = f"mend it in {sheet}: until then nothing plays"
            yield BAD_SHEET(text, where, remedy=remedy)
