"""What a cue sheet was before: its versions in a folder, and which of them it is now.

Each version is a file of its own, `00000012-00000009-SHA256.json`: the twelfth, which was made of
the ninth. So the folder can be read by anybody, and says by itself what was made of what. Which
version the sheet is stands in the file `now`, with the one that it was before: it is written before
the sheet is, so that one look at the sheet tells whether a process was killed in between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cache.durable import make_private_folder, remove_durably, write_durably

VERSIONS: Final = 50
"""How many versions are kept."""

_NAME: Final = re.compile(r"([0-9]{8})-([0-9]{8})-([0-9a-f]{64})\.json")
_NOW: Final = "now"
_PLACE: Final = re.compile(r"([0-9]{1,8}) ([0-9]{1,8})\n?")


def etag_of_sheet(data: bytes) -> str:
    """By what a sheet is known: the SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version of the sheet that is kept.

    Attributes:
        number: counts the versions from 1, in the order in which they came.
        parent: number of the one that it was made of; 0 for none.
        etag: the SHA-256 of its bytes.
        file: where it lies.
    """

    number: int
    parent: int
    etag: str
    file: Path


class SheetHistory:
    """The versions of one sheet. Whoever writes has taken care that nobody else does.

    Args:
        folder: where they are kept; it need not be there yet.
        most: how many are kept.
    """

    def __init__(self, folder: Path, most: int = VERSIONS) -> None:
        self._folder = folder
        self._most = most

    def versions(self) -> list[KeptVersion]:
        """Every version that is kept, the oldest first.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self._folder.is_dir():
            return []
        found = [
            KeptVersion(int(name[1]), int(name[2]), name[3], file)
            for file in self._folder.iterdir()
            if (name := _NAME.fullmatch(file.name)) is not None
        ]
        return sorted(found, key=lambda each: each.number)

    def find(self, etag: str) -> bytes | None:
        """The bytes of a version that is kept; None for one that is not, or not any more.

        Raises:
            OSError: the folder cannot be read.
        """
        found = [each for each in self.versions() if each.etag == etag]
        return self.read(found[-1]) if found else None

    def read(self, version: KeptVersion) -> bytes | None:
        """The bytes of a version; None where they are not those that were kept."""
        with suppress(OSError):
            data = version.file.read_bytes()
            if etag_of_sheet(data) == version.etag:
                return data
        return None

    def present(self, etag: str) -> KeptVersion | None:
        """Which version a sheet of this ETag is; None where it was changed by somebody else.

        Raises:
            OSError: the folder cannot be read.
        """
        kept = {each.number: each for each in self.versions()}
        # The second is where the sheet was before its last change: there it is still, if
        # whoever changed it was killed before the sheet was written.
        for number in self._now():
            if number in kept and kept[number].etag == etag:
                return kept[number]
        return None

    def before(self, version: KeptVersion) -> KeptVersion | None:
        """The version that one was made of; None where it is not kept.

        Raises:
            OSError: the folder cannot be read.
        """
        return next((each for each in self.versions() if each.number == version.parent), None)

    def last(self) -> KeptVersion | None:
        """The version that the sheet was when it was written here last.

        Raises:
            OSError: the folder cannot be read.
        """
        number = next(iter(self._now()), 0)
        return next((each for each in self.versions() if each.number == number), None)

    def keep(self, data: bytes, parent: KeptVersion | None) -> KeptVersion:
        """Keep a version that was made of another.

        Raises:
            OSError: it is not kept.
        """
        make_private_folder(self._folder)
        # Numbers are never given twice: what a killed writer kept stays, and is nobody's parent.
        number = max((each.number for each in self.versions()), default=0) + 1
        above = 0 if parent is None else parent.number
        etag = etag_of_sheet(data)
        file = self._folder / f"{number:08d}-{above:08d}-{etag}.json"
        write_durably(file, data)
        return KeptVersion(number, above, etag, file)

    def move(self, source: KeptVersion, target: KeptVersion) -> None:
        """Say that the sheet becomes one version out of another; it is written thereafter.

        Raises:
            OSError: it is not said.
        """
        write_durably(self._folder / _NOW, f"{target.number} {source.number}\n".encode())

    def prune(self) -> None:
        """Delete the oldest versions, but never those that the sheet is or was just now."""
        kept, now = self.versions(), self._now()
        spared = [each for each in kept if each.number not in now]
        too_many = max(0, len(kept) - self._most)
        # Only tidying: what cannot be deleted today is deleted another day.
        with suppress(OSError):
            for version in spared[:too_many]:
                remove_durably(version.file)
            for left in self._folder.glob(".*.tmp"):  # of writers that were killed
                remove_durably(left)

    def _now(self) -> Sequence[int]:
        with suppress(OSError, UnicodeDecodeError):
            found = _PLACE.fullmatch((self._folder / _NOW).read_text("utf-8"))
            if found is not None:
                return int(found[1]), int(found[2])
        return ()
