"""What a rehearsal in the background is asked for, and how the command line says it (pure)."""

from __future__ import annotations

import re
from itertools import chain
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from generator.sheet.cues import format_time, parse_time
from server.config.sections import BitsPerSecond

MOST_SCREENINGS: Final = 100
"""More than a week of them belongs in a terminal, where nobody else waits."""

_LONGEST_LATENCY: Final = 60.0
_MOST_FAILING: Final = 32
_SEPARATORS: Final = re.compile(r"[,\s]+")


def _position(value: object) -> object:
    """A position as it is written, or in seconds."""
    return parse_time(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    """Names in a list, or in one text, apart by commas or spaces."""
    return tuple(filter(None, _SEPARATORS.split(value))) if isinstance(value, str) else value


Position = Annotated[float, BeforeValidator(_position), Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\s,-][^\s,]*$")]


class RehearsalRequest(BaseModel):
    """What is asked for; OSC gives it in the order of the fields.

    Attributes:
        screenings: how many, one after another.
        bandwidth: bits a second of the line to the store; None for as it is.
        latency: seconds of each request over it; None for as it is.
        fail: what is to fail: ``store``, ``engines``, an engine or an action.
        seed: of what is left to chance; None for the show's.
        from_: position at which each screening begins.
        to: position at which it ends; None for its end.
        deep: whether every image is decoded wholly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    screenings: Annotated[int, Field(ge=1, le=MOST_SCREENINGS)] = 1
    bandwidth: Annotated[BitsPerSecond, Field(gt=0)] | None = None
    fail: Annotated[tuple[Name, ...], BeforeValidator(_names), Field(max_length=_MOST_FAILING)] = ()
    latency: Annotated[float, Field(ge=0, le=_LONGEST_LATENCY, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    from_: Position | None = Field(default=None, alias="from")
    to: Position | None = None
    deep: bool = False

    def arguments(self) -> list[str]:
        """The same, for `understudy rehearse`."""
        given = {
            "--screenings": None if self.screenings == 1 else self.screenings,
            "--bandwidth": self.bandwidth,
            "--latency": None if self.latency is None else f"{self.latency:g}",
            "--seed": self.seed,
            "--from": None if self.from_ is None else format_time(self.from_),
            "--to": None if self.to is None else format_time(self.to),
        }
        options = [(name, str(value)) for name, value in given.items() if value is not None]
        options += [("--fail", name) for name in self.fail]
        return [*chain.from_iterable(options), *(["--deep"] if self.deep else [])]

    def plain(self) -> dict[str, Any]:
        """What differs from a rehearsal of the show as it is, as JSON values."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
