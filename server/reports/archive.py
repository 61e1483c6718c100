"""The last few reports of rehearsals in the background, on disk: a folder for each.

A folder is filled beside its place, under a name with a dot, and renamed into it once it is
whole: what is seen under a plain name is a report, and what a crash left is swept away at
the next start.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from cache.durable import (
    make_private,
    make_private_folder,
    sync_files,
    sync_folder,
    write_durably,
)
from cache.encoding import json_text
from cache.untrusted import fit_json
from server.diagnostics.findings import Finding, Verdict

REHEARSALS: Final = "rehearsals"
"""Their folder, within that which `[cache] dir` names."""

KEPT: Final = 5
"""Reports that are kept."""

JSON: Final = "report.json"
HTML: Final = "report.html"

_ABOUT: Final = "about.json"
_UNDER_WAY: Final = "."
_NAME: Final = re.compile(r"(\d{8}T\d{6})-(\d+)")


def _order(folder: Path) -> tuple[str, int]:
    """By when it was begun, and its number; what is no report of ours is older than all."""
    found = _NAME.fullmatch(folder.name)
    return ("", 0) if found is None else (found[1], int(found[2]))


def _stamp(wall: float) -> str:
    try:
        return datetime.fromtimestamp(wall, UTC).strftime("%Y%m%dT%H%M%S")
    except (ValueError, OverflowError, OSError):
        return ""  # a clock that far off names no date


class Digest(BaseModel):
    """What a technician is told of a report: it is read, and the runs in it are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    verdict: Verdict
    findings: tuple[Finding, ...]


class RehearsalOutcome(BaseModel):
    """A rehearsal that came to its end, in a few lines.

    Attributes:
        name: its folder's.
        asked: what was asked for, as far as it differs from the show as it is.
        finished_at: Unix time, by the machine's time of day.
        seconds: how long it took.
        findings: the worst of them, in the order of the report.
        html: whether there is a page of it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    by: str
    asked: dict[str, Any] = Field(default_factory=dict)
    finished_at: float
    seconds: float
    verdict: Verdict
    errors: int
    warnings: int
    notes: int
    findings: tuple[Finding, ...] = ()
    html: bool = False


class ReportArchive:
    """A folder of reports. Everything here waits for the disk: call it beside the event loop.

    Args:
        folder: where; it is made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self) -> RehearsalOutcome | None:
        """The last that came to its end, if its folder can be read; sweeps up what a crash left."""
        make_private(self.folder)
        for left in self._folders(under_way=True):
            shutil.rmtree(left, ignore_errors=True)
        for folder in reversed(self._folders()):
            with suppress(OSError, ValueError):
                return RehearsalOutcome.model_validate_json(
                    fit_json((folder / _ABOUT).read_bytes())
                )
        return None

    def begin(self, wall: float) -> Path:
        """A folder to be filled.

        Raises:
            OSError: it cannot be made.
        """
        # Their names are their order: after a start with a clock that was ahead, the one that
        # comes next must not be taken for the oldest and swept away.
        stamp, number = max([(_stamp(wall), 0), *(_order(each) for each in self._folders())])
        folder = self.folder / f"{_UNDER_WAY}{stamp}-{number + 1:02d}"
        shutil.rmtree(folder, ignore_errors=True)
        make_private_folder(folder)
        return folder

    def name_of(self, begun: Path) -> str:
        """What a folder that was begun will be called."""
        return begun.name.removeprefix(_UNDER_WAY)

    def digest(self, begun: Path) -> Digest:
        """What the report in a folder says.

        Raises:
            OSError: it cannot be read.
            ValueError: it is none.
        """
        return Digest.model_validate_json((begun / JSON).read_bytes())

    def keep(self, begun: Path, outcome: RehearsalOutcome) -> None:
        """Put a folder that is filled among the others, and let the oldest go.

        Raises:
            OSError: the disk is full, or read-only.
        """
        about = json_text(outcome.model_dump(mode="json"), place=_ABOUT, indent=1)
        write_durably(begun / _ABOUT, about.encode())
        sync_files(begun)
        begun.rename(self.folder / outcome.name)
        sync_folder(self.folder)
        for old in self._folders()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def drop(self, begun: Path) -> None:
        """Remove what came to nothing."""
        shutil.rmtree(begun, ignore_errors=True)

    def read(self, name: str, file: str) -> bytes:
        """A file of a report.

        Raises:
            OSError: there is none.
        """
        return (self.folder / name / file).read_bytes()

    def _folders(self, *, under_way: bool = False) -> list[Path]:
        """Those that are whole, or those that are not, the oldest first."""
        with suppress(OSError):
            found = [each for each in self.folder.iterdir() if each.is_dir()]
            wanted = (each for each in found if each.name.startswith(_UNDER_WAY) == under_way)
            return sorted(wanted, key=_order)
        return []
