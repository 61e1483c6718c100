"""The shuffle bag: which set of an action is played next (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from server.core.random_streams import RandomStreams


class Bag(BaseModel):
    """One action's bag: what is still to come, in order, and what was played last.

    Attributes:
        coming: the rest of this round.
        played: what was played in it, and last in the one before.
        round: which round it is, from 1.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    coming: tuple[int, ...] = ()
    played: tuple[int, ...] = ()
    round: int = 0


@dataclass
class ShuffleBag:
    """All sets of an action are played before any is repeated, and none twice running.

    The order of a round is drawn when it begins, so `peek` tells what will come. Sets that
    appear later are shuffled into the round; sets that vanish are passed over. `bags` is
    what is to be remembered across a restart; `changed` is called when it has changed. What
    an action's next rounds bring follows from `streams` and its bag alone.
    """

    streams: RandomStreams
    bags: dict[str, Bag] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None

    def draw(self, action_id: str, usable: Iterable[int]) -> int | None:
        """Take the next set of an action out of its bag; None where there is none."""
        bag = self._refreshed(action_id, usable)
        if not bag.coming:
            self._keep(action_id, bag)
            return None
        chosen, *rest = bag.coming
        self.bags[action_id] = Bag(
            coming=tuple(rest), played=(*bag.played, chosen), round=bag.round
        )
        self.changed()
        return chosen

    def peek(self, action_id: str, usable: Iterable[int]) -> int | None:
        """The set that the next `draw` will take."""
        return next(iter(self.coming(action_id, usable, 1)), None)

    def coming(self, action_id: str, usable: Iterable[int], count: int) -> tuple[int, ...]:
        """The sets that the next `count` draws will take, as far as this round goes."""
        bag = self._refreshed(action_id, usable)
        self._keep(action_id, bag)
        return bag.coming[:count]

    def _keep(self, action_id: str, bag: Bag) -> None:
        """Remember a bag, unless nothing was ever in it.

        The older wire asks for whatever its clients type, and most of it has no sets.
        """
        if bag != Bag() or action_id in self.bags:
            self.bags[action_id] = bag

    def last(self, action_id: str) -> int | None:
        """The set that was played last."""
        played = self.bags.get(action_id, Bag()).played
        return played[-1] if played else None

    def round(self, action_id: str) -> int:
        """Which round of an action's sets it is, from 1; 0 before the first."""
        return self.bags.get(action_id, Bag()).round

    def _refreshed(self, action_id: str, usable: Iterable[int]) -> Bag:
        """The bag as it is with exactly the `usable` sets, a new round begun if it is empty."""
        here = sorted(set(usable))
        bag = self.bags.get(action_id, Bag())
        coming = [number for number in bag.coming if number in here]
        known = {*coming, *bag.played}
        for number in here:
            if number not in known:
                place = self.streams.stream("bag", action_id, bag.round, "new", number)
                coming.insert(place.randint(0, len(coming)), number)
        played, current = bag.played, bag.round
        if not coming and here:
            played, current = played[-1:], bag.round + 1
            coming = list(here)
            self.streams.stream("bag", action_id, current).shuffle(coming)
        if len(coming) > 1 and played and coming[0] == played[-1]:
            # Not the same picture twice running, where there is another.
            swap = self.streams.stream("bag", action_id, current, "again", len(coming))
            other = swap.randrange(1, len(coming))
            coming[0], coming[other] = coming[other], coming[0]
        return Bag(coming=tuple(coming), played=played, round=current)
