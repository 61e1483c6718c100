"""From cues to actions: what each generating cue draws, and under which id (pure).

Ids are stable. A finished action keeps its id as long as its recipe stays the same, so
inserting a cue neither orphans nor re-labels what is drawn; a cue whose recipe changed
keeps its place's id, and is drawn again under it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from generator.sheet.cues import CueProblem, CueSheet, format_time
from generator.sheet.drawing import InputState
from generator.sheet.programs import Program
from generator.sheet.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Action:
    """The generation that a cue triggers.

    Attributes:
        action_id: where its sets are kept.
        type: which kind of cue triggers it.
        cue_index: which cue of the sheet, from 0.
        at: seconds from the start of the screening.
        program: name of the program that draws it.
        prompt: what is displayed.
        override: what is drawn in its place, where the cue says so.
        recipe: everything that determines its pixels but the seed.
        regenerate: drawn again and again until the next generating cue or navigation.
        slider: where the slider stands before and after its cue, in percent; None where the
            cue does not move it. It starts at the program's strength.
    """

    action_id: str
    type: str
    cue_index: int
    at: float
    program: str
    prompt: str
    override: str | None
    recipe: Recipe = field(repr=False)
    regenerate: bool = False
    slider: tuple[float, float] | None = None

    @property
    def fingerprint(self) -> str:
        """The recipe's: what a set must carry to be this action's."""
        return self.recipe.fingerprint


Finished = Mapping[str, Collection[str]]
"""Of which recipes a store holds, or held, sets: fingerprints by action id."""


class _PlacedAction(NamedTuple):
    """An action under the id of its place, and the id that its cue gives it."""

    action: Action
    explicit_id: str | None


@dataclass
class Plan:
    """All actions of a sheet, in the order of their cues.

    What is drawn never changes while the show plays; under which ids its sets are kept does,
    where the store comes later than the show, or somebody draws for a newer sheet.
    `remarks` is what is odd in the sheet, and does no harm.
    """

    actions: tuple[Action, ...]
    remarks: tuple[CueProblem, ...] = ()
    _placed: tuple[_PlacedAction, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        self._numbers = {action.cue_index: n for n, action in enumerate(self.actions)}

    def of_cue(self, index: int) -> Action | None:
        """The action that cue `index` triggers, None if it draws nothing."""
        number = self._numbers.get(index)
        return None if number is None else self.actions[number]

    @property
    def wanted(self) -> dict[str, str]:
        """The fingerprint that each action's sets must have."""
        return {action.action_id: action.fingerprint for action in self.actions}

    def follow(self, finished: Finished) -> dict[str, str]:
        """Take over the ids that what is drawn gives the actions.

        Returns:
            The new id by the old one, of those whose id has changed.
        """
        before, self.actions = self.actions, _under_ids(self._placed, finished)
        pairs = zip(before, self.actions, strict=True)
        return {old.action_id: new.action_id for old, new in pairs if old != new}


def plan_actions(
    sheet: CueSheet,
    programs: Mapping[str, Program],
    base_images: Mapping[str, bytes],
    finished: Finished | None = None,
) -> Plan:
    """Plan every generating cue of `sheet`.

    Args:
        sheet: a sheet whose programs are all in `programs`.
        programs: by name.
        base_images: encoded base image by program name, one for each image-to-image program.
        finished: of which recipes a store holds sets already; each action's own comes first.
    """
    placed: list[_PlacedAction] = []
    remarks: list[CueProblem] = []
    counts: dict[str, int] = defaultdict(int)
    inputs = InputState(programs)
    for index, cue in enumerate(sheet.cues):
        if not cue.generates:
            continue
        drawing = cue.drawing(inputs)
        if drawing.remark is not None:
            remarks.append(CueProblem(index, format_time(cue.at), drawing.remark))
        counts[drawing.type] += 1
        recipe = programs[drawing.program].recipe(
            drawing.prompt,
            override=drawing.override,
            strength=inputs.strength(drawing.program),
            steps=cue.steps,
            base_image=base_images.get(drawing.program),
        )
        action = Action(
            action_id=f"{drawing.type}_{counts[drawing.type]:03d}",
            type=drawing.type,
            cue_index=index,
            at=cue.at,
            program=drawing.program,
            prompt=drawing.prompt,
            override=drawing.override,
            recipe=recipe,
            regenerate=drawing.regenerate,
            slider=drawing.slider,
        )
        placed.append(_PlacedAction(action, cue.id))
    actions = _under_ids(placed, finished or {})
    return Plan(actions, tuple(remarks), tuple(placed))


def _under_ids(placed: Sequence[_PlacedAction], finished: Finished) -> tuple[Action, ...]:
    pairs = zip(placed, _assign_ids(placed, finished), strict=True)
    return tuple(replace(each.action, action_id=action_id) for each, action_id in pairs)


def _assign_ids(placed: Sequence[_PlacedAction], finished: Finished) -> list[str]:
    """An id for each: its own, a finished one of the same recipe, its place's, a new one."""
    ids: list[str | None] = [each.explicit_id for each in placed]
    taken = {action_id for action_id in ids if action_id is not None}

    # Finished actions of the same recipe are handed out in the sheet's order; a cue whose
    # place's id is among them takes that one, so that an unchanged sheet keeps every id, also
    # where sets of a newer sheet have come to lie beside its own. Those who hold the recipe now
    # go before those who held it once.
    now: dict[str, list[str]] = defaultdict(list)
    once: dict[str, list[str]] = defaultdict(list)
    for action_id, fingerprints in finished.items():
        for place, fingerprint in enumerate(fingerprints):
            (once if place else now)[fingerprint].append(action_id)
    places = [each.action for each in placed]
    unnamed = [index for index, action_id in enumerate(ids) if action_id is None]
    for index in unnamed:
        natural, fingerprint = places[index].action_id, places[index].fingerprint
        if natural not in taken and fingerprint in finished.get(natural, ()):
            ids[index] = natural
            taken.add(natural)
    for index in unnamed:
        if ids[index] is None:
            fingerprint = places[index].fingerprint
            same = (each for each in (*now[fingerprint], *once[fingerprint]) if each not in taken)
            ids[index] = next(same, None)
            taken.update(each for each in (ids[index],) if each is not None)

    for index in unnamed:
        if ids[index] is not None:
            continue
        action_id = places[index].action_id
        if action_id in taken:
            # A new number, beyond those of the sheet and of what is drawn, so that it
            # neither takes a later cue's place nor claims sets that were another's.
            used = taken | {place.action_id for place in places} | finished.keys()
            action_id = _first_free(places[index].type, used)
        ids[index] = action_id
        taken.add(action_id)
    return [action_id for action_id in ids if action_id is not None]


def _first_free(kind: str, used: Iterable[str]) -> str:
    numbers = [
        int(tail)
        for head, _, tail in (action_id.rpartition("_") for action_id in used)
        if head == kind and tail.isdecimal()
    ]
    return f"{kind}_{max(numbers, default=0) + 1:03d}"
