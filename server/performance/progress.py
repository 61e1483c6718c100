"""Whether the show moves and not in name only: that what its cues begin reaches the stage.

One cue that fails must not end the show, so a mistake of ours in a cue or a run is caught, and
the show goes on. Caught and only logged, it would pass for health, though visitors see the same
picture for ever. Those who catch it tell it here; here it is counted, and told until it has gone
well again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from server.core.clock import Clock
from server.core.conditions import Condition
from server.core.formatting import moment
from server.core.metrics import Metrics

CUES_IN_VAIN: Final = 3
"""Cues that fail in a row, of whatever kind, after which the show moves in name only."""

RUNS_IN_VAIN: Final = 2
"""Pictures in a row that mistakes keep from the stage, after which it does too."""

CUT_UNSEEN: Final = 5
"""Pictures in a row that were cut off before anything of them was seen, after which it is told."""


class Hung(Exception):
    """Performing has given no sign of life for longer than anything it waits for may take."""


class Stray(Exception):
    """What performing waited for was cancelled by somebody else, as one's own end is."""


@dataclass(slots=True)
class _LastFailure:
    """What went wrong last, at which Unix time, and how often since it went well."""

    what: str
    error: Exception
    at: float
    times: int = 0

    def told(self, when: str) -> str:
        often = "" if self.times == 1 else f" ({self.times} times by now)"
        reason = str(self.error)
        kind = type(self.error).__name__
        return f"{self.what} failed at {when}{often}: {f'{kind}: {reason}' if reason else kind}"


class ShowProgress:
    """Notes how cues and runs fare.

    Args:
        clock: the time of day is asked of it.
        metrics: where failures are counted.
        zone: the show's, for times of the day.
    """

    def __init__(self, clock: Clock, metrics: Metrics, zone: tzinfo | None = None) -> None:
        self._clock = clock
        self._metrics = metrics
        self._zone = zone
        self._cues: dict[str, _LastFailure] = {}
        self._run: _LastFailure | None = None
        self._cues_in_vain = 0
        self._runs_in_vain = 0
        self._cut_unseen = 0
        self._in_vain_since = 0.0

    # ------------------------------------------------------------ what happened

    def cue_failed(self, kind: str, what: str, error: Exception) -> None:
        """A cue, or what else is due, could not be carried out.

        Args:
            kind: what is like it, so that one that goes well takes this back.
            what: it, in words.
            error: why.
        """
        self._metrics.cue_failures.labels(kind=kind).inc()
        self._note_beginning()
        self._cues_in_vain += 1
        self._cues[kind] = self._failure(self._cues.get(kind), what, error)

    def cue_done(self, kind: str) -> None:
        """One was."""
        self._cues_in_vain = 0
        self._cues.pop(kind, None)

    def run_over(
        self, what: str, *, reached: bool, mistake: Exception | None, cut: bool = False
    ) -> None:
        """A run has ended.

        Args:
            what: of which action.
            reached: whether the stage was given any of it.
            mistake: what of ours went wrong on the way, though another rung may have taken over.
            cut: whether it was cut off by what came after it.
        """
        self._cut_unseen = 0 if reached else self._cut_unseen + cut
        if mistake is not None:
            self._metrics.run_failures.inc()
            self._run = self._failure(self._run, f"drawing {what}", mistake)
        elif reached:
            self._run = None
        if reached:
            self._cues_in_vain = self._runs_in_vain = 0
        elif mistake is not None:
            self._note_beginning()
            self._runs_in_vain += 1

    def _failure(self, before: _LastFailure | None, what: str, error: Exception) -> _LastFailure:
        times = 1 if before is None else before.times + 1
        return _LastFailure(what, error, self._clock.wall(), times)

    def _note_beginning(self) -> None:
        if not self._cues_in_vain and not self._runs_in_vain:
            self._in_vain_since = self._clock.wall()

    def _when(self, unix: float) -> str:
        """The hour, with the day where it is another: what failed last night is told till today."""
        return moment(unix, self._clock.wall(), self._zone)

    def _told(self, failure: _LastFailure) -> str:
        return failure.told(self._when(failure.at))

    # ------------------------------------------------------------ what is so now

    @property
    def in_vain(self) -> str | None:
        """Why the show moves in name only, in words; None where it moves."""
        if self._runs_in_vain >= RUNS_IN_VAIN and self._run is not None:
            last = self._told(self._run)
        elif self._cues_in_vain >= CUES_IN_VAIN and self._cues:
            last = self._told(list(self._cues.values())[-1])
        else:
            return None
        since = self._when(self._in_vain_since)
        return f"nothing that cues began has reached the stage since {since}: {last}"

    def conditions(self) -> Iterable[Condition]:
        """What has failed and has not gone well since."""
        for failure in self._cues.values():
            yield Condition("cue_failed", "degraded", self._told(failure))
        if self._run is not None:
            yield Condition("run_failed", "degraded", self._told(self._run))
        if self._cut_unseen >= CUT_UNSEEN:
            text = (
                "every picture of late was cut off by the next before anything of it was seen: "
                "cues follow one another faster than what draws them begins"
            )
            yield Condition("pictures_cut_unseen", "degraded", text)
