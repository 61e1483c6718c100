"""What `generate plan` tells: what would be drawn, why, and what it would take (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from generator.sets.inventory import Holding
from generator.sheet.estimate import Cost, Experience
from server.core.formatting import count, duration, size


@dataclass(frozen=True, slots=True)
class Row:
    """One action of the plan.

    Attributes:
        holding: what there is of it.
        missing: numbers of the sets to be drawn.
        cost: what each takes.
    """

    holding: Holding
    missing: tuple[int, ...]
    cost: Cost

    @property
    def stale(self) -> bool:
        """Whether it has sets that will not do any more, and too few that will."""
        return bool(self.missing and self.holding.stale)


class Draft:
    """A plan with what it would take.

    Args:
        holdings: of the actions in question.
        wanted: sets for each.
        experience: what sets took before.
        engines: kinds of engines that will draw; None for any.
        beside: how many sets are drawn beside each other.
    """

    def __init__(
        self,
        holdings: Sequence[Holding],
        wanted: int,
        *,
        experience: Experience,
        engines: Collection[str] | None,
        beside: int,
    ) -> None:
        self.wanted = wanted
        self.beside = max(1, beside)
        self.rows = [
            Row(h, h.missing(wanted), experience.cost(h.action.recipe, engines)) for h in holdings
        ]

    @property
    def missing(self) -> int:
        """Sets to be drawn."""
        return sum(len(row.missing) for row in self.rows)

    @property
    def seconds(self) -> float | None:
        """Seconds that drawing takes, as far as known; None where nothing is."""
        known = [r.cost.seconds * len(r.missing) for r in self._open if r.cost.seconds is not None]
        return sum(known) / self.beside if known else None

    @property
    def bytes(self) -> int | None:
        """Bytes that will be kept, as far as known; None where nothing is."""
        known = [r.cost.size * len(r.missing) for r in self._open if r.cost.size is not None]
        return sum(known) if known else None

    @property
    def untimed(self) -> int:
        """Sets to be drawn of which nobody knows how long they take."""
        return sum(len(row.missing) for row in self._open if row.cost.seconds is None)

    @property
    def unsized(self) -> int:
        """Sets to be drawn of which nobody knows how large they are."""
        return sum(len(row.missing) for row in self._open if row.cost.size is None)

    @property
    def kept(self) -> int:
        """Sets of other recipes, which stay where they are."""
        return sum(len(row.holding.stale) for row in self.rows)

    @property
    def _open(self) -> list[Row]:
        return [row for row in self.rows if row.missing]

    def as_json(self) -> dict[str, Any]:
        """For programs; the estimates are null where they are not known."""
        holdings = [row.holding for row in self.rows]
        totals = {
            "actions": len(self.rows),
            "sets_present": sum(len(holding.present) for holding in holdings),
            "sets_wanted": self.wanted * len(self.rows),
            "sets_missing": self.missing,
            "stale_actions": sum(1 for row in self.rows if row.stale),
            "broken_sets": sum(len(holding.broken) for holding in holdings),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "bytes": self.bytes,
            "sets_untimed": self.untimed,
            "sets_unsized": self.unsized,
        }
        return {"actions": [self._row_as_json(row) for row in self.rows], "totals": totals}

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        holding, action, number = row.holding, row.holding.action, len(row.missing)
        seconds, per_set = row.cost.seconds, row.cost.size
        return {
            "action_id": action.action_id,
            "type": action.type,
            "program": action.program,
            "prompt": action.prompt,
            "fingerprint": action.fingerprint,
            "sets_present": len(holding.present),
            "sets_wanted": self.wanted,
            "stale": row.stale,
            "missing_sets": list(row.missing),
            "stale_sets": list(holding.stale),
            "broken_sets": [set_id for set_id, _ in holding.broken],
            "why": holding.remarks() if row.missing else [],
            "seconds": None if seconds is None else round(seconds * number, 3),
            "bytes": None if per_set is None else per_set * number,
        }

    def as_table(self) -> Table:
        """For people."""
        table = Table(box=None, pad_edge=False)
        for heading in ("action", "program", "sets", "takes", "prompt"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for row in self.rows:
            holding, action = row.holding, row.holding.action
            stale = " stale" if row.stale else ""
            broken = " broken" if holding.broken else ""
            seconds = row.cost.seconds
            unknown = "?" if row.missing else ""
            table.add_row(
                action.action_id,
                action.program,
                f"{len(holding.present)}/{self.wanted}{stale}{broken}",
                unknown if seconds is None else _time(seconds * len(row.missing)),
                Text(action.prompt),
            )
        return table

    def remarks(self) -> list[str]:
        """Why sets that are there will not do, a line each."""
        holdings = [row.holding for row in self._open]
        return [f"{h.action.action_id}: {text}" for h in holdings for text in h.remarks()]

    def summary(self) -> list[str]:
        """The totals in sentences."""
        there = sum(len(row.holding.present) for row in self.rows)
        actions, sets = count(len(self.rows), "action"), count(there, "set")
        lines = [f"{actions}, {sets} there, {self.missing} to draw"]
        if not self.missing:
            return [*lines, *self._kept()]
        known = []
        if self.seconds is not None:
            beside = f", {self.beside} beside each other" if self.beside > 1 else ""
            known.append(f"{duration(self.seconds)} of drawing{beside}")
        if self.bytes is not None:
            known.append(size(self.bytes))
        if known:
            lines.append(f"about {' and '.join(known)}, judged by what was drawn before")
        if self.untimed:
            lines.append(
                f"how long {count(self.untimed, 'set')} will take is not known: "
                "none like them was drawn here with this engine and measured"
            )
        if self.unsized:
            lines.append(
                f"how large {count(self.unsized, 'set')} will be is not known: "
                "none like them was drawn here with this engine"
            )
        return [*lines, *self._kept()]

    def _kept(self) -> list[str]:
        if not self.kept:
            return []
        sets = count(self.kept, "set")
        text = "understudy generate prune removes what no sheet wants"
        return [f"kept as drawn for other sheets: {sets}; {text}"]


def _time(seconds: float) -> str:
    return duration(seconds) if seconds else ""
