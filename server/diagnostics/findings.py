"""The catalogue of findings: what each is called, how bad it may be, what it means, what helps.

A finding is added at one place: a kind, and beside it a check that yields it, registered for
the facts that it reads. All that is told of findings is a selection of them: a rehearsal's
report, the preflight, `/readyz`, the health, and the table in docs/rehearsal.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from generator.sheet.cues import format_time
from generator.sheet.plan import Action
from server.core.formatting import first_few

Level = Literal["error", "warning", "note"]
"""An error would be seen by visitors, a warning is survived, a note is good to know."""

Verdict = Literal["ready", "not ready"]

LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")
"""The worst first."""


class Finding(BaseModel):
    """One thing that is wrong, or worth knowing.

    Attributes:
        level: how bad it is.
        code: a stable word for what it is: ``missing_step``.
        message: what is wrong, and why.
        remedy: what to do about it.
        cue: index of the cue in the sheet, from 0; None where it is about no single one.
        time: the cue's time, as in the sheet.
        action_id: the action it is about.
        set_id: the set it is about.
        count: how many times it was found in this rehearsal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level
    code: str
    message: str
    remedy: str
    cue: int | None = None
    time: str | None = None
    action_id: str | None = None
    set_id: int | None = None
    count: int = 1


class CuePlace(NamedTuple):
    """Which cue a finding is about, and which action."""

    cue: int | None = None
    time: str | None = None
    action_id: str | None = None


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding; called with a message, it makes one.

    Attributes:
        code: a stable word for it.
        title: what it means, for whoever looks it up.
        remedy: what to do, unless something better is known; `{action_id}` is filled in.
        levels: how bad it may be; the first unless something else is said.
        better: codes that tell the same in better words: it is left out of an action that has one.
    """

    code: str
    title: str
    remedy: str
    levels: tuple[Level, ...]
    better: tuple[str, ...] = ()

    def __call__(
        self,
        message: str,
        about: Action | CuePlace | None = None,
        *,
        level: Level | None = None,
        remedy: str | None = None,
        set_id: int | None = None,
        count: int = 1,
    ) -> Finding:
        """One finding of this kind."""
        level = level or self.levels[0]
        if level not in self.levels:
            raise ValueError(f"{self.code} is told as {self.levels}, not as {level}")
        if isinstance(about, Action):
            about = CuePlace(about.cue_index, format_time(about.at), about.action_id)
        cue, time, action_id = about or CuePlace()
        return Finding(
            level=level,
            code=self.code,
            message=message,
            remedy=remedy or self.remedy.format(action_id=action_id),
            cue=cue,
            time=time,
            action_id=action_id,
            set_id=set_id,
            count=count,
        )


CATALOGUE: Final[dict[str, FindingKind]] = {}
"""Every kind, by its code."""


def kind(
    code: str, title: str, remedy: str, *levels: Level, better: Iterable[str] = ()
) -> FindingKind:
    """Put a kind of finding into the catalogue; see `FindingKind`."""
    made = CATALOGUE[code] = FindingKind(code, title, remedy, levels, tuple(better))
    return made


F = TypeVar("F")
R = TypeVar("R")


class Selection(Generic[F]):
    """Checks over one sort of facts. As a decorator it registers one."""

    def __init__(self) -> None:
        self.checks: list[Callable[[F], Any]] = []

    def __call__(self, check: Callable[[F], R]) -> Callable[[F], R]:
        """Check this as well."""
        self.checks.append(check)
        return check

    def findings(
        self, facts: F, failed: Callable[[str, Exception], Finding] | None = None
    ) -> list[Finding]:
        """All that the checks find, but for what another of them tells in better words.

        Args:
            facts: what is checked.
            failed: makes a finding of a check that raised, by its name: the others go on. None
                to let the exception through.
        """
        found: list[Finding] = []
        for check in self.checks:
            try:
                found += list(check(facts))
            except Exception as error:
                if failed is None:
                    raise
                found.append(failed(check.__name__, error))
        told = {(each.code, each.action_id) for each in found}
        return [
            each
            for each in found
            if not any((code, each.action_id) in told for code in CATALOGUE[each.code].better)
        ]


def count_of(findings: Iterable[Finding], level: Level) -> int:
    """How many findings of a level there are."""
    return sum(finding.level == level for finding in findings)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Errors keep a show from opening; nothing else does."""
    return "not ready" if count_of(findings, "error") else "ready"


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first, then in the order of the show; what is the same is told once."""
    merged: dict[Finding, int] = {}
    for finding in findings:
        once = finding.model_copy(update={"count": 1})
        merged[once] = merged.get(once, 0) + finding.count

    def place(finding: Finding) -> tuple[int, int, str, str, int]:
        return (
            LEVELS.index(finding.level),
            -1 if finding.cue is None else finding.cue,
            finding.code,
            finding.action_id or "",
            -1 if finding.set_id is None else finding.set_id,
        )

    counted = (each.model_copy(update={"count": count}) for each, count in merged.items())
    return tuple(sorted(counted, key=place))


def sentences(findings: Iterable[Finding], level: Level) -> list[str]:
    """One sentence for each kind of a level, which names the first few that it is about."""
    alike: dict[str, list[Finding]] = {}
    for each in findings:
        if each.level == level:
            alike.setdefault(each.code, []).append(each)
    said = []
    for first, *others in alike.values():
        actions = dict.fromkeys(each.action_id for each in (first, *others) if each.action_id)
        about = first_few(actions)
        more = f" (and {len(others)} more)" if others else ""
        said.append(": ".join(filter(None, [about, f"{first.message}{more}"])))
    return said


def table() -> str:
    """The catalogue in Markdown; kinds that mean the same share a row."""
    alike: dict[tuple[str, str], list[str]] = {}
    for each in sorted(CATALOGUE.values(), key=lambda each: min(map(LEVELS.index, each.levels))):
        levels = ", ".join(sorted(each.levels, key=LEVELS.index))
        alike.setdefault((levels, each.title), []).append(f"`{each.code}`")
    rows = [
        f"| {', '.join(codes)} | {levels} | {title} |" for (levels, title), codes in alike.items()
    ]
    return "\n".join(["| code | level | what |", "| --- | --- | --- |", *rows, ""])
