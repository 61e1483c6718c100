"""What screens are told of a cue: one function for each kind that shows more than a hand.

It is asked as the cue fires, and again where the stage is set in the middle of the show: what
stands then is the last message of each type (`server/stage/stage.py`). Only the last cue that tells
of the same is asked there: the types of what a function tells must follow from the kind of cue, and
from whether something is typed and moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

from generator.sheet.cues import Cue, CueSheet, FadeCue, NavigateCue, TranscriptCue
from generator.sheet.plan import Plan
from server.stage import messages as wire
from server.stage.stage import Scenery
from server.timeline.beginnings import SLIDER_TAKES, Beginnings
from server.timeline.keystrokes import Keystrokes

CAPTION_LINGERS = 1.5
"""Seconds for which a line that was spoken stays."""


@dataclass(frozen=True, slots=True)
class CueFired:
    """What there is to know of a cue that has fired.

    Attributes:
        at: steady time at which it fired, or would have.
        now: steady time at which it is to be seen.
        fade: seconds that a fade takes.
        typing: how its text is typed.
        slider: where the slider stands before and after it, in percent.
    """

    at: float
    now: float
    fade: float
    typing: Keystrokes | None = None
    slider: tuple[float, float] | None = None


@singledispatch
def cue_messages(cue: Cue, fired: CueFired) -> Iterator[wire.StageMessage]:
    """What is told of a kind that has no function of its own: what a hand types and moves."""
    del cue
    if fired.typing is not None:
        keys = fired.typing
        yield wire.Typing(
            text=keys.text,
            erase=keys.erase,
            delay=wire.TypingDelay(base=keys.base, variance=keys.variance),
            at=fired.at,
            seed=keys.seed,
            from_=keys.standing,
            seconds=keys.seconds,
        )
    if fired.slider is not None:
        before, after = fired.slider
        yield wire.Slider(from_=before, to=after, seconds=SLIDER_TAKES, at=fired.at)


@cue_messages.register
def _scene(cue: NavigateCue, fired: CueFired) -> Iterator[wire.StageMessage]:
    del fired
    yield wire.Scene(route=cue.route)


@cue_messages.register
def _fade(cue: FadeCue, fired: CueFired) -> Iterator[wire.StageMessage]:
    yield wire.Fade(black=cue.fade, seconds=fired.fade, at=fired.at)


@cue_messages.register
def _caption(cue: TranscriptCue, fired: CueFired) -> Iterator[wire.StageMessage]:
    origin = fired.at - cue.at
    if origin + cue.until <= fired.now:
        yield no_caption(fired.now)
        return
    words = tuple(
        wire.CaptionWord(word=word.word, start=origin + word.start, end=origin + word.end)
        for word in cue.words
    )
    until = origin + cue.until + CAPTION_LINGERS
    yield wire.Caption(text=cue.transcript, words=words, at=fired.at, until=until)


def no_caption(now: float) -> wire.Caption:
    """That nothing is being said."""
    return wire.Caption(text="", at=now, until=now)


@dataclass(frozen=True, slots=True)
class CueMessages:
    """What screens are told of a show's cues.

    Attributes:
        sheet: the cues.
        plan: what they draw.
        beginnings: how their texts are typed.
        fade: seconds that a fade takes.
    """

    sheet: CueSheet
    plan: Plan
    beginnings: Beginnings
    fade: float

    def of(self, index: int, at: float, now: float) -> Iterator[wire.StageMessage]:
        """What is to be seen `now` of cue `index`, which fired `at`."""
        action = self.plan.of_cue(index)
        fired = CueFired(
            at=at,
            now=now,
            fade=self.fade,
            typing=self.beginnings.typing(index),
            slider=None if action is None else action.slider,
        )
        return cue_messages(self.sheet.cues[index], fired)

    def bare_stage(self, now: float) -> Scenery:
        """What stands before any cue."""
        return Scenery(wire.Scene(route=""), self.light(now), no_caption(now))

    def fill(self, scenery: Scenery, index: int, origin: float, now: float) -> None:
        """Add what stands `now`, the cues before `index` having been since `origin`."""
        for number in self._last_to_tell(index):
            for message in self.of(number, origin + self.sheet.cues[number].at, now):
                scenery.take(message)

    def _last_to_tell(self, index: int) -> list[int]:
        """The cues before `index` after which none tells of the same."""
        last: dict[tuple[type[Cue], bool, bool], int] = {}
        for number, cue in enumerate(self.sheet.cues[:index]):
            if cue.begins_anew:
                last.clear()
            typed = self.beginnings.typing(number) is not None
            action = self.plan.of_cue(number)
            moved = action is not None and action.slider is not None
            last[type(cue), typed, moved] = number
        return sorted(last.values())

    def light(self, at: float) -> wire.Fade:
        """That the stage comes back from black."""
        return wire.Fade(black=False, seconds=self.fade, at=at)
