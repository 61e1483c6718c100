"""What will be played, and when, as far as it can be foreseen: what the prefetch works for.

The rest of this screening, and the next one whole. Where a hand moves the show, the cue on
standby counts as due now: a GO may come at any moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from cache.prefetch.prefetcher import Need
from generator.sheet.plan import Action, Plan
from server.config.show import Show
from server.core.clock import Clock
from server.performance.performer import pause_after
from server.providers.static import StaticProvider
from server.providers.timing import final_by
from server.timeline.beginnings import Beginnings
from server.timeline.playhead import Playhead

TYPICAL_RUN = 12.0
"""Seconds a run is believed to take where cycles of a regenerating cue are foreseen."""

AT_ANY_MOMENT = 10.0
"""Seconds from now at which a run counts as due that may be asked for at any moment: if it
counted as due now, its first previews would always be too late to be worth fetching."""

ASKED_FOR = 600.0
"""Seconds for which an action that somebody asked for counts as due."""

MOST_CYCLES = 8
"""Cycles of a regenerating cue that are foreseen: by then the plan has long been made anew."""


@dataclass(frozen=True, slots=True)
class Coming:
    """A run to come.

    Attributes:
        action: what is drawn.
        start: steady time at which it begins.
        end: steady time by which its final image is to be on the wall.
        cycle: 0, or which repetition of a regenerating cue.
    """

    action: Action
    start: float
    end: float
    cycle: int = 0


def coming_runs(
    show: Show, plan: Plan, beginnings: Beginnings, playhead: Playhead, now: float
) -> list[Coming]:
    """The runs to come, the earliest first.

    Args:
        show: what is played.
        plan: its actions.
        beginnings: when their pictures begin.
        playhead: where it is.
        now: steady seconds.
    """
    position = playhead.position(now)
    runs: list[Coming] = []
    following = playhead.next_at
    if position is not None:
        origin = now - position
        runs += _being_typed(show, plan, beginnings, origin=origin, cursor=playhead.cursor, now=now)
        runs += _regenerating(show, plan, origin, playhead.cursor, now)
        runs += _screening(show, plan, beginnings, origin, playhead.cursor)
        if following is None:  # by hand: from the beginning again, once this is over
            following = max(now, origin + show.duration)
    runs += _screening(show, plan, beginnings, now if following is None else following, 0)
    by_hand = not playhead.on_schedule or (position is None and playhead.next_at is None)
    standby = plan.of_cue(playhead.standby) if playhead.standby is not None else None
    if by_hand and standby is not None:
        # The same run as at its own time, so the same set: whichever comes first.
        first = next((run for run in runs if run.action is standby), None)
        if first is not None:
            runs.remove(first)
        runs.append(_at_any_moment(standby, now))
    return sorted(runs, key=lambda run: run.start)


def _being_typed(
    show: Show, plan: Plan, beginnings: Beginnings, *, origin: float, cursor: int, now: float
) -> Iterator[Coming]:
    """The run of a cue that has fired and whose picture has not begun yet."""
    past = [action for action in plan.actions if action.cue_index < cursor]
    if past and origin + past[-1].at + beginnings.after(past[-1].cue_index) > now:
        yield next(_screening(show, plan, beginnings, origin, past[-1].cue_index))


def _regenerating(
    show: Show, plan: Plan, origin: float, cursor: int, now: float
) -> Iterator[Coming]:
    """The further cycles of a cue that has fired, and is drawn again and again."""
    past = [action for action in plan.actions if action.cue_index < cursor]
    if not past or not past[-1].regenerate:
        return
    action, stops = past[-1], _stops(show, plan)
    if any(action.cue_index < index < cursor for index in stops):
        return
    after = next((index for index in stops if index >= cursor), None)
    stop = origin + (show.duration if after is None else show.sheet.cues[after].at)
    first = _at_any_moment(action, now)
    if first.start < stop:
        yield first
        yield from _cycles(action, first.start, stop, stop)


def _stops(show: Show, plan: Plan) -> list[int]:
    """The cues that end a regeneration: those that draw, and those that end a part."""
    cues = enumerate(show.sheet.cues)
    ends = {index for index, cue in cues if cue.ends_part and cue.at < show.duration}
    return sorted({action.cue_index for action in plan.actions} | ends)


def _at_any_moment(action: Action, now: float) -> Coming:
    return Coming(action, now + AT_ANY_MOMENT, now + AT_ANY_MOMENT + TYPICAL_RUN)


def _screening(
    show: Show, plan: Plan, beginnings: Beginnings, origin: float, cursor: int
) -> Iterator[Coming]:
    """The runs of one screening, from cue `cursor` on; `origin` is the time of its position 0."""
    cues, crossfade = show.sheet.cues, show.settings.display.crossfade
    stops = _stops(show, plan)
    coming = [action for action in plan.actions if action.cue_index >= cursor]
    following = [*(action.at for action in coming[1:]), show.duration]
    for action, ends in zip(coming, following, strict=False):
        start = origin + action.at + beginnings.after(action.cue_index)
        until = origin + ends
        yield Coming(action, start, final_by(start, until, crossfade))
        if action.regenerate:
            after = bisect_right(stops, action.cue_index)
            stop = origin + (cues[stops[after]].at if after < len(stops) else show.duration)
            yield from _cycles(action, start, stop, final_by(start, until, crossfade))


def _cycles(action: Action, start: float, stop: float, end: float) -> Iterator[Coming]:
    for cycle in range(1, MOST_CYCLES + 1):
        start += TYPICAL_RUN + pause_after(cycle)
        if start >= stop:
            return
        yield Coming(action, start, max(start, end), cycle)


class Lookahead:
    """Knows which sets the coming runs will play.

    Args:
        show: what is played.
        plan: its actions.
        beginnings: when their pictures begin.
        playhead: where it is.
        static: who plays sets, and out of which bag.
        clock: the time.
    """

    def __init__(
        self,
        show: Show,
        plan: Plan,
        beginnings: Beginnings,
        playhead: Playhead,
        *,
        static: StaticProvider,
        clock: Clock,
    ) -> None:
        self.show = show
        self.plan = plan
        self._asked_for: dict[str, float] = {}
        self._beginnings = beginnings
        self._playhead = playhead
        self._static = static
        self._clock = clock

    def ask_for(self, action: Action) -> None:
        """Count an action as due now for a while: somebody means to play it."""
        self._asked_for[action.action_id] = self._clock.now() + ASKED_FOR

    def needs(self) -> list[Need]:
        """The set of the run that is on, and those that the bags will give to the coming runs."""
        now = self._clock.now()
        needs = [] if self._static.playing is None else [self._static.playing]
        runs = [
            _at_any_moment(action, now)
            for action in self.plan.actions
            if self._asked_for.get(action.action_id, now) > now
        ]
        runs += coming_runs(self.show, self.plan, self._beginnings, self._playhead, now)
        wanted: dict[str, int] = defaultdict(int)
        for run in runs:
            wanted[run.action.action_id] += 1
        sets = {
            action_id: self._static.coming(action_id, count) for action_id, count in wanted.items()
        }
        taken: dict[str, int] = defaultdict(int)
        for run in runs:
            action_id = run.action.action_id
            place = taken[action_id]
            taken[action_id] += 1
            # Which sets the round after this one will bring is not drawn yet.
            if place < len(sets[action_id]):
                needs.append(Need(action_id, sets[action_id][place], run.start, run.end))
        return needs
